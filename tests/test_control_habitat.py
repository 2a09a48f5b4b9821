"The Habitat adapter against a small fake simulator with habitat-sim's interface (tests/fake_habitat.py): habitat-sim itself has no wheel"
import math, os, sys

import numpy as np, pytest

import fake_habitat
from vislearn.control.habitat import FollowerExpert, SCENES, fair_start, import_habitat, make_habitat
from vislearn.control.wrappers import ExpertFailed, LineWorld, MissingExtra
from vislearn.core import ConfigError, DataError, UserError


@pytest.fixture
def flats(tmp_path, monkeypatch):
    fake_habitat.install(monkeypatch)
    for i, s in enumerate(SCENES): f = tmp_path/s/('habitat' if i % 2 else ''); f.mkdir(parents=True); (f/'mesh_semantic.ply').touch()
    monkeypatch.setenv('HABITAT_SCENES', str(tmp_path)); return tmp_path


def run(env, seed, choose=None):
    obs, _ = env.reset(seed=seed); expert = FollowerExpert(); expert.reset(env, seed); steps = []
    while True:
        a = choose if choose is not None else expert.act(env, obs); new, r, ended, cut, info = env.step(a); steps.append((obs, a, r)); obs = new
        if ended or cut: return steps, info, ended


def test_simulator_is_set_up_as_the_study_says(flats):
    env = make_habitat('HabitatImageNav-room_0'); sim = env.sim; camera = sim.config.agents[0].sensor_specifications[0]
    assert list(camera.resolution) == [64, 64] and camera.hfov == 79 and list(camera.position) == [0, .88, 0]
    assert {k: (s.name, s.actuation.amount) for k, s in sim.config.agents[0].action_space.items()} == {1: ('move_forward', .25), 2: ('turn_left', 10.), 3: ('turn_right', 10.)}
    assert sim.config.sim.scene_id.endswith('room_0/habitat/mesh_semantic.ply') and env.card.max_steps == 500 and env.card.success == 'any' and env.card.family == 'habitat'
    env.close(); env.close(); assert sim.closed


def test_observation_and_true_state(flats):
    env = make_habitat('HabitatImageNav-frl_apartment_0'); obs, _ = env.reset(seed=3)
    assert env.observation_space.contains(obs) and obs['state'].shape == (12,) and env.action_space.n == 3
    state = env.sim.get_agent(0).get_state()
    assert np.allclose(obs['state'], [*state.position, state.rotation.real, *state.rotation.imag, *env.goal, 1, 0]) and np.isclose(np.linalg.norm(obs['state'][3:7]), 1)
    assert obs['pixels'].shape == (64, 64, 3) and (env.step(1)[0]['goal'] == obs['goal']).all()
    blind = make_habitat('HabitatImageNav-frl_apartment_0', pixels=False); assert list(blind.reset(seed=3)[0]) == ['state'] and (blind.reset(seed=3)[0]['state'] == obs['state']).all()


def test_goal_picture_is_taken_at_the_goal(flats):
    env = make_habitat('HabitatImageNav-hotel_0'); stood = []; stand = env._stand
    env._stand = lambda p, yaw: (stood.append((np.array(p), yaw)), stand(p, yaw))
    obs, _ = env.reset(seed=1); (at, yaw), (start, _) = stood
    assert np.allclose(at, env.goal) and np.allclose(start, obs['state'][:3])
    stand(at, yaw); assert (env.sim.get_sensor_observations()['rgb'][..., :3] == obs['goal']).all() and -math.pi <= yaw < math.pi


def test_action_a_is_sent_as_a_plus_one(flats):
    env = make_habitat('HabitatImageNav-room_0'); env.reset(seed=0); [env.step(a) for a in (0, 1, 2)]
    assert env.sim.steps == [1, 2, 3]
    with pytest.raises(DataError, match='from 0 to 2'): env.step(3)


def test_P12_motionless_policy(flats):
    steps, info, ended = run(make_habitat('HabitatImageNav-room_0'), 0, choose=1)
    assert len(steps) == 500 and not ended and not info['success'] and math.isclose(sum(r for *_, r in steps), -5, abs_tol=1e-6)


