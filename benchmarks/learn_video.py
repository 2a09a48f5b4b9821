"""Does stochastic video generation learn something real? Three trainings with their baselines, and scores on films never trained on

    python benchmarks/learn_video.py --train smmnist-learned-1        # one training into runs/learn_video, goes on if it was stopped
    python benchmarks/learn_video.py --train all                      # all of them, one after the other: hours on a CPU
    python benchmarks/learn_video.py --out benchmarks/video_learning.json   # scores of all trainings, as far as they are

A training is named by its films, what is changed, and the seed. Sizes are for a few CPU cores (see `PLANS`); with a GPU use the recipes as they are.
"""
import argparse, json, os, sys, time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP/'benchmarks')]
RUNS = TOP/'runs'/'learn_video'


def smmnist(prior, seed, epochs=300):
    "Two digits, 5 seen and 10 predicted frames: a narrow network, batches of 8, 100 batches per epoch; beta rises slowly, because with small batches the latent is given up otherwise."
    from vislearn.runs.config import Schedule
    from vislearn.video.recipes import svg_lp_smmnist
    cfg = svg_lp_smmnist(digits='mnist', epochs=epochs, bs=8, nf=24, seed=seed, prior=prior, amp='bf16')
    loss = cfg.loss.replace(params=cfg.loss.params | dict(beta_warmup=20*epochs))
    return small(cfg, 100).replace(schedule=Schedule(name='flat_cos'), loss=loss)


def cloth(actions, seed, epochs=30):
    "4500 simulated films, 1 seen and 3 predicted frames: a narrow network, batches of 32, 100 batches per epoch."
    from vislearn.runs.config import Schedule
    from vislearn.synth.fabric import make_cloth
    from vislearn.video.recipes import svg_lp_cloth
    films = make_cloth(4500, 10, seed=1, limit=.4, workers=os.cpu_count() or 1) # made once, a few minutes
    cfg = small(svg_lp_cloth(films.path, actions, epochs=epochs, bs=32, nf=24, seed=seed), 100)
    model = cfg.model.replace(params=cfg.model.params | dict(n_future=3))
    return cfg.replace(model=model, schedule=Schedule(name='flat_cos'))


def bridge(actions, fold, epochs=12):
    "Real arm, 2 seen and 8 predicted frames: every fifth trajectory is held out; all three cameras of the others are trained on."
    from vislearn.core import real_data
    from vislearn.runs.config import Schedule
    from vislearn.video.recipes import svg_lp_bridge
    return small(svg_lp_bridge(real_data('robot_video/bridge_v2_25x10_64px.npz'), actions, epochs=epochs, bs=16, nf=32, seed=1 + fold, amp='bf16'), 50).replace(schedule=Schedule(name='flat_cos'))


def bridge_films(fold, held):
    "Trajectories of one fold: held out (first camera, the published reference), or for training (all cameras)."
    from vislearn.clips import Clips
    from vislearn.core import real_data
    from vislearn.video.episodes import npz_clips
    sets = [npz_clips(real_data('robot_video/bridge_v2_25x10_64px.npz'), f'image_{k}', 'action', scale='std') for k in range(1 if held else 3)]
    return Clips.of([films[i] for films in sets for i in range(len(films)) if (i % FOLDS==fold)==held])


def small(cfg, epoch_size):
    "Shorter epochs, fewer kept checkpoints, no pictures."
    part = cfg.data.train; data = cfg.data.replace(train=part.replace(params=part.params | dict(epoch_size=epoch_size)), eval=None)
    return cfg.replace(data=data, checkpoint=cfg.checkpoint.replace(every_epochs=None, keep_last=1), log=cfg.log.replace(tensorboard=False))


SEEDS, FOLDS = (1, 2), 5
PLANS = {f'smmnist-{prior}-{seed}': (smmnist, prior, seed) for seed in SEEDS for prior in ('learned', 'none')}
PLANS |= {f'cloth-{name}-{seed}': (cloth, actions, seed) for seed in SEEDS for name, actions in (('learned', 'learned'), ('noactions', 'none'))}
PLANS |= {f'bridge-{name}-{fold}': (bridge, actions, fold) for fold in range(FOLDS) for name, actions in (('learned', 'learned'), ('noactions', 'none'))}


