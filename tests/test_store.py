"The array store against real kills, full disks, many processes and a million rows"
import json, multiprocessing as mp, os, pickle, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, psutil, pytest
from vislearn.store import RowFile, Store, StoreError, build_store, list_stores, remove_store, store_path, verify_store

ARRAYS = dict(x=('uint8', (16,)))


def fill(w, n=1000, step=100):
    for start in range(0, n, step): w.append(x=(np.arange(start, start+step)[:, None] + np.arange(16)) % 251)
    w.index['row'] = np.arange(n)


def test_shards_are_plain_npy(tmp_path):
    p = build_store('t', dict(n=1000), ARRAYS, fill, tmp_path, rows_per_shard=300)
    whole = np.concatenate([np.load(f) for f in sorted(p.glob('x-*.npy'))])
    assert [len(np.load(f)) for f in sorted(p.glob('x-*.npy'))] == [300, 300, 300, 100]
    assert (whole == (np.arange(1000)[:, None] + np.arange(16)) % 251).all() and verify_store(p) == []
    idx = np.random.default_rng(0).integers(-1000, 1000, 400)
    assert (Store(p)['x'][idx] == whole[idx]).all() and (Store(p)['x'][whole[:, 0] == 3] == whole[whole[:, 0] == 3]).all()


@pytest.mark.parametrize('dtype', ['float32', 'int64', 'uint8', 'bool'])
def test_dtypes_and_empty(tmp_path, dtype):
    x = np.random.default_rng(0).integers(0, 2, (5, 2, 3)).astype(dtype)
    def one(w): w.append(x=x)
    p = build_store('t', dict(d=dtype), dict(x=(dtype, (2, 3))), one, tmp_path)
    assert (Store(p)['x'][:] == x).all() and Store(p)['x'][:].dtype == np.dtype(dtype)
    e = build_store('t', dict(d=dtype, empty=1), dict(x=(dtype, (2, 3))), lambda w: None, tmp_path)
    assert Store(e)['x'][:].shape == (0, 2, 3) and verify_store(e) == []


def test_append_checks(tmp_path):
    f = RowFile(tmp_path, 'x', 'uint8', (2,))
    with pytest.raises(StoreError, match=r'rows must have shape \(2,\)'): f.append(np.zeros((3, 4)))
    with pytest.raises(StoreError, match='equally many rows'):
        build_store('t', {}, dict(a=('u1', ()), b=('u1', ())), lambda w: w.append(a=np.zeros(2), b=np.zeros(3)), tmp_path)
    assert list_stores(tmp_path) == []


KILLED = """
import sys, time, numpy as np
from vislearn.store import build_store
def fill(w):
    for i in range(100): w.append(x=np.zeros((100, 1000), 'uint8')); print('row', w.rows, flush=True); time.sleep(.02)
build_store('t', dict(n=1), dict(x=('uint8', (1000,))), fill, sys.argv[1], rows_per_shard=500)
"""


def test_killed_while_writing(tmp_path):
    p = subprocess.Popen([sys.executable, '-c', KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    while 'row 1500' not in p.stdout.readline(): pass
    p.send_signal(signal.SIGKILL); p.wait()
    left = list((tmp_path/'t').glob('.*.tmp-*'))
    assert len(left) == 1 and [s.state for s in list_stores(tmp_path)] == ['unfinished']
    path = store_path('t', dict(n=1), tmp_path)
    assert not path.exists()
    with pytest.raises(StoreError, match='no complete store'): Store(path)
    build_store('t', dict(n=1), dict(x=('uint8', (1000,))), lambda w: w.append(x=np.ones((3, 1000))), tmp_path)   # the next run cleans up
    assert not list((tmp_path/'t').glob('.*.tmp-*')) and len(Store(path)['x']) == 3


def full_disk(root):
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))   # writes beyond fail, as on a full disk
    try: build_store('t', dict(n=2), dict(x=('uint8', (1000,))), lambda w: w.append(x=np.zeros((1000, 1000))), root)
    except StoreError as e: Path(root, 'said').write_text(str(e))


def test_disk_full(tmp_path):
    p = mp.get_context('spawn').Process(target=full_disk, args=(str(tmp_path),)); p.start(); p.join()
    assert 'no room left while writing' in (tmp_path/'said').read_text() and 'VISLEARN_CACHE' in (tmp_path/'said').read_text()
    assert not [f for f in (tmp_path/'t').iterdir() if f.is_dir()]


