"Tracking against a textbook Kalman filter and brute-force assignment; gaps, crossings, empty frames; labels over time"
import itertools, math
import numpy as np, pytest
from vislearn.core import ConfigError, DataError
from vislearn.objects import track as ot
from vislearn.objects.boxes import Things
from vislearn.objects.metrics import Found
from vislearn.synth.sprites import SpriteWorld

box = lambda x, y, s=.1: [x - s/2, y - s/2, x + s/2, y + s/2]

def textbook(measured, noise, push, reach):
    "One axis, full matrices."
    x, P = np.array([measured[0], 0.]), np.diag([noise, reach/2])**2; out = [x[0]]
    F, H, Q = np.array([[1., 1.], [0., 1.]]), np.array([[1., 0.]]), push**2*np.array([[.25, .5], [.5, 1.]])
    for z in measured[1:]:
        x, P = F @ x, F @ P @ F.T + Q
        if not np.isnan(z): S = H @ P @ H.T + noise**2; K = P @ H.T @ np.linalg.inv(S); x, P = x + K @ (z - H @ x), (np.eye(2) - K @ H) @ P
        out.append(x[0])
    return np.array(out)

def test_kalman_equals_the_textbook():
    rng = np.random.default_rng(0); t = np.arange(20); path = np.stack([.2 + .02*t, .7 - .015*t], 1) + rng.normal(0, .01, (20, 2)); path[[6, 7, 13]] = np.nan
    tracker, other = ot.Tracker(noise=.013, push=.007, reach=.2, keep=4), [box(.9, .1)]; got = []
    for p in path:
        tracker.update([*([] if np.isnan(p[0]) else [box(*p)]), *other]); k = tracker.tracks(); i = k.id==0; got.append((k.xyxy[i, :2] + k.xyxy[i, 2:])[0]/2)
    assert np.allclose(got, np.stack([textbook(path[:, a], .013, .007, .2) for a in (0, 1)], 1), atol=1e-12)

@pytest.mark.parametrize('seed', range(6))
def test_assignment_is_the_best_of_all(seed):
    rng = np.random.default_rng(seed); K, M = rng.integers(1, 5, 2); cost = rng.random((K, M)); limit = .6; best = (0, math.inf)                   # most pairs within the limit at the smallest cost
    for n in range(min(K, M) + 1):
        for rows in itertools.combinations(range(K), n):
            for cols in itertools.permutations(range(M), n):
                c = cost[list(rows), list(cols)]
                if (c<=limit).all() and (-n, c.sum())<best: best = (-n, c.sum())
    rows, cols = ot.assign(cost, limit); assert (-len(rows), pytest.approx(cost[rows, cols].sum()))==best and len(set(cols))==len(cols)

@pytest.mark.parametrize('kind', ['kalman', 'nearest'])
def test_gaps_and_their_end(kind):
    t = ot.Tracker(kind, keep=3); assert t.update([box(.5, .5)]).tolist()==[0]
    for k in range(3): assert t.update([]).tolist()==[] and t.tracks().missing.tolist()==[k+1] and np.allclose(t.tracks().xyxy, [box(.5, .5)])    # the last known position
    assert t.update([box(.5, .5)]).tolist()==[0] and t.tracks().missing.tolist()==[0]
    for _ in range(4): t.update([])
    assert len(t.tracks().id)==0 and t.update([box(.5, .5)]).tolist()==[1] and t.reset().update([box(.5, .5)]).tolist()==[0]

def test_crossing_needs_a_velocity():
    frames = [[box(.2 + .06*t, .5), box(.83 - .06*t, .5)] for t in range(11)]
    assert [ot.Tracker('kalman').update(frames[0]).tolist()]==[[0, 1]]; k, n = ot.Tracker('kalman'), ot.Tracker('nearest')
    assert all(k.update(f).tolist()==[0, 1] for f in frames) and [n.update(f).tolist() for f in frames][-1]==[1, 0]

def test_labels_keep_tracks_apart_unless_told_otherwise():
    for same, want in ((True, [1, 0]), (False, [0, 1])): t = ot.Tracker(same_label=same); t.update([box(.2, .2), box(.25, .2)], [1, 2]); assert t.update([box(.2, .2), box(.25, .2)], [2, 1]).tolist()==want

