"make_env: names old and new, the same contract and determinism in every family, mistakes in one line"
import re, subprocess, sys

import gymnasium as gym, numpy as np, pytest

from vislearn.control.envs import FAMILIES, env_names, make_env, resolve_name
from vislearn.control.wrappers import EnvCard, success_rule
from vislearn.core import ConfigError, DataError

ONE_EACH = {'minigrid': ['MiniGrid-DoorKey-8x8-v0', 'BabyAI-GoToRedBall-v0'], 'gym': ['CartPole-v1', 'Pendulum-v1'], 'toy': ['Reach-discrete', 'Reach-continuous'], 'atari': ['Atari-BreakoutDeterministic-v4'], 'dmc': ['DMC-cheetah-run'],
    'adroit': ['Adroit-pen'], 'metaworld': ['MetaWorld-drawer-open'], 'kitchen': ['Kitchen-microwave'], 'imagenav': ['ImageNav-one_room'], 'miniworld': ['MiniWorld-Hallway']}
PACKAGES = dict(minigrid='minigrid', atari='ale_py', dmc='dm_control', adroit='gymnasium_robotics', metaworld='metaworld', kitchen='gymnasium_robotics', imagenav='miniworld', miniworld='miniworld')
CASES = [(f, n) for f, names in ONE_EACH.items() for n in names]


def play(env, seed, steps=6):
    "Observations, rewards and ends of a random episode."
    obs, _ = env.reset(seed=seed); env.action_space.seed(seed); out = [obs]
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample()); out.append((obs, reward, terminated, truncated, info.get('success')))
        if terminated or truncated: break
    return out


def same(a, b):
    if isinstance(a, dict): return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
    return all(same(x, y) for x, y in zip(a, b)) and len(a) == len(b) if isinstance(a, (list, tuple)) else a == b


@pytest.mark.parametrize('family, name', CASES)
def test_contract_and_determinism_in_every_family(family, name):
    "Observations as described, a card that tells the truth, the same seed and actions: the same frames, in the same environment and in another one."
    if family in PACKAGES: pytest.importorskip(PACKAGES[family])
    env = make_env(name); card = env.get_wrapper_attr('card'); other = make_env(name)
    try:
        one = play(env, 11); assert same(one, play(env, 11)) and same(one, play(other, 11)) and not same(one[0], other.reset(seed=12)[0])
        for step in one:
            obs = step[0] if isinstance(step, tuple) else step
            assert env.observation_space.contains(obs) and set(obs) <= {'pixels', 'goal', 'state', 'proprio'} and ('goal' in obs) == card.goal
            assert obs['pixels'].dtype == np.uint8 and obs['pixels'].shape == (*card.size, 3) and obs['state'].dtype == np.float32 and obs['state'].ndim == 1
        assert all(s[4] is None if card.success == 'none' else isinstance(s[4], bool) for s in one[1:]), 'None where success is not defined, never False'
        space = env.action_space; assert isinstance(space, gym.spaces.Discrete) or space.dtype == np.float32 and np.isfinite(space.low).all() and np.isfinite(space.high).all()
        assert card.family == family and card.name == resolve_name(name)[0] and card.success == str(success_rule(name)) and EnvCard.of_dict(card.as_dict()) == card and card.skip == 1
        with pytest.raises(DataError, match=re.escape(card.name) + '.*action must be'): env.step(np.full((9, 9), 99.))
    finally: env.close(); other.close()


@pytest.mark.parametrize('family, name', CASES)
def test_without_pixels_nothing_is_rendered(family, name):
    if family in PACKAGES: pytest.importorskip(PACKAGES[family])
    full, bare = make_env(name), make_env(name, pixels=False)
    try:
        assert bare.get_wrapper_attr('card').size is None and not bare.get_wrapper_attr('card').goal and set(bare.observation_space) <= {'state', 'proprio'}
        for a, b in zip(play(full, 5), play(bare, 5)):
            a, b = (s[0] if isinstance(s, tuple) else s for s in (a, b)); assert np.array_equal(a['state'], b['state']), 'pictures change nothing'
    finally: full.close(); bare.close()


@pytest.mark.parametrize('family, name', [c for c in CASES if c[0] != 'toy'])
def test_sizes_and_skip_in_every_family(family, name):
    if family in PACKAGES: pytest.importorskip(PACKAGES[family])
    env = make_env(name, size=48, skip=3, max_steps=7)
    try:
        card = env.get_wrapper_attr('card'); assert (card.size, card.skip, card.max_steps) == ((48, 48), 3, 7)
        steps = play(env, 3, 9); assert len(steps) <= 4 and steps[-1][0]['pixels'].shape == (48, 48, 3) and (steps[-1][2] or steps[-1][3]), 'seven simulator steps are three actions'
    finally: env.close()
    with pytest.raises(ConfigError, match='size must be'): make_env(name, size=-3)


