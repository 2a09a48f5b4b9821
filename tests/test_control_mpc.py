"Planning with the simulator: predictions against what then happens, scores against the suite's rewards, the update against a slow one, experts"
from dataclasses import replace

import numpy as np, pytest

from vislearn.control.mpc import PLANS, MpcExpert, Mppi, PlanConfig, copy_settings, knot_matrix, planning_model
from vislearn.control.mujoco import ADROIT, make_adroit, make_dmc
from vislearn.control.render import import_mujoco
from vislearn.control.wrappers import ExpertFailed, FrameSkip
from vislearn.core import ConfigError

MASS = '<mujoco><worldbody><body><joint type="slide" axis="1 0 0"/><geom size=".1" mass="1"/></body></worldbody><actuator><motor joint=""/></actuator></mujoco>'.replace('axis', 'name="x" axis').replace('joint=""', 'joint="x"')


def make(name): return (make_adroit if name.startswith('Adroit') else make_dmc)(name, pixels=False)
def mass(score=lambda m: -np.abs(m['qpos'][..., 0] - .5), **kwargs):
    mj = import_mujoco(); model = mj.MjModel.from_xml_string(MASS)
    return Mppi(model, score, [-1.], [1.], **(dict(substeps=10, config=PlanConfig(20, 4)) | kwargs)), mj.MjData(model)


def ready(name, seed=1, **kwargs):
    env, expert = make(name), MpcExpert(name, **kwargs); obs, _ = env.reset(seed=seed); expert.reset(env, seed)
    return env, expert


@pytest.mark.parametrize('horizon,knots', [(2, 2), (5, 3), (30, 6), (20, 4), (7, 7)])
def test_knot_matrix_interpolates(horizon, knots):
    m, values = knot_matrix(horizon, knots), np.random.default_rng(0).normal(size=knots)
    assert np.allclose(m.sum(1), 1) and np.allclose(m @ values, np.interp(np.linspace(0, knots-1, horizon), np.arange(knots), values))


@pytest.mark.parametrize('kwargs,text', [(dict(knots=1), 'knots must be from 2'), (dict(horizon=4, knots=5), 'knots must be from 2 to the horizon'), (dict(samples=0), 'samples'), (dict(sigma=0.), 'sigma'),
                                         (dict(temperature=-1.), 'temperature'), (dict(rounds=0), 'rounds')])
def test_impossible_settings(kwargs, text):
    with pytest.raises(ConfigError, match=text): PlanConfig(**kwargs)


def test_update_against_a_slow_reference():
    "One round of the formula of the notebook, written with loops, and the shift of the plan."
    plan, data = mass(seed=3); config, m = plan.config, plan.spread
    before = plan.plan = np.array([[.3], [-.2], [.1], [.5]]); data.qpos[0] = .2; data.qvel[0] = -.4
    eps = np.random.default_rng(3).normal(0, config.sigma, (config.samples, 4, 1)); eps[0] = 0
    values, plans = [], []
    for e in eps:
        plans.append(np.clip(before + e, -1, 1)); x, v, total = .2, -.4, 0.
        for u in (m @ plans[-1])[:, 0]:
            for _ in range(10): v += .002*u; x += .002*v     # semi-implicit Euler of mass 1
            total += -abs(x - .5)
        values.append(total/20)
    values = np.array(values); w = np.exp((values - values.max())/(config.temperature*values.std())); w /= w.sum()
    new = sum(wi*p for wi, p in zip(w, plans)); path = m @ new
    action = plan.act(data)
    assert np.allclose(plan.values, values, atol=1e-6) and np.allclose(action, path[0], atol=1e-5)
    assert np.allclose(plan.plan, np.linalg.lstsq(m, np.concatenate([path[1:], path[-1:]]), rcond=None)[0].clip(-1, 1), atol=1e-5)


