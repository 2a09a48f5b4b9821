"The benchmark command of the objects wing: one small group in a process of its own, and what the other groups rest on"
import json, subprocess, sys
from pathlib import Path

import numpy as np, pytest, torch
TOP = Path(__file__).resolve().parents[1]; sys.path.insert(0, str(TOP/'benchmarks'))
import bench_objects as bo


def test_one_group_end_to_end(tmp_path):
    out = tmp_path/'objects.json'
    subprocess.run([sys.executable, TOP/'benchmarks'/'bench_objects.py', '--quick', '--only', 'continuity', '--out', out], check=True, capture_output=True)
    page = json.loads(out.read_text()); entries = page['results']['continuity']['entries']
    assert page['results']['continuity']['quick'] is True and [e['limit'] for e in entries]==[5., None] and all(e['fast']>0 and e['slow']>0 and e['ratio']>0 for e in entries)


def test_both_compositions_are_one():
    from vislearn.objects.paste import compose
    leaves = bo.objects(1, 16); pairs = zip(bo.slow_compose(*leaves), compose(*leaves, 128)); assert all(torch.allclose(a, b, atol=2e-4) for a, b in pairs)


def test_both_backgrounds_are_one():
    from vislearn.objects.motion import root_mode
    frames = np.random.default_rng(0).integers(0, 3, (15, 6, 5, 3), dtype=np.uint8); frames[::2] = frames[0]
    assert (bo.mode_loop(frames)==frames[0]).all() and (root_mode(frames)==frames[0]).all()


def test_both_sides_of_the_step_learn_alike():
    "What is timed are whole training steps with the same losses: the weights move on both sides, by about as much."
    fast, slow = bo.both(4, 2); x, hints = bo.pictures(1, 2), bo.made_hints(1, 2, 4); a, b = bo.fast_step(fast, x, hints), bo.slow_step(slow, x, hints)
    before = [torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (fast, slow)]
    a(); b(); moved = [(torch.cat([p.detach().flatten() for p in m.parameters()]) - w).norm().item() for m, w in zip((fast, slow), before)]
    assert moved[0]>0 and abs(moved[0]/moved[1] - 1)<.05


def test_saved_activations_are_counted_once():
    w = torch.nn.Parameter(torch.ones(1000)); x = torch.rand(1000, requires_grad=True)
    mb, out = bo.saved_mb(lambda: ((x*w)*x).sum(), [w]); assert abs(mb - 2*4e-3)<1e-9 # x (three times) and the product; not the weight


@pytest.mark.parametrize('name', ['rootmode', 'memory'])
def test_quick_groups_give_entries(name):
    entries = list(getattr(bo, name)(True)); assert all(e['fast']>0 for e in entries) and {e['limit'] for e in entries}>={dict(rootmode=20., memory=350.)[name]}


def test_groups_that_cannot_run_say_why(monkeypatch):
    monkeypatch.setattr(bo.importlib.util, 'find_spec', lambda name: None); e, = bo.record(True); assert e['fast']=='skipped' and 'vislearn[atari]' in e['note'] and e['met'] is None
    if not torch.cuda.is_available(): e, = bo.gpu(True); assert e['fast']=='skipped' and 'no CUDA device' in e['note']
