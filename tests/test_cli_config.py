"`vislearn config` as a user types it: what it prints, what it leaves alone, one line and exit code 2 for every mistake."
import json, subprocess, sys
from pathlib import Path
import pytest
from vislearn.cli.main import main
from vislearn.cli.config import config_schema, field_notes, schema_rows
from vislearn.runs.config import RECIPES, Frozen, RunConfig, config_hash, dump_yaml, load_config, parse_yaml, register_recipe

TOP = Path(__file__).parents[1]
VALUES = dict(task='terrain.rep', description='x', data=dict(root='.', train=dict(name='t')), model=dict(name='m', params=dict(dim=8)), train=dict(epochs=10, batch_size=24))
OLD = dict(data_directory='/data', model_type='Net', loss_function='F.mse_loss', train_data_loader_type='Loader', epochs=10, batch_size=24, checkpoint_interval=3600, description='an old job', mini=False)


@pytest.fixture
def cfg(tmp_path):
    (tmp_path/'cfg.yaml').write_text(dump_yaml(VALUES)); return tmp_path/'cfg.yaml'


def fails(capsys, *args):
    "The one line on stderr of a command that ends with exit code 2."
    code = main(['config', *map(str, args)]); out = capsys.readouterr()
    assert code==2 and out.out=='' and out.err.startswith('vislearn: ') and out.err.count('\n')==1, (code, out)
    return out.err


def prints(capsys, *args):
    "What a command prints, which must not complain."
    code = main(['config', *map(str, args)]); out = capsys.readouterr()
    assert code==0 and out.err=='', out.err
    return out.out


def test_check(cfg, capsys):
    assert config_hash(RunConfig(**VALUES)) in prints(capsys, 'check', cfg)
    told = json.loads(prints(capsys, 'check', cfg, 'train.epochs=3', '--json')); assert told['ok'] and told['config_hash']==config_hash(RunConfig(**VALUES | dict(train=dict(epochs=3, batch_size=24)))) and told['notes']==[]
    assert 'terrain.rep' in prints(capsys, 'check', 'terrain_rep', 'data.root=.', '--ready')


def test_check_says_what_is_missing_here(cfg, capsys):
    assert main(['config', 'check', str(cfg), 'data.root=/no/such/place', 'task=terain.rep'])==0
    err = capsys.readouterr().err.splitlines(); assert len(err)==2 and "did you mean 'terrain.rep'" in err[0] and 'data.root: /no/such/place is not there' in err[1]
    assert 'data.root: $NOWHERE/x is not there' in fails(capsys, 'check', cfg, 'data.root=$NOWHERE/x', '--ready')
    assert "no task 'terain.rep'" in fails(capsys, 'check', cfg, 'task=terain.rep', 'data.root=/no', '--ready')


def test_A02_misspelt_key(tmp_path, capsys):
    (tmp_path/'a.yaml').write_text(dump_yaml(VALUES | dict(train=dict(epoch=3, batch_size=4)))); (tmp_path/'b.yaml').write_text(dump_yaml(VALUES | dict(epoch=3)))
    before = sorted(tmp_path.iterdir())
    assert "train.epoch: unknown key (did you mean 'epochs'?)" in fails(capsys, 'check', tmp_path/'a.yaml') and "epoch: unknown key (did you mean 'train.epochs'?)" in fails(capsys, 'check', tmp_path/'b.yaml')
    assert sorted(tmp_path.iterdir())==before


@pytest.mark.parametrize('content,words', [('a: 1\na: 2', "line 2: key 'a' is given twice"), ('a: [1', 'not valid YAML'), ('- 1', 'expected keys and values'), ('', 'expected keys and values'), ('1: 2', 'text as key'), ('task: x', 'required, but not given'),
    (dump_yaml(VALUES | dict(train=dict(epochs=10.0, batch_size=4))), 'train.epochs: expected an integer, got 10.0'), (dump_yaml(VALUES | dict(train=dict(epochs='10', batch_size=4))), "expected an integer, got '10'"),
    (dump_yaml(VALUES | dict(train=dict(epochs=True, batch_size=4))), 'expected an integer, got True'), (dump_yaml(VALUES | dict(train=dict(epochs=1, max_steps=2, batch_size=4))), 'exactly one'), (dump_yaml(VALUES | dict(description=' ')), 'description'),
    (dump_yaml(VALUES | dict(data='x')), 'data: expected a mapping'), (dump_yaml(VALUES | dict(optim=dict(lr='fast'))), 'optim.lr: expected a number'), (dump_yaml(OLD), 'vislearn config convert')])
