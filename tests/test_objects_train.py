"Training of SPACE and SPACE-Time: it learns, goes on exactly, takes every option, and refuses what does not fit before anything is made."
import os, signal, subprocess, sys, textwrap, time, warnings
import numpy as np, pytest, torch
from vislearn.core import ConfigError, DataError
from vislearn.learn import fit_run
from vislearn.nets import state_digest
from vislearn.objects.boxes import Things
from vislearn.objects.clips import ObjectClips
from vislearn.objects.data import ObjectsData, open_clips
from vislearn.objects.evaluate import evaluate_space
from vislearn.objects.recipes import space_nano, space_recipe
from vislearn.objects.space import SpaceConfig, ramp_value
from vislearn.objects.time import MocConfig
from vislearn.objects.train import GuideCB, HealthCB, check_config, load_space, space_learner, train_space
from vislearn.runs.config import Optim, Part, find_recipe, find_task, resolve
from vislearn.runs.metrics import read_jsonl
from vislearn.runs.record import Run

TINY = SpaceConfig.nano().replace(G=4)


def small(steps=4, epoch_size=4, bs=2, model=TINY, moc=MocConfig.nano(), common={}, **more):
    "Sprites of 32 pixels, very few of them."
    cfg = space_recipe('sprites', model=model, moc=moc, data=ObjectsData(epoch_size=epoch_size, valid_clips=4), common=dict(preset='nano', n=24, n_test=12) | common, steps=steps, bs=bs, lr=(3e-4, 1e-3), eval_clips=8, **more)
    return cfg.replace(log=cfg.log.replace(images=False, tensorboard=False))


def clips(N=6, T=4, S=32, marks=True, classes=True):
    "A square that walks over grey, with its box as truth and as hint."
    rng = np.random.default_rng(0); frames = np.full((N, T, S, S, 3), 90, np.uint8); maps = np.zeros((N, T, S, S), bool); box = np.zeros((N*T, 4), np.float32)
    for i in range(N):
        x, y = rng.integers(2, S//2, 2)
        for t in range(T):
            at = (i, t, slice(y + t, y + t + 6), slice(x + t, x + t + 6)); frames[at] = (230, 60, 60); maps[at] = True; box[i*T + t] = np.float32([x + t, y + t, x + t + 6, y + t + 6])/S
    things = Things(np.arange(N*T, dtype=np.int32), np.ones(N*T, np.int16), box, np.zeros(N*T, bool), np.ones(N*T, bool), np.ones(N*T, bool))
    return ObjectClips(frames, np.packbits(maps.reshape(N, T, -1), axis=-1), things if classes else Things.empty(), things._replace(label=np.zeros(N*T, np.int16)) if marks else Things.empty(), frames[0, 0], dict(classes=['no_label', 'square'] if classes else []))


def start(cfg, folder, **more): return train_space(cfg, folder=folder, policy='record', device='cpu', **more)


def test_the_registered_names_lead_here():
    assert [resolve(place) for place in find_task('objects.space')] == [train_space, load_space, check_config]
    for name in ('space_nano', 'space_moc_sprites', 'space_rooms_large', 'space_rooms_small', 'space_joint'):
        cfg = find_recipe(name)(); assert cfg.task == 'objects.space'; check_config(cfg)


def test_two_steps_move_foreground_and_background(tmp_path):
    cfg = small(2); run = start(cfg, tmp_path/'run'); new = load_space(run, device='cpu').state_dict(); old = space_learner(cfg, device='cpu').model.state_dict()
    moved = {k.split('.')[0] for k in new if new[k].is_floating_point() and not torch.equal(new[k], old[k])}
    assert moved >= {'fg_module', 'bg_module'} and run.status['state'] == 'finished' and run.load()['step'] == 2
    rows = {split: [r for r in read_jsonl(run.dir/'metrics.jsonl') if r['split'] == split] for split in ('train', 'test', 'eval')}
    assert {'loss', 'log_like', 'kl_all', 'pixel_mse', 'n_objects', 'coverage', 'hints_found'} <= set(rows['test'][-1])
    assert {'motion', 'continuity', 'lambda_align', 'elbo', 'health_objects'} <= set().union(*rows['train'])
    assert np.isfinite(rows['test'][-1]['loss'])


def test_the_reported_loss_is_that_of_the_model(tmp_path):
    run = start(small(2), tmp_path/'run'); net, test = load_space(run, device='cpu'), open_clips(run.config, 'test')
    rows = np.unique(np.linspace(0, len(test) - 1, 4).round().astype(int)); x = torch.from_numpy(np.moveaxis(test.frames[rows], -1, 2).copy())
    with torch.no_grad(): out = net(x)
    told = [r for r in read_jsonl(run.dir/'metrics.jsonl') if r['split'] == 'test'][-1]
    assert told['loss'] == pytest.approx(float(out.elbo_loss.mean()), rel=1e-4) and told['log_like'] == pytest.approx(float(out.log_like.mean()), rel=1e-4)


@pytest.mark.parametrize('stop_at', [3, 5])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, stop_at):
    cfg = small(8, moc=MocConfig(variance_steps=5, weight_images=8)) # the dynamic schedule remembers the last steps
    whole = start(cfg, tmp_path/'a')
    class Stop(Exception): pass
    cfg = cfg.replace(checkpoint=cfg.checkpoint.replace(every_steps=1)); learn = space_learner(cfg, device='cpu'); run = Run.create(cfg, folder=tmp_path/'b', policy='record')
    step, count = learn.opt.step, [0]
    def stopping(*args, **kwargs):
        if count[0] == stop_at: raise Stop
        count[0] += 1; return step(*args, **kwargs)
    learn.opt.step = stopping
    with pytest.raises(Stop): fit_run(learn, run)
    again = start(cfg, run.dir); one, two = whole.load(), again.load()
    assert state_digest(one['model']) == state_digest(two['model'])
    assert state_digest(one['trackers']['guide_cb']) == state_digest(two['trackers']['guide_cb']) and int(two['trackers']['guide_cb']['variance.count']) == 9


