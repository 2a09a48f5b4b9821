"The fast SVG against the slow one of svg_reference.py: the same weights, the same noise, the original's order"
import copy

import pytest, torch
from svg_reference import Reference, count, sequence_names
from vislearn.core import seed_all
from vislearn.video.generate import generate, keyed_noise, predict, reconstruct
from vislearn.video.losses import SVGLoss, kl_normal
from vislearn.video.svg import SVG, SVGConfig, skip_index

NF, G, RNN = 4, 8, 16


def pair(seed=0, arch='dcgan', width=64, channels=1, n_past=3, n_future=3, z=3, prior='learned', actions='none', act_dim=4, skip='fixed', bn='frame', split=True, dtype=torch.double):
    "Both models with the same weights, in training mode."
    seed_all(seed)
    ref = Reference(arch, width, channels, n_past, n_future, G, 0 if prior=='none' else z, RNN, (2, 1, 2), NF, prior, actions, act_dim, skip)
    cfg = SVGConfig(arch=arch, image_width=width, channels=channels, n_past=n_past, n_future=n_future, g_dim=G, z_dim=0 if prior=='none' else z, rnn_size=RNN, predictor_rnn_layers=2, posterior_rnn_layers=1, prior_rnn_layers=2, nf=NF,
        prior=prior, actions=actions, act_dim=act_dim, skip=skip, bn=bn, split=split)
    model = SVG(cfg)
    for name, m in ref.modules.items(): # initial weights are so small that errors would hide: larger ones
        for p in m.parameters(): p.data.mul_(3) if p.ndim>1 and 'lstm' not in name else None
        getattr(model, name).load_state_dict(sequence_names(m.state_dict()))
    assert {n for n, _ in model.named_children()}==set(ref.modules)
    return ref.apply(lambda m: m.to(dtype)), model.to(dtype)


def clip(model, B=3, T=None, seed=1, dtype=torch.double):
    "Frames, actions and noise."
    gen, cfg = torch.Generator().manual_seed(seed), model.cfg
    T = T or cfg.n_frames
    frames = torch.rand(B, T, cfg.channels, cfg.image_width, cfg.image_width, generator=gen, dtype=dtype)
    return frames, None if cfg.actions=='none' else 2*torch.rand(B, T-1, cfg.act_dim, generator=gen, dtype=dtype) - 1, torch.randn(B, T-1, cfg.z_dim, generator=gen, dtype=dtype)


def steps_first(x): return None if x is None else list(x.transpose(0, 1))


def fast_losses(model, frames, actions, eps):
    pred = model(frames, actions, eps)
    mse = ((pred[0] - frames[:, 1:])**2).mean()*(frames.shape[1] - 1)
    return mse, kl_normal(*pred[1:]).sum()/len(frames) if pred[1] is not None else torch.zeros(()), pred


def named(module_dict): return {f'{name}.{k}': p for name, m in module_dict.items() for k, p in m.items()}
def grads(modules): return named({n: sequence_names({k: p.grad for k, p in m.named_parameters()}) for n, m in modules.items()})
def stats(module): return {k: v for k, v in module.state_dict().items() if 'running' in k or 'num_batches' in k}


def assert_same_step(ref, model, tol_loss=1e-12, tol_grad=1e-10, B=3):
    "One forward and backward pass of both sides."
    frames, actions, eps = clip(model, B)
    mse, kld = ref.losses(steps_first(frames), steps_first(actions), steps_first(eps)); (mse + kld*1e-2).backward()
    got_mse, got_kld, pred = fast_losses(model, frames, actions, eps); (got_mse + got_kld*1e-2).backward()
    assert abs(got_mse - mse)<tol_loss*abs(mse) and abs(got_kld - kld)<=tol_loss*abs(kld)
    assert (pred[0] - torch.stack(ref.preds, 1)).abs().max()<tol_grad
    want, got = grads(ref.modules), grads(dict(model.named_children()))
    assert want.keys()==got.keys()
    largest = max(g.abs().max() for g in want.values())
    for k, g in want.items():
        diff = (got[k] - g).abs().max()
        assert diff<tol_grad, k
        if g.abs().max()>1e-6*largest: assert diff<tol_grad*g.abs().max(), k # biases before a batch norm have no gradient but rounding
    for k, v in stats(ref.decoder).items(): assert (stats(model.decoder)[k].double() - v.double()).abs().max()<1e-12, k
    if model.cfg.prior!='none':
        for k, v in stats(ref.encoder).items(): assert (stats(model.encoder)[k].double() - v.double()).abs().max()<1e-12, k


