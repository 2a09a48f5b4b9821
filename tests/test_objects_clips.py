"Clips on disk: what goes in comes out, recording is a function of its arguments, nothing half-written stays"
import json, pickle, time

import numpy as np, pytest
from PIL import Image

from vislearn.core import ConfigError, DataError, UserError
from vislearn.objects.boxes import Things, make_things
from vislearn.objects.clips import ObjectClips, Part, paint_boxes, play_windows, record_clips, resize_frames, resize_maps, root_images, sprite_clips, write_objects
from vislearn.objects.frames import Thing, label_quality
from vislearn.objects.motion import Motion, hit_scores, motion_hints, root_mode, trail_mode
from vislearn.store import verify_store
from vislearn.synth.sprites import SpriteWorld


class Counter:
    "A source whose pixels say the episode and the frame; a thing walks, another rests, a score stands above."
    name, classes = 'counter', ['no_label', 'rock', 'score', 'walker']
    def __init__(self, length=30, shape=(40, 32), episodes=None):
        self.length, self.shape = length, shape
        if episodes: self.films, self.number = list(range(episodes)), 0
    def _frame(self):
        H, W = self.shape; frame = np.full((H, W, 3), 20, np.uint8); x = self.t % (W - 4)
        frame[20:24, x:x+4] = (200, 0, 0); frame[30:34, 4:8] = (0, 0, 90); frame[0:4, 0:8] = (self.t*7 + 3) % 256
        frame[-1, 0], frame[-1, 1] = self.episode % 256, self.t
        self.now = [Thing('walker', x, 20, 4, 4), Thing('rock', 4, 30, 4, 4), Thing('score', 0, 0, 8, 4, True)]
        return frame
    def reset(self, seed=None):
        self.episode = self.episode + 1 if seed is None else seed; self.t = 0
        if hasattr(self, 'films'): self.number = self.episode = self.episode % len(self.films)
        return self._frame()
    def step(self):
        if self.t==self.length - 1: return self.reset(), self.things(), False
        self.t += 1; return self._frame(), self.things(), self.t==self.length - 1
    def things(self): return self.now
    def close(self): pass


def parts(n=5, T=3, S=12, seed=0):
    rng = np.random.default_rng(seed)
    for b in (n - 2, 2):
        boxes = lambda k: make_things(rng.integers(0, b*T, k), 1, np.concatenate([a := rng.random((k, 2))/2, a + .2], 1), moving=rng.random(k)>.5)
        yield Part(rng.integers(0, 256, (b, T, S, S, 3), dtype=np.uint8), rng.random((b, T, S, S))>.5, boxes(20), boxes(9))


def hashes(clips): return {n: [f['sha256'] for f in a['files'].values()] for n, a in json.loads((clips.path/'meta.json').read_text())['arrays'].items()}


@pytest.mark.parametrize('S', [12, 13])
def test_write_and_read(tmp_path, S):
    clips, given = write_objects('x', dict(S=S), lambda: parts(S=S), tmp_path, dict(classes=['no_label', 'ball'])), list(parts(S=S))
    assert (len(clips), clips.T, clips.size, clips.classes, clips.labelled)==(5, 3, S, ['no_label', 'ball'], True)
    assert (clips.frames[:]==np.concatenate([p.frames for p in given])).all() and (clips.motion(slice(None))==np.concatenate([p.maps for p in given])).all()
    for mine, column in zip(clips.things, zip(*(p.things for p in given))): assert len(mine)==40
    assert (clips.things.of(10).xyxy==given[1].things.of(1).xyxy).all() and (clips.marks.of(2).xyxy==given[0].marks.of(2).xyxy).all()
    assert (clips.motion([4, 0])==np.stack([given[1].maps[1], given[0].maps[0]])).all() and clips.motion([]).shape==(0, 3, S, S)
    assert not verify_store(clips.path) and (clips.path/'root.png').exists() and json.loads((clips.path/'dataset.json').read_text())['classes']==['no_label', 'ball']


