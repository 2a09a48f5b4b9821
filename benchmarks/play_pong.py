"""Can small policies play from scene descriptions? Pong and a catching game through the truth, through blobs, and through trained scene models

    python benchmarks/play_pong.py --out benchmarks/play_pong.json                   # learns from the truth, trains SPACE on the catching game, plays everything: about ten minutes of a quiet core
    python benchmarks/play_pong.py --out benchmarks/play_pong.json --only pong_scene --run runs/learn_objects/pong-space_moc-0   # only what a trained run sees; the rest is kept from the file

Policies of Pong are learned from true positions (linear, 6 parameters, cross-entropy method) and then play with other eyes. Every interval is a 95 % interval over games with seeds that nobody learned from.
"""
import argparse, json, platform, sys, time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
import numpy as np
from harness import TOP, machine, run_output

STICKY, TEST = .25, 10_000 # probability that the console repeats an action [Machado et al. 2018]; first seed of test games
ENEMY_COURT = dict(target='Enemy') # the enemy's paddle follows the ball
short = lambda v: None if v is None or v!=v else float(f'{v:.4g}')


def pong(**how):
    from vislearn.objects.atari import OcAtariSource
    return OcAtariSource('Pong', sticky=STICKY, **how)


def summary(scores, random=None):
    "Results of some games, and the margin over the random player."
    from vislearn.objects.play import interval, margin
    list_of = lambda i: [short(v) for v in i]
    out = dict(games=len(scores), reward=list_of(interval(scores)), won=short(np.mean([s.won for s in scores])), lost=short(np.mean([s.lost for s in scores])), steps=short(np.mean([s.steps for s in scores])),
               target_unseen=short(np.mean([s.unseen for s in scores])), rewards=[s.reward for s in scores])
    return out | (dict(margin_over_random=list_of(margin(scores, random))) if random else {})


def sharpness(source, perceiver, policy, court, steps, near, seed=TEST + 500):
    "What eyes see of a game that a policy plays from the truth: share of each kind that is found near its place, and how far off [px]."
    from vislearn.objects.play import TruthScene, Watch
    truth, watch, frame = TruthScene(source), Watch(court, source.reset(seed).shape[:2]), source.frame
    moves = [source.actions.index(m) for m in court.moves]; there, found, off, named = {}, {}, {}, {}
    for _ in range(steps):
        real, seen = truth(frame), perceiver(frame)
        for s in seen: named[s.label] = named.get(s.label, 0) + 1
        for thing in real:
            far = min((np.hypot(s.x - thing.x, s.y - thing.y) for s in seen if s.label==thing.label), default=np.inf)
            there[thing.label] = there.get(thing.label, 0) + 1
            if far<=near: found[thing.label] = found.get(thing.label, 0) + 1; off.setdefault(thing.label, []).append(far)
        frame, _, done = source.step(moves[policy(watch(real))])
        if done: frame = source.reset()
    return dict(frames=steps, near_px=near, recall={k: short(found.get(k, 0)/n) for k, n in sorted(there.items())}, median_off_px={k: short(np.median(v)) for k, v in sorted(off.items())}, named_per_frame={str(k): short(n/steps) for k, n in sorted(named.items(), key=lambda p: str(p[0]))})


def learned_pong(args, court, seed=0, poor=()):
    "A linear policy for Pong, learned from true positions, or from positions that are lost and wrong in known measure."
    from vislearn.objects.play import PONG, DrivePolicy, LossyScene, TruthScene, cross_entropy, evaluate_policy, n_weights
    source = pong(); truth, court, start = LossyScene(TruthScene(source), *poor) if poor else TruthScene(source), PONG._replace(**court), time.time()
    generations, population, steps = (2, 6, 150) if args.quick else (args.generations, 20, 1000)
    score = lambda W, g: np.array([np.mean([s.reward for s in evaluate_policy(source, truth, DrivePolicy(tuple(w)), court, [1000*(seed + 1) + g], steps)]) for w in W])
    got = cross_entropy(score, n_weights(), generations=generations, population=population, elite=.25, spread=15., start=np.array([50., 0, 0, 0, 0, 0]), seed=seed) # the start goes where the target is
    return dict(weights=[round(float(w), 3) for w in got.weights], mean_reward=[short(m) for m in got.mean], best_reward=[short(b) for b in got.best], generations=generations, population=population, steps_of_a_game=steps, seconds=short(time.time() - start))


def pong_learn(args, results):
    "Linear policies for Pong, learned from true positions by the cross-entropy method: one looks at the ball, one at the enemy's paddle only."
    return dict(ball=learned_pong(args, {}), enemy=learned_pong(args, ENEMY_COURT))


