"Cameras and bird's-eye views against published numbers, a four-point transform, per-pixel references and real photographs"
import json, time

import numpy as np, pytest
from PIL import Image

from vislearn.core import DataError, UserError, real_data
from vislearn.robot.bev import BevSpec, BevWarp, bev_homography, clip_polygon, half_planes, inside, polygon_area, shrink, undistort_warp, visible_polygon
from vislearn.robot.camera import CameraModel, apply_homography, distort, distortion_limit, homography, tilt_from_imu, undistort

K = np.array([[984.822632, 0, 1020.586365], [0, 984.730103, 780.647827], [0, 0, 1]])
LENS = dict(none=None, car=(-0.267, 0.103, -0.001, 0.001, -0.196), pi=(0.1465, -0.2847, 0.0013, -0.0043, 0.))


def spot(pitch=17, roll=0., size=2048, zoom=1., **kwargs):
    return CameraModel.from_pitch(K*[[zoom, 1, 1], [1, zoom, 1], [1, 1, 1]]*[[size/2048], [size/2048], [1]], size, size*3//4, .34, .733, np.radians(pitch), np.radians(roll), **kwargs)


@pytest.fixture
def rng(): return np.random.default_rng(0)


# --- camera

def rotated(camera, point):
    "One point through the camera, spelled out: rotate, divide, bend, scale."
    T = camera.T_body_camera; p = np.linalg.inv(T) @ [*point, 1]
    if p[2] <= 0: return None
    x, y = p[0]/p[2], p[1]/p[2]
    if camera.distortion:
        if np.hypot(x, y) > distortion_limit(camera.distortion): return None
        k1, k2, p1, p2, k3 = camera.distortion; r2 = x*x+y*y; f = 1+k1*r2+k2*r2**2+k3*r2**3
        x, y = x*f+2*p1*x*y+p2*(r2+2*x*x), y*f+p1*(r2+2*y*y)+2*p2*x*y
    return camera.K[0, 0]*x+camera.K[0, 2], camera.K[1, 1]*y+camera.K[1, 2]


@pytest.mark.parametrize('lens', LENS)
def test_project_point_by_point(rng, lens):
    cam = spot(20, 4, distortion=LENS[lens]); pts = rng.uniform([-1, -2, -.2], [6, 2, .5], (300, 3)); uv, front = cam.project(pts)
    assert 0.3 < front.mean() < 1
    for p, got, ok in zip(pts, uv, front):
        want = rotated(cam, p)
        if ok: np.testing.assert_allclose(got, want, rtol=1e-9)
        else: assert np.isnan(got).all()


@pytest.mark.parametrize('lens', LENS)
def test_pixels_to_ground_and_back(rng, lens):
    cam = spot(20, -6, zoom=2.2, distortion=LENS[lens]); uv = rng.uniform([0, 900], [2047, 1535], (500, 2)); xy = cam.ground(uv)
    assert np.isfinite(xy).all(); np.testing.assert_allclose(cam.project(xy)[0], uv, atol=1e-6)


def test_horizon():
    level = spot(0); uv = np.stack([np.full(5, 1000.), level.K[1, 2]+np.array([-500, -1, 0, 1, 300.])], 1)
    assert np.isfinite(level.ground(uv)).all(1).tolist() == [False]*3+[True]*2
    assert not level.project([[-3., 0], [.34, 0]])[1].any()


@pytest.mark.parametrize('lens', ['car', 'pi'])
def test_undistort_inverts_distort(rng, lens):
    d = LENS[lens]; xy = rng.uniform(-1, 1, (2000, 2))*min(.9*distortion_limit(d), .8)/np.sqrt(2)
    np.testing.assert_allclose(undistort(distort(xy, d), d), xy, atol=1e-9)


def test_distortion_limit_is_where_the_radius_turns_round():
    for d in LENS.values():
        if d is None: continue
        radial = (d[0], d[1], 0, 0, d[4]); r = distortion_limit(radial)
        at = lambda s: distort(np.array([s, 0.]), radial)[0]
        assert at(r) > at(r*(1-1e-3)) and at(r) > at(r*(1+1e-3))
    far = spot(17, distortion=LENS['pi']).project([[.9, 30.]])
    assert not far[1][0] and np.isnan(far[0]).all() # must not fold back into the picture


def test_husky_projection_values():
    path = real_data('husky_terrain/calibration.yaml')
    if path is None: pytest.skip('the Husky data are not installed')
    cam = CameraModel.from_yaml(path); assert (cam.width, cam.height, cam.distortion) == (1920, 1080, None)
    np.testing.assert_allclose(cam.project([[1., 0], [2, 0], [4, 0]])[0], [[1004.0, 1110.3], [974.5, 722.8], [959.0, 519.0]], atol=.2)


def test_camera_is_saved_and_read_back():
    for d in LENS.values():
        cam = spot(15, 2, distortion=d); again = CameraModel(**json.loads(json.dumps(cam.model_dump(mode='json'))))
        assert again == cam and hash(again) == hash(cam)
    assert spot(15) != spot(16)
    with pytest.raises(ValueError): cam.K[0, 0] = 3
    with pytest.raises(UserError, match='unknown key'): CameraModel(**cam.model_dump(), colour='red')


def test_resized_camera_looks_at_the_same_places(rng):
    "A smooth picture resized by an area filter shows each place where the resized camera says."
    cam = spot(20, size=640); u, v = np.meshgrid(np.arange(640.), np.arange(480.)); img = Image.fromarray((u*.3+v*.2).astype(np.float32))
    small = cam.resized(320, 240); px = rng.uniform([5, 150], [310, 230], (50, 2)); places = small.ground(px)
    big = cam.project(places)[0]; got = np.array(img.resize((320, 240), Image.Resampling.BOX))
    for (a, b), (c, d) in zip(px, big):
        i, j = int(b), int(a); fv, fu = b-i, a-j
        value = (1-fv)*((1-fu)*got[i, j]+fu*got[i, j+1])+fv*((1-fu)*got[i+1, j]+fu*got[i+1, j+1])
        assert abs(value-(c*.3+d*.2)) < 1e-3


def test_tilted_body_by_hand():
    cam = spot(17); tipped = cam.tilted(np.radians(3), np.radians(2), dz=.02, pivot_z=.5)
    c, s = np.cos, np.sin; p, r = np.radians(2), np.radians(3)
    R = np.array([[c(p), 0, s(p)], [0, 1, 0], [-s(p), 0, c(p)]]) @ np.array([[1, 0, 0], [0, c(r), -s(r)], [0, s(r), c(r)]])
    np.testing.assert_allclose(tipped.T_body_camera[:3, 3], R @ (cam.T_body_camera[:3, 3]-[0, 0, .5]) + [0, 0, .52], atol=1e-12)
    np.testing.assert_allclose(cam.tilted(0, np.radians(3)).T_body_camera[:3, :3], spot(20).T_body_camera[:3, :3], atol=1e-12)


@pytest.mark.parametrize('pitch,roll', [(0, 0), (17, 0), (-10, 5), (45, -20), (5, 60)])
def test_tilt_from_gravity(rng, pitch, roll):
    cam = spot(pitch, roll); up = cam.T_body_camera[:3, :3].T @ [0, 0, 9.81]; acc = np.concatenate([up+rng.normal(0, .02, (100, 3)), np.full((500, 3), 40.)]) # it moves after 100 samples
    np.testing.assert_allclose(np.degrees(tilt_from_imu(acc)), [pitch, roll], atol=.1)
    turn = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0.]]) # an IMU mounted in other axes
    np.testing.assert_allclose(np.degrees(tilt_from_imu(acc @ turn, turn)), [pitch, roll], atol=.1)


