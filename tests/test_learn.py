"Training: exact resume, determinism, frozen parts, precision, what a run folder says afterwards."
import os, random, signal, time
import numpy as np, pytest, torch
from fastai.data.load import DataLoader
from fastcore.basics import noop
from torch import nn
from vislearn.callbacks import CB, AmpCB, FrozenCB, ScheduleCB, schedule_factor
from vislearn.core import ConfigError, seed_all
from vislearn.learn import AugmentCB, BatchDL, EvalCB, fit_run, learner_options, make_learner, synth_learner
from vislearn.nets import state_digest
from vislearn.runs.config import Optim, RunConfig
from vislearn.runs.machine import seed_everything
from vislearn.runs.metrics import read_jsonl
from vislearn.runs.preempt import Preempted
from vislearn.runs.record import Run

def config(root, epochs=4, **changes):
    return RunConfig(**(dict(task='demo.line', description='test', data=dict(root=str(root), train=dict(name='t')), model=dict(name='m'), train=dict(epochs=epochs, batch_size=16), log=dict(tensorboard=False, every_steps=1)) | changes))

@pytest.fixture
def data(tmp_path): (tmp_path/'data').mkdir(); return tmp_path/'data'

def jitter(x, generator): return x + .1*torch.rand(x.shape, generator=generator)
def network(): return nn.Sequential(nn.Linear(1, 16), nn.BatchNorm1d(16), nn.Dropout(.3), nn.Linear(16, 1))
def learner(*cbs, slow=0., n_batches=16, **options):
    seed_everything(3); model = network()
    learn = synth_learner(n_batches=n_batches, model=model, cbs=[AugmentCB(jitter, seed=3), EvalCB(lambda l: dict(draw=torch.rand(1).item(), weight=l.model[0].weight.sum())), *cbs], **options)
    if slow:
        fn = learn.dls.train.fn; learn.dls.train.fn = lambda epoch, step: (time.sleep(slow), fn(epoch, step))[1]
    return learn

class StopCB(CB):
    "Raise at one step."
    def __init__(self, at, error=KeyboardInterrupt): self.at, self.error = at, error
    def after_batch(self):
        if self.learn.steps_done==self.at: raise self.error('stop')

def summary(run): # what must not depend on interruptions
    records = [{k: v for k, v in r.items() if k!='t'} for r in read_jsonl(run.dir/'metrics.jsonl')]
    return sorted(records, key=lambda r: (r['step'], r['split'], sorted(r)))

@pytest.fixture
def whole(tmp_path, data):
    run = Run.create(config(data, checkpoint=dict(every_steps=3)), out=tmp_path/'whole', policy='record'); return state_digest(fit_run(learner(), run).model), summary(run)

@pytest.mark.parametrize('stops', [[5], [16], [17], [1, 20, 40], [63], [64]])
def test_resume_is_exact(tmp_path, data, whole, stops):
    run = Run.create(config(data, checkpoint=dict(every_steps=3)), out=tmp_path/'runs', policy='record')
    for at in stops:
        with pytest.raises(KeyboardInterrupt): fit_run(learner(StopCB(at)), Run(run.dir))
        assert Run(run.dir).status['state']=='preempted'
    learn = fit_run(learner(), Run(run.dir))
    assert (state_digest(learn.model), summary(run))==whole
    assert len(run.manifest['attempts'])==len(stops) + 1 and run.status['state']=='finished'

def test_A15_sigkill_at_random_moments(tmp_path, data, whole):
    run, choice, kills = Run.create(config(data, checkpoint=dict(every_steps=3)), out=tmp_path/'runs', policy='record'), random.Random(1), 0
    for _ in range(6):
        pid = os.fork()
        if pid==0:
            try: fit_run(learner(slow=.02), Run(run.dir))
            finally: os._exit(0)
        time.sleep(choice.uniform(.15, .6)); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        kills += not (run.dir/'DONE').exists()
    assert kills>=3 and run.load()['step']>0
    learn = fit_run(learner(), Run(run.dir))
    assert (state_digest(learn.model), summary(run))==whole

