"SPACE as a whole: counts, ramps, likelihood, shapes, presets, memory, mixed precision, no questions to the device, and one batch learned by heart."
import math
import pytest, torch
from torch.utils._python_dispatch import TorchDispatchMode
from vislearn.core import ConfigError, DataError
from vislearn.nets import count_params
from vislearn.objects import paste as P
from vislearn.objects.space import ATARI, BIG_BOXES, JOINT_GAMES, Codes, Space, SpaceConfig, log_mixture, log_normal, ramp_value
from vislearn.runs.config import dump_yaml, parse_yaml

SMALL = dict(size=32, G=4, glimpse=16, z_what=4)
VARIANTS = {'nano': SpaceConfig.nano(), 'space': SpaceConfig(**SMALL), 'one component': SpaceConfig(K=1, **SMALL), 'boundary': SpaceConfig(boundary_loss=True, **SMALL), 'guided': SpaceConfig(direct_guidance=True, motion_input=True, **SMALL),
    'corners': SpaceConfig(align_corners=True, K=5, **SMALL)}
variants = pytest.mark.parametrize('cfg', VARIANTS.values(), ids=list(VARIANTS))


def hints(cfg, n, seed=0):
    gen = torch.Generator().manual_seed(seed); cells = cfg.G**2
    pres = (torch.rand(n, cells, 1, generator=gen) > .7).float()
    return (torch.rand(n, 1, cfg.size, cfg.size, generator=gen) > .8).float(), pres, torch.rand(n, cells, 4, generator=gen)*.5*pres

def pictures(n, size=32, seed=0):
    "Grey pictures with one red square each."
    gen = torch.Generator().manual_seed(seed); x = torch.full((n, 3, size, size), .3)
    for i, (r, c) in enumerate(torch.randint(0, size-6, (n, 2), generator=gen).tolist()): x[i, :, r:r+6, c:c+6] = torch.tensor([.9, .2, .2]).view(3, 1, 1)
    return x


@pytest.mark.parametrize('G', [4, 8, 16])
@pytest.mark.parametrize('K', [3, 5])
def test_O01_counts_of_the_whole(G, K): assert count_params(Space(SpaceConfig(G=G, K=K))) == 5_307_651

def test_O01_counts_of_the_other_variants():
    assert count_params(Space(SpaceConfig(K=1))) == 7_688_915 - 2_148_369     # without the branch that never got a gradient
    assert count_params(Space(SpaceConfig(motion_input=True))) == 5_307_652 and count_params(Space(SpaceConfig.nano())) == 146_994
    fg, bg = Space().param_groups().values(); assert (sum(p.numel() for p in fg), sum(p.numel() for p in bg)) == (2_357_167, 2_950_484)

@pytest.mark.parametrize('ramp, step, want', [((1000, 5000, .1, 1e-10), 1000, .1), ((1000, 5000, .1, 1e-10), 3000, .05), ((1000, 5000, .1, 1e-10), 5000, 1e-10), ((0, 5000, -2., -2.5), 2500, -2.25), ((0, 1, 2.5, 2.5), 0, 2.5),
    ((0, 1000, .1, 1e-10), 9999, 1e-10), ((10, 10, 1., 2.), 10, 1.), ((10, 10, 1., 2.), 11, 2.)])
def test_O06_ramps(ramp, step, want): assert ramp_value(ramp, step) == pytest.approx(want, rel=1e-6)

def test_O06_ramps_reach_the_device_and_survive_a_checkpoint():
    model = Space(SpaceConfig.nano().replace(pres_prior=(1000, 5000, .1, 1e-10), scale_prior=(0, 5000, -2., -2.5), tau=(0, 20000, 2.5, .5))).set_step(2500)
    assert (int(model.step), float(model.scale_prior), float(model.tau), float(model.cooling)) == (2500, -2.25, 2.25, pytest.approx(1/6)) and float(model.pres_prior) == pytest.approx(.0625)
    again = Space(model.cfg); again.load_state_dict(model.state_dict())
    assert int(again.step) == 2500 and float(again.scale_prior) == -2.25 and all(b.ndim == 0 for b in (model.tau, model.step, model.cooling))
    assert 'tau' not in model.state_dict() and 'step' in model.state_dict()

