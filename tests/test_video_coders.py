"Encoders, decoders and recurrent networks of video generation against loops, closed forms and the published counts"
import pytest, torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vislearn.core import UserError
from vislearn.nets import count_params
from vislearn.video.coders import Decoder, Encoder, add_rows, coders
from vislearn.video.recurrent import ActionEmbedding, FramePredictor, GaussianLSTM
from vislearn.video.svg import SVG, SVGConfig, skip_index

FAMILIES = [('dcgan', 56), ('dcgan', 64), ('dcgan', 128), ('vgg', 64), ('vgg', 128)]


@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1); torch.manual_seed(0); yield; torch.set_num_threads(n)


def pair(arch='dcgan', width=64, channels=2, bn='joint', save_memory=False, seed=0, loud=True):
    "A small pair in double precision whose weights are large enough for differences to show."
    torch.manual_seed(seed)
    enc, dec = (m.double() for m in coders(arch, width, channels, 12, 4, bn, save_memory))
    if loud:
        for p in [*enc.parameters(), *dec.parameters()]: p.data = p.data*6 if p.ndim > 1 else p.data + torch.randn_like(p)*.1
    return enc, dec


# name: (arch, width, channels, z, inputs of an action), then predictor, posterior, prior, encoder, decoder, total without embedding
COUNTS = {
    'fabric 3': (('dcgan', 56, 4, 10, 32), 1_129_344, 564_500, 572_692, 3_808_448, 6_564_676, 12_640_876 - 1_216),
    'fabric 1': (('dcgan', 56, 4, 10, 4), 1_122_176, 564_500, 565_524, 3_808_448, 6_564_676, 12_625_324),
    'fabric, no action': (('dcgan', 56, 4, 10, 0), 1_121_152, 564_500, 564_500, 3_808_448, 6_564_676, 12_623_276),
    'digits': (('dcgan', 64, 1, 10, 0), 1_121_152, 564_500, 564_500, 3_805_376, 6_558_529, 12_614_057),
    'dcgan 64 rgb': (('dcgan', 64, 3, 10, 0), 1_121_152, 564_500, 564_500, 3_807_424, 6_562_627, 12_620_203),
    'dcgan 128': (('dcgan', 128, 1, 10, 0), 1_121_152, 564_500, 564_500, 8_001_216, 14_948_673, 25_200_041),
    'dcgan 128 rgb': (('dcgan', 128, 3, 10, 0), 1_121_152, 564_500, 564_500, 8_003_264, 14_952_771, 25_206_187),
    'bair': (('vgg', 64, 3, 64, 0), 1_134_976, 592_256, 592_256, 8_689_600, 11_822_659, 22_831_747),
    'kth': (('vgg', 64, 1, 24, 0), 1_124_736, 571_696, 571_696, 8_688_448, 11_821_505, 22_778_081),
    'kth 128': (('vgg', 128, 1, 24, 0), 1_124_736, 571_696, 571_696, 15_770_944, 21_263_297, 39_302_369),
    'vgg 128 rgb': (('vgg', 128, 3, 64, 0), 1_134_976, 592_256, 592_256, 15_772_096, 21_264_451, 39_356_035)}


@pytest.mark.parametrize('name', COUNTS)
def test_every_published_count(name):
    (arch, width, channels, z, a), *want = COUNTS[name]
    with torch.device('meta'): parts = [FramePredictor(128+a+z, 128), GaussianLSTM(128, z), GaussianLSTM(128+a, z), *coders(arch, width, channels)]
    got = [count_params(m) for m in parts]
    assert [*got, sum(got)] == want


@pytest.mark.parametrize('arch,width,enc,dec', [('dcgan', 56, (1024, 3_804_352), (2049, 6_556_480)), ('dcgan', 64, (1024, 3_804_352), (2049, 6_556_480)), ('dcgan', 128, (1024, 8_000_192), (2049, 14_946_624)),
    ('vgg', 64, (576, 8_687_872), (577, 11_820_928)), ('vgg', 128, (576, 15_770_368), (577, 21_262_720))])
def test_counts_are_linear_in_the_channels(arch, width, enc, dec):
    for nc in (1, 2, 5):
        with torch.device('meta'): assert [count_params(m) for m in coders(arch, width, nc)] == [a*nc+b for a, b in (enc, dec)]


