"""Does behaviour cloning learn something real? Policies that imitate experts in simulators, from the true state, from pretrained, self-made and random features, and real steering

    python benchmarks/learn_control.py --train calibration             # a part, one training after the other; what is finished is skipped
    python benchmarks/learn_control.py --train ImageNav-svg-0          # one training: `<row>-<seed>`, or all seeds of a row
    python benchmarks/learn_control.py --tried imagenav                # what the settings were chosen by: candidates on other episodes than the reported ones
    python benchmarks/learn_control.py --out benchmarks/control_learning.json   # tables of all that is finished

Everything lands in runs/learn_control: demonstrations and features (cache), the encoders that are trained here (eyes), and one run folder per training with the table of its test episodes.
Needs `pip install vislearn[minigrid,mujoco,atari,miniworld]`. Sizes are for a few CPU cores. Policies are those of the last epoch: nothing is chosen by the reported episodes.
"""
import argparse, json, os, re, sys, time
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TOP), str(TOP/'benchmarks')]
RUNS = TOP/'runs'/'learn_control'
TEST, VALID = 2_000_000, 1_000_000 # first seeds of reported episodes, and of those that settings are chosen by; demonstrations begin at 0
SEEDS = (0, 1, 2)


class Row(NamedTuple):
    "One row of a table: a representation in an environment, trained with several seeds."
    part:str
    env:str
    eyes:str # 'state', an encoder's name, 'svg' or 'space' (trained here on frames of `env`), 'terrain' (trained here on patches of ground); 'random<n>' gets the seed of the policy
    n:int # Demonstrations
    how:dict # Arguments of `config`
    episodes:int # Reported episodes per seed
    options:dict = {} # Of the environment
    bar:float|None = None # Success, or R2, that the project wants
    expert:dict = {} # Arguments of `make_expert`


def config(env, eyes, seed, core='mlp', widths=(256, 256, 256), loss='auto', epochs=100, bs=256, lr=1e-3, decay=0., stack=1, stack_mode='cat', proprio=False, window=32, schedule='constant', batch_norm=True):
    "A config of `control.bc`: features of frames, or the true state."
    from vislearn.control.recipes import BcModel, bc_recipe
    from vislearn.control.windows import BcData
    from vislearn.runs.config import Optim
    state = eyes=='state'; optim = Optim(name='adamw', lr=lr, params=dict(weight_decay=decay)) if decay else Optim(name='adam', lr=lr)
    data = BcData(mode='window' if core=='lstm' else 'step', window=window, obs='state' if state else 'pixels', stack=1 if state else stack, stack_mode=stack_mode, proprio=proprio and not state)
    model = BcModel(core=core, widths=list(widths), layers=1, act='relu', squash=loss!='mse', batch_norm=batch_norm)
    cfg = bc_recipe(env, None if state else see(eyes, env), model=model, batches=data, common=dict(encoder_seed=seed) if eyes.startswith('random') else {}, loss=loss, epochs=epochs, bs=bs, optim=optim, schedule=schedule, seed=seed, description=f'{env} from {eyes}')
    return cfg.replace(log=cfg.log.replace(tensorboard=False), checkpoint=cfg.checkpoint.replace(keep_last=1))


# what is learned, and how

DRAWER, BUTTON, BALL, NAV = 'MetaWorld-drawer-open', 'MetaWorld-button-press', 'BabyAI-GoToRedBall-v0', 'ImageNav-one_room'
MSE = dict(loss='mse', epochs=100)
SMALL = MSE | dict(schedule='linear', bs=64) # small batches, see `button-256` and `button-64` in TRIED
FLARE = MSE | dict(stack=3, stack_mode='diff', proprio=True) # CortexBench: batch norm, 3 x 256, three frames as differences, what the robot feels
MEMORY = dict(core='lstm', widths=[256], window=32, epochs=20, bs=16)

ROWS = {
    'drawer-state': Row('calibration', DRAWER, 'state', 50, SMALL, 50, bar=1.),
    'button-state': Row('calibration', BUTTON, 'state', 50, SMALL, 50, bar=1.),
    'drawer-random4': Row('calibration', DRAWER, 'random4', 25, FLARE | dict(bs=64), 25, dict(size=64), .9),
    'button-random4': Row('calibration', BUTTON, 'random4', 25, FLARE | dict(bs=64), 25, dict(size=64), .9),
    'ball-random4': Row('calibration', BALL, 'random4', 1000, MEMORY, 100, dict(size=64), .5),
    'nav-state': Row('calibration', NAV, 'state', 1000, dict(epochs=15, schedule='linear'), 100, bar=.95),
}


