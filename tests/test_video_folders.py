"Folders of pictures and videos: against a slow reference, on damaged files, and in bounded memory"
import json, subprocess, sys, tarfile, tracemalloc

import numpy as np, pytest

from vislearn.clips import Clips
from vislearn.core import DataError, UserError, real_data
from vislearn.movies import Look, natural_key, read_pictures, read_video
from vislearn.video import folders
from vislearn.video.folders import KTH_CLASSES, bair_png_clips, cut_film, film_strip, folder_clips, kth_clips, kth_test_set, read_sequences, tub_clips
from helpers import noise, pictures, video

av = pytest.importorskip('av')


def test_pictures_are_sorted_by_number_and_equal_the_files(tmp_path):
    films = noise(12)
    pictures(tmp_path/'in'/'a', films); pictures(tmp_path/'in'/'deep'/'b', films[::-1], 'frame-{}.bmp')
    clips = folder_clips(tmp_path/'in', None, root=tmp_path/'cache')
    assert clips.names == ['a', 'deep/b'] and (clips[0].frames == films).all() and (clips[1].frames == films[::-1]).all()
    assert (Clips.open(clips.path)[1].frames == films[::-1]).all()


def test_grey_and_steps(tmp_path):
    films = noise(11); pictures(tmp_path/'in', films)
    clips = folder_clips(tmp_path/'in', None, channels=1, step=3, root=tmp_path/'cache')
    grey = films[::3] @ np.array([.299, .587, .114])
    assert clips[0].frames.shape == (4, 24, 32, 1) and np.abs(clips[0].frames[..., 0] - grey).max() <= 1


def test_without_av_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None); video_file = tmp_path/'a.avi'; video_file.write_bytes(b'x')
    with pytest.raises(UserError, match=r"pip install 'vislearn\[video\]'"): folder_clips(tmp_path, bad='skip', root=tmp_path/'cache')


def test_import_is_light():
    code = "import sys, vislearn.video.folders, vislearn.video.episodes; print(sorted({'av', 'matplotlib.pyplot', 'torchvision', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


def test_one_bad_film_is_an_error_or_left_out(tmp_path):
    for k in range(3): pictures(tmp_path/'in'/f'film{k}', noise(5, seed=k))
    (tmp_path/'in'/'film1'/'3.png').write_bytes(b'nothing'); (tmp_path/'in'/'film3').mkdir()
    with pytest.raises(DataError, match='film1/3.png: this picture does not decode'): folder_clips(tmp_path/'in', root=tmp_path/'cache')
    with pytest.warns(UserWarning, match='left out'): clips = folder_clips(tmp_path/'in', bad='skip', root=tmp_path/'cache')
    assert clips.names == ['film0', 'film2'] and [s.split('in/')[1][:5] for s in clips.info['skipped']] == ['film1', 'film3']
    assert not list((tmp_path/'cache').rglob('.*.tmp-*')), 'a failed build leaves nothing'


def test_pictures_of_two_sizes_and_depths(tmp_path):
    pictures(tmp_path/'a', noise(3)); pictures(tmp_path/'a', noise(1, 25, 32), '{}9.png')
    with pytest.raises(DataError, match=r'09.png: 32x25 pixels, but 0.png has 32x24'): folder_clips(tmp_path/'a', root=tmp_path/'cache')
    pictures(tmp_path/'b', [np.full((4, 4), 9999, np.uint16)])
    with pytest.raises(DataError, match='0.png: a picture of 16 or 32 bits'): folder_clips(tmp_path/'b', root=tmp_path/'cache')
    pictures(tmp_path/'c'/'x', noise(2)); pictures(tmp_path/'c'/'y', noise(2, 30, 30))
    with pytest.raises(DataError, match='y: frames are'): folder_clips(tmp_path/'c', None, root=tmp_path/'cache')


def test_a_changed_file_is_read_again_an_unchanged_one_is_not(tmp_path, monkeypatch):
    pictures(tmp_path/'in', noise(4)); first = folder_clips(tmp_path/'in', 16, root=tmp_path/'cache')
    with monkeypatch.context() as m: m.setattr(folders, 'read_pictures', None); assert folder_clips(tmp_path/'in', 16, root=tmp_path/'cache').path == first.path
    pictures(tmp_path/'in', noise(4, seed=5)); again = folder_clips(tmp_path/'in', 16, root=tmp_path/'cache')
    assert again.path != first.path and (again[0].frames != first[0].frames).any()