def test_O07_constants_of_the_likelihood():
    x = torch.rand(2, 3, 128, 128); alpha = torch.full((2, 1, 128, 128), .1)
    like = log_mixture(log_normal(x, x, .2), log_normal(x, x, .1), alpha)
    assert float(like[0])/x[0].numel() == pytest.approx(1.332369, abs=1e-6) and float(like[0]) == pytest.approx(65_488.6, abs=.1)
    assert float(log_normal(x, x, .1)[0].sum()) == pytest.approx(68_009., abs=.1) and float(log_normal(x, x, .1)[0, 0, 0, 0]) == pytest.approx(1.383647, abs=1e-6)

def test_likelihood_is_the_mixture_of_the_text():
    torch.manual_seed(0); cfg = SpaceConfig(**SMALL); model = Space(cfg); x = torch.rand(2, 3, 32, 32); out = model(x)
    density = lambda mean, sigma: torch.distributions.Normal(mean.double(), sigma).log_prob(x.double() if mean.ndim == 4 else x.double().unsqueeze(1)).exp()
    bg = (density(out.comps, .1)*(out.masks.double() + 1e-5)).sum(1)
    want = ((out.alpha_map.double() + 1e-5)*density(out.fg, .2) + (1 - out.alpha_map.double() + 1e-5)*bg).log().flatten(1).sum(1)
    torch.testing.assert_close(out.log_like.double(), want, rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(out.elbo_loss, out.kl_pres + out.kl_depth + out.kl_scale + out.kl_shift + out.kl_what + out.kl_bg - out.log_like)
    torch.testing.assert_close(out.y, out.alpha_map*out.fg + (1 - out.alpha_map)*out.bg); torch.testing.assert_close(out.mse, ((out.y - x)**2).flatten(1).sum(1))

@pytest.mark.parametrize('cfg', [SpaceConfig(), SpaceConfig(G=8, K=5, checkpoint=False), *VARIANTS.values()], ids=['G16', 'G8', *VARIANTS])
def test_O14_output_shapes(cfg):
    B, T, S, N = 1, 2, cfg.size, cfg.G**2; n = B*T; model = Space(cfg)
    with torch.no_grad(): out = model(torch.rand(B, T, 3, S, S), hints(cfg, n) if cfg.direct_guidance else None)
    for name in ('z_where', 'z_where_pure'): assert getattr(out, name).shape == (n, N, 4)
    for name in ('z_pres_prob', 'z_pres', 'z_depth', 'z_pres_prob_pure'): assert getattr(out, name).shape == (n, N, 1)
    assert out.z_what.shape == (n, N, cfg.z_what) and out.comps.shape == (n, cfg.K, 3, S, S) and out.masks.shape == (n, cfg.K, 1, S, S)
    for name in ('fg', 'bg', 'y'): assert getattr(out, name).shape == (n, 3, S, S)
    for name in ('alpha_map', 'alpha_map_pure'): assert getattr(out, name).shape == (n, 1, S, S)
    for name in ('log_like', 'kl_pres', 'kl_depth', 'kl_scale', 'kl_shift', 'kl_what', 'kl_bg', 'boundary', 'mse', 'elbo_loss'): assert getattr(out, name).shape == (n,)

@variants
def test_every_parameter_gets_a_gradient(cfg):
    torch.manual_seed(0); model = Space(cfg); n = 4
    with torch.no_grad():
        for name, p in model.bg_module.named_parameters():
            if '.' not in name: p.normal_(0, .1)     # they begin at zero, where weights that multiply them have no gradient yet
    model.set_step(1000)(torch.rand(n, 3, 32, 32), hints(cfg, n)).elbo_loss.mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().sum() == 0] == []

