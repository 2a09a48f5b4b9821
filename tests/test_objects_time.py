"Losses of SPACE-Time: closed forms of the specification, the literal loop in value and gradient, and nothing that asks the device for a number"
import math
from collections import Counter
from types import SimpleNamespace

import pytest, torch
from space_reference import Moc, continuity_loop, hint_distance as slow_distance
from torch.utils._python_dispatch import TorchDispatchMode
from vislearn.core import ConfigError, DataError
from vislearn.objects.space import Space, SpaceConfig
from vislearn.objects.time import MocConfig, MocLoss, RunningVariance, adjacent_consistency, area_pool, continuity_loss, cooling, guidance, hint_distance, motion_losses, neighbours, pres_inconsistency
from vislearn.runs.config import override


def scene(*objects, G=16, T=2, D=4):
    "Codes, positions and presence of clips with objects (frame, row, column, code)."
    what, where, p = torch.zeros(1, T, G*G, D), torch.zeros(1, T, G*G, 4), torch.zeros(1, T, G*G)
    for t, i, j, code in objects:
        k = i*G + j
        what[0, t, k, :len(code)], p[0, t, k], where[0, t, k] = torch.tensor(code), 1., torch.tensor([.1, .1, (2*j + 1)/G - 1, (2*i + 1)/G - 1])
    return what, where, p


def cells(B, T, G, D=5, busy=.3, seed=0, dtype=torch.float64):
    "Random cells."
    gen = torch.Generator().manual_seed(seed); r = lambda *s: torch.rand(*s, generator=gen, dtype=torch.float64).to(dtype)
    return 2*r(B, T, G*G, D) - 1, 2*r(B, T, G*G, 4) - 1, torch.where(r(B, T, G*G)<busy, .5 + .5*r(B, T, G*G), .5*r(B, T, G*G))


class Out(SimpleNamespace):
    "What the loss reads of a model's output, with leaves that take gradients."


def output(N, G, S=8, busy=.3, seed=0, dtype=torch.float32):
    what, where, p = cells(1, N, G, busy=busy, seed=seed, dtype=dtype); gen = torch.Generator().manual_seed(seed + 1)
    leaves = dict(z_what=what[0], z_where=where[0], z_pres_prob=p[0].unsqueeze(-1), alpha_map=torch.rand(N, 1, S, S, generator=gen), elbo_loss=100*torch.rand(N, generator=gen))
    leaves = {k: v.to(dtype).requires_grad_() for k, v in leaves.items()}
    return Out(**leaves, z_where_pure=leaves['z_where'], z_pres_prob_pure=leaves['z_pres_prob'], alpha_map_pure=leaves['alpha_map']), leaves


def hints(B, T, G, S=8, busy=.2, seed=5):
    gen = torch.Generator().manual_seed(seed); p = (torch.rand(B, T, G*G, generator=gen)<busy).float()
    return (torch.rand(B, T, S, S, generator=gen)<.2).float(), p, (2*torch.rand(B, T, G*G, 4, generator=gen) - 1)*p.unsqueeze(-1)


RED, BLUE = [1., 0.], [0., 1.]

@pytest.mark.parametrize('objects, wrap, value', [
    ([(0, 5, 5, RED), (1, 5, 5, RED)], False, -4.), ([(0, 5, 5, RED), (1, 6, 6, BLUE)], False, 0.), ([(0, 5, 5, RED), (1, 5, 5, RED), (1, 5, 6, BLUE)], False, -4.),
    ([(0, 5, 5, RED), (1, 5, 6, RED), (1, 5, 5, BLUE)], False, 0.), ([(0, 0, 0, RED), (1, 0, 15, RED)], True, -4.), ([(0, 0, 0, RED), (1, 0, 15, RED)], False, 0.), ([(0, 5, 5, RED), (1, 5, 7, RED)], True, 0.), ([], True, 0.)])
def test_O08_closed_forms_of_continuity(objects, wrap, value):
    case = scene(*objects)
    assert continuity_loss(*case, wrap=wrap).item()==value and continuity_loop(*case, wrap=wrap).item()==value


