"Boxes pixel by pixel, what figures show, read-outs with closed values and a warning for each classic failure"
import math
from typing import NamedTuple
import numpy as np, pytest, torch
from vislearn.core import DataError
from vislearn.objects import figures as of
from vislearn.objects.boxes import box_to_zwhere
from vislearn.objects.metrics import Curve
from vislearn.viz import figure_png

class Scene(NamedTuple):
    z_where:object; z_pres_prob:object; fg:object; bg:object; y:object; alpha_map:object; comps:object; masks:object

def scene(n=3, G=4, S=16, K=3, p=.01, seed=0):
    rng = np.random.default_rng(seed); x = lambda *s: rng.random(s); where = np.concatenate([x(n, G*G, 2)*.2 + .05, x(n, G*G, 2)*2 - 1], -1); m = x(n, K, 1, S, S); pres = np.full((n, G*G, 1), p); pres[:, :2] = .9
    return Scene(where, pres, x(n, 3, S, S), x(n, 3, S, S), x(n, 3, S, S), x(n, 1, S, S)*.1, x(n, K, 3, S, S), m/m.sum(1, keepdims=True))

def slow_box(image, box, color, width):
    out = image.copy(); H, W = out.shape[:2]; x0, y0, x1, y1 = (int(round(float(v))) for v in np.float64(box)*[W, H, W, H])
    for y in range(H):
        for x in range(W):
            if x0<=x<x1 and y0<=y<y1 and not (x0+width<=x<x1-width and y0+width<=y<y1-width): out[y, x] = color
    return out

@pytest.mark.parametrize('width', [1, 2])
@pytest.mark.parametrize('box', [(.1, .2, .6, .9), (-.5, .1, .3, 1.7), (0, 0, 1, 1), (.5, .5, 1.5, 1.5)])
def test_boxes_pixel_by_pixel(box, width):
    image = np.random.default_rng(0).integers(0, 200, (24, 32, 3)).astype(np.uint8); box = np.rint(np.array(box)*16)/16
    assert (of.draw_boxes(image, [box], width=width)==slow_box(image, box, [255]*3, width)).all()

def test_boxes_do_not_touch_the_picture_and_know_layouts():
    image = np.random.default_rng(0).random((3, 16, 16)).astype(np.float32); kept = image.copy(); a = of.draw_boxes(image, [(.2, .2, .7, .7)], [2], scale=3)
    assert a.shape==(48, 48, 3) and a.dtype==np.uint8 and (image==kept).all() and (a==of.draw_boxes(torch.tensor(image), torch.tensor([(.2, .2, .7, .7)]), [2], scale=3)).all()
    b, c = (of.draw_boxes(image, [(.2, .2, .7, .7)], [k]) for k in (1, 2)); assert (b!=c).any()
    for bad in (np.zeros((0, 4)), [[np.nan]*4], [[5, 5, 6, 6]], [[.5, .5, .5, .5]]): assert (of.draw_boxes(image, bad)==of.draw_boxes(image, [])).all()

@pytest.mark.parametrize('K', [1, 3])
@pytest.mark.parametrize('kind', ['array', 'tensor', 'bfloat16'])
def test_decomposition_shows_every_part(K, kind):
    s = scene(K=K); frames = (np.random.default_rng(1).random((3, 3, 16, 16))*255).astype(np.uint8)
    if kind!='array': s, frames = Scene(*(torch.tensor(v, dtype=torch.float32 if kind=='tensor' else torch.bfloat16) for v in s)), torch.tensor(frames)
    n = 6 + 2*K*(K>1); fig = of.decomposition(frames, s, 2); titles = [a.get_title() for a in fig.axes[:n]] # a single part is the background itself
    assert len(fig.axes)==2*n and titles[:5]==['input', 'reconstr.', 'foregr.', 'boxes', 'backgr.'] and titles[-1]=='alpha' and fig.get_size_inches()[0]==6
    shown = [np.asarray(a.images[0].get_array()) for a in fig.axes[n:]]; tol = 1.1 if kind!='bfloat16' else 3      # second row
    assert (shown[0]==np.asarray(frames[1]).transpose(1, 2, 0)).all(); back = lambda t: np.asarray(t.float() if kind!='array' else t, np.float64)
    assert np.allclose(shown[1], back(s.y[1]).transpose(1, 2, 0)*255, atol=tol) and (K==1 or np.allclose(shown[5], (back(s.comps[1][0])*back(s.masks[1][0])).transpose(1, 2, 0)*255, atol=tol))
    assert np.allclose(shown[-1], back(s.alpha_map[1])[0], atol=1e-6) and (shown[3]==of.draw_boxes(s.fg[1], of.boxes_of(s, 1), scale=2)).all(); assert figure_png(fig, 60)[:4]==b'\x89PNG'

def test_decomposition_of_nothing_found_and_wrong_input():
    s = scene(); frames = np.zeros((3, 3, 16, 16)); of.decomposition(frames, s._replace(z_pres_prob=s.z_pres_prob*0)); assert of.boxes_of(s._replace(z_pres_prob=s.z_pres_prob*0), 0).shape==(0, 4)
    with pytest.raises(DataError, match='frames is empty'): of.decomposition(frames[:0], s)
    with pytest.raises(DataError, match='out holds 3 pictures, frames 5'): of.decomposition(np.zeros((5, 3, 16, 16)), s, 5)

