"Grids and embedding jobs: what is sent, what is skipped, what goes on after a stop; on a real Slurm, too."
import json, os, pickle, subprocess, time
from pathlib import Path
import numpy as np, pytest
from vislearn.control import jobs as module
from vislearn.control.beside import played_epochs
from vislearn.control.collect import collect
from vislearn.control.embed import embed_trajs
from vislearn.control.encoders import make_encoder
from vislearn.control.jobs import EmbedJob, bc_grid, embed_jobs, grid_table, run_embeddings, submit_embeddings
from vislearn.control.pickles import read_pickle, write_pickle
from vislearn.control.recipes import BcModel, bc_recipe
from vislearn.control.rollout import Episode, Rollouts, mean_interval
from vislearn.control.trajs import toy_trajs, open_trajs
from vislearn.control.windows import BcData
from vislearn.core import ConfigError, DataError
from vislearn.runs.combos import expand
from vislearn.runs.config import Launch, Optim
from vislearn.runs.slurm import job_state
from vislearn.runs.sweep import Sweep

TOP = Path(__file__).parents[1]
ENVS = ['Reach-discrete', 'Reach-goal']


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder of demonstrations: two stores."
    top = tmp_path_factory.mktemp('jobs')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('VISLEARN_CACHE', str(top/'cache')); (top/'demos').mkdir()
        for env in [*ENVS, 'Reach-decoy']: (top/'demos'/env).symlink_to(collect(env, 12, workers=1, root=top/'cache').path)
        yield top


def small(**more): return bc_recipe('Reach-discrete', 'random3', model=BcModel(core='mlp', widths=[16], act='relu'), batches=BcData(mode='step'), epochs=2, bs=32, optim=Optim(name='adam', lr=3e-3), episodes=5, evaluation=dict(dict(epochs=[1, 2], concurrent=False), **more))


# ---- grids

def test_B11_grid_of_the_original(made):
    "Labels of spec 7; the true state is a set of its own without pictures and norm; `random` is random5; equal names count once."
    combos = expand(bc_grid(ENVS, ['random', 'squeezenet', 'true_state', 'random5'], (1, 2), made/'demos'))
    assert [c.label for c in combos[:5]]==['bc_eReach-discrete_enrandom5_s1', 'bc_eReach-discrete_enrandom5_s2', 'bc_eReach-discrete_ensqueezenet_s1', 'bc_eReach-discrete_ensqueezenet_s2', 'bc_eReach-goal_enrandom5_s1'] and len(combos)==12
    state = [c.config for c in combos if 'true_state' in c.label]; assert len(state)==4 and {c.label for c in combos if 'true_state' in c.label}=={f'bc_e{e}_entrue_state_s{s}' for e in ENVS for s in (1, 2)}
    assert all((c.data.common['encoder'], c.data.train.params['obs'], c.model.params['batch_norm'])==(None, 'state', False) for c in state)
    seen = [c.config for c in combos if 'true_state' not in c.label]; assert all((c.data.train.params['obs'], c.model.params['batch_norm'], c.data.train.params['window'], c.train.batch_size, c.data.eval.params['episodes'])==('pixels', True, 100, 16, 50) for c in seen)
    assert {c.config.seed for c in combos}=={1, 2} and all(c.config.data.eval.params.get('env', [])==[] and c.config.data.root==str(made/'demos') for c in combos)


def test_joint_and_recipes_without_memory(made):
    pair = ['Reach-discrete', 'Reach-decoy']; one, state = expand(bc_grid(pair, ['random3', 'true_state'], (4,), made/'demos', 'bc_cortexbench', joint=True))
    assert one.label=='bc_eReach-discrete+Reach-decoy_enrandom3_s4' and one.config.data.common['env']==pair and one.config.data.train.params['stack']==3
    p = state.config.data.train.params; assert (p['stack'], p['stack_mode'], p['proprio'], p['obs'])==(1, 'cat', False, 'state') # nothing of the pictures is left


def test_mistakes_come_before_the_first_run(made, tmp_path):
    for words, said in (((ENVS, ['resnet51']), "no encoder 'resnet51'"), ((['Reach-gaol'], ['random3']), "no demonstrations of 'Reach-gaol' .did you mean 'Reach-goal'"), ((ENVS, ['random3'], ()), 'one seed')):
        with pytest.raises(ConfigError, match=said): bc_grid(*words, data=made/'demos')
    with pytest.raises(DataError, match='cannot be joined: .*goals'): bc_grid(ENVS, ['random3'], (1,), made/'demos', joint=True)
    with pytest.raises(ConfigError, match='nowhere is not there'): bc_grid(ENVS, ['random3'], data=tmp_path/'nowhere')


