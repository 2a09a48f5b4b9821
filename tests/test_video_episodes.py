"Episodes with actions: arrays, poses, and pickles that must not run"
import importlib, io, os, pickle, tracemalloc, zipfile

import numpy as np, pytest
from scipy.spatial.transform import Rotation

from vislearn.clips import Clips
from vislearn.core import DataError, real_data
from vislearn.video.episodes import (NpzArrays, align_actions, fabric_clips, npz_clips, pose_differences, raw_actions, read_pickle, robot_clips, to_uint8, umi_clips)
from vislearn.video.folders import Look, read_video

av = pytest.importorskip('av')
rng = np.random.default_rng(0)


def need(file):
    path = real_data(f'robot_video/{file}')
    if path is None: pytest.skip(f'{file} of ../shared/data is not here')
    return path


# Arrays ---------------------------------------------------------------------------------------------------------------

def test_stacked_films_and_the_last_action(tmp_path):
    frames, acts = rng.integers(0, 256, (3, 6, 8, 8, 3), dtype=np.uint8), rng.normal(size=(3, 6, 2)).astype(np.float32)
    np.savez(tmp_path/'a.npz', image_0=frames, action=acts, short=acts[:, :-1], flat=acts[..., 0], words=np.array(['a', 'bb', 'c'])); clips = npz_clips(tmp_path/'a.npz', notes=['words'], root=tmp_path)
    for i, clip in enumerate(clips): assert (clip.frames == frames[i]).all() and (clip.actions == acts[i, :5]).all() and clip.name == f'a/{i}' and clip.notes['words'] == ['a', 'bb', 'c'][i]
    assert (npz_clips(tmp_path/'a.npz', actions='short', root=tmp_path)[2].actions == acts[2, :5]).all() and npz_clips(tmp_path/'a.npz', actions='flat', root=tmp_path).act_dim == 1
    assert npz_clips(tmp_path/'a.npz', actions=None, root=tmp_path).act_dim == 0 and list(clips.notes['words']) == ['a', 'bb', 'c']


@pytest.mark.parametrize('kind', ['flags', 'numbers'])
def test_films_in_a_row(tmp_path, kind):
    frames, acts = rng.integers(0, 256, (10, 4, 4, 1), dtype=np.uint8), np.arange(10.)[:, None]
    ends = np.isin(np.arange(10), [3, 4, 9]) if kind == 'flags' else np.array([4, 5, 10])
    np.savez(tmp_path/'a.npz', f=frames, s=acts**2, e=ends); clips = npz_clips(tmp_path/'a.npz', 'f', 's', 'difference', ends='e', root=tmp_path)
    assert list(clips.lengths) == [4, 1, 5] and (clips[2].frames == frames[5:]).all() and list(clips[2].actions[:, 0]) == [11, 13, 15, 17] and len(clips[1].actions) == 0


def test_scale_is_recorded_and_undone(tmp_path):
    acts = rng.normal(3, [1e-3, 5, 0], (4, 7, 3)); np.savez(tmp_path/'a.npz', image_0=np.zeros((4, 7, 2, 2, 3), np.uint8), action=acts)
    clips = npz_clips(tmp_path/'a.npz', scale='std', root=tmp_path); stored = np.stack([c.actions for c in clips])
    assert abs(stored.mean((0, 1))).max() < 1e-5 and np.allclose(stored.std((0, 1)), [1, 1, 0], atol=1e-4)
    assert np.allclose(raw_actions(stored, clips.info), acts[:, :6], atol=1e-4) and np.allclose(raw_actions(stored, Clips.open(clips.path).info), acts[:, :6], atol=1e-4)


def test_a_folder_of_npz_files_in_natural_order(tmp_path):
    for k in (10, 9): np.savez(tmp_path/f'e{k}.npz', image_0=np.full((k, 4, 4, 3), k, np.uint8), action=np.zeros((k-1, 2)))
    clips = npz_clips(tmp_path, root=tmp_path/'cache'); assert clips.names == ['e9', 'e10'] and list(clips.lengths) == [9, 10]


