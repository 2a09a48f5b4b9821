"Oracles for runs.yaml and runs.config: the YAML table, the schema, overrides, identity."
import json, math, subprocess, sys
import numpy as np, pytest, yaml
from hypothesis import given, settings, strategies as st
from vislearn.core import ConfigError, sample_key
from vislearn.runs.config import (RunConfig, TASKS, Frozen, canonical, config_hash, dump_yaml, find_loss, find_task, load_config, override, parse_yaml,
    register_recipe, find_recipe, register_task, RECIPES, Params, check_data_root)
from vislearn.runs.yaml import change_values, strict_values

MINIMAL = dict(task='terrain.rep', description='x', data=dict(root='/data', train=dict(name='t')), model=dict(name='m'), train=dict(epochs=10, batch_size=24))

@pytest.mark.parametrize('word,value', [('1e-5', 1e-5), ('5e-5', 5e-5), ('1.', 1.), ('-.5', -.5), ('.inf', math.inf), ('-.inf', -math.inf), ('0x1F', 31), ('012', 12), ('0o17', 15), ('-7', -7), ('+4', 4),
    ('on', 'on'), ('no', 'no'), ('off', 'off'), ('yes', 'yes'), ('y', 'y'), ('1_000', '1_000'), ('12:30:45', '12:30:45'), ('2024-01-02', '2024-01-02'), ('0b11', '0b11'), ('1e3', 1000.), ('1E+2', 100.), ('.', '.'), ('e5', 'e5'),
    ('true', True), ('True', True), ('TRUE', True), ('tRue', 'tRue'), ('false', False), ('null', None), ('Null', None), ('NULL', None), ('nUll', 'nUll'), ('', None), ('"12"', '12'), ("'true'", 'true')])
def test_A03_yaml_words(word, value):
    got = parse_yaml(f'key: {word}')['key']
    assert got==value and type(got) is type(value)

def test_yaml_nan(): assert math.isnan(parse_yaml('.nan'))

def test_pyyaml_really_differs(): # if PyYAML learns YAML 1.2, this loader can go
    assert yaml.safe_load('1e-5')=='1e-5' and yaml.safe_load('on') is True and yaml.safe_load('012')==10 and yaml.safe_load('12:30:45')==45045

@pytest.mark.parametrize('text,message', [('a: 1\nb: 2\na: 3', "line 3: key 'a' is given twice (first on line 1)"), ('x:\n  a: 1\n  a: 2', "line 3: key 'a' is given twice (first on line 2)"),
    ('a: [1', 'not valid YAML'), ('a: b: c', 'line 1, column 5'), ('\tx: 1', 'not valid YAML'), ('? [1]\n: 2', 'must be one word'), ('!!python/name:os.system', 'not valid YAML')])
def test_A03_yaml_errors(text, message):
    with pytest.raises(ConfigError) as e: parse_yaml(text, 'cfg.yaml')
    assert message in str(e.value) and str(e.value).startswith('cfg.yaml: ') and '\n' not in str(e.value)

TREE = st.recursive(st.none()|st.booleans()|st.integers(-10**12, 10**12)|st.floats(allow_nan=False)|st.text(st.characters(codec='utf-8', exclude_categories=['Cs', 'Cc'], exclude_characters='\x85\u2028\u2029\ufeff\ufffe\uffff'), max_size=12)|
    st.sampled_from(['no', 'on', '1e-5', '012', '~', '', '12:30', '2024-01-02', '.5', '1_000', 'null', 'a: b', '- x', '#', '<<', '=', '0x1', '0o7', '+.inf', 'y']),
    lambda inner: st.lists(inner, max_size=4)|st.dictionaries(st.text('abcdefgy', min_size=1, max_size=4), inner, max_size=4), max_leaves=12)

@settings(max_examples=300, deadline=None)
@given(TREE)
def test_yaml_round_trip(tree):
    text = dump_yaml({'v': tree})
    assert parse_yaml(text)=={'v': tree}
    assert yaml.safe_load(text)=={'v': tree} # other readers see the same

