"Training of SVG: it learns, goes on exactly, takes every option, and refuses what does not fit before anything is made."
import os, signal, subprocess, sys, textwrap, time
import numpy as np, pytest, torch
from vislearn.clips import Clip, Clips, write_clips
from vislearn.core import ConfigError, DataError
from vislearn.learn import fit_run
from vislearn.nets import state_digest
from vislearn.runs.config import RECIPES, Schedule, find_recipe, find_task, resolve
from vislearn.runs.metrics import read_jsonl
from vislearn.runs.record import Run
from vislearn.video.data import Augment, VideoData, open_films, train_batches, valid_batches
from vislearn.video.recipes import SVGTraining, svg_recipe
from vislearn.video.svg import SVGConfig
from vislearn.video.train import check_config, load_svg, svg_learner, train_svg

SMALL = SVGConfig(nf=4, g_dim=16, z_dim=3, rnn_size=16, n_past=2, n_future=3)


def small(epochs=2, epoch_size=6, bs=4, model=SMALL, training=SVGTraining(), data={}, **more):
    return svg_recipe('smmnist', model=model, training=training, data=VideoData(epoch_size=epoch_size, valid_films=8, **data), common=dict(digits='sklearn'), epochs=epochs, bs=bs, **more)


def discs(n=6, T=6, size=56, actions=True):
    "Films of a disc that moves by its actions, 4 channels."
    rng = np.random.default_rng(0); y, x = np.mgrid[:size, :size]
    for i in range(n):
        move = rng.uniform(-4, 4, (T - 1, 2)); at = np.cumsum(np.vstack([rng.uniform(18, 38, 2), move]), 0)
        frame = np.uint8(255*np.exp(-((x - at[:, :1, None])**2 + (y - at[:, 1:, None])**2)/40))
        yield Clip(np.repeat(frame[..., None], 4, -1), np.float32(move) if actions else None, f'disc {i}')


def test_V15_100_steps_beat_copying_the_last_frame():
    cfg = small(epochs=1, epoch_size=100, bs=16, model=SVGConfig(nf=8, g_dim=64, z_dim=8, rnn_size=64, predictor_rnn_layers=1, n_past=3, n_future=5))
    learn = svg_learner(cfg, device='cpu'); fit_run(learn, None, 1, 'constant')
    got = learn.measure()['mse_step']; x = torch.cat([x for x, _ in learn.dls.valid]).float()/255
    copy = float(((x[:, 3:] - x[:, 2:3])**2).mean())
    assert got < .6*copy, f'reconstruction {got:.4f}, copying the last seen frame {copy:.4f}'


def test_the_registered_names_lead_here():
    task = find_task('video.svg'); assert [resolve(place) for place in task] == [train_svg, load_svg, check_config]
    for name in ('svg_lp_smmnist', 'svg_fp_smmnist', 'svg_lp_bair', 'svg_lp_kth', 'svg_lp_fabric_v1', 'svg_lp_fabric_v2', 'svg_lp_cloth', 'svg_lp_bridge', 'svg_nano'):
        recipe = find_recipe(name); cfg = recipe('x') if name not in ('svg_lp_smmnist', 'svg_fp_smmnist', 'svg_nano') else recipe(); assert cfg.task == 'video.svg' and name in RECIPES; check_config(cfg)


