"Foreground of SPACE: counts, divergences against torch.distributions, the boundary kernel, every gradient."
import math
import pytest, torch
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli
from vislearn.nets import count_params
from vislearn.objects.networks import (CompactDec, CompactEncoder, CompactWhat, Foreground, GlimpseDec, ImgEncoder, Ramps, ZWhatEnc, boundary_kernel, boundary_loss, cell_boxes, draw, kl_normal, kl_presence,
    relaxed_presence)
from vislearn.objects.paste import paste

RAMPS = Ramps(*torch.tensor([2.5, .1, -2., 0.]))


@pytest.mark.parametrize('G', [4, 8, 16])
def test_O01_counts_do_not_depend_on_the_grid(G):
    assert count_params(ImgEncoder(128, G)) == 1_037_403
    assert count_params(Foreground(G=G)) == 2_357_167

def test_O01_counts_of_the_parts():
    encoder = ImgEncoder()
    assert [count_params(m) for m in (encoder.enc, encoder.enc_lat, encoder.enc_cat, encoder.z_scale_net, encoder.z_shift_net, encoder.z_pres_net, encoder.z_depth_net)] == [445_008, 295_680, 295_296, 516, 516, 129, 258]
    assert (count_params(ZWhatEnc()), count_params(ZWhatEnc().enc_what), count_params(GlimpseDec()), count_params(GlimpseDec().dec_o), count_params(GlimpseDec().dec_alpha)) == (724_000, 16_448, 595_764, 435, 145)
    assert count_params(ImgEncoder(motion_input=True).z_pres_net) == 130
    assert [count_params(m) for m in (CompactEncoder(), CompactWhat(), CompactDec())] == [99_435, 13_440, 10_284]

@pytest.mark.parametrize('G, want', [(16, (2, 2, 2, 1, 1, 1)), (8, (2, 2, 2, 1, 2, 1)), (4, (2, 2, 2, 2, 2, 1))])
def test_strides_at_128_pixels_are_the_originals(G, want):
    assert tuple(m.stride[0] for m in ImgEncoder(128, G).enc if isinstance(m, torch.nn.Conv2d)) == want

@pytest.mark.parametrize('logit, prior, want', [(0., .1, .510826), (8.8, 1e-10, 23.0209), (-8.8, 1e-10, .001993), (8.8, .01, 4.6030)])
def test_O02_divergence_of_presence(logit, prior, want):
    assert float(kl_presence(torch.tensor(logit), prior)) == pytest.approx(want, rel=1e-3 if want < .01 else 1e-5)
    assert float(kl_presence(torch.tensor(logit).double(), prior)) == pytest.approx(float(kl_divergence(Bernoulli(logits=torch.tensor(logit).double()), Bernoulli(torch.tensor(prior).double()))), rel=1e-4)
    assert float(torch.sigmoid(torch.tensor(8.8))) == pytest.approx(.99984932, abs=1e-7)

@pytest.mark.parametrize('q, p, want', [((-2, .1), (-2.5, .1), 12.5), ((0, math.log(2)), (0, 1), .106739), ((0, math.log(2)), (-2, .1), 221.5866)])
def test_O03_divergence_of_normals(q, p, want):
    q, p = torch.tensor(q).double(), torch.tensor(p).double()
    for got in (kl_normal(*q, *p), kl_normal(*q, float(p[0]), float(p[1])), kl_divergence(Normal(*q), Normal(*p))): assert float(got) == pytest.approx(want, rel=1e-5)

def test_divergences_have_their_minimum_at_the_prior_and_right_gradients():
    assert float(kl_normal(torch.tensor(.3), torch.tensor(.7), .3, .7)) == pytest.approx(0, abs=1e-7)
    assert float(kl_presence(torch.logit(torch.tensor(.2)), .2)) == pytest.approx(0, abs=1e-7)
    x = torch.randn(5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: kl_presence(v, .1), x) and torch.autograd.gradcheck(lambda v: kl_normal(v, v.exp(), .5, .3), x)

def test_O04_boundary_kernel():
    kernel = boundary_kernel()
    assert int((kernel > 0).sum()) == 624 and float(kernel.sum()) == pytest.approx(.609375) and kernel[6:26, 6:26].abs().sum() == 0
    assert boundary_kernel(16)[3:13, 3:13].abs().sum() == 0

def test_boundary_loss_is_the_density_of_the_overlap():
    pres, where, alpha = torch.rand(2, 5, 1), torch.rand(2, 5, 4)*.5, torch.rand(2, 1, 32, 32); kernel = boundary_kernel(8)
    overlap = 1000*paste((pres[..., None, None]*kernel), where, 32).sum(1)*alpha
    torch.testing.assert_close(boundary_loss(pres, where, alpha, kernel), -Normal(0., .7).log_prob(overlap).flatten(1).sum(1), rtol=1e-4, atol=1e-2)

