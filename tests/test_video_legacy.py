"Old checkpoints, built here by the slow reference under the old class names, that are gone again when they are read"
import argparse, os, pickle, random, struct, sys, types, warnings, zipfile
from collections import OrderedDict
from contextlib import contextmanager

import pytest, torch
from torch import nn
import svg_reference
from svg_reference import Reference, count
from test_video_parity import pair, clip, fast_losses, steps_first
from vislearn.core import ConfigError, DataError, UserError, seed_all
from vislearn.runs.naming import svg_name
from vislearn.runs.record import Run
from vislearn.video.legacy import cell_name, export_run, legacy_config, legacy_losses, read_legacy, sequence_name, svg_from_legacy, svg_to_legacy
from vislearn.video.svg import SVG, SVGConfig

CLASSES = dict(Block='models.dcgan_64.dcgan_conv', DcganEncoder='models.dcgan_64.encoder', DcganDecoder='models.dcgan_64.decoder', VggEncoder='models.vgg_64.encoder', VggDecoder='models.vgg_64.decoder', Lstm='svg.models.lstm.lstm', GaussianLstm='svg.models.lstm.gaussian_lstm', ActionEmbed='svg.models.act.embed')


def one_line(f, *words, kind=UserError):
    with pytest.raises(kind) as e: f()
    assert '\n' not in str(e.value) and len(str(e.value))<400 and all(w in str(e.value) for w in words), str(e.value)


@contextmanager
def old_names():
    "The reference's classes under the names of the old programs; afterwards no such module exists."
    saved = {name: (getattr(svg_reference, name).__module__, getattr(svg_reference, name).__qualname__) for name in CLASSES}
    try:
        for name, full in CLASSES.items():
            cls, (module, _, short) = getattr(svg_reference, name), full.rpartition('.')
            for i in range(1, module.count('.') + 2): sys.modules.setdefault('.'.join(module.split('.')[:i]), types.ModuleType(module))
            setattr(sys.modules[module], short, cls); cls.__module__, cls.__qualname__ = module, short
        yield
    finally:
        for name, (module, short) in saved.items(): getattr(svg_reference, name).__module__, getattr(svg_reference, name).__qualname__ = module, short
        for name in [m for m in sys.modules if m.split('.')[0] in ('models', 'svg')]: del sys.modules[name]


def options(ref_kw, **more):
    "The options that the old programs would have stored."
    kw = dict(width=64, channels=1, n_past=5, n_future=10, arch='dcgan') | ref_kw
    return argparse.Namespace(**dict(image_width=kw['width'], channels=kw['channels'], n_past=kw['n_past'], n_future=kw['n_future'], model=kw['arch'], last_frame_skip=kw.get('skip')=='last', optimizer=torch.optim.Adam, log_dir='logs', data_root='data', beta=1e-4) | more)

def fork(ref_kw, **more): return options(ref_kw, **dict(action_cond=ref_kw.get('actions', 'none')!='none', act_dim=4, act_design=2 if ref_kw.get('actions')=='learned' else 1) | more)


SMALL = dict(nf=4, g_dim=8, z_dim=3, rnn_size=16, n_past=3, n_future=3, skip='legacy') # the original's rule

def lively(ref):
    "Larger weights than those of the start: frames that differ."
    for p in ref.parameters(): p.data.mul_(8 if p.ndim>1 else 1)
    return ref

def saved(tmp_path, kw, opt, pickled=False, zipped=True, change=lambda tree: tree, seed=0):
    "A reference whose running statistics have moved, and its file."
    seed_all(seed); ref = lively(Reference(**kw))
    x = list(torch.rand(3, 2, kw.get('channels', 1), *[kw.get('width', 64)]*2)); a = torch.rand(2, 2, kw.get('act_dim', 4))
    with torch.no_grad(): ref.losses(x, a)
    ref.eval(); path = tmp_path/'model.pth'
    with old_names(), warnings.catch_warnings():
        warnings.simplefilter('ignore') # torch misses the source text of the classes
        torch.save(change(ref.checkpoint(opt, pickled)), path, _use_new_zipfile_serialization=zipped)
    assert not any(m.split('.')[0] in ('models', 'svg') for m in sys.modules)
    return ref, path