def test_float_frames(tmp_path):
    frames = np.linspace(0, 1, 2*3*4*4*3).reshape(2, 3, 4, 4, 3).astype(np.float32); np.savez(tmp_path/'a.npz', f=frames)
    assert np.abs(npz_clips(tmp_path/'a.npz', 'f', None, root=tmp_path)[1].frames/255 - frames[1]).max() <= .5/255 + 1e-6
    assert to_uint8(np.float64([0, 1, .25]), 'x').tolist() == [0, 255, 64]


@pytest.mark.parametrize('arrays,args,word', [
    (dict(f=np.full((2, 3, 4, 4, 3), np.nan)), {}, 'a/0: 48 values are NaN'),
    (dict(f=np.full((2, 3, 4, 4, 3), 9.)), {}, 'divide by 255'),
    (dict(f=np.zeros((2, 3, 4, 4, 3), np.int32)), {}, 'expected uint8, or float'),
    (dict(f=np.zeros((2, 3, 3, 8, 8), np.uint8)), {}, 'with 1, 3 or 4 channels last, got (2, 3, 3, 8, 8)'),
    (dict(f=np.zeros((3, 4, 4), np.uint8)), {}, 'must be (E, T, H, W, C) or (T, H, W, C)'),
    (dict(g=np.zeros((2, 3, 4, 4, 3), np.uint8)), {}, "a.npz: no array 'f'"),
    (dict(f=np.zeros((2, 3, 4, 4, 3), np.uint8), a=np.zeros((2, 7, 1))), dict(actions='a'), 'a/0: 3 frames, but 7 actions'),
    (dict(f=np.zeros((2, 3, 4, 4, 3), np.uint8), a=np.zeros((5, 3, 1))), dict(actions='a'), "2 films, but 'a' is (5, 3, 1)"),
    (dict(f=np.zeros((2, 3, 4, 4, 3), np.uint8), a=np.full((2, 3, 1), np.inf)), dict(actions='a'), '3 action values are NaN or infinite'),
    (dict(f=np.zeros((2, 3, 4, 4, 3), np.uint8), a=np.zeros((2, 3, 5))), dict(actions='a', rule='pose'), 'position, rotation vector'),
    (dict(f=np.zeros((4, 4, 4, 3), np.uint8), e=np.array([2, 9])), dict(ends='e'), "'e' must be flags, or numbers from 1 to 4"),
])
def test_bad_arrays_are_one_line(tmp_path, arrays, args, word):
    np.savez(tmp_path/'a.npz', **arrays)
    with pytest.raises(DataError) as err: npz_clips(tmp_path/'a.npz', 'f', root=tmp_path, **(dict(actions=None) | args))
    assert word in str(err.value) and '\n' not in str(err.value)


