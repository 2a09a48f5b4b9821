"Backgrounds, masks, components and hints against literal loops"
import time

import numpy as np, pytest
from scipy import ndimage

from vislearn.core import ConfigError, DataError
from vislearn.objects.boxes import Things, make_things
from vislearn.objects.motion import (RARE, STEPS, Motion, backgrounds, box_cells, choose_motion, close_mask, color_counts, components, flow_values, frame_delta, hints_from_boxes, hit_scores,
    motion_hints, motion_mask, motion_values, pack_colors, process_figure, pyramid_flow, recent_change, root_mode, shrink_to_rare, stability, trail_mode)


def mode_loop(frames, per_channel=False):
    "Per pixel: the most frequent colour; of equals the smallest by (r, g, b)."
    out = np.empty(frames.shape[1:], np.uint8)
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            if per_channel:
                for c in range(3): out[y, x, c] = np.bincount(frames[:, y, x, c]).argmax()
            else:
                colours, counts = np.unique(frames[:, y, x], axis=0, return_counts=True); out[y, x] = colours[counts.argmax()]
    return out


def film(n=60, shape=(40, 56), seed=0, things=3):
    "Rectangles that walk over noise that stands still; where they are, as pixels."
    rng = np.random.default_rng(seed); back = rng.integers(0, 120, (*shape, 3), dtype=np.uint8); frames = np.repeat(back[None], n, 0); boxes = []
    speed, at, colour = rng.integers(1, 3, (things, 2)), rng.integers(0, 30, (things, 2)), rng.integers(150, 255, (things, 3))
    for t in range(n):
        for k in range(things):
            y, x = (at[k] + t*speed[k]) % (np.array(shape) - 8); frames[t, y:y+6, x:x+5] = colour[k]; boxes.append((t, x, y, 5, 6))
    return frames, back, np.array(boxes)


def random_boxes(n, frames, seed=0):
    rng = np.random.default_rng(seed); side = rng.integers(1, 8, (n, 2))/40; low = rng.random((n, 2))*(1 - side)
    return make_things(rng.integers(0, frames, n), 0, np.concatenate([low, low + side], 1))