@pytest.mark.parametrize('cfg', [VARIANTS[k] for k in ('nano', 'boundary', 'guided')], ids=['nano', 'boundary', 'guided'])
def test_checkpointing_changes_nothing(cfg):
    torch.manual_seed(0); model = Space(cfg).double(); other = Space(cfg.replace(checkpoint=False)).double(); other.load_state_dict(model.state_dict())
    x, h, noise = torch.rand(4, 3, 32, 32).double(), hints(cfg, 4), model.draw_noise(4)
    for m in (model, other): m(x, h, noise).elbo_loss.mean().backward()
    for (name, p), q in zip(model.named_parameters(), other.parameters()): torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-6, msg=name)

@variants
def test_given_noise_and_means_are_deterministic(cfg):
    torch.manual_seed(0); model = Space(cfg); x, h = torch.rand(2, 3, 32, 32), hints(cfg, 2); noise = model.draw_noise(2, torch.Generator().manual_seed(1))
    assert torch.equal(model(x, h, noise).y, model(x, h, noise).y) and not torch.equal(model(x, h).y, model(x, h).y)
    model.eval(); assert torch.equal(model(x, h).y, model(x, h).y) and not torch.equal(model(x, h, sample=True).y, model(x, h).y)
    zero = {k: torch.full_like(v, .5) if k == 'pres' else torch.zeros_like(v) for k, v in noise.items()}
    torch.testing.assert_close(model(x, h, zero).z_where, model(x, h).z_where); assert torch.equal(model(x, h).z_pres, model(x, h).z_pres_prob)

@variants
def test_encode_is_the_description_of_the_forward_pass(cfg):
    torch.manual_seed(0); model = Space(cfg).train(); x = (torch.rand(1, 2, 3, 32, 32)*255).byte()
    codes = model.encode(x); out = model.eval()(x)
    for name in Codes._fields: torch.testing.assert_close(getattr(codes, name), getattr(out, name)); assert not getattr(codes, name).requires_grad
    assert torch.equal(model.encode(x.float().div(255)[0]).z_where, codes.z_where) and torch.equal(model.encode(x[:, 1:]).z_what, model.encode(x[:, 1:]).z_what)
    torch.testing.assert_close(model.encode(x[:, 1:]).z_where, codes.z_where[1:])

def test_constant_alpha_in_the_first_steps():
    torch.manual_seed(0); model = Space(SpaceConfig.nano().replace(fix_alpha_steps=100, fix_alpha=.25)); x = torch.rand(2, 3, 32, 32)
    for step, fixed in ((0, False), (1, True), (99, True), (100, False)):
        out = model.set_step(step)(x)
        assert bool((out.alpha_map == .25).all()) == fixed and not (out.alpha_map_pure == .25).all()

def test_boundary_loss_stops_after_its_step():
    torch.manual_seed(0); model = Space(VARIANTS['boundary'].replace(bl_off_step=10)); x = torch.rand(2, 3, 32, 32)
    assert (model.set_step(10)(x).boundary != 0).all() and (model.set_step(11)(x).boundary == 0).all() and (Space(VARIANTS['space'])(x).boundary == 0).all()

def test_guidance_cools_down():
    torch.manual_seed(0); model = Space(VARIANTS['guided']); x, h = torch.rand(2, 3, 32, 32), hints(VARIANTS['guided'], 2)
    start, middle, end = (model.set_step(s)(x, h, sample=False) for s in (0, 1500, 3000))
    torch.testing.assert_close(start.alpha_map, h[0]); torch.testing.assert_close(start.z_where, h[2]); torch.testing.assert_close(end.alpha_map, end.alpha_map_pure); torch.testing.assert_close(end.z_where, end.z_where_pure)
    torch.testing.assert_close(middle.alpha_map, (h[0] + middle.alpha_map_pure)/2); assert model.eval()(x).alpha_map.equal(model(x).alpha_map_pure)
    flat = h[0][:, 0].view(1, 2, 32, 32), h[1].view(1, 2, 16), h[2].view(1, 2, 16, 4)
    torch.testing.assert_close(model(x.unsqueeze(0), flat).z_where, model(x, h).z_where)

