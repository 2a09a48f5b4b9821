"Oracles for runs.convert: the toolkit's sample file field by field, its metadata file, SPACE-Time's tree; nothing is dropped without a note."
import pytest
from vislearn.core import ConfigError
from vislearn.runs.config import RunConfig, load_config, parse_yaml
from vislearn.runs.convert import _FLAGS, _TOOLKIT, config_kind, convert, convert_config, converted_yaml, read_old

SAMPLE = '''
# One job. Data live in /data/train and /data/test.
data_directory: /data
model_type: ExampleModel
loss_function: F.mse_loss
train_data_loader_type: ExampleLoader
test_data_loader_type: ExampleLoader
eval_data_loader_type: RolloutLoader
epochs: 10
batch_size: 24
checkpoint_interval: 3600   # seconds
model_parameters: {}
data_loader_parameters:
  all: {}
  train: {}
  test: {}
  eval: {}
# bootstrap_model_file: /models/start.pth
description: Why this job exists
# multigpu_parameters:
#   ngpus_per_node: 8
#   num_nodes: 1
#   node_idx: 0
#   backend: nccl
#   url: tcp://127.0.0.1:12344
'''
GPUS = '''
multigpu_parameters:
  ngpus_per_node: 8
  num_nodes: 1
  node_idx: 0
  backend: nccl
  url: tcp://127.0.0.1:12344
'''


def one_line(f, *words):
    with pytest.raises(ConfigError) as e: f()
    assert '\n' not in str(e.value) and e.value.exit_code==2 and all(w in str(e.value) for w in words), str(e.value)


def test_A01_the_sample_converts_field_by_field(tmp_path):
    (tmp_path/'sample_runconfig.yaml').write_text(SAMPLE); old, notes = read_old(tmp_path/'sample_runconfig.yaml')
    assert notes==[] and set(old)==set(_TOOLKIT) - {'bootstrap_model_file', 'multigpu_parameters'}
    cfg = RunConfig(**convert(old))
    fields = [(cfg.version, 1), (cfg.task, 'supervised'), (cfg.description, 'Why this job exists'), (cfg.data.root, '/data'), (cfg.data.common, {}), (cfg.data.train.name, 'ExampleLoader'), (cfg.data.train.params, {}), (cfg.data.test.name, 'ExampleLoader'),
        (cfg.data.test.params, {}), (cfg.data.eval.name, 'RolloutLoader'), (cfg.data.eval.params, {}), (cfg.data.num_workers, 4), (cfg.data.mini, None), (cfg.model.name, 'ExampleModel'), (cfg.model.params, {}), (cfg.loss.name, 'F.mse_loss'),
        (cfg.optim.name, 'adam'), (cfg.optim.lr, 1e-3), (cfg.schedule.name, 'constant'), (cfg.train.epochs, 10), (cfg.train.max_steps, None), (cfg.train.batch_size, 24), (cfg.checkpoint.every_s, 3600), (cfg.checkpoint.group_epochs, 10), (cfg.init_from, None),
        (cfg.launch.kind, 'local'), (cfg.launch.nodes, 1), (cfg.launch.per_node, 1), (cfg.select.metric, 'auto'), (cfg.select.mode, 'min'), (cfg.rollout.max_samples, 1000), (cfg.rollout.every, 1)]
    for got, want in fields: assert got==want
    (tmp_path/'new.yaml').write_text(converted_yaml(convert_config(old), 'sample_runconfig.yaml')); assert load_config(tmp_path/'new.yaml')==cfg


def test_A01_gpus_and_parameters():
    old = parse_yaml(SAMPLE + GPUS) | dict(bootstrap_model_file='/models/start.pth', model_parameters=dict(depth=3, sizes=[1, 2]), data_loader_parameters=dict(all=dict(num_workers=0, scale=2.5), train=dict(flip=True), eval=dict(steps=9)))
    made = convert_config(old); cfg = RunConfig(**made.values)
    assert (cfg.launch.per_node, cfg.launch.nodes, cfg.launch.kind, cfg.init_from.file, cfg.init_from.run)==(8, 1, 'local', '/models/start.pth', None)
    assert (cfg.model.params, cfg.data.common, cfg.data.num_workers, cfg.data.train.params, cfg.data.test.params, cfg.data.eval.params)==(dict(depth=3, sizes=[1, 2]), dict(scale=2.5), 0, dict(flip=True), {}, dict(steps=9))
    assert all(any(f'multigpu_parameters.{k}' in n for n in made.notes) for k in ('node_idx', 'backend', 'url'))
    several = RunConfig(**convert(old | dict(multigpu_parameters=dict(ngpus_per_node=4, num_nodes=2, node_idx=1, backend='gloo', url='x')))); assert (several.launch.kind, several.launch.nodes, several.launch.per_node)==('slurm', 2, 4)


