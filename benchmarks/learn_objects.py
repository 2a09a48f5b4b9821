"""Does SPACE-Time find real objects? Trainings with and without motion and continuity, and scores on clips never trained on

    python benchmarks/learn_objects.py --train nano-space_moc-0       # one training into runs/learn_objects, goes on if it was stopped
    python benchmarks/learn_objects.py --train nano                   # a group of them, one after the other: nano, sprites64, pong, boxing, mspacman, or all
    python benchmarks/learn_objects.py --out benchmarks/objects_learning.json   # scores of all trainings, as far as they are

A training is named by its clips, the variant of the losses, and the seed. Sizes are for single CPU cores (see the functions below); with a GPU use the recipes as they are.
"""
import argparse, json, sys, time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP/'benchmarks')]
RUNS = TOP/'runs'/'learn_objects'
VARIANTS, SEEDS, GAMES = ('space', 'space_m', 'space_moc'), (0, 1, 2), ('Pong', 'Boxing', 'MsPacman')


def nano(variant, seed):
    "Sprites of 32 pixels, 16 cells, 1500 steps of 16 images: about a minute of one quiet core."
    from vislearn.objects.recipes import space_nano
    return space_nano(variant, seed)


def sprites64(variant, seed):
    "Sprites of 64 pixels, 64 cells, 600 steps of 16 images: some minutes of one core."
    from vislearn.objects.recipes import space_moc_sprites
    return space_moc_sprites(variant, seed, steps=600)


PLANS = {f'nano-{v}-{s}': (nano, v, s) for s in SEEDS for v in reversed(VARIANTS)}
PLANS |= {f'sprites64-{v}-{s}': (sprites64, v, s) for s in SEEDS for v in reversed(VARIANTS)}


def train(name):
    "Train one plan, or go on with it."
    from vislearn.objects.train import train_space
    make, *args = PLANS[name]; start = time.time()
    if (RUNS/name/'DONE').exists(): return
    run = train_space(make(*args), folder=RUNS/name, policy='record', device='cpu')
    print(f'{name}: {run.status["state"]} after {time.time()-start:.0f} s', flush=True)


def main(argv=None):
    groups = {name.partition('-')[0] for name in PLANS}
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--train', nargs='+', metavar='PLAN', help=f'plans to train, groups of them ({", ".join(sorted(groups))}), or all')
    args = ap.parse_args(argv)
    for asked in args.train or []:
        for name in PLANS if asked=='all' else [n for n in PLANS if n==asked or n.startswith(asked + '-')]: train(name)


if __name__ == '__main__': sys.exit(main())
