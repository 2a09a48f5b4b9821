"""Does SPACE-Time find real objects? Trainings with and without motion and continuity, and scores on clips never trained on

    python benchmarks/learn_objects.py --train nano-space_moc-0       # one training into runs/learn_objects, goes on if it was stopped
    python benchmarks/learn_objects.py --train nano                   # a group, one training after the other: nano, sprites64, pong, boxing, mspacman, or all
    python benchmarks/learn_objects.py --out benchmarks/objects_learning.json   # scores of all trainings that are finished

A training is named by its clips, the variant of the losses, and the seed. Sizes are for single CPU cores (see the functions below); with a GPU use the recipes as they are.
The games need `pip install vislearn[atari]` and, for the true boxes that scores are counted with, `pip install --no-deps ocatari==2.2.1`.
"""
import argparse, json, re, sys, time
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP/'benchmarks')]
RUNS = TOP/'runs'/'learn_objects'
VARIANTS, SEEDS, GAMES = ('space_moc', 'space_m', 'space'), (0, 1, 2), ('Pong', 'Boxing', 'MsPacman')
TEST = 256 # clips never trained on


def often(cfg, epoch):
    "Count objects after every epoch, and make epochs of so many steps."
    train = cfg.data.train
    return cfg.replace(rollout=cfg.rollout.replace(every=1), data=cfg.data.replace(train=train.replace(params=train.params | dict(epoch_size=epoch))), log=cfg.log.replace(tensorboard=False))


def nano(variant, seed):
    "Sprites of 32 pixels, a grid of 4x4 cells, 1500 steps of 4 clips with 4 frames: a minute of a quiet core."
    from vislearn.objects.recipes import space_nano
    return often(space_nano(variant, seed), 250)


def sprites64(variant, seed):
    "Sprites of 64 pixels, a grid of 8x8 cells, 600 steps of 4 clips with 4 frames: five minutes of a quiet core."
    from vislearn.objects.recipes import space_moc_sprites
    return often(space_moc_sprites(variant, seed, steps=600), 100)


def atari(game, variant, seed):
    "The game itself, played at random: frames of 64 pixels, small networks, a grid of 16x16 cells, 800 steps (MsPacman with its many objects: 1600) of 2 clips with 4 frames, 1000 clips: five or ten minutes of a quiet core."
    from vislearn.objects.recipes import space_atari
    return often(space_atari(game, variant, steps=1600 if game=='MsPacman' else 800, bs=2, n=1000, seed=seed, small=True), 200)


PLANS = {f'nano-{v}-{s}': (nano, v, s) for s in SEEDS for v in VARIANTS}
PLANS |= {f'sprites64-{v}-{s}': (sprites64, v, s) for s in SEEDS for v in VARIANTS}
PLANS |= {f'{g.lower()}-{v}-{s}': (atari, g, v, s) for s in SEEDS for g in GAMES for v in VARIANTS}
GROUPS = list(dict.fromkeys(name.partition('-')[0] for name in PLANS))


def test_clips(cfg, n=TEST):
    "Clips never trained on, with what can be found: in MsPacman no pills, of which there are 150, and ghosts and power pills in the frames in which they are drawn."
    from vislearn.objects.clips import ObjectClips
    from vislearn.objects.data import open_clips
    clips = open_clips(cfg.replace(data=cfg.data.replace(common=cfg.data.common | dict(n_test=n))), 'test')
    if cfg.data.common.get('game')!='MsPacman': return clips
    things = clips.things; power = things.label==clips.classes.index('PowerPill')
    wanted = things.hud | ((things.label!=clips.classes.index('Pill')) & (power & shown(clips) | ~power & things.visible))
    return ObjectClips(clips.frames, clips.maps, things.where(wanted), clips.marks, clips.background, clips.info)


def shown(clips):
    "Is there red, as in a power pill, in the middle of each thing? These blink, so a background made of the most frequent colours has them or not by chance."
    import numpy as np
    t = clips.things; x, y = ((t.xyxy[:, :2] + t.xyxy[:, 2:])/2*clips.size).astype(int).clip(0, clips.size - 1).T; red = np.asarray(clips.frames[:])[..., 0].reshape(-1, clips.size, clips.size)
    return red[t.frame, y, x]>80


def train(name):
    "Train one plan, or go on with it."
    from vislearn.objects.train import train_space
    if (RUNS/name/'DONE').exists(): return
    make, *args = PLANS[name]; start, cfg = time.time(), make(*args)
    run = train_space(cfg, folder=RUNS/name, policy='record', device='cpu', test=test_clips(cfg, 64))
    print(f'{name}: {run.status["state"]} after {time.time()-start:.0f} s', flush=True)


def short(x): return float(f'{x:.4g}')