def test_every_kind_of_state_is_resumed(tmp_path, data):
    options = dict(optim='sgd', optim_params=dict(momentum=.9), accumulate=2, clip_norm=.5, amp='bf16')
    def fit(run, *cbs): return fit_run(learner(*cbs, **options), run, schedule='plateau', schedule_params=dict(patience=0))
    cfg = config(data, checkpoint=dict(every_steps=4)); whole = fit(Run.create(cfg, out=tmp_path/'a', policy='record'))
    run = Run.create(cfg, out=tmp_path/'b', policy='record')
    with pytest.raises(KeyboardInterrupt): fit(run, StopCB(37))
    again = fit(Run(run.dir)); assert state_digest(again.model)==state_digest(whole.model) and again.opt.hypers[0]['lr']==whole.opt.hypers[0]['lr']

def test_A16_truncated_last_checkpoint_still_gives_the_same_end(tmp_path, data, whole):
    run = Run.create(config(data, checkpoint=dict(every_steps=3)), out=tmp_path/'runs', policy='record')
    with pytest.raises(KeyboardInterrupt): fit_run(learner(StopCB(29)), run)
    last = run.dir/'ckpt'/'last.pt'; bytes_ = last.read_bytes(); last.unlink(); last.write_bytes(bytes_[:-200])
    with pytest.warns(UserWarning, match='using prev.pt'): learn = fit_run(learner(), Run(run.dir))
    assert (state_digest(learn.model), summary(run))==whole

def test_A18_finished_run_is_left_alone(tmp_path, data):
    run = Run.create(config(data, 2), out=tmp_path/'runs', policy='record'); done = fit_run(learner(), run)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.dir.rglob('*') if p.is_file()}
    again = fit_run(learner(), Run(run.dir))
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.dir.rglob('*') if p.is_file()}==before and state_digest(again.model)==state_digest(done.model)

def test_A31_same_config_same_bits(tmp_path, data):
    runs = [Run.create(config(data), out=tmp_path/'runs', policy='record') for _ in range(2)]
    assert len({state_digest(fit_run(learner(), run).model) for run in runs})==1
    assert summary(runs[0])==summary(runs[1]) and len({r.manifest['threads']['torch_num_threads'] for r in runs})==1
    seed_everything(4); other = network(); seed_everything(3); assert state_digest(network())!=state_digest(other)

def test_prefetch_and_evaluation_change_nothing(tmp_path, data):
    plain = learner(); plain.fit(2); ahead = learner(); ahead.dls.train.prefetch = True; ahead.fit(2)
    quiet = learner(); quiet.remove_cbs([cb for cb in quiet.cbs if isinstance(cb, EvalCB)]); quiet.fit(2)
    assert state_digest(plain.model)==state_digest(ahead.model)==state_digest(quiet.model)

def test_checkpoint_fields(tmp_path, data):
    run = Run.create(config(data, 2), out=tmp_path/'runs', policy='record'); fit_run(learner(), run)
    state = torch.load(run.dir/'ckpt'/'last.pt', weights_only=True)
    assert set('format run_id config_hash epoch iter step model optim scaler ema schedule rng_epoch rng_now loader recorder trackers select world versions'.split()) <= set(state)
    assert (state['epoch'], state['iter'], state['step'], state['world'])==(2, 0, 32, 1) and len(state['recorder']['losses'])==32 and set(state['recorder'])=={'values', 'losses', 'lrs', 'iters', 'smooth'}
    assert set(state['select'])=={'metric', 'best', 'epoch'} and state['select']['metric']=='test_loss'

def test_run_folder_after_training(tmp_path, data):
    run = Run.create(config(data, 12, log=dict(tensorboard=True, every_steps=4)), out=tmp_path/'runs', policy='record'); fit_run(learner(n_batches=4), run); frame = run.metrics()
    assert sorted(p.name for p in (run.dir/'ckpt').iterdir())==['best.pt', 'epoch-0009.pt', 'index.json', 'last.pt', 'prev.pt'] and list((run.dir/'tb'/'0').iterdir()) and (run.dir/'DONE').exists()
    for split, name, n in (('train', 'batch_loss', 13), ('train', 'loss', 12), ('test', 'loss', 12), ('eval', 'weight', 12)): assert frame[frame.split==split][name].notna().sum()==n
    assert not frame.melt(['t', 'step', 'epoch', 'split']).dropna().duplicated(['step', 'split', 'variable']).any()
    test = frame[frame.split=='test'].loss; assert run.ckpt.index['best']['epoch']==int(np.argmin(test)) + 1
    assert len((run.dir/'metrics.csv').read_text().splitlines())==13

