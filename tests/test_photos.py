"Costs from calibrated photographs: geometry, preferences only, a closed-form oracle, bad input, and the quality of the default."
import itertools, json, shutil, time
import numpy as np, pytest, torch, yaml
from PIL import Image
from scipy.stats import spearmanr
from vislearn.core import ConfigError, DataError, real_data
from vislearn.robot.camera import CameraModel
from vislearn.runs.record import Run
from vislearn.terrain.photo_data import CostGrid, PhotoSet, preference_pairs, read_photos, regions_from_costs, write_preferences
from vislearn.terrain.photo_features import cell_means, photo_features
from vislearn.terrain.photo_maps import best_levels, flatten_map, spearman, spearman_limit
from vislearn.terrain.photo_report import leave_one_out, stress_table
from vislearn.terrain.photo_scenes import GroundView, load_textures, texture_scene, work_camera
from vislearn.terrain.photos import PairBatches, VARIANTS, cell_bank, fit_photos, load_photo_model, photo_recipe, predict_photo, train_photos

folder = real_data('husky_terrain')
pytestmark = pytest.mark.skipif(folder is None or real_data('textures') is None or real_data('checkpoints') is None, reason='real photographs are not on this machine')

@pytest.fixture(scope='module')
def husky(): return read_photos(folder)

@pytest.fixture(scope='module')
def stats_bank(husky): return cell_bank(husky, VARIANTS['default'].replace(features=('stats', 'colour'), lights=1, scenes=4))

@pytest.fixture(scope='module')
def colour_run(tmp_path_factory): return train_photos(photo_recipe(folder, 'colour', steps=60), tmp_path_factory.mktemp('runs'))

# geometry

def test_calibration_projects_to_the_published_pixels(husky):
    uv, front = husky.cam.project(np.array([[1., 0, 0], [2, 0, 0], [4, 0, 0]]))
    assert front.all() and np.abs(uv-[[1004.0, 1110.3], [974.5, 722.8], [959.0, 519.0]]).max()<0.2

def test_seen_cells_are_the_labelled_ones(husky):
    seen = husky.grid.visible(husky.cam)
    assert seen.sum()==277 and all(np.array_equal(lab>=0, seen) for lab in husky.labels)

def test_working_size_keeps_the_ground(husky):
    work, xy = work_camera(husky.cam), np.array([[2., 0.5], [3.5, -1]])
    big, small = husky.cam.project(xy)[0], work.project(xy)[0]
    assert np.allclose((big+0.5)*work.width/husky.cam.width-0.5, small, atol=1e-6)

def test_cell_means_agree_with_a_loop(husky):
    "Against reading every sample point by hand."
    rng = np.random.default_rng(0); cam = work_camera(husky.cam); m = rng.random((2, 34, 60)).astype(np.float32)
    uv, inside = husky.grid.pixels(cam); got = cell_means(torch.from_numpy(m), uv, inside, 16, 7.5)
    def read(c, u, v):
        u, v = np.clip((u-7.5)/16, 0, 59), np.clip((v-7.5)/16, 0, 33); i, j = min(int(v), 32), min(int(u), 58)
        a, b = v-i, u-j
        return (m[c, i, j]*(1-b)+m[c, i, j+1]*b)*(1-a)+(m[c, i+1, j]*(1-b)+m[c, i+1, j+1]*b)*a
    for r, c in ((19, 0), (12, 7), (10, 19), (5, 10)):
        points = uv[r, c][inside[r, c]]
        assert np.allclose(got[r, c], [np.mean([read(k, *p) for p in points]) for k in range(2)], atol=1e-5)

def test_scene_is_what_its_labels_say(husky):
    "Scenes made of two flat colours: cells labelled with a colour have it."
    cam = work_camera(husky.cam); view = GroundView(cam)
    flat = {name: [np.full((16, 16, 3), v, np.float32)] for name, v in (('asphalt', 0.2), ('leaves', 0.9))}
    for seed in range(4):
        img, labels = texture_scene(view, flat, np.random.default_rng(seed), n_textures=2)
        uv, inside = husky.grid.pixels(cam); grey = cell_means(torch.from_numpy(img.astype(np.float32)).permute(2, 0, 1), uv, inside).mean(-1)
        seen = husky.grid.visible(husky.cam)
        if (labels[seen]==0).sum()>5 and (labels[seen]==1).sum()>5: assert np.median(grey[seen & (labels==0)])<np.median(grey[seen & (labels==1)])

