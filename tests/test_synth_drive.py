"The fast renderer against a plain one, and the statistics of worlds, paths and light"
import io
import numpy as np, pytest
from PIL import Image
from scipy.ndimage import uniform_filter1d
from vislearn.core import DataError, real_data, sample_rng
from vislearn.synth.drive import (BODY_HEIGHT, CELLS_PER_M, SKY, Renderer, ar1, exposures, make_odometry, make_trajectory, make_world)
from vislearn.synth.record import Preset, bag_plans, frames, preset_bev, simulate, spot_camera
from vislearn.synth.textures import N_LEVELS, TEXTURE_PPM, TERRAINS, TILE, Atlas, build_atlas, pack_tile, texture

NAMES = ('concrete', 'pebble_pavement', 'grass', 'marble_rock')

@pytest.fixture(scope='module')
def atlas(): return build_atlas(NAMES)

@pytest.fixture(scope='module')
def scene():
    path = make_trajectory(sample_rng(3, 0, 0), 20, 16)
    return path, make_world(sample_rng(3, 0, 2), NAMES, 16, path, n_shadows=10)

def reference(cam, atlas, world, pose, gain, noise, half, night=False):
    "One pixel at a time, float64 throughout, no tables: labels (-1 sky) and image"
    K, T = np.array(cam.K), np.array(cam.T_body_camera); x, y, yaw, z, roll, pitch = pose
    Rz, Ry, Rx = np.eye(3), np.eye(3), np.eye(3)
    Rz[:2,:2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    Ry[::2,::2] = [[np.cos(pitch), np.sin(pitch)], [-np.sin(pitch), np.cos(pitch)]]
    Rx[1:,1:] = [[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]
    R = Rz@Ry@Rx; p = np.array([x, y, z]) + R@(T[:3,3] - [0, 0, BODY_HEIGHT]); n = len(world.labels)
    labels, img, g = np.full((cam.height, cam.width), -1), np.empty((cam.height, cam.width, 3)), gain*(.25 if night else 1)
    for v in range(cam.height):
        for u in range(cam.width):
            d0 = np.array([(u - K[0,2])/K[0,0], (v - K[1,2])/K[1,1], 1.]); d = R@T[:3,:3]@d0
            if d[2] > -1e-3: img[v,u] = np.array(SKY)*g*(.1 if night else 1); continue
            s = -p[2]/d[2]; gx, gy = p[:2] + s*d[:2]; r2 = s*s*(d0@d0)
            labels[v,u] = world.labels[int(np.floor(gy*CELLS_PER_M))%n, int(np.floor(gx*CELLS_PER_M))%n]
            level = int(np.clip(np.floor(np.log2(.7*TEXTURE_PPM*r2/(p[2]*K[0,0]))), 0, N_LEVELS-1))
            tx, ty = int(np.floor(gx*TEXTURE_PPM))%TILE, int(np.floor(gy*TEXTURE_PPM))%TILE
            colour = atlas.level(NAMES[labels[v,u]], level)[ty>>level, tx>>level].astype(float)
            fx, fy = ((np.floor(w*CELLS_PER_M*4) + .5)/4 - .5 for w in (gx, gy)) # centre of the fine light cell, in raster units
            i, j = int(np.floor(fx)), int(np.floor(fy)); a, b = fx - i, fy - j; L = lambda r, c: float(world.light[r%n, c%n])
            light = (1-b)*((1-a)*L(j, i) + a*L(j, i+1)) + b*((1-a)*L(j+1, i) + a*L(j+1, i+1))
            img[v,u] = colour*light*g*(2/(1 + r2/4) if night else 1)
    if half: img = uniform_filter1d(img, 2*half+1, axis=1, mode='nearest')
    return labels, np.floor((img + noise).clip(0, None) + .5).clip(1, 255).astype(int)

@pytest.mark.parametrize('k,night', [(2, False), (7, False), (11, True)])
def test_fast_renderer_equals_plain_one(atlas, scene, k, night):
    path, world = scene; cam = spot_camera(64)
    draw = Renderer(atlas, world, np.array(cam.K), cam.width, cam.height, np.array(cam.T_body_camera), 8. if night else 3., night, rows_per_block=7)
    pose = path.at(np.array([k+.3]))[0]; pose[4:] += (.02, -.03) # a good tilt, so that the horizon is slanted
    gain, rate = np.array([1.1, .9, 1.05]), .6
    seed = next(s for s in range(99) if sample_rng(s, 0, 0).random()<.5) # a frame that is blurred
    rng = sample_rng(seed, 0, 0); rng.random(); start = rng.integers(len(draw.pool) - cam.width*cam.height, size=3)
    noise = np.stack([draw.pool[s:s+cam.width*cam.height].reshape(cam.height, cam.width) for s in start], -1) - .5
    labels, want = reference(cam, atlas, world, pose, gain, noise, round(4*rate), night)
    img = draw.render(pose, gain, sample_rng(seed, 0, 0), rate)
    assert abs(img.astype(int) - want).max() <= 1 and (img!=want).mean() < .03
    R, p = draw.camera_pose(pose); cell, word, _ = draw.trace(R, p, 0, cam.height)
    seen = labels>=0
    assert seen.mean()>.5 and ((cell & 7)[seen]==labels[seen]).all()
    assert len(np.unique(labels[seen]))>1, 'the test scene must show several terrains'

def test_render_is_deterministic_and_block_free(atlas, scene):
    path, world = scene; cam = spot_camera(160); pose = path.at(np.array([9.]))[0]
    make = lambda rows: Renderer(atlas, world, np.array(cam.K), cam.width, cam.height, np.array(cam.T_body_camera), rows_per_block=rows)
    a, b = (make(r).render(pose, np.ones(3), sample_rng(0, 0, 5), .3) for r in (9, 500))
    assert (a==b).all() and a.min()>=1
    assert (a!=make(9).render(pose, np.ones(3), sample_rng(0, 0, 6), .3)).mean()>.5

def test_blur_in_half_of_the_frames(atlas, scene):
    path, world = scene; cam = spot_camera(160); pose = path.at(np.array([9.]))[0]
    draw = Renderer(atlas, world, np.array(cam.K), cam.width, cam.height, np.array(cam.T_body_camera), noise_sd=0.)
    sharp = draw.render(pose, np.ones(3), sample_rng(0, 0, 0), 0.)
    same = [bool((draw.render(pose, np.ones(3), sample_rng(0, 0, k), .7)==sharp).all()) for k in range(200)]
    assert .4 < np.mean(same) < .6

def test_equal_mean_pairs_are_exact():
    tiles = {n: texture(n, 1) for n in ('concrete', 'pebble_pavement', 'grass', 'bush', 'asphalt', 'marble_rock')}
    total = {n: t.reshape(-1, 3).sum(0, dtype=np.int64) for n, t in tiles.items()}
    assert (total['concrete']==total['pebble_pavement']).all() and (total['grass']==total['bush']).all()
    assert (total['concrete']==np.array([148, 145, 138])*TILE**2).all() and (total['grass']==np.array([92, 110, 66])*TILE**2).all()
    for n, sd in dict(concrete=7, asphalt=13, grass=20, marble_rock=34).items(): # contrast as specified (away from joints; tints add a little)
        assert np.mean([tiles[n][y+3:y+256,3:256,1].std() for y in range(0, TILE, 256)])==pytest.approx(sd, rel=.2)

def test_tiles_are_periodic():
    for n in ('pebble_pavement', 'asphalt', 'mulch', 'marble_rock'):
        t = texture(n).astype(float); inner = abs(np.diff(t, axis=0)).mean(), abs(np.diff(t, axis=1)).mean()
        wrap = abs(t[0] - t[-1]).mean(), abs(t[:,0] - t[:,-1]).mean()
        assert wrap[0]<1.5*inner[0] and wrap[1]<1.5*inner[1], n

def test_pyramid_is_a_box_filter():
    rng = np.random.default_rng(0); tile = rng.integers(0, 256, (TILE, TILE, 3), dtype=np.uint8); a = Atlas(pack_tile(tile), ('x',))
    x = tile.astype(float)
    for k in range(N_LEVELS):
        assert abs(a.level('x', k) - x).max()<=.51
        x = (x[::2,::2] + x[1::2,::2] + x[::2,1::2] + x[1::2,1::2])/4

def test_photographs_become_tiles(tmp_path):
    rng = np.random.default_rng(0); files = dict(concrete='concrete', pebble_pavement='pebbles', red_brick='brick', asphalt='asphalt', mulch='leaves', grass='grass', bush='moss', marble_rock='cobblestone')
    for k, f in enumerate(files.values()): Image.fromarray(rng.integers(20*k, 20*k+60, (60, 80 if k%2 else 60, 3), dtype=np.uint8)).save(tmp_path/f'{f}.png')
    a = build_atlas(TERRAINS, textures=tmp_path)
    assert abs(a.level('asphalt').mean() - 90)<3
    assert (a.level('grass').reshape(-1, 3).mean(0)==a.level('bush').reshape(-1, 3).mean(0)).all() # pairs share a mean here too
    (tmp_path/'moss.png').unlink()
    with pytest.raises(DataError, match='no photograph for bush'): build_atlas(TERRAINS, textures=tmp_path)
    (tmp_path/'bush.jpg').write_bytes(b'no image')
    with pytest.raises(DataError, match='expected an image'): build_atlas(TERRAINS, textures=tmp_path)

def test_committed_photographs():
    folder = real_data('textures')
    if folder is None: pytest.skip('data/real/textures is not here')
    a = build_atlas(TERRAINS, textures=folder); mean = {n: a.level(n).reshape(-1, 3).mean(0) for n in TERRAINS}
    assert (mean['concrete']==mean['pebble_pavement']).all() and (mean['grass']==mean['bush']).all()
    assert mean['red_brick'][0]>mean['red_brick'][2] and mean['grass'].argmax()==1 # bricks are red, grass is green

def test_trajectory_limits():
    for seed in range(5):
        path = make_trajectory(sample_rng(seed, 0, 0), 60, 16)
        assert abs(path.yaw_rate).max()<=.7 and path.xy.min()>0 and path.xy.max()<16
        assert (path.speed[path.t<=3]==0).all() and (path.speed[path.t>=58]==0).all() and path.speed.max()==pytest.approx(.7)
        pose = path.at(path.t); walking = path.speed>.69
        assert pose[walking,3].max()-BODY_HEIGHT==pytest.approx(.008, rel=.1) and abs(pose[walking,5]).max()==pytest.approx(np.deg2rad(.7), rel=.1)
        assert (pose[path.t<2.9,3]==BODY_HEIGHT).all()
    fast = make_trajectory(sample_rng(0, 0, 0), 120, 40, (.4, 1.4))
    assert .4<=fast.speed[(fast.t>4) & (fast.t<117)].min() and fast.speed.max()<=1.4 and len(np.unique(fast.speed.round(6)))>10

def test_odometry_drift_statistics():
    path = make_trajectory(sample_rng(0, 0, 0), 60, 24); n = len(path.t)
    length = lambda xy: np.linalg.norm(np.diff(xy, axis=0), axis=1).sum()
    drifts = [make_odometry(sample_rng(k, 0, 1), path) for k in range(200)]
    scale = np.array([length(o[:,:2])/length(path.xy) for o in drifts]); yaw = np.array([o[-1,2] - (path.yaw[-1] - path.yaw[0]) for o in drifts])
    assert scale.std()==pytest.approx(.01, rel=.2) and abs(scale.mean()-1)<.003
    assert yaw.std()==pytest.approx(6e-4*np.sqrt(n-1), rel=.2)

def test_light_varies_inside_every_bag_and_shadows_are_deep():
    small = Preset(('concrete', 'grass'), 160, 18.75, patch_px=8, train_s=30, holdout_s=20, n_mixed=2)
    sd = {True: [], False: []}
    for plan in bag_plans(small):
        d = simulate(plan, small); g = np.log(d.exposure[:,1]); sd[plan.shifted].append(g.std()); assert g.std()>.01
        assert (d.world.light.min()<.7)==plan.shifted
    many = [np.log(exposures(sample_rng(k, 0, 3), 150)).std() for k in range(50)]
    assert .05<np.mean(many)<.12 # most of the stationary 0.10 happens within one bag of 150 images
    between = np.std([np.log(exposures(sample_rng(k, 0, 3), 150)).mean() for k in range(200)])
    assert between<.075

def test_single_terrain_within_reach_of_the_path():
    small = Preset(('concrete', 'grass', 'bush'), 160, 18.75); plan = bag_plans(small)[1]; d = simulate(plan, small)
    rng = np.random.default_rng(0); near = d.path.xy[rng.integers(len(d.path.t), size=500)] + rng.uniform(-1.2, 1.2, (500, 2))
    assert (d.world.terrain_at(near)==1).all() and set(np.unique(d.world.labels))=={0, 1, 2}

def test_bev_shows_the_labels_of_the_truth():
    "Paint terrains in plain colours, no noise, no body motion: the bird's-eye image must show the label image"
    small = Preset(('concrete', 'grass', 'bush'), 320, 37.5, n_mixed=1, mixed_s=20., mixed_hz=2.); plan = bag_plans(small)[-1]; d = simulate(plan, small)
    colours = np.array([(250, 20, 20), (20, 250, 20), (20, 20, 250)], np.uint8)
    flat = Atlas(np.concatenate([pack_tile(np.broadcast_to(c, (TILE, TILE, 3))) for c in colours]), small.terrains)
    bev = preset_bev(small); mask = bev.mask(); agree = []
    for k, _, bird in frames(d, flat):
        x, y, yaw = d.path.at(d.image_t[[k]])[0,:3]; rows, cols = np.indices(mask.shape) + .5
        gx, gy = (bev.v0 - rows)/bev.ppm, (bev.u0 - cols)/bev.ppm
        want = d.world.terrain_at(np.stack([x + np.cos(yaw)*gx - np.sin(yaw)*gy, y + np.sin(yaw)*gx + np.cos(yaw)*gy], -1))
        img = np.asarray(Image.open(io.BytesIO(bird)))
        agree.append((img.argmax(-1)==want)[mask].mean())
        assert (img[~mask].max(-1)<40).mean()>.97 # black outside, but for JPEG ringing at the border
    assert min(agree)>.9 and np.mean(agree)>.96

def test_ar1_is_stationary():
    x = np.stack([ar1(np.random.default_rng(k).standard_normal(50), .97) for k in range(4000)])
    assert x.std(0)==pytest.approx(np.ones(50), abs=.06)
