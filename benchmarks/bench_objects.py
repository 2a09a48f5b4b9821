"""Speed and memory of SPACE, SPACE-Time and of their data, both sides of every comparison measured in one run

    python benchmarks/bench_objects.py --out benchmarks/objects.json                    # everything, about ten minutes
    python benchmarks/bench_objects.py --quick --only continuity memory                 # smaller sizes, two groups
    python benchmarks/bench_objects.py --only gpu --out benchmarks/objects_gpu.json     # on a machine with a GPU

The slow side is tests/space_reference.py: the original's order, with the weights and the noise of the fast side. The tests prove that both sides compute the same (tests/test_objects_parity.py).
CPU groups use one thread of torch; every group runs in a process of its own; see harness.py. The promises are targets of the project, met or not: "met" says which.
"""
import importlib.util, sys, tempfile, time
from harness import entry, group, main, seconds


def turns(repeats, *fns, warm=1):
    "Milliseconds of every call: CPU time of the process, and of the clock. The functions take turns after one warm-up each."
    for fn in fns*warm: fn()
    cpu, wall = [[] for _ in fns], [[] for _ in fns]
    for _ in range(repeats):
        for k, fn in enumerate(fns):
            c, w = time.process_time(), time.perf_counter(); fn()
            cpu[k].append(1e3*(time.process_time()-c)); wall[k].append(1e3*(time.perf_counter()-w))
    return cpu, wall


def objects(B, N, g=32, device='cpu', seed=0):
    "Glimpses, opacities, depths and boxes as a network in training has them: small boxes around their cells."
    import torch
    gen, G = torch.Generator().manual_seed(seed), round(N**.5)
    row, col = torch.meshgrid(torch.arange(G), torch.arange(G), indexing='ij')
    centre = ((2*torch.stack([col, row], -1).reshape(1, N, 2)+1)/G-1 + torch.randn(B, N, 2, generator=gen)/G).clamp(-1, 1)
    where = torch.cat([torch.sigmoid(-2.2 + .2*torch.randn(B, N, 2, generator=gen)), centre], -1)
    return [t.to(device).requires_grad_() for t in (torch.rand(B, N, 1, g, g, generator=gen), torch.rand(B, N, 3, g, g, generator=gen), torch.randn(B, N, 1, generator=gen), where)]


def slow_compose(a, o, depth, where, size=128):
    "Importance, colour and opacity pasted apart, then a softmax over the cells."
    import torch
    from space_reference import spatial_transform
    B, N = a.shape[:2]
    a, o, depth, where = a.flatten(0, 1), o.flatten(0, 1), depth.reshape(B*N, 1, 1, 1), where.flatten(0, 1)
    paste = lambda t: spatial_transform(t, where, (B*N, t.shape[1], size, size), True).view(B, N, -1, size, size)
    importance, y, a = paste(100*a*torch.sigmoid(-depth)), paste(a*o), paste(a)
    weights = torch.softmax(importance, 1)
    return (weights*y).sum(1), (weights*a).sum(1)


def with_backward(fn, leaves):
    "A function that runs `fn`, and its gradients with respect to the leaves."
    import torch
    def run():
        fg, alpha = fn(*leaves)
        torch.autograd.grad((fg.square().sum() + alpha.square().sum()), leaves)
    return run


@group
def composition(quick):
    """Forward and backward of the composition, 256 boxes of 32 pixels on pictures of 128 pixels, two pictures, one thread: one separable paste that is done again in the backward pass against three
    pastes by affine_grid and grid_sample. The promise is 4 in CPU time. A second row without the second paste; a third for the crop."""
    from space_reference import spatial_transform
    from vislearn.objects.paste import compose, crop
    import torch
    B, N = (1, 16) if quick else (2, 256)
    leaves = objects(B, N); a, o, depth, where = leaves; config = dict(pictures=B, cells=N, glimpse=32, size=128, threads=1)
    cpu, wall = turns(2 if quick else 7, with_backward(slow_compose, leaves), with_backward(lambda *x: compose(*x, 128), leaves), with_backward(lambda *x: compose(*x, 128, checkpoint=False), leaves))
    yield entry('composition, CPU time', 'ms', cpu[1], cpu[0], config, limit=4.)
    yield entry('composition, wall time', 'ms', wall[1], wall[0], config)
    yield entry('composition, kept in memory, CPU time', 'ms', cpu[2], cpu[0], config)
    x = torch.rand(B, 3, 128, 128)
    def cut(fn): return lambda: torch.autograd.grad(fn().square().sum(), where)
    slow = cut(lambda: spatial_transform(torch.repeat_interleave(x, N, 0), where.flatten(0, 1), (B*N, 3, 32, 32)))
    cpu, _ = turns(2 if quick else 7, slow, cut(lambda: crop(x, where, 32)))
    yield entry('crop, CPU time', 'ms', cpu[1], cpu[0], config, note='slow: one copy of the picture per cell')


