"Generation against a plain loop, one sample and one step at a time; cutting, keys, modes, predict"
import time
import numpy as np, pytest, torch

from vislearn.core import UserError
from vislearn.nets import state_digest
from vislearn.video.coders import fold_norms
from vislearn.video.generate import CopyLast, SVGPredictor, evaluating, generate, keyed_noise, predict, reconstruct
from vislearn.video.svg import SKIPS, SVG, SVGConfig, skip_index


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1); torch.manual_seed(0); yield; torch.set_num_threads(n)


def small(loud=5., **options):
    "A small model in double precision with filled batch norm statistics, whose samples differ visibly."
    torch.manual_seed(1)
    options = dict(nf=4, g_dim=8, z_dim=0 if options.get('prior') == 'none' else 3, rnn_size=16, n_past=3, n_future=3) | options
    model = SVG(SVGConfig(**options)).double(); cfg = model.cfg
    for p in model.parameters(): p.data = p.data*loud if p.ndim > 1 else p.data + torch.randn_like(p)*.1
    for _ in range(3): model(torch.rand(6, 5, cfg.channels, cfg.image_width, cfg.image_width).double(), torch.randn(6, 4, cfg.act_dim).double())
    return model


def one_by_one(model, frames, n_future, actions=None, S=1, seed=0, first=0, mean=False, temperature=1., n_past=None):
    "Draw one sample after the other, step by step, encode everything again each time, concatenate skips; no shared state."
    cfg, B = model.cfg, len(frames); n = n_past or cfg.n_past
    index, out, latents, priors = skip_index(n+n_future, n, cfg.skip), [], [], []
    for s in range(S):
        eps = keyed_noise(seed, range(first, first+B), range(s, s+1), n-1+n_future, cfg.z_dim)[0].to(frames)
        acts = None if actions is None else actions if actions.ndim == 3 else actions[s]
        if acts is not None and cfg.actions == 'learned': acts = model.act_embed(acts)
        posterior = prior = predictor = None; x, kept, painted, zs, ps = frames[:, 0], [], [], [], []
        for i in range(1, n+n_future):
            h, skips = model.encoder(x); kept.append(skips)
            seen = h if acts is None else torch.cat([h, acts[:, i-1]], -1)
            z = e = eps[:, i-1]
            if cfg.prior == 'learned': mu_p, logvar_p, prior = model.prior(seen[:, None], prior)
            if i < n and cfg.prior != 'none':
                mu, logvar, posterior = model.posterior(model.encoder(frames[:, i])[0][:, None], posterior)
                z = mu[:, 0] + (0 if mean else (logvar[:, 0]/2).exp()*e)
            if i >= n: z = temperature*e if cfg.prior != 'learned' else mu_p[:, 0] + temperature*e*(logvar_p[:, 0]/2).exp()
            g, predictor = model.frame_predictor(torch.cat([seen, z], -1)[:, None], predictor)
            zs.append(z)
            if i < n: x = frames[:, i]; continue
            x = model.decoder(g[:, 0], kept[index[i-1]]); painted.append(x)
            if cfg.prior == 'learned': ps.append(torch.cat([mu_p, logvar_p], 1))
        out.append(torch.stack(painted, 1)); latents.append(torch.stack(zs, 1)); priors.append(torch.stack(ps, 1) if ps else None)
    return torch.stack(out), torch.stack(latents), torch.stack(priors) if ps else None


@pytest.mark.parametrize('skip', SKIPS)
@pytest.mark.parametrize('prior', ['learned', 'fixed', 'none'])
@pytest.mark.parametrize('actions', ['none', 'raw', 'learned'])
def test_V08_generation_equals_the_loop(skip, prior, actions):
    model = small(skip=skip, prior=prior, actions=actions)
    frames, acts = torch.rand(2, 4, 1, 64, 64).double(), None if actions == 'none' else torch.randn(2, 6, 4).double()
    for mean in (False, True):
        with evaluating(model): want, z, priors = one_by_one(model, frames, 4, acts, 3, seed=5, first=7, mean=mean, temperature=.7)
        got = generate(model, frames, 4, acts, 3, seed=5, first=7, context='mean' if mean else 'sample', temperature=.7)
        assert (got.frames-want).abs().max() < 1e-11 and (got.z-z).abs().max() < 1e-11 if prior != 'none' else (got.frames-want).abs().max() < 1e-11
        if prior == 'learned': assert (got.prior_mu-priors[:, :, :, 0]).abs().max() < 1e-11 and (got.prior_logvar-priors[:, :, :, 1]).abs().max() < 1e-11
        else: assert got.prior_mu is None and got.prior_logvar is None
    assert prior == 'none' or got.frames.std(0).max() > 1e-4
    if acts is not None: assert (generate(model, frames, 4, acts+1, 3, seed=5, first=7, context='mean', temperature=.7).frames-want).abs().max() > 1e-4