def test_maps_of_codes():
    rng = np.random.default_rng(0); code = rng.normal(size=(80, 6))*[5, 3, 1, 1, 1, .1]; label = rng.integers(1, 4, 80)
    at = of.code_map(code, indices=(0, 1, 2)); c = code - code.mean(0); values = np.linalg.svd(c, compute_uv=False)
    assert np.allclose((at**2).sum(0), values[:3]**2) and np.allclose(np.abs(of.code_map(code)), np.abs(at[:, :2])) and abs(of.code_map(code, indices=(1, 0))[:, 0] @ at[:, 1])==pytest.approx(values[1]**2)
    apart = np.r_[code, code + 100]; t = of.code_map(apart, 'tsne'); assert np.linalg.norm(t[:80].mean(0) - t[80:].mean(0))>t[:80].std() and (t==of.code_map(apart, 'tsne')).all()
    fig = of.show_codes(code, label, ['no', 'a', 'b', 'c'], most=30); truth, group = fig.axes; assert [x.get_text() for x in truth.get_legend().get_texts()]==['a', 'b', 'c'] and sum(len(c.get_offsets()) for c in truth.collections)==30
    assert len(group.collections)==3 and len(of.show_codes(code, label, k=5).axes[1].collections)==5 and [x.get_text() for x in of.show_codes(code, label).axes[0].get_legend().get_texts()]==['1', '2', '3']
    for n in (0, 1, 2, 3): of.show_codes(code[:n], label[:n]); of.code_map(code[:n], indices=(0, 3))

def test_curves():
    ax = of.show_precision_recall({'a': Curve(np.array([.9, .5]), np.array([1., .5]), np.array([.2, .6]))}); assert ax.lines[0].get_xdata().tolist()==[.2, .6]
    ax = of.show_few_shot({'a': [{1: .2, 4: .6}, {1: .4, 4: .6}], 'b': [{1: .5, 4: .5}]}, .25); assert np.allclose(ax.lines[0].get_ydata(), [.3, .6]) and len(ax.collections)==1 and [t.get_text() for t in ax.get_xticklabels()]==['1', '4']

def test_health_closed_values():
    s = scene(n=2); pres = np.zeros((2, 16, 1)); pres[0, :4] = 1/(1 + math.exp(-8.1)); pres[1, 3] = .7; hints = np.zeros((2, 16)); hints[0, 2:6] = 1; r, w = of.health(s._replace(z_pres_prob=pres), hints, (-2., .5), .25)
    assert r['objects']==2.5 and r['present']==5/32 and r['hinted']==2 and r['hits']==.5 and r['saturated']==31/32 and r['lambda_align']==.25
    inside = s.z_where[pres[..., 0]>.5]; assert r['width']==pytest.approx(inside[:, 0].mean()) and r['height']==pytest.approx(inside[:, 1].mean())
    assert r['at_prior']==pytest.approx(np.mean([all(abs(math.log(v/(1-v)) + 2)<.5 for v in z[:2]) for z in inside])) and r['prior_size']==pytest.approx(.1192, abs=1e-4)
    assert r['alpha']==pytest.approx(s.alpha_map.mean()) and r['largest']==pytest.approx(s.masks.mean((0, 2, 3, 4)).max()) and w==[]
    m = s.masks[:, :, 0]; assert r['entropy']==pytest.approx(np.mean([-sum(q*math.log(q) for q in m[n, :, y, x])/math.log(3) for n in range(2) for y in range(16) for x in range(16)]))
    t = of.health(Scene(*(torch.tensor(v) for v in s._replace(z_pres_prob=pres))), torch.tensor(hints)[..., None], (-2., .5), torch.tensor(.25)); assert all(t[0][k]==pytest.approx(r[k], abs=1e-6) for k in r)

def test_each_failure_has_its_warning():
    s = scene(); say = lambda s, *a: ' | '.join(of.health(s, *a)[1]); at = box_to_zwhere(np.tile([.4, .4, .4 + .0759, .4 + .0759], (3, 16, 1)))
    assert of.health(s)[1]==[] and say(s._replace(alpha_map=s.alpha_map*0)).startswith('everything is background') and say(s._replace(alpha_map=s.alpha_map*0 + .6)).startswith('everything is foreground')
    assert say(scene(p=.6)).startswith('too many objects: 100% of the cells') and 'sit at the size prior (0.076' in say(s._replace(z_where=at), None, (-2.5, .1)) and 'size prior' not in say(s, None, (-2.5, .1))
    one = np.zeros_like(s.masks); one[:, 1] = 1; assert 'one component only (100.0%' in say(s._replace(masks=one)) and say(s._replace(masks=one[:, 1:2]))==''
    hints = np.zeros((3, 16)); hints[:, 9] = 1; assert 'moving things are missed' in say(s, hints, None, 1.) and 'missed' not in say(s, hints, None, .1)
    assert 'diverged' in say(s._replace(z_pres_prob=s.z_pres_prob*np.nan)) and 'diverged' in say(s._replace(alpha_map=s.alpha_map*np.inf))

def test_health_of_codes_and_wrong_hints():
    class Codes: z_where, z_pres_prob = scene().z_where, scene().z_pres_prob
    assert set(of.health(Codes)[0])=={'objects', 'present', 'saturated', 'width', 'height'}; Codes.z_pres_prob = Codes.z_pres_prob*0; assert math.isnan(of.health(Codes)[0]['width'])
    with pytest.raises(DataError, match='hints have 64 cells, the network has 16'): of.health(scene(), np.zeros((3, 64)))
