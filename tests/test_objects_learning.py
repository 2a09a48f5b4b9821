"The learning benchmark of the objects wing: plans that can train, a small one from end to end, and what its file of results must hold"
import json, sys
from pathlib import Path
import numpy as np, pytest
TOP = Path(__file__).resolve().parents[1]; sys.path.insert(0, str(TOP/'benchmarks'))
import learn_objects as lo
from vislearn.objects.clips import ObjectClips
from vislearn.objects.recipes import moc_config, space_config, space_nano
from vislearn.objects.train import check_config
PAGE = TOP/'benchmarks'/'objects_learning.json'


def test_every_plan_is_a_config_and_variants_differ_in_two_weights():
    plans = {name: make(*args) for name, (make, *args) in lo.PLANS.items()}
    for name, cfg in plans.items(): check_config(cfg); assert cfg.seed == int(name[-1]) and cfg.rollout.every == 1 and cfg.train.max_steps % cfg.data.train.params['epoch_size'] == 0
    for group in lo.GROUPS:
        a, b, c = (plans[f'{group}-{v}-0'] for v in ('space', 'space_m', 'space_moc')); same = dict(motion_weight=0, area_object_weight=0)
        assert b.model == c.model and a.data == b.data == c.data and a.optim == c.optim and a.train == c.train
        assert moc_config(a).replace(**same) == moc_config(b).replace(**same) == moc_config(c).replace(**same)
        start = dict(fix_alpha_steps=-1, fix_alpha=.1); games = group not in ('nano', 'sprites64')
        assert space_config(a).replace(**start) == space_config(b) and (space_config(a).fix_alpha_steps, space_config(a).fix_alpha) == ((c.train.max_steps*2//5, .2) if games else (-1, .1)) # the published baseline has this help
        assert [(moc_config(x).motion_weight, moc_config(x).area_object_weight) for x in (a, b, c)] == [(0, 0), (100, 0), (100, 10)]


def test_a_small_plan_from_training_to_scores(tmp_path, monkeypatch):
    def tiny(variant, seed):
        "Very few steps."
        cfg = space_nano(variant, seed, steps=4, bs=1, n=100); return lo.often(cfg.replace(log=cfg.log.replace(images=False)), 2)
    monkeypatch.setattr(lo, 'RUNS', tmp_path); monkeypatch.setattr(lo, 'TEST', 8); monkeypatch.setattr(lo, 'PLANS', {f'tiny-{v}-0': (tiny, v, 0) for v in lo.VARIANTS}); monkeypatch.setattr(lo, 'GROUPS', ['tiny'])
    monkeypatch.setattr(lo.test_clips, '__defaults__', (8,))
    for name in ('tiny-space-0', 'tiny-space_moc-0'): lo.train(name)
    out = tmp_path/'page.json'; lo.score(out, ['tiny']); page = json.loads(out.read_text()); got = page['results']['tiny']
    assert list(got['runs']) == ['tiny-space_moc-0', 'tiny-space-0'] and got['test']['frames'] == 32 and got['test']['hints']['fscore']>.8 and got['about'] == 'Very few steps.'
    run = got['runs']['tiny-space-0']; assert run['training']['steps'] == 4 and run['training']['images'] == 16 and [s for s, _ in run['curves']['log_like']] == [2, 4]
    assert {'precision', 'recall', 'fscore', 'error_rate'} <= set(run['scores']) and set(run['by_class']) == {'square', 'disc', 'triangle'} and run['examples']['clips'] == [0, 1, 2, 3, 4, 5]
    before = out.read_text(); monkeypatch.setattr(lo, 'score_run', lambda name: pytest.fail('scored twice')); lo.score(out, ['tiny']); assert json.loads(before)['results'] == json.loads(out.read_text())['results']
    with pytest.raises(SystemExit): lo.main(['--train', 'tinny'])


def test_pacman_is_scored_without_pills():
    pytest.importorskip('ale_py'); from vislearn.objects.atari import find_ocatari
    if not find_ocatari(): pytest.skip('no ocatari')
    cfg = lo.atari('MsPacman', 'space', 0); cfg = cfg.replace(data=cfg.data.replace(common=dict(game='MsPacman', size=32, trail=4, warmup=0, motion='root', n_root=20)))
    clips = lo.test_clips(cfg, 4); names = {clips.classes[k] for k in clips.things.label[~clips.things.hud]}
    assert 'Pill' not in names and 'Player' in names and isinstance(clips, ObjectClips) and clips.things.visible[~clips.things.hud & (clips.things.label != clips.classes.index('PowerPill'))].all()


@pytest.mark.skipif(not PAGE.exists(), reason='not trained yet')
def test_O16_recorded_trainings_keep_the_promises():
    "Spec 16.2: the small problem, three seeds each; means of three trainings."
    page = json.loads(PAGE.read_text())['results']['nano']['runs']; of = lambda v, k: np.array([r['scores'][k] for n, r in page.items() if n.split('-')[1] == v])
    assert len(page) == 9 and of('space_moc', 'fscore').min()>=.80 and of('space_moc', 'few_shot_16').min()>=.75
    assert of('space_moc', 'fscore').mean() - of('space', 'fscore').mean()>=.05
    assert all(r['training']['steps'] == 1500 for r in page.values())