@pytest.mark.parametrize('game', ATARI)
def test_presets_of_games(game):
    moc, newer, base = (SpaceConfig.atari(game, g) for g in ('moc', 'newer', 'baseline'))
    assert (moc.G, moc.fg_sigma, moc.bg_sigma, moc.z_scale_std, moc.fix_alpha_steps, moc.boundary_loss) == (16, .2, .1, .1, -1, False)
    assert moc.pres_prior == ((1000 if game in ('Pong', 'MsPacman', 'Carnival') else 0), 5000, .1, 1e-10) and moc.K == newer.K == (4 if game == 'Riverraid' else 3)
    assert moc.scale_prior == (0, 5000, *{'Boxing': (-1., -1.), 'Tennis': (-2.5, -3.)}.get(game, (-2., -2.5))) and newer.pres_prior == (0, 5000, .1, 1e-10)
    assert newer.scale_prior[2] == (-1. if game in BIG_BOXES else -2.)
    assert (base.fix_alpha_steps, base.fix_alpha) == ((4000, .05) if game == 'Riverraid' else (2000, .2))

def test_presets_of_the_original():
    large, small, default, joint = SpaceConfig.rooms_large(), SpaceConfig.rooms_small(), SpaceConfig.original(), SpaceConfig.joint()
    assert (large.G, small.G, default.G, joint.G) == (16, 8, 8, 16) and (large.K, joint.K) == (5, 3) and (large.fg_sigma, large.bg_sigma) == (.15, .15)
    assert large.tau == small.tau == (0, 20000, 2.5, .5) and default.tau == joint.tau == (0, 10000, 2.5, 2.5) and large.boundary_loss and large.bl_off_step == 100_000 and default.bl_off_step == 10**8
    assert joint.pres_prior == (10000, 15000, .1, 1e-10) and (joint.fix_alpha_steps, joint.fix_alpha) == (4000, .1) and len(JOINT_GAMES) == 10
    invaders, river = SpaceConfig.atari('SpaceInvaders', 'original'), SpaceConfig.atari('Riverraid', 'original')
    assert (invaders.z_scale_std, invaders.scale_prior, invaders.fix_alpha, river.K, river.fix_alpha_steps) == (.2, (0, 20000, -2.2, -2.5), .2, 4, 4000)
    for cfg in (large, invaders, SpaceConfig.nano(), SpaceConfig.small64()): assert SpaceConfig.model_validate(parse_yaml(dump_yaml(cfg.model_dump(mode='json')))) == cfg

@pytest.mark.parametrize('options, text', [(dict(size=100), 'size: a power of two'), (dict(G=12), 'G: a power of two'), (dict(size=256, G=4), 'at most 32 pixels'), (dict(glimpse=20), 'glimpse: space knows 16, 32'), (dict(arch='compact'), 'K: the compact'),
    (dict(fix_alpha=2.), 'fix_alpha'), (dict(fg_sigma=0.), 'fg_sigma'), (dict(sise=64), "did you mean 'size'")])
def test_wrong_configurations_are_told(options, text):
    with pytest.raises(ValueError, match=text) as e: SpaceConfig(**options)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('call, text', [(lambda m: m(torch.rand(2, 3, 30, 32)), r'x must be \(N, 3, 32, 32\)'), (lambda m: m(torch.rand(3, 32, 32)), 'x must be'), (lambda m: m.encode(torch.rand(2, 1, 32, 32)), 'x must be'),
    (lambda m: m(torch.rand(2, 3, 32, 32), (torch.rand(2, 1, 32, 32), torch.rand(2, 64, 1), torch.rand(2, 16, 4))), r'hints: z_pres must be \(2, 16, 1\)'), (lambda m: m(torch.rand(2, 3, 32, 32), (torch.rand(2, 16, 1),)), 'hints must be'),
    (lambda m: m(torch.rand(2, 3, 32, 32), noise=dict(pres=torch.rand(1, 16, 1))), r"noise\['depth'\]"), (lambda m: SpaceConfig.atari('Pnog'), "did you mean 'Pong'")])
def test_wrong_inputs_are_told(call, text):
    with pytest.raises(ValueError, match=text) as e: call(Space(SpaceConfig.nano()))
    assert '\n' not in str(e.value)