def same_outputs(ref, model, tol=1e-3, T=5):
    "Both give the same frames, for a clip and in the original's way of sampling."
    cfg, gen = model.cfg, torch.Generator().manual_seed(3)
    frames, eps = torch.rand(2, T, cfg.channels, *[cfg.image_width]*2, generator=gen), torch.randn(2, T-1, cfg.z_dim, generator=gen)
    actions = None if cfg.actions=='none' else torch.rand(2, T-1, cfg.act_dim, generator=gen)
    assert not model.training
    with torch.no_grad(): ref.losses(steps_first(frames), steps_first(actions), steps_first(eps)); out = model(frames, actions, eps)[0]
    want = torch.stack(ref.preds, 1); spread, diff = float(want.std()), float((out - want).abs().max())
    assert spread>3e-3 and diff<tol*spread, (spread, diff)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'stream'])
@pytest.mark.parametrize('pickled', [True, False], ids=['modules', 'states'])
@pytest.mark.parametrize('kw', [dict(), dict(width=56, channels=4, actions='raw'), dict(width=56, channels=4, actions='learned'), dict(width=128, skip='last'), dict(arch='vgg', channels=3), dict(arch='vgg', width=128), dict(prior='fixed')], ids=str)
def test_every_kind_of_file(tmp_path, kw, pickled, zipped):
    actions = kw.get('actions', 'none'); is_fork = actions!='none'; kw = SMALL | dict(skip='fixed' if is_fork else 'legacy') | kw
    ref, path = saved(tmp_path, kw, (fork if is_fork else options)(kw), pickled, zipped)
    if pickled: one_line(lambda: svg_from_legacy(path), str(path), 'unsafe=True', 'models')
    model = svg_from_legacy(path, unsafe=pickled)
    cfg = model.cfg
    assert (cfg.arch, cfg.image_width, cfg.channels, cfg.nf, cfg.g_dim, cfg.z_dim, cfg.rnn_size)==(kw.get('arch', 'dcgan'), kw.get('width', 64), kw.get('channels', 1), 4, 8, 3, 16)
    assert (cfg.actions, cfg.act_dim, cfg.prior, cfg.skip, cfg.n_past, cfg.n_future, cfg.bn)==(actions, 4, kw.get('prior', 'learned'), kw.get('skip', 'fixed'), 3, 3, 'frame')
    assert (cfg.predictor_rnn_layers, cfg.posterior_rnn_layers, cfg.prior_rnn_layers)==(2, 1, 1)
    assert sum(p.numel() for p in model.parameters())==count(*ref.modules.values())
    same_outputs(ref, model)


def test_the_seeds_version_3(tmp_path):
    "12,640,876 parameters, state dicts, learned embedding: file, config, outputs."
    kw = dict(width=56, channels=4, actions='learned', n_past=2, n_future=5)
    ref, path = saved(tmp_path, kw, fork(kw))
    model = svg_from_legacy(path)
    assert sum(p.numel() for p in model.parameters())==12_640_876
    assert model.cfg==SVGConfig(image_width=56, channels=4, actions='learned', n_past=2, n_future=5, bn='frame')
    same_outputs(ref, model, T=4)


def test_the_seeds_version_1(tmp_path):
    "Pickled modules with raw actions, and an embedding that nobody uses."
    kw = dict(width=56, channels=4, actions='raw', n_past=3, n_future=7)
    def change(tree): return tree | dict(act_embed=svg_reference.ActionEmbed())
    ref, path = saved(tmp_path, kw, fork(kw), pickled=True, zipped=False, change=change)
    model = svg_from_legacy(path, unsafe=True)
    assert sum(p.numel() for p in model.parameters())==12_625_324 and model.cfg.actions=='raw' and not hasattr(model, 'act_embed')
    assert sum(v.numel() for v in read_legacy(path, True).nets['act_embed'].values())==1_216
    same_outputs(ref, model, T=4)


