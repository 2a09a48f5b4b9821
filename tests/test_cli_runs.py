"vislearn run and its family as a user types it: what is refused, what is left behind, what goes on"
import hashlib, io, json, os, re, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

import pytest
import vislearn
from helpers import git, set_package_git
from vislearn.cli.main import main
from vislearn.runs.config import load_config, parse_yaml
from vislearn.runs.record import Run, all_runs

CONFIG = '''# a comment that is kept
task: supervised
description: a wavy line
data: {{root: {root}, train: {{name: waves, params: {{n: 64}}}}, test: {{name: waves, params: {{n: 32}}}}, num_workers: 0}}
model: {{name: mlp, params: {{width: 8}}}}
loss: {{name: F.mse_loss}}
schedule: {{name: one_cycle}}
train: {{epochs: 2, batch_size: 16}}
checkpoint: {{every_steps: 1}}
log: {{tensorboard: false}}
'''
OWN_DATA = '''import os, signal, time
from pathlib import Path
from vislearn.synth.toys import Waves

class Trouble(Waves):
    "Waves, and once, at the n-th item, something happens to the process."
    seen = 0
    def __init__(self, directory, split='train', mini=None, n=64, at=100, what='nothing', where=''):
        super().__init__(directory, split, mini, n); self.at, self.what, self.where = at, what, where
    def item(self, index, rng=None):
        Trouble.seen += self.split=='train'
        if Trouble.seen==self.at and self.split=='train': getattr(self, self.what)(Path(self.where))
        return super().item(index, rng)
    def nothing(self, where): pass
    def stop(self, where): os.kill(os.getpid(), signal.SIGTERM)
    def wait(self, where):
        from vislearn.runs.preempt import stop_flag
        if (where/'waited').exists(): return
        (where/'waited').touch(); end = time.time() + 120
        while stop_flag.requested is None and time.time()<end: time.sleep(.02)
    def fill(self, where):
        with open(where/'filler', 'wb', buffering=0) as f:
            try:
                while True: f.write(bytes(4096))
            except OSError: pass
'''


def make_repo(folder, root):
    folder.mkdir(); root.mkdir(); (root/'a').write_text('x')
    (folder/'cfg.yaml').write_text(CONFIG.format(root=root)); (folder/'.gitignore').write_text('/runs/\n*.log\n__pycache__/\n'); (folder/'trouble.py').write_text(OWN_DATA)
    git(folder, 'init', '-q', '-b', 'main'); git(folder, 'add', '.'); git(folder, 'commit', '-q', '-m', 'first')
    return folder


@pytest.fixture
def repo(tmp_path, monkeypatch):
    "A user's repository, all temporary files in sight, and vislearn as if installed from a wheel."
    set_package_git(monkeypatch)
    repo = make_repo(tmp_path/'mine', tmp_path/'data'); (tmp_path/'tmp').mkdir()
    monkeypatch.chdir(repo); monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'tmp')); monkeypatch.setattr(sys, 'path', list(sys.path)); monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    yield repo
    sys.modules.pop('trouble', None)


