"""What every benchmark of this folder shares: groups, entries, turns, and the JSON that a command writes

A group is a function with `@group` that yields entries made by `entry`; `main(__file__, __doc__, command)` runs every group in a process of its own.
"""
import argparse, json, os, platform, subprocess, sys, time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
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


def seconds(fn, repeats, warm=3):
    "Seconds of every call on the GPU, the queue emptied before and after."
    import torch
    out = []
    for k in range(warm+repeats):
        torch.cuda.synchronize(); start = time.perf_counter(); fn(); torch.cuda.synchronize()
        if k >= warm: out.append(time.perf_counter()-start)
    return out


def run_output(*cmd):
    "Output of a command in the repository, or an empty string."
    try: return subprocess.run(cmd, cwd=TOP, capture_output=True, text=True).stdout.strip()
    except OSError: return ''


def installed(package):
    "Is a package there?"
    try: return bool(version(package))
    except PackageNotFoundError: return False


def machine():
    "What the numbers depend on besides the code."
    import psutil
    names = [line.split(':', 1)[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines() if line.startswith('model name')] if Path('/proc/cpuinfo').exists() else []
    return dict(cpu=names[0] if names else platform.processor(), cores=os.cpu_count(), usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else None,
                ram_gb=round(psutil.virtual_memory().total/1e9, 1), system=platform.platform(), load_before=[round(v, 2) for v in os.getloadavg()])


def main(script, doc, threads=None, argv=None, packages=()):
    "Run the groups of a benchmark script; `threads(group)` says with how many threads of torch, None for the default; versions of further `packages` are noted."
    script = Path(script); ap = argparse.ArgumentParser(description=doc.splitlines()[0])
    ap.add_argument('--out', type=Path, help='JSON file to write; default: print')
    ap.add_argument('--quick', action='store_true', help='smaller sizes: a check that everything runs, not a result')
    ap.add_argument('--only', nargs='+', choices=list(GROUPS), default=list(GROUPS), help='groups to run; with --out the others are kept from the file')
    ap.add_argument('--inside', choices=list(GROUPS), help=argparse.SUPPRESS)
    args = ap.parse_args(argv)
    if args.inside:
        if threads and (n := threads(args.inside)): import torch; torch.set_num_threads(n)
        print('\n' + json.dumps(list(GROUPS[args.inside](args.quick)))); return 0
    hardware, results, failed = machine(), {}, []
    if args.out and args.out.exists() and len(args.only) < len(GROUPS): results = json.loads(args.out.read_text())['results']
    for name in args.only:
        start = time.time(); p = subprocess.run([sys.executable, str(script), '--inside', name, *(['--quick'] if args.quick else [])], cwd=TOP, stdout=subprocess.PIPE, text=True)
        if p.returncode: failed.append(name); continue
        info = dict(commit=run_output('git', 'rev-parse', 'HEAD'), dirty=bool(run_output('git', 'status', '--porcelain', '-uno')), date=datetime.now(timezone.utc).isoformat(timespec='seconds'), quick=args.quick, seconds=round(time.time()-start, 1))
        results[name] = dict(info, about=' '.join(GROUPS[name].__doc__.split()), entries=json.loads(p.stdout.strip().splitlines()[-1]))
        for e in results[name]['entries']:
            side = f"{e['fast']:>10} against {e['slow']:>10}  = {e['ratio']:.1f}x" if e['ratio'] else f"{e['fast']:>10}"
            print(f"{e['name']:32} {side} {e['unit']}" + ('' if e['met'] is None else f"   limit {e['limit']:g}: {'met' if e['met'] else 'MISSED'}"), file=sys.stderr)
    packages = {p: version(p) for p in ('torch', 'numpy', 'scipy', 'pillow', 'fastai')} | {p: version(p) for p in packages if installed(p)}
    page = dict(version=1, command=f'python benchmarks/{script.name}' + (' --quick' if args.quick else '') + (f' --only {" ".join(args.only)}' if len(args.only) < len(GROUPS) else ''), hardware=hardware,
               versions=dict(python=platform.python_version(), vislearn=run_output(sys.executable, '-c', 'import vislearn; print(vislearn.__version__)'), **packages), seeds=[0], results=results)
    text = json.dumps(page, indent=1) + '\n'
    if args.out: args.out.parent.mkdir(parents=True, exist_ok=True); args.out.write_text(text)
    else: print(text)
    if failed: print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
