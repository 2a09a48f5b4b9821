"Sweeps: what is expanded, what is refused, and runs in processes of their own that fail, are stopped and killed, and go on."
import contextlib, io, itertools, json, os, re, signal, subprocess, sys, threading, time
from pathlib import Path
import numpy as np, psutil, pytest
from hypothesis import given, settings, strategies as st
from helpers import git, set_package_git
from vislearn.cli.main import main
from vislearn.core import ConfigError
from vislearn.runs import sweep as sweep_module
from vislearn.runs.combos import axis_keys, short_names, sweep_values
from vislearn.runs.config import config_hash
from vislearn.runs.git import DirtyRepoError
from vislearn.runs.local import work
from vislearn.runs.record import Run, RunError, all_runs
from vislearn.runs.sweep import Sweep, SweepConfig, expand, load_sweep

CONFIG = '''task: supervised
description: a wavy line
data: {root: DATA, train: {name: waves, params: {n: 32}}, test: {name: waves, params: {n: 32}}, num_workers: 0}
model: {name: 'area:Area', params: {area_object_weight: 1.0}}
loss: {name: F.mse_loss}
train: {epochs: 1, batch_size: 16}
checkpoint: {every_steps: 1}
log: {tensorboard: false}
'''
OWN_MODEL = '''import torch
from torch import nn

class Area(nn.Module):
    "Remembers the weights it began with; a negative width is an error that only the process of the run meets."
    def __init__(self, area_object_weight, width=4):
        super().__init__(); self.layers = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)); self.scale = area_object_weight
        self.register_buffer('initial', torch.cat([p.detach().flatten() for p in self.parameters()]))
    def forward(self, x): return self.layers(x)*(1 + self.scale)
'''
SWEEP = '''base: cfg.yaml
name: space
sets:
- seed: [seed, {range: [0, 5]}]
  aow: [model.params.area_object_weight, [0.0, 10.0], identity]
'''
NAMES = [f'space_seed{s}_aow{w}' for s in range(5) for w in ('0.0', '10.0')]

@pytest.fixture(scope='module')
def cache(tmp_path_factory): return str(tmp_path_factory.mktemp('bytecode'))

@pytest.fixture
def place(tmp_path, monkeypatch, cache):
    "A user's folder, in no repository; vislearn as if installed from a wheel. Compiled modules are shared by the processes of these tests."
    set_package_git(monkeypatch); (tmp_path/'data').mkdir()
    (tmp_path/'cfg.yaml').write_text(CONFIG.replace('DATA', str(tmp_path/'data'))); (tmp_path/'area.py').write_text(OWN_MODEL); (tmp_path/'sweep.yaml').write_text(SWEEP)
    monkeypatch.chdir(tmp_path); monkeypatch.setattr(sys, 'path', [*sys.path]); monkeypatch.setenv('PYTHONPATH', str(Path(sweep_module.__file__).parents[2]))
    monkeypatch.delenv('PYTHONDONTWRITEBYTECODE', raising=False); monkeypatch.setenv('PYTHONPYCACHEPREFIX', cache); monkeypatch.setattr(sys, 'dont_write_bytecode', True)
    yield tmp_path
    sys.modules.pop('area', None)

def make(place, out='runs', **changes): return Sweep.create(SweepConfig(**(dict(base=place/'cfg.yaml', name='s', grid={'seed': [0, 1, 2]}) | changes)), place/out, policy='record')
def states(sweep): return [r.status['state'] for r in sweep.runs]
def quiet(line): pass

# ---- combinations

def test_A08_the_ten_names(place):
    tuples = [{'seed': ('seed', range(5), str), 'aow': ('model.params.area_object_weight', np.array([0., 10.]), lambda v: str(v))}] # SPACE-Time's form, as it is
    for cfg in (load_sweep(place/'sweep.yaml'), SweepConfig(base=place/'cfg.yaml', name='space', sets=tuples)):
        combos = expand(cfg)
        assert [c.label for c in combos]==NAMES==[c.config.label for c in combos] and [(c.config.seed, c.config.model.params['area_object_weight']) for c in combos]==list(itertools.product(range(5), (0., 10.)))
        assert all(type(v) in (int, float) for c in combos for v in c.combo.values()) and len({config_hash(c.config) for c in combos})==10

