"The supervised task: contracts, phases, names, exact resume, several processes, and that it learns."
import os, pickle, random, re, socket, sys, time
import numpy as np, pytest, torch
import torch.nn.functional as F
from torch import nn
from vislearn.callbacks import CB
from vislearn.core import ConfigError, DataError, sample_rng
from vislearn.learn import fit_run
from vislearn.loaders import ItemDL
from vislearn.nets import state_digest
from vislearn.runs.config import RunConfig, find_recipe, find_task, resolve
from vislearn.runs.distrib import join_group, leave_group
from vislearn.runs.metrics import read_jsonl
from vislearn.runs.record import Run
from vislearn.supervised import (DATASETS, MODELS, DictItems, RolloutMixin, _own_folders, accuracy, check_config, find_dataset, find_model, load_model, open_dataset, register_dataset, register_model,
    rollout_mode, rollout_scores, supervised_learner, supervised_shapes, supervised_waves, train)
from vislearn.synth.toys import MLP, Shapes, SmallCNN, Waves


class Given:
    "Items of the form that a test asks for; the new contract."
    def __init__(self, directory, split, mini=None, n=6, drop=(), extra=None, value='number'):
        self.directory, self.split, self.mini, self.n, self.drop, self.extra, self.value = directory, split, mini, mini or n, drop, extra or {}, value
    def __len__(self): return self.n
    def __getitem__(self, i):
        item = dict(a=np.float32([i]), b=np.float64([2*i]), supervision=np.float32([10. if i==0 else 0.])) | self.extra
        if self.value!='number': item['a'] = self.value
        return {k: v for k, v in item.items() if k not in self.drop}


class Old:
    "The original's contract, with augmentation from global generators, as people write it."
    seen = []
    def __init__(self, directory, acquire_test_dataset=False, mini=False, **kwargs):
        self.args, self.test = (directory, acquire_test_dataset, mini, kwargs), acquire_test_dataset
        Old.seen.append(self.args)
    def __len__(self): return 40
    def __getitem__(self, i):
        x = np.float32([i/20 - 1]); jitter = 0 if self.test else .1*np.random.randn() + .1*random.random() + .1*torch.rand(1).item()
        return dict(x=x + np.float32(jitter), supervision=x**2)


class Bare:
    "No `mini` in the constructor."
    def __init__(self, directory, split): self.split = split
    def __len__(self): return 50
    def __getitem__(self, i): return dict(x=np.float32([i]), supervision=np.float32([i]))


class Sum(nn.Module):
    def __init__(self): super().__init__(); self.scale = nn.Parameter(torch.ones(1))
    def forward(self, b, a): return self.scale*(b - 2*a)


class Watched(RolloutMixin, nn.Module):
    "Notes in which phase and mode it was called, and with what."
    calls = []
    def __init__(self, stuck=False, offset=0.): super().__init__(); self.first, self.second, self.stuck, self.offset = nn.Linear(1, 4), nn.Linear(4, 1), stuck, offset
    def forward(self, a):
        Watched.calls.append((self.training, self.in_rollout_mode(), len(a), a.flatten().tolist()))
        return self.second(self.first(a).tanh()) + self.in_rollout_mode()*self.offset
    def unset_rollout_mode(self):
        if not self.stuck: super().unset_rollout_mode()
    def param_groups(self): return dict(first=self.first.parameters(), second=self.second.parameters())


class Halved(nn.Linear):
    "The target is transformed; the metric gets the transformed one."
    def __init__(self): super().__init__(1, 1)
    @staticmethod
    def transform(supervision): return supervision/2
    def forward(self, a): return 0*super().forward(a) + 5.
    def largest(pred, target): return target.max()
    metrics = (largest,)


def here(cls): return f'{__name__}:{cls.__name__}'
def config(root, net=Sum, dataset=Given, phases=('train', 'test', 'eval'), epochs=2, bs=4, params={}, optim=dict(lr=.01), **changes):
    data = dict(root=str(root), num_workers=0, **{p: dict(name=here(dataset), params=params) for p in phases})
    return RunConfig(**(dict(task='supervised', description='test', data=data, model=dict(name=here(net)), loss=dict(name='F.mse_loss'), optim=optim, train=dict(epochs=epochs, batch_size=bs),
        log=dict(tensorboard=False, every_steps=1)) | changes))
def go(cfg, tmp_path, **more): return train(cfg, out=tmp_path/'runs', device='cpu', policy='record', **more)


# contracts

