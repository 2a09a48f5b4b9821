"Background of SPACE: counts, stick breaking, and one-call decoding against a loop over components."
import pytest, torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from vislearn.nets import count_params
from vislearn.objects.background import Background, CompactBackground, CompDecoder, CompDecoderStrong, CompEncoder, ImageEncoderBg, MaskDecoder, shuffle_factors, stick_breaking


def test_O01_counts_of_the_parts():
    bg = Background()
    assert [count_params(m) for m in (bg.image_enc, bg.rnn_mask, bg.predict_mask, bg.mask_decoder, bg.comp_encoder, bg.comp_decoder, bg.rnn_mask_prior, bg.predict_mask_prior, bg.predict_comp_prior)] == \
        [375_296, 41_472, 4_160, 2_123_217, 328_448, 37_923, 25_088, 4_160, 10_432]
    assert sum(p.numel() for n, p in bg.named_parameters() if '.' not in n) == 288
    assert count_params(CompDecoderStrong()) == 2_419_187

@pytest.mark.parametrize('K, want', [(2, 2_950_484), (3, 2_950_484), (5, 2_950_484), (1, 5_331_748 - 2_148_369)])
def test_O01_counts_of_the_background(K, want): assert count_params(Background(K=K)) == want

def test_O05_stick_breaking():
    assert stick_breaking(torch.full((1, 3, 1, 1, 1), .5)).flatten().tolist() == [.5, .25, .25]
    m = torch.rand(3, 5, 1, 4, 4, dtype=torch.float64); got, left = stick_breaking(m), torch.ones(3, 1, 4, 4, dtype=torch.float64)
    for k in range(4): torch.testing.assert_close(got[:, k], m[:, k]*left); left = left*(1 - m[:, k])
    torch.testing.assert_close(got[:, 4], left); torch.testing.assert_close(got.sum(1), torch.ones_like(left))
    assert torch.equal(stick_breaking(torch.zeros(1, 3, 1, 2, 2))[:, 2], torch.ones(1, 1, 2, 2)) and stick_breaking(torch.ones(1, 3, 1, 2, 2))[:, 1:].sum() == 0

