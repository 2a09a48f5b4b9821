"Sources of frames: the contract, every kind of file, flags against slow references, one clear line for each mistake."
import sys, warnings

import numpy as np, pytest
from PIL import Image

from vislearn.clips import Clip, write_clips
from vislearn.core import ConfigError, DataError, UserError, real_data
from vislearn.objects.boxes import Things
from vislearn.objects.frames import (ClipSource, FilmSource, FrameSource, SOURCES, SpriteSource, Thing, file_source, mark_moving, mark_visible, open_source, play, things_table)
from vislearn.synth import catch
from vislearn.synth.messages import BagOut
from vislearn.synth.sprites import SpriteWorld

WORLD = SpriteWorld.preset('nano', T=12)
FILMS = WORLD.batch(range(3))


def write_video(path, frames, rate=10):
    av = pytest.importorskip('av')
    with av.open(str(path), 'w') as film:
        stream = film.add_stream('mpeg4', rate=rate); stream.height, stream.width, stream.pix_fmt, stream.bit_rate = *frames.shape[1:3], 'yuv420p', 8_000_000
        for frame in frames: film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        film.mux(stream.encode())
    return path


def write_pictures(folder, frames, first=0, form='png'):
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames): Image.fromarray(frame).save(folder/f'frame_{i+first}.{form}')
    return folder


def write_bag(path, fmt, films, hz=10):
    with BagOut(path, fmt, 'flat') as bag:
        for i in range(len(films[0])):
            for role, film in zip(('camera', 'bev'), films):
                picture = path.parent/'now.png'; Image.fromarray(film[i]).save(picture); now = 10**18 + i*10**9//hz
                bag.write(role, now, bag.packer.image(now, picture.read_bytes()))
    picture.unlink()
    return path


def sources(tmp_path):
    "One of each kind, with the frames that it must give."
    np.savez(tmp_path/'a.npz', frames=FILMS, other=FILMS[:, ::-1]); np.save(tmp_path/'b.npy', FILMS)
    stored = write_clips('x', {}, lambda: [Clip(f, None, str(i)) for i, f in enumerate(FILMS)], tmp_path/'cache')
    return dict(sprites=SpriteSource(WORLD, 12), clips=ClipSource(FILMS), npz=file_source(tmp_path/'a.npz'), npy=file_source(tmp_path/'b.npy'), store=file_source(stored.path),
        pictures=file_source(write_pictures(tmp_path/'shots', FILMS[0], 7)), bag=file_source(write_bag(tmp_path/'c.bag', 'ros1', FILMS[:1])))


def test_every_source_keeps_the_contract(tmp_path):
    for kind, source in sources(tmp_path).items():
        assert isinstance(source, FrameSource), kind
        first = source.reset(0); assert (first == FILMS[0, 0]).all() and first.dtype == np.uint8, kind
        steps = [source.step() for _ in range(11)]
        for t, (frame, things, done) in enumerate(steps, 1):
            assert (frame == FILMS[0, t]).all() and done == (t == 11), kind
            assert (things is None) == (source.classes == []) == (source.things() is None), kind
        frame, _, done = source.step(); assert not done, kind # goes on
        assert (frame == FILMS[1 if len(getattr(source, 'films', [0, 0])) > 1 else 0, 0]).all(), kind
        assert (source.reset(0) == first).all() and (source.step()[0] == FILMS[0, 1]).all(), kind
        source.close()


def test_sprite_source_tells_the_truth_of_the_world():
    source = SpriteSource('small', episode=9); source.reset(5); world = SpriteWorld.preset('small', T=9, seed=5)
    for film in range(2):
        if film: source.reset()
        things = [source.things()] + [source.step()[1] for _ in range(8)]
        table, truth = things_table(things, source.classes, (64, 64)), Things(*world.truth([film])); truth = truth.where(truth.visible)
        assert (table.frame == truth.frame).all() and (table.label == truth.label).all() and np.allclose(table.xyxy, truth.xyxy, atol=1e-6)


def test_play_marks_where_episodes_begin():
    got = play(ClipSource(FILMS), 30)
    assert got.begins.nonzero()[0].tolist() == [0, 12, 24] and got.things is None and (got.frames == FILMS.reshape(-1, 32, 32, 3)[:30]).all()
    named = play(SpriteSource(WORLD, 12), 30); assert (named.frames == got.frames).all() and len(named.things) == 30


# files