def test_cut_film_is_a_partition():
    frames, acts = noise(23), np.arange(23.)[:, None]
    pieces = list(cut_film(iter(frames), 7, 'f', acts))
    assert (np.concatenate([p.frames for p in pieces]) == frames).all() and [len(p.frames) for p in pieces] == [7, 7, 7, 2]
    assert all((p.actions[:, 0] == 7*k + np.arange(len(p.frames)-1)).all() for k, p in enumerate(pieces))
    assert list(cut_film(iter([]), 7)) == [] and len(list(cut_film(frames[:14], 7))) == 2
    with pytest.raises(DataError, match='max_frames'): list(cut_film(frames, 1))


def test_a_long_video_is_read_in_pieces_without_holding_it(tmp_path):
    "600 frames of 64x64 make 7.4 MB; reading them in pieces of 30 (0.4 MB) stays far below."
    video(tmp_path/'in'/'long.avi', np.tile(noise(24, 64, 64), (25, 1, 1, 1))); list(read_video(tmp_path/'in'/'long.avi', Look(8)))
    tracemalloc.start(); clips = folder_clips(tmp_path/'in', None, max_frames=30, root=tmp_path/'cache'); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert len(clips) == 20 and clips.lengths.sum() == 600 and peak < 3e6, peak


# KTH ------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def kth(tmp_path_factory):
    top = tmp_path_factory.mktemp('kth')
    for person in (1, 20, 21, 25):
        for label in ('boxing', 'running'): pictures(top/label/f'person{person:02d}_{label}_d1_uncomp', noise(45, 12, 16, seed=person), 'image-{:03d}_8x8.png')
    pictures(top/'boxing'/'person01_boxing_d1_uncomp', noise(45, 20, 20), 'image-{:03d}_16x16.png')
    return top


def test_kth_split_is_by_person(kth, tmp_path):
    train, test, whole = (kth_clips(kth, s, 8, root=tmp_path) for s in ('train', 'test', 'all'))
    assert set(train.notes['person']) == {1, 20} and set(test.notes['person']) == {21, 25} and len(whole) == 8
    assert set(zip(test.notes['label'], test.notes['trial'])) == {(0, 1), (4, 1)} and KTH_CLASSES[4] == 'running' and test.channels == 1


def test_kth_takes_the_pictures_of_the_size_asked_for(kth, tmp_path):
    clips = kth_clips(kth, 'all', 16, root=tmp_path); film = clips.names.index('person01_boxing_d1')
    big = np.stack(list(read_pictures(sorted((kth/'boxing'/'person01_boxing_d1_uncomp').glob('*_16x16.png'), key=natural_key), Look(16, channels=1))))
    assert (clips[film].frames == big).all() and len(big) == 45


def test_kth_videos_and_sequences(tmp_path):
    video(tmp_path/'in'/'person02_walking_d3_uncomp.avi', noise(60)); video(tmp_path/'in'/'other.avi', noise(5))
    (tmp_path/'00sequences.txt').write_text('header\n\nperson02_walking_d3\t\tframes\t1-20, 31-50, 55-75\nperson13_handclapping_d3 *missing*\n')
    assert read_sequences(tmp_path/'00sequences.txt') == {'person02_walking_d3': [(0, 20), (30, 50), (54, 75)]}
    whole = kth_clips(tmp_path/'in', size=16, root=tmp_path); cut = kth_clips(tmp_path/'in', size=16, sequences=tmp_path/'00sequences.txt', root=tmp_path)
    assert list(cut.lengths) == [20, 20, 6] and (cut[1].frames == whole[0].frames[30:50]).all() and len(whole) == 1


def test_kth_test_set_rule(kth, tmp_path):
    test = kth_clips(kth, 'test', 8, root=tmp_path); table = kth_test_set(test)
    assert table.shape == (1000, 2) and table.dtype == np.int64 and set(table[:, 1]) == set(range(6)) and (kth_test_set(test) == table).all() and (kth_test_set(test, seed=1) != table).any()
    counts = np.bincount(table[:, 0], minlength=4); assert counts.min() > 180, f'every film is drawn about equally often, got {counts}'
    frames, _ = test.cut(*table[0], 40); assert frames.shape == (40, 1, 8, 8)
    with pytest.raises(DataError, match='persons 21 to 25'): kth_test_set(kth_clips(kth, 'train', 8, root=tmp_path))


# BAIR as pictures, donkey cars ----------------------------------------------------------------------------------------