def cost_of(run):
    "Steps, images and minutes of a training, from its own records."
    from vislearn.runs.metrics import read_jsonl
    rows = list(read_jsonl(run.dir/'metrics.jsonl')); cfg = run.config; times = [r['t'] for r in rows]; gaps = [b - a for a, b in zip(times, times[1:])]
    steps, typical = max(r['step'] for r in rows), sorted(gaps)[len(gaps)//2] # a pause between two attempts is no training
    return dict(steps=steps, images=steps*cfg.train.batch_size*4, minutes=short(sum(g for g in gaps if g<20*typical + 60)/60), threads=run.manifest['threads'], batch=cfg.train.batch_size, size=cfg.model.params['size'], G=cfg.model.params['G'], lr={k: o.lr for k, o in cfg.optim.items()}, seed=cfg.seed)


KEPT = dict(precision='precision', recall='recall', fscore='fscore', ap='ap_avg', error_rate='error_rate', **{f'few_shot_{n}': f'few_shot_accuracy_with_{n}' for n in (1, 4, 16, 64)}, ami='adjusted_mutual_info_score', ari='adjusted_rand_score')


def score_run(name):
    "All numbers of a training: relevant things of the test clips, recall of every class, and scores during training."
    from vislearn.objects.evaluate import evaluate_space
    from vislearn.objects.train import load_space
    from vislearn.runs.metrics import read_jsonl
    from vislearn.runs.record import Run
    run, clips = Run(RUNS/name), test_clips(Run(RUNS/name).config); got = evaluate_space(load_space(run, device='cpu').encode, clips, device='cpu'); rows = list(read_jsonl(run.dir/'metrics.jsonl'))
    scores = {k: short(got.scores['relevant'][v]) for k, v in KEPT.items() if got.scores['relevant'].get(v, float('nan'))==got.scores['relevant'].get(v)}
    curve = lambda split, keys: {k: [[r['step'], short(r[k])] for r in rows if r['split']==split and k in r] for k in keys}
    more = dict(examples=examples(run, got.found, clips)) if run.config.data.train.name=='sprites' and run.config.seed==0 else {}
    return dict(scores=scores, by_class={k: [short(share), int(n)] for k, (share, n) in got.by_class.items()}, curves=curve('eval', ('fscore', 'few_shot_16')) | curve('test', ('log_like', 'n_objects', 'hints_found')), training=cost_of(run)) | more


def examples(run, found, clips):
    "Boxes in the first frame of some test clips, and a map of 150 codes in two dimensions, to be drawn over sprites."
    import numpy as np
    from vislearn.objects.figures import code_map
    from vislearn.objects.probes import encodings
    first = np.arange(0, 6*clips.T, clips.T); rows = np.isin(found.frame, first); code, label, _ = encodings(found, clips.things); at = code_map(code[:150])
    at = (at - at.mean(0))/at.std()
    return dict(clips=[int(f) for f in first//clips.T], boxes=[[int(f)//clips.T, *map(short, b), short(p)] for f, b, p in zip(found.frame[rows], found.xyxy[rows], found.conf[rows])], codes=[[round(float(x), 2), round(float(y), 2), int(k)] for (x, y), k in zip(at, label)])


def about_clips(cfg):
    "The test clips, and how good their motion hints are."
    from vislearn.objects.motion import hit_scores
    clips = test_clips(cfg); things = clips.things.where(~clips.things.hud)
    return dict(clips=len(clips), frames=len(clips)*clips.T, things_per_frame=short(things.n/len(clips)/clips.T), motion=clips.info['motion'], hints={k: short(v) for k, v in hit_scores(clips.marks, things).items()})


def score(out, only):
    "Evaluate what is trained so far and write the file; trainings that are in it already are kept, unless they were trained again."
    from harness import machine, run_output
    from datetime import datetime, timezone
    import torch
    torch.set_num_threads(1)
    page = json.loads(out.read_text()) if out.exists() else dict(version=1, results={})
    for group in only:
        done = [n for n in PLANS if n.partition('-')[0]==group and (RUNS/n/'DONE').exists()]
        if not done: print(f'{group}: not trained yet'); continue
        make, *args = PLANS[done[0]]; old = page['results'].get(group, {})
        part = dict(about=' '.join(make.__doc__.split()), test=old.get('test') or about_clips(make(*args)), runs=old.get('runs', {}))
        for name in done:
            if name not in part['runs']: part['runs'][name] = score_run(name); print(name, part['runs'][name]['scores'], flush=True)
        part['runs'] = {n: part['runs'][n] for n in PLANS if n in part['runs']}; page['results'][group] = part
        page['results'] = {g: page['results'][g] for g in GROUPS if g in page['results']}
        page |= dict(command='python benchmarks/learn_objects.py --out benchmarks/objects_learning.json', commit=run_output('git', 'rev-parse', 'HEAD'), date=datetime.now(timezone.utc).isoformat(timespec='seconds'), hardware=machine(), versions=dict(torch=torch.__version__))
        out.write_text(re.sub(r'\[([^][{}]*)\]', lambda m: '[' + ' '.join(m[1].split()) + ']', json.dumps(page, indent=1)) + '\n') # innermost lists on one line


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--train', nargs='+', metavar='PLAN', help=f'plans to train (`<group>-<variant>-<seed>`), groups of them ({", ".join(GROUPS)}), or all')
    ap.add_argument('--out', type=Path, help='JSON file to write scores to')
    ap.add_argument('--only', nargs='+', choices=GROUPS, default=GROUPS, help='what to score')
    args = ap.parse_args(argv)
    for asked in args.train or []:
        names = [n for n in PLANS if asked=='all' or n==asked or n.startswith(asked + '-')]
        if not names: ap.error(f'no plan {asked!r}: try nano-space_moc-0, pong, or all')
        for name in names: train(name)
    if args.out: score(args.out, args.only)


if __name__ == '__main__': sys.exit(main())
