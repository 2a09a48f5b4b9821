"""Speed and memory of the terrain path, both sides of every comparison measured in one run

    python benchmarks/bench_terrain.py --out benchmarks/terrain.json             # everything, a few minutes
    python benchmarks/bench_terrain.py --quick --only costmap                    # smaller sizes, one group

The slow sides are plain versions of the originals' rules, kept in tests/terrain_reference.py; the tests prove that both sides give the same result.
Every group runs in a process of its own. A group is a function with `@group` that yields entries made by `entry`; add one below, or in a
module that is imported here.
"""
import argparse, json, os, platform, subprocess, sys, time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP/'tests'), str(TOP/'benchmarks')]
GROUPS = {}


def group(fn):
    "Register a function `fn(quick) -> iterable of entries` under its name."
    GROUPS[fn.__name__] = fn
    return fn


def entry(name, unit, fast, slow=None, config=None, better='lower', limit=None, note=''):
    """One result. `fast` and `slow` are a number or a list of repeats; the median is the result, the extremes are the spread.

    `ratio` is how many times better `fast` is than `slow`; `limit` what the project promises for it, or for `fast` where there is no `slow`.
    """
    fast, slow = [[x] if isinstance(x, (int, float)) else list(x) if x is not None else None for x in (fast, slow)]
    f, s = median(fast), None if slow is None else median(slow)
    ratio = None if s is None else s/f if better == 'lower' else f/s
    got = f if ratio is None else ratio
    met = None if limit is None else bool(got >= limit if ratio is not None or better == 'higher' else got <= limit)
    short = lambda v: None if v is None else float(f'{v:.4g}')
    return dict(name=name, unit=unit, better=better, fast=short(f), slow=short(s), ratio=short(ratio), limit=limit, met=met, config=config or {}, repeats=len(fast),
                spread=dict(fast=[short(min(fast)), short(max(fast))], slow=None if slow is None else [short(min(slow)), short(max(slow))]), note=note)


def alternate(repeats, *fns):
    "Seconds of every call: the functions take turns, so that a busy moment of the machine hits all of them; one warm-up each."
    for fn in fns: fn()
    times = [[] for _ in fns]
    for _ in range(repeats):
        for fn, t in zip(fns, times): start = time.perf_counter(); fn(); t.append(time.perf_counter()-start)
    return times


