"The vectorised SPACE and SPACE-Time against the literal one of space_reference.py: same weights, same noise; outputs, loss and gradients"
import pytest, torch
from space_reference import Moc, Reference, by_part, draw_noise, training_step
from vislearn.objects.space import Space, SpaceConfig
from vislearn.objects.time import MocConfig, MocLoss

OUTPUTS = dict(z_where=5e-5, z_pres_prob=5e-5, z_pres=5e-5, z_what=5e-4, z_depth=2e-4, fg=1e-3, bg=5e-5, y=1e-3, alpha_map=1e-3, comps=5e-5, masks=5e-5, z_pres_prob_pure=5e-5, z_where_pure=5e-5, alpha_map_pure=1e-3) # float32; test_O15_double_precision is a hundred times sharper
SUMS = ('log_like', 'kl_pres', 'kl_depth', 'kl_scale', 'kl_shift', 'kl_what', 'kl_bg', 'boundary', 'elbo_loss', 'mse')
SHARED = ('G', 'K', 'fg_sigma', 'bg_sigma', 'z_scale_std', 'pres_prior', 'scale_prior', 'tau', 'fix_alpha_steps', 'fix_alpha', 'boundary_loss', 'bl_off_step', 'align_corners')


def models(seed=0, dtype=torch.float32, **cfg):
    "A model of the library and the literal one with its weights."
    torch.manual_seed(seed); cfg = SpaceConfig(**cfg)
    fast = Space(cfg).to(dtype)
    with torch.no_grad(): # objects as large as trained ones, some cells with and some without one
        enc = fast.fg_module.img_encoder
        enc.z_scale_net.bias[:2] = -1.5; enc.z_scale_net.bias[2:] = -2.; enc.z_shift_net.bias[2:] = -1.; enc.z_pres_net.weight.mul_(3)
        for v in (fast.bg_module.rnn_mask_h, fast.bg_module.z_mask_0, fast.bg_module.rnn_mask_h_prior): v.normal_(0, .1)
    return fast, Reference(**{k: getattr(cfg, k) for k in SHARED}).to(dtype).take(fast)


def pictures(n, dtype=torch.float32, seed=1):
    "Smooth pictures with some rectangles."
    gen = torch.Generator().manual_seed(seed)
    x = torch.nn.functional.interpolate(torch.rand(n, 3, 8, 8, generator=gen, dtype=torch.float64), 128, mode='bilinear')
    for k in range(6):
        i, j, h, w = (torch.randint(a, b, (1,), generator=gen).item() for a, b in ((0, 100), (0, 100), (6, 26), (6, 26))); x[:, :, i:i+h, j:j+w] = torch.rand(n, 3, 1, 1, generator=gen, dtype=torch.float64)
    return x.to(dtype)


def made_hints(n, G, seed=2, dtype=torch.float32):
    gen = torch.Generator().manual_seed(seed); p = (torch.rand(n, G*G, 1, generator=gen)<.15).to(dtype)
    row, col = torch.meshgrid(torch.arange(G), torch.arange(G), indexing='ij'); centre = (2*torch.stack([col, row], -1).flatten(0, 1) + 1)/G - 1
    where = torch.cat([.05 + .2*torch.rand(n, G*G, 2, generator=gen), centre.expand(n, -1, -1)], -1).to(dtype)*p
    return (torch.rand(n, 1, 128, 128, generator=gen)<.1).to(dtype), p, where


def check(fast, slow, a, b, loss_a, loss_b, tol=1., grad=3e-3):
    "Outputs to a tolerance each, sums and the loss relative, gradients relative to the largest of each tensor."
    for name, limit in OUTPUTS.items():
        x, y = getattr(a, name), getattr(b, name); assert x.shape==y.shape and (x - y).abs().max()<=limit*tol, (name, (x - y).abs().max().item())
    for name in SUMS:
        x, y = getattr(a, name), getattr(b, name); assert ((x - y).abs()/(1 + y.abs())).max()<1e-4*tol, (name, x, y)
    assert abs(loss_a.item() - loss_b.item())<1e-5*(1 + abs(loss_b.item()))*tol
    loss_a.backward(); loss_b.backward()
    mine, theirs = dict(fast.named_parameters()), dict(slow.named_parameters()); worst = {}; largest = {n: p.grad.abs().max().item() for n, p in theirs.items() if p.grad is not None}
    scale = lambda n: max(largest[n], largest.get(n.replace('bias', 'weight'), 0.), 1e-3*max(largest.values())) # a bias in front of a batch norm has no gradient, only rounding
    for part, names in by_part(theirs).items():
        others = by_part(mine).get(part)
        if others is None: assert all(theirs[n].grad is None or theirs[n].grad.abs().max()==0 for n in names), f'{part} learns in the literal model only'; continue
        for n, o in zip(names, others): worst[n] = (theirs[n].grad - mine[o].grad).abs().max().item()/scale(n)
    bad = {n: v for n, v in worst.items() if v>grad}; assert len(worst)>100 and not bad, bad
    return max(worst.values())


later = lambda *v: pytest.param(*v, marks=pytest.mark.slow)

@pytest.mark.parametrize('G, K, align_corners', [(4, 3, False), (4, 3, True), (8, 1, False), later(8, 1, True), later(8, 5, False), later(8, 5, True)])
def test_O15_space_is_the_literal_one(G, K, align_corners):
    fast, slow = models(G=G, K=K, align_corners=align_corners); x, noise = pictures(2), draw_noise(2, G, K)
    fast.set_step(2500)
    a, b = fast(x, noise=noise), slow(x, noise, 2500)
    assert 0<(a.z_pres_prob>.5).float().mean()<1
    check(fast, slow, a, b, a.elbo_loss.mean(), b.elbo_loss.mean())