def test_metadata_of_a_finished_job(): # the original stored the flags and the results in the same file
    stored = parse_yaml(SAMPLE) | dict(cpu=False, mini=True, no_logging=False, allow_dirty_repo=False, y=False, find_replace=['/data', '/mnt'], modify=None, delete=None, yaml_config='job.yaml', git_commit='abc', best_save_metric='0.5',
        best_saved_model_file='/logs/model_epoch_3.pth', log_directory='/logs/x') | {'After analysis summary': 'It was the scale.'}
    made = convert_config(stored); cfg = RunConfig(**made.values)
    assert cfg.description=='Why this job exists\nIt was the scale.' and cfg.data.mini is None
    for flag in _FLAGS: assert any(n.startswith(f'{flag}: ') for n in made.notes), flag
    assert convert(parse_yaml(SAMPLE) | {'After analysis summary': '*** Fill out this field'})['description']=='Why this job exists'


def marks(tree, at=''): return {k: marks(v, f'{at}{k}.') if isinstance(v, dict) else f'<{at}{k}>' for k, v in tree.items()}

def test_every_key_of_the_toolkit_is_kept_or_noted():
    tree = parse_yaml(SAMPLE + GPUS) | dict(bootstrap_model_file='x', model_parameters=dict(a=1), data_loader_parameters=dict(all=dict(a=1), train=dict(b=1), test=dict(c=1), eval=dict(d=1), val=dict(e=1)), cpu=True, epoch=3)
    made = convert_config(marks(tree)); text = str(made.values) + ' '.join(made.notes)
    def leaves(t): return [x for v in t.values() for x in (leaves(v) if isinstance(v, dict) else [v])]
    assert not (lost := [m for m in leaves(marks(tree)) if m not in text]), lost
    assert any("epoch: '<epoch>' dropped" in n and "did you mean 'epochs'" in n for n in made.notes)


def test_loops_that_are_off():
    old = parse_yaml(SAMPLE); del old['test_data_loader_type'], old['eval_data_loader_type'], old['data_loader_parameters'] # the last one made the original fail
    cfg = RunConfig(**convert(old)); assert cfg.data.test is None and cfg.data.eval is None and cfg.data.common=={}
    made = convert_config(old | dict(data_loader_parameters=dict(test=dict(a=1)))); assert any('there is no test_data_loader_type' in n and "{'a': 1}" in n for n in made.notes)


def test_wrong_old_configs():
    old = parse_yaml(SAMPLE)
    for key in ('epochs', 'batch_size', 'description', 'model_type', 'checkpoint_interval', 'data_directory', 'loss_function', 'train_data_loader_type'): one_line(lambda: convert({k: v for k, v in old.items() if k!=key}), f'{key}: required')
    for change, words in [(dict(epochs=10.0), 'train.epochs: expected an integer, got 10.0'), (dict(epochs='10'), "train.epochs: expected an integer, got '10'"), (dict(epochs=True), 'train.epochs: expected an integer, got True'), (dict(model_type=3), 'model.name: expected text')]:
        one_line(lambda: RunConfig(**convert(old | change)), words)
    for key in ('model_parameters', 'data_loader_parameters', 'multigpu_parameters'): one_line(lambda: convert(old | {key: 'x'}), f'{key}: expected a mapping')
    one_line(lambda: convert(dict(x=1)), 'neither', 'got the keys x'); one_line(lambda: convert({}), 'none'); one_line(lambda: convert(dict(task='x', model=dict(name='m'))), 'already')


SPACE = '''
exp_name: ''
seed: 8848
model: 'SPACE'
resume: true
resume_ckpt: ''
parallel: false
device_ids: [0, 1]
device: 'cuda:0'
logdir: '../output/logs/'
checkpointdir: '../output/checkpoints/'
evaldir: '../output/eval/'
demodir: '../output/demo/'
dataset: 'ROOMS'
dataset_roots: {ROOMS: '../data/ROOMS', OTHER: '../data/OTHER'}
train:
  batch_size: 12
  max_epochs: 1000
  max_steps: 160000
  num_workers: 3
  clip_norm: 1.0
  max_ckpt: 4
  print_every: 500
  save_every: 1000
  eval_on: true
  eval_every: 1000
  solver:
    fg: {optim: 'RMSprop', lr: 1e-5}
    bg: {optim: 'Adam', lr: 1e-3, weight_decay: 0.1}
eval: {checkpoint: 'best', metric: ap_avg}
eval_cfg: {train: {metrics: ['mse', 'ap'], batch_size: 12}}
arch: {G: 16, K: 5, fg_sigma: 0.15, boundary_loss: True, z_pres_end_value: 1e-10}
'''

