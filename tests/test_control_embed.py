"Embedding in advance: streamed, deduplicated, resumable, safe."
import errno, tracemalloc
import numpy as np, pytest, torch
from vislearn.control import embed as module
from vislearn.control.embed import embed_trajs, embed_unique, unique_rows
from vislearn.control.encoders import embed_frames, make_encoder
from vislearn.control.trajs import Traj, open_trajs, toy_trajs, write_trajs
from vislearn.core import DataError
from vislearn.store import StoreError


def test_equals_the_plain_way(tmp_path):
    "Every frame through the encoder one by one, goal repeated at each step, as the original did."
    trajs, encoder = toy_trajs(5, goal=True), make_encoder('random3', size=(32, 32)); done = embed_trajs(trajs, encoder, dtype='float32', chunk=7, root=tmp_path)
    for t, e in zip(trajs, done):
        slow = np.concatenate([encoder(torch.from_numpy(np.concatenate([f, t.goal], -1))[None]).numpy() for f in t.frames])
        fast = np.concatenate([e.emb, np.repeat(e.goal_emb[None], len(e.emb), 0)], 1)
        assert np.allclose(slow, fast, atol=1e-5)
    half = embed_trajs(trajs, encoder, root=tmp_path)
    assert half.emb.dtype==np.float16 and np.allclose(half.emb[:].astype(np.float32), done.emb[:], rtol=2e-3, atol=1e-3) and half.emb.store.path!=done.emb.store.path


def test_equal_frames_are_embedded_once(monkeypatch):
    encoder, seen = make_encoder('random3', size=(16, 16)), []; real = embed_frames
    monkeypatch.setattr(module, 'embed_frames', lambda e, f, b: seen.append(len(f)) or real(e, f, b))
    frames = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)[[0, 1, 1, 0, 5, 5, 5]]
    assert np.array_equal(embed_unique(encoder, frames), real(encoder, frames)) and seen==[3]
    assert unique_rows(frames)[1].tolist()==[0, 1, 1, 0, 2, 2, 2]


def test_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    trajs, encoder, calls = toy_trajs(30), make_encoder('random3', size=(32, 32)), []; real = embed_unique
    def work(e, f, b):
        if len(calls)==3: calls.append('killed'); raise KeyboardInterrupt
        calls.append(len(f)); return real(e, f, b)
    monkeypatch.setattr(module, 'embed_unique', work)
    with pytest.raises(KeyboardInterrupt): embed_trajs(trajs, encoder, chunk=20, root=tmp_path)
    assert len(list(tmp_path.rglob('emb-*.npy')))==3 and not list(tmp_path.glob('embs/*/meta.json'))
    done = embed_trajs(trajs, encoder, chunk=20, root=tmp_path)
    assert sum(calls[4:])==trajs.steps - 60 and np.array_equal(done.emb[:], embed_trajs(trajs, encoder, root=tmp_path/'other').emb[:]) and not list(tmp_path.rglob('.*.parts'))


def test_another_set_under_the_same_name_has_features_of_its_own(tmp_path):
    "Whoever records again finds the new set where the old one was."
    encoder, link, found = make_encoder('random3', size=(8, 8)), tmp_path/'demos'/'Corridor', []; link.parent.mkdir()
    for seed in (0, 1):
        frames = np.random.default_rng(seed).integers(0, 255, (6, 8, 8, 3), np.uint8)
        stored = write_trajs('Corridor', dict(seed=seed), lambda: iter([Traj(np.zeros(6, np.int64), frames)]), root=tmp_path)
        link.unlink(missing_ok=True); link.symlink_to(stored.path); done = embed_trajs(open_trajs(link), encoder, dtype='float32', root=tmp_path)
        assert np.array_equal(done.emb[:], embed_frames(encoder, frames)); found.append(done.emb.store.path)
        assert embed_trajs(stored, encoder, dtype='float32', root=tmp_path).emb.store.path==done.emb.store.path # by whatever name
    assert found[0]!=found[1]


def test_disk_full_keeps_what_is_done(tmp_path, monkeypatch):
    trajs, encoder, calls = toy_trajs(30), make_encoder('random3', size=(32, 32)), []; real = np.save
    def full(fh, x):
        calls.append(1)
        if len(calls)==3: raise OSError(errno.ENOSPC, 'No space left on device')
        real(fh, x)
    monkeypatch.setattr(module.np, 'save', full)
    with pytest.raises(StoreError, match='no room left while embedding .* what was embedded is kept'): embed_trajs(trajs, encoder, chunk=20, root=tmp_path)
    assert len(list(tmp_path.rglob('emb-*.npy')))==2 and not list(tmp_path.rglob('*.tmp-*')) and not list(tmp_path.glob('embs/*/meta.json'))
    calls.extend([1]*9); assert embed_trajs(trajs, encoder, chunk=20, root=tmp_path).emb is not None


@pytest.mark.parametrize('frames', [2000, 8000])
def test_memory_does_not_grow_with_the_data(tmp_path, frames):
    "40 MB and 160 MB of pictures pass through a window of a few."
    rng = np.random.default_rng(0)
    def films():
        for k in range(frames//200): yield Traj(np.zeros(200, np.int64), rng.integers(0, 255, (200, 81, 81, 3), np.uint8), name=f'{k}')
    trajs = write_trajs('noise', dict(frames=frames), films, root=tmp_path); encoder = make_encoder('random5', size=(81, 81))
    tracemalloc.start(); embed_trajs(trajs, encoder, chunk=100, root=tmp_path); peak = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
    assert peak<25e6


def test_another_encoder_is_another_store(tmp_path):
    trajs = toy_trajs(4); stores = {embed_trajs(trajs, make_encoder(n, size=(32, 32), seed=s), root=tmp_path).emb.store.path for n, s in (('random3', 0), ('random3', 1), ('random4', 0))}
    assert len(stores)==3
    with pytest.raises(DataError, match='no pictures'): embed_trajs(trajs.with_columns(frames=None), make_encoder('random3', size=(32, 32)), root=tmp_path)


def test_goals_of_a_choice_of_episodes(tmp_path):
    "One store for a set and for choices of its episodes, whichever is embedded first: each has its own goals."
    root, encoder = tmp_path, make_encoder('random3', size=(32, 32)); whole = toy_trajs(6, goal=True)
    whole = write_trajs('toy', {}, lambda: iter(whole), root=root); ids = [5, 0, 2]
    for first, k in ((whole.select(ids), 1), (whole, 2)):
        some, done = embed_trajs(first, encoder, root=root/str(k)), embed_trajs(whole, encoder, root=root/str(k))
        assert some.emb.store.path==done.emb.store.path and done.goal_embs.shape[0]==6
        again = embed_trajs(whole.select(ids).select([2, 1]), encoder, root=root/str(k))
        assert np.array_equal(again.goal_embs[:], done.goal_embs[:][[2, 0]]) and np.allclose(done.goal_embs[:], embed_frames(encoder, np.asarray(whole.goals[:])), atol=1e-2)
