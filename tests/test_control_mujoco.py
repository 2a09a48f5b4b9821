"MuJoCo environments: sizes, seeds, success, rewards in closed form, pictures against the simulators' own, scripted experts"
import numpy as np, pytest

from vislearn.control.envs import env_names, make_env, resolve_name
from vislearn.control.experts import make_expert
from vislearn.control.mujoco import ADROIT, DmcTask, ScriptedExpert, adroit_reward, dmc_tasks, make_adroit, make_dmc, make_kitchen, make_metaworld, metaworld_tasks
from vislearn.control.wrappers import EnvCard, FrameSkip, Tally
from vislearn.core import ConfigError, DataError

MAKE = {'DMC': make_dmc, 'Adroit': make_adroit, 'HMS': make_adroit, 'MetaWorld': make_metaworld}
def make(name, **kwargs): return MAKE[name.split('-')[0]](name, **kwargs)
LISTED = ['assembly', 'bin-picking', 'button-press-topdown', 'drawer-open', 'hammer', 'push', 'reach']   # spec 10.4
# name: state, actions, default size of pictures, steps, success rule
TABLE = {'DMC-finger-spin': (9, 2, 84, 1000, 'none'), 'DMC-reacher-easy': (6, 2, 84, 1000, 'none'), 'DMC-reacher-hard': (6, 2, 84, 1000, 'none'), 'DMC-cheetah-run': (17, 6, 84, 1000, 'none'),
         'DMC-walker-stand': (24, 6, 84, 1000, 'none'), 'DMC-walker-walk': (24, 6, 84, 1000, 'none'), 'DMC-cartpole-swingup': (5, 1, 84, 1000, 'none'), 'DMC-ball_in_cup-catch': (8, 2, 84, 1000, 'none'),
         'HMS-pen-v0': (45, 24, 256, 200, 'count>20'), 'Adroit-pen': (45, 24, 256, 200, 'count>20'), 'Adroit-relocate': (39, 30, 256, 200, 'count>25'),
         'Adroit-door': (39, 28, 256, 200, 'count>25'), 'Adroit-hammer': (46, 26, 256, 200, 'count>25'), 'MetaWorld-drawer-open': (39, 4, 128, 500, 'any')}


def rollout(env, seed, n=5, action_seed=0):
    "States, pictures, rewards of n random steps."
    rng = np.random.default_rng(action_seed); obs, _ = env.reset(seed=seed); states, frames, rewards = [obs['state']], [obs.get('pixels')], []
    for _ in range(n):
        obs, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)); states.append(obs['state']); frames.append(obs.get('pixels')); rewards.append(reward)
    return np.stack(states), frames, np.array(rewards)


@pytest.mark.parametrize('name', TABLE)
def test_P01_sizes_of_the_table(name):
    state, actions, size, steps, rule = TABLE[name]; env = make(name, pixels=False)
    obs, info = env.reset(seed=3); after, reward, terminated, truncated, info = env.step(np.zeros(actions, np.float32))
    assert obs['state'].shape == after['state'].shape == (state,) and obs['state'].dtype == np.float32 and env.action_space.shape == (actions,)
    assert env.card.max_steps == steps and env.card.success == rule and env.task.size == size and not env.card.pixels and env.card.render == {}
    assert ('success' in info) == (rule != 'none') and set(obs) == {'state'} | ({'proprio'} if name.startswith('Meta') else set())
    assert isinstance(reward, float) and not terminated and not truncated and env.observation_space.contains(obs)
    env.close()


@pytest.mark.parametrize('name', ['DMC-cartpole-swingup', 'Adroit-relocate', 'MetaWorld-drawer-open'])
def test_same_seed_same_frames_and_other_seeds_other_starts(name):
    one, two = make(name, size=32), make(name, size=32)
    a = rollout(one, 7); rollout(one, 8); b = rollout(one, 7); c = rollout(two, 7)
    for other in (b, c): assert (a[0] == other[0]).all() and (a[2] == other[2]).all() and all((x == y).all() for x, y in zip(a[1], other[1]))
    starts = np.stack([one.reset(seed=s)[0]['state'] for s in range(6)])
    assert len(np.unique(starts, axis=0)) == 6, 'every seed has its own start'
    assert any((a[1][0] != one.reset(seed=s)[0]['pixels']).any() for s in (8, 9))
    assert a[1][0].shape == (32, 32, 3) and a[1][0].dtype == np.uint8 and a[1][0].std() > 5
    one.close(); two.close()


