"Patches from real bag files, written here from a toy drive"
import json
import numpy as np, pytest, torch
from PIL import Image
from vislearn.core import DataError
from vislearn.robot.bags import DecodeError, MissingTopicError, TimeRangeError
from vislearn.robot.bev import BevWarp, BevSpec
from vislearn.robot.camera import CameraModel
from vislearn.synth.messages import BagOut, rpy_quat
from vislearn.terrain.cut import TOY_BEV, JpegIndex, ToyDrive, cut_recording, encode_jpeg
from vislearn.terrain.pairs import PatchParams, find_pairs
from vislearn.terrain.patches import Patches, build_patches, extract
from vislearn.terrain.spec import Datum, read_spec

T0, PARAMS = 1_700_000_000*10**9, PatchParams(patch_px=21)
CAM = CameraModel.from_pitch([[120., 0, 79.5], [0, 120, 59.5], [0, 0, 1]], 160, 120, .3, .7, .5)


def write_bag(path, toy, topic='bev', fmt='ros1', tf=True, odom=True, blobs=None, hz=20, late_ns=0):
    "Images at 10 Hz, poses at `hz`, log times 5 ms after the stamps."
    n = len(toy.images)
    with BagOut(path, fmt) as out:
        put, events = out.packer, []
        for k in range(n): events.append((T0 + int(toy.t_ns[k]) + 5_000_000, topic, put.image(T0 + int(toy.t_ns[k]), (blobs or toy.images.blobs)[k])))
        x = np.arange(0, n-1+1e-9, 10/hz)                                      # in images
        yaw = np.unwrap(np.arctan2(toy.T[:, 1, 0], toy.T[:, 0, 0]))
        for at in x:
            px, py, a = (np.interp(at, np.arange(n), v) for v in (toy.T[:, 0, 3], toy.T[:, 1, 3], yaw))
            ns, quat = T0 + int(at*10**8) + late_ns, rpy_quat(0., 0., a)
            if tf: events.append((ns + 5_000_000, 'tf', put.tf([(ns, 'odom', 'body', (px, py, 0), quat)])))
            if odom: events.append((ns + 5_000_000, 'odom', put.odom(ns, (px, py, 0), quat, (0, 0, 0), (0, 0, 0))))
        for log, role, raw in sorted(events, key=lambda e: e[:2]): out.write(role, log, raw)
    return path


@pytest.fixture(scope='module')
def toy(): return ToyDrive(50)


def datum(path, **kw): return Datum(path=str(path), **{'bev': TOY_BEV, **kw})


@pytest.mark.parametrize('fmt', ['ros1', 'sqlite3', 'mcap'])
@pytest.mark.parametrize('pose', ['tf', 'odom'])
def test_a_bag_gives_the_patches_of_its_arrays(tmp_path, toy, fmt, pose):
    "Only images and one pose source: that is enough."
    bag = write_bag(tmp_path/('a.bag' if fmt == 'ros1' else 'a'), toy, fmt=fmt, tf=pose == 'tf', odom=pose == 'odom')
    got, want = Patches(extract(datum(bag), PARAMS, root=tmp_path, quiet=True)), Patches(cut_recording(toy.images, toy.T, toy.bev, PARAMS, root=tmp_path))
    assert len(got) == len(want) > 300 and (got.view == want.view).all() and (got.loc == want.loc).all()
    assert torch.equal(got.images(np.arange(len(got))), want.images(np.arange(len(want))))
    assert (got.store.index['t_view'] == T0 + want.store.index['t_view']).all()


def test_poses_are_interpolated_unless_compat(tmp_path, toy):
    bag = write_bag(tmp_path/'a.bag', toy, late_ns=-30_000_000)                # pose samples lie 30 ms before and 20 ms after each image
    smooth, late = (Patches(extract(datum(bag), PARAMS.replace(interpolate_pose=i, min_spacing_m=.05), root=tmp_path)) for i in (True, False))
    x = {k: dict(zip(p.keys.tolist(), p.store.index['pose_loc'][:, :2])) for k, p in (('smooth', smooth), ('late', late))}
    for j in (20, 35):
        ahead = np.linalg.norm(x['late'][j]-x['smooth'][j])
        assert ahead == pytest.approx(.12*.2, abs=.004)                        # 20 ms late at 1.2 m/s