def test_tilt_of_the_real_husky_imu_needs_its_axes():
    path = real_data('bags/husky_outdoor_imu_odom_gps.bag')
    if path is None: pytest.skip('the Husky bag is not installed')
    from rosbags.highlevel import AnyReader
    acc = []
    with AnyReader([path]) as bag:
        for c, _, raw in bag.messages([c for c in bag.connections if c.topic == '/imu/data']):
            a = bag.deserialize(raw, c.msgtype).linear_acceleration; acc.append((a.x, a.y, a.z))
            if len(acc) == 200: break
    with pytest.raises(DataError, match='give R_camera_imu'): tilt_from_imu(acc)
    assert np.abs(np.degrees(tilt_from_imu(acc, np.diag([1., -1, -1])))).max() < 10


# --- polygons

def test_inside_and_shrink_by_sampling(rng):
    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2*np.pi, 6)); poly = np.stack([2*np.cos(angles)+1, 1.5*np.sin(angles)], 1)[::rng.choice([-1, 1])]
        pts = rng.uniform(-3, 4, (400, 2)); r = .2
        edges = half_planes(poly); assert np.allclose(np.linalg.norm(edges[:, :2], axis=1), 1)
        circle = np.stack([np.cos(t := np.linspace(0, 2*np.pi, 181)), np.sin(t)], 1)*r
        square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])*r
        for offsets, kind in ((circle, False), (square, True)):
            fits = inside(poly, pts[:, None]+offsets).all(1); dist = (pts @ edges[:, :2].T+edges[:, 2]).min(1)
            clear = np.abs(dist-r) > 2e-3 if not kind else np.ones(len(pts), bool)
            np.testing.assert_array_equal(inside(shrink(poly, r, square=kind), pts)[clear], fits[clear])
        assert polygon_area(poly[::-1]) == pytest.approx(-polygon_area(poly))


