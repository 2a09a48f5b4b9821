"Videos and folders of pictures: against slow references, on damaged files, and there and back"
import numpy as np, pytest

from vislearn.core import DataError, UserError
from vislearn.movies import Look, find_films, fit_frame, natural_key, read_pictures, read_video, write_pictures, write_video
from helpers import noise, pictures, video

av = pytest.importorskip('av')


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_fit_halves_exactly_like_a_mean_of_a_linear_ramp(channels):
    "Bilinear with area support reproduces a linear ramp: inside, pixel i of the half is the ramp at 2i + 0.5."
    ramp = np.broadcast_to((4*np.arange(40))[None, :, None], (20, 40, channels)).astype(np.uint8)
    half = fit_frame(ramp, (10, 20))
    assert half.shape == (10, 20, channels) and (np.abs(half[:, 2:-2].astype(int) - (8*np.arange(2, 18) + 2)[None, :, None]) <= 1).all()
    middle = fit_frame(ramp, 20, 'crop')
    assert (middle == ramp[:, 10:30]).all(), 'a crop to the full height only cuts'


def test_depth_is_no_transparency():
    frame = np.full((8, 8, 4), 200, np.uint8); frame[..., 3] = 0; frame[:, 4:, 3] = 255
    assert (fit_frame(frame, 4)[..., :3] == 200).all()


@pytest.mark.parametrize('name,codec,limit', [('a.avi', 'mpeg4', 6), ('a.mp4', 'libx264', 6), ('a.mkv', 'libx264', 6), ('a.webm', 'libvpx', 9)])
def test_video_equals_what_was_written(tmp_path, name, codec, limit):
    films = noise(30); video(tmp_path/name, films, codec=codec); back = np.stack(list(read_video(tmp_path/name, Look(None))))
    assert back.shape == films.shape and np.abs(back.astype(int) - films).mean() < limit
    assert [int(np.abs(films.astype(int) - b).mean((1, 2, 3)).argmin()) for b in back] == list(range(30)), 'the right frames in the right order'
    grey = np.stack(list(read_video(tmp_path/name, Look(16, channels=1, step=7)))); assert grey.shape == (5, 16, 16, 1)


@pytest.mark.parametrize('fps', [25, 12.5, 10, 7, 1])
def test_fps_takes_the_nearest_frames(tmp_path, fps):
    films = noise(50); video(tmp_path/'a.avi', films); back = np.stack(list(read_video(tmp_path/'a.avi', Look(None))))
    kept = np.stack(list(read_video(tmp_path/'a.avi', Look(None, fps=fps))))
    which = [int(np.abs(back.astype(int) - k).sum((1, 2, 3)).argmin()) for k in kept]
    assert len(kept) == len([k for k in range(1000) if k/fps*25 < 49.5]) and all(abs(i/25 - k/fps) <= .02 + 1e-9 for k, i in enumerate(which)), which


@pytest.mark.parametrize('name,codec,options', [('a.avi', 'mpeg4', None), ('a.mp4', 'libx264', None), ('f.mp4', 'libx264', dict(movflags='faststart')), ('a.mkv', 'libx264', None), ('a.webm', 'libvpx', None)])
@pytest.mark.parametrize('share', [.1, .4, .8])
def test_a_video_cut_short_is_one_line(tmp_path, name, codec, options, share):
    raw = video(tmp_path/name, noise(60), codec=codec, options=options).read_bytes(); (tmp_path/name).write_bytes(raw[:int(share*len(raw))])
    with pytest.raises(DataError, match=rf'{name}: .*(cut short|damaged)') as err: list(read_video(tmp_path/name))
    assert '\n' not in str(err.value)


def test_files_that_are_no_films(tmp_path):
    (tmp_path/'empty.mp4').write_bytes(b''); (tmp_path/'text.mkv').write_text('hello'*500)
    for name in ('empty.mp4', 'text.mkv'):
        with pytest.raises(DataError, match=name): list(read_video(tmp_path/name))


def test_natural_order_and_find(tmp_path):
    names = ['f2.png', 'f10.png', 'f1.png', 'F3.png', 'f002.png']
    assert sorted(names, key=natural_key) == ['F3.png', 'f1.png', 'f002.png', 'f2.png', 'f10.png']
    pictures(tmp_path/'v', noise(2)); (tmp_path/'v'/'film.mp4').write_bytes(b'x'); pictures(tmp_path/'.hidden', noise(2)); pictures(tmp_path/'w', noise(2)); (tmp_path/'w'/'._0.png').write_bytes(b'x')
    films = find_films(tmp_path)
    assert set(films) == {'v/film.mp4', 'w'} and [f.name for f in films['w']] == ['0.png', '1.png']


def test_written_and_read_again(tmp_path):
    films = noise(9); write_pictures(tmp_path/'a', films, 'f{:03}.bmp', first=8)
    assert [f.name for f in find_films(tmp_path)['a']][:3] == ['f008.bmp', 'f009.bmp', 'f010.bmp'] and (np.stack(list(read_pictures(find_films(tmp_path)['a'], Look(None)))) == films).all()
    write_video(tmp_path/'a.mp4', films, 7, 'libx264'); back = np.stack(list(read_video(tmp_path/'a.mp4', Look(None))))
    assert back.shape == films.shape and np.abs(back.astype(int) - films).mean() < 6
    with pytest.raises(DataError, match='7 frames per second, fps=8 asks for more'): list(read_video(tmp_path/'a.mp4', Look(fps=8)))
    for bad in ([], films/255, films[:, :23], films[..., :1], [films[0], films[0, :20]]):
        with pytest.raises(DataError, match='b.mp4: frames must be uint8') as e: write_video(tmp_path/'b.mp4', bad)
        assert '\n' not in str(e.value) and not (tmp_path/'b.mp4').exists()


def test_impossible_looks_are_refused_where_they_are_used(tmp_path):
    write_pictures(tmp_path/'a', noise(3)); files = find_films(tmp_path)['a']
    for bad, message in ((Look(fit='zoom'), 'fit must be'), (Look(channels=2), 'channels must be'), (Look(step=0), 'step must be'), (Look(fps=0), 'fps positive'), (Look(size=0), 'size must be')):
        for read, what in ((read_pictures, files), (read_video, tmp_path/'a.mp4')):
            with pytest.raises(DataError, match=message): list(read(what, bad))
    with pytest.raises(DataError, match='pictures carry no times, so fps=2 means nothing here: use step'): list(read_pictures(files, Look(fps=2)))
    with pytest.raises(DataError, match='no such folder'): find_films(tmp_path/'none')


def test_without_av_the_extra_is_named(monkeypatch, tmp_path):
    import sys
    monkeypatch.setitem(sys.modules, 'av', None)
    with pytest.raises(UserError, match=r"pip install 'vislearn\[video\]'"): list(read_video(tmp_path/'a.avi'))
