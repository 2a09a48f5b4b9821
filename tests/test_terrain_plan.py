"Paths against a plain Dijkstra, arcs against loops over points, scores against all pairs and closed values"
import heapq
import numpy as np, pytest
from scipy.spatial.distance import directed_hausdorff
from scipy.stats import spearmanr
from vislearn.core import DataError, UserError
from vislearn.robot.bev import BevSpec
from vislearn.terrain import plan as tp
from vislearn.terrain.costmap import CostMap

def slow_dijkstra(cost, start, goal, base, scale, res):
    best, queue = {start: 0.}, [(0., start)]
    while queue:
        d, (r, c) = heapq.heappop(queue)
        if (r, c) == goal: return d
        if d > best[r, c]: continue
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                n = r+i, c+j
                if (i, j) == (0, 0) or not (0 <= n[0] < cost.shape[0] and 0 <= n[1] < cost.shape[1]) or np.isnan(cost[n]): continue
                e = d + res*np.hypot(i, j)*(base + scale*(cost[r, c]+cost[n])/2)
                if e < best.get(n, np.inf): best[n] = e; heapq.heappush(queue, (e, n))
    return np.inf

@pytest.mark.parametrize('seed', range(6))
def test_plan_equals_plain_dijkstra(seed):
    rng = np.random.default_rng(seed); cost = rng.random((17, 23)).astype(np.float32)*3; cost[rng.random(cost.shape) < .25] = np.nan; cost[0, 0] = cost[-1, -1] = 1
    base, scale, res = rng.uniform(.1, 1), rng.uniform(.2, 3), rng.uniform(.05, .5); cmap = CostMap(cost, res, (3., 2.))
    ref = slow_dijkstra(cost.astype(float), (0, 0), (16, 22), base, scale, res)
    if not np.isfinite(ref):
        with pytest.raises(tp.PlanError, match='no path over known ground'): tp.plan_grid(cmap, (0, 0), (16, 22), base, scale)
        return
    path = tp.plan_grid(cmap, (0, 0), (16, 22), base, scale)
    assert path.cost == pytest.approx(ref) == pytest.approx(tp.path_cost(path.cells, cmap, base, scale))
    assert (path.cells[0] == 0).all() and path.cells[-1].tolist() == [16, 22] and np.abs(np.diff(path.cells, axis=0)).max() == 1 and cmap.known[tuple(path.cells.T)].all()
    assert path.length_m == pytest.approx(np.linalg.norm(np.diff(path.xy, axis=0), axis=1).sum())

def test_plan_is_symmetric_and_never_worse_than_the_line():
    rng = np.random.default_rng(0); cmap = CostMap(rng.random((30, 30)), .1, (0, 0))
    for _ in range(10):
        a, b = rng.integers(0, 30, (2, 2)); there, back = tp.plan_grid(cmap, a, b), tp.plan_grid(cmap, b, a)
        assert there.cost == pytest.approx(back.cost) and there.cost <= tp.path_cost(tp.line_cells(a, b), cmap)+1e-12

def test_plan_snaps_to_the_nearest_known_cell():
    cost = np.full((9, 9), np.nan); cost[2:7, 4] = 1
    path = tp.plan_grid(cost, (0, 0), (8, 8), snap=True); assert path.cells.tolist() == [[r, 4] for r in range(2, 7)]
    with pytest.raises(tp.PlanError, match=r'goal \(8, 8\) is not a known cell'): tp.plan_grid(cost, (2, 4), (8, 8))
    assert issubclass(tp.PlanError, UserError)

def test_big_map_is_quick():
    cmap = CostMap(np.random.default_rng(0).random((300, 400)), .05, (0, 0)); path = tp.plan_grid(cmap, (0, 0), (299, 399))
    assert len(path.cells) >= 400

