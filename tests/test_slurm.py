"Runs on a real Slurm inside this machine: submitted, moved aside, out of time, requeued, killed, and at the end the same bits."
import json, os, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import pytest
from vislearn.core import ConfigError
from vislearn.nets import state_digest
from vislearn.runs import slurm
from vislearn.runs.config import Checkpoint, Launch, Log, Part, resolve
from vislearn.runs.launch import requeue, resume, stop
from vislearn.runs.metrics import read_jsonl
from vislearn.runs.record import Run
from vislearn.runs.slurm import RunJob, SlurmError, cancel_job, job_alive, job_options, job_state, job_states, make_executor, requeue_job, submit, submit_array

TOP = Path(__file__).parents[1]
sys.path.insert(0, str(TOP/'tools'))
import slurm_cluster
PYTHONPATH = os.pathsep.join([str(TOP), str(TOP/'tests'), *filter(None, [os.environ.get('PYTHONPATH')])])

# ---- no Slurm needed

def program(folder, name, text): # a small shell script on the path
    folder.mkdir(exist_ok=True); (folder/name).write_text(f'#!/bin/sh\n{text}\n'); (folder/name).chmod(0o755)

@pytest.fixture
def fakes(tmp_path, monkeypatch): monkeypatch.setenv('PATH', f'{tmp_path/"bin"}:/usr/bin:/bin'); return tmp_path/'bin'

def test_missing_programs_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(SlurmError, match='sbatch is not on the path'): make_executor(tmp_path, Launch(kind='slurm'))
    with pytest.raises(SlurmError, match='scontrol is not on the path'): requeue_job('1')
    assert job_state('1') is None and job_alive(dict(job='1')) is None
    monkeypatch.setitem(sys.modules, 'submitit', None)
    with pytest.raises(SlurmError, match=r'pip install "vislearn\[slurm\]"'): make_executor(tmp_path, Launch(kind='slurm'))