@pytest.mark.skipif(os.geteuid() != 0 or not Path('/proc/mounts').exists(), reason='mounting a small tmpfs needs root')
def test_disk_full_tmpfs(tmp_path):
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', tmp_path], capture_output=True).returncode: pytest.skip('mount of a tmpfs is not permitted here')
    try:
        with pytest.raises(StoreError, match='no room left'): build_store('t', {}, dict(x=('uint8', (1000,))), lambda w: w.append(x=np.zeros((5000, 1000))), tmp_path)
        assert not [f for f in (tmp_path/'t').iterdir() if f.is_dir()]
        build_store('t', {}, dict(x=('uint8', (1000,))), lambda w: w.append(x=np.zeros((50, 1000))), tmp_path)
    finally: subprocess.run(['umount', tmp_path])


def test_other_format(tmp_path):
    p = build_store('t', dict(n=1000), ARRAYS, fill, tmp_path)
    meta = json.loads((p/'meta.json').read_text()); meta['format'] = 99; (p/'meta.json').write_text(json.dumps(meta))
    with pytest.raises(StoreError, match='written in format 99, this vislearn reads 1'): Store(p)
    assert [s.state for s in list_stores(tmp_path)] == ['format 99']


def test_damage_is_found(tmp_path):
    p = build_store('t', dict(n=1000), ARRAYS, fill, tmp_path, rows_per_shard=300)
    (p/'x-00002.npy').unlink(); raw = bytearray((p/'index.npz').read_bytes()); raw[50] ^= 1; (p/'index.npz').write_bytes(raw)
    bad = verify_store(p)
    assert len(bad) == 2 and 'x-00002.npy: missing' in bad[0] and 'index.npz' in bad[1]
    remove_store(p); assert list((tmp_path/'t').iterdir()) == []


def slow_fill(w): time.sleep(.3); fill(w); w.meta['pid'] = os.getpid()
def build_in(root, out): out.put((os.getpid(), str(build_store('t', dict(n=7), ARRAYS, slow_fill, root))))


def test_two_builders_make_one(tmp_path):
    ctx = mp.get_context('spawn'); q = ctx.Queue()
    ps = [ctx.Process(target=build_in, args=(str(tmp_path), q)) for _ in range(2)]
    for p in ps: p.start()
    got = [q.get(timeout=60) for _ in ps]
    for p in ps: p.join()
    assert len({g[1] for g in got}) == 1 and len(list_stores(tmp_path)) == 1


def read_rows(rows, n, out):
    base = psutil.Process().memory_full_info().uss
    assert len(rows[np.random.default_rng(n).integers(0, len(rows), 10_000)]) == 10_000
    out.put(psutil.Process().memory_full_info().uss - base)


@pytest.mark.slow
def test_a_million_patches(tmp_path):
    block = np.random.default_rng(0).integers(0, 255, (8192, 24, 24, 3), dtype=np.uint8)
    def million(w):
        for i in range(0, 1_000_000, 8192): w.append(x=block[:min(8192, 1_000_000-i)])
        for c in ('view', 'loc'): w.index[c] = np.arange(1_000_000, dtype=np.int32)
    p = build_store('t', {}, dict(x=('uint8', (24, 24, 3))), million, tmp_path)
    t = time.perf_counter(); st = Store(p); assert len(st['x']) == 1_000_000 and st.index['loc'][-1] == 999_999; opened = time.perf_counter()-t
    idx = np.random.default_rng(1).integers(0, 1_000_000, 10_000); st['x'][idx]
    t = time.perf_counter(); got = st['x'][idx]; read = time.perf_counter()-t
    assert opened < 1 and read < 1, (opened, read)
    assert (got == block[idx % 8192]).all() and len(pickle.dumps(st)) < 1000
    ctx = mp.get_context('spawn'); q = ctx.Queue()
    ps = [ctx.Process(target=read_rows, args=(st['x'], i, q)) for i in range(4)]
    for c in ps: c.start()
    grown = [q.get(timeout=120) for _ in ps]
    for c in ps: c.join()
    assert max(grown) < 300e6, grown       # private memory per worker: 10 000 rows and buffers, never the 1.7 GB of the store