@pytest.mark.slow
def test_O16_a_killed_process_goes_on_to_the_same_bits(tmp_path):
    code = textwrap.dedent('''
        import sys; sys.path.insert(0, "tests")
        from test_objects_train import small, start
        cfg = small(36, epoch_size=12, bs=1); start(cfg.replace(checkpoint=cfg.checkpoint.replace(every_steps=2)), sys.argv[1])''')
    begin = lambda name: subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(tmp_path/name)], env=os.environ | dict(OMP_NUM_THREADS='1'), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    killed = begin('killed'); ckpt = tmp_path/'killed'/'ckpt'/'last.pt'; until = time.time() + 120
    while not ckpt.exists() and time.time() < until and killed.poll() is None: time.sleep(.02)
    time.sleep(.3); killed.send_signal(signal.SIGKILL); killed.wait()
    assert ckpt.exists() and not (tmp_path/'killed'/'DONE').exists()
    again, whole = begin('killed'), begin('whole')
    for p in (again, whole): assert p.wait() == 0, p.stderr.read().decode()[-600:]
    one, two = (Run(tmp_path/name) for name in ('killed', 'whole')); assert state_digest(one.load()['model']) == state_digest(two.load()['model'])
    told = [{r['step']: r['loss'] for r in read_jsonl(run.dir/'metrics.jsonl') if r['split'] == 'test'} for run in (one, two)]; assert told[0] == told[1] and len(told[0]) == 3


def test_ramps_and_loss_follow_the_step():
    model = TINY.replace(pres_prior=(0, 4, .1, .01), scale_prior=(1, 3, -1., -2.)); learn = space_learner(small(5, epoch_size=5, model=model), device='cpu'); seen = []
    class Look(GuideCB):
        order = 10
        def before_batch(self): net = self.learn.bare_model; seen.append((int(net.step), float(net.pres_prior), float(net.scale_prior), float(self.moc.step))) if self.training else None
    learn.add_cb(Look(learn.loss_func.moc)); fit_run(learn, None, 1, 'constant')
    assert [s[0] for s in seen] == [0, 1, 2, 3, 4] == [s[3] for s in seen] and int(learn.model.step) == 4 # tests do not move it
    assert np.allclose([s[1:3] for s in seen], [(ramp_value(model.pres_prior, k), ramp_value(model.scale_prior, k)) for k in range(5)])


