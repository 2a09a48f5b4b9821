"Atari: settings of old names, FIRE and idle steps in reset (B22), lives, memory as state, experts"
import hashlib, subprocess, sys

import numpy as np, pytest

pytest.importorskip('ale_py')
from vislearn.control.arcade import RamExpert, atari_names, atari_settings, make_atari
from vislearn.control.experts import record_episode
from vislearn.control.wrappers import FrameSkip, MissingExtra
from vislearn.core import ConfigError, DataError


@pytest.mark.parametrize('name, want', [('Atari-BreakoutDeterministic-v4', ('Breakout', 4, 0.)), ('Atari-SpaceInvadersDeterministic-v4', ('SpaceInvaders', 3, 0.)), ('Atari-PongDeterministic-v0', ('Pong', 4, .25)),
    ('Atari-PongNoFrameskip-v4', ('Pong', 1, 0.)), ('Atari-Pong-v4', ('Pong', (2, 5), 0.)), ('Atari-Pong-v0', ('Pong', (2, 5), .25)), ('Atari-SpaceInvaders-v5', ('SpaceInvaders', 4, .25)), ('Atari-ALE/Pong-v5', ('Pong', 4, .25)), ('Atari-Freeway', ('Freeway', 4, 0.))])
def test_old_names(name, want): assert atari_settings(name) == want


def test_settings_reach_the_emulator_and_the_card():
    env = make_atari('Atari-SpaceInvadersDeterministic-v4', pixels=False); env.reset(seed=0); before = env.world.ale.getEpisodeFrameNumber(); env.step(0)
    assert env.world.ale.getEpisodeFrameNumber()-before == 3 and env.world.ale.getFloat('repeat_action_probability') == 0. and env.card.render['frames'] == 3 and env.card.render['sticky'] == 0.
    env = make_atari('Atari-Pong-v5', pixels=False); assert env.world.ale.getFloat('repeat_action_probability') == .25 and env.card.render['sticky'] == .25
    env = make_atari('Atari-Pong'); assert env.card.name == 'Atari-PongDeterministic-v4' and env.card.size == (210, 160) and env.card.success == 'none' and env.card.max_steps == 27_000


def test_reset_presses_fire_and_idles():
    "B22: the ball of Breakout flies in the first observation, the picture is the present one, and episodes begin at different times."
    env = make_atari('Atari-BreakoutDeterministic-v4'); begun = set()
    for seed in range(12):
        obs, _ = env.reset(seed=seed); begun.add(env.world.ale.getEpisodeFrameNumber())
        assert np.array_equal(obs['pixels'], env.world.ale.getScreenRGB()) and np.array_equal(obs['state'], env.ram.astype(np.float32)/255)
    assert min(begun) >= 4 and max(begun) <= 4*31 and len(begun) > 5 and all(b % 4 == 0 for b in begun)
    env.reset(seed=3); a = env.ram.copy(); env.step(0); assert env.ram[99] != a[99] or env.ram[101] != a[101], 'the ball moves without FIRE'
    for _ in range(3): env.reset(); env.step(0)  # reset before the end of a game


def test_fire_after_a_lost_life():
    env = make_atari('Atari-BreakoutDeterministic-v4', pixels=False); env.reset(seed=1); lives = 5
    for _ in range(400):
        *_, ends, _, info = env.step(0)
        if info['lives'] < lives and not ends: env.step(0); assert env.ram[101] > 0, 'the next ball flies'; lives = info['lives']
        if ends: break
    assert ends and lives == 1, 'losing lives does not end the episode before the last one'


def test_games_without_fire_wait_for_nothing():
    env = make_atari('Atari-Freeway', pixels=False); env.reset(seed=0); assert 'FIRE' not in env.meanings and env.world.ale.getEpisodeFrameNumber() % 4 == 0