@pytest.mark.parametrize('kind', ['kalman', 'nearest'])
def test_sprites_keep_their_numbers(kind):
    world = SpriteWorld(size=64, n=(2, 2), T=12, seed=4, speed=1.5); truth = Things(*world.truth(range(20))); n = len(truth.frame)
    found = Found(truth.frame, truth.xyxy, np.ones(n, np.float32), np.zeros(n, np.int32), np.zeros((n, 0), np.float32)); s = world.sprites(range(20))
    who = np.array([f//12*2 + np.argmin(np.abs(s.xy[f//12, :, f%12]/64 - b[:2]).sum(1)) for f, b in zip(truth.frame, truth.xyxy)])
    ids = ot.track_found(found, 12, labels=truth.label, tracker=ot.Tracker(kind)); pairs = set(zip(who, ids))
    assert len(pairs)<=44 and len(set(ids))>=40                                                        # 40 sprites: hardly a switch where two of a kind meet
    assert all(len({w//2 for w, i in pairs if i==j})==1 for j in set(ids))                             # no track in two films

def test_empty_films_and_nothing():
    found = Found.empty(3); assert ot.track_found(found, 4).shape==(0,) and len(ot.Tracker().update(np.zeros((0, 4))))==0
    hole = Found(np.int32([0, 3, 9]), np.float32([box(.5, .5)]*3), np.ones(3, np.float32), np.zeros(3, np.int32), np.zeros((3, 1), np.float32)); assert ot.track_found(hole, 4).tolist()==[0, 0, 1]

def test_smoothing_is_the_product_along_a_track():
    rng = np.random.default_rng(0); ids, p = rng.integers(0, 12, 100), rng.dirichlet(np.ones(4), 100)
    slow = [np.prod(np.maximum(p[ids==i], .01), 0).argmax() for i in ids]; assert ot.smooth_labels(ids, p).tolist()==slow and ot.smooth_labels(np.arange(100), p).tolist()==p.argmax(1).tolist()

def test_bayes_accuracy_perfect_chance_and_undefined():
    world = SpriteWorld(size=64, T=4, seed=0); truth = Things(*world.truth(range(60))); n = len(truth.frame); rng = np.random.default_rng(0)
    make = lambda code: Found(truth.frame, truth.xyxy, np.ones(n, np.float32), np.zeros(n, np.int32), code.astype(np.float32))
    clear = np.tile(np.eye(4)[truth.label], 3)*4 + .1*rng.normal(size=(n, 12)); assert ot.bayes_accuracy(make(clear), truth, 4, 16)>.97
    assert ot.bayes_accuracy(make(rng.normal(size=(n, 12))), truth, 4)<.65
    assert math.isnan(ot.bayes_accuracy(Found.empty(3), truth, 4)) and math.isnan(ot.bayes_accuracy(make(clear), Things.empty(), 4)) and ot.bayes_accuracy(make(clear), truth._replace(label=truth.label*0 + 2), 4)==1

def test_cleaner():
    c = ot.SceneCleaner(); assert c({1: [(.1, .1, 0., 0.)], 4: [(.1, .1, 0., .2)], 7: [(.1, .1, 0., -.8)]})=={1: [(.1, .1, 0., 0.)], 4: [(.1, .1, 0., .2)]}
    for _ in range(50): assert c({})=={1: [(.1, .1, 0., 0.)]}                                       # 4 is not remembered, 1 for ever
    assert c({1: [(.5, .5)]})=={1: [(.5, .5)]} and c({1: [(.5, -.9)]})=={1: [(.5, .5)]}
    d = ot.SceneCleaner(keep=(4,), most=1); d({4: [(0., 0.)]}); assert d({})=={4: [(0., 0.)]} and d({})=={} and d({})=={}

def test_wrong_input():
    with pytest.raises(ConfigError, match="'kalman' or 'nearest'"): ot.Tracker('x')
    with pytest.raises(DataError, match='xyxy must be \\(M, 4\\)'): ot.Tracker().update(np.zeros((3, 5)))
    with pytest.raises(DataError, match='one per box'): ot.Tracker().update([box(.5, .5)], [1, 2])