def test_A09_lr_formatter(place):
    cfg = SweepConfig(base=place/'cfg.yaml', name='x', sets=[dict(lr=('optim.lr', dict(logspace=[-5.5, -4.01, 4]), 'lr'))])
    assert [c.label for c in expand(cfg)]==['x_lr3.1e-06', 'x_lr9.9e-06', 'x_lr3.1e-05', 'x_lr9.7e-05']
    assert np.allclose([c.config.optim.lr for c in expand(cfg)], np.logspace(-5.5, -4.01, 4), rtol=1e-11, atol=0)

def nested(axes, chosen=()): # the slow way: one loop inside the other
    if not axes: return [chosen]
    return [row for value in axes[0][1] for row in nested(axes[1:], (*chosen, (axes[0][0], value)))]

AXES = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True), min_size=1, max_size=3)

@settings(max_examples=40, deadline=None)
@given(AXES)
def test_product_is_nested_loops(lists):
    base = dict(task='supervised', description='x', data=dict(root='/', train=dict(name='waves')), model=dict(name='mlp', params=dict(a=-1, b=-1, c=-1)), train=dict(epochs=1, batch_size=4))
    keys = [f'model.params.{k}' for k in 'abc'[:len(lists)]]; want = nested(list(zip(keys, lists)))
    for cfg in (SweepConfig(base=base, name='g', grid=dict(zip(keys, lists))), SweepConfig(base=base, name='g', sets=[{k[-1]: (k, v) for k, v in zip(keys, lists)}])):
        combos = expand(cfg)
        assert [tuple((k, c.config.model.params[k[-1]]) for k in keys) for c in combos]==want
        assert [c.label for c in combos]==['g' + ''.join(f'_{k[-1]}{v}' for k, v in row) for row in want]
    paired = [v[:min(map(len, lists))] for v in lists]
    assert [tuple(c.combo.values()) for c in expand(SweepConfig(base=base, name='g', zip=dict(zip(keys, paired))))]==list(zip(*paired))

@settings(max_examples=100, deadline=None)
@given(st.floats(-50, 50).map(lambda v: round(v, 3)), st.floats(-50, 50).map(lambda v: round(v, 3)), st.floats(.05, 9).map(lambda v: round(v, 3)), st.integers(1, 30))
def test_rules_against_numpy(first, last, step, count):
    want = np.array([first + i*step for i in range(10**4) if first + i*step < last - 1e-9*step])
    assert np.allclose(sweep_values(dict(range=[first, last, step])), want, atol=1e-9) and len(sweep_values(dict(range=[first, last, step])))==len(want)
    assert np.allclose(sweep_values(dict(linspace=[first, last, count])), np.linspace(first, last, count), atol=1e-9)

@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from(['learning_rate', 'lr', 'l', 'batch_size', 'beam_size', 'optim', 'params']), min_size=1, max_size=3).map('.'.join), unique=True, max_size=8))
def test_short_names_never_collide(keys):
    names = short_names(keys)
    assert set(names)==set(keys) and len(set(names.values()))==len(keys)
    for key in keys: # alone they have PVR's initials
        assert short_names([key])[key]==''.join(w[0] for w in key.split('.')[-1].split('_'))

def test_grid_fixed_zip_and_twins(place):
    cfg = SweepConfig(base=place/'cfg.yaml', name='p', grid={'seed': [0, 1], 'train.batch_size': 8}, zip={'train.epochs': [1, 2], 'optim.lr': [.1, .2]}, sets=[dict(w=('model.params.area_object_weight', [1., 2.])), dict(s=('seed', [0, 3]))])
    combos = expand(cfg, ['description=other'])
    assert [c.label for c in combos]==['p_w1.0', 'p_w2.0', 'p_s3', 'p_s0_e1_l0.1', 'p_s0_e2_l0.2', 'p_s1_e1_l0.1', 'p_s1_e2_l0.2'] and combos[0].twins==('p_s0',)
    assert {c.config.train.batch_size for c in combos}=={8} and {c.config.description for c in combos}=={'other'} and axis_keys(cfg)==dict(w='model.params.area_object_weight', s='seed', e='train.epochs', l='optim.lr')