def test_stick_breaking_has_gradients_where_masks_are_full():
    m = torch.tensor([1., .5, 1., .3]).view(1, 4, 1, 1, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(stick_breaking, m)

@pytest.mark.parametrize('size', [16, 32, 64, 128, 256])
def test_factors_multiply_to_the_side(size):
    for order in ((0, 3, 2, 1), (0, 3, 1, 2)): assert torch.tensor(shuffle_factors(size, order)).prod() == size
    assert shuffle_factors(128, (0, 3, 2, 1)) == [4, 2, 4, 4] and shuffle_factors(128, (0, 3, 1, 2)) == [4, 4, 2, 4]

def test_spatial_broadcast_is_exact_with_its_gradients():
    torch.manual_seed(0); net = CompDecoder(32).double(); z = torch.randn(3, 32, dtype=torch.float64, requires_grad=True); line = torch.linspace(-1, 1, 40, dtype=torch.float64)
    y, x = torch.meshgrid(line, line, indexing='ij')
    slow = lambda v: torch.sigmoid(net.decoder(torch.cat([v[..., None, None].expand(3, 32, 40, 40), torch.stack([x, y]).expand(3, 2, 40, 40)], 1)))
    got, want, w = net(z), slow(z), torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    for a, b in zip(*(torch.autograd.grad((v*w).sum(), [z, *net.parameters()]) for v in (got, want))): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

def slow_background(bg, x, noise):
    "One component after the other, with torch.distributions."
    normal = lambda raw: Normal(raw.chunk(2, -1)[0], F.softplus(raw.chunk(2, -1)[1]) + 1e-4)
    B, K = len(x), bg.K; seen = bg.image_enc(x)
    z, h, c = bg.z_mask_0.expand(B, -1), bg.rnn_mask_h.expand(B, -1), bg.rnn_mask_c.expand(B, -1)
    zs, posts, masks, left = [], [], [], torch.ones(B, 1, *x.shape[2:])
    for k in range(K):
        h, c = bg.rnn_mask(torch.cat([z, seen], 1), (h, c)); post = normal(bg.predict_mask(h)); z = post.mean + post.stddev*noise['bg_mask'][:, k]
        share = torch.sigmoid(bg.mask_decoder(z)) if k<K-1 else torch.ones_like(left)
        masks.append(left*share); left = left*(1 - share); zs.append(z); posts.append(post)
    masks = torch.stack(masks, 1)
    comp = normal(bg.comp_encoder(torch.cat([(masks + 1e-5).log(), x.unsqueeze(1).expand(-1, K, -1, -1, -1)], 2).flatten(0, 1)))
    comps = bg.comp_decoder(comp.mean + comp.stddev*noise['bg_comp'].flatten(0, 1)).unflatten(0, (B, K))
    h, c, kl = bg.rnn_mask_h_prior.expand(B, -1), bg.rnn_mask_c_prior.expand(B, -1), 0
    for k in range(K):
        kl = kl + kl_divergence(posts[k], normal(bg.predict_mask_prior(h))).sum(1)
        h, c = bg.rnn_mask_prior(zs[k], (h, c))
        prior = normal(bg.predict_comp_prior(zs[k])); kl = kl + kl_divergence(Normal(comp.mean.unflatten(0, (B, K))[:, k], comp.stddev.unflatten(0, (B, K))[:, k]), prior).sum(1)
    return masks, comps, (masks*comps).sum(1), kl

def test_one_call_equals_a_loop_over_components():
    torch.manual_seed(0); bg = Background(32, 3); x = torch.rand(3, 3, 32, 32); noise = dict(bg_mask=torch.randn(3, 3, 32), bg_comp=torch.randn(3, 3, 32))
    got = bg(x, noise=noise)
    for a, b in zip((got.masks, got.comps, got.bg, got.kl), slow_background(bg, x, noise)): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('make', [lambda: (Background(16, 3), 16), lambda: (Background(16, 1), 16), lambda: (CompactBackground(32), 32), lambda: (CompactBackground(64), 64)], ids=['K3', 'K1', 'compact', 'compact64'])
def test_every_parameter_gets_a_gradient_and_one_batch_is_learned(make):
    torch.manual_seed(0); bg, S = make()
    for name, p in bg.named_parameters():
        if '.' not in name: torch.nn.init.normal_(p, 0, .1)  # they begin at zero, where weights that multiply them have no gradient yet
    x = torch.full((4, 3, S, S), .3); x[:, 0, :, S//2:] = .7; x += .05*torch.randn(4, 1, 1, 1)
    out = bg(x); (out.bg.square().sum() + out.kl.sum()).backward()
    assert [n for n, p in bg.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []
    opt = torch.optim.Adam(bg.parameters(), 3e-3); first = None
    for _ in range(60):
        opt.zero_grad(); loss = (bg(x, False).bg - x).square().mean(); loss.backward(); opt.step(); first = first or float(loss.detach())
    assert float(loss.detach()) < first/10

def test_compact_divergence_and_means():
    torch.manual_seed(0); bg = CompactBackground(); x = torch.rand(3, 3, 32, 32); mean, raw = bg.enc(x).chunk(2, -1)
    torch.testing.assert_close(bg(x).kl, kl_divergence(Normal(mean, F.softplus(raw) + 1e-4), Normal(0., 1.)).sum(1))
    torch.testing.assert_close(bg(x, False).bg, bg(x, noise=dict(bg_comp=torch.zeros(3, 1, 8))).bg); assert bg(x).masks.min() == 1

def test_names_are_those_of_old_checkpoints():
    names = set(Background().state_dict())
    assert {'image_enc.enc.0.weight', 'image_enc.enc.13.weight', 'rnn_mask.weight_ih', 'predict_mask.fc.weight', 'mask_decoder.dec.0.weight', 'comp_encoder.main.13.bias', 'comp_decoder.decoder.0.weight', 'rnn_mask_prior.weight_hh',
        'predict_mask_prior.fc.bias', 'predict_comp_prior.fc.4.weight', 'rnn_mask_h', 'rnn_mask_c', 'z_mask_0', 'rnn_mask_h_prior', 'rnn_mask_c_prior'} <= names
    assert 'comp_decoder.coords' not in names

@pytest.mark.parametrize('size', [16, 64, 128])
def test_shapes(size):
    x = torch.rand(2, 3, size, size)
    assert ImageEncoderBg(size)(x).shape == (2, 64) and CompEncoder(size)(torch.cat([x, x[:, :1]], 1)).shape == (2, 64)
    assert MaskDecoder(size)(torch.rand(2, 32)).shape == (2, 1, size, size) and CompDecoder(size)(torch.rand(2, 32)).shape == (2, 3, size, size)
