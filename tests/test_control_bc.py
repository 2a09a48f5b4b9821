"Cloning through runs: it learns, goes on exactly, in two processes, and refuses what does not fit."
import os
from types import SimpleNamespace
import numpy as np, pytest, torch
from pvr_reference import assemble, legacy_starts
from test_distrib import together
from vislearn.callbacks import CB
from vislearn.control import bc
from vislearn.control.bc import ActionR2, BcNet, bc_learner, check_config, load_bc, load_policy, random_shift, rollout_callbacks, rollout_options, score_demos, train_bc
from vislearn.control.demos import SideBySide, demo_encoder, embedded, open_demos
from vislearn.control.policies import Out, Policy, PolicySpec, bc_loss
from vislearn.control.recipes import BcModel, BcSource, bc_data, bc_eval, bc_nano, bc_recipe, bc_scratch
from vislearn.control.trajs import Traj, Trajs, make_trajs, toy_trajs, write_trajs
from vislearn.control.windows import BcData, WindowDL, steps_of
from vislearn.core import ConfigError, DataError
from vislearn.learn import fit_run
from vislearn.nets import state_digest
from vislearn.runs.config import Optim, Part, RunConfig, register_recipe, register_task
from vislearn.runs.edits import edit
from vislearn.runs.metrics import read_jsonl
from vislearn.runs.record import Run
from vislearn.synth.reach import ReachEnv

register_task('control.bc', *(f'vislearn.control.bc:{f}' for f in ('train_bc', 'load_policy', 'check_config')))
register_recipe('bc_nano', 'vislearn.control.recipes:bc_nano')
go = lambda cfg, **k: train_bc(cfg, device='cpu', policy='record', show=k.pop('show', None), **k)


def small(epochs=2, n=24, **more):
    return bc_nano(demos=n, epochs=epochs, **more)


def arrives(policy, seeds, kind='discrete', **env):
    "Share of episodes in which the most likely actions lead to the target."
    hits = 0
    for seed in seeds:
        world = ReachEnv(kind, pixels=False, **env); obs, info = world.reset(seed=seed); over, state = False, policy.initial(1)
        while not over:
            action, state = policy.act(torch.tensor(obs['state'])[None], state)
            obs, _, end, late, info = world.step(action[0].item() if kind == 'discrete' else action[0].numpy()); over = end or late
        hits += info['success']
    return hits/len(seeds)


@pytest.mark.parametrize('core', ['mlp', 'lstm'])
def test_P14_the_toy_task_is_learned(core, tmp_path):
    policy = load_policy(go(bc_nano(core=core, demos=300, epochs=25), out=tmp_path), device='cpu')
    assert arrives(policy, range(9000, 9060)) >= .9


def test_P14_continuous_actions_are_learned(tmp_path):
    cfg = bc_nano(kind='continuous', demos=300, epochs=15); run = go(cfg, out=tmp_path); net, seen = load_bc(run, device='cpu')
    assert arrives(net.policy, range(9000, 9040), 'continuous') >= .9 and seen['card']['name'] == 'Reach-continuous'
    got = score_demos(net, toy_trajs(40, 7000, 'continuous'), BcData(obs='state')); assert got['r2'] > .8 and got['mae'] < .2, got


def test_P14_pixels_through_frozen_features(tmp_path):
    "Random features of the toy's pictures, embedded once."
    run = go(bc_nano('pixels', 'random2', demos=150, epochs=10), out=tmp_path); rows = read_jsonl(run.dir/'metrics.jsonl')
    last = [r for r in rows if r['split'] == 'test'][-1]; assert last.get('accuracy', last.get('values', {}).get('accuracy', 0)) > .6, last


def test_lines_and_numbers_as_users_know_them(tmp_path):
    lines = []; run = go(small(3), out=tmp_path, show=lines.append); text = '\n'.join(lines).split('\n')
    assert text[0] == '======== Run Recap ========' and text[-1] == '=========== End ===========' and 'embedding: true_state' in text and 'environments: Reach-discrete' in text
    epochs = [l for l in text if l.startswith('   ### ')]; assert len(epochs) == 3 and epochs[0].startswith('   ### 1 | loss ') and ', norm ' in epochs[0]
    table = run.metrics(); norms = table.grad_norm.dropna() if 'grad_norm' in table else []; assert len(norms) == 3 and (norms > 0).all()


