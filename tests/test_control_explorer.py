"The explorer of control: every slider changes the picture, and what it shows is what was played"
import io, subprocess, sys

import numpy as np, pytest
from matplotlib.figure import Figure
from PIL import Image
import vislearn.control as control
from vislearn.control.bc import bc_actor, load_bc, train_bc
from vislearn.control.beside import best_weights, played_epochs
from vislearn.control.figures import side_by_side
from vislearn.control.explorer import DemosView, RunsView, demo_film, explore, explore_static, play_film, view_of, weights_of
from vislearn.control.recipes import bc_nano
from vislearn.control.rollout import evaluate, mean_interval
from vislearn.control.trajs import toy_trajs, write_trajs
from vislearn.core import ConfigError, DataError, UserError
from vislearn.runs.config import Part
from vislearn.runs.record import RunError


class Parts:
    "The widgets of an explorer by name."
    def __init__(self, box):
        *top, (self.episode,), (self.step, self.play, self.says), self.picture = [getattr(row, 'children', row) for row in box.children]
        self.run, self.env, self.epoch = top[0] if top else (None,)*3
    @property
    def pixels(self): return np.asarray(Image.open(io.BytesIO(self.picture.value)))


def train(folder, obs='state', label='', epochs=4, **how):
    cfg = bc_nano(obs, demos=40, epochs=epochs); part = Part(name='rollout', params=dict(episodes=10, concurrent=False) | how)
    return train_bc(cfg.replace(label=label, data=cfg.data.replace(eval=part), checkpoint=cfg.checkpoint.replace(keep_last=1, keep_best=0, every_epochs=2)), out=folder, device='cpu', show=None, policy='record')


@pytest.fixture(scope='module')
def place(tmp_path_factory): return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def runs(place): return [train(place, 'state', 'true state', env=['Reach-discrete', 'Reach-decoy']), train(place, 'pixels', 'random network')]


def test_every_slider_changes_the_picture(runs):
    parts = Parts(explore(runs, seed=10**6)); seen = [parts.pixels]; assert list(parts.run.options)==[('true state', 0), ('random network', 1)] and parts.env.options==('Reach-discrete', 'Reach-decoy')
    for slider, value in ((parts.step, 2), (parts.episode, 3), (parts.env, 'Reach-decoy'), (parts.epoch, 2), (parts.run, 1)):
        slider.value = value; seen.append(parts.pixels); assert not np.array_equal(seen[-1], seen[-2]), slider.description
    assert parts.env.options==('Reach-discrete',) and parts.epoch.value==max(weights_of(runs[1])) and parts.says.value.count('steps')==2 and 'policy: ' in parts.says.value
    assert parts.play.max==parts.step.max==max(len(f.frames) for f in view_of(runs, 10**6).films(1, i=3)) - 1


def test_demonstrations(tmp_path):
    trajs = toy_trajs(12, seed=3); parts = Parts(explore(trajs)); assert parts.run is None and parts.episode.max==11 and parts.step.max==len(trajs[0].action) - 1
    before = parts.pixels; parts.step.value = 1; assert not np.array_equal(before, parts.pixels); parts.episode.value = 5; assert f'{len(trajs[5].action)} steps' in parts.says.value
    stored = write_trajs('reach', dict(n=12), lambda: iter(trajs), trajs.card, tmp_path, trajs.info, trajs.action_space)
    assert isinstance(view := view_of(stored.path), DemosView) and len(view)==12 and np.array_equal(view.films(5)[0].frames, trajs[5].frames) and explore_static(stored.path, i=2, t=1).axes


def test_goals_are_shown_beside(tmp_path):
    from vislearn.control.collect import collect
    trajs = collect('Reach-goal', 3, workers=1, root=tmp_path); fig = DemosView(trajs).figure(1, 2); assert len(fig.axes)==4 and fig.axes[1].get_title()=='goal' and np.array_equal(fig.axes[1].images[0].get_array(), trajs[1].goal)


def test_films_are_what_evaluation_plays(runs):
    "Same seeds, same weights: the same frames, length and success as `evaluate`, for expert and policy."
    view = RunsView(runs, seed=10**6); net, seen = load_bc(runs[1], device='cpu'); table = evaluate(bc_actor(runs[1].config, net, seen), 'Reach-discrete', 6, 10**6, film=2)
    for i, e in enumerate(table.episodes):
        expert, policy = view.films(1, i=i); assert (len(policy.action), policy.success, round(policy.total, 5))==(e.length, e.success, round(e.total, 5)) and expert.success
        assert np.array_equal(expert.frames[0], policy.frames[0])
    assert np.array_equal(view.films(1, i=1)[1].frames, table.films[10**6 + 1][:-1])
    demo = toy_trajs(3, seed=7)[2]; again = play_film(view.world(0, 'Reach-discrete'), 'Reach-discrete', demo.seed, 'expert'); assert np.array_equal(again.action, demo.action) and np.array_equal(again.frames, demo_film(demo).frames)


def test_epochs_have_their_own_weights(runs):
    there = weights_of(runs[0]); assert {2, 4}<=set(there); best = max((e for e in played_epochs(runs[0]) if e), key=lambda e: (np.mean([t.success for t in played_epochs(runs[0])[e].values()]), -e)); assert best in there
    view = RunsView(runs, seed=5)
    if there[best]=='played': view.films(0, epoch=best); assert all(np.array_equal(v, view.loaded[0][0].state_dict()[k]) for k, v in best_weights(runs[0]).items())
    view.films(0, i=1, epoch=2); assert all(np.array_equal(v, view.loaded[0][0].state_dict()[k]) for k, v in runs[0].load(there[2])['model'].items())