def test_what_old_torch_did_otherwise(tmp_path):
    "No counters in batch norm, weights on a GPU that is not here, half precision, DataParallel, a dict or nothing instead of the namespace."
    def change(tree):
        return {k: v if k=='opt' else OrderedDict(('module.' + n, w.half() if k=='decoder' and w.is_floating_point() else w) for n, w in v.items() if 'num_batches' not in n) for k, v in tree.items()} | dict(opt=vars(tree['opt']))
    ref, path = saved(tmp_path, SMALL, options(SMALL), zipped=False, change=change)
    text = path.read_bytes(); assert text.count(b'X\x03\x00\x00\x00cpu')>=1
    path.write_bytes(text.replace(b'X\x03\x00\x00\x00cpu', b'X\x06\x00\x00\x00cuda:0')) # where each storage was
    model = svg_from_legacy(path); ref.decoder.half().float()
    same_outputs(ref, model); assert model.decoder.upc1[0].weight.dtype==torch.float32 and int(model.encoder.c1.main[1].num_batches_tracked)==0
    ref, path = saved(tmp_path, SMALL, options(SMALL), change=lambda tree: {k: v for k, v in tree.items() if k!='opt'})
    one_line(lambda: svg_from_legacy(path), str(path), 'image_width', kind=ConfigError)
    model = svg_from_legacy(path, image_width=64, skip='last'); ref.skip = 'last'; assert (model.cfg.skip, model.cfg.n_past)==('last', 5); same_outputs(ref, model)


def test_python_2_and_torch_0_4(tmp_path):
    "A file written by hand, as Python 2 and torch 0.4 did: texts as bytes, class names of that time, tensors by `_rebuild_tensor_v2`, modules with their source text."
    class Storage:
        def __init__(self, key, numel): self.key, self.numel = key, numel
    out, keys = [], {}
    def glob(module, name): return b'c' + module.encode() + b'\n' + name.encode() + b'\n'
    def text(s): return b'U' + bytes([len(s)]) + s.encode() # SHORT_BINSTRING: a str of Python 2
    def integer(n): return b'J' + struct.pack('<i', n)
    def tup(*items): return b'(' + b''.join(items) + b't'
    def tensor(t):
        key = str(1000 + len(keys)); keys[key] = t.contiguous().flatten()
        storage = tup(text('storage'), glob('torch.cuda', 'FloatStorage'), text(key), text('cuda:0'), integer(t.numel()), b'N') + b'Q'
        stride = list(t.contiguous().stride())
        return glob('torch._utils', '_rebuild_tensor_v2') + tup(storage, integer(0), tup(*map(integer, t.shape)), tup(*map(integer, stride)), b'\x89', glob('collections', 'OrderedDict') + b')R') + b'R'
    def parameter(t): return glob('torch.nn.parameter', 'Parameter') + tup(tensor(t), b'\x88') + b'R'
    def ordered(items): return glob('collections', 'OrderedDict') + b'(](' + b''.join(b'](' + text(k) + v + b'e' for k, v in items.items()) + b'et' + b'R'
    def module(cls, name, m):
        persistent = tup(text('module'), glob(cls, name), text('models/lstm.py'), text('import os; os.system("exit 1")')) + b'Q'
        state = dict(_parameters=ordered({k: parameter(p.detach()) for k, p in m._parameters.items() if p is not None}), _buffers=ordered({k: tensor(b) for k, b in m._buffers.items() if 'num_batches' not in k}),
            _modules=ordered({k: module('torch.nn.modules.x', type(c).__name__, c) for k, c in m._modules.items()}), _backend=glob('torch.nn.backends.thnn', '_get_thnn_function_backend') + b')R', training=b'\x88')
        return persistent + b')\x81' + b'}(' + b''.join(text(k) + v for k, v in state.items()) + b'ub'
    seed_all(1); ref = lively(Reference(**SMALL)).eval()
    opt = glob('argparse', 'Namespace') + b')\x81}(' + text('image_width') + integer(64) + text('n_past') + integer(3) + text('n_future') + integer(3) + text('model') + text('dcgan') + b'ub'
    body = b'\x80\x02}(' + b''.join(text(k) + module('models.lstm', k, m) for k, m in ref.modules.items()) + text('opt') + opt + b'u.'
    out = pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2) + pickle.dumps(dict(protocol_version=1001, little_endian=True, type_sizes=dict(int=4)), 2) + body + pickle.dumps(list(keys), 2)
    out += b''.join(struct.pack('<q', t.numel()) + t.numpy().tobytes() for t in keys.values())
    (tmp_path/'model.pth').write_bytes(out)
    one_line(lambda: svg_from_legacy(tmp_path), 'models.lstm', 'unsafe=True')
    model = svg_from_legacy(tmp_path, unsafe=True) # a folder: the originals' --model_dir
    assert model.cfg.skip=='legacy' and model.cfg.bn=='frame'; same_outputs(ref, model)