def test_select_split_pickle_and_modes(tmp_path):
    clips = write_objects('x', {}, lambda: parts(), tmp_path); some = clips.select([3, 0, 3]); twice = some.select([2, 1])
    assert (some.frames[:]==clips.frames[[3, 0, 3]]).all() and (twice.frames[0]==clips.frames[3]).all() and (twice.motion([1])==clips.motion([0])).all()
    for t in range(9): assert (some.things.of(t).xyxy==clips.things.of([9, 10, 11, 0, 1, 2, 9, 10, 11][t]).xyxy).all()
    assert (some.hints(4)[1]==clips.hints(4)[1][[3, 0, 3]]).all() and (clips.select(slice(1, 3)).frames[:]==clips.frames[1:3]).all() and (clips.select([-1]).frames[0]==clips.frames[4]).all()
    again = pickle.loads(pickle.dumps(twice)); assert (again.frames[:]==twice.frames[:]).all() and (again.marks.xyxy==twice.marks.xyxy).all() and len(pickle.dumps(twice))<2000
    ram = ObjectClips.open(clips.path, 'ram'); assert (ram.frames[1]==clips.frames[1]).all() and (ram.select([4, 2]).motion([1])==clips.motion([2])).all()
    a, b = clips.split(.4, seed=3); assert (len(a), len(b))==(3, 2) and sorted([*a.rows, *b.rows])==[0, 1, 2, 3, 4] and (clips.split(.4, seed=3)[1].rows==b.rows).all()
    for bad, message in ((lambda: clips.select([5]), 'there are 5, got number 5'), (lambda: clips.split(.999), 'cannot be split')):
        with pytest.raises(DataError, match=message): bad()


@pytest.mark.parametrize('G', [2, 4, 16])
def test_hints_of_any_grid(tmp_path, G):
    clips = write_objects('x', {}, lambda: parts(), tmp_path); pres, where = clips.hints(G)
    assert pres.shape==(5, 3, G*G) and where.shape==(5, 3, G*G, 4) and pres.dtype==np.uint8 and where.dtype==np.float32
    area = np.zeros((15, G*G)); z = np.zeros((15, G*G, 4))
    for t, (x0, y0, x1, y1) in zip(clips.marks.frame, clips.marks.xyxy):
        cell = int((y0 + y1)/2*G)*G + int((x0 + x1)/2*G)
        if (x1 - x0)*(y1 - y0)>area[t, cell] + 1e-7: area[t, cell] = (x1 - x0)*(y1 - y0); z[t, cell] = (x1 - x0, y1 - y0, x0 + x1 - 1, y0 + y1 - 1)
    assert (pres.reshape(15, -1)==(area>0)).all() and np.allclose(where.reshape(15, -1, 4), z, atol=1e-6)


def test_nothing_half_written_stays(tmp_path):
    def broken():
        yield next(parts())
        raise RuntimeError('the power went')
    with pytest.raises(RuntimeError): write_objects('x', {}, broken, tmp_path)
    assert [p.name for p in (tmp_path/'objects').iterdir() if p.is_dir()]==[]
    assert len(write_objects('x', {}, lambda: parts(), tmp_path))==5
    def not_again(): raise AssertionError('recorded twice')
    assert len(write_objects('x', {}, not_again, tmp_path))==5


def test_parts_that_do_not_fit(tmp_path):
    one, two = parts(); wrong = {'one length and size': two._replace(frames=two.frames[:, :2], maps=two.maps[:, :2]), 'maps of a part must be': two._replace(maps=two.maps[:, :, :5]), 'expected uint8': two._replace(frames=two.frames/255.),
        'name frame 99': two._replace(things=two.things._replace(frame=two.things.frame*0 + 99)), 'frames of a part must be': two._replace(frames=two.frames[0])}
    for message, part in wrong.items():
        with pytest.raises(DataError, match=message): write_objects('x', dict(m=message), lambda part=part: [one, part], tmp_path)
    with pytest.raises(DataError, match='no clips to store'): write_objects('x', {}, lambda: [], tmp_path)
    assert not [p for p in (tmp_path/'objects').iterdir() if p.is_dir()]


