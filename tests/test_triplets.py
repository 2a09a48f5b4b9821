import pickle, random, time, warnings
import numpy as np, pytest, torch
from scipy.spatial.distance import cdist
from terrain_reference import SlowTriplets, slow_triplet, views_of
from vislearn.core import DataError
from vislearn.terrain.cut import JpegIndex, ToyDrive, cut_recording, encode_jpeg
from vislearn.terrain.pairs import PatchParams
from vislearn.terrain.patches import PatchSet, toy_patchset, whole_image
from vislearn.terrain.spec import read_spec
from vislearn.terrain.triplets import AugmentParams, PairSampler, TripletSampler, augment, below, block_split, blur, draws


@pytest.fixture(scope='module')
def pset(tmp_path_factory): return toy_patchset(tmp_path_factory.mktemp('cache'), n=60)


@pytest.fixture(scope='module')
def long(tmp_path_factory): return toy_patchset(tmp_path_factory.mktemp('cache'), n=320)


# --- draws ---

def test_draws_depend_on_seed_epoch_and_item_only():
    whole = draws(7, 2, 0, 100)
    assert (draws(7, 2, 13, 20) == whole[:, 13:33]).all()
    assert all((draws(*key, 0, 100) != whole).any() for key in ((8, 2), (7, 3), (2, 7)))
    assert len(np.unique(whole)) > 790                                         # no number repeats in neighbouring items


def test_below_is_uniform_and_in_range():
    u = draws(0, 0, 0, 50_000).ravel()
    for n in (1, 2, 7, 1000, 2**31-1):
        x = below(u, n)
        assert x.min() >= 0 and x.max() < n and abs(x.mean()-(n-1)/2) < .01*n
    count = np.bincount(below(u, 7))
    assert ((count-len(u)/7)**2/(len(u)/7)).sum() < 22.5                       # chi square, 6 degrees of freedom, p = 0.001
    assert (below(np.array([0, 2**32-1], np.uint32), 5) == [0, 4]).all()


# --- triplets ---

def test_anchor_of_the_worked_example_is_its_clearest_view(tmp_path):
    rng = np.random.default_rng(0)
    images = JpegIndex([encode_jpeg(rng.integers(30, 255, (300, 400, 3), dtype=np.uint8)) for _ in range(30)])
    T = np.tile(np.eye(4), (30, 1, 1)); T[:, 0, 3] = .12*np.arange(30)
    a, b = (cut_recording(images, T, whole_image(300, 400, 100), source=dict(id=k), root=tmp_path) for k in 'ab')
    pset = PatchSet(dict(A=[a], B=[b]))
    anchors = np.unique(TripletSampler(pset)(0, 0, 8000)[:, 0])
    of_10 = [r for r in anchors if pset.datum[r] == 0 and pset.data[0].loc[r] == 10]
    assert len(of_10) == 1 and pset.data[0].view[of_10[0]] == 7
    assert len(TripletSampler(pset)) == min(2*(27+27), 100_000) == 108


def test_distribution_equals_the_seeds_rule(pset):
    n = 60_000
    fast = TripletSampler(pset).rows(0, 0, n)
    rng, views = random.Random(0), views_of(pset)
    slow = np.array([slow_triplet(views, rng) for _ in range(n)])
    for k in range(3):
        counts = [np.bincount(x[:, k], minlength=len(pset)) for x in (fast, slow)]
        seen = sum(counts) > 0
        chi = ((counts[0]-counts[1])**2/np.maximum(sum(counts), 1))[seen].sum()
        assert chi < seen.sum() + 4.5*(2*seen.sum())**.5, (k, chi, seen.sum())  # two samples of one distribution
    for x in (fast, slow):
        cat = pset.category[x]
        assert (cat[:, 0] == cat[:, 1]).all() and (cat[:, 0] != cat[:, 2]).all()
        same = (pset.location[x[:, 0]] == pset.location[x[:, 1]]).mean()
        assert same == pytest.approx(np.mean([1/len(pset.locations(c)) for c in pset.categories]), abs=.003)   # independent locations may coincide


class Items(torch.utils.data.Dataset):
    def __init__(self, sampler): self.sampler = sampler
    def __len__(self): return 1000
    def __getitem__(self, k): return self.sampler.rows(3, k, 1)[0]


def test_any_number_of_workers_gives_the_same_triplets(pset):
    sampler = TripletSampler(pset, seed=5)
    want = sampler.rows(3, 0, 1000)
    for workers in (0, 2, 4):
        got = torch.cat(list(torch.utils.data.DataLoader(Items(sampler), batch_size=50, num_workers=workers)))
        assert (got.numpy() == want).all()
    assert (np.concatenate([sampler(3, k, 40) for k in range(25)]) == want).all()
    assert (pickle.loads(pickle.dumps(sampler))(3, 0, 1000) == want).all()
    assert (sampler(3, 3, 5000) == sampler.rows(3, 15000, 5000)).all()         # across a chunk's border