def test_missing_hints_are_told():
    for options in (dict(direct_guidance=True), dict(motion_input=True)):
        model = Space(SpaceConfig(**SMALL, **options))
        with pytest.raises(ValueError, match='hints must be'): model(torch.rand(1, 3, 32, 32))
        model.eval()(torch.rand(1, 3, 32, 32)); model.encode(torch.rand(1, 3, 32, 32))

@variants
def test_bf16_autocast(cfg):
    torch.manual_seed(0); model = Space(cfg); x, h = torch.rand(4, 3, 32, 32), hints(cfg, 4); noise = model.draw_noise(4); want = model(x, h, noise)
    with torch.autocast('cpu', dtype=torch.bfloat16): got = model(x, h, noise)
    assert all(v.dtype == torch.float32 for v in (got.log_like, got.kl_bg, got.kl_pres, got.fg, got.alpha_map, got.z_where, got.z_what, got.z_pres_prob, got.y, got.elbo_loss))
    assert torch.isfinite(got.elbo_loss).all() and ((got.elbo_loss - want.elbo_loss).abs() < .05*want.elbo_loss.abs() + 50).all()
    got.elbo_loss.mean().backward(); assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())

class Asked(TorchDispatchMode):
    "Note every operation whose result is needed on the host."
    def __init__(self): super().__init__(); self.found = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(word in func.name() for word in ('_local_scalar_dense', 'nonzero', 'is_nonzero', 'unique', 'masked_select', 'equal')): self.found.append(func.name())
        return func(*args, **(kwargs or {}))

@pytest.mark.parametrize('cfg', [VARIANTS['boundary'], VARIANTS['guided'], VARIANTS['nano']], ids=['boundary', 'guided', 'nano'])
def test_nothing_is_asked_of_the_device(cfg, monkeypatch):
    "On a GPU windows are whole pictures; everything else is the same code."
    monkeypatch.setattr(P, '_portions', lambda z, N, g, size, align: [P.Portion(torch.arange(len(z)), torch.zeros(len(z), 2, dtype=torch.long), size, N)])
    torch.manual_seed(0); model = Space(cfg); x, h = torch.rand(2, 3, 32, 32), hints(cfg, 2)
    with Asked() as asked: model(x, h).elbo_loss.mean().backward(); model.set_step(3); model.encode(x)
    assert asked.found == []
    with Asked() as asked: float(torch.ones(1))
    assert asked.found

def test_memory_of_a_step_at_full_size():
    "G = 16, K = 3, 128 pixels: at most 350 MB kept per image for the backward pass; the original keeps 613 + 148."
    torch.manual_seed(0); model = Space(); own = {p.untyped_storage().data_ptr() for p in model.parameters()}; kept = {}; alive = []
    def keep(t): kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes(); alive.append(t); return t
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): model(torch.rand(1, 3, 128, 128)).elbo_loss.mean()
    total = sum(n for address, n in kept.items() if address not in own)/1e6
    assert 150 < total < 350, total

def train(cfg, x, steps, lr=(1e-3, 3e-3)):
    torch.manual_seed(0); model = Space(cfg); fg, bg = model.param_groups().values(); opts = torch.optim.RMSprop(fg, lr[0]), torch.optim.Adam(bg, lr[1]); losses = []
    for step in range(steps):
        loss = model.set_step(step)(x).elbo_loss.mean(); losses.append(float(loss.detach()))
        for opt in opts: opt.zero_grad()
        loss.backward(); torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
        for opt in opts: opt.step()
    return model, losses

def test_one_batch_is_learned_by_the_compact_networks():
    x = pictures(8); model, losses = train(SpaceConfig.nano(), x, 80)
    with torch.no_grad(): out = model.eval()(x)
    assert losses[-1] < -.6*1.383*3*32*32 and float(out.mse.mean()) < 20

@pytest.mark.slow
def test_one_batch_is_learned_by_the_networks_of_the_paper():
    x = pictures(4); _, losses = train(SpaceConfig(**SMALL), x, 80)
    assert losses[-1] < -.4*1.383*3*32*32

