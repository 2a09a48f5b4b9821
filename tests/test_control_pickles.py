"The original's pickles: both ways, checked, never run; lists of paths; folders of pictures"
import multiprocessing as mp, os, pickle, resource, signal, sys, warnings
from pathlib import Path

import numpy as np, pytest
from PIL import Image
from vislearn.control.pickles import check_done, each_pictured, read_paths, read_pickle, read_pictures_of, write_pickle, write_pictures_of
from vislearn.control.trajs import Traj, Trajs, toy_trajs
from vislearn.core import DataError

rng = np.random.default_rng(0)


def original(n=4, m=1, embedded=False, discrete=True, seed=0):
    "A dict as the original's generators write it."
    r = np.random.default_rng(seed); lengths = r.integers(1, 9, n); data = {k: [] for k in ('obs', 'action', 'done', 'true_state', 'reward')}
    for t in lengths:
        frames = r.integers(0, 256, (t, 16, 16, 3*m), dtype=np.uint8); frames[..., 3:6] = frames[:1, ..., 3:6]
        data['obs'].append(r.normal(size=(t, 8*m)).astype(np.float32) if embedded else frames); data['action'].append(r.integers(0, 3, t) if discrete else r.uniform(-1, 1, (t, 2)))
        data['done'].append(np.arange(t) == t - 1); data['true_state'].append(r.normal(size=(t, 12))); data['reward'].append(r.normal(size=t))
    return data


def save(path, data, protocol=pickle.HIGHEST_PROTOCOL): path.write_bytes(pickle.dumps(data, protocol)); return path


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('m', [1, 2, 3])
@pytest.mark.parametrize('discrete', [True, False])
def test_files_of_the_original(tmp_path, protocol, m, discrete):
    data = original(m=m, discrete=discrete); trajs = read_pickle(save(tmp_path/'MiniGrid-X-v0.pickle', data, protocol)).validate()
    assert trajs.card.name == 'MiniGrid-X-v0' and trajs.card.family == 'data' and trajs.card.size == (16, 16) and len(trajs) == 4 and trajs.successes == [None]*4
    for i, t in enumerate(trajs):
        seen = t.frames if t.goal is None else np.concatenate([t.frames, np.broadcast_to(t.goal, t.frames.shape)], -1)
        assert np.array_equal(seen, data['obs'][i]) and np.allclose(t.action, data['action'][i]) and np.allclose(t.state, data['true_state'][i]) and np.allclose(t.reward, data['reward'][i])
    assert (trajs.goals is not None) == (m == 2)


def test_a_goal_that_moves_is_no_goal(tmp_path):
    data = original(m=2, seed=3); data['obs'][2][-1, ..., 3:] ^= 1; assert len(data['obs'][2]) > 1
    trajs = read_pickle(save(tmp_path/'x.pickle', data)); assert trajs.goals is None and trajs.frames.shape[-1] == 6
    assert read_pickle(tmp_path/'x.pickle', goal=True).goals.shape == (4, 16, 16, 3) and read_pickle(save(tmp_path/'y.pickle', original(m=2)), goal=False).frames.shape[-1] == 6


@pytest.mark.parametrize('name,env', [('DMC-finger-spin_resnet50_l4', 'DMC-finger-spin'), ('HabitatImageNav-apartment_0_moco_aug_places_uber_345', 'HabitatImageNav-apartment_0'), ('DMC-ball_in_cup-catch_random5', 'DMC-ball_in_cup-catch'), ('HMS-pen-v0_clip_vit', 'HMS-pen-v0')])
def test_embedded_files_tell_their_environment(tmp_path, name, env):
    data = original(embedded=True); trajs = read_pickle(save(tmp_path/f'{name}.pickle', data)); assert trajs.card.name == env and trajs.frames is None and not trajs.card.pixels
    assert all(np.array_equal(t.emb, e) for t, e in zip(trajs, data['obs']))
    assert read_pickle(save(tmp_path/'HabitatImageNav-apartment_0.pickle', original())).card.name == 'HabitatImageNav-apartment_0'


@pytest.mark.parametrize('kind', ['discrete', 'continuous'])
@pytest.mark.parametrize('goal', [True, False])
def test_there_and_back(tmp_path, kind, goal):
    toy = toy_trajs(8, kind=kind, goal=goal); back = read_pickle(write_pickle(toy, tmp_path/'a.pickle'), toy.action_space)
    for a, b in zip(back, toy):
        for k in ('action', 'frames', 'goal', 'state', 'reward'): assert np.array_equal(getattr(a, k), getattr(b, k)) or getattr(a, k) is getattr(b, k) is None
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning); plain = pickle.loads((tmp_path/'a.pickle').read_bytes()) # as the original does
    assert plain.keys() == {'obs', 'action', 'done', 'true_state', 'reward'} and all(type(v) is list and all(type(x) is np.ndarray for x in v) for v in plain.values())
    assert all(d.dtype == bool and d[-1] and not d[:-1].any() for d in plain['done']) and plain['obs'][0].shape[1:] == (32, 32, 6 if goal else 3)
    raw = (tmp_path/'a.pickle').read_bytes(); assert b'numpy._core' not in raw and b'numpy.core.numeric' in raw # NumPy 1 knows these