@pytest.mark.parametrize('name', ['DMC-reacher-easy', 'Adroit-pen', 'MetaWorld-reach'])
def test_no_replays_from_environments_made_anew(name):
    "The original's trap: each new environment object began with the same episode."
    first = [make(name, pixels=False).reset(seed=s)[0]['state'] for s in (0, 1)]
    assert (first[0] != first[1]).any()
    env = make(name, pixels=False); env.reset(seed=5); x = env.reset()[0]['state']; y = env.reset()[0]['state']; env.reset(seed=5)
    assert (x != y).any() and (env.reset()[0]['state'] == x).all(), 'without a seed the episodes go on, and from the same seed in the same way'


@pytest.mark.slow
@pytest.mark.parametrize('family', ['dmc', 'metaworld'])
def test_every_task_is_a_function_of_the_seed(family):
    names = [f'DMC-{t}' for t in dmc_tasks()] if family == 'dmc' else [f'MetaWorld-{t}' for t in metaworld_tasks()]
    for name in names:
        env = make(name, pixels=False); a = rollout(env, 1); b = rollout(env, 2); c = rollout(env, 1)
        assert (a[0] == c[0]).all() and (a[2] == c[2]).all(), name
        assert (a[0][0] != b[0][0]).any(), f'{name}: two seeds, one start'


def test_proprio_is_hand_and_gripper_of_metaworld():
    env = make_metaworld('MetaWorld-push', pixels=False); obs, _ = env.reset(seed=0)
    hand = env.task.env.get_endeff_pos()
    assert obs['proprio'].shape == (4,) and np.allclose(obs['proprio'][:3], hand, atol=1e-6) and (obs['proprio'] == obs['state'][:4]).all() and np.abs(obs['state'][-3:]).sum() > 0


def test_dmc_state_is_the_observation_one_after_another_and_actions_are_rescaled():
    from dm_control import suite
    env = make_dmc('DMC-cheetah-run', pixels=False); obs, _ = env.reset(seed=4)
    theirs = suite.load('cheetah', 'run', task_kwargs=dict(random=4)); step = theirs.reset()
    assert np.allclose(obs['state'], np.concatenate([step.observation['position'], step.observation['velocity']]))
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 6)):
        obs, reward, *_ = env.step(action); step = theirs.step(np.float32(action).astype(float))
        assert np.allclose(obs['state'], np.concatenate([step.observation['position'], step.observation['velocity']]), atol=1e-5) and np.isclose(reward, step.reward)
    task = DmcTask('DMC-lqr-lqr_2_1'); assert (task.low == -1).all() and (task.high == 1).all()
    task = DmcTask('DMC-cartpole-swingup'); task.start(0); task.low, task.high = np.array([-2.]), np.array([10.]); seen = []
    task.env.step = lambda action: seen.append(action) or task.now
    for a in (-1., 0., 1.): task.now = task.now._replace(reward=0.); task.advance(np.array([a]))
    assert [float(a[0]) for a in seen] == [-2., 4., 10.]


