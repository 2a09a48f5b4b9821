"""Does planning through a learned model smooth a crumpled cloth? Coverage after k actions, the same start states for every policy

    python benchmarks/learn_video.py --train cloth-learned-1          # the model, half an hour on one thread
    python benchmarks/plan_cloth.py --run runs/learn_video/cloth-learned-1 --out benchmarks/plan_cloth.json
    python benchmarks/plan_cloth.py --only oracle random still         # without a model

Policies: `learned` plans through the model and sees pictures only; `random` pulls as in the training films; `still` does nothing; `oracle` plans with the
simulator itself, which knows the cloth's hidden friction and the gripper's next slip: an upper bound. Every policy acts on the same cloths with the same
luck of the gripper, so differences are taken cloth by cloth.

The search is smaller than the paper's (2000 candidates, 10 rounds, 5 actions ahead), to fit a CPU.
Its settings were chosen on 12 other cloths (start seed 123). `coverage`, `best`, `ahead` and `longer` change one thing each.
"""
import argparse, json, os, platform, sys, time
from datetime import datetime, timezone
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP/'benchmarks')]
LABELS = dict(learned='CEM, learned model', coverage='CEM, learned model, cost 1 - coverage', best='CEM, learned model, cheapest candidate instead of the mean', ahead='CEM, learned model, two actions ahead', longer='CEM, learned model, twice the candidates, 5 rounds',
    random='random', still='no action', oracle='CEM, true simulator')
LEARNED = ('learned', 'coverage', 'best', 'ahead', 'longer')


def paired(a, b):
    "Compare two columns cloth by cloth: mean difference, 95 % interval (t), t test, Wilcoxon's signed ranks, share of cloths where `a` is higher."
    import numpy as np
    from scipy import stats
    d = np.asarray(a, float) - np.asarray(b, float); n = len(d); mean, half = d.mean(), stats.t.ppf(.975, n - 1)*d.std(ddof=1)/np.sqrt(n)
    number = lambda v: float(f'{v:.4g}')
    return dict(n=n, mean=number(mean), ci95=[number(mean - half), number(mean + half)], p_t=number(stats.ttest_1samp(d, 0).pvalue) if d.std() else None,
                p_wilcoxon=number(stats.wilcoxon(d).pvalue) if d.any() else None, better=int((d > 0).sum()))