# what must not happen ---------------------------------------------------------------------------------------------------------

class Runs:
    "Pickles to a call of a function."
    def __init__(self, function, *args): self.call = function, args
    def __reduce__(self): return self.call


class Later(nn.Module):
    "Would run code when its state is set."
    def __setstate__(self, state): os.environ['VISLEARN_TRAP'] = '1'; super().__setstate__(state)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'stream'])
@pytest.mark.parametrize('call', [(os.system, 'touch {}'), (eval, "open('{}', 'w')"), (exec, "open('{}', 'w')"), (os.mkdir, '{}'), (__import__, 'antigravity'), (getattr, os, 'system')], ids=lambda c: c[0].__name__)
def test_a_malicious_pickle_does_nothing(tmp_path, call, zipped):
    mark = tmp_path/'mark'; args = [a.format(mark) if isinstance(a, str) else a for a in call[1:]]
    if args[0] is os: args[0] = 'os'
    ref, path = saved(tmp_path, SMALL, options(SMALL), zipped=zipped, change=lambda tree: dict(first=Runs(call[0], *args)) | tree | dict(extra=[Runs(call[0], *args)]))
    before = set(sys.modules)
    one_line(lambda: svg_from_legacy(path), 'unsafe=True', str(path))
    model = svg_from_legacy(path, unsafe=True) # reads past it
    assert not mark.exists() and 'antigravity' not in sys.modules and set(sys.modules)<=before | {'vislearn'}
    same_outputs(ref, model)
    if call[0] is os.mkdir:
        with pytest.raises(Exception): torch.load(path, weights_only=False); os.mkdir(mark) # the trap is real: a plain reader springs it
        assert mark.exists()


def test_foreign_classes_are_not_imported(tmp_path):
    "A module on the path with the name that the file asks for is not imported either, and `__setstate__` of a known class does not run."
    kw = SMALL; ref, path = saved(tmp_path, kw, options(kw), pickled=True)
    (tmp_path/'models').mkdir(); (tmp_path/'models'/'__init__.py').write_text(f'open({str(tmp_path/"mark")!r}, "w")')
    sys.path.insert(0, str(tmp_path))
    try: same_outputs(ref, svg_from_legacy(path, unsafe=True))
    finally: sys.path.remove(str(tmp_path))
    assert not (tmp_path/'mark').exists() and 'models' not in sys.modules
    os.environ.pop('VISLEARN_TRAP', None); later = Later(); later.lin = nn.Linear(2, 2)
    ref, path = saved(tmp_path, kw, options(kw), change=lambda tree: tree | dict(later=later))
    svg_from_legacy(path, unsafe=True); assert 'VISLEARN_TRAP' not in os.environ
    torch.load(path, weights_only=False); assert os.environ.pop('VISLEARN_TRAP')=='1' # the trap is real