def test_rewards_of_adroit_in_closed_form():
    p = lambda *xyz: np.array(xyz, float)
    pen = lambda d, s, z=.2: adroit_reward('pen', dict(pen=p(d, 0, z), target=p(0, 0, z), axis=p(1, 0, 0), target_axis=p(s, 0, 0)))
    for d, s, z, bonus, goal in ((.2, .5, .2, 0, False), (.05, .92, .2, 10, False), (.05, .96, .2, 60, True), (.05, .96, .05, 55, True), (.08, .99, .2, 0, False)):
        r, g = pen(d, s, z); assert np.isclose(r, s - d + bonus) and g == goal
    relocate = lambda ball, palm, target: adroit_reward('relocate', dict(ball=ball, palm=palm, target=target))
    assert np.isclose(relocate(p(0, 0, .03), p(.3, 0, .03), p(0, 0, .2))[0], -.03)
    r, g = relocate(p(0, 0, .1), p(0, 0, .3), p(0, 0, .18)); assert np.isclose(r, -.02 + 1 - .06 - .04 + 10) and g
    assert np.isclose(relocate(p(0, 0, .1), p(0, 0, .1), p(0, 0, .1))[0], 31) and not relocate(p(0, 0, .1), p(0, 0, .1), p(0, 0, .3))[1]
    door = lambda q, v=0.: adroit_reward('door', dict(palm=p(0, 0, 0), handle=p(0, .5, 0), hinge=q, qvel=np.full(30, v)))
    for q, bonus, goal in ((0., 0, False), (.3, 2, False), (1.1, 10, False), (1.34, 10, False), (1.4, 20, True)):
        r, g = door(q, 2.); assert np.isclose(r, -.05 - .1*(q-1.57)**2 - 1e-5*120 + bonus) and g == goal
    hammer = lambda gap, z: adroit_reward('hammer', dict(palm=p(0, 0, 1), hammer=p(0, 0, z), head=p(.1, 0, z), nail=p(.1, 0, .3), goal=p(.1, gap, .3), qvel=np.array([3., 4.])))
    for gap, z, bonus, goal in ((.05, .03, 0, False), (.05, .1, 2, False), (.015, .1, 27, False), (.005, .1, 102, True)):
        r, g = hammer(gap, z); assert np.isclose(r, -.1*(1-z) - abs(.3-z) - 10*gap - .05 + bonus) and g == goal


@pytest.mark.parametrize('task', ADROIT)
def test_rewards_of_adroit_against_the_package(task):
    "Same numbers as gymnasium-robotics, but for the sign of the distance to the palm that 1.4.2 has wrong (0 for pen)."
    env = make_adroit(f'Adroit-{task}', pixels=False, drop_ends=False); env.reset(seed=2); sim = env.task.env; rng = np.random.default_rng(1)
    object_ = dict(relocate='ball', door='handle', hammer='hammer').get(task); seen = []
    inner = sim.step
    def step(a): seen.append(inner(a)); return seen[-1]
    sim.step = step
    for _ in range(15):
        _, reward, _, _, info = env.step(rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)); now = env.task.measures()
        wrong = .2*np.linalg.norm(now['palm'] - now[object_]) if object_ else 0.
        assert np.isclose(reward, seen[-1][1] - wrong) and info['success'] == bool(seen[-1][4]['success'])


def test_pen_ends_when_dropped_only_if_asked():
    for drop_ends in (True, False):
        env = make_adroit('Adroit-pen', pixels=False, drop_ends=drop_ends); env.reset(seed=0); ended, rng = False, np.random.default_rng(0)
        for _ in range(60):
            *_, reward, ended, truncated, _ = env.step(rng.uniform(-1, 1, 24).astype(np.float32))
            if ended: assert env.task.measures()['pen'][2] < .075 and reward < 0; break
        assert ended == drop_ends and not truncated


def test_success_rules_judge_whole_episodes():
    rule = lambda name: EnvCard('x', 'y', False, None, success=make(name, pixels=False).card.success).rule
    assert [rule('HMS-pen-v0')(n, False, 0.) for n in (20, 21)] == [False, True] and [rule('Adroit-door')(n, False, 0.) for n in (25, 26)] == [False, True]
    assert rule('DMC-walker-walk')(0, False, 500.) is None and rule('MetaWorld-reach')(1, False, 0.) is True


def test_time_limit_and_skip():
    env = make_metaworld('MetaWorld-reach', pixels=False, max_steps=7); env.reset(seed=0)
    ends = [env.step(np.zeros(4, np.float32))[2:4] for _ in range(7)]
    assert ends == [(False, False)]*6 + [(False, True)]
    with pytest.raises(DataError, match='call reset first'): env.step(np.zeros(4))
    env = FrameSkip(make_dmc('DMC-reacher-easy', pixels=False, max_steps=9), 4); env.reset(seed=0)
    assert [env.step(np.zeros(2, np.float32))[3] for _ in range(3)] == [False, False, True]
    long = make_metaworld('MetaWorld-reach', pixels=False, max_steps=600); long.reset(seed=0)
    for i in range(520): out = long.step(np.zeros(4, np.float32))
    assert not out[3], 'the limit of the package (500) does not end a longer episode'