def clips_of_cells(B, T, G, active, device='cpu', seed=0):
    "Codes, boxes and presence of clips with so many active cells in all."
    import torch
    gen = torch.Generator().manual_seed(seed); N = G*G
    p = .4*torch.rand(B, T, N, generator=gen); p.view(-1)[torch.randperm(B*T*N, generator=gen)[:active]] = .9
    return [t.to(device) for t in (torch.randn(B, T, N, 32, generator=gen), torch.rand(B, T, N, 4, generator=gen), p)]


@group
def continuity(quick):
    "Object continuity with its gradient, 16 clips of 4 frames, 16 x 16 cells, 1,893 of them active: nine shifted views against a loop over active cells. The promise is 5 in CPU time; the loop's time grows with the scene, that of the views does not."
    import torch
    from space_reference import continuity_loop
    from vislearn.objects.time import continuity_loss
    B, T, G, counts = (2, 3, 4, (20,)) if quick else (16, 4, 16, (1893, 400))
    for active in counts:
        what, where, p = clips_of_cells(B, T, G, active); what.requires_grad_()
        slow, fast = (lambda fn=fn: torch.autograd.grad(fn(what, where, p, wrap=True), what) for fn in (continuity_loop, continuity_loss))
        cpu, wall = turns(2 if quick else 5, slow, fast); config = dict(clips=B, frames=T, cells=G*G, active=active, threads=1)
        yield entry(f'continuity, {active} cells, CPU time', 'ms', cpu[1], cpu[0], config, limit=5. if active == counts[0] else None)
        yield entry(f'continuity, {active} cells, wall time', 'ms', wall[1], wall[0], config)


def mode_loop(frames):
    "The most frequent colour of every pixel, one pixel after the other."
    import numpy as np
    out = np.empty(frames.shape[1:], np.uint8)
    for i in range(frames.shape[1]):
        for j in range(frames.shape[2]):
            colours, counts = np.unique(frames[:, i, j], axis=0, return_counts=True)
            out[i, j] = colours[counts.argmax()]
    return out


@group
def rootmode(quick):
    "Background of 500 frames of 210 x 160 pixels as the most frequent colour of every pixel: packed colours and votes against one call of numpy per pixel. The promise is 20. Frames are those of moving rectangles in front of a scene with some noise."
    import numpy as np
    from vislearn.objects.motion import root_mode
    n, H, W = (40, 30, 20) if quick else (500, 210, 160)
    rng = np.random.default_rng(0); frames = np.repeat(rng.integers(0, 256, (1, H, W, 3), dtype=np.uint8), n, 0)
    for k in range(8):
        h, w, colour = *rng.integers(4, 16, 2), rng.integers(0, 256, 3)
        for t in range(n): i, j = (t*(k+1)) % (H-h), (3*t*(k+1)) % (W-w); frames[t, i:i+h, j:j+w] = colour
    flicker = rng.random((n, H, W)) < .02; frames[flicker] = rng.integers(0, 256, (flicker.sum(), 3))
    fast, slow = root_mode(frames), mode_loop(frames); same = float((fast == slow).all(-1).mean())
    if same < .999: raise RuntimeError(f'the two backgrounds agree on {same:.1%} of the pixels')
    cpu, wall = turns(1 if quick else 3, lambda: mode_loop(frames), lambda: root_mode(frames), warm=0)
    yield entry('root mode, CPU time', 'ms', cpu[1], cpu[0], dict(frames=n, height=H, width=W, threads=1, same_pixels=same), limit=20.)
    yield entry('root mode, wall time', 'ms', wall[1], wall[0], dict(frames=n, height=H, width=W, threads=1))


def pictures(B, T, device='cpu', size=128, preset='demo'):
    "Clips of sprites, floats in [0, 1], (B, T, 3, S, S), and empty motion maps."
    import torch
    from vislearn.synth.sprites import SpriteWorld
    frames = SpriteWorld.preset(preset, T=T).batch(range(B))
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float().div(255).contiguous().to(device)


def made_hints(B, T, G, size=128, device='cpu'):
    "Motion map, presence and positions; a tenth of the cells is hinted."
    import torch
    gen = torch.Generator().manual_seed(3); p = (torch.rand(B, T, G*G, generator=gen) < .1).float()
    where = torch.cat([.1 + .1*torch.rand(B, T, G*G, 2, generator=gen), 2*torch.rand(B, T, G*G, 2, generator=gen)-1], -1)*p.unsqueeze(-1)
    return [t.to(device) for t in ((torch.rand(B, T, size, size, generator=gen) < .05).float(), p, where)]