def test_the_norm_is_measured_before_it_is_cut(tmp_path):
    cfg = small(1); learn = bc_learner(cfg.replace(train=cfg.train.replace(clip_norm=1e-3)), device='cpu'); seen = []
    class Look(type(learn.bc_log_cb).__mro__[1]):
        order = 12
        def before_step(self): seen.append(float(torch.cat([p.grad.flatten() for p in self.model.parameters()]).norm()))
    learn.add_cb(Look()); fit_run(learn, None, 1, 'constant'); sums = learn.bc_log_cb.sums
    assert max(seen) < 1.01e-3 and float(sums[2]/sums[3]) > .05


@pytest.mark.parametrize('core, stop_at', [('mlp', 3), ('lstm', 3)])
def test_P11_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, core, stop_at):
    cfg = small(2, core=core); cfg = cfg.replace(checkpoint=cfg.checkpoint.replace(every_steps=1)); whole = go(cfg, out=tmp_path/'a')
    class Stop(Exception): pass
    learn = bc_learner(cfg, device='cpu'); run = Run.create(cfg, tmp_path/'b', policy='record'); step, count = learn.opt.step, [0]
    def stopping(*args, **kwargs):
        if count[0] == stop_at: raise Stop
        count[0] += 1; return step(*args, **kwargs)
    learn.opt.step = stopping
    with pytest.raises(Stop): fit_run(learn, run)
    again = go(cfg, folder=run.dir); assert state_digest(whole.load()['model']) == state_digest(again.load()['model'])
    losses = lambda r: [v for v in r.metrics().query("split == 'train'").loss.dropna()] if 'loss' in r.metrics() else []
    assert losses(whole) == losses(again) and losses(whole)


@pytest.mark.parametrize('change, message', [(dict(size=(48, 48)), 'dim was|size was'), (dict(n=30), 'episodes was')])
def test_P11_B14_a_run_does_not_go_on_with_other_demonstrations(tmp_path, change, message):
    toys = lambda **k: toy_trajs(**dict(n=24) | k); cfg = bc_nano('pixels', 'random1', epochs=1); run = go(cfg, out=tmp_path, train=toys())
    (run.dir/'DONE').unlink()
    with pytest.raises(ConfigError, match=message) as e: go(cfg, folder=run.dir, train=toys(**change))
    assert '\n' not in str(e.value) and 'began with other demonstrations' in str(e.value)


def test_a_run_does_not_go_on_with_another_set_of_equal_size(tmp_path):
    "Equal card, episodes, steps and sizes; only the content differs. A run of before content was noted goes on, and so does one whose store has grown or moved."
    toys = toy_trajs(24); cfg = bc_nano('pixels', 'random1', epochs=1); run = go(cfg, out=tmp_path, train=toys); (run.dir/'DONE').unlink()
    for name, change in dict(action=1 - toys.action[:]%2, frames=255 - toys.frames[:]).items():
        with pytest.raises(ConfigError, match=f'began with other demonstrations: content of {name} was'): go(cfg, folder=run.dir, train=toys.with_columns(**{name: change.astype(toys.arrays[name].dtype)}))
    assert go(cfg, folder=run.dir, train=toy_trajs(40).select(np.arange(24))).status['state'] == 'finished' # the same episodes of a larger set
    old = go(cfg, out=tmp_path, train=toys); (old.dir/'DONE').unlink(); state = old.load(); kept = state['trackers']['bc_log_cb']['seen']; assert set(kept.pop('content')) == set(toys.arrays)
    learn = bc_learner(cfg, train=toys, device='cpu'); bc._same_demos(SimpleNamespace(id='old', ckpt=SimpleNamespace(empty=lambda: False), load=lambda: state), learn)


def test_skipped_frames_are_seen_as_they_were_recorded():
    "How they become one matters only where there are several."
    card = toy_trajs(2).card.as_dict(); cfg = bc_recipe('Reach-discrete', None, batches=BcData(obs='state'), episodes=2, evaluation=dict(options=dict(skip_mode='max')))
    assert rollout_options(cfg, dict(card=card | dict(skip=1)))['skip_mode'] == 'max' and rollout_options(cfg, dict(card=card | dict(skip=2, skip_mode='max')))['skip_mode'] == 'max'
    with pytest.raises(ConfigError, match='skip_mode is max, the demonstrations have last: they must agree'): rollout_options(cfg, dict(card=card | dict(skip=2)))