def files(*tops): return {str(p): (p.lstat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for top in tops for p in Path(top).rglob('*') if p.is_file() and '.git' not in p.parts}
def runs(repo): return [Run(p) for p in all_runs(repo/'runs')]


def fails(capsys, code, *args):
    "The one line on stderr of a command that ends with this exit code."
    capsys.readouterr(); got = main([*map(str, args)]); err = capsys.readouterr().err
    assert got == code and err.startswith('vislearn: ') and err.count('\n') == 1 and 'Traceback' not in err, (got, err)
    return err


def train(capsys, *args, code=0):
    "A run, from the folder that the first line of the output names."
    capsys.readouterr(); assert main(['run', *map(str, args)]) == code
    return Run(Path(capsys.readouterr().out.splitlines()[0]).resolve())


# ---- before anything starts

@pytest.mark.parametrize('change, words', [
    (('epochs: 2', 'epoch: 2'), r"train.epoch: unknown key \(did you mean 'epochs'\?\)"), (('train: {epochs', 'training: {epochs'), 'training: unknown key'),
    (('batch_size: 16', 'batch_size: many'), "train.batch_size: expected an integer, got 'many'"), (('epochs: 2', 'epochs: true'), 'train.epochs: expected an integer'), (('epochs: 2', 'epochs: 2.5'), 'train.epochs'),
    (('log: {', 'task: other\nlog: {'), r"cfg.yaml.*task.*(twice|again|duplicate|already)"), (('description: a wavy line\n', ''), 'description: required'), (('a wavy line', '" "'), 'description'),
    (('task: supervised', 'task: supervisd'), "did you mean 'supervised'"), (('root: ', 'root: /none'), 'data.root: .* is not there'), (('log: {', '  : ['), 'cfg.yaml'), (('# a comment', '- a list\n#'), 'cfg.yaml')])
def test_A02_bad_configs(repo, capsys, change, words):
    text = (repo/'cfg.yaml').read_text(); assert change[0] in text
    (repo/'cfg.yaml').write_text(text.replace(*change, 1)); git(repo, 'commit', '-qam', 'bad'); before = files(repo, repo.parent)
    err = fails(capsys, 2, 'run', 'cfg.yaml'); assert re.search(words, err), err
    assert files(repo, repo.parent) == before # nothing is created


@pytest.mark.parametrize('args, words', [
    (('cfg.yaml', 'train.epoch=3'), "no key train.epoch (did you mean 'epochs'?)"), (('cfg.yaml', 'train.epochs=many'), "train.epochs: expected an integer, got 'many'"), (('cfg.yaml', 'data.root=/none'), 'is not there'),
    (('cfg.yaml', '--modify', 'train.epochs'), 'expected pairs'), (('cfg.yaml', '--delete', 'descripton'), "did you mean 'description'"), (('cfg.yaml', '--', 'seed'), 'expected pairs'), (('none.yaml',), 'no such config file'), ((), 'run what?'),
    (('supervised_wavs',), "did you mean 'supervised_waves'"), (('supervised_waves', 'bs=x'), "batch_size: expected an integer, got 'x'"), (('terrain_photos',), 'needs root='), (('cfg.yaml', '--mini', '0'), 'at least 1 item'), (('cfg.yaml', '--nproc', '0'), 'launch.per_node'),
    (('cfg.yaml', '--no-logging', '--slurm'), 'keeps nothing'), (('cfg.yaml', '--allow-dirty-repo', '--y', '--dirty=snapshot'), 'keeps nothing'), (('cfg.yaml', '--no-logging', '--nproc', '2'), 'there is one process'), (('cfg.yaml', 'what?'), "'what?': expected key=value")])
def test_A02_bad_words(repo, capsys, args, words):
    before = files(repo, repo.parent)
    err = fails(capsys, 2, 'run', *args); assert words in err, err
    assert files(repo, repo.parent) == before


def test_unknown_flag_and_python_configs(repo, capsys):
    with pytest.raises(SystemExit) as e: main(['run', 'cfg.yaml', '--alow-dirty-repo'])
    assert e.value.code == 2 and 'unrecognized arguments' in capsys.readouterr().err
    (repo/'a.py').write_text('config = 3\n'); assert 'expected a RunConfig named config' in fails(capsys, 2, 'run', 'a.py')
    (repo/'b.py').write_text(f'from trouble import Trouble\nfrom vislearn.supervised import supervised_waves\nconfig = supervised_waves(root={str(repo.parent/"data")!r}, epochs=3)\n')
    assert main(['run', 'b.py', '--dry-run', 'train.epochs=1']) == 3 and 'not committed (a.py, b.py)' in capsys.readouterr().out
    git(repo, 'add', '.'); git(repo, 'commit', '-qm', 'x')
    assert main(['run', 'b.py', '--dry-run', 'train.epochs=1']) == 0 and parse_yaml(capsys.readouterr().out)['train']['epochs'] == 1


def test_dry_run_creates_nothing(repo, capsys):
    before = files(repo, repo.parent)
    assert main(['run', 'cfg.yaml', 'optim.lr=5e-3', '--cpu', '--nproc', '2', '--out', 'else', '--dry-run', '--', 'model.params.width', '4']) == 0
    out = capsys.readouterr().out; values = parse_yaml(out)
    assert values['optim']['lr'] == 5e-3 and values['model']['params']['width'] == 4 and values['launch']['per_node'] == 2 and values['out'] == 'else' and files(repo, repo.parent) == before
    assert '# would train in 2 processes on cpu, into else/supervised/<new run id>' in out and f'# code: {repo} at {git(repo, "rev-parse", "HEAD")[:10]}' in out
    assert main(['run', 'cfg.yaml', 'launch.kind=slurm', 'launch.nodes=2', '--nproc', '3', '--dry-run']) == 0
    launch = parse_yaml(capsys.readouterr().out)['launch']; assert (launch['kind'], launch['nodes'], launch['per_node']) == ('local', 1, 3) # here, whatever the file says
    assert main(['run', 'cfg.yaml', '--slurm', '--nproc', '3', '--dry-run']) == 0 and '# would train through Slurm' in capsys.readouterr().out
    (repo/'full.yaml').write_text(out); assert load_config(repo/'full.yaml').train.epochs == 2 # the output is a config itself


# ---- the repository

def untracked(repo): (repo/'new.py').write_text('x')
def modified(repo): (repo/'cfg.yaml').write_text((repo/'cfg.yaml').read_text() + '\n# more\n')
def staged(repo): modified(repo); git(repo, 'add', '.')
def mode(repo): (repo/'cfg.yaml').chmod(0o755)
def ignored(repo): (repo/'x.log').write_text('x')
def touched(repo): os.utime(repo/'cfg.yaml', (1, 1))
def nothing(repo): pass


@pytest.mark.parametrize('change, name', [(untracked, 'new.py'), (modified, 'cfg.yaml'), (staged, 'cfg.yaml'), (mode, 'cfg.yaml'), (ignored, None), (touched, None), (nothing, None)], ids=lambda v: getattr(v, '__name__', ''))
def test_A05_states_of_the_repository(repo, capsys, change, name):
    change(repo); before = files(repo, repo.parent)
    if name is None: assert main(['run', 'cfg.yaml', '--dry-run']) == 0
    else:
        for more in ((), ('--no-logging',)):
            err = fails(capsys, 3, 'run', 'cfg.yaml', *more); assert name in err and '--dirty=snapshot' in err and '--allow-dirty-repo' in err
    assert files(repo, repo.parent) == before


def test_A05_configs_outside(repo, capsys, tmp_path):
    (tmp_path/'loose.yaml').write_text((repo/'cfg.yaml').read_text()); assert 'not in a git repository' in fails(capsys, 3, 'run', tmp_path/'loose.yaml')
    assert 'not in a git repository' in fails(capsys, 3, 'run', tmp_path/'loose.yaml', '--dirty=snapshot')
    (repo/'mine.log').write_text('x'); (repo/'.gitignore').write_text('/runs/\n*.log\nlocal.yaml\n'); git(repo, 'commit', '-qam', 'x'); (repo/'local.yaml').write_text((repo/'cfg.yaml').read_text())
    assert 'ignored by git' in fails(capsys, 3, 'run', 'local.yaml')
    assert not (repo/'runs').exists() and not (tmp_path/'runs').exists()


def test_A06_allow_dirty_repo_keeps_nothing(repo, capsys, monkeypatch):
    untracked(repo); before = files(repo, repo.parent)
    for answer in ('n\n', '\n', ''):
        monkeypatch.setattr('sys.stdin', io.StringIO(answer)); capsys.readouterr()
        assert main(['run', 'cfg.yaml', '--allow-dirty-repo']) == 3
        err = capsys.readouterr().err; assert '[y/N]' in err and 'not started' in err
    monkeypatch.setattr('sys.stdin', io.StringIO('yes\n')); assert main(['run', 'cfg.yaml', '--allow-dirty-repo', 'train.epochs=1']) == 0
    assert main(['run', 'cfg.yaml', '--allow-dirty-repo', '--y', 'train.epochs=1']) == 0
    git(repo, 'add', '.'); git(repo, 'commit', '-qm', 'x'); assert main(['run', 'cfg.yaml', '--no-logging', 'train.epochs=1']) == 0
    left = [p.name for p in (repo.parent/'tmp').iterdir() if not p.name.startswith('torchinductor')]    # torch's own folder
    assert {k: v for k, v in files(repo, repo.parent).items() if k in before or 'torchinductor' not in k} == before and not left and not (repo/'runs').exists()


def test_snapshot(repo, capsys):
    untracked(repo); run = train(capsys, 'cfg.yaml', '--dirty=snapshot')
    assert run.manifest['reproducible'] is False and b'new.py' in (run.dir/'git.patch').read_bytes() and run.manifest['git']['dirty'] == ['?? new.py'] and run.manifest['flags']['dirty'] == 'snapshot'


# ---- a run, and what one does with it

def test_run_from_start_to_end(repo, capsys, monkeypatch):
    run = train(capsys, 'cfg.yaml', 'optim.lr=5e-3', '--cpu', '--mini', '48', '--find-replace', 'wavy', 'curved', '--modify', 'train.batch_size', '8', '--delete', 'select', '--', 'seed', '7')
    cfg, manifest = run.config, run.manifest
    assert (cfg.optim.lr, cfg.data.mini, cfg.description, cfg.train.batch_size, cfg.seed) == (5e-3, 48, 'a curved line', 8, 7) and run.dir.parent == repo/'runs'/'supervised'
    assert run.status['state'] == 'finished' and (run.dir/'DONE').exists() and (run.dir/'config.source.yaml').read_bytes() == (repo/'cfg.yaml').read_bytes()
    assert manifest['flags'] == dict(cpu=True, mini='48', find_replace=['wavy', 'curved'], modify=['train.batch_size', '8'], delete=['select']) and manifest['edits']['changes'] == ['optim.lr=5e-3'] and manifest['edits']['pairs'] == ['seed', '7']
    assert manifest['git']['commit'] == git(repo, 'rev-parse', 'HEAD').strip() and manifest['reproducible'] is True and manifest['device'] == 'cpu' and str(repo) in manifest['import_path']
    assert git(repo, 'status', '--porcelain') == ''

    before = files(repo, repo.parent) # A18
    assert main(['resume', run.id]) == 0 and 'already finished' in capsys.readouterr().out and files(repo, repo.parent) == before

    assert main(['requeue', str(run.dir)]) == 0 and 'already finished' in capsys.readouterr().out and 'nothing to stop' in fails(capsys, 1, 'stop', run.id) and files(repo, repo.parent) == before

    other = train(capsys, 'cfg.yaml', '--cpu')
    assert main(['ls']) == 0; out = capsys.readouterr().out; assert other.id in out and run.id in out and 'finished' in out and 'a curved line' in out
    assert main(['ls', '--json', '--task', 'supervised', '--state', 'finished']) == 0; rows = json.loads(capsys.readouterr().out); assert {r['id']: r['step'] for r in rows} == {other.id: 8, run.id: 12} and rows[1]['best'] > 0
    assert main(['ls', '--state', 'failed']) == 0 and 'no such runs' in capsys.readouterr().out and main(['ls', '--out', 'none']) == 0 and 'no runs in none' in capsys.readouterr().out
    assert 'no state' in fails(capsys, 1, 'ls', '--state', 'finishd')
    assert main(['show', run.id]) == 0 and run.id in capsys.readouterr().out and main(['show', '--json', run.id]) == 0
    shown = json.loads(capsys.readouterr().out); assert shown['manifest']['run_id'] == run.id and shown['config']['seed'] == 7 and shown['metrics']['test_loss']['last'] > 0
    assert main(['compare', run.id, other.id]) == 0; out = capsys.readouterr().out; assert 'test_loss' in out and re.search(r'seed +7 +0', out)
    assert main(['compare', '--json', run.id, other.id]) == 0; both = json.loads(capsys.readouterr().out); assert both['config']['seed'] == {run.id: 7, other.id: 0} and both['metrics'][1]['test_loss last'] > 0
    assert 'two runs' in fails(capsys, 2, 'compare', run.id) and 'no run nothing' in fails(capsys, 1, 'show', 'nothing') and 'no run nothing' in fails(capsys, 1, 'resume', 'nothing')

    monkeypatch.setattr('sys.stdin', io.StringIO('n\n')); before = files(repo)
    assert main(['rm', run.id]) == 1 and 'nothing removed' in capsys.readouterr().err and files(repo) == before
    assert main(['rm', '--y', run.id]) == 0 and not run.dir.exists() and [r.id for r in runs(repo)] == [other.id]


def test_A30_two_runs_in_one_second(repo, capsys, monkeypatch):
    monkeypatch.setattr(time, 'gmtime', lambda *a: time.struct_time((2026, 1, 2, 3, 4, 5, 0, 2, 0)))
    one, two = (train(capsys, 'cfg.yaml', 'train.epochs=0') for _ in range(2))
    assert one.dir != two.dir and one.id[:15] == two.id[:15] == '20260102-030405'


def test_recipe(repo, capsys):
    run = train(capsys, 'supervised_waves', f'root={repo.parent/"data"}', 'epochs=1', 'n=32', 'optim.lr=3e-3')
    assert run.config.train.epochs == 1 and run.config.optim.lr == 3e-3 and run.config.data.train.params['n'] == 32 and run.status['state'] == 'finished' and not (run.dir/'config.source.yaml').exists()


def test_folder_in_use(repo, capsys, monkeypatch):
    run = train(capsys, 'cfg.yaml', 'train.epochs=1'); (run.dir/'DONE').unlink()
    ready, pid = run.dir.parent.parent/'ready', os.fork()
    if pid == 0:
        try: Run(run.dir).start(); ready.touch(); time.sleep(60)
        finally: os._exit(0)
    try:
        while not ready.exists(): time.sleep(.02)
        before = {k: v for k, v in files(run.dir).items() if not k.endswith('status.json')}
        for args in (('resume', run.id), ('rm', '--y', run.id)): assert f'in use by process {pid}' in fails(capsys, 1, *args)
        assert {k: v for k, v in files(run.dir).items() if not k.endswith('status.json')} == before
    finally: os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)


