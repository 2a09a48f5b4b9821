"Protocol of environments: cards, success, frame skip and frame stack against slow references, optional packages"
import json, subprocess, sys
from collections import deque
from dataclasses import replace

import numpy as np, pytest
from gymnasium import spaces

from vislearn.control import wrappers as W
from vislearn.control.wrappers import (ControlEnv, EnvCard, FrameSkip, LineWorld, MissingExtra, Stacker, SuccessRule, Tally, check_action,
    history_rows, merge_frames, need, observation_space, stack_frames, success_rule)
from vislearn.core import ConfigError, DataError


class Numbers(ControlEnv):
    "Shows the frames it is given; ends with the last one."
    def __init__(self, frames, limit=100, pixels=True):
        self.frames, self.card = np.asarray(frames, np.uint8).reshape(-1, 1, 1, 3), EnvCard('Numbers', 'gym', pixels, (1, 1), max_steps=limit, success='count>2')
        self.observation_space, self.action_space, self.looks = observation_space((1, 1), 1), spaces.Discrete(2), 0
    def _begin(self, seed): self.at = 0
    def _move(self, action): self.at += 1; return self.at, self.at == len(self.frames)-1, False, dict(success=self.at % 2 == 1)
    def _look(self): self.looks += 1; return dict(pixels=self.frames[self.at], state=np.array([self.at], np.float32))


FRAMES = np.random.default_rng(0).integers(0, 256, (9, 3))
def push_reference(rows, starts, k, mode):
    "One row at a time through a queue, in float64."
    out, queue = [], None
    for row, start in zip(rows, starts):
        row = row.astype(np.float64); queue = deque([row]*k, maxlen=k) if start else queue
        if not start: queue.append(row)
        parts = list(queue) if mode == 'cat' else [b-a for a, b in zip(list(queue), list(queue)[1:])] + [queue[-1]]
        out.append(np.concatenate([p.reshape(*p.shape[:-1], -1) if p.ndim else p.reshape(1) for p in parts], -1))
    return np.stack(out)


@pytest.mark.parametrize('dtype', [np.uint8, np.int64, np.float32])
def test_P06_flare_of_three_numbers(dtype):
    x = np.array([10, 5, 7], dtype)
    got = stack_frames(x, [0], 3, 'diff')[2]; assert got.dtype == np.float32 and got.tolist() == [-5, 2, 7]
    stacker = Stacker(3, 'diff')
    acting = [stacker.push(x[t:t+1], [t == 0]) for t in range(3)][-1]; assert acting.dtype == np.float32 and acting.tolist() == [[-5, 2, 7]]


@pytest.mark.parametrize('mode', ['cat', 'diff'])
@pytest.mark.parametrize('k', [1, 2, 3, 5])
def test_P06_history_repeats_the_first_frame_after_every_start(k, mode):
    rows = np.random.default_rng(k).integers(0, 256, (12, 2, 3, 3), dtype=np.uint8); starts = np.zeros(12, bool); starts[[0, 3, 4, 9]] = True
    got = stack_frames(rows, starts, k, mode)
    assert got.shape == (12, 2, 3, 3*k) and got.dtype == (np.float32 if mode == 'diff' else np.uint8)
    assert np.array_equal(got, push_reference(rows, starts, k, mode)) and np.array_equal(got, stack_frames(rows, np.flatnonzero(starts), k, mode))
    assert np.array_equal(history_rows(starts, 12, k)[4], [4]*k), 'an episode of one step knows nothing but itself'
    assert np.array_equal(stack_frames(rows, starts, k, mode, rows=np.array([10, 3])), got[[10, 3]])


@pytest.mark.parametrize('mode', ['cat', 'diff'])
@pytest.mark.parametrize('make', [LineWorld, lambda: pytest.importorskip('minigrid') and __import__('vislearn.control.grids', fromlist=['x']).make_grid('MiniGrid-DoorKey-5x5-v0')])
def test_P06_data_and_acting_agree_over_whole_episodes(make, mode):
    "Three environments side by side, episodes of different lengths, some rows fresh and others not: what acting saw is what the data give later."
    n, k, rng = 3, 3, np.random.default_rng(1); envs = [make() for _ in range(n)]
    seen, starts, acted = ([[] for _ in range(n)] for _ in range(3)); stacker, fresh = Stacker(k, mode), np.ones(n, bool)
    obs = [e.reset(seed=i)[0]['pixels'] for i, e in enumerate(envs)]
    for t in range(40):
        stacked = stacker.push(np.stack(obs), fresh)
        for i in range(n): seen[i].append(obs[i]); starts[i].append(fresh[i]); acted[i].append(stacked[i])
        fresh = np.zeros(n, bool)
        for i, e in enumerate(envs):
            o, _, terminated, truncated, _ = e.step(int(rng.integers(e.action_space.n))); obs[i] = o['pixels']
            if terminated or truncated or rng.random() < .1: obs[i] = e.reset(seed=100+t)[0]['pixels']; fresh[i] = True
    assert sum(map(sum, starts)) > n+3, 'episodes must end at different times'
    for i in range(n): assert np.array_equal(np.stack(acted[i]), stack_frames(np.stack(seen[i]), np.array(starts[i]), k, mode))


