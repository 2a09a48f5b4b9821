"Evaluation beside training: it does not touch training, it is not lost, and it never hangs."
import os, signal, subprocess, sys, time
import numpy as np, psutil, pytest, torch
from vislearn.control import beside as module
from vislearn.control.beside import best_weights, played_epochs, score
from vislearn.control.bc import load_bc, train_bc
from vislearn.control.collect import collect
from vislearn.control.recipes import bc_nano, bc_source, bc_state
from vislearn.control.results import bc_table
from vislearn.core import DataError, UserError
from vislearn.runs.config import Part
from test_procs import gone, heed_ctrl_c


def config(epochs=6, **how):
    cfg = bc_nano(demos=40, epochs=epochs); return cfg.replace(data=cfg.data.replace(eval=Part(name='rollout', params=dict(dict(episodes=8, concurrent=True), **how))), log=cfg.log.replace(tensorboard=False))
def weights(run): return torch.cat([p.flatten() for p in load_bc(run, device='cpu')[0].parameters()])


def test_training_is_the_same_with_and_without(tmp_path):
    "P08, P11 beside: the same weights bit by bit, and the same tables, concurrent or not."
    with_ = train_bc(config(), out=tmp_path, device='cpu', show=None, policy='record'); between = train_bc(config(concurrent=False), out=tmp_path, device='cpu', show=None, policy='record')
    cfg = config(); plain = train_bc(cfg.replace(data=cfg.data.replace(eval=None)), out=tmp_path, device='cpu', show=None, policy='record')
    assert torch.equal(weights(with_), weights(plain)) and torch.equal(weights(between), weights(plain))
    a, b = played_epochs(with_), played_epochs(between); assert sorted(a)==sorted(b)==[0, 1, 2, 3, 4, 5, 6]
    assert all(a[e]['Reach-discrete'].episodes==b[e]['Reach-discrete'].episodes for e in a)


def test_numbers_reach_the_run_folder(tmp_path):
    lines = []; run = train_bc(config(epochs=4), out=tmp_path, device='cpu', show=lines.append, policy='record'); played = played_epochs(run)
    rows = run.metrics('eval') if 'split' not in run.metrics().columns else run.metrics().query("split=='eval'")
    assert len(rows) and (run.dir/'DONE').exists() and sorted(played)==[0, 1, 2, 3, 4]
    said = [l for l in lines if l.startswith('   ___ ')]; assert len(said)==5 and said[-1]==f'   ___ 4 | Reach-discrete : return {played[4]["Reach-discrete"].returns.mean():.3f}, success {played[4]["Reach-discrete"].success:.3f}'
    assert [l for l in lines if l.startswith('   ### 4 | loss ')] and lines[0].startswith('======== Run Recap ========') and lines[-1]=='=========== End ==========='
    best = max((e for e in played if e), key=lambda e: score(played[e])); net, _ = load_bc(run, device='cpu'); net.load_state_dict(best_weights(run))
    assert torch.load(run.dir/'artifacts/rollouts/best.pt', weights_only=True)['score']==score(played[best])


def test_bars_say_which_environment_and_epoch(tmp_path, monkeypatch):
    "As users of the original knew them."
    from vislearn.control import rollout
    real, texts = rollout.progress, []; monkeypatch.setattr(rollout, 'progress', lambda items, text, **how: texts.append(text) or real(items, text, **how))
    train_bc(config(epochs=2, concurrent=False), out=tmp_path, device='cpu', show=None, policy='record'); assert texts==[f'Reach-discrete @ {e}' for e in (0, 1, 2)]


def test_a_disk_that_is_full_when_the_best_weights_are_kept_is_one_line(tmp_path, monkeypatch):
    "torch raises a RuntimeError of its own then."
    real = torch.save
    def full(obj, f, *args, **kwargs):
        if 'rollouts' in str(f): raise RuntimeError('[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598')
        return real(obj, f, *args, **kwargs)
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(UserError, match='best.pt: could not write .*free some space'): train_bc(config(epochs=1), out=tmp_path, device='cpu', show=None, policy='record')