@pytest.mark.parametrize('changes, message', [(dict(grid={'seed': []}), 'seed has an empty list of values'), (dict(sets=[dict(s=['seed', dict(range=[3, 3])])]), 'seed has an empty list of values'), (dict(zip={'seed': []}), 'seed has an empty list'),
    (dict(grid={'optim.lrr': [1.]}), "no key optim.lrr (did you mean 'lr'?)"), (dict(grid={'model.params.aow': [1]}), 'to add it write +model.params.aow=1'), (dict(grid={'seed': [0, -1]}), 'sweep s, s_s-1: RunConfig: seed'),
    (dict(grid={'seed': [0, '1']}), 'expected an integer'), (dict(grid={'task': ['supervised', 'supervise']}), "no task 'supervise'"), (dict(zip={'seed': [1, 2], 'optim.lr': [.1]}), 'equally long'), (dict(base='nowhere.yaml'), 'nowhere.yaml'),
    (dict(sets=[dict(lr=['optim.lr', [1000, 1400], 'k'])]), 'use a finer format'), (dict(sets=[dict(lr=['optim.lr', ['a'], 'k'])]), "format 'k' does not fit the value 'a'"), (dict(grid={'data.root': ['DATA', '/nowhere']}), 'data.root: /nowhere'),
    (dict(grid={'seed': dict(range=[0, 10**9])}), 'at most'), (dict(sets=[dict(s=['seed', [1]]), dict(s=['optim.lr', [.1]])]), "the short name 's' stands for two keys"), (dict(name='a/b'), 'begins every label')])
def test_refused_before_anything_is_made(place, changes, message):
    changes = json.loads(json.dumps(changes).replace('DATA', str(place/'data')))
    with pytest.raises(ConfigError) as e: make(place, **changes)
    assert message in str(e.value) and '\n' not in str(e.value) and not (place/'runs').exists()

# ---- folders