@pytest.mark.parametrize('arch,width,channels,n_past,skip', [('vgg', 64, 3, 2, 'fixed'), ('dcgan', 56, 4, 1, 'fixed'), ('dcgan', 56, 4, 1, 'last'), ('dcgan', 128, 1, 2, 'legacy')])
def test_V08_other_families_and_one_seen_frame(arch, width, channels, n_past, skip):
    model = small(arch=arch, image_width=width, channels=channels, n_past=n_past, skip=skip, bn='frame', n_future=4)
    frames = torch.rand(2, n_past, channels, width, width).double()
    with evaluating(model): want, z, _ = one_by_one(model, frames, 3, None, 2)
    got = generate(model, frames, 3, n_samples=2)
    assert (got.frames-want).abs().max() < 1e-11 and (got.z-z).abs().max() < 1e-11


@pytest.mark.parametrize('own_actions', [False, True])
@pytest.mark.parametrize('skip', ['fixed', 'last'])
def test_V08_cutting_the_work_changes_nothing(own_actions, skip):
    model = small(actions='learned', skip=skip).float()
    frames, acts = torch.rand(3, 3, 1, 64, 64), torch.randn(*([5] if own_actions else []), 3, 6, 4)
    whole = generate(model, frames, 4, acts, 5)
    for budget in (0, .3, .7, 1.5, 4):
        for a, b in zip(whole, generate(model, frames, 4, acts, 5, budget_mb=budget)): assert (a-b).abs().max() < 2e-5
    one = generate(model, frames[1:2], 4, acts[..., 1:2, :, :], 5, first=1)
    for a, b in zip(whole, one): assert (a[:, 1:2]-b).abs().max() < 2e-5
    few = generate(model, frames, 4, acts[:2] if own_actions else acts, 2)
    for a, b in zip(whole, few): assert (a[:2]-b).abs().max() < 2e-5
    assert (generate(model, frames, 4, acts, 5, seed=1).frames-whole.frames).abs().max() > 1e-3
    shorter = generate(model, frames, 2, acts, 5)
    assert (shorter.frames-whole.frames[:, :, :2]).abs().max() < 2e-5


def test_V08_split_equals_concat():
    model = small().float()
    whole = generate(model, torch.rand(2, 3, 1, 64, 64), 3, n_samples=2)
    plain = small(split=False).float()
    with evaluating(plain): h, s = plain.encoder(whole.frames[0, :, 0]); a, b = plain.decoder(h, s), plain.decoder.decode(h, plain.decoder.skip_terms(s))
    assert (a-b).abs().max() < 1e-5


def test_V08_nothing_of_the_model_changes():
    for training in (True, False):
        model = small(actions='raw').train(training); model.posterior.train(not training)
        digest, modes = state_digest(model), [m.training for m in model.modules()]
        frames, acts = torch.rand(2, 6, 1, 64, 64), torch.randn(2, 5, 4)
        out = [generate(model, frames, 3, acts, 2).frames, reconstruct(model, frames, acts), SVGPredictor(model)(frames[:, :3], 3, acts)]
        predict(model, np.zeros((3, 64, 64, 1), np.uint8), np.zeros((2, 5, 4), np.float32), 3, 3)
        assert state_digest(model) == digest and [m.training for m in model.modules()] == modes
        assert not any(o.requires_grad for o in out) and all(p.requires_grad and p.grad is None for p in model.parameters()) and torch.is_grad_enabled()


def test_mode_is_restored_after_an_error():
    model = small()
    with pytest.raises(RuntimeError):
        with evaluating(model): raise RuntimeError
    assert model.training and all(m.training for m in model.modules()) and torch.is_grad_enabled()


def test_later_frames_are_not_looked_at():
    model, frames = small(), torch.rand(2, 8, 1, 64, 64)
    other = frames.clone(); other[:, 3:] = torch.rand(2, 5, 1, 64, 64)
    assert torch.equal(generate(model, frames, 5).frames, generate(model, other, 5).frames)
    other[:, 2] += .1; assert not torch.allclose(generate(model, frames, 5).frames, generate(model, other.clamp(0, 1), 5).frames)