def test_P13_follower_reaches_the_goal_and_the_return_is_known(flats):
    env = make_habitat('HabitatImageNav-office_0', pixels=False)
    for seed in range(20):
        env.reset(seed=seed); start = env.distance; steps, info, ended = run(env, seed)
        assert ended and info['success'] and info['distance'] < .2
        assert math.isclose(sum(r for *_, r in steps), start - info['distance'] + 2.5 - .01*len(steps), abs_tol=1e-6)


def test_B27_a_seed_is_an_episode(flats):
    a, b = make_habitat('HabitatImageNav-room_0'), make_habitat('HabitatImageNav-room_0'); b.reset(seed=8)
    films = [[o['pixels'] for o, *_ in run(env, 5)[0]] for env in (a, b, a)]
    assert all(len(f) == len(films[0]) and all((x == y).all() for x, y in zip(f, films[0])) for f in films)
    assert (a.reset(seed=6)[0]['state'] != b.reset(seed=5)[0]['state']).any()


def test_starts_are_fair(flats):
    env = make_habitat('HabitatImageNav-room_0', pixels=False); straight = 0
    for seed in range(60):
        obs, _ = env.reset(seed=seed); p, g = obs['state'][:3], obs['state'][7:10]
        assert 1 <= env.distance <= 30; straight += env.distance/math.dist(p, g) < 1.05
    assert straight < 30 # of all pairs of points far more are in sight of each other
    rng = np.random.default_rng(0); keep = np.mean([fair_start(5., np.zeros(3), np.array([5., 0, 0]), rng) for _ in range(4000)])
    assert keep < .02 and fair_start(5.6, np.zeros(3), np.array([5., 0, 0]), rng) # 20 * 0.02^2 = 0.008


def test_reset_gives_up(flats):
    env = make_habitat('HabitatImageNav-room_0'); env.sim.pathfinder.get_random_navigable_point = lambda: np.array([2, .1, 2], np.float32)
    with pytest.raises(DataError, match='100 x 100 draws'): env.reset(seed=0)


def test_follower_fails_in_one_line(flats):
    env = make_habitat('HabitatImageNav-room_0'); obs, _ = env.reset(seed=0); expert = FollowerExpert(); expert.reset(env, 0)
    env.goal = np.array([99., 0, 0]);
    with pytest.raises(ExpertFailed, match='no way'): expert.act(env, obs)
    env.goal = env.sim.get_agent(0).get_state().position
    with pytest.raises(ExpertFailed, match='stops'): expert.act(env, obs)
    with pytest.raises(DataError, match='HabitatImageNav only'): expert.reset(LineWorld(), 0)


def test_logs_are_quiet_unless_asked(monkeypatch):
    fake_habitat.install(monkeypatch); names = 'GLOG_minloglevel', 'MAGNUM_LOG', 'HABITAT_SIM_LOG'
    for n in names: monkeypatch.delenv(n, raising=False)
    monkeypatch.setenv('VERBOSE_HABITAT', '1'); import_habitat(); assert not any(n in os.environ for n in names)
    monkeypatch.delenv('VERBOSE_HABITAT'); import_habitat(); assert [os.environ.pop(n) for n in names] == ['2', 'quiet', 'quiet']


def test_without_habitat_sim(monkeypatch):
    monkeypatch.setitem(sys.modules, 'habitat_sim', None)
    with pytest.raises(MissingExtra) as e: make_habitat('HabitatImageNav-room_0')
    assert all(w in str(e.value) for w in ('no wheel', 'conda install', 'ImageNav-one_room')) and '\n' not in str(e.value)


@pytest.mark.parametrize('call,words', [(lambda: make_habitat('HabitatImageNav-rom_0'), "did you mean 'room_0'"), (lambda: make_habitat('HabitatImageNav-room_7'), 'is not in'), (lambda: make_habitat('Habitat-x'), 'HabitatImageNav-<scene>'),
    (lambda: make_habitat('HabitatImageNav-room_0', max_steps=0), 'max_steps'), (lambda: make_habitat('HabitatImageNav-room_0', size='x'), 'size must be')])
def test_wrong_input(flats, call, words):
    with pytest.raises(UserError, match=words) as e: call()
    assert '\n' not in str(e.value) and isinstance(e.value, (ConfigError, DataError))


def test_no_navigation_mesh(flats, monkeypatch):
    monkeypatch.setattr(fake_habitat.PathFinder, 'is_loaded', False)
    with pytest.raises(DataError, match='navmesh'): make_habitat('HabitatImageNav-room_0')
    assert fake_habitat.Simulator.made[-1].closed