@pytest.mark.parametrize('split', [True, False], ids=['split', 'concat'])
@pytest.mark.parametrize('actions', ['none', 'learned'])
@pytest.mark.parametrize('prior', ['learned', 'fixed'])
@pytest.mark.parametrize('skip', ['fixed', 'legacy', 'last'])
def test_V04_frame_bn_equals_the_loop(skip, prior, actions, split): assert_same_step(*pair(skip=skip, prior=prior, actions=actions, split=split))


@pytest.mark.parametrize('case', [dict(width=56, channels=4, actions='raw'), dict(width=56, channels=4, actions='learned', act_dim=6, n_past=1), dict(width=128, n_past=2, n_future=2), dict(arch='vgg', n_past=2, n_future=2), dict(arch='vgg', n_past=2, n_future=2, split=False, prior='fixed'),
    dict(prior='none'), dict(prior='none', actions='raw'), dict(n_past=2, n_future=1, skip='legacy')], ids=str)
def test_V04_frame_bn_equals_the_loop_in_other_shapes(case): assert_same_step(*pair(**case))


def test_V04_in_single_precision():
    ref, model = pair(dtype=torch.float32)
    frames, actions, eps = clip(model, dtype=torch.float32)
    mse, kld = ref.losses(steps_first(frames), None, steps_first(eps))
    loss = SVGLoss(1e-2); pred = model(frames, None, eps)
    assert abs(loss(pred, frames) - (mse + 1e-2*kld))<1e-5*mse and abs(loss.kld - kld)<1e-4*kld


def test_V04_can_fail():
    "Joint statistics are another model, and so is another skip."
    ref, model = pair(bn='joint'); frames, _, eps = clip(model)
    mse, _ = ref.losses(steps_first(frames), None, steps_first(eps))
    assert abs(fast_losses(model, frames, None, eps)[0]/mse - 1)>1e-6
    ref, _ = pair(skip='legacy'); _, model = pair(skip='fixed')
    mse, _ = ref.losses(steps_first(frames), None, steps_first(eps))
    assert abs(fast_losses(model, frames, None, eps)[0]/mse - 1)>1e-9


def test_V01_the_loop_uses_the_skips_of_the_table():
    for skip in ('fixed', 'legacy', 'last'):
        ref = Reference(n_past=5, skip=skip, nf=2, g_dim=4, rnn_size=4, z_dim=2)
        kept = [None]
        for i in range(1, 15): kept.append(i-1 if ref.keep_skip(i) else kept[-1])
        assert kept[1:]==skip_index(15, 5, skip)


def test_several_steps_stay_together():
    "Three whole training steps: five Adams and the loop against one Adam and the fast path."
    ref, model = pair(actions='learned', width=56, channels=4)
    opt = torch.optim.Adam(model.parameters(), lr=.002, betas=(.9, .999))
    for step in range(3):
        frames, actions, eps = clip(model, seed=step)
        loss, _, _ = ref.train_step(steps_first(frames), steps_first(actions), steps_first(eps))
        mse, kld, _ = fast_losses(model, frames, actions, eps)
        opt.zero_grad(); (mse + kld*ref.beta).backward(); opt.step()
        assert abs(mse + kld*ref.beta - loss)<1e-7*loss # Adam divides by the size of a gradient, rounding of zero included


@pytest.mark.parametrize('split', [True, False], ids=['split', 'concat'])
def test_V05_eval_does_not_depend_on_the_rest_of_the_batch(split):
    _, model = pair(bn='joint', actions='raw', split=split); frames, actions, eps = clip(model, B=4)
    model(frames, actions, eps) # running statistics that are not those of the start
    model.eval()
    with torch.no_grad():
        whole = model(frames, actions, eps)
        for b in range(4):
            for got, want in zip(model(frames[b:b+1], actions[b:b+1], eps[b:b+1]), whole): assert (got - want[b:b+1]).abs().max()<1e-12
        model.train()
        assert (model(frames[:1], actions[:1], eps[:1])[0] - model(frames, actions, eps)[0][:1]).abs().max()>1e-6 # in training it does


def test_V06_one_fused_adam_equals_five():
    _, model = pair(actions='learned', dtype=torch.float32); other = copy.deepcopy(model)
    five, one = [torch.optim.Adam(m.parameters(), lr=.002, betas=(.9, .999)) for m in other.children()], torch.optim.Adam(model.parameters(), lr=.002, betas=(.9, .999), fused=True)
    assert len(five)==6 # the fork's: with the embedding
    for step in range(3):
        frames, actions, eps = clip(model, seed=step, dtype=torch.float32)
        for m in (model, other):
            m.zero_grad(); mse, kld, _ = fast_losses(m, frames, actions, eps); (mse + kld*1e-2).backward()
        for p, q in zip(model.parameters(), other.parameters()): q.grad = p.grad.clone()
        one.step(); [o.step() for o in five]
        assert max((p - q).abs().max() for p, q in zip(model.parameters(), other.parameters()))<=1e-7