def test_pictures_are_those_of_the_simulator():
    "Profile exact: equal to dm_control's and Meta-World's own, whose camera hangs upside down."
    env = make_dmc('DMC-walker-walk', render='exact', size=(64, 80)); frame = env.reset(seed=1)[0]['pixels']
    assert (frame == env.task.env.physics.render(64, 80, camera_id=0)).all() and (env.render() == frame).all(); env.task.env.physics.free(); env.close()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    env = make_metaworld('MetaWorld-drawer-open', render='exact', size=64); frame = env.reset(seed=1)[0]['pixels']; env.close()
    sim = ALL_V3_ENVIRONMENTS['drawer-open-v3'](render_mode='rgb_array', camera_name='corner2', width=64, height=64)
    sim._freeze_rand_vec, sim._set_task_called, sim.seeded_rand_vec = False, True, True; sim.seed(1); sim.reset()
    assert (frame == sim.render()[::-1, ::-1]).all(); sim.close()
    assert env.card.render['turned'] is True and env.card.render['camera'] == 'corner2' and env.card.render['profile'] == 'exact'


def test_render_without_pixels_and_cards_that_differ():
    blind = make_metaworld('MetaWorld-reach', pixels=False); blind.reset(seed=0); assert blind.render().shape == (128, 128, 3); blind.close()
    fast, exact = make_metaworld('MetaWorld-reach', size=16), make_metaworld('MetaWorld-reach', size=16, render='exact')
    with pytest.raises(DataError, match='render profile'): fast.card.check_same(exact.card, 'data and environment')
    assert EnvCard.of_dict(fast.card.as_dict()) == fast.card and fast.card.versions['mujoco'].startswith('3.') and {'mujoco', 'metaworld'} == set(fast.card.versions)
    fast.close(); exact.close()


@pytest.mark.parametrize('name,text', [('DMC-cheetah-walk', "did you mean 'DMC-cheetah-run'"), ('DMC-cheetah', 'unknown environment'), ('Adroit-dor', "did you mean 'Adroit-door'"),
                                       ('HMS-grasp-v0', 'unknown environment'), ('MetaWorld-drawer-opened', "did you mean 'MetaWorld-drawer-open'")])
def test_unknown_names(name, text):
    with pytest.raises(ConfigError, match='^[^\n]*$') as e: make(name, pixels=False)
    assert text in str(e.value) and 'vislearn[mujoco]' in str(e.value)


@pytest.mark.parametrize('action,text', [(np.zeros(3), 'must be 4'), (np.array([0, 0, np.nan, 0]), 'finite'), (np.array([0, 0, 1.5, 0]), 'from -1 to 1'), (2, 'must be 4')])
def test_wrong_actions(action, text):
    env = make_metaworld('MetaWorld-reach', pixels=False); env.reset(seed=0)
    with pytest.raises(DataError, match=text): env.step(action)


@pytest.mark.parametrize('kwargs,text', [(dict(size=0), 'size'), (dict(size=(3, 4, 5)), 'size'), (dict(render='nice'), 'render must be one of'), (dict(max_steps=0), 'max_steps')])
def test_wrong_options(kwargs, text):
    with pytest.raises(ConfigError, match=text): make_metaworld('MetaWorld-reach', pixels=False, **kwargs)


def scripted(name, seed, most=500):
    env, expert = make_metaworld(name, pixels=False), ScriptedExpert(name); obs, _ = env.reset(seed=seed); expert.reset(env, seed)
    for i in range(most):
        obs, _, _, _, info = env.step(expert.act(env, obs))
        if info['success']: return i+1
    return None


@pytest.mark.parametrize('task', ['button-press-topdown', 'drawer-open', 'reach'])
def test_P13_scripted_experts_fast(task):
    steps = [scripted(f'MetaWorld-{task}', s) for s in range(5)]
    assert all(steps) and 10 < np.mean(steps) < 150