def test_options(pset):
    n = 20_000
    loc, first, last = pset.location, pset.farthest, pset.clearest
    a, p, _ = TripletSampler(pset, positive='same_location').rows(0, 0, n).T
    many = np.diff(pset.indptr)[loc[a]] > 1
    assert (loc[a] == loc[p]).all() and (a[many] != p[many]).all() and (a[~many] == p[~many]).all()
    m = loc[a[0]]
    count = np.bincount(p[loc[a] == m]-first[m], minlength=last[m]-first[m]+1)
    assert count[-1] == 0 and count[:-1].min() > .6*count[:-1].mean()          # uniform over the other views
    a, p, _ = TripletSampler(pset, positive='mixed', p_same_location=.3).rows(0, 0, n).T
    assert (loc[a] == loc[p]).mean() == pytest.approx(.3+.7/53, abs=.015)
    a, p, v = TripletSampler(pset, anchor_view='random', positive_view='farthest', negative_view='clearest').rows(0, 0, n).T
    assert (p == first[loc[p]]).all() and (v == last[loc[v]]).all() and 0 < (a == last[loc[a]]).mean() < .5
    assert len(TripletSampler(pset)) == 3*len(pset.loc_datum) and len(TripletSampler(pset, epoch_length=77)) == 77


def test_category_weights(pset):
    few = np.ones(len(pset.loc_datum), bool); few[pset.locations('grass')[10:]] = False   # 10 of 53 locations left
    cat = pset.category[TripletSampler(pset, few, category_weights='uniform').rows(0, 0, 30_000)]
    assert np.allclose(np.bincount(cat[:, 0])/30_000, 1/3, atol=.01) and np.allclose(np.bincount(cat[:, 2])/30_000, 1/3, atol=.01)
    x = TripletSampler(pset, few, category_weights='size').rows(0, 0, 30_000)
    size = np.array([few[pset.locations(c)].sum() for c in pset.categories])
    share = size/size.sum()
    assert np.allclose(np.bincount(pset.category[x[:, 0]])/30_000, share, atol=.01)
    second = sum(share[k]*np.where(np.arange(3) == k, 0, share)/(1-share[k]) for k in range(3))
    assert np.allclose(np.bincount(pset.category[x[:, 2]])/30_000, second, atol=.01)
    assert few[pset.location[x]].all()


def test_sampler_refuses_what_cannot_work(pset):
    for kw, text in ((dict(positive='x'), 'positive must be one of'), (dict(locations=np.ones(3, bool)), 'one entry for each'), (dict(category_weights='x'), 'category_weights')):
        with pytest.raises(DataError, match=text): TripletSampler(pset, **kw)
    with pytest.warns(UserWarning, match='no location to draw from: grass'): s = TripletSampler(pset, pset.loc_category != pset.categories.index('grass'))
    assert set(pset.category[s(0, 0, 500)].ravel()) == {0, 2}
    with pytest.raises(DataError, match='two categories'), warnings.catch_warnings():
        warnings.simplefilter('ignore'); TripletSampler(pset, pset.loc_category == 0)


def test_pk_batches(pset):
    s = TripletSampler(pset)
    for step in range(50):
        rows = s.pk(0, step, 2, 6)
        cat = pset.category[rows]
        assert rows.shape == (2, 6) and (cat == cat[:, :1]).all() and cat[0, 0] != cat[1, 0] and (rows == s.pk(0, step, 2, 6)).all()
    first = [pset.category[s.pk(1, k, 1, 2)][0, 0] for k in range(600)]
    assert np.bincount(first).min() > 150


def test_batches_are_far_faster_than_a_sampler_per_item(pset):
    "Fifty times on a quiet machine; a busy one slows the short side more."
    fast, slow = TripletSampler(pset), SlowTriplets(pset)
    def clock(f, n):
        start = time.process_time()
        for k in range(n): f(k)
        return (time.process_time() - start)/n
    ratio = max(clock(lambda k: np.array([slow[i] for i in range(64)]), 20)/clock(lambda k: fast(0, k, 64), 1024) for _ in range(6))
    print(f'{ratio:.0f} times')
    assert ratio > 25


# --- split ---

