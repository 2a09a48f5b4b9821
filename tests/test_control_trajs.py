"Demonstrations in a store: rules, windows, memory, full disks, views"
import dataclasses, multiprocessing as mp, os, pickle, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest
from vislearn.clips import Splits, hold_out
from vislearn.control.rows import Joined, Picked, chunk_rows, span_rows, take_rows
from vislearn.control.trajs import Traj, Trajs, check_traj, data_card, join_trajs, open_trajs, read_space, toy_trajs, write_trajs
from vislearn.core import DataError
from vislearn.store import Store, StoreError, build_store, store_path, verify_store

rng = np.random.default_rng(0)


def some(lengths=(5, 1, 8, 3), discrete=True, emb=False):
    "Trajectories with every column."
    for i, n in enumerate(lengths):
        yield Traj(rng.integers(0, 4, n) if discrete else rng.uniform(-1, 1, (n, 2)), rng.integers(0, 256, (n, 8, 6, 3), dtype=np.uint8), rng.integers(0, 256, (8, 6, 3), dtype=np.uint8), rng.normal(size=(n, 4)), rng.normal(size=(n, 2)),
                   rng.normal(size=(n, 7)).astype(np.float16) if emb else None, rng.normal(size=7).astype(np.float16) if emb else None, rng.normal(size=n), [True, None, False][i%3], i + 10, f'demo {i}')


def same(a, b): return all((x is None and y is None) or (np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y) for x, y in zip(a, b))


# Storing ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('mode', ['memmap', 'ram'])
@pytest.mark.parametrize('discrete', [True, False])
def test_stored_is_what_was_given(tmp_path, mode, discrete):
    given = [check_traj(t) for t in some(discrete=discrete, emb=True)]
    trajs = write_trajs('x', dict(a=1), lambda: iter(given), None, tmp_path, dict(source='test'), ('discrete', 4) if discrete else ('continuous', [-1, -1], [1, 1]), mode)
    assert len(trajs) == 4 and trajs.steps == 17 and all(same(a, b) for a, b in zip(trajs, given)) and trajs.info == dict(source='test')
    assert trajs.emb.dtype == np.float16 and trajs.goals.shape == (4, 8, 6, 3) and trajs.goal_embs.shape == (4, 7) and trajs.successes == [True, None, False, True] and list(trajs.seeds) == [10, 11, 12, 13]
    again = Trajs.open(trajs.path, mode); assert again.card == trajs.card == data_card('x', given[0]) and again.action_space == trajs.action_space and verify_store(trajs.path) == []
    copy = pickle.loads(pickle.dumps(again)); assert all(same(a, b) for a, b in zip(copy, given))
    assert again.validate() is again


def test_store_is_found_again_and_named_by_its_card(tmp_path):
    toy = toy_trajs(2); calls = []
    def made(): calls.append(1); return iter(toy)
    one = write_trajs('x', dict(n=2), made, toy.card, tmp_path); two = write_trajs('x', dict(n=2), made, toy.card, tmp_path)
    assert one.path == two.path and calls == [1]
    newer = dataclasses.replace(toy.card, versions=dict(numpy='9'))
    assert write_trajs('x', dict(n=2), made, newer, tmp_path).path == one.path
    other = write_trajs('x', dict(n=2), made, dataclasses.replace(toy.card, skip=4), tmp_path)
    assert other.path != one.path and other.card.skip == 4 and len(calls) == 2


def test_another_kind_is_refused(tmp_path):
    path = build_store('clips', {}, dict(x=('uint8', ())), lambda w: w.append(x=[1]), tmp_path)
    with pytest.raises(DataError, match='a store of clips, expected trajs'): open_trajs(path)
    with pytest.raises(StoreError, match='no complete store'): open_trajs(tmp_path)


# Rules of 4.1 -----------------------------------------------------------------------------------------------------------