def test_relaxed_presence_is_the_relaxed_bernoulli():
    logit, u = torch.randn(4, 6, 1).double()*3, torch.rand(4, 6, 1).double()
    want = torch.sigmoid((logit + torch.log(u) - torch.log(1-u))/.7)
    torch.testing.assert_close(relaxed_presence(logit, .7, u), want)
    assert relaxed_presence(torch.zeros(2), .1, torch.tensor([0., 1.])).isfinite().all()
    torch.manual_seed(0); drawn = relaxed_presence(torch.full((20000,), 1.), 2.5, torch.rand(20000)).logit()
    assert float(drawn.mean()) == pytest.approx(float(LogitRelaxedBernoulli(torch.tensor(2.5), logits=torch.tensor(1.)).sample((20000,)).mean()), abs=.03)

def test_boxes_of_cells_move_by_at_most_one_cell():
    offset = ImgEncoder().offset
    still = cell_boxes(torch.zeros(1, 256, 2), torch.zeros(1, 256, 2), offset)
    assert still[0, 5*16+3].tolist() == pytest.approx([.5, .5, 2/16*3.5 - 1, 2/16*5.5 - 1])
    moved = cell_boxes(torch.zeros(1, 256, 2), torch.full((1, 256, 2), 50.), offset)
    torch.testing.assert_close(moved[..., 2:] - still[..., 2:], torch.full((1, 256, 2), 2/16))

def test_noise_is_taken_drawn_or_left_out():
    like = torch.zeros(1)
    assert draw(None, 'pres', like, (3,), False) is None and draw(None, 'pres', like, (50,), True, True).min() >= 0
    assert draw(dict(a=torch.ones(3)), 'a', like, (3,), False).sum() == 3
    with pytest.raises(ValueError, match=r"noise\['b'\] must be \(3,\), got only \['a'\]"): draw(dict(a=torch.ones(3)), 'b', like, (3,), True)

@pytest.mark.parametrize('options', [dict(size=64, G=8, glimpse=16, z_what=8), dict(arch='compact', size=32, G=4, glimpse=8, z_what=8), dict(size=32, G=4, glimpse=16, z_what=4, motion_input=True)], ids=['space', 'compact', 'motion'])
def test_every_parameter_gets_a_gradient(options):
    torch.manual_seed(0); net = Foreground(**options); S, N = options['size'], options['G']**2
    out = net(torch.rand(2, 3, S, S), RAMPS, hints=(torch.rand(2, 1, S, S).round(), torch.zeros(2, N, 1), torch.zeros(2, N, 4)))
    (out.fg.sum() + out.alpha_map.square().sum() + sum(getattr(out, f'kl_{k}').sum() for k in ('pres', 'depth', 'scale', 'shift', 'what'))).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all() or p.grad.abs().sum() == 0] == []

def test_divergences_are_those_of_the_distributions():
    torch.manual_seed(0); net = Foreground('compact', 32, 4, 8, 8); x = torch.rand(2, 3, 32, 32); out = net(x, RAMPS)
    heads = net.img_encoder(x); soft = torch.nn.functional.softplus
    kl = lambda raw, prior: kl_divergence(Normal(raw.chunk(2, -1)[0], soft(raw.chunk(2, -1)[1])), prior).flatten(1).sum(1)
    for got, want in ((out.kl_depth, kl(heads.depth, Normal(0., 1.))), (out.kl_shift, kl(heads.shift, Normal(0., 1.))), (out.kl_scale, kl(heads.scale, Normal(-2., .1))), (out.kl_what, kl(net.read(x, out.z_where), Normal(0., 1.)))):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)

def test_direct_guidance_mixes_presence_and_boxes():
    torch.manual_seed(0); net = Foreground('compact', 32, 4, 8, 8); x = torch.rand(2, 3, 32, 32); hints = torch.zeros(2, 1, 32, 32), (torch.rand(2, 16, 1) > .5).float(), torch.rand(2, 16, 4)
    at = lambda c: net(x, RAMPS._replace(cooling=torch.tensor(c)), False, hints=hints, guided=True)
    full, none, half = at(1.), at(0.), at(.5)
    torch.testing.assert_close(full.z_where, hints[2]); torch.testing.assert_close(full.z_pres_prob, torch.sigmoid(8.8*(2*hints[1] - 1)))
    torch.testing.assert_close(none.z_where, none.z_where_pure); torch.testing.assert_close(none.z_pres_prob, none.z_pres_prob_pure)
    torch.testing.assert_close(half.z_where, (half.z_where_pure + hints[2])/2); torch.testing.assert_close(full.z_pres_prob_pure, none.z_pres_prob)
    torch.testing.assert_close(half.z_pres_prob.logit()/8.8, (half.z_pres_prob_pure.double().logit()/8.8/2 + (2*hints[1] - 1)/2).float(), rtol=1e-3, atol=1e-3)

def test_names_are_those_of_old_checkpoints():
    names = set(Foreground().state_dict())
    assert {'img_encoder.enc.0.weight', 'img_encoder.enc.17.bias', 'img_encoder.enc_lat.5.weight', 'img_encoder.enc_cat.2.bias', 'img_encoder.z_scale_net.weight', 'img_encoder.z_depth_net.bias', 'img_encoder.offset',
        'z_what_net.enc_cnn.17.weight', 'z_what_net.enc_what.bias', 'glimpse_dec.dec.0.weight', 'glimpse_dec.dec_o.weight', 'glimpse_dec.dec_alpha.bias'} <= names
