"Moving digits against a scalar rule, exact probabilities, and the promise that each film has its number"
import os, pickle
from fractions import Fraction

import numpy as np, pytest, torch
from torch.utils.data import DataLoader, Dataset

from vislearn.core import ConfigError
from vislearn.synth.digits import find_mnist
from vislearn.synth.smmnist import HITS, Draws, MovingDigits, draw_numbers, draw_trajectories, random_words, render_digits, smmnist_clips

keys_of = lambda n: np.arange(n, dtype=np.uint64)*np.uint64(7919)


def svg_scalar(start, bounce, deterministic):
    "The rule of the original for one digit, frame by frame."
    sx, sy, dx, dy = map(int, start); res = []
    for t in range(len(bounce)):
        up, across, side, along = map(int, bounce[t]); hit_x = hit_y = False
        if sy < 0:
            sy, hit_y = 0, True
            if deterministic: dy = -dy
            else: dy, dx = up, across
        elif sy >= 32:
            sy, hit_y = 31, True
            if deterministic: dy = -dy
            else: dy, dx = -up, across
        if sx < 0:
            sx, hit_x = 0, True
            if deterministic: dx = -dx
            else: dx, dy = side, along
        elif sx >= 32:
            sx, hit_x = 31, True
            if deterministic: dx = -dx
            else: dx, dy = -side, along
        res.append((sx, sy, dx, dy, hit_x, hit_y)); sx += dx; sy += dy
    return np.array(res)


def srvp_scalar(start, bounce, deterministic, limit=36):
    "Exact collisions for one digit, in rational numbers."
    p, v, hit, res = [Fraction(int(a)) for a in start[:2]], [int(a) for a in start[2:]], [False, False], []
    for t in range(len(bounce)):
        res.append((*map(float, p), *v, *hit)); hit, left, k = [False, False], Fraction(1), 0
        while True:
            times = [None if v[a] == 0 else ((limit if v[a] > 0 else 0) - p[a])/v[a] for a in (0, 1)]
            first = min([x for x in times if x is not None], default=None)
            if first is None or first >= left: p = [p[a] + v[a]*left for a in (0, 1)]; break
            p = [p[a] + v[a]*first for a in (0, 1)]; left -= first; hit = [hit[a] or times[a] == first for a in (0, 1)]
            if k == HITS: break
            new = [-v[a] if times[a] == first else v[a] for a in (0, 1)] if deterministic else [int(x) for x in bounce[t][k]]; k += 1
            v = [abs(new[a]) if p[a] == 0 else -abs(new[a]) if p[a] == limit else new[a] for a in (0, 1)]
    return np.array(res)


@pytest.mark.parametrize('deterministic', [False, True])
@pytest.mark.parametrize('variant,scalar,n_frames', [('svg', svg_scalar, 15), ('srvp', srvp_scalar, 25)])
def test_V09_vector_equals_scalar(variant, scalar, n_frames, deterministic):
    draws = draw_numbers(keys_of(100), n_frames, variant=variant); got = np.concatenate(draw_trajectories(draws, deterministic), -1)
    for b in range(100):
        for n in range(2): np.testing.assert_allclose(got[b, n], scalar(draws.start[b, n], draws.bounce[b, n], deterministic), atol=1e-9, rtol=0)
    assert got[..., 4:].sum() > 100, 'a test without hits says nothing'


@pytest.mark.parametrize('variant,limit', [('svg', 31), ('srvp', 36)])
def test_V09_positions_and_speeds_stay_in_range(variant, limit):
    paths = draw_trajectories(draw_numbers(keys_of(5000), 60, variant=variant))
    assert (paths.xy.min(), paths.xy.max()) == (0, limit) and np.abs(paths.velocity).max() == 4
    assert sorted(np.unique(np.rint(paths.xy))) == list(range(limit + 1)) and not paths.hits[:, :, 0].any()


def every_start(n_frames):
    "All 32*32*81 starts of the svg variant, as films of one digit."
    x, y, dx, dy = (a.ravel() for a in np.meshgrid(np.arange(32), np.arange(32), np.arange(-4, 5), np.arange(-4, 5)))
    return Draws(np.zeros((len(x), 1), int), np.stack([x, y, dx, dy], -1)[:, None], np.ones((len(x), 1, n_frames, 4), int))


def test_V09_hit_probability_at_the_second_frame_is_exact():
    "Over every start there is: 1-(1-5/72)^2."
    hit = draw_trajectories(every_start(2)).hits[:, 0, 1].any(-1)
    assert hit.sum() == round((1 - (1 - 5/72)**2)*len(hit)) and abs(hit.mean() - .13407) < 5e-6