def both(G, K, device='cpu'):
    "The model of the library and the literal one with its weights."
    import torch
    from space_reference import Reference
    from vislearn.objects.space import Space, SpaceConfig
    torch.manual_seed(0); fast = Space(SpaceConfig(G=G, K=K))
    return fast.to(device), Reference(G=G, K=K).take(fast).to(device)


def fast_step(model, x, hints, amp=False):
    "A training step as the library does it: vectorised losses, two optimizers, one clip of the gradient."
    import torch
    from vislearn.objects.time import MocConfig, MocLoss
    loss = MocLoss(MocConfig(legacy_scale=True, wrap=True)).to(x.device); fg, bg = (list(m.parameters()) for m in (model.fg_module, model.bg_module))
    opts = torch.optim.RMSprop(fg, lr=3e-5), torch.optim.Adam(bg, lr=1e-3); params = fg + bg
    def run():
        for o in opts: o.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp): out = model(x)
        loss(out, *hints).backward(); torch.nn.utils.clip_grad_norm_(params, 1.)
        for o in opts: o.step()
    return run


def slow_step(model, x, hints, amp=False):
    import torch
    from space_reference import Moc, draw_noise, training_step
    moc, step, frames, noise = Moc(), training_step(model), x.flatten(0, 1), draw_noise(x.shape[0]*x.shape[1], model.opt.G, model.opt.K)
    noise = {k: v.to(x.device) for k, v in noise.items()}
    def run():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp): out = model(frames, noise)
        step(moc(out, *hints)[0])
    return run


@group
def step(quick):
    "One whole training step of SPACE-Time on a CPU thread, 16 x 16 cells, three background components, one clip of two frames: forward, all losses, backward, clip, RMSprop and Adam. The promise is 1.7 in CPU time."
    B, T, G, K = (1, 2, 4, 2) if quick else (1, 2, 16, 3)
    fast, slow = both(G, K); x, hints = pictures(B, T), made_hints(B, T, G)
    cpu, wall = turns(2 if quick else 5, slow_step(slow, x, hints), fast_step(fast, x, hints)); config = dict(clips=B, frames=T, G=G, K=K, size=128, threads=1, parameters=sum(p.numel() for p in fast.parameters()))
    yield entry('training step, CPU time', 'ms', cpu[1], cpu[0], config, limit=1.7)
    yield entry('training step, wall time', 'ms', wall[1], wall[0], config)


def saved_mb(fn, params=()):
    "Megabytes of all storages that the forward pass keeps for the backward pass, each counted once, weights left out."
    import torch
    seen, own = {}, {p.untyped_storage().data_ptr() for p in params}
    def pack(t):
        s = t.untyped_storage()
        if s.data_ptr() not in own: seen[s.data_ptr()] = s.nbytes()
        return t
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t): keep = fn()
    return sum(seen.values())/1e6, keep


@group
def memory(quick):
    "Activations that a forward pass keeps for the backward pass, per picture, 16 x 16 cells, three background components: unique storages that autograd saves, weights left out. The promise is 350 MB."
    import torch
    from space_reference import draw_noise
    G, K, n = (4, 2, 1) if quick else (16, 3, 1)
    fast, slow = both(G, K); x = pictures(n, 1).flatten(0, 1); noise = draw_noise(n, G, K); config = dict(pictures=n, G=G, K=K, size=128)
    few, out = saved_mb(lambda: fast(x, noise=noise).elbo_loss.mean(), fast.parameters()); del out
    with torch.autocast('cpu', torch.bfloat16): half, out = saved_mb(lambda: fast(x, noise=noise).elbo_loss.mean(), fast.parameters()); del out
    many, out = saved_mb(lambda: slow(x, noise).elbo_loss.mean(), slow.parameters()); del out
    yield entry('saved activations per picture', 'MB', few/n, None, config, limit=350.)
    yield entry('saved activations per picture, against the reference', 'MB', few/n, many/n, config)
    yield entry('saved activations per picture, bf16 autocast', 'MB', half/n, many/n, config, note='slow: the reference in float32')


class Counted:
    "A source whose steps are counted."
    def __init__(self, source): self.source, self.steps = source, 0
    def __getattr__(self, name): return getattr(self.source, name)
    def step(self): self.steps += 1; return self.source.step()