def policies(args, names):
    "Make the policies, by name."
    from vislearn.synth.cloth import ClothSim, render_cloth
    from vislearn.video.plan import CEM, Planner, coverage_cost, goal_cost, oracle_policy, random_policy, still_policy
    limits = dict(lower=[-1, -1, -args.limit, -args.limit], upper=[1, 1, args.limit, args.limit])
    how = CEM(horizon=args.horizon, n_candidates=args.candidates, iterations=args.iterations, elites=args.elites, **limits)
    true = CEM(horizon=1, answer='best', n_candidates=args.oracle_candidates, iterations=3, elites=max(1, args.oracle_candidates//8), **limits)
    made = dict(random=lambda: random_policy(args.seed, args.limit), still=still_policy, oracle=lambda: oracle_policy(true, args.seed))
    told = dict(oracle=true.model_dump(), random=dict(limit=args.limit), still={})
    if set(LEARNED) & set(names):
        from vislearn.video.train import load_svg
        model, flat = load_svg(Path(args.run)).eval(), goal_cost(render_cloth(ClothSim().positions)[0])
        for name, cost, search in (('learned', flat, how), ('coverage', coverage_cost(), how), ('best', flat, how.replace(answer='best')), ('ahead', flat, how.replace(horizon=2)),
                                   ('longer', flat, how.replace(n_candidates=2*args.candidates, elites=2*args.elites, iterations=5))):
            made[name] = lambda cost=cost, search=search: Planner(model, cost, search, model.cfg.n_past, args.samples, args.seed)
            told[name] = search.model_dump() | dict(cost='1 - coverage' if name == 'coverage' else 'picture of a flat cloth', n_samples=args.samples)
    return {n: made[n]() for n in names}, told


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--run', type=Path, default=TOP/'runs'/'learn_video'/'cloth-learned-1', help='run folder of the model')
    ap.add_argument('--only', nargs='+', choices=list(LABELS), default=list(LABELS), help='policies; with --out the others are kept from the file')
    ap.add_argument('--episodes', type=int, default=32, help='cloths')
    ap.add_argument('--steps', type=int, default=8, help='actions')
    ap.add_argument('--tiers', type=int, nargs='+', default=[3], help='start states: 3 dropped from high up, 1 a few short pulls')
    ap.add_argument('--start-seed', type=int, default=77, help='of the start states; training films have 1')
    ap.add_argument('--limit', type=float, default=.4, help='longest pull along x and y; the training films have 0.4')
    ap.add_argument('--horizon', type=int, default=1); ap.add_argument('--candidates', type=int, default=200); ap.add_argument('--iterations', type=int, default=3); ap.add_argument('--elites', type=int, default=20)
    ap.add_argument('--samples', type=int, default=0, help="random futures per candidate; 0: the prior's mean")
    ap.add_argument('--oracle-candidates', type=int, default=96)
    ap.add_argument('--seed', type=int, default=0, help='of candidates and random actions')
    ap.add_argument('--threads', type=int, default=1)
    ap.add_argument('--out', type=Path, help='JSON file to write; default: print')
    args = ap.parse_args(argv)
    import numpy as np, torch
    torch.set_num_threads(args.threads)
    from harness import machine, run_output
    from vislearn.synth.fabric import ClothEnv
    from vislearn.video.plan import run_episodes
    task = dict(episodes=args.episodes, steps=args.steps, tiers=args.tiers, start_seed=args.start_seed, limit=args.limit)
    old = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    result = old if old.get('task') == task else dict(task=task, policies={})
    made, settings = policies(args, args.only); hardware = machine()
    for name, policy in made.items():
        env = ClothEnv(tiers=args.tiers); env.reset(args.start_seed, args.episodes); start, cpu = time.time(), time.process_time()
        done = run_episodes(env, policy, args.steps); cover = done.coverage
        result['policies'][name] = dict(label=LABELS[name], settings=settings[name], seed=args.seed, mean=cover.mean(0).round(4).tolist(), std=cover.std(0, ddof=1).round(4).tolist(), grasped=round(float(done.grasped.mean()), 4),
            cpu_s_per_action=round((time.process_time()-cpu)/args.episodes/args.steps, 3), wall_s=round(time.time()-start, 1), date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
            commit=run_output('git', 'rev-parse', 'HEAD'), dirty=bool(run_output('git', 'status', '--porcelain', '-uno', 'vislearn/video/plan.py', 'vislearn/synth')), coverage=cover.round(4).tolist())
        if name in LEARNED: result['policies'][name]['run'] = dict(name=Path(args.run).name, config=json.loads(json.dumps(_config(args.run))))
        print(f'{name:8}', *(f'{v:.3f}' for v in cover.mean(0)), f'   {time.time()-start:.0f} s', file=sys.stderr, flush=True)
        result['differences'] = compare(result['policies']); result['hardware'] = hardware
        result['versions'] = dict(python=platform.python_version(), torch=torch.__version__, numpy=np.__version__); result['command'] = 'python benchmarks/plan_cloth.py --out benchmarks/plan_cloth.json'
        if args.out: tmp = args.out.with_suffix('.tmp-new'); tmp.write_text(json.dumps(result, indent=1) + '\n'); os.replace(tmp, args.out)
    if not args.out: print(json.dumps({k: v for k, v in result.items() if k != 'policies'}, indent=1))


def _config(run):
    "What the model is and what it was trained on."
    from vislearn.runs.record import Run
    r = Run(Path(run)); c = r.config
    return dict(model=dict(c.model.params), epochs=c.train.epochs, epoch_size=c.data.train.params['epoch_size'], batch_size=c.train.batch_size, seed=c.seed, lr=c.optim.lr, state=r.status['state'])


def compare(found):
    "Paired differences after every number of actions."
    pairs = [(a, b) for a in (*LEARNED, 'oracle') for b in ('random', 'still') if a in found and b in found] + [(a, b) for a, b in (('oracle', 'learned'), ('learned', 'coverage'), ('learned', 'best'), ('learned', 'ahead'), ('learned', 'longer')) if a in found and b in found]
    return {f'{a} - {b}': [paired(*([row[k] for row in found[x]['coverage']] for x in (a, b))) for k in range(1, len(found[a]['mean']))] for a, b in pairs}


if __name__ == '__main__': sys.exit(main())
