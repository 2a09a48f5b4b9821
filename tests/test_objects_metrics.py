"Detection metrics against a plain loop over pictures and boxes, the worked example, perfect, worst and empty scenes"
import math, time
import numpy as np, pytest, torch
from vislearn.core import DataError
from vislearn.objects import metrics as om
from vislearn.objects.boxes import Things, box_iou, centre_score, cover_share, make_things

LOOP_SCORE = dict(centre=centre_score, iou=box_iou, cover=cover_share)

def table(frame, xyxy, conf):
    frame, xyxy, conf = np.asarray(frame, np.int32), np.asarray(xyxy, np.float32).reshape(-1, 4), np.asarray(conf, np.float32)
    return om.Found(frame, xyxy, conf, np.arange(len(frame), dtype=np.int32), np.zeros((len(frame), 2), np.float32))

def random_scene(n, seed, found=(0, 12), things=(0, 9), grid=None):
    "Boxes around true boxes and elsewhere; confidences from a small grid so that ties occur."
    rng = np.random.default_rng(seed); M, N = rng.integers(*found, n), rng.integers(*things, n)
    def boxes(k): c, s = rng.random((k, 2)), rng.uniform(.05, .3, (k, 2)); return np.hstack([c - s/2, c + s/2]).clip(0, 1)
    truth = make_things(np.repeat(np.arange(n), N), rng.integers(1, 5, N.sum()), boxes(N.sum()), rng.random(N.sum())<.2, rng.random(N.sum())<.6, rng.random(N.sum())<.9)
    frame = np.repeat(np.arange(n), M); xyxy = boxes(M.sum())
    for i in range(len(frame)):
        near = np.flatnonzero(truth.frame==frame[i])
        if len(near) and rng.random()<.7: xyxy[i] = truth.xyxy[rng.choice(near)] + rng.normal(0, .02, 4)
    conf = rng.random(M.sum()) if grid is None else rng.integers(1, grid, M.sum())/grid
    return table(frame, xyxy, conf), truth

def slow_hits(found, things, rule, thresh):
    "One picture after the other, one prediction after the other, as the definition says."
    hit = np.zeros(len(found.frame), bool)
    for f in np.unique(found.frame):
        rows, gt = np.flatnonzero(found.frame==f), things.of(f); used = set()
        if not gt.n: continue
        for i in sorted(rows, key=lambda i: -found.conf[i]):
            scores = LOOP_SCORE[rule](found.xyxy[i:i+1], gt.xyxy)[0]; best = int(np.argmax(scores))
            if scores[best]>thresh and best not in used: used.add(best); hit[i] = True
    return hit

def slow_ap(found, things, thresh):
    hit = slow_hits(found, things, 'iou', thresh); order = sorted(range(len(hit)), key=lambda i: -found.conf[i]); points, tp = [], 0
    for k, i in enumerate(order): tp += hit[i]; points.append((tp, tp/(k + 1)))
    return sum(max([p for t, p in points if 10*t>=level*things.n] or [0]) for level in range(11))/11

def slow_metrics(found, things, n):
    tp = slow_hits(found, things, 'centre', .5).sum(); p, r = tp/len(found.frame), tp/things.n; errors, counts = [], dict(perfect=0, overcount=0, undercount=0)
    for f in range(n):
        M, N = (found.frame==f).sum(), (things.frame==f).sum(); counts['perfect' if M==N else 'overcount' if M>N else 'undercount'] += 1
        if N: errors.append(abs(M - N)/N)
    ap = {f'ap_{t/10:.2f}': slow_ap(found, things, t/10) for t in range(1, 10)}
    return ap | dict(ap_avg=np.mean(list(ap.values())), accuracy=counts['perfect']/n, **counts, error_rate=np.mean(errors), precision=p, recall=r, fscore=2*p*r/(p + r + 1e-8))

def toy():
    found = table([0]*3, [(.4, .4, .6, .6), (.1, .1, .2, .2), (.41, .4, .61, .6)], [.9, .8, .7])
    return found, make_things([0, 0], 1, [(.4, .4, .6, .6), (.7, .7, .8, .8)])

def test_O12_metrics_toy():
    found, things = toy()
    assert om.pair_score(found.xyxy[2:], found.xyxy[:1], 'iou')[0]==pytest.approx(.9048, abs=5e-5)
    assert om.pair_score(found.xyxy[2:], found.xyxy[:1], 'centre')[0]==pytest.approx(.9646, abs=5e-5)
    m = om.detection_metrics(found, things, 1)
    assert m['precision']==pytest.approx(1/3) and m['recall']==pytest.approx(1/2) and m['fscore']==pytest.approx(.4, abs=1e-6)
    assert all(round(m[f'ap_{t/10:.2f}'], 4)==.5455 for t in range(1, 10)) and round(m['ap_avg'], 4)==.5455
    assert (m['error_rate'], m['overcount'], m['undercount'], m['perfect'], m['accuracy'])==(.5, 1, 0, 0, 0)