def test_blocks_are_apart(long):
    split = block_split(long, seed=3)
    assert not (split.train & split.valid).any()
    diagonal = 2**.5*21/50
    for k in range(3):
        at = long.loc_category == k
        train, valid = long.pose[at & split.train, :2], long.pose[at & split.valid, :2]
        assert len(train) and len(valid) and cdist(train, valid).min() > diagonal      # the drive comes back to its start: also there
        assert .08 < len(valid)/at.sum() < .4
        way = np.r_[0, np.cumsum(np.linalg.norm(np.diff(long.pose[at, :2], axis=0), axis=1))]
        for b in np.unique(split.block[at]): assert np.ptp(way[split.block[at] == b]) > 4.5
        for b in np.unique(split.block[at]): assert len(np.unique(split.valid[at][split.block[at] == b])) == 1
    assert (block_split(long, seed=3).valid == split.valid).all() and (block_split(long, seed=4).valid != split.valid).any()
    assert cdist(long.pose[long.locations('grass')][split.valid[long.locations('grass')], :2], long.pose[long.locations('grass')][split.train[long.locations('grass')], :2]).min() <= \
        cdist(*[long.pose[long.locations('grass')][getattr(block_split(long, seed=3, guard_m=1.5), k)[long.locations('grass')], :2] for k in ('valid', 'train')]).min()


def test_short_drives_are_cut_once(tmp_path):
    short = toy_patchset(tmp_path, n=60)
    split = block_split(short)
    for c in short.categories:
        at = short.locations(c)
        assert .12 < split.valid[at].mean() < .25 and split.train[at].mean() > .6 and (np.diff(split.valid[at].astype(int)) >= 0).all()
        assert cdist(short.pose[at][split.train[at], :2], short.pose[at][split.valid[at], :2]).min() > 2**.5*.42


def test_windows_of_one_bag_are_kept_apart(tmp_path):
    "Two data of one recording that drive over the same ground."
    toy = ToyDrive(130, turn_rad=0)
    bag = dict(size=1, mtime_ns=2, edge='x')
    paths = [cut_recording(toy.images, toy.T, toy.bev, PatchParams(patch_px=21), dict(file=bag, window=[k]), root=tmp_path) for k in (0, 1)]
    pset = PatchSet(dict(a=paths))
    split = block_split(pset)
    assert cdist(pset.pose[split.train, :2], pset.pose[split.valid, :2]).min() > 2**.5*.42


# --- pairs ---

def test_pairs_say_what_the_statements_say(pset):
    s = PairSampler(pset, closure=True)
    rows, label, hops = s(0, 0, 30_000)
    level = np.array([pset.spec.levels()[c] for c in pset.categories])[pset.category[rows]]
    assert (np.sign(level[:, 0]-level[:, 1]) == label).all() and (np.abs(level[:, 0]-level[:, 1]) == hops).all()
    assert (rows == pset.clearest[pset.location[rows]]).all()
    assert [(label == k).mean() for k in (-1, 0, 1)] == pytest.approx([.375, .25, .375], abs=.015)
    assert np.bincount(pset.category[rows[label == 0, 0]])/(label == 0).sum() == pytest.approx([1/3]*3, abs=.02)
    got = s(0, 3, 50)
    assert all((a == b).all() for a, b in zip(got, [x[150:200] for x in (rows, label, hops)]))
    assert any((a != b).any() for a, b in zip(s(1, 3, 50), got))


def test_pairs_are_balanced_between_levels(pset):
    "Five statements, four of them between the same two groups: each pair of groups gets the same share."
    spec = read_spec(dict(categories={c: [dict(path='x')] for c in pset.categories}, orderings=[dict(first='concrete', second='grass', label=0), dict(first='grass', second='marble_rock', label=-1), dict(first='concrete', second='marble_rock', label=-1)]))
    rows, label, hops = PairSampler(pset, spec, p_self=.2, p_equal=.1)(0, 0, 30_000)
    cat = np.sort(pset.category[rows], 1)
    share = {(a, b): (cat == (a, b)).all(1).mean() for a in range(3) for b in range(a, 3)}
    assert [share[k, k] for k in range(3)] == pytest.approx([.2/3]*3, abs=.01) and share[0, 1] == pytest.approx(.1, abs=.01)
    assert share[0, 2] == pytest.approx(.35, abs=.015) and share[1, 2] == pytest.approx(.35, abs=.015)
    assert (label[(cat == (0, 1)).all(1)] == 0).all()


def test_only_said_pairs_without_closure(pset):
    spec = read_spec(dict(categories={c: [dict(path='x')] for c in pset.categories}, orderings=[dict(first='concrete', second='grass', label=-1), dict(first='marble_rock', second='grass', label=1)]))
    def strict(closure): rows, label, _ = PairSampler(pset, spec, closure=closure)(0, 0, 3000); return {tuple(sorted(p)) for p in pset.category[rows[label != 0]].tolist()}
    assert strict(False) == {(0, 1), (1, 2)} and strict(True) == {(0, 1), (1, 2), (0, 2)}