@pytest.mark.parametrize('metric,mode,epochs', [('eval_score', 'max', 2), ('eval_score', 'min', 0), ('auto', 'min', 0)])
def test_A13_selection(tmp_path, data, metric, mode, epochs):
    run = Run.create(config(data, 4, select=dict(metric=metric, mode=mode)), out=tmp_path/'runs', policy='record'); scores = [1., 2., 5., 3.]
    name = 'score' if metric!='auto' else 'loss' # eval_loss beats test_loss
    learn = synth_learner(cbs=[EvalCB(lambda l: {name: scores[l.epoch]})]); fit_run(learn, run); assert run.load('best')['epoch'] - 1==epochs

def test_unknown_metric_is_found_out_after_one_epoch(tmp_path, data):
    run = Run.create(config(data, 4, select=dict(metric='test_los')), out=tmp_path/'runs', policy='record')
    with pytest.raises(ConfigError, match="did you mean 'test_loss'"): fit_run(synth_learner(), run)
    assert run.status['state']=='failed' and 'test_los' in run.status['error']

def test_errors_keep_their_words(tmp_path, data):
    def bad(learn): raise ValueError
    with pytest.raises(ValueError): synth_learner(cbs=[EvalCB(bad)]).fit(1) # fastai alone gives IndexError
    with pytest.raises(RuntimeError, match='^stop$'): synth_learner(cbs=[StopCB(2, RuntimeError)]).fit(1)

class Costs(nn.Module):
    "A frozen encoder and a head, as the cost of terrain has them."
    def __init__(self): super().__init__(); self.encoder = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Dropout(.5)); self.head = nn.Linear(4, 1)
    def forward(self, x): return self.head(self.encoder(x))

def test_frozen_is_bit_identical():
    seed_all(0); free = Costs(); before = state_digest(free.encoder); synth_learner(model=free).fit(1); assert state_digest(free.encoder)!=before
    seed_all(0); model = Costs(); before, head = state_digest(model.encoder), state_digest(model.head)
    learn = synth_learner(model=model, cbs=[FrozenCB(model.encoder)]); learn.fit(2)
    assert state_digest(model.encoder)==before and state_digest(model.head)!=head and model.head.training is False
    assert sum(len(group['params']) for group in learn.opt.opt.param_groups)==2 # only the head
    only_grad = Costs(); only_grad.encoder.requires_grad_(False); before = state_digest(only_grad.encoder); synth_learner(model=only_grad).fit(1); assert state_digest(only_grad.encoder)!=before # the bug
    class Thaw(CB):
        order = -7
        def before_batch(self): model.encoder.train()
    with pytest.raises(RuntimeError, match='a frozen Sequential changed'): synth_learner(model=model, cbs=[FrozenCB(model.encoder), Thaw()]).fit(1)

class Tiny(nn.Module):
    "A convolution that remembers the type of its output."
    def __init__(self): super().__init__(); self.conv, self.out = nn.Conv2d(1, 4, 3), nn.Linear(4, 1)
    def forward(self, x): y = self.conv(x[:, :, None, None].expand(-1, -1, 3, 3)); self.kind = y.dtype; return self.out(y.flatten(1))

def test_A28_bf16_on_cpu():
    seed_all(0); model = Tiny(); learn = synth_learner(model=model, amp='bf16'); learn.fit(3)
    assert model.kind==torch.bfloat16 and {p.dtype for p in model.parameters()}=={torch.float32} and not torch.is_autocast_enabled('cpu')
    seed_all(0); exact = Tiny(); full = synth_learner(model=exact); full.fit(3)
    assert exact.kind==torch.float32 and abs(learn.recorder.values[-1][1] - full.recorder.values[-1][1])<.1 and learn.recorder.values[-1][1]<1
    assert state_digest(model)!=state_digest(exact) and learn.get_preds()[0].dtype==torch.float32
    with pytest.raises(ConfigError, match='CUDA'): AmpCB('fp16', 'cpu')