LINE = dict(epochs=12, schedule='linear', widths=[256, 256], bs=256)
CALM = LINE | dict(decay=1.) # the settings of ImageNav that did best on other episodes, see TRIED
MANY = dict(every=4) # of each episode every fourth step: less to embed
ROWS |= {f'nav-{name}': Row('imagenav', NAV, eyes, n, CALM, 100, options, bar) for name, eyes, n, options, bar in (
    ('mobilenet', 'mobilenet@block6:grid4', 5000, {}, .6), ('squeezenet', 'squeezenet@fire9:grid4', 2000, MANY, None), ('mobilenet-few', 'mobilenet@block6:grid4', 2000, MANY, None), ('random4-few', 'random4', 2000, MANY, None), ('svg', 'svg@maps:grid4', 5000, {}, None), ('space', 'space', 5000, {}, None), ('random4', 'random4', 5000, {}, None))} # one of them is to reach 0.6; SqueezeNet is slow on a CPU and sees a tenth of the steps, as do the rows `few`

CART, CAR, DOOR, KEY, PONG, REACHER, HAND = 'CartPole-v1', 'MountainCar-v0', 'MiniGrid-DoorKey-5x5-v0', 'MiniGrid-DoorKey-8x8-v0', 'Atari-PongDeterministic-v4', 'DMC-reacher-easy', 'Adroit-door'
MOTION = dict(stack=3, stack_mode='diff') # speeds are seen in differences
GRID = 'mobilenet@block6:grid4'
FAMILIES = { # a name, environment, demonstrations, settings, episodes, options; its pretrained features
    'cart': (CART, 20, dict(epochs=30) | MOTION, 20, dict(size=64, max_steps=200), 'mobilenet'),
    'car': (CAR, 25, dict(epochs=12) | MOTION, 20, dict(size=64), GRID),
    'door': (DOOR, 300, MEMORY, 50, dict(size=64), 'mobilenet'),
    'key': (KEY, 300, MEMORY, 50, dict(size=64, max_steps=200), GRID),
    'ball': (BALL, 1000, MEMORY, 50, dict(size=64), GRID),
    'pong': (PONG, 5, dict(epochs=15) | MOTION, 5, dict(size=64, max_steps=500), GRID),
    'reacher': (REACHER, 60, MSE | MOTION | dict(epochs=20, schedule='linear', decay=1.), 20, dict(size=64, max_steps=150), GRID),
    'hand': (HAND, 14, MSE | MOTION, 10, dict(size=64, max_steps=100), GRID), # planning is slow, so there are few demonstrations, which end when the door is open
    'meta': (DRAWER, 25, FLARE, 10, dict(size=64), GRID),
    'few': (DRAWER, 5, FLARE | dict(bs=32), 10, dict(size=64), GRID)} # R3M: 5 to 25 demonstrations, batches of 32; its video model is that of `meta`
for name, (env, n, how, episodes, options, pretrained) in FAMILIES.items():
    for who, eyes in (('truth', 'state'), ('mobilenet', pretrained), ('random', 'random4'), ('svg', 'svg@maps:grid4')) + (('terrain', 'terrain'),)*(name=='ball'): ROWS[f'{name}-{who}'] = Row('families', env, eyes, n, how, episodes, options)
ROWS |= {f'drive-{name}': Row('steering', 'donkeycar', name, 800, {}, 200, bar=bar) for name, bar in (('squeezenet', .8), ('mobilenet', None), ('random4', None))}


def demos(row):
    "Demonstrations of a row: of the expert, recorded once; `every` keeps each so-many-th step, from many more episodes."
    from vislearn.control.collect import collect
    how = dict(row.options); every = how.pop('every', 1)
    if (push := how.pop('push', None)) is not None: return pushed_walks(row.n, every, push=push)
    trajs = collect(row.env, row.n, row.expert, options=dict(how, pixels=row.eyes!='state' or row.part in ('families', 'tried')), workers=2) # representations of a family see the very same episodes
    return trajs if every==1 or row.eyes=='state' else thin(trajs, every)