def test_seed_weights(pset):
    "Three categories, two statements: three of five draws are self pairs."
    spec = read_spec(dict(categories={c: [dict(path='x')] for c in pset.categories}, orderings=[dict(first='concrete', second='grass', label=-1), dict(first='grass', second='marble_rock', label=-1)]))
    label = PairSampler(pset, spec, weights='seed')(0, 0, 30_000)[1]
    assert (label == 0).mean() == pytest.approx(.6, abs=.01)


def test_pairs_need_statements(pset):
    with pytest.raises(DataError, match='pairs need orderings'): PairSampler(PatchSet(pset.paths))


# --- augmentation ---

STILL = AugmentParams(flip=0, gain=(1, 1), channel_gain=(1, 1), offset=0, blur_p=0, shift_px=0)


def image_batch(n=4000, side=9): return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)).expand(n, -1, -1, -1)*.4+.3


def test_nothing_asked_nothing_done():
    x = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(augment(x, params=STILL), x.float()/255)


def test_flips_are_per_sample_and_independent():
    x = image_batch()
    y = augment(x, torch.Generator().manual_seed(0), STILL.replace(flip=.5))
    kinds = torch.stack([(y == z).flatten(1).all(1) for z in (x, x.flip(2), x.flip(3), x.flip(2, 3))])
    assert (kinds.sum(0) == 1).all() and torch.allclose(kinds.float().mean(1), torch.full((4,), .25), atol=.03)


def test_gain_offset_and_tint_have_the_stated_ranges():
    x, gen = torch.full((20_000, 3, 2, 2), .5), torch.Generator().manual_seed(0)
    gain = augment(x, gen, STILL.replace(gain=(.6, 1.4)))[:, :, 0, 0]/.5
    assert torch.equal(gain[:, 0], gain[:, 1]) and gain.min() >= .6-1e-5 and gain.max() <= 1.4+1e-5 and abs(gain.mean()-1) < .01 and abs(gain[:, 0].std()-.8/12**.5) < .01
    tint = augment(x, gen, STILL.replace(channel_gain=(.92, 1.08)))[:, :, 0, 0]/.5
    assert abs(torch.corrcoef(tint.T)[0, 1]) < .03 and tint.min() >= .92-1e-5 and tint.max() <= 1.08+1e-5 and abs(tint.std()-.16/12**.5) < .003
    off = (augment(x, gen, STILL.replace(offset=12.))[:, :, 0, 0]-.5)*255
    assert torch.allclose(off[:, 0], off[:, 2]) and -12.01 <= off.min() < -11.5 and 11.5 < off.max() <= 12.01
    wild = augment(torch.rand(500, 3, 4, 4), gen, AugmentParams(gain=(3., 3.)))
    assert wild.min() >= 0 and wild.max() == 1


def test_shift_moves_and_repeats_the_border():
    x = image_batch(3000)
    y = augment(x, torch.Generator().manual_seed(0), STILL.replace(shift_px=2))
    pad = torch.nn.functional.pad(x, (2,)*4, mode='replicate')
    hits = torch.stack([(y == pad[..., r:r+9, c:c+9]).flatten(1).all(1) for r in range(5) for c in range(5)])
    assert (hits.sum(0) == 1).all() and torch.allclose(hits.float().mean(1), torch.full((25,), .04), atol=.015)


def test_blur_against_scipy():
    from scipy.ndimage import gaussian_filter
    x = torch.rand(3, 3, 16, 16)
    y = blur(x, torch.tensor([0., .5, 1.]))
    assert torch.equal(y[0], x[0])
    for k, s in ((1, .5), (2, 1.)):
        want = np.stack([gaussian_filter(c.numpy(), s, mode='nearest', radius=3) for c in x[k]])
        assert np.abs(y[k].numpy()-want).max() < 1e-4
    y = augment(image_batch(), torch.Generator().manual_seed(0), STILL.replace(blur_p=.3))
    assert ((y != image_batch()).flatten(1).any(1)).float().mean() == pytest.approx(.26, abs=.03)   # 0.3, less those with a sigma too small to change a float


def test_same_generator_same_result_and_types():
    x = (image_batch(20)*255).byte()
    a, b = (augment(x, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b) and a.dtype == torch.float32 and torch.allclose(augment(x.float()/255, torch.Generator().manual_seed(4)), a)
    assert not torch.equal(augment(x, torch.Generator().manual_seed(5)), a) and not torch.equal(a[0], a[1])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA')
def test_augment_on_the_gpu_equals_the_cpu():
    x = (image_batch(50)*255).byte()
    a, b = (augment(x.to(d), torch.Generator().manual_seed(4)) for d in ('cpu', 'cuda'))
    assert torch.allclose(a, b.cpu(), atol=1e-5)
