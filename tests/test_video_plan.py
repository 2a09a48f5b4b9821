"Planning: the search on closed forms, the toy where the truth is the predictor, a model, the cloth in closed loop, the benchmark's arithmetic"
import sys
from pathlib import Path

import numpy as np, pytest, torch
from scipy import stats

from vislearn.core import ConfigError, DataError, sample_key, sample_rng
from vislearn.synth.cloth import ClothSim, render_cloth
from vislearn.synth.fabric import ClothEnv, draw_disc, push_disc
from vislearn.video.generate import CopyLast, generate
from vislearn.video.plan import CEM, Planner, cem, cloth_share, coverage_cost, draw_candidates, goal_cost, model_cost, oracle_policy, plan_cem, random_policy, run_episodes, still_policy
from vislearn.video.svg import SVG, SVGConfig

PLANE = CEM(horizon=1, n_candidates=200, iterations=8, elites=20, lower=[-2, -2], upper=[2, 2], answer='best')
one_line = lambda e: '\n' not in str(e.value)


def quadratic(centre, scale=1.): return lambda a: (scale*(a - torch.as_tensor(centre, dtype=a.dtype))**2).sum((-1, -2))
def valley(a): return ((1 - a[..., 0])**2 + (a[..., 1] - a[..., 0]**2)**2).sum(-1)


@pytest.mark.parametrize('centre', [(0, 0), (.5, -1.25), (-1.5, 1.5)])
def test_finds_the_minimum_of_a_quadratic(centre):
    plan = cem(quadratic(centre), PLANE, 3)
    assert np.abs(plan.actions.numpy() - centre).max() < .03 and plan.cost.max() < 1e-3
    assert np.abs(plan.mean.numpy() - centre).max() < .1


def test_finds_the_minimum_of_a_bent_valley():
    plan = cem(valley, PLANE.replace(n_candidates=500, elites=50, iterations=12), 5)
    assert np.abs(plan.actions.numpy() - 1).max() < .25 and plan.cost.max() < .01 # the worst of five searches: it may stop on the valley's floor


def test_finds_a_sequence():
    "Each step of a sequence has its own optimum, and components have their own bounds."
    want = torch.tensor([[.1, .9], [-.3, .2], [.45, -.9]]); how = CEM(horizon=3, n_candidates=400, iterations=12, elites=40, lower=[-.5, -1], upper=[.5, 1], answer='best')
    assert (cem(quadratic(want), how).actions[0] - want).abs().max() < .05


def test_optimum_outside_ends_at_the_bounds():
    plan = cem(quadratic((5, -5)), PLANE)
    assert (plan.actions[0, 0] - torch.tensor([2., -2.])).abs().max() < .05


def test_first_round_is_the_plain_formula():
    "One round in the order of the definition, candidate by candidate."
    how = PLANE.replace(iterations=1, alpha=.3); plan = cem(quadratic((.5, -.5)), how, seed=4)
    u = sample_rng(sample_key(4, 0, 0), 0, 0).random((200, 1, 2)); std = min(np.sqrt(16/8), 2/2); lo, hi = stats.norm.cdf(-2), stats.norm.cdf(2)
    tries = sorted(((std*stats.norm.ppf(lo + v[0]*(hi - lo))).tolist() for v in u), key=lambda a: (a[0] - .5)**2 + (a[1] + .5)**2)
    mean, var = [.7*np.mean([t[i] for t in tries[:20]]) for i in (0, 1)], [.3*2 + .7*np.var([t[i] for t in tries[:20]]) for i in (0, 1)]
    np.testing.assert_allclose(plan.actions[0, 0], tries[0], atol=1e-6)
    np.testing.assert_allclose(plan.history['mean'][1, 0, 0], mean, atol=1e-6)
    np.testing.assert_allclose(plan.history['std'][1, 0, 0], [min(np.sqrt(v), (2 - abs(m))/2) for v, m in zip(var, mean)], atol=1e-6)


