import multiprocessing, os, subprocess, sys, textwrap, time
import numpy as np, pytest, torch
from scipy.spatial.transform import Rotation
from terrain_reference import slow_patches
from vislearn.core import DataError
from vislearn.robot.bev import BevSpec
from vislearn.store import Store, StoreError, build_store, list_stores
from vislearn.terrain.cut import JpegIndex, ToyDrive, cut, cut_recording, encode_jpeg, unseen_below
from vislearn.terrain.folders import from_folder
from vislearn.terrain.pairs import PatchParams, find_pairs, hidden_share, next_stops
from vislearn.terrain.patches import Patches, PatchSet, build_patches, toy_patchset, whole_image
from vislearn.terrain.spec import read_spec


def straight(n=30, step=0.12):
    T = np.tile(np.eye(4), (n, 1, 1)); T[:, 0, 3] = step*np.arange(n)
    return T


def wander(n, seed, speed=0.1, tilt=0.02):
    "A drive with pauses, turns and a body that pitches and rolls."
    rng = np.random.default_rng(seed)
    v = speed*rng.uniform(0, 2, n)*(rng.uniform(size=n) > .2)
    yaw = np.cumsum(rng.normal(0, .08, n) + rng.choice([-.06, 0, .06]))
    T = np.tile(np.eye(4), (n, 1, 1))
    T[:, :3, :3] = Rotation.from_euler('ZXY', np.stack([yaw, *rng.normal(0, tilt, (2, n))], 1)).as_matrix()
    T[:, 0, 3], T[:, 1, 3], T[:, 2, 3] = 7 + np.cumsum(v*np.cos(yaw)), -3 + np.cumsum(v*np.sin(yaw)), rng.normal(0, .01, n)
    return T


# --- pairs ---

def test_worked_example():
    bev = whole_image(300, 400, ppm=100)
    pairs = find_pairs(straight(), bev)
    views = {j: sorted(pairs.view[pairs.loc == j].tolist()) for j in set(pairs.loc.tolist())}
    assert len(pairs) == 350 and sorted(views) == list(range(3, 30))
    assert views[3] == [0] and views[10] == list(range(8)) and views[25] == list(range(3, 23)) and views[29] == list(range(7, 27))
    compat = find_pairs(straight(), bev, PatchParams.seed_compat())
    assert len(compat) == 353 and set(zip(compat.view, compat.loc)) - set(zip(pairs.view, pairs.loc)) == {(0, 28), (0, 29), (1, 29)}
    assert len(find_pairs(straight(), bev, PatchParams.seed_compat().replace(bounds_check=True))) == 350
    wrapped = compat[(compat.view == 0) & (compat.loc == 28)]
    assert wrapped.top[0] == 300-68                                            # a crop from the lower end


def test_worked_example_through_the_store(tmp_path):
    rng = np.random.default_rng(0)
    images = JpegIndex([encode_jpeg(rng.integers(30, 255, (300, 400, 3), dtype=np.uint8)) for _ in range(30)])
    path = cut_recording(images, straight(), whole_image(300, 400, ppm=100), root=tmp_path)
    patches = Patches(path)
    assert len(patches) == 350 and len(patches.keys) == 27
    at = int(np.flatnonzero(patches.keys == 10)[0])
    assert (patches.view[patches.clearest[at]], patches.view[patches.farthest[at]]) == (7, 0)
    assert patches.view[patches.views(10)].tolist() == list(range(8))


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('compat', [False, True])
def test_fast_equals_slow(seed, compat, tmp_path):
    toy = ToyDrive(60, seed=seed)
    toy.T = wander(60, seed)
    toy.images = JpegIndex([encode_jpeg(toy.render(k), 60) for k in range(60)])
    params = PatchParams.seed_compat(21) if compat else PatchParams(patch_px=21)
    window = np.arange(60) < 50
    slow = list(slow_patches(toy.images, toy.T, toy.bev, params, decode_each_pair=False, window=window))
    store = Store(cut_recording(toy.images, toy.T, toy.bev, params, window=window, root=tmp_path))
    rows = {(i, j): (store['patches'][r], b) for i, j, r, b in zip(*(store.index[k].tolist() for k in ('view', 'loc', 'shard_row', 'black')))}
    assert len(slow) > 20 and rows.keys() == {ij for ij, _, _ in slow}
    for ij, patch, black in slow:
        assert (rows[ij][0] == patch).all() and rows[ij][1] == pytest.approx(black, abs=1e-6)