@pytest.mark.parametrize('name', ['Atari-PongDeterministic-v4', 'Atari-Breakout-v4', 'Atari-Seaquest-v5'])
def test_seed_decides_everything(name):
    "Also random frame skips and sticky actions, also in a second episode."
    def run(env):
        h = hashlib.sha256()
        for seed in (7, None):
            obs, _ = env.reset(seed=seed)
            if seed: env.action_space.seed(seed)
            for _ in range(60):
                h.update(obs['pixels'].tobytes()); obs, reward, a, b, _ = env.step(env.action_space.sample()); h.update(np.float64(reward).tobytes())
                if a or b: break
        return h.hexdigest()
    env = make_atari(name); one = run(env); assert run(env) == one == run(make_atari(name))
    env.reset(seed=8); env.action_space.seed(7); assert one != hashlib.sha256(env._look()['pixels'].tobytes()).hexdigest()


def test_sizes_and_skip():
    env = FrameSkip(make_atari('Atari-Pong', size=84), 2, 'max'); obs, _ = env.reset(seed=0); assert obs['pixels'].shape == (84, 84, 3) and env.observation_space.contains(obs)
    assert env.observation_space.contains(env.step(0)[0]) and list(make_atari('Atari-Pong', pixels=False).reset(seed=0)[0]) == ['state']
    with pytest.raises(ConfigError, match='Atari-Pong: size must be'): make_atari('Atari-Pong', size=(0, 84))
    short = make_atari('Atari-Pong', pixels=False, max_steps=3); short.reset(seed=0); assert [short.step(0)[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize('game, steps, least', [('Pong', 1100, 3), ('Breakout', 1500, 20), ('Freeway', 1000, 8)])
def test_experts_play(game, steps, least):
    name = f'Atari-{game}Deterministic-v4'; env = make_atari(name, pixels=False)
    assert np.mean([record_episode(env, RamExpert(name), seed, most=steps).reward.sum() for seed in (0, 1)]) >= least


@pytest.mark.slow
@pytest.mark.parametrize('game, least', [('Pong', 9), ('Breakout', 40), ('Freeway', 21)])
def test_experts_play_whole_games(game, least):
    "The scores of spec 10.4: +9, 49, 21."
    name = f'Atari-{game}Deterministic-v4'; env = make_atari(name, pixels=False)
    got = [record_episode(env, RamExpert(name), seed) for seed in range(5)]; assert np.mean([e.reward.sum() for e in got]) >= least and all(e.success is None for e in got)


def test_errors_in_one_line(monkeypatch):
    env = make_atari('Atari-Pong', pixels=False); env.reset(seed=0)
    with pytest.raises(DataError, match='Atari-PongDeterministic-v4: action must be a whole number from 0 to 5, got 6'): env.step(6)
    with pytest.raises(ConfigError, match="unknown Atari game 'Atari-Brekout-v4' \\(did you mean 'Atari-Breakout'"): make_atari('Atari-Brekout-v4')
    with pytest.raises(ConfigError, match='no such version: use Atari-PongDeterministic-v4'): make_atari('Atari-PongNoFrameskip-v5')
    with pytest.raises(ConfigError, match='there is no expert for Atari-Tennis: rules exist for Atari-PongDeterministic-v4'): RamExpert('Atari-Tennis')
    monkeypatch.setitem(sys.modules, 'ale_py', None)
    with pytest.raises(MissingExtra, match=r'^Atari-Pong needs ale_py: pip install "vislearn\[atari\]"$'): make_atari('Atari-Pong')


@pytest.mark.parametrize('name', atari_names()[::13] + [pytest.param(n, marks=pytest.mark.slow) for n in atari_names() if n not in atari_names()[::13]])
def test_random_policy_in_every_game(name):
    env = make_atari(name); obs, _ = env.reset(seed=0); env.action_space.seed(0)
    for _ in range(5):
        assert env.observation_space.contains(obs); obs, reward, a, b, info = env.step(env.action_space.sample()); assert 'success' not in info and np.isfinite(reward)
        if a or b: obs, _ = env.reset()
    env.close()


def test_nothing_is_printed_by_the_emulator():
    out = subprocess.run([sys.executable, '-c', 'from vislearn.control.arcade import make_atari; make_atari("Atari-Pong").reset(seed=0)'], capture_output=True, text=True); assert out.stdout + out.stderr == ''