@pytest.mark.parametrize('alpha', [0, .1, .9])
@pytest.mark.parametrize('seed', [0, 1])
def test_bounds_are_never_left_and_variance_is_never_negative(alpha, seed):
    seen = []
    def cost(a): seen.append(a); return quadratic((9, -9, 0, .1))(a)
    how = CEM(horizon=2, n_candidates=50, iterations=30, elites=1, alpha=alpha, lower=[-1, -1, -.4, -.7], upper=[1, .3, .4, .7]); plan = cem(cost, how, 2, seed)
    a = torch.cat(seen, 1)
    for x in (a.flatten(0, 2), plan.actions.flatten(0, 1), plan.mean.flatten(0, 1)): assert (x >= torch.tensor(how.lower)).all() and (x <= torch.tensor(how.upper)).all()
    assert (plan.history['std'] >= 0).all() and plan.history['std'].isfinite().all() and (plan.history['std'][-1] < plan.history['std'][0]).all()


def test_candidates_are_a_normal_cut_at_two_sigma():
    x = draw_candidates(np.full((1, 1, 1), 3.), np.full((1, 1, 1), .5), 50000, [7])[0, :, 0, 0]
    assert stats.kstest(x, stats.truncnorm(-2, 2, 3, .5).cdf).pvalue > .01 and abs(x - 3).max() <= 1


def test_same_seed_same_plan_and_worlds_are_apart():
    a, b, other = cem(valley, PLANE, 4, seed=3), cem(valley, PLANE, 4, seed=3), cem(valley, PLANE, 4, seed=4)
    assert torch.equal(a.actions, b.actions) and all(torch.equal(a.history[k], b.history[k]) for k in a.history)
    assert not torch.equal(a.actions, other.actions) and len(a.actions.flatten(1).unique(dim=0)) == 4
    alone = cem(valley, PLANE, 1, seed=3, first=2)
    assert torch.equal(alone.actions[0], a.actions[2]) and torch.equal(alone.history['std'][:, 0], a.history['std'][:, 2])


def test_best_answer_is_the_cheapest_ever_and_mean_is_the_mean():
    seen = []
    def cost(a): c = valley(a); seen.append((a, c)); return c
    plan = cem(cost, PLANE); tries, costs = (torch.cat(v, 1)[0] for v in zip(*seen))
    assert plan.cost[0] == costs.min().double() and torch.equal(plan.actions[0], tries[costs.argmin()])
    assert torch.equal(cem(valley, PLANE.replace(answer='mean')).actions, plan.mean)
    assert torch.equal(plan.history['best'].amin(0), plan.cost) and (plan.history['elite'] >= plan.history['best']).all()


def test_warm_start_helps_and_shifts():
    want = torch.tensor([[.5, .5], [-.5, .2], [.3, -.6]]); how = PLANE.replace(horizon=3, iterations=2); cold = cem(quadratic(want), how)
    warm = cem(quadratic(want), how, start=want[None])
    assert warm.cost < cold.cost
    start = cold.shifted(how); assert torch.equal(start[:, :2], cold.mean[:, 1:]) and torch.equal(start[:, 2], torch.zeros(1, 2))
    assert torch.equal(cold.shifted(how, 3), torch.zeros(1, 3, 2))


@pytest.mark.parametrize('broken, contains', [(lambda a: valley(a)*torch.where(torch.arange(200) == 5, torch.nan, 1.), '1 of 200 values are NaN in round 1'), (lambda a: a.sum(-1), r'one number per candidate \(1, 200\)')])
def test_broken_costs_are_refused(broken, contains):
    with pytest.raises(DataError, match=contains) as e: cem(broken, PLANE)
    assert one_line(e)


def test_infinite_costs_are_allowed():
    "A cost may forbid actions."
    plan = cem(lambda a: torch.where(a[..., 0, 0] > 0, torch.inf, valley(a)), PLANE)
    assert plan.actions[0, 0, 0] <= 0 and plan.cost.isfinite().all()


@pytest.mark.parametrize('wrong, contains', [(dict(elites=201), 'elites: at most n_candidates'), (dict(lower=[3, 0]), 'below upper'), (dict(upper=[1]), 'one number per component'), (dict(horizon=0), 'horizon'), (dict(spread=0), 'spread')])
def test_wrong_settings_are_one_line(wrong, contains):
    with pytest.raises(ConfigError, match=contains) as e: PLANE.replace(**wrong)
    assert one_line(e)