def test_V09_start_is_uniform():
    draws = draw_numbers(keys_of(200_000), 1, 1); start = draws.start[:, 0]
    assert abs((start[:, 2:] == 0).all(-1).mean() - 1/81) < .001
    for column, n, low in ((0, 32, 0), (1, 32, 0), (2, 9, -4), (3, 9, -4)):
        counts = np.bincount(start[:, column] - low, minlength=n); assert len(counts) == n
        assert ((counts - 200_000/n)**2/(200_000/n)).sum() < n - 1 + 5*np.sqrt(2*(n - 1)), 'chi-square far outside'
    assert abs(np.corrcoef(start.T) - np.eye(4)).max() < .012
    digits = draw_numbers(keys_of(200_000), 1, 1, 10).digit; assert abs(np.bincount(digits[:, 0])/200_000 - .1).max() < .004


def test_V09_bounces_are_uniform():
    bounce = draw_numbers(keys_of(20_000), 10, 1).bounce.reshape(-1, 4)
    for column, values in ((0, range(1, 5)), (2, range(1, 5)), (1, range(-4, 5)), (3, range(-4, 5))):
        share = [(bounce[:, column] == v).mean() for v in values]; assert abs(sum(share) - 1) < 1e-9 and abs(np.array(share) - 1/len(values)).max() < .004


def test_V09_hits_of_a_digit_in_15_frames():
    "Frames with a hit: 1.793 on average, at least one with probability 0.930 (Monte Carlo)."
    hit = draw_trajectories(draw_numbers(keys_of(200_000), 15, 1)).hits[:, 0].any(-1)
    assert abs(hit.sum(1).mean() - 1.793) < .012 and abs(hit.any(1).mean() - .930) < .002 and abs(hit[:, 1].mean() - .13407) < .003


def test_V09_mean_pixel_of_solid_digits():
    one, two = (MovingDigits(digits='solid', n=6000, n_digits=n, n_frames=1).batch(range(6000)).float()/255 for n in (1, 2))
    assert one.mean((2, 3, 4)).unique().tolist() == [.25] and abs(two.mean() - .388780) < .002
    x1, x2 = (a.ravel() for a in np.meshgrid(np.arange(32), np.arange(32)))   # every pair on one line: the overlap is exact
    xy = torch.zeros(1024, 2, 1, 2, dtype=torch.int64); xy[:, 0, 0, 0], xy[:, 1, 0, 0] = torch.tensor(x1), torch.tensor(x2)
    overlap = 2048 - (render_digits(torch.full((1024, 2, 32, 32), 255, dtype=torch.uint8), xy) > 0).sum((1, 2, 3, 4)).double().mean().item()
    assert overlap/32 == 21.34375 and abs(.5 - (overlap/32)**2/4096 - .388780) < 5e-7


@pytest.mark.parametrize('variant', ['svg', 'srvp'])
def test_V09_deterministic_mode_never_changes_the_speed(variant):
    velocity = draw_trajectories(draw_numbers(keys_of(500), 80, variant=variant), True).velocity
    assert (np.abs(velocity) == np.abs(velocity[:, :, :1])).all() and (velocity != velocity[:, :, :1]).any()


def test_svg_x_wall_is_tested_after_the_y_wall():
    draws = Draws(np.zeros((1, 1), int), np.array([[[31, 31, 3, 2]]]), np.array([1, -4, 2, 3]).reshape(1, 1, 1, 4).repeat(3, 2)); paths = draw_trajectories(draws)
    assert paths.xy[0, 0].tolist() == [[31, 31], [31, 31], [29, 31]] and paths.velocity[0, 0].tolist() == [[3, 2], [-2, 3], [-4, -1]]
    assert paths.hits[0, 0].tolist() == [[False, False], [True, True], [False, True]], 'the x bounce overwrote dy, so the next frame bounces again'


def test_rendering_equals_float_adding_and_clamping():
    rng = np.random.default_rng(0); images = rng.integers(0, 256, (7, 3, 28, 28), np.uint8); xy = rng.integers(0, 37, (7, 3, 5, 2))
    slow = np.zeros((7, 5, 64, 64))
    for b, n, t in np.ndindex(7, 3, 5): x, y = xy[b, n, t]; slow[b, t, y:y+28, x:x+28] += images[b, n]/255
    fast = render_digits(torch.from_numpy(images), torch.from_numpy(xy), 3)
    assert fast.shape == (7, 5, 3, 64, 64) and (fast == fast[:, :, :1]).all() and np.allclose(fast[:, :, 0].numpy()/255, np.clip(slow, 0, 1), atol=1e-12)


