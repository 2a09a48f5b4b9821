"Batches of demonstrations: every step once, the ring of the original row for row, histories, and the speed of slices."
import time
import numpy as np, pytest, torch
from pvr_reference import assemble, legacy_starts, stacked, step_loop
from vislearn.control.policies import Policy, PolicySpec
from vislearn.control.trajs import Traj, Trajs, toy_trajs, write_trajs
from vislearn.control.windows import BcData, Steps, WindowDL, cut_ring, cut_windows, essential_epochs, fuse, read_pieces, read_steps, steps_of
from vislearn.control.wrappers import Stacker, stack_frames
from vislearn.core import ConfigError
from vislearn.loaders import ItemDL

LENGTHS = (7, 1, 3, 12, 30)


def demos(lengths=LENGTHS, D=3, goal=False, proprio=False, seed=0):
    "States say (episode, step); features are random."
    rng = np.random.default_rng(seed); vec = lambda *s: rng.normal(size=s).astype(np.float32)
    return Trajs.of([Traj(action=rng.integers(0, 4, n), emb=vec(n, D), goal_emb=vec(2) if goal else None, proprio=vec(n, 2) if proprio else None, state=np.float32(np.c_[np.full(n, e), np.arange(n)])) for e, n in enumerate(lengths)])


def shown(dl, epoch):
    "Steps that an epoch shows, as (episode, step)."
    dl.epoch, out = epoch, []
    for batch in dl: x = batch[0][batch[2]] if len(batch) == 4 else batch[0][:, 0]; out += [tuple(v) for v in x.int().tolist()]
    return out


@pytest.mark.parametrize('mode', ['window', 'step'])
@pytest.mark.parametrize('bs', [1, 4, 100])
@pytest.mark.parametrize('window', [1, 5, 100])
def test_an_epoch_shows_every_step_once(mode, bs, window):
    dl = WindowDL(steps_of(demos(), BcData(obs='state')), bs, BcData(mode=mode, window=window, obs='state', burn_in=3*(mode == 'window')))
    every = [(e, t) for e, n in enumerate(LENGTHS) for t in range(n)]
    assert sorted(shown(dl, 0)) == every and sorted(shown(dl, 7)) == every
    if len(dl.table) > 5: assert shown(dl, 0) != shown(dl, 1)
    assert shown(dl, 2) == shown(dl, 2)


def test_no_piece_crosses_an_episode():
    steps = steps_of(demos(), BcData(obs='state'))
    for table in (cut_windows(steps, 4, 2), *(cut_ring(steps, 10, s) for s in range(53))):
        e, low, a, b = table.T
        assert (steps.starts[e] <= low).all() and (low <= a).all() and (a < b).all() and (b <= steps.starts[e] + steps.lengths[e]).all()


