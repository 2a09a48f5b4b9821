"Historical data sets, written here as the old programs wrote them, and read back"
import pickle

import numpy as np, pytest, torch
from PIL import Image

from vislearn.core import ConfigError, DataError
from vislearn.objects.clips import sprite_clips
from vislearn.objects.folders import find_frames, find_layout, import_folders, read_boxes, read_hints, read_room
from vislearn.objects.motion import Motion, motion_hints, root_mode
from vislearn.store import verify_store
from vislearn.synth.sprites import SpriteWorld

NAMES = {1: 'player', 2: 'enemy', 3: 'ball'}      # the list of Pong: no_label, player, enemy, ball, ...


@pytest.fixture(scope='module')
def clips(tmp_path_factory): return sprite_clips(SpriteWorld(size=64, seed=5), 6, root=tmp_path_factory.mktemp('store'))


def write(clips, top, layout, split='train', game='Pong', kind='mode', labels='names'):
    "One PNG, one CSV and three tensors per frame, in folders of one of the two layouts."
    where = (lambda what: top/what/f'{game}-v0'/split) if layout=='tc' else (lambda what: top/f'{game}-v0'/what/split)
    at = dict(frames=where('space_like_64' if layout=='tc' else 'space_like'), bb=where('bb'), motion=where(kind)); pres, place = clips.hints(16)
    for folder in at.values(): folder.mkdir(parents=True)
    for i in range(len(clips)):
        for j in range(clips.T):
            name, things = f'{i:05d}_{j}', clips.things.of(i*clips.T + j)
            Image.fromarray(clips.frames[i][j][..., ::-1]).save(at['frames']/f'{name}.png')
            (at['bb']/f'{name}.csv').write_text(''.join(f'{y0:.8f},{y1:.8f},{x0:.8f},{x1:.8f},{"S" if k==3 else "M"},{NAMES[k] if labels=="names" else k}\n' for k, (x0, y0, x1, y1) in zip(things.label, things.xyxy)))
            grey = np.where(clips.motion([i])[0, j], .8, .001).astype(np.float32)      # values, not a mask: the loader cut them at a tenth of the mean
            for part, x in ((64, grey), ('z_pres', pres[i, j, :, None].astype(np.float32)), ('z_where', place[i, j])): torch.save(torch.from_numpy(x), at['motion']/f'{name}_{part}.pt')
    return at


@pytest.mark.parametrize('layout', ['tc', 'moc'])
@pytest.mark.parametrize('labels', ['names', 'numbers'])
def test_both_layouts_come_back(tmp_path, clips, layout, labels):
    write(clips, tmp_path/'old', layout, labels=labels); got = import_folders(tmp_path/'old', 'Pong', 'train', size=64, root=tmp_path/'cache')
    assert got.info['layout']==layout and got.info['motion']=='mode' and got.classes[:4]==['no_label', 'player', 'enemy', 'ball'] and got.info['colour']=='RGB'
    assert (got.frames[:]==clips.frames[:]).all()                       # blue was first in the files
    assert (got.motion(slice(None))==clips.motion(slice(None))).all()
    assert (got.things.frame==clips.things.frame).all() and (got.things.label==clips.things.label).all() and np.allclose(got.things.xyxy, clips.things.xyxy, atol=1e-6)
    assert (got.things.hud==(clips.things.label==3)).all() and (got.things.moving==~got.things.hud).all()
    assert (got.hints(16)[0]==clips.hints(16)[0]).all() and np.allclose(got.hints(16)[1], clips.hints(16)[1], atol=1e-6)
    assert not verify_store(got.path) and (got.background==root_mode(clips.frames[:].reshape(-1, 64, 64, 3))).all()


def test_colours_as_they_are(tmp_path, clips):
    write(clips, tmp_path, 'moc'); got = import_folders(tmp_path, 'Pong-v0', bgr=False, root=tmp_path/'cache')
    assert (got.frames[:]==clips.frames[:][..., ::-1]).all()


def test_other_kinds_splits_and_computed_hints(tmp_path, clips):
    write(clips, tmp_path, 'moc', 'validation', kind='flow')
    assert import_folders(tmp_path, 'Pong', 'val', root=tmp_path/'cache').info['motion']=='flow'
    got = import_folders(tmp_path, 'Pong', 'val', motion=Motion(), root=tmp_path/'cache')
    want = motion_hints(clips.frames[:].reshape(-1, 64, 64, 3), got.background, 8); assert np.allclose(got.hints(8)[1].reshape(24, 64, 4), want.z_where)
    none = import_folders(tmp_path, 'Pong', 'val', motion='none', root=tmp_path/'cache'); assert none.marks.n==0 and not none.motion(slice(None)).any() and none.things.n
    for kind, message in (('mode', 'no motion hints of kind mode for Pong val .found: flow.'), ('median', 'kind median')):
        with pytest.raises(DataError, match=message): import_folders(tmp_path, 'Pong', 'val', motion=kind, root=tmp_path/'cache')


def test_pictures_without_anything_else(tmp_path):
    "Atari of SPACE: single pictures, no boxes, no motion."
    folder = tmp_path/'SpaceInvaders-v0'/'test'; folder.mkdir(parents=True); frames = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    for k, f in enumerate(frames): Image.fromarray(f[..., ::-1]).save(folder/f'{k}.png')        # 10 comes after 9
    got = import_folders(tmp_path, 'SpaceInvaders', 'test', root=tmp_path/'cache')
    assert (got.frames[:][:, 0]==frames).all() and (got.T, got.classes, got.marks.n)==(1, [], 0) and got.info['layout']=='space'


