"The benchmark command: entries, spreads, limits, one small group in a process of its own"
import json, subprocess, sys
from pathlib import Path
TOP = Path(__file__).resolve().parents[1]; sys.path.insert(0, str(TOP/'benchmarks'))
import harness as bt

def test_entry_counts_in_the_right_direction():
    e = bt.entry('t', 'ms', [2., 1., 3.], [8., 6., 10.], limit=3.)
    assert (e['fast'], e['slow'], e['ratio'], e['met'], e['repeats'], e['spread']) == (2, 8, 4, True, 3, dict(fast=[1, 3], slow=[6, 10]))
    assert bt.entry('t', 'per s', 100, 50, better='higher', limit=3.)['ratio'] == 2 and not bt.entry('t', 'per s', 100, 50, better='higher', limit=3.)['met']
    assert bt.entry('t', 'MB', 600., limit=500.)['met'] is False and bt.entry('t', 'MB', 600.)['met'] is None

def test_one_group_end_to_end(tmp_path):
    out = tmp_path/'terrain.json'; out.write_text(json.dumps(dict(results=dict(kept=dict(entries=[])))))
    subprocess.run([sys.executable, TOP/'benchmarks'/'bench_terrain.py', '--quick', '--only', 'planning', '--out', out], check=True, capture_output=True)
    doc = json.loads(out.read_text())
    assert set(doc['results']) == {'kept', 'planning'} and doc['hardware']['cores'] and doc['versions']['torch'] and doc['results']['planning']['quick'] is True
    e = doc['results']['planning']['entries'][0]; assert e['ratio'] > 1 and e['config'] == dict(cells=[60, 60])