def test_a_pickle_cannot_change_the_reader(tmp_path):
    "State that is set on the classes a file may name stays in that file's reading."
    before = (dict(vars(argparse.Namespace)), len(vars(OrderedDict)))
    poison = b'\x80\x02cargparse\nNamespace\n(N}(U\x05__eq__K\x01ut' + b'b0ccollections\nOrderedDict\n(N}(U\x04keysK\x01utb.'
    good = pickle.dumps(0x1950a86a20f9469cfc6c, 2)
    (tmp_path/'x.pth').write_bytes(good + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + poison + pickle.dumps([], 2))
    for unsafe in (False, True): one_line(lambda: read_legacy(tmp_path/'x.pth', unsafe), 'x.pth')
    assert (dict(vars(argparse.Namespace)), len(vars(OrderedDict)))==before
    kw = SMALL; ref, path = saved(tmp_path, kw, options(kw)); same_outputs(ref, svg_from_legacy(path))


def test_storages_that_lie(tmp_path):
    "Sizes beyond the file, tensors beyond their storage."
    ref, path = saved(tmp_path, SMALL, options(SMALL), zipped=False); whole = path.read_bytes()
    numel = ref.decoder.upc2.main[0].weight.numel()
    small, big = struct.pack('<H', numel), struct.pack('<i', 2**31 - 1)
    assert b'M' + small in whole; path.write_bytes(whole.replace(b'M' + small, b'J' + big)); one_line(lambda: svg_from_legacy(path), str(path))
    state = dict(encoder=OrderedDict(w=torch.zeros(4)), decoder={}, frame_predictor={}); torch.save(state, path); whole = path.read_bytes()
    with zipfile.ZipFile(path) as z: entries = {n: z.read(n) for n in z.namelist()}
    main = next(n for n in entries if n.endswith('data.pkl'))
    with zipfile.ZipFile(path, 'w') as z:
        for n, data in entries.items(): z.writestr(n, data.replace(b'K\x04\x85', b'K\x7f\x85') if n==main else data) # the shape (4,) becomes (127,)
    one_line(lambda: read_legacy(path), str(path))


def test_claims_about_memory_are_not_believed(tmp_path):
    "A pickle of a few bytes that asks Python for two thousand million slots (32 GB) is refused at once."
    bomb = b'\x80\x02}r' + struct.pack('<I', 2**31 - 1) + b'.'
    for head in (b'', pickle.dumps(0x1950a86a20f9469cfc6c, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)):
        (tmp_path/'x.pth').write_bytes(head + bomb); one_line(lambda: read_legacy(tmp_path/'x.pth', True), 'memory slots')
    with zipfile.ZipFile(tmp_path/'x.pth', 'w') as z: z.writestr('x/data.pkl', bomb)
    one_line(lambda: read_legacy(tmp_path/'x.pth', True), 'memory slots')


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'stream'])
@pytest.mark.parametrize('pickled', [True, False], ids=['modules', 'states'])
def test_damaged_bytes_are_one_line(tmp_path, pickled, zipped):
    "A few bytes of the pickle changed at random: the file is read, or refused in one line."
    kw = SMALL | dict(nf=1, g_dim=2, rnn_size=2, z_dim=1); ref, path = saved(tmp_path, kw, options(kw), pickled, zipped); rng, refused = random.Random(0), 0
    if zipped:
        with zipfile.ZipFile(path) as z: entries = {n: z.read(n) for n in z.namelist()}
    whole = next(b for n, b in entries.items() if n.endswith('data.pkl')) if zipped else path.read_bytes()
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 5])): data[rng.randrange(min(len(data), 12_000))] = rng.randrange(256)
        if zipped:
            with zipfile.ZipFile(path, 'w') as z:
                for n, b in entries.items(): z.writestr(n, bytes(data) if n.endswith('data.pkl') else b)
        else: path.write_bytes(data)
        try: svg_from_legacy(path, unsafe=pickled)
        except UserError as e: refused += 1; assert '\n' not in str(e) and str(path) in str(e)
    assert refused>10


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'stream'])
def test_cut_off_files(tmp_path, zipped):
    ref, path = saved(tmp_path, SMALL, options(SMALL), zipped=zipped); whole = path.read_bytes()
    for part in (.999, .9, .5, .1, .01): path.write_bytes(whole[:int(part*len(whole))]); one_line(lambda: svg_from_legacy(path), str(path), 'cut off' if part<.99 or not zipped else '', kind=DataError)
    path.write_bytes(b''); one_line(lambda: svg_from_legacy(path), 'not a checkpoint'); path.write_bytes(b'\x89PNG\r\n' + b'x'*99); one_line(lambda: svg_from_legacy(path), 'not a checkpoint')
    path.unlink(); one_line(lambda: svg_from_legacy(path), 'no such checkpoint'); one_line(lambda: svg_from_legacy(tmp_path), 'model.pth', 'no such checkpoint')