def test_table_from_stored_evaluations(made, tmp_path):
    "Against numbers put into the run folders by hand: last, best without epoch 0, intervals over seeds."
    sweep = Sweep.create(bc_grid(['Reach-discrete'], ['random3', 'true_state'], (1, 2), made/'demos', small()), tmp_path, policy='record'); card = open_trajs(made/'demos'/'Reach-discrete').card
    wins = {0: [3, 5, 4], 1: [1, 2, 0], 2: [0, 5, 5]} # run to wins of 5 after epochs 0, 1, 2; the fourth run has not begun
    for i, row in wins.items():
        folder = sweep.runs[i].artifact('rollouts'); folder.mkdir()
        for epoch, n in enumerate(row): Rollouts(card, [Episode(s, float(s<n), 9, s<n) for s in range(5)]).save(folder/f'epoch-{epoch:05d}-Reach-discrete.json')
    table = grid_table(sweep); pixels, state = table.to_dict('records'); groups = lambda *ns: [[float(s<n) for s in range(5)] for n in ns]
    assert (pixels['embedding'], pixels['runs'], pixels['finished'], pixels['measure'])==('random3', 2, 0, 'success') and (state['embedding'], state['runs'])==('true_state', 2)
    assert [pixels[k] for k in ('last', 'last_low', 'last_high')]==list(mean_interval(groups(4, 0))) and [pixels[k] for k in ('best', 'best_low', 'best_high')]==list(mean_interval(groups(5, 2))) and pixels['best']==pytest.approx(.7)
    assert state['last']==state['best']==1. and len(table)==2
    empty = grid_table(Sweep.create(bc_grid(['Reach-goal'], ['random3'], (1,), made/'demos', small()), tmp_path/'b', policy='record')); assert np.isnan(empty['last'][0]) and empty.measure[0]==''


@pytest.mark.slow
def test_grid_trains_side_by_side_and_is_not_trained_twice(made, tmp_path):
    sweep, lines = Sweep.create(bc_grid(['Reach-discrete'], ['random3', 'true_state'], (1,), made/'demos', small()), tmp_path, policy='record'), []
    assert sweep.run(2, device='cpu', say=lines.append)==0 and [sorted(played_epochs(r)) for r in sweep.runs]==[[1, 2]]*2
    attempts = [len(r.manifest['attempts']) for r in sweep.runs]; assert sweep.resume(2, device='cpu', say=lines.append)==0 and 'all 2 runs are finished already' in lines[-1] and attempts==[1, 1]
    assert list(grid_table(sweep).finished)==[1, 1]


# ---- embedding jobs

def test_a_job_travels_and_embeds_what_embed_trajs_does(made, tmp_path, monkeypatch):
    job = EmbedJob('Reach-goal', 'random4', made/'demos', root=tmp_path); again = pickle.loads(pickle.dumps(job)); monkeypatch.chdir(tmp_path)
    assert job.done() is None and again.checkpoint().function is again and repr(again)=='EmbedJob(Reach-goal_random4)'
    where = again(); assert str(job.done())==where
    plain = embed_trajs(open_trajs(made/'demos'/'Reach-goal'), make_encoder('random4', (32, 32)), root=tmp_path/'other'); mine = embed_trajs(open_trajs(made/'demos'/'Reach-goal'), make_encoder('random4', (32, 32)), root=tmp_path)
    assert str(mine.emb.store.path)==where and np.array_equal(plain.emb[:], mine.emb[:]) and np.array_equal(plain.goal_embs[:], mine.goal_embs[:])
    assert EmbedJob('Reach-goal', 'random4', made/'demos', preprocess='legacy', dtype='bfloat16', root=tmp_path).done() is None # another precision is another embedding


