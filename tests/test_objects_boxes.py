"Boxes, scores and the table of things against slow references and closed forms."
import numpy as np, pytest, torch

from vislearn.core import DataError
from vislearn.objects.boxes import Things, box_iou, box_to_zwhere, centre_score, cover_share, make_things, zwhere_to_box


def random_boxes(n, seed=0):
    corner = np.random.default_rng(seed).uniform(0, .7, (n, 2))
    return np.concatenate([corner, corner + np.random.default_rng(seed+1).uniform(.05, .3, (n, 2))], 1)


def test_O11_pixel_box():
    z = np.array([.25, .5, 0, 0])
    assert zwhere_to_box(z, (128, 128)).tolist() == [48, 32, 80, 96]
    assert zwhere_to_box(torch.tensor(z), (128, 128)).tolist() == [48, 32, 80, 96]


def test_O11_all_orders_agree_on_a_frame_that_is_not_square():
    z = box_to_zwhere(random_boxes(20)); H, W = 210, 160
    x0, y0, x1, y1 = zwhere_to_box(z, (H, W)).T
    for fmt, want in dict(xywh=(x0, y0, x1-x0, y1-y0), yyxx=(y0, y1, x0, x1)).items():
        np.testing.assert_allclose(zwhere_to_box(z, (H, W), fmt), np.stack(want, 1), atol=1e-9)
    for one, got in zip(z, zwhere_to_box(z, (H, W))): # by the words of the specification
        w, h, x, y = one; cx, cy = (x+1)/2*W, (y+1)/2*H
        np.testing.assert_allclose(got, (cx - w*W/2, cy - h*H/2, cx + w*W/2, cy + h*H/2), atol=1e-9)


def test_O10_z_where_of_the_example():
    box = np.array([40, 100, 48, 116])/[160, 210, 160, 210]
    np.testing.assert_allclose(box_to_zwhere(box), [.05, .07619, -.45, .02857], atol=1e-5)


def test_there_and_back_for_arrays_and_tensors():
    boxes = random_boxes(50)
    np.testing.assert_allclose(zwhere_to_box(box_to_zwhere(boxes)), boxes, atol=1e-12)
    z = box_to_zwhere(torch.tensor(boxes).view(5, 10, 4)).requires_grad_()
    back = zwhere_to_box(z, (2, 2)); back.sum().backward()
    assert back.shape == (5, 10, 4) and torch.allclose(z.grad[..., 2], torch.full((5, 10), 2., dtype=torch.float64)) # x moves both edges by one pixel


def test_O12_scores_of_the_toy():
    pred = np.array([[.4, .4, .6, .6], [.1, .1, .2, .2], [.41, .4, .61, .6]]); gt = np.array([[.4, .4, .6, .6], [.7, .7, .8, .8]])
    assert box_iou(pred, gt)[2, 0] == pytest.approx(.9048, abs=1e-4) and centre_score(pred, gt)[2, 0] == pytest.approx(.9646, abs=1e-4)
    square = gt[1:]
    assert centre_score(square + [.05, 0, .05, 0], square)[0, 0] == pytest.approx(.6464, abs=1e-4)


def test_O12_scores_against_loops():
    a, b = random_boxes(12), random_boxes(9, 5)
    for i, p in enumerate(a):
        for j, g in enumerate(b):
            w, h = min(p[2], g[2]) - max(p[0], g[0]), min(p[3], g[3]) - max(p[1], g[1]); both = w*h if w > 0 and h > 0 else 0
            area = lambda x: (x[2]-x[0])*(x[3]-x[1])
            d = np.hypot((p[0]+p[2]-g[0]-g[2])/2, (p[1]+p[3]-g[1]-g[3])/2)/np.hypot(g[2]-g[0], g[3]-g[1])
            assert box_iou(a, b)[i, j] == pytest.approx(both/(area(p)+area(g)-both), abs=1e-12)
            assert cover_share(a, b)[i, j] == pytest.approx(both/area(g), abs=1e-12)
            assert centre_score(a, b)[i, j] == pytest.approx(max(0, 1-d), abs=1e-12)
    np.testing.assert_allclose(box_iou(a, b), box_iou(b, a).T)


