"Several processes: equal weights, exact means, kills, restarts. The quick tests fork; the slow ones are torchrun as a user starts it."
import os, pickle, random, signal, socket, subprocess, sys, time, traceback
import multiprocessing
import numpy as np, psutil, pytest, torch
from torch import nn
from vislearn.callbacks import CB, AugmentCB, ExactMetric
from vislearn.core import ConfigError, seed_all
from vislearn.learn import BatchDL, ItemDL, fit_run, init_weights, make_learner
from vislearn.nets import state_digest
from vislearn.runs.config import InitFrom, RunConfig
from vislearn.runs.distrib import join_group, leave_group, rank, world
from vislearn.runs.launch import start
from vislearn.runs.local import work
from vislearn.runs.metrics import read_jsonl
from vislearn.runs.record import Run
from vislearn.supervised import supervised_shapes


def together(task, n, *args):
    "Run `task(*args)` in `n` forked processes of one group; the results by rank."
    with socket.socket() as probe: probe.bind(('127.0.0.1', 0)); port = probe.getsockname()[1]
    fork = multiprocessing.get_context('fork'); answers = fork.Queue()
    def member(number):
        os.environ.update(RANK=str(number), WORLD_SIZE=str(n), LOCAL_RANK=str(number), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
        try: join_group('cpu'); answers.put(pickle.dumps((number, task(*args), None))); leave_group()
        except BaseException: answers.put(pickle.dumps((number, None, traceback.format_exc())))
    members = [fork.Process(target=member, args=(i,)) for i in range(n)]
    for m in members: m.start()
    found = {}
    for _ in members: number, value, error = pickle.loads(answers.get(timeout=120)); assert error is None, error; found[number] = value
    for m in members: m.join(30)
    return [found[i] for i in range(n)]


def config(root, **changes):
    return RunConfig(**(dict(task='demo.line', description='test', data=dict(root=str(root), train=dict(name='t')), model=dict(name='m'), train=dict(epochs=2, batch_size=8), checkpoint=dict(every_steps=3),
        log=dict(tensorboard=False, every_steps=1)) | changes))

def item(index, rng): return np.float32([index / 40, rng.normal(scale=.1)]), np.float32([3 * index / 40 + 1])
def network(norm=True): seed_all(1); return nn.Sequential(nn.Linear(2, 16), *([nn.BatchNorm1d(16)] if norm else []), nn.ReLU(), nn.Dropout(.2 if norm else 0.), nn.Linear(16, 1))
def learner(*cbs, bs=8, model=None, n=40, workers=0, **options):
    train, valid = ItemDL(item, n, bs, seed=5, workers=workers), ItemDL(item, 9, 4, shuffle=False)
    return make_learner(model or network(), nn.functional.mse_loss, train, valid, lr=.02, cbs=cbs, device='cpu', metrics=[nn.functional.l1_loss], **options)


class GradientCB(CB):
    "Keep the last gradient."
    def before_step(self): self.found = torch.cat([p.grad.flatten() for p in self.learn.bare_model.parameters()]).clone()

def test_A19_no_difference_between_ranks(tmp_path):
    def task(folder):
        grads = GradientCB(); learn = fit_run(learner(grads), Run(folder))
        assert len(learn.dls.train)==3 and learn.model is learn.bare_model
        return state_digest(learn.model), grads.found, learn.recorder.values[-1][1:]
    run = Run.create(config(tmp_path), out=tmp_path/'runs', policy='record'); (one, grad1, test1), (two, grad2, test2) = together(task, 2, run.dir)
    assert one==two==run.digest() and torch.equal(grad1, grad2) and test1==test2  # parameters and buffers, gradients, test values: exactly
    assert run.status['state']=='finished' and run.manifest['world']['size']==2 and run.manifest['world']['global_batch']==16 and run.manifest['attempts'][0]['world']==2
    records = read_jsonl(run.dir/'metrics.jsonl'); keys = [(r['step'], r['split'], k) for r in records for k in r if k not in ('t', 'step', 'epoch', 'split')]
    assert len(keys)==len(set(keys)) and max(r['step'] for r in records)==6

def test_A20_two_times_16_equal_one_time_32():
    def task(bs):
        learn = learner(bs=bs, model=network(norm=False), n=128, optim='sgd', wd=0.); learn.fit(3)
        return [p.detach().clone() for p in learn.model.parameters()]
    one, (two, other) = task(32), together(task, 2, 16)
    assert all(torch.equal(a, b) for a, b in zip(two, other))
    worst = max((a - b).abs().max().item() for a, b in zip(one, two)); assert worst<1e-6
    assert max((a - b).abs().max().item() for a, b in zip(one, task(16)))>1e-4 # another batch size is another training

@pytest.mark.parametrize('processes', [2, 3])
def test_A21_exact_means(processes):
    def task():
        found = {}
        for n in (1, 5, 6, 7, 9):
            dl, mean = ItemDL(lambda i, rng: (np.float32(10. if i==0 else 0.), np.float32(0)), n, 2, shuffle=False), ExactMetric(lambda pred, targ: (pred - targ).mean(), 'mean'); dl.pad = False
            for x, y in dl: mean.add((x - y).mean(), len(x))
            found[n] = mean.value
        return found
    for found in together(task, processes):
        for n, value in found.items(): assert abs(value - 10/n)<1e-12

def test_A22_a_bypassed_wrapper_is_found_out():
    class BypassCB(CB):
        order = 9
        def before_train(self): self.learn.model = self.learn.parallel_cb.bare
    def task():
        try: learner(BypassCB()).fit(1); return None
        except RuntimeError as e: return str(e)
    assert all('weights of 2 groups of processes differ after the first step' in text for text in together(task, 2))

@pytest.mark.parametrize('n', [40, 37])
def test_A11_the_same_items_for_the_same_epoch_and_index(n):
    "0, 1, 2 workers and 1, 2, 3 processes: each (epoch, index) gives the same augmented item; together they see what one sees."
    def task(workers):
        dl, found = ItemDL(item, n, 12 // world(), seed=5, workers=workers), {}
        for epoch in (0, 3):
            dl.epoch = epoch; found[epoch] = [[tuple(np.round(row, 6)) for row in x.tolist()] for x, _ in dl]
        return found
    want = task(0); assert task(1)==task(2)==want and want[0]!=want[3]
    for processes in (2, 3):
        for workers in (0, 2):
            parts = together(task, processes, workers)
            for epoch in want:
                for step, batch in enumerate(want[epoch][:n//12]): assert [row for part in parts for row in part[epoch][step]]==batch
                assert {row for part in parts for batch in part[epoch] for row in batch}=={row for batch in want[epoch] for row in batch} # padding only repeats

def test_resume_with_two_processes_is_exact(tmp_path):
    "Stopped in the middle of epochs, with and without workers; the sums of the epoch go on, too."
    class StopCB(CB):
        def __init__(self, at): self.at = at
        def after_batch(self):
            if self.learn.steps_done==self.at: raise KeyboardInterrupt('stop')
    def task(folder, at, workers):
        try: fit_run(learner(AugmentCB(lambda x, g: x + .01*torch.randn(x.shape, generator=g)), *([StopCB(at)] if at else []), workers=workers), Run(folder))
        except KeyboardInterrupt: pass
        return True
    def summary(run): return sorted(str({k: v for k, v in r.items() if k!='t'}) for r in read_jsonl(run.dir/'metrics.jsonl'))
    whole, parts = (Run.create(config(tmp_path), out=tmp_path/name, policy='record') for name in 'ab')
    together(task, 2, whole.dir, None, 0)
    for at, workers in ((2, 0), (5, 2), (None, 0)): together(task, 2, parts.dir, at, workers)
    assert parts.digest()==whole.digest() and summary(parts)==summary(whole) and len(parts.manifest['attempts'])==3

def test_another_number_of_processes_needs_force(tmp_path):
    def task(folder, force=False):
        try: fit_run(learner(), Run(folder)); return 'ok'
        except ConfigError as e: return str(e)
    run = Run.create(config(tmp_path), out=tmp_path/'runs', policy='record')
    class StopCB(CB):
        def after_batch(self):
            if self.learn.steps_done==4: raise KeyboardInterrupt('stop')
    with pytest.raises(KeyboardInterrupt): fit_run(learner(StopCB()), run)
    assert all('was trained by 1 processes, now there are 2: use as many, or --force' in text for text in together(task, 2, run.dir))
    run._set_status(force=True); assert together(task, 2, run.dir)==['ok', 'ok']
    assert Run(run.dir).status['state']=='finished' and [a['world'] for a in run.manifest['attempts']]==[1, 2] and run.manifest['attempts'][1]['resumed_step']==0

def test_A32_init_from_under_two_processes(tmp_path):
    source = Run.create(config(tmp_path), out=tmp_path/'runs', policy='record'); fit_run(learner(), source); want = source.digest('best')
    def task(): return state_digest(init_weights(network(), InitFrom(run=source.id), tmp_path/'runs')), learner(model=init_weights(network(), InitFrom(run=source.id), tmp_path/'runs')).fit(1)
    assert [digest for digest, _ in together(task, 2)]==[want, want]

def test_a_stop_signal_to_one_process_stops_all(tmp_path):
    def task(folder):
        class TellCB(CB):
            def before_step(self):
                if rank()==1 and self.learn.steps_done==4: os.kill(os.getpid(), signal.SIGUSR2) # only the other process is told
        try: fit_run(learner(TellCB()), Run(folder)); return 'finished'
        except BaseException as e: return type(e).__name__
    run = Run.create(config(tmp_path, checkpoint=dict(every_s=None)), out=tmp_path/'runs', policy='record')
    assert together(task, 2, run.dir)==['Preempted', 'Preempted'] and run.load()['step']==4 and run.status['state']=='preempted'

def test_shards_of_batches():
    "BatchDL: training repeats a batch rather than let a process wait, testing repeats nothing."
    def task():
        dl = BatchDL(lambda epoch, step: (torch.tensor([step]), torch.tensor([step])), 5); train = [int(y) for _, y in dl]
        dl.pad = False; return train, [int(y) for _, y in dl]
    assert together(task, 2)==[([0, 2, 4], [0, 2, 4]), ([1, 3, 0], [1, 3])]


# torchrun itself

def shapes(out, **changes):
    cfg = supervised_shapes(); common = dict(cfg.data.common, delay_s=changes.pop('delay_s', 0.))
    return Run.create(cfg.replace(data=cfg.data.replace(common=common, num_workers=changes.pop('workers', 0)), train=dict(epochs=2, batch_size=16), checkpoint=dict(every_steps=4), log=dict(tensorboard=False, every_steps=1), **changes), out=out, policy='record')

def launch(run, nproc): return subprocess.Popen([sys.executable, '-c', f'import sys; from vislearn.runs.launch import Run, start; sys.exit(start(Run({str(run.dir)!r}), {nproc}, device="cpu"))'], stderr=subprocess.PIPE, text=True)
def workers_of(process): return [p for p in psutil.Process(process.pid).children(recursive=True) if 'vislearn.worker' in ' '.join(p.cmdline()) and 'torch.distributed.run' not in ' '.join(p.cmdline())]

def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic()<end:
        if condition(): return True
        time.sleep(.05)
    return False

def test_A23_a_killed_process_is_started_again(tmp_path):
    whole, run = shapes(tmp_path/'a'), shapes(tmp_path/'b', delay_s=.002)
    together(lambda: work(whole.dir, 'cpu'), 2); second = launch(run, 2)
    assert wait_for(lambda: run.status['step']>=0 and (run.dir/'ckpt'/'last.pt').exists()), second.stderr.read()
    victims = sorted(workers_of(second), key=lambda p: p.pid); assert len(victims)==2; victims[1].kill()
    assert second.wait(180)==0, second.stderr.read()
    assert run.digest()==whole.digest() and run.status['state']=='finished' and len(run.manifest['attempts'])>=2
    assert (run.dir/'log'/'rank1.log').exists()

@pytest.mark.slow
def test_A15_kills_with_two_processes(tmp_path):
    "The whole of torchrun and its workers is killed, five times, at random moments."
    whole, run, choice, kills = shapes(tmp_path/'a'), shapes(tmp_path/'b', delay_s=.003), random.Random(2), 0
    assert launch(whole, 2).wait(180)==0
    while kills<5:
        process = launch(run, 2); before = len(run.manifest['attempts'])
        if not wait_for(lambda: len(run.manifest['attempts'])>before): process.kill(); continue
        time.sleep(choice.uniform(.05, .5))
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for p in family: p.kill()
        process.wait(); kills += not (run.dir/'DONE').exists()
        if (run.dir/'DONE').exists(): break
    assert kills>=3; assert launch(run, 2).wait(180)==0 and run.digest()==whole.digest()
    records = read_jsonl(run.dir/'metrics.jsonl'); keys = [(r['step'], r['split'], k) for r in records for k in r if k not in ('t', 'step', 'epoch', 'split')]; assert len(keys)==len(set(keys))

@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_A15_kills_of_one_process_with_workers(tmp_path, workers):
    whole, run, choice, kills = shapes(tmp_path/'a', workers=workers), shapes(tmp_path/'b', delay_s=.002, workers=workers), random.Random(3), 0
    assert start(whole, 1, device='cpu')==0
    while kills<5 and not (run.dir/'DONE').exists():
        process = launch(run, 1); before = len(run.manifest['attempts']); assert wait_for(lambda: len(run.manifest['attempts'])>before); time.sleep(choice.uniform(.05, .6))
        process.kill(); process.wait(); kills += not (run.dir/'DONE').exists()
    assert kills>=5 and launch(run, 1).wait(120)==0 and run.digest()==whole.digest()
    records = read_jsonl(run.dir/'metrics.jsonl'); keys = [(r['step'], r['split'], k) for r in records for k in r if k not in ('t', 'step', 'epoch', 'split')]; assert len(keys)==len(set(keys))

@pytest.mark.slow
def test_stopping_torchrun(tmp_path):
    "SIGTERM to the command: both processes save, exit code 75, and it goes on."
    whole, run = shapes(tmp_path/'a'), shapes(tmp_path/'b', delay_s=.01); assert launch(whole, 2).wait(180)==0
    process = launch(run, 2); assert wait_for(lambda: (run.dir/'ckpt'/'last.pt').exists()); process.send_signal(signal.SIGTERM)
    assert process.wait(60)==75 and run.status['state']=='preempted'
    assert launch(run, 2).wait(180)==0 and run.digest()==whole.digest()
