"""Does stochastic video generation learn something real? Three trainings with their baselines, and scores on films never trained on

    python benchmarks/learn_video.py --train smmnist-learned-1        # one training into runs/learn_video, goes on if it was stopped
    python benchmarks/learn_video.py --train all                      # all of them, one after the other: hours on a CPU
    python benchmarks/learn_video.py --out benchmarks/video_learning.json   # scores of all finished trainings

A training is named by its films, what is changed, and the seed. Sizes are for a few CPU cores (see `PLANS`); with a GPU use the recipes as they are.
"""
import argparse, json, os, sys, time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP/'benchmarks')]
RUNS = TOP/'runs'/'learn_video'


def smmnist(prior, seed, epochs=45):
    "Two digits, 5 seen and 10 predicted frames: a narrow network, batches of 16, 100 batches per epoch."
    from vislearn.runs.config import Schedule
    from vislearn.video.recipes import svg_lp_smmnist
    cfg = svg_lp_smmnist(digits='mnist', epochs=epochs, bs=16, nf=24, seed=seed, prior=prior)
    return small(cfg, 100).replace(schedule=Schedule(name='flat_cos'))


def cloth(actions, seed, epochs=30):
    "4500 simulated films, 1 seen and 3 predicted frames: a narrow network, batches of 32, 100 batches per epoch."
    from vislearn.runs.config import Schedule
    from vislearn.synth.fabric import make_cloth
    from vislearn.video.recipes import svg_lp_cloth
    films = make_cloth(4500, 10, seed=1, limit=.4, workers=os.cpu_count() or 1) # made once, a few minutes
    cfg = small(svg_lp_cloth(films.path, actions, epochs=epochs, bs=32, nf=24, seed=seed), 100)
    model = cfg.model.replace(params=cfg.model.params | dict(n_future=3))
    return cfg.replace(data=cfg.data.replace(train=cfg.data.train.replace(name='clips')), model=model, schedule=Schedule(name='flat_cos'))


def small(cfg, epoch_size):
    "Shorter epochs and fewer kept checkpoints."
    part = cfg.data.train; data = cfg.data.replace(train=part.replace(params=part.params | dict(epoch_size=epoch_size)))
    return cfg.replace(data=data, checkpoint=cfg.checkpoint.replace(every_epochs=None, keep_last=1), log=cfg.log.replace(tensorboard=False))


PLANS = {f'smmnist-{prior}-{seed}': (smmnist, prior, seed) for seed in (1, 2) for prior in ('learned', 'none')}
PLANS |= {f'cloth-{name}-1': (cloth, actions, 1) for name, actions in (('learned', 'learned'), ('noactions', 'none'))}


def train(name):
    "Train one plan, or go on with it."
    from vislearn.video.train import train_svg
    make, *args = PLANS[name]; start = time.time()
    run = train_svg(make(*args), RUNS/name, policy='record')
    print(f'{name}: {run.status["state"]} after {time.time()-start:.0f} s')


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--train', nargs='+', metavar='PLAN', help=f'plans to train, or all: {", ".join(PLANS)}')
    args = ap.parse_args(argv)
    for name in (PLANS if args.train == ['all'] else args.train or []): train(name)


if __name__ == '__main__': sys.exit(main())
