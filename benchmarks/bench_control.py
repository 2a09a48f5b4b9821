"""Speed and memory of the control wing: embedding, cloning, rollouts, rendering, experts, store; both sides of every comparison measured in one run

    taskset -c 0,1 python benchmarks/bench_control.py --out benchmarks/control.json      # everything, about ten minutes on a quiet machine
    python benchmarks/bench_control.py --quick --only cloning memory                     # smaller sizes, two groups

The slow side of embedding and cloning is tests/pvr_reference.py: the original's order of work, with the weights and the batches of the fast side; tests/test_control_benchmarks.py proves that both give the
same numbers. Groups use one thread of torch, and every group runs in a process of its own; see harness.py. Sides take turns, and most numbers count the processor's time only, of this process and of those
that it started, because a busy machine takes time away from both. The promises are targets of the project, met or not: "met" says which.
"""
import os, subprocess, sys, tempfile, time, warnings
from pathlib import Path
from statistics import median
os.environ.setdefault('OMP_NUM_THREADS', '1'); os.environ.setdefault('LP_NUM_THREADS', '0')
from harness import TOP, entry, group, main


def turns(repeats, *fns, warm=1):
    "Seconds of every call: CPU time of the process, and of the clock. The functions take turns after a warm-up."
    for fn in fns*warm: fn()
    cpu, wall = [[] for _ in fns], [[] for _ in fns]
    for _ in range(repeats):
        for k, fn in enumerate(fns):
            c, w = time.process_time(), time.perf_counter(); fn()
            cpu[k].append(time.process_time()-c); wall[k].append(time.perf_counter()-w)
    return cpu, wall


def rates(n, seconds): return [n/s for s in seconds]


def quiet_encoder(name, size, **options):
    "A frozen encoder; without a file its weights are random, which costs the same time."
    from vislearn.control.encoders import make_encoder
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); return make_encoder(name, (size, size), allow_random=True, **options)


def pictures(episodes, T, size, goal=False, root=None, seed=0):
    "Demonstrations with frames that all differ, smooth as pictures are; in a store if `root` is given."
    import numpy as np
    from vislearn.control.trajs import Traj, Trajs, write_trajs
    def make(e):
        rng = np.random.default_rng((seed, e)); x = np.linspace(0, 6.28, size, dtype=np.float32); draw = lambda n: rng.uniform(.3, 2, (n, 1, 1, 3)).astype(np.float32)
        paint = lambda n: (127.5 + 60*np.sin(draw(n)*x[None, :, None, None] + 6*draw(n)) + 60*np.sin(draw(n)*x[None, None, :, None] + 6*draw(n)) + rng.integers(0, 8, (n, size, size, 3))).astype(np.uint8)
        return Traj(rng.integers(0, 3, T), paint(T), paint(1)[0] if goal else None)
    made = lambda: (make(e) for e in range(episodes))
    return Trajs.of(made(), action_space=('discrete', 3)) if root is None else write_trajs('bench', dict(episodes=episodes, T=T, size=size, goal=goal, seed=seed), made, root=root, action_space=('discrete', 3))


def library_pass(trajs, encoder):
    "A function that embeds a set into a new store, and gives what was stored."
    from vislearn.control.embed import embed_trajs
    def run():
        with tempfile.TemporaryDirectory() as root: out = embed_trajs(trajs, encoder, root=root); return out.emb[:], None if out.goal_embs is None else out.goal_embs[:]
    return run


def backbone_alone(trajs, encoder, batch=16):
    "A function that passes the same pictures, resized and normalised in advance and in the same batches, through the network and nothing else."
    import numpy as np, torch
    from vislearn.control.inputs import split_frames
    with torch.inference_mode(): ready = [encoder.inputs(split_frames(torch.from_numpy(np.array(trajs.frames[i:i+batch])))[0]) for i in range(0, len(trajs.frames), batch)]
    def run():
        with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16, enabled=encoder.dtype=='bfloat16'): return torch.cat([encoder.net(x) for x in ready])
    return run


def originals_pass(trajs, encoder):
    "A function that embeds as the original did: whole trajectories, the goal at every step, gradients kept."
    from copy import deepcopy
    import numpy as np, torch
    from pvr_reference import embed_trajectory
    net = deepcopy(encoder.net).float().to(memory_format=torch.contiguous_format).requires_grad_(True)
    def run():
        out = []
        for t in trajs: out.append(embed_trajectory(net, encoder.inputs, t.frames if t.goal is None else np.concatenate([t.frames, np.broadcast_to(t.goal, t.frames.shape)], -1)))
        return np.concatenate(out)
    return run