GOOD = Traj(np.array([0, 1, 1]), np.zeros((3, 8, 8, 3), np.uint8), state=np.zeros((3, 4), np.float32), reward=np.zeros(3, np.float32), name='demo')
RULES = [
    (dict(frames=np.zeros((3, 8, 8, 3), np.float32)), 'demo: frames must be uint8, got float32: multiply by 255'),
    (dict(frames=np.zeros((3, 8, 8, 4), np.uint8)), '4 channels, expected RGB'),
    (dict(frames=np.zeros((3, 8, 8), np.uint8)), r'frames must be \(T, H, W, C\), got \(3, 8, 8\)'),
    (dict(frames=np.zeros((3, 9, 8, 3), np.uint8)), r'frames is \(9, 8, 3\) uint8 per step, in first \(8, 8, 3\) uint8'),
    (dict(frames=None), 'all trajectories of a set have the same columns'),
    (dict(state=np.zeros((2, 4))), 'columns of different lengths: action 3, frames 3, state 2'),
    (dict(state=np.zeros((3, 5))), r'state is \(5,\) float32 per step'),
    (dict(state=np.zeros(3)), r'state must be \(T, D\), got \(3,\)'),
    (dict(state=np.full((3, 4), np.inf)), 'state: 12 values are not finite'),
    (dict(state=np.full((3, 4), 1e39)), 'state: 12 values are not finite'),
    (dict(state=np.array([['a']*4]*3)), 'state must be float32, got <U1'),
    (dict(state=np.array([[None]*4]*3)), 'state: an array of Python objects'),
    (dict(action=np.array([0, None, 1])), 'action: an array of Python objects'),
    (dict(action=np.array([0., 1, 1])), r'floats must be \(T, A\), got \(3,\): write \(T, 1\)'),
    (dict(action=np.array([[0], [1], [1]])), r'whole numbers are moves and must be \(T,\), got \(3, 1\)'),
    (dict(action=np.array([0, 1, 4])), 'action 4 at step 2 is outside the space, 0 to 3'),
    (dict(action=np.array([0, -1, 1])), 'action -1 at step 1 is outside the space'),
    (dict(action=np.zeros((3, 2))), 'actions are continuous, the space is discrete'),
    (dict(action=np.zeros(0, int), frames=np.zeros((0, 8, 8, 3), np.uint8), state=np.zeros((0, 4)), reward=np.zeros(0)), 'demo: it has no steps'),
    (dict(reward=np.zeros((3, 1))), r'reward must be \(T\), got \(3, 1\)'),
    (dict(reward=np.array([0, np.nan, 0])), 'reward: 1 values are not finite'),
    (dict(goal=np.zeros((8, 8, 3))), 'goal must be uint8'),
    (dict(goal=np.zeros((4, 8, 3), np.uint8)), r'goal is \(4, 8\) px, frames are \(8, 8\)'),
    (dict(emb=np.zeros((3, 2, 2), np.float32)), r'emb must be \(T, D\)'),
    (dict(success=1), 'success must be True, False or None, got 1'),
]


@pytest.mark.parametrize('change,message', RULES)
def test_each_rule_has_its_message(tmp_path, change, message):
    first = GOOD._replace(name='first')
    with pytest.raises(DataError, match=message) as err: check_traj(GOOD._replace(**change), check_traj(first), ('discrete', 4))
    assert '\n' not in str(err.value)
    with pytest.raises(DataError): write_trajs('x', {}, lambda: [first, GOOD._replace(**change)], None, tmp_path, action_space=('discrete', 4))
    assert not [f for f in (tmp_path/'trajs').iterdir() if f.is_dir()]


def test_bounds_have_a_rounding_error():
    space = read_space(('continuous', [-1, 0], [1, 512])); ok = np.array([[1 + 9e-7, 512 + 4e-4], [-1 - 9e-7, -4e-4]])
    check_traj(Traj(ok), space=space)
    for bad, where in ((np.array([[1 + 3e-6, 0]]), '-1 to 1'), (np.array([[0, 512.01]]), '0 to 512'), (np.array([[0, -.01]]), '0 to 512')):
        with pytest.raises(DataError, match=f'step 0 is outside the space, {where}'): check_traj(Traj(bad), space=space)
    with pytest.raises(DataError, match='actions have 3 numbers, the space has 2'): check_traj(Traj(np.zeros((1, 3))), space=space)