def test_pickles_become_pickles(tmp_path):
    toys = toy_trajs(6); write_pickle(toys, tmp_path/'Reach-discrete.pickle'); job = EmbedJob('Reach-discrete', 'random3', tmp_path, root=tmp_path/'cache'); assert job.done() is None
    assert job()==str(tmp_path/'Reach-discrete_random3.pickle')==str(job.done()); read = read_pickle(tmp_path/'Reach-discrete_random3.pickle')
    assert read.frames is None and np.allclose(read.emb[:], embed_trajs(toys, make_encoder('random3', (32, 32)), root=tmp_path/'cache').emb[:]) and np.array_equal(read.action[:], toys.action[:]) and read.card.name=='Reach-discrete'
    late = time.time() + 5; os.utime(tmp_path/'Reach-discrete.pickle', (late, late)); assert job.done() is None # newer demonstrations


@pytest.mark.parametrize('parallel', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_is_there_is_skipped_and_a_failure_stops_nothing_else(made, tmp_path, parallel):
    jobs = embed_jobs(ENVS, ['random3', 'random2'], made/'demos', dict(root=str(tmp_path))); lines = []
    jobs[0](); found = run_embeddings(jobs, parallel, lines.append); assert set(found)=={j.name for j in jobs} and [l for l in lines if 'was there' in l]==[f'Reach-discrete_random3 was there: {jobs[0].done()}']
    bad = EmbedJob('Reach-goal', 'random1', made/'demos', weights=tmp_path/'none.tar', root=tmp_path); good = EmbedJob('Reach-goal', 'random4', made/'demos', root=tmp_path)
    with pytest.raises(DataError, match=r'1 of 2 embeddings failed: Reach-goal_random1: .*none.tar'): run_embeddings([bad, good], parallel, lines.append)
    assert good.done()


def test_mistakes(made, tmp_path):
    with pytest.raises(ConfigError, match="no encoder 'resnet51'"): embed_jobs(ENVS, ['random3', 'resnet51'], made/'demos')
    with pytest.raises(DataError, match='has neither Reach-x nor Reach-x.pickle: record them'): embed_jobs(['Reach-x'], ['random3'], made/'demos')
    with pytest.raises(ConfigError, match='parallel'): run_embeddings([], 0)
    (tmp_path/'d').mkdir(); (tmp_path/'d'/'Reach-discrete').symlink_to(collect('Reach-discrete', 2, workers=1, options=dict(pixels=False), root=tmp_path).path)
    with pytest.raises(DataError, match='no pictures to embed, only .*state.*record without'): EmbedJob('Reach-discrete', 'random3', tmp_path/'d')()


def test_the_queue_is_asked_before_sending(made, tmp_path, monkeypatch):
    "What is embedded, and what waits or runs, is not sent again; what failed is."
    sent, alive, lines = [], {'7_0': True, '7_1': False}, []
    class Fake:
        def submit_array(self, jobs): sent.append([j.name for j in jobs]); return [type('Job', (), dict(job_id=f'{6 + len(sent)}_{i}'))() for i in range(len(jobs))]
    monkeypatch.setattr(module, 'make_executor', lambda folder, launch, name, cluster: folder.mkdir(exist_ok=True) or Fake()); monkeypatch.setattr(module, 'job_alive', lambda status: alive.get(status['job']))
    jobs = embed_jobs(ENVS, ['random3'], made/'demos', dict(root=str(tmp_path))); go = lambda: submit_embeddings(jobs, folder=tmp_path/'jobs', say=lines.append)
    assert list(go())==['Reach-discrete_random3', 'Reach-goal_random3'] and 'submitted 2: jobs 7_0 to 7_1' in lines[-1] and json.loads((tmp_path/'jobs'/'embed.json').read_text())=={'Reach-discrete_random3': '7_0', 'Reach-goal_random3': '7_1'}
    assert list(go())==['Reach-goal_random3'] and '1 are in the queue already' in lines[-2]
    for j in jobs: j()
    assert go()=={} and '2 of 2 are embedded already' in lines[-1] and len(sent)==2


@pytest.mark.slow
def test_submitit_runs_a_job_in_a_child(made, tmp_path):
    pytest.importorskip('submitit'); jobs = embed_jobs(['Reach-goal'], ['random3', 'random2'], made/'demos', dict(root=str(tmp_path))); jobs[0](); lines = []
    sent = submit_embeddings(jobs, Launch(cpus_per_task=1), tmp_path/'jobs', 'local', lines.append); assert list(sent)==['Reach-goal_random2'] and '1 of 2 are embedded already' in lines[0]
    assert sent['Reach-goal_random2'].result()==str(jobs[1].done())


# ---- a real cluster

def wait_for(test, seconds=120, what=''):
    end = time.time() + seconds
    while not test(): assert time.time()<end, what() if callable(what) else what; time.sleep(.05)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TOP/'tools')); import slurm_cluster
    if why := slurm_cluster.missing(): pytest.skip(why)
    try: slurm_cluster.install()
    except slurm_cluster.ClusterError as e: pytest.skip(str(e))
    with slurm_cluster.cluster(tmp_path/'slurm') as env:
        for name, value in (env | dict(OMP_NUM_THREADS='1', PYTHONPATH=os.pathsep.join([str(TOP), *filter(None, [os.environ.get('PYTHONPATH')])]))).items(): monkeypatch.setenv(name, value)
        yield


