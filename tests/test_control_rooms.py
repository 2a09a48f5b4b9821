"Image-goal navigation: the plan against MiniWorld's own collision test, walking distance, the reward, the expert, pictures"
import json, math, os, subprocess, sys

import numpy as np, pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from vislearn.control.floorplan import FloorPlan, Geodesic, PLANS, floor_plan
from vislearn.control.rooms import ImageNav, RoomCamera, RoomExpert, make_imagenav, show_route
from vislearn.control.wrappers import ExpertFailed, FrameSkip
from vislearn.core import ConfigError, DataError

NAMES = 'ImageNav-one_room', 'ImageNav-four_rooms'


def run(env, choose, seed):
    obs, _ = env.reset(seed=seed); steps = []
    while True:
        a = choose(obs); new, r, ended, cut, info = env.step(a); steps.append((obs, a, r)); obs = new
        if ended or cut: return steps, info, ended, obs


def expert_run(env, seed, expert=None):
    expert = expert or RoomExpert(); obs, _ = env.reset(seed=seed); expert.reset(env, seed); steps = []
    while True:
        a = expert.act(env, obs); new, r, ended, cut, info = env.step(a); steps.append((obs, a, r)); obs = new
        if ended or cut: return steps, info, ended, obs


@pytest.mark.parametrize('name', NAMES)
def test_motion_and_collisions_are_miniworlds(name):
    "Our geometry against the simulator's own `step`, thousands of random moves."
    env = make_imagenav(name, max_steps=10**9); world, rng = env.camera.world, np.random.default_rng(0); env.reset(seed=0)
    theirs = {0: world.actions.move_forward, 1: world.actions.turn_left, 2: world.actions.turn_right}; bumps = 0
    world.max_episode_steps = 10**9
    for i in range(1500):
        if i % 100 == 0: env.pos, env.heading = env.plan.draw(rng), rng.uniform(-7, 7); env.distance = env.to_goal(env.pos); world.agent.pos, world.agent.dir = np.array([env.pos[0], 0, env.pos[1]]), env.heading
        a = int(rng.choice(3, p=(.8, .1, .1))); before = env.pos
        world.step(theirs[a]); env._move(a); bumps += a == 0 and env.pos is before
        assert np.allclose(world.agent.pos[[0, 2]], env.pos, atol=1e-12) and world.agent.dir == env.heading, (i, a)
    assert bumps > 50
    env.close()


@pytest.mark.parametrize('name', PLANS)
def test_walls_are_miniworlds(name):
    plan = floor_plan(name); camera = RoomCamera(plan); segs = camera.world.wall_segs[:, :, [0, 2]]; camera.close()
    boxes = {tuple(np.round([s[:, 0].min(), s[:, 0].max(), s[:, 1].min(), s[:, 1].max()], 6)) for s in segs}
    assert boxes == {tuple(np.round(w, 6)) for w in plan.walls}


def _lattice(plan, goal, step):
    "Slow reference: shortest paths over a fine lattice with 32 directions, every edge tested for collision at many points."
    x0, x1, z0, z1 = plan.bounds; goal = np.asarray(goal)
    xs, zs = np.arange(x0, x1, step) + goal[0] % step, np.arange(z0, z1, step) + goal[1] % step
    pts = np.stack(np.meshgrid(xs, zs, indexing='ij'), -1); ok = plan.free(pts, -1e-9); index = -np.ones(ok.shape, int); index[ok] = np.arange(ok.sum())
    moves = [(i, j) for i in range(-3, 4) for j in range(-3, 4) if math.gcd(i, j) == 1]
    rows, cols, costs = [], [], []
    for i, j in moves:
        a = pts[max(0, -i):len(xs)-max(0, i), max(0, -j):len(zs)-max(0, j)]; b = pts[max(0, i):len(xs)+min(0, i), max(0, j):len(zs)+min(0, j)]
        ia, ib = index[max(0, -i):len(xs)-max(0, i), max(0, -j):len(zs)-max(0, j)], index[max(0, i):len(xs)+min(0, i), max(0, j):len(zs)+min(0, j)]
        good = (ia >= 0) & (ib >= 0)
        for t in np.linspace(0, 1, 7)[1:-1]: good &= plan.free(a + t*(b-a), -1e-9)
        rows.append(ia[good]); cols.append(ib[good]); costs.append(np.full(good.sum(), step*math.hypot(i, j)))
    graph = coo_matrix((np.concatenate(costs), (np.concatenate(rows), np.concatenate(cols))), shape=(ok.sum(), ok.sum())).tocsr()
    flat = pts[ok]; start = int(np.linalg.norm(flat - goal, axis=1).argmin())
    return flat, flat[start], dijkstra(graph, indices=start)