def test_bair_pictures(tmp_path):
    films = [noise(30, 64, 64, seed=k) for k in range(3)]
    for k, film in enumerate(films): pictures(tmp_path/'processed_data'/'test'/'traj_0_to_255'/str([1, 2, 10][k]), film)
    for top in (tmp_path, tmp_path/'processed_data'):
        clips = bair_png_clips(top, 'test', root=tmp_path/'cache')
        assert clips.names == ['traj_0_to_255/1', 'traj_0_to_255/2', 'traj_0_to_255/10'] and all((c.frames == f).all() for c, f in zip(clips, films))
    assert len(bair_png_clips(tmp_path, 'test', limit=2, root=tmp_path/'cache')) == 2


def tub(folder, n=12, gone=(), sessions=None, **row):
    pictures(folder/'images', noise(n), '{}_cam_image_array_.png')
    rows = [{'_index': i, 'cam/image_array': f'{i}_cam_image_array_.png', 'user/angle': -i/10, 'user/throttle': .25, **({} if sessions is None else {'_session_id': sessions[i]}), **row} for i in range(n)]
    (folder/'catalog_0.catalog').write_text('\n'.join(map(json.dumps, rows[:5]))); (folder/'catalog_1.catalog').write_text('\n'.join(map(json.dumps, rows[5:])) + '\n')
    (folder/'manifest.json').write_text('\n'.join(map(json.dumps, [[], [], {}, {}, dict(paths=['catalog_0.catalog', 'catalog_1.catalog'], deleted_indexes=list(gone))])))


def test_tub_gaps_and_sessions_end_films(tmp_path):
    tub(tmp_path/'a', gone=[3, 4], sessions=['x']*9 + ['y']*3); clips = tub_clips(tmp_path/'a', None, root=tmp_path/'cache')
    assert list(clips.lengths) == [3, 4, 3] and (clips[1].frames == noise(12)[5:9]).all() and np.allclose(clips[1].actions, [[-.5, .25], [-.6, .25], [-.7, .25]])
    assert list(tub_clips(tmp_path/'a', None, max_frames=2, root=tmp_path/'cache').lengths) == [2, 1, 2, 2, 2, 1]
    with pytest.raises(DataError, match='no such file'): tub_clips(tmp_path/'none')


def test_tub_archives_stay_in_their_folder(tmp_path):
    tub(tmp_path/'a')
    with tarfile.open(tmp_path/'bad.tar.gz', 'w:gz') as tar: tar.add(tmp_path/'a'/'manifest.json', '../outside.json')
    with pytest.raises(DataError, match='bad.tar.gz: this archive cannot be unpacked'): tub_clips(tmp_path/'bad.tar.gz', root=tmp_path/'cache')
    with tarfile.open(tmp_path/'a.tar.gz', 'w:gz') as tar: tar.add(tmp_path/'a', 'tub')
    assert (tub_clips(tmp_path/'a.tar.gz', 16, root=tmp_path/'cache')[0].frames == tub_clips(tmp_path/'a', 16, root=tmp_path/'cache')[0].frames).all()
    (tmp_path/'a'/'images'/'4_cam_image_array_.png').unlink()
    with pytest.raises(DataError, match='4_cam_image_array_.png'): tub_clips(tmp_path/'a', 8, root=tmp_path/'cache')


def test_the_real_drive(tmp_path):
    path = real_data('robot_video/donkeycar_tub_1000.tar.gz')
    if path is None: pytest.skip('the donkey car of ../shared/data is not here')
    clips = tub_clips(path, 32, max_frames=100, root=tmp_path)
    assert clips.lengths.sum() == 1000 and len(clips) == 10 and clips.act_dim == 2 and abs(clips[0].actions[0] - [.29860398, .5391259]).max() < 1e-6


def test_the_real_highway(tmp_path):
    path = real_data('road_camera/highway_960x540.mp4')
    if path is None: pytest.skip('the highway video of ../shared/data is not here')
    frames = list(read_video(path, Look((36, 64), fps=5)))
    assert len(frames) == 45 and frames[0].shape == (36, 64, 3), '221 frames at 25 Hz, every fifth'


def test_film_strip_draws_every_kind():
    for channels, acts in ((1, None), (3, np.zeros((4, 2), np.float32)), (4, None)):
        clip = folders.Clip(np.zeros((5, 8, 8, channels), np.uint8), acts, 'x')
        fig = film_strip(clip, 3); fig.draw_without_rendering()
        assert sum(len(ax.images) for f in (fig, *fig.subfigs) for ax in f.axes if ax in f._localaxes) == 3