# preferences only

def test_only_the_order_of_costs_matters(husky):
    costs = np.where(np.isfinite(husky.truth), husky.truth, 0)
    labels, names, orderings = regions_from_costs(costs**3+costs)
    assert np.array_equal(labels, husky.labels) and orderings==husky.orderings and names==husky.names

def test_training_never_sees_the_numbers(husky):
    cfg, params = photo_recipe(folder, 'colour', steps=20), VARIANTS['colour']
    blind = PhotoSet(husky.paths, husky.cam, husky.labels, husky.names, husky.orderings, husky.grid, None)
    a, b = (fit_photos(cell_bank(p, params), cfg) for p in (husky, blind))
    assert torch.equal(a.head.weight, b.head.weight)

def test_closure_against_brute_force():
    names, pairs = list('abcdef'), [('a', 'c'), ('c', 'd'), ('b', 'd'), ('d', 'f')]
    reach = {(x, y) for x, y in pairs}
    for _ in names: reach |= {(x, w) for (x, y), (z, w) in itertools.product(reach, reach) if y==z}
    assert {(names[i], names[j]) for i, j in preference_pairs(names, pairs)}==reach

def test_pairs_are_drawn_evenly(stats_bank):
    batches = PairBatches(stats_bank, 4096, scene_share=0.5); rows = np.concatenate([batches(0, s) for s in range(10)])
    assert np.array_equal(batches(0, 3), PairBatches(stats_bank, 4096, scene_share=0.5)(0, 3)) and not np.array_equal(batches(0, 3), batches(1, 3))
    a, b = stats_bank.region[rows].T; allowed = {tuple(p) for p in np.concatenate(stats_bank.pairs)}
    assert set(zip(a.tolist(), b.tolist()))<=allowed
    photos = a<8
    assert abs(photos.mean()-0.5)<0.02
    _, counts = np.unique(a[photos]*100+b[photos], return_counts=True)
    assert len(counts)==28 and counts.min()>0.8*counts.mean()

def test_head_agrees_with_the_closed_form(stats_bank):
    "The Learner's optimum is that of the quadratic objective, solved by a linear system over the same pairs."
    cfg = photo_recipe(folder, 'default', features=('stats', 'colour'), steps=400); model = fit_photos(stats_bank, cfg)
    rows = np.concatenate([PairBatches(stats_bank, 4096, seed=9)(0, s) for s in range(20)])
    raw = torch.from_numpy(stats_bank.x); x = ((raw[:, :-1]-model.mean-model.slope*raw[:, -1:])*model.scale).double().numpy(); d = x[rows[:, 1]]-x[rows[:, 0]]
    w = np.linalg.solve(d.T@d/len(d)+0.4*np.eye(d.shape[1]), d.mean(0))
    ours = model(raw).detach().numpy()
    assert np.corrcoef(x@w, ours)[0, 1]>0.99

def test_distance_is_taken_out(stats_bank):
    "On scenes no standardised feature rises or falls with distance."
    cfg = photo_recipe(folder, 'default', features=('stats', 'colour'), steps=1); model, raw = fit_photos(stats_bank, cfg), torch.from_numpy(stats_bank.x[stats_bank.photo<0])
    x = ((raw[:, :-1]-model.mean-model.slope*raw[:, -1:])*model.scale).numpy(); d = raw[:, -1].numpy()
    assert model.slope.abs().max()>0.1 and max(abs(np.polyfit(d, f, 1)[0]) for f in x.T)<0.01

# maps

def test_levels_against_all_splits():
    values = np.random.default_rng(0).normal(size=9); order = np.sort(values)
    for k in (2, 3, 4):
        best = min(sum(((part-part.mean())**2).sum() for part in np.split(order, cuts)) for cuts in itertools.combinations(range(1, 9), k-1))
        group, error = best_levels(values, k)
        assert np.isclose(error, best) and len(np.unique(group))==k and all(values[group==i].max()<values[group==i+1].min() for i in range(k-1))