@pytest.mark.slow
@pytest.mark.parametrize('task', LISTED)
def test_P13_scripted_experts(task):
    steps = [scripted(f'MetaWorld-{task}', s) for s in range(20)]
    assert all(steps), f'failed: {[s for s, n in enumerate(steps) if not n]}'


def test_scripted_expert_is_repeatable_through_wrappers():
    name = 'MetaWorld-button-press'; expert = ScriptedExpert(name); taken = []
    for env in (make_metaworld(name, pixels=False), FrameSkip(make_metaworld(name, pixels=False), 1)):
        obs, _ = env.reset(seed=1); expert.reset(env, 1); acts = []
        for _ in range(10): acts.append(expert.act(env, obs)); obs = env.step(acts[-1])[0]
        taken.append(np.stack(acts))
    assert (taken[0] == taken[1]).all() and taken[0].dtype == np.float32 and np.abs(taken[0]).max() <= 1
    with pytest.raises(ConfigError, match="did you mean 'MetaWorld-reach'"): ScriptedExpert('MetaWorld-reech')


def test_metaworld_ends_with_success_unless_told():
    "The same actions: one episode ends at the first solved step, the other goes on to the time limit."
    from vislearn.control.experts import record_episode
    name, lengths = 'MetaWorld-drawer-open', []
    for until in (True, False):
        env = make_metaworld(name, pixels=False, until_success=until); e = record_episode(env, ScriptedExpert(name), 3); lengths.append(len(e.action)); assert e.success
    assert lengths[0]<150 and lengths[1]==500


def test_kitchen_tasks_are_counted_until_all_are_done():
    "Objects put where they should be: a reward for each, success and the end with the last; a completed task counts even if it is undone."
    env = make_kitchen('Kitchen-microwave+slide_cabinet', pixels=False); sim = env.task.env; still = np.zeros(9, np.float32)
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES
    def put(task, share=1.): sim.data.qpos[OBS_ELEMENT_INDICES[task]] = share*OBS_ELEMENT_GOALS[task]
    for _ in range(2): # the same in the next episode
        env.reset(seed=4); tally = Tally(env.card.rule); said = []
        for change in (lambda: None, lambda: put('microwave'), lambda: put('microwave', 0.), lambda: put('slide cabinet')):
            change(); obs, reward, ended, late, info = env.step(still); tally.add(reward, info); said.append((reward, ended, late, info['success'])); assert np.allclose(obs['state'][:18], obs['proprio']) and np.allclose(obs['state'][18:39], sim.data.qpos[9:], atol=.01)
        assert said == [(0., False, False, False), (1., False, False, False), (0., False, False, False), (1., True, False, True)] and tally.success is True
    env.close()


def test_kitchen_names_and_pictures():
    assert env_names('kitchen')[:2] == ['Kitchen', 'Kitchen-bottom_burner'] and resolve_name('FrankaKitchen-v1') == ('Kitchen', 'kitchen') == resolve_name('Kitchen')
    env = make_env('FrankaKitchen-v1', size=64); assert env.card.name == 'Kitchen' and len(env.task.env.goal) == 7 and env.card.max_steps == 280 and env.card.render['profile'] == 'fast'
    obs, _ = env.reset(seed=1); x = obs['pixels'].astype(float); assert x.std() > 30 and 40 < x.mean() < 200, 'the kitchen fills the picture'
    before = x.copy(); env.task.data.qpos[22] = -.75; moved = env.step(np.zeros(9, np.float32))[0]['pixels'].astype(float); changed = np.argwhere(abs(moved - before).max(-1) > 30); assert len(changed) > 20 and changed[:, 1].mean() < 32, 'the door of the microwave, left'
    env.close()
    for name, said in (('Kitchen-micro', 'unknown environment'), ('Kitchen-', 'unknown environment'), ('Kitchen-kettle+kettle', 'named twice')):
        with pytest.raises(ConfigError, match=said): make_env(name)
    with pytest.raises(ConfigError, match='there is no expert for Kitchen: experts exist for'): make_expert('Kitchen')