def test_A27_dead_runs_are_listed(repo, capsys):
    run = train(capsys, 'cfg.yaml', 'train.epochs=1'); status = json.loads((run.dir/'status.json').read_text())
    (run.dir/'DONE').unlink(); (run.dir/'status.json').write_text(json.dumps(status | dict(state='running', heartbeat=time.time() - 121)))
    assert main(['ls', '--state', 'dead']) == 0 and 'dead?' in capsys.readouterr().out
    assert main(['resume', run.id]) == 0 and run.status['state'] == 'finished'


# ---- interrupted, damaged, changed

TROUBLE = ('data.train.name=trouble:Trouble', '+data.train.params.at=100')

def digest(run): return run.digest('last')


def test_A16_truncated_checkpoint_and_A05_changed_commit(repo, capsys):
    whole = train(capsys, 'cfg.yaml', *TROUBLE); sys.modules['trouble'].Trouble.seen = 0
    run = train(capsys, 'cfg.yaml', *TROUBLE, '+data.train.params.what=stop', code=75)
    assert run.status['state'] == 'preempted' and 0 < run.status['step'] < 8
    last = run.dir/'ckpt'/'last.pt'; last.unlink(); last.write_bytes((run.dir/'ckpt'/'prev.pt').read_bytes()[:500])
    (repo/'later.py').write_text('x = 1\n'); git(repo, 'add', '.'); git(repo, 'commit', '-qm', 'later')
    before = {k: v for k, v in files(run.dir).items()}
    err = fails(capsys, 1, 'resume', run.id); assert git(repo, 'rev-parse', 'HEAD')[:7] in err and run.manifest['git']['commit'][:7] in err and '--force' in err
    assert {k: v for k, v in files(run.dir).items() if not k.endswith('/lock')} == {k: v for k, v in before.items() if not k.endswith('/lock')}
    with pytest.warns(UserWarning, match='using prev.pt instead'): assert main(['resume', run.id, '--force']) == 0
    assert run.status['state'] == 'finished' and digest(run) == digest(whole) and run.manifest['attempts'][-1]['changed']['commit']
    steps = [(r['step'], r['split'], k) for r in map(json.loads, (run.dir/'metrics.jsonl').read_text().splitlines()) for k in r if k not in ('t', 'step', 'epoch', 'split')]
    assert len(steps) == len(set(steps))