def test_damaged_npz(tmp_path):
    np.savez_compressed(tmp_path/'a.npz', f=rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8)); raw = (tmp_path/'a.npz').read_bytes()
    (tmp_path/'short.npz').write_bytes(raw[:len(raw)//2]); flipped = bytearray(raw); flipped[len(raw)//2] ^= 255; (tmp_path/'flip.npz').write_bytes(flipped)
    with pytest.raises(DataError, match='short.npz: no npz file'): npz_clips(tmp_path/'short.npz', 'f', None, root=tmp_path)
    with pytest.raises(DataError, match='flip.npz: array .f. is'): npz_clips(tmp_path/'flip.npz', 'f', None, root=tmp_path)
    with zipfile.ZipFile(tmp_path/'fewer.npz', 'w') as z: buf = io.BytesIO(); np.save(buf, np.zeros((9, 4, 4, 3), np.uint8)); z.writestr('f.npy', buf.getvalue()[:-50])
    with pytest.raises(DataError, match='fewer.npz: array .f. is cut short at row 7 of 9'): npz_clips(tmp_path/'fewer.npz', 'f', None, root=tmp_path)
    with zipfile.ZipFile(tmp_path/'other.npz', 'w') as z: z.writestr('readme.txt', 'hello')
    with pytest.raises(DataError, match='other.npz'): NpzArrays(tmp_path/'other.npz')


def test_an_npz_streams(tmp_path):
    "40 films of 256 kB are read without holding the 10 MB array."
    np.savez_compressed(tmp_path/'a.npz', f=np.zeros((40, 20, 64, 64, 3), np.uint8)); npz_clips(tmp_path/'a.npz', 'f', None, size=4, max_frames=3, root=tmp_path)
    tracemalloc.start(); clips = npz_clips(tmp_path/'a.npz', 'f', None, root=tmp_path); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert len(clips) == 40 and peak < 4e6, peak


def test_npz_rows_equal_numpy(tmp_path):
    arrays = dict(a=rng.normal(size=(5, 3)), b=np.asfortranarray(rng.normal(size=(4, 2))), c=np.float32(3), d=np.array(['x', 'yy']), e=np.zeros((0, 2)), f=np.arange(4, dtype='>i4'))
    np.savez(tmp_path/'a.npz', **arrays); reader = NpzArrays(tmp_path/'a.npz')
    for name, want in arrays.items(): got = reader.whole(name); assert (got == want).all() and got.dtype == want.dtype.newbyteorder('=') and got.shape == np.shape(want)
    assert (np.stack(list(reader.rows('b'))) == arrays['b']).all()


# Poses ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('frame', ['body', 'world'])
def test_pose_differences_rebuild_the_path(frame):
    "Chaining the differences as 4x4 matrices gives the poses back, also across half a turn."
    n = 30; turn = Rotation.from_rotvec(np.cumsum(rng.normal(0, .2, (n, 3)), 0) + [3, 0, 0]); place = np.cumsum(rng.normal(size=(n, 3)), 0)
    moves = pose_differences(np.c_[place, turn.as_rotvec(), rng.normal(size=n)], frame).astype(float); here, now = place[0], turn[0]
    assert moves.shape == (n-1, 7) and np.linalg.norm(moves[:, 3:6], axis=1).max() < 2
    for t, m in enumerate(moves):
        spin = Rotation.from_rotvec(m[3:6]); here, now = (here + now.apply(m[:3]), now*spin) if frame == 'body' else (here + m[:3], spin*now)
        assert np.allclose(here, place[t+1], atol=1e-4) and (now.inv()*turn[t+1]).magnitude() < 1e-4


def test_body_differences_do_not_depend_on_the_room():
    poses = np.c_[rng.normal(size=(5, 3)), rng.normal(size=(5, 3))]; room = Rotation.from_rotvec([.3, -1, .5])
    moved = np.c_[room.apply(poses[:, :3]) + [4, 5, 6], (room*Rotation.from_rotvec(poses[:, 3:])).as_rotvec()]
    assert np.allclose(pose_differences(poses), pose_differences(moved), atol=1e-5) and not np.allclose(pose_differences(poses, 'world'), pose_differences(moved, 'world'), atol=1e-2)


def video(path, n):
    with av.open(str(path), 'w') as film:
        stream = film.add_stream('mpeg4', rate=10); stream.height = stream.width = 32; stream.pix_fmt = 'yuv420p'
        for i in range(n): film.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 8*i, np.uint8), format='rgb24')))
        film.mux(stream.encode())


def test_umi_pairs(tmp_path):
    for k, n in ((1, 12), (2, 9)): video(tmp_path/f'e{k}.mp4', n); np.savez(tmp_path/f'e{k}.npz', state=np.c_[np.arange(n)*.1*k, np.zeros((n, 6))])
    clips = umi_clips(tmp_path, 16, scale=1., root=tmp_path/'cache')
    assert list(clips.lengths) == [12, 9] and np.allclose(clips[1].actions[:, 0], .2) and (clips[0].frames == np.stack(list(read_video(tmp_path/'e1.mp4', Look(16))))).all()
    assert list(umi_clips(tmp_path, 16, max_frames=5, root=tmp_path/'cache').lengths) == [5, 5, 2, 5, 4]
    for rows, word in ((8, 'more than 8 frames, but 8 poses'), (10, '9 frames, but 10 poses')):
        np.savez(tmp_path/'e2.npz', state=np.zeros((rows, 7)))
        for most in (3, 4, 5000):
            with pytest.raises(DataError, match=word): umi_clips(tmp_path, 16, max_frames=most, root=tmp_path/'cache')
    np.savez(tmp_path/'e2.npz', state=np.full((9, 7), np.nan))
    with pytest.raises(DataError, match='e2.npz: 63 values of the poses are NaN'): umi_clips(tmp_path, 16, root=tmp_path/'cache')
    (tmp_path/'e2.npz').unlink()
    with pytest.raises(DataError, match='e2.npz: no such file'): umi_clips(tmp_path, 16, root=tmp_path/'cache')