def test_hints_reach_a_network_that_mixes_them():
    films = clips(); learn = space_learner(small(1, epoch_size=1, model=TINY.replace(direct_guidance=True, cooling=(0, 100)), bs=6), films, films, 'cpu'); outs = []
    class Look(GuideCB):
        order = 60
        def after_pred(self): outs.append(self.pred) if self.training else None
    learn.add_cb(Look(learn.loss_func.moc)); fit_run(learn, None, 1, 'constant')
    out, (pres, _) = outs[0], films.hints(4); assert out.z_pres_prob.shape[0] == 24 # at step 0 nothing but hints counts
    order = np.argsort((out.z_pres_prob.detach().numpy().reshape(6, -1)>.5) @ 2.**np.arange(64)); expected = np.argsort((pres.reshape(6, -1)>0) @ 2.**np.arange(64))
    got, want = (out.z_pres_prob.detach().numpy().reshape(6, 4, 16)>.5)[order], (pres>0)[expected]
    assert np.array_equal(got, want) and torch.allclose(out.alpha_map.sum((1, 2, 3)).sort().values, torch.full((24,), 36.))


def test_tests_see_no_hints():
    films = clips(); learn = space_learner(small(1, epoch_size=1, model=TINY.replace(direct_guidance=True, cooling=(0, 100)), bs=6), films, films, 'cpu'); outs = []
    class Look(GuideCB):
        order, run_valid = 60, True
        def before_batch(self): pass
        def after_pred(self): outs.append((self.pred, self.learn.bare_model(self.xb[0]))) if not self.training else None
    learn.add_cb(Look(learn.loss_func.moc)); fit_run(learn, None, 1, 'constant'); (out, plain), = outs
    assert torch.equal(out.z_pres_prob, out.z_pres_prob_pure) and torch.equal(out.alpha_map, plain.alpha_map)


def test_variants_differ_in_what_they_minimise(tmp_path):
    films, digest, told = clips(), set(), {}
    for v in ('space', 'space_m', 'space_moc'):
        run = start(small(3, moc=MocConfig.nano().variant(v).replace(motion_cooling_end_step=2)), tmp_path/v, train=films, test=films)
        digest.add(state_digest(run.load()['model'])); told[v] = {k: x for r in read_jsonl(run.dir/'metrics.jsonl') if r['split'] == 'train' for k, x in r.items()}
    assert len(digest) == 3
    assert told['space']['motion'] == 0 == told['space']['continuity'] and told['space_m']['motion'] > 0 == told['space_m']['continuity'] and told['space_moc']['motion'] > 0


def test_clips_without_hints_and_labels_train_plain_space(tmp_path):
    films = clips(marks=False, classes=False); run = start(small(2, moc=MocConfig().variant('space')), tmp_path/'run', train=films, test=films)
    rows = list(read_jsonl(run.dir/'metrics.jsonl')); assert run.status['state'] == 'finished' and any('objects' in r for r in rows if r['split'] == 'eval') and rows[-1]['split'] != 'train'