@pytest.mark.parametrize('wrap', [False, True])
@pytest.mark.parametrize('cosine, agree', [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize('G, busy', [(4, .6), (8, .25), (8, 1.), (3, 0.)])
def test_O08_vectorised_continuity_is_the_literal_loop(G, busy, cosine, agree, wrap):
    grads, values = [], []
    for fn in (continuity_loss, continuity_loop):
        what, where, p = cells(2, 3, G, busy=busy, seed=G); what.requires_grad_()
        loss = fn(what, where, p, 5., cosine, agree, wrap); values.append(loss.item())
        if loss.requires_grad: loss.backward()
        grads.append(torch.zeros_like(what) if what.grad is None else what.grad)
    assert abs(values[0] - values[1])<1e-10 and (values[0]!=0)==(busy>0)
    assert torch.allclose(*grads, atol=1e-12) and grads[0].isfinite().all()


def test_continuity_single_frame_and_threshold():
    what, where, p = cells(2, 1, 4); assert continuity_loss(what, where, p).item()==0
    what, where, p = cells(2, 3, 4, busy=.5)
    assert continuity_loss(what, where, p, threshold=1.).item()==0!=continuity_loss(what, where, p).item()
    assert abs(continuity_loss(what, where, p, threshold=.7) - continuity_loop(what, where, p, wrap=False, threshold=.7))<1e-10


def test_continuity_gradient_in_float64():
    what, where, p = cells(1, 3, 3, D=3, busy=.7, seed=1)
    assert torch.autograd.gradcheck(lambda w: continuity_loss(w, where, p), what.requires_grad_())


def test_neighbours_reach_the_right_cells():
    grid = torch.arange(25.).view(1, 1, 5, 5, 1)
    assert [int(v[0, 0, 2, 2, 0]) for v in neighbours(grid)]==[6, 7, 8, 11, 12, 13, 16, 17, 18]==[int(v[0, 0, 2, 2, 0]) for v in neighbours(grid, True)]
    assert [int(v[0, 0, 4, 0, 0]) for v in neighbours(grid, True)]==[19, 15, 16, 24, 20, 21, 4, 0, 1] and [int(v[0, 0, 4, 0, 0]) for v in neighbours(grid)]==[0, 15, 16, 0, 20, 21, 0, 0, 0]


@pytest.mark.parametrize('found, hinted, distance, value', [(.05, .05, .1, 1.), (.05, .05, .3, .412), (.08, .04, .1, .0288), (.05, .05, 1000., 0.)])
def test_O09_examples_of_the_schedule(found, hinted, distance, value):
    got = guidance(torch.tensor(distance), torch.tensor(found), torch.tensor(hinted), torch.tensor(0.), 256, MocConfig.atari('Pong'))
    assert abs(got.item() - value)<5e-4


def test_O09_running_variance():
    var = RunningVariance(); assert var(torch.tensor(1.)).item()==0 and abs(var(torch.tensor(2.)).item() - 1/3)<1e-6
    var, past = RunningVariance(20), []
    for step, value in enumerate(torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64).tolist()):
        past = ((past or [value]) + [value])[-20:]
        assert abs(var(torch.tensor(value)).item() - torch.tensor(past, dtype=torch.float64).var().item())<1e-5, step
    again = RunningVariance(20); again.load_state_dict(var.state_dict()); assert again(torch.tensor(3.)).item()==var(torch.tensor(3.)).item()


def test_O09_fixed_schedule():
    cfg = MocConfig(motion_cooling_start_step=100, motion_cooling_end_step=1000); at = torch.tensor([0., 100, 600, 1100, 5000])
    assert torch.allclose(cooling(at, cfg), torch.tensor([0, 0, .5, 1, 1])) and torch.allclose(cooling(torch.tensor(3000.), MocConfig(legacy_cooling=True)), torch.tensor(.5))
    out, _ = output(4, 4); h = hints(2, 2, 4); loss = MocLoss(MocConfig(dynamic_scheduling=False, motion_cooling_end_step=10))
    seen = []
    for step in (0, 5, 10): loss.set_step(step); loss(out, *h); seen.append(loss.last['lambda_align'].item())
    assert seen==[0., .5, 1.] and loss.variance.count.item()==0


@pytest.mark.parametrize('gone', [(), (2,), (0, 1, 2), (4, 5), (0, 2, 3, 5), range(6)])
def test_O09_distance_is_the_literal_one(gone):
    _, where, p = cells(1, 6, 4, busy=.3, seed=2, dtype=torch.float32); where, p = where[0], p[0].clone()
    for frame in gone: p[frame] = 0
    _, hint_p, hint_where = hints(1, 6, 4); hint_p, hint_where = hint_p[0], hint_where[0]
    assert abs(hint_distance(p, where, hint_p, hint_where).item() - slow_distance(p, where, hint_p, hint_where))<1e-4
    assert hint_distance(p, where, 0*hint_p, hint_where).item()==1000.


def test_motion_losses_are_the_sums_of_the_paper():
    out, _ = output(4, 4); motion, hint_p, hint_where = (t.flatten(0, 1) for t in hints(2, 2, 4))
    p = out.z_pres_prob[..., 0]; pres, where, alpha = motion_losses(p, out.z_where, out.alpha_map, hint_p, hint_where, motion.unsqueeze(1))
    place = sum(((out.z_where[n, k] - hint_where[n, k])**2).sum()*((hint_p[n, k]>.5).int() + (p[n, k]>.5).int()) for n in range(4) for k in range(16))
    assert torch.allclose(pres, ((p - hint_p)**2).sum()) and torch.allclose(where, place) and torch.allclose(alpha, sum(((out.alpha_map[n, 0] - motion[n])**2).sum() for n in range(4)))


@pytest.mark.parametrize('dynamic', [True, False])
def test_total_is_the_literal_one_over_several_steps(dynamic):
    cfg = MocConfig(legacy_scale=True, wrap=True, dynamic_scheduling=dynamic, motion_cooling_end_step=10, dynamic_steepness=1.05)
    fast, slow = MocLoss(cfg), Moc(dynamic=dynamic, cool_steps=10, steepness=1.05)
    for step in range(5):
        h = hints(2, 3, 4, seed=step); grads = []
        for fn in (fast, slow):
            out, leaves = output(6, 4, seed=step)
            if fn is fast: fast.set_step(step); loss = fast(out, *h)
            else: loss, parts = slow(out, *h, step)
            loss.backward(); grads.append({k: v.grad for k, v in leaves.items()})
            if fn is fast: value = loss.item()
        assert abs(value/loss.item() - 1)<1e-5 and abs(fast.last['lambda_align'].item() - parts.align)<1e-4
        assert abs(fast.last['continuity'].item() - parts.continuity.item())<1e-3 and abs(fast.last['motion'].item()/parts.motion.item() - 1)<1e-5
        for k, g in grads[0].items():
            if g is None or grads[1][k] is None: assert dynamic is False and (g is None or g.abs().max()<1e-6) and (grads[1][k] is None or grads[1][k].abs().max()<1e-6)
            else: assert torch.allclose(g, grads[1][k], rtol=2e-4, atol=1e-4*g.abs().max().item() + 1e-9), k


def test_scales():
    "Per image by default: twice the clips, the same loss; the published weights hold for 64 images; sums with the legacy scale."
    cfg = MocConfig(use_variance=False, dynamic_scheduling=False, motion_cooling_end_step=10); double = lambda t: torch.cat([t, t])
    def value(cfg, twice=False):
        out, _ = output(8, 4); h = hints(2, 4, 4)
        if twice: out = Out(**{k: double(v) for k, v in vars(out).items()}); h = [double(t) for t in h]
        loss = MocLoss(cfg); loss.set_step(4); return (loss(out, *h) - out.elbo_loss.mean()).item()
    assert abs(value(cfg, True)/value(cfg) - 1)<1e-5 and abs(value(cfg.replace(legacy_scale=True), True)/value(cfg.replace(legacy_scale=True)) - 2)<1e-5
    assert abs(value(cfg.replace(weight_images=8))/value(cfg.replace(legacy_scale=True)) - 1)<1e-5 and abs(value(cfg)/value(cfg.replace(legacy_scale=True)) - 8)<1e-5


def test_pairs_of_the_optional_terms():
    "Frames of one clip are compared, never frames of two clips."
    what, _, p = cells(3, 4, 4, dtype=torch.float32)
    assert torch.allclose(adjacent_consistency(what), sum(((what[b, t+1] - what[b, t])**2).sum() for b in range(3) for t in range(3)))
    blink = sum((1 - (p[b, t+2, k] - p[b, t, k])**2)*((p[b, t+2, k] - p[b, t+1, k])**2 + (p[b, t, k] - p[b, t+1, k])**2) for b in range(3) for t in range(2) for k in range(16))
    assert torch.allclose(pres_inconsistency(p), blink)
    for cosine in (True, False):
        total = 0.
        for b in range(3):
            for t in range(3):
                for k in range(16):
                    i, j = divmod(k, 4); near = [a*4 + c for a in range(max(0, i-1), min(4, i+2)) for c in range(max(0, j-1), min(4, j+2))]
                    before, now = (what[b, t, near].abs()*p[b, t, near, None]).max(0).values, what[b, t+1, k].abs()*p[b, t+1, k]
                    total += -torch.cosine_similarity(before, now, dim=0)*(p[b, t, k] + p[b, t+1, k])/2 if cosine else ((before - now)**2).sum()
        assert torch.allclose(area_pool(what, p, cosine), total, rtol=1e-4)


def test_optional_terms_count_when_they_have_weight():
    out, _ = output(6, 4); h = hints(2, 3, 4); base = MocConfig(dynamic_scheduling=False, motion_weight=0., area_object_weight=0., legacy_scale=True); clips = lambda t: t.unflatten(0, (2, 3))
    assert not base.needs_clips and MocLoss(base)(out).item()==out.elbo_loss.mean().item()
    for name, value in dict(adjacent_consistency=adjacent_consistency(clips(out.z_what)), pres_inconsistency=pres_inconsistency(clips(out.z_pres_prob[..., 0])), area_pool=area_pool(clips(out.z_what), clips(out.z_pres_prob[..., 0]))).items():
        loss = MocLoss(base.replace(**{f'{name}_weight': 3.}))
        assert torch.allclose(loss(out, *h) - out.elbo_loss.mean(), 3*value, rtol=1e-3) and torch.allclose(loss(out, torch.zeros(2, 3, 3, 8, 8)), loss(out, *h)) # the clip as target, no hints
        assert torch.allclose(loss.last[name], value)


class Seen(TorchDispatchMode):
    "Counts operators."
    def __init__(self): super().__init__(); self.ops = Counter()
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): self.ops[func.overloadpacket.__name__] += 1; return func(*args, **(kwargs or {}))