@pytest.mark.parametrize('axis', [0, 1])
def test_O12_a_square_shifted_by_half_its_side(axis):
    square = np.array([[.2, .2, .3, .3]]); moved = square.copy(); moved[:, [axis, axis+2]] += .05
    assert om.pair_score(moved, square)[0]==pytest.approx(.6464, abs=5e-5)

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('grid', [None, 8])
def test_O12_equal_to_the_plain_loop(seed, grid):
    found, things = random_scene(60, seed, grid=grid); fast, slow = om.detection_metrics(found, things, 60), slow_metrics(found, things, 60)
    assert fast.keys()==slow.keys()
    for k in slow: assert fast[k]==pytest.approx(slow[k], abs=1e-12), k
    for rule in ('centre', 'iou', 'cover'):
        for thresh in (.3, .5, .7): assert (om.match(found, things, rule, thresh).hit==slow_hits(found, things, rule, thresh)).all()

@pytest.mark.parametrize('rule', ['centre', 'iou', 'cover'])
def test_pair_scores_are_those_of_all_pairs(rule):
    rng = np.random.default_rng(0); a, b = (np.sort(rng.random((40, 2, 2)), 1).reshape(40, 4) for _ in 'ab'); b[3, 2:] = b[3, :2]; b[4, 2] = b[4, 0]
    assert np.allclose(om.pair_score(a, b, rule), np.diag(LOOP_SCORE[rule](a, b)), atol=1e-14)

@pytest.mark.parametrize('budget', [1, 7, 100, 10**6])
def test_pieces_do_not_change_the_best_thing(budget):
    found, things = random_scene(80, 9); whole = om.best_things(found, things, 'iou')
    assert all((a==b).all() for a, b in zip(whole, om.best_things(found, things, 'iou', budget)))

def test_no_second_choice_and_the_first_of_equals():
    things = make_things([0, 0], 1, [(.1, .1, .3, .3), (.12, .1, .32, .3)])                       # overlapping: the loser may not take the other
    found = table([0, 0], [(.1, .1, .3, .3), (.105, .1, .305, .3)], [.6, .9])
    got = om.match(found, things); assert got.hit.tolist()==[False, True] and got.thing.tolist()==[0, 0]
    twins = make_things([0, 0], [1, 2], [(.1, .1, .3, .3)]*2); assert om.match(table([0], [(.1, .1, .3, .3)], [.9]), twins).thing[0]==0

def test_the_threshold_must_be_exceeded():
    things = make_things([0], 1, [(.25, .25, .75, .75)]); half = table([0], [(.25, .25, .75, .5)], [.9])        # IoU exactly 1/2
    assert not om.match(half, things, 'iou', .5).hit[0] and om.match(half, things, 'iou', .49).hit[0]

def test_perfect_worst_and_chance():
    _, things = random_scene(200, 3); best = table(things.frame, things.xyxy, np.random.default_rng(0).random(things.n))
    m = om.detection_metrics(best, things, 200, ious=(.5, .9))
    twice = [f for f in range(200) if len(np.unique(things.of(f).xyxy, axis=0))<things.of(f).n]; assert not twice
    assert [m[k] for k in ('precision', 'recall', 'ap_0.50', 'accuracy', 'error_rate')]==[1, 1, 1, 1, 0] and m['fscore']==pytest.approx(1)
    far = table(things.frame, things.xyxy*0 + np.float32([-3, -3, -2.9, -2.9]), best.conf); m = om.detection_metrics(far, things, 200)
    assert (m['precision'], m['recall'], m['fscore'], m['ap_avg'])==(0, 0, 0, 0)
    rng = np.random.default_rng(1); n = 4000; centre = rng.random((n, 2)); dots = table(np.arange(n), np.hstack([centre - .01, centre + .01]), np.ones(n))
    m = om.detection_metrics(dots, make_things(np.arange(n), 1, np.tile([.4, .4, .6, .6], (n, 1))), n)
    assert m['precision']==pytest.approx(math.pi*.02, abs=.012)                                # the disc of half a diagonal: pi d^2/4, d^2 = 0.08

def test_empty_scenes_are_defined():
    found, things = toy(); nobody, nothing = om.Found.empty(2), Things.empty(); nan = math.isnan
    m = om.detection_metrics(nobody, things, 3); assert nan(m['precision']) and (m['recall'], m['fscore'], m['ap_avg'], m['undercount'], m['perfect'], m['error_rate'])==(0, 0, 0, 1, 2, 1)
    m = om.detection_metrics(found, nothing, 3); assert m['precision']==0 and nan(m['recall']) and nan(m['ap_avg']) and nan(m['error_rate']) and m['fscore']==0
    m = om.detection_metrics(nobody, nothing, 3); assert nan(m['fscore']) and m['accuracy']==1
    c = om.precision_recall_curve(nobody, things); assert len(c.conf)==0 and om.recall_by_class(nobody, things, ['no', 'a'])=={'a': (0., 2)} and om.recall_by_class(found, nothing, ['no'])=={}
    bad = table([0, 0], [[np.nan]*4, (.4, .4, .6, .6)], [.9, .8]); assert om.match(bad, things).hit.tolist()==[False, True]

