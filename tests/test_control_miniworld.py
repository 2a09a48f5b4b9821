"MiniWorld's own environments through the wing's interface: same pictures as MiniWorld, own rooms, nothing left, no chatter"
import os, subprocess, sys

import numpy as np, pytest

from vislearn.control.miniworld import import_miniworld, make_miniworld, miniworld_names
from vislearn.core import ConfigError


def play(env, seed, n=6):
    obs, _ = env.reset(seed=seed); rng = np.random.default_rng(seed); film = [obs]
    for _ in range(n):
        obs, r, ended, cut, info = env.step(int(rng.integers(env.action_space.n))); film.append(obs | dict(reward=r, info=info))
        if ended or cut: break
    return film


@pytest.mark.parametrize('name', miniworld_names())
def test_every_world_keeps_the_contract(name):
    env = make_miniworld(name, size=32); films = [play(env, seed) for seed in (3, 3, 4)]
    assert len(films[0]) == len(films[1]) and all((a['pixels'] == b['pixels']).all() and (a['state'] == b['state']).all() for a, b in zip(*films[:2]))
    assert all(env.observation_space['pixels'].contains(o['pixels']) and env.observation_space['state'].contains(o['state']) for film in films for o in film)
    assert any((a['pixels'] != b['pixels']).any() for a, b in zip(films[0], films[2]))
    assert ('success' in films[0][-1]['info']) == (env.card.success != 'none') and env.card.max_steps > 0
    env.close(); env.close()


def test_pictures_are_miniworlds_bit_for_bit():
    "One process per side: MiniWorld as it comes, and ours."
    code = '''import sys, hashlib, numpy as np
from vislearn.control.miniworld import import_miniworld, make_miniworld
import_miniworld(); import gymnasium as gym
for name in ("FourRooms", "PickupObjects"):
    if sys.argv[1] == "ours": env = make_miniworld("MiniWorld-" + name); look = lambda o: o["pixels"]
    else: env = gym.make("MiniWorld-" + name + "-v0").unwrapped; look = lambda o: o
    films = [look(env.reset(seed=2)[0])] + [look(env.step(a)[0]) for a in (2, 2, 0, 1, 2, 0, 0, 2)]
    print("FILM", name, hashlib.sha256(np.stack(films).tobytes()).hexdigest(), np.stack(films).mean().round(1))
    if sys.argv[1] == "ours": env.close()'''
    started = {side: subprocess.Popen([sys.executable, '-c', code, side], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | dict(OMP_NUM_THREADS='1')) for side in ('ours', 'theirs')}
    out = {side: p.communicate() for side, p in started.items()}
    films = {side: [line for line in o[0].splitlines() if line.startswith('FILM')] for side, o in out.items()}
    assert len(films["ours"]) == 2 and films['ours'] == films['theirs']
    assert out['ours'][0].splitlines() == films['ours'] and out['ours'][1] == '' # no chatter, no complaints at exit


def test_two_worlds_in_one_process():
    a = make_miniworld('MiniWorld-Maze'); b = make_miniworld('MiniWorld-Maze')
    alone = [o['pixels'] for o in play(a, 1)]
    a.reset(seed=1); b.reset(seed=2) # b builds its maze after a
    both = [a.observe()['pixels']]; rng = np.random.default_rng(1)
    for _ in range(len(alone)-1): both.append(a.step(int(rng.integers(a.action_space.n)))[0]['pixels']); b.step(0)
    assert all((x == y).all() for x, y in zip(alone, both))
    a.close(); assert b.observe()['pixels'].std() > 1; b.close() # closing one leaves the other alone


def test_making_and_closing_leaves_nothing():
    from pyglet import gl
    keep = make_miniworld('MiniWorld-OneRoom'); alive = lambda: sum(bool(gl.glIsTexture(i)) for i in range(1, 500)); before = alive()
    for _ in range(3):
        env = make_miniworld('MiniWorld-OneRoom', size=256); during = alive(); env.close(); keep.world.shadow_window.switch_to()
        assert during == before + 4 and alive() == before # two buffers of two textures while it lives
    keep.close()


def test_state_follows_the_things():
    env = make_miniworld('MiniWorld-PickupObjects', pixels=False); obs, _ = env.reset(seed=0)
    assert 'pixels' not in obs and obs['state'].shape == (4 + 3*5,) and (obs['state'][6::3] == 1).all()
    env.world.entities.remove(env.things[1]); assert env.observe()['state'][4:].reshape(-1, 3)[:, 2].tolist() == [1, 0, 1, 1, 1]
    env.close()


def test_reward_is_success():
    env = make_miniworld('MiniWorld-OneRoom', pixels=False); env.reset(seed=0)
    env.world.agent.pos = env.world.box.pos + np.array([.9, 0, 0]); obs, r, ended, cut, info = env.step(0)
    assert r > 0 and ended and info['success'] is True and env.card.success == 'return>0'
    env.close()


@pytest.mark.parametrize('call,words', [(lambda: make_miniworld('MiniWorld-OneRom'), "did you mean 'MiniWorld-OneRoom'"), (lambda: make_miniworld('MiniWorld-Maze', size='big'), 'size must be'),
    (lambda: make_miniworld('MiniWorld-Maze', max_steps=0), 'max_steps'), (lambda: make_miniworld('MiniWorld-Maze', render='faast'), 'render must be')])
def test_wrong_input(call, words):
    with pytest.raises(ConfigError, match=words) as e: call()
    assert '\n' not in str(e.value)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'miniworld', None)
    with pytest.raises(ConfigError, match=r'MiniWorld-Maze needs miniworld: pip install "vislearn\[miniworld\]"'): import_miniworld('MiniWorld-Maze')


def test_a_missing_library_names_the_packages():
    "Without EGL pyglet finds no screen; the message says what to install."
    code = '''import pyglet.lib as lib; load = lib.load_library
lib.load_library = lambda *names, **kw: (_ for _ in ()).throw(ImportError("Library \\"EGL\\" not found.")) if "EGL" in names else load(*names, **kw)
from vislearn.control.miniworld import make_miniworld
try: make_miniworld("MiniWorld-Maze")
except Exception as e: print(type(e).__name__, "|", e)'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1')).stdout
    assert out.startswith('RenderError |') and 'libegl1' in out and len(out.splitlines()) == 1, out