def test_validate_finds_what_was_done_to_a_set():
    toy = toy_trajs(4); rebuilt = lambda **change: Trajs(**(dict(arrays=toy.arrays, starts=toy.starts, lengths=toy.lengths, names=toy.names, seeds=toy.seeds, solved=toy.solved, card=toy.card, action_space=toy.action_space) | change))
    rebuilt().validate()
    arrays = lambda **change: dict(arrays={k: v for k, v in (toy.arrays | change).items() if v is not None})
    for change, message in ((arrays(action=None), 'no actions'), (arrays(state=toy.state[:-1]), 'columns of different lengths'), (dict(lengths=toy.lengths + 1), 'steps .* rows'), (dict(lengths=toy.lengths*0), 'steps'), (dict(starts=toy.starts - 1), 'steps -1 to'),
        (dict(seeds=toy.seeds[:2]), '2 seeds'), (arrays(goals=np.zeros((3, 32, 32, 3), np.uint8)), 'goals has 3 rows for 4 episodes'), (dict(action_space=('discrete', 2)), 'is outside the space'), (arrays(state=np.full_like(toy.state, np.nan)), 'not finite')):
        with pytest.raises(DataError, match=message): rebuilt(**change).validate()


def test_spaces_are_read_and_found():
    from gymnasium import spaces
    assert read_space(spaces.Discrete(4)) == ('discrete', 4) and read_space(spaces.Box(-1, np.array([1, 2], np.float32))) == ('continuous', (-1., -1.), (1., 2.))
    for bad in (spaces.Discrete(3, start=1), spaces.Box(0, 1, (2, 2)), ('discrete', -1)):
        with pytest.raises(DataError, match='action space must be'): read_space(bad)
    assert toy_trajs(3).action_space == ('discrete', 4) and Trajs.of([Traj(np.array([0, 6]))]).action_space == ('discrete', 7)


# Choosing, joining ------------------------------------------------------------------------------------------------------

def test_select_and_split_keep_what_belongs_together():
    given = [check_traj(t) for t in some()]; trajs = Trajs.of(given)
    picked = trajs.select([2, 0]); assert all(same(a, given[i]) for a, i in zip(picked, [2, 0])) and np.array_equal(picked.goals[:], trajs.goals[[2, 0]])
    twice = picked.select([1]); assert same(twice[0], given[0]) and np.array_equal(twice.goals[0], given[0].goal)
    train, held = trajs.split(.5, 3); assert sorted(train.names + held.names) == trajs.names and len(held) == 2 and held.names == trajs.split(.5, 3)[1].names
    assert len({tuple(trajs.split(.5, s)[1].names) for s in range(8)}) > 1


def test_B23_other_spaces_are_not_joined():
    toy = toy_trajs(3)
    for other, message in ((toy_trajs(3, kind='continuous'), 'action spaces are'), (toy.with_columns(state=np.zeros((toy.steps, 12), np.float32)), r'state is \(4,\) and \(12,\) per step'), (toy.with_columns(proprio=None), 'cannot be joined: one has'), (toy_trajs(3, size=(48, 32)), r'frames is \(32, 32, 3\) and \(48, 32, 3\)')):
        with pytest.raises(DataError, match=message): join_trajs([toy, other])


@pytest.mark.parametrize('change,word', [(dict(skip=4), 'skip is 1'), (dict(render=dict(profile='exact')), 'render profile')])
def test_B14_another_look_is_not_joined(change, word):
    toy, other = toy_trajs(3), toy_trajs(3); other.card = dataclasses.replace(other.card, **change)
    with pytest.raises(DataError, match=word): join_trajs([toy, other])


def test_joined_environments(tmp_path):
    one, two = toy_trajs(3), toy_trajs(4, seed=9); two.card = dataclasses.replace(two.card, name='Other', max_steps=7, success='none')
    stored = write_trajs('two', {}, lambda: two, two.card, tmp_path, action_space=two.action_space)
    joined = join_trajs([one, stored.select([3, 1]), one.select([0])])
    assert joined.card.name == 'Reach-discrete + Other' and all(same(a, b) for a, b in zip(joined, [*one, two[3], two[1], one[0]])) and joined.validate() is joined
    table = joined.windows(2); assert all(np.array_equal(joined.rows('action', np.arange(a, b)), joined[e].action[(a - joined.starts[e]):(b - joined.starts[e])]) for e, a, b in table)
    with pytest.raises(DataError, match='no sets to join'): join_trajs([])