@pytest.mark.parametrize('stop_at', [3, 9])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, stop_at):
    training = SVGTraining(beta_warmup=8, scheduled_sampling=.5, ema=.9); cfg = small(training=training).replace(schedule=Schedule(name='flat_cos'))
    whole = train_svg(cfg, out=tmp_path/'a', policy='record', device='cpu')
    class Stop(Exception): pass
    cfg = cfg.replace(checkpoint=cfg.checkpoint.replace(every_steps=1)); learn = svg_learner(cfg, device='cpu'); run = Run.create(cfg, tmp_path/'b', policy='record')
    step = learn.opt.step; count = [0]
    def stopping(*args, **kwargs):
        if count[0] == stop_at: raise Stop
        count[0] += 1; return step(*args, **kwargs)
    learn.opt.step = stopping
    with pytest.raises(Stop): fit_run(learn, run)
    again = train_svg(cfg, run.dir, device='cpu')
    one, two = whole.load(), again.load()
    assert state_digest(one['model']) == state_digest(two['model'])
    assert state_digest(one['trackers']['ema_cb']['mean']) == state_digest(two['trackers']['ema_cb']['mean'])


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path):
    code = textwrap.dedent('''
        import sys; sys.path.insert(0, "tests")
        from test_video_train import small, train_svg
        cfg = small(epochs=3, epoch_size=10); cfg = cfg.replace(checkpoint=cfg.checkpoint.replace(every_steps=2))
        train_svg(cfg, sys.argv[1], policy="record", device="cpu")''')
    start = lambda name: subprocess.Popen([sys.executable, '-c', code, str(tmp_path/name)], env=os.environ | dict(OMP_NUM_THREADS='1'), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    killed = start('killed'); whole = start('whole'); ckpt = tmp_path/'killed'/'ckpt'/'last.pt'; until = time.time() + 120
    while not ckpt.exists() and time.time() < until and killed.poll() is None: time.sleep(.02)
    time.sleep(.3); killed.send_signal(signal.SIGKILL); killed.wait()
    assert ckpt.exists() and not (tmp_path/'killed'/'DONE').exists()
    again = start('killed'); assert again.wait() == 0, again.stderr.read().decode()[-600:]
    assert whole.wait() == 0, whole.stderr.read().decode()[-600:]
    assert state_digest(Run(tmp_path/'killed').load()['model']) == state_digest(Run(tmp_path/'whole').load()['model'])


def test_workers_change_nothing(tmp_path):
    digest = []
    for workers in (0, 2):
        cfg = small(epochs=1); cfg = cfg.replace(data=cfg.data.replace(num_workers=workers))
        digest.append(state_digest(train_svg(cfg, out=tmp_path/str(workers), policy='record', device='cpu').load()['model']))
    assert digest[0] == digest[1]


OPTIONS = {'free bits': dict(training=SVGTraining(free_bits=.1)), 'optimal sigma': dict(training=SVGTraining(likelihood='optimal_sigma')), 'future only': dict(training=SVGTraining(loss_from='future')),
    'warm-up': dict(training=SVGTraining(beta_warmup=3)), 'own inputs': dict(training=SVGTraining(scheduled_sampling=1.)), 'averaged': dict(training=SVGTraining(ema=.5)), 'weights': dict(training=SVGTraining(channel_weights=[2.])),
    'fixed prior': dict(model=SMALL.replace(prior='fixed')), 'deterministic': dict(model=SMALL.replace(prior='none', z_dim=0)), 'last skip': dict(model=SMALL.replace(skip='last')), 'legacy skip': dict(model=SMALL.replace(skip='legacy')),
    'frame norm': dict(model=SMALL.replace(bn='frame')), 'concat': dict(model=SMALL.replace(split=False)), 'saves memory': dict(model=SMALL.replace(save_memory=True)), 'bf16': dict(amp='bf16'), 'one cycle': dict(schedule='one_cycle'), 'first': dict(data=dict(start='first'))}


@pytest.mark.parametrize('name', OPTIONS)
def test_every_option_trains(tmp_path, name):
    run = train_svg(small(epochs=1, epoch_size=3, **OPTIONS[name]), out=tmp_path, policy='record', device='cpu')
    rows = [r for r in read_jsonl(run.dir/'metrics.jsonl') if 'mse_step' in r or 'mse_step' in r.get('values', {})]
    model = load_svg(run); x = open_films(run.config, 'test', 5).batch([0, 1]); assert torch.isfinite(model(x)[0]).all() and rows


def test_other_optimizers_and_groups_train(tmp_path):
    from vislearn.runs.config import Optim
    for k, optim in enumerate((Optim(name='sgd', lr=.01), Optim(name='rmsprop', lr=1e-3), {g: Optim(name='adam', lr=1e-3) for g in ('coders', 'predictor', 'posterior', 'prior')})):
        run = train_svg(small(epochs=1, epoch_size=2).replace(optim=optim), out=tmp_path/str(k), policy='record', device='cpu'); assert run.status['state'] == 'finished'


def test_one_optimizer_equals_one_per_network(tmp_path):
    from vislearn.runs.config import Optim
    cfg = small(epochs=1, epoch_size=4); one = train_svg(cfg, out=tmp_path/'one', policy='record', device='cpu')
    groups = {g: Optim(name='adam', lr=2e-3, params=dict(fused=True)) for g in ('coders', 'predictor', 'posterior', 'prior')}
    many = train_svg(cfg.replace(optim=groups), out=tmp_path/'many', policy='record', device='cpu')
    for (k, a), b in zip(one.load()['model'].items(), many.load()['model'].values()): assert torch.allclose(a.float(), b.float(), atol=1e-6), k


def test_actions_are_learned_from(tmp_path):
    "The disc goes where its action says: with actions the error is far smaller than without."
    films = Clips.of(discs(40)); held = Clips.of(list(discs(60))[40:]); error = {}
    for actions in ('raw', 'none'):
        model = SVGConfig(image_width=56, channels=4, nf=8, g_dim=32, z_dim=0, prior='none', rnn_size=64, predictor_rnn_layers=1, n_past=1, n_future=5, actions=actions, act_dim=2)
        cfg = svg_recipe('clips', model=model, data=VideoData(epoch_size=120), epochs=1, bs=16)
        learn = svg_learner(cfg, films, held, 'cpu'); fit_run(learn, None, 1, 'flat_cos'); error[actions] = learn.measure()['mse_step']
    assert error['raw'] < .7*error['none'], error


@pytest.mark.parametrize('change, message', [
    (dict(data=dict(augment=Augment(flip=True)), model=SMALL.replace(actions='raw', act_dim=2)), 'a mirrored film does not fit its actions'),
    (dict(model=SMALL.replace(channels=3)), 'the network knows 3, the films of smmnist have 1'),
    (dict(model=SMALL.replace(image_width=128)), '128x128 pixels'),
    (dict(model=SMALL.replace(actions='raw')), 'no actions')])
def test_what_does_not_fit_leaves_nothing_behind(tmp_path, change, message):
    with pytest.raises((ConfigError, DataError), match=message): train_svg(small(**change), out=tmp_path/'runs', policy='record', device='cpu')
    assert not (tmp_path/'runs').exists()


def test_too_short_films_and_other_action_sizes(tmp_path):
    films = Clips.of(discs()); cfg = svg_recipe('clips', model=SMALL.replace(image_width=56, channels=4, n_past=3, n_future=7), bs=2)
    with pytest.raises(DataError, match='no film has the 10 frames that n_past'): svg_learner(cfg, films, films, 'cpu')
    cfg = svg_recipe('clips', model=SMALL.replace(image_width=56, channels=4, actions='learned'), bs=2)
    with pytest.raises(ConfigError, match='actions of 4 numbers, the films of clips have 2'): svg_learner(cfg, films, films, 'cpu')


def test_windows_of_a_stored_set_and_its_split(tmp_path):
    stored = write_clips('discs', {}, discs, tmp_path); cfg = svg_recipe('clips', stored.path, SMALL.replace(image_width=56, channels=4), data=VideoData(valid_share=.34, epoch_size=None), bs=2)
    train, test = open_films(cfg), open_films(cfg, 'test'); assert sorted(train.names + test.names) == stored.names and len(test) == 2
    for n, split in enumerate(('train', 'test')): write_clips('own', dict(n=n), lambda: (c for c in list(discs())[n:n + 2]), tmp_path).path.rename(tmp_path/split) # folders of their own: nothing more is held out
    own = cfg.replace(data=cfg.data.replace(root=str(tmp_path))); assert open_films(own).names == stored.names[:2] and open_films(own, 'test').names == stored.names[1:3]
    dl = train_batches(train, 5, 2, VideoData(epoch_size=None)); assert len(dl) == 2
    assert torch.equal(dl.batch(3, 1)[0], train_batches(train, 5, 2, VideoData(epoch_size=None)).batch(3, 1)[0])
    assert [len(b[0]) for b in valid_batches(test, 5, 8)] == [2]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    from vislearn.runs.local import spawn
    cfg = small(epochs=1, epoch_size=8, bs=4); run = Run.create(cfg, tmp_path, policy='record')
    assert spawn(run, 2, 0) == 0 and Run(run.dir).status['state'] == 'finished'
    load_svg(Run(run.dir))