# Real robots ----------------------------------------------------------------------------------------------------------

def test_bridge_copy_frame(tmp_path):
    "Copying frame 1 as the prediction of frames 2 to 9: the numbers every model must beat."
    clips = npz_clips(need('bridge_v2_25x10_64px.npz'), notes=['language'], root=tmp_path); films = np.stack([c.frames for c in clips])/255
    psnr = (-10*np.log10(((films[:, 2:] - films[:, 1:2])**2).mean((2, 3, 4)))).mean(0)
    assert np.abs(psnr - [28.74, 24.04, 22.03, 20.99, 20.34, 20.00, 19.80, 19.62]).max() < .0051 and abs(psnr.mean() - 21.95) < .0051
    raw = np.load(need('bridge_v2_25x10_64px.npz'))
    assert len(clips) == 25 and clips.act_dim == 7 and all((c.actions == raw['action'][i, :9]).all() for i, c in enumerate(clips)) and len(set(clips.notes['language'])) == 4
    train, valid = clips.split(.2, 0); assert len(valid) == 5 and not set(train.names) & set(valid.names)
    side = npz_clips(need('bridge_v2_25x10_64px.npz'), 'image_2', root=tmp_path); assert (side[3].frames == raw['image_2'][3]).all()


def test_robot_sets(tmp_path):
    for name, file, films, frames, acts in (('bridge', 'bridge_v2_25x10_64px.npz', 25, 250, 7), ('pusht', 'pusht_episode0_96px.npz', 5, 161, 2), ('umi', 'umi_cup_episode0.mp4', 8, 400, 7)):
        need(file); clips = robot_clips(name, root=tmp_path); assert (len(clips), clips.lengths.sum(), clips.act_dim, clips.size, clips.channels) == (films, frames, acts, (64, 64), 3), name
    raw = np.load(need('pusht_episode0_96px.npz')); pusht = robot_clips('pusht', root=tmp_path)
    assert max(abs(c.actions).max() for c in pusht) <= 1 and np.allclose(raw_actions(pusht[0].actions, pusht.info), raw['action'][:32], atol=1e-3) and (pusht.info['scale'], pusht.info['offset']) == (2/512, -1)
    umi = robot_clips('umi', root=tmp_path); state = np.load(need('umi_cup_episode0.npz'))['state']
    assert np.allclose(raw_actions(umi[0].actions, umi.info), pose_differences(state)[:49], atol=1e-5)
    with pytest.raises(DataError, match="did you mean 'pusht'"): robot_clips('pusht2')


# Pickles --------------------------------------------------------------------------------------------------------------

class Call:
    "Pickles as a call."
    def __init__(self, *what): self.what = what
    def __reduce__(self): return self.what


THINGS = dict(turned=np.moveaxis(np.arange(24.).reshape(2, 3, 4), -1, 1), a=np.arange(12, dtype=np.uint8).reshape(3, 4), f=np.asfortranarray(rng.normal(size=(3, 4))), big=rng.integers(0, 256, (40, 500), dtype=np.uint8), empty=np.zeros((0, 3)), zero=np.array(2.5), swapped=np.arange(3, dtype='>f4'),
              words=np.array(['ab', 'c']), flags=np.array([True, False]), half=np.float16([1.5]), s=np.float32(.5), i=np.int64(-3), b=np.bool_(True), n=None, t=(1, 2.5, 'x', b'bytes', b'B'*9000, 10**30), d={1: [2, {'x': ()}]})