def test_states_are_read(fakes):
    program(fakes, 'squeue', 'echo 7 RUNNING; echo 8_0 PENDING; echo 8_1 COMPLETED')
    assert job_states(['7', '8_0', '8_1', '9'])=={'7': 'RUNNING', '8_0': 'PENDING', '8_1': 'COMPLETED', '9': 'GONE'}
    assert [job_alive(dict(job=j)) for j in ('7', '8_0', '8_1', '9')]==[True, True, False, False] and job_alive({}) is None
    program(fakes, 'squeue', 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1'); assert job_states(['7'])=={'7': 'GONE'} and job_state('7') is None and job_alive(dict(job='7')) is False
    program(fakes, 'squeue', 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1'); assert job_states(['7'])=={'7': None} and job_alive(dict(job='7')) is None
    program(fakes, 'scontrol', 'echo "Invalid job id specified for job 9" >&2; exit 1')
    with pytest.raises(SlurmError, match='scontrol requeue 9: Invalid job id specified'): requeue_job('9')
    program(fakes, 'scancel', 'echo "scancel: error: Kill job error on job id 9: Access/permission denied" >&2; exit 1')
    with pytest.raises(SlurmError, match='scancel 9: scancel: error: Kill job error on job id 9: Access/permission denied'): cancel_job('9')

@pytest.mark.parametrize('seen, shown, want', [('USR2', '', True), ('TERM', 'JobState=RUNNING PreemptTime=2026-01-01T00:00:00', True), ('TERM', 'JobState=RUNNING PreemptTime=None', False),
    ('TERM', 'JobState=COMPLETING PreemptTime=None', False), ('', 'JobState=RUNNING PreemptTime=None', True), ('', 'JobState=COMPLETING', False), ('TERM USR2', 'JobState=RUNNING PreemptTime=None', True)])
def test_who_requeues(fakes, seen, shown, want):
    program(fakes, 'scontrol', f'echo "JobId=1 {shown}"')
    assert slurm._is_evicted({getattr(signal, f'SIG{s}') for s in seen.split()}, signal.SIGUSR2, '1', patience_s=.05)==want

def test_script_of_a_job(fakes, tmp_path):
    for name in ('sbatch', 'srun'): program(fakes, name, 'cp "$1" "$0.got"; echo Submitted batch job 12')
    launch = Launch(kind='slurm', nodes=2, per_node=4, cpus_per_task=3, mem_gb=1.5, time_min=90, partition='gpu', account='lab', qos='long', constraint='a100', signal='USR1', signal_delay_s=77, python='/opt/py thon/python', setup=['module load cuda', '#SBATCH --gpus-per-node=4'])
    assert make_executor(tmp_path/'log', launch, 'me').submit(RunJob(tmp_path)).job_id=='12'
    text = (fakes/'sbatch.got').read_text()
    for line in ('job-name=me', 'nodes=2', 'ntasks-per-node=4', 'cpus-per-task=3', 'mem=1536MB', 'time=90', 'partition=gpu', 'account=lab', 'qos=long', 'constraint=a100', 'signal=USR1@77', 'requeue'): assert f'#SBATCH --{line}\n' in text
    assert text.index('\n#SBATCH --gpus-per-node=4\n') < text.index('SRUN_CPUS_PER_TASK=3') < text.index('\nmodule load cuda\n') < text.index('\nsrun ') and 'trap "" USR1' in text and ' /opt/py thon/python -u -m' in text
    with pytest.raises(ConfigError, match='launch.signal'): job_options(Launch(signal='HELLO'))

def test_a_refusal_is_one_line(fakes, tmp_path):
    for name in ('sbatch', 'srun'): program(fakes, name, 'echo "sbatch: error: invalid partition specified: nowhere" >&2; echo "sbatch: error: Batch job submission failed: Invalid partition name specified" >&2; exit 1')
    run = make(tmp_path)
    with pytest.raises(SlurmError, match='^Slurm does not take the job: Batch job submission failed: Invalid partition name specified$'): submit(run)
    assert not run.status.get('job')

def test_cluster_script_refuses_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    assert slurm_cluster.main(['start', str(tmp_path/'c')])==1 and 'needs root' in (said := capsys.readouterr()).err and not said.out and not (tmp_path/'c').exists()
    monkeypatch.setattr(os, 'geteuid', lambda: 0); monkeypatch.setattr(slurm_cluster, 'installed', lambda: False); monkeypatch.setenv('PATH', '/nowhere')
    assert slurm_cluster.main(['start', str(tmp_path/'c')])==1 and 'no apt-get' in capsys.readouterr().err and not (tmp_path/'c').exists()

# ---- a real cluster

@pytest.fixture(scope='session')
def cluster(tmp_path_factory):
    if why := slurm_cluster.missing(): pytest.skip(why)
    try: slurm_cluster.install()
    except slurm_cluster.ClusterError as e:
        if os.environ.get('CI'): raise
        pytest.skip(str(e))
    with pytest.MonkeyPatch.context() as patch, slurm_cluster.cluster(folder := tmp_path_factory.mktemp('slurm')) as env:
        for name, value in (env | dict(OMP_NUM_THREADS='1', PYTHONPATH=PYTHONPATH)).items(): patch.setenv(name, value)
        yield folder

def make(folder, delay_s=.004, epochs=3, launch={}, **changes): # a run of 16 steps per epoch and process
    cfg = resolve('vislearn.supervised:supervised_waves')(folder, n=256, epochs=epochs, delay_s=delay_s)
    launch = Launch(**dict(dict(kind='slurm', cpus_per_task=1, time_min=5, signal_delay_s=2), **launch))
    return Run.create(cfg.replace(log=Log(tensorboard=False, every_steps=1), model=Part(name='slurm_model:Telling'), launch=launch, **changes), out=folder/'runs', policy='record')

def steps(run): # steps that metrics.jsonl knows of
    return max([r['step'] for r in read_jsonl(run.dir/'metrics.jsonl')], default=0) if (run.dir/'metrics.jsonl').exists() else 0

def words(run): return ''.join(f'\n--- {f.name}\n{f.read_text()}' for f in sorted((run.dir/'log').glob('*')) if f.suffix in ('.out', '.log'))

def until(test, run, seconds=150): # wait for something, and say what the job said if it does not come
    end, ask = time.time() + seconds, time.time() + 5
    while not test():
        over = run.status['state']=='failed' or time.time()>end
        if time.time()>ask: ask += 2; over = over or job_alive(run.status) is False and not test()
        if over: pytest.fail(f'{run.status} job {job_state(run.status["job"])}{words(run)}')
        time.sleep(.05)

def finished(run): until(lambda: run.status['state']=='finished', run); return run
def digest(run): return state_digest(run.load('last')['model'])
def resumed(run): return [a['resumed_step'] for a in run.manifest['attempts']]
def one_value_each(run):
    seen = [(r['step'], r['split'], name) for r in read_jsonl(run.dir/'metrics.jsonl') for name in r.keys() - {'t', 'step', 'split', 'epoch'}]
    return len(seen)==len(set(seen))

class Straight: # digests of runs that nobody disturbed, by number of processes (torchrun) and epochs; they train while the cluster is busy
    def __init__(self, tmp_path_factory): self.folder, self.runs = tmp_path_factory.mktemp('straight'), {}
    def begin(self, world=1, epochs=3):
        if (world, epochs) in self.runs: return
        run = make(self.folder, delay_s=0, epochs=epochs); env = os.environ | dict(PYTHONPATH=PYTHONPATH, OMP_NUM_THREADS='1')
        how = [] if world==1 else ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={world}', '--max-restarts=3']
        self.runs[world, epochs] = run, subprocess.Popen([sys.executable, *how, '-m', 'vislearn.worker', str(run.dir), '--device', 'cpu'], env=env, stdout=open(run.dir/'straight.out', 'w'), stderr=subprocess.STDOUT)
    def __call__(self, world=1, epochs=3):
        self.begin(world, epochs); run, child = self.runs[world, epochs]
        assert child.wait(120)==0 and run.status['state']=='finished', (run.dir/'straight.out').read_text()
        return digest(run)
    def stop(self):
        for _, child in self.runs.values(): child.kill(); child.wait()

@pytest.fixture(scope='session')
def straight(tmp_path_factory):
    known = Straight(tmp_path_factory)
    try: yield known
    finally: known.stop()

@pytest.mark.slurm
def test_A24_warned_requeued_finished(cluster, tmp_path, straight):
    run = make(tmp_path, epochs=2, delay_s=.006)
    job = submit(run, device='cpu'); assert run.status['job']==job and job_alive(run.status)
    with pytest.raises(SlurmError, match=f'is job {job} already'): submit(run)
    until(lambda: steps(run)>3, run); subprocess.run(['scancel', job, '--signal', 'USR2'], check=True)
    straight.begin(epochs=2); until(lambda: run.status['state']=='preempted', run); saved = run.load('last')['step']; assert 3<saved<32
    finished(run); assert resumed(run)==[None, saved] and one_value_each(run) and (run.dir/'log'/f'{job}_0_log.out').exists()
    assert digest(run)==straight(epochs=2)

# ---- the long ones: everything that can happen to a job, at the same time on one cluster

def process_of(job, task): # pid of one task of a job, all nodes being this machine
    for proc in Path('/proc').glob('[0-9]*'):
        try: variables, words = (proc/'environ').read_text().split('\0'), (proc/'cmdline').read_text()
        except (OSError, UnicodeDecodeError): continue
        if f'SLURM_JOB_ID={job}' in variables and f'SLURM_PROCID={task}' in variables and 'submitit' in words: return int(proc.name)

def array_of_4(folder): return [make(folder, epochs=1, delay_s=.001, seed=i) for i in range(4)]

def training(run): until(lambda: steps(run)>5, run)
def warn(run): subprocess.run(['scancel', run.status['job'], '--signal', 'USR2'], check=True)
def job_over(run, seconds=30): # the seconds until Slurm says so
    start = time.time()
    while job_alive(run.status): time.sleep(.1); assert time.time() - start<seconds, words(run)
    return time.time() - start

def early(run, note): until(lambda: job_state(run.status['job'])=='RUNNING', run); time.sleep(.4); warn(run)

def limit(run, note): # the signal is due 20 s after the start; Slurm looks every 30 s
    set_limit = lambda minutes: subprocess.run(['scontrol', 'update', f'JobId={run.status["job"]}', f'TimeLimit={minutes}'], check=True)
    training(run); set_limit(2); until(lambda: run.status['state']=='preempted', run); set_limit(5)

def person(run, note): training(run); requeue_job(run.status['job'])

def killed(run, note):
    training(run); os.kill(run.status['pid'], signal.SIGKILL); note |= dict(seconds=job_over(run), job=job_state(run.status['job']), status=run.status)
    (run.dir/'status.json').write_text(json.dumps(run.status | dict(heartbeat=time.time() - 121)))
    listed = subprocess.run([sys.executable, '-m', 'vislearn', 'ls', '--out', str(run.dir.parents[1]), '--state', 'dead?', '--json'], capture_output=True, text=True, timeout=60); note['listed'] = [r['id'] for r in json.loads(listed.stdout)]
    assert requeue(run)==0

def peer(run, note): training(run); os.kill(process_of(run.status['job'], 1), signal.SIGKILL); job_over(run); note['status'] = run.status; assert requeue(run)==0
def stopped(run, note): training(run); note['state'] = stop(run); job_over(run); assert resume(run, slurm=True, device='cpu')==0
def once(run, note): training(run); warn(run); job_over(run); note['status'] = run.status; assert resume(run, slurm=True, device='cpu')==0

@pytest.fixture(scope='module')
def events(cluster, straight, tmp_path_factory): # runs and notes by name, after what happened to them
    folder, saves = tmp_path_factory.mktemp('events'), dict(checkpoint=Checkpoint(every_steps=3))
    runs = {what: make(folder, delay_s=.02, launch=launch, **more) for what, launch, more in [(limit, dict(signal_delay_s=100), dict(epochs=5)), (person, {}, {}), (killed, {}, saves), (stopped, {}, {}),
        (once, dict(max_requeue=0), {}), (peer, dict(nodes=2), saves)]} | {early: make(folder, epochs=1)}
    runs, acts, notes = {f.__name__: run for f, run in runs.items()}, {f.__name__: f for f in runs}, {f.__name__: {} for f in runs}
    runs['hello'] = make(folder, epochs=1, delay_s=0); array = array_of_4(folder)
    for run in runs.values(): submit(run, device='cpu')
    notes['array'] = submit_array(array, array[0].config.launch.replace(array_parallelism=2), device='cpu')
    with ThreadPoolExecutor(len(acts)) as pool:
        for done in [pool.submit(act, runs[name], notes[name]) for name, act in acts.items()]: done.result()
    for world, epochs in ((1, 1), (1, 3), (1, 5), (2, 3)): straight.begin(world, epochs)
    runs |= {f'array {i}': run for i, run in enumerate(array)}
    for run in runs.values(): finished(run)
    return runs, notes

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_hello(events):
    run = events[0]['hello']
    assert run.status['state']=='finished' and resumed(run)==[None] and job_state(run.status['job']) in ('COMPLETED', 'COMPLETING') and job_alive(run.status) in (False, True)

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_array_of_4(events, straight):
    runs, notes = events; array = [runs[f'array {i}'] for i in range(4)]; first = notes['array'][0].split('_')[0]
    assert notes['array']==[f'{first}_{i}' for i in range(4)]==[run.status['job'] for run in array]
    assert len({digest(run) for run in array})==4 and digest(array[0])==straight(epochs=1)
    starts = sorted(run.manifest['attempts'][0]['time'] for run in array); assert starts[2]>starts[0] # two at a time
    assert all('Job completed' in next((run.dir/'log').glob('slurm-*.out')).read_text() for run in array)

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_time_limit(events, straight):
    run = events[0]['limit']; assert len(resumed(run))==2 and resumed(run)[1]>5 and 'stopped by SIGUSR2' in words(run) and 'this job is timed-out' in words(run) and one_value_each(run) and digest(run)==straight(epochs=5)

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_requeued_by_a_person(events, straight): # only SIGTERM comes
    run = events[0]['person']; saved = resumed(run)[1]
    assert len(resumed(run))==2 and saved>5 and f'stopped by SIGTERM, saved at step {saved}' in words(run) and one_value_each(run) and digest(run)==straight()

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_killed_and_requeued(events, straight):
    run = events[0]['killed']; assert len(resumed(run))==2 and resumed(run)[1] % 3==0 and one_value_each(run) and digest(run)==straight()

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_one_process_of_two_killed(events, straight): # the other does not wait for it
    run = events[0]['peer']; assert events[1]['peer']['status']['state']=='failed' and len(resumed(run))==2 and resumed(run)[1]>0 and one_value_each(run) and digest(run)==straight(2)

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_stopped_and_resumed(events, straight): # vislearn stop, then resume --slurm: a new job
    run = events[0]['stopped']; assert events[1]['stopped']['state']=='preempted' and len(resumed(run))==2 and resumed(run)[1]>5 and digest(run)==straight()

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_too_many_time_limits(events, straight):
    run, status = events[0]['once'], events[1]['once']['status']
    assert status['state']=='preempted' and 'saved, but not requeued: Job not requeued because: timed-out too many times' in status['error'] and digest(run)==straight()

@pytest.mark.slurm
@pytest.mark.slow
def test_A24_warned_before_python_listens(events, straight): assert digest(events[0]['early'])==straight(epochs=1)

@pytest.mark.slurm
@pytest.mark.slow
def test_A27_a_killed_job_is_seen_dead(events):
    note = events[1]['killed'] # status.json cannot know, Slurm does; two minutes later everybody does
    assert note['seconds']<30 and note['job']=='FAILED' and note['status']['state']=='running' and note['listed']==[events[0]['killed'].id]

@pytest.mark.slurm
@pytest.mark.slow
def test_A27_nothing_blocks(cluster):
    pid = next(pid for pid, name in slurm_cluster.processes(cluster).items() if name=='slurmctld')
    os.kill(pid, signal.SIGSTOP); start = time.time()
    try: assert job_alive(dict(job='1')) is None
    finally: os.kill(pid, signal.SIGCONT)
    assert time.time() - start<15
    assert job_states(['999999'])=={'999999': 'GONE'}

def told(folder): return {int(f.stem[4:]): json.loads(text) for f in folder.glob('rank*.json') if (text := f.read_text())}

@pytest.mark.slurm
@pytest.mark.slow
def test_A25_two_nodes(cluster, tmp_path, straight):
    runs = {}
    for per_node in (1, 2):
        folder = tmp_path/str(per_node); folder.mkdir()
        runs[per_node] = make(folder, delay_s=0, launch=dict(nodes=2, per_node=per_node, setup=[f'export TELL_WHERE={folder}'])); submit(runs[per_node], device='cpu')
    for world in (2, 4): straight.begin(world)
    for per_node, run in runs.items():
        size = 2*per_node; finished(run); until(lambda: len(told(tmp_path/str(per_node)))==size, run); seen = told(tmp_path/str(per_node))
        assert sorted(seen)==list(range(size)) and {s['WORLD_SIZE'] for s in seen.values()}=={str(size)} and {s['OMP_NUM_THREADS'] for s in seen.values()}=={'1'}
        assert [seen[r]['SLURM_NODEID'] for r in range(size)]==sorted(['0', '1']*per_node) and [seen[r]['LOCAL_RANK'] for r in range(size)]==[str(r % per_node) for r in range(size)]
        assert {s['digest'] for s in seen.values()}=={digest(run)}=={straight(size)}, 'the weights differ between processes, or from torchrun'
        assert run.manifest['attempts'][0]['world']==size

@pytest.mark.slurm
@pytest.mark.slow
def test_A26_two_nodes_preempted_twice(cluster, tmp_path, straight): # A24: by a partition of higher priority
    run = make(tmp_path, epochs=6, delay_s=.012, launch=dict(nodes=2)); submit(run, device='cpu'); straight.begin(2, epochs=6); at = 0
    for _ in range(2):
        until(lambda: steps(run)>at + 3, run)
        subprocess.run(['srun', '-p', 'high', '-N2', '--ntasks-per-node=1', '--exclusive', 'sleep', '1'], check=True, capture_output=True, timeout=60)
        until(lambda: run.status['state']=='preempted' or len(resumed(run))>1, run); at = run.load('last')['step']
        assert at % 8, 'not in the middle of an epoch'
    finished(run); assert len(resumed(run))==3 and all(s % 8 for s in resumed(run)[1:]) and one_value_each(run) and digest(run)==straight(2, epochs=6)

@pytest.mark.slurm
def test_the_cluster_leaves_nothing(tmp_path):
    if why := slurm_cluster.missing() or (None if slurm_cluster.installed() else 'Slurm is not installed'): pytest.skip(why)
    with pytest.raises(KeyError), slurm_cluster.cluster(tmp_path/'c', nodes=1) as env:
        subprocess.run(['sbatch', '--wrap', 'sleep 600 & sleep 600'], env=os.environ | env, check=True, capture_output=True, cwd=tmp_path)
        assert set(slurm_cluster.processes(tmp_path/'c').values())>={'munged', 'slurmctld', 'slurmd'}
        with pytest.raises(slurm_cluster.ClusterError, match='already'): slurm_cluster.start(tmp_path/'c')
        raise KeyError('a test fails')
    assert slurm_cluster.processes(tmp_path/'c')=={}

@pytest.mark.slurm
def test_the_cluster_ends_with_a_killed_test(tmp_path):
    if why := slurm_cluster.missing() or (None if slurm_cluster.installed() else 'Slurm is not installed'): pytest.skip(why)
    text = f'import os, sys; sys.path.insert(0, {str(TOP/"tools")!r}); import slurm_cluster\nwith slurm_cluster.cluster({str(tmp_path/"c")!r}, nodes=1): print(len(slurm_cluster.processes({str(tmp_path/"c")!r})), flush=True); os.kill(os.getpid(), 9)'
    got = subprocess.run([sys.executable, '-c', text], capture_output=True, text=True); assert got.returncode==-9 and int(got.stdout)==3, got.stderr
    end = time.time() + 20
    while slurm_cluster.processes(tmp_path/'c'): time.sleep(.1); assert time.time()<end, 'daemons are left'