def test_the_task_is_registered_and_trains_by_name(tmp_path):
    task = find_task('supervised')
    run = resolve(task.train)(find_recipe('supervised_shapes')(tmp_path, epochs=1, n=32), out=tmp_path/'runs', device='cpu', policy='record')
    assert run.status['state']=='finished' and isinstance(run.load_model(), SmallCNN) and resolve(task.load) is load_model

def test_datasets_of_the_new_form(tmp_path):
    cfg = config(tmp_path, params=dict(n=9))
    made = {p: open_dataset(cfg, p) for p in ('train', 'test', 'eval')}
    assert [(d.split, d.directory, d.mini, len(d)) for d in made.values()]==[('train', str(tmp_path), None, 9), ('test', str(tmp_path), None, 9), ('test', str(tmp_path), None, 9)]
    small = open_dataset(cfg.replace(data=cfg.data.replace(mini=3)))
    assert (small.mini, len(small))==(3, 3)

def test_datasets_of_the_original_form(tmp_path):
    cfg = config(tmp_path, dataset=Old, params=dict(colour='red')); cfg = cfg.replace(model=dict(name='mlp'), data=cfg.data.replace(common=dict(size=3), mini=7))
    Old.seen.clear(); learn = supervised_learner(cfg, 'cpu')
    assert Old.seen==[(str(tmp_path), False, True, dict(size=3, colour='red')), (str(tmp_path), True, True, dict(size=3, colour='red')), (str(tmp_path), True, True, dict(size=3, colour='red'))]
    assert learn.dls.train.n==7 # a class that does not cut its items is cut

def test_mini_cuts_a_dataset_that_does_not_know_it(tmp_path):
    cfg = config(tmp_path, dataset=Bare, phases=('train', 'test')); cfg = cfg.replace(model=dict(name='mlp'), data=cfg.data.replace(mini=10))
    assert [dl.n for dl in supervised_learner(cfg, 'cpu').dls]==[10, 10]

def test_entries_come_in_the_order_of_forward(tmp_path):
    items = DictItems(Given('.', 'train'), Sum())
    assert items.names==['b', 'a', 'supervision'] and [t.tolist() for t in items(3, sample_rng(0, 0, 3))]==[[6], [3], [0]]
    assert {t.dtype for t in items(3, sample_rng(0, 0, 3))}=={torch.float32} # doubles become what networks compute with
    assert DictItems(Given('.', 'train', extra=dict(name='not used', meta=None)), Sum()).names==items.names

@pytest.mark.parametrize('params, words', [
    (dict(drop=['supervision']), "data.train (test_supervised:Given): item 0 has no entry 'supervision', Sum needs b, a, supervision and it has a, b"),
    (dict(drop=['b']), "item 0 has no entry 'b'"), (dict(value='text'), "entry 'a' of item 0 is a str, expected a tensor, an array or a number"),
    (dict(n=0), 'data.train (test_supervised:Given) has no items'), (dict(m=3), "data.train.params: Given has no setting 'm'"), (dict(drpo=3), "did you mean 'drop'?")])
def test_bad_items_are_one_line_and_leave_no_folder(tmp_path, params, words):
    with pytest.raises((DataError, ConfigError)) as e: go(config(tmp_path, params=params), tmp_path)
    assert words in str(e.value) and '\n' not in str(e.value) and not (tmp_path/'runs').exists()

def test_a_bad_item_in_a_worker_is_named(tmp_path):
    class Hole(Given):
        def __getitem__(self, i): return super().__getitem__(i) if i!=4 else dict(a=1)
    dl = ItemDL(DictItems(Hole('.', 'train'), Sum(), 'hole'), 6, 2, shuffle=False, workers=2)
    with pytest.raises(DataError, match="hole: item 4 has no entry 'b'"): list(dl)