def train(name):
    "Train one plan, or go on with it."
    from vislearn.video.train import train_svg
    make, *args = PLANS[name]; start, given = time.time(), {}
    if make is bridge: given = dict(train=bridge_films(args[1], False), test=bridge_films(args[1], True))
    run = train_svg(make(*args), RUNS/name, policy='record', **given)
    print(f'{name}: {run.status["state"]} after {time.time()-start:.0f} s')


def done(name):
    "The run of a plan, finished or on its way, or None."
    from vislearn.runs.record import Run
    return Run(RUNS/name) if (RUNS/name/'ckpt').exists() else None


def predictors(named):
    "Predictors of trained runs; None if one is missing."
    from vislearn.video.generate import SVGPredictor
    from vislearn.video.train import load_svg
    runs = {who: done(name) for who, name in named.items()}
    if None in runs.values(): return None
    return {who: SVGPredictor(load_svg(run)) for who, run in runs.items()}


def short(x): return [float(f'{v:.5g}') for v in x]


def report(result, versus):
    "What is kept of an evaluation: curves over time, means, and comparisons film by film."
    rows = {who: {m: {k: dict(mean=float(f'{band.mean.mean():.5g}'), curve=short(band.mean), half=short(band.half)) for k, band in kinds.items() if k in ('best', 'mean')} for m, kinds in ms.items()} for who, ms in result.curves.items()}
    pairs = {f'{who} over {other}': {m: {k: (float(f'{v:.5g}') if isinstance(v, float) else int(v)) for k, v in row.items()} for m, row in result.versus(other, who).to_dict('index').items()} for who, other in versus}
    return dict(films=result.n, protocol=result.protocol.model_dump(mode='json'), scores=rows, versus=pairs)


