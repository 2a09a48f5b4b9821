"The model and its loss: every parameter count, the skip rules, closed-form divergences and losses, the meaning of beta."
import math
import numpy as np, pytest, torch
from vislearn.nets import count_params
from vislearn.runs.config import load_config, dump_yaml
from vislearn.video.losses import SVGLoss, beta_sigma, kl_normal, mse_color, mse_depth, mse_step
from vislearn.video.svg import SVG, SVGConfig, skip_index

# configuration: predictor, posterior, prior, encoder, decoder, embedding (spec 2.7)
COUNTS = {
    'fabric 3': (dict(image_width=56, channels=4, actions='learned'), (1_129_344, 564_500, 572_692, 3_808_448, 6_564_676, 1_216), 12_640_876),
    'fabric 1, 2': (dict(image_width=56, channels=4, actions='raw'), (1_122_176, 564_500, 565_524, 3_808_448, 6_564_676, 0), 12_625_324),
    'fabric, no action': (dict(image_width=56, channels=4), (1_121_152, 564_500, 564_500, 3_808_448, 6_564_676, 0), 12_623_276),
    'moving digits': (dict(), (1_121_152, 564_500, 564_500, 3_805_376, 6_558_529, 0), 12_614_057),
    'dcgan 64, 3': (dict(channels=3), (1_121_152, 564_500, 564_500, 3_807_424, 6_562_627, 0), 12_620_203),
    'dcgan 128, 1': (dict(image_width=128), (1_121_152, 564_500, 564_500, 8_001_216, 14_948_673, 0), 25_200_041),
    'dcgan 128, 3': (dict(image_width=128, channels=3), (1_121_152, 564_500, 564_500, 8_003_264, 14_952_771, 0), 25_206_187),
    'BAIR': (dict(arch='vgg', channels=3, z_dim=64), (1_134_976, 592_256, 592_256, 8_689_600, 11_822_659, 0), 22_831_747),
    'KTH 64': (dict(arch='vgg', z_dim=24), (1_124_736, 571_696, 571_696, 8_688_448, 11_821_505, 0), 22_778_081),
    'KTH 128': (dict(arch='vgg', image_width=128, z_dim=24), (1_124_736, 571_696, 571_696, 15_770_944, 21_263_297, 0), 39_302_369),
    'vgg 128, 3': (dict(arch='vgg', image_width=128, channels=3, z_dim=64), (1_134_976, 592_256, 592_256, 15_772_096, 21_264_451, 0), 39_356_035)}
PARTS = ('frame_predictor', 'posterior', 'prior', 'encoder', 'decoder', 'act_embed')


@pytest.mark.parametrize('name', COUNTS)
def test_V00_exact_parameter_counts(name):
    options, parts, total = COUNTS[name]; model = SVG(SVGConfig(**options))
    assert tuple(count_params(getattr(model, p)) if hasattr(model, p) else 0 for p in PARTS) == parts
    assert count_params(model) == total == sum(parts)


@pytest.mark.parametrize('options, sizes', [(dict(image_width=56, channels=4), (29, 15, 8, 4)), (dict(), (32, 16, 8, 4)), (dict(arch='vgg'), (64, 32, 16, 8)), (dict(arch='vgg', image_width=128), (128, 64, 32, 16, 8)), (dict(image_width=128), (64, 32, 16, 8, 4))])
def test_V00_shapes_of_skips_and_frames(options, sizes):
    cfg = SVGConfig(nf=4, **options); model = SVG(cfg).eval(); x = torch.rand(1, 3, cfg.channels, cfg.image_width, cfg.image_width)
    h, skips = model.encoder(x[0], 3)
    assert tuple(s.shape[-1] for s in skips) == sizes and h.shape == (3, 128)
    assert [s.shape[1] for s in skips] == [4*min(2**i, 8) for i in range(len(sizes))]
    assert model(x)[0].shape == (1, 2, cfg.channels, cfg.image_width, cfg.image_width)


def test_V01_skip_lists():
    assert skip_index(15, 5, 'legacy') == [0, 1, 2] + [3]*11 and skip_index(15, 5) == [0, 1, 2, 3] + [4]*10
    assert skip_index(12, 2, 'legacy') == [0]*11 and skip_index(12, 2) == [0] + [1]*10
    assert skip_index(9, 1) == [0]*8 and skip_index(5, 2, 'last') == [0, 1, 2, 3]
    with pytest.raises(ValueError, match='needs n_past >= 2'): skip_index(9, 1, 'legacy')


def test_V02_divergence_per_dimension():
    for values, want in (((0, 0, 0, 0), 0.), ((1, 0, 0, 0), .5), ((0, math.log(4), 0, 0), .8068528194), ((0, 0, 0, math.log(4)), .3181471806), ((.5, -1, -.25, .5), .5321518281)):
        assert float(kl_normal(*(torch.tensor(v, dtype=torch.float64) for v in values))) == pytest.approx(want, abs=1e-10)
    mu, lv = torch.tensor(.5, dtype=torch.float64), torch.tensor(-1., dtype=torch.float64)
    assert float(kl_normal(mu, lv)) == pytest.approx(.3089397206, abs=1e-10) and torch.equal(kl_normal(mu, lv), kl_normal(mu, lv, 0*mu, 0*lv))