@pytest.mark.parametrize('arch,width,sides', [('dcgan', 56, (29, 15, 8, 4)), ('dcgan', 64, (32, 16, 8, 4)), ('dcgan', 128, (64, 32, 16, 8, 4)), ('vgg', 64, (64, 32, 16, 8)), ('vgg', 128, (128, 64, 32, 16, 8))])
def test_shapes(arch, width, sides):
    enc, dec = coders(arch, width, 3, nf=8, g_dim=5)
    h, skips = enc(torch.rand(2, 3, width, width))
    assert h.shape == (2, 5) and [tuple(s.shape) for s in skips] == [(2, 8*min(2**i, 8), side, side) for i, side in enumerate(sides)]
    assert dec(h, skips).shape == (2, 3, width, width)


def test_names_are_those_of_the_checkpoints():
    dcgan, vgg = coders('dcgan'), coders('vgg')
    names = [set(k.rsplit('.', 1)[0] for k in m.state_dict()) for m in (*dcgan, *vgg)]
    assert names[0] == {f'c{i}.main.{j}' for i in range(1, 5) for j in (0, 1)} | {'c5.0', 'c5.1'}
    assert names[1] == {'upc1.0', 'upc1.1', 'upc5.0'} | {f'upc{i}.main.{j}' for i in (2, 3, 4) for j in (0, 1)}
    assert names[2] == {f'c{i}.{k}.main.{j}' for i, n in ((1, 2), (2, 2), (3, 3), (4, 3)) for k in range(n) for j in (0, 1)} | {'c5.0', 'c5.1'}
    assert names[3] == {'upc1.0', 'upc1.1', 'upc5.1', 'upc5.0.main.0', 'upc5.0.main.1'} | {f'upc{i}.{k}.main.{j}' for i, n in ((2, 3), (3, 3), (4, 2)) for k in range(n) for j in (0, 1)}
    assert dcgan[1].upc2.main[0].weight.shape == (1024, 256, 4, 4) and vgg[1].upc2[0].main[0].weight.shape == (512, 1024, 3, 3)


def test_initial_weights():
    enc, dec = coders('vgg', 64, 3)
    for m in [*enc.modules(), *dec.modules()]:
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)): assert (m.bias == 0).all() and abs(m.weight.std().item()/.02-1) < .1 and abs(m.weight.mean()) < 2e-3
        if isinstance(m, nn.BatchNorm2d): assert (m.bias == 0).all() and abs(m.weight.mean()-1) < .01 and .012 < m.weight.std() < .028
    lstm = FramePredictor(10, 128)
    assert (lstm.embed.bias == 0).all() and all(p.abs().max() <= 1/16 and p.abs().max() > .06 for p in lstm.lstm.parameters())