def cost_of(name):
    "Steps, clips and hours of a training, from its own records."
    from vislearn.runs.metrics import read_jsonl
    run = done(name); rows = list(read_jsonl(run.dir/'metrics.jsonl')); cfg = run.config; times = [r['t'] for r in rows]
    gaps = [b - a for a, b in zip(times, times[1:])] # a pause between two attempts is no training
    steps = max(r['step'] for r in rows); typical = sorted(gaps)[len(gaps)//2]
    return dict(steps=steps, planned=cfg.train.epochs*cfg.data.train.params['epoch_size'], clips=steps*cfg.train.batch_size, hours=round(sum(g for g in gaps if g < 20*typical + 60)/3600, 3), threads=run.manifest['threads'], nf=cfg.model.params['nf'], batch=cfg.train.batch_size, amp=cfg.train.amp, seed=cfg.seed)


def score_smmnist():
    "Best of 20 futures of 10 frames, 256 test films of two MNIST digits: the learned prior, the deterministic network, the copied frame."
    from vislearn.synth.smmnist import MovingDigits
    from vislearn.video.evaluate import EvalProtocol, evaluate, film_batches
    p = EvalProtocol(name='learn_smmnist', n_past=5, n_pred=10, n_samples=20, metrics=('psnr', 'ssim', 'mse')); films = MovingDigits('test', p.length, digits='mnist')
    for seed in SEEDS:
        who = {'svg-lp': f'smmnist-learned-{seed}', 'deterministic': f'smmnist-none-{seed}'}
        if (found := predictors(who)): yield f'seed {seed}', report(evaluate(found, film_batches(films, p, 16, 256), p), [('svg-lp', 'deterministic'), ('svg-lp', 'copy-last')]) | dict(training={w: cost_of(n) for w, n in who.items()})


def score_cloth():
    "200 simulated films never trained on, every window of 1 -> 3 frames: with actions, without, the copied frame."
    from vislearn.synth.fabric import make_cloth
    from vislearn.video.evaluate import EvalProtocol, evaluate, film_batches
    p = EvalProtocol(name='learn_cloth', n_past=1, n_pred=3, n_samples=5, stride=3, metrics=('mse', 'ssim', 'psnr')); films = make_cloth(200, 10, seed=2, limit=.4, workers=os.cpu_count() or 1)
    for seed in SEEDS:
        who = {'with actions': f'cloth-learned-{seed}', 'without actions': f'cloth-noactions-{seed}'}
        if (found := predictors(who)): yield f'seed {seed}', report(evaluate(found, film_batches(films, p, 16), p), [('with actions', 'without actions'), ('with actions', 'copy-last')]) | dict(training={w: cost_of(n) for w, n in who.items()})


def score_bridge():
    "25 real trajectories, each predicted by models that were not trained on it (five folds): 2 -> 8 frames; copying reaches 21.95 dB."
    from vislearn.video.evaluate import EvalProtocol, evaluate, film_batches
    p = EvalProtocol(name='bridge', n_past=2, n_pred=8, n_samples=20, metrics=('psnr', 'ssim', 'mse')); parts = []
    for fold in range(FOLDS):
        who = {'with actions': f'bridge-learned-{fold}', 'without actions': f'bridge-noactions-{fold}'}
        if not (found := predictors(who)): return
        parts.append(evaluate(found, film_batches(bridge_films(fold, True), p), p))
    whole = join_folds(parts)
    yield 'five folds', report(whole, [('with actions', 'copy-last'), ('without actions', 'copy-last'), ('with actions', 'without actions')]) | dict(training={f'{w}, fold {k}': cost_of(f'bridge-{n}-{k}') for k in range(FOLDS) for w, n in (('with actions', 'learned'), ('without actions', 'noactions'))})


def join_folds(parts):
    "One result over the films of all folds; the curves of a fold are weighted by its films, bands come from the films' means."
    import numpy as np
    from vislearn.video.evaluate import EvalResult
    from vislearn.video.metrics import Band
    first, n = parts[0], np.array([p.n for p in parts], float)
    over = lambda f: {who: {m: {k: f(who, m, k) for k in kinds} for m, kinds in ms.items()} for who, ms in first.scores.items()}
    scores = over(lambda w, m, k: np.concatenate([p.scores[w][m][k] for p in parts]))
    def curve(w, m, k):
        means = np.stack([p.curves[w][m][k].mean for p in parts]); mean = (means*n[:, None]).sum(0)/n.sum()
        # spread of films within and between folds
        var = sum(c*((p.curves[w][m][k].half/1.96)**2*c*(c - 1)/c + (q - mean)**2) for p, c, q in zip(parts, n, means))/(n.sum() - 1)
        return Band(mean, 1.96*np.sqrt(var/n.sum()))
    return EvalResult(first.protocol, int(n.sum()), 0, scores, over(curve), {w: None for w in first.scores})


SCORES = dict(smmnist=score_smmnist, cloth=score_cloth, bridge=score_bridge)


def score(out, only):
    "Evaluate what is trained so far, and write the file (`steps` and `planned` tell how far that is); groups that are not asked for are kept."
    from harness import machine, run_output
    from datetime import datetime, timezone
    page = json.loads(out.read_text()) if out.exists() else dict(version=1, results={})
    for name in only:
        found = dict(SCORES[name]())
        if not found: print(f'{name}: not trained yet'); continue
        page['results'][name] = dict(about=' '.join(SCORES[name].__doc__.split()), commit=run_output('git', 'rev-parse', 'HEAD'), date=datetime.now(timezone.utc).isoformat(timespec='seconds'), runs=found)
    import torch
    page |= dict(command='python benchmarks/learn_video.py --out benchmarks/video_learning.json', hardware=machine(), versions=dict(torch=torch.__version__))
    out.write_text(json.dumps(page, indent=1) + '\n')


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--train', nargs='+', metavar='PLAN', help=f'plans to train, or all: {", ".join(PLANS)}')
    ap.add_argument('--out', type=Path, help='JSON file to write scores to')
    ap.add_argument('--only', nargs='+', choices=list(SCORES), default=list(SCORES), help='what to score')
    args = ap.parse_args(argv)
    for name in (PLANS if args.train == ['all'] else args.train or []): train(name)
    if args.out: score(args.out, args.only)


if __name__ == '__main__': sys.exit(main())
