"""Speed and memory of stochastic video generation, both sides of every comparison measured in one run

    python benchmarks/bench_video.py --out benchmarks/video.json                   # everything, about ten minutes
    python benchmarks/bench_video.py --quick --only operators                      # smaller sizes, one group
    python benchmarks/bench_video.py --only gpu --out benchmarks/video_gpu.json    # on a machine with a GPU

The slow side is tests/svg_reference.py: the original's order, frame by frame, one Adam per network. The tests prove that both sides compute the same (tests/test_video_parity.py).
CPU groups use one thread of torch; every group runs in a process of its own; see harness.py.
"""
import os, sys, time, traceback
from functools import partial
from harness import alternate, entry, group, main, seconds

SIZES = dict(n_past=5, n_future=10, g_dim=128, z_dim=10, rnn_size=256, nf=64) # SM-MNIST, the defaults of the original's scripts
SMALL = SIZES | dict(n_future=3, nf=8)
VARIANTS = [('joint', True), ('joint', False), ('frame', True), ('frame', False)]


def sizes(quick): return SMALL if quick else SIZES


def frames_of(batch, quick=False, device='cpu', seed=0):
    "A batch of moving digits, floats in [0, 1]: (B, T, 1, 64, 64)."
    from vislearn.synth.smmnist import MovingDigits
    s = sizes(quick)
    return MovingDigits(n_frames=s['n_past']+s['n_future'], seed=seed).batch(range(batch)).float().div(255).to(device)


def slow_model(quick=False):
    import torch
    from svg_reference import Reference
    torch.manual_seed(0)
    return Reference(**sizes(quick))


def fast_model(quick=False, bn='joint', split=True, save_memory=False):
    import torch
    from vislearn.video.svg import SVG, SVGConfig
    torch.manual_seed(0)
    return SVG(SVGConfig(**sizes(quick), bn=bn, split=split, save_memory=save_memory))


def fast_step(model, x, amp=False):
    "A training step as `svg_learner` does it: one fused Adam. Returns a function."
    import torch
    from vislearn.video.losses import SVGLoss
    opt, loss = torch.optim.Adam(model.parameters(), lr=.002, fused=True), SVGLoss(1e-4, model.cfg.n_past)
    def step():
        opt.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp): pred = model(x)
        loss(pred, x).backward(); opt.step()
    return step


def slow_step(model, x, amp=False):
    import torch
    frames = list(x.transpose(0, 1).contiguous())
    def step():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=amp): return model.train_step(frames)
    return step


def turns(repeats, *fns):
    "Milliseconds of every call: CPU time of the process, and of the clock. The functions take turns after one warm-up each."
    for fn in fns: fn()
    cpu, wall = [[] for _ in fns], [[] for _ in fns]
    for _ in range(repeats):
        for k, fn in enumerate(fns):
            c, w = time.process_time(), time.perf_counter(); fn()
            cpu[k].append(1e3*(time.process_time()-c)); wall[k].append(1e3*(time.perf_counter()-w))
    return cpu, wall


@group
def step(quick):
    """One training step on a CPU thread, SM-MNIST configuration, batch 16, clips of 15: forward, backward and Adam.

    Slow side: encoder and decoder called once per frame, LSTM cells, concatenated skips, five Adams. Fast side: all time steps in one call, in four variants: batch norm over all frames
    (joint, the default) or per time index (frame, equal to the loop to 1e-12); decoder that convolves skips once (split, the default) or concatenated. The promise for the default is 1.5 in CPU time.
    """
    batch = 4 if quick else 16
    x = frames_of(batch, quick); models = [fast_model(quick, *v) for v in VARIANTS]; slow = slow_model(quick)
    cpu, wall = turns(2 if quick else 5, slow_step(slow, x), *[fast_step(m, x) for m in models])
    params = sum(p.numel() for p in models[0].parameters())
    for k, (bn, split) in enumerate(VARIANTS, 1):
        config = dict(sizes(quick), batch=batch, frames=x.shape[1], bn=bn, decoder='split' if split else 'concat', threads=1, parameters=params)
        yield entry(f"step, {bn}, {config['decoder']}, CPU time", 'ms', cpu[k], cpu[0], config, limit=1.5 if k == 1 else None)
        yield entry(f"step, {bn}, {config['decoder']}, wall time", 'ms', wall[k], wall[0], config)