def test_cold_takes_the_best_and_hot_the_mean():
    for temperature, pick in ((1e-6, 'best'), (1e6, 'mean')):
        plan, data = mass(config=PlanConfig(20, 4, temperature=temperature), seed=1); eps = np.random.default_rng(1).normal(0, .5, (32, 4, 1)); eps[0] = 0
        first = plan.act(data)
        expected = eps[plan.values.argmax()].clip(-1, 1) if pick == 'best' else eps.clip(-1, 1).mean(0)
        assert np.allclose(first, expected[0], atol=1e-4)


def test_rounds_refine_and_the_mass_arrives():
    mj = import_mujoco()
    plan, data = mass(lambda m: -np.abs(m['qpos'][..., 0] - .5) - .1*np.abs(m['qvel'][..., 0]), substeps=20)
    for _ in range(70): data.ctrl[:] = plan.act(data); mj.mj_step(plan.model, data, 20)
    assert abs(data.qpos[0] - .5) < .05 and abs(data.qvel[0]) < .1
    scores = []
    for rounds in (1, 5):
        plan, data = mass(config=PlanConfig(20, 4, rounds=rounds)); plan.act(data); scores.append(plan.values[0])
    assert scores[1] > scores[0]


def test_nothing_finite_is_an_expert_without_a_plan():
    plan, data = mass(lambda m: m['qpos'][..., 0]*np.nan)
    with pytest.raises(ExpertFailed, match='no future with a finite reward'): plan.act(data)
    plan, data = mass(lambda m: np.where(np.arange(32)[:, None] % 2, np.nan, -np.abs(m['qpos'][..., 0]-.5)))
    assert np.isfinite(plan.act(data)).all(), 'some are finite: go on with those'


@pytest.mark.parametrize('name', ['DMC-walker-walk', 'DMC-reacher-easy', 'DMC-finger-spin', 'Adroit-door', 'Adroit-hammer', 'Adroit-pen'])
def test_predictions_are_what_then_happens(name):
    env, expert = ready(name, seed=5); task = env.task; rng = np.random.default_rng(0)
    actions = rng.uniform(-.5, .5, (1, 6, task.actions)).astype(np.float32)
    future = expert.planner.predict(task.data, actions.astype(float))
    for h in range(6):
        env.step(actions[0, h])
        assert np.allclose(future['qpos'][0, h], task.data.qpos, atol=1e-5) and np.allclose(future['qvel'][0, h], task.data.qvel, atol=1e-3), h


@pytest.mark.parametrize('name', ['DMC-walker-stand', 'DMC-walker-walk', 'DMC-walker-run', 'DMC-cheetah-run'])
def test_scores_are_the_rewards_of_the_suite(name):
    "Sensors lag one physics step behind the state in a rollout, hence the tolerance."
    env, expert = ready(name, seed=2); actions = np.random.default_rng(1).uniform(-1, 1, (1, 8, env.task.actions)).astype(np.float32)
    if name == 'DMC-cheetah-run': env.task.data.qvel[0] = 3.     # random actions alone give nothing: it must already run
    predicted = expert.planner.score(expert.planner.predict(env.task.data, actions.astype(float)))[0]
    rewards = [env.step(a)[1] for a in actions[0]]
    assert np.allclose(predicted, rewards, atol=.05) and predicted.shape == (8,) and np.ptp(predicted) > .005


@pytest.mark.parametrize('task', ['door', 'hammer', 'pen'])
def test_sensors_of_the_copy_are_the_measures_of_the_environment(task):
    env, expert = ready(f'Adroit-{task}', seed=4); mj = import_mujoco()
    model, read = planning_model(env.task.file, {k: f'pos {v}' for k, v in ADROIT[task].items()}, env.task.model)
    data = mj.MjData(model); data.qpos[:] = env.task.data.qpos; mj.mj_forward(model, data); now, found = env.task.measures(), read(data.sensordata)
    assert all(np.allclose(found[k], now[k], atol=1e-6) for k in ADROIT[task])