def test_line_cells():
    for a, b in [((0, 0), (5, 2)), ((5, 2), (0, 0)), ((3, 3), (3, 3)), ((0, 9), (7, 1)), ((2, 0), (2, 8))]:
        line = tp.line_cells(a, b); d = np.abs(np.diff(line, axis=0))
        assert line[0].tolist() == list(a) and line[-1].tolist() == list(b) and (d.max(1) == 1).all() if len(line) > 1 else a == b
        direction = np.subtract(b, a)/max(1e-9, np.hypot(*np.subtract(b, a))); off = (line-np.array(a)) @ [-direction[1], direction[0]]
        assert np.abs(off).max() <= .5+1e-9

def slow_arcs(cmap, goal, k, length, max_cost, w_terrain, w_goal, discount, box, n):
    ext = lambda x, y: tuple(cmap.to_cell([x, y]))
    inside = lambda rc: 0 <= rc[0] < cmap.shape[0] and 0 <= rc[1] < cmap.shape[1]
    total = []
    for kap in k:
        num = den = 0.
        for s in np.arange(n+1)*length/n:
            yaw = kap*s; x, y = (s, 0.) if abs(kap) < 1e-12 else (np.sin(yaw)/kap, (1-np.cos(yaw))/kap)
            rc = ext(x, y)
            if not inside(rc) or np.isnan(cmap.cost[rc]): continue
            vals = []
            for a in (-box/2, box/2):
                for b in (-box/2, box/2):
                    q = ext(x + a*np.cos(yaw) - b*np.sin(yaw), y + a*np.sin(yaw) + b*np.cos(yaw))
                    if inside(q): vals.append(max_cost+1 if np.isnan(cmap.cost[q]) else min(cmap.cost[q], max_cost))
            w = discount**np.hypot(x, y); num += w*(np.mean(vals) if vals else max_cost); den += w
        total.append(w_terrain*(num/den if den else max_cost) + w_goal*(np.hypot(*goal)-np.hypot(goal[0]-x, goal[1]-y)))
    return np.array(total)

@pytest.mark.parametrize('seed', range(3))
def test_arcs_equal_a_loop_over_points(seed):
    rng = np.random.default_rng(seed); cost = rng.random((30, 50))*4; cost[rng.random(cost.shape) < .2] = np.nan
    cmap, goal = CostMap(cost, .13, (3.9137, 3.2071)), rng.normal(0, 3, 2)
    s = tp.score_arcs(cmap, goal)
    assert s.total == pytest.approx(slow_arcs(cmap, goal, np.linspace(-2.5, 2.5, 31), 3.5, 3., 8., -.7, .8, .6, 20), abs=1e-5)
    assert s.total[s.best] == s.total.min() and s.points.shape == (31, 21, 3)
    other = tp.score_arcs(cmap, goal, n_arcs=7, max_curvature=1., length=2., max_cost=1.2, w_terrain=20., w_goal=-.2, discount=.9, box=.4, n=11)
    assert other.total == pytest.approx(slow_arcs(cmap, goal, np.linspace(-1, 1, 7), 2., 1.2, 20., -.2, .9, .4, 11), abs=1e-5)

def test_arc_weights_follow_the_source():
    assert all(20 <= a*b <= 24 for name, (a, b) in tp.ARC_WEIGHTS.items() if name not in ('rca', 'ganav')) and tp.ARC_WEIGHTS['seed'] == (3., 8.) and tp.ARC_WEIGHTS['oracle'] == (6., 4.)

def test_arc_points_closed_values():
    p = tp.arc_points([0, 1, -1, 2.5, 1e-9], [2, np.pi/2, np.pi/2, .4*np.pi, 3], 20)
    assert p[0, -1] == pytest.approx([2, 0, 0]) and p[1, -1] == pytest.approx([1, 1, np.pi/2]) and p[2, -1] == pytest.approx([1, -1, -np.pi/2])
    assert p[3, -1] == pytest.approx([0, .8, np.pi], abs=1e-9) and p[4, -1] == pytest.approx([3, 0, 0], abs=1e-6) and (p[:, 0] == 0).all()
    assert tp.score_arcs(CostMap(np.zeros((9, 9)), 1, (4, 4)), (3, 0), max_turn=np.pi).points[0, -1, 2] == pytest.approx(-np.pi)