def test_autocast_ends_when_a_model_fails():
    class Broken(nn.Linear):
        def forward(self, x): raise RuntimeError('boom')
    with pytest.raises(RuntimeError, match='boom'): synth_learner(model=Broken(1, 1), amp='bf16').fit(1)
    assert not torch.is_autocast_enabled('cpu')

def test_accumulation_is_the_mean_of_batches():
    def fit(bs, n, accumulate):
        seed_all(0); xs = torch.randn(64, 1); model = nn.Linear(1, 1)
        def part(epoch, step): x = xs[step*bs:(step + 1)*bs]; return x, 3*x
        make_learner(model, nn.functional.mse_loss, BatchDL(part, n), lr=.1, wd=0., optim='sgd', accumulate=accumulate, device='cpu').fit(1); return model.weight.item()
    assert abs(fit(8, 8, 4) - fit(32, 2, 1))<1e-6 and abs(fit(8, 8, 4) - fit(8, 8, 1))>1e-3

def test_torch_defaults_and_decay():
    torch.manual_seed(0); model, twin = nn.Linear(1, 1), nn.Linear(1, 1); twin.load_state_dict(model.state_dict())
    def batch(epoch, step): x = torch.full((4, 1), 1. + step); return x, 2*x
    make_learner(model, nn.functional.mse_loss, BatchDL(batch, 5), lr=.01, wd=.1, device='cpu').fit(1)
    opt = torch.optim.AdamW(twin.parameters(), lr=.01, weight_decay=.1)
    for step in range(5): x, y = batch(0, step); nn.functional.mse_loss(twin(x), y).backward(); opt.step(); opt.zero_grad()
    assert state_digest(model)==state_digest(twin)

def test_schedules_by_hand():
    learn = synth_learner(n_batches=4, cbs=[ScheduleCB('linear')]); learn.fit(2); assert np.allclose(learn.recorder.lrs, [.1*(1 - i/8) for i in range(8)])
    one = [schedule_factor('one_cycle', p) for p in np.linspace(0, 1, 101)]; assert np.argmax(one)==25 and one[0]==pytest.approx(1/25) and one[-1]==pytest.approx(1e-5)
    assert [schedule_factor('step', p) for p in (0, .5, .75)]==pytest.approx([1, .1, .01]) and schedule_factor('flat_cos', .875)==pytest.approx(.5)

def test_plateau_halves_after_patience():
    class WorseCB(CB):
        order = 51
        def after_epoch(self): self.recorder.values[-1][1] = [5., 4., 4., 4., 3., 3., 3.][self.epoch]
    rates = []
    class Rates(CB):
        def after_train(self): rates.append(self.opt.hypers[0]['lr'])
    synth_learner(lr=1., cbs=[WorseCB(), Rates(), ScheduleCB('plateau', dict(patience=1))]).fit(7); assert rates==[1, 1, 1, 1, .5, .5, .5]

def test_batches_are_the_same_in_any_order():
    calls = []
    def fn(epoch, step): calls.append((epoch, step)); return torch.zeros(2, 1), torch.zeros(2, 1)
    learn = make_learner(nn.Linear(1, 1), nn.functional.mse_loss, BatchDL(fn, 2), BatchDL(lambda epoch, step: (calls.append(('v', epoch, step)), fn(9, 9))[1], 1), device='cpu'); learn.fit(2)
    assert [c for c in calls if c!=(9, 9)]==[(0, 0), (0, 1), ('v', 0, 0), (1, 0), (1, 1), ('v', 0, 0)]

def test_several_inputs():
    class Pair(nn.Module):
        def __init__(self): super().__init__(); self.lin = nn.Linear(2, 1)
        def forward(self, a, b): return self.lin(a), self.lin(b)
    def fn(epoch, step): x = torch.ones(4, 2); return x, x, torch.zeros(4, 1), torch.ones(4)
    learn = make_learner(Pair(), lambda pred, y, w: (w[:, None] * (pred[0] - pred[1] - y)**2).mean() + pred[0].mean()**2, BatchDL(fn, 2, n_inp=2), device='cpu'); learn.fit(1)
    assert learn.recorder.values[0][1] is None and learn.recorder.values[0][0]>=0