def test_each_episode_plans_with_its_own_door_and_target():
    env, expert = ready('Adroit-door', seed=1); one = expert.planner.model.body('frame').pos.copy()
    env.reset(seed=2); expert.reset(env, 2); two = expert.planner.model.body('frame').pos
    assert (one != two).any() and (two == env.task.model.body('frame').pos).all()
    env, expert = ready('DMC-reacher-hard', seed=1)
    assert np.isclose(expert.planner.model.geom('target').size[0], .015) and (expert.planner.model.geom('target').pos == env.task.model.geom('target').pos).all()
    before = env.task.model.body_mass.copy(); expert.planner.model.body_mass[:] = 7; copy_settings(env.task.model, expert.planner.model)
    assert (expert.planner.model.body_mass == before).all() and (env.task.model.body_mass == before).all()


def test_same_seed_same_demonstration():
    runs = []
    for seed, threads in ((0, 1), (0, 1), (1, 1), (0, 2)):
        env, expert = ready('DMC-reacher-easy', seed=0, threads=threads); expert.reset(env, seed)
        acts = []
        for _ in range(6): acts.append(expert.act(env, None)); env.step(acts[-1])
        runs.append(np.stack(acts))
    assert (runs[0] == runs[1]).all() and (runs[0] == runs[3]).all() and (runs[0] != runs[2]).any() and runs[0].dtype == np.float32 and np.abs(runs[0]).max() <= 1


def test_skip_is_planned_with():
    env, expert = FrameSkip(make_dmc('DMC-cartpole-swingup', pixels=False), 3), MpcExpert('DMC-cartpole-swingup', samples=8, horizon=20)
    obs, _ = env.reset(seed=0); expert.reset(env, 0)
    assert expert.planner.substeps == 3*env.unwrapped.task.substeps and expert.config == replace(PLANS['DMC-cartpole-swingup'].config, samples=8, horizon=20)
    action = expert.act(env, obs); future = expert.planner.predict(env.unwrapped.task.data, np.full((1, 20, 1), action[0], float)); env.step(action)
    assert np.allclose(future['qpos'][0, 0], env.unwrapped.task.data.qpos, atol=1e-6)


def test_wrong_names():
    with pytest.raises(ConfigError, match="there is no planner for 'DMC-walker-wlak' .did you mean 'DMC-walker-walk'"): MpcExpert('DMC-walker-wlak')
    with pytest.raises(ConfigError, match='plans for DMC-walker-walk, the environment is DMC-walker-run'): MpcExpert('DMC-walker-walk').reset(make_dmc('DMC-walker-run', pixels=False), 0)


def play(name, steps, seed, **kwargs):
    env, expert = ready(name, seed=seed, **kwargs); rewards, hits = [], 0
    for _ in range(steps):
        _, reward, ended, _, info = env.step(expert.act(env, None)); rewards.append(reward); hits += info.get('success', False)
        if ended: break
    return np.array(rewards), env.card.rule(hits, False, 0.), hits


def test_P13_walker_stands():
    "It begins in the air, falls, gets up; then the return per step is near 1."
    rewards, success, _ = play('DMC-walker-stand', 40, 4)
    assert rewards[:30].min() < .3 and rewards[-5:].mean() > .95 and success is None


def test_P13_reacher_reaches():
    for name in ('easy', 'hard'): assert play(f'DMC-reacher-{name}', 90, 0)[0][-20:].mean() > .9


@pytest.mark.slow
@pytest.mark.parametrize('name,steps,least', [('DMC-walker-walk', 150, .85), ('DMC-cartpole-swingup', 300, .45), ('DMC-cheetah-run', 250, .35), ('DMC-finger-spin', 150, .25)])
def test_P13_returns_of_dmc(name, steps, least):
    "Return per step; the numbers of the spec are .95, .46, .45, .32."
    rewards, *_ = play(name, steps, 0)
    assert rewards.mean() > least, f'{rewards.sum():.0f} of {steps}'


@pytest.mark.slow
@pytest.mark.parametrize('task,steps', [('door', 100), ('hammer', 60), ('pen', 80)])
def test_P13_adroit_solved(task, steps):
    "More than 25 (pen: 20) steps in the goal well before the limit of 200."
    rewards, success, hits = play(f'Adroit-{task}', steps, 0)
    assert success, f'{hits} steps in the goal'