def test_success_by_environment(runs):
    view = RunsView(runs); got = view.scores(); played = [played_epochs(r) for r in runs]
    assert {e: set(s) for e, s in got.items()}=={'Reach-discrete': {'true state', 'random network'}, 'Reach-decoy': {'true state'}}
    assert got['Reach-decoy']['true state']==mean_interval(played[0][4]['Reach-decoy'].successes) and view.scores(3)['Reach-discrete']['random network'][0]==played[1][max(e for e in played[1] if e<=3)]['Reach-discrete'].success
    ax = view.figure(0, 'Reach-decoy', epoch=2).axes[3]; assert [round(b.get_height(), 3) for b in ax.patches]==[round(v, 3) for v in (played[0][2]['Reach-discrete'].success, played[0][2]['Reach-decoy'].success, played[1][2]['Reach-discrete'].success)]


def test_names_are_those_of_the_tables(runs):
    "A name may be written without its version; tables have it."
    view = RunsView(runs[0]); assert view.called('Reach-decoy')=='Reach-decoy' and view.called('HMS-pen-v0')=='Adroit-pen' and view.called('BabyAI-GoToRedBall')=='BabyAI-GoToRedBall'
    view.played = [{1: {'BabyAI-GoToRedBall-v0': played_epochs(runs[0])[4]['Reach-decoy']}}]; assert view.called('BabyAI-GoToRedBall')=='BabyAI-GoToRedBall-v0'
    ax = view.show_curves(Figure().subplots(), view.called('BabyAI-GoToRedBall')); assert len(ax.lines)==1


def test_one_name_twice_and_few_films(runs):
    view = RunsView([runs[0], runs[0]], keep=3); assert len(set(view.names))==1 and view.names[0].endswith(runs[0].id[-6:])
    short = RunsView(runs[0], options=dict(max_steps=2)); assert all(len(short.films(0, i=i)[1].action)<=2 for i in range(3))
    for i in range(5): view.films(0, i=i)
    assert len(view.known)==3; view.close(); assert not view.worlds and view.films(0, i=9)


def test_folders_and_ids(place, runs):
    assert {r.id for r in view_of(place).runs}=={r.id for r in runs}==({r.id for r in view_of([runs[0].dir, runs[1].id], root=place).runs}) and len(view_of(runs[0].id, root=place).runs)==1 and len(view_of(str(runs[0].dir)).runs)==1


def test_wrong_input_in_one_line(tmp_path, runs):
    with pytest.raises(DataError, match='no weights yet'): RunsView(_unfinished(tmp_path))
    with pytest.raises(ConfigError, match='no weights of epoch 77, there are those of 2'): RunsView(runs).films(0, epoch=77)
    with pytest.raises(UserError, match='got int'): view_of(3)
    with pytest.raises(RunError, match='no run'): view_of('20010101-000000-nobody', root=tmp_path)
    with pytest.raises(DataError, match='0 to 3'): DemosView(toy_trajs(4)).films(4)
    with pytest.raises(DataError, match='no pictures to look at'): demo_film(toy_trajs(2)[0]._replace(frames=None))


def _unfinished(folder):
    from vislearn.runs.record import Run
    return Run.create(bc_nano(), out=folder, policy='record')


def test_package_is_light_and_names_resolve():
    code = 'import sys, vislearn.control as c; assert "make_env" in dir(c); print(sorted({"torch", "gymnasium", "numpy", "fastai", "matplotlib"} & set(sys.modules)))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()=='[]'
    for name, module in control._PLACES.items(): assert getattr(control, name).__module__==f'vislearn.control.{module}', name
    with pytest.raises(AttributeError, match='no attribute'): control.make_nothing


def test_side_by_side_shows_the_very_frames():
    "Expert above policy, from the first frame to the last of each, the goal before both."
    demo = next(t for t in toy_trajs(30, goal=True) if len(t.action) >= 7); film = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8); fig = side_by_side(demo, film, 'Reach-goal', n=4, outcome='lost')
    rows = np.array(fig.axes).reshape(2, 5); pictures = lambda row: [ax.images[0].get_array() for ax in row]; titles = lambda row: [ax.get_title() for ax in row]
    assert all(np.array_equal(pictures(r)[0], demo.goal) and titles(r)[0] == 'goal' for r in rows)
    for row, frames, name in ((rows[0], demo.frames, 'expert'), (rows[1], film, 'policy')):
        steps = np.linspace(0, len(frames) - 1, 4).round().astype(int); assert all(np.array_equal(a, frames[t]) for a, t in zip(pictures(row)[1:], steps)) and titles(row)[1] == f'{name}, step 0' and f'step {len(frames) - 1}' in titles(row)[-1]
    assert titles(rows[1])[-1].endswith('\nlost') and 'lost' not in titles(rows[0])[-1]
    short = side_by_side(demo._replace(goal=None), film[:1], n=4); used = [len(ax.images) for ax in short.axes]; assert used == [1]*4 + [1, 0, 0, 0] # a policy that ended at once


def test_explore_says_what_it_plays_before_it_plays(runs, capsys, monkeypatch):
    "The first episodes are played before there is a widget; an expert that plans may take minutes."
    seen, real = [], RunsView.films
    monkeypatch.setattr(RunsView, 'films', lambda self, *a, **k: (seen.append(capsys.readouterr().out), real(self, *a, **k))[1]); explore(runs, seed=10**6)
    assert seen[0].startswith('playing Reach-discrete, seed 1000000: the expert and the policy of true state, epoch ') and seen[0].count('\n') == 1