def test_space_time_tree(tmp_path):
    (tmp_path/'rooms.yaml').write_text(SPACE); old, notes = read_old(tmp_path/'rooms.yaml')
    assert old['train']['solver']['fg']['lr']==1e-5 and any('1e-5' in n for n in notes) # text for PyYAML, a number for YACS and here
    made = convert_config(old); cfg = RunConfig(**made.values)
    assert (cfg.task, cfg.seed, cfg.label, cfg.data.root, cfg.data.train.name, cfg.data.num_workers, cfg.model.name)==('space.time', 8848, None, '../data/ROOMS', 'ROOMS', 3, 'SPACE')
    assert (cfg.train.max_steps, cfg.train.epochs, cfg.train.batch_size, cfg.train.clip_norm, cfg.train.eval_every)==(160000, None, 12, 1., 1000)
    assert {k: (o.name, o.lr, o.params) for k, o in cfg.optim.items()}==dict(fg=('rmsprop', 1e-5, {}), bg=('adam', 1e-3, dict(weight_decay=.1)))
    assert (cfg.checkpoint.every_s, cfg.checkpoint.every_steps, cfg.checkpoint.keep_last, cfg.log.every_steps, cfg.out, cfg.launch.per_node, cfg.init_from)==(None, 1000, 4, 500, '../output/logs/', 1, None)
    assert (cfg.select.metric, cfg.select.mode, cfg.data.eval.name, cfg.data.eval.params)==('eval_ap_avg', 'max', 'ROOMS', dict(train=dict(metrics=['mse', 'ap'], batch_size=12)))
    assert cfg.model.params==dict(G=16, K=5, fg_sigma=.15, boundary_loss=True, z_pres_end_value=1e-10)
    for key in ('train.max_epochs: 1000 dropped', 'checkpointdir', 'evaldir', 'demodir', 'device', 'resume: True', "dataset_roots.OTHER: '../data/OTHER' dropped"): assert any(n.startswith(key) for n in made.notes), key
    (tmp_path/'new.yaml').write_text(converted_yaml(made, 'rooms.yaml')); assert load_config(tmp_path/'new.yaml')==cfg


def test_space_time_variants():
    old = parse_yaml(SPACE)
    def made(**c): return RunConfig(**convert(old | c))
    def train(**c): return {k: v for k, v in (old['train'] | c).items() if v is not None}
    assert made(train=train(max_steps=None)).train.epochs==1000 and made(train=train(max_steps=None, max_epochs=None)).train.max_steps==1000000
    assert (made(parallel=True).launch.per_node, made(parallel=True).train.batch_size)==(2, 6) and (made(parallel=True, device_ids=[0, 1, 2, 3, 4]).launch.per_node, made(parallel=True, device_ids=[0, 1, 2, 3, 4]).train.batch_size)==(1, 12)
    assert made(exp_name='pong').label=='pong' and 'pong' in made(exp_name='pong').description and made(exp_name=3).label=='3'
    assert made(resume_ckpt='a.pth').init_from.strict and not made(resume_ckpt='a.pth', load_time_consistency=True).init_from.strict and made(resume_ckpt='a.pth').init_from.file=='a.pth'
    off = made(train=train(eval_on=False)); assert off.data.eval is None and off.select.metric=='auto' and off.train.eval_every=='epoch'
    assert made(add_flow=True).model.params['add_flow'] is True and made(gamelist=['Pong-v0']).data.common==dict(gamelist=['Pong-v0'])
    assert made(eval=dict(metric=['mse', 'min'])).select.mode=='min' and made(train=train(solver=dict(fg=dict(lr='3e-5')))).optim['fg'].lr==3e-5 and made(train=train(solver=dict(fg=dict(lr='3e-5')))).optim['bg'].name=='adam'
    assert RunConfig(**convert(dict(arch=dict(K=3)))).seed==8848 # a file with almost nothing: the defaults of the original's code


def test_every_key_of_space_time_is_kept_or_noted():
    tree = parse_yaml(SPACE) | dict(gamelist='x', add_flow=1, load_time_consistency=1, show=dict(indices=[1]), arhc=1, eval=dict(checkpoint='last', metric='ap', other=1))
    for on in (True, False):
        marked = marks(tree); marked['train'] |= dict(eval_on=on, extra='<train.extra>'); marked['parallel'] = False; marked['dataset'] = 'ROOMS'
        made = convert_config(marked); text = str(made.values) + ' '.join(made.notes)
        def leaves(t): return [x for v in t.values() for x in (leaves(v) if isinstance(v, dict) else [v])]
        lost = [m for m in leaves(marked) if isinstance(m, str) and m not in text and m.lower() not in text]
        assert not lost, lost


def test_words_of_the_old_reader(tmp_path):
    file = tmp_path/'x.yaml'; file.write_text('a: yes\nb: off\nc: 010\nd: 12:30:45\ne: 2021-03-04\nf: 1e-5\ng: [no, 1_0, {h: 5e-3}]\nkeep: text\nz: .nan\n')
    values, notes = read_old(file)
    assert {k: v for k, v in values.items() if k!='z'}==dict(a=True, b=False, c=8, d=45045, e='2021-03-04', f=1e-5, g=[False, 10, dict(h=5e-3)], keep='text') and values['z']!=values['z'] and len(notes)==9
    for content, words in [(b'\xff', 'UTF-8'), (b'a: 1\na: 2', "line 2: key 'a' is given twice"), (b'- 1', 'got list'), (b'a: [', 'not valid YAML'), (b'a: 2021-13-45', 'not valid YAML 1.1'), (b'', 'got NoneType')]:
        file.write_bytes(content); one_line(lambda: read_old(file), 'x.yaml', words)
    one_line(lambda: read_old(tmp_path), 'expected a YAML file'); one_line(lambda: read_old(tmp_path/'no.yaml'), 'no such config file')
    assert config_kind(dict(seed=1, train={}))=='space'