# Windows ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('length', [1, 2, 3, 8, 100])
def test_windows_stay_inside_episodes(length):
    trajs = Trajs.of(list(some((5, 1, 8, 3)))).select([3, 0, 2]); table = trajs.windows(length)
    assert len(table) == sum(-(-n//length) for n in trajs.lengths) and table.dtype == np.int64
    seen = [r for e, a, b in table for r in range(a, b)]
    assert seen == [r for s, n in zip(trajs.starts, trajs.lengths) for r in range(s, s + n)] # each row once, in order
    assert all(0 < b - a <= length and trajs.starts[e] <= a and b <= trajs.starts[e] + trajs.lengths[e] for e, a, b in table)


def test_no_windows_of_no_episodes():
    assert Trajs.of(list(some())).select([]).windows(4).shape == (0, 3)


# Rows -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('mode', ['memmap', 'ram'])
def test_views_read_what_an_array_would(tmp_path, mode):
    x = rng.integers(0, 256, (70, 3, 2), dtype=np.uint8); path = build_store('t', {}, dict(x=('uint8', (3, 2))), lambda w: w.append(x=x), tmp_path, rows_per_shard=16); stored = Store(path, mode)['x']
    which = rng.integers(0, 140, 50); both = Joined([stored, x]); picked = Picked(both, which); xx = np.concatenate([x, x])
    for base, want in ((stored, x), (both, xx), (picked, xx[which]), (Joined([picked, stored]), np.concatenate([xx[which], x]))):
        idx = rng.integers(0, len(want), (5, 4)); assert np.array_equal(take_rows(base, idx), want[idx]) and take_rows(base, []).shape == (0, 3, 2)
        for a, b in ((0, len(want)), (15, 17), (16, 32), (3, 3), (20, 45)): assert np.array_equal(span_rows(base, a, b), want[a:b])
        assert np.array_equal(np.concatenate([c for _, c in chunk_rows(base, 9)]), want) and np.array_equal(np.concatenate([c for _, c in chunk_rows(base, 9, 5, 44)]), want[5:44])
        with pytest.raises(IndexError): take_rows(base, [len(want)])
        with pytest.raises(IndexError): take_rows(base, [-1])
    if mode == 'memmap': assert isinstance(span_rows(stored, 17, 30), np.memmap)


def test_a_damaged_file_is_noticed_while_streaming(tmp_path):
    path = build_store('t', {}, dict(x=('uint8', (100,))), lambda w: w.append(x=np.zeros((50, 100))), tmp_path); stored = Store(path)['x']; stored.shard(0)
    os.truncate(path/'x-00000.npy', 2000)
    with pytest.raises(DataError, match='x-00000.npy: cut short'): list(chunk_rows(stored, 10))


# Memory and disks -------------------------------------------------------------------------------------------------------

def status(key):
    "A line of /proc/self/status [MB]."
    return next(int(line.split()[1])/1024 for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(key))


def in_store(root, episodes, out):
    "Write, open, gather and stream in one process; say what each step added [MB]."
    def trajs():
        for i in range(episodes): yield Traj(np.zeros(50, int), np.full((50, 128, 128, 3), i%256, np.uint8))
    base = status('VmRSS'); write_trajs('big', dict(n=episodes), trajs, None, root, action_space=('discrete', 1)); wrote = status('VmRSS') - base
    base = status('VmRSS'); start = time.perf_counter(); stored = open_trajs(store_path('trajs', dict(name='big', n=episodes, action_space=('discrete', 1), card=None), root)); took = time.perf_counter() - start; stored[0]; opened = status('VmRSS') - base
    base = status('VmRSS'); total = sum(int(c[:, 0, 0, 0].astype(int).sum()) for _, c in stored.chunks('frames', 64)); streamed = status('VmRSS') - base
    base = status('RssAnon'); stored.validate(); out.put((wrote, opened, streamed, status('RssAnon') - base, took, total, len(stored.frames)))


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='memory is read from /proc')
def test_memory_does_not_grow_with_frames(tmp_path):
    ctx = mp.get_context('spawn'); results = []
    for episodes in (10, 130): # 25 and 320 MB of frames
        q = ctx.Queue(); p = ctx.Process(target=in_store, args=(str(tmp_path), episodes, q)); p.start(); results.append(q.get(timeout=60)); p.join()
    (small, large) = results
    assert large[6]*128*128*3 > 300e6 and large[5] == sum(50*(i%256) for i in range(130))
    assert all(b < a + 30 for a, b in zip(small[:4], large[:4])), (small, large)
    assert large[4] < .5


def full_disk(root):
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)) # writes beyond fail, as on a full disk
    def trajs():
        for i in range(50): yield Traj(np.zeros(5, int), np.zeros((5, 32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8))
    try: write_trajs('x', {}, trajs, None, root)
    except StoreError as e: Path(root, 'said').write_text(str(e))


def test_full_disk_leaves_nothing(tmp_path):
    p = mp.get_context('spawn').Process(target=full_disk, args=(str(tmp_path),)); p.start(); p.join()
    assert 'no room left while writing' in (tmp_path/'said').read_text() and not [f for f in (tmp_path/'trajs').iterdir() if f.is_dir()]


KILLED = """
import sys, time, numpy as np
from vislearn.control.trajs import Traj, write_trajs
def trajs():
    for i in range(1000): print('episode', i, flush=True); yield Traj(np.zeros(5, int), np.zeros((5, 32, 32, 3), np.uint8)); time.sleep(.01)
write_trajs('x', {}, trajs, None, sys.argv[1], action_space=('discrete', 2))
"""


def test_killed_while_writing_leaves_no_set(tmp_path):
    p = subprocess.Popen([sys.executable, '-c', KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    while 'episode 20' not in p.stdout.readline(): pass
    p.send_signal(signal.SIGKILL); p.wait()
    assert not list((tmp_path/'trajs').glob('[!.]*'))
    done = write_trajs('x', {}, lambda: (t._replace(action=t.action%2) for t in some((3, 4))), None, tmp_path, action_space=('discrete', 2)); assert len(done) == 2 and len([f for f in (tmp_path/'trajs').iterdir() if f.is_dir()]) == 1


def test_a_mistake_in_the_middle_leaves_no_set(tmp_path):
    def trajs(): yield from some((3, 4)); raise RuntimeError('simulator died')
    with pytest.raises(RuntimeError): write_trajs('x', {}, trajs, None, tmp_path)
    assert not [f for f in (tmp_path/'trajs').iterdir() if f.is_dir()]


# Toy demonstrations -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('kind', ['discrete', 'continuous'])
def test_toy_demonstrations_can_be_replayed(kind):
    from vislearn.synth.reach import ReachEnv
    toy = toy_trajs(10, 3, kind, decoy=True).validate(); assert all(toy.successes) and list(toy.seeds) == list(range(3, 13))
    for t in toy:
        env = ReachEnv(kind, decoy=True); obs, _ = env.reset(seed=t.seed)
        for i, action in enumerate(t.action):
            assert np.array_equal(obs['pixels'], t.frames[i]) and np.allclose(obs['state'], t.state[i])
            obs, reward, end, late, info = env.step(int(action) if kind == 'discrete' else action); assert reward == pytest.approx(t.reward[i], abs=1e-6) and end == (i == len(t.action) - 1)
    assert toy_trajs(3, kind=kind, goal=True).goals.shape == (3, 32, 32, 3) and same(toy_trajs(1, 5, kind)[0], toy_trajs(6, 0, kind)[5])


@pytest.mark.parametrize('name,options', [('Reach-discrete', {}), ('Reach-continuous', dict(kind='continuous')), ('Reach-goal', dict(goal=True)), ('Reach-decoy', dict(decoy=True))])
def test_B14_toy_data_belong_to_their_environment(name, options):
    from vislearn.control.envs import make_env
    env = make_env(name); card, toy = env.get_wrapper_attr('card'), toy_trajs(2, **options); card.check_same(toy.card, 'environment and data'); assert read_space(env.action_space) == toy.action_space
    with pytest.raises(DataError, match='skip'): make_env(name, skip=2).get_wrapper_attr('card').check_same(toy.card, 'environment and data')
    with pytest.raises(DataError, match='hide_after'): card.check_same(toy_trajs(1, hide_after=1, **options).card, 'environment and data')


def test_trajectories_are_held_out_by_the_rule_of_all_sets():
    assert issubclass(Trajs, Splits) and 'split' not in vars(Trajs); trajs = toy_trajs(9)
    for part, rows in zip(trajs.split(.3, 5), hold_out(9, .3, 5)): assert part.names == [trajs.names[i] for i in rows]


@pytest.mark.parametrize('action, got', [(np.array(['up', 'left']), 'got text such as up'), (np.array([b'up', b'left']), 'got text'), (np.array([True, False]), 'got bool')])
def test_moves_that_are_no_numbers_say_what_was_expected(action, got):
    with pytest.raises(DataError, match=f'expected whole numbers, one move per step, or float32 .T, A., {got}.*: give the number of each move') as e: check_traj(GOOD._replace(action=action))
    assert '\n' not in str(e.value)