@pytest.mark.parametrize('turn', [0., .03, -.08])
def test_backward_scanning_finds_the_same_pairs(turn):
    "From each location back to older images, as STERLING does: the same gates give the same pairs."
    toy = ToyDrive(60, turn_rad=turn)
    params = PatchParams(patch_px=21)
    found = set()
    for j in range(60):
        way = 0.
        for i in range(j-1, -1, -1):                                           # newest to oldest entry of the buffer
            way += np.linalg.norm(toy.T[i+1, :2, 3] - toy.T[i, :2, 3])
            turned = abs(np.angle(np.exp(1j*turn*(j-i))))
            if way > 4.5 or turned > np.pi/2: break
            x, y = (np.linalg.inv(toy.T[i]) @ toy.T[j])[:2, 3]                 # the footprint in the older image
            top, left = round(150 - 50*x - 10.5), round(100 - 50*y - 10.5)
            if 0 <= top and top+21 <= 150 and 0 <= left and left+21 <= 200 and (~toy.bev.mask()[top:top+21, left:left+21]).mean() < .02: found.add((i, j))
    pairs = find_pairs(toy.T, toy.bev, params)
    assert found == set(zip(pairs.view.tolist(), pairs.loc.tolist())) and len(found) > 100


def test_next_stops_against_a_loop():
    for seed in range(5):
        T = wander(80, seed)
        nxt, step = next_stops(T, .15)
        for k in range(80):
            away = [np.hypot(*(np.linalg.inv(T[k]) @ T[j])[:2, 3]) for j in range(k+1, 80)]
            want = next((j for j, d in enumerate(away) if d >= .15), None)
            assert nxt[k] == (-1 if want is None else k+1+want) and (want is None or step[k] == pytest.approx(away[want]))


def test_yaw_gate_stops_the_viewpoint_and_not_only_the_location():
    T = straight(40, .11)
    yaw = np.zeros(40); yaw[10] = 2.                                          # one wild pose at image 10
    T[:, 0, 0], T[:, 0, 1], T[:, 1, 0], T[:, 1, 1] = np.cos(yaw), -np.sin(yaw), np.sin(yaw), np.cos(yaw)
    pairs = find_pairs(T, whole_image(300, 400, 100))
    assert not ((pairs.view < 10) & (pairs.loc >= 10)).any() and ((pairs.view > 10) & (pairs.loc > 13)).any()