OPTIONS = {'sums': dict(moc=MocConfig(legacy_scale=True)), 'dynamic': dict(moc=MocConfig()), 'newer': dict(moc=MocConfig.newer()), 'wrap': dict(moc=MocConfig.nano().replace(wrap=True)), 'distance': dict(moc=MocConfig.nano().replace(cosine_sim=False, agree_sim=False)),
    'mixed alpha': dict(moc=MocConfig.nano().replace(alpha_target='mixed'), model=TINY.replace(direct_guidance=True)), 'other terms': dict(moc=MocConfig.nano().replace(adjacent_consistency_weight=1, pres_inconsistency_weight=1, area_pool_weight=1)),
    'terms without hints': dict(moc=MocConfig(motion_weight=0, area_object_weight=0, pres_inconsistency_weight=1)), 'continuity alone': dict(moc=MocConfig.nano().replace(motion_weight=0)), 'slow cooling': dict(moc=MocConfig.nano().replace(legacy_cooling=True)),
    'guidance': dict(model=TINY.replace(direct_guidance=True)), 'boundary': dict(model=TINY.replace(boundary_loss=True)), 'fixed alpha': dict(model=TINY.replace(fix_alpha_steps=3)), 'corners': dict(model=TINY.replace(align_corners=True)),
    'keeps memory': dict(model=TINY.replace(checkpoint=False)), 'temperature': dict(model=TINY.replace(tau=(0, 4, 2.5, .5))), 'fine grid': dict(model=TINY.replace(G=8)), 'large glimpses': dict(model=TINY.replace(glimpse=16)),
    'networks of the paper': dict(model=SpaceConfig(size=32, G=4, glimpse=16, K=2), steps=2, bs=1), 'motion input': dict(model=SpaceConfig(size=32, G=4, glimpse=16, K=2, motion_input=True), steps=2, bs=1), 'strong background': dict(model=SpaceConfig(size=32, G=4, glimpse=16, K=1), steps=2, bs=1), 'bf16': dict(amp='bf16'), 'single frames': dict(common=dict(T=1), moc=MocConfig().variant('space_m')), 'two frames': dict(common=dict(T=2))}


@pytest.mark.parametrize('name', OPTIONS)
def test_every_option_trains(tmp_path, name):
    run = start(small(**dict(dict(steps=3), **OPTIONS[name])), tmp_path/'run'); codes = load_space(run, device='cpu').encode(torch.from_numpy(np.moveaxis(open_clips(run.config, 'test').frames[:2][:, 0], -1, 1).copy()))
    assert run.status['state'] == 'finished' and all(torch.isfinite(c).all() for c in codes) and np.isfinite([r['loss'] for r in read_jsonl(run.dir/'metrics.jsonl') if 'loss' in r]).all()


def test_other_optimizers_and_settings_of_training_train(tmp_path):
    for k, (fg, bg) in enumerate((('adam', 'adam'), ('adamw', 'rmsprop'), ('sgd', 'sgd'))):
        cfg = small(2); cfg = cfg.replace(optim=dict(fg=Optim(name=fg, lr=1e-4), bg=Optim(name=bg, lr=1e-4)))
        assert start(cfg, tmp_path/str(k)).status['state'] == 'finished'
    for k, more in enumerate((dict(accumulate=2), dict(clip_norm=None), dict(eval_every=3), dict(max_steps=None, epochs=2))):
        cfg = small(4); run = start(cfg.replace(train=cfg.train.replace(**more)), tmp_path/f'more{k}'); assert run.status['state'] == 'finished' and load_space(run, best=True, device='cpu')


def test_workers_change_nothing(tmp_path):
    digest = [state_digest(start((cfg := small(3)).replace(data=cfg.data.replace(num_workers=w)), tmp_path/str(w)).load()['model']) for w in (0, 2)]
    assert digest[0] == digest[1]


def test_the_two_groups_have_their_rates(tmp_path):
    learn = space_learner(small(1, epoch_size=1), device='cpu'); rates = [g['lr'] for g in learn.opt.param_groups] if hasattr(learn.opt, 'param_groups') else None
    fit_run(learn, None, 1, 'constant'); groups = {id(p): h['lr'] for ps, h in zip(learn.opt.param_lists, learn.opt.hypers) for p in ps}
    assert {groups[id(p)] for p in learn.model.fg_module.parameters()} == {3e-4} and {groups[id(p)] for p in learn.model.bg_module.parameters()} == {1e-3}, rates