@pytest.mark.gpu
@pytest.mark.parametrize('cfg', [SpaceConfig(), SpaceConfig.nano()], ids=['space', 'nano'])
def test_gpu_gives_the_same_numbers(cfg):
    torch.manual_seed(0); model = Space(cfg); x, noise = torch.rand(2, 3, cfg.size, cfg.size), model.draw_noise(2)
    here = model(x, noise=noise); here.elbo_loss.mean().backward(); grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad(); model.cuda(); there = model(x.cuda(), noise=noise); there.elbo_loss.mean().backward()
    torch.testing.assert_close(there.elbo_loss.cpu(), here.elbo_loss, rtol=1e-3, atol=1.); assert math.isfinite(float(there.elbo_loss.mean()))
    for p, g in zip(model.parameters(), grads): assert (p.grad.cpu() - g).norm() < .05*g.norm() + 1e-3

@pytest.mark.gpu
def test_gpu_training_step_asks_nothing():
    model = Space(SpaceConfig(size=64, G=8, glimpse=16)).cuda(); x = torch.rand(4, 3, 64, 64, device='cuda'); model(x)
    torch.cuda.set_sync_debug_mode('error')
    try: model.set_step(5); model(x).elbo_loss.mean().backward()
    finally: torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('change, message', [(dict(G=8), 'a checkpoint for a grid of 4 x 4 cells, this network has 8 x 8: set G=4'), (dict(z_what=4), r'enc_what.weight must be \(8, 32\), got \(16, 32\)'),
                                             (dict(size=64, G=8, glimpse=16), 'a checkpoint for a grid of 4 x 4 cells'), (dict(glimpse=16), r'enc_cnn.6.weight must be \(16, 16, 4, 4\), got \(32, 16, 4, 4\)')])
def test_a_checkpoint_of_another_network_is_one_line(change, message):
    state = Space(SpaceConfig.nano()).state_dict(); other = Space(SpaceConfig.nano().replace(**change)); before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(DataError, match=message) as e: other.load_state_dict(state)
    assert '\n' not in str(e.value) and all((v == before[k]).all() for k, v in other.state_dict().items()), 'nothing was copied'


def test_a_part_of_a_checkpoint_may_be_taken_on_request():
    state = {k: v for k, v in Space(SpaceConfig.nano()).state_dict().items() if k.startswith('bg_module')}; net = Space(SpaceConfig.nano())
    with pytest.raises(RuntimeError, match='Missing key'): net.load_state_dict(state)
    net.load_state_dict(state, strict=False); assert all((net.state_dict()[k] == v).all() for k, v in state.items())


@pytest.mark.parametrize('x, message', [(torch.zeros(1, 3, 32, 32).long(), 'got torch.int64'), (torch.zeros(1, 3, 32, 32).numpy(), 'got ndarray'), (torch.zeros(1, 3, 48, 32), r'got \(1, 3, 48, 32\): resize'), (torch.zeros(1, 32, 32, 3), 'got')])
def test_pictures_that_do_not_fit(x, message):
    net = Space(SpaceConfig.nano()).eval()
    for use in (net, net.encode):
        with pytest.raises(DataError, match=message) as e: use(x)
        assert '\n' not in str(e.value)


def test_empty_batches_and_other_float_types():
    net = Space(SpaceConfig.nano()).eval(); x = torch.rand(2, 3, 32, 32)
    assert net(x[:0]).elbo_loss.shape == (0,) and net.encode(x[:0].unsqueeze(1)).z_where.shape == (0, 16, 4)
    with torch.no_grad(): assert (net(x.double()).y == net(x).y).all()


@pytest.mark.parametrize('field, value', [('cooling', (0, 0)), ('tau', (0, 1, 2.5, 0.)), ('tau', (0, 1, -1., 1.)), ('pres_prior', (0, 9, 1.5, .1)), ('scale_prior', (9, 0, -2., -2.))])
def test_impossible_ramps(field, value):
    with pytest.raises(ConfigError, match=f'SpaceConfig: {field}: '): SpaceConfig(**{field: value})