@pytest.mark.parametrize('layers', [1, 2, 3])
def test_V07_cells_equal_a_sequence_lstm(layers):
    from svg_reference import GaussianLstm, Lstm
    from vislearn.video.recurrent import FramePredictor, GaussianLSTM
    seed_all(layers); x = torch.randn(5, 7, 12)
    slow, fast = Lstm(12, 6, 16, layers), FramePredictor(12, 6, 16, layers); fast.load_state_dict(sequence_names(slow.state_dict()))
    slow.init_hidden(5); want = torch.stack([slow(x[:, t]) for t in range(7)], 1)
    assert (fast(x)[0] - want).abs().max()<1e-6 and (fast(x.flip(1))[0] - want).abs().max()>1e-3
    slow, fast = GaussianLstm(12, 6, 16, layers), GaussianLSTM(12, 6, 16, layers); fast.load_state_dict(sequence_names(slow.state_dict()))
    slow.init_hidden(5); want = [slow(x[:, t])[1:] for t in range(7)]
    for k in (0, 1): assert (fast(x)[k] - torch.stack([w[k] for w in want], 1)).abs().max()<1e-6
    half = fast(x[:, :3]); rest = fast(x[:, 3:], half[2]) # the state carries on
    assert (torch.cat([half[0], rest[0]], 1) - fast(x)[0]).abs().max()<1e-6


@pytest.mark.parametrize('actions', ['raw', 'learned'])
def test_V12_zero_action_weights_are_the_model_without_actions(actions):
    _, free = pair(dtype=torch.float32); _, model = pair(actions=actions, dtype=torch.float32)
    a = model.cfg.act_size
    state = dict(free.state_dict())
    for k, end in (('prior.embed.weight', G), ('frame_predictor.embed.weight', G)): # order of the inputs: code, action, latent
        w = state[k]; state[k] = torch.cat([w[:, :end], torch.zeros(len(w), a), w[:, end:]], 1)
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all(k.startswith('act_embed') for k in missing.missing_keys)
    model.eval(), free.eval(); frames, act, eps = clip(model, dtype=torch.float32)
    for got, want in zip(model(frames, act, eps), free(frames, None, eps)): assert (got - want).abs().max()<1e-6
    model.prior.embed.weight.data[:, G:] = 1; assert (model(frames, act, eps)[3] - free(frames, None, eps)[3]).abs().max()>1e-4


def test_V12_the_embedding_has_1216_parameters():
    from vislearn.video.recurrent import ActionEmbedding
    assert count(ActionEmbedding())==1216


def moved(ref, model, steps=4):
    "Both after some training batches: running statistics that are not those of the start, the same on both sides."
    for k in range(steps):
        frames, actions, eps = clip(model, seed=10+k)
        with torch.no_grad(): model.train()(frames, actions, eps)
    for name, m in ref.modules.items():
        if 'coder' in name: m.load_state_dict(getattr(model, name).state_dict())
    return ref.eval(), model.eval()


@pytest.mark.parametrize('case', [dict(), dict(skip='legacy'), dict(skip='last'), dict(prior='fixed'), dict(prior='fixed', skip='legacy'), dict(prior='none'), dict(actions='raw', width=56, channels=4), dict(actions='learned', width=56, channels=4, n_past=1), dict(actions='learned', width=56, channels=4, skip='last'), dict(arch='vgg', n_past=2)], ids=str)
def test_generation_equals_the_originals_order(case):
    "One sample after the other, frame by frame, against all samples side by side: the same noise, the same frames and priors; in double 1e-9."
    ref, model = moved(*pair(**case)); cfg, S, F = model.cfg, 3, 5
    frames, actions, _ = clip(model, B=2, T=cfg.n_past + F)
    got = generate(model, frames, F, actions, n_samples=S, seed=7, first=4)
    noise = keyed_noise(7, range(4, 6), range(S), cfg.n_past - 1 + F, cfg.z_dim).double()
    for s in range(S):
        seq, priors = ref.sample(steps_first(frames[:, :cfg.n_past]), cfg.n_past + F, steps_first(actions), steps_first(noise[s]))
        want = torch.stack(seq[cfg.n_past:], 1)
        assert (got.frames[s] - want).abs().max()<1e-9
        if cfg.prior=='learned':
            for k, part in enumerate((got.prior_mu, got.prior_logvar)): assert (part[s] - torch.stack([p[k] for p in priors[cfg.n_past-1:]], 1)).abs().max()<1e-9
    if cfg.prior!='none':
        assert (got.frames[0] - got.frames[1]).abs().max()>1e-6 # samples differ
        want = torch.stack(ref.sample(steps_first(frames[:, :cfg.n_past]), cfg.n_past + F, steps_first(actions), steps_first(noise[0]), mean_context=True)[0][cfg.n_past:], 1)
        assert (generate(model, frames, F, actions, n_samples=S, seed=7, first=4, context='mean').frames[0] - want).abs().max()<1e-9
        again = torch.stack(ref.sample(steps_first(frames[:, :cfg.n_past]), cfg.n_past + F, steps_first(actions), latents=steps_first(got.z[2]))[0][cfg.n_past:], 1)
        assert (got.frames[2] - again).abs().max()<1e-9 # the latents that are given back are those that were used