@pytest.mark.parametrize('checkpoint', [True, later(False)])
def test_O15_double_precision(checkpoint):
    "With float64 only the order of the arithmetic differs."
    fast, slow = models(G=4, K=3, dtype=torch.float64, checkpoint=checkpoint); x, noise = pictures(1, torch.float64), draw_noise(1, 4, 3, dtype=torch.float64)
    a, b = fast(x, noise=noise), slow(x, noise, 0); worst = check(fast, slow, a, b, a.elbo_loss.mean(), b.elbo_loss.mean(), 1e-2, 1e-5); assert worst<1e-5 # the broadcast coordinates are float32 constants on one side


def test_O15_annealed_boundary_and_fixed_alpha():
    room = dict(G=4, K=3, fg_sigma=.15, bg_sigma=.15, pres_prior=(10, 30, .1, .01), scale_prior=(0, 40, -1., -2.), tau=(0, 40, 2.5, .5))
    for cfg, step in ((dict(boundary_loss=True, bl_off_step=20), 20), (dict(boundary_loss=True, bl_off_step=20), 21), (dict(fix_alpha_steps=25, fix_alpha=.3), 24), (dict(fix_alpha_steps=25, fix_alpha=.3), 0), (dict(fix_alpha_steps=25), 25)):
        fast, slow = models(**room, **cfg); x, noise = pictures(1), draw_noise(1, 4, 3); fast.set_step(step)
        with torch.no_grad(): a, b = fast(x, noise=noise), slow(x, noise, step)
        for name in SUMS: assert torch.allclose(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-2), (name, step)
        assert (b.boundary.item()>0)==(cfg.get('boundary_loss', False) and step==20)


@pytest.mark.parametrize('step', [1000, later(0), later(3000)])
def test_O15_direct_guidance(step):
    fast, slow = models(G=4, K=3, direct_guidance=True); x, noise, hints = pictures(2), draw_noise(2, 4, 3), made_hints(2, 4); fast.set_step(step)
    a, b = fast(x, hints, noise), slow(x, noise, step, hints)
    check(fast, slow, a, b, a.elbo_loss.mean(), b.elbo_loss.mean())


@pytest.mark.parametrize('align_corners', [False, True])
def test_O15_space_time_is_the_literal_one(align_corners):
    "A clip of four frames with all losses, sums and wrap-around as in the original."
    G, K = 4, 2; fast, slow = models(G=G, K=K, align_corners=align_corners); x, noise, (motion, z_pres, z_where) = pictures(4), draw_noise(4, G, K), made_hints(4, G)
    clips = [t.unflatten(0, (2, 2)) for t in (motion[:, 0], z_pres[..., 0], z_where)]
    loss, moc = MocLoss(MocConfig(legacy_scale=True, wrap=True, dynamic_steepness=1.2)), Moc(steepness=1.2)
    a, b = fast(x.unflatten(0, (2, 2)), noise=noise), slow(x, noise, 0)
    la, (lb, parts) = loss(a, *clips), moc(b, *clips)
    assert 0<parts.align<1 and parts.continuity!=0 and abs(loss.last['lambda_align'].item() - parts.align)<1e-4
    check(fast, slow, a, b, la, lb)


def test_O15_a_training_step_moves_weights_alike():
    "Two optimizers, one clip of the gradient: after two steps the weights have moved to the same place."
    fast, slow = models(G=4, K=3); steps = [training_step(m) for m in (fast, slow)]; before = {n: p.detach().clone() for n, p in fast.named_parameters()}
    for k in range(2):
        x, noise = pictures(2, seed=k), draw_noise(2, 4, 3, seed=k)
        steps[0](fast(x, noise=noise).elbo_loss.mean()); steps[1](slow(x, noise, 0).elbo_loss.mean())
    mine, theirs = dict(fast.named_parameters()), dict(slow.named_parameters()); pairs = list(slow.pairs(theirs, mine))
    moved, apart = (torch.cat([f(theirs[n].detach(), mine[o].detach(), before[o]).flatten() for n, o in pairs]) for f in (lambda t, m, b: t - b, lambda t, m, b: t - m))
    assert len(pairs)>100 and apart.norm()<.02*moved.norm() and moved.norm()>0


@pytest.mark.slow
@pytest.mark.parametrize('align_corners', [False, True])
def test_O15_the_published_grid(align_corners):
    G, K = 16, 3; fast, slow = models(G=G, K=K, align_corners=align_corners); x, noise = pictures(1), draw_noise(1, G, K)
    a, b = fast(x, noise=noise), slow(x, noise, 0)
    check(fast, slow, a, b, a.elbo_loss.mean(), b.elbo_loss.mean(), grad=1e-2)


def test_reference_has_the_published_size():
    count = lambda m: sum(p.numel() for p in m.parameters()); ref = Reference(8, 3); fg, bg = ref.fg_module, ref.bg_module
    assert [count(m) for m in (fg.img_encoder, fg.z_what_net, fg.glimpse_dec, fg, bg, ref)]==[1_037_403, 724_000, 595_764, 2_357_167, 2_950_484, 5_307_651]
    assert count(Reference(8, 1))==7_688_915 and count(Reference(16, 5))==5_307_651