def test_no_number_is_read_back_and_the_work_does_not_depend_on_the_scene():
    counts = []
    for busy in (0., .2, 1.):
        out, _ = output(8, 8, busy=busy); h = hints(2, 4, 8, busy=busy); loss = MocLoss(MocConfig(adjacent_consistency_weight=1., pres_inconsistency_weight=1., area_pool_weight=1.))
        with Seen() as seen: loss.set_step(3); loss(out, *h).backward()
        assert not {'_local_scalar_dense', 'nonzero', 'is_nonzero', 'masked_select', 'equal', '_unique2'} & set(seen.ops), seen.ops
        assert all(isinstance(v, torch.Tensor) and v.ndim==0 and not v.requires_grad for v in loss.last.values()); counts.append(sum(seen.ops.values()))
    assert counts[0]==counts[1]==counts[2]
    with Seen() as seen: torch.ones(3).sum().item(); torch.ones(3)[torch.ones(3)>0]
    assert seen.ops['_local_scalar_dense'] # this is what is looked for


def test_half_precision_and_evaluation():
    out, _ = output(8, 4); h = hints(2, 4, 4); loss = MocLoss(); value = loss(out, *h).item()
    half = Out(**{k: v.detach().bfloat16() for k, v in vars(out).items()})
    with torch.autocast('cpu', torch.bfloat16): got = MocLoss()(half, h[0].bool(), h[1].to(torch.uint8), h[2].half())
    assert got.dtype==torch.float32 and abs(got.item()/value - 1)<.02
    count = loss.variance.count.item(); assert loss.eval()(out, *h).item()==out.elbo_loss.mean().item() and loss.variance.count.item()==count and set(loss.last)=={'elbo'}
    again = MocLoss(); again.load_state_dict(loss.state_dict()); assert again.variance.count.item()==count