def test_bad_files_are_one_line(tmp_path, capsys, content, words):
    (tmp_path/'bad.yaml').write_text(content)
    for command in ('check', 'show'):
        err = fails(capsys, command, tmp_path/'bad.yaml'); assert words in err and 'bad.yaml' in err


def test_bad_arguments(cfg, capsys, tmp_path):
    for args, words in [(['check', tmp_path/'no.yaml'], 'no such config file'), (['check', 'terain_rep'], "did you mean 'terrain_rep'"), (['check', tmp_path], 'no such config file'), (['show', cfg, 'train.epoch=3'], "did you mean 'epochs'"), (['show', cfg, 'seed'], 'expected key=value'), (['show', cfg, '--', 'seed', '3', 'label'], 'no partner'),
        (['show', cfg, 'model.params.z=3'], '+model.params.z=3'), (['show', cfg, 'seed=x'], "seed: expected an integer, got 'x'"), (['schema', tmp_path/'no.yaml'], 'no such config file')]: assert words in fails(capsys, *args)
    (tmp_path/'x.py').write_text('1/0'); assert 'ZeroDivisionError' in fails(capsys, 'check', tmp_path/'x.py'); (tmp_path/'x.py').write_text('config = 3'); assert 'expected a RunConfig' in fails(capsys, 'show', tmp_path/'x.py')


def test_recipes_take_their_own_arguments(capsys):
    register_recipe('needs_more', 'os.path:join')
    try: assert 'recipe needs_more needs a=...' in fails(capsys, 'show', 'needs_more')
    finally: del RECIPES['needs_more']
    assert RunConfig(**parse_yaml(prints(capsys, 'show', 'terrain_rep', 'dim=5', 'root=elsewhere'))).data.root=='elsewhere'


def test_show_is_complete_and_reads_back(cfg, capsys, tmp_path):
    text = prints(capsys, 'show', cfg, 'optim.lr=1e-5', '--json', '+model.params.z=no', '~label', '--', 'train.epochs', '5', 'data.mini', '7')
    (tmp_path/'full.yaml').write_text(text); full = load_config(tmp_path/'full.yaml') # JSON is YAML
    assert (full.optim.lr, full.model.params, full.train.epochs, full.data.mini)==(1e-5, dict(dim=8, z='no'), 5, 7) and parse_yaml(text).keys()==RunConfig.model_fields.keys()
    assert RunConfig(**json.loads(prints(capsys, 'show', cfg, '--json')))==RunConfig(**VALUES)
    (tmp_path/'x.py').write_text(f'from vislearn.runs.config import RunConfig\nconfig = RunConfig(**{VALUES!r})'); assert RunConfig(**parse_yaml(prints(capsys, 'show', tmp_path/'x.py')))==RunConfig(**VALUES)


def test_convert(tmp_path, capsys):
    old, new = tmp_path/'old.yaml', tmp_path/'deep'/'new.yaml'; old.write_text(dump_yaml(OLD))
    assert main(['config', 'convert', str(old), '--out', str(new)])==0
    out = capsys.readouterr(); assert out.out==f'{new}\n' and 'note: mini: False dropped' in out.err and load_config(new).task=='supervised' and '# - mini: False dropped' in new.read_text()
    before = new.read_text(); old.write_text(dump_yaml(OLD | dict(epochs=11)))
    assert 'is there already' in fails(capsys, 'convert', old, '--out', new) and new.read_text()==before
    assert 'is there already' in fails(capsys, 'convert', old, '--out', old) and parse_yaml(old.read_text())['model_type']=='Net'
    assert main(['config', 'convert', str(old), '--out', str(new), '--force'])==0 and load_config(new).train.epochs==11; capsys.readouterr()
    assert sorted(p.name for p in tmp_path.rglob('*'))==['deep', 'new.yaml', 'old.yaml'] # no temporary files
    assert main(['config', 'convert', str(old)])==0; printed = capsys.readouterr().out; assert RunConfig(**parse_yaml(printed))==load_config(new)
    assert main(['config', 'convert', str(old), '--json'])==0; told = json.loads(capsys.readouterr().out); assert told['kind']=='toolkit' and RunConfig(**told['values'])==load_config(new) and any('mini' in n for n in told['notes'])


