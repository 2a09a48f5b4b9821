"""What reproducibility costs: run folders, checkpoints and resuming against the same training without them

    python benchmarks/bench_runs.py --out benchmarks/runs.json             # everything, about five minutes
    python benchmarks/bench_runs.py --quick --only save                    # smaller sizes, one group

Both sides of every comparison take turns in one process. `fast` is vislearn, `slow` the plain way; a ratio of 0.98 means that vislearn takes 2 % longer.
"""
import os, random, signal, sys, tempfile, time
from pathlib import Path
from harness import TOP, entry, group, main

RUNS = TOP/'runs'; RUNS.mkdir(exist_ok=True) # on the same disk, ignored by git


def turns(repeats, *fns):
    "Seconds of every call; the functions take turns, in an order that changes, after one warm-up each. What one left to be written must not slow down the next: the disk is synced between."
    for fn in fns: fn()
    times, choice = [[] for _ in fns], random.Random(0)
    for _ in range(repeats):
        for k in choice.sample(range(len(fns)), len(fns)): os.sync(); start = time.perf_counter(); fns[k](); times[k].append(time.perf_counter() - start)
    return times


def paired(name, unit, fast, slow, config, limit, note=''):
    "An entry whose ratio is the median of the ratios of neighbours, which a slow moment of the machine hits together."
    from statistics import median
    e = entry(name, unit, fast, slow, config, note=note); ratio = median(s/f for f, s in zip(fast, slow))
    return e | dict(ratio=float(f'{ratio:.4g}'), limit=limit, met=None if limit is None else bool(ratio>=limit))


def _one_overhead(steps, epochs, limit, repeats):
    "Epochs of so many steps, with a run folder and without."
    from vislearn.learn import fit_run
    from vislearn.runs.record import Run
    from vislearn.supervised import supervised_learner, supervised_shapes
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        (Path(folder)/'data').mkdir(); cfg = supervised_shapes(Path(folder)/'data', epochs=epochs, bs=32, n=32*steps)
        records = [Run.create(cfg, out=folder, policy='record') for _ in range(repeats + 1)]
        with_run, without = turns(repeats, lambda: fit_run(supervised_learner(cfg, 'cpu'), records.pop()), lambda: fit_run(supervised_learner(cfg, 'cpu'), None, epochs, cfg.schedule.name))
    seconds = sorted(without)[len(without)//2] / epochs
    return paired(f'training, {steps} steps per epoch', 's', with_run, without, dict(epochs=epochs, steps=steps*epochs, parameters=2067, seconds_per_epoch=round(seconds, 2)), limit, 'the folder is made before; that is a fixed cost of every run, see below')


@group
def overhead(quick):
    """Training of a small network on 16x16 pictures with its run folder (metrics, TensorBoard, status, checkpoints after every epoch) against the same learner without a folder.

    The network is tiny on purpose: with a bigger one the share is smaller. Most of the cost comes once per epoch, so epochs of a fraction of a second show it. The promise for a small training is less than 3 % (ratio at least 0.97).
    """
    from vislearn.runs.record import Run
    from vislearn.supervised import supervised_shapes
    for steps, epochs, limit in ((64, 2, None),) if quick else ((256, 3, .97), (64, 4, None)):
        yield _one_overhead(steps, epochs, limit, 3 if quick else 9)
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        (Path(folder)/'data').mkdir(); cfg = supervised_shapes(Path(folder)/'data')
        created, = turns(5, lambda: Run.create(cfg, out=folder, policy='record'))
    yield entry('making a run folder', 's', created, note='git state of two repositories, versions, hardware, list of packages')


@group
def save(quick):
    "A state of 150 MB written by `Checkpoints.save` (temporary name, two fsyncs, `prev.pt`, index) against `torch.save` onto the path. The promise is less than 15 % (ratio at least 0.87)."
    import torch
    from vislearn.runs.ckpt import Checkpoints
    state = dict(epoch=1, model={str(i): torch.randn(1024, 1024) for i in range(4 if quick else 36)})
    size = sum(t.nbytes for t in state['model'].values())
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        ckpt, path = Checkpoints(Path(folder)/'ckpt'), Path(folder)/'plain.pt'
        def plain(): torch.save(state, path)
        def synced():
            with open(path, 'wb') as f: torch.save(state, f); f.flush(); os.fsync(f.fileno())
        ours, simple, forced = turns(3 if quick else 15, lambda: ckpt.save(state), plain, synced)
    config = dict(mb=round(size/1e6))
    yield paired('checkpoint against torch.save', 's', ours, simple, config, .87)
    yield paired('checkpoint against torch.save and fsync', 's', ours, forced, config, .87, 'the same bytes on the disk on both sides')


@group
def kills(quick):
    "Files that cannot be read after a writer of 64 MB was killed at a random moment; 20 trials each."
    import torch
    from vislearn.runs.ckpt import Checkpoints, CheckpointError, load_plain
    trials, state, found = 4 if quick else 20, dict(epoch=1, weights=torch.zeros(16, 1024, 1024)), {}
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        ckpt = Checkpoints(folder)
        for name, write in (('vislearn', ckpt.save), ('plain', lambda s: torch.save(s, Path(folder)/'last.pt'))):
            broken, choice = 0, random.Random(0)
            for _ in range(trials):
                write(state)
                if (pid := os.fork())==0:
                    try:
                        for _ in range(1000): write(state)
                    finally: os._exit(0)
                time.sleep(choice.uniform(.02, .4)); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
                try: load_plain(Path(folder)/'last.pt')
                except CheckpointError: broken += 1
            found[name] = broken
    yield entry('unreadable after kills', 'files', found['vislearn'], None, dict(trials=trials, mb=67), limit=0)
    yield entry('unreadable after kills, torch.save', 'files', found['plain'], None, dict(trials=trials, mb=67))


@group
def resume(quick):
    "Seconds from a checkpoint to the next training step, and reading a table of many runs."
    from vislearn.learn import fit_run
    from vislearn.runs.compare import run_table
    from vislearn.runs.record import Run
    from vislearn.supervised import supervised_learner, supervised_shapes
    with tempfile.TemporaryDirectory(dir=RUNS) as folder:
        (Path(folder)/'data').mkdir(); cfg = supervised_shapes(Path(folder)/'data', epochs=1); n = 10 if quick else 300
        first = Run.create(cfg, out=folder, policy='record'); fit_run(supervised_learner(cfg, 'cpu'), first)
        for i in range(n - 1):
            other = first.dir.parent/f'20260101-0000{i:04}-aaaaaa'; other.mkdir()
            for name in ('config.yaml', 'manifest.json', 'status.json', 'metrics.jsonl', 'metrics.csv', 'DONE'): (other/name).write_bytes((first.dir/name).read_bytes())
        start = time.perf_counter(); table = run_table(folder); seconds = time.perf_counter() - start; assert len(table)==n
        loads, = turns(5, first.load)
    yield entry('table of runs', 's', seconds, config=dict(runs=n), limit=5.)
    yield entry('reading a checkpoint', 's', loads)


if __name__ == '__main__': sys.exit(main(__file__, __doc__, lambda name: 1))
