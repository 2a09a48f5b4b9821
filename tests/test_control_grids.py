"Grid worlds against MiniGrid's own pictures, the true state, experts against brute force, P13"
import copy, hashlib, os, subprocess, sys
from collections import deque

import numpy as np, pytest

pytest.importorskip('minigrid')
import gymnasium as gym
from vislearn.control.grids import BotExpert, GridExpert, grid_names, gym_names, make_grid, make_gym
from vislearn.control.wrappers import ExpertFailed, FrameSkip, MissingExtra, Tally
from vislearn.core import ConfigError

EASY = ['MiniGrid-DoorKey-5x5-v0', 'MiniGrid-DoorKey-8x8-v0', 'MiniGrid-FourRooms-v0', 'MiniGrid-Empty-8x8-v0', 'MiniGrid-Empty-Random-6x6-v0', 'MiniGrid-MultiRoom-N2-S4-v0', 'MiniGrid-MultiRoom-N4-S5-v0', 'MiniGrid-SimpleCrossingS9N2-v0', 'MiniGrid-LavaCrossingS9N2-v0']
MORE = ['MiniGrid-DoorKey-16x16-v0', 'MiniGrid-MultiRoom-N6-v0', 'MiniGrid-SimpleCrossingS11N5-v0', 'MiniGrid-LavaCrossingS11N5-v0', 'MiniGrid-LavaGapS7-v0', 'MiniGrid-DistShift2-v0', 'MiniGrid-LockedRoom-v0', 'MiniGrid-Unlock-v0', 'MiniGrid-UnlockPickup-v0',
    'MiniGrid-BlockedUnlockPickup-v0', 'MiniGrid-Fetch-8x8-N3-v0', 'MiniGrid-GoToDoor-8x8-v0', 'MiniGrid-GoToObject-8x8-N2-v0', 'MiniGrid-PutNear-6x6-N2-v0', 'MiniGrid-RedBlueDoors-6x6-v0', 'MiniGrid-MemoryS13-v0', 'MiniGrid-Dynamic-Obstacles-8x8-v0', 'MiniGrid-KeyCorridorS3R3-v0']
BOT = ['BabyAI-GoToRedBall-v0', 'BabyAI-GoToLocal-v0', 'BabyAI-PickupLoc-v0', 'BabyAI-PutNextLocal-v0', 'BabyAI-OpenDoor-v0', 'BabyAI-UnlockLocal-v0', 'BabyAI-GoToObjMazeS4-v0', 'BabyAI-GoToSeqS5R2-v0']
BOT_MORE = ['BabyAI-GoTo-v0', 'BabyAI-Pickup-v0', 'BabyAI-UnblockPickup-v0', 'BabyAI-Synth-v0', 'BabyAI-GoToSeq-v0', 'BabyAI-MiniBossLevel-v0', 'BabyAI-BossLevelNoUnlock-v0', 'BabyAI-KeyCorridorS3R3-v0']


def solve(env, expert, seed):
    obs, _ = env.reset(seed=seed); expert.reset(env, seed); tally, ends = Tally(env.get_wrapper_attr('card').rule), False
    while not ends: obs, reward, terminated, truncated, info = env.step(expert.act(env, obs)); tally.add(reward, info); ends = terminated or truncated
    return tally


@pytest.mark.parametrize('name, tile', [('MiniGrid-DoorKey-8x8-v0', 8), ('MiniGrid-KeyCorridorS3R3-v0', 8), ('MiniGrid-LavaCrossingS9N2-v0', 5), ('MiniGrid-Dynamic-Obstacles-6x6-v0', 8), ('BabyAI-GoToLocal-v0', 12), ('BabyAI-BossLevel-v0', 8)])
def test_pictures_are_those_of_minigrid(name, tile):
    "The same seed and actions, drawn by MiniGrid's own wrapper: equal pixels."
    from minigrid.wrappers import RGBImgPartialObsWrapper
    theirs, mine, rng = RGBImgPartialObsWrapper(gym.make(name, disable_env_checker=True).unwrapped, tile_size=tile), make_grid(name, size=7*tile), np.random.default_rng(0)
    for seed in range(3):
        a, b = mine.reset(seed=seed)[0]['pixels'], theirs.reset(seed=seed)[0]['image']
        for _ in range(40):
            assert a.dtype == np.uint8 and np.array_equal(a, b)
            action = int(rng.choice([0, 1, 2, 2, 2, 3, 4, 5][:3 + 5*(mine.action_space.n > 3)])); a, mine_rest = (r := mine.step(action))[0]['pixels'], r[1:4]; b, their_rest = (r := theirs.step(action))[0]['image'], r[1:4]
            assert mine_rest == tuple(their_rest)
            if mine_rest[1] or mine_rest[2]: break
    assert len(mine._tiles.sheet) < 120