def test_stack_reads_only_what_it_needs():
    "Lazy: only the rows of the stacks are taken out of a memory map."
    class Spy:
        def __init__(self, x): self.x, self.taken = x, []
        def __len__(self): return len(self.x)
        def __getitem__(self, i): self.taken.append(np.asarray(i)); return self.x[i]
    spy = Spy(np.arange(100.)); stack_frames(spy, [0, 50], 3, rows=np.array([51, 99]))
    assert len(spy.taken) == 1 and sorted(set(spy.taken[0].ravel())) == [50, 51, 97, 98, 99]


def test_stack_refuses():
    with pytest.raises(DataError, match='row 0 must be a start'): stack_frames(np.zeros(3), np.array([False, True, False]), 2)
    with pytest.raises(DataError, match=r'starts must be bool \(3,\)'): stack_frames(np.zeros(3), np.array([True, True]), 2)
    with pytest.raises(ConfigError, match='whole number from 1'): Stacker(1.5)
    s = Stacker(2); s.push(np.zeros((2, 4), np.float32), [1, 1])
    with pytest.raises(DataError, match='every row must be fresh'): s.push(np.zeros((3, 4), np.float32), [0, 0, 0])
    with pytest.raises(DataError, match=r'fresh must be bool \(2,\)'): s.push(np.zeros((2, 4), np.float32), [1])


@pytest.mark.parametrize('n', [1, 2, 3, 4])
@pytest.mark.parametrize('mode', ['last', 'max', 'avg'])
def test_P07_frame_skip(n, mode):
    "The picture is the last, the maximum or the rounded mean of the pictures on the way; rewards add up; the rest is of the last step."
    env = FrameSkip(Numbers(FRAMES), n, mode); first, _ = env.reset(); assert np.array_equal(first['pixels'][0, 0], FRAMES[0])
    at, done = 0, False
    while not done:
        obs, reward, done, truncated, info = env.step(0)
        way = list(range(at+1, min(at+n, 8)+1)); part = FRAMES[way]; at = way[-1]
        want = part[-1] if mode == 'last' else part.max(0) if mode == 'max' else np.round(part.sum(0)/len(part))
        assert obs['pixels'].dtype == np.uint8 and np.array_equal(obs['pixels'][0, 0], want)
        assert reward == sum(way) and obs['state'][0] == at and done == (at == 8) and not truncated
        assert info['hits'] == sum(w % 2 for w in way) and info['success'] == (info['hits'] > 0)
    assert env.get_wrapper_attr('card').skip == n and env.get_wrapper_attr('card').skip_mode == mode


def test_P07_skip_looks_once_and_counts_simulator_steps():
    base = Numbers(FRAMES, limit=5); env = FrameSkip(base, 4); env.reset(); base.looks = 0
    _, _, terminated, truncated, _ = env.step(0); assert base.looks == 1 and not truncated
    _, reward, terminated, truncated, _ = env.step(0); assert truncated and not terminated and reward == 5, 'the limit counts simulator steps'
    tally = Tally(SuccessRule.of('count>2')).add(0, dict(success=True, hits=3)); assert tally.success is True and tally.length == 1


def test_max_of_three_frames_leaves_them_alone():
    "B15: the third frame was once used as output buffer."
    frames = FRAMES[:3].astype(np.uint8).reshape(3, 1, 1, 3); before = frames.copy(); merge_frames(frames, 'max'); assert np.array_equal(frames, before)


@pytest.mark.parametrize('text, cases', [('any', [(0, 0, 5., False), (1, 0, -1., True)]), ('count>20', [(20, 1, 0., False), (21, 0, 0., True)]), ('final', [(9, 0, 0., False), (1, 1, 0., True)]),
    ('return>0', [(3, 1, 0., False), (0, 0, .1, True)]), ('none', [(9, 1, 9., None), (0, 0, 0., None)])])
def test_success_rules(text, cases):
    rule = SuccessRule.of(text); assert str(rule) == text
    for hits, last, total, want in cases: assert rule(hits, bool(last), total) is want