@pytest.mark.parametrize('params, message', [(dict(skip=2), 'the config says 2, Reach-discrete was recorded with 1 simulator steps'), (dict(size=[64, 64]), 'the config says 64x64 pixels, Reach-discrete was recorded with 32x32')])
def test_P11_B14_another_skip_or_size_is_refused_and_leaves_nothing(tmp_path, params, message):
    cfg = bc_nano('pixels', 'random1'); cfg = cfg.replace(data=cfg.data.replace(train=cfg.data.train.replace(params=cfg.data.train.params | params)))
    with pytest.raises(ConfigError, match=message) as e: go(cfg, out=tmp_path/'runs')
    assert '\n' not in str(e.value) and not (tmp_path/'runs').exists()


def test_workers_change_nothing(tmp_path):
    digests = []
    for workers in (0, 2): cfg = small(1); digests.append(state_digest(go(cfg.replace(data=cfg.data.replace(num_workers=workers)), out=tmp_path/str(workers)).load()['model']))
    assert digests[0] == digests[1]


@pytest.mark.parametrize('kind, core, loss', [('discrete', 'lstm', 'ce'), ('continuous', 'mlp', 'mse')])
def test_B5_two_processes_train_one_policy(tmp_path, kind, core, loss):
    "With memory, and with a loss that leaves log_std alone; the run is made first, as a launcher does."
    run = Run.create(small(2, kind=kind, core=core).replace(loss=Part(name=loss)), tmp_path, policy='record')
    def task(folder):
        kept = []
        class Keep(CB):
            def after_fit(self): kept.append(state_digest(self.learn.bare_model))
        go(None, folder=folder, callbacks=[Keep()]); return kept[0]
    one, two = together(task, 2, run.dir); assert one == two == run.digest() and Run(run.dir).status['state'] == 'finished' and run.manifest['world']['size'] == 2
    assert go(None, folder=run.dir).id == run.id


OPTIONS = {'legacy': dict(batches=BcData(mode='legacy', window=9, obs='state')), 'burn-in': dict(batches=BcData(window=4, burn_in=3, obs='state')), 'stacked memory': dict(batches=BcData(stack=2, window=9, obs='state')),
    'flare': dict(model=BcModel(core='mlp', widths=[16]), batches=BcData(mode='step', stack=3, stack_mode='diff', obs='state', proprio=True)), 'no norm': dict(model=BcModel(widths=[16], batch_norm=False), batches=BcData(obs='state')),
    'nothing held out': dict(batches=BcData(obs='state', valid_share=0.)), 'few': dict(batches=BcData(obs='state', num_trajectories=5)), 'mlp on windows': dict(model=BcModel(core='mlp', widths=[16]), batches=BcData(window=5, obs='state')),
    'stairs': dict(batches=BcData(obs='state'), stairs=True, schedule='linear', clip=40.), 'in batches': dict(batches=BcData(obs='state'), epochs=None, steps=7, eval_every=3), 'rmsprop': dict(batches=BcData(obs='state'), optim=Optim(name='rmsprop', lr=1e-3))}


@pytest.mark.parametrize('kind', ['discrete', 'continuous'])
@pytest.mark.parametrize('name', OPTIONS)
def test_every_option_trains(tmp_path, name, kind):
    cfg = bc_recipe('Reach', source='toy', common=dict(options=dict(n=16, kind=kind)), **dict(dict(model=BcModel(widths=[16], layers=1), epochs=2, bs=4), **OPTIONS[name]))
    run = go(cfg, out=tmp_path); policy = load_policy(run, device='cpu'); assert run.status['state'] == 'finished'
    actions, _ = policy.act(torch.zeros(3, policy.spec.dim), policy.initial(3)); assert torch.isfinite(actions.float()).all() and actions.shape[0] == 3