@pytest.mark.parametrize('change, words', [
    (dict(model=dict(name='small_cn')), "no model 'small_cn' (did you mean 'small_cnn'?), known are mlp, small_cnn"), (dict(model=dict(name='nowhere:Net')), "cannot load 'nowhere:Net'"),
    (dict(model=dict(name=f'{__name__}:Smu')), "did you mean 'Sum'?"), (dict(model=dict(name='os:path')), 'expected a class'), (dict(model=dict(name='builtins:dict')), 'expected a Python class or function with named arguments'), (dict(model=dict(name='fractions:Fraction')), 'made a Fraction, expected a torch.nn.Module'),
    (dict(model=dict(name='mlp', params=dict(widht=3))), "model.params: MLP has no setting 'widht' (did you mean 'width'?)"), (dict(model=dict(name='torch.nn:Bilinear')), 'model.params: Bilinear needs in1_features'),
    (dict(loss=None), 'loss: required for this task'), (dict(loss=dict(name='F.mse_los')), "did you mean 'mse_loss'"), (dict(loss=dict(name='F.mse_loss', params=dict(reduce_=1))), "loss.params: mse_loss has no setting 'reduce_'"),
    (dict(loss=dict(name='F.mse_loss', params=dict(reduction='sum'))), "loss.params.reduction: expected mean, got 'sum'"), (dict(optim=dict(lr=.1, name='adan')), "no optimizer 'adan'")])
def test_unknown_names_and_settings(tmp_path, change, words):
    with pytest.raises(ConfigError) as e: go(config(tmp_path, **change), tmp_path)
    if not {'optim'} & change.keys() and 'made a' not in words:
        with pytest.raises(ConfigError, match=re.escape(words)): check_config(config(tmp_path, **change)) # the quick check finds them, too
    assert words in str(e.value) and '\n' not in str(e.value) and e.value.exit_code==2 and not (tmp_path/'runs').exists()

def test_unknown_datasets_and_missing_data(tmp_path):
    cfg = supervised_shapes(tmp_path)
    with pytest.raises(ConfigError, match=r"no dataset 'shape' \(did you mean 'shapes'\?\), known are waves, shapes"): open_dataset(cfg.replace(data=cfg.data.replace(train=dict(name='shape'))))
    with pytest.raises(ConfigError, match='data.root'): open_dataset(supervised_shapes(tmp_path/'gone'))
    with pytest.raises(ConfigError, match=r"expected a constructor \(directory, split, mini=None"): open_dataset(cfg.replace(data=cfg.data.replace(train=dict(name='torch.nn:Identity'))))

def test_short_names(monkeypatch):
    monkeypatch.setattr(sys.modules['vislearn.supervised'], 'DATASETS', dict(DATASETS)); monkeypatch.setattr(sys.modules['vislearn.supervised'], 'MODELS', dict(MODELS))
    register_dataset('mine', here(Given)); register_model('net', here(Sum))
    assert find_dataset('mine') is Given and find_model('net') is Sum and find_model(here(Sum)) is Sum

def test_shapes_that_do_not_match(tmp_path):
    class Flat(nn.Module): # (B,) against (B, 1): torch would broadcast to (B, B) and only warn
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(1))
        def forward(self, a): return self.w*a[:, 0]
    globals()['Flat'] = Flat
    with pytest.raises(DataError, match=r'F.mse_loss: predictions \(4,\) and supervision \(4, 1\) must have the same shape'): supervised_learner(config(tmp_path, net=Flat), 'cpu').fit(1)

def test_transform_of_the_supervision(tmp_path):
    values = supervised_learner(config(tmp_path, net=Halved, bs=8), 'cpu'); values.fit(1)
    # targets 5, 0, 0, 0, 0, 0 and predictions 5: mean of 0 and five times 25
    assert values.recorder.values[0][1]==pytest.approx(5*25/6) and values.eval_values==dict(loss=pytest.approx(5*25/6), largest=5.)


# three phases

def test_modes_of_the_phases_and_rollout_max_samples(tmp_path):
    Watched.calls.clear()
    learn = supervised_learner(config(tmp_path, net=Watched, params=dict(n=11), rollout=dict(max_samples=7)), 'cpu'); learn.fit(1)
    train_, test, rollout = ([c for c in Watched.calls if (c[0], c[1])==mode] for mode in ((True, False), (False, False), (False, True)))
    assert len(train_) + len(test) + len(rollout)==len(Watched.calls)
    assert sum(c[2] for c in train_)==sum(c[2] for c in test)==11 and sum((c[3] for c in test), [])==list(range(11))
    assert sum((c[3] for c in rollout), [])==list(range(7)) # the first 7, whatever the batch size
    assert not learn.model.in_rollout_mode()

def test_rollout_every(tmp_path):
    run = go(config(tmp_path, epochs=5, rollout=dict(every=2), select=dict(metric='eval_loss')), tmp_path)
    assert [r['epoch'] for r in read_jsonl(run.dir/'metrics.jsonl') if r['split']=='eval']==[1, 3, 4]