@pytest.mark.slow
@pytest.mark.slurm
def test_embedding_on_a_real_slurm(cluster, made, tmp_path):
    "One array; a job that is warned requeues itself and goes on with the chunks it has; nothing is sent twice."
    (tmp_path/'demos').mkdir(); (tmp_path/'demos'/'Reach-discrete').symlink_to(collect('Reach-discrete', 60, workers=1, options=dict(size=128), root=tmp_path/'cache').path)
    jobs = embed_jobs(['Reach-discrete'], ['mobilenet', 'random2'], tmp_path/'demos', dict(root=str(tmp_path/'cache'), chunk=4, batch=1)); launch, lines = Launch(kind='slurm', cpus_per_task=1, time_min=5, signal_delay_s=2), []
    sent = submit_embeddings(jobs, launch, say=lines.append); slow = sent['Reach-discrete_mobilenet']; words = lambda: f'{job_state(slow.job_id)}\n' + ''.join(f.read_text() for f in (tmp_path/'demos'/'jobs').glob('*.out'))
    place = module.embs_path(*jobs[0].parts()[:2], root=tmp_path/'cache'); parts = lambda: {f: f.stat().st_mtime_ns for f in place.with_name(f'.{place.name}.parts').glob('*.npy')}
    wait_for(lambda: len(parts())>3 or jobs[0].done(), what=words); assert submit_embeddings(jobs[:1], launch, say=lines.append)=={} and 'in the queue already' in lines[-1]
    subprocess.run(['scancel', slow.job_id, '--signal', 'USR2'], check=True); had = parts(); assert had and not jobs[0].done()
    wait_for(jobs[0].done, what=words); wait_for(jobs[1].done, what=words); said = words(); assert 'this job is preempted' in said or 'Caught signal' in said, said
    plain = embed_trajs(open_trajs(tmp_path/'demos'/'Reach-discrete'), make_encoder('mobilenet', (128, 128)), 1, chunk=4, root=tmp_path/'plain'); mine = embed_trajs(*jobs[0].parts()[:2], root=tmp_path/'cache')
    assert np.array_equal(plain.emb[:], mine.emb[:])
    wait_for(lambda: submit_embeddings(jobs, launch, say=lines.append)=={} and '2 of 2 are embedded already' in lines[-1])


@pytest.mark.slow
@pytest.mark.slurm
def test_grid_on_a_real_slurm(cluster, made, tmp_path):
    "Environments x embeddings as one array; a cancelled run is sent again by resume, with its checkpoint."
    base = small(); base = base.replace(train=base.train.replace(epochs=3), launch=Launch(kind='slurm', cpus_per_task=1, time_min=5, signal_delay_s=2, array_parallelism=2)); lines = []
    sweep = Sweep.create(bc_grid(['Reach-discrete'], ['random3', 'true_state'], (1,), made/'demos', base), tmp_path/'runs', policy='record'); states = lambda: [r.status['state'] for r in sweep.runs]
    words = lambda: str(states()) + ''.join(f.read_text() for f in (sweep.dir/'slurm').glob('*.out'))
    assert sweep.run(device='cpu', say=lines.append)==0 and len({r.status['job'].split('_')[0] for r in sweep.runs})==1
    subprocess.run(['scancel', sweep.runs[1].status['job']], check=True); wait_for(lambda: states()[0]=='finished', what=words); wait_for(lambda: not module.job_alive(sweep.runs[1].status))
    if states()[1]!='finished': assert sweep.resume(device='cpu', say=lines.append)==0 and lines[-1].startswith('submitted 1:')
    wait_for(lambda: states()==['finished']*2, what=words); assert list(grid_table(sweep).finished)==[1, 1] and all(sorted(played_epochs(r))==[1, 2] for r in sweep.runs)