def test_other_sizes():
    big, small = make_grid('MiniGrid-DoorKey-8x8-v0', size=70), make_grid('MiniGrid-DoorKey-8x8-v0', size=(64, 64))
    a, b = (e.reset(seed=1)[0]['pixels'] for e in (big, small)); assert a.shape == (70, 70, 3) and b.shape == (64, 64, 3) and b.dtype == np.uint8
    assert abs(a.mean()-b.mean()) < 2 and small.card.size == (64, 64) and small.observation_space.contains(small.reset(seed=1)[0])
    for bad in (6, (64, 32), 'large', 99999):
        with pytest.raises(ConfigError, match='MiniGrid-DoorKey-8x8-v0: size must be'): make_grid('MiniGrid-DoorKey-8x8-v0', size=bad)


def named(env): return dict(zip(env.state_names, env._look()['state'].tolist()))


def s_front(env):
    "The agent's own frame: what it sees ahead is ahead, and blocked says what stepping forward would do."
    s, (x, y), (ux, uy), w = named(env), env.world.agent_pos, env.world.dir_vec, env.world; side = max(w.width, w.height)-1; o = w.grid.get(x+ux, y+uy)
    where = [(x + round(s[f'thing {i} ahead']*side)*ux - round(s[f'thing {i} right']*side)*uy, y + round(s[f'thing {i} ahead']*side)*uy + round(s[f'thing {i} right']*side)*ux) for i in range(env._state.rows) if s[f'thing {i} there']]
    there = [(round(s[f'thing {i} x']*(w.width-1)), round(s[f'thing {i} y']*(w.height-1))) for i in range(env._state.rows) if s[f'thing {i} there']]
    return where == there and s['blocked ahead'] == float(o is not None and not o.can_overlap())


def test_state_in_the_frame_of_the_agent():
    for name in ('MiniGrid-DoorKey-6x6-v0', 'MiniGrid-Unlock-v0', 'BabyAI-GoToLocal-v0'):
        env = make_grid(name, pixels=False); rng = np.random.default_rng(0); env.reset(seed=2)
        for _ in range(30):
            assert s_front(env)
            if any(env.step(int(rng.integers(3)))[2:4]): env.reset()


def test_state_tells_key_and_door():
    env = make_grid('MiniGrid-DoorKey-6x6-v0', pixels=False); obs, _ = env.reset(seed=3); assert list(obs) == ['state'] and len(env.state_names) == len(obs['state']) == env.observation_space['state'].shape[0]
    assert s_front(env)
    world, key = env.world, next(o for o in env.world.grid.grid if o and o.type == 'key'); s = named(env); n = [i for i in range(3) if s[f'thing {i} is key']][0]; d = [i for i in range(3) if s[f'thing {i} is door']][0]
    assert (s['x'], s['y']) == pytest.approx((world.agent_pos[0]/5, world.agent_pos[1]/5)) and s['carries'] == 0 and s[f'thing {d} open'] == -1
    assert (s[f'thing {n} x'], s[f'thing {n} y']) == pytest.approx((key.cur_pos[0]/5, key.cur_pos[1]/5)) and s['thing 0 is goal'] == 1 and s['thing 0 target'] == 1 and s[f'thing {n} is {key.color}'] == 1
    expert = GridExpert(); expert.reset(env); opened = held = False; ends = False
    while not ends:
        _, _, ends, _, _ = env.step(expert.act(env, {})); s = named(env)
        if world.carrying is key: held = True; assert s['carries'] == 1 and s['carried is key'] == 1 and (s[f'thing {n} x'], s[f'thing {n} y']) == (s['x'], s['y'])
        opened |= s[f'thing {d} open'] == 1
    assert held and opened and (s['x'], s['y']) == (s['thing 0 x'], s['thing 0 y'])
    walls = [o is not None and o.type == 'wall' for o in world.grid.grid]; assert [s[f'map {x} {y}'] for y in range(1, 5) for x in range(1, 5)] == [float(walls[y*6+x]) for y in range(1, 5) for x in range(1, 5)]


def test_state_names_the_target_of_the_mission():
    "BabyAI: colour and type of the first target are those of the mission, and its thing comes first, where the grid has it."
    env = make_grid('BabyAI-GoToLocal-v0', pixels=False); seen = set()
    for seed in range(20):
        env.reset(seed=seed); s = named(env); *_, colour, kind = env.mission.split(); seen.add((colour, kind))
        assert s['mission goto'] == s[f'mission is {colour}'] == s[f'mission is {kind}'] == 1 and s['thing 0 target'] == 1 and s[f'thing 0 is {colour}'] == s[f'thing 0 is {kind}'] == 1
        o = env.world.grid.get(round(s['thing 0 x']*7), round(s['thing 0 y']*7)); assert (o.color, o.type) == (colour, kind)
    assert len(seen) > 5
    env = make_grid('BabyAI-PutNextLocal-v0', pixels=False); env.reset(seed=0); assert named(env)['mission put'] == 1