def test_V02_divergence_equals_torch():
    q, p = [torch.distributions.Normal(torch.randn(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64) + .1) for _ in range(2)]
    ours = kl_normal(q.loc, 2*q.scale.log(), p.loc, 2*p.scale.log()); assert torch.allclose(ours, torch.distributions.kl_divergence(q, p), atol=1e-12)


def test_V03_bookkeeping_of_the_loss():
    T, zero = 9, torch.zeros(2, 8, 3); grey, black = torch.full((2, T - 1, 4, 6, 6), .5), torch.zeros(2, T, 4, 6, 6); pred = (grey, zero, zero, zero, zero)
    loss = SVGLoss(); assert float(loss(pred, black)) == pytest.approx(.25*(T - 1)) and float(loss.mse) / T == pytest.approx(.25*(T - 1)/T) and float(mse_step(pred, black)) == pytest.approx(.25)
    pred = (torch.rand(2, T - 1, 4, 6, 6), zero, zero, zero, zero); truth = torch.rand(2, T, 4, 6, 6)
    assert float(mse_color(pred, truth) + mse_depth(pred, truth)) == pytest.approx(float(mse_step(pred, truth)), rel=1e-5)


def test_V11_beta_means_a_noise():
    for beta, n, sigma in ((1e-4, 4096, .4525), (1e-4, 12288, .7838), (1e-6, 4096, .0453)): assert beta_sigma(beta, n) == pytest.approx(sigma, abs=5e-5)


@pytest.mark.parametrize('actions', ['raw', 'learned'])
def test_V12_an_action_without_weight_changes_nothing(actions):
    torch.manual_seed(0); base = dict(nf=4, g_dim=8, z_dim=3, rnn_size=16, n_past=2, n_future=3); plain, model = SVG(SVGConfig(**base)), SVG(SVGConfig(**base, actions=actions))
    a = model.cfg.act_size; state = {k: v.clone() for k, v in plain.state_dict().items()}
    for net, before in (('frame_predictor', 8), ('prior', 8)): # the action stands between code and latent
        w = state[f'{net}.embed.weight']; state[f'{net}.embed.weight'] = torch.cat([w[:, :before], torch.zeros(len(w), a), w[:, before:]], 1)
    model.load_state_dict(state, strict=False); x, act, eps = torch.rand(2, 5, 1, 64, 64), torch.randn(2, 4, 4), torch.randn(2, 4, 3)
    for one, two in zip(plain(x, eps=eps), model(x, act, eps)): assert torch.allclose(one, two, atol=1e-6)
    if actions == 'learned': assert count_params(model.act_embed) == 1216


@pytest.mark.parametrize('options', [dict(), dict(prior='fixed'), dict(prior='none', z_dim=0), dict(actions='learned'), dict(skip='last'), dict(bn='frame'), dict(arch='vgg')])
def test_every_parameter_gets_a_gradient_and_one_batch_is_learned(options):
    torch.manual_seed(0); model = SVG(SVGConfig(**(dict(nf=8, g_dim=32, z_dim=4, rnn_size=32, n_past=2, n_future=3) | options)))
    y, x = np.mgrid[:64, :64]; at = lambda t, k: np.exp(-((x - 16 - 6*t)**2 + (y - 24 - 10*k)**2)/60)
    clip, act, loss = torch.tensor(np.array([[[at(t, k)] for t in range(5)] for k in range(2)]), dtype=torch.float32), torch.randn(2, 4, 4), SVGLoss(0.)
    loss(model(clip, act), clip).backward(); flat = [n for n, p in model.named_parameters() if p.grad is None and not n.startswith('prior') and 'act_embed' not in n]
    assert not flat or options.get('prior') == 'none', flat
    opt = torch.optim.Adam(model.parameters(), 2e-3); first = float(mse_step(model(clip, act), clip).detach())
    for _ in range(30): opt.zero_grad(); loss(model(clip, act), clip).backward(); opt.step()
    assert float(mse_step(model(clip, act), clip).detach()) < .35*first


def test_a_clip_does_not_depend_on_its_neighbours():
    torch.manual_seed(0); model = SVG(SVGConfig(nf=4, g_dim=8, z_dim=3, rnn_size=16, n_past=2, n_future=3)).eval(); x, eps = torch.rand(3, 5, 1, 64, 64), torch.randn(3, 4, 3)
    assert torch.allclose(model(x, eps=eps)[0][1:2], model(x[1:2], eps=eps[1:2])[0], atol=1e-6)


def test_a_config_survives_yaml(tmp_path):
    cfg = SVGConfig(arch='vgg', channels=3, actions='learned', act_dim=7, z_dim=64); (tmp_path/'a.yaml').write_text(dump_yaml(cfg.model_dump(mode='json')))
    assert load_config(tmp_path/'a.yaml', SVGConfig) == cfg