def test_an_encoder_is_trained_with_the_policy(tmp_path):
    cfg = bc_scratch('Reach-discrete', 'random1', stack=2, epochs=1, bs=16); cfg = cfg.replace(data=cfg.data.replace(train=Part(name='toy', params=cfg.data.train.params), common=cfg.data.common | dict(options=dict(n=6, goal=True))))
    learn = bc_learner(cfg, device='cpu'); before = {k: v.clone() for k, v in learn.model.encoder.named_parameters()}
    run = go(cfg, out=tmp_path); net, seen = load_bc(run, device='cpu'); assert seen['size'] == [32, 32]
    assert any(not torch.equal(before[k], v) for k, v in net.encoder.named_parameters())
    policy = load_policy(run, device='cpu'); toys = toy_trajs(3, goal=True)
    frames = torch.from_numpy(np.tile(np.concatenate([toys.frames[:][:2], np.repeat(toys.goals[:][:1], 2, 0)], -1), (1, 1, 1, 2))); assert policy.act(frames, policy.initial(2))[0].shape == (2,)
    with pytest.raises(ConfigError, match='proprio is known for frozen'): check_config(cfg.replace(data=cfg.data.replace(train=Part(name='toy', params=cfg.data.train.params | dict(proprio=True)))))


def test_trained_and_frozen_encoders_see_the_same():
    "Features through the trained path equal the features that are embedded in advance."
    toys = toy_trajs(5, goal=True); src = BcSource(encoder='random2'); encoder = demo_encoder(src, (32, 32))
    for mode in ('cat', 'diff'):
        data = BcData(window=6, stack=2, stack_mode=mode); raw = data.replace(stack_mode='cat'); frozen = WindowDL(steps_of(embedded(toys, src), data), 3, data, shuffle=False).batch(0, 0); frames = WindowDL(steps_of(toys, raw, True), 3, raw, shuffle=False).batch(0, 0)
        policy = Policy(PolicySpec(dim=frozen[0].shape[-1], n=4, widths=[8], layers=1)); net = BcNet(policy, encoder, 2, mode).eval(); plain = BcNet(policy).eval()
        with torch.no_grad(): assert (net(*frames[:3]).pred - plain(*frozen[:3]).pred).abs().max() < 1e-4


def test_several_environments_and_stores(tmp_path):
    "Two stores learned together; the number of demonstrations counts for each."
    for name, seed in (('Reach-a', 0), ('Reach-b', 50)):
        toys = toy_trajs(12, seed); stored = write_trajs(name, {}, lambda: iter(toys), root=tmp_path/'cache', card=toys.card, action_space=('discrete', 4)); os.symlink(stored.path, tmp_path/name)
    cfg = bc_recipe('Reach-a,Reach-b', None, tmp_path, batches=BcData(obs='state', num_trajectories=8, valid_share=0.), epochs=1); train, test = open_demos(cfg)
    assert len(train) == 16 and test is None and set(train.seeds) == {*range(8), *range(50, 58)}
    with pytest.raises(ConfigError, match="no demonstrations of 'Reach-c' .did you mean"): open_demos(bc_recipe('Reach-c', None, tmp_path, batches=BcData(obs='state')))
    assert go(cfg.replace(data=cfg.data.replace(mini=3)), out=tmp_path/'runs').status['state'] == 'finished'


def test_side_by_side_keeps_pictures_together():
    one, two = (demo_encoder(BcSource(encoder=e), (32, 32)) for e in ('random1', 'random2')); both = SideBySide([one, two]); x = torch.randint(0, 256, (3, 32, 32, 6), dtype=torch.uint8)
    z = both(x); assert z.shape == (3, both.out_dim(2)) and both(x[:0]).shape == (0, 2*both.dim)
    with torch.no_grad(): assert torch.allclose(z, torch.cat([e(x[..., c:c + 3].contiguous()) for c in (0, 3) for e in (one, two)], 1), atol=1e-5)


def test_r2_is_exact_over_batches():
    rng = np.random.default_rng(0); true = rng.normal(size=(50, 3)).astype(np.float32); pred = true + rng.normal(size=(50, 3)).astype(np.float32)*.5; score = ActionR2(true)
    parts = [(float(score(Out(torch.tensor(pred[a:b]), None, None), torch.tensor(true[a:b]))), b - a) for a, b in ((0, 7), (7, 40), (40, 50))]
    want = 1 - ((true - pred)**2).sum(0)/((true - true.mean(0))**2).sum(0); assert sum(v*n for v, n in parts)/50 == pytest.approx(want.mean(), abs=1e-5)


def test_frames_of_a_piece_move_alike_and_repeatably():
    x = torch.randint(0, 256, (4, 3, 20, 24, 6), dtype=torch.uint8); make = lambda s: random_shift(x, torch.Generator().manual_seed(s), 4); assert torch.equal(make(1), make(1)) and not torch.equal(make(1), make(2))
    y = make(3); found = []
    for b in range(4):
        fits = [(dy, dx) for dy in range(-4, 5) for dx in range(-4, 5) if torch.equal(y[b, :, 4:-4, 4:-4], x[b, :, 4 + dy:16 + dy, 4 + dx:20 + dx])]
        assert len(fits) == 1; found += fits
    assert len(set(found)) > 1