def test_videos_play(tmp_path):
    film = SpriteWorld.preset('small', T=20).batch([1])[0]
    path = write_video(tmp_path/'a.mp4', film); got = play(open_source(path), 20).frames
    assert np.abs(got.astype(int) - film).mean() < 6
    assert (play(open_source(path, fps=5), 10).frames == got[::2]).all() and (play(open_source(path, step=4), 5).frames == got[::4]).all()
    assert play(open_source(path, size=(16, 24)), 3).frames.shape == (3, 16, 24, 3)


def test_a_folder_plays_its_videos_and_its_folders_of_pictures(tmp_path):
    write_video(tmp_path/'b.avi', FILMS[0].repeat(2, 1).repeat(2, 2)); write_pictures(tmp_path/'d'/'e', FILMS[1].repeat(2, 1).repeat(2, 2), 5); (tmp_path/'.hidden').mkdir()
    source = open_source(tmp_path); assert [n.rsplit('/', 1)[-1] for n, _ in source.films] == ['b.avi', 'e']
    got = play(source, 24); assert got.begins.nonzero()[0].tolist() == [0, 12] and (got.frames[12:] == FILMS[1].repeat(2, 1).repeat(2, 2)).all()


def test_pictures_are_played_in_the_order_of_their_numbers(tmp_path):
    write_pictures(tmp_path/'p', FILMS[2], 4) # frame_10 comes after frame_9
    assert (play(open_source(tmp_path/'p'), 12).frames == FILMS[2]).all()


@pytest.mark.parametrize('fmt, name', [('ros1', 'a.bag'), ('sqlite3', 'a'), ('mcap', 'b')])
def test_bags_play_their_camera(tmp_path, fmt, name):
    path = write_bag(tmp_path/name, fmt, FILMS[:1])
    assert (play(open_source(path), 12).frames == FILMS[0]).all()
    assert (play(open_source(path, fps=5), 6).frames == FILMS[0, ::2]).all()


def test_a_bag_with_two_cameras_asks_which(tmp_path):
    path = write_bag(tmp_path/'two.bag', 'ros1', FILMS[:2])
    with pytest.raises(DataError, match=r'2 topics of pictures: choose one with stream=.*/bev/single/compressed, /camera/rgb'): open_source(path)
    assert (play(open_source(path, stream='/camera/rgb/image_raw/compressed'), 12).frames == FILMS[0]).all()
    assert (play(open_source(path, stream='/bev/single/compressed'), 12).frames == FILMS[1]).all()


def test_real_media_play():
    base = real_data('robot_video/umi_cup_episode0.mp4')
    if base is None: pytest.skip('the real films are not in this installation')
    pytest.importorskip('av')
    film = play(open_source(base, size=64, fps=5), 30); assert film.frames.shape == (30, 64, 64, 3) and film.frames.std() > 20
    assert play(open_source(base.with_name('pusht_episode0_96px.npz')), 161).begins.sum() == 1
    views = open_source(base.with_name('bridge_v2_25x10_64px.npz'), stream='image_1'); assert len(views.films) == 25 and play(views, 11).begins.sum() == 2
    with pytest.raises(DataError, match='3 arrays of pictures: choose one with stream='): open_source(base.with_name('bridge_v2_25x10_64px.npz'))


def test_a_bag_with_one_picture_is_refused():
    path = real_data('bags/picam_planar_marker_board.bag')
    if path is None: pytest.skip('the real bags are not in this installation')
    with warnings.catch_warnings(), pytest.raises(DataError, match='no film has two frames'): warnings.simplefilter('ignore'); open_source(path).reset()


def test_a_long_film_is_not_read_at_once():
    read = []
    def endless():
        for i in range(10**6): read.append(i); yield FILMS[0, i % 12]
    play(FilmSource([('long', endless)]), 5)
    assert len(read) == 6 # one ahead


# mistakes: one clear line each

@pytest.mark.parametrize('name, message', [
    ('Pong', r"no source of frames 'Pong' \(did you mean 'atari:Pong'\?\)"), ('ms_pacman', 'atari:MsPacman'), ('sprite', "did you mean 'sprites'"), ('sprites:nan', r"did you mean 'nano'\?"),
    ('qwertz', 'known: sprites, .*or the path of a video'), ('nothing/here.mp4', 'nothing/here.mp4: no such file or folder')])
def test_unknown_names(name, message):
    with pytest.raises(UserError, match=message) as e: open_source(name)
    assert '\n' not in str(e.value)