def test_embeddings_there_and_back(tmp_path):
    toy = toy_trajs(3); emb = rng.normal(size=(toy.steps, 5)).astype(np.float16); goal = rng.normal(size=(3, 5)).astype(np.float16)
    both = toy.with_columns(emb=emb, goal_embs=goal); back = read_pickle(write_pickle(both, tmp_path/'a_random5.pickle', 'emb'))
    assert back.emb.shape == (toy.steps, 10) and back.emb.dtype == np.float32 and np.array_equal(back[1].emb[:, 5:], np.broadcast_to(goal[1], (len(toy[1].action), 5)).astype(np.float32))
    for obs in ('emb', 'reward'):
        with pytest.raises(DataError, match='to write as obs'): write_pickle(toy, tmp_path/'b.pickle', obs)


def change(data, key, i, value): data[key][i] = value(data[key][i])


BAD = [
    (lambda d: d.pop('obs'), "no 'obs': expected a dict with obs, action, done"),
    (lambda d: (d.pop('obs'), d.pop('done')), "no 'obs' and no 'done'"),
    (lambda d: d['true_state'].pop(), 'different numbers of trajectories: obs 4, action 4, done 4, true_state 3'),
    (lambda d: [v.clear() for v in d.values()], 'no trajectories in it'),
    (lambda d: d.update(action=3), "'action' must be a list with one array per trajectory, got int"),
    (lambda d: change(d, 'action', 1, lambda x: x[:-1]), 'x/1: keys of different lengths'),
    (lambda d: [change(d, k, 2, lambda x: x[:0]) for k in d], 'x/2: it has no steps'),
    (lambda d: change(d, 'obs', 0, lambda x: x/np.float32(255)), 'x/0: obs are pictures and must be uint8, got float32'),
    (lambda d: change(d, 'obs', 0, lambda x: x[..., 0]), r'x/0: obs must be pictures \(T, H, W, 3m\) or embeddings'),
    (lambda d: change(d, 'obs', 0, lambda x: x[..., :2]), '2 channels, expected RGB'),
    (lambda d: change(d, 'obs', 0, lambda x: x[:, :8]), 'one size for all'),
    (lambda d: change(d, 'obs', 3, lambda x: x[:, 0, :, 0]), 'x/3: obs are embeddings and must be float32, got uint8'),
    (lambda d: change(d, 'action', 0, lambda x: x*1.), r'floats must be \(T, A\)'),
    (lambda d: change(d, 'action', 0, lambda x: np.array([{}]*len(x))), 'no objects'),
    (lambda d: change(d, 'action', 0, lambda x: x + 3), 'is outside the space, 0 to 2'),
    (lambda d: change(d, 'done', 3, lambda x: np.zeros_like(x)), 'x/3: done is false on its last step'),
    (lambda d: change(d, 'done', 3, lambda x: np.ones_like(x)), 'x/3: done is true at step 0 of'),
    (lambda d: change(d, 'done', 3, lambda x: x*2.5), r'x/3: done must be bool \(T,\)'),
    (lambda d: change(d, 'done', 3, lambda x: x[:, None]), r'x/3: done must be bool \(T,\)'),
    (lambda d: change(d, 'true_state', 3, lambda x: x*np.nan), 'state: .* values are not finite'),
    (lambda d: change(d, 'true_state', 3, lambda x: x[:, :3]), r'state is \(3,\) float32 per step'),
    (lambda d: change(d, 'reward', 3, lambda x: x[:, None]), r'reward must be \(T\)'),
    (lambda d: change(d, 'obs', 1, lambda x: None), 'trajectory 1 has no obs'),
    (lambda d: d.update(extra=os.system), 'asks for posix.system, which could run a program'),
    (lambda d: d.update(extra=Path('x')), 'asks for pathlib'),
    (lambda d: d['obs'].__setitem__(0, np.zeros(3, [('a', 'f4')])), 'x.pickle: '),
]


@pytest.mark.parametrize('spoil,message', BAD)
def test_each_mistake_has_its_message(tmp_path, spoil, message):
    data = original(); spoil(data); save(tmp_path/'x.pickle', data)
    with pytest.raises(DataError, match=message) as err: read_pickle(tmp_path/'x.pickle', ('discrete', 3))
    assert '\n' not in str(err.value)