def full_disk(folder):
    "A file system of 4 MB; None where that is not allowed."
    folder.mkdir()
    if os.geteuid() or subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', str(folder)], capture_output=True).returncode: return None
    return folder


def test_A34_full_disk_while_saving(repo, capsys, tmp_path):
    disk = full_disk(tmp_path/'disk')
    if not disk: pytest.skip('mounting a small disk needs root')
    try:
        words = ('cfg.yaml', *TROUBLE, '--out', disk)
        whole = train(capsys, *words, f'+data.train.params.where={disk}'); want = digest(whole); shutil.rmtree(whole.dir); sys.modules['trouble'].Trouble.seen = 0
        capsys.readouterr(); code = main(['run', *map(str, words), f'+data.train.params.where={disk}', '+data.train.params.what=fill']); out, err = capsys.readouterr()
        assert code == 1 and 'Traceback' not in err and re.search('vislearn: .*could not write the checkpoint .*free some space', err), err
        run = Run(Path(out.splitlines()[0])); state = run.load(); assert 0 < state['step'] < 8 and not list(run.dir.rglob('.*.tmp-*'))
        (disk/'filler').unlink(); assert main(['resume', str(run.dir)]) == 0 and digest(Run(run.dir)) == want
    finally: subprocess.run(['umount', '-l', str(disk)], check=True)


