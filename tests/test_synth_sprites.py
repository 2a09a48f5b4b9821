"The sprite world against a pixel-by-pixel reference, and its promises."
import pickle, time

import numpy as np, pytest, torch

from vislearn.core import ConfigError
from vislearn.synth.sprites import SHAPES, SpriteWorld, sprite_background


def inside(name, side, i, j):
    "Does pixel (i, j) of a sprite belong to it? By words: disc of that diameter; triangle with its apex above."
    dx, dy = j + .5 - side/2, i + .5 - side/2
    if name == 'disc': return dx*dx + dy*dy <= side*side/4
    if name == 'triangle': return abs(dx) <= (i + 1)/2
    return True


def slow_film(world, index):
    "Frames, and for each frame the true rows: class, box [px], visible."
    s = world.sprites([index]); film, rows = np.empty((world.T, world.size, world.size, 3), np.uint8), []
    names = list(world.shapes)
    for t in range(world.T):
        picture = world.background.copy(); owner = np.zeros((world.size, world.size), int)
        for k in range(s.there.shape[1]):
            if not s.there[0, k]: continue
            x, y, side, name = *s.xy[0, k, t], s.side[0, k], names[s.kind[0, k]]
            for i in range(side):
                for j in range(side):
                    if inside(name, side, i, j): picture[y+i, x+j] = [round(255*c) for c in SHAPES[name]]; owner[y+i, x+j] = k+1
        film[t] = picture
        rows.append([(names[s.kind[0, k]], (*s.xy[0, k, t], *(s.xy[0, k, t] + s.side[0, k])), bool((owner == k+1).any())) for k in range(s.there.shape[1]) if s.there[0, k]])
    return film, rows


WORLDS = dict(nano=SpriteWorld.preset('nano'), small=SpriteWorld.preset('small'), crowd=SpriteWorld(size=20, n=(5, 12), side=(1, 9), speed=30., T=5, seed=3), one=SpriteWorld(classes=['disc'], T=1))


@pytest.mark.parametrize('name', WORLDS)
def test_frames_and_truth_against_the_slow_painter(name):
    world = WORLDS[name]; indices = [5, 0, 123456789, 77]
    frames, truth = world.draw(indices)
    for b, index in enumerate(indices):
        film, rows = slow_film(world, index)
        assert (frames[b] == film).all()
        for t, want in enumerate(rows):
            at = np.flatnonzero(truth.frame == b*world.T + t); assert len(at) == len(want)
            for i, (kind, box, visible) in zip(at, want):
                assert world.classes[truth.label[i]] == kind and truth.visible[i] == visible
                np.testing.assert_allclose(truth.xyxy[i]*world.size, box, atol=1e-4)
    assert (np.diff(truth.frame) >= 0).all() and not truth.hud.any() and truth.moving.all()


def test_the_box_is_the_tightest_around_the_pixels():
    world = SpriteWorld(n=(1, 1), T=3)
    frames, truth = world.draw(range(60))
    for row, picture in enumerate(frames.reshape(-1, 64, 64, 3)):
        y, x = np.nonzero((picture != world.background).any(-1))
        assert (truth.xyxy[row]*64).tolist() == [x.min(), y.min(), x.max()+1, y.max()+1]


def test_a_film_depends_on_seed_and_number_alone():
    world = SpriteWorld.preset('nano', T=7); many = world.batch(range(50))
    assert (world.batch([31])[0] == many[31]).all() and (world.batch([31, 2, 31]) == many[[31, 2, 31]]).all()
    assert (pickle.loads(pickle.dumps(world)).batch([8])[0] == many[8]).all()
    assert (SpriteWorld.preset('nano', T=3).batch([8])[0] == many[8, :3]).all() # and not on its length
    assert (SpriteWorld.preset('nano', T=7, seed=1).batch([8])[0] != many[8]).any()
    np.random.seed(3); torch.manual_seed(4); assert (world.batch([8])[0] == many[8]).all()