def same(x, y):
    if isinstance(x, dict): return x.keys() == y.keys() and all(same(x[k], y[k]) for k in x)
    if isinstance(x, (list, tuple)): return type(x) is type(y) and len(x) == len(y) and all(map(same, x, y))
    if isinstance(x, (np.ndarray, np.generic)): return x.dtype == y.dtype and x.shape == y.shape and bool((x == y).all())
    return x == y and type(x) is type(y)


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('python', [True, False])
def test_pickles_of_every_protocol(tmp_path, protocol, python):
    (tmp_path/'x.pkl').write_bytes((pickle._dumps if python else pickle.dumps)(THINGS, protocol))
    assert same(read_pickle(tmp_path/'x.pkl'), THINGS)


def test_numpy_1_module_paths(tmp_path):
    for protocol in (2, 4, 5):
        raw = pickle.dumps(THINGS['big'], protocol)
        assert b'numpy._core' in raw, 'this test needs NumPy 2'
        if protocol == 2: old = raw.replace(b'numpy._core.', b'numpy.core.')
        else: old = raw.replace(b'\x8c\x16numpy._core.multiarray', b'\x8c\x15numpy.core.multiarray').replace(b'\x8c\x13numpy._core.numeric', b'\x8c\x12numpy.core.numeric')
        assert b'numpy._core' not in old; (tmp_path/'x.pkl').write_bytes(old); assert same(read_pickle(tmp_path/'x.pkl'), THINGS['big'])


def test_an_array_named_twice_and_a_list_in_itself(tmp_path):
    a = THINGS['a']; ring = [a]; ring.append(ring); (tmp_path/'x.pkl').write_bytes(pickle.dumps([a, a, {'k': a}], 4)); back = read_pickle(tmp_path/'x.pkl')
    assert same(back, [a, a, {'k': a}])
    (tmp_path/'y.pkl').write_bytes(pickle.dumps(ring, 4))
    with pytest.raises(DataError, match='RecursionError'): read_pickle(tmp_path/'y.pkl')


@pytest.mark.parametrize('protocol', [0, 2, 4, 5])
@pytest.mark.parametrize('make', ['os.mkdir', 'os.system', 'builtins.eval', 'subprocess.run', 'numpy.save', 'numpy.load', 'builtins.getattr', 'numpy.f2py.compile', 'functools.partial', 'builtins.open', 'pickle.loads', 'numpy.core.multiarray.fromfile'])
def test_nothing_is_run(tmp_path, protocol, make):
    module, name = make.rsplit('.', 1); target = str(tmp_path/'attacked')
    func = getattr(importlib.import_module(module), name, None) or os.mkdir; raw = pickle.dumps([np.zeros(3), Call(func, (target,))], protocol)
    (tmp_path/'x.pkl').write_bytes(raw)
    with pytest.raises(DataError, match='it asks for .*, which could run a program') as err: read_pickle(tmp_path/'x.pkl')
    assert not os.path.exists(target) and '\n' not in str(err.value) and str(err.value).startswith(str(tmp_path/'x.pkl'))
    with pytest.raises(DataError, match='could run a program'): fabric_clips(tmp_path/'x.pkl', root=tmp_path)


def test_the_attack_would_work_with_pickle(tmp_path):
    "The test above can fail: the same bytes make a folder when pickle loads them."
    pickle.loads(pickle.dumps(Call(os.mkdir, (str(tmp_path/'attacked'),)))); assert (tmp_path/'attacked').exists()