@pytest.mark.parametrize('name', PLANS)
def test_geodesic_is_the_shortest_way(name):
    plan = floor_plan(name); goal = dict(one_room=(1.4, 3.4), four_rooms=(-5.5, 2.))[name]
    flat, goal, slow = _lattice(plan, goal, .1); exact = Geodesic(plan, goal)
    rows = np.random.default_rng(0).choice(np.flatnonzero(np.isfinite(slow)), 300, replace=False)
    fast = np.array([exact(p) for p in flat[rows]])
    assert np.isfinite(fast).all()
    assert (fast >= np.linalg.norm(flat[rows] - goal, axis=1) - 1e-9).all()
    assert (fast <= slow[rows] + .02).all() and (fast >= slow[rows]*.97 - .02).all(), (fast - slow[rows]).max() # 32 directions: at most 1.3 % too long; the rings: a centimetre per corner


def test_geodesic_hand_values():
    four = floor_plan('four_rooms'); home = Geodesic(four, (4., 4.))
    assert home((4., 4.)) == 0 and math.isclose(home((-4., 4.)), 8.)
    # from the opposite room both ways around the block are equally long; lower bound: the string around the corner points themselves
    string = math.dist((-4, -4), (-3, -1)) + math.dist((-3, -1), (-1, 3)) + math.dist((-1, 3), (4, 4))
    assert string - 2 < home((-4., -4.)) < 14 and math.isclose(home((-4., -4.)), Geodesic(four, (-4., -4.))((4., 4.)), abs_tol=1e-9)
    # the taut string from (2, 2) to (2, -2): two tangents to the discs of 0.4 m around (3, 1) and (3, -1), two arcs, 2 m straight between them
    r, d = .4, math.sqrt(2); exact = 2*math.sqrt(d*d - r*r) + 2*r*(math.pi/4 + math.asin(r/d)) + 2
    assert exact - 1e-6 <= Geodesic(four, (2., 2.))((2., -2.)) < exact + .025
    assert Geodesic(four, (0., 0.))((4., 4.)) == math.inf


def test_sight_against_sampling():
    rng = np.random.default_rng(1)
    for plan in PLANS.values():
        a, b = (np.array([plan.draw(rng, -.3) for _ in range(300)]) for _ in 'ab')
        seen = np.concatenate([plan.sight(x[None], y[None]) for x, y in zip(a, b)]); assert (seen == plan.sight(a, b)).all()
        least = np.array([plan.clearance(x + np.linspace(0, 1, 2000)[:, None]*(y-x)).min() for x, y in zip(a, b)]) - plan.body
        assert (least[seen] > -1e-3).all() and (least[~seen] < 1e-3).all() and .1 < seen.mean() < 1


@pytest.mark.parametrize('name,pixels', [(NAMES[0], True), (NAMES[0], False), (NAMES[1], False)])
def test_P12_motionless_policy_returns_the_step_cost(name, pixels):
    env = make_imagenav(name, pixels=pixels)
    for seed, action in ((0, 1), (1, 2)):
        steps, info, ended, _ = run(env, lambda obs: action, seed)
        assert len(steps) == env.card.max_steps and not ended and info['success'] is False
        assert math.isclose(sum(r for _, _, r in steps), -.01*env.card.max_steps, abs_tol=1e-9)
    env.close()