@pytest.mark.parametrize('arch,width', FAMILIES)
@pytest.mark.parametrize('dtype,eps', [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_V08_split_equals_concat(arch, width, dtype, eps):
    (enc, dec), index, B = pair(arch, width), [0, 1, 2, 2, 0], 2
    enc.to(dtype), dec.to(dtype); T = len(index)
    h, skips = enc(torch.rand(B*T, 2, width, width, dtype=dtype), T)
    rows, every = [[s.unflatten(0, (B, T))[:, ks].flatten(0, 1) for s in skips] for ks in ([0, 1, 2], index)]
    want = dec(h, every)
    assert want.std() > .05
    absolute = torch.tensor([3*b+k for b in range(B) for k in index])
    for got in (dec(h, rows, index), dec(h, rows, absolute), dec.decode(h, dec.skip_terms(every)), dec.decode(h, dec.skip_terms(rows), index)): assert (got-want).abs().max() < eps
    if dtype == torch.float64:
        params = [*dec.parameters(), *enc.parameters()]
        grads = [torch.autograd.grad((out*torch.linspace(-1, 1, out.numel()).view_as(out)).sum(), params, retain_graph=True, allow_unused=True) for out in (want, dec(h, rows, index))]
        for a, b in zip(*grads): assert (a-b).abs().max() <= 1e-10*a.abs().max().clamp_min(1)


@pytest.mark.parametrize('rows', [[0, 1, 2, 3, 4, 4, 4], [0, 0, 0], [0, 1, 2], [2, 1, 0], [1, 1, 2, 3, 0, 0]])
@pytest.mark.parametrize('last', [False, True])
def test_add_rows_by_a_loop(rows, last):
    T, M, B = len(rows), max(rows)+2, 3
    fmt = torch.channels_last if last else torch.contiguous_format
    d, s = torch.randn(B*T, 2, 3, 4).double().contiguous(memory_format=fmt).requires_grad_(), torch.randn(B*M, 2, 3, 4).double().contiguous(memory_format=fmt).requires_grad_()
    want = torch.stack([d[b*T+t]+s[b*M+k] for b in range(B) for t, k in enumerate(rows)])
    got, weight = add_rows(d*1, s, rows), torch.randn_like(want)
    assert torch.equal(got, want)
    for a, b in zip(torch.autograd.grad((got*weight).sum(), (d, s)), torch.autograd.grad((want*weight).sum(), (d, s))): torch.testing.assert_close(a, b, atol=1e-13, rtol=0)
    assert torch.autograd.gradcheck(lambda d, s: add_rows(d*1, s, rows), (d, s))


@pytest.mark.parametrize('arch,width', [('dcgan', 64), ('vgg', 64)])
def test_keeping_few_skips_changes_nothing(arch, width):
    results = []
    for keep in (None, 2):
        enc, dec = pair(arch, width)
        h, skips = enc(torch.rand(6, 2, width, width, generator=torch.Generator().manual_seed(3)).double(), 3, keep)
        if keep is None: skips = [s.unflatten(0, (2, 3))[:, :2].flatten(0, 1) for s in skips]
        out = dec(h, skips, [0, 1, 1]); (out**2).sum().backward()
        results.append([out.detach(), *[p.grad for m in (enc, dec) for p in m.parameters()]])
    for a, b in zip(*results): assert (a-b).abs().max() <= 1e-11*a.abs().max().clamp_min(1)


@pytest.mark.parametrize('arch,width', [('dcgan', 56), ('vgg', 64)])
@pytest.mark.parametrize('rule', ['fixed', 'legacy', 'last'])
def test_V04_frame_bn_equals_the_loop(arch, width, rule):
    "One call for all frames against one call per frame: values, gradients and running statistics."
    B, T, n_past = 3, 6, 3; index = skip_index(T, n_past, rule)
    x, weight = torch.rand(B, T, 2, width, width).double(), torch.randn(B, T-1, 2, width, width).double()
    fast_e, fast_d = pair(arch, width, bn='frame'); slow_e, slow_d = pair(arch, width)
    h, skips = fast_e(x.flatten(0, 1), T, None if rule == 'last' else max(index)+1)
    g = h.unflatten(0, (B, T))[:, 1:].flatten(0, 1)
    fast = fast_d(g, [s.unflatten(0, (B, T))[:, :-1].flatten(0, 1) for s in skips], None, T-1) if rule == 'last' else fast_d(g, skips, index, T-1)
    outs, seen = [], {}
    for i in range(1, T):
        seen[i-1] = slow_e(x[:, i-1])
        outs.append(slow_d(slow_e(x[:, i])[0], seen[index[i-1]][1]))
    slow = torch.stack(outs, 1).flatten(0, 1)
    assert (fast-slow).abs().max() < 1e-12 and slow.std() > .05
    for out, mods in ((fast, (fast_e, fast_d)), (slow, (slow_e, slow_d))): (out.unflatten(0, (B, T-1))*weight).sum().backward()
    for (name, a), b in zip([*fast_e.named_parameters(), *fast_d.named_parameters()], [*slow_e.parameters(), *slow_d.parameters()]): assert (a.grad-b.grad).abs().max() < 1e-10*b.grad.abs().max().clamp_min(1), name
    for (name, a), b in zip([*fast_e.named_buffers(), *fast_d.named_buffers()], [*slow_e.buffers(), *slow_d.buffers()]): assert (a-b).abs().max() < 1e-12, name


def test_V04_encoder_statistics_of_one_pass_per_frame():
    "SVG-FP encodes every frame once: `twice=False`."
    x = torch.rand(2, 4, 2, 64, 64).double(); fast, _ = pair(bn='frame'); slow, _ = pair(); fast.twice = False
    fast(x.flatten(0, 1), 4)
    for t in range(4): slow(x[:, t])
    for (name, a), b in zip(fast.named_buffers(), slow.buffers()): assert (a-b).abs().max() < 1e-12, name


@pytest.mark.parametrize('bn', ['joint', 'frame'])
def test_V05_evaluation_of_a_frame_does_not_depend_on_the_others(bn):
    enc, dec = pair(bn=bn); x = torch.rand(4, 2, 64, 64).double(); enc(x, 2); dec(*enc(x, 2), None, 2)
    enc.eval(), dec.eval()
    h, s = enc(x); out = dec(h, s); h1, s1 = enc(x[2:3]); assert (dec(h1, s1)-out[2:3]).abs().max() < 1e-12
    changed = x.clone(); changed[0] = 0; h2, s2 = enc(changed); assert (dec(h2, s2)[2]-out[2]).abs().max() < 1e-12 < (dec(h2, s2)[0]-out[0]).abs().max()


@pytest.mark.parametrize('bn', ['joint', 'frame'])
@pytest.mark.parametrize('arch', ['dcgan', 'vgg'])
def test_saving_memory_changes_nothing(bn, arch):
    got = []
    for save in (False, True):
        enc, dec = pair(arch, bn=bn, save_memory=save)
        h, s = enc(torch.rand(6, 2, 64, 64, generator=torch.Generator().manual_seed(1)).double(), 3, 2); out = dec(h, s, [0, 1, 1], 3); (out**2).sum().backward()
        got.append([out.detach(), *[p.grad for m in (enc, dec) for p in m.parameters()], *[b for m in (enc, dec) for b in m.buffers()]])
    for a, b in zip(*got): assert (a-b).abs().max() <= 1e-10*a.abs().max().clamp_min(1)


def test_saving_memory_saves_memory():
    def kept(save):
        enc, _ = pair('vgg', save_memory=save); sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t): enc(torch.rand(2, 2, 64, 64).double())
        return sum(sizes)
    assert kept(True) < .5*kept(False)


def test_untracked_leaves_the_statistics_alone():
    for bn in ('joint', 'frame'):
        enc, _ = pair(bn=bn); x = torch.rand(4, 2, 64, 64).double(); before = [b.clone() for b in enc.buffers()]
        with enc.untracked(): h, _ = enc(x, 2)
        assert all(torch.equal(a, b) for a, b in zip(before, enc.buffers())) and torch.allclose(h, enc(x, 2)[0], atol=1e-13)
        assert not all(torch.equal(a, b) for a, b in zip(before, enc.buffers()))


def test_V07_lstm_cells_become_a_sequence():
    "Weights of `nn.LSTMCell`s, step by step, and the same weights in a sequence LSTM."
    net, x = FramePredictor(9, 7, 16, 2), torch.randn(3, 5, 9)
    cells = [nn.LSTMCell(16, 16) for _ in range(2)]
    for l, cell in enumerate(cells):
        for name in ('weight_ih', 'weight_hh', 'bias_ih', 'bias_hh'): getattr(net.lstm, f'{name}_l{l}').data.copy_(getattr(cell, name))
    state, out = [(torch.zeros(3, 16),)*2 for _ in cells], []
    for t in range(5):
        y = net.embed(x[:, t])
        for l, cell in enumerate(cells): state[l] = cell(y, state[l]); y = state[l][0]
        out.append(torch.tanh(net.output[0](y)))
    got, last = net(x)
    assert (got-torch.stack(out, 1)).abs().max() < 1e-6
    for l in range(2): assert (last[0][l]-state[l][0]).abs().max() < 1e-6 and (last[1][l]-state[l][1]).abs().max() < 1e-6


def test_V07_one_step_at_a_time_equals_the_sequence():
    for net in (FramePredictor(6, 4, 16, 2).double(), GaussianLSTM(6, 4, 16, 1).double(), GaussianLSTM(6, 4, 16, 3).double()):
        x, state, steps = torch.randn(2, 7, 6).double(), None, []
        for t in range(7): *out, state = net(x[:, t:t+1], state); steps.append(out)
        *want, last = net(x)
        for k, w in enumerate(want): assert (torch.cat([s[k] for s in steps], 1)-w).abs().max() < 1e-12
        assert all((a-b).abs().max() < 1e-12 for a, b in zip(last, state))


def test_V12_action_embedding():
    net = ActionEmbedding()
    assert count_params(net) == 1_216 and list(net.state_dict()) == ['fc1.weight', 'fc1.bias', 'fc2.weight', 'fc2.bias']
    a = torch.randn(2, 3, 4)
    assert torch.allclose(net(a), torch.relu(a@net.fc1.weight.T+net.fc1.bias)@net.fc2.weight.T+net.fc2.bias, atol=1e-6)


def test_V12_zero_action_weights_make_the_action_free_network():
    with_action, without = GaussianLSTM(8+4, 3, 16), GaussianLSTM(8, 3, 16)
    state = with_action.state_dict(); state['embed.weight'][:, 8:] = 0; with_action.load_state_dict(state)
    without.load_state_dict(state | {'embed.weight': state['embed.weight'][:, :8]})
    h = torch.randn(2, 5, 8)
    for a, b in zip(with_action(torch.cat([h, torch.randn(2, 5, 4)], -1))[:2], without(h)[:2]): assert (a-b).abs().max() < 1e-6


class CountOps(TorchDispatchMode):
    "Count operators that are not views."
    def __init__(self): super().__init__(); self.n = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += not (func.is_view or func.name().startswith(('aten::detach', 'aten::_unsafe_view'))); return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('bn', ['joint', 'frame'])
def test_V16_operators_of_a_training_step(bn):
    "Forward and backward at 5 + 10 frames dispatch fewer than 500 operators, however many frames there are."
    counts = []
    for n_future in (10, 3):
        model, x = SVG(SVGConfig(nf=8, n_future=n_future, bn=bn)), torch.rand(2, 5+n_future, 1, 64, 64)
        with CountOps() as ops:
            out, mu, logvar, mu_p, logvar_p = model(x)
            loss = (out-x[:, 1:]).pow(2).mean()*(n_future+4) + 1e-4*(.5*(logvar_p-logvar) + (logvar.exp()+(mu-mu_p)**2)/(2*logvar_p.exp()) - .5).sum()/2
            loss.backward()
        counts.append(ops.n)
    print(bn, counts)
    assert counts[0] < 500 and abs(counts[0]-counts[1]) < 30


def test_every_parameter_learns():
    for arch in ('dcgan', 'vgg'):
        enc, dec = pair(arch); h, s = enc(torch.rand(4, 2, 64, 64).double(), 2, 1); (dec(h, s, [0, 0])**2).sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for m in (enc, dec) for p in m.parameters())