# ---- real processes

@pytest.fixture(scope='module')
def package(tmp_path_factory):
    "The package as it is, committed in a repository of its own: clean, whatever the state of the one it comes from."
    top = tmp_path_factory.mktemp('package'); shutil.copytree(Path(vislearn.__file__).parent, top/'vislearn', ignore=shutil.ignore_patterns('__pycache__'))
    (top/'.gitignore').write_text('__pycache__/\n'); git(top, 'init', '-q'); git(top, 'add', '.'); git(top, 'commit', '-q', '-m', 'as it is')
    return top


def command(package, cwd, *args): return dict(args=[sys.executable, '-m', 'vislearn', *map(str, args)], cwd=cwd, env=os.environ | dict(PYTHONPATH=str(package)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
def shell(package, cwd, *args): done = subprocess.run(**command(package, cwd, *args)); return done.returncode, done.stdout, done.stderr


def test_real_processes(package, tmp_path, capsys, monkeypatch):
    "Run, stop from another terminal, resume: the same bits as without the stop."
    repo = make_repo(tmp_path/'mine', tmp_path/'data')
    words = ('cfg.yaml', *TROUBLE, f'+data.train.params.where={tmp_path}')
    slow = subprocess.Popen(**command(package, repo, 'run', *words, '+data.train.params.what=wait'))
    folder = repo/slow.stdout.readline().strip(); assert (folder/'manifest.json').exists(), slow.stderr.read()
    deadline = time.time() + 100
    while not (tmp_path/'waited').exists() and slow.poll() is None and time.time() < deadline: time.sleep(.05)
    code, out, err = shell(package, repo, 'stop', folder.name); assert code == 0, err
    _, err = slow.communicate(timeout=60); assert slow.returncode == 75 and 'Traceback' not in err and 'saved at step' in err, err
    run = Run(folder); assert run.status['state'] == 'preempted' and 0 < run.status['step'] < 8
    code, out, err = shell(package, repo, 'resume', run.id); assert code == 0, err
    manifest = run.manifest; assert run.status['state'] == 'finished' and len(manifest['attempts']) == 2 and manifest['package_git']['root'] == str(package) and manifest['reproducible'] is True
    monkeypatch.chdir(repo); set_package_git(monkeypatch); whole = train(capsys, *words)   # the same here, at one go
    assert whole.digest('last') == run.digest('last')


def test_A05_the_package_itself(package, tmp_path):
    repo = make_repo(tmp_path/'mine', tmp_path/'data'); (package/'vislearn'/'more.py').write_text('x = 1\n')
    try:
        code, out, err = shell(package, repo, 'run', 'cfg.yaml')
        assert code == 3 and out == '' and err.count('\n') == 1 and f'{package} has changes that are not committed (vislearn/more.py)' in err and not (repo/'runs').exists()
    finally: (package/'vislearn'/'more.py').unlink()