@pytest.mark.slow
def test_real_frames_steering_from_pretrained_features():
    "First 800 frames of a human's drive train, the last 200 test: at least 0.80; the same network with random weights explains nothing."
    from vislearn.control.recipes import bc_donkey, bc_source
    from vislearn.core import real_data
    from vislearn.control.encoders import embed_frames
    from vislearn.nets import freeze
    data = real_data('robot_video/donkeycar_tub_1000.tar.gz')
    if data is None: pytest.skip('no real data on this machine')
    cfg = bc_donkey(data); train, test = open_demos(cfg); assert (train.steps, test.steps) == (800, 200); found = {}
    chance = embed_frames(freeze(demo_encoder(bc_source(cfg), (120, 160), True, False)), np.asarray(train.frames[:]))
    for name, parts in dict(pretrained=[embedded(t, bc_source(cfg)) for t in (train, test)], random=[t.with_columns(emb=chance) for t in (train, test)]).items():
        found[name] = []
        for seed in (1, 2): cfg = bc_donkey(data, seed=seed); learn = bc_learner(cfg, *parts, device='cpu'); fit_run(learn, None, cfg.train.epochs, 'linear'); found[name].append(score_demos(learn.model, parts[1], bc_data(cfg))['r2'])
    assert min(found['pretrained']) >= .80 and max(found['random']) < .3, found


def speed(n_steps=2, width=256, dim=512, B=16, W=100):
    "Seconds per step: (the original's assembly and loop over time, ours)."
    import time
    torch.manual_seed(0); rng = np.random.default_rng(0); n = 60*W; trajs = Trajs.of([Traj(rng.integers(0, 3, W), emb=rng.normal(size=(W, dim)).astype(np.float32)) for _ in range(60)], action_space=('discrete', 3))
    make = lambda: Policy(PolicySpec(dim=dim, n=3, widths=[width, width], batch_norm=True)); took = []
    def slow(net, i):
        first = np.zeros(n, bool); first[::W] = True
        x, a, fresh = assemble([np.asarray(trajs.emb), np.asarray(trajs.action), first], legacy_starts(n, W, 0, range(16*(i % 3), 16*(i % 3) + B)), W); fresh[0] = True
        rows = net.normed(x.flatten(0, 1)); pred = step_loop_after(net, rows.view_as(x), fresh); return torch.nn.functional.cross_entropy(pred.flatten(0, 1), a.flatten())
    def step_loop_after(net, x, fresh):
        z, state, out = net.body(x), net.initial(x.shape[1]), []
        for t in range(len(x)): keep = (~fresh[t]).float()[None, :, None]; h, state = net.memory(z[t][:, None], tuple(s*keep for s in state)); out.append(h[:, 0])
        return net.head(torch.stack(out))
    dl = WindowDL(steps_of(trajs), B, BcData(window=W))
    def fast(net, i): x, real, counts, a = dl.batch(0, i % 3); return bc_loss(BcNet(net)(x, real, counts), a)
    for way in (slow, fast):
        net = make(); opt = torch.optim.RMSprop(net.parameters(), 1e-4); best = []
        for i in range(n_steps + 1): start = time.process_time(); loss = way(net, i); opt.zero_grad(); loss.backward(); opt.step(); best.append(time.process_time() - start)
        took.append(min(best[1:]))
    return took


def test_a_whole_step_is_faster_than_the_originals():
    slow, fast = speed(); print(f'step: {slow*1e3:.0f} ms -> {fast*1e3:.0f} ms, {slow/fast:.1f}x'); assert slow > 1.5*fast