@pytest.mark.parametrize('raw,word', [
    (b"cnumpy\nndarray\n}S'x'\nK\x01sb.", 'state of its own'), (b'cnumpy._core.numeric\n_frombuffer\n(N}S\'__defaults__\'\nNstb.', 'state of its own'), (b'cnumpy\ndtype\n(N}t\x81.', 'an object of some class'),
    (b'(cnumpy\nndarray\no.', 'an object of some class'), (b"S'x'\n\x51.", 'an object of some class'), (b'Pid\n.', 'an object of some class'), (b'\x82\x01.', 'an object of some class'), (b'\x80\x05\x97.', 'an object of some class'),
    (b"cnumpy\ndtype\n(S'O8'\ntR.", 'no objects'), (b"cnumpy\ndtype\n(S'V9'\ntR.", 'no objects'), (b"cnumpy\ndtype\n(S'f4,f4'\ntR.", 'no objects'), (b']K\x01\x85R.', 'no function'), (b'cnumpy\nndarray.__class__\n.', 'asks for numpy.ndarray.__class__'),
    (b'\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.', 'cut short'), (b'\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0f.', 'x.pkl'), (b'\xff', 'no pickle'), (b'', 'no pickle'), (b'.', 'no pickle'), (b'\x80\x09.', 'no pickle'), (b'K\x01K\x02s.', 'no pickle'),
])
def test_small_attacks_and_rubbish(tmp_path, raw, word):
    (tmp_path/'x.pkl').write_bytes(raw)
    with pytest.raises(DataError, match='x.pkl: ') as err: read_pickle(tmp_path/'x.pkl')
    assert word in str(err.value) and '\n' not in str(err.value)


def test_arrays_that_lie_about_their_size(tmp_path):
    good = pickle.dumps(np.zeros((2, 300), np.float32), 4)
    for shape in (b'K\x03M,\x01\x86', b'K\x02M,\x02\x86'):
        raw = good.replace(b'K\x02M,\x01\x86', shape); assert raw != good; (tmp_path/'x.pkl').write_bytes(raw)
        with pytest.raises(DataError, match='it holds an array of shape'): read_pickle(tmp_path/'x.pkl')


def test_every_cut_and_many_flips_give_one_line(tmp_path):
    "A damaged file is read or refused; nothing else comes out, and nothing else is built."
    raw = pickle.dumps(dict(images=THINGS['a'], actions=THINGS['f'], s=THINGS['s']), 4)
    for n in range(0, len(raw), 3):
        (tmp_path/'x.pkl').write_bytes(raw[:n])
        with pytest.raises(DataError): read_pickle(tmp_path/'x.pkl')
    noise, refused = np.random.default_rng(1), 0
    for _ in range(800):
        bad = bytearray(raw); bad[noise.integers(len(raw))] = noise.integers(256); (tmp_path/'x.pkl').write_bytes(bad)
        try: read_pickle(tmp_path/'x.pkl')
        except DataError: refused += 1
    assert refused > 150


def test_doubling_tuples_do_not_explode(tmp_path):
    x = ()
    for _ in range(60): x = (x, x)
    (tmp_path/'x.pkl').write_bytes(pickle.dumps(x, 4)); assert isinstance(read_pickle(tmp_path/'x.pkl'), tuple)


def test_a_large_pickle_is_not_read_but_mapped(tmp_path):
    (tmp_path/'x.pkl').write_bytes(pickle.dumps(dict(images=np.zeros((20, 6, 56, 56, 4), np.uint8), actions=np.zeros((20, 5, 4), np.float32)), 4)); size = (tmp_path/'x.pkl').stat().st_size
    read_pickle(tmp_path/'x.pkl'); tracemalloc.start(); data = read_pickle(tmp_path/'x.pkl'); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert data['images'].nbytes > 1e6 and size > 1e6 and peak < 2e5 and not data['images'].flags.writeable


# Fabric ---------------------------------------------------------------------------------------------------------------

def episodes(n=5, steps=3, seed=0):
    r = np.random.default_rng(seed); return r.integers(0, 256, (n, steps+1, 56, 56, 4), dtype=np.uint8), r.uniform(-.9, .9, (n, steps, 4)).astype(np.float32)