# --- costs

def test_goal_cost_against_a_loop():
    rng = np.random.default_rng(0); goal, films = rng.integers(0, 256, (56, 56, 4), dtype=np.uint8), torch.from_numpy(rng.random((3, 2, 4, 56, 56), np.float32))
    for channels in (None, 3):
        want = [np.mean([(float(films[n, -1, c, y, x]) - goal[y, x, c]/255)**2 for c in range(channels or 4) for y in range(7, 49) for x in range(7, 49)]) for n in range(3)]
        np.testing.assert_allclose(goal_cost(goal, channels=channels)(films), want, rtol=1e-5)
    assert torch.equal(goal_cost(goal)(films), goal_cost(torch.from_numpy(goal).permute(2, 0, 1))(films))


def test_goal_of_the_wrong_size_is_one_line():
    model = SVG(SVGConfig(image_width=56, channels=4, n_past=1, nf=4, g_dim=8, rnn_size=8, actions='raw'))
    with pytest.raises(DataError, match=r'goal: a picture \(4, 56, 56\) was expected, as the model predicts, got \(4, 64, 64\)') as e: plan_cem(model, torch.zeros(1, 4, 56, 56), torch.zeros(4, 64, 64), CEM(horizon=1, n_candidates=3, elites=1))
    assert one_line(e)


def test_cloth_share_is_the_coverage_of_plain_pictures():
    env = ClothEnv(tiers=(0, 1, 3)); frames = torch.from_numpy(env.reset(3, 12)).permute(0, 3, 1, 2)/255
    np.testing.assert_allclose(cloth_share(frames), env.coverage(), atol=2e-3)
    assert float(cloth_share(torch.full((4, 56, 56), .8))) == 0
    mixed = (frames[:1] + torch.tensor([.8, .8, .8, 0])[:, None, None])/2 # a model that gives cloth the probability 1/2
    assert .4*env.coverage()[0] < float(cloth_share(mixed)[0]) < .7*env.coverage()[0]
    np.testing.assert_allclose(coverage_cost()(frames[:, None].expand(-1, 3, -1, -1, -1)), 1 - env.coverage(), atol=2e-3)


# --- the toy, where the truth is the predictor

def disc_predictor(frames, n_pred, actions, n_samples=1, seed=0, first=0):
    blue = (.8 - frames[:, -1, 0]).clamp(min=0); axis = (torch.arange(56) + .5)/56*4/3 - 1/6
    centre = (torch.stack([(blue.sum(1)*axis).sum(-1), (blue.sum(2)*axis).sum(-1)], -1)/blue.sum((1, 2))[:, None]).double().numpy(); films = []
    for t in range(n_pred): centre = push_disc(centre, actions[:, frames.shape[1] - 1 + t].double().numpy()); films.append(draw_disc(centre))
    return torch.from_numpy(np.stack(films, 1)).permute(0, 1, 4, 2, 3)[None].float()/255


PUSHES = CEM(horizon=2, n_candidates=300, iterations=6, elites=20, lower=[-1, -1, -.2, -.2], upper=[1, 1, .2, .2], answer='best')
picture = lambda xy: torch.from_numpy(draw_disc(np.array([xy]))[0]).permute(2, 0, 1)


@pytest.mark.parametrize('begin, wanted', [((.35, .4), (.6, .6)), ((.7, .3), (.55, .55))])
def test_disc_reaches_the_goal_picture(begin, wanted):
    plan = plan_cem(disc_predictor, picture(begin)[None], picture(wanted), PUSHES); centre = np.array([begin])
    for a in plan.actions[0].numpy(): centre = push_disc(centre, a[None])
    assert np.linalg.norm(centre - wanted) < .02