def count_operators(fn):
    "Operators that reach the kernels while `fn` runs, views not counted."
    from collections import Counter
    from torch.utils._python_dispatch import TorchDispatchMode
    seen = Counter()
    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if not func.is_view: seen[func.overloadpacket.__name__] += 1
            return func(*args, **(kwargs or {}))
    with Count(): fn()
    return sum(seen.values()), seen


@group
def operators(quick):
    "Operators dispatched by forward and backward of one step (views and the optimizer not counted): what a GPU has to launch. It does not depend on widths, so narrow networks are counted. The promise: fewer than 500."
    import torch
    from svg_reference import Reference
    from vislearn.video.losses import SVGLoss
    from vislearn.video.svg import SVG, SVGConfig
    narrow = SIZES | dict(nf=2, g_dim=8, rnn_size=8, z_dim=2)
    x = torch.rand(2, 15, 1, 64, 64); ref = Reference(**narrow)
    def slow(): mse, kld = ref.losses(list(x.transpose(0, 1))); (mse + 1e-4*kld).backward()
    n_slow, _ = count_operators(slow)
    for bn, split in VARIANTS:
        model = SVG(SVGConfig(**narrow, bn=bn, split=split)); loss = SVGLoss(1e-4)
        n_fast, seen = count_operators(lambda: loss(model(x), x).backward())
        config = dict(bn=bn, decoder='split' if split else 'concat', frames=15, most=dict(seen.most_common(5)))
        yield entry(f"operators, {bn}, {config['decoder']}", 'operators', n_fast, None, config, limit=500 if (bn, split) == VARIANTS[0] else None)
        yield entry(f"operators, {bn}, {config['decoder']}, against the loop", 'operators', n_fast, n_slow, config)


def slow_generation(ref, x, n_eval, samples):
    "The original's plotting: one sample after the other, each from the start of the context."
    frames = list(x.transpose(0, 1).contiguous())
    return lambda: [ref.sample(frames, n_eval) for _ in range(samples)]


def fast_generation(model, x, n_future, samples):
    from vislearn.video.generate import generate
    return lambda: generate(model, x, n_future, n_samples=samples)


@group
def generation(quick):
    "Ten samples of ten future frames for four clips, five frames seen, eval mode, one thread: samples folded into the batch against one sample after the other. The promise is 2.5."
    s = sizes(quick); batch, samples, future = (2, 4, 3) if quick else (4, 10, 10)
    x = frames_of(batch, quick)[:, :s['n_past']]; ref, model = slow_model(quick).eval(), fast_model(quick).eval()
    for name, m in ref.modules.items():
        from svg_reference import sequence_names
        getattr(model, name).load_state_dict(sequence_names(m.state_dict()))
    cpu, wall = turns(2 if quick else 5, slow_generation(ref, x, s['n_past']+future, samples), fast_generation(model, x, future, samples))
    config = dict(s, batch=batch, samples=samples, future=future, threads=1)
    yield entry('generation, CPU time', 'ms', cpu[1], cpu[0], config, limit=2.5)
    yield entry('generation, wall time', 'ms', wall[1], wall[0], config)


def peak_mb(fn):
    "Memory that `fn` adds at its peak to a process that has just imported torch, measured in a fork."
    import resource
    r, w = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            import psutil
            before = psutil.Process().memory_info().rss
            fn(); os.write(w, str((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 - before)/1e6).encode())
            os._exit(0)
        except BaseException: traceback.print_exc()
        finally: os._exit(1)
    os.close(w); _, status = os.waitpid(pid, 0); text = os.read(r, 64); os.close(r)
    if status: raise RuntimeError('the measured process failed')
    return float(text)


@group
def memory(quick):
    "Peak of the memory that one training step takes beyond the imports: weights, gradients, Adam's moments and activations, float32. Batch 100, or the largest batch that fits into 60 % of the free memory."
    import psutil
    def fast(batch, save=False): x = frames_of(batch, quick); fast_step(fast_model(quick, save_memory=save), x)()
    def slow(batch): x = frames_of(batch, quick); slow_step(slow_model(quick), x)()
    two, six = peak_mb(partial(slow, 2)), peak_mb(partial(slow, 6)); per_clip = (six-two)/4
    free = .6*psutil.virtual_memory().available/1e6
    fits = [b for b in (100, 64, 48, 32, 16, 8) if two + b*per_clip < free] or [4]; batch = 8 if quick else fits[0]
    config = dict(sizes(quick), batch=batch, frames=sizes(quick)['n_past']+sizes(quick)['n_future'], wanted=100, free_gb=round(free/.6/1e3, 1))
    most = peak_mb(partial(slow, batch))
    yield entry(f'memory of a step, batch {batch}', 'MB', peak_mb(partial(fast, batch)), most, config, note='fast: joint, split')
    yield entry(f'memory of a step, batch {batch}, recomputed', 'MB', peak_mb(partial(fast, batch, True)), most, dict(config, save_memory=True), note='fast: activations computed again in the backward pass')


