"Costmaps against the originals' rule tile by tile, places, files, fusion"
import copy, json
import numpy as np, pytest, torch
from torch import nn
from terrain_reference import slow_costs
from vislearn.core import DataError
from vislearn.robot.bev import BevSpec
from vislearn.terrain import costmap as cm
from vislearn.terrain.nets import CostNet, EmbeddingNet, FullCostNet, TinyResNet, VisualEncoderTiny

SPOT = BevSpec(ppm=150, rows=750, cols=1456, u0=726.05, v0=750, horizon_m=5., polygon=((.8637, .7411), (.8637, -.7454), (5., -4.8679), (5., 4.8403)))
CI = BevSpec(ppm=56.25, rows=225, cols=433, u0=216.5, v0=225., horizon_m=4., polygon=((.8637, .7411), (.8637, -.7454), (4., -3.863), (4., 3.8494)))

def picture(bev, seed=0):
    "Blocks of colour, 1 to 255 where the ground is seen, 0 elsewhere"
    blocks = np.random.default_rng(seed).integers(1, 256, (-(-bev.rows//16), -(-bev.cols//16), 3), np.uint8)
    return blocks.repeat(16, 0).repeat(16, 1)[:bev.rows, :bev.cols]*bev.mask()[..., None]

def trained_like(encoder, size, seed=0):
    "A network with distinct running statistics and slopes, as after training, whose costs vary"
    torch.manual_seed(seed); model = FullCostNet(encoder, CostNet(encoder.dim))
    with torch.no_grad():
        for p in model.parameters(): p.add_(.3*p.std(correction=0)*torch.randn_like(p))
        for m in model.modules():
            if isinstance(m, nn.PReLU): m.weight.fill_(float(torch.rand(1)*.4))
        for _ in range(30): model(torch.randint(0, 256, (16, 3, size, size), dtype=torch.uint8)*torch.rand(16, 3, 1, 1).to(torch.float).mul(2).clamp(max=1).gt(.2).to(torch.uint8))
        model.cost.net[4].weight.mul_(8)
    return model.eval()

@pytest.mark.parametrize('encoder', [EmbeddingNet, TinyResNet, VisualEncoderTiny])
@pytest.mark.parametrize('stride', [12, 24, 17])
def test_equals_tile_by_tile(encoder, stride):
    size, img = 24, picture(CI)
    model = trained_like(encoder(8, patch_px=24) if encoder is VisualEncoderTiny else encoder(8), size)
    slow, fast = slow_costs(img, model, size, stride), cm.costmap(img, model, CI, stride=stride, border='keep').cost
    assert (np.isfinite(slow) == np.isfinite(fast)).all() and fast.dtype == np.float32
    ok = np.isfinite(slow); assert slow[ok].std() > 1e-3, 'the costs must differ for the comparison to mean anything'
    assert np.abs(slow[ok]-fast[ok]).max() <= 1e-5*max(1, np.abs(slow[ok]).max())

def test_equals_tile_by_tile_in_full_size():
    model, img = trained_like(EmbeddingNet(8), 64), picture(SPOT)
    slow, fast = slow_costs(img, model, 64, 32), cm.costmap(img, model, SPOT, stride=32, border='keep').cost
    assert slow.shape == (22, 44) and np.isfinite(slow).sum() == 494
    assert (np.isfinite(slow) == np.isfinite(fast)).all() and np.nanmax(np.abs(slow-fast)) <= 1e-5*max(1, np.nanmax(slow)) and np.nanstd(slow) > 1e-3

def test_batch_size_and_min_visible_do_not_change_costs():
    img, model = picture(CI), trained_like(EmbeddingNet(8), 24); ref = cm.costmap(img, model, CI).cost
    for batch in (1, 7, 1000): assert np.allclose(cm.CostMapper(model, CI, batch=batch)(img).cost, ref, atol=1e-5, equal_nan=True)
    strict = cm.costmap(img, model, CI, min_visible=1.).cost
    assert np.isfinite(strict).sum() < np.isfinite(ref).sum() and np.allclose(strict[np.isfinite(strict)], ref[np.isfinite(strict)], atol=1e-5)
    assert np.isfinite(cm.costmap(img, model, CI, min_visible=0.).cost).all()

@pytest.mark.parametrize('bev, size, stride', [(CI, 24, 12), (SPOT, 64, 32), (CI, 24, 17)])
def test_cut_tiles_move_inward(bev, size, stride):
    "Every tile the model sees is full of ground, uncut tiles stay, and cut ones move by less than a patch."
    keep, shift = [cm.CostMapper(lambda x: x.float().mean((1, 2, 3)), bev, stride, patch_px=size, border=b) for b in ('keep', 'shift')]
    img = np.full((bev.rows, bev.cols, 3), 200, np.uint8)*bev.mask()[..., None]
    black = [(m.tiles(torch.as_tensor(img)).amax(1) == 0).float().mean((1, 2)).numpy() for m in (keep, shift)]
    moved = np.hypot(*(torch.stack([keep.top-shift.top, keep.left-shift.left]).numpy()))
    assert black[0].max() > .3 and black[1].max() <= .02 and (moved[black[0] <= .02] == 0).all() and (moved[black[0] > .02] > 0).all() and moved.max() < size
    a, b = keep(img), shift(img)
    assert (a.known == b.known).all() and np.nanmin(b.cost) > 195 > np.nanmin(a.cost)

def test_model_is_left_alone():
    model = trained_like(EmbeddingNet(8), 24); model.train(); before = copy.deepcopy(model.state_dict())
    cm.costmap(picture(CI), model, CI)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and any(isinstance(m, nn.BatchNorm2d) for m in model.modules())

@pytest.mark.parametrize('encoder', [EmbeddingNet, TinyResNet])
def test_faster_folds_every_batch_norm(encoder):
    model = trained_like(encoder(8), 24); quick = cm.faster(model); x = torch.randint(0, 256, (9, 3, 24, 24), dtype=torch.uint8)
    assert not any(isinstance(m, (nn.BatchNorm2d)) for m in quick.modules()) and not any(p.requires_grad for p in quick.parameters())
    assert torch.allclose(quick(x), model(x), atol=1e-5, rtol=1e-5)

def test_faster_keeps_what_it_cannot_fold():
    multi = nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU(4), nn.BatchNorm2d(4)).eval(); multi[1].weight.data = torch.rand(4); multi[2].running_mean += 1
    x = torch.rand(2, 3, 8, 8); ref = multi(x); quick = cm.faster(multi)
    assert isinstance(quick[2], nn.BatchNorm2d) and isinstance(quick[1], nn.PReLU) and torch.allclose(quick(x), ref, atol=1e-6)
    def plain(x): return x.float().mean((1, 2, 3))
    assert cm.faster(plain) is plain
    scripted = torch.jit.trace(trained_like(EmbeddingNet(8), 24), torch.zeros(2, 3, 24, 24, dtype=torch.uint8)); assert cm.faster(scripted) is scripted
    assert np.isfinite(cm.costmap(picture(CI), scripted, CI).cost).any()

def test_patch_size_comes_from_the_model_else_from_the_ground():
    seen = []
    def model(x): seen.append(tuple(x.shape[1:])); return x.float().mean((1, 2, 3))
    cm.costmap(picture(CI), model, CI); assert set(seen) == {(3, 24, 24)}
    seen.clear(); cm.costmap(picture(SPOT), model, SPOT); assert set(seen) == {(3, 64, 64)}
    model.patch_px = 32; seen.clear(); cm.costmap(picture(CI), model, CI); assert set(seen) == {(3, 32, 32)}

def test_cells_lie_where_their_tiles_lie():
    ground = CI.centres()
    for axis in (0, 1):
        img = np.repeat(np.clip(100+20*ground[..., axis:axis+1], 1, 255), 3, 2)
        cmap = cm.CostMapper(lambda x: x.float().mean((1, 2, 3)), CI, mask=np.ones((225, 433), bool))(np.rint(img).astype(np.uint8))
        place = cmap.to_xy(np.stack(np.indices(cmap.shape), -1))
        assert np.abs(cmap.cost - (100+20*place[..., axis])).max() < .5
        assert np.array_equal(cmap.to_cell(place), np.stack(np.indices(cmap.shape), -1)) and np.array_equal(cmap.at(place), cmap.cost)

def test_visible_tiles_of_the_original_geometry():
    share = cm.window_share(SPOT.mask(), 64, 64)
    assert share.shape == (11, 22) and abs(SPOT.visible_share-.477) < 1e-3
    mask = SPOT.mask(); slow = np.array([[mask[r:r+64, c:c+64].mean() for c in range(0, 1456-63, 64)] for r in range(0, 750-63, 64)])
    assert np.allclose(share, slow, atol=1e-12)

def test_dense_resembles_tiles_and_lies_on_the_same_ground():
    size, img = 24, picture(CI); model = trained_like(EmbeddingNet(8), size)
    tiles, dense = cm.costmap(img, model, CI, stride=24), cm.costmap(img, model, CI, stride=24, mode='dense')
    assert tiles.origin == dense.origin and tiles.shape == dense.shape
    fine = cm.costmap(img, model, CI, mode='dense'); ok = np.isfinite(dense.cost)
    assert np.array_equal(fine.cost[::3, ::3][ok], dense.cost[ok]) and fine.res_m == 8/CI.ppm
    with torch.no_grad(): whole = model.dense(torch.tensor(img).permute(2, 0, 1)[None], size)[0, ::3, ::3].numpy()
    assert np.allclose(dense.cost[ok], whole[ok], atol=1e-5, rtol=1e-5)
    flat = np.full((225, 433, 3), 120, np.uint8); flat[:, 216:] = 30                            # two grounds: both modes tell them apart alike
    a, b = (cm.CostMapper(model, CI, stride=24, mode=m, mask=np.ones((225, 433), bool))(flat).cost for m in ('tiles', 'dense'))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > .8

def test_occupancy_values():
    cmap = cm.CostMap([[0., 1., 2.], [np.nan, 3., 9.]], .1, (0, 0))
    assert cmap.to_occupancy(high=3).tolist() == [[0, 33, 66], [-1, 99, 99]] and cmap.to_occupancy(high=3).dtype == np.int8
    assert cmap.to_occupancy(low=1, high=3).tolist() == [[0, 0, 50], [-1, 99, 99]]
    assert cm.CostMap(np.full((2, 2), np.nan), 1, (0, 0)).to_occupancy().tolist() == [[-1, -1]]*2
    assert cm.CostMap(np.zeros((1, 2)), 1, (0, 0)).to_occupancy().tolist() == [[0, 0]]

def test_grid_cell_centres_match():
    cost = np.arange(12.).reshape(3, 4); cmap = cm.CostMap(cost, .5, (3., 1.)); g = cmap.to_grid(high=11)
    assert g['data'].shape == (g['height'], g['width']) == (4, 3) and g['data'].flags.c_contiguous
    for j in range(4):
        for i in range(3):                                                                      # message: cell (i, j) has its centre at origin + (i + 1/2, j + 1/2) * resolution
            xy = np.array(g['origin']) + (np.array([i, j])+.5)*.5
            assert g['data'][j, i] == np.rint(cmap.at(xy)/11*99)

def test_save_and_load(tmp_path):
    T = np.eye(4); T[:3, 3] = 1, 2, 3
    cmap = cm.CostMap(np.array([[1.5, np.nan]]), .25, (2., -1.), T, 1_710_000_000_123_456_789)
    path = cmap.save(tmp_path/'deep'/'map.npz'); back = cm.load_costmap(path.with_suffix('.json'))
    assert back.t_ns == cmap.t_ns and np.array_equal(back.T_odom_body, T) and np.array_equal(back.cost, cmap.cost, equal_nan=True) and back.frame == 'body' and back.origin == cmap.origin
    assert sorted(p.name for p in path.parent.iterdir()) == ['map.json', 'map.npz']
    card = json.loads(path.with_suffix('.json').read_text()); card['version'] = 7; path.with_suffix('.json').write_text(json.dumps(card))
    with pytest.raises(DataError, match='version must be 1, got 7'): cm.load_costmap(path)
    path.write_bytes(b'not a zip')
    with pytest.raises(DataError, match='not a costmap'): cm.load_costmap(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match='map.npz'): cm.load_costmap(path)

def pose(x, y, yaw):
    T = np.eye(4); T[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]; T[:2, 3] = x, y; return T

def test_fusion_equals_a_loop_over_cells():
    rng = np.random.default_rng(0); maps = []
    for k in range(6):
        cost = rng.random((9, 12)).astype(np.float32); cost[rng.random(cost.shape) < .3] = np.nan
        maps.append(cm.CostMap(cost, .3, (3., 1.7), pose(*rng.normal(0, 2, 2), rng.uniform(-3, 3))))
    fused = cm.fuse(maps, .17); got = fused.to_costmap()
    n_known = 0
    for r in range(got.shape[0]):
        for c in range(got.shape[1]):
            values, weights = [], []
            for m in maps:
                body = np.linalg.inv(m.T_odom_body) @ [*got.to_xy([r, c]), 0, 1]; v = m.at(body[:2])
                if np.isfinite(v): values.append(float(v)); weights.append(1/max(np.hypot(*body[:2]), .1))
            assert fused.count[r, c] == len(values)
            if not values: assert np.isnan(got.cost[r, c]) and np.isnan(fused.variance[r, c]); continue
            mean = np.average(values, weights=weights); n_known += 1
            assert got.cost[r, c] == pytest.approx(mean, abs=1e-5) and fused.variance[r, c] == pytest.approx(np.average((np.array(values)-mean)**2, weights=weights), abs=1e-9)
    assert n_known > 500 and fused.count.max() >= 3 and got.frame == 'odom'

def test_fuse_loses_nothing_at_the_borders():
    rng = np.random.default_rng(1)
    for k in range(20):
        m = cm.CostMap(np.ones((5, 8)), .25, (2., 1.), pose(*rng.normal(0, 30, 2), rng.uniform(-3, 3))); f = cm.fuse([m], .05)
        assert f.count.sum()*.05**2 == pytest.approx(5*8*.25**2, rel=.03)

def test_fused_map_ignores_what_lies_outside():
    f = cm.FusedMap((0, 1), (0, 1), .1).add(cm.CostMap(np.ones((3, 3)), .5, (2., 1.), pose(100, 100, 0)))
    assert f.count.sum() == 0 and not f.to_costmap().known.any()

def test_thirty_maps_of_a_known_ground():
    cell = cm.CostMapper(lambda x: x.float().mean((1, 2, 3)), CI)(picture(CI)); place = cell.to_xy(np.stack(np.indices(cell.shape), -1))
    ground = lambda xy: xy[..., 0]*.3 - xy[..., 1]*.2
    maps = [cm.CostMap(np.where(cell.known, ground(T[:2, 3] + place @ T[:2, :2].T), np.nan), cell.res_m, cell.origin, T) for T in (pose(.3*k, .02*k**2, .06*k) for k in range(30))]
    got = cm.fuse(maps).to_costmap(); truth = ground(got.to_xy(np.stack(np.indices(got.shape), -1)))
    assert np.nanmax(np.abs(got.cost-truth)) < .3*.11+.2*.11+.02                                 # nearest cell: at most half a cell of 0.21 m off
    assert abs(np.nanmean(got.cost-truth)) < 2e-3