def test_episodes_beside_training(tmp_path):
    "`data.eval` plays the policy as it was trained: from states, from frozen features with a goal and a history, and through its own encoder."
    from vislearn.control.results import bc_table
    for name, cfg in dict(state=small(2, 30), frozen=bc_nano('pixels', 'random1', demos=6, epochs=1), trained=bc_scratch('Reach-goal', 'random1', epochs=1, bs=32)).items():
        data = cfg.data.train.params | (dict(stack=2, stack_mode='diff') if name != 'state' else {}); goal = dict(n=6, goal=True) if name != 'state' else dict(n=30)
        common = cfg.data.common | dict(options=goal, env=['Reach-goal' if name != 'state' else 'Reach-discrete'])
        cfg = cfg.replace(data=cfg.data.replace(train=Part(name='toy', params=data), common=common, eval=Part(name='rollout', params=dict(episodes=2, concurrent=False, options=dict(max_steps=6)))))
        lines = []; run = go(cfg, out=tmp_path/name, show=lines.append); played = [l for l in lines if l.startswith('   ___ ')]; env = common['env'][0]
        assert len(played) == cfg.train.epochs + 1 and played[0].startswith(f'   ___ 0 | {env} : return ') and ', success ' in played[0], lines
        table = bc_table(run); assert np.isfinite(table[env]['episode_return']).all() and np.isfinite(table[env]['episode_success']).all() and len(table['epoch']) == cfg.train.epochs + 1
        assert sum(l.startswith("   ### ") for l in lines) == cfg.train.epochs


def test_a_number_that_never_changes_has_no_r2():
    "It is left out, and of nothing but such numbers only the distance is told."
    rng = np.random.default_rng(0); parts = [dict(state=rng.normal(size=(9, 3)).astype(np.float32), action=np.stack([rng.normal(size=9), np.full(9, .1), np.zeros(9)], 1).astype(np.float32)) for _ in range(5)]
    trajs = make_trajs([Traj(p['action'], state=p['state']) for p in parts]); net = BcNet(Policy(PolicySpec(dim=3, low=[-9.]*3, high=[9.]*3, core='mlp', widths=[4], batch_norm=False))); got = score_demos(net, trajs, BcData(obs='state', mode='step'))
    pred = net(torch.from_numpy(np.concatenate([p['state'] for p in parts]))[:, None]).pred.detach().numpy().reshape(45, 3); true = np.concatenate([p['action'] for p in parts])
    want = 1 - ((pred - true)**2).sum(0)[0]/((true - true.mean(0))**2).sum(0)[0]; assert set(got) == {'mae', 'r2', 'r2_0'} and got['r2'] == got['r2_0'] == pytest.approx(want, rel=1e-4)
    still = make_trajs([Traj(p['action']*0 + .3, state=p['state']) for p in parts]); assert set(score_demos(net, still, BcData(obs='state', mode='step'))) == {'mae'}


def test_actions_that_the_environment_refuses_are_found_before_training(tmp_path):
    "Also from Python: no run folder is made."
    good = toy_trajs(6, kind='continuous'); wide = make_trajs([t._replace(action=t.action*3) for t in good], action_space=('continuous', [-3., -3.], [3., 3.]))
    cfg = bc_nano(kind='continuous', demos=6, epochs=1); cfg = cfg.replace(data=cfg.data.replace(eval=Part(name='rollout', params=dict(episodes=1, concurrent=False))))
    with pytest.raises(DataError, match='demonstrations of Reach-continuous: action -?[0-9.]+ at step .* is outside the space, -1 to 1'): go(cfg, train=wide, out=tmp_path)
    with pytest.raises(DataError, match='demonstrations of Reach-continuous: actions are moves, the space is continuous'): go(cfg, train=toy_trajs(6), out=tmp_path)
    assert not list(tmp_path.iterdir())
    assert go(cfg, train=good, out=tmp_path).status['state'] == 'finished' and go(cfg.replace(data=cfg.data.replace(eval=None)), train=wide, out=tmp_path).status['state'] == 'finished' # nothing is played


@pytest.mark.parametrize('workers', [None, False, True, 2])
def test_the_config_says_how_many_processes_play(workers, tmp_path):
    cfg = bc_nano(demos=6, epochs=1); cfg = RunConfig(**edit(cfg.replace(data=cfg.data.replace(eval=Part(name='rollout', params=dict(episodes=2)))).model_dump(mode='json'), changes=[f'+data.eval.params.workers={"null" if workers is None else str(workers).lower()}']))
    [cb] = rollout_callbacks(cfg, None, dict(card=toy_trajs(2).card.as_dict())); assert cb.workers is workers and cb.concurrent and bc_eval(cfg).workers is workers
    with pytest.raises(ConfigError, match='workers'): bc_eval(cfg.replace(data=cfg.data.replace(eval=Part(name='rollout', params=dict(workers=-1)))))