@pytest.mark.parametrize('change, message', [
    (lambda c: c.replace(data=c.data.replace(train=Part(name='sprits'))), "no clips 'sprits' .did you mean 'sprites'"),
    (lambda c: c.replace(data=c.data.replace(common=dict(preset='small', n=8, n_test=4))), 'knows 32x32 pixels, the clips of sprites have 64x64'),
    (lambda c: c.replace(data=c.data.replace(common=dict(preset='nano', n=8, n_test=4, T=1))), 'at least 2 frames'),
    (lambda c: c.replace(data=c.data.replace(common=dict(presett='nano'))), 'presett'),
    (lambda c: c.replace(data=c.data.replace(eval=Part(name='objects', params=dict(leave_out=['disk'])))), "leave_out: no class 'disk'.*these clips have"),
    (lambda c: c.replace(optim=Optim()), 'one optimizer for each of fg and bg, got a single one'),
    (lambda c: c.replace(optim=dict(fg=Optim(), back=Optim())), 'got fg, back'),
    (lambda c: c.replace(loss=Part(name='mocc')), "one loss, 'moc'")])
def test_what_does_not_fit_leaves_nothing_behind(tmp_path, change, message):
    with pytest.raises((ConfigError, DataError), match=message): train_space(change(small()), out=tmp_path/'runs', policy='record', device='cpu')
    assert not (tmp_path/'runs').exists()


def test_clips_without_motion_are_refused_where_it_is_needed(tmp_path):
    films = clips(marks=False)
    for moc, model in ((MocConfig.nano(), TINY), (MocConfig().variant('space'), TINY.replace(direct_guidance=True))):
        with pytest.raises(ConfigError, match='no motion hints, or nothing moves'): train_space(small(moc=moc, model=model), out=tmp_path/'runs', train=films, test=films, policy='record', device='cpu')
    assert not (tmp_path/'runs').exists()


def test_health_warns_once_and_only_after_the_start():
    films = clips(); learn = space_learner(small(4, epoch_size=1), films, films, 'cpu'); cb = HealthCB(after=2); learn.add_cb(cb)
    with torch.no_grad(): learn.model.fg_module.img_encoder.head.bias[0] = 20. # an object in every cell
    with warnings.catch_warnings(record=True) as heard: warnings.simplefilter('always'); fit_run(learn, None, 4, 'constant')
    ours = [str(w.message) for w in heard if 'steps' in str(w.message)]
    assert len([w for w in ours if 'too many objects' in w]) == 1 and ours[0].startswith('after 2 steps'), ours
    assert cb.read['present'] > .9


def test_pictures_tables_and_classifiers_are_kept(tmp_path):
    films = clips(12); cfg = small(2); cfg = cfg.replace(log=cfg.log.replace(images=True)); run = start(cfg, tmp_path/'run', train=films, test=films)
    names = {p.name for p in run.artifact('objects').rglob('*')}; assert {'scene_2.png', 'metrics.csv'} <= names, names


@pytest.mark.slow
def test_O16_nano_finds_sprites_and_knows_them_again(tmp_path):
    "Spec 16.2: two trainings of 1500 steps."
    world = lambda cfg: cfg.replace(data=cfg.data.replace(common=cfg.data.common | dict(n_test=256)))
    got = {}
    for v in ('space', 'space_moc'):
        cfg = space_nano(v, 0); cfg = cfg.replace(log=cfg.log.replace(images=False, tensorboard=False), data=cfg.data.replace(eval=None))
        got[v] = evaluate_space(load_space(start(cfg, tmp_path/v), device='cpu').encode, open_clips(world(cfg), 'test')).scores['relevant']
    moc, plain = got['space_moc'], got['space']
    assert moc['fscore'] >= .80 and moc['few_shot_accuracy_with_16'] >= .75, moc
    assert moc['fscore'] - plain['fscore'] >= .05, (moc['fscore'], plain['fscore'])


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    "One test batch for two processes: the one that has none must not fall behind."
    from vislearn.runs.local import spawn
    run = Run.create(small(8, epoch_size=8, bs=4), tmp_path, policy='record')
    assert spawn(run, 2, 0) == 0 and Run(run.dir).status['state'] == 'finished'
    assert load_space(Run(run.dir), device='cpu').step > 0