def test_files_that_are_something_else(tmp_path):
    path = tmp_path/'x.pth'
    for tree, words in [(dict(state_dict={}), ['state_dict']), ([1], ['list']), (dict(encoder={}, decoder={}, frame_predictor={}), ['encoder holds no weights']), (dict(encoder=dict(a='x'), decoder={}, frame_predictor={}), ['encoder holds no weights']),
        (dict(encoder={'conv.weight': torch.zeros(1)}, decoder={'a': torch.zeros(1)}, frame_predictor={'a': torch.zeros(1)}), ['c1', 'conv.weight'])]:
        torch.save(tree, path); one_line(lambda: svg_from_legacy(path), str(path), *words)
    with zipfile.ZipFile(path, 'w') as z: z.writestr('a.txt', 'hello')
    one_line(lambda: svg_from_legacy(path), 'zip archive without data.pkl')
    path.write_bytes(pickle.dumps(dict(a=1), 2)); one_line(lambda: svg_from_legacy(path, True), 'not a checkpoint of torch')


def test_weights_that_do_not_fit_together(tmp_path):
    def broken(**change):
        def fn(tree):
            tree = {k: dict(v) if k!='opt' else v for k, v in tree.items()}
            for name, w in change.items(): net, _, key = name.partition('/'); tree[net].pop(key); tree[net] |= {} if w is None else {key: w}
            return tree
        return saved(tmp_path, SMALL | dict(width=56, channels=4, actions='learned'), fork(SMALL | dict(width=56, channels=4, actions='learned')), change=fn)[1]
    one_line(lambda: svg_from_legacy(broken(**{'decoder/upc5.0.weight': torch.zeros(8, 3, 4, 4)})), 'upc5.0.weight'); one_line(lambda: svg_from_legacy(broken(**{'posterior/mu_net.weight': None})), 'mu_net.weight')
    one_line(lambda: svg_from_legacy(broken(**{'prior/embed.weight': torch.zeros(16, 9)})), 'actions of the same size'); one_line(lambda: svg_from_legacy(broken(**{'frame_predictor/embed.weight': torch.zeros(16, 9)})), 'actions of the same size')
    path = broken(); one_line(lambda: svg_from_legacy(path, image_width=128), '56 or 64', kind=ConfigError); one_line(lambda: svg_from_legacy(path, skip='none'), 'skip', kind=ConfigError); assert svg_from_legacy(path, image_width=64).cfg.image_width==64
    tree = torch.load(path, weights_only=False); del tree['act_embed']; torch.save(tree, path); one_line(lambda: svg_from_legacy(path), 'act_embed: missing')


# the way back -----------------------------------------------------------------------------------------------------------------

CONFIGS = [SVGConfig(nf=4, g_dim=8, z_dim=3, rnn_size=16, **kw) for kw in (dict(), dict(image_width=56, channels=4, actions='raw', n_past=1), dict(image_width=56, channels=4, actions='learned', act_dim=6, skip='legacy', bn='frame'), dict(arch='vgg', prior='fixed', skip='last', predictor_rnn_layers=3, posterior_rnn_layers=2),
    dict(arch='vgg', image_width=128, prior_rnn_layers=2))] + [SVGConfig(nf=4, g_dim=8, z_dim=0, prior='none', rnn_size=16)]