def test_window(tmp_path, toy):
    bag = write_bag(tmp_path/'a.bag', toy)
    start, end = 1_700_000_001, 1_700_000_003.05
    inside, beyond = (Patches(extract(datum(bag, start=start, end=end), PARAMS.replace(clip_future=c), root=tmp_path)) for c in (True, False))
    tl, tv = (inside.store.index[k]-T0 for k in ('t_loc', 't_view'))
    assert tv.min() >= 10**9 and max(tl.max(), tv.max()) <= 3.05e9 and tv.min() == 10**9       # both ends inclusive
    assert (beyond.store.index['t_loc']-T0).max() > 4e9 and (beyond.store.index['t_view']-T0).max() <= 3.05e9
    assert Patches(extract(datum(bag, offset=(1., 3.)), PARAMS, root=tmp_path)).store.index['t_view'].min() >= T0+10**9
    with pytest.raises(TimeRangeError, match='window'): extract(datum(bag, start=1_700_000_100, end=1_700_000_200), PARAMS, root=tmp_path)


def test_the_cache_answers_without_opening_the_bag(tmp_path, toy, monkeypatch):
    import vislearn.robot.bags as bags
    bag = write_bag(tmp_path/'a.bag', toy)
    path = extract(datum(bag), PARAMS, root=tmp_path)
    monkeypatch.setattr(bags, 'Bag', None)
    assert extract(datum(bag), PARAMS, root=tmp_path) == path
    with pytest.raises(TypeError): extract(datum(bag), PARAMS.replace(max_views=2), root=tmp_path)
    bag.write_bytes(bag.read_bytes()[:-1] + b'x')                              # another content, another store
    with pytest.raises(TypeError): extract(datum(bag), PARAMS, root=tmp_path)


def test_without_a_bev_spec_the_seed_geometry_is_assumed(tmp_path):
    rng = np.random.default_rng(0)
    toy = ToyDrive(40, turn_rad=0)
    toy.images = JpegIndex([encode_jpeg(rng.integers(30, 255, (450, 600, 3), dtype=np.uint8), 50) for _ in range(40)])
    bag = write_bag(tmp_path/'a.bag', toy)
    with pytest.warns(UserWarning, match='no BevSpec: assuming 150'): p = Patches(extract(str(bag), root=tmp_path))
    bev = BevSpec(ppm=150, rows=450, cols=600, u0=300, v0=450)
    assert p.side_px == 64 and len(p) == len(find_pairs(toy.T, bev)) and p.info['bev']['u0'] == 300


def test_missing_topics_and_poses_are_named(tmp_path, toy):
    with BagOut(tmp_path/'a.bag') as out:
        for k in range(40): out.write('odom', T0+k*10**8, out.packer.odom(T0+k*10**8, (.1*k, 0, 0), (0, 0, 0, 1), (0, 0, 0), (0, 0, 0)))
    with pytest.raises(MissingTopicError, match='/bev/single/compressed.*topics found: /odom'): extract(datum(tmp_path/'a.bag'), PARAMS, root=tmp_path)
    with pytest.raises(DataError, match='no pose source'): extract(datum(write_bag(tmp_path/'b.bag', toy, tf=False, odom=False)), PARAMS, root=tmp_path)
    with pytest.raises(DataError, match='only a camera'): extract(datum(write_bag(tmp_path/'c.bag', toy, topic='camera')), PARAMS, root=tmp_path)