def test_state_follows_a_thing_out_of_its_box():
    env = make_grid('BabyAI-KeyInBox-v0', pixels=False); env.reset(seed=1); s = named(env); key, box = ([i for i in range(env._state.rows) if s[f'thing {i} is {k}'] and s[f'thing {i} there']] for k in ('key', 'box'))
    assert len(key) == len(box) == 1 and (s[f'thing {key[0]} x'], s[f'thing {key[0]} y']) == (s[f'thing {box[0]} x'], s[f'thing {box[0]} y'])
    expert = GridExpert(); expert.reset(env)
    while named(env)[f'thing {box[0]} there']: env.step(expert.act(env, {}))
    s = named(env); assert s[f'thing {key[0]} there'] == 1 and s[f'thing {box[0]} x'] == 0


def digest():
    h = hashlib.sha256()
    for name in ('MiniGrid-MultiRoom-N6-v0', 'MiniGrid-ObstructedMaze-1Q-v1', 'BabyAI-GoToSeq-v0', 'BabyAI-SynthLoc-v0'):
        env = make_grid(name)
        for seed in (3, 4):
            obs, _ = env.reset(seed=seed); env.action_space.seed(seed); ends = False
            for _ in range(25):
                h.update(obs['pixels'].tobytes() + obs['state'].tobytes())
                if ends: break
                obs, _, a, b, _ = env.step(env.action_space.sample()); ends = a or b
    return h.hexdigest()


def test_same_seed_same_episode_in_another_process():
    "Seeds decide everything, whatever the order of sets; and nothing else is printed."
    code = f'import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); from test_control_grids import digest; print(digest())'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=os.environ | dict(PYTHONHASHSEED='77'), check=True).stdout
    assert out == digest() + '\n'


def test_success_comes_with_the_reward():
    env = make_grid('MiniGrid-Empty-5x5-v0', pixels=False, max_steps=3); env.reset(seed=0)
    for t in range(3): *_, terminated, truncated, info = env.step(0); assert info['success'] is False and truncated == (t == 2)
    assert env.card.max_steps == 3 and make_grid('MiniGrid-Empty-5x5-v0', max_steps=9999).card.max_steps == 100 and make_grid('BabyAI-GoTo-v0').card.max_steps == 0
    assert solve(make_grid('MiniGrid-Empty-5x5-v0', pixels=False), GridExpert(), 0).success is True


def brute_force(name, seed):
    "Length of the shortest way, found by stepping copies of MiniGrid itself, breadth first."
    world = gym.make(name, disable_env_checker=True).unwrapped; world.gen_obs = dict; world.reset(seed=seed)
    look = lambda w: (tuple(int(v) for v in w.agent_pos), w.agent_dir, w.carrying and (w.carrying.type, w.carrying.color), tuple((o.type, o.color, getattr(o, 'is_open', 0), getattr(o, 'is_locked', 0)) if o else 0 for o in w.grid.grid))
    seen, todo = {look(world)}, deque([(world, 0)])
    while todo:
        world, steps = todo.popleft()
        for action in range(7):
            new = copy.deepcopy(world); _, reward, terminated, _, _ = new.step(action)
            if reward > 0: return steps+1
            if not terminated and (k := look(new)) not in seen: seen.add(k); todo.append((new, steps+1))


@pytest.mark.parametrize('name', ['MiniGrid-DoorKey-5x5-v0', 'MiniGrid-LavaGapS5-v0', 'MiniGrid-GoToDoor-5x5-v0', 'MiniGrid-Fetch-5x5-N2-v0'])
def test_P13_search_is_exact(name):
    env = make_grid(name, pixels=False)
    for seed in range(2): assert solve(env, GridExpert(), seed).length == brute_force(name, seed)


@pytest.mark.parametrize('name', EASY + [pytest.param(n, marks=pytest.mark.slow) for n in MORE])
def test_P13_search_solves_minigrid(name):
    env = make_grid(name, pixels=False); done = [solve(env, GridExpert(), seed) for seed in range(20)]
    assert np.mean([t.success for t in done]) >= .99


@pytest.mark.parametrize('name', ['BabyAI-GoToLocal-v0', 'BabyAI-PickupLoc-v0', 'BabyAI-PutNextLocal-v0', 'BabyAI-KeyInBox-v0', 'BabyAI-UnlockLocal-v0'])
def test_P13_search_solves_babyai_and_is_shorter_than_the_bot(name):
    env = make_grid(name, pixels=False); done = [solve(env, GridExpert(), seed) for seed in range(10)]; assert all(t.success for t in done)
    if 'KeyInBox' not in name: assert sum(t.length for t in done) <= sum(solve(env, BotExpert(), seed).length for seed in range(10))