def test_max_steps(tmp_path, data):
    run = Run.create(config(data, train=dict(max_steps=21, batch_size=16)), out=tmp_path/'runs', policy='record'); learn = fit_run(learner(), run)
    assert run.metrics().step.max()==21 and run.load()['step']==21 and run.status['state']=='finished' and learn.epoch==1

def test_A33_thread_count_is_set_back(tmp_path, data):
    run, before = Run.create(config(data, 2, checkpoint=dict(every_steps=3)), out=tmp_path/'runs', policy='record'), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt): fit_run(learner(StopCB(7)), run)
        torch.set_num_threads(1)
        with pytest.warns(UserWarning, match='ran with 2 threads: set back from 1'): fit_run(learner(), Run(run.dir))
        assert torch.get_num_threads()==2 and run.manifest['attempts'][1]['changed']=={'torch_num_threads': [1, 2]} and run.manifest['attempts'][1]['resumed_step']==6
    finally: torch.set_num_threads(before)

def test_the_config_decides(tmp_path, data):
    cfg = config(data, 2, optim=dict(name='sgd', lr=.05, params=dict(momentum=.5)), schedule=dict(name='linear', params=dict(end=.5)))
    learn = synth_learner(n_batches=4, **learner_options(cfg)); fit_run(learn, Run.create(cfg, out=tmp_path/'runs', policy='record'))
    assert np.allclose(learn.recorder.lrs, [.05*(1 - i/16) for i in range(8)]) and learn.opt.opt.defaults['momentum']==.5 and learn.opt.hypers[0]['wd']==0
    one = [fit_run(learner(), Run.create(config(data, 1, seed=s), out=tmp_path/'runs', policy='record')) for s in (0, 0, 1)]
    assert state_digest(one[0].model)==state_digest(one[1].model)!=state_digest(one[2].model) # dropout follows the seed of the config

def test_tests_in_the_middle_of_epochs(tmp_path, data):
    "eval_every=N: test and evaluate every N steps and at the end; best.pt comes from such a step; a resume gives the same records."
    cfg = config(data, train=dict(max_steps=40, batch_size=16, eval_every=6), checkpoint=dict(every_steps=3), select=dict(metric='test_loss'))
    whole = Run.create(cfg, out=tmp_path/'a', policy='record'); learn = fit_run(learner(), whole); frame = whole.metrics()
    assert frame[frame.split=='test'].step.tolist()==frame[frame.split=='eval'].step.tolist()==[6, 12, 18, 24, 30, 36, 40]
    tests = frame[frame.split=='test'].set_index('step').loss
    assert whole.ckpt.index['best']['step']==tests.idxmin() and whole.load('best')['score']==pytest.approx(tests.min(), abs=0)
    again = Run.create(cfg, out=tmp_path/'b', policy='record')
    for at in (13, 25):
        with pytest.raises(KeyboardInterrupt): fit_run(learner(StopCB(at)), Run(again.dir))
    assert state_digest(fit_run(learner(), Run(again.dir)).model)==state_digest(learn.model) and summary(again)==summary(whole)
    plain = Run.create(config(data, train=dict(max_steps=40, batch_size=16)), out=tmp_path/'c', policy='record')
    assert state_digest(fit_run(learner(), plain).model)==state_digest(learn.model) # measuring changes nothing

class TwoParts(nn.Module):
    "A network with two parts that have an optimizer each."
    def __init__(self): super().__init__(); self.fg, self.bg = nn.Linear(1, 4), nn.Linear(4, 1)
    def forward(self, x): return self.bg(torch.tanh(self.fg(x)))