def test_every_registered_source_names_its_class():
    for module, name in (v.split(':') for v in SOURCES.values()): assert module.startswith('vislearn.objects.') and name.isidentifier()
    with pytest.raises(ConfigError, match=r"no option 'epsiode' \(did you mean 'episode'\?\); options: world, episode, seed"): open_source('sprites', epsiode=3)


def test_bad_files(tmp_path):
    film = write_video(tmp_path/'good.mp4', FILMS[0].repeat(2, 1).repeat(2, 2)); whole = film.read_bytes()
    write = lambda name, content: (tmp_path/name).write_bytes(content)
    write('cut.mp4', whole[:len(whole)//2]); write('text.mp4', b'not a film'); write('zero.mp4', b''); write('a.txt', b'x'); write('a.npz', b'PK\3\4'); write('b.npy', b'xx'); write('c.bag', b''); write('c.mcap', b'hello')
    np.savez(tmp_path/'objects.npz', a=np.array([{}, 1], object)); np.savez(tmp_path/'numbers.npz', a=np.zeros((3, 8, 8, 3))); np.save(tmp_path/'two.npy', np.zeros((8, 8), np.uint8))
    (tmp_path/'empty').mkdir(); write_pictures(tmp_path/'p', FILMS[0]); write('p/frame_3.png', b'\x89PNG'); write_pictures(tmp_path/'q', FILMS[0]); Image.fromarray(FILMS[0, 0, :16]).save(tmp_path/'q'/'frame_5.png')
    write_pictures(tmp_path/'one', FILMS[0, :1]); (tmp_path/'deep').mkdir(); Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path/'deep'/'0.png')
    for name, message in {'cut.mp4': 'damaged, or cut short|cut short: ', 'text.mp4': 'does not decode', 'zero.mp4': 'does not decode', 'a.txt': r'cannot play \.txt', 'a.npz': 'cannot be read as numbers', 'b.npy': 'cannot be read as numbers', 'c.bag': 'empty', 'c.mcap': r'does not begin like a \.mcap',
            'objects.npz': 'no array of pictures in it', 'numbers.npz': 'no array of pictures', 'two.npy': r'expected uint8 frames \(T, H, W, 3\)', 'empty': 'nothing to read: expected folders of pictures', 'p': r'frame_3\.png: this picture does not decode', 'q': r'frame_5\.png: 32x16 pixels, but frame_0\.png has 32x32', 'one': 'no film has two frames',
            'deep': '16 or 32 bits per pixel', 'q/frame_1.png': 'one picture is no film', 'god.mp4': "no such file or folder .did you mean 'good.mp4'"}.items():
        with warnings.catch_warnings(), pytest.raises(UserError, match=message) as e:
            warnings.simplefilter('ignore'); play(open_source(tmp_path/name), 12)
        assert '\n' not in str(e.value), name


def test_a_store_of_something_else_is_refused(tmp_path):
    from vislearn.store import build_store
    def fill(writer): writer.append(x=np.zeros((2, 3), np.float32)); writer.index = dict(a=np.arange(2))
    path = build_store('patches', dict(a=1), dict(x=('float32', (3,))), fill, tmp_path)
    with pytest.raises(DataError, match='a store of patches, expected clips'): open_source(path)


def test_missing_av_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'av', None); (tmp_path/'a.mp4').write_bytes(b'x')
    with pytest.raises(UserError, match=r"videos need PyAV: pip install 'vislearn\[video\]'"): file_source(tmp_path/'a.mp4').reset()


@pytest.mark.parametrize('options, message', [(dict(size=0), 'size must be'), (dict(step=0), 'step must be'), (dict(size=(1, 2, 3)), 'size must be')])
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message): ClipSource(FILMS, **options)


# flags

def slow_moving(things, size, T, lags):
    "By words, with loops."
    centre = (things.xyxy[:, :2] + things.xyxy[:, 2:])/2*[size[1], size[0]]; moved, clip = np.zeros(things.n, bool), things.frame//T
    for i in range(things.n):
        for k in range(1, lags+1):
            past = [np.linalg.norm(centre[i] - centre[j]) for j in range(things.n) if things.frame[j] == things.frame[i]-k and things.label[j] == things.label[i] and clip[j] == clip[i]]
            if past and min(past) > 1: moved[i] = True
    return np.array([not things.hud[i] and any(moved[j] and not things.hud[j] and clip[j] == clip[i] and things.label[j] == things.label[i] for j in range(things.n)) for i in range(things.n)])


