"Run folders on a real disk: kills, full disks, locks, provenance, retention."
import os, random, resource, signal, subprocess, sys, time
import psutil, pytest, torch
from vislearn.runs.ckpt import Checkpoints, CheckpointError, CheckpointWarning, load_plain, plain
from vislearn.runs.config import Checkpoint, RunConfig
from vislearn.runs.git import DirtyRepoError, check_repositories
from vislearn.runs.metrics import MetricLog, read_jsonl
from vislearn.runs.launch import same_run
from vislearn.runs.record import Run, RunError, all_runs

def config(root, **changes): return RunConfig(**(dict(task='demo.x', description='test', data=dict(root=str(root), train=dict(name='t')), model=dict(name='m'), train=dict(epochs=1, batch_size=2), log=dict(tensorboard=False)) | changes))

@pytest.fixture
def data(tmp_path): (tmp_path/'data').mkdir(); (tmp_path/'data'/'a').write_text('x'); return tmp_path/'data'

def child(work): # run `work` in a forked process, give its pid
    pid = os.fork()
    if pid==0:
        try: work()
        except BaseException as e: os.write(2, f'{type(e).__name__}: {e}\n'.encode()); os._exit(1)
        os._exit(0)
    return pid

def kill_while_saving(folder, save, trials):
    "Kill a process that saves 64 MB over and over, and count the files that cannot be read."
    state, broken, leftovers = dict(epoch=1, weights=torch.zeros(16, 1024, 1024)), 0, 0
    for trial in range(trials):
        save(state)
        pid = child(lambda: [save(state) for _ in range(1000)])
        time.sleep(random.Random(trial).uniform(.02, .3)); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        leftovers += any(folder.rglob('.*.tmp-*'))
        try: assert load_plain(folder/'last.pt')['weights'].shape==(16, 1024, 1024)
        except CheckpointError: broken += 1
        for file in folder.rglob('.*.tmp-*'): file.unlink()
    return broken, leftovers

def test_A14_kills_while_saving(tmp_path):
    ckpt = Checkpoints(tmp_path)
    broken, leftovers = kill_while_saving(tmp_path, ckpt.save, 6)
    assert broken==0 and leftovers>0 # the kills did hit a save
    assert ckpt.load('prev')['epoch']==1
    in_place, _ = kill_while_saving(tmp_path, lambda state: torch.save(state, tmp_path/"last.pt"), 6)
    assert in_place>0 # the harness can see a broken file

@pytest.mark.slow
def test_A14_twenty_kills_while_saving(tmp_path): assert kill_while_saving(tmp_path, Checkpoints(tmp_path).save, 20)[0]==0

def test_A14_leftovers_are_cleaned_at_the_next_start(tmp_path, data):
    run = Run.create(config(data), out=tmp_path/'runs', policy='record'); (run.dir/'ckpt').mkdir(); (run.dir/'ckpt'/'.last.pt.tmp-99').write_text('half')
    run.start(); assert not list((run.dir/'ckpt').glob('.*')); run.finish()