def test_broken_simulator_is_reported_and_training_goes_on(tmp_path, monkeypatch):
    real, calls, lines = module.evaluate, [], []
    def flaky(*a, **k):
        calls.append(1)
        if len(calls)==2: raise DataError('its processes died 3 times')
        return real(*a, **k)
    monkeypatch.setattr(module, 'evaluate', flaky); run = train_bc(config(epochs=3), out=tmp_path, device='cpu', show=lines.append, policy='record')
    assert sorted(played_epochs(run))==[0, 2, 3] and any('1 | not evaluated: its processes died' in l for l in lines)
    monkeypatch.setattr(module, 'evaluate', lambda *a, **k: (_ for _ in ()).throw(DataError('no renderer')))
    with pytest.raises(DataError, match='no renderer'): train_bc(config(epochs=2), out=tmp_path, device='cpu', show=None, policy='record') # the last evaluation must not be missing


SCRIPT = '''
import sys
from vislearn.control.bc import train_bc
from vislearn.runs.config import load_config
train_bc(load_config(sys.argv[1]), folder=sys.argv[2], device='cpu', policy='record')
'''


@pytest.mark.parametrize('kill', [signal.SIGKILL, signal.SIGINT])
def test_P10_no_simulator_outlives_training(tmp_path, kill, request):
    from vislearn.runs.config import dump_yaml
    cfg = config(epochs=400, episodes=10**6, options=dict(pixels=False), copies=2); (tmp_path/'c.yaml').write_text(dump_yaml(cfg));
    # workers on purpose: the toy would be played in the process of the training
    (tmp_path/'t.py').write_text('from vislearn.control import rollout; rollout.CHEAP = ()\n' + SCRIPT)
    job = subprocess.Popen([sys.executable, tmp_path/'t.py', tmp_path/'c.yaml', tmp_path/'run'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=heed_ctrl_c)
    request.addfinalizer(job.kill); end, pids = time.monotonic() + 60, []
    while len(pids)<3 and time.monotonic()<end and job.poll() is None: pids = [p.pid for p in psutil.Process(job.pid).children(recursive=True)]; time.sleep(.2)
    assert len(pids)>=3; time.sleep(1) # two workers, and what Python starts beside them
    os.kill(job.pid, kill); job.wait(30)
    assert gone(pids, 5)


def test_last_evaluation_is_made_up_for(tmp_path):
    "A run that was killed after its last epoch, before its last evaluation, is not complete."
    run = train_bc(config(epochs=3), out=tmp_path, device='cpu', show=None, policy='record'); whole = played_epochs(run)
    (run.dir/'DONE').unlink(); [f.unlink() for f in (run.dir/'artifacts/rollouts').glob('epoch-00003-*')]
    again = train_bc(run.config, folder=run.dir, device='cpu', show=None, policy='record')
    assert (again.dir/'DONE').exists() and played_epochs(again)[3]['Reach-discrete'].episodes==whole[3]['Reach-discrete'].episodes


def test_one_name_for_an_environment_everywhere(tmp_path):
    "The config may say it in another way than the card: lines, metrics and tables have the card's name."
    pytest.importorskip('minigrid')
    trajs = collect('MiniGrid-Empty-5x5', 4, options=dict(pixels=False), workers=1, root=tmp_path/'cache'); cfg = bc_state('MiniGrid-Empty-5x5', data=trajs.path, epochs=2, episodes=2); lines = []
    run = train_bc(cfg.replace(log=cfg.log.replace(tensorboard=False), data=cfg.data.replace(eval=Part(name='rollout', params=dict(episodes=2, copies=1, epochs=[0, 2], concurrent=False)))), out=tmp_path, device='cpu', show=lines.append, policy='record')
    name = trajs.card.name; table = bc_table(run); played = played_epochs(run); assert name=='MiniGrid-Empty-5x5-v0' and bc_source(run.config).env==['MiniGrid-Empty-5x5']
    assert set(table)=={'epoch', 'training_loss', 'gradient_norm', name} and set(played[0])=={name} and sum(f' | {name} : ' in l for l in lines)==2
    assert [table[name]['episode_return'][e] for e in (0, 2)]==[played[e][name].returns.mean() for e in (0, 2)] and np.isnan(table[name]['episode_return'][1])