def test_clipping_keeps_what_it_should(rng):
    for _ in range(50):
        planes = rng.normal(size=(3, 3)); square = [[-1, -1], [1, -1], [1, 1], [-1, 1]]; pts = rng.uniform(-1, 1, (300, 2))
        want = (pts @ planes[:, :2].T+planes[:, 2] > 0).all(1); d = np.abs(pts @ planes[:, :2].T+planes[:, 2]).min(1) > 1e-6
        np.testing.assert_array_equal(inside(clip_polygon(square, planes), pts)[d], want[d])


@pytest.mark.parametrize('pitch,roll', [(17, 0), (60, 0), (5, 0), (17, 12), (30, -35), (90, 0)])
def test_visible_polygon_is_what_projects_into_the_picture(rng, pitch, roll):
    cam = spot(pitch, roll); poly = visible_polygon(cam, 6., 4.); pts = rng.uniform([0, -4], [6, 4], (20000, 2))
    np.testing.assert_array_equal(inside(poly, pts), cam.inside_image(cam.project(pts)[0]))


# --- geometry of the view

@pytest.mark.parametrize('pitch,v_h,near,far,cols', [
    (15, 676.091, (.9034, .7606, -.7649), (4.8613, -4.8890), 1462.55),
    (17, 641.187, (.8637, .7411, -.7454), (4.8403, -4.8679), 1456.24),
    (20, 588.150, (.8078, .7154, -.7194), (4.7978, -4.8252), 1443.45)])
def test_table_of_corners(pitch, v_h, near, far, cols):
    cam = spot(pitch); spec = BevSpec.from_camera(cam)
    assert cam.project([5., 0])[0][1] == pytest.approx(v_h, abs=1e-3)
    np.testing.assert_allclose(spec.polygon, [(near[0], near[1]), (near[0], near[2]), (5, far[1]), (5, far[0])], atol=1e-3)
    assert (spec.rows, spec.cols) == (750, int(cols)) and spec.u0-spec.polygon[2][1]*150 == pytest.approx(cols, abs=.01)
    assert spec.v0 == 750 and spec.u0 == pytest.approx(far[0]*150, abs=.02)