@pytest.mark.parametrize('name, text', [('HabitatImageNav-apartment_0', 'any'), ('ImageNav-four_rooms', 'any'), ('MetaWorld-hammer', 'any'), ('Adroit-pen', 'count>20'), ('HMS-pen-v0', 'count>20'), ('Adroit-hammer', 'count>25'),
    ('HMS-relocate-v0', 'count>25'), ('MiniGrid-Empty-5x5-v0', 'return>0'), ('BabyAI-GoTo-v0', 'return>0'), ('DMC-walker-walk', 'none'), ('Atari-Pong', 'none'), ('CartPole-v1', 'none')])
def test_success_of_every_family(name, text): assert str(success_rule(name)) == text


def test_card_survives_json_and_refuses_to_mix():
    card = EnvCard('A', 'dmc', True, (64, 48), render=dict(profile='fast', camera=0), versions=dict(mujoco='3'))
    assert EnvCard.of_dict(json.loads(json.dumps(card.as_dict()))) == card
    for change, what in [(dict(skip=2), 'skip is 1'), (dict(size=(64, 64)), r'size is \[64, 48\]'), (dict(render=dict(profile='exact', camera=0)), "render profile is 'fast'"), (dict(render=dict(profile='fast', camera=1)), 'render camera is 0'),
        (dict(pixels=False), 'pixels'), (dict(name='B'), "name is 'A'"), (dict(skip=2, skip_mode='max'), 'skip is'), (dict(goal=True), 'goal')]:
        with pytest.raises(DataError, match=f'data and env do not agree: {what}'): card.check_same(replace(card, **change), 'data and env')
    card.check_same(replace(card, skip_mode='avg'), 'x'); card.check_same(replace(card, name='B', size=(1, 1)), 'x', but=('name', 'size'))
    with pytest.warns(UserWarning, match='mujoco 3 and 4'): card.check_same(replace(card, versions=dict(mujoco='4')), 'x')
    with pytest.raises(DataError, match='colour'): EnvCard.of_dict(card.as_dict() | dict(colour=1))


def test_skeleton_refuses_wrong_use():
    env = LineWorld(max_steps=2)
    with pytest.raises(DataError, match='call reset first'): env.step(1)
    env.reset(seed=0)
    with pytest.raises(DataError, match='LineWorld: action must be a whole number from 0 to 1, got 2'): env.step(2)
    assert [env.step(0)[3] for _ in range(2)] == [False, True]
    with pytest.raises(DataError, match='call reset first'): env.step(1)


def test_actions():
    box = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
    with pytest.raises(DataError, match='whole number'): check_action(np.float64(1), spaces.Discrete(3), 'x')
    assert check_action(np.array([2]), spaces.Discrete(3), 'x') == 2 and check_action([1, -2], box, 'x').dtype == np.float32
    with pytest.raises(DataError, match='bounds differ by axis'): check_action([1.1, 0], box, 'x')
    with pytest.raises(DataError) as e: check_action(np.zeros((50, 50)), box, 'x')
    assert '\n' not in str(e.value) and len(str(e.value)) < 200


def test_extra_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, 'minigrid', None)
    with pytest.raises(MissingExtra) as e: need('minigrid', 'MiniGrid-DoorKey-8x8-v0')
    assert str(e.value) == 'MiniGrid-DoorKey-8x8-v0 needs minigrid: pip install "vislearn[minigrid]"' and isinstance(e.value, ConfigError)


def test_extra_broken_says_why(tmp_path, monkeypatch):
    (tmp_path/'halfthere.py').write_text('import surely_not_installed'); monkeypatch.syspath_prepend(tmp_path); monkeypatch.setitem(W.EXTRAS, 'halfthere', 'minigrid')
    with pytest.raises(MissingExtra, match=r"X needs halfthere, which cannot be imported \(No module named 'surely_not_installed'\): pip install \"vislearn\[minigrid\]\""): need('halfthere', 'X')


def test_P15_importing_the_wing_imports_no_simulator():
    code = '''
import importlib, pkgutil, sys; sys.modules['pyarrow'] = None # pandas imports it wherever it is installed: here nobody can
import vislearn.control
for m in pkgutil.iter_modules(vislearn.control.__path__): importlib.import_module(f'vislearn.control.{m.name}')
print(sorted({'minigrid', 'ale_py', 'mujoco', 'dm_control', 'metaworld', 'gymnasium_robotics', 'miniworld', 'pyglet', 'pygame', 'habitat', 'habitat_sim', 'timm', 'open_clip', 'minari', 'h5py', 'torchvision'} & set(sys.modules)))
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120); assert out.returncode == 0, out.stderr[-500:]
    assert out.stdout.strip() == '[]', f'imported: {out.stdout}'