def test_other_stores_are_refused(tmp_path):
    from vislearn.clips import Clip, write_clips
    films = write_clips('films', {}, lambda: [Clip(np.zeros((3, 4, 4, 3), np.uint8))], tmp_path)
    with pytest.raises(DataError, match='a store of clips, expected objects'): ObjectClips.open(films.path)


def test_sprite_clips_have_truth_and_motion(tmp_path):
    world = SpriteWorld.preset('nano'); clips = sprite_clips(world, 300, root=tmp_path)
    assert (clips.frames[[0, 299]]==world.batch([0, 299])).all() and (clips.background==world.background).all()
    truth = world.truth(np.arange(300)); assert all((mine==true).all() for mine, true in zip(clips.things, truth))
    scores = hit_scores(clips.marks, clips.things); assert scores['precision']>.97 and scores['recall']>.85
    got = motion_hints(clips.frames[7], clips.background, 4); assert (clips.motion([7])[0]==got.map).all() and (clips.hints(4)[1][7]==got.z_where).all()
    later = sprite_clips(world, 10, start=290, root=tmp_path); assert (later.frames[:]==clips.frames[290:]).all()
    with pytest.raises(DataError, match='root or median'): sprite_clips(world, 3, Motion(kind='trail'), tmp_path)


def test_windows_never_cross_an_episode():
    source, seen = Counter(30), []
    for window, _ in zip(play_windows(source, 8, seed=5, warmup=3), range(20)):
        episode, t = (np.array([f[-1, k, 0] for f in window.frames]) for k in (0, 1))
        assert (episode==episode[0]).all() and (np.diff(t)==1).all() and len(window.frames)==8
        assert [w[0].x for w in window.things]==[k % 28 for k in t]; seen.append((int(episode[0]), int(t[0])))
    assert seen[:5]==[(5, 3), (5, 11), (5, 19), (6, 0), (6, 8)]       # the tail of an episode is no clip


def test_random_gaps_and_films():
    starts = lambda seed: [int(w.frames[0][-1, 1, 0]) for w, _ in zip(play_windows(Counter(200), 4, seed=0 if seed is None else seed, gap=20.), range(9))]
    assert starts(1)==starts(1)!=starts(2) and np.diff(sorted(starts(1))).mean()>8
    episodes = [int(w.frames[0][-1, 0, 0]) for w in play_windows(Counter(30, episodes=3), 10, seed=1)]
    assert episodes==[1, 1, 1, 2, 2, 2, 0, 0, 0]        # each film once, from the one of the seed
    with pytest.raises(DataError, match='counter: no episode lasts 31 frames .* shorten the trail'): next(play_windows(Counter(30), 31))


@pytest.mark.parametrize('options', [dict(), dict(motion='trail', trail=12), dict(motion='auto', random=True), dict(motion='difference', resample='lanczos'), dict(motion='flow', trail=4), dict(motion='median', plot_bb=True)])
def test_recording_is_a_function_of_its_arguments(tmp_path, options):
    options = dict(motion='root') | options; record = lambda root, seed=1: record_clips('sprites:nano', 12, seed=seed, root=tmp_path/root, **options)
    one, two, other = record('a'), record('b'), record('a', 2)
    assert hashes(one)==hashes(two)!=hashes(other) and one.path.name==two.path.name!=other.path.name
    assert all((a==b).all() for a, b in zip(one.things + one.marks, two.things + two.marks)) and one.marks.n
    started = time.time(); record('a'); assert time.time() - started<2 and (one.frames.shape, one.info['T'])==((12, 4, 32, 32, 3), 4)