@pytest.mark.parametrize('score', [box_iou, centre_score, cover_share])
def test_scores_without_boxes_and_without_area(score):
    some, none, flat = random_boxes(3), np.zeros((0, 4), np.float32), np.array([[.3, .3, .3, .5]])
    assert score(none, some).shape == (0, 3) and score(some, none).shape == (3, 0) and score(none, none).shape == (0, 0)
    assert score(some, flat).tolist() == [[0], [0], [0]] and np.isfinite(score(flat, some)).all()


def table(n=200, frames=30, seed=0):
    rng = np.random.default_rng(seed)
    return make_things(rng.integers(0, frames, n), rng.integers(1, 5, n), random_boxes(n), rng.random(n) < .3, rng.random(n) < .5, rng.random(n) < .8)


def test_table_is_sorted_and_typed():
    t = table()
    assert (np.diff(t.frame) >= 0).all() and t.n == 200
    assert [c.dtype for c in t] == [np.dtype(x) for x in ('int32', 'int16', 'float32', 'bool', 'bool', 'bool')]


def test_select_against_a_loop():
    t = table(); rows = np.array([7, 0, 29, 7, 12, 55])
    got, slow = t.select(rows), [(r, *(c[i] for c in t[1:])) for r, f in enumerate(rows) for i in np.flatnonzero(t.frame == f)]
    assert got.n == len(slow) > 20
    for i, (frame, label, box, *flags) in enumerate(slow):
        assert got.frame[i] == frame and got.label[i] == label and (got.xyxy[i] == box).all() and [got.hud[i], got.moving[i], got.visible[i]] == flags
    assert t.of(7).n == (t.frame == 7).sum() and (t.of(7).frame == 7).all()


def test_join_numbers_frames_on():
    a, b = table(seed=1), table(seed=2)
    joined = Things.join([a, b, Things.empty(), a], [30, 30, 4, 30])
    for part, rows in ((a, range(30)), (b, range(30, 60)), (Things.empty(), range(60, 64)), (a, range(64, 94))):
        for x, y in zip(joined.select(rows), part): assert (x == y).all()
    assert Things.join([a, b]).n == 400 and (np.diff(Things.join([a, b]).frame) >= 0).all()


def test_boxes_outside_are_cut_dropped_or_refused():
    boxes = [[-.1, .2, .3, 1.4], [.5, .9, .4, .8], [1.1, .2, 1.3, .4], [.2, .2, .4, .4]]
    t = make_things([0, 1, 2, 3], 1, boxes)
    assert t.frame.tolist() == [0, 1, 3]
    np.testing.assert_allclose(t.xyxy, [[0, .2, .3, 1], [.4, .8, .5, .9], [.2, .2, .4, .4]], atol=1e-6)
    with pytest.raises(DataError, match=r'^xyxy: 2 of 4 boxes leave the image, the first is \[-0.1.*fractions of the image from 0 to 1$'): make_things([0, 1, 2, 3], 1, boxes, outside='error')


@pytest.mark.parametrize('arguments, message', [
    (([0], [1, 2], [[0, 0, 1, 1]]), 'label must have one entry for each of 1 boxes'), (([0], 1, [[0, 0, 1, np.inf]]), 'not finite'),
    (([0], 1, [0, 0, 1, 1]), r'xyxy must be \(M, 4\)'), (([0], 1, [[0, 0, 1, 1]], [True, False]), 'hud must have')])
def test_bad_tables_say_what_is_wrong(arguments, message):
    with pytest.raises(DataError, match=message) as e: make_things(*arguments)
    assert '\n' not in str(e.value)
