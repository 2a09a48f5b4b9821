"Policies: counts of the original, closed forms, windows against the step loop, and what does not fit."
import math
import numpy as np, pytest, torch
from pvr_reference import step_loop
from vislearn.control.policies import Out, Policy, PolicySpec, bc_loss
from vislearn.core import ConfigError, DataError
from vislearn.nets import count_params

box = lambda n, high=1.: dict(low=[-high]*n, high=[high]*n)
COUNTS = [(dict(dim=12, n=3), 17_859_587), (dict(dim=4096, n=3, batch_norm=True), 22_049_795), (dict(dim=4312, n=3, batch_norm=True), 22_271_411), (dict(dim=12524, n=3, batch_norm=True), 30_696_923),
    (dict(dim=1024, n=3, batch_norm=True), 18_897_923), (dict(dim=2048, batch_norm=True, **box(6)), 1_648_652), (dict(dim=6144, batch_norm=True, core='mlp', **box(24)), 1_657_392), (dict(dim=24, core='mlp', **box(6)), 73_740)]


def small(core='lstm', discrete=True, **more):
    torch.manual_seed(0)
    return Policy(PolicySpec(dim=5, core=core, widths=[16, 16], **(dict(n=3) if discrete else box(2)), **more))


@pytest.mark.parametrize('spec, n', COUNTS)
def test_P01_parameter_counts(spec, n):
    with torch.device('meta'): assert count_params(Policy(PolicySpec(**spec))) == n


@pytest.mark.parametrize('width, n', [(1024, 16_793_600), (256, 1_052_672)])
def test_P01_memory_alone(width, n):
    with torch.device('meta'): assert count_params(Policy(PolicySpec(dim=4, n=2, widths=[width, width])).memory) == n


@pytest.mark.parametrize('discrete, gain', [(True, math.sqrt(2)), (False, 5/3)])
def test_weights_start_orthogonal(discrete, gain):
    net = small(discrete=discrete)
    for layer, g in ((net.body[0], gain), (net.body[2], gain), (net.head, 1.)):
        w = layer.weight.detach(); w = w if w.shape[0] <= w.shape[1] else w.T
        assert torch.allclose(w @ w.T, g*g*torch.eye(len(w)), atol=1e-5) and not layer.bias.any()


@pytest.mark.parametrize('n', [3, 4, 7])
def test_P05_uniform_logits(n): assert float(bc_loss(Out(torch.zeros(4, 6, n), None, None), torch.randint(0, n, (4, 6)))) == pytest.approx(math.log(n), abs=1e-6)


@pytest.mark.parametrize('A', [1, 6, 24])
@pytest.mark.parametrize('log_std, per', [(0., .918939), (-3., .918939 - 3)])
def test_P05_perfect_means(A, log_std, per):
    mu = torch.randn(4, 6, A)
    assert float(bc_loss(Out(mu, torch.full((A,), log_std), None), mu, kind='nll')) == pytest.approx(per*A, abs=1e-4)


def test_P05_the_clamp_gives_minus_50_for_the_pen():
    net = Policy(PolicySpec(dim=3, core='mlp', widths=[4], **box(24))); net.log_std.data.fill_(-7.); out = net(torch.randn(2, 3, 3))
    assert float(bc_loss(out, out.pred.detach(), kind='nll').detach()) == pytest.approx(-49.9455, abs=1e-3)


def test_P05_nll_is_the_density_of_torch():
    mu, a, log_std = torch.randn(4, 6, 3), torch.randn(4, 6, 3), torch.randn(3)*.3
    want = -torch.distributions.Normal(mu, log_std.exp()).log_prob(a).sum(-1).mean()
    assert float(bc_loss(Out(mu, log_std, None), a, kind='nll')) == pytest.approx(float(want), abs=1e-5)


