"The demo as a stranger runs it: scores, report, times, reuse"
import json, os, subprocess, sys, time
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]


def demo(out, *args): return subprocess.run([sys.executable, '-m', 'vislearn', 'demo', '--out', str(out), *args], cwd=TOP, capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='2'))


def self_contained(page):
    "No picture, style or script from elsewhere."
    return 'http' not in page.replace('http://www.w3.org', '') and '<script' not in page and page.count('src="data:image/png;base64,') == page.count('<img')


@pytest.mark.slow
def test_tiny_reaches_its_goals(tmp_path):
    start = time.time(); r = demo(tmp_path/'demo'); first = time.time()-start
    assert r.returncode == 0, r.stderr[-3000:]
    assert r.stdout.strip().splitlines()[-1] == f'report: {tmp_path/"demo"/"report.html"}'
    res = json.loads((tmp_path/'demo'/'metrics.json').read_text()); s = res['scores']
    assert s['representation']['knn'] >= .78 and s['representation']['mean_color_knn'] <= .50
    assert s['cost']['ordering_mean'] >= .96 and s['all drives']['pairwise_order'] >= .85
    assert s['all drives']['regret'] <= .5*s['all drives']['line_regret']
    page = (tmp_path/'demo'/'report.html').read_text()
    assert self_contained(page) and page.count('<img') >= 10 and '/spot/status/feet' in page
    assert res['peak_mb'] < 3000 and first < 360, (first, res['peak_mb'])
    start = time.time(); r = demo(tmp_path/'demo'); second = time.time()-start
    again = json.loads((tmp_path/'demo'/'metrics.json').read_text())
    assert again['runs'] == res['runs'] and again['scores'] == s and second < 90, second


@pytest.mark.slow
def test_photographs_of_the_world(tmp_path):
    "The same on ground painted with photographs."
    r = demo(tmp_path/'demo', '--textures', str(TOP/'data'/'real'/'textures'))
    assert r.returncode == 0, r.stderr[-3000:]
    s = json.loads((tmp_path/'demo'/'metrics.json').read_text())['scores']
    assert s['representation']['knn'] > s['representation']['mean_color_knn'] + .2


@pytest.mark.slow
def test_real_photographs(tmp_path):
    r = demo(tmp_path/'real', '--real')
    assert r.returncode == 0, r.stderr[-3000:]
    res = json.loads((tmp_path/'real'/'metrics.json').read_text()); table = {t['variant']: t for t in res['lopo']}
    assert list(table) == ['colour', 'seed', 'squeezenet', 'default'] and table['default']['pooled'] >= .75 and table['default']['mean'] > table['colour']['mean']
    assert self_contained((tmp_path/'real'/'report.html').read_text()) and Path(res['run']).is_dir()