def test_a_model_stuck_in_rollout_mode_stops_the_run(tmp_path):
    cfg = config(tmp_path, net=Watched); cfg = cfg.replace(model=dict(name=here(Watched), params=dict(stuck=True)))
    with pytest.raises(RuntimeError, match='Watched is in rollout mode during training'): go(cfg, tmp_path)
    Watched.calls.clear(); learn = supervised_learner(cfg, 'cpu'); learn.model.set_rollout_mode()
    with pytest.raises(RuntimeError, match='in rollout mode during training'): learn.fit(1)
    assert Watched.calls==[]

def test_rollout_mode_ends_after_an_error():
    net = Watched()
    with pytest.raises(ZeroDivisionError):
        with rollout_mode(net): assert net.in_rollout_mode(); 1/0
    assert not net.in_rollout_mode()

@pytest.mark.parametrize('phases, metric', [(('train', 'test', 'eval'), 'eval_loss'), (('train', 'eval'), 'eval_loss'), (('train', 'test'), 'test_loss'), (('train',), 'train_loss')])
def test_A13_selection_eval_beats_test_beats_train(tmp_path, phases, metric):
    class Turn(Given): # smaller is better at another epoch in each phase
        def __init__(self, directory, split, mini=None): super().__init__(directory, split, mini)
    globals()['Turn'] = Turn
    run = go(config(tmp_path, net=Watched, dataset=Turn, phases=phases, epochs=4, optim=dict(lr=.2, name='sgd')), tmp_path)
    split = metric.split('_')[0]
    losses = {r['epoch']: r['loss'] for r in read_jsonl(run.dir/'metrics.jsonl') if r['split']==split and 'loss' in r}
    assert len(losses)==4 and run.load('best')['select']['metric']==metric
    assert run.ckpt.index['best']['epoch'] - 1==min(losses, key=losses.get) and run.ckpt.index['best']['score']==pytest.approx(min(losses.values()))

def test_A13_epochs_without_rollout_are_no_candidates(tmp_path):
    cfg = config(tmp_path, net=Watched, epochs=4, rollout=dict(every=2)); cfg = cfg.replace(model=dict(name=here(Watched), params=dict(offset=100.))) # a rollout is always worse than a test
    run = go(cfg, tmp_path)
    assert run.load('best')['select']['metric']=='eval_loss' and run.ckpt.index['best']['epoch'] - 1 in (1, 3)

def test_several_optimizers(tmp_path):
    cfg = config(tmp_path, net=Watched, optim=dict(first=dict(name='sgd', lr=1e-12), second=dict(name='rmsprop', lr=.05)))
    learn = supervised_learner(cfg, 'cpu'); before = {k: v.clone() for k, v in learn.model.state_dict().items()}; learn.fit(1)
    moved = {k: float((v - before[k]).abs().max()) for k, v in learn.model.state_dict().items()}
    assert moved['first.weight']<1e-9 and moved['second.weight']>.01
    with pytest.raises(ConfigError, match="did you mean 'first'"): supervised_learner(cfg.replace(optim=dict(firts=dict(lr=.1), second=dict(lr=.1))), 'cpu')


# seeds, resume, workers

def test_A08_seeds_give_different_weights_and_equal_seeds_equal_ones(tmp_path):
    digests = [state_digest(supervised_learner(supervised_shapes(tmp_path, seed=seed, n=8), 'cpu').model) for seed in (0, 1, 2, 3, 4, 0)]
    assert len(set(digests[:5]))==5 and digests[5]==digests[0]

class StopCB(CB):
    "Raise at one step."
    def __init__(self, at): self.at = at
    def after_batch(self):
        if self.learn.steps_done==self.at: raise KeyboardInterrupt('stop')

def summary(run): return sorted(({k: v for k, v in r.items() if k!='t'} for r in read_jsonl(run.dir/'metrics.jsonl')), key=lambda r: (r['step'], r['split'], sorted(r)))

def resumes(cfg, tmp_path, stops):
    "Does an interrupted run end like one that was left alone?"
    cfg = cfg.replace(log=dict(tensorboard=False, every_steps=1), checkpoint=dict(every_steps=3)); whole = go(cfg, tmp_path)
    run = Run.create(cfg, tmp_path/'stopped', policy='record')
    for at in stops:
        learn = supervised_learner(cfg, 'cpu'); learn.add_cb(StopCB(at))
        with pytest.raises(KeyboardInterrupt): fit_run(learn, Run(run.dir))
    run = train(cfg, folder=run.dir, device='cpu')
    assert len(run.manifest['attempts'])==len(stops) + 1
    return state_digest(load_model(run, best=False))==state_digest(load_model(whole, best=False)) and summary(run)==summary(whole)