def test_disc_in_closed_loop_with_any_cost():
    "One push ahead, four pushes: towards the right border, by a cost of one's own."
    far_right = lambda films: -(films[:, -1, 2] - .8).clamp(min=0).sum(1).matmul(torch.linspace(0, 1, 56)); centre = np.array([[.3, .5], [.4, .3]])
    planner, ends = Planner(disc_predictor, far_right, PUSHES.replace(horizon=1)), []
    for _ in range(4): centre = push_disc(centre, planner.act(draw_disc(centre))); ends.append(centre[:, 0].copy())
    assert (np.diff(ends, axis=0) >= -1e-6).all() and (ends[-1] > .75).all() and len(planner.done) == 4


def test_chunks_change_nothing():
    a, b = (plan_cem(disc_predictor, picture((.35, .4))[None], picture((.6, .6)), PUSHES.replace(n_candidates=50, iterations=2), chunk=c) for c in (1000, 7))
    assert torch.equal(a.actions, b.actions) and torch.equal(a.cost, b.cost)


# --- through a model

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    model = SVG(SVGConfig(image_width=56, channels=4, n_past=2, n_future=3, nf=4, g_dim=8, z_dim=3, rnn_size=8, actions='learned')).eval()
    with torch.no_grad(): # the first weights are so small that actions and noise do not show
        for p in model.parameters(): p.normal_(0, 1.5/p[0].numel()**.5) if p.ndim > 1 else p
    return model


@pytest.fixture(scope='module')
def scene(): return torch.from_numpy(ClothEnv(tiers=(1,)).reset(5, 2)).permute(0, 3, 1, 2)[:, None].expand(-1, 2, -1, -1, -1).float()/255


def test_mean_future_is_that_of_generate(model, scene):
    "Price of each candidate alone, by the documented call."
    torch.manual_seed(1)
    past, tries, close = torch.rand(2, 1, 4) - .5, 3*torch.randn(2, 6, 3, 4), lambda films: 1e4*films[:, -1].double().mean((1, 2, 3)) # an untrained model makes small differences
    got = model_cost(model, scene, close, past)(tries)
    for e in range(2):
        assert got[e].std() > .02 # actions matter
        for n in range(6):
            film = generate(model, scene[e:e+1], 3, torch.cat([past[e], tries[e, n]])[None], 1, context='mean', temperature=0., n_past=2).frames[0]
            assert abs(float(close(film)) - float(got[e, n])) < .002