def test_several_optimizers(tmp_path, data):
    groups = dict(fg=dict(name='rmsprop', lr=.01), bg=dict(name='adam', lr=.02, params=dict(weight_decay=.1)))
    cfg = config(data, 2, optim=groups, schedule=dict(name='linear'), checkpoint=dict(every_steps=3))
    def make(*cbs): seed_all(0); return synth_learner(n_batches=4, model=TwoParts(), cbs=cbs, **learner_options(cfg))
    whole = Run.create(cfg, out=tmp_path/'a', policy='record'); learn = fit_run(make(), whole)
    assert [type(o).__name__ for o in learn.opt.opt.parts.values()]==['RMSprop', 'Adam'] and set(whole.load()['optim'])=={'fg', 'bg'}
    twin = make().model; opts = torch.optim.RMSprop(twin.fg.parameters(), lr=.01), torch.optim.Adam(twin.bg.parameters(), lr=.02, weight_decay=.1); dl = make().dls.train
    for step in range(8):
        dl.epoch, dl.start, dl.stop = step // 4, step % 4, step % 4 + 1; x, y = next(iter(dl)); nn.functional.mse_loss(twin(x), y).backward()
        for opt, lr in zip(opts, (.01, .02)): opt.param_groups[0]['lr'] = lr*(1 - step/8); opt.step(); opt.zero_grad()
    for a, b in zip(twin.parameters(), learn.model.parameters()): assert torch.equal(a, b) # the same as by hand
    half = Run.create(cfg, out=tmp_path/'b', policy='record')
    with pytest.raises(KeyboardInterrupt): fit_run(make(StopCB(5)), half)
    assert state_digest(fit_run(make(), Run(half.dir)).model)==state_digest(learn.model)
    with pytest.raises(ConfigError, match="no part 'fgg' .did you mean 'fg'"): make_learner(TwoParts(), None, learn.dls.train, groups=dict(fgg=Optim(), bg=Optim()), device='cpu')
    with pytest.raises(ConfigError, match='2 parameters are in no group'): make_learner(TwoParts(), None, learn.dls.train, groups=dict(fg=Optim()), device='cpu')

@pytest.mark.parametrize('workers', [0, 2])
def test_fastai_loaders_are_replayed(tmp_path, data, workers):
    "A fastai DataLoader with shuffling and an augmentation from the global stream goes on exactly."
    points = [(torch.tensor([i/64]), torch.tensor([3*i/64 + 1])) for i in range(64)]
    def make(*cbs):
        seed_all(0); jitter = lambda b: (b[0] + .01*torch.randn(b[0].shape), b[1])
        dls = [DataLoader(points, bs=8, shuffle=s, num_workers=workers, after_batch=jitter if s else noop) for s in (True, False)]
        return make_learner(network(), nn.functional.mse_loss, *dls, lr=.01, cbs=cbs, device='cpu')
    cfg = config(data, 3, checkpoint=dict(every_steps=3)); whole = Run.create(cfg, out=tmp_path/'a', policy='record'); digest = state_digest(fit_run(make(), whole).model)
    run = Run.create(cfg, out=tmp_path/'b', policy='record')
    for at in (5, 8, 14):
        with pytest.raises(KeyboardInterrupt): fit_run(make(StopCB(at)), Run(run.dir))
    assert state_digest(fit_run(make(), Run(run.dir)).model)==digest and summary(run)==summary(whole)

def test_signals_become_checkpoints(tmp_path, data):
    "SIGTERM and SIGUSR2 save at the next batch and end with exit code 75; Ctrl-C saves, too."
    whole = Run.create(config(data), out=tmp_path/'a', policy='record'); digest = state_digest(fit_run(learner(), whole).model)
    run = Run.create(config(data), out=tmp_path/'b', policy='record') # every_s is an hour: only the signal can save
    class KillCB(CB):
        def __init__(self, at, number): self.at, self.number = at, number
        def before_step(self):
            if self.learn.steps_done==self.at: os.kill(os.getpid(), self.number)
    for at, number in ((5, signal.SIGTERM), (21, signal.SIGUSR2)):
        with pytest.raises(Preempted, match=f'saved at step {at}') as e: fit_run(learner(KillCB(at, number)), Run(run.dir))
        assert e.value.exit_code==75 and Run(run.dir).status['state']=='preempted' and Run(run.dir).load()['step']==at
    with pytest.raises(KeyboardInterrupt, match='saved at step 33'): fit_run(learner(KillCB(33, signal.SIGINT)), Run(run.dir))
    assert signal.getsignal(signal.SIGTERM)==signal.SIG_DFL # the handlers are gone
    assert state_digest(fit_run(learner(), Run(run.dir)).model)==digest and summary(run)==summary(whole)

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
def test_cuda_precision():
    for amp in ('bf16', 'fp16'):
        learn = synth_learner(model=Tiny(), amp=amp, device='cuda', clip_norm=1.); learn.fit(3); assert learn.recorder.values[-1][1]<2