def test_spearman_equals_scipy_and_its_limit_is_reached(husky):
    rng = np.random.default_rng(1)
    for t in husky.truth:
        guess = rng.integers(0, 5, t.shape)+0.; both = np.isfinite(t)
        assert np.isclose(spearman(guess, t), spearmanr(guess[both], t[both]).statistic)
        noise = t+rng.normal(size=t.shape)*1e-6
        assert np.isclose(spearman(noise, t), spearman_limit(t), atol=1e-9)

def test_flattening_keeps_unseen_cells_and_few_levels():
    scores = np.random.default_rng(2).normal(size=(20, 20)); scores[:5] = np.nan
    flat = flatten_map(scores)
    assert np.array_equal(np.isnan(flat), np.isnan(scores)) and 2<=len(np.unique(flat[5:]))<=5

# files

def test_general_format_round_trip(tmp_path, husky):
    for part in ('images', 'calibration.yaml'): (tmp_path/part).symlink_to(folder/part)
    write_preferences(husky, tmp_path); again = read_photos(tmp_path)
    assert np.array_equal(again.labels, husky.labels) and np.array_equal(again.pairs, husky.pairs) and again.truth is None

def test_polygons_label_the_cells_they_cover(tmp_path, husky):
    "Polygons drawn around ground rectangles give back exactly these cells."
    for part in ('images', 'calibration.yaml'): (tmp_path/part).symlink_to(folder/part)
    def rectangle(name, x0, x1, y0, y1): return dict(name=name, polygon=husky.cam.project(np.array([[x0, y0], [x0, y1], [x1, y1], [x1, y0]]))[0].tolist())
    spec = dict(version=1, orderings=[['near', 'far']], images={'husky_01.jpg': dict(regions=[rectangle('near', 2, 3, -0.4, 0.4), rectangle('far', 3, 4, -0.4, 0.4)])})
    (tmp_path/'preferences.json').write_text(json.dumps(spec)); photos = read_photos(tmp_path)
    expected = np.full((20, 20), -1); expected[10:15, 8:12] = 0; expected[15:20, 8:12] = 1
    assert np.array_equal(photos.labels[0], expected)
    spec['orderings'].append(['far', 'near']); (tmp_path/'preferences.json').write_text(json.dumps(spec))
    with pytest.raises(ConfigError, match='contradict'): read_photos(tmp_path)
    spec['orderings'] = [['near', 'fr']]; (tmp_path/'preferences.json').write_text(json.dumps(spec))
    with pytest.raises(ConfigError, match="did you mean 'far'"): read_photos(tmp_path)

# runs

def test_run_gives_the_same_map_again(colour_run, husky):
    first = predict_photo(colour_run.load_model(), husky.photo(0), husky.cam)
    again = predict_photo(load_photo_model(Run(colour_run.dir)), folder/'images'/'husky_01.jpg', folder/'calibration.yaml')
    assert first.dtype==np.float64 and first.shape==(20, 20) and np.array_equal(first, again, equal_nan=True)
    assert np.array_equal(np.isfinite(first), husky.grid.visible(husky.cam)) and 0<np.nanmin(first)<np.nanmax(first)<1
    assert colour_run.status['state']=='finished'

def test_same_seed_same_model(husky):
    bank, cfg = cell_bank(husky, VARIANTS['colour'].replace(lights=1, scenes=1)), photo_recipe(folder, 'colour', steps=20)
    assert torch.equal(fit_photos(bank, cfg).head.weight, fit_photos(bank, cfg).head.weight)

# bad input

def test_wrong_picture_size(colour_run, tmp_path, husky):
    Image.fromarray(husky.photo(0)[::2, ::2]).save(tmp_path/'half.png'); model = load_photo_model(colour_run)
    with pytest.raises(DataError, match='half.png: photograph is 960x540, the calibration is for 1920x1080'): predict_photo(model, tmp_path/'half.png', husky.cam)
    with pytest.raises(DataError, match='image must be'): predict_photo(model, husky.photo(0)[::2, ::2], husky.cam)