@pytest.mark.parametrize('cfg', CONFIGS, ids=lambda c: f'{c.arch}-{c.image_width}-{c.prior}-{c.actions}-{c.skip}')
def test_export_and_import_is_the_identity(tmp_path, cfg):
    seed_all(2); model = SVG(cfg).eval(); path = svg_to_legacy(model, tmp_path/'sub'/'model.pth', dict(beta=3e-4, lr=1e-3))
    again = svg_from_legacy(path); assert again.cfg==cfg
    for (k, a), (j, b) in zip(model.state_dict().items(), again.state_dict().items(), strict=True): assert k==j and torch.equal(a, b)
    assert read_legacy(path).opt['beta']==3e-4
    tree = torch.load(path, weights_only=False) # as the fork reads it
    assert isinstance(tree['opt'], argparse.Namespace) and {*tree} - {'opt'}=={n for n, _ in model.named_children()} and all(isinstance(v, torch.Tensor) for v in tree['encoder'].values())
    assert 'lstm.0.weight_ih' in tree['frame_predictor'] and 'output.0.weight' in tree['frame_predictor'] and not path.read_bytes().startswith(b'PK') # the form that torch before 1.6 reads


def test_the_old_program_loads_the_export(tmp_path):
    _, model = pair(actions='learned', width=56, channels=4, dtype=torch.float32); cfg = model.cfg
    frames, actions, eps = clip(model, dtype=torch.float32); model(frames, actions, eps); model.eval()
    tree = torch.load(svg_to_legacy(model, tmp_path/'m.pth'), weights_only=False); opt = tree['opt']
    ref = Reference(opt.model, opt.image_width, opt.channels, opt.n_past, opt.n_future, opt.g_dim, opt.z_dim, opt.rnn_size, (opt.predictor_rnn_layers, opt.posterior_rnn_layers, opt.prior_rnn_layers), cfg.nf, actions='learned' if opt.act_design==2 else 'raw', act_dim=opt.act_dim).eval()
    for name, m in ref.modules.items(): m.load_state_dict(tree[name])
    mse, kld = ref.losses(steps_first(frames), steps_first(actions), steps_first(eps)); got = fast_losses(model, frames, actions, eps)
    assert abs(got[0] - mse)<1e-5 and abs(got[1] - kld)<1e-4


def test_V07_names_go_both_ways():
    for old, new in [('lstm.0.weight_ih', 'lstm.weight_ih_l0'), ('lstm.11.bias_hh', 'lstm.bias_hh_l11'), ('embed.weight', 'embed.weight'), ('output.0.bias', 'output.0.bias'), ('c1.main.0.weight', 'c1.main.0.weight'), ('c4.2.main.1.running_mean', 'c4.2.main.1.running_mean')]:
        assert sequence_name(old)==new and cell_name(new)==old