@group
def costmap(quick):
    """Costs of one bird's-eye image of the original's size, 64-px tiles, stride 32: our tiles against tiles cut one by one.

    Slow side: Python loops cut every complete tile, test its pixels for black, skip those less than half visible, and price batches of 32 with the
    network as trained in eval mode. Fast side: `CostMapper` with border='keep', the same tiles and the same costs. The visible tiles are known from the geometry.
    """
    import numpy as np, torch
    from terrain_bench import spot_bev
    from terrain_reference import slow_costs
    from vislearn.core import seed_all
    from vislearn.terrain.costmap import CostMapper
    from vislearn.terrain.nets import CostNet, EmbeddingNet, FullCostNet
    seed_all(0)
    bev = spot_bev(); model = FullCostNet(EmbeddingNet(8), CostNet(8))
    with torch.no_grad():
        for _ in range(20): model(torch.randint(0, 256, (32, 3, 64, 64), dtype=torch.uint8))
        model.cost.net[4].weight.mul_(8)
    model.eval(); img = np.random.default_rng(0).integers(1, 256, (94, 182, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:bev.rows, :bev.cols]*bev.mask()[..., None]
    cores = os.cpu_count() or 1
    for threads in sorted({1, 2, cores} if not quick else {min(2, cores)}):
        if threads > cores: continue
        torch.set_num_threads(threads)
        tiles, dense = CostMapper(model, bev, stride=32, border='keep'), CostMapper(model, bev, mode='dense')
        fast, slow, once = [[1e3*t for t in ts] for ts in alternate(3 if quick else 9, lambda: tiles(img), lambda: slow_costs(img, model, 64, 32), lambda: dense(img))]
        gap = float(np.nanmax(np.abs(tiles(img).cost - slow_costs(img, model, 64, 32))))
        config = dict(threads=threads, image=[bev.rows, bev.cols], patch_px=64, stride=32, tiles=len(tiles.rows), grid=list(tiles.seen.shape), network='seed, D=8')
        yield entry(f'costmap_{threads}_threads', 'ms per image', fast, slow, dict(config, largest_difference=gap), limit=3., note='the same costs for the same tiles; slow: tile by tile, batches of 32')
        yield entry(f'costmap_dense_{threads}_threads', 'ms per image', once, None, dict(config, stride=8, tiles=len(dense.rows), grid=list(dense.seen.shape)), note='one pass over the whole image; approximate, 16 times the cells')


@group
def planning(quick):
    "Cheapest path over a fused map: edges by array slices and a compiled search against a plain priority queue in Python."
    import numpy as np
    from test_terrain_plan import slow_dijkstra
    from vislearn.terrain.costmap import CostMap
    from vislearn.terrain.plan import plan_grid
    n = 60 if quick else 150
    cost = np.random.default_rng(0).random((n, n)); cmap = CostMap(cost, .1, (0, 0))
    fast, slow = [[1e3*t for t in ts] for ts in alternate(3, lambda: plan_grid(cmap, (0, 0), (n-1, n-1)), lambda: slow_dijkstra(cost, (0, 0), (n-1, n-1), .25, 1., .1))]
    yield entry('plan_grid', 'ms per path', fast, slow, dict(cells=[n, n]))


@group
def extraction(quick):
    "Patches per second of the vectorised extraction against a loop over pairs with identical output; memory of a long recording."
    import terrain_bench as tb
    p = tb.bench_patches(40 if quick else 120); config = {k: p[k] for k in ('images', 'patches', 'image_px', 'identical')}
    yield entry('extraction_vs_pair_loop', 'patches per s', p['patches_per_s'], p['pair_loop_patches_per_s'], config, 'higher', 10., p['note'])
    yield entry('extraction_vs_viewpoint_loop', 'patches per s', p['patches_per_s'], p['viewpoint_loop_patches_per_s'], config, 'higher')
    m = tb.bench_memory(200 if quick else 2000)
    yield entry('extraction_memory', 'MB of growth', m['growth_mb'], config={k: m[k] for k in ('images', 'patches', 'seconds')}, limit=500.)


@group
def store(quick):
    "Opening a large store of patches, reading at random, private memory of four workers."
    import terrain_bench as tb
    s = tb.bench_store(100_000 if quick else 1_000_000, big=10_000 if quick else 40_000); config = {k: s[k] for k in ('patches', 'side_px')}
    yield entry('store_open', 's', s['open_s'], config=config, limit=1.)
    yield entry('store_read_10000', 's', s['read_10000_s'], config=config, limit=1.)
    yield entry('store_read_10000_of_64px', 's', s['read_10000_of_64px_s'], config=dict(patches=10_000 if quick else 40_000, side_px=64), limit=1.)
    yield entry('store_worker_memory', 'private MB per worker', s['private_mb_per_worker'], config=dict(store_mb=s['store_mb_for_workers'], workers=4))


@group
def triplets(quick):
    "Triplets per second of vectorised batches against drawing one item at a time."
    import terrain_bench as tb
    t = tb.bench_triplets(); config = {k: t[k] for k in ('batch', 'locations')}
    yield entry('triplets_vs_per_item', 'triplets per s', t['triplets_per_s'], t['per_item_per_s'], config, 'higher', 50., t['note'])
    yield entry('triplets_vs_tuned_per_item', 'triplets per s', t['triplets_per_s'], t['tuned_per_item_per_s'], config, 'higher')


def run_output(*cmd):
    "Output of a command in the repository, or an empty string."
    try: return subprocess.run(cmd, cwd=TOP, capture_output=True, text=True).stdout.strip()
    except OSError: return ''


def machine():
    "What the numbers depend on besides the code."
    import psutil
    names = [line.split(':', 1)[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines() if line.startswith('model name')] if Path('/proc/cpuinfo').exists() else []
    return dict(cpu=names[0] if names else platform.processor(), cores=os.cpu_count(), usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else None,
                ram_gb=round(psutil.virtual_memory().total/1e9, 1), system=platform.platform(), load_before=[round(v, 2) for v in os.getloadavg()])


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--out', type=Path, help='JSON file to write; default: print')
    ap.add_argument('--quick', action='store_true', help='smaller sizes: a check that everything runs, not a result')
    ap.add_argument('--only', nargs='+', choices=list(GROUPS), default=list(GROUPS), help='groups to run; with --out the others are kept from the file')
    ap.add_argument('--inside', choices=list(GROUPS), help=argparse.SUPPRESS)
    args = ap.parse_args(argv)
    if args.inside:
        if args.inside not in ('costmap', 'planning'): import torch; torch.set_num_threads(1)
        print('\n' + json.dumps(list(GROUPS[args.inside](args.quick)))); return 0
    hardware, results, failed = machine(), {}, []
    if args.out and args.out.exists() and len(args.only) < len(GROUPS): results = json.loads(args.out.read_text())['results']
    for name in args.only:
        start = time.time(); p = subprocess.run([sys.executable, __file__, '--inside', name, *(['--quick'] if args.quick else [])], cwd=TOP, stdout=subprocess.PIPE, text=True)
        if p.returncode: failed.append(name); continue
        info = dict(commit=run_output('git', 'rev-parse', 'HEAD'), dirty=bool(run_output('git', 'status', '--porcelain', '-uno')), date=datetime.now(timezone.utc).isoformat(timespec='seconds'), quick=args.quick, seconds=round(time.time()-start, 1))
        results[name] = dict(info, about=' '.join(GROUPS[name].__doc__.split()), entries=json.loads(p.stdout.strip().splitlines()[-1]))
        for e in results[name]['entries']:
            side = f"{e['fast']:>10} against {e['slow']:>10}  = {e['ratio']:.1f}x" if e['ratio'] else f"{e['fast']:>10}"
            print(f"{e['name']:32} {side} {e['unit']}" + ('' if e['met'] is None else f"   limit {e['limit']:g}: {'met' if e['met'] else 'MISSED'}"), file=sys.stderr)
    packages = {p: version(p) for p in ('torch', 'numpy', 'scipy', 'pillow', 'fastai')}
    doc = dict(version=1, command='python benchmarks/bench_terrain.py' + (' --quick' if args.quick else '') + (f' --only {" ".join(args.only)}' if len(args.only) < len(GROUPS) else ''), hardware=hardware,
               versions=dict(python=platform.python_version(), vislearn=run_output(sys.executable, '-c', 'import vislearn; print(vislearn.__version__)'), **packages), seeds=[0], results=results)
    text = json.dumps(doc, indent=1) + '\n'
    if args.out: args.out.parent.mkdir(parents=True, exist_ok=True); args.out.write_text(text)
    else: print(text)
    if failed: print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == '__main__': sys.exit(main())