@pytest.mark.parametrize('window, shift', [(10, 0), (10, 7), (100, 31), (53, 52), (1, 9)])
def test_ring_is_the_original_row_for_row(window, shift):
    d = demos(); steps = steps_of(d); n = steps.n_rows(); starts = legacy_starts(n, window, shift, range(-(-n//window))); x, a = assemble([np.asarray(d.emb), np.asarray(d.action)], starts, window)
    table = cut_ring(steps, window, shift); pieces = read_pieces(steps, table)
    assert torch.equal(pieces[0][pieces[2]], x.transpose(0, 1).reshape(-1, 3)) and torch.equal(pieces[3], a.T.reshape(-1))


def test_1050_rows_are_11_windows_and_1100_visits():
    steps = steps_of(demos([50]*21)); dl = WindowDL(steps, 4, BcData(mode='legacy', window=100))
    assert dl.n == 11 and sum(len(batch[3]) for batch in dl) == 1100


def test_B20_shift_is_a_function_of_seed_and_epoch():
    steps = steps_of(demos([50]*21)); make = lambda seed: WindowDL(steps, 4, BcData(mode='legacy'), seed); one, two = make(3), make(3)
    late = two.batch(5, 1); [list(one) for one.epoch in range(5)]; one.epoch = 5; again = list(one)[1]
    assert all(torch.equal(p, q) for p, q in zip(late, again)) and len({make(0).shift(e) for e in range(8)}) == 8 and make(0).shift(1) != make(1).shift(1)


def test_P08_B4b_ring_through_the_fused_policy_is_the_loop_with_resets():
    "The memory is empty before the first step of an episode and of a window, and nowhere else."
    d = demos(); steps = steps_of(d); torch.manual_seed(0); net = Policy(PolicySpec(dim=3, n=4, widths=[16])).eval(); W, shift = 20, 13
    first = np.zeros(steps.n_rows(), bool); first[steps.starts] = True; starts = legacy_starts(steps.n_rows(), W, shift, range(3))
    x, fresh = assemble([np.asarray(d.emb), first], starts, W); fresh[0] = True
    with torch.no_grad(): loop = step_loop(net, x, fresh).transpose(0, 1).reshape(-1, 4); p, real, counts, _ = read_pieces(steps, cut_ring(steps, W, shift)); fused = net(p, mask=real).pred[counts]
    assert fused.shape == loop.shape and (fused - loop).abs().max() < 1e-5


def test_burn_in_fills_the_memory_as_the_whole_episode_does():
    d = demos([40]); steps = steps_of(d); torch.manual_seed(0); net = Policy(PolicySpec(dim=3, n=4, widths=[16])).eval()
    with torch.no_grad():
        whole = net(torch.from_numpy(np.array(d.emb))[None]).pred[0]; x, real, counts, _ = read_pieces(steps, cut_windows(steps, 10, burn_in=40)); pieces = net(x, mask=real).pred[counts]
        bare = read_pieces(steps, cut_windows(steps, 10)); empty = net(bare[0], mask=bare[1]).pred[bare[2]]
    assert (whole - pieces).abs().max() < 1e-5 and (whole - empty).abs().max() > 1e-3 and (whole - empty)[:10].abs().max() < 1e-5


@pytest.mark.parametrize('mode', ['cat', 'diff'])
@pytest.mark.parametrize('k', [1, 2, 3, 5])
@pytest.mark.parametrize('how', ['window', 'step', 'legacy'])
def test_P06_histories_of_data_and_of_acting_agree(mode, k, how):
    "Batches, the whole-array form, the queue of the original, and the stacker of actors: the same numbers."
    d = demos(goal=True, proprio=True); data = BcData(mode=how, window=6, stack=k, stack_mode=mode, proprio=True, burn_in=2*(how == 'window')); steps = steps_of(d, data)
    both = np.concatenate([np.array(d.emb), np.repeat(np.array(d.goal_embs), LENGTHS, 0)], 1); slow = np.concatenate([stacked(both, steps.starts, k, mode), np.array(d.proprio)], 1)
    fast = np.concatenate([stack_frames(both, steps.starts, k, mode), np.array(d.proprio)], 1)
    pusher = Stacker(k, mode); acted = np.concatenate([np.concatenate([pusher.push(both[t:t + 1], np.array([t in steps.starts])) for t in range(len(both))]), np.array(d.proprio)], 1)
    assert np.allclose(slow, fast) and np.allclose(slow, acted) and steps.dim(k) == slow.shape[1]
    dl = WindowDL(steps, 3, data, shuffle=False); rows = []
    if how == 'step': rows = torch.cat([x[:, 0] for x, _ in dl])
    else: rows = torch.cat([x[counts] for x, _, counts, _ in dl])[:len(slow)]
    assert np.allclose(rows.numpy(), slow)


def test_P06_three_moments_of_numbers():
    assert fuse(np.array([[[10], [5], [7]]], np.uint8), 'diff').tolist() == [[-5, 2, 7]]
    steps = Steps(np.float32([[10], [5], [7]]), None, None, np.zeros(3, int), np.array([0]), np.array([3]))
    x, _ = read_steps(steps, np.zeros(3, int), np.arange(3), 3, 'diff'); assert x[:, 0].tolist() == [[0, 0, 10], [0, -5, 5], [-5, 2, 7]]


def test_a_store_gives_what_memory_gives(tmp_path):
    d = demos(goal=True, proprio=True); stored = write_trajs('demo', dict(n=1), lambda: iter(d), root=tmp_path, action_space=('discrete', 4))
    for mode in ('window', 'step', 'legacy'):
        data = BcData(mode=mode, window=5, stack=2, proprio=True); pair = [list(WindowDL(steps_of(t, data), 4, data, seed=3)) for t in (d, stored)]
        assert all(torch.equal(p, q) for a, b in zip(*pair) for p, q in zip(a, b))
    some = [4, 0, 2]; chosen = stored.select(some); data = BcData(mode='legacy', obs='state', window=9)
    assert {e for e, _ in shown(WindowDL(steps_of(chosen, data), 4, data), 0)} == set(some) and len(shown(WindowDL(steps_of(chosen, data), 4, data), 0)) == 45


def test_half_precision_and_raw_frames():
    d = demos(); halves = d.with_columns(emb=np.asarray(d.emb, np.float16)); x = WindowDL(steps_of(halves), 4).batch(0, 0)[0]; assert x.dtype == torch.float32
    toys = toy_trajs(12, goal=True); toys = Trajs.of(t for t in toys if len(t.action) > 2); data = BcData(window=5, stack=2); steps = steps_of(toys, data, frames=True); x, real, counts, _ = WindowDL(steps, 3, data, shuffle=False).batch(0, 0)
    assert x.dtype == torch.uint8 and x.shape[2:] == (32, 32, 12) == (32, 32, steps.dim(2))
    assert np.array_equal(x[0, 1, ..., 6:9], toys.frames[1]) and np.array_equal(x[0, 1, ..., :3], toys.frames[0]) and np.array_equal(x[0, 1, ..., 9:], toys.goals[0]) and np.array_equal(x[0, 0, ..., :3], toys.frames[0])


def test_processes_share_an_epoch(monkeypatch):
    import vislearn.loaders as loaders
    steps = steps_of(demos(), BcData(obs='state')); seen = []
    for r in (0, 1):
        monkeypatch.setattr(loaders, 'world', lambda: 2); monkeypatch.setattr(loaders, 'rank', lambda r=r: r)
        seen.append(shown(WindowDL(steps, 2, BcData(window=5, obs='state')), 4)); assert len(WindowDL(steps, 2, BcData(window=5, obs='state'))) == 4
    assert {*seen[0], *seen[1]} == {(e, t) for e, n in enumerate(LENGTHS) for t in range(n)}


@pytest.mark.parametrize('epochs, want', [(10, [1, 2, 3, 4, 5, 6, 8, 10]), (50, [1, 2, 3, 5, 10, 15, 20, 25, 30, 40, 50]), (100, [1, 2, 3, 4, 5, 10, 20, 30, 40, 50, 60, 80, 100]), (200, [2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 120, 160, 200]), (1, [1])])
def test_P05_essential_epochs(epochs, want): assert essential_epochs(epochs) == want


@pytest.mark.parametrize('wrong', [dict(window=0), dict(mode='windows'), dict(stack_mode='flare'), dict(valid_share=1.), dict(unroll=3), dict(num_trajectories=0)])
def test_wrong_settings(wrong):
    with pytest.raises(ConfigError) as e: BcData(**wrong)
    assert '\n' not in str(e.value)


def test_slices_are_three_times_as_fast_as_numbers():
    "Assembly alone, on a map of features as long as those of a ResNet."
    rng = np.random.default_rng(0); emb = rng.normal(size=(6000, 2048)).astype(np.float32); act = rng.integers(0, 3, 6000); steps = Steps(emb, None, None, act, np.arange(0, 6000, 100), np.full(60, 100))
    dl = WindowDL(steps, 16, BcData(mode='window')); assert isinstance(dl, ItemDL)
    def timed(fn, n=5):
        took = []
        for i in range(n): start = time.process_time(); fn(i); took.append(time.process_time() - start)
        return min(took)
    slow = timed(lambda i: assemble([emb, act], legacy_starts(6000, 100, 37*i, range(16)), 100)); fast = timed(lambda i: dl.batch(i, 0))
    assert slow > 2*fast, f'by number {slow*1e3:.1f} ms, by slice {fast*1e3:.1f} ms'
    print(f'assembly: {slow*1e3:.1f} ms -> {fast*1e3:.1f} ms')