@pytest.mark.parametrize('kind', ['ce', 'nll', 'mse'])
def test_P05_losses_by_hand_with_a_mask_and_exact_gradients(kind):
    torch.manual_seed(0); pred = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True); log_std = torch.randn(2, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.bool); a = torch.randint(0, 2, (2, 3)) if kind == 'ce' else torch.randn(2, 3, 2, dtype=torch.float64)
    total = 0.
    for b, t in ((0, 0), (0, 1), (1, 0)):
        p = pred[b, t].detach()
        if kind == 'ce': total += float(torch.logsumexp(p, 0) - p[a[b, t]])
        elif kind == 'mse': total += float(((p - a[b, t])**2).mean())
        else: total += sum(float(.5*((p[k] - a[b, t, k])/log_std[k].exp())**2 + log_std[k] + .5*math.log(2*math.pi)) for k in range(2))
    assert float(bc_loss(Out(pred, log_std, None), a, mask, kind).detach()) == pytest.approx(total/3, abs=1e-9)
    assert torch.autograd.gradcheck(lambda p, s: bc_loss(Out(p, s, None), a, mask, kind), (pred, log_std))
    assert not torch.autograd.grad(bc_loss(Out(pred, log_std, None), a, mask, kind), pred)[0][~mask].any()


@pytest.mark.parametrize('discrete', [True, False])
@pytest.mark.parametrize('batch_norm', [True, False])
def test_P08_window_equals_step_loop(discrete, batch_norm):
    net = small(discrete=discrete, batch_norm=batch_norm).eval(); x = torch.randn(4, 30, 5)
    fresh = torch.zeros(30, 4, dtype=torch.bool); fresh[0] = True
    with torch.no_grad(): fused, loop = net(x).pred, step_loop(net, x.transpose(0, 1), fresh).transpose(0, 1)
    assert (fused - loop).abs().max() < 1e-5


def test_P08_pieces_of_episodes_equal_one_row_with_resets():
    "Two episodes in one row of the slow loop are two rows here."
    net = small().eval(); x = torch.randn(1, 20, 5); fresh = torch.zeros(20, 1, dtype=torch.bool); fresh[0] = fresh[8] = True
    padded, mask = torch.zeros(2, 12, 5), torch.zeros(2, 12, dtype=torch.bool)
    for row, (a, b) in enumerate([(0, 8), (8, 20)]): padded[row, :b - a] = x[0, a:b]; mask[row, :b - a] = True
    with torch.no_grad(): fused, loop = net(padded, mask=mask).pred[mask], step_loop(net, x.transpose(0, 1), fresh)[:, 0]
    assert (fused - loop).abs().max() < 1e-5


@pytest.mark.parametrize('core', ['lstm', 'mlp'])
def test_P08_rows_do_not_influence_each_other(core):
    net = small(core, batch_norm=True).eval(); x = torch.randn(6, 12, 5); many, state = [], net.initial(6)
    for t in range(12): a, state = net.act(x[:, t], state); many.append(a)
    for row in range(6):
        state = net.initial(1)
        for t in range(12): a, state = net.act(x[row:row + 1, t], state); assert a == many[t][row]
    other = x.clone(); other[1:] = torch.randn(5, 12, 5)*100
    with torch.no_grad(): assert (net(x).pred[0] - net(other).pred[0]).abs().max() < 1e-5


@pytest.mark.parametrize('core', ['lstm', 'mlp'])
@pytest.mark.parametrize('discrete', [True, False])
def test_P08_acting_is_the_forward_pass(core, discrete):
    "`act` takes a shorter way through the network; in training mode, too, it norms by what it knows."
    net = small(core, discrete, batch_norm=True).eval(); net.norm.running_mean.normal_(); net.norm.running_var.uniform_(.5, 2); x, state = torch.randn(6, 5), net.initial(6)
    for mode in (True, False):
        with torch.no_grad(): out = net.eval()(x[:, None], state)
        before = {k: v.clone() for k, v in net.state_dict().items()}; got, after = net.train(mode).act(x, state); want = out.pred[:, 0]
        assert torch.equal(got, want.argmax(1)) if discrete else torch.allclose(got, want.clamp(-1, 1), atol=1e-6)
        assert (after is None)==(core=='mlp') and all(torch.allclose(a, b, atol=1e-6) for a, b in zip(after or (), out.state or ())) and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_P08_a_row_that_begins_an_episode_forgets():
    net = small().eval(); x = torch.randn(3, 8, 5); state = net.initial(3)
    for t in range(4): _, state = net.act(x[:, t], state)
    state = net.reset_rows(state, np.array([False, True, False])); _, state = net.act(x[:, 4], state)
    _, alone = net.act(x[1:2, 4], net.initial(1)); _, kept = net.act(x[:1, 4], net.act(x[:1, 3], net.act(x[:1, 2], net.act(x[:1, 1], net.act(x[:1, 0], net.initial(1))[1])[1])[1])[1])
    assert torch.allclose(state[0][:, 1], alone[0][:, 0], atol=1e-6) and torch.allclose(state[0][:, 0], kept[0][:, 0], atol=1e-6)