def test_labels_flags_and_hud(tmp_path):
    clips = record_clips(Counter(60), 10, T=4, trail=8, motion='root', size=32, root=tmp_path); names = np.array(clips.classes)[clips.things.label]
    assert clips.things.n==120 and sorted(set(names))==['rock', 'score', 'walker']
    assert (clips.things.moving==(names=='walker')).all() and (clips.things.hud==(names=='score')).all()
    assert clips.things.visible[names=='walker'].all() and not clips.things.visible[names=='rock'].any()     # the rock is in the root image
    assert clips.info['label_quality']==dict(all=.5, rock=0., walker=1.)
    assert clips.marks.xyxy[:, 1].min()>.4                    # the score does not move, by label
    noisy = record_clips(Counter(60), 10, T=4, trail=8, motion='root', size=32, ignore_hud=False, root=tmp_path); assert noisy.marks.xyxy[:, 1].min()==0
    assert hit_scores(clips.marks.where(clips.marks.xyxy[:, 1]<.9), clips.things.where(names=='walker'))['fscore']==1      # below are the pixels that count
    assert label_quality(Things.empty(), [])=={}


def test_recorded_frames_maps_and_background(tmp_path):
    clips, source = record_clips(Counter(60), 6, T=4, trail=8, motion='root', size=20, root=tmp_path), Counter(60)
    film = np.stack([f for w, _ in zip(play_windows(source, 12, 0), range(6)) for f in w.frames[-4:]])
    assert (clips.frames[:].reshape(-1, 20, 20, 3)==resize_frames(film, 20)).all()
    every = np.stack([f for w, _ in zip(play_windows(source, 12, 0), range(6)) for f in w.frames]); root = root_mode(every)
    assert (np.asarray(Image.open(clips.path/'root.png'))==root).all() and clips.info['frame_size']==[40, 32]
    walker = (film[:, 20:24, :, 0]==200); assert walker.any() and (clips.motion(slice(None)).reshape(-1, 20, 20).any((1, 2))==walker.any((1, 2))).all()
    given = record_clips(Counter(60), 6, T=4, trail=8, motion='root', size=20, background=clips.path/'root.png', root=tmp_path)
    assert given.path!=clips.path and hashes(given)==hashes(clips)


def test_trail_mode_uses_only_the_trail(tmp_path):
    clips = record_clips(Counter(60), 5, T=4, trail=9, motion='trail', size=None, root=tmp_path); windows = [w for w, _ in zip(play_windows(Counter(60), 13, 0), range(5))]
    back = trail_mode(np.stack([np.stack(w.frames) for w in windows]), 4); assert (back==np.stack([root_mode(np.stack(w.frames[:9])) for w in windows])).all()
    score = np.zeros((40, 32), bool); score[:4, :8] = True
    want = motion_hints(np.stack([f for w in windows for f in w.frames[-4:]]), np.repeat(back, 4, 0), 8, Motion(kind='trail'), ignore=score)
    assert np.allclose(clips.hints(8)[1].reshape(20, 64, 4), want.z_where) and (clips.motion(slice(None)).reshape(-1, 128, 128)==resize_maps(want.map, 128)).all()


def test_auto_reports_what_it_tried(tmp_path):
    clips = record_clips('sprites:small', 12, root=tmp_path)
    assert clips.info['motion'] in ('root', 'trail') and set(clips.info['report'])=={'root', 'trail'} and 'fscore' in clips.info['report']['root']


def test_root_images_of_a_source(tmp_path):
    images = root_images(Counter(200), tmp_path/'out', n=60, gap=5, seed=2); back = np.full((40, 32, 3), 20, np.uint8); back[30:34, 4:8] = (0, 0, 90)
    for how in ('mode', 'median'): assert (images[how][5:39]==back[5:39]).all() and (np.asarray(Image.open(tmp_path/'out'/f'{how}.png'))==images[how]).all()
    assert (root_images(Counter(200), n=60, gap=5, seed=2)['mode']==images['mode']).all() and (root_images(Counter(200), n=60, gap=5, seed=3)['mode'][-1, 1]!=images['mode'][-1, 1]).any()
    with pytest.raises(ConfigError, match='gap >= 1'): root_images(Counter(), gap=.5)