def test_defaults_of_the_schema():
    cfg = RunConfig(**MINIMAL)
    assert (cfg.version, cfg.label, cfg.seed, cfg.deterministic, cfg.data.common, cfg.data.test, cfg.data.eval, cfg.data.num_workers, cfg.data.mini)==(1, None, 0, 'seed', {}, None, None, 4, None)
    assert (cfg.train.accumulate, cfg.train.clip_norm, cfg.train.amp, cfg.train.eval_every, cfg.rollout.every, cfg.rollout.max_samples)==(1, None, 'no', 'epoch', 1, 1000)
    assert (cfg.select.metric, cfg.select.mode, cfg.checkpoint.every_s, cfg.checkpoint.every_steps, cfg.checkpoint.keep_last, cfg.checkpoint.keep_best, cfg.checkpoint.group_epochs)==('auto', 'min', 3600, None, 2, 1, None)
    assert (cfg.log.tensorboard, cfg.log.every_steps, cfg.log.images, cfg.init_from, cfg.parent, cfg.out)==(True, 50, True, None, None, 'runs')
    assert cfg.launch.model_dump()==dict(kind='local', nodes=1, per_node=1, cpus_per_task=4, mem_gb=None, time_min=240, partition=None, account=None, qos=None, constraint=None, signal='USR2', signal_delay_s=120, max_requeue=20,
        array_parallelism=8, python=None, setup=[])

@pytest.mark.parametrize('change,message', [
    ({'epoch': 3}, "epoch: unknown key (did you mean 'train.epochs'?)"), ({'batch_size': 3}, "did you mean 'train.batch_size'"), ({'sead': 3}, "sead: unknown key (did you mean 'seed'?)"), ({'train': dict(epochs=10.0, batch_size=1)}, 'train.epochs: expected an integer, got 10.0'),
    ({'train': dict(epochs='10', batch_size=1)}, "train.epochs: expected an integer, got '10'"), ({'train': dict(epochs=True, batch_size=1)}, 'train.epochs: expected an integer, got True'),
    ({'train': dict(batch_size=1)}, 'exactly one of epochs and max_steps'), ({'train': dict(epochs=1, max_steps=2, batch_size=1)}, 'exactly one of epochs and max_steps'), ({'train': dict(epochs=1)}, 'train.batch_size: required'),
    ({'description': '  '}, 'description: say in a few words'), ({'description': None}, 'description: expected text'), ({'data': dict(train=dict(name='t'))}, 'data.root: required'), ({'version': 2}, 'version: expected 1, got 2'),
    ({'deterministic': 'yes'}, "deterministic: expected 'off', 'seed' or 'strict', got 'yes'"), ({'checkpoint': dict(every_s='1h')}, "checkpoint.every_s: expected a number, got '1h'"), ({'init_from': {}}, 'exactly one of run and file'),
    ({'seed': -1}, 'seed: expected'), ({'model': 'resnet'}, 'model: expected a mapping'), ({'data': dict(root='x', train=dict(name='t', parms={}))}, "data.train.parms: unknown key (did you mean 'params'?)"), ({'task': '../x'}, 'task: expected a name'), ({'train': dict(epochs=1, batch_size=1, eval_every=0.5)}, "train.eval_every: expected 'epoch' or an integer, got 0.5"), ({'train': dict(epochs=1, batch_size=1, eval_every=0)}, 'train.eval_every: expected'),
    ({'optim': dict(lr=math.inf)}, 'optim.lr: expected a finite number'), ({'optim': dict(lr=0.)}, 'optim.lr: expected greater than 0'), ({'seed': 2**63}, 'seed: expected less than'), ({'model': dict(name='m', params={'a': {1: 2}})}, 'model.params: a: expected text as key, got 1'),
    ({'model': dict(name='m', params=dict(a=[len]))}, 'model.params: a: expected numbers, texts'), ({'optim': dict(fg=dict(lrr=1.))}, "optim.fg.lrr: unknown key (did you mean 'lr'?)"), ({'optim': []}, 'optim: expected a mapping'), ({'log': dict(every_steps=0)}, 'log.every_steps: expected')])
def test_wrong_configs_are_one_line(change, message):
    with pytest.raises(ConfigError) as e: RunConfig(**(MINIMAL | change))
    assert message in str(e.value) and '\n' not in str(e.value) and e.value.exit_code==2