def test_presence_with_a_last_axis_is_fine():
    out, _ = output(8, 4); m, p, w = hints(2, 4, 4); assert MocLoss()(out, m, p.unsqueeze(-1), w).item()==MocLoss()(out, m, p, w).item()


def test_alpha_against_the_mixed_map():
    out, _ = output(4, 4); h = hints(2, 2, 4); mixed = Out(**vars(out) | dict(alpha_map=.25*out.alpha_map_pure + .75*h[0].flatten(0, 1).unsqueeze(1)))
    a, b = MocLoss(MocConfig(alpha_target='mixed')), MocLoss(); a(mixed, *h); b(mixed, *h)
    assert torch.allclose(a.last['motion_alpha'], .75**2*b.last['motion_alpha']) and b.last['motion_alpha']>0


def test_what_does_not_fit_is_said_in_one_line():
    out, _ = output(6, 4); h = hints(2, 3, 4)
    for args, words in (((), 'motion hints are missing'), (hints(3, 4, 4), '3 clips with 4 frames for 6 images'), (hints(2, 3, 8), 'hints for 8 x 8 cells, the model has 4 x 4'), ((h[0][:, :2], *h[1:]), 'motion map')):
        with pytest.raises(DataError, match=words) as e: MocLoss()(out, *args)
        assert '\n' not in str(e.value)
    with pytest.raises(ConfigError, match="did you mean 'space_moc'"): MocConfig().variant('space_moca')
    with pytest.raises(ConfigError, match='variance_steps'): MocConfig(variance_steps=1)


