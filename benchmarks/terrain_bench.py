"""Speed of patches and triplets against the plain versions in tests/terrain_reference.py, both measured in one run

    python benchmarks/terrain_bench.py            # prints JSON; `vislearn`'s benchmark command merges it into benchmarks/terrain.json
"""
import itertools, json, multiprocessing, os, sys, tempfile, threading, time
from pathlib import Path
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]/'tests'))


def spot_bev():
    "Geometry of the original's images: 150 px/m, 5 m ahead, camera pitched by 17 degrees."
    from vislearn.robot.bev import BevSpec
    return BevSpec(ppm=150, rows=750, cols=1456, u0=726.05, v0=750, horizon_m=5., polygon=((0.8637, 0.7411), (0.8637, -0.7454), (5., -4.8679), (5., 4.8403)))


def recording(n, step_m=0.07, kinds=4):
    "A straight drive with full-size JPEG images in memory; `kinds` different ones take turns."
    from vislearn.terrain.cut import JpegIndex, encode_jpeg
    bev, rng = spot_bev(), np.random.default_rng(0)
    def picture(): return rng.integers(40, 255, (94, 182, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)[:bev.rows, :bev.cols]*bev.mask()[..., None]
    blobs = [encode_jpeg(picture(), 85) for _ in range(kinds)]
    T = np.tile(np.eye(4), (n, 1, 1)); T[:, 0, 3] = step_m*np.arange(n)
    return JpegIndex([blobs[k % kinds] for k in range(n)]), T, bev


def bench_patches(n=120):
    "Patches per second of the extraction and of a loop over pairs, with identical output."
    from terrain_reference import slow_patches
    from vislearn.store import Store
    from vislearn.terrain.cut import cut_recording, unseen_below
    from vislearn.terrain.pairs import PatchParams
    images, T, bev = recording(n)
    unseen_below(bev)                                                          # made once per geometry by both sides
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter(); store = Store(cut_recording(images, T, bev, PatchParams(), dict(id=0), root=root)); fast = time.perf_counter()-start
        rows = {(i, j): r for i, j, r in zip(*(store.index[k].tolist() for k in ('view', 'loc', 'shard_row')))}
        def run(each, take):                                                   # the loop is stopped after `take` patches: its speed does not change
            loop = slow_patches(images, T, bev, PatchParams(), decode_each_pair=each, below=unseen_below(bev))
            first = next(loop); start = time.perf_counter(); got = [first] + list(itertools.islice(loop, take-1)); seconds = time.perf_counter()-start
            same = all((store['patches'][rows[ij]] == patch).all() for ij, patch, _ in got)
            return (len(got)-1)/seconds, same
        (each, same_each), (once, same_once) = run(True, 400), run(False, 2000)
        total = len(rows)
    return dict(images=n, patches=total, image_px=[bev.rows, bev.cols], seconds=round(fast, 3), patches_per_s=round(total/fast), pair_loop_patches_per_s=round(each), viewpoint_loop_patches_per_s=round(once),
        times_pair_loop=round(total/fast/each, 1), times_viewpoint_loop=round(total/fast/once, 1), identical=bool(same_each and same_once),
        note='pair loop: decodes the image, multiplies the poses and tests the pixels for every pair; viewpoint loop: the same, image decoded once per viewpoint; our side includes writing the store with checksums')


def bench_memory(n=2000):
    "Growth of resident memory while a long recording is extracted, in a process of its own."
    ctx = multiprocessing.get_context('spawn'); mine, theirs = ctx.Pipe()
    p = ctx.Process(target=_extract_and_watch, args=(n, theirs)); p.start(); got = mine.recv(); p.join()
    return got


def _extract_and_watch(n, pipe):
    import psutil, torch
    from vislearn.store import Store
    from vislearn.terrain.cut import cut_recording
    from vislearn.terrain.pairs import PatchParams
    torch.set_num_threads(1)
    images, T, bev = recording(n)
    me, peak, stop = psutil.Process(), [0], threading.Event()
    def watch():
        while not stop.wait(.02): peak[0] = max(peak[0], me.memory_info().rss)
    base = me.memory_info().rss
    thread = threading.Thread(target=watch); thread.start()
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter(); path = cut_recording(images, T, bev, PatchParams(), dict(id=0), root=root); seconds = time.perf_counter()-start
        stop.set(); thread.join(); rows = len(Store(path)['patches'])
    pipe.send(dict(images=n, patches=rows, seconds=round(seconds, 1), growth_mb=round((peak[0]-base)/1e6, 1)))


def bench_store(n=1_000_000, side=16, big=40_000):
    "Opening a large store, random reads, and the private memory of four workers."
    from test_patches import million
    from vislearn.terrain.patches import PatchSet
    with tempfile.TemporaryDirectory() as root:
        path, rng = million(Path(root), n, side), np.random.default_rng(1)
        for lo in range(0, n, 10_000): PatchSet({'a': [path]}).images(np.arange(lo, min(lo+10_000, n)))        # warm
        start = time.perf_counter(); pset = PatchSet({'a': [path]}); opened = time.perf_counter()-start
        start = time.perf_counter(); pset.images(rng.integers(0, n, 10_000)); read = time.perf_counter()-start
    with tempfile.TemporaryDirectory() as root:
        pset = PatchSet({'a': [million(Path(root), big, 64)]})
        for lo in range(0, big, 2000): pset.images(np.arange(lo, lo+2000))
        pset = PatchSet(pset.paths)
        pset.images([0]); start = time.perf_counter(); pset.images(rng.integers(0, big, 10_000)); read64 = time.perf_counter()-start
        private = _workers(pset)
    return dict(patches=n, side_px=side, open_s=round(opened, 4), read_10000_s=round(read, 3), read_10000_of_64px_s=round(read64, 3), store_mb_for_workers=round(big*64*64*3/1e6), private_mb_per_worker=private)


def _workers(pset):
    from test_patches import _read_all
    ctx, jobs = multiprocessing.get_context('fork'), []
    for _ in range(4): mine, theirs = ctx.Pipe(); p = ctx.Process(target=_read_all, args=(pset, theirs)); p.start(); jobs.append((p, mine))
    got = [round(pipe.recv(), 1) for _, pipe in jobs]
    for p, _ in jobs: p.join()
    return got


def bench_triplets(bs=64):
    "Triplets per second of batches and of a sampler that draws item by item."
    from terrain_reference import SlowTriplets, TunedTriplets
    from vislearn.terrain.patches import toy_patchset
    from vislearn.terrain.triplets import TripletSampler
    with tempfile.TemporaryDirectory() as root:
        pset = toy_patchset(root, n=260)
        fast, seed, tuned = TripletSampler(pset), SlowTriplets(pset), TunedTriplets(pset)
        def clock(f, n): return min(_time(f, n) for _ in range(7))
        ours = clock(lambda k: fast(0, k, bs), 1024)
        slow, best = (clock(lambda k: np.array([d[i] for i in range(bs)]), 30) for d in (seed, tuned))
    return dict(batch=bs, locations=len(pset.loc_datum), triplets_per_s=round(bs/ours), per_item_per_s=round(bs/slow), tuned_per_item_per_s=round(bs/best), times_per_item=round(slow/ours, 1), times_tuned_per_item=round(best/ours, 1),
        note='per item: the seed rule on dictionaries; tuned: lists prepared once, the fastest plain-Python form found')


def _time(f, n):
    start = time.perf_counter()
    for k in range(n): f(k)
    return (time.perf_counter()-start)/n


def bench_all():
    "All of the above."
    return dict(patches=bench_patches(), memory=bench_memory(), store=bench_store(), triplets=bench_triplets())


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    import torch; torch.set_num_threads(1)
    print(json.dumps(bench_all(), indent=1))