@pytest.mark.parametrize('name', NAMES)
def test_P13_expert_succeeds(name):
    env = make_imagenav(name, pixels=False)
    won = [expert_run(env, seed)[1]['success'] for seed in range(20)]
    assert sum(won) >= .99*20, won


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_P13_expert_succeeds_200_seeds(name):
    env = make_imagenav(name, pixels=False)
    lengths = [(len(steps), info['success']) for steps, info, _, _ in (expert_run(env, seed) for seed in range(1000, 1200))]
    assert sum(s for _, s in lengths) >= 198 and np.mean([n for n, _ in lengths]) < dict(zip(NAMES, (31.6, 92)))[name]


def test_return_is_known_in_advance():
    env = make_imagenav('ImageNav-one_room', pixels=False)
    for seed in range(5):
        env.reset(seed=seed); start = env.distance; steps, info, ended, _ = expert_run(env, seed)
        assert ended and math.isclose(sum(r for _, _, r in steps), start - info['distance'] + 2.5 - .01*len(steps), abs_tol=1e-9)
        assert info['distance'] < .6 <= start - .4


def test_forward_left_right():
    env = make_imagenav('ImageNav-one_room', pixels=False); env.reset(seed=0); env.pos, env.heading = np.zeros(2), 0.
    env.step(0); assert np.allclose(env.pos, (.15, 0))
    for _ in range(6): env.step(1)
    assert math.isclose(env.heading, math.pi/2); env.step(0); assert np.allclose(env.pos, (.15, -.15)) # left turns towards -z
    for _ in range(12): env.step(2)
    obs = env.step(0)[0]; assert np.allclose(obs['state'], [.15, 0, 0, -1, *env.goal], atol=1e-6)


def test_B27_a_seed_is_an_episode():
    a, b = make_imagenav('ImageNav-four_rooms'), make_imagenav('ImageNav-four_rooms'); b.reset(seed=99)
    actions = np.random.default_rng(0).integers(0, 3, 25)
    films = []
    for env in (a, b, a):
        obs, _ = env.reset(seed=5); film = [obs['pixels'], obs['goal'], obs['state']]
        for action in actions: obs = env.step(int(action))[0]; film += [obs['pixels'], obs['state']]
        films.append(film)
    assert all((x == y).all() for other in films[1:] for x, y in zip(films[0], other))
    assert (a.reset(seed=6)[0]['goal'] != films[0][1]).any()
    blind = make_imagenav('ImageNav-four_rooms', pixels=False); assert (blind.reset(seed=5)[0]['state'] == films[0][2]).all() # pictures change nothing
    a.close(); b.close()


def test_B2_recorded_frames_belong_to_the_plan():
    "Frames recorded while the expert acts are what the camera sees along the states it went through, and its actions lead from one to the next."
    env = make_imagenav('ImageNav-one_room'); steps, info, ended, last = expert_run(env, 3); camera = RoomCamera(env.plan)
    assert ended and info['success']
    replay = make_imagenav('ImageNav-one_room'); replay.reset(seed=3)
    for obs, action, _ in steps:
        x, z, cos, sin, gx, gz = obs['state'].astype(float)
        assert np.abs(camera(x, z, math.atan2(sin, cos)).astype(int) - obs['pixels']).mean() < 1
        assert np.allclose(replay.observe()['state'], obs['state']) and (obs['goal'] == steps[0][0]['goal']).all()
        replay.step(action)
    assert np.allclose(replay.observe()['state'], last['state'])
    for e in (env, replay, camera): e.close()


def test_goal_picture_is_taken_at_the_goal_once():
    env = make_imagenav('ImageNav-one_room'); taken = []; look = env.camera.world.take
    env.camera.world.take = lambda: taken.append((*env.camera.world.agent.pos[[0, 2]], env.camera.world.agent.dir)) or look()
    obs, _ = env.reset(seed=4); [env.step(1) for _ in range(5)]
    assert len(taken) == 1 + 1 + 5 and np.allclose(taken[0], (*env.goal, env.goal_heading))
    assert (env.camera(*env.goal, env.goal_heading) == obs['goal']).all()
    env.close()