def test_share_and_patch_side():
    spec = BevSpec.from_camera(spot(17))
    assert spec.visible_share == pytest.approx(.477, abs=5e-4) and spec.mask().mean() == pytest.approx(spec.visible_share, abs=1e-3)
    assert 64/spec.ppm == pytest.approx(.426667, abs=1e-6)
    tiny = BevSpec.from_camera(spot(17, size=640), 75, 4.); assert (tiny.rows, tiny.cols) == (300, 578)
    np.testing.assert_allclose([tiny.polygon[3][1], tiny.polygon[2][1]], [3.8494, -3.8630], atol=1e-3)


def test_pixels_and_places(rng):
    spec = BevSpec.from_camera(spot(17)); xy = rng.uniform(-5, 5, (3, 7, 2))
    np.testing.assert_allclose(spec.to_ground(spec.to_pixel(xy)), xy, atol=1e-12)
    np.testing.assert_allclose(spec.to_pixel([1., 2.]), [spec.u0-300, spec.v0-150])
    grid = spec.centres(); assert grid.shape == (750, 1456, 2)
    for r, c in ((0, 0), (749, 1455), (100, 7)): np.testing.assert_allclose(grid[r, c], [(spec.v0-r-.5)/150, (spec.u0-c-.5)/150])


def test_four_point_transform_of_the_original():
    "Solve the perspective transform of spec 3.2 step 5 from its four pairs; it must be our homography."
    cam = spot(17); spec = BevSpec.from_camera(cam); v_h = cam.project([5., 0])[0][1]
    src = np.array([[0, 1535], [2047, 1535], [0, v_h], [2047, v_h]]); ground = cam.ground(src)
    dst = np.stack([(ground[:, 1].max()-ground[:, 1])*150, (ground[:, 0].max()-ground[:, 0])*150], 1)
    A = np.concatenate([[[x, y, 1, 0, 0, 0, -u*x, -u*y], [0, 0, 0, x, y, 1, -v*x, -v*y]] for (x, y), (u, v) in zip(dst, src)])
    H = np.append(np.linalg.solve(A, src.ravel()), 1).reshape(3, 3); ours = bev_homography(cam, spec)
    np.testing.assert_allclose(H, ours/ours[2, 2], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(apply_homography(homography(cam), ground), src, atol=1e-6)


def test_spec_is_saved_and_read_back():
    spec = BevSpec.from_camera(spot(17)); again = BevSpec(**json.loads(spec.model_dump_json()))
    assert again == spec and again.polygon == spec.polygon
    with pytest.raises(UserError, match='frozen'): spec.ppm = 3
    old = BevSpec(ppm=150, rows=749, cols=1476, u0=738, v0=749); assert old.mask().all() and old.visible_share == 1
    assert BevSpec.from_camera(spot(17)).legacy_origin().u0 == 728


def test_distorted_polygon_never_promises_black():
    for lens, zoom, share in (('car', 1., .5), ('pi', 1., .5), ('car', 2.2, .8), ('pi', 2.2, .8)): # at zoom 1 the corners lie beyond the range of the models
        cam = spot(25, 3, size=640, zoom=zoom, distortion=LENS[lens])
        for spec in (BevSpec.from_camera(cam, 60, 3.), BevSpec.from_window(cam, 3., 2., 60)):
            seen = BevWarp(cam, spec).visible; promised = spec.mask()
            assert not (promised & ~seen).any() and promised.sum() > share*seen.sum(), (lens, zoom)


# --- warping

def slow_warp(img, cam, spec):
    "Pixel by pixel in float64: place, pixel, four neighbours."
    out = np.zeros((spec.rows, spec.cols, 3)); h, w = img.shape[:2]
    for r in range(spec.rows):
        for c in range(spec.cols):
            uv = rotated(cam, ((spec.v0-r-.5)/spec.ppm, (spec.u0-c-.5)/spec.ppm, 0.))
            if uv is None or not (0 <= uv[0] <= w-1 and 0 <= uv[1] <= h-1): continue
            j, i = min(int(uv[0]), w-2), min(int(uv[1]), h-2); fu, fv = uv[0]-j, uv[1]-i
            out[r, c] = (1-fv)*((1-fu)*img[i, j]+fu*img[i, j+1].astype(float))+fv*((1-fu)*img[i+1, j]+fu*img[i+1, j+1].astype(float))
    return out


@pytest.mark.parametrize('lens', LENS)
def test_warp_agrees_with_the_slow_reference(rng, lens):
    cam = spot(25, 2, size=160, zoom=1 if lens == 'none' else 2.2, distortion=LENS[lens]); spec = BevSpec.from_camera(cam, 25, 2.5); img = rng.integers(0, 256, (120, 160, 3), np.uint8)
    warp = BevWarp(cam, spec); fast, slow = warp(img), slow_warp(img, cam, spec)
    assert .3 < warp.visible.mean() < .9 and fast.dtype == np.uint8 and fast.shape == slow.shape
    assert np.abs(fast-slow).max() <= 1.51                                             # weights are 256ths: one grey level, and rounding
    assert not fast[~warp.visible].any() and np.abs((fast-slow)[warp.visible].mean()) < .05 # and no bias
    smooth = np.asarray(Image.fromarray(img[:8, :8]).resize((160, 120), Image.Resampling.BICUBIC))
    assert np.abs(warp(smooth)-slow_warp(smooth, cam, spec)).max() <= 1.01
    assert np.abs(warp(img.astype(np.float32))-slow).max() < 1.5


def test_constant_pictures_stay_constant():
    warp = BevWarp(spot(17, size=320), BevSpec.from_camera(spot(17, size=320), 40, 4.))
    for value in (1, 127, 255): assert (warp(np.full((240, 320, 3), value, np.uint8))[warp.visible] == value).all()


def test_nearest_keeps_labels(rng):
    cam = spot(17, size=320); spec = BevSpec.from_camera(cam, 40, 4.); labels = rng.integers(0, 5, (240, 320)).astype(np.int16)
    out = BevWarp(cam, spec, 'nearest')(labels, fill=-1)
    assert set(np.unique(out)) == {-1, 0, 1, 2, 3, 4} and out.dtype == np.int16
    uv = cam.project(spec.centres())[0]; seen = cam.inside_image(uv)
    np.testing.assert_array_equal(out[seen], labels[tuple(np.floor(uv[seen][:, ::-1]+.5).astype(int).T)]); assert (out[~seen] == -1).all()
    np.testing.assert_array_equal(seen, spec.mask())


def test_grey_and_four_channels_like_three(rng):
    cam = spot(17, size=320); warp = BevWarp(cam, BevSpec.from_camera(cam, 40, 4.)); img = rng.integers(0, 256, (240, 320, 4), np.uint8)
    four = warp(img); np.testing.assert_array_equal(four[..., :3], warp(img[..., :3])); np.testing.assert_array_equal(four[..., 1:2], warp(img[..., 1:2]))
    assert np.abs(warp(img[..., 0]).astype(int)-four[..., 0]).max() <= 1 # the float road rounds halves the other way
    np.testing.assert_array_equal(warp(img[:, ::-1][:, ::-1]), four) # any strides


def test_tilted_frames_are_levelled(rng):
    "A camera on a pitched body sees the floor; the tilted warp must give the same view as the level camera."
    cam = spot(17, size=640); spec = BevSpec.from_camera(cam, 40, 3.); tipped = cam.tilted(.02, .03, .01, .5)
    def render(camera):
        xy = camera.ground(np.stack(np.meshgrid(np.arange(640.), np.arange(480.)), -1))
        return np.nan_to_num(128+60*np.sin(2*xy[..., 0])*np.cos(3*xy[..., 1]))[..., None].repeat(3, -1).astype(np.float32)
    level, naive, fixed = BevWarp(cam, spec)(render(cam)), BevWarp(cam, spec)(render(tipped)), BevWarp(cam, spec).tilted(.02, .03, .01, .5)(render(tipped))
    both = BevWarp(cam, spec).visible & BevWarp(cam, spec).tilted(.02, .03, .01, .5).visible
    assert np.abs(fixed-level)[both].max() < 1 < np.abs(naive-level)[both].mean()


def test_wrong_picture_size():
    with pytest.raises(DataError, match=r'img must be \(480, 640, C\), got \(240, 320, 3\): use the camera of this picture size'): BevWarp(spot(17, size=640))(np.zeros((240, 320, 3), np.uint8))


def test_undistortion_straightens_real_chessboard_lines():
    path = real_data('road_camera/chessboard/calibration2.jpg')
    if path is None: pytest.skip('the chessboard pictures are not installed')
    cam = CameraModel.from_pitch([[1157.5, 0, 675.4], [0, 1151.9, 386.7], [0, 0, 1]], 1280, 720, 0, 1, .1, distortion=LENS['car'])
    img = np.array(Image.open(path).convert('RGB')); out = undistort_warp(cam)(img); f = np.diag(cam.K)[:2]
    for u, v in ((200, 150), (900, 500), (1000, 200)):
        ud, vd = cam.K[:2, 2] + distort((np.array([u, v])-cam.K[:2, 2])/f, cam.distortion)*f
        np.testing.assert_allclose(out[v-4:v+5, u-4:u+5].mean((0, 1)), img[round(vd)-4:round(vd)+5, round(ud)-4:round(ud)+5].mean((0, 1)), atol=25)
    assert undistort_warp(cam).visible.mean() > .95 and np.abs(out.astype(int)-img).mean() > 3


def test_husky_view_and_human_labels():
    "Cells that can be seen are those that the human labelled, and colour explains the labels best where they are, not shifted by a cell or mirrored."
    folder = real_data('husky_terrain')
    if folder is None: pytest.skip('the Husky data are not installed')
    cam = CameraModel.from_yaml(folder/'calibration.yaml'); spec = BevSpec.from_window(cam, ppm=100); warp = BevWarp(cam, spec)
    cells = lambda img: img.reshape(20, 20, 20, 20, -1).astype(float).mean((1, 3))[::-1]; share = cells(spec.mask())[..., 0]; sure = share > .99
    def explained(colour, cost):
        ok = sure & (cost > 0); X, y = np.c_[colour[ok], np.ones(ok.sum())], cost[ok]
        return 1-(y-X @ np.linalg.lstsq(X, y, rcond=None)[0]).var()/y.var()
    scores = []
    for name in ('husky_03', 'husky_06', 'husky_08', 'husky_12'):
        cost = np.load(folder/'costmaps'/f'{name}.npy'); colour = cells(warp(np.array(Image.open(folder/'images'/f'{name}.jpg'))))
        assert ((share > .02) == (cost > 0)).mean() >= .99
        scores.append([explained(colour, c) for c in (cost, np.roll(cost, 1, 1), np.roll(cost, -1, 1), np.roll(cost, 3, 1), cost[:, ::-1])])
    straight, left, right, far, mirrored = np.mean(scores, 0)
    assert straight > .6 and straight > max(left, right)+.1 and straight > max(far, mirrored)+.3


def test_speed(rng):
    cam = spot(17, size=640); warp = BevWarp(cam, BevSpec.from_camera(cam, 75, 4.)); img = rng.integers(0, 256, (480, 640, 3), np.uint8); spent = []
    for _ in range(15): start = time.perf_counter(); warp(img); spent.append(time.perf_counter()-start)
    assert min(spent) < .015