@pytest.mark.parametrize('workers, stops', [(0, [5, 6, 11]), (2, [8])])
def test_resume_is_exact(tmp_path, workers, stops): assert resumes(supervised_shapes(tmp_path, epochs=2, n=90, num_workers=workers), tmp_path, stops)

@pytest.mark.parametrize('workers', [0, 2])
def test_resume_is_exact_with_augmentation_from_global_generators(tmp_path, workers):
    cfg = config(tmp_path, dataset=Old, epochs=2, phases=('train', 'test')); cfg = cfg.replace(model=dict(name='mlp', params=dict(dropout=.2)), data=cfg.data.replace(num_workers=workers))
    assert resumes(cfg, tmp_path, [7, 14])

def test_global_generators_are_put_back():
    items, states = DictItems(Old('.'), MLP()), lambda: (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    before = states(); first = items(3, sample_rng(0, 1, 3)); assert states()==before
    again, later = items(3, sample_rng(0, 1, 3)), items(3, sample_rng(0, 2, 3))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], later[0]) # B7: another epoch, another augmentation

def batches(workers=0, epoch=2):
    dl = ItemDL(DictItems(Shapes(n=26), SmallCNN()), 26, 4, seed=5, workers=workers); dl.epoch = epoch
    return {int(i): image.numpy() for step, (images, _) in enumerate(dl) for i, image in zip(dl.indices(epoch, step), images)}

@pytest.mark.parametrize('workers', [1, 2])
def test_A11_items_do_not_depend_on_workers(workers):
    one, many = batches(), batches(workers)
    assert one.keys()==many.keys()==set(range(26)) and all((one[i]==many[i]).all() for i in one)
    assert not all((one[i]==other).all() for i, other in batches(epoch=3).items())


# several processes, made by fork

def together(tmp_path, n, fn):
    "Run `fn()` in n processes of one gloo group and give what each returns."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    pids = []
    for rank in range(n):
        pids.append(os.fork())
        if pids[-1]==0:
            code = 1
            try:
                os.environ.update(RANK=str(rank), WORLD_SIZE=str(n), LOCAL_RANK=str(rank), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)); join_group('cpu')
                (tmp_path/f'{rank}.pkl').write_bytes(pickle.dumps(fn())); leave_group(); code = 0
            except BaseException: import traceback; traceback.print_exc()
            finally: os._exit(code)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]==[0]*n
    return [pickle.loads((tmp_path/f'{rank}.pkl').read_bytes()) for rank in range(n)]

def test_A11_items_do_not_depend_on_processes(tmp_path):
    one, two = batches(), together(tmp_path, 2, batches)
    assert set(two[0]) | set(two[1])==set(one) and len(set(two[0]) & set(two[1]))<=1 # the last batch is padded with one item
    assert all((one[i]==image).all() for part in two for i, image in part.items())

@pytest.mark.parametrize('world, n', [(2, 1), (2, 5), (2, 6), (2, 7), (2, 9), (3, 1), (3, 5), (3, 6), (3, 7), (3, 9)])
def test_A21_rollout_is_exact(tmp_path, world, n):
    class First(nn.Module):
        def forward(self, a): return 0*a
    def measure():
        dl = ItemDL(DictItems(Given('.', 'test', n=n), First()), n, 2, shuffle=False); dl.pad = False
        return rollout_scores(First(), dl, F.l1_loss)['loss']
    assert [abs(v - 10/n) for v in together(tmp_path, world, measure)]==pytest.approx([0]*world, abs=1e-12)

def test_A20_two_processes_are_one_with_the_whole_batch(tmp_path):
    cfg = lambda bs: supervised_waves(tmp_path, epochs=2, n=64, bs=bs).replace(optim=dict(name='sgd', lr=.1), data=dict(root=str(tmp_path), num_workers=0, train=dict(name='waves', params=dict(n=64)), test=dict(name='waves', params=dict(n=7)), eval=dict(name='waves', params=dict(n=9))))
    def weights(bs=16):
        learn = supervised_learner(cfg(bs), 'cpu'); learn.fit(2)
        return {k: v.numpy() for k, v in learn.bare_model.state_dict().items()}, learn.recorder.values[-1][1], learn.eval_values['loss']
    (one, test, rollout), (left, right) = weights(32), together(tmp_path, 2, weights)
    assert all((left[0][k]==right[0][k]).all() for k in one) and max(np.abs(left[0][k] - one[k]).max() for k in one)<1e-6
    assert left[1:]==right[1:]==(pytest.approx(test, rel=1e-5), pytest.approx(rollout, rel=1e-5))


