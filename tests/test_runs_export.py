"Exports read back with the libraries they were written for, and one line where these are absent."
import json, sys, time
import pytest
from vislearn.core import UserError
from vislearn.runs.config import RunConfig
from vislearn.runs.export import flat_config, to_mlflow, to_wandb
from vislearn.runs.record import Run

@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = RunConfig(task='supervised', description='an example', label='me', data=dict(root=str(tmp_path), train=dict(name='waves')), model=dict(name='mlp', params=dict(width=8)), train=dict(epochs=3, batch_size=4), log=dict(tensorboard=False))
    run = Run.create(cfg, tmp_path/'runs', policy='record', notes=dict(sweep=dict(id='s1', index=0, combo={})))
    with run.running():
        for epoch in range(3): run.log(10*epoch + 10, epoch, 'train', loss=1/(epoch + 1), bad=float('nan')); run.log(10*epoch + 10, epoch, 'test', loss=1.2/(epoch + 1))
    return run

@pytest.mark.parametrize('export, name', [(to_mlflow, 'mlflow'), (to_wandb, 'wandb')])
def test_missing_library_is_one_line(run, monkeypatch, export, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf'^exporting to {name} needs it: pip install "vislearn\[{name}\]"$'): export(run)
    assert sorted(p.name for p in run.dir.parents[2].iterdir())==['runs'] # and nothing was written

def test_flat_config_keeps_everything():
    assert flat_config(dict(a=1, b=dict(c=dict(d=None), e={}), f=[1, dict(g=2)]))=={'a': 1, 'b.c.d': None, 'b.e': {}, 'f': [1, dict(g=2)]}

@pytest.mark.parametrize('store', ['files', 'sqlite'])
def test_mlflow_reads_it_back(run, tmp_path, monkeypatch, store):
    mlflow = pytest.importorskip('mlflow', reason='mlflow is not installed')
    if store=='sqlite': pytest.importorskip('sqlalchemy', reason='no data base library for mlflow')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true'); uri = (tmp_path/'mlruns').as_uri() if store=='files' else f'sqlite:///{tmp_path}/m.db'
    first = to_mlflow(run, uri); ident = to_mlflow(run, uri); client = mlflow.MlflowClient(tracking_uri=uri)
    [found] = client.search_runs([client.get_experiment_by_name('supervised').experiment_id])
    assert found.info.run_id==ident!=first and found.info.run_name=='me' and found.info.status=='FINISHED' and found.data.params['model.params.width']=='8' and found.data.tags['vislearn.run']==run.id
    assert [(m.step, m.value) for m in client.get_metric_history(ident, 'test/loss')]==[(10, 1.2), (20, .6), (30, 1.2/3)] and 'train/bad' not in found.data.metrics
    assert found.info.end_time - found.info.start_time==pytest.approx(1000*(run.metrics().t.max() - run.metrics().t.min()), abs=2)

def wandb_records(path, block=32768):
    "Read a .wandb file: a log of blocks, in them pieces `crc32 (4), length (2), kind (1: whole, 2: first, 3: middle, 4: last)`."
    data, at, whole = path.read_bytes(), 7, b''
    while at + 7<=len(data):
        if block - at % block<7: at += block - at % block; continue
        size, kind = int.from_bytes(data[at + 4:at + 6], 'little'), data[at + 6]
        if kind==0: break
        whole += data[at + 7:at + 7 + size]; at += 7 + size
        if kind in (1, 4): yield whole; whole = b''

def test_wandb_reads_it_back(run, tmp_path):
    pytest.importorskip('wandb', reason='wandb is not installed')
    from wandb.proto.wandb_internal_pb2 import Record
    folder = to_wandb(run, tmp_path); [file] = folder.glob('*.wandb'); rows, configs, runs, until = [], {}, [], time.time() + 30
    while not (records := [Record.FromString(data) for data in wandb_records(file)]) or records[-1].WhichOneof('record_type')!='exit': assert time.time()<until; time.sleep(.1) # its process writes behind ours
    for record in records:
        if record.WhichOneof('record_type')=='history': rows.append({i.key or '/'.join(i.nested_key): i.value_json for i in record.history.item})
        if record.WhichOneof('record_type')=='run': runs.append(record.run); configs |= {i.key: i.value_json for i in record.run.config.update}
    assert folder.parent.parent==tmp_path or folder.parent.name=='wandb'
    assert [(float(r['_step']), float(r['train/loss']), float(r['test/loss'])) for r in rows]==[(10, 1., 1.2), (20, .5, .6), (30, 1/3, 1.2/3)]
    assert (runs[0].project, runs[0].display_name, runs[0].run_id, runs[0].run_group)==('supervised', 'me', run.id, 's1') and json.loads(configs['model'])['params']['width']==8