def test_environments_share_one_camera_and_give_it_back():
    assert not RoomCamera._worlds
    envs = [make_imagenav('ImageNav-one_room') for _ in range(3)] + [make_imagenav('ImageNav-four_rooms')]
    assert len(RoomCamera._worlds) == 2
    first = envs[0].reset(seed=1)[0]['pixels']; envs[3].reset(seed=1)
    assert (envs[0].observe()['pixels'] == first).all() # four rooms do not show up in one room
    for env in envs[1:]: env.close(); env.close()
    assert (envs[0].observe()['pixels'] == first).all(); envs[0].close()
    assert not RoomCamera._worlds
    again = make_imagenav('ImageNav-one_room'); assert (again.reset(seed=1)[0]['pixels'] == first).all(); again.close() # textures survive
    with pytest.raises(DataError, match='closed'): again.observe()


@pytest.mark.parametrize('skip', (2, 4))
def test_expert_with_frame_skip(skip):
    env = FrameSkip(make_imagenav('ImageNav-four_rooms', pixels=False), skip)
    results = [expert_run(env, seed) for seed in range(8)]
    assert sum(info['success'] for _, info, _, _ in results) >= 8 and max(len(s) for s, *_ in results) < 200


def test_expert_gets_free():
    "Un-stick: the expert is put before a corner with a path that leads through the wall."
    env = make_imagenav('ImageNav-four_rooms', pixels=False); expert = RoomExpert(); obs, _ = env.reset(seed=0); expert.reset(env, 0)
    env.pos, env.heading = np.array([-1.45, 2.]), 0.; expert.path = np.array([[-1.45, 2.], [1.5, 2.]]); env.distance = env.to_goal(env.pos); places = []
    for _ in range(400):
        obs, _, ended, _, info = env.step(expert.act(env, obs)); places.append(env.pos)
        if ended: break
    assert info['success']


def test_expert_refuses():
    plan = FloorPlan('island', ((-2., 2., -2., 2.), (4., 6., 4., 6.))); env = ImageNav(plan, pixels=False)
    env.reset(seed=0); env.pos, env.goal = np.zeros(2), np.array([5., 5.])
    with pytest.raises(ExpertFailed, match='no way from'): RoomExpert().reset(env, 0)


def test_random_policy_is_poor():
    env, rng = make_imagenav('ImageNav-one_room', pixels=False), np.random.default_rng(0)
    won = [run(env, lambda obs: int(rng.integers(3)), seed)[1]['success'] for seed in range(40)]
    assert np.mean(won) < .5


@pytest.mark.parametrize('call,words', [(lambda: make_imagenav('ImageNav-four_room'), "did you mean 'ImageNav-four_rooms'"), (lambda: make_imagenav('ImageNav-one_room', size=3), 'size must be'),
    (lambda: make_imagenav('ImageNav-one_room', max_steps=-1), 'max_steps'), (lambda: make_imagenav('ImageNav-one_room', render='best'), 'render must be')])
def test_wrong_input(call, words):
    with pytest.raises(ConfigError, match=words) as e: call()
    assert '\n' not in str(e.value)


def test_import_takes_no_simulator_and_no_pixels_needs_none():
    code = '''import sys, json; from vislearn.control.rooms import make_imagenav, RoomExpert
env = make_imagenav("ImageNav-one_room", pixels=False); env.reset(seed=0); env.step(0)
print(json.dumps([m for m in ("miniworld", "pyglet", "minigrid", "mujoco", "matplotlib.pyplot") if m in sys.modules]))'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=os.environ | dict(OMP_NUM_THREADS='1')).stdout
    assert json.loads(out) == []


def test_route_is_drawn_from_states_alone():
    env = make_imagenav('ImageNav-four_rooms', pixels=False); steps, *_ = expert_run(env, 2)
    ax = show_route(env.plan, np.stack([s[0]['state'] for s in steps]), goal_heading=env.goal_heading)
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and len(ax.collections[0].get_offsets()) == len(steps) # z points down
    ax.figure.clear()