def test_picture_that_does_not_decode(colour_run, tmp_path, husky):
    raw = (folder/'images'/'husky_01.jpg').read_bytes()
    for name, data in (('text.jpg', b'not a picture'), ('cut.jpg', raw[:len(raw)//3]), ('empty.png', b'')):
        (tmp_path/name).write_bytes(data)
        with pytest.raises(DataError, match=f'{name}: not an image that can be decoded'): predict_photo(load_photo_model(colour_run), tmp_path/name, husky.cam)

def test_calibration_without_intrinsics(colour_run, tmp_path, husky):
    cal = yaml.safe_load((folder/'calibration.yaml').read_text()); cal.pop('K'); (tmp_path/'calibration.yaml').write_text(yaml.safe_dump(cal))
    with pytest.raises(DataError, match='K missing'): predict_photo(load_photo_model(colour_run), husky.photo(0), tmp_path/'calibration.yaml')

def test_camera_that_looks_away(colour_run, husky):
    up = CameraModel.from_pitch(husky.cam.K, 1920, 1080, x=0., z=0.8, pitch_rad=-0.9)
    with pytest.raises(DataError, match='sees no cell'): predict_photo(load_photo_model(colour_run), husky.photo(0), up)

def test_run_of_another_task(colour_run, tmp_path):
    shutil.copytree(colour_run.dir, tmp_path/'other'); text = (tmp_path/'other'/'config.yaml').read_text()
    (tmp_path/'other'/'config.yaml').write_text(text.replace('task: terrain.photos', 'task: terrain.rep'))
    with pytest.raises(DataError, match='is a run of task terrain.rep, expected terrain.photos'): load_photo_model(Run(tmp_path/'other'))

def test_misspelt_choices(husky):
    with pytest.raises(ConfigError, match="did you mean 'default'"): photo_recipe(folder, 'defualt')
    with pytest.raises(ConfigError, match='lights'): photo_recipe(folder, 'default', light=3)
    with pytest.raises(ConfigError, match="no block 'fire66'"): photo_features(np.zeros((540, 960, 3), np.uint8), work_camera(husky.cam), ['fire66'])
    with pytest.raises(DataError, match='expected at least two of asphalt'): load_textures('nowhere')

def test_another_camera_and_a_night_picture(colour_run):
    "A small camera of another kind, and a black picture: a finite map all the same."
    cam = CameraModel.from_pitch([[300., 0, 160], [0, 300, 120], [0, 0, 1]], 320, 240, x=0.2, z=0.6, pitch_rad=0.35)
    for img in (np.zeros((240, 320, 3), np.uint8), np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)):
        cost = predict_photo(load_photo_model(colour_run), img, cam)
        assert np.array_equal(np.isfinite(cost), CostGrid().visible(cam)) and np.isfinite(cost).sum()>50

# quality

def test_default_on_one_photograph_left_out(husky):
    "A short training of the default ranks asphalt below pavement although no photograph in training shows asphalt."
    params = VARIANTS['default'].replace(lights=0, scenes=16)
    model = fit_photos(cell_bank(husky.subset([0, 1, 3, 4]), params), photo_recipe(folder, 'default', steps=120))
    start = time.monotonic(); cost = predict_photo(model, husky.photo(2), husky.cam)
    assert time.monotonic()-start<3
    assert spearman(cost, husky.truth[2])>0.2

@pytest.mark.slow
def test_leave_one_photo_out(husky):
    predicted, _ = leave_one_out(husky, VARIANTS['default'])
    each = [spearman(a, b) for a, b in zip(predicted, husky.truth)]
    assert spearman(predicted, husky.truth)>0.78 and np.mean(each)>0.55 and min(each)>0.15

@pytest.mark.slow
def test_default_holds_where_mean_colour_falls(husky):
    default, colour = (stress_table(husky, VARIANTS[v], lights=2) for v in ('default', 'colour'))
    assert default['other light, pooled']>colour['other light, pooled']+0.1
    assert default['two photographs']>colour['two photographs']+0.1
    assert default['scenes only, pooled']>0.7