def test_config_files(tmp_path):
    cfg = RunConfig(**MINIMAL, optim=dict(lr=1e-5), label='no')
    (tmp_path/'a.yaml').write_text(dump_yaml(cfg)); assert load_config(tmp_path/'a.yaml')==cfg
    (tmp_path/'b.py').write_text(f'from vislearn.runs.config import RunConfig\nconfig = RunConfig(**{cfg.model_dump()!r})'); assert load_config(tmp_path/'b.py')==cfg
    (tmp_path/'c.py').write_text('x = 1')
    with pytest.raises(ConfigError, match='expected a RunConfig named config'): load_config(tmp_path/'c.py')
    (tmp_path/'d.yaml').write_text('- 1\n- 2')
    with pytest.raises(ConfigError, match='expected keys and values'): load_config(tmp_path/'d.yaml')

def test_A02_misspelt_epoch_suggests_epochs():
    with pytest.raises(ConfigError, match="train.epoch: unknown key .did you mean 'epochs'"): RunConfig(**MINIMAL | dict(train=dict(epoch=10, batch_size=1)))

def test_several_optimizers(tmp_path):
    groups = dict(fg=dict(name='rmsprop', lr=1e-5), bg=dict(name='adam', lr=1e-3, params=dict(betas=[.9, .99])))
    cfg = RunConfig(**MINIMAL, optim=groups); assert {k: (o.name, o.lr) for k, o in cfg.optim.items()}==dict(fg=('rmsprop', 1e-5), bg=('adam', 1e-3))
    (tmp_path/'a.yaml').write_text(dump_yaml(cfg)); assert load_config(tmp_path/'a.yaml')==cfg and override(cfg, ['optim.fg.lr=2e-5']).optim['fg'].lr==2e-5
    assert RunConfig(**MINIMAL, optim=dict(encoder=dict(lr=1), decoder={})).optim['decoder'].name=='adamw' and RunConfig(**MINIMAL, optim=dict(lr=1)).optim.lr==1

def test_what_is_stored_is_what_was_used(): # infinity was once stored as null
    cfg = RunConfig(**MINIMAL | dict(model=dict(name='m', params=dict(top=math.inf, low=-math.inf, deep=[dict(x=math.inf)]))))
    assert RunConfig(**parse_yaml(dump_yaml(cfg)))==cfg and override(cfg, [])==cfg and config_hash(override(cfg, []))==config_hash(cfg)
    for bad in ({1: 2}, dict(a={None: 1}), dict(a=[{1.5: 2}]), dict(a=object())):
        with pytest.raises(ConfigError, match='expected'): strict_values(bad)
    before = dict(a=dict(b=1)); assert change_values(before, ['a.b=2'])==dict(a=dict(b=2)) and before==dict(a=dict(b=1))

def test_data_root(tmp_path, monkeypatch):
    def at(root): return RunConfig(**MINIMAL | dict(data=dict(root=root, train=dict(name='t'))))
    monkeypatch.setenv('BAGS', str(tmp_path)); (tmp_path/'one.bag').touch()
    assert check_data_root(at('$BAGS'))==tmp_path and check_data_root(at(str(tmp_path/'one.bag')))==tmp_path/'one.bag'
    for root, words in [('/no/such/place', '/no/such/place is not there'), ('$NOWHERE/x', r'\$NOWHERE/x is not there'), ('$BAGS/y', rf'\$BAGS/y .that is {tmp_path}/y. is not there')]:
        with pytest.raises(ConfigError, match=words) as e: check_data_root(at(root))
        assert '\n' not in str(e.value) and e.value.exit_code==2 and 'data.root=PATH' in str(e.value)

@pytest.mark.parametrize('name,content,words', [('a.yaml', b'\xff\xfe', 'UTF-8'), ('b.yaml', b'1: 2', 'expected'), ('c.py', b'1/0', 'ZeroDivisionError'), ('d.py', b'a =', 'SyntaxError'), ('e.yaml', b'', 'expected keys and values')])
def test_broken_files_are_one_line(tmp_path, name, content, words):
    (tmp_path/name).write_bytes(content)
    with pytest.raises(ConfigError) as e: load_config(tmp_path/name)
    assert words in str(e.value) and name in str(e.value) and '\n' not in str(e.value)