def test_autocast_runs_in_half_precision():
    enc, dec = coders('dcgan', nf=8)
    with torch.autocast('cpu', torch.bfloat16): h, s = enc(torch.rand(4, 1, 64, 64), 2, 1); out = dec(h, s, [0, 0]); loss = out.float().pow(2).mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for m in (enc, dec) for p in m.parameters())


@pytest.mark.parametrize('call,message', [
    (lambda: Encoder('vgg', 56), 'width must be one of (64, 128) for vgg, got 56: resize the clips'),
    (lambda: Encoder('resnet'), "arch must be 'dcgan' or 'vgg', got 'resnet'"),
    (lambda: Decoder(bn='batch'), "bn must be 'joint' or 'frame', got 'batch'"),
    (lambda: Encoder(nf=4)(torch.rand(2, 3, 64, 64)), 'frames must be (N, 1, 64, 64), got (2, 3, 64, 64)'),
    (lambda: Encoder(nf=4)(torch.rand(2, 1, 56, 56)), 'frames must be (N, 1, 64, 64), got (2, 1, 56, 56)'),
    (lambda: Encoder(nf=4, bn='frame')(torch.rand(4, 1, 64, 64)), "T: bn='frame' needs the frames of a clip to train"),
    (lambda: Encoder(nf=4)(torch.rand(4, 1, 64, 64), 2, 3), 'keep: expected 1 to T frames of a clip, got keep=3 and T=2')])
def test_wrong_input(call, message):
    with pytest.raises(UserError) as e: call()
    assert message in str(e.value) and '\n' not in str(e.value)