# results

def test_it_learns(tmp_path):
    began = time.monotonic(); table = go(supervised_shapes(tmp_path), tmp_path).metrics()
    assert table[table.split=='test'].accuracy.iloc[-1]>.9 and table[table.split=='eval'].accuracy.iloc[-1]>.9
    table = go(supervised_waves(tmp_path), tmp_path).metrics(); last = table[table.split=='test'].loss.iloc[-1]
    assert .007<last<.03 # the noise alone is 0.01
    assert time.monotonic() - began<30

def test_load_model_best_and_last(tmp_path):
    run = go(supervised_shapes(tmp_path, epochs=3, n=64), tmp_path); best, last = load_model(run), load_model(run.dir, best=False)
    assert not best.training and not last.training and not any(p.requires_grad for p in best.parameters())
    assert all(torch.equal(v, best.state_dict()[k]) for k, v in run.load('best')['model'].items()) and all(torch.equal(v, last.state_dict()[k]) for k, v in run.load('last')['model'].items())
    with pytest.raises(ConfigError, match='is a run of demo.other, expected one of supervised'): load_model(Run.create(config(tmp_path, task='demo.other'), tmp_path/'other', policy='record'))

def test_weights_of_another_run(tmp_path):
    run = go(supervised_shapes(tmp_path, epochs=1, n=32), tmp_path)
    cfg = supervised_shapes(tmp_path, seed=5, n=32).replace(init_from=dict(run=run.id), out=str(tmp_path/'runs'))
    assert state_digest(supervised_learner(cfg, 'cpu').model)==state_digest(load_model(run))

def test_a_class_of_ones_own_is_found_in_another_process(tmp_path):
    (tmp_path/'own').mkdir(); (tmp_path/'own'/'my_own_net.py').write_text('from torch import nn\nclass Net(nn.Linear):\n    def __init__(self, size=1): super().__init__(size, 1)\n    def forward(self, x): return super().forward(x)\n')
    sys.path.insert(0, str(tmp_path/'own'))
    try: run = go(supervised_waves(tmp_path, epochs=1, n=16).replace(model=dict(name='my_own_net:Net')), tmp_path)
    finally: sys.path.remove(str(tmp_path/'own'))
    assert run.manifest['import_path']==[str(tmp_path/'own')]
    before = list(sys.path); del sys.modules['my_own_net'] # as in a process that never saw it
    try: assert type(load_model(run.dir)).__name__=='Net' and sys.path==before + [str(tmp_path/'own')]
    finally: sys.path[:] = before; del sys.modules['my_own_net']

def test_packages_with_and_without_init_are_found(tmp_path):
    for name, init in (('own_pack', True), ('own_space', False)):
        (tmp_path/'own'/name).mkdir(parents=True); (tmp_path/'own'/name/'nets.py').write_text('from vislearn.synth.toys import MLP\n')
        if init: (tmp_path/'own'/name/'__init__.py').touch()
    sys.path.insert(0, str(tmp_path/'own'))
    try: folders = [_own_folders(supervised_waves(tmp_path).replace(model=dict(name=f'{m}:MLP'))) for m in ('own_pack.nets', 'own_space.nets', 'vislearn.synth.toys', '__main__')]
    finally: sys.path.remove(str(tmp_path/'own'))
    assert folders==[[str(tmp_path/'own')]]*2 + [[], []] and _own_folders(supervised_waves(tmp_path).replace(model=dict(name='torch.nn:Linear')))==[]

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_on_cuda(tmp_path):
    cfg = supervised_shapes(tmp_path); run = train(cfg.replace(train=cfg.train.replace(amp='bf16')), out=tmp_path/'runs', device='cuda', policy='record'); table = run.metrics()
    assert table[table.split=='eval'].accuracy.iloc[-1]>.9 and not next(load_model(run).parameters()).is_cuda

def test_delay_makes_items_slow():
    began = time.monotonic(); Waves(delay_s=.05)[0]; Shapes(delay_s=.05)[0]; assert .1<=time.monotonic() - began<1
    assert supervised_shapes(delay_s=.5).data.common['delay_s']==.5 and accuracy(torch.eye(3), torch.tensor([0, 1, 1])).item()==pytest.approx(2/3)