def test_films_of_a_folder(tmp_path):
    rng = np.random.default_rng(0); back = rng.integers(0, 100, (24, 30, 3), dtype=np.uint8)
    for film in ('a', 'b'):
        (tmp_path/'films'/film).mkdir(parents=True)
        for t in range(25): frame = back.copy(); frame[8:12, t:t+4] = 250; Image.fromarray(frame).save(tmp_path/'films'/film/f'{t}.png')
    clips = record_clips(tmp_path/'films', None, trail=4, motion='root', size=24, root=tmp_path/'cache')
    assert len(clips)==6 and clips.classes==[] and not clips.labelled and clips.things.n==0 and clips.marks.n>=20 and clips.info['n']==6
    assert abs(clips.background.astype(int) - resize_frames(back[None], 24)[0]).max()<=1
    with pytest.raises(DataError, match='only 6 clips of 8 frames .* n=7'): record_clips(tmp_path/'films', 7, trail=4, motion='root', root=tmp_path/'cache')


def test_resizing_and_painting():
    frames = np.random.default_rng(0).integers(0, 256, (2, 21, 16, 3), dtype=np.uint8)
    for how in ('bilinear', 'lanczos', 'box', 'nearest'):
        want = np.stack([np.asarray(Image.fromarray(f).resize((12, 12), Image.Resampling[how.upper()])) for f in frames]).astype(int)
        assert np.abs(resize_frames(frames, 12, how) - want).max()<=(how=='bilinear')
    assert (resize_frames(frames[:, :16], 16)==frames[:, :16]).all()
    mask = np.zeros((1, 4, 4), bool); mask[0, 1, 2] = True; assert np.argwhere(resize_maps(mask, 8)[0]).tolist()==[[2, 4], [2, 5], [3, 4], [3, 5]]
    black = np.zeros((1, 16, 16, 3), np.uint8); painted = paint_boxes(black, make_things([0, 0], 0, [[.25, .25, .5, .5], [.75, .75, 1, 1]], moving=[True, False]))
    assert (painted[0, 4, 4:8]==(230, 159, 0)).all() and (painted[0, 5:7, 5:7]==0).all() and (painted[0, 15, 15]==128).all() and not black.any()


def test_wrong_input_says_what_to_do(tmp_path):
    record = lambda *a, **k: record_clips(*a, root=tmp_path, **k)
    for error, call, message in ((ConfigError, lambda: record('sprits:small', 2), 'sprites:small'), (ConfigError, lambda: record(Counter(), None), 'counter has no end'), (ConfigError, lambda: record(Counter(), 2, policy='random'), 'open already'),
        (ConfigError, lambda: record('sprites:small', 2, motion='mod'), "kind"), (ConfigError, lambda: record(Counter(), 2, T=0), 'T >= 1'), (ConfigError, lambda: record(Counter(), 2, trail=0, motion='trail'), 'needs a trail'),
        (DataError, lambda: record(Counter(), 2, background=np.zeros((4, 4, 3), np.uint8)), 'background must be'), (DataError, lambda: record(Counter(), 2, resample='bilinar', size=10), "did you mean 'bilinear'"),
        (DataError, lambda: record(Counter(9), 2, trail=16), 'shorten the trail'), (DataError, lambda: record(tmp_path/'film.mp4', 2), 'no such file')):
        with pytest.raises(error, match=message): call()
    assert not [p for p in tmp_path.rglob('meta.json')]