def pong_robust(args, results):
    "A linear policy for Pong that learned with poor eyes: true positions, of which a quarter is lost and the rest is off by 1.5 px (standard deviation, in x and in y)."
    return dict(ball=learned_pong(args, {}, poor=(.75, 1.5)))


def players(results):
    from vislearn.objects.play import DrivePolicy, FollowPolicy, RandomPolicy
    learned = {k: DrivePolicy(tuple(v['weights'])) for k, v in results['pong_learn']['values'].items()}
    robust = {'learned_robust': DrivePolicy(tuple(results['pong_robust']['values']['ball']['weights']))} if 'pong_robust' in results else {}
    return robust | dict(random=RandomPolicy(), follow=FollowPolicy(.02), learned=learned['ball'], learned_enemy=learned['enemy'])


def random_scores(args, source):
    from vislearn.objects.play import PONG, RandomPolicy, TruthScene, evaluate_policy
    return evaluate_policy(source, TruthScene(source), RandomPolicy(), PONG, range(TEST, TEST + args.games), args.steps)


def played(args, source, perceiver, policies, courts, old={}):
    "Games of some players; those that are in the file already are kept."
    from vislearn.objects.play import evaluate_policy
    random = random_scores(args, source)
    return dict(random=summary(random)) | {name: old.get(name) or summary(evaluate_policy(source, perceiver, policies[name], court, range(TEST, TEST + args.games), args.steps), random) for name, court in courts.items() if name in policies}


def pong_truth(args, results):
    "Games of Pong from true positions, read from the memory of the console."
    from vislearn.objects.play import PONG, TruthScene
    source = pong()
    return played(args, source, TruthScene(source), players(results), dict(follow=PONG, learned=PONG, learned_enemy=PONG._replace(**ENEMY_COURT)))


def pong_name(x, y, w, h):
    "What a blob of Pong is, by place and size [px]."
    if not 30<y<198: return None
    if abs(x - 18)<=3: return 'Enemy'
    if abs(x - 142)<=3: return 'Player'
    return 'Ball' if w<=4 and h<=6 else None


def pong_blobs(args, results):
    "The same policies through blobs: what differs from the still background, named by place and size. No memory of the console is read."
    from vislearn.objects.frames import play
    from vislearn.objects.motion import root_mode
    from vislearn.objects.play import PONG, BlobScene
    source = pong(); eyes = BlobScene(root_mode(play(source, 200, 1).frames), pong_name)
    policies = players(results)
    return dict(eyes=sharpness(source, eyes, policies['learned'], PONG, min(args.steps, 1000), 8)) | played(args, source, eyes, policies, dict(follow=PONG, learned=PONG, learned_enemy=PONG._replace(**ENEMY_COURT)))


def pong_scene(args, results):
    "The same policies through a scene model trained on Pong without labels; its codes are named by the classifier that the run has kept."
    from vislearn.objects.describe import Scene
    from vislearn.objects.play import PONG
    from vislearn.runs.record import Run
    run = Run(args.run); scene, source, policies = Scene(run), pong(), players(results)
    old = results.get('pong_scene', {}); same = not args.again and old.get('values', {}).get('scene', {}).get('run')==run.id and (old['config']['games'], old['config']['steps'])==(args.games, args.steps)
    old = old['values'] if same else {}; eyes = old.get('eyes') or sharpness(source, scene, policies['learned'], PONG, min(args.steps, 500), 8)
    courts = dict(learned_robust=PONG, learned=PONG, learned_enemy=PONG._replace(**ENEMY_COURT))
    about = dict(run=run.id, description=run.config.description, state=run.status['state'], step=run.status['step'], size=scene.model.cfg.size, G=scene.model.cfg.G, probe_examples=getattr(scene.probe, 'n', None))
    return dict(scene=about, eyes=eyes) | played(args, source, scene, policies, courts, old)


def catch_run(args):
    "SPACE with motion and continuity, trained on frames of the catching game without labels."
    from vislearn.objects.clips import record_clips
    from vislearn.objects.recipes import space_nano
    from vislearn.objects.train import train_space
    from vislearn.runs.record import Run
    from vislearn.synth.catch import CatchGame
    folder = TOP/'runs'/'play_pong'/('catch-quick' if args.quick else 'catch-space_moc-0'); steps = 300 if args.quick else 1500
    train, test = (record_clips(CatchGame(), n, trail=4, seed=seed, size=32, motion='root') for n, seed in ((400, 0), (64, 1)))
    if not (folder/'DONE').exists():
        cfg = space_nano('space_moc', steps=steps)
        cfg = cfg.replace(data=cfg.data.replace(root=str(TOP), common={}, train=cfg.data.train.replace(name='clips')), description='space_moc on the catching game')
        train_space(cfg, folder, policy='record', device='cpu', train=train, test=test)
    return Run(folder), test