def test_moving_against_loops():
    rng = np.random.default_rng(0); names = [f'c{k}' for k in range(9)]; film = []
    for clip in range(4):
        start, speed = rng.integers(5, 40, (12, 2)), rng.integers(-2, 3, (12, 2))*rng.choice([0, .5, 1], (12, 1)); kinds = rng.integers(1, 9, 12)
        for t in range(6): film.append([Thing(names[k], *(p + v*t), 6., 4., k == 8) for k, p, v in zip(kinds, start, speed) if rng.random() > .1])
    table = things_table(film, ['no_label', *names], (48, 64))
    for T in (6, 24):
        got, want = mark_moving(table, (48, 64), T).moving, slow_moving(table, (48, 64), T, 8)
        assert (got == want).all() and 0 < want.mean() < 1
    assert (mark_moving(table, (48, 64), 6, lags=2).moving == slow_moving(table, (48, 64), 6, 2)).all()


def test_moving_edge_cases():
    table = things_table([[Thing('a', 3, 3, 4, 4)]]*5, ['no_label', 'a'], (32, 32))
    assert not mark_moving(table, (32, 32)).moving.any() and mark_moving(Things.empty(), (32, 32)).n == 0 # all still; nothing
    eaten = [[Thing('pill', 4*k, 0, 2, 2) for k in range(8-t)] + [Thing('eater', 4*(8-t), 0, 3, 3)] for t in range(6)] # things that vanish have not moved
    table = mark_moving(things_table(eaten, ['no_label', 'eater', 'pill'], (32, 64)), (32, 64)); assert (table.moving == (table.label == 1)).all()


def test_visible_against_loops():
    world = SpriteWorld(size=40, n=(6, 6), side=(3, 9), T=30); frames = world.batch(range(5)).reshape(-1, 40, 40, 3); rng = np.random.default_rng(1)
    film = [[Thing('a', *rng.uniform(-3, 39, 2), *rng.uniform(.5, 8, 2)) for _ in range(rng.integers(0, 9))] for _ in frames]
    table = things_table(film, ['no_label', 'a'], (40, 40)); got = mark_visible(table, frames, world.background).visible
    for i in range(table.n):
        x0, y0 = np.floor(table.xyxy[i, :2]*40 + 1e-3).astype(int); x1, y1 = np.ceil(table.xyxy[i, 2:]*40 - 1e-3).astype(int)
        assert got[i] == (frames[table.frame[i], y0:y1, x0:x1] != world.background[y0:y1, x0:x1]).any()
    assert 0 < got.mean() < 1 and (mark_visible(table, frames, np.repeat(world.background[None], 150, 0)).visible == got).all()


def test_flags_of_sprites_are_what_the_world_says():
    world = SpriteWorld.preset('small', T=10); frames, truth = world.draw(range(8)); truth = Things(*truth)
    assert (mark_moving(truth._replace(moving=np.zeros(truth.n, bool)), (64, 64), 10).moving == truth.moving).mean() > .97
    seen = mark_visible(truth._replace(visible=np.zeros(truth.n, bool)), frames.reshape(-1, 64, 64, 3), world.background).visible
    assert seen[truth.visible].all()


def test_boxes_outside_the_frame_are_cut_and_gone():
    table = things_table([[Thing('a', -4, 10, 8, 4), Thing('a', 70, 2, 4, 4), Thing('a', 60, 60, 9, 9)], []], ['no_label', 'a'], (64, 64))
    assert np.allclose(table.xyxy*64, [[0, 10, 4, 14], [60, 60, 64, 64]]) and table.frame.tolist() == [0, 0]
    assert things_table([[], [], []], [], (64, 64)).n == 0


@pytest.mark.parametrize('name, message', [('atari', 'atari: say which game, for example atari:Pong'), ('atari:', 'atari: say which game'), ('ale', 'ale: say which game'), (None, 'got NoneType'), (3, 'got int')])
def test_a_source_that_is_none(name, message):
    with pytest.raises(ConfigError, match=message) as e: open_source(name)
    assert '\n' not in str(e.value)


def test_one_definition_of_a_thing():
    "The record of the catch game below is that of all sources."
    assert Thing is catch.Thing is catch.Piece and Thing.__module__ == 'vislearn.synth.catch' and type(catch.CatchGame().things()[0]) is Thing
