"Experts by name, classic control by formula, episodes recorded while acting, P13 for every family that is installed"
import sys

import numpy as np, pytest

from vislearn.control.envs import load_name, make_env
from vislearn.control.experts import expert_kinds, make_expert, record_episode
from vislearn.control.wrappers import ExpertFailed, LineWorld
from vislearn.core import ConfigError


@pytest.mark.parametrize('name, least', [('CartPole-v1', 475), ('Pendulum-v1', -250), ('MountainCar-v0', -130), ('MountainCarContinuous-v0', 80), ('Acrobot-v1', -150)])
def test_classic_control_by_formula(name, least):
    env = make_env(name, pixels=False); got = [record_episode(env, make_expert(name), seed) for seed in range(10)]
    assert np.mean([e.reward.sum() for e in got]) >= least and all(e.success is None for e in got)


@pytest.mark.parametrize('package, name, n, share', [('minigrid', 'MiniGrid-DoorKey-8x8-v0', 20, .99), ('minigrid', 'BabyAI-GoToRedBall-v0', 20, .99), ('minigrid', 'BabyAI-KeyInBox-v0', 5, .99), ('metaworld', 'MetaWorld-drawer-open', 3, .99), ('miniworld', 'ImageNav-one_room', 10, .99), (None, 'Reach-discrete', 10, .9)])
def test_P13_experts_by_name(package, name, n, share):
    if package: pytest.importorskip(package)
    env, expert = make_env(name, pixels=False), make_expert(name)
    try: assert np.mean([record_episode(env, expert, seed).success for seed in range(n)]) >= share
    finally: env.close()


def test_every_expert_can_be_found():
    "The table points at classes that exist, with a name, reset and act."
    for name in ('MiniGrid-Empty-5x5-v0', 'BabyAI-GoTo-v0', 'Atari-Pong', 'MetaWorld-reach', 'DMC-walker-walk', 'HMS-pen-v0', 'ImageNav-one_room', 'HabitatImageNav-room_0', 'Reach-discrete', 'CartPole-v1'):
        assert expert_kinds(name), name
        for path in expert_kinds(name).values():
            cls = load_name(path); assert isinstance(cls.name, str) and callable(cls.reset) and callable(cls.act), path


def test_recorded_steps_belong_together():
    "Frame t is what action t was chosen from: playing the actions again gives the same frames and rewards."
    pytest.importorskip('minigrid')
    env = make_env('MiniGrid-DoorKey-6x6-v0'); e = record_episode(env, make_expert('MiniGrid-DoorKey-6x6-v0'), 4); obs, _ = env.reset(seed=4)
    assert e.success and e.seed == 4 and e.action.dtype == np.int64 and e.reward.dtype == np.float32 and len(e.action) == len(e.reward) == len(e.obs['pixels'])
    for t, action in enumerate(e.action):
        assert np.array_equal(obs['pixels'], e.obs['pixels'][t]) and np.array_equal(obs['state'], e.obs['state'][t])
        obs, reward, *_ = env.step(action); assert np.float32(reward) == e.reward[t]


def test_record_with_a_function_and_a_limit():
    e = record_episode(LineWorld(), lambda obs: 1, 0); assert e.success is True and e.obs['pixels'].shape == (len(e.action), 8, 72, 3) and e.reward.sum() == pytest.approx(1-.1*len(e.action))
    e = record_episode(LineWorld(), lambda obs: 0, 0, most=4); assert e.success is False and len(e.action) == 4
    e = record_episode(make_env('Pendulum-v1', pixels=False), lambda obs: np.array([.5]), 0, most=3); assert e.action.shape == (3, 1) and e.action.dtype == np.float32 and e.success is None


def test_expert_without_a_plan_raises():
    class Lost:
        name = 'lost'
        def reset(self, env, seed): raise ExpertFailed('LineWorld: no way')
        def act(self, env, obs): return 0
    with pytest.raises(ExpertFailed, match='no way'): record_episode(LineWorld(), Lost(), 0)


def test_mistakes_in_one_line():
    for call, text in [(lambda: make_expert('MiniWorld-Hallway'), 'there is no expert for MiniWorld-Hallway'), (lambda: make_expert('Taxi-v4'), 'there is no expert for Taxi-v4'), (lambda: make_expert('MiniGrid-Empty-5x5-v0', 'bot'), "no expert 'bot' for MiniGrid-Empty-5x5-v0: bfs"),
            (lambda: make_expert('CartPole-v1', options=dict(gain=2)), "has no option 'gain'"), (lambda: make_expert('Atari-Tennis') if 'ale_py' in sys.modules or pytest.importorskip('ale_py') else None, 'there is no expert for Atari-Tennis')]:
        with pytest.raises(ConfigError) as e: call()
        assert text in str(e.value) and '\n' not in str(e.value)


def test_options_reach_the_expert():
    assert make_expert('MiniGrid-Empty-5x5-v0', options=dict(most=7)).most == 7