def catch_scene(args, results):
    "The catching game: a linear policy learned from the truth plays from what SPACE with motion and continuity sees."
    from vislearn.objects.describe import Scene
    from vislearn.objects.evaluate import evaluate_space
    from vislearn.objects.play import CATCH, DrivePolicy, FollowPolicy, RandomPolicy, TruthScene, catch_scores, cross_entropy, evaluate_policy, n_weights
    from vislearn.synth.catch import CatchGame
    run, test = catch_run(args); scene, game = Scene(run), CatchGame(); scores = evaluate_space(scene.model.encode, test).scores['relevant']
    got = cross_entropy(lambda w, g: catch_scores(w, range(1000 + 4*g, 1004 + 4*g)), n_weights()); learned = DrivePolicy(tuple(got.weights))
    seeds = range(TEST, TEST + 2*args.games); games = lambda eyes, policy: evaluate_policy(game, eyes, policy, CATCH, seeds, 256)
    random, truth = games(TruthScene(game), RandomPolicy()), TruthScene(game)
    return dict(scene=dict(run=run.id, step=run.status['step'], fscore=short(scores['fscore']), few_shot_16=short(scores['few_shot_accuracy_with_16'])), eyes=sharpness(game, scene, learned, CATCH, 500, 4), random=summary(random),
                truth_follow=summary(games(truth, FollowPolicy()), random), truth_learned=summary(games(truth, learned), random), scene_follow=summary(games(scene, FollowPolicy()), random), scene_learned=summary(games(scene, learned), random))


GROUPS = {f.__name__: f for f in (pong_learn, pong_robust, pong_truth, pong_blobs, pong_scene, catch_scene)}


def told(name, values):
    "Lines for a reader."
    for player, v in values.items():
        if 'reward' not in v: continue
        m = v.get('margin_over_random')
        print(f"{name:12} {player:16} {v['reward'][0]:+6.1f} ({v['reward'][1]:+.1f} to {v['reward'][2]:+.1f})" + (f'   beats random by {m[0]:+.1f} ({m[1]:+.1f} to {m[2]:+.1f})' if m else ''), file=sys.stderr, flush=True)


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--out', type=Path, help='JSON file to write, part by part; default: print')
    ap.add_argument('--only', nargs='+', choices=list(GROUPS), default=list(GROUPS), help='parts; the others are kept from the file')
    ap.add_argument('--run', type=Path, default=TOP/'runs'/'learn_objects'/'pong-space_moc-0', help='run of SPACE on Pong, see learn_objects.py')
    ap.add_argument('--games', type=int, default=10, help='test games of each player')
    ap.add_argument('--steps', type=int, default=3000, help='steps of a game of Pong at most; it ends with 21 points, too')
    ap.add_argument('--generations', type=int, default=15, help='of the cross-entropy method')
    ap.add_argument('--again', action='store_true', help='let players play through the same run once more')
    ap.add_argument('--quick', action='store_true', help='a check that everything runs, not a result')
    args = ap.parse_args(argv)
    if args.quick: args.games, args.steps = 2, 100
    page = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    results = page.get('results', {})
    for name in args.only:
        if name=='pong_scene' and not (args.run/'manifest.json').exists(): print(f'{name}: skipped, there is no run {args.run.name}: train it with learn_objects.py', file=sys.stderr); continue
        start = time.time(); values = GROUPS[name](args, results)
        info = dict(commit=run_output('git', 'rev-parse', 'HEAD'), dirty=bool(run_output('git', 'status', '--porcelain', '-uno')), date=datetime.now(timezone.utc).isoformat(timespec='seconds'), quick=args.quick, seconds=round(time.time() - start, 1))
        results[name] = dict(info, about=' '.join(GROUPS[name].__doc__.split()), config=dict(sticky=STICKY, frameskip=4, games=args.games, steps=args.steps, first_test_seed=TEST), values=values); told(name, values)
        page = dict(version=1, command='python benchmarks/play_pong.py', hardware=machine(), versions=dict(python=platform.python_version(), vislearn=version('vislearn'), **{p: version(p) for p in ('torch', 'numpy', 'ale-py')}), results=results)
        if args.out: args.out.write_text(json.dumps(page, indent=1) + '\n')
    if not args.out: print(json.dumps(page, indent=1))


if __name__ == '__main__': sys.exit(main())
