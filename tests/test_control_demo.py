"The control demo as a stranger runs it: scores, report, times, reuse, and what happens when it is stopped"
import json, os, subprocess, sys, time
from pathlib import Path

import pytest
from vislearn.control import demo
from vislearn.control.beside import played_epochs
from vislearn.control.envs import make_env
from vislearn.control.rollout import Episode, RandomActor, Rollouts, evaluate
from vislearn.runs.record import Run

TOP = Path(__file__).parents[1]
TOY = demo.DemoSize(env='Reach-continuous', size=32, proprio=False, demos=4, epochs=3, looks=[1, 2], watched=3, episodes=4, max_steps=12)


def self_contained(page):
    "No picture, style or script from elsewhere."
    return 'http' not in page.replace('http://www.w3.org', '') and '<script' not in page and page.count('src="data:image/png;base64,')==page.count('<img')


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo'); return out, demo.run_demo(out, workers=1, size=TOY)


def test_files_and_numbers(done):
    out, res = done; rows = {r['who']: r for r in res['scores']}
    assert list(rows)==['expert', *demo.POLICIES, 'random actions'] and rows['expert']['success'][0]==1 and all(r['success'][1]<=r['success'][0]<=r['success'][2] for r in rows.values())
    assert json.loads((out/'metrics.json').read_text())==res and (out/'curves.png').exists() and (out/'episode.png').exists() and res['env']=='Reach-continuous' and res['peak_mb']>0 and len(res['seconds'])==5
    page = (out/'report.html').read_text(); assert self_contained(page) and page.count('<img')==4 and '>nan<' not in page and str(out) not in page
    assert all(list(c)==['1', '2', '3'] for c in res['curves'].values()) and res['curves']['true state']['3']==rows['true state']['success'][0]


def test_every_policy_is_judged_by_the_same_episodes(done):
    out, res = done; tables = [Rollouts.load(out/'runs'/name/'artifacts'/'rollouts'/f'eval-{demo.SCORE}-Reach-continuous.json') for name in res['runs'].values()]
    assert all([e.seed for e in t.episodes]==list(range(demo.SCORE, demo.SCORE + 4)) for t in [*tables, *demo.play_baselines(out, TOY).values()])
    env = make_env('Reach-continuous', pixels=False, max_steps=12); again = evaluate(RandomActor(env.action_space), 'Reach-continuous', 4, demo.SCORE, options=dict(pixels=False, max_steps=12))
    assert again.episodes==demo.play_baselines(out, TOY)['random actions'].episodes
    seeds = {e.seed for name in res['runs'].values() for t in played_epochs(Run(out/'runs'/name)).values() for e in t['Reach-continuous'].episodes}; assert seeds==set(range(demo.SCORE, demo.SCORE + 3))


def test_a_second_call_reads_what_is_there(done, monkeypatch):
    out, res = done; stamps = {p: p.stat().st_mtime_ns for p in out.rglob('*') if p.suffix in ('.pt', '.bin', '.npy')}; assert stamps
    def never(*words, **options): raise AssertionError('played or trained again')
    for name in ('train_policy', 'record_episode', 'evaluate'): monkeypatch.setattr(demo, name, never)
    again = demo.run_demo(out, workers=1, size=TOY); assert again['scores']==res['scores'] and again['runs']==res['runs'] and stamps=={p: p.stat().st_mtime_ns for p in stamps}


def test_another_seed_or_size_trains_anew(done):
    out, res = done; assert demo.config_hash(demo.demo_config('pretrained', 1))!=demo.config_hash(demo.demo_config('pretrained', 0)); names = set(res['runs'].values())
    assert not names & {f'{who}-{demo.config_hash(demo.demo_config(who, 0, TOY))[:6]}{demo.config_hash(TOY.replace(episodes=5))[:6]}' for who in demo.POLICIES}


def test_killed_between_training_and_playing(done):
    "Scores are made up for, and are the same."
    out, res = done; run = Run(out/'runs'/res['runs']['true state']); file = run.dir/'artifacts'/'rollouts'/f'eval-{demo.SCORE}-Reach-continuous.json'; old = file.read_text(); file.unlink()
    assert demo.play_scores(run, TOY).episodes==Rollouts.load(file).episodes and file.read_text()==old


def test_the_film_shows_an_episode_where_outcomes_differ(monkeypatch):
    shown = []
    class View:
        def __init__(self, runs, seed, options): assert seed==demo.SCORE and options==dict(max_steps=120)
        def films(self, r, i): shown.append(i); return ['expert', f'{r}-{i}']
        def close(self): pass
    monkeypatch.setattr(demo, 'RunsView', View); card = make_env('Reach-discrete').get_wrapper_attr('card')
    table = lambda *won: Rollouts(card, [Episode(s, 0., 1, bool(w)) for s, w in enumerate(won)]); films = demo.demo_films(dict(a=1, b=2), dict(a=table(1, 1, 0, 0), b=table(1, 1, 0, 1)))
    assert set(shown)=={3} and films=={'expert': 'expert', 'a': '0-3', 'b': '1-3'}


@pytest.mark.slow
def test_demo_reaches_its_goals(tmp_path):
    cmd = [sys.executable, '-m', 'vislearn', 'demo', 'control', '--out', str(tmp_path/'demo')]; env = os.environ | dict(OMP_NUM_THREADS='1')
    start = time.time(); r = subprocess.run(cmd, cwd=TOP, capture_output=True, text=True, env=env); first = time.time()-start
    assert r.returncode==0, r.stderr[-3000:]
    assert r.stdout.strip().splitlines()[-1]==f'report: {tmp_path/"demo"/"report.html"}'
    res = json.loads((tmp_path/'demo'/'metrics.json').read_text()); won = {s['who']: s['success'][0] for s in res['scores']}
    assert won['expert']==1 and won['true state']>=.9 and won['pretrained']>=.3 and won['random network']>=.15 and won['random actions']<=.1
    assert self_contained((tmp_path/'demo'/'report.html').read_text()) and res['peak_mb']<2000 and first<300, (first, res['peak_mb'])
    start = time.time(); r = subprocess.run(cmd, cwd=TOP, capture_output=True, text=True, env=env)
    assert r.returncode==0 and json.loads((tmp_path/'demo'/'metrics.json').read_text())['runs']==res['runs'] and time.time()-start<90
