"A point walks to a target: the toy environment of the control wing"
import warnings

import numpy as np, pytest
from gymnasium.utils.env_checker import check_env
from vislearn.core import ConfigError, DataError
from vislearn.synth.reach import KINDS, MOVES, ReachEnv, ReachExpert


def play(env, seed, actor=None):
    "Observations, actions, rewards and success of one episode."
    actor = actor or ReachExpert(); obs, info = env.reset(seed=seed); seen, acts, rewards, done = [obs], [], [], False
    while not done:
        acts.append(actor.act(env, obs)); obs, reward, end, late, info = env.step(acts[-1]); done = end or late
        seen.append(obs); rewards.append(reward)
    return seen, acts, rewards, info['success']


@pytest.mark.parametrize('options', [{}, dict(goal=True, decoy=True), dict(pixels=False), dict(hide_after=1, size=(48, 64))])
@pytest.mark.parametrize('kind', KINDS)
def test_gymnasium_finds_nothing(kind, options):
    with warnings.catch_warnings():
        warnings.simplefilter('error'); warnings.filterwarnings('ignore', '.*alternative render modes')
        check_env(ReachEnv(kind, **options))
    env = ReachEnv(kind, **options); obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs) and info == {'success': False} and obs.keys() == set(env.observation_space)


@pytest.mark.parametrize('kind', KINDS)
def test_expert_always_arrives_by_the_shortest_way(kind):
    for seed in range(100):
        seen, acts, rewards, won = play(ReachEnv(kind), seed)
        way = np.abs(seen[0]['state'][2:] - seen[0]['state'][:2])
        assert won and len(acts) <= 14
        if kind == 'discrete': assert len(acts) == round(float(way.sum())*7/2)
        assert sum(rewards) == pytest.approx(2.5 + np.hypot(*way) - float(np.hypot(*(seen[-1]['state'][2:] - seen[-1]['state'][:2]))) - .01*len(acts), abs=1e-5)


@pytest.mark.parametrize('kind', KINDS)
def test_seed_decides_the_episode(kind):
    one, two = play(ReachEnv(kind, decoy=True), 5), play(ReachEnv(kind, decoy=True), 5)
    assert all((a['pixels'] == b['pixels']).all() for a, b in zip(one[0], two[0])) and np.array_equal(one[1], two[1])
    env = ReachEnv(kind, decoy=True); play(env, 4)
    assert (env.reset(seed=5)[0]['pixels'] == one[0][0]['pixels']).all() and (env.reset(seed=6)[0]['state'] != one[0][0]['state']).any()


def test_image_shows_the_state():
    for seed in range(30):
        obs, _ = ReachEnv(decoy=True).reset(seed=seed)
        for part, name in ((slice(0, 2), 'point'), (slice(2, 4), 'target')):
            rows, cols = np.nonzero((obs['pixels'] == ReachEnv.colours[name]).all(-1))
            assert len(rows) == 16
            assert np.allclose([cols.mean(), rows.mean()], (obs['state'][part] + 1)/2*28 + 1.5, atol=.51)


def test_options_change_what_is_seen():
    target = lambda frame: (frame == ReachEnv.colours['target']).all(-1).any()
    seen = play(ReachEnv(hide_after=2), 3)[0]
    assert [target(o['pixels']) for o in seen[:4]] == [True, True, False, False]
    seen = play(ReachEnv('continuous', goal=True), 3)[0]
    assert not any(target(o['pixels']) for o in seen) and len({o['goal'].tobytes() for o in seen}) == 1
    env = ReachEnv(goal=True); *_, last = play(env, 3)[0]
    assert (last['pixels'] == last['goal']).all()


def test_time_runs_out():
    env = ReachEnv('continuous', max_steps=5); env.reset(seed=0)
    out = [env.step(np.zeros(2, np.float32)) for _ in range(5)]
    assert [o[3] for o in out] == [False]*4 + [True] and not any(o[2] or o[4]['success'] for o in out) and sum(o[1] for o in out) == pytest.approx(-.05)


def test_walls_and_moves():
    env = ReachEnv(pixels=False); env.reset(seed=0)
    for _ in range(9): env.step(0)
    assert env.point[0] == 1
    for move, (right, down) in enumerate(MOVES):
        env.point = np.zeros(2); env.step(np.int64(move)); assert env.point == pytest.approx([right*2/7, down*2/7])


@pytest.mark.parametrize('action', [4, -1])
def test_wrong_move(action):
    env = ReachEnv(); env.reset(seed=0)
    with pytest.raises(DataError, match='action must lie in Discrete'): env.step(action)


@pytest.mark.parametrize('action', [np.array([1.1, 0], np.float32), np.zeros(3, np.float32), np.array([np.nan, 0], np.float32)])
def test_wrong_velocity(action):
    env = ReachEnv('continuous'); env.reset(seed=0)
    with pytest.raises(DataError, match='action must lie in Box'): env.step(action)


def test_wrong_options():
    with pytest.raises(ConfigError, match="did you mean 'continuous'"): ReachEnv('continous')
    with pytest.raises(ConfigError, match='max_steps at least 1'): ReachEnv(max_steps=0)