def test_subsets():
    found, things = random_scene(50, 5)
    for s, mask in dict(all=np.ones(things.n, bool), moving=things.moving, relevant=~things.hud).items():
        assert om.subset_things(things, s).n==mask.sum() and om.subset_things(things, s, visible=True).n==(mask & things.visible).sum()
        want = slow_metrics(found, things.where(mask), 50); got = om.detection_metrics(found, things, 50, s); assert got['recall']==pytest.approx(want['recall']) and got['ap_avg']==pytest.approx(want['ap_avg'])
    keep = lambda xyxy, truth: xyxy[:, 1]>(.5 if (truth[:, 3]<.3).sum()<2 else 0)                  # depends on the truth of the same picture
    got = om.subset_found(found, things, 'relevant', keep); slow = [i for i in range(len(found.frame)) if keep(found.xyxy[i:i+1], things.of(found.frame[i]).xyxy)[0]]
    assert (got.conf==found.conf[slow]).all() and 0<len(slow)<len(found.frame) and len(om.subset_found(found, things, 'moving', keep).frame)==len(found.frame)

def test_curve_is_the_metrics_at_every_threshold():
    found, things = random_scene(60, 7, grid=20); curve = om.precision_recall_curve(found, things); assert len(curve.conf)==len(np.unique(found.conf)) and (np.diff(curve.recall)>=0).all()
    for conf, p, r in list(zip(*curve))[::3]:
        m = om.detection_metrics(found.where(found.conf>=conf), things, 60); assert (m['precision'], m['recall'])==(pytest.approx(p), pytest.approx(r))

def test_recall_by_class_adds_up():
    found, things = random_scene(60, 8); by = om.recall_by_class(found, things, ['no', *'abcd']); assert sum(n for _, n in by.values())==things.n
    assert sum(r*n for r, n in by.values())==pytest.approx(om.match(found, things).hit.sum())

class Grid:
    def __init__(self, where, pres, what): self.z_where, self.z_pres_prob, self.z_what = where, pres, what

@pytest.mark.parametrize('kind', ['array', 'tensor', 'bfloat16'])
def test_found_from_codes(kind):
    rng = np.random.default_rng(0); where, pres, what = rng.random((5, 16, 4)), rng.random((5, 16, 1)), rng.normal(size=(5, 16, 3))
    cast = (lambda x: x) if kind=='array' else lambda x: torch.tensor(x, dtype=torch.float32 if kind=='tensor' else torch.bfloat16, requires_grad=True)
    f = om.found_from(Grid(cast(where), cast(pres), cast(what))); tol = 1e-6 if kind!='bfloat16' else 2e-2; want = [(i, c) for i in range(5) for c in range(16) if np.float32(pres[i, c, 0])>.5]
    if kind!='bfloat16': assert list(zip(f.frame, f.cell))==want
    i, c = f.frame, f.cell; w = where[i, c]; cx, cy = (w[:, 2] + 1)/2, (w[:, 3] + 1)/2
    assert np.allclose(f.xyxy, np.stack([cx - w[:, 0]/2, cy - w[:, 1]/2, cx + w[:, 0]/2, cy + w[:, 1]/2], 1), atol=tol) and np.allclose(f.code, what[i, c], atol=tol*5) and np.allclose(f.conf, pres[i, c, 0], atol=tol)
    assert (np.diff(f.frame)>=0).all() and f.of(2).frame.tolist()==[2]*(f.frame==2).sum()

def test_wrong_input():
    found, things = toy()
    with pytest.raises(DataError, match='frames 0 to 0, expected 0 to -1'): om.detection_metrics(found, things, 0)
    with pytest.raises(DataError, match="did you mean 'moving'"): om.detection_metrics(found, things, 1, 'movin')
    with pytest.raises(DataError, match='rule must be one of'): om.match(found, things, 'x')
    with pytest.raises(DataError, match='must belong to the'): om.found_from(Grid(np.zeros((2, 4, 4)), np.zeros((2, 3)), np.zeros((2, 4, 1))))

def test_4096_pictures_with_ten_boxes_take_seconds():
    rng = np.random.default_rng(0); n, k = 4096, 10; c = rng.random((n*k, 2)); frame = np.repeat(np.arange(n), k); xyxy = np.hstack([c - .05, c + .05])
    things = make_things(frame, 1, xyxy.clip(0, 1)); found = table(frame, xyxy + rng.normal(0, .01, (n*k, 4)), rng.random(n*k))
    start = time.process_time(); m = [om.detection_metrics(found, things, n, s) for s in om.SUBSETS]; took = time.process_time() - start
    assert m[0]['fscore']>.9 and took<6, f'{took:.1f} s'
