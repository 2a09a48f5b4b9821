"Recording with an expert: complete, the same with any number of workers, and not lost when it is killed."
import errno, subprocess, sys, time
import numpy as np, psutil, pytest
from vislearn.control import collect as module
from vislearn.control.collect import collect, play_expert
from vislearn.control.envs import make_env
from vislearn.control.experts import make_expert
from vislearn.control.wrappers import ExpertFailed
from vislearn.core import ConfigError, DataError
from vislearn.store import StoreError
from test_procs import gone


def same(a, b): return all(np.array_equal(np.asarray(a.arrays[k][:]), np.asarray(b.arrays[k][:])) for k in a.arrays) and a.seeds.tolist()==b.seeds.tolist()


def test_recorded_frames_belong_to_the_actions(tmp_path):
    "Play the recorded actions again: the same pictures, states and rewards (B2)."
    trajs = collect('Reach-goal', 5, seed=30, workers=1, root=tmp_path); env = make_env('Reach-goal')
    for t in trajs:
        obs, _ = env.reset(seed=t.seed); assert np.array_equal(obs['goal'], t.goal)
        for frame, state, action, reward in zip(t.frames, t.state, t.action, t.reward):
            assert np.array_equal(obs['pixels'], frame) and np.array_equal(obs['state'], state)
            obs, r, *_ = env.step(int(action)); assert r==pytest.approx(reward, abs=1e-6)
    assert trajs.card==env.get_wrapper_attr('card') and trajs.action_space==('discrete', 4)


@pytest.mark.parametrize('env', ['MiniGrid-DoorKey-5x5-v0', 'Reach-continuous'])
def test_workers_do_not_matter(tmp_path, env):
    assert same(collect(env, 20, workers=1, root=tmp_path/'one'), collect(env, 20, workers=2, block=3, root=tmp_path/'two'))


class Clumsy:
    "Fails on every third seed, one way or another."
    name = 'clumsy'
    def reset(self, env, seed): self.seed = seed; self.own = make_expert('Reach-discrete'); self.own.reset(env, seed)
    def act(self, env, obs):
        if self.seed % 6==0: raise ExpertFailed('no plan today')
        return 0 if self.seed % 6==3 else self.own.act(env, obs)


def test_failed_episodes_are_counted_and_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(module, 'make_expert', lambda *a, **k: Clumsy())
    trajs = collect('Reach-discrete', 12, workers=1, block=4, root=tmp_path)
    assert trajs.seeds.tolist()==[s for s in range(18) if s % 3] and all(trajs.successes) and trajs.info['failed']==6 and trajs.info['tried']==18
    with pytest.raises(DataError, match='the expert failed in .* of 20 episodes, most lately: .*give_up'): collect('Reach-discrete', 40, workers=1, block=4, root=tmp_path, give_up=.1)


SCRIPT = '''
import sys, time
from vislearn.control import experts
from vislearn.control.collect import collect
collect('MiniGrid-FourRooms-v0', 60, workers=2, block=2, root=sys.argv[1])
'''


def test_killed_collection_goes_on(tmp_path):
    (tmp_path/'play.py').write_text(SCRIPT); job = subprocess.Popen([sys.executable, tmp_path/'play.py', tmp_path/'killed'])
    parts = lambda: list((tmp_path/'killed').glob('trajs/.*.parts/block-*.npz')); end = time.monotonic() + 60
    while len(parts())<4 and time.monotonic()<end and job.poll() is None: time.sleep(.02)
    children = [p.pid for p in psutil.Process(job.pid).children(recursive=True)] if job.poll() is None else []
    job.kill(); job.wait(); assert gone(children, 5)
    before = {f: f.stat().st_mtime_ns for f in parts()}; assert len(before)>=4
    trajs = collect('MiniGrid-FourRooms-v0', 60, workers=1, block=2, root=tmp_path/'killed')
    assert not parts() and same(trajs, collect('MiniGrid-FourRooms-v0', 60, workers=1, root=tmp_path/'whole'))


def test_continues_from_stored_blocks(tmp_path, monkeypatch):
    "Blocks that are there are not played again."
    played = []; real = play_expert
    def tired(env, expert, seed):
        if seed==9 and not played.count('rested'): raise KeyboardInterrupt
        played.append(seed); return real(env, expert, seed)
    monkeypatch.setattr(module, 'play_expert', tired)
    with pytest.raises(KeyboardInterrupt): collect('Reach-discrete', 12, workers=1, block=2, root=tmp_path)
    first = list(played); played.append('rested'); collect('Reach-discrete', 12, workers=1, block=2, root=tmp_path)
    assert first==list(range(9)) and played[len(first) + 1:]==list(range(8, 12))


def test_full_disk_is_one_line_and_keeps_what_was_played(tmp_path, monkeypatch):
    real, calls = module._play_block, []
    def full(seeds, file):
        calls.append(seeds)
        if len(calls)==3: raise OSError(errno.ENOSPC, 'No space left on device')
        return real(seeds, file)
    monkeypatch.setattr(module, '_play_block', full)
    with pytest.raises(StoreError, match='no room left while collecting into .*trajs: .* what was played is kept'): collect('Reach-discrete', 12, workers=1, block=2, root=tmp_path)
    trajs = collect('Reach-discrete', 12, workers=1, block=2, root=tmp_path)
    assert len(trajs)==12 and [list(c) for c in calls[3:]]==[[4, 5], [6, 7], [8, 9], [10, 11]]


def test_mistakes(tmp_path):
    with pytest.raises(ConfigError, match='n must be at least 1'): collect('Reach-discrete', 0, root=tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'Reach-discrete'"): collect('Reach-discret', 2, root=tmp_path)
    with pytest.raises(ConfigError, match="no option 'horizon'"): collect('Reach-discrete', 2, dict(options=dict(horizon=3)), root=tmp_path)
    assert not list(tmp_path.rglob('*.npz'))