def test_numbers_of_the_presets():
    for name, (size, n, side, speed) in dict(nano=(32, (1, 3), (4, 6), 2), small=(64, (2, 5), (6, 10), 3), demo=(128, (3, 8), (10, 20), 5)).items():
        world = SpriteWorld.preset(name); s = world.sprites(range(2000)); count = s.there.sum(1)
        assert world.batch([0]).shape == (1, 4, size, size, 3)
        assert (count.min(), count.max()) == n and (s.side.min(), s.side.max()) == side
        step = np.linalg.norm(np.diff(s.xy, axis=2), axis=-1)[s.there]
        assert speed - 1 < step.max() <= speed + 1.5 # whole pixels
        assert np.allclose(np.bincount(s.kind[s.there])/s.there.sum(), 1/3, atol=.03)


def test_speed_is_constant_and_walls_reflect():
    world = SpriteWorld(T=2000, n=(4, 4)); s = world.sprites([0, 1])
    room = 64 - s.side[..., None]
    for axis in (0, 1):
        x = s.xy[..., axis]; assert (x >= 0).all() and (x <= room).all() and (x == 0).any(-1).all() and (x == room).any(-1).all() # from wall to wall
    unfolded = np.abs(np.diff(s.xy.astype(float), axis=2)).sum(2)/1999 # mean |v| per axis, up to the turns
    speed = np.linalg.norm(unfolded, axis=-1); assert (speed < 3.05).all() and (speed > .7).all()


@pytest.mark.parametrize('name', ['nano', 'small', 'demo'])
def test_background_is_still_exact_and_the_most_frequent_colour(name):
    world = SpriteWorld.preset(name); frames = world.batch(range(250)); first = torch.from_numpy(frames[:, 0]).long()
    mode = (first*torch.tensor([65536, 256, 1])).sum(-1).mode(0).values
    assert (torch.stack([mode >> 16, mode >> 8 & 255, mode & 255], -1).numpy() == world.background).all()
    free = world.owners(range(250)) == 0
    assert (frames[free] == np.broadcast_to(world.background, frames.shape)[free]).all()
    assert (frames[~free] != np.broadcast_to(world.background, frames.shape)[~free]).any(-1).all() # nothing hides in front of it


def test_gradient_of_the_background():
    y, x = np.mgrid[:32, :32]/32
    assert np.abs(sprite_background(32, rectangles=0)/255 - np.stack([.15+.1*y, .2+.1*x, .3+.1*y], -1)).max() <= .002
    assert (sprite_background(32, 5) == SpriteWorld(size=32, side=(4, 6), seed=9, scene=5).background).all() # the seed does not change it


def test_hidden_sprites_are_marked():
    world = WORLDS['crowd']; truth, owner = world.truth(range(200)), world.owners(range(200))
    assert 0 < (~truth.visible).mean() < .5
    assert truth.visible.sum() == sum(len(np.unique(o[o > 0])) for o in owner.reshape(-1, 20, 20))


def test_thousands_of_frames_per_second():
    world = SpriteWorld.preset('nano'); world.draw(range(10)); best = 0
    for _ in range(5): start = time.process_time(); world.draw(range(500)); best = max(best, 2000/(time.process_time() - start))
    assert best > 10_000, f'{best:.0f} frames of 32 px per second of one core'


@pytest.mark.parametrize('options, message', [
    (dict(n=(3, 2)), 'n must be'), (dict(n=(-1, 2)), 'n must be'), (dict(side=(0, 4)), 'side must be'), (dict(side=(6, 100)), '<= 64'), (dict(T=0), 'T at least 1'), (dict(speed=-1), 'speed'),
    (dict(classes=('square', 'square')), 'classes must name different'), (dict(classes=('squar',)), "did you mean 'square'")])
def test_impossible_worlds_say_why(options, message):
    with pytest.raises(ConfigError, match=message) as e: SpriteWorld(**options)
    assert '\n' not in str(e.value)