def test_range_counts_the_way_and_not_the_bee_line():
    T = straight(60, .12); T[:, 1, 3] = .4*(np.arange(60) % 2)                # zigzag: 0.42 m of way per 0.12 m ahead
    pairs = find_pairs(T, whole_image(900, 900, 100))
    assert (pairs.loc - pairs.view).max() == int(4.5//np.hypot(.12, .4))


def test_window_strides_and_views():
    bev = whole_image(300, 400, 100)
    window = (np.arange(60) >= 10) & (np.arange(60) < 40)
    cut_off, runs_on = (find_pairs(straight(60), bev, PatchParams(clip_future=c), window=window) for c in (True, False))
    assert cut_off.loc.max() == 39 and runs_on.loc.max() > 39 and cut_off.view.min() == runs_on.view.min() == 10 and runs_on.view.max() == 39
    third = find_pairs(straight(60), bev, PatchParams(frame_stride=3))
    assert len(third) and not (third.view % 3).any() and not (third.loc % 3).any()
    for m in (1, 2, 5):
        few, full = find_pairs(straight(60), bev, PatchParams(max_views=m)), find_pairs(straight(60), bev)
        for j in np.unique(full.loc):
            a, b = few.view[few.loc == j], full.view[full.loc == j]
            assert len(a) == min(m, len(b)) and a[-1] == b[-1] and set(a) <= set(b) and (m == 1 or len(b) < 2 or a[0] == b[0])


def test_images_without_pose_are_left_out():
    T = straight(40); T[15:18] = np.nan
    pairs = find_pairs(T, whole_image(300, 400, 100), valid=np.isfinite(T).all((1, 2)))
    assert not np.isin(pairs.view, [15, 16, 17]).any() and not np.isin(pairs.loc, [15, 16, 17]).any() and ((pairs.view == 14) & (pairs.loc > 18)).any()


def test_origin_and_rounding():
    bev = BevSpec(ppm=150, rows=750, cols=1456, u0=726.05, v0=750, horizon_m=5., polygon=((0., 4.84), (0., -4.866), (5., -4.866), (5., 4.84)))
    T = np.tile(np.eye(4), (2, 1, 1)); T[1, :2, 3] = 2., .503
    new, old = (find_pairs(T, bev, p) for p in (PatchParams(), PatchParams.seed_compat()))
    assert (new.top[0], new.left[0]) == (round(750-300-32), round(726.05-75.45-32)) and (old.top[0], old.left[0]) == (418, 728-32-75)


def test_hidden_share_against_counting():
    rng = np.random.default_rng(0)
    mask = rng.uniform(size=(40, 50)) > .3
    top, left = rng.integers(0, 40-7, 30), rng.integers(0, 50-7, 30)
    assert np.allclose(hidden_share(top, left, 7, mask), [(~mask[t:t+7, l:l+7]).mean() for t, l in zip(top, left)])


# --- cutting ---

def test_heading_patches_show_the_same_ground_from_every_view():
    "Turned with the robot, all views of a location agree; upright ones do not."
    toy = ToyDrive(60, turn_rad=.04, grain_m=.25)
    spread = {}
    for orient in ('heading', 'viewpoint'):
        params = PatchParams(patch_px=21, orient=orient)
        pairs = find_pairs(toy.T, toy.bev, params)
        of_j = pairs[pairs.loc == 30]
        views = np.concatenate([cut(toy.images[i], of_j[of_j.view == i], toy.bev, params)[0] for i in of_j.view]).astype(float)
        spread[orient] = np.abs(views - views.mean(0)).mean()
        assert len(of_j) > 5
    assert spread['heading'] < .6*spread['viewpoint']


def test_heading_patch_equals_a_warp_written_out():
    toy = ToyDrive(40, turn_rad=.05)
    params = PatchParams(patch_px=16, patch_m=.4, orient='heading')
    pairs = find_pairs(toy.T, toy.bev, params)
    p = pairs[pairs.view == 10][3:4]
    image, out = toy.images[10].astype(float), cut(toy.images[10], p, toy.bev, params)[0][0]
    for a, b in ((0, 0), (3, 12), (15, 15)):
        ahead, left = (8-a-.5)*.4/16, (8-b-.5)*.4/16
        x = p.xy[0, 0] + np.cos(p.dyaw[0])*ahead - np.sin(p.dyaw[0])*left
        y = p.xy[0, 1] + np.sin(p.dyaw[0])*ahead + np.cos(p.dyaw[0])*left
        r, c = 150-50*x-.5, 100-50*y-.5
        r0, c0 = int(r), int(c)
        want = sum(image[r0+dr, c0+dc]*abs(1-dr-(r-r0))*abs(1-dc-(c-c0)) for dr in (0, 1) for dc in (0, 1))
        assert np.abs(out[a, b]-want).max() <= .51


def test_black_rule_near_the_border():
    bev = BevSpec(**dict(ppm=50, rows=150, cols=200, u0=100., v0=150., horizon_m=3., polygon=((0.6, 0.6), (0.6, -0.6), (3., -2.), (3., 2.))))
    below = unseen_below(bev)
    mask = bev.mask()
    edge = np.zeros_like(mask); edge[:-1] |= mask[1:] != mask[:-1]; edge[:, :-1] |= mask[:, 1:] != mask[:, :-1]
    rows, cols = np.nonzero(edge)
    for r, c in ((75, 100), (140, 20), (75, 40), (75, 60), (20, 10)):
        away = np.maximum(np.abs(rows-r), np.abs(cols-c)).min()
        if away < 14: assert below[r, c] == 8
        if away > 18: assert below[r, c] == 0
    toy = ToyDrive(20)
    pairs = find_pairs(toy.T, toy.bev, PatchParams(patch_px=21))[:1]
    for value, zero, band in ((0, 1., 1.), (5, 0., 1.), (9, 0., 0.)):
        image = np.full((150, 200, 3), value, np.uint8)
        near = below[pairs.top[0]:pairs.top[0]+21, pairs.left[0]:pairs.left[0]+21].mean()/8
        assert cut(image, pairs, toy.bev, PatchParams(patch_px=21, black_rule='zero'))[1][0] == pytest.approx(zero)
        assert cut(image, pairs, toy.bev, PatchParams(patch_px=21))[1][0] == pytest.approx(band*near if value else 1.)


def test_patch_m_keeps_the_ground_and_changes_the_pixels(tmp_path):
    toy = ToyDrive(40)
    big, small = (Store(cut_recording(toy.images, toy.T, toy.bev, PatchParams(patch_px=px, patch_m=.44), root=tmp_path)) for px in (22, 11))
    assert len(big['patches']) == len(small['patches']) and small['patches'].shape[1:] == (11, 11, 3)
    mean = big['patches'][:20].reshape(20, 11, 2, 11, 2, 3).mean((2, 4))
    assert np.abs(small['patches'][:20] - mean).mean() < 6


def test_wrong_geometry_is_refused(tmp_path):
    toy = ToyDrive(20)
    with pytest.raises(DataError, match=r'image must be uint8 \(160, 200, 3\)'): cut_recording(toy.images, toy.T, toy.bev.replace(rows=160), PatchParams(patch_px=21), root=tmp_path)


# --- store ---

def test_index_is_complete_and_sorted(tmp_path):
    toy = ToyDrive(50)
    store = Store(cut_recording(toy.images, toy.T, toy.bev, PatchParams(patch_px=21), root=tmp_path))
    ix = store.index
    assert set(ix) == {'view', 'loc', 'shard_row', 'top', 'left', 'range_m', 'dyaw', 'black', 't_view', 't_loc', 'pose_loc', 'keys', 'indptr'}
    types = dict(view='int32', loc='int32', shard_row='int64', top='int16', left='int16', range_m='float32', dyaw='float32', black='float32', t_view='int64', t_loc='int64', pose_loc='float32', keys='int32', indptr='int64')
    assert {k: str(ix[k].dtype) for k in types} == types
    assert (np.lexsort((ix['view'], ix['loc'])) == np.arange(len(ix['loc']))).all()
    assert (np.repeat(ix['keys'], np.diff(ix['indptr'])) == ix['loc']).all() and sorted(ix['shard_row']) == list(range(len(store['patches'])))
    assert (ix['t_view'] == toy.t_ns[ix['view']]).all() and np.allclose(ix['pose_loc'][:, :2], toy.T[ix['keys'], :2, 3], atol=1e-5)
    assert np.allclose(ix['range_m'], np.linalg.norm(toy.T[ix['loc'], :2, 3]-toy.T[ix['view'], :2, 3], axis=1), atol=1e-5)
    info = store.meta['info']
    assert info['channel_order'] == 'rgb' and info['bev']['ppm'] == 50 and info['params']['patch_px'] == 21 and info['counts']['patches'] == len(ix['loc'])
    assert (store.path/'thumbs.jpg').stat().st_size > 500


def test_changed_parameters_make_another_store_and_equal_ones_do_not(tmp_path):
    toy = ToyDrive(30)
    def at(**kw): return cut_recording(toy.images, toy.T, kw.pop('bev', toy.bev), PatchParams(patch_px=21, **kw), root=tmp_path)
    same, stamp = at(), (at()/'meta.json').stat().st_mtime_ns
    assert at() == same and (at()/'meta.json').stat().st_mtime_ns == stamp
    assert len({same, at(max_views=2), at(min_spacing_m=.2), at(bev=toy.bev.replace(u0=101.))}) == 4


class Broken(JpegIndex):
    def iter(self, indices=None):
        for n, (i, image) in enumerate(super().iter(indices)):
            if n == 10: raise RuntimeError('disk pulled')
            yield i, image


def test_a_build_that_fails_midway_leaves_nothing(tmp_path):
    toy = ToyDrive(40)
    with pytest.raises(RuntimeError, match='disk pulled'): cut_recording(Broken(toy.images.blobs), toy.T, toy.bev, PatchParams(patch_px=21), dict(id=1), root=tmp_path)
    assert list_stores(tmp_path) == [] and not [p for p in tmp_path.rglob('*.npy')]
    path = cut_recording(toy.images, toy.T, toy.bev, PatchParams(patch_px=21), dict(id=1), root=tmp_path)
    assert [s.state for s in list_stores(tmp_path)] == ['complete'] and len(Patches(path)) > 100


def test_a_killed_build_is_never_opened_and_cleaned_up(tmp_path):
    code = textwrap.dedent(f'''
        import os, signal
        from vislearn.terrain.cut import *; from vislearn.terrain.pairs import PatchParams
        class Killer(JpegIndex):
            def iter(self, indices=None):
                for n, (i, image) in enumerate(super().iter(indices)):
                    if n == 10: os.kill(os.getpid(), signal.SIGKILL)
                    yield i, image
        toy = ToyDrive(40)
        cut_recording(Killer(toy.images.blobs), toy.T, toy.bev, PatchParams(patch_px=21), dict(id=1), root={str(tmp_path)!r})''')
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == -9
    left = list(tmp_path.rglob('*.npy'))
    assert left and all(s.state == 'unfinished' for s in list_stores(tmp_path))
    for p in {f.parent for f in left}:
        with pytest.raises(StoreError): Store(p)
    toy = ToyDrive(40)
    path = cut_recording(toy.images, toy.T, toy.bev, PatchParams(patch_px=21), dict(id=1), root=tmp_path)
    assert [s.path for s in list_stores(tmp_path)] == [path] and not any(f.exists() for f in left)


# --- sets ---

def test_patchset_lines_up_its_data(tmp_path):
    pset = toy_patchset(tmp_path, n=30)
    start = 0
    for k, (c, data) in enumerate(zip(pset.categories, pset.data)):
        n = len(data)
        assert (pset.rows(c) == start + np.arange(n)).all() and (pset.category[start:start+n] == k).all() and (pset.datum[start:start+n] == k).all()
        assert (pset.indptr[pset.locations(c)] - start == data.indptr[:-1]).all()
        assert torch.equal(pset.images(pset.rows(c)), data.images(np.arange(n))) and (pset.pose[pset.locations(c)] == data.store.index['pose_loc']).all()
        start += n
    assert len(pset) == start and pset.images([0]).dtype == torch.uint8 and pset.images(np.zeros(0, int)).shape == (0, 3, 21, 21)
    rows = np.random.default_rng(0).permutation(len(pset))[:200]
    for mode in ('ram', 'device'): assert torch.equal(PatchSet(pset.paths, mode=mode, device='cpu').images(rows), pset.images(rows))
    assert torch.equal(PatchSet(pset.paths, mode='device', device='cpu').images(torch.as_tensor(rows)), pset.images(rows))


def test_build_names_the_recording_that_failed(tmp_path):
    spec = read_spec(dict(categories=dict(grass=[dict(path=str(tmp_path/'a.bag')), dict(path=str(tmp_path/'b.bag'))])))
    for workers in (1, 2):
        with pytest.raises(DataError, match=r'2 of 2 recordings failed: grass\[0\] \(.*a.bag\): '): build_patches(spec, workers=workers, root=tmp_path)


def test_folders_round_trip(tmp_path):
    pset = toy_patchset(tmp_path, n=25)
    pset.to_folder(tmp_path/'png')
    back = from_folder(tmp_path/'png', patch_px=21, root=tmp_path)
    assert back.categories == sorted(pset.categories)
    for c in pset.categories:
        assert torch.equal(back.images(back.rows(c)), pset.images(pset.rows(c))) and np.allclose(back.pose[back.locations(c)], pset.pose[pset.locations(c)])
        a, b = (s.data[s.categories.index(c)] for s in (back, pset))
        assert (a.view == b.view).all() and (a.loc == b.loc).all() and (a.indptr == b.indptr).all()


# --- size ---

LARGE = '''
import os, sys, threading, time, numpy as np, psutil, torch
torch.set_num_threads(1)
from vislearn.robot.bev import BevSpec
from vislearn.terrain.cut import JpegIndex, cut_recording, encode_jpeg
from vislearn.terrain.pairs import PatchParams
bev = BevSpec(ppm=150, rows=750, cols=1456, u0=726.05, v0=750, horizon_m=5., polygon=((0.8637, 0.7411), (0.8637, -0.7454), (5., -4.8679), (5., 4.8403)))
rng = np.random.default_rng(0)
blobs = [encode_jpeg(rng.integers(40, 255, (94, 182, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)[:750, :1456]*bev.mask()[..., None], 85) for _ in range(4)]
images = JpegIndex([blobs[k % 4] for k in range(2000)])
T = np.tile(np.eye(4), (2000, 1, 1)); T[:, 0, 3] = .07*np.arange(2000)
me, peak, stop = psutil.Process(), 0, False
def watch():
    global peak
    while not stop: peak = max(peak, me.memory_info().rss); time.sleep(.02)
base = me.memory_info().rss
thread = threading.Thread(target=watch); thread.start()
path = cut_recording(images, T, bev, PatchParams(), dict(id=0), root=sys.argv[1])
stop = True; thread.join()
import json
print((peak-base)/1e6, json.loads((path/'meta.json').read_text())['info']['counts']['patches'])
'''


@pytest.mark.slow
def test_memory_of_a_recording_of_2000_images(tmp_path):
    out = subprocess.run([sys.executable, '-c', LARGE, str(tmp_path)], capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert out.returncode == 0, out.stderr
    growth, patches = out.stdout.split()
    print(f'{patches} patches, {growth} MB')
    assert int(patches) > 40000 and float(growth) < 500


def million(root, n=1_000_000, side=12, per_loc=20):
    "A store of random patches with as many views per location."
    def fill(w):
        rng = np.random.default_rng(0)
        for lo in range(0, n, 50000): w.append(patches=rng.integers(0, 255, (min(50000, n-lo), side, side, 3), dtype=np.uint8))
        L = n//per_loc
        loc, row, zero = np.repeat(np.arange(L, dtype=np.int32), per_loc), np.arange(n), np.zeros(n, np.float32)
        w.index.update(view=np.tile(np.arange(per_loc, dtype=np.int32), L), loc=loc, shard_row=row.astype(np.int64), top=zero.astype(np.int16), left=zero.astype(np.int16), range_m=zero, dyaw=zero, black=zero,
            t_view=row, t_loc=row, pose_loc=np.zeros((L, 3), np.float32), keys=np.arange(L, dtype=np.int32), indptr=np.arange(0, n+1, per_loc, dtype=np.int64))
        w.meta.update(source=dict(id='million'), side_m=.4)
    return build_store('patches', dict(n=n, side=side), dict(patches=('uint8', (side, side, 3))), fill, root)


@pytest.mark.slow
def test_a_million_patches_open_and_read_fast(tmp_path):
    path = million(tmp_path)
    PatchSet({'a': [path]}).images(np.arange(0, 10**6, 50))                    # warm
    start = time.perf_counter(); pset = PatchSet({'a': [path]}); opened = time.perf_counter()-start
    rows = np.random.default_rng(1).integers(0, 10**6, 10_000)
    start = time.perf_counter(); pset.images(rows); read = time.perf_counter()-start
    print(f'open {opened:.3f} s, read {read:.3f} s')
    assert opened < 1 and read < 1


def _read_all(pset, pipe):
    import psutil
    me = psutil.Process()
    def private(): m = me.memory_info(); return (m.rss-m.shared)/1e6
    before = private()
    for lo in range(0, len(pset), 2000): pset.images(np.arange(lo, min(lo+2000, len(pset))))
    pipe.send(private()-before)


@pytest.mark.slow
def test_four_workers_share_the_memory(tmp_path):
    pset = PatchSet({'a': [million(tmp_path, 40_000, 64)]})                    # 490 MB
    pset.images([0, 10_000])
    ctx, pipes = multiprocessing.get_context('fork'), []
    for _ in range(4):
        mine, theirs = ctx.Pipe(); p = ctx.Process(target=_read_all, args=(pset, theirs)); p.start(); pipes.append((p, mine))
    growth = [pipe.recv() for _, pipe in pipes]
    for p, _ in pipes: p.join()
    print('private growth per worker [MB]', [round(g) for g in growth])
    assert max(growth) < 250   # some batches of 25 MB, and what the allocator keeps; a copy would be 490