def test_bytes_and_floats_are_the_same_film():
    model, film = small(), torch.randint(0, 256, (2, 3, 1, 64, 64), dtype=torch.uint8)
    assert (generate(model, film, 2).frames-generate(model, film.double()/255, 2).frames).abs().max() < 1e-12


def test_noise_is_normal_and_keyed():
    noise = keyed_noise(3, range(100), range(50), 7, 4).double()
    n = noise.numel()
    assert abs(noise.mean()) < 5/n**.5 and abs(noise.std()-1) < 5/(2*n)**.5 and abs(noise.pow(4).mean()-3) < 5*(96/n)**.5
    flat = noise.flatten(2).flatten(0, 1); cov = flat.T@flat/len(flat)
    assert (cov-torch.eye(28)).abs().max() < .08
    assert len(torch.unique(noise)) > .999*n
    assert torch.equal(keyed_noise(3, range(40, 60), range(10, 12), 5, 4).double(), noise[10:12, 40:60, :5])


def test_reconstruction_is_the_teacher_forced_pass():
    model, frames = small(), torch.rand(3, 6, 1, 64, 64).double()
    with evaluating(model): want = model(frames, eps=torch.zeros(3, 5, 3).double())[0]
    assert (reconstruct(model, frames, mean=True)-want).abs().max() < 1e-12
    sampled = reconstruct(model, frames, seed=2)
    assert (sampled-want).abs().max() > 1e-4 and (reconstruct(model, frames[1:], seed=2, first=1)-sampled[1:]).abs().max() < 1e-11
    assert reconstruct(small(prior='none'), frames).shape == (3, 5, 1, 64, 64)


@pytest.mark.parametrize('n_past', [1, 2])
def test_V08_predict_equals_the_loop(n_past):
    model, rng = small(image_width=56, channels=4, actions='learned', n_past=2), np.random.default_rng(0)
    x, acts = rng.integers(0, 256, (n_past, 56, 56, 4), dtype=np.uint8), rng.uniform(-1, 1, (6, n_past+4, 4))
    got = predict(model, x if n_past > 1 else x[0], acts, n_past, 5)
    assert got.shape == (6, 1, 5, 56, 56, 4) and got.dtype == np.float32 and 0 <= got.min() < got.max() <= 255
    frames = torch.from_numpy(x).permute(0, 3, 1, 2)[None].double()/255
    with evaluating(model): want = one_by_one(model, frames, 5, torch.from_numpy(acts)[:, None], 6, n_past=n_past)[0]
    assert np.abs(got[:, 0]-want[:, 0].permute(0, 1, 3, 4, 2).numpy()*255).max() < 1e-3
    assert np.abs(got[0]-got[1]).max() > .05
    assert np.abs(predict(model, x if n_past > 1 else x[0], acts, n_past, 5, budget_mb=0)-got).max() < 1e-3


def test_predict_encodes_the_scene_once():
    model, rows = small(image_width=56, channels=4, actions='raw', n_past=1), []
    import vislearn.video.coders as C
    original = C.Encoder.forward
    try:
        C.Encoder.forward = lambda self, x, *args: rows.append(len(x)) or original(self, x, *args)
        predict(model, np.zeros((56, 56, 4), np.uint8), np.zeros((9, 5, 4)))
    finally: C.Encoder.forward = original
    assert rows == [1, 9, 9, 9, 9]


def test_predictors_answer_alike():
    model, frames, acts = small(actions='raw'), torch.rand(2, 3, 1, 64, 64).double(), torch.randn(2, 9, 4).double()
    got = SVGPredictor(model, context='mean', temperature=.5)(frames, 4, acts, 3, 1, 2)
    assert torch.equal(got, generate(model, frames, 4, acts, 3, 1, 2, 'mean', .5).frames) and got.shape == (3, 2, 4, 1, 64, 64)
    assert torch.equal(CopyLast()(frames, 4, acts, 3), frames[None, :, -1:].expand(1, -1, 4, -1, -1, -1))
    assert SVGPredictor(model).card['n_past'] == 3 and CopyLast().card['predictor'] == 'CopyLast'
    shorter = SVGPredictor(model)(frames[:, 1:], 4, acts)   # it takes as seen what it is given
    assert torch.equal(shorter, generate(model, frames[:, 1:], 4, acts, n_past=2).frames)