def test_blocked_arcs_make_no_progress():
    cmap = CostMap(np.ones((80, 80)), .1, (4., 4.)); blocked = np.zeros(31, bool); blocked[15] = True
    s = tp.score_arcs(cmap, (3.5, 0.), blocked=blocked); assert s.progress[15] == 0 and s.best != 15

BEV = BevSpec(ppm=50, rows=120, cols=200, u0=100, v0=120)

@pytest.mark.parametrize('area', [None, 12, 24])
def test_true_levels_equal_a_loop(area):
    rng = np.random.default_rng(0); labels = rng.integers(-1, 4, (12, 20)).repeat(10, 0).repeat(10, 1); values = [0., 0., 2., 5.]; size, stride = 24, 12
    cells, purity = tp.true_levels(labels, values, BEV, size, stride, area)
    a = area or size; cut = (size-a)//2
    assert cells.shape == ((120-24)//12+1, (200-24)//12+1) == purity.shape
    for r in range(cells.shape[0]):
        for c in range(cells.shape[1]):
            w = labels[r*stride+cut:r*stride+cut+a, c*stride+cut:c*stride+cut+a]; seen = w[w >= 0]
            if len(seen)/w.size < .5: assert np.isnan(cells.cost[r, c]); continue
            assert cells.cost[r, c] == pytest.approx(np.mean(np.array(values)[seen]), abs=1e-5) and purity[r, c] == pytest.approx(np.bincount(seen).max()/len(seen))
    assert np.allclose(cells.to_xy([2, 3]), BEV.to_ground([3*12+12, 2*12+12]))

def test_true_levels_share_the_cells_of_the_costmap():
    from vislearn.terrain.costmap import CostMapper
    cmap = CostMapper(lambda x: x.float().mean((1, 2, 3)), BEV, patch_px=24)(np.full((120, 200, 3), 9, np.uint8)); cells, _ = tp.true_levels(np.zeros((120, 200), int), [1.], BEV, 24)
    assert cells.shape == cmap.shape and cells.origin == cmap.origin and cells.res_m == cmap.res_m

def test_cell_scores():
    rng = np.random.default_rng(0); truth = rng.integers(0, 5, (30, 30)).astype(float); pred = truth + rng.normal(0, 1.5, truth.shape)
    truth[rng.random(truth.shape) < .1] = np.nan; pred[rng.random(pred.shape) < .1] = np.nan; purity = rng.random(truth.shape)
    ok = np.isfinite(truth) & np.isfinite(pred); got = tp.cell_rank_correlation(pred, truth, purity, .5)
    assert got['all'] == pytest.approx(spearmanr(pred[ok], truth[ok]).statistic) and got['n'] == ok.sum()
    assert got['pure'] == pytest.approx(spearmanr(pred[ok & (purity > .5)], truth[ok & (purity > .5)]).statistic) and got['n_pure'] == (ok & (purity > .5)).sum()
    p, t = pred[ok], truth[ok]; slow = [(p[i] < p[j]) == (t[i] < t[j]) for i in range(len(p)) for j in range(i) if abs(t[i]-t[j]) > .5]
    assert tp.pairwise_order(pred, truth) == pytest.approx(np.mean(slow))
    assert tp.pairwise_order(truth, truth) == 1 and tp.pairwise_order(-truth, truth) == 0 and tp.pairwise_order(np.zeros_like(truth), truth) == .5
    assert tp.cell_rank_correlation(truth, truth)['all'] == pytest.approx(1) and abs(tp.cell_rank_correlation(rng.random(truth.shape), truth)['all']) < .1
    big = rng.random((60, 60)); assert tp.pairwise_order(big, 3*big) == 1 and np.isnan(tp.pairwise_order([[1., 2.]], [[1., 1.2]]))

def test_drawn_pairs_agree_with_all_pairs():
    rng = np.random.default_rng(0); t = rng.random((44, 50))*4; p = t + rng.normal(0, 1, t.shape)                     # 2200 cells: drawn
    a, b = np.triu_indices(t.size, 1); use = np.abs(t.ravel()[a]-t.ravel()[b]) > .5
    exact = ((p.ravel()[a]-p.ravel()[b])*(t.ravel()[a]-t.ravel()[b]) > 0)[use].mean()
    assert tp.pairwise_order(p, t) == pytest.approx(exact, abs=3e-3) and tp.pairwise_order(p, t) == tp.pairwise_order(p, t)

def test_regret_and_hausdorff():
    rng = np.random.default_rng(0); truth = CostMap(rng.integers(0, 4, (25, 25)), .2, (0, 0))
    best = tp.plan_grid(truth, (0, 0), (24, 24)); assert tp.regret(best.cells, truth) == pytest.approx(0, abs=1e-9)
    line = tp.line_cells((0, 0), (24, 24)); assert tp.regret(line, truth) == pytest.approx(tp.path_cost(line, truth)/best.cost-1) and tp.regret(line, truth) > 0
    a, b = rng.random((40, 2)), rng.random((30, 2)); assert tp.hausdorff(a, b) == pytest.approx(max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])) == tp.hausdorff(b, a)
    assert tp.hausdorff(a, a) == 0
    gone = CostMap(np.where(np.eye(25)[::-1] > 0, np.nan, truth.cost), .2, (0, 0))
    with pytest.raises((DataError, tp.PlanError)): tp.regret(line, gone)