ENCODERS = (('squeezenet', 16), ('resnet18', 16), ('resnet50', 16)) # and pictures of one turn


@group
def embedding(quick):
    """Frames per second of CPU time of `embed_trajs`, from one store into another: reading, hashing, resizing, network, writing; one thread. Against the network alone on the same batches, already resized: the
    promise is 0.95. Against the original's loop on trajectories with a goal picture (a whole trajectory in one batch, the goal at every step, gradients kept): the promise is 2. Pictures of 128 pixels."""
    for name, n in (('random4', 16),) if quick else ENCODERS:
        encoder, repeats = quiet_encoder(name, 128), 2 if quick else 9 if name=='resnet50' else 21
        with tempfile.TemporaryDirectory() as root:
            trajs = pictures(2, n//2, 128, root=root); side = encoder.inputs.out_size(128, 128)[0]; config = dict(encoder=name, pictures=n, size=128, network_input=side, threads=1, weights=encoder.card['source'])
            cpu, wall = turns(repeats, backbone_alone(trajs, encoder), library_pass(trajs, encoder))
            yield entry(f'embedding pass, {name}, against the network alone', 'frames/s', rates(n, cpu[1]), rates(n, cpu[0]), config, better='higher', limit=.95, note='slow side: the network alone; a ratio of 1 means that nothing else costs anything')
            yield entry(f'embedding pass, {name}, wall time', 'frames/s', rates(n, wall[1]), rates(n, wall[0]), config, better='higher')
            T = 4 if quick else 8 if name=='resnet50' else 16
            goals = pictures(2, T, 128, goal=True, root=root); config = dict(config, steps=2*T, pictures=dict(original=4*T, library=2*T+2))
            cpu, _ = turns(2 if quick else 3, originals_pass(goals, encoder), library_pass(goals, encoder))
            yield entry(f'embedding pass, {name}, with goals, against the original', 'steps/s', rates(2*T, cpu[1]), rates(2*T, cpu[0]), config, better='higher', limit=None if quick else 2.)
            one = pictures(1, T, 128, root=root, seed=1); cpu, _ = turns(2, originals_pass(one, encoder), library_pass(one, encoder))
            yield entry(f'embedding pass, {name}, without goals, against the original', 'steps/s', rates(T, cpu[1]), rates(T, cpu[0]), dict(config, steps=T, pictures=T), better='higher')
    if quick: return
    half = quiet_encoder('resnet50', 128, dtype='bfloat16'); full = quiet_encoder('resnet50', 128)
    with tempfile.TemporaryDirectory() as root:
        trajs = pictures(2, 16, 128, root=root); cpu, _ = turns(3, library_pass(trajs, full), library_pass(trajs, half))
        yield entry('embedding pass, resnet50, bfloat16 against float32', 'frames/s', rates(32, cpu[1]), rates(32, cpu[0]), dict(encoder='resnet50', pictures=32, size=128), better='higher')


def peak_of_pass(n, size, encoder):
    "Megabytes that embedding n stored pictures adds at its peak, resident in all; in a process of its own."
    root = tempfile.mkdtemp()
    code = f'''
import resource, shutil, psutil, torch, bench_control as b
torch.set_num_threads(1); e = b.quiet_encoder({encoder!r}, {size}); b.library_pass(b.pictures(1, 8, {size}), e)()
from vislearn.control.trajs import open_trajs
t, before = open_trajs('PATH'), psutil.Process().memory_info().rss
from vislearn.control.embed import embed_trajs
assert len(embed_trajs(t, e, root={root!r}).emb)=={n}
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 - before)/1e6)'''
    try:
        path = pictures(n//500, 500, size, root=root).path
        code = code.replace('PATH', str(path)); return float(subprocess.run([sys.executable, '-c', code], cwd=TOP/'benchmarks', env=dict(os.environ, PYTHONPATH=f'{TOP}{os.pathsep}{TOP/"tests"}'), capture_output=True, text=True, check=True).stdout.split()[-1])
    finally: import shutil; shutil.rmtree(root, ignore_errors=True)


@group
def memory(quick):
    "Peak memory that `embed_trajs` adds for N pictures of 64 pixels and for four times as many (resident set of a process of its own, pages of mapped files included): the promise is that it does not grow, up to a tenth."
    n = 1500 if quick else 5000
    few, many = (peak_of_pass(k, 64, 'random4') for k in (n, 4*n))
    yield entry('memory of the embedding pass', 'MB', many, None, dict(pictures=4*n, size=64, encoder='random4', data_mb=round(4*n*64*64*3/1e6)))
    yield entry('memory of the embedding pass, four times as many', 'times', many/few, None, dict(pictures=[n, 4*n], mb=[round(few, 1), round(many, 1)], data_mb=[round(n*64*64*3/1e6), round(4*n*64*64*3/1e6)]), limit=1.1)


def features(windows, dim, discrete=True, A=6, T=100, seed=0):
    "Demonstrations of T steps each, with features."
    import numpy as np
    from vislearn.control.trajs import Traj, Trajs
    def make(e):
        rng = np.random.default_rng((seed, e)); return Traj(rng.integers(0, 3, T) if discrete else rng.uniform(-1, 1, (T, A)).astype(np.float32), emb=rng.normal(size=(T, dim)).astype(np.float32))
    return Trajs.of([make(e) for e in range(windows)], action_space=('discrete', 3) if discrete else ('continuous', [-1]*A, [1]*A))


POLICIES = { # name: recipe, width of the features, discrete?
    'lstm': ('bc_pvr_lstm', 1024, True), 'lstm, continuous': ('bc_pvr_lstm', 2048, False),
    'mlp': ('bc_pvr_mlp', 512, False), 'mlp, discrete': ('bc_pvr_mlp', 512, True), 'mlp, true state': ('bc_pvr_mlp', 39, False)}


def cloning_config(name, quick=False):
    "The recipe of a paper; states are features here, so that both sides read the same arrays."
    from vislearn.control import recipes
    recipe, dim, discrete = POLICIES[name]; cfg = getattr(recipes, recipe)(encoder=None)
    batches = dict(cfg.data.train.params, obs='pixels', valid_share=0., stack=3 if recipe=='bc_pvr_mlp' and 'state' not in name else 1); model = dict(cfg.model.params, batch_norm='state' not in name)
    if quick: dim, model = 16, dict(model, widths=[32, 32])
    if quick and recipe=='bc_pvr_mlp': cfg = cfg.replace(train=cfg.train.replace(batch_size=160))
    cfg = cfg.replace(data=cfg.data.replace(train=cfg.data.train.replace(params=batches)), model=cfg.model.replace(params=model))
    return cfg, dim, discrete


class BothSides:
    "One policy, trained by the library and by the original's loop, on the same batches in the same order."
    def __init__(self, name, steps=3, quick=False, T=None, amp='no'):
        import torch
        from vislearn.callbacks import CB
        from vislearn.control.bc import bc_learner
        self.cfg, dim, discrete = cloning_config(name, quick); self.cfg = self.cfg.replace(train=self.cfg.train.replace(amp=amp)); self.T = T or (10 if quick else 100)
        if quick: self.cfg = self.cfg.replace(data=self.cfg.data.replace(train=self.cfg.data.train.replace(params=dict(self.cfg.data.train.params, window=self.T))))
        self.mlp = self.cfg.data.train.params['mode']=='step'; self.windows = (self.cfg.train.batch_size//self.T if self.mlp else self.cfg.train.batch_size); self.steps = steps
        self.trajs = features(self.windows*steps, dim, discrete, T=self.T); torch.manual_seed(0); self.learn = bc_learner(self.cfg, self.trajs, device='cpu')
        from copy import deepcopy
        self.net = deepcopy(self.learn.model.policy).train(); self.opt = torch.optim.RMSprop([p for p in self.net.parameters() if p.requires_grad], lr=1e-4, alpha=.99, eps=1e-5, momentum=0.)
        self.dl, self.losses = self.learn.dls.train, []; keep = self.losses
        class NoteLossCB(CB):
            def after_batch(self): keep.append(float(self.loss.detach()))
        self.learn.add_cb(NoteLossCB())

    def arrays(self):
        "What the original kept: observations stacked in advance, actions, and where an episode begins."
        import numpy as np
        from pvr_reference import stacked
        k, mode = self.cfg.data.train.params['stack'], self.cfg.data.train.params['stack_mode']; first = np.zeros(len(self.trajs.action), bool); first[::self.T] = True
        return [stacked(self.trajs.emb, self.trajs.starts, k, mode) if k>1 else np.asarray(self.trajs.emb), np.asarray(self.trajs.action), first]

    def fast(self, epochs=1):
        "Train through all batches with the library's learner; give the losses."
        self.learn.fit(epochs); return self.losses[-self.steps:]

    def starts(self, step):
        "First rows of the windows of a batch."
        return [int(self.T*i) for i in range(step*self.windows, (step + 1)*self.windows)] if self.mlp else [int(self.dl.table[i, 2]) for i in self.dl.indices(0, step)]

    def ready(self, arrays):
        "The batches of the original, made in advance."
        from pvr_reference import assemble
        return [assemble(arrays, self.starts(step), self.T) for step in range(self.steps)]

    def network(self, batches):
        "Train on batches that are there: forward, loss, backward, gradients cut, optimizer."
        from pvr_reference import clone_step
        for batch in batches: clone_step(self.net, self.opt, *batch, fused=True)

    def slow(self, arrays, fused=False):
        "The same as the original did it; give the losses. `fused`: the network runs as the library runs it, only the batches are the original's."
        from pvr_reference import assemble, clone_step
        out = []
        for step in range(self.steps): out.append(clone_step(self.net, self.opt, *assemble(arrays, self.starts(step), self.T), fused=fused))
        return out


@group
def cloning(quick):
    """Training steps per second of CPU time, recipes of the paper (16 windows of 100 steps; without memory 1,600 steps of three stacked frames), one thread: the library's learner with all its callbacks against
    the original's step: every row of a batch looked up by its number, and the memory run in a loop over steps. Same network, batches of the same size, RMSprop, gradients cut at 40. The promise is 3. The rows "same network calls"
    have the original's batches and the library's calls of the network; the rows "assembly" make batches and nothing else. `network_share` is the part of the library's step that plain torch needs for the network alone (forward, backward,
    optimizer) on batches that are there, `at_most` the ratio if all the rest cost nothing. The rows "bfloat16" train with `train.amp=bf16`, an option that is off by default."""
    for name in ('lstm, continuous', 'mlp') if quick else POLICIES:
        n = 1 if name=='lstm' else 2; both = BothSides(name, n, quick); arrays = both.arrays(); repeats, warm = (2, 0) if name=='lstm' else (2 if quick else 4, 1)
        config = dict(recipe=POLICIES[name][0], rows=both.windows*both.T, windows=both.windows, features=int(both.trajs.emb.shape[1]), stack=both.cfg.data.train.params['stack'], parameters=sum(p.numel() for p in both.net.parameters()), threads=1)
        batches = both.ready(arrays); cpu, wall = turns(repeats, lambda: both.slow(arrays), both.fast, lambda: both.slow(arrays, fused=True), lambda: both.network(batches), warm=warm)
        slow, fast, alone = (median(cpu[k]) for k in (0, 1, 3)); config.update(network_share=round(alone/fast, 2), at_most=round(slow/alone, 2)); batches = None # room for the next
        yield entry(f'cloning step, {name}', 'steps/s', rates(n, cpu[1]), rates(n, cpu[0]), config, better='higher', limit=3.)
        yield entry(f'cloning step, {name}, wall time', 'steps/s', rates(n, wall[1]), rates(n, wall[0]), config, better='higher')
        yield entry(f'cloning step, {name}, same network calls', 'steps/s', rates(n, cpu[1]), rates(n, cpu[2]), config, better='higher')
        if name.startswith('mlp') and (not quick or name=='mlp'):
            half = BothSides(name, n, quick, amp='bf16'); cpu, _ = turns(repeats, lambda: both.slow(arrays), half.fast); yield entry(f'cloning step, {name}, bfloat16', 'steps/s', rates(n, cpu[1]), rates(n, cpu[0]), dict(config, amp='bf16'), better='higher', note='the original in float32')
        from pvr_reference import assemble
        cpu, _ = turns(2 if quick else 5, lambda: [assemble(arrays, both.starts(k), both.T) for k in range(n)], lambda: [both.dl.batch(0, k) for k in range(n)])
        yield entry(f'assembly, {name}', 'batches/s', rates(n, cpu[1]), rates(n, cpu[0]), config, better='higher', limit=3.)


def cpu_of(pids):
    "CPU seconds of this process and of some others."
    import psutil
    return time.process_time() + sum(sum(psutil.Process(p).cpu_times()[:2]) for p in pids)


def step_alone(env, actions, seed=0):
    "Step an environment with given actions, an episode after another, each reset by its own seed; gives CPU and clock seconds."
    cpu, wall, episode = time.process_time(), time.perf_counter(), seed; env.reset(seed=episode)
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated: episode += 1; env.reset(seed=episode)
    return time.process_time()-cpu, time.perf_counter()-wall


def random_actions(env, n, seed=0): env.action_space.seed(seed); return [env.action_space.sample() for _ in range(n)]


def stand_by(name, options, pipe):
    "A process that makes an environment, and steps it as often as it is told."
    from vislearn.control.envs import make_env
    env = make_env(name, **options); pipe.send('ready')
    while (job := pipe.recv()) is not None: pipe.send(step_alone(env, random_actions(env, job[0], job[1]), job[1]))
    env.close()


class Alone:
    "So many processes that step an environment and do nothing else; with `workers=0` this process."
    def __init__(self, name, options, workers):
        import multiprocessing
        from bench_control import stand_by # by this name the other process finds it
        from vislearn.control.envs import make_env
        from vislearn.procs import spawning
        ctx, self.pipes, self.procs, self.env = multiprocessing.get_context('spawn'), [], [], None if workers else make_env(name, **options)
        for _ in range(workers):
            mine, theirs = ctx.Pipe(); p = ctx.Process(target=stand_by, args=(name, options, theirs), daemon=True)
            with spawning(): p.start()
            self.pipes.append(mine); self.procs.append(p)
        for c in self.pipes: c.recv()

    def __call__(self, steps, seed=0):
        "Steps per second by CPU and by the clock."
        if self.env is not None: got = [step_alone(self.env, random_actions(self.env, steps, seed), seed)]
        else:
            for k, c in enumerate(self.pipes): c.send((steps//len(self.pipes), seed + 1000*k))
            got = [c.recv() for c in self.pipes]
        return steps//len(got)*len(got)/sum(g[0] for g in got), steps//len(got)*len(got)/max(g[1] for g in got)

    def __enter__(self): return self
    def __exit__(self, *error):
        for c in self.pipes: c.send(None)
        for p in self.procs: p.join(20)
        if self.env is not None: self.env.close()


def policy_alone(actor, obs, n, calls=20):
    "CPU seconds per environment and step of the policy, on observations as the pool gives them."
    import numpy as np
    actor.start(n); actor.begin(np.arange(n), np.arange(n)); actor.act(obs)
    cpu = time.process_time()
    for _ in range(calls): actor.act(obs)
    return (time.process_time()-cpu)/calls/n


def actor_for(pool, encoder=None, core='mlp'):
    "An untrained policy: what it chooses does not matter for its cost."
    import torch
    from vislearn.control.policies import Policy, PolicySpec
    from vislearn.control.rollout import PolicyActor
    from vislearn.control.trajs import read_space
    torch.manual_seed(0); space, spaces = read_space(pool.action_space), pool.obs_space.spaces; dim = encoder.dim*(2 if 'goal' in spaces else 1) if encoder else spaces['state'].shape[0]
    act = dict(n=space[1]) if space[0]=='discrete' else dict(low=list(space[1]), high=list(space[2]))
    return PolicyActor(Policy(PolicySpec(dim=dim, core=core, widths=[256, 256], **act)), encoder, 'pixels' if encoder else 'state')


ROLLOUTS = ( # environment, encoder (None: true state, nothing is drawn), steps of an episode, episodes per copy, promised?, where (None: as by default; else in workers, or in this process)
    ('MetaWorld-drawer-open', 'random4', 50, 1, True, None), ('DMC-walker-walk', 'random4', 50, 1, True, None), ('ImageNav-one_room', 'random4', 100, 1, True, 'workers'), ('MiniGrid-DoorKey-8x8-v0', 'random4', 100, 1, True, None),
    ('Reach-discrete', 'random4', 32, 4, True, None), ('ImageNav-one_room', 'random4', 100, 1, True, 'one process'), ('MetaWorld-drawer-open', 'squeezenet', 25, 1, False, None), ('MetaWorld-drawer-open', None, 100, 1, False, None),
    ('MetaWorld-drawer-open', None, 100, 1, False, 'one process'), ('MiniGrid-DoorKey-8x8-v0', None, 100, 1, False, None))
FELT = (('MetaWorld-drawer-open', 'random4', 25), ('DMC-walker-walk', 'random4', 50), ('ImageNav-one_room', 'random4', 100), ('MiniGrid-DoorKey-8x8-v0', 'random4', 100), ('Reach-discrete', 'random4', 32), ('MetaWorld-drawer-open', None, 100)) # environment, encoder, steps of an episode


def felt(name, sees, T, episodes, repeats):
    "Steps per second by the clock, as a user feels them: `evaluate` with its defaults, and one environment in a plain loop."
    from vislearn.control.rollout import EnvPool, evaluate
    options, got, plain = dict(max_steps=T, pixels=sees is not None), [], []
    with EnvPool(name, options=options) as pool, Alone(name, options, 0) as alone:
        pool.n = min(pool.n, episodes); begin = time.perf_counter(); pool.open(); begin = time.perf_counter()-begin
        actor = actor_for(pool, quiet_encoder(sees, pool.card.size[0]) if sees else None); evaluate(actor, pool, min(pool.n, episodes), 10**6); alone(T)
        for k in range(repeats):
            wall = time.perf_counter(); out = evaluate(actor, pool, episodes, 1000*k); got.append(sum(e.length for e in out.episodes)/(time.perf_counter()-wall)); plain.append(alone(4*T, 1000*k)[1])
        config = dict(environment=name, sees=sees or 'true state', size=pool.card.size, episodes=episodes, episode=T, copies=pool.n, processes=len(pool.pids), usable_cores=len(os.sched_getaffinity(0)), start_s=round(begin, 1))
    return entry(f'evaluate with its defaults against one environment alone, {name}, {sees or "true state"}, wall time', 'steps/s', got, plain, config, better='higher', note='one environment in a plain loop with random actions, no policy, one process; starting workers is not counted, see start_s')


@group
def rollouts(quick):
    """Environment steps per second of `evaluate` with a policy (two layers of 256 units; a small random network of four convolutions or SqueezeNet sees for it) against the same number of processes that step the environment alone with
    random actions, resets included on both sides. CPU time is that of all processes together. The promise is 0.7. Workers hold four copies each, as by default; cheap environments run in this process on both sides, sixteen side by side on the
    fast one. The rows "with the policy's own time" add what the policy alone takes on the same observations to the slow side: what is missing to 1 is what playing itself costs. The rows "evaluate with its defaults" are what a user feels: all
    cores, fifty episodes, against one environment in a plain loop."""
    from vislearn.control.rollout import EnvPool, evaluate
    for name, sees, T, each, promised, place in (('Reach-discrete', 'random4', 8, 1, True, None),) if quick else ROLLOUTS:
        options = dict(max_steps=T, pixels=sees is not None); workers = 2 if (place=='workers' if place else EnvPool(name, options=options).workers) else 0; start = time.time()
        with EnvPool(name, 4 if quick else None, workers, options) as pool, Alone(name, options, workers) as alone:
            n, half = pool.n, pool.n//2 if workers else pool.n; encoder = quiet_encoder(sees, pool.card.size[0]) if sees else None; actor = actor_for(pool, encoder); evaluate(actor, pool, n, 10**6); alone(T)
            got, share, steps = dict(cpu=[[], []], wall=[[], []]), [], T*n*each
            for k in range(1 if quick else 5 if promised else 3):
                pids, cpu, wall = pool.pids, cpu_of(pool.pids), time.perf_counter(); out = evaluate(actor, pool, n*each, seed=1000*k); played = sum(e.length for e in out.episodes)
                got['cpu'][0].append(played/(cpu_of(pids)-cpu)); got['wall'][0].append(played/(time.perf_counter()-wall))
                for kind, rate in zip(('cpu', 'wall'), alone(steps, 1000*k)): got[kind][1].append(rate)
                share.append(policy_alone(actor, {key: v[:half] for key, v in pool.reset(list(range(n))).items()}, half)) # in portions as they are played
        config = dict(environment=name, size=pool.card.size, sees=sees or 'true state', processes=workers or 1, copies=n, episode=T, steps=steps, policy_us=round(1e6*median(share), 1), seconds=round(time.time()-start, 1)); label = f'rollout, {name}, {sees or "true state"}' + ', in one process'*(place=='one process')
        yield entry(f'{label}, CPU time', 'steps/s', got['cpu'][0], got['cpu'][1], config, better='higher', limit=.7 if promised else None)
        yield entry(f"{label}, CPU time, with the policy's own time", 'steps/s', got['cpu'][0], [1/(1/r + s) for r, s in zip(got['cpu'][1], share)], config, better='higher')
        yield entry(f'{label}, wall time', 'steps/s', got['wall'][0], got['wall'][1], config, better='higher', note='on a machine that others use, too')
    for name, sees, T in (('Reach-discrete', 'random4', 8),) if quick else FELT: yield felt(name, sees, T, 4 if quick else 50, 1 if quick else 3)


SCENES = ('DMC-cheetah-run', 'DMC-walker-walk', 'DMC-reacher-easy', 'Adroit-door', 'Adroit-pen', 'MetaWorld-drawer-open', 'MetaWorld-hammer')


@group
def rendering(quick):
    "Pictures per second of CPU time, 128 pixels, drawing only: without shadows, reflections and multisampling (fast, and soft with small shadows) against the simulator's own settings (exact)."
    import numpy as np
    from vislearn.control.envs import make_env
    from vislearn.control.render import FastRenderer, gl_info
    for name in SCENES[:1] if quick else SCENES:
        env = make_env(name, pixels=False); env.reset(seed=0); env.step(np.zeros(env.action_space.shape, np.float32)); task = env.unwrapped.task
        fast, soft, exact = (FastRenderer(task.model, 128, task.camera, p) for p in ('fast', 'soft', 'exact')); n, m = (4, 2) if quick else (40, 8)
        cpu, _ = turns(2 if quick else 4, lambda: [exact(task.data) for _ in range(m)], lambda: [fast(task.data) for _ in range(n)], lambda: [soft(task.data) for _ in range(m)])
        config = dict(environment=name, size=128, camera=task.camera, renderer=gl_info()['renderer'])
        yield entry(f'rendering, {name}', 'frames/s', rates(n, cpu[1]), rates(m, cpu[0]), config, better='higher')
        yield entry(f'rendering, {name}, soft', 'frames/s', rates(m, cpu[2]), rates(m, cpu[0]), config, better='higher')
        for r in (fast, soft, exact): r.close()
        env.close()


EXPERTS = ( # environment, expert, episodes, steps of each at most
    ('MiniGrid-DoorKey-8x8-v0', 'bfs', 40, None), ('MiniGrid-DoorKey-16x16-v0', 'bfs', 20, None), ('MiniGrid-FourRooms-v0', 'bfs', 20, None), ('BabyAI-GoToRedBall-v0', 'bot', 40, None), ('BabyAI-PutNextLocal-v0', 'bot', 20, None),
    ('ImageNav-one_room', 'planner', 20, None), ('ImageNav-four_rooms', 'planner', 10, None), ('MetaWorld-drawer-open', 'scripted', 5, None), ('Atari-PongDeterministic-v4', 'ram', 1, 500),
    ('DMC-reacher-easy', 'mpc', 1, 60), ('DMC-walker-walk', 'mpc', 1, 25), ('Adroit-door', 'mpc', 1, 6))


@group
def experts(quick):
    "Steps per second of CPU time of the experts and their environments together, nothing drawn, one process; and how many episodes were solved. Planning by sampling is cut off after some steps."
    from vislearn.control.envs import make_env
    from vislearn.control.experts import make_expert, record_episode
    for name, kind, episodes, most in EXPERTS[:1] if quick else EXPERTS:
        if quick: episodes = 3
        env, expert = make_env(name, pixels=False), make_expert(name, kind); record_episode(env, expert, 99, 2); out, per_second, took = [], [], []
        for seed in range(episodes): cpu = time.process_time(); out.append(record_episode(env, expert, seed, most)); took.append(time.process_time()-cpu); per_second.append(len(out[-1].action)/took[-1])
        env.close(); solved = [e.success for e in out if e.success is not None]; steps = sum(len(e.action) for e in out)
        config = dict(environment=name, expert=kind, episodes=episodes, steps=steps, cut=most, solved=None if most or not solved else sum(solved)/len(solved), options={} if kind!='mpc' else dict(samples=expert.config.samples, horizon=expert.config.horizon))
        yield entry(f'expert, {name}, {kind}', 'steps/s', per_second, None, config, better='higher', note=f'{steps/sum(took):.4g} steps/s over all')
        if not most: yield entry(f'expert, {name}, {kind}, episodes', 'episodes/s', len(out)/sum(took), None, config, better='higher')


COLLECTED = (('Reach-discrete', 100, {}), ('MiniGrid-DoorKey-8x8-v0', 40, {}), ('BabyAI-GoToRedBall-v0', 60, {}), ('ImageNav-one_room', 20, {}), ('MetaWorld-drawer-open', 4, {}), ('MetaWorld-drawer-open', 32, dict(pixels=False)))


@group
def collecting(quick):
    "Steps per second of CPU time of `collect` with one process: acting, drawing, checking, writing. Slow side: the same episodes played by the expert and dropped."
    from vislearn.control.collect import collect
    from vislearn.control.envs import make_env
    from vislearn.control.experts import make_expert, record_episode
    for name, n, options in COLLECTED[:1] if quick else COLLECTED:
        if quick: n = 10
        rate, bare, steps = [], [], 0
        for k in range(1 if quick else 3):
            with tempfile.TemporaryDirectory() as root: cpu = time.process_time(); trajs = collect(name, n, seed=1000*k, options=options, workers=1, root=root); rate.append(trajs.steps/(time.process_time()-cpu))
            cpu, steps = time.process_time(), 0; env, expert = make_env(name, **options), make_expert(name)
            for seed in trajs.seeds: steps += len(record_episode(env, expert, int(seed)).action)
            env.close(); bare.append(steps/(time.process_time()-cpu))
        yield entry(f'collect, {name}, {"pixels" if trajs.frames is not None else "true state"}', 'steps/s', rate, bare, dict(environment=name, episodes=n, steps=trajs.steps, size=trajs.card.size, tried=trajs.info.get('tried'), failed=trajs.info.get('failed')), better='higher')


@group
def store(quick):
    "40,000 stored embeddings of 2,048 numbers in float16: CPU time to open the store and to read 100 random batches of 256 rows and 200 windows of 100 rows, against the original's pickle of the same numbers, which is read and joined as a whole; then batches are read from memory."
    import pickle
    import numpy as np
    from vislearn.control.trajs import Traj, open_trajs, write_trajs
    rows, dim, T = (2000, 64, 100) if quick else (40_000, 2048, 100)
    rng = np.random.default_rng(0); draw = lambda: rng.normal(size=(T, dim)).astype(np.float16)
    with tempfile.TemporaryDirectory() as root:
        trajs = write_trajs('bench', {}, lambda: (Traj(rng.integers(0, 3, T), emb=draw()) for _ in range(rows//T)), root=root, action_space=('discrete', 3)); path, file = trajs.path, Path(root)/'old.pickle'
        file.write_bytes(pickle.dumps(dict(obs=[np.asarray(t.emb) for t in trajs], action=[np.asarray(t.action) for t in trajs])))
        batches, windows = [rng.integers(0, rows, 256) for _ in range(10 if quick else 100)], rng.integers(0, rows//T, 200)*T
        def old(): data = pickle.loads(file.read_bytes()); return np.concatenate(data['obs']), np.concatenate(data['action'])
        held = old()[0]; repeats = 2 if quick else 5; config = dict(rows=rows, numbers=dim, dtype='float16', mb=round(held.nbytes/1e6))
        ms = lambda fns: [[1e3*s for s in side] for side in turns(repeats, *fns)[0]]
        slow, fast = ms([old, lambda: open_trajs(path)]); yield entry('open', 'ms', fast, slow, config)
        slow, fast = ms([lambda: [held[b] for b in batches], lambda: [trajs.rows('emb', b) for b in batches]])
        yield entry(f'{len(batches)} random batches of 256 rows', 'ms', fast, slow, config, note='slow side: rows of the array in memory; the file is in the cache of the system')
        from vislearn.control.rows import span_rows
        slow, fast = ms([lambda: [held[a:a+T].copy() for a in windows], lambda: [np.array(span_rows(trajs.emb, a, a+T)) for a in windows]])
        yield entry('200 windows of 100 rows', 'ms', fast, slow, config, note='copied on both sides')


PACKAGES = ('gymnasium', 'mujoco', 'dm_control', 'gymnasium-robotics', 'metaworld', 'minigrid', 'miniworld', 'ale-py')
if __name__ == '__main__': sys.exit(main(__file__, __doc__, lambda name: 1, packages=PACKAGES))
