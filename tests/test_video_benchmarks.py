"The benchmark command of the video wing: one small group in a process of its own, and what the other groups rest on"
import json, subprocess, sys
from pathlib import Path

import numpy as np, pytest, torch
from svg_reference import moving_digits
TOP = Path(__file__).resolve().parents[1]; sys.path.insert(0, str(TOP/'benchmarks'))
import bench_video as bv


def test_V16_operators_end_to_end(tmp_path):
    out = tmp_path/'video.json'
    subprocess.run([sys.executable, TOP/'benchmarks'/'bench_video.py', '--quick', '--only', 'operators', '--out', out], check=True, capture_output=True)
    entries = {e['name']: e for e in json.loads(out.read_text())['results']['operators']['entries']}
    assert entries['operators, joint, split']['fast']<500 and entries['operators, joint, split']['met'] is True
    assert all(e['fast']<500 for e in entries.values()) and entries['operators, joint, split, against the loop']['slow']>5000


def test_operators_are_counted_without_views():
    x = torch.rand(4, 4, requires_grad=True)
    n, seen = bv.count_operators(lambda: x.t().view(4, 4).mul(2).sum().backward())
    assert seen['mul']==2 and seen['sum']==1 and 't' not in seen and 'view' not in seen and n==sum(seen.values()) # forward and backward


def test_both_sides_of_the_step_learn_alike():
    "What is timed are whole training steps: the errors fall on both sides, from about the same start."
    x = bv.frames_of(4, quick=True); slow, fast = bv.slow_model(True), bv.fast_model(True, 'frame')
    step, other = bv.slow_step(slow, x), bv.fast_step(fast, x)
    first = step()[1].item(); before = ((fast(x)[0] - x[:, 1:])**2).mean().item()*(x.shape[1] - 1)
    for _ in range(15): last = step()[1].item(); other()
    after = ((fast(x)[0] - x[:, 1:])**2).mean().item()*(x.shape[1] - 1)
    assert last<.8*first and after<.8*before and abs(first/before - 1)<.05


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_the_gpu_group_says_why_it_is_skipped():
    e, = bv.gpu(True)
    assert e['fast']=='skipped' and 'no CUDA device' in e['note'] and f"{e['fast']:>10}" and e['met'] is None


def test_memory_of_a_process_is_seen():
    assert 60<bv.peak_mb(lambda: np.ones(100_000_000//8))<160 # memory that imports gave back is used again
    with pytest.raises(RuntimeError, match='failed'): bv.peak_mb(lambda: 1/0)


def test_the_slow_digits_bounce():
    "The slow side of the data group keeps to the published rule: positions 0 to 31, a solid digit covers a quarter."
    films = [moving_digits(np.ones((1, 32, 32), np.float32), 15, 1, np.random.RandomState(k)) for k in range(20)]
    assert all(f.shape==(15, 64, 64, 1) and (f.sum((1, 2, 3))==1024).all() and f.max()==1 and not f[:, 63].any() and not f[:, :, 63].any() for f in films)
    corners = np.array([[np.argwhere(g[..., 0])[0] for g in f] for f in films]); assert abs(np.diff(corners, axis=1)).max()<=4 and corners.min()==0 and corners.max()==31
