"Crop and paste against grid_sample, and the composition against three literal pastes with a softmax: values, gradients, windows, memory."
import pytest, torch
from torch.nn import functional as F
from vislearn.objects import paste as P
from vislearn.objects.paste import compose, crop, hat_crop, hat_paste, paste, paste_sum

CORNERS = pytest.mark.parametrize('align', [False, True])


def boxes(B, N, seed=0, small=.05, large=.9, reach=1.2):
    "Boxes of all sizes, some beyond the border, float64."
    gen = torch.Generator().manual_seed(seed)
    return torch.cat([torch.rand(B, N, 2, generator=gen).double()*(large - small) + small, (torch.rand(B, N, 2, generator=gen).double()*2 - 1)*reach], -1)

def warp(x, theta_scale, theta_shift, side, align):
    "affine_grid and grid_sample, one picture per box."
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = theta_scale.unbind(-1); theta[:, 0, 2], theta[:, 1, 2] = theta_shift.unbind(-1)
    return F.grid_sample(x, F.affine_grid(theta, (len(x), x.shape[1], side, side), align_corners=align), align_corners=align, padding_mode='zeros')

def slow_crop(images, z, g, align):
    B, N, _ = z.shape
    x = images.unsqueeze(1).expand(-1, N, -1, -1, -1).flatten(0, 1)
    return warp(x, z.flatten(0, 1)[:, :2], z.flatten(0, 1)[:, 2:], g, align).unflatten(0, (B, N))

def slow_paste(glimpses, z, size, align):
    size_, centre = z.flatten(0, 1).split(2, -1)
    return warp(glimpses.flatten(0, 1), 1/(size_ + 1e-9), -centre/(size_ + 1e-9), size, align).unflatten(0, z.shape[:2])

def slow_compose(a, o, depth, z, size, align):
    m = slow_paste(100*a*torch.sigmoid(-depth)[..., None, None], z, size, align)
    y, alpha = slow_paste(a*o, z, size, align), slow_paste(a, z, size, align)
    W = torch.softmax(m, 1)
    return (W*y).sum(1), (W*alpha).sum(1)

def scene(B=2, N=9, g=8, seed=0, **options):
    gen = torch.Generator().manual_seed(seed); rand = lambda *s: torch.rand(*s, generator=gen).double()
    return [x.requires_grad_() for x in (rand(B, N, 1, g, g), rand(B, N, 3, g, g), 4*rand(B, N, 1) - 2, boxes(B, N, seed, **options))]

def gradients(out, inputs, seed=1):
    gen = torch.Generator().manual_seed(seed)
    return torch.autograd.grad([(y*torch.randn(y.shape, generator=gen).to(y)).sum() for y in (out if isinstance(out, tuple) else (out,))], inputs)

def close(got, want, tol=1e-8):
    for x, y in zip(got, want): torch.testing.assert_close(x, y, rtol=tol, atol=tol*float(y.detach().abs().max() + 1))


@CORNERS
@pytest.mark.parametrize('separable', [False, True])
def test_O13_crop_equals_grid_sample(align, separable):
    images, z = torch.rand(2, 3, 32, 32).double().requires_grad_(), boxes(2, 7).requires_grad_()
    got, want = crop(images, z, 8, align, separable), slow_crop(images, z, 8, align)
    close([got], [want], 1e-10); close(gradients(got, [images, z]), gradients(want, [images, z]))
    torch.testing.assert_close(crop(images.float(), z.float(), 8, align, separable), want.float(), rtol=1e-4, atol=1e-5)

@CORNERS
def test_O13_paste_equals_grid_sample(align):
    glimpses, z = torch.rand(2, 7, 4, 8, 8).double().requires_grad_(), boxes(2, 7).requires_grad_()
    got, want = paste(glimpses, z, 32, align), slow_paste(glimpses, z, 32, align)
    close([got], [want], 1e-10); close(gradients(got, [glimpses, z]), gradients(want, [glimpses, z]), 1e-7)
    close([paste_sum(glimpses[:, :, 0], z, 32, align)], [want[:, :, :1].sum(1)], 1e-10)

@CORNERS
def test_O13_whole_picture_is_the_identity(align):
    x, whole = torch.rand(2, 3, 16, 16).double(), torch.tensor([[[1., 1., 0., 0.]]]).double().expand(2, 1, 4)
    close([crop(x, whole, 16, align)[:, 0], paste(crop(x, whole, 16, align), whole, 16, align)[:, 0]], [x, x], 1e-7)

def test_O13_ones_cover_the_central_half():
    covered = paste(torch.ones(1, 1, 1, 8, 8), torch.tensor([[[.5, .5, 0., 0.]]]), 32)[0, 0, 0]
    assert covered[9:23, 9:23].min() == 1 and covered[:6].max() == 0 and covered[:, 26:].max() == 0

def test_hats_are_weights():
    Ay, Ax = hat_crop(torch.tensor([[.3, .4, .1, -.2]]), 32, 8); By, Bx = hat_paste(torch.tensor([[.3, .4, .1, -.2]]), 8, 32)
    assert Ay.shape == (1, 8, 32) and By.shape == (1, 32, 8)
    for A in (Ay, Ax): torch.testing.assert_close(A.sum(-1), torch.ones(1, 8))
    assert (By.sum(-1) > 0).sum() > (Bx.sum(-1) > 0).sum()    # taller than wide