def test_evaluation_takes_the_predictor():
    from vislearn.video.evaluate import EvalProtocol, evaluate
    model = small(n_past=2).float()
    result = evaluate(dict(model=SVGPredictor(model), copy=CopyLast()), [(torch.rand(3, 5, 1, 64, 64), None)], EvalProtocol(name='x', n_past=2, n_pred=3, n_samples=4, metrics=('mse',)))
    assert result.n == 3 and result.scores['model']['mse']['best'].shape == (3,)


def test_folding_leaves_the_coder_alone():
    model = small(); digest = state_digest(model)
    enc = fold_norms(model.encoder); assert state_digest(model) == digest and not any(isinstance(m, torch.nn.BatchNorm2d) for m in enc.modules())
    x = torch.rand(2, 1, 64, 64).double(); model.eval()
    assert (enc(x)[0]-model.encoder(x)[0]).abs().max() < 1e-12


def test_half_precision_and_autocast_run():
    model, frames = small().float(), torch.rand(2, 3, 1, 64, 64)
    want = generate(model, frames, 2).frames
    with torch.autocast('cpu', torch.bfloat16): got = generate(model, frames, 2).frames
    assert got.isfinite().all() and (got.float()-want).abs().mean() < .05


@pytest.mark.parametrize('call,message', [
    (lambda m, x: generate(m, x[:, :2], 3), 'frames: 3 frames are needed, got a clip of 2'),
    (lambda m, x: generate(m, x.repeat(1, 1, 2, 1, 1), 3), 'this model knows 1 channels, got 2'),
    (lambda m, x: generate(m, x[..., :32], 3), 'this model knows 64x64 pixels, got 64x32'),
    (lambda m, x: generate(m, x[0], 3), 'frames must be (B, T, C, H, W)'),
    (lambda m, x: generate(m, x, 3, torch.zeros(2, 5, 3)), 'actions: this model needs (2, 5, 4), got (2, 5, 3)'),
    (lambda m, x: generate(m, x, 3, torch.zeros(1, 5, 4)), 'actions: this model needs (2, 5, 4), got (1, 5, 4)'),
    (lambda m, x: generate(m, x, 3, torch.zeros(3, 2, 5, 4), 2), 'actions: this model needs (2, 5, 4), got (3, 2, 5, 4)'),
    (lambda m, x: generate(m, x, 3, torch.zeros(2, 4, 4)), 'actions: 5 steps are needed'),
    (lambda m, x: generate(m, x, 3), 'actions: this model needs (2, 5, 4), got none'),
    (lambda m, x: generate(m, x, 3, torch.zeros(2, 5, 4), n_samples=0), 'must be at least 1, got 3, 3 and 0'),
    (lambda m, x: generate(m, x, 3, torch.zeros(2, 5, 4), n_past=0), 'must be at least 1, got 0, 3 and 1'),
    (lambda m, x: generate(m, x*float('nan'), 3, torch.zeros(2, 5, 4)), 'NaN'),
    (lambda m, x: predict(m, np.zeros((64, 64, 1)), np.zeros((2, 5, 4))), 'x: expected uint8 frames'),
    (lambda m, x: predict(m, np.zeros((64, 64, 3), np.uint8), np.zeros((2, 5, 4))), 'this model knows 1 channels, got 3'),
    (lambda m, x: predict(m, np.zeros((64, 64, 1), np.uint8), np.zeros((2, 5, 3))), 'acts: this model needs (2, 5, 4), got (2, 5, 3)'),
    (lambda m, x: predict(m, np.zeros((64, 64, 1), np.uint8), np.zeros((5, 4))), 'acts must be (B, T, A)')])
def test_wrong_input(call, message):
    model = SVG(SVGConfig(nf=4, g_dim=8, z_dim=3, rnn_size=16, n_past=3, n_future=3, actions='raw'))
    with pytest.raises(UserError) as e: call(model, torch.rand(2, 4, 1, 64, 64))
    assert message in str(e.value) and '\n' not in str(e.value)


@pytest.mark.slow
def test_V16_ten_samples_at_once_are_cheaper():
    "S=10, 4 clips, 5 seen and 10 predicted frames, default network: CPU time against one sample after the other."
    model, frames, times = SVG(), torch.rand(4, 5, 1, 64, 64), []
    for run in (lambda: generate(model, frames, 10, n_samples=10).frames, lambda: one_by_one(model, frames, 10, None, 10)[0]):
        best = []
        for _ in range(2):
            with evaluating(model): start = time.process_time(); run(); best.append(time.process_time()-start)
        times.append(min(best))
    print(f'{times[0]:.2f} s against {times[1]:.2f} s'); assert times[1] > 2*times[0]