def test_names():
    assert resolve_name('HMS-pen-v0') == ('Adroit-pen', 'adroit') and resolve_name('HMS-relocate') == ('Adroit-relocate', 'adroit') and resolve_name('ALE/Pong-v5') == ('Atari-Pong-v5', 'atari')
    for name, family in [('HabitatImageNav-apartment_0', 'habitat'), ('ImageNav-four_rooms', 'imagenav'), ('DMC-reacher-easy', 'dmc'), ('MiniWorld-Maze', 'miniworld'), ('Acrobot-v1', 'gym'), ('BabyAI-GoTo', 'minigrid')]: assert resolve_name(name) == (name, family)
    assert make_env('BabyAI-GoToRedBall', pixels=False).get_wrapper_attr('card').name == 'BabyAI-GoToRedBall-v0'
    assert set(FAMILIES) == {make_family for make_family in (*ONE_EACH, 'habitat')}


@pytest.mark.parametrize('family', FAMILIES)
def test_listed_names_belong_to_their_family(family):
    if family in PACKAGES: pytest.importorskip(PACKAGES[family])
    names = env_names(family); assert names == sorted(set(names))
    assert all(resolve_name(n) == (n, family) for n in names) and len(names) >= 2 and set(ONE_EACH.get(family, [])) <= set(names)


@pytest.mark.parametrize('wrong, right', [('MiniGrid-DoorKey-9x9-v0', 'MiniGrid-DoorKey-8x8-v0'), ('MiniGird-FourRooms-v0', 'MiniGrid-FourRooms-v0'), ('BabyAI-GoToRedBal-v0', 'BabyAI-GoToRedBall-v0'), ('Atari-Brekout', 'Atari-Breakout'), ('CartPoel-v1', 'CartPole-v1'),
    ('Atarri-PongDeterministic-v4', 'Atari-PongDeterministic-v4'), ('DMC-walker-wlak', 'DMC-walker-walk'), ('Adroit-penn', 'Adroit-pen'), ('MetaWorld-drawer-opne', 'MetaWorld-drawer-open'), ('MetaWrld-hammer', 'MetaWorld-hammer'), ('ImageNav-one_rom', 'ImageNav-one_room'), ('MiniWorld-Halway', 'MiniWorld-Hallway')])
def test_unknown_names_suggest_the_nearest(wrong, right):
    for family, start in (('atari', 'Atari-'), ('dmc', 'DMC'), ('metaworld', 'Meta'), ('adroit', 'Adroit'), ('imagenav', 'ImageNav'), ('miniworld', 'MiniWorld')):
        if right.startswith(start): pytest.importorskip(PACKAGES[family])
    with pytest.raises(ConfigError) as e: make_env(wrong)
    assert f"did you mean '{right}'" in str(e.value) and '\n' not in str(e.value)


def test_extra_missing_is_named():
    "Blocked imports: one line that names the extra for every family, and the list of all environments is just shorter."
    names = [n for f, n in CASES if f in PACKAGES]
    code = f'''
import sys
for p in {sorted(set(PACKAGES.values()) | {'mujoco'})}: sys.modules[p] = None
from vislearn.control.envs import make_env, env_names
from vislearn.core import ConfigError
for name in {names}:
    try: make_env(name)
    except ConfigError as e: print(e)
assert 'CartPole-v1' in env_names() and 'MiniGrid-Empty-5x5-v0' not in env_names()'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True); assert out.returncode == 0, out.stderr[-800:]
    lines = out.stdout.splitlines(); assert len(lines) == len(names), out.stdout
    for (family, name), line in zip([c for c in CASES if c[0] in PACKAGES], lines):
        assert f'needs {PACKAGES[family]}' in line.replace('needs mujoco', f'needs {PACKAGES[family]}') and f'pip install "vislearn[{dict(atari="atari", minigrid="minigrid", imagenav="miniworld", miniworld="miniworld").get(family, "mujoco")}]"' in line, line


def test_settings_that_cannot_be():
    for bad in (0, -1, 2.5, 'two'):
        with pytest.raises(ConfigError, match='skip must be a whole number from 1'): make_env('CartPole-v1', skip=bad)
        with pytest.raises(ConfigError, match='max_steps must be'): make_env('CartPole-v1', max_steps=bad)
    with pytest.raises(ConfigError, match='skip_mode must be last, max or avg'): make_env('CartPole-v1', skip=2, skip_mode='mean')
    with pytest.raises(ConfigError, match='render must be one of'): make_env('CartPole-v1', render='nice')
    with pytest.raises(ConfigError, match='the name of an environment must be text'): make_env(None)
    with pytest.raises(ConfigError, match="unknown family 'atary'"): env_names('atary')


def test_vector_environments_take_it():
    "As the rollouts use it: several copies in one process, restarted row by row."
    pytest.importorskip('minigrid')
    venv = gym.vector.SyncVectorEnv([lambda: make_env('MiniGrid-Empty-5x5-v0', skip=2)]*3, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    obs, _ = venv.reset(seed=[1, 2, 3]); assert obs['pixels'].shape == (3, 56, 56, 3)
    obs, reward, terminated, truncated, info = venv.step(np.array([2, 2, 2])); assert info['success'].shape == (3,)
    obs, _ = venv.reset(seed=[4, None, None], options={'reset_mask': np.array([True, False, False])}); venv.close()