def test_padding_reaches_neither_norm_nor_gradients():
    nets = [small(batch_norm=True), small(batch_norm=True)]; x = torch.randn(3, 6, 5); mask = torch.arange(6) < torch.tensor([[6], [2], [1]]); a = torch.randint(0, 3, (3, 6)); grads = []
    for net, fill in zip(nets, (0., 1e4)):
        bc_loss(net(torch.where(mask[..., None], x, fill), mask=mask), a, mask).backward(); grads.append([p.grad for p in net.parameters()])
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(*grads))
    assert torch.allclose(nets[0].norm.running_mean, nets[1].norm.running_mean) and torch.allclose(nets[0].norm.running_mean, .1*x[mask].mean(0), atol=1e-6)


def test_one_step_in_training_and_no_step_in_use():
    net = small(batch_norm=True).train(); before = net.norm.running_mean.clone(); net(torch.randn(1, 1, 5)); assert torch.equal(before, net.norm.running_mean)
    actions, state = net.eval().act(torch.zeros(0, 5), net.initial(0)); assert actions.shape == (0,) and state[0].shape == (2, 0, 16)


@pytest.mark.parametrize('limits, squashed', [(box(2, 2.), True), (box(2, math.inf), False), (dict(low=[-1., 0.], high=[1., 1.]), False)])
def test_B21_only_finite_symmetric_boxes_are_squashed(limits, squashed):
    net = Policy(PolicySpec(dim=3, core='mlp', widths=[4], **limits)); net.head.weight.data.mul_(100); x = torch.randn(50, 4, 3)*10; pred = net(x).pred
    assert net.spec.squashed == squashed and torch.isfinite(pred).all() and bool((pred.abs() <= 2).all()) == squashed
    acted = net.act(x[:, 0])[0]; low, high = (torch.tensor(limits[k]) for k in ('low', 'high')); assert ((acted >= low) & (acted <= high)).all()


@pytest.mark.parametrize('core', ['lstm', 'mlp'])
@pytest.mark.parametrize('discrete', [True, False])
def test_overfits_one_batch(core, discrete):
    net = small(core, discrete, batch_norm=True); torch.manual_seed(1); x, a = torch.randn(4, 6, 5), torch.randint(0, 3, (4, 6)) if discrete else torch.rand(4, 6, 2)*1.6 - .8
    opt, kind = torch.optim.Adam(net.parameters(), 1e-2), 'ce' if discrete else 'mse'
    for _ in range(200): loss = bc_loss(net(x), a, kind=kind); opt.zero_grad(); loss.backward(); opt.step()
    assert float(loss.detach()) < (.05 if discrete else .01)


@pytest.mark.parametrize('wrong, message', [(dict(dim=3), 'give n'), (dict(dim=3, n=2, core='rnn'), "'lstm' or 'mlp'"), (dict(dim=0, n=2), 'dim'), (dict(dim=3, low=[1.], high=[0.]), 'low must be below high'), (dict(dim=3, n=2, widht=[3]), 'unknown key')])
def test_a_wrong_spec_is_refused_in_one_line(wrong, message):
    with pytest.raises(ConfigError, match=message) as e: PolicySpec(**wrong)
    assert '\n' not in str(e.value)


def test_wrong_inputs_are_refused_in_one_line():
    net = small()
    for wrong in (lambda: net(torch.zeros(2, 3, 4)), lambda: net.act(torch.zeros(5)), lambda: bc_loss(net(torch.zeros(2, 3, 5)), torch.zeros(2, 4)), lambda: net(torch.zeros(2, 3, 5), mask=torch.ones(3, 2, dtype=bool))):
        with pytest.raises(DataError) as e: wrong()
        assert '\n' not in str(e.value)