@pytest.mark.parametrize('damage', ['empty', 'half', 'noise', 'pickle', 'missing'])
def test_A16_damaged_last_falls_back_to_prev(tmp_path, damage):
    ckpt = Checkpoints(tmp_path)
    for epoch in (1, 2): ckpt.save(dict(epoch=epoch, weights=torch.ones(1000)))
    whole = (tmp_path/'last.pt').read_bytes(); (tmp_path/'last.pt').unlink()
    if damage=='pickle': torch.save(dict(f=os.system), tmp_path/'last.pt')
    elif damage!='missing': (tmp_path/'last.pt').write_bytes(dict(empty=b'', half=whole[:len(whole)//2], noise=os.urandom(2000))[damage])
    with pytest.warns(CheckpointWarning, match='using prev.pt instead'): assert ckpt.load()['epoch']==1

def test_fall_back_to_newest_epoch_then_error(tmp_path):
    ckpt = Checkpoints(tmp_path, Checkpoint(every_epochs=1))
    for epoch in (1, 2, 3): ckpt.save_epoch(dict(epoch=epoch), score=epoch)
    for name in ('last', 'prev'): (tmp_path/f'{name}.pt').unlink(); (tmp_path/f'{name}.pt').write_text('x')
    with pytest.warns(CheckpointWarning, match='using epoch-0002.pt'): assert ckpt.load()['epoch']==3
    assert ckpt.load('best')['epoch']==1
    for file in tmp_path.glob('*.pt'): file.unlink(); file.write_text('x')
    with pytest.raises(CheckpointError, match='the folder holds best.pt'): ckpt.load()
    with pytest.raises(CheckpointError, match='no such checkpoint'): Checkpoints(tmp_path/'none').load()

def test_A17_checkpoint_is_weights_only(tmp_path, data):
    import fastcore.foundation, numpy as np
    from fastai.torch_core import TensorBase
    run = Run.create(config(data), out=tmp_path/'runs', policy='record')
    path = run.save(dict(epoch=1, iter=0, step=5, model=dict(w=TensorBase(torch.ones(2))), log=fastcore.foundation.L(1, 2), lr=np.float32(.5), keys=np.arange(3, dtype=np.uint32), name='x', none=None, pair=(1, 2)))
    state = torch.load(path, weights_only=True)
    assert type(state['model']['w']) is torch.Tensor and state['log']==[1, 2] and state['keys'].dtype==torch.int64 and state['pair']==(1, 2)
    assert {'format', 'run_id', 'config_hash', 'versions'} <= set(state) and state['run_id']==run.id
    with pytest.raises(CheckpointError, match='checkpoint.model.opt: cannot store a SGD'): run.save(dict(model=dict(opt=torch.optim.SGD([torch.zeros(1)], lr=1.))))
    run.finish()

def test_A12_retention_of_the_toolkit(tmp_path): # the traces of spec 1.5: files on disk and the best file after every epoch
    ckpt = Checkpoints(tmp_path, Checkpoint(group_epochs=10)); metrics = [5, 4, 6, 3, 7, 8, 2.5, 2, 1.5, 1.2, 3.0, 2.9, 2.95, 2.0]; trace = []
    for epoch, metric in enumerate(metrics):
        ckpt.save_epoch(dict(epoch=epoch + 1), score=metric)
        trace.append(([int(p.stem[6:]) for p in sorted(tmp_path.glob('epoch-*.pt'))], ckpt.load('best')['epoch'] - 1))
    assert trace[:6]==[([0], 0), ([1], 1), ([1, 2], 1), ([3], 3), ([3, 4], 3), ([3, 5], 3)]
    assert trace[8:]==[([8], 8), ([9], 9), ([9, 10], 9), ([9, 11], 9), ([9, 11, 12], 9), ([9, 13], 9)]

def test_best_survives_a_restart_and_is_never_nan(tmp_path):
    for scores, best in (([3., float('nan'), 2.], 3), ([float('nan')], None), ([float('-inf'), 5.], 2)):
        folder = tmp_path/str(len(scores) + (best or 0)*10)
        for epoch, score in enumerate(scores, 1): Checkpoints(folder).save_epoch(dict(epoch=epoch), score) # a new object each time, as after a restart
        assert Checkpoints(folder).index.get('best', {}).get('epoch')==best
    up = Checkpoints(tmp_path/'max', mode='max')
    for epoch, score in enumerate([.5, .9, .7], 1): up.save_epoch(dict(epoch=epoch), score)
    assert up.load('best')['epoch']==2 and up.index['last']['epoch']==3

def test_best_and_epoch_files_cost_nothing(tmp_path):
    ckpt = Checkpoints(tmp_path, Checkpoint(every_epochs=1)); ckpt.save_epoch(dict(epoch=1, w=torch.zeros(1000)), 1.)
    assert len({p.stat().st_ino for p in tmp_path.glob('*.pt')})==1 and len(list(tmp_path.glob('*.pt')))==3

def full_disk(folder):
    "Mount a file system of 24 MB; None where that is not allowed."
    folder.mkdir()
    if os.geteuid() or subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=24m', 'tmpfs', str(folder)], capture_output=True).returncode: return None
    return folder

def check_full(ckpt, big, small):
    with pytest.raises(CheckpointError, match='could not write the checkpoint .*free some space'): ckpt.save(big)
    assert torch.equal(ckpt.load()['weights'], small['weights']) and ckpt.index['last']['epoch']==1
    assert not [p for p in ckpt.dir.iterdir() if p.name.startswith('.')]

def test_A34_disk_full_while_saving(tmp_path):
    small, big = dict(epoch=1, weights=torch.ones(1024, 1024)), dict(epoch=2, weights=torch.ones(8, 1024, 1024))
    disk = full_disk(tmp_path/'disk')
    if disk:
        try: ckpt = Checkpoints(disk/'ckpt'); ckpt.save(small); check_full(ckpt, big, small)
        finally: subprocess.run(['umount', str(disk)], check=True)
    ckpt = Checkpoints(tmp_path/'limited'); ckpt.save(small)
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (16*2**20, 16*2**20)); check_full(ckpt, big, small)
    assert os.waitstatus_to_exitcode(os.waitpid(child(limited), 0)[1])==0

def test_A30_two_runs_in_one_second(tmp_path, data, monkeypatch):
    monkeypatch.setattr(time, 'gmtime', lambda *a: time.struct_time((2026, 1, 2, 3, 4, 5, 0, 2, 0)))
    one, two = (Run.create(config(data), out=tmp_path/'runs', policy='record') for _ in range(2))
    assert one.dir!=two.dir and one.dir.name[:16]==two.dir.name[:16]=='20260102-030405-' and ':' not in one.dir.name
    monkeypatch.setattr('vislearn.runs.record.os.urandom', lambda n, names=iter([b'aaaaa', b'aaaaa', b'bbbbb']): next(names))
    one, two = (Run.create(config(data), out=tmp_path/'collide', policy='record') for _ in range(2)); assert one.dir!=two.dir # the second try collided and was repeated

def test_one_folder_one_process(tmp_path, data):
    run = Run.create(config(data), out=tmp_path/'runs', policy='record').start()
    def second():
        with pytest.raises(RunError, match=f'{run.dir.name} is in use by process {os.getppid()}'): Run(run.dir).start()
    assert os.waitstatus_to_exitcode(os.waitpid(child(second), 0)[1])==0
    run.finish()
    assert os.waitstatus_to_exitcode(os.waitpid(child(lambda: Run(run.dir).start().finish()), 0)[1])==0
    assert len(run.manifest['attempts'])==2

def test_lock_goes_with_a_killed_process(tmp_path, data):
    run = Run.create(config(data), out=tmp_path/'runs', policy='record')
    pid = child(lambda: (Run(run.dir).start(), time.sleep(60))); deadline = time.time() + 10
    while run.status['state']!='running' and time.time()<deadline: time.sleep(.02)
    os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    Run(run.dir).start().finish(); assert run.status['state']=='finished' and run.status['attempt']==1

def test_forked_workers_do_not_keep_the_lock(tmp_path, data):
    "A loader's workers outlive a killed process by some seconds; the run can go on at once."
    run = Run.create(config(data), out=tmp_path/'runs', policy='record')
    def work():
        Run(run.dir).start(); child(lambda: time.sleep(20)); time.sleep(20)
    pid = child(work); deadline = time.time() + 10
    while run.status['state']!='running' and time.time()<deadline: time.sleep(.02)
    time.sleep(.2); workers = psutil.Process(pid).children(); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    assert workers and workers[0].is_running()
    Run(run.dir).start().finish(); workers[0].kill()

def test_heartbeat(tmp_path, data, monkeypatch):
    monkeypatch.setattr('vislearn.runs.record.HEARTBEAT_S', .05)
    run = Run.create(config(data), out=tmp_path/'runs', policy='record').start(); first = run.status['heartbeat']
    run.log(7, 1, loss=1.); time.sleep(.4); status = run.status
    assert status['heartbeat']>first and status['step']==7 and status['state']=='running'; run.finish()
    beat = run.status['heartbeat']; time.sleep(.2); assert run.status['heartbeat']==beat # it stops

def test_manifest_is_complete_before_training(tmp_path, data):
    run = Run.create(config(data, seed=5, label='a'), out=tmp_path/'runs', policy='record'); manifest = run.manifest
    assert set('run_id task label description config_hash argv cwd user hostnames started git package_git versions hardware threads world seed deterministic env data parent sweep attempts'.split()) <= set(manifest)
    assert set('python vislearn torch torchvision fastai fastcore accelerate numpy cuda cudnn nccl driver'.split()) <= set(manifest['versions'])
    assert manifest['data']['files']==1 and manifest['data']['bytes']==1 and len(manifest['data']['fingerprint'])==64 and manifest['world']['global_batch']==2 and manifest['seed']==5
    assert (run.dir/'env.txt').read_text().startswith(tuple('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ')) and 'torch==' in (run.dir/'env.txt').read_text()
    assert Run(run.dir).config==run.config and not (run.dir/'DONE').exists()

def git(folder, *words): subprocess.run(['git', '-C', str(folder), '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True, capture_output=True)

def test_A05_policy_in_all_states(tmp_path, data, monkeypatch):
    monkeypatch.setattr('vislearn.runs.git.package_git', lambda: None)
    repo = tmp_path/'repo'; repo.mkdir(); git(repo, 'init', '-q'); cfg = repo/'c.yaml'; cfg.write_text('a: 1'); (repo/'.gitignore').write_text('*.log')
    def refused(expect):
        try: check_repositories([cfg], 'refuse'); got = False
        except DirtyRepoError as e: got = True; assert e.exit_code==3 and '\n' not in str(e)
        assert got==expect and check_repositories([cfg], 'record')
    refused(True) # nothing committed yet
    git(repo, 'add', '.'); git(repo, 'commit', '-q', '-m', 'x'); refused(False)
    (repo/'a.log').write_text('x'); refused(False); os.utime(cfg); refused(False)
    (repo/'sub').mkdir(); (repo/'sub'/'new').write_text('x'); refused(True); git(repo, 'add', '.'); refused(True); git(repo, 'commit', '-q', '-m', 'y'); refused(False)
    cfg.write_text('a: 2'); refused(True); git(repo, 'checkout', '-q', '.'); cfg.chmod(0o755); refused(True); git(repo, 'checkout', '-q', '.'); git(repo, 'rm', '-q', 'sub/new'); refused(True)
    with pytest.raises(DirtyRepoError): Run.create(config(data), out=tmp_path/'runs', policy='refuse', source=cfg)
    assert not (tmp_path/'runs').exists() # a refused run leaves nothing
    run = Run.create(config(data), out=tmp_path/'runs', source=repo/'.gitignore', policy='record'); assert run.manifest['reproducible'] is False and run.manifest['git']['dirty'] and (run.dir/'config.source.yaml').read_bytes()==b'*.log'

def test_metrics_survive_a_kill(tmp_path):
    log = MetricLog(tmp_path)
    def work():
        for step in range(10**6): log.write(step, step // 100, 'train', dict(loss=1.))
    pid = child(work); time.sleep(.3); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
    with log.path.open('a') as stream: stream.write('{"t": 3, "ste')
    log.open(step=50); log.write(51, 0, 'train', dict(loss=2.)); log.close()
    records = read_jsonl(log.path); assert [r['step'] for r in records]==list(range(52)) and records[-1]['loss']==2.

def test_names_and_neighbours(tmp_path, data):
    runs = [Run.create(config(data, task=t), out=tmp_path/'runs', policy='record') for t in ('a.b', 'a.c')]; root = tmp_path/'runs'
    assert {Run(r.id, root).dir for r in runs}=={r.dir for r in runs} and len(all_runs(root))==2
    with pytest.raises(RunError, match='did you mean'): Run(runs[0].id[:-1] + '0', root)
    with pytest.raises(RunError, match='there are no runs in'): Run('x', tmp_path/'empty')
    assert same_run(config(data, task='a.b'), root) is None
    runs[0].finish(); assert same_run(config(data, task='a.b'), root).dir==runs[0].dir
    (data/'more').write_text('new'); assert same_run(config(data, task='a.b'), root) is None # other data

def test_plain_names_the_place():
    with pytest.raises(CheckpointError, match=r'checkpoint.a.1.b: cannot store a object'): plain(dict(a=[1, dict(b=object())]))

def test_other_manifests_are_not_runs(tmp_path, data):
    "A folder of simulated drives has a manifest as well, and may lie beside the runs."
    run = Run.create(config(data), out=tmp_path/'runs', policy='record')
    (tmp_path/'runs'/'drive').mkdir(); (tmp_path/'runs'/'drive'/'manifest.json').write_text('{"params": {}}')
    assert [p.name for p in all_runs(tmp_path/'runs')]==[run.dir.name]
    with pytest.raises(RunError, match='nothing'): Run('nothing', tmp_path/'runs')


def test_a_removed_folder_prints_no_traceback_of_a_thread(tmp_path):
    "TensorBoard writes in a thread; where the folder is gone the training thread gets the error, and nothing is printed beside it. Other threads still speak."
    script = 'import shutil, sys, threading, time; from vislearn.runs.metrics import TensorBoardLog; log = TensorBoardLog(sys.argv[1]); log.write(0, "train", dict(loss=1.)); log.writer.flush(); shutil.rmtree(sys.argv[1])\n' \
        'try:\n    for k in range(400): log.write(k, "train", dict(loss=1.)); time.sleep(.005); k % 20 or log.writer.flush()\nexcept FileNotFoundError: print("told")\nt = threading.Thread(target=lambda: 1/0); t.start(); t.join()'
    got = subprocess.run([sys.executable, '-c', script, str(tmp_path/'tb')], capture_output=True, text=True, timeout=100)
    assert got.stdout == 'told\n' and 'FileNotFoundError' not in got.stderr and got.stderr.count('Traceback') == 1 and 'ZeroDivisionError' in got.stderr, (got.stdout, got.stderr)


def test_data_that_vanish_while_they_are_listed_do_not_count(tmp_path, monkeypatch):
    from vislearn.runs import machine
    (tmp_path/'a.bin').write_bytes(b'123'); found = machine.data_fingerprint(tmp_path); listed = machine._files
    monkeypatch.setattr(machine, '_files', lambda root: [*listed(root), tmp_path/'gone.bin']); assert machine.data_fingerprint(tmp_path)==found and found['files']==1
    (tmp_path/'a.bin').unlink(); assert machine.data_fingerprint(tmp_path)['fingerprint'] is None