def test_preferred_share_and_success():
    strip = CostMap([[0, 0, 3, 3, 0, 0]], .25, (0, 0)); all_cells = tp.line_cells((0, 0), (0, 5))
    assert tp.preferred_share(all_cells, strip) == pytest.approx(3/5)                                                # 0.75 of 1.25 m
    assert tp.preferred_share(all_cells[:2], strip) == 1 and tp.preferred_share(all_cells[2:4], strip) == 0
    assert tp.is_success(all_cells, strip, (0, 5)) and not tp.is_success(all_cells, strip, (0, 5), max_run_m=.4)      # half a metre is allowed
    assert not tp.is_success(all_cells[:4], strip, (0, 5)) and tp.is_success(all_cells[:5], strip, (0, 5)) and not tp.is_success(all_cells[:5], strip, (0, 5), reach_m=.2)
    twice = CostMap([[0, 3, 0, 3, 0]], .5, (0, 0)); assert tp.is_success(tp.line_cells((0, 0), (0, 4)), twice, (0, 4))  # two short stretches do not add up

def test_roll_out_reaches_the_goal_and_prefers_good_ground():
    field = lambda xy: np.where(np.abs(xy[..., 1]-1.2) < .5, 0., 3.)
    def see(T):
        shape = (40, 60); at = CostMap(np.zeros(shape), .1, (4.5, 3.)).to_xy(np.stack(np.indices(shape), -1)); near = np.hypot(at[..., 0], at[..., 1]) < .8
        return CostMap(np.where(near | (np.abs(at[..., 1]) > .8*at[..., 0]), np.nan, field(T[:2, 3] + at @ T[:2, :2].T)), .1, (4.5, 3.), T)
    places = tp.roll_out(see, np.eye(4), (12., 0.))
    assert np.linalg.norm(places[-1]-[12, 0]) <= .5 and len(places) < 40 and np.linalg.norm(np.diff(places, axis=0), axis=1).max() <= .5+1e-9
    middle = places[(places[:, 0] > 3) & (places[:, 0] < 9)]; assert (np.abs(middle[:, 1]-1.2) < .6).mean() > .9      # within a cell of the good ground
    assert len(tp.roll_out(see, np.eye(4), (50., 0.), max_steps=7)) == 7