def test_convert_mistakes(tmp_path, capsys):
    old = tmp_path/'old.yaml'
    for content, words in [(dump_yaml(VALUES), 'nothing to convert'), ('a: 1', 'neither a config of the learning toolkit'), (dump_yaml(OLD | dict(epochs='10')), "train.epochs: expected an integer, got '10'"), (dump_yaml({k: v for k, v in OLD.items() if k!='epochs'}), 'epochs: required'), ('[', 'not valid YAML'), ('', 'expected keys')]:
        old.write_text(content); err = fails(capsys, 'convert', old, '--out', tmp_path/'new.yaml'); assert words in err and 'old.yaml' in err and not (tmp_path/'new.yaml').exists()
    assert 'no such config file' in fails(capsys, 'convert', tmp_path/'none.yaml'); old.write_text(dump_yaml(OLD))
    assert 'is a folder' in fails(capsys, 'convert', old, '--out', tmp_path); assert 'cannot write' in fails(capsys, 'convert', old, '--out', old/'new.yaml')


def test_schema(tmp_path, capsys, cfg):
    schema = json.loads(prints(capsys, 'schema')); assert schema==config_schema() and set(schema['properties'])==set(RunConfig.model_fields) and set(schema['required'])=={'task', 'description', 'data', 'model', 'train'}
    assert schema['additionalProperties'] is False and schema['$defs']['Train']['properties']['batch_size']['description']=='Items per batch and process' and schema['properties']['seed']['maximum' if 'maximum' in schema['properties']['seed'] else 'exclusiveMaximum']
    undescribed = [f'{name}.{field}' for name, part in schema['$defs'].items() for field, said in part['properties'].items() if 'description' not in said]; assert undescribed==[]
    assert prints(capsys, 'schema', '--out', tmp_path/'s.json')==f'{tmp_path/"s.json"}\n' and json.loads((tmp_path/'s.json').read_text())==schema; assert 'is there already' in fails(capsys, 'schema', '--out', tmp_path/'s.json')
    table = prints(capsys, 'schema', '--table'); assert len(table.splitlines())==len(schema_rows()) + 1 and 'train.batch_size' in table
    assert any(line.split()[:3]==['train.epochs', '10', 'null'] for line in prints(capsys, 'schema', cfg, '--table').splitlines())


def test_schema_of_another_kind_of_config(tmp_path, capsys):
    (tmp_path/'mine.py').write_text('from vislearn.runs.config import Frozen\nclass Cam(Frozen):\n    "A camera."\n    width:int = 640\nconfig = Cam(width=3)\n')
    assert json.loads(prints(capsys, 'schema', tmp_path/'mine.py'))['properties']['width']['default']==640
    class Local(Frozen):
        "Made here."
        width:int = 640   # Image width [px]
    assert field_notes(Local)==dict(width='Image width [px]')


def test_module_call_and_schema_agrees_with_the_checker(cfg):
    r = subprocess.run([sys.executable, '-m', 'vislearn', 'config', 'check', str(cfg)], capture_output=True, text=True, cwd=TOP); assert r.returncode==0 and 'right' in r.stdout
    jsonschema = pytest.importorskip('jsonschema', reason='the schema can only be tried with jsonschema')
    validator = jsonschema.Draft202012Validator(config_schema()); validator.check_schema(config_schema())
    assert not list(validator.iter_errors(VALUES)) and not list(validator.iter_errors(json.loads(RunConfig(**VALUES).model_dump_json())))
    for bad in (VALUES | dict(epoch=3), VALUES | dict(seed='x'), VALUES | dict(train=dict(epochs=1)), VALUES | dict(launch=dict(kind='x'))): assert list(validator.iter_errors(bad))