@pytest.mark.parametrize('name', BOT + [pytest.param(n, marks=pytest.mark.slow) for n in BOT_MORE])
def test_P13_bot_solves_babyai(name):
    env = make_grid(name, pixels=False); done = [solve(env, BotExpert(), seed) for seed in range(20)]
    assert np.mean([t.success for t in done]) >= .99


def test_expert_plans_again_when_somebody_else_acts():
    env = make_grid('MiniGrid-DoorKey-8x8-v0', pixels=False); rng = np.random.default_rng(0)
    for seed in range(5):
        obs, _ = env.reset(seed=seed); expert = GridExpert(); expert.reset(env, seed); ends = False; info = {}
        while not ends: action = int(rng.integers(3)) if rng.random() < .3 else expert.act(env, obs); obs, _, terminated, truncated, info = env.step(action); ends = terminated or truncated
        assert info['success']


def test_experts_say_no_in_one_line():
    env = make_grid('MiniGrid-DoorKey-5x5-v0', pixels=False); env.reset(seed=0)
    with pytest.raises(ConfigError, match='MiniGrid-DoorKey-5x5-v0 has no instructions for the bot: use the expert bfs'): BotExpert().reset(env, 0)
    skipped = FrameSkip(env, 2); skipped.reset(seed=0)
    with pytest.raises(ConfigError, match='skip must be 1'): GridExpert().reset(skipped, 0)
    cart = make_gym('CartPole-v1', pixels=False); cart.reset(seed=0)
    with pytest.raises(ConfigError, match='works in MiniGrid and BabyAI, not in CartPole-v1'): GridExpert().reset(cart, 0)
    big = make_grid('MiniGrid-KeyCorridorS6R3-v0', pixels=False); big.reset(seed=0)
    with pytest.raises(ExpertFailed, match='found no way to pickup among 50 situations'): GridExpert(most=50).reset(big, 0)


def random_steps(env, steps=10):
    obs, _ = env.reset(seed=0); env.action_space.seed(0); assert env.observation_space.contains(obs), {k: (v.shape, v.dtype) for k, v in obs.items()}
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample()); assert env.observation_space.contains(obs) and np.isfinite(reward) and ('success' in info) == (env.card.success != 'none')
        if terminated or truncated: obs, _ = env.reset()
    env.close()


@pytest.mark.parametrize('name', grid_names()[::12] + [pytest.param(n, marks=pytest.mark.slow) for n in grid_names() if n not in grid_names()[::12]])
def test_random_policy_in_every_grid_world(name): random_steps(make_grid(name))


@pytest.mark.parametrize('name', [n if not n.startswith(('Ant', 'Half', 'Hopper', 'Human', 'Inverted', 'Pusher', 'Reacher', 'Swimmer', 'Walker')) else pytest.param(n, marks=pytest.mark.slow) for n in gym_names()])
def test_random_policy_in_every_gym_task(name):
    "Where a package is missing, the message is one line and says what to install."
    for pixels in (False, True):
        try: env = make_gym(name, pixels=pixels)
        except ConfigError as e: assert '\n' not in str(e) and ('pip install' in str(e) or 'no true state' in str(e) or 'actions must be' in str(e)), str(e); continue
        random_steps(env); assert env.card.success == 'none'


def test_gym_state_is_the_original_observation():
    mine, theirs = make_gym('Pendulum-v1', size=32), gym.make('Pendulum-v1'); a, b = mine.reset(seed=5)[0], theirs.reset(seed=5)[0]; assert np.array_equal(a['state'], b) and a['pixels'].shape == (32, 32, 3)
    for _ in range(5): a, b = mine.step([1.])[0], theirs.step(np.array([1.], np.float32))[0]; assert np.array_equal(a['state'], b.astype(np.float32))
    whole, small = make_gym('CartPole-v1'), make_gym('CartPole-v1', size=(40, 60)); a, b = whole.reset(seed=0)[0]['pixels'], small.reset(seed=0)[0]['pixels']
    assert a.shape == (400, 600, 3) and np.abs(a.reshape(40, 10, 60, 10, 3).mean((1, 3))-b).max() <= 1, "shrunk by area, rounded twice"
    for env in (mine, theirs, whole, small): env.close()


def test_missing_extra_and_unknown_names(monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'BabyAI-GoToRedBall-v0'"): make_grid('BabyAI-GoToRedBal-v0')
    with pytest.raises(ConfigError, match="did you mean 'CartPole-v1'"): make_gym('CartPole-v')
    monkeypatch.setitem(sys.modules, 'minigrid', None)
    with pytest.raises(MissingExtra, match=r'^MiniGrid-Empty-5x5-v0 needs minigrid: pip install "vislearn\[minigrid\]"$'): make_grid('MiniGrid-Empty-5x5-v0')