def thin(trajs, every):
    "Keep each so-many-th step of every episode: for policies without memory, as much to learn from in fewer frames that must be embedded."
    import numpy as np
    from vislearn.control.trajs import write_trajs
    def some():
        for i in range(len(trajs)):
            t, rows = trajs[i], slice(i % every, None, every)
            if i % every<len(t.action): yield t._replace(**{k: np.asarray(v)[rows] for k, v in t._asdict().items() if k in ('action', 'frames', 'state', 'proprio', 'reward') and v is not None})
    return write_trajs(trajs.card.name, dict(thin=every, of=trajs.path.name), some, trajs.card, None, trajs.info, trajs.action_space)


def pushed_walks(n, every, seed=0, push=.12):
    "Walks of the planner that is pushed now and then: a random move, repeated up to six times, is made instead of its own, and it corrects that. What is recorded is always its own choice [DART, arXiv:1703.09327]. Only kept steps are drawn."
    import numpy as np
    from vislearn.control.envs import make_env
    from vislearn.control.experts import make_expert
    from vislearn.control.trajs import Traj, write_trajs
    from vislearn.control.wrappers import ExpertFailed
    from vislearn.core import progress, sample_rng
    eye, env, expert = make_env(NAV), make_env(NAV, pixels=False), make_expert(NAV); world = env.unwrapped; camera = eye.unwrapped.camera
    def walk(k):
        obs, _ = env.reset(seed=k); expert.reset(env, k); rng, left, steps = sample_rng(seed, k, 7), 0, []
        while len(steps)<120:
            action = expert.act(env, obs); steps.append((world.pos.copy(), world.heading, obs['state'], action))
            if not left and rng.random()<push: left, odd = int(rng.integers(1, 7)), int(rng.integers(3))
            if left: left -= 1; action = odd; expert.todo.clear()
            obs, _, ended, cut, _ = env.step(action)
            if ended or cut: break
        kept = steps[k % every::every]
        return kept and Traj(np.array([a for *_, a in kept]), np.stack([camera(*pos, heading) for pos, heading, *_ in kept]), camera(*world.goal, world.goal_heading), np.stack([s for _, _, s, _ in kept]), success=True, seed=k, name=f'pushed walk {k}')
    def walks():
        made, k = 0, seed
        with progress(range(n), 'pushed walks') as bar:
            while made<n:
                try: t = walk(k)
                except ExpertFailed: t = None
                k += 1
                if t: made += 1; bar.update(1); yield t
    trajs = write_trajs(NAV, dict(pushed=push, n=n, every=every, seed=seed), walks, eye.get_wrapper_attr('card'), None, dict(expert='rooms.planner, pushed'), eye.action_space)
    eye.close(); env.close()
    return trajs


# encoders that are trained here, on frames of the demonstrations

def films(trajs, least=8):
    "Episodes as films, discrete actions as one number each."
    import numpy as np
    from vislearn.clips import Clips
    actions = np.asarray(trajs.action, np.float32) if trajs.action_space[0]!='discrete' else np.eye(trajs.action_space[1], dtype=np.float32)[np.asarray(trajs.action)]
    actions[trajs.starts + trajs.lengths - 1] = 0 # nothing follows the last frame
    return Clips(trajs.frames, actions, trajs.starts, trajs.lengths, trajs.names).select(np.flatnonzero(trajs.lengths>=least))


def small_svg(act_dim, epochs=4, nf=8, g_dim=64):
    "Deterministic video prediction with actions: 2 seen and 6 predicted frames, 100 batches of 16 clips per epoch."
    from vislearn.runs.config import Schedule
    from vislearn.video.recipes import SVGTraining, VideoData, svg_recipe
    from vislearn.video.svg import SVGConfig
    model = SVGConfig(channels=3, n_past=2, n_future=6, g_dim=g_dim, z_dim=0, prior='none', actions='raw', act_dim=act_dim, nf=nf, rnn_size=128, predictor_rnn_layers=1)
    cfg = svg_recipe('clips', '<made>', model, SVGTraining(), VideoData(epoch_size=100), epochs=epochs, bs=16, lr=1e-3, seed=1, description='frames of a simulator')
    return cfg.replace(schedule=Schedule(name='flat_cos'), log=cfg.log.replace(tensorboard=False), checkpoint=cfg.checkpoint.replace(every_epochs=None, keep_last=1))