def test_export_run(tmp_path):
    from vislearn.video.recipes import svg_nano
    cfg = svg_nano(epochs=4).replace(out=str(tmp_path/'runs'), checkpoint=dict(every_epochs=2))
    run = Run.create(cfg, policy='record'); seed_all(0); models = [SVG(SVGConfig(arch=cfg.model.name, **cfg.model.params)) for _ in range(4)]
    with run.running():
        for e, model in enumerate(models):
            run.log(50*(e + 1), e, 'train', loss=1., mse_step=.1*e, kld_step=.2); run.log(50*(e + 1), e, 'test', loss=1., mse_step=.05)
            run.save_epoch(dict(model=model.state_dict(), epoch=e + 1, iter=0, step=50*(e + 1)), .05)
    out = export_run(run.dir, tmp_path/'logs')
    assert out.relative_to(tmp_path/'logs').as_posix()==svg_name(cfg).removeprefix(str(tmp_path/'runs') + '/') and out.parent.name=='smmnist-1' and out.name.startswith('model=dcgan64x64-rnn_size=64-predictor-posterior-prior-rnn_layers=1-1-1-n_past=3-n_future=5-lr=0.0020')
    assert sorted(p.name for p in out.iterdir())==['gen', 'losses.csv', 'losses.pkl', 'model.pth', 'model_0001.pth', 'model_0003.pth', 'plots']
    for name, model in [('model.pth', models[3]), ('model_0001.pth', models[1])]:
        assert all(torch.equal(a, b) for a, b in zip(svg_from_legacy(out/name).state_dict().values(), model.state_dict().values(), strict=True))
    opt = read_legacy(out).opt; assert (opt['dataset'], opt['num_digits'], opt['beta'], opt['batch_size'], opt['niter'], opt['epoch_size'], opt['seed'])==('smmnist', 1, 1e-4, 16, 4, 50, 1)
    losses = pickle.loads((out/'losses.pkl').read_bytes()); assert losses==legacy_losses(run)
    assert list(losses)==['epoch', 'mse_loss', 'kld_loss', 'valid_mse_loss_rec', 'tot_train'] and losses['epoch']==[0, 1, 2, 3] and losses['tot_train']==[0, 800, 1600, 2400]
    assert losses['mse_loss']==pytest.approx([0, .1, .2, .3]) and losses['kld_loss']==[.2]*4 and losses['valid_mse_loss_rec']==[.05]*4
    assert (out/'losses.csv').read_text().splitlines()[:2]==['epoch,mse_loss,kld_loss,valid_mse_loss_rec,tot_train', '0,0.0,0.2,0.05,0']
    assert export_run(run, tmp_path/'logs')==out # again: nothing changes


def test_the_newest_of_a_folder(tmp_path):
    seed_all(0); models = {e: SVG(CONFIGS[0]) for e in (49, 99)}
    for e, m in models.items(): svg_to_legacy(m, tmp_path/f'model_{e:04d}.pth')
    assert torch.equal(svg_from_legacy(tmp_path).encoder.c1.main[0].weight, models[99].encoder.c1.main[0].weight)
    svg_to_legacy(models[49], tmp_path/'model.pth'); assert torch.equal(svg_from_legacy(tmp_path).encoder.c1.main[0].weight, models[49].encoder.c1.main[0].weight)


def test_raw_actions_of_32_numbers_are_not_an_embedding(tmp_path):
    kw = SMALL | dict(actions='raw', act_dim=32)
    ref, path = saved(tmp_path, kw, fork(kw, act_dim=32), change=lambda tree: tree | dict(act_embed=svg_reference.ActionEmbed(4, 32).state_dict()))
    ckpt = read_legacy(path); assert (legacy_config(ckpt).actions, legacy_config(ckpt).act_dim)==('raw', 32)
    assert legacy_config(ckpt._replace(opt=ckpt.opt | dict(act_design=2))).actions=='learned' # only the options can tell


def test_export_of_other_runs(tmp_path):
    from vislearn.supervised import supervised_shapes
    (tmp_path/'data').mkdir(); run = Run.create(supervised_shapes(tmp_path/'data', epochs=1), out=tmp_path, policy='record')
    one_line(lambda: export_run(run, tmp_path/'logs'), 'expected one of video.svg', kind=ConfigError); assert not (tmp_path/'logs').exists()


def test_export_of_a_trained_run(tmp_path):
    from vislearn.video.recipes import svg_nano
    from vislearn.video.train import load_svg, train_svg
    cfg = svg_nano(epochs=2, bs=4); cfg = cfg.replace(data=cfg.data.replace(train=cfg.data.train.replace(params=cfg.data.train.params | dict(epoch_size=2, valid_films=4))))
    run = train_svg(cfg, out=tmp_path/'runs', policy='record', device='cpu'); out = export_run(run, tmp_path/'logs')
    assert all(torch.equal(a, b) for a, b in zip(svg_from_legacy(out).state_dict().values(), load_svg(run, best=False).state_dict().values(), strict=True))
    losses = pickle.loads((out/'losses.pkl').read_bytes()); assert losses['tot_train']==[0, 8] and all(0<v<1 for v in losses['valid_mse_loss_rec'])