@CORNERS
@pytest.mark.parametrize('checkpoint', [False, True])
@pytest.mark.parametrize('options', [dict(), dict(small=.01, large=.15), dict(small=.9, large=1.5), dict(reach=3.)], ids=['mixed', 'small', 'large', 'outside'])
def test_O13_composition_equals_three_pastes(align, checkpoint, options):
    x = scene(**options)
    got, want = compose(*x, 40, checkpoint, align), slow_compose(*x, 40, align)
    close(got, want, 1e-9); close(gradients(got, x), gradients(want, x), 1e-6)

def test_composition_in_float32_is_near():
    x = scene(B=1, N=64, g=32, small=.03, large=.3); y = [v.detach().float().requires_grad_() for v in x]
    got, want = compose(*y, 128), slow_compose(*x, 128, False)
    for a, b in zip(got, want): assert (a - b).abs().max() < 1e-4
    for a, b in zip(gradients(got, y), gradients(want, x)): assert (a - b).abs().max() < 1e-3*b.abs().max() + 1e-3

def whole_pictures(z, N, g, size, align):
    "What a GPU does: no look at sizes, all boxes of a picture summed at once."
    return [P.Portion(rows, torch.zeros(len(rows), 2, dtype=torch.long), size, N) for rows in torch.arange(len(z)).split(N)]

@CORNERS
def test_windows_do_not_change_the_result(align, monkeypatch):
    x = scene(N=12, small=.02, large=.4); got = compose(*x, 48, True, align); grads = gradients(got, x)
    assert len({side for _, _, side, _ in P._portions(x[3].flatten(0, 1), 12, 8, 48, align)}) > 2
    monkeypatch.setattr(P, '_portions', whole_pictures)
    full = compose(*x, 48, True, align)
    close(got, full, 1e-12); close(grads, gradients(full, x), 1e-9)

@CORNERS
@pytest.mark.parametrize('g', [4, 8, 32])
def test_windows_hold_every_pixel_of_a_box(g, align):
    z = boxes(1, 200, small=.005, large=1.2)[0]; z[0, :2] = 0
    Ay, Ax = hat_paste(z, g, 64, align)
    for rows, start, side, share in P._portions(z, 200, g, 64, align):
        assert side <= 64 and share == 1 and (start >= 0).all() and (start + side <= 64).all()
        for r, (y, x) in zip(rows.tolist(), start.tolist()):
            for A, first in ((Ay, y), (Ax, x)): assert set(A[r].sum(-1).nonzero()[:, 0].tolist()) <= set(range(first, first + side))
    assert sorted(torch.cat([rows for rows, *_ in P._portions(z, 200, g, 64, align)]).tolist()) == list(range(200))

@CORNERS
def test_composition_gradcheck(align):
    x = scene(B=2, N=3, g=4, small=.2, large=.5, reach=.6)
    assert torch.autograd.gradcheck(lambda *v: compose(*v, 20, align_corners=align), x, atol=1e-4, fast_mode=True)

def test_largest_importance_is_finite_and_wins():
    a, o = torch.ones(1, 3, 1, 8, 8), torch.rand(1, 3, 3, 1, 1).expand(1, 3, 3, 8, 8)
    z, depth = torch.tensor([[[.5, .5, 0., 0.]]]).expand(1, 3, 4), torch.tensor([[[-30.], [30.], [0.]]])
    inputs = [x.clone().requires_grad_() for x in (a, o, depth, z)]
    fg, alpha = compose(*inputs, 32); grads = gradients((fg, alpha), inputs)
    torch.testing.assert_close(fg[0, :, 16, 16], o[0, 0, :, 0, 0]); assert all(x.isfinite().all() for x in (fg, alpha, *grads))

def test_empty_boxes_and_no_boxes_in_sight():
    x = [v.detach() for v in scene()]; x[3][..., :2] = 0; x[3][0, 0, 2] = 50.
    x = [v.requires_grad_() for v in x]; out = compose(*x, 32)
    assert all(v.isfinite().all() for v in (*out, *gradients(out, x)))
    y = [v.detach().clone() for v in scene()]; y[3][..., 2] = 9.
    assert compose(*y, 32)[0].abs().sum() == 0 and compose(*y, 32)[1].abs().sum() == 0

def test_composition_keeps_no_pictures():
    x = [v.detach().float().requires_grad_() for v in scene(B=1, N=64, g=16)]; sizes = {}
    for checkpoint in (True, False):
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.__setitem__(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()), t)[1], lambda t: t): compose(*x, 128, checkpoint)
        sizes[checkpoint] = sum(kept.values())
    assert sizes[True] < 1e6 < 12*64*128*128 < sizes[False]

def test_bf16_autocast_stays_in_float32():
    x = [v.detach().float().requires_grad_() for v in scene()]
    with torch.autocast('cpu', dtype=torch.bfloat16): got = compose(*[v.bfloat16() if i < 2 else v for i, v in enumerate(x)], 32)
    assert all(v.dtype == torch.float32 for v in got)
    for a, b in zip(got, compose(x[0].bfloat16().float(), x[1].bfloat16().float(), *x[2:], 32)): torch.testing.assert_close(a, b)

def test_wrong_shapes_are_told():
    a, o, depth, z = scene()
    for args, text in (((a[0], o, depth, z), 'a must be'), ((a, o[:, :1], depth, z), 'o must be'), ((a, o, depth[..., 0], z), 'depth must be'), ((a, o, depth, z[..., :3]), 'z_where must be')):
        with pytest.raises(ValueError, match=text): compose(*args, 32)