@group
def data(quick):
    "Batches of 100 films of 15 frames per second, two digits, one thread: vectorised, keyed by film, uint8, against a plain loop over digits and frames that makes floats."
    import numpy as np, torch
    from svg_reference import moving_digits
    from vislearn.synth.smmnist import MovingDigits
    batch, n_frames = (10, 8) if quick else (100, 15)
    movies = MovingDigits(n_frames=n_frames); digits = movies.images.numpy().astype(np.float32)/255; rng = np.random.RandomState(0)
    fast, slow = alternate(3 if quick else 9, lambda: movies.batch(range(batch)), lambda: torch.from_numpy(np.stack([moving_digits(digits, n_frames, 2, rng) for _ in range(batch)])))
    yield entry('moving digits', 'batches/s', [1/t for t in fast], [1/t for t in slow], dict(batch=batch, frames=n_frames, digits=movies.name, threads=1), better='higher')


@group
def gpu(quick):
    """The same comparisons on a GPU: a training step at batch 100 and 16 (targets 5 and 10), 100 samples at once (target 20), clips per second beside the 80 of the seed's log, and peak memory.

    Slow side: the loop in float32, as the original ran; one row gives it bf16, too. Fast side: the default model, in float32 and in bf16 autocast; films are already on the device on both sides.
    """
    import torch
    if not torch.cuda.is_available():
        yield dict(entry('gpu', '', 0), fast='skipped', note='skipped: no CUDA device on this machine; run this group alone on one that has it'); return
    where = dict(gpu=torch.cuda.get_device_name(), torch=torch.__version__, cuda=torch.version.cuda)
    torch.backends.cudnn.benchmark = True
    few, many = (3, 5) if quick else (5, 20)
    for batch, limit in ((100, 5.), (16, 10.)):
        x = frames_of(batch, quick, 'cuda'); config = dict(sizes(quick), batch=batch, frames=x.shape[1], **where)
        slow, slow16 = [seconds(slow_step(slow_model(quick).to('cuda'), x, amp), few) for amp in (False, True)]
        for amp in (False, True):
            fast = seconds(fast_step(fast_model(quick).cuda(), x, amp), many); mode = 'bf16' if amp else 'float32'
            yield entry(f'gpu step, batch {batch}, {mode}', 'ms', [1e3*t for t in fast], [1e3*t for t in slow], dict(config, amp=mode), limit=limit if amp else None)
            yield entry(f'gpu clips per second, batch {batch}, {mode}', 'clips/s', [batch/t for t in fast], 80, dict(config, amp=mode), better='higher', note='slow: 80 clips/s in the log of the seed, on its GPU of 2021')
        yield entry(f'gpu step, batch {batch}, both bf16', 'ms', [1e3*t for t in fast], [1e3*t for t in slow16], dict(config, amp='bf16'))
        torch.cuda.empty_cache()
    for amp in (False, True):
        torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats(); fast_step(fast_model(quick).cuda(), x := frames_of(100, quick, 'cuda'), amp)(); fast = torch.cuda.max_memory_allocated()/1e6
        torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats(); slow_step(slow_model(quick).to('cuda'), x)(); slow = torch.cuda.max_memory_allocated()/1e6
        yield entry(f"gpu memory, batch 100, {'bf16' if amp else 'float32'}", 'MB', fast, slow, where)
    s = sizes(quick); batch, samples, future = (2, 10, 3) if quick else (16, 100, 10)
    x = frames_of(batch, quick, 'cuda')[:, :s['n_past']]
    slow, fast = seconds(slow_generation(slow_model(quick).to('cuda').eval(), x, s['n_past']+future, samples), 2, 1), seconds(fast_generation(fast_model(quick).cuda().eval(), x, future, samples), few)
    yield entry(f'gpu generation, {samples} samples', 'ms', [1e3*t for t in fast], [1e3*t for t in slow], dict(s, batch=batch, samples=samples, future=future, **where), limit=20.)


if __name__ == '__main__': sys.exit(main(__file__, __doc__, lambda name: None if name == 'gpu' else 1))