def test_V08_concat_generates_the_same():
    ref, model = moved(*pair(split=False))
    _, split = pair(split=True); split.load_state_dict(model.state_dict())
    frames, _, _ = clip(model, B=2, T=8)
    assert (generate(model, frames, 4, n_samples=2).frames - generate(split.eval(), frames, 4, n_samples=2).frames).abs().max()<1e-5


def test_the_original_samples_in_train_mode_and_changes_its_statistics():
    "Why vislearn does not: the same call changes what the next one gives."
    ref, model = moved(*pair()); frames, _, eps = clip(model)
    before = {k: v.clone() for k, v in model.state_dict().items()}; generate(model.train(), frames, 3)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model.training
    state = stats(ref.train().encoder); state = {k: v.clone() for k, v in state.items()}; ref.sample(steps_first(frames[:, :3]), 6, eps=steps_first(eps))
    assert any(not torch.equal(v, state[k]) for k, v in stats(ref.encoder).items())


def test_reconstruction_is_the_teacher_forced_loop():
    ref, model = moved(*pair(actions='raw', width=56, channels=4)); frames, actions, _ = clip(model, B=2, T=7)
    with torch.no_grad(): ref.losses(steps_first(frames), steps_first(actions), steps_first(keyed_noise(3, range(2), range(1), 6, 3)[0].double()))
    assert (reconstruct(model, frames, actions, seed=3) - torch.stack(ref.preds, 1)).abs().max()<1e-9


def test_V08_predict_is_the_originals_order_per_candidate():
    "The fork's call: one seen frame, many action sequences, frames in 0..255."
    ref, model = moved(*pair(actions='learned', width=56, channels=4, n_past=1)); ref, model = ref.apply(lambda m: m.float()), model.float()
    gen = torch.Generator().manual_seed(0); x = torch.randint(0, 256, (56, 56, 4), generator=gen, dtype=torch.uint8); acts = 2*torch.rand(3, 5, 4, generator=gen) - 1
    got = predict(model, x.numpy(), acts.numpy(), n_past=1, n_future=5, seed=2)
    assert got.shape==(3, 1, 5, 56, 56, 4) and 0<=got.min() and got.max()<=255
    noise = keyed_noise(2, range(1), range(3), 5, 3)
    for b in range(3):
        seq, _ = ref.sample([x.permute(2, 0, 1)[None]/255], 6, list(acts[b][:, None]), steps_first(noise[b]))
        assert abs(torch.from_numpy(got[b, 0]) - 255*torch.cat(seq[1:]).permute(0, 2, 3, 1)).max()<2e-2


TABLE = [(dict(image_width=56, channels=4, actions='learned'), 12_640_876), (dict(image_width=56, channels=4, actions='raw'), 12_625_324), (dict(image_width=56, channels=4), 12_623_276), (dict(), 12_614_057), (dict(channels=3), 12_620_203), (dict(image_width=128), 25_200_041),
    (dict(image_width=128, channels=3), 25_206_187), (dict(arch='vgg', channels=3, z_dim=64), 22_831_747), (dict(arch='vgg', z_dim=24), 22_778_081), (dict(arch='vgg', image_width=128, z_dim=24), 39_302_369), (dict(arch='vgg', image_width=128, channels=3, z_dim=64), 39_356_035)]

@pytest.mark.parametrize('given,total', TABLE, ids=str)
def test_both_sides_count_alike(given, total):
    kw = {('width' if k=='image_width' else k): v for k, v in given.items()}
    with torch.device('meta'): ref, model = Reference(**kw), SVG(SVGConfig(**given))
    assert count(*ref.modules.values())==count(model)==total
    assert {k: tuple(v.shape) for k, v in named({n: sequence_names(m.state_dict()) for n, m in ref.modules.items()}).items()}=={k: tuple(v.shape) for k, v in model.state_dict().items()} # the names of old checkpoints