@pytest.mark.parametrize('n_samples', [0, 2])
def test_chunks_and_company_change_nothing(model, scene, n_samples):
    past, tries = torch.zeros(2, 1, 4), torch.rand(2, 10, 2, 4) - .5
    price = lambda chunk, which=slice(None): model_cost(model, scene[which], coverage_cost(), past[which], n_samples, 3, chunk)(tries[which])
    torch.testing.assert_close(price(256), price(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(price(256)[1:], price(256, slice(1, 2)), atol=1e-5, rtol=0)


def test_samples_are_random_and_seeded(model, scene):
    price = lambda seed: model_cost(model, scene, coverage_cost(), torch.zeros(2, 1, 4), 2, seed)(torch.zeros(2, 4, 2, 4))
    assert torch.equal(price(1), price(1)) and not torch.equal(price(1), price(2)) and price(1)[0].unique().numel() > 1 and price(1).std() > 1e-5


def test_wrong_calls_are_one_line(model, scene):
    how, cost = CEM(horizon=1, n_candidates=4, elites=2), coverage_cost()
    for call, contains in ((lambda: plan_cem(model, scene, cost, how.replace(lower=[0], upper=[1]), torch.zeros(2, 1, 4)), 'knows actions of 4 numbers, the bounds have 1'),
                           (lambda: plan_cem(model, scene, cost, how), 'past: 2 frames have 1 actions between them, got none'),
                           (lambda: plan_cem(model, scene[..., :3, :, :], cost, how, torch.zeros(2, 1, 4)), 'this model knows 4 channels, got 3'),
                           (lambda: plan_cem(model, scene*torch.nan, cost, how, torch.zeros(2, 1, 4)), 'NaN'),
                           (lambda: plan_cem(model, scene, cost, how, torch.zeros(2, 1, 4), start=torch.zeros(1, 1, 4)), r'start must be \(2, 1, 4\)'),
                           (lambda: plan_cem(SVG(SVGConfig(nf=4)), scene, cost, how), 'sees no actions')):
        with pytest.raises(DataError, match=contains) as e: call()
        assert one_line(e)


def test_other_predictors_plan_too(scene):
    "Where nothing moves, all actions cost the same."
    plan = plan_cem(CopyLast(), scene[:, 1:], coverage_cost(), CEM(horizon=1, n_candidates=5, iterations=1, elites=2))
    np.testing.assert_allclose(plan.cost, 1 - cloth_share(scene[:, 1]), atol=1e-6)


def test_planner_keeps_the_past_and_starts_anew(model):
    env = ClothEnv(tiers=(1,)); planner = Planner(model, coverage_cost(), CEM(horizon=2, n_candidates=6, iterations=1, elites=2), n_past=2)
    seen = []
    for _ in range(2):
        env.reset(3, 2); done = run_episodes(env, planner, 3); seen.append(done)
        assert len(planner.done) == 3 and len(planner.seen) == 2 and np.array_equal(planner.done[1], done.actions[:, 1])
    assert np.array_equal(seen[0].actions, seen[1].actions) and np.array_equal(seen[0].coverage, seen[1].coverage)


# --- the cloth

def test_closed_loop_on_the_cloth():
    "Planning with the true simulator smooths; random pulls crumple; nothing happens without action; all begin alike."
    how = CEM(horizon=1, n_candidates=24, iterations=2, elites=5, lower=[-1, -1, -.4, -.4], upper=[1, 1, .4, .4], answer='best'); done = {}
    for name, policy in dict(oracle=oracle_policy(how), random=random_policy(), still=still_policy()).items():
        env = ClothEnv(tiers=(3,)); env.reset(21, 4); before = env.state.positions.clone(); done[name] = run_episodes(env, policy, 3)
        assert done[name].frames.shape == (4, 4, 56, 56, 4) and np.allclose(done[name].coverage[:, 0], done['oracle'].coverage[:, 0])
        if name == 'still': assert torch.equal(env.state.positions, before) and not done[name].grasped.any()
    assert done['oracle'].coverage[:, -1].mean() > done['still'].coverage[:, -1].mean() + .1
    assert (np.diff(done['oracle'].coverage.mean(0)) > 0).all() and done['random'].coverage[:, -1].mean() < done['oracle'].coverage[:, -1].mean() - .1


def test_oracle_leaves_the_world_alone_and_knows_it():
    env = ClothEnv(tiers=(3,)); env.reset(4, 2); before = env.state; policy = oracle_policy(CEM(horizon=1, n_candidates=8, iterations=1, elites=2))
    actions = policy(env, 0); after = env.state
    assert torch.equal(before.positions, after.positions) and np.array_equal(before.steps, after.steps)
    assert np.array_equal(actions, policy(env, 0))


# --- the benchmark

def test_benchmark_statistics():
    sys.path.insert(0, str(Path(__file__).parents[1]/'benchmarks'))
    from plan_cloth import compare, paired
    rng = np.random.default_rng(0); a, b = rng.normal(.6, .1, 30), rng.normal(.5, .1, 30); got = paired(a, b); t = stats.ttest_rel(a, b)
    assert got['n'] == 30 and got['p_t'] == pytest.approx(t.pvalue, rel=1e-3) and got['ci95'] == pytest.approx(list(t.confidence_interval()), rel=1e-3) and got['better'] == int((a > b).sum())
    assert paired(a, a)['p_t'] is None
    row = lambda v: dict(mean=[0, 0], coverage=[[.5, v + i/100] for i in range(5)])
    assert compare(dict(learned=row(.6), random=row(.4)))['learned - random'][0]['mean'] == pytest.approx(.2)


def test_render_of_a_flat_cloth_is_a_reachable_goal():
    goal = render_cloth(ClothSim().positions)[0]; flat = torch.from_numpy(goal).permute(2, 0, 1)[None, None]/255
    assert float(goal_cost(goal)(flat)) < 1e-12 and abs(float(coverage_cost()(flat))) < 1e-6