def test_A08_ten_folders_and_their_seeds(place):
    sweep = Sweep.create(place/'sweep.yaml', place/'runs', policy='record'); runs = sweep.runs
    assert len({r.dir for r in runs})==10==len(all_runs(place/'runs')) and [r.config.label for r in runs]==NAMES and (sweep.dir/'sweep.source.yaml').read_text()==SWEEP
    assert [r.manifest['sweep'] for r in runs]==[dict(id=sweep.id, index=i, combo=dict(seed=i//2, aow=(0., 10.)[i % 2])) for i in range(10)] and [r.manifest['seed'] for r in runs]==[i//2 for i in range(10)]
    for run in runs: assert work(run.dir, 'cpu')==0 # one after the other in this process: a run seeds itself
    initial = [r.load()['model']['initial'] for r in runs]
    for i, j in itertools.combinations(range(10), 2): assert bool((initial[i]==initial[j]).all())==(i//2==j//2)
    assert len({r.digest() for r in runs})==10

def test_interrupted_while_making_folders(place, monkeypatch):
    create = Run.create; left = iter([1, 1, 0])
    def breaks(*args, **options):
        if not next(left): raise KeyboardInterrupt
        return create(*args, **options)
    monkeypatch.setattr(Run, 'create', breaks)
    with pytest.raises(KeyboardInterrupt): make(place)
    monkeypatch.undo(); sweep = Sweep(next((place/'runs'/'sweeps').iterdir())); made = {p.name for p in all_runs(place/'runs')}
    assert len(made)==2 and 'missing' in repr(sweep) and list(sweep.table().state)==['missing']*3
    sweep._make_runs()
    assert len(all_runs(place/'runs'))==3 and made < {r.dir.name for r in sweep.runs} and [r.config.seed for r in sweep.runs]==[0, 1, 2]
    sweep.runs[1].delete(); sweep._make_runs(); assert [r.config.label for r in sweep.runs]==['s_s0', 's_s1', 's_s2'] and len(all_runs(place/'runs'))==3

def test_repository_policy(place, monkeypatch):
    cfg = SweepConfig(base=place/'cfg.yaml', name='s', grid={'seed': [0, 1]})
    with pytest.raises(DirtyRepoError, match='not in a git repository'): Sweep.create(cfg, place/'runs')
    git(place, 'init', '-q', '-b', 'main'); (place/'.gitignore').write_text('__pycache__/\n'); git(place, 'add', '.'); git(place, 'commit', '-q', '-m', 'first')
    with pytest.raises(DirtyRepoError, match='not ignored, so the first run would make it dirty'): Sweep.create(cfg, place/'runs')
    (place/'.gitignore').write_text('runs/\n'); (place/'cfg.yaml').open('a').write('seed: 5\n')
    with pytest.raises(DirtyRepoError, match='changes that are not committed'): Sweep.create(cfg, place/'runs')
    assert not (place/'runs').exists() and main(['sweep', str(place/'sweep.yaml')])==3 and not (place/'runs').exists()
    snapshot = Sweep.create(cfg, place/'runs', policy='snapshot')
    assert all('seed: 5' in (r.dir/'git.patch').read_text() and not r.manifest['reproducible'] for r in snapshot.runs)
    git(place, 'commit', '-q', '-a', '-m', 'second'); clean = Sweep.create(place/'sweep.yaml', place/'runs')
    assert all(r.manifest['reproducible'] and r.manifest['git']['dirty']==[] for r in clean.runs) and len(clean.runs)==10
    git(place, 'commit', '-q', '--allow-empty', '-m', 'third')
    with pytest.raises(RunError, match='resume with --force'): clean.resume(say=quiet)
    with pytest.raises(RunError, match='resume with --force'): snapshot.resume(say=quiet)

def test_find_sweep(place):
    one, two = make(place), make(place)
    assert Sweep(one.id, place/'runs').dir==one.dir and Sweep(one.dir/'sweep.json').id==one.id and Sweep(two.dir).root==(place/'runs').resolve()
    with pytest.raises(RunError, match='is the beginning of 2 sweeps'): Sweep('2', place/'runs')
    with pytest.raises(RunError, match='no sweep zzz.*the newest are 2'): Sweep('zzz', place/'runs')
    (place/'runs').rename(place/'moved'); assert states(Sweep(one.id, place/'moved'))==['created']*3

# ---- processes: a stand-in that starts in no time, locks and reports like a worker

STAND_IN = '''import fcntl, json, sys, time
folder, seconds, end = sys.argv[1], float(sys.argv[2]), sys.argv[3]
lock = open(folder + '/lock', 'a+')
try: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError: sys.exit('in use')
def say(**fields):
    status = json.load(open(folder + '/status.json')) | fields | dict(heartbeat=time.time()); open(folder + '/status.json', 'w').write(json.dumps(status))
say(state='running'); open(folder + '/spans', 'a').write(f'{time.time()} '); time.sleep(seconds); open(folder + '/spans', 'a').write(f'{time.time()}\\n')
say(state=end, error='it broke' if end=='failed' else None); sys.exit(end!='finished')
'''
def stand_in(seconds, ends=lambda run: 'finished'): return lambda run: subprocess.Popen([sys.executable, '-S', '-c', STAND_IN, str(run.dir), str(seconds), ends(run)], start_new_session=True)
def spans(sweep): return [[tuple(map(float, line.split())) for line in (r.dir/'spans').read_text().splitlines()] if (r.dir/'spans').exists() else [] for r in sweep.runs]

@pytest.mark.parametrize('parallel', [1, 3])
def test_at_most_so_many_at_once(place, parallel):
    sweep = make(place, grid={'seed': list(range(7))}); ended = []
    sweep_module._train_all(sweep.runs, parallel, stand_in(.15), lambda run, seconds: ended.append(run.config.seed))
    times = [s for [s] in spans(sweep)]; most = max(sum(a<=t<b for a, b in times) for t, _ in times)
    assert states(sweep)==['finished']*7 and sorted(ended)==list(range(7)) and most==parallel

def test_one_that_fails_does_not_stop_the_others(place, monkeypatch):
    sweep, lines = make(place, grid={'seed': [0, 1, 2, 3]}), []
    monkeypatch.setattr(sweep_module, '_start', lambda run, **options: stand_in(.02, lambda run: {1: 'failed', 2: 'preempted'}.get(run.config.seed, 'finished'))(run))
    assert sweep.run(2, say=lines.append)==1 and states(sweep)==['finished', 'failed', 'preempted', 'finished'] and any('s_s1: failed after' in line and line.endswith('it broke') for line in lines)
    monkeypatch.setattr(sweep_module, '_start', lambda run, **options: stand_in(.02, lambda run: 'preempted' if run.config.seed==2 else 'finished')(run))
    assert sweep.resume(2, say=quiet)==75 and [len(s) for s in spans(sweep)]==[1, 2, 2, 1]
    monkeypatch.setattr(sweep_module, '_start', lambda run, **options: stand_in(.02)(run))
    assert sweep.resume(2, say=quiet)==0 and sweep.resume(say=lines.append)==0 and 'all 4 runs are finished already' in lines[-1] and [len(s) for s in spans(sweep)]==[1, 2, 3, 1]

def test_a_run_in_use_is_waited_for(place):
    sweep = make(place); other = stand_in(.6)(sweep.runs[1]); dying = stand_in(.4, lambda run: 'failed')(sweep.runs[2]); started = []
    while not all(sweep_module.in_use(r) for r in sweep.runs[1:]): time.sleep(.01)
    def start(run): started.append(run.config.seed); return stand_in(.02)(run)
    sweep_module._train_all(sweep.runs, 3, start, lambda run, seconds: None)
    assert states(sweep)==['finished']*3 and started==[0, 2] and other.wait()==0 and dying.wait()==1 # the dead one is started again, the living one is not

def test_a_lost_race_is_no_failure(place): # somebody else locks the folder after it was found free
    sweep = make(place, grid={'seed': [0]}); run = sweep.runs[0]; winners = []
    def start(run): winners.append(stand_in(.5)(run)); wait_for(lambda: sweep_module.in_use(run)); return stand_in(.02)(run)
    ended = []; sweep_module._train_all([run], 1, start, lambda run, seconds: ended.append(run.status['state']))
    assert ended==['finished'] and winners[0].wait()==0 and len(spans(sweep)[0])==1

def wait_for(what, seconds=60):
    until = time.time() + seconds
    while not what():
        assert time.time()<until, 'waited too long'
        time.sleep(.02)

def test_interrupt_stops_children(place):
    sweep, going, before = make(place, grid={'seed': list(range(4))}), [], signal.getsignal(signal.SIGTERM)
    def start(run): going.append(stand_in(60)(run)); return going[-1]
    threading.Timer(.5, lambda: os.kill(os.getpid(), signal.SIGTERM)).start() # as a batch system does
    with pytest.raises(KeyboardInterrupt, match='SIGTERM'): sweep_module._train_all(sweep.runs, 2, start, quiet)
    assert len(going)==2 and all(p.poll() is not None for p in going) and signal.getsignal(signal.SIGTERM)==before

# ---- real processes

def command(*words): return subprocess.Popen([sys.executable, '-m', 'vislearn', *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
def workers(sweep): return [p.info['pid'] for p in psutil.process_iter(['pid', 'cmdline']) if 'vislearn.worker' in (p.info['cmdline'] or []) and any(str(sweep.root) in w for w in p.info['cmdline'])]

def test_killed_midway_and_resumed(place):
    "SIGKILL of the sweep while two runs train: its processes live on, `resume` waits for them and starts only the third, which fails."
    sweep = make(place, grid={'seed': [0, 1], '+data.common.delay_s': .03}, sets=[dict(w=('+model.params.width', [-1]))])
    first = command('sweep', 'resume', sweep.dir, '--parallel', 3, '--cpu')
    wait_for(lambda: [r.status['state'] for r in sweep.runs if 'width' not in r.config.model.params]==['running']*2); first.kill(); first.wait()
    assert len(workers(sweep))>=2
    second = command('sweep', 'resume', sweep.dir, '--parallel', 3, '--cpu'); said = second.communicate(timeout=100)[0]
    assert second.returncode==1 and sorted(states(sweep))==['failed', 'finished', 'finished'], said
    assert [len(r.manifest['attempts']) for r in sweep.runs if r.status['state']=='finished']==[1, 1] and not workers(sweep)
    assert re.search(r's_w-1: failed after [\d.]+ s: .*negative dimension', said), said
    table = sweep.table(); assert table.best_test_loss.notna().sum()==2 and list(table.s)==[0, 0, 1]

# ---- the command line

def run_main(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = main(['sweep', *map(str, words)])
    return code, out.getvalue(), err.getvalue()

@pytest.fixture
def repo(place):
    (place/'.gitignore').write_text('runs/\n__pycache__/\n'); git(place, 'init', '-q', '-b', 'main'); git(place, 'add', '.'); git(place, 'commit', '-q', '-m', 'first')
    return place

def test_dry_run_creates_nothing(repo):
    before = sorted(repo.rglob('*'))
    code, out, _ = run_main('sweep.yaml', '--dry-run', 'train.epochs=3', '--parallel', 2); lines = out.splitlines()
    assert code==0 and [line.split()[1] for line in lines[1:11]]==NAMES and lines[-1]=='10 runs of supervised; nothing was created'
    code, out, _ = run_main('sweep.yaml', 'seed=1', '--dry-run', '--json'); assert code==0 and [r['label'] for r in json.loads(out)]==NAMES and json.loads(out)[3]['changes']==['seed=1', 'model.params.area_object_weight=10.0']
    (repo/'new.txt').write_text('x'); code, out, err = run_main('sweep.yaml', '--dry-run'); assert code==3 and 'would refuse' in err and 'new.txt' in err
    (repo/'new.txt').unlink(); assert [p for p in sorted(repo.rglob('*')) if '.git' not in p.parts]==[p for p in before if '.git' not in p.parts]

@pytest.mark.parametrize('words, code, message', [(['sweep.yaml', 'train.epoch=3'], 2, "did you mean 'epochs'"), ([], 2, 'sweep what?'), (['nope.yaml'], 2, 'nope.yaml: no such config file'), (['cfg.yaml'], 2, 'unknown key'), (['resume', 'zzz'], 1, 'no sweep zzz'),
    (['show', 'zzz'], 1, 'no sweep zzz'), (['sweep.yaml', '--parallel', '0'], 2, 'parallel: expected at least 1')])
def test_mistakes_are_one_line(repo, words, code, message):
    got, _, err = run_main(*words); assert got==code and message in err and err.count('\n')==1 and not (repo/'runs').exists()

def test_sweep_debug_resume_show(repo, monkeypatch):
    monkeypatch.setattr(sweep_module, '_start', lambda run, device, threads: stand_in(.01)(run))
    code, out, _ = run_main('sweep.yaml', 'description=mine', '--debug', '--cpu'); sweep = Sweep(out.splitlines()[0])
    assert code==0 and states(sweep)==['finished'] + ['created']*9 and sweep.dir.parent==Path('runs/sweeps')
    manifest = sweep.runs[3].manifest
    assert manifest['flags']==dict(parallel=1, debug=True, cpu=True) and manifest['edits']==dict(changes=['description=mine']) and manifest['device']=='cpu' and manifest['description']=='mine' and manifest['import_path']==[str(repo)]
    assert run_main('resume', sweep.id, '--parallel', 3)[0]==0 and set(states(sweep))=={'finished'}
    code, out, _ = run_main('resume', sweep.id[:15]); assert code==0 and 'all 10 runs are finished already' in out
    code, out, _ = run_main('show', sweep.id, '--json'); rows = json.loads(out)
    assert [r['label'] for r in rows]==NAMES and [(r['seed'], r['aow']) for r in rows]==list(itertools.product(range(5), (0., 10.))) and {r['state'] for r in rows}=={'finished'}
    code, out, _ = run_main('show', sweep.id); assert code==0 and len(out.splitlines())==11 and out.split()[:3]==['label', 'seed', 'aow']

def test_python_file_as_it_was(repo): # a list of sets with functions, as SPACE-Time's users have it
    (repo/'sweep.py').write_text("from vislearn.runs.sweep import SweepConfig\nimport numpy as np\nconfig = SweepConfig(base='cfg.yaml', name='space', sets=[{'seed': ('seed', range(2), lambda v: v), 'lr': ('optim.lr', np.logspace(-5.5, -4.01, 2), lambda v: f'{v:.0e}')}])\n")
    git(repo, 'add', '.'); git(repo, 'commit', '-q', '-m', 'second'); code, out, _ = run_main('sweep.py', '--dry-run')
    assert code==0 and [line.split()[1] for line in out.splitlines()[1:5]]==['space_seed0_lr3e-06', 'space_seed0_lr1e-04', 'space_seed1_lr3e-06', 'space_seed1_lr1e-04']

def test_slurm_gets_one_array(repo, monkeypatch):
    asked = []
    def submit(runs, launch=None, folder=None, device=None):
        asked.append([r.config.label for r in runs]); assert device=='cpu' and Path(folder).name=='slurm' and runs[0].config.launch.array_parallelism==3
        for i, run in enumerate(runs): run._set_status(job=f'7_{i}')
        return [f'7_{i}' for i in range(len(runs))]
    alive = {'7_0': True, '7_1': True}
    monkeypatch.setattr(sweep_module, 'submit_array', submit); monkeypatch.setattr(sweep_module, 'job_alive', lambda status: alive.get(status.get('job')))
    code, out, _ = run_main('sweep.yaml', '--slurm', '--cpu', 'launch.array_parallelism=3'); sweep = Sweep(out.splitlines()[0])
    assert code==0 and asked.pop()==NAMES and 'submitted 10: jobs 7_0 to 7_9' in out and sweep.runs[0].config.launch.kind=='slurm'
    sweep.runs[5]._set_status(state='finished'); code, out, _ = run_main('resume', sweep.id, '--cpu') # it remembers that it lives on a cluster
    assert code==0 and asked.pop()==[n for i, n in enumerate(NAMES) if i not in (0, 1, 5)] and '2 are in the queue already' in out
    code, out, _ = run_main('sweep.yaml', '--slurm', '--cpu', '--debug', 'launch.array_parallelism=3', '--out', 'runs/b'); assert code==0 and asked.pop()==NAMES[:1]

# ---- results

def test_table_and_plot_say_what_the_runs_say(place):
    sweep = make(place, grid={'optim.lr': [.001, .01, .1], 'seed': [0, 1, 2]}, sets=[dict(act=['+model.params.width', [2, 3]])]); rng = np.random.default_rng(0); curves = rng.uniform(.1, 1, (11, 4))
    for run, curve in zip(sweep.runs[:-1], curves): # the last one has not begun
        with run.running():
            for epoch, value in enumerate(curve): run.log(epoch + 1, epoch, 'train', loss=2*value, lr=.1, batch_loss=9.); run.log(epoch + 1, epoch, 'test', loss=value, accuracy=1 - value)
    frame = sweep.table(); twin = [c for c in sweep.spec['combinations'] if c['twins']]
    assert list(frame.columns)==['label', 'act', 'l', 's', 'state', 'best_test_loss', 'train_loss', 'test_loss', 'test_accuracy', 'seconds'] and not twin and list(frame.state)==['finished']*10 + ['created']
    assert np.allclose(frame.best_test_loss[:-1], curves[:10].min(1)) and np.allclose(frame.test_accuracy[:-1], 1 - curves[:10, -1]) and np.isnan(frame.best_test_loss.iloc[-1]) and frame.seconds[:-1].notna().all()
    assert list(frame.l)==[.001, .001] + [.001]*3 + [.01]*3 + [.1]*3 and list(frame.act[:2])==[2, 3] and frame.act[2:].isna().all()
    fig = sweep.plot(); drawn = [ax.get_xlabel() for ax in fig.axes]
    assert drawn==['model.params.width', 'optim.lr'] and fig.axes[1].get_xscale()=='log' # seeds are what is averaged over
    means = frame.dropna(subset=['best_test_loss']).query('act!=act').groupby('l').best_test_loss.mean()
    lines = [line for line in fig.axes[1].lines if line.get_linestyle()=='-' and len(line.get_xdata())==3]
    assert any(np.allclose(line.get_xdata(), means.index) and np.allclose(line.get_ydata(), means) for line in lines) and sum(len(line.get_xdata()) for line in fig.axes[1].lines if line.get_marker()=='.')==10
    assert sweep.plot('test_accuracy').axes[0].get_ylabel()=='test accuracy'
    with pytest.raises(ConfigError, match="no column 'test_los'.*did you mean 'test_loss'"): sweep.plot('test_los')
    with pytest.raises(RunError, match='no run has reported a number yet'): make(place).plot()

# ---- longer

@pytest.mark.slow
def test_A08_in_ten_processes(place):
    sweep = Sweep.create(place/'sweep.yaml', place/'runs', policy='record'); assert sweep.run(4, device='cpu', say=quiet)==0 and set(states(sweep))=={'finished'}
    again = Sweep.create(place/'sweep.yaml', place/'again', policy='record')
    for run in again.runs: assert work(run.dir, 'cpu')==0
    assert [r.digest() for r in sweep.runs]==[r.digest() for r in again.runs] and len({r.manifest['attempts'][0]['pid'] for r in sweep.runs})==10
    initial = [r.load()['model']['initial'].tolist() for r in sweep.runs]; assert all((initial[i]==initial[j])==(i//2==j//2) for i, j in itertools.combinations(range(10), 2))

@pytest.mark.slow
def test_ctrl_c_saves_and_goes_on_to_the_same_bits(place):
    sweep = make(place, grid={'seed': [0, 1, 2], '+data.common.delay_s': .05, 'train.epochs': 4}); going = command('sweep', 'resume', sweep.dir, '--parallel', 2, '--cpu')
    wait_for(lambda: sum(r.status['step']>0 for r in sweep.runs)==2); going.send_signal(signal.SIGINT); said = going.communicate(timeout=90)[0]
    assert going.returncode==130 and 'stopped; go on with: vislearn sweep resume' in said and states(sweep)==['preempted', 'preempted', 'created'] and not workers(sweep), said
    assert Sweep(sweep.dir).resume(2, device='cpu', say=quiet)==0 and [len(r.manifest['attempts']) for r in sweep.runs]==[2, 2, 1]
    whole = make(place, 'whole', grid={'seed': [0, 1, 2], '+data.common.delay_s': 0., 'train.epochs': 4})
    for run in whole.runs: assert work(run.dir, 'cpu')==0
    assert [r.digest() for r in whole.runs]==[r.digest() for r in sweep.runs]

@pytest.mark.slow
def test_several_processes_per_run(place):
    sweep = make(place, grid={'seed': [0, 1], 'launch.per_node': 2, 'launch.cpus_per_task': 1}); assert sweep.run(device='cpu', say=quiet)==0 and [r.manifest['world']['size'] for r in sweep.runs]==[2, 2]

@pytest.mark.slow
@pytest.mark.slurm
def test_A24_sweep_on_a_real_slurm(place, monkeypatch):
    "One array, two at a time; a cancelled one is submitted again by `resume`, the finished ones are not."
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]/'tools')); import slurm_cluster
    if why := slurm_cluster.missing(): pytest.skip(why)
    try: slurm_cluster.install()
    except slurm_cluster.ClusterError as e: pytest.skip(str(e))
    with slurm_cluster.cluster(place/'slurm') as env:
        for name, value in env.items(): monkeypatch.setenv(name, value)
        launch = {f'launch.{k}': v for k, v in dict(kind='slurm', cpus_per_task=1, time_min=5, signal_delay_s=2, array_parallelism=2).items()}
        sweep = make(place, grid={'seed': [0, 1, 2], '+data.common.delay_s': .02} | launch); lines = []
        assert sweep.run(device='cpu', say=lines.append)==0 and len({r.status['job'].split('_')[0] for r in sweep.runs})==1
        subprocess.run(['scancel', sweep.runs[2].status['job']], check=True)
        wait_for(lambda: states(sweep)[:2]==['finished']*2, 120); wait_for(lambda: not sweep_module.job_alive(sweep.runs[2].status))
        assert states(sweep)[2]!='finished' and sweep.resume(device='cpu', say=lines.append)==0 and lines[-1].startswith('submitted 1:')
        wait_for(lambda: states(sweep)==['finished']*3, 120); assert [len(r.manifest['attempts']) for r in sweep.runs[:2]]==[1, 1]
    local = make(place, 'local', grid={'seed': [0, 1, 2]})
    for run in local.runs: assert work(run.dir, 'cpu')==0
    assert [r.digest() for r in local.runs]==[r.digest() for r in sweep.runs]