def hints_loop(boxes, R, G, size=None):
    "One box after the other; a cell keeps the larger."
    pres, where, area = np.zeros((R, G*G)), np.zeros((R, G*G, 4)), np.zeros((R, G*G))
    for t, (x0, y0, x1, y1) in zip(boxes.frame, boxes.xyxy.astype(np.float64)):
        if size is None: i, j = int((y0 + y1)/2*G + 1e-6), int((x0 + x1)/2*G + 1e-6)
        else:
            H, W = size; x, y, w, h = round(x0*W), round(y0*H), round(x1*W) - round(x0*W), round(y1*H) - round(y0*H)
            i, j = int((y + h//2)/(H/G)), int((x + w//2)/(W/G))
        cell = min(i, G-1)*G + min(j, G-1); a = round((x1 - x0)*(y1 - y0), 7)
        if a>area[t, cell] or not pres[t, cell]: pres[t, cell], area[t, cell] = 1, a; where[t, cell] = (x1 - x0, y1 - y0, x0 + x1 - 1, y0 + y1 - 1)
    return pres, where


@pytest.mark.parametrize('levels', [2, 3, 9, 256])
@pytest.mark.parametrize('n', [1, 2, 7, 40, 300])
def test_root_mode_is_the_loop(levels, n):
    rng = np.random.default_rng(levels*n); frames = (rng.integers(0, levels, (n, 6, 5, 3))*(255//(levels - 1))).astype(np.uint8)
    frames[: n*2//3, :3] = 77       # half of the image with a clear majority
    assert (root_mode(frames)==mode_loop(frames)).all()
    assert (root_mode(frames, per_channel=True)==mode_loop(frames, True)).all()
    assert (root_mode(frames, 'median')==np.median(frames, 0).astype(np.uint8)).all()


def test_trail_mode_is_root_mode_of_each_trail():
    rng = np.random.default_rng(0); frames = rng.integers(0, 3, (5, 20, 7, 6, 3), dtype=np.uint8)
    assert (trail_mode(frames, 4)==np.stack([mode_loop(f[:16]) for f in frames])).all()
    with pytest.raises(DataError, match='leave no trail'): trail_mode(frames, 20)


def test_root_mode_is_20_times_faster_than_a_loop():
    "500 frames; the loop runs on a part of the pixels."
    frames = film(500, (210, 160), things=6)[0]; part = frames[:, :8, :40]
    start = time.process_time(); slow = mode_loop(part); slow_s = (time.process_time() - start)*(210*160)/(8*40)
    fast_s = []
    for _ in range(3): start = time.process_time(); fast = root_mode(frames); fast_s.append(time.process_time() - start)
    assert (fast[:8, :40]==slow).all()
    assert slow_s/min(fast_s)>20, f'{slow_s:.2f} s against {min(fast_s):.3f} s'


def test_values_delta_and_mask_are_the_definition():
    frames, back, _ = film(5); delta, values = frame_delta(frames, back), motion_values(frames, back)
    literal = np.abs(frames.astype(int) - back.astype(int)).max(-1)
    assert (delta==literal).all() and np.allclose(values, literal/literal.max((1, 2), keepdims=True))
    assert (motion_values(back[None], back)==0).all()
    assert (motion_mask(delta, close=False)==np.stack([d>d.mean() for d in literal])).all()
    assert (motion_mask(values, .5, close=False)==(values>.5)).all()
    one_each = np.roll(frames, 1, 0); assert (frame_delta(frames, one_each)==np.abs(frames.astype(int) - one_each.astype(int)).max(-1)).all()


def test_closing_is_the_morphological_one():
    "Outside of the image nothing grows and nothing shrinks."
    mask = np.random.default_rng(0).random((6, 23, 31))>.8; square = (1, 3, 3)
    grown = ndimage.maximum_filter(mask, size=square, mode='constant', cval=0)
    assert (close_mask(mask)==ndimage.minimum_filter(grown, size=square, mode='constant', cval=1)).all()


def flood(mask, min_area):
    "Components by flood fill, with corners."
    seen, found = np.zeros_like(mask), []
    for y, x in np.argwhere(mask):
        if seen[y, x]: continue
        todo, pixels = [(y, x)], []; seen[y, x] = True
        while todo:
            a, b = todo.pop(); pixels.append((a, b))
            for i in range(max(a-1, 0), min(a+2, len(mask))):
                for j in range(max(b-1, 0), min(b+2, mask.shape[1])):
                    if mask[i, j] and not seen[i, j]: seen[i, j] = True; todo.append((i, j))
        ys, xs = zip(*pixels)
        if len(pixels)>=min_area: found.append((min(xs), min(ys), max(xs)-min(xs)+1, max(ys)-min(ys)+1))
    return sorted(found)


@pytest.mark.parametrize('min_area', [1, 2, 5])
def test_components_are_those_of_a_flood_fill(min_area):
    mask = np.random.default_rng(1).random((8, 20, 24))>.75; mask[3] = False; mask[4] = True
    frame, xywh, kept = components(mask, min_area)
    assert (np.diff(frame)>=0).all()
    for t in range(len(mask)): assert sorted(map(tuple, xywh[frame==t].tolist()))==flood(mask[t], min_area)
    assert not (kept & ~mask).any() and components(kept, 1)[1].shape==xywh.shape


def test_components_that_changed():
    mask = np.zeros((1, 10, 10), bool); mask[0, 1:3, 1:3] = mask[0, 6:9, 6:9] = True; touch = np.zeros_like(mask); touch[0, 7, 7] = True
    _, xywh, kept = components(mask, 2, touch)
    assert xywh.tolist()==[[6, 6, 3, 3]] and kept.sum()==9


@pytest.mark.parametrize('G', [1, 4, 8, 16])
@pytest.mark.parametrize('size', [None, (210, 160)])
def test_hints_are_those_of_a_loop(G, size):
    boxes = random_boxes(3000, 50, seed=G); pres, where = hints_from_boxes(boxes, 50, G, size); want = hints_loop(boxes, 50, G, size)
    assert (pres==want[0]).all() and np.allclose(where, want[1], atol=1e-6) and pres.dtype==where.dtype==np.float32
    assert 0<pres.sum()<boxes.n or G==16       # cells were shared


def test_hints_of_some_rows_and_of_none():
    boxes = random_boxes(200, 10); rows = np.array([7, 2, 2]); pres, where = hints_from_boxes(boxes, rows, 8); every = hints_from_boxes(boxes, 10, 8)
    assert (pres==every[0][rows]).all() and (where==every[1][rows]).all()
    pres, where = hints_from_boxes(Things.empty(), 3, 4); assert pres.shape==(3, 16) and where.shape==(3, 16, 4) and not pres.any()


def test_O10_z_where_and_cell_of_the_example():
    "160x210 px, box (40, 100, 8, 16): z_where (0.05, 0.07619, -0.45, 0.02857), cell (8, 4)."
    box = make_things([0], 0, np.array([[40/160, 100/210, 48/160, 116/210]])); pres, where = hints_from_boxes(box, 1, 16)
    assert np.flatnonzero(pres[0]).tolist()==[8*16 + 4] and np.allclose(where[0, 8*16 + 4], [.05, .07619, -.45, .02857], atol=1e-5)
    assert box_cells(box, 16).tolist()==box_cells(box, 16, (210, 160)).tolist()==[8*16 + 4]


def test_O10_the_example_from_pixels_to_hint():
    "The same from a frame: the mask finds the box, the hint its cell."
    back = np.zeros((210, 160, 3), np.uint8); frame = back.copy(); frame[100:116, 40:48] = (200, 30, 60)
    got = motion_hints(frame[None], back, 16)
    assert np.flatnonzero(got.z_pres[0]).tolist()==[132] and np.allclose(got.z_where[0, 132], [.05, .07619, -.45, .02857], atol=1e-5) and got.map.sum()==128


def test_O10_the_larger_of_two_stays():
    boxes = make_things([0, 0, 0], 0, [[.1, .1, .14, .14], [.08, .08, .2, .2], [.12, .12, .15, .15]]); _, where = hints_from_boxes(boxes, 1, 2)
    assert np.allclose(where[0, 0], [.12, .12, -.72, -.72], atol=1e-6)


def test_motion_hints_find_walking_boxes():
    frames, back, truth = film(80, things=3); assert (root_mode(frames)==back).all()
    got = motion_hints(frames, back, 8); true = make_things(truth[:, 0], 0, np.c_[truth[:, 1:3], truth[:, 1:3] + truth[:, 3:]]/[56, 40, 56, 40])
    assert hit_scores(got.boxes, true)['fscore']>.9
    assert (got.map<=(frames!=back).any(-1)).all() and (got.z_pres==hints_from_boxes(got.boxes, 80, 8)[0]).all()


@pytest.mark.parametrize('kind', ['root', 'median', 'trail', 'difference', 'flow'])
def test_every_kind_gives_hints(kind):
    frames = film(24)[0]; got = motion_hints(frames, None, 4, Motion(kind=kind)); back = backgrounds(frames, Motion(kind=kind))
    assert got.map.shape==(24, 40, 56) and got.z_pres.shape==(24, 16) and got.boxes.n
    assert back.shape==(frames.shape[1:] if kind in ('root', 'median') else frames.shape)


def test_changed_drops_what_rests():
    frames, back, _ = film(30, things=1); frames[:, 2:8, 40:48] = 250       # differs from the background, but never changes
    rests = lambda m: int(np.isclose(motion_hints(frames, back, 8, m).boxes.xyxy, [40/56, 2/40, 48/56, 8/40]).all(1).sum())
    assert rests(Motion())>20 and rests(Motion(changed=4))==0 and motion_hints(frames, back, 8, Motion(changed=4)).boxes.n>20
    step = recent_change(frames, 2); assert not step[0].any() and (step[5]==((frames[5]!=frames[4]) | (frames[4]!=frames[3])).any(-1)).all()


def test_band_and_ignore_leave_pixels_out():
    frames, back, _ = film(10); mask = np.zeros((40, 56), bool); mask[:, :20] = True
    assert not motion_hints(frames, back, 4, Motion(band=(.25, 1.))).map[:, :10].any()
    got = motion_hints(frames, back, 4, ignore=mask); assert not got.map[:, :, :20].any() and got.map.any()


def rare_loop(frame, box, counts):
    "The literal shrinking of one box: pixel by pixel."
    def score(x, y, w, h): return sum(1/counts.get(tuple(int(v) for v in p), 1) - 1e-4 for p in frame[y:y+h, x:x+w].reshape(-1, 3))
    x, y, w, h = box; best = score(x, y, w, h)
    for side in 'lrtb':
        while (w>8 if side in 'lr' else h>9):
            cut = (w if side in 'lr' else h)//5 + 1
            new = dict(l=(x+cut, y, w-cut, h), r=(x, y, w-cut, h), t=(x, y+cut, w, h-cut), b=(x, y, w, h-cut))[side]
            if score(*new)<=best: break
            (x, y, w, h), best = new, score(*new)
    return best>=.01, [x, y, w, h]


def test_rarity_is_the_loop():
    rng = np.random.default_rng(0); palette = np.uint8([[0, 0, 0], [10, 10, 10], [40, 0, 0], [9, 9, 200], [250, 250, 250]])
    root = palette[rng.choice(4, (150, 150), p=[.7, .28, .019, .001])]; frames = palette[rng.choice(5, (3, 60, 60), p=[.75, .2, .04, .008, .002])]
    low = rng.integers(0, 30, (25, 2)); boxes = np.c_[low, rng.integers(4, 30, (25, 2))]; frame = np.sort(rng.integers(0, 3, 25))
    counts = color_counts(root, {(9, 9, 200): 3}); table = {(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255): int(n) for c, n in counts}
    assert table[9, 9, 200]==3 and table[0, 0, 0]==(root==0).all(-1).sum()
    keep, small = shrink_to_rare(frames, frame, boxes, counts); want = [rare_loop(frames[t], b, table) for t, b in zip(frame, boxes.tolist())]
    assert keep.tolist()==[k for k, _ in want] and small.tolist()==[b for _, b in want]
    assert (small[:, 2:]<boxes[:, 2:]).any() and not keep.all()
    r, g, b = next(iter(RARE['Pong'])); assert r + 255*g + 255**2*b==15406316
    r, g, b = next(iter(RARE['Riverraid'])); assert r + 255*g + 255**2*b==3497752
    assert pack_colors(np.uint8([1, 2, 3]))==65536 + 512 + 3


def test_flow_finds_a_shift():
    rng = np.random.default_rng(0); big = ndimage.gaussian_filter(rng.random((60, 70, 3))*255, (3, 3, 0)); big = ((big - big.min())/(big.max() - big.min())*255).astype(np.uint8)
    a, b = big[5:55, 5:65], big[4:54, 2:62]         # the same pattern 3 px further right and 1 px further down
    u, v = np.median(pyramid_flow(a[None], b[None])[0, :, 10:-10, 10:-10], (1, 2))
    assert abs(u - 3)<.3 and abs(v - 1)<.3
    frames, back, _ = film(4, things=1); back = back//16*0 + 60; frames = np.where(frames>=150, frames, back)
    values = flow_values(frames[1:], frames[:-1], 'pyramid'); assert values.max()==1 and values.shape==(3, 40, 56)


def test_choice_uses_labels_or_stability():
    frames, back, truth = film(60); frames[20:] += np.uint8(3)*(frames[20:]<250)       # the palette changes after a third
    true = make_things(truth[:, 0], 0, np.c_[truth[:, 1:3], truth[:, 1:3] + truth[:, 3:]]/[56, 40, 56, 40])
    name, report = choose_motion(frames, true); assert name==max(report, key=lambda k: report[k]['fscore']) and {'precision', 'recall', 'components', 'stability', 'coverage'}<=report['root'].keys()
    still, _, _ = film(60); name, report = choose_motion(still, kinds=('root', 'flow')); assert name=='root' and 'fscore' not in report['root']
    split = np.concatenate([still[:30], 255 - still[30:]]); name, report = choose_motion(split); assert name=='trail' and report['root']['coverage']>.3


def test_stability_and_hits():
    steady = make_things([0, 1, 2], 0, [[.1, .1, .2, .2], [.12, .1, .22, .2], [.14, .1, .24, .2]]); assert stability(steady, 3, (100, 100))==1
    jumping = make_things([0, 1, 2], 0, [[.1, .1, .2, .2], [.7, .7, .8, .8], [.1, .1, .2, .2]]); assert stability(jumping, 3, (100, 100))==0
    assert stability(Things.empty(), 3, (9, 9))==0 and stability(steady.where(slice(0, 1)), 3, (100, 100))==0
    scores = hit_scores(steady, steady.where(slice(0, 2))); assert np.allclose([scores[k] for k in ('precision', 'recall', 'fscore')], [2/3, 1, .8])
    assert hit_scores(Things.empty(), steady)['fscore']==0


def test_process_figure_has_a_column_for_every_step():
    frames, back, truth = film(3); fig = process_figure(frames, back, None, STEPS, 4)
    assert len(fig.axes)==3*len(STEPS)==27 and [a.get_title() for a in fig.axes[:9]]==list(STEPS)
    with pytest.raises(DataError, match="did you mean 'zwhere'"): process_figure(frames, back, steps=('zwher',))


def test_wrong_input_says_what_to_do():
    frames, back, _ = film(4)
    for call, message in ((lambda: root_mode(frames/255), 'expected uint8 RGB'), (lambda: root_mode(frames[:0]), 'no frame'), (lambda: frame_delta(frames, back[1:]), 'background must be'),
        (lambda: motion_hints(frames[0], back), 'add 1 leading axis'), (lambda: motion_mask(frames[..., 0], 1.), 'thresh must be'), (lambda: hints_from_boxes(random_boxes(3, 9), 1, 4), 'there are 1 frames')):
        with pytest.raises(DataError, match=message): call()
    with pytest.raises(ConfigError, match='kind'): Motion(kind='mod')
    assert not motion_hints(back[None], back).boxes.n         # nothing moves: no boxes, no error
    try: import cv2 # noqa: F401
    except ImportError:
        with pytest.raises(DataError, match='pip install opencv'): flow_values(frames, frames, 'farneback')