def test_a_film_depends_on_its_number_only():
    movies = MovingDigits(digits='sklearn'); whole = movies.batch(range(40))
    assert torch.equal(movies.batch([39, 5, 5])[1], whole[5]) and torch.equal(MovingDigits(digits='sklearn', n=40)[39], whole[39])
    assert torch.equal(MovingDigits(digits='sklearn', n_frames=40).batch([5])[0, :15], whole[5])
    assert len({film.numpy().tobytes() for film in whole}) == 40
    others = dict(seed=2), dict(split='test'), dict(variant='srvp'), dict(deterministic=True), dict(n_digits=1)
    for other in others: assert not torch.equal(MovingDigits(digits='sklearn', **other).batch(range(40)), whole), other
    assert not torch.equal(movies.batch(range(40), epoch=1), whole) and torch.equal(movies.batch(range(40), epoch=1), movies.batch(range(40), epoch=1))


class Items(Dataset):
    def __init__(self, movies): self.movies = movies
    def __len__(self): return 12
    def __getitem__(self, i): return self.movies[i]


@pytest.mark.parametrize('context', ['fork', 'spawn'])
def test_workers_make_the_same_films(context):
    movies = MovingDigits(digits='sklearn', n_frames=6); alone = movies.batch(range(12))
    assert torch.equal(torch.cat(list(DataLoader(Items(movies), 5, num_workers=2, multiprocessing_context=context))), alone)
    assert len(pickle.dumps(movies)) < 2000, 'the pictures do not travel'


@pytest.mark.skipif(find_mnist('test') is None, reason='the test digits of MNIST are not installed here')
def test_V09_the_srvp_test_set_uses_each_test_digit_once():
    test = MovingDigits('test', n_frames=25, variant='srvp', digits='mnist'); assert (len(test), test.name) == (5000, 'mnist')
    digit = test.draws(range(5000)).digit; assert sorted(digit.ravel()) == list(range(10_000)) and (digit[:-1] < digit[1:]).mean() < .55
    assert np.array_equal(digit, MovingDigits('test', n_frames=5, variant='srvp', digits='mnist').draws(range(5000)).digit)
    xy, pictures = np.rint(test.paths([17]).xy[0]).astype(int), test.images
    frame = torch.zeros(64, 64, dtype=torch.int)
    for n, (x, y) in enumerate(xy[:, 9]): frame[y:y+28, x:x+28] += pictures[digit[17, n]].int()
    assert test[17].shape == (25, 1, 64, 64) and torch.equal(test[17][9, 0].int(), frame.clamp(max=255))
    with pytest.raises(ConfigError, match='makes 5000 films'): MovingDigits('test', variant='srvp', digits='mnist', n=5001)


def test_splits_use_their_own_digits():
    train, test = MovingDigits(digits='sklearn'), MovingDigits('test', digits='sklearn')
    assert (len(train), len(test), train.images.shape[0], test.images.shape[0]) == (1500, 297, 1500, 297)
    assert (train.size, train.channels, train.act_dim) == ((64, 64), 1, 0)


def test_stored_films_are_the_films(tmp_path):
    movies = MovingDigits('test', digits='sklearn', n_frames=8, channels=3); clips = smmnist_clips(movies, 205, tmp_path)
    assert (len(clips), clips.size, clips.channels, clips.act_dim) == (205, (64, 64), 3, 0)
    assert torch.equal(clips.cut(203, 2, 5)[0], movies[203][2:7]) and np.array_equal(clips[203].notes['xy'].swapaxes(0, 1), movies.paths([203]).xy[0])
    again = smmnist_clips(MovingDigits('test', digits='sklearn', n_frames=8, channels=3), 205, tmp_path); assert again.path == clips.path
    before = os.stat(clips.path/'meta.json').st_mtime_ns; smmnist_clips(movies, 205, tmp_path); assert os.stat(clips.path/'meta.json').st_mtime_ns == before
    for other in (dict(seed=2), dict(n_digits=1), dict(variant='srvp'), dict(n_frames=9), dict(deterministic=True)):
        assert smmnist_clips(MovingDigits('test', digits='sklearn', **(dict(n_frames=8, channels=3) | other)), 5, tmp_path).path != smmnist_clips(movies, 5, tmp_path).path


def test_random_words_are_splitmix64():
    state, first = 0, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) % 2**64; z = state
        z = (z ^ (z >> 30))*0xBF58476D1CE4E5B9 % 2**64; z = (z ^ (z >> 27))*0x94D049BB133111EB % 2**64; first.append((z ^ (z >> 31)) >> 32)
    assert random_words(np.zeros(1, np.uint64), 5)[0].tolist() == first


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_the_gpu_draws_the_same_films():
    for variant in ('svg', 'srvp'):
        cpu, gpu = (MovingDigits(digits='sklearn', variant=variant, device=d) for d in ('cpu', 'cuda'))
        films = gpu.batch(range(300)); assert films.device.type == 'cuda' and torch.equal(films.cpu(), cpu.batch(range(300)))