EPOCHS = {NAV: 12} # of the video model; elsewhere 4
def grow_svg(env, trajs, folder):
    "Train a small video model on the frames of the demonstrations."
    import numpy as np
    from vislearn.video.train import train_svg
    f = films(trajs); held = max(1, len(f)//25)
    return train_svg(small_svg(f.act_dim, EPOCHS.get(env, 4), 16 if env==NAV else 8), folder, train=f.select(np.arange(len(f) - held)), test=f.select(np.arange(len(f) - held, len(f))), device='cpu', policy='record')


def grow_space(env, trajs, folder, steps=600, n=600):
    "Train a small SPACE on single frames of the demonstrations: 64 pixels, 8x8 cells, 600 batches of 4 clips with 4 frames; the camera moves, so motion gives no hints."
    from vislearn.objects.clips import record_clips
    from vislearn.objects.frames import ClipSource
    from vislearn.objects.recipes import space_moc_sprites
    from vislearn.objects.train import train_space
    train, test = (record_clips(ClipSource(films(trajs)), n, T=4, trail=0, seed=seed, size=64, motion='mode') for n, seed in ((n, 0), (64, 1)))
    cfg = space_moc_sprites('space', 1, steps=steps).replace(log=small_svg(1).log)
    return train_space(cfg.replace(data=cfg.data.replace(eval=None)), folder, train=train, test=test, device='cpu', policy='record')


def grow_terrain(env, trajs, folder):
    "Train an encoder of ground patches on simulated drives, which know nothing of other simulators: triplets of three grounds, 21 pixels a side."
    from vislearn.terrain.patches import toy_patchset
    from vislearn.terrain.rep import rep_recipe, train_rep
    return train_rep(rep_recipe('data', dim=64, seed=1).replace(log=small_svg(1).log), folder=folder, pset=toy_patchset(n=200), device='cpu')


GROWN = dict(svg=grow_svg, space=grow_space, terrain=grow_terrain)
def eye_folder(base, env):
    "Where an encoder is: one for each environment, or one for all where it is trained on something else."
    return RUNS/'eyes'/(base if base=='terrain' else f'{base}-{env}')


def see(eyes, env):
    "Name of an encoder as `make_encoder` takes it."
    base, at, layer = eyes.partition('@')
    return f'run:{eye_folder(base, env)}' + at + layer if base in GROWN else eyes


def grow(row):
    "Train the encoder of a row on its first 1000 demonstrations, all frames, if it is one of these and not there yet."
    base = row.eyes.partition('@')[0]; folder = eye_folder(base, row.env)
    if base not in GROWN or (folder/'DONE').exists(): return
    whole = demos(row._replace(n=min(row.n, 1000), options={k: v for k, v in row.options.items() if k not in ('every', 'push')}))
    GROWN[base](row.env, whole, folder)


# trainings, and the episodes they are judged by

def embedded_as(cfg, trajs):
    "Features of demonstrations, made once."
    from vislearn.control.demos import embedded
    from vislearn.control.recipes import bc_source
    return embedded(trajs, bc_source(cfg), 'cpu')


def play(actor, env, n, first, options, copies=8):
    "Episodes side by side in this process."
    from vislearn.control.rollout import EnvPool, evaluate
    with EnvPool(env, copies, workers=False, options=options) as pool: return evaluate(actor, pool, n, first)


def clocked(costs, name, work):
    "Note how long something takes [s], on the wall and of this process's processor."
    wall, cpu = time.time(), time.process_time(); out = work()
    costs[name] = [round(time.time() - wall, 1), round(time.process_time() - cpu, 1)]
    return out


def fit(row, seed, folder, first=TEST, episodes=None):
    "Train one policy, or go on with it; play; write table and costs."
    from vislearn.control.bc import bc_actor, load_bc, rollout_options, score_demos, train_bc
    from vislearn.control.recipes import bc_data
    if (folder/'table.json').exists(): return
    costs, how = {}, {k: v for k, v in row.how.items()}
    trajs = clocked(costs, 'collect', lambda: demos(row)); clocked(costs, 'eyes', lambda: grow(row))
    cfg = config(row.env, row.eyes, seed, **how)
    if row.eyes!='state': trajs = clocked(costs, 'embed', lambda: embedded_as(cfg, trajs))
    train, held = trajs.split(.05) if len(trajs)>19 else (trajs, None)
    run = clocked(costs, 'train', lambda: train_bc(cfg, folder, train=train, test=held, callbacks=[], device='cpu', policy='record', show=None))
    net, seen = load_bc(run, device='cpu'); options = {k: v for k, v in row.options.items() if k=='max_steps'} | rollout_options(cfg, seen)
    table = clocked(costs, 'play', lambda: play(bc_actor(cfg, net, seen), row.env, episodes or row.episodes, first, options))
    told = {} if held is None else {k: v for k, v in score_demos(net, held, bc_data(cfg)).items() if k in ('accuracy', 'mae', 'r2')}
    (folder/'costs.json').write_text(json.dumps(dict(seconds=costs, held_out=told, demos=len(trajs), steps=int(trajs.lengths.sum()), inputs=net.spec.dim)))
    table.save(folder/'table.json'); print(f'{folder.name}: {table}; held out {told}; {costs}', flush=True)


def baseline(row, who):
    "Play the episodes of a row with its expert, or at random."
    from vislearn.control.envs import make_env
    from vislearn.control.experts import make_expert, record_episode
    from vislearn.control.rollout import Episode, RandomActor, Rollouts
    from vislearn.control.wrappers import ExpertFailed
    file = RUNS/'baselines'/f'{row.env}-{who}.json'; file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists(): return
    options = {k: v for k, v in row.options.items() if k=='max_steps'} | dict(pixels=False); env, done = make_env(row.env, **options), []
    if who=='random': table = play(RandomActor(env.action_space), row.env, row.episodes, TEST, options)
    else:
        expert = make_expert(row.env, **row.expert)
        for seed in range(TEST, TEST + row.episodes):
            try: e = record_episode(env, expert, seed); done.append(Episode(seed, float(e.reward.sum()), len(e.action), None if e.success is None else bool(e.success)))
            except ExpertFailed: done.append(Episode(seed, 0., 0, False))
        table = Rollouts(env.get_wrapper_attr('card'), done)
    env.close(); table.save(file); print(f'{row.env}, {who}: {table}', flush=True)


# tables

def short(x): return float(f'{x:.4g}')


def told(tables):
    "Success (where it is defined) and return of the tables of some seeds: mean, and a 95 % interval over seeds and episodes."
    from vislearn.control.rollout import mean_interval
    groups = dict(success=[t.successes for t in tables], total=[t.returns for t in tables])
    return {k: [short(v) for v in mean_interval(g if len(g)>1 else g[0])] for k, g in groups.items() if all(v is not None for v in g)} | dict(per_seed={k: [short(v.mean()) for v in g] for k, g in groups.items() if all(v is not None for v in g)}, length=short(sum(e.length for t in tables for e in t.episodes)/sum(map(len, tables))))


def result(name):
    "Everything about one row, as far as its seeds are finished."
    from vislearn.control.rollout import Rollouts
    row = ROWS[name]; there = {s: RUNS/row.part/f'{name}-{s}' for s in SEEDS if (RUNS/row.part/f'{name}-{s}'/'table.json').exists()}
    if not there: return None
    tables, costs = [Rollouts.load(f/'table.json') for f in there.values()], {s: json.loads((f/'costs.json').read_text()) for s, f in there.items()}
    out = dict(env=row.env, eyes=row.eyes, demos=costs[min(costs)]['demos'], steps=costs[min(costs)]['steps'], inputs=costs[min(costs)]['inputs'], episodes=row.episodes, seeds=list(there), how=row.how, options=row.options) | told(tables)
    out |= dict(held_out={s: {k: short(v) for k, v in c['held_out'].items() if not k.startswith('r2_')} for s, c in costs.items()}, seconds={s: c['seconds'] for s, c in costs.items()})
    return out if row.bar is None else out | dict(bar=row.bar, met=out['success'][0]>=row.bar)


# settings that were tried, on other episodes than the reported ones

LONG = dict(core='lstm', widths=[256], window=64, epochs=8, bs=16, schedule='linear')
NAVS = { # name: eyes, demonstrations, options, settings
    'random4-1000': ('random4', 1000, {}, LINE), 'random4-5000': ('random4', 5000, dict(every=4), LINE), 'random3-5000': ('random3', 5000, dict(every=4), LINE),
    'random4-lstm': ('random4', 5000, {}, LONG), 'svg-lstm': ('svg', 5000, {}, LONG), 'mobilenet6-lstm': ('mobilenet@block6:grid4', 5000, {}, LONG), 'random4-all': ('random4', 5000, {}, CALM), 'svg-maps-all': ('svg@maps:grid4', 5000, {}, CALM), 'mobilenet6-all': ('mobilenet@block6:grid4', 5000, {}, CALM), 'mobilenet6-20000': ('mobilenet@block6:grid4', 20000, dict(every=8, push=0.), CALM),
    'random4-pushed': ('random4', 8000, dict(every=6, push=.12), LINE), 'svg-pushed': ('svg', 8000, dict(every=6, push=.12), LINE), 'mobilenet6-pushed': ('mobilenet@block6:grid4', 8000, dict(every=6, push=.12), LINE),
    'mobilenet6-decay': ('mobilenet@block6:grid4', 5000, dict(every=4), CALM),
    'mobilenet6-5000': ('mobilenet@block6:grid4', 5000, dict(every=4), LINE), 'svg-5000': ('svg', 5000, dict(every=4), LINE), 'svg-5000-all': ('svg', 5000, {}, LINE)}
TRIED = {n: Row('tried', NAV, eyes, many, how, 60, options) for n, (eyes, many, options, how) in NAVS.items()}
CANDIDATES = { # of families, seed 0, 20 episodes: eyes, demonstrations, settings, options
    'car': (('truth', 'state', 50, dict(epochs=30) | MOTION, {}), ('random4', 'random4', 50, dict(epochs=30) | MOTION, {}), ('grid', GRID, 50, dict(epochs=30) | MOTION, {})),
    'key': (('truth', 'state', 300, MEMORY, {}), ('grid', GRID, 300, MEMORY, {}), ('gap', 'mobilenet', 300, MEMORY, {})),
    'ball': (('grid', GRID, 1000, MEMORY, {}), ('gap', 'mobilenet', 1000, MEMORY, {}), ('svg', 'svg', 1000, MEMORY, {}), ('svg-maps', 'svg@maps:grid4', 1000, MEMORY, {})),
    'reacher': tuple((name, eyes, n, MSE | MOTION | how, dict(max_steps=150)) for name, eyes, n, how in (('truth', 'state', 20, dict(epochs=40)), ('grid', GRID, 20, dict(epochs=40)), ('truth-60', 'state', 60, dict(epochs=30, schedule='linear')),
        *((name, eyes, 60, dict(epochs=15, schedule='linear', decay=1.)) for name, eyes in (('random4-60', 'random4'), ('grid-60', GRID))), *((name, eyes, 60, dict(epochs=20, schedule='linear', decay=1.)) for name, eyes in (('truth-calm', 'state'), ('svg', 'svg'), ('svg-maps', 'svg@maps:grid4')))))}
TRIED |= {f'button-{bs}-seed{k}': Row('tried', BUTTON, 'state', 50, SMALL | dict(bs=bs), 50) for bs in (256, 64) for k in (0, 1)}
TRIED |= {f'{family}-{name}': Row('tried', FAMILIES[family][0], eyes, n, how, 20, dict(size=64) | options) for family, rows in CANDIDATES.items() for name, eyes, n, how, options in rows}


def tried():
    "What candidates reached."
    from vislearn.control.rollout import Rollouts
    out = {}
    for name, row in TRIED.items():
        if not (RUNS/'tried'/name/'table.json').exists(): continue
        costs = json.loads((RUNS/'tried'/name/'costs.json').read_text()); table = Rollouts.load(RUNS/'tried'/name/'table.json')
        out[name] = dict(env=row.env, eyes=row.eyes, demos=costs['demos'], steps=costs['steps'], inputs=costs['inputs'], how=row.how, options=row.options, episodes=len(table), held_out={k: short(v) for k, v in costs['held_out'].items()}) | told([table])
    return out


# a real car

def steer(name, seed, folder):
    "Train steering on the first 800 frames of a drive; R2 on the last 200."
    from vislearn.control.bc import load_bc, score_demos, train_bc
    from vislearn.control.demos import open_demos
    from vislearn.control.recipes import bc_data, bc_donkey
    from vislearn.core import real_data
    if (folder/'scores.json').exists(): return
    cfg = bc_donkey(real_data('robot_video/donkeycar_tub_1000.tar.gz'), ROWS[name].eyes, seed=seed); train, test = (embedded_as(cfg, t) for t in open_demos(cfg))
    run = train_bc(cfg, folder, train=train, test=test, callbacks=[], device='cpu', policy='record', show=None)
    scores = score_demos(load_bc(run, device='cpu')[0], test, bc_data(cfg)); (folder/'scores.json').write_text(json.dumps(scores)); print(f'{folder.name}: {scores}', flush=True)


def steered(name):
    "R2 of the seeds of a row."
    files = {s: RUNS/'steering'/f'{name}-{s}'/'scores.json' for s in SEEDS}; found = {s: short(json.loads(f.read_text())['r2']) for s, f in files.items() if f.exists()}
    return found and dict(eyes=ROWS[name].eyes, frames=800, test_frames=200, r2=found, mean=short(sum(found.values())/len(found))) | ({} if ROWS[name].bar is None else dict(bar=ROWS[name].bar, met=sum(found.values())/len(found)>=ROWS[name].bar))


PARTS = ('calibration', 'imagenav', 'families', 'steering')


def wanted(names):
    "Pairs of row and seed."
    out = []
    for asked in names:
        found = [(n, s) for n, r in ROWS.items() for s in SEEDS if asked in ('all', r.part, n, f'{n}-{s}') or r.part=='families' and n.startswith(asked + '-')]
        if not found: raise SystemExit(f'no row {asked!r}: {", ".join(PARTS)}, or one of {", ".join(ROWS)}, with -0, -1, -2 for one seed')
        out += sorted(found, key=lambda p: p[1])
    return out


def write(out):
    "Write all tables."
    from datetime import datetime, timezone
    from harness import machine, run_output
    from importlib.metadata import version
    results = {part: {n: r for n in ROWS if ROWS[n].part==part and (r := (steered if part=='steering' else result)(n))} for part in PARTS}
    base = {f.stem: told([load(f)]) for f in sorted((RUNS/'baselines').glob('*.json'))}
    page = dict(version=1, results=results, baselines=base, tried=tried(), command='python benchmarks/learn_control.py --train all --out benchmarks/control_learning.json', commit=run_output('git', 'rev-parse', 'HEAD'), date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        hardware=machine(), seeds=list(SEEDS), first_test_seed=TEST, first_valid_seed=VALID, versions={p: version(p) for p in ('torch', 'fastai', 'gymnasium', 'mujoco', 'dm_control', 'metaworld', 'minigrid', 'miniworld', 'ale-py')})
    out.write_text(re.sub(r'\[([^][{}]*)\]', lambda m: '[' + ' '.join(m[1].split()) + ']', json.dumps(page, indent=1)) + '\n') # innermost lists on one line


def load(file):
    "Read a table."
    from vislearn.control.rollout import Rollouts
    return Rollouts.load(file)


def main(argv=None):
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument('--train', nargs='+', default=[], metavar='WHAT', help=f'parts ({", ".join(PARTS)}), rows, or single trainings')
    ap.add_argument('--baselines', nargs='*', metavar='ENV', help='play with experts and at random; default: in all environments')
    ap.add_argument('--tried', nargs='*', metavar='NAME', help='train candidates; default: all')
    ap.add_argument('--out', type=Path, help='JSON file to write')
    args = ap.parse_args(argv)
    import torch
    torch.set_num_threads(1); os.environ.setdefault('VISLEARN_CACHE', str(RUNS/'cache')) # frames of games stay here
    for name in (TRIED if args.tried==[] else args.tried or []): fit(TRIED[name], int(name.endswith('-seed1')), RUNS/'tried'/name, VALID)
    for name, seed in wanted(args.train):
        row = ROWS[name]; folder = RUNS/row.part/f'{name}-{seed}'
        if row.part=='steering': steer(name, seed, folder)
        else: fit(row, seed, folder)
    if args.baselines is not None:
        for env, row in {r.env: r for r in ROWS.values() if r.part!='steering' and (not args.baselines or r.env in args.baselines)}.items():
            for who in ('random', 'expert'): baseline(row, who)
    if args.out: write(args.out)


if __name__ == '__main__': sys.exit(main())