def test_a_pickle_of_something_else(tmp_path):
    for thing, word in (([dict(images=1)], 'holds a list, expected a dict .* lists of paths are read by read_paths'), (3, 'holds a int'), ({}, "no 'obs' and no 'action' and no 'done'")):
        with pytest.raises(DataError, match=word): read_pickle(save(tmp_path/'x.pickle', thing))
    with pytest.raises(DataError, match='no such file'): read_pickle(tmp_path/'none.pickle')
    raw = save(tmp_path/'x.pickle', original()).read_bytes(); (tmp_path/'x.pickle').write_bytes(raw[:len(raw)//2])
    with pytest.raises(DataError, match='cut short|no pickle'): read_pickle(tmp_path/'x.pickle')


def test_failed_plans_are_left_out_and_counted(tmp_path):
    data = original(); [v.__setitem__(2, None) for v in data.values()]; save(tmp_path/'x.pickle', data)
    with pytest.raises(DataError, match='trajectory 2 has no obs .* skip_failed=True'): read_pickle(tmp_path/'x.pickle')
    trajs = read_pickle(tmp_path/'x.pickle', skip_failed=True); assert trajs.names == ['x/0', 'x/1', 'x/3'] and trajs.info['failed'] == [2]


def test_pictures_stay_in_the_file(tmp_path):
    trajs = read_pickle(save(tmp_path/'x.pickle', original(20))); parts = trajs.frames.parts
    assert all(not p.flags.owndata and not p.flags.writeable for p in parts)


def small_memory(path, out):
    "Read and write again with room for much less than the file."
    def grown(): return int(next(x for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('RssAnon')).split()[1])/1024
    base = grown(); trajs = read_pickle(path); opened = grown() - base; write_pickle(trajs, Path(path).with_name('copy.pickle')); out.put((opened, grown() - base, trajs.steps))


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='memory is read from /proc')
def test_memory_of_a_large_pickle(tmp_path):
    big = Trajs.of([Traj(np.zeros(50, int), np.full((50, 128, 128, 3), i, np.uint8)) for i in range(20)], lazy=True); path = write_pickle(big, tmp_path/'big.pickle'); assert path.stat().st_size > 49e6
    ctx = mp.get_context('spawn'); q = ctx.Queue(); p = ctx.Process(target=small_memory, args=(str(path), q)); p.start(); opened, written, steps = q.get(timeout=60); p.join()
    assert steps == 1000 and opened < 10 and written < 20
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(read_pickle(tmp_path/'copy.pickle'), big))


def full_disk(root):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try: write_pickle(toy_trajs(10), Path(root)/'x.pickle')
    except OSError: sys.exit(3)


def test_full_disk_leaves_no_pickle(tmp_path):
    p = mp.get_context('spawn').Process(target=full_disk, args=(str(tmp_path),)); p.start(); p.join(); assert p.exitcode == 3 and list(tmp_path.iterdir()) == []


# Lists of paths ---------------------------------------------------------------------------------------------------------

def paths(n=3, hand=False):
    r = np.random.default_rng(1)
    return [dict(images=r.integers(0, 256, (5 + i, 8, 8, 3), dtype=np.uint8), actions=r.uniform(-1, 1, (5 + i, 2))) | (dict(state_obs=r.normal(size=(5 + i, 45))) if hand else {}) for i in range(n)]


def test_dmc_paths_with_a_file_of_states(tmp_path):
    given, states = paths(), [dict(observations=rng.normal(size=(5 + i, 9))) for i in range(5)]
    trajs = read_paths(save(tmp_path/'finger.pkl', given), save(tmp_path/'states.pkl', states), 'DMC-finger-spin').validate()
    assert trajs.card.name == 'DMC-finger-spin' and list(trajs.lengths) == [5, 6, 7] and all(np.array_equal(t.frames, p['images']) and np.allclose(t.action, p['actions']) and np.allclose(t.state, s['observations']) for t, p, s in zip(trajs, given, states))
    done = read_pickle(write_pickle(trajs, tmp_path/'DMC-finger-spin.pickle')); assert len(done) == 3
    with pytest.raises(DataError, match='2 paths, finger.pkl has 3: a state for each'): read_paths(tmp_path/'finger.pkl', save(tmp_path/'few.pkl', states[:2]))
    with pytest.raises(DataError, match='columns of different lengths'): read_paths(tmp_path/'finger.pkl', save(tmp_path/'other.pkl', states[::-1]))