def test_config_round_trip_and_presets():
    cfg = MocConfig.atari('Tennis').variant('space_m'); assert MocConfig(**cfg.model_dump(mode='json'))==cfg and cfg.motion_object_found_lambda==.01 and cfg.needs_hints
    assert override(cfg, ['motion_weight=5'])==cfg.replace(motion_weight=5.) and not MocConfig().variant('space').needs_hints
    assert math.isclose(MocConfig.newer().motion_loss_weight_z_where/MocConfig().motion_loss_weight_z_where, 100.) and MocConfig.nano().dynamic_scheduling is False


def test_hints_that_do_not_fit_are_one_line():
    "Length of the clips, grid, size of the map, missing parts: a map with one axis too many must not be broadcast."
    net = Space(SpaceConfig.nano()); out = net(torch.rand(4, 3, 32, 32)); loss = MocLoss(MocConfig.nano()); motion, pres, where = torch.zeros(1, 4, 32, 32), torch.zeros(1, 4, 16), torch.zeros(1, 4, 16, 4)
    assert loss(out, motion, pres, where).isfinite()
    for hints, message in ((), 'motion hints are missing'), ((motion,), 'motion hints are missing'), ((motion, pres), 'motion hints are missing'), ((motion[:, :3], pres[:, :3], where[:, :3]), 'hints of 1 clips with 3 frames for 4 images'), \
            ((motion, torch.zeros(1, 4, 64), torch.zeros(1, 4, 64, 4)), 'hints for 8 x 8 cells, the model has 4 x 4'), ((motion[..., ::2, ::2], pres, where), r'the motion map must be \(1, 4, 32, 32\)'), \
            ((motion.unsqueeze(2), pres, where), 'got \\(1, 4, 1, 32, 32\\)'), ((motion, pres, where[..., :3]), r'z_where must be \(1, 4, 16, 4\)'):
        with pytest.raises(DataError, match=message) as e: loss(out, *hints)
        assert '\n' not in str(e.value)