def save(path, thing, protocol=4): path.write_bytes(pickle.dumps(thing, protocol)); return path


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_fabric_pickles_of_the_fork(tmp_path, protocol):
    images, actions = episodes(); path = save(tmp_path/'pure_random_train_00005.pkl', dict(images=images, actions=actions), protocol)
    stored, turned = fabric_clips(path, root=tmp_path), fabric_clips(path, bgr=True, root=tmp_path)
    for i in range(5): assert (stored[i].frames == images[i]).all() and (turned[i].frames == images[i][..., [2, 1, 0, 3]]).all() and (stored[i].actions == actions[i]).all()
    assert (stored.info['colours'], turned.info['colours'], stored.info['cut_off']) == ('as stored', 'RGB', 0) and stored.size == (56, 56) and stored.act_dim == 4


def test_actions_beyond_one_are_cut_and_noted(tmp_path):
    images, actions = episodes(); actions[0, 0, 0], actions[1, 2, 3] = 1.37, -1.2; path = save(tmp_path/'a.pkl', dict(images=images, actions=actions))
    clips, free = fabric_clips(path, root=tmp_path), fabric_clips(path, limit=None, root=tmp_path)
    assert clips[0].actions[0, 0] == 1 and clips[1].actions[2, 3] == -1 and clips.info['cut_off'] == 2/60 and np.allclose(clips.info['action_range'], [-1.2, 1.37]) and free[0].actions[0, 0] == np.float32(1.37)
    with pytest.raises(DataError, match='60 of 60 action values are outside'): fabric_clips(save(tmp_path/'b.pkl', dict(images=images, actions=actions*0+50)), root=tmp_path)


def test_raw_episodes_split_by_order(tmp_path):
    images, actions = episodes(11, 4)
    raw = [dict(obs=[f for f in images[i, :2+i%4]], act=[tuple(map(float, a)) for a in actions[i, :1+i%4]], rew=[0.], done=[True], info=[dict(start_coverage=.7, actual_coverage=.1*i)]) for i in range(11)]
    save(tmp_path/'d1.pkl', raw[:6]); save(tmp_path/'d2.pkl', raw[6:]); train, valid, whole = (fabric_clips(tmp_path, split=s, root=tmp_path/'cache') for s in ('train', 'valid', None))
    assert (len(train), len(valid), len(whole)) == (8, 3, 11) and train.names[-1] == 'd2/1' and list(whole.lengths) == [2+i%4 for i in range(11)]
    for i, clip in enumerate(whole): assert (clip.frames == images[i, :2+i%4]).all() and np.allclose(clip.actions, actions[i, :1+i%4], atol=1e-6)
    assert np.allclose(whole.notes['final_coverage'], .1*np.arange(11)) and np.allclose(whole.notes['start_coverage'], .7)


@pytest.mark.parametrize('change,word', [
    (lambda d: d.pop('images'), "expected a dict with 'images' and 'actions', got ['actions']"), (lambda d: d.update(images=d['images'].astype(np.float32)), 'divide by 255'),
    (lambda d: d.update(images=np.full(d['images'].shape, np.nan, np.float32)), 'are NaN'), (lambda d: d.update(actions=np.full_like(d['actions'], np.nan)), 'action values are NaN'),
    (lambda d: d.update(actions=d['actions'][:, :2]), 'actions must be (N, L, A)'), (lambda d: d.update(images=d['images'][:, :, :, :, :2]), 'images must be (N, L+1, H, W, C)'), (lambda d: d.update(images='x'), 'images must be'), (lambda d: d.update(actions=[1]), 'actions must be'),
    (lambda d: d.update(images=d['images'][:0], actions=d['actions'][:0]), 'no episodes')])
def test_bad_fabric_files_are_one_line(tmp_path, change, word):
    images, actions = episodes(); data = dict(images=images, actions=actions); change(data)
    with pytest.raises(DataError) as err: fabric_clips(save(tmp_path/'a.pkl', data), root=tmp_path/'cache')
    assert word in str(err.value) and '\n' not in str(err.value)


def test_align_actions_lengths():
    acts = np.arange(8.).reshape(4, 2)
    assert (align_actions(acts, 4, 'x') == acts[:3]).all() and (align_actions(acts, 5, 'x') == acts).all()
    for n in (3, 6):
        with pytest.raises(DataError, match=f'x: {n} frames, but 4 actions'): align_actions(acts, n, 'x')