def test_pong_with_labels(tmp_path):
    pytest.importorskip('ale_py', reason='needs vislearn[atari]'); atari = pytest.importorskip('vislearn.objects.atari')
    if atari.find_ocatari() is None: pytest.skip('needs ocatari')
    clips = record_clips('atari:Pong', 40, motion='root', root=tmp_path); scene = clips.things.where(~clips.things.hud)
    scores = hit_scores(clips.marks, scene); assert scores['precision']>.95 and scores['recall']>.95
    assert clips.info['label_quality']['all']>.98 and clips.frames.shape==(40, 4, 128, 128, 3) and clips.info['game']=='Pong' and set(clips.info['versions'])>={'ale-py', 'ocatari'}
    assert hashes(record_clips('atari:Pong', 40, motion='root', root=tmp_path/'b'))==hashes(clips)
    frames = clips.frames[:].reshape(-1, 128, 128, 3); assert (np.bincount(clips.things.frame)>=2).all() and len(np.unique(frames.reshape(len(frames), -1), axis=0))>100


@pytest.mark.slow
def test_pong_is_recorded_at_1500_frames_a_second(tmp_path):
    "Processor time, so that a busy machine does not count."
    pytest.importorskip('ale_py', reason='needs vislearn[atari]')
    rates = []
    for k in range(3): start = time.process_time(); record_clips('atari:Pong', 300, motion='root', seed=k, root=tmp_path); rates.append(300*20/(time.process_time() - start))
    assert max(rates)>1500, rates


def test_masks_slices_and_numbers_select_the_same(tmp_path):
    clips = sprite_clips(SpriteWorld.preset('nano'), 6, root=tmp_path); mask = np.array([0, 1, 0, 0, 1, 0], bool)
    for same in (mask, [1, 4], slice(1, 6, 3), np.array([-5, -2])):
        some = clips.select(same); assert (some.frames[:] == clips.frames[[1, 4]]).all() and (some.things.xyxy == clips.select([1, 4]).things.xyxy).all() and some.rows.tolist() == [1, 4]
    assert len(clips.select(np.zeros(6, bool))) == len(clips.select([])) == 0 and clips.select(mask).select([True, False]).rows.tolist() == [1]
    for bad, message in (([6], 'there are 6, got number 6'), ([0, -7], 'got number -7'), (mask[:3], r'got bool \(3,\)'), ([.5], 'got float64')):
        with pytest.raises(DataError, match=message): clips.select(bad)


@pytest.mark.parametrize('source, options, message', [
    ('short.npy', dict(n=None), r'no film lasts 20 frames \(trail \+ T\): shorten the trail'), ('short.npy', dict(n=2), r'no film lasts 20 frames'), ('long.npy', dict(n=9, T=2, trail=2), r'only 6 clips of 4 frames \(trail \+ T\) in it, n=9'),
    ('cut.mp4', dict(n=None), 'damaged, or cut short'), ('lon.npy', dict(n=1), "did you mean 'long.npy'"), ('sprites', dict(n=1, agent='agents'), 'only games have players'), ('sprites', dict(n=1, background='no.png'), 'no.png: this picture does not decode'),
    ('sprites', dict(n=1, motion='rot'), "expected 'root', 'median'"), ('sprites', dict(n=1, motion='trail', trail=0), 'motion trail needs a trail'), ('sprites', dict(n=1, T=99), 'shorten the trail'), ('sprites', dict(n=1, size=2), 'size >= 4'), ('spritse', dict(n=1), "did you mean 'sprites'")])
def test_recordings_that_cannot_be_are_one_line(tmp_path, source, options, message):
    film = np.random.default_rng(0).integers(0, 255, (26, 16, 16, 3), np.uint8); np.save(tmp_path/'long.npy', film); np.save(tmp_path/'short.npy', film[:12]); (tmp_path/'cut.mp4').write_bytes(b'\0\0\0\x18ftypmp42' + bytes(400))
    with pytest.raises(UserError, match=message) as e: record_clips(str(tmp_path/source) if '.' in source else source, root=tmp_path/'cache', **options)
    assert '\n' not in str(e.value) and not list((tmp_path/'cache').rglob('meta.json'))