@pytest.mark.parametrize('where', ['train/bb', 'bb/train', 'bb'])
def test_rooms(tmp_path, where):
    "3-D rooms: <index>-*.png, bb_<index>.txt with centre, width, height in pixels of 128."
    (tmp_path/'train').mkdir(); (tmp_path/where).mkdir(parents=True); frames = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    for k, f in enumerate(frames): Image.fromarray(f).save(tmp_path/'train'/f'{k}-room.png'); (tmp_path/where/f'bb_{k}.txt').write_text('64.0, 32.0, 16.0, 8.0\n' + '100 100 20 10\n'*(k % 2))
    got = import_folders(tmp_path, None, 'train', root=tmp_path/'cache')
    assert (got.frames[:][:, 0]==frames).all() and got.classes==['no_label', 'object'] and got.things.n==16 and (got.T, len(got))==(1, 11)
    assert np.allclose(got.things.of(1).xyxy, [[56/128, 28/128, 72/128, 36/128], [90/128, 95/128, 110/128, 105/128]]) and (got.things.label==1).all()
    (tmp_path/where/'bb_4.txt').unlink()
    with pytest.raises(DataError, match='bb_4.txt: boxes of this picture cannot be read'): import_folders(tmp_path, None, 'train', root=tmp_path/'cache')


def test_one_line_for_every_missing_part(tmp_path, clips):
    at = write(clips, tmp_path, 'moc'); again = lambda **k: import_folders(tmp_path, 'Pong', root=tmp_path/'cache', **k); file = at['motion']/'00003_2_z_where.pt'; kept = file.read_bytes()
    file.unlink()
    with pytest.raises(DataError, match='00003_2_z_where.pt: motion hints of this frame are missing'): again()
    file.write_bytes(kept[:40])
    with pytest.raises(DataError, match='00003_2_z_where.pt: not a tensor'): again()
    torch.save(torch.zeros(255, 4), file)
    with pytest.raises(DataError, match=r'expected a tensor \(256, 4\), got \(255, 4\)'): again()
    file.write_bytes(kept); table = at['bb']/'00001_0.csv'; lines = table.read_text()
    for text, message in (('.1,.2,.3\n', '00001_0.csv:1: expected y_min'), ('.1,.2,.3,.4,Q,ball\n', 'expected M or S'), ('.1,.2,.3,.4,M,99\n', 'a label is 99')):
        table.write_text(text)
        with pytest.raises(DataError, match=message): again()
    table.unlink()
    with pytest.raises(DataError, match='00001_0.csv: boxes of this frame cannot be read'): again()
    table.write_text(lines); picture = at['frames']/'00002_1.png'; good = picture.read_bytes(); picture.write_bytes(good[:60])
    with pytest.raises(DataError, match='00002_1.png: this picture does not decode'): again()
    picture.unlink()
    with pytest.raises(DataError, match='stack 00002 has frames 0, 2, 3, the first has 4'): again()
    picture.write_bytes(good); assert len(again())==6 and not list((tmp_path/'cache').rglob('.*.tmp-*'))


def test_nothing_is_unpickled(tmp_path, clips):
    at = write(clips, tmp_path, 'moc'); trap = tmp_path/'ran'
    class Bomb:
        def __reduce__(self): return (open, (str(trap), 'w'))
    (at['motion']/'00000_0_64.pt').write_bytes(pickle.dumps(Bomb(), 2)); torch.save(dict(x=Bomb()), at['motion']/'00000_1_64.pt')
    for name in ('00000_0', '00000_1'):
        with pytest.raises(DataError, match='opened safely'): read_hints(at['motion'], [name], 64)
    assert not trap.exists()


def test_what_is_where(tmp_path, clips):
    write(clips, tmp_path, 'tc'); layout = find_layout(tmp_path, 'Pong', size=64)
    assert (layout.name, layout.bgr, sorted(layout.motion))==('tc', True, ['mode']) and layout.boxes.is_dir() and find_frames(layout).T==4
    for error, call, message in ((DataError, lambda: find_layout(tmp_path, 'Pong'), 'expected space_like_128/Pong-v0/train or .* found bb, mode, space_like_64'), (DataError, lambda: find_layout(tmp_path/'no', 'Pong'), 'no such folder'),
        (ConfigError, lambda: find_layout(tmp_path, 'Pong', layout='mocc'), "did you mean 'moc'"), (DataError, lambda: find_layout(tmp_path, 'Pong', 'test', size=64), 'split test')):
        with pytest.raises(error, match=message): call()
    (tmp_path/'Pong-v0'/'train').mkdir(parents=True)
    with pytest.raises(DataError, match='no PNG files'): import_folders(tmp_path, 'Pong', layout='space', root=tmp_path/'cache')
    empty = tmp_path/'empty.csv'; empty.write_text('\n\n'); assert read_boxes(empty).label==[] and read_room(empty).xyxy==[]


def test_changed_files_are_imported_again(tmp_path, clips):
    at = write(clips, tmp_path, 'moc'); first = import_folders(tmp_path, 'Pong', root=tmp_path/'cache'); assert import_folders(tmp_path, 'Pong', root=tmp_path/'cache').path==first.path
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(at['frames']/'00000_0.png')
    again = import_folders(tmp_path, 'Pong', root=tmp_path/'cache'); assert again.path!=first.path and not again.frames[0][0].any()


def test_pictures_of_two_sizes_are_one_line(tmp_path):
    (tmp_path/'rooms'/'train').mkdir(parents=True)
    for i in range(70): Image.new('RGB', (32, 32) if i<66 else (40, 40)).save(tmp_path/'rooms'/'train'/f'{i}-a.png') # the odd ones lie in the second part of 64
    with pytest.raises(DataError, match='66-a.png: 40x40 pixels, but 64-a.png has 32x32') as e: import_folders(tmp_path/'rooms', root=tmp_path/'cache')
    assert '\n' not in str(e.value)