def test_images_that_do_not_decode(tmp_path, toy):
    one = list(toy.images.blobs); one[7] = b'\xff\xd8\xff no image'
    with pytest.warns(UserWarning, match='skipped'): p = Patches(extract(datum(write_bag(tmp_path/'a.bag', toy, blobs=one)), PARAMS, root=tmp_path))
    whole = Patches(cut_recording(toy.images, toy.T, toy.bev, PARAMS, root=tmp_path))
    assert 7 not in p.view and 7 in whole.view and len(p) == len(whole)-(whole.view == 7).sum() and p.info['counts']['undecodable'] == 1
    with pytest.raises(DecodeError, match='cannot be decoded'): extract(datum(write_bag(tmp_path/'b.bag', toy, blobs=[b'junk']*25+list(toy.images.blobs[25:]))), PARAMS, root=tmp_path)


def test_birds_eye_views_from_the_camera(tmp_path, toy):
    "Camera images only, and a calibration: the warp happens while patches are cut."
    bev = BevSpec.from_camera(CAM, ppm=50, horizon_m=3.)
    rng = np.random.default_rng(0)
    blobs = [encode_jpeg(rng.integers(40, 255, (120, 160, 3), dtype=np.uint8), 95) for _ in range(50)]
    bag = write_bag(tmp_path/'a.bag', toy, topic='camera', blobs=blobs)
    p = Patches(extract(datum(bag, bev=bev.model_dump(mode='json'), camera=CAM.model_dump(mode='json')), PARAMS, root=tmp_path))
    warped = JpegIndex(blobs); warp = BevWarp(CAM, bev)
    pairs = find_pairs(toy.T, bev, PARAMS)
    assert 100 < len(p) <= len(pairs)
    k = len(p)//2
    i, t, l = (int(p.store.index[c][k]) for c in ('view', 'top', 'left'))
    assert torch.equal(p.images([k])[0], torch.from_numpy(warp(warped[i])[t:t+21, l:l+21].copy()).permute(2, 0, 1))
    assert p.info['counts']['black'] < .05*len(pairs)                          # geometry refused what the camera does not see


def test_build_in_two_processes_equals_one_and_names_failures(tmp_path, toy):
    bags = [str(write_bag(tmp_path/f'{c}.bag', ToyDrive(40, seed=k))) for k, c in enumerate('abc')]
    spec = read_spec(dict(bev=TOY_BEV, categories=dict(grass=[dict(path=bags[0]), dict(path=bags[1])], stone=[dict(path=bags[2])]), orderings=[dict(first='grass', second='stone', label=-1)]))
    one, two = (build_patches(spec, PARAMS, workers=w, root=tmp_path/str(w)) for w in (1, 2))
    assert len(one) == len(two) > 500 and one.categories == ['grass', 'stone'] and [len(v) for v in one.paths.values()] == [2, 1]
    assert torch.equal(one.images(np.arange(len(one))), two.images(np.arange(len(two)))) and two.spec.orderings == spec.orderings
    (tmp_path/'b.bag').write_bytes((tmp_path/'b.bag').read_bytes()[:5000])
    with pytest.raises(DataError, match=r'1 of 3 recordings failed: grass\[1\] \(.*b.bag\): '): build_patches(spec, PARAMS, workers=2, root=tmp_path/'new')
    assert len(list((tmp_path/'new'/'patches').glob('*/meta.json'))) == 2       # the others were built


def test_spec_from_disk_to_patches(tmp_path, toy):
    write_bag(tmp_path/'a.bag', toy)
    (tmp_path/'train.json').write_text(json.dumps(dict(version=2, bev=TOY_BEV, categories=dict(grass=[dict(path='a.bag', start=1_700_000_000, end=1_700_000_004)]))))
    from vislearn.terrain.spec import Spec
    pset = build_patches(Spec.from_json(tmp_path/'train.json'), PARAMS, root=tmp_path)
    assert len(pset) > 200 and pset.summary().loc['grass', 'patches'] == len(pset)
    assert np.asarray(Image.open(pset.paths['grass'][0]/'thumbs.jpg')).shape[1] == 210
