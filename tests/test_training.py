"One way to train for all systems: what is made before what, going on, and several processes side by side"
import json
from functools import partial

import pytest
from vislearn.callbacks import CB
from vislearn.core import ConfigError
from vislearn.learn import synth_learner
from vislearn.nets import state_digest
from vislearn.runs.config import Data, Part, RunConfig, Train
from vislearn.runs.record import Run
from vislearn.training import _epochs, kept_state, open_run, train_quietly, train_run, train_side_by_side


def config(epochs=3, **more): return RunConfig(task='demo.line', description='a line', data=Data(root='.', train=Part(name='points')), model=Part(name='linear'), train=Train(epochs=epochs, batch_size=16), schedule=dict(name='constant'), **more)
def make(cfg): return synth_learner(seed=cfg.seed)
def no_cbs(learn, run): return []
def job(cfg, folder): print('one line'); return train_run(cfg, make, no_cbs, folder, policy='record')


class StopCB(CB):
    "Dies in the second epoch."
    def before_epoch(self):
        if self.epoch == 1: raise KeyboardInterrupt


def test_order_of_things(tmp_path):
    seen = []
    def making(cfg): seen.append(('make', (tmp_path/'a').exists())); return make(cfg)
    def watching(learn, run): seen.append(('watch', run.dir == tmp_path/'a')); return iter([CB()])
    run = train_run(config(), making, watching, tmp_path/'a', policy='record', notes=dict(why='test'))
    assert seen == [('make', False), ('watch', True)] and run.status['state'] == 'finished' and run.manifest['why'] == 'test'


def test_a_mistake_leaves_no_folder(tmp_path):
    def broken(cfg): raise ConfigError('no data')
    with pytest.raises(ConfigError): train_run(config(), broken, no_cbs, tmp_path/'a', tmp_path/'runs', policy='record')
    assert list(tmp_path.iterdir()) == []


def test_stopped_training_goes_on_with_its_own_config_to_the_same_bits(tmp_path):
    whole = train_run(config(), make, no_cbs, tmp_path/'whole', policy='record')
    with pytest.raises(KeyboardInterrupt): train_run(config(), make, lambda learn, run: [StopCB()], tmp_path/'part', policy='record')
    seen = []
    def making(cfg): seen.append(cfg.train.epochs); return make(cfg)
    run = train_run(config(epochs=9), making, no_cbs, tmp_path/'part', policy='record')
    assert seen == [3] and len(run.manifest['attempts']) == 2 and state_digest(run.load()['model']) == state_digest(whole.load()['model'])


def test_runs_of_another_task_and_checkpoints(tmp_path):
    run = train_run(config(select=dict(metric='test_loss')), make, no_cbs, out=tmp_path, policy='record')
    assert open_run(run.id, 'demo.line', tmp_path).dir == run.dir and open_run(str(run.dir), 'demo.line').id == run.id
    with pytest.raises(ConfigError, match='a run of demo.line, expected one of objects.space'): open_run(run, 'objects.space')
    assert kept_state(run, best=False)['epoch'] == 3 and state_digest(kept_state(run)['model']) == state_digest(run.load('best')['model'])
    run.ckpt.index.pop('best', None); assert kept_state(run)['epoch'] == 3


def test_side_by_side_equals_one_after_the_other(tmp_path):
    jobs = lambda where: {f's{seed}': (partial(job, config(seed=seed)), tmp_path/where/f's{seed}') for seed in (0, 1)}
    alone, beside = (train_side_by_side(jobs(where), 3, workers) for where, workers in (('alone', 1), ('beside', 2)))
    digests = [{name: state_digest(run.load()['model']) for name, run in runs.items()} for runs in (alone, beside)]
    assert digests[0] == digests[1] and digests[0]['s0'] != digests[0]['s1']
    assert all('one line' in (tmp_path/where/'s0.log').read_text() for where in ('alone', 'beside'))


def test_a_failure_in_a_process_is_told(tmp_path):
    jobs = {'good': (partial(job, config()), tmp_path/'good'), 'bad': (partial(fails, 'on purpose'), tmp_path/'bad')}
    with pytest.raises(ConfigError, match='on purpose'): train_side_by_side(jobs, 3, 2)
    assert (tmp_path/'good'/'DONE').exists()


def fails(text, folder): raise ConfigError(text)


def test_the_bar_counts_every_epoch_once(tmp_path):
    class Done:
        left = 3
        def done(self): Done.left -= 1; (tmp_path/'status.json').write_text(json.dumps(dict(epoch=3 - Done.left))); return Done.left <= 0
    assert list(_epochs([tmp_path, tmp_path/'not yet'], [Done()])) == [0, 1, 2]


def test_finished_folders_are_left_alone(tmp_path):
    train_quietly(partial(job, config()), tmp_path/'a'); train_quietly(partial(job, config(seed=1)), tmp_path/'b')
    assert {k: type(r) for k, r in train_side_by_side({'a': (None, tmp_path/'a'), 'b': (None, tmp_path/'b')}, 3).items()} == dict(a=Run, b=Run)