@group
def record(quick):
    "Frames of Pong per second of one core: the game, true boxes, motion, writing. Every step of the game counts, those of the trail, too. The promise is 1,500 with labels."
    if importlib.util.find_spec('ale_py') is None:
        yield dict(entry('record', '', 0), fast='skipped', note='skipped: ale-py is missing (pip install "vislearn[atari]")'); return
    from vislearn.objects.clips import record_clips
    from vislearn.objects.frames import open_source
    n = 8 if quick else 200
    def rate(**how):
        source = Counted(open_source('atari:Pong'))
        with tempfile.TemporaryDirectory() as root:
            cpu, wall = time.process_time(), time.perf_counter(); clips = record_clips(source, n, root=root, **how)
            return source.steps/(time.process_time()-cpu), source.steps/(time.perf_counter()-wall), source.steps, clips
    rate()
    runs = [rate(seed=k+1) for k in range(1 if quick else 3)]; clips = runs[0][3]
    config = dict(game='Pong', clips=n, frames=clips.T, steps=runs[0][2], labels=bool(clips.labelled), things=int(clips.things.n), size=clips.size, motion=clips.info.get('motion'))
    yield entry('record Pong, per second of CPU time', 'frames/s', [r[0] for r in runs], None, config, better='higher', limit=1500.)
    yield entry('record Pong, wall time', 'frames/s', [r[1] for r in runs], None, config, better='higher')


@group
def gpu(quick):
    """The training step, the composition, the continuity loss and peak memory on a GPU. Slow side: the reference in float32, as the original ran. Fast side: float32 and bf16 autocast. The target is 4 for the step."""
    import torch
    if not torch.cuda.is_available():
        yield dict(entry('gpu', '', 0), fast='skipped', note='skipped: no CUDA device on this machine; run this group alone on one that has it'); return
    from space_reference import continuity_loop
    from vislearn.objects.paste import compose
    from vislearn.objects.time import continuity_loss
    where = dict(gpu=torch.cuda.get_device_name(), torch=torch.__version__, cuda=torch.version.cuda)
    few, many = (1, 2) if quick else (5, 10); torch.backends.cudnn.benchmark = True
    G, K = (4, 2) if quick else (16, 3)
    for B in (1,) if quick else (2, 12):
        T = 4; x, hints = pictures(B, T, 'cuda'), made_hints(B, T, G, device='cuda'); config = dict(clips=B, frames=T, G=G, K=K, size=128, **where)
        fast, slow = both(G, K, 'cuda')
        torch.cuda.reset_peak_memory_stats(); s = seconds(slow_step(slow, x, hints), few, 2); s_mb = torch.cuda.max_memory_allocated()/1e6; del slow; torch.cuda.empty_cache()
        for amp in (False, True):
            fast = both(G, K, 'cuda')[0]; torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats(); mode = 'bf16' if amp else 'float32'
            f = seconds(fast_step(fast, x, hints, amp), many)
            yield entry(f'gpu step, {B} clips, {mode}', 'ms', [1e3*t for t in f], [1e3*t for t in s], dict(config, amp=mode), limit=4. if amp else None)
            yield entry(f'gpu memory, {B} clips, {mode}', 'MB', torch.cuda.max_memory_allocated()/1e6, s_mb, dict(config, amp=mode))
    leaves = objects(1 if quick else 8, G*G, device='cuda'); config = dict(pictures=len(leaves[0]), cells=G*G, **where)
    slow, fast = (seconds(with_backward(fn, leaves), few) for fn in (slow_compose, lambda *v: compose(*v, 128)))
    yield entry('gpu composition', 'ms', [1e3*t for t in fast], [1e3*t for t in slow], config)
    what, boxes, p = clips_of_cells(2 if quick else 16, 4, G, 20 if quick else 1893, 'cuda'); what.requires_grad_()
    slow, fast = (seconds(lambda: torch.autograd.grad(fn(what, boxes, p, wrap=True), what), few, 1) for fn in (continuity_loop, continuity_loss))
    yield entry('gpu continuity', 'ms', [1e3*t for t in fast], [1e3*t for t in slow], where)
    loss_syncs = syncs(fast_step(both(G, K, 'cuda')[0], x, hints))
    yield entry('gpu reads back to the host in a step', 'warnings', loss_syncs, None, where, note='torch.cuda.set_sync_debug_mode; the optimizer and the clip of the gradient included')


def syncs(run):
    "How often a step waits for the GPU."
    import torch, warnings
    run(); torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode('warn')
    with warnings.catch_warnings(record=True) as caught: warnings.simplefilter('always'); run()
    torch.cuda.set_sync_debug_mode('default')
    return sum('synchroniz' in str(w.message) for w in caught)


if __name__ == '__main__': sys.exit(main(__file__, __doc__, lambda name: None if name == 'gpu' else 1))