def test_hash_names_the_experiment_only():
    cfg = RunConfig(**MINIMAL); same = [dict(description='y'), dict(label='z'), dict(out='/else'), dict(launch=dict(kind='slurm')), dict(log=dict(every_steps=3))]
    assert all(config_hash(cfg.replace(**c))==config_hash(cfg) for c in same)
    other = [dict(seed=1), dict(parent='x'), dict(model=dict(name='m', params=dict(dim=3))), dict(optim=dict(lr=2e-3)), dict(train=dict(epochs=11, batch_size=24))]
    assert len({config_hash(cfg.replace(**c)) for c in other} | {config_hash(cfg)})==len(other) + 1
    shuffled = RunConfig(**dict(reversed(list(MINIMAL.items())))); assert canonical(shuffled)==canonical(cfg) and len(config_hash(cfg))==12
    assert json.loads(canonical(cfg))==cfg.model_dump(mode='json') and ': ' not in canonical(cfg)

def test_hash_is_pinned(): # a change of this value makes every stored run a different experiment: change it on purpose only
    assert config_hash(RunConfig(**MINIMAL))==PINNED

PINNED = '46876d6da74a'

def test_overrides():
    cfg = RunConfig(**MINIMAL)
    new = override(cfg, ['train.batch_size=8', 'optim.lr=1e-4', 'train.epochs=null', 'train.max_steps=7', '+model.params.z_dim=10', 'data.eval={name: rollout}', 'label="012"'])
    assert (new.train.batch_size, new.optim.lr, new.train.max_steps, new.model.params, new.data.eval.name, new.label)==(8, 1e-4, 7, {'z_dim': 10}, 'rollout', '012')
    assert override(new, ['~model.params.z_dim', '~data.eval']).model.params=={}
    for text, message in [('train.epoch=3', "did you mean 'epochs'"), ('model.params.z=3', 'write +model.params.z=3'), ('+seed=1', 'without +'), ('~seed=1', 'expected key=value'), ('seed.x=1', 'has no keys'), ('=3', 'expected key=value'), ('seed=1.5', 'expected an integer')]:
        with pytest.raises(ConfigError, match=message.replace('+', '[+]')): override(cfg, [text])
    assert cfg==RunConfig(**MINIMAL) # unchanged

def test_frozen_is_strict_everywhere():
    class Inner(Frozen): n:int = 1; flag:bool = False
    class Outer(Frozen): inner:Inner = Inner(); pair:tuple[int, float] = (1, 2.); many:list[Inner] = []; free:Params = {}; maybe:int|None = None
    assert Outer(pair=[3, 4]).pair==(3, 4.) and Outer(inner=dict(n=5)).inner.n==5 and Outer(pair=np.array([1, 2])).pair==(1, 2.) and Outer(free=dict(a=(1, np.float32(2)))).free==dict(a=[1, 2.])
    for bad in (dict(inner=dict(n=True)), dict(pair=(True, 1)), dict(pair=(1.5, 1)), dict(many=[dict(n='1')]), dict(maybe=2.5), dict(inner=dict(flag=1)), dict(inner=dict(flag='yes'))):
        with pytest.raises(ConfigError): Outer(**bad)
    with pytest.raises(ConfigError, match='frozen'): Outer().maybe = 3
    with pytest.raises(ConfigError, match='many.1.k: unknown key'): Outer(many=[{}, dict(k=1)])
    with pytest.raises(ConfigError, match='maybe: expected an integer'): Outer.model_validate(dict(maybe='x'))

def test_registry_is_lazy():
    code = "import sys; from vislearn.runs.config import TASKS, find_task; find_task('terrain.rep'); print(any(m.startswith('vislearn.terrain') for m in sys.modules))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()=='False'
    register_task('my.task', 'json:dumps', 'json:loads'); register_recipe('my_recipe', 'json:dumps')
    try: assert find_task('my.task').load=='json:loads' and find_recipe('my_recipe') is json.dumps
    finally: del TASKS['my.task'], RECIPES['my_recipe']
    with pytest.raises(ConfigError, match="did you mean 'terrain.cost'"): find_task('terrain.csot')

def test_losses_are_not_evaluated():
    assert find_loss('F.mse_loss') is find_loss('mse_loss') is find_loss('torch.nn.functional.mse_loss')
    for bad in ('F.__import__', '__class__', 'os.system', 'F.mse_loss()', 'relu'):
        with pytest.raises(ConfigError): find_loss(bad)

def test_A10_sample_keys(): assert (sample_key(0, 0, 0), sample_key(3, 1, 7))==(2891389769238885931, 2385150977119170615)