def test_hand_paths_and_later_sets(tmp_path):
    given = paths(hand=True); trajs = read_paths(save(tmp_path/'pen-v0.pkl', given)); assert trajs.state.shape[1] == 45 and trajs.card.name == 'pen-v0'
    later = [dict(images=np.moveaxis(p['images'], -1, 1), actions=p['actions'], rewards=np.ones((len(p['actions']), 1)), env_infos=dict(gripper=np.zeros(3)), init_state_dict=dict(qpos=np.zeros(2))) for p in given]
    trajs = read_paths(save(tmp_path/'later.pkl', later)); assert np.array_equal(trajs[2].frames, given[2]['images']) and trajs.reward.shape == (18,)
    longer = [p | dict(images=np.concatenate([p['images'], p['images'][-1:]])) for p in given]; assert np.array_equal(read_paths(save(tmp_path/'longer.pkl', longer))[0].frames, given[0]['images'])


@pytest.mark.parametrize('thing,word', [({}, 'expected a list of dicts'), ([], 'expected a list of dicts'), ([1], 'expected a list of dicts, one per path, got list of int'), ([dict(images=np.zeros((2, 8, 8, 3), np.uint8))], 'x/0: no actions')])
def test_no_paths(tmp_path, thing, word):
    with pytest.raises(DataError, match=word): read_paths(save(tmp_path/'x.pkl', thing))


# Folders of pictures ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('form', ['png', 'jpg'])
@pytest.mark.parametrize('every', [1, 3])
@pytest.mark.parametrize('bgr', [True, False])
def test_pictures_there_and_back(tmp_path, form, every, bgr):
    toy = toy_trajs(12, goal=True); folder = write_pictures_of(toy, tmp_path/'Reach', form, every, bgr); back = read_pictures_of(folder, bgr, toy.action_space).validate()
    assert back.card.name == 'Reach' and len(back) == 12
    for a, b in zip(back, toy):
        off = np.abs(a.frames.astype(int) - b.frames[::every]).max(initial=0); assert np.array_equal(a.action, b.action[::every]) and np.array_equal(a.state, b.state[::every]) and (off == 0 if form == 'png' else 0 < np.abs(a.frames.astype(int) - b.frames[::every]).mean() < 6)
        if form == 'png': assert np.array_equal(a.goal, b.goal)
    assert (folder/f'11_0.{form}').exists() and (folder/f'11_goal.{form}').exists()


def test_colours_on_disk_are_swapped_only_if_asked(tmp_path):
    red = Trajs.of([Traj(np.zeros(2, int), np.broadcast_to(np.uint8([200, 10, 20]), (2, 8, 8, 3)))])
    for bgr, pixel in ((False, (200, 10, 20)), (True, (20, 10, 200))):
        with Image.open(write_pictures_of(red, tmp_path/str(bgr), bgr=bgr)/'0_1.png') as picture: assert picture.getpixel((3, 3)) == pixel
    assert tuple(read_pictures_of(tmp_path/'True')[0].frames[0, 0, 0]) == (20, 10, 200) and tuple(read_pictures_of(tmp_path/'True', bgr=True)[0].frames[0, 0, 0]) == (200, 10, 20)


def test_broken_folders(tmp_path):
    toy = toy_trajs(3); good = lambda name: write_pictures_of(toy, tmp_path/name)
    (good('a')/'1.pickle').unlink()
    with pytest.raises(DataError, match='1.pickle is missing'): list(each_pictured(tmp_path/'a'))
    save(good('b')/'2.pickle', dict(reward=np.zeros(3)))
    with pytest.raises(DataError, match='expected a dict with action'): read_pictures_of(tmp_path/'b')
    (good('c')/'0_9.png').write_bytes((tmp_path/'c'/'0_0.png').read_bytes())
    with pytest.raises(DataError, match='picture 0_9 has no action'): read_pictures_of(tmp_path/'c')
    (good('d')/'1_0.png').write_bytes(b'no picture')
    with pytest.raises(DataError, match='1_0.png: this picture does not decode'): read_pictures_of(tmp_path/'d')
    save(good('e')/'2.pickle', dict(action=toy[2].action, done=np.zeros(len(toy[2].action), bool)))
    with pytest.raises(DataError, match='e/2: done is false on its last step'): read_pictures_of(tmp_path/'e')


def test_done_flags():
    for good in ([True], [False, True], np.array([0, 0, 1]), np.array([0., 1.])): check_done(good, 'x')
    for bad, word in (([0], 'false on its last step'), ([1, 1], 'true at step 0 of 2'), (['a'], 'must be bool'), ([[1]], 'must be bool'), ([0, 3], 'must be bool')):
        with pytest.raises(DataError, match=word): check_done(bad, 'x')
