"Demonstrations of others: npz, HDF5, robomimic, Minari, donkey car, LeRobot, and the reader that recognises them"
import json, os, pickle, tarfile

import numpy as np, pytest
from PIL import Image
from vislearn.control import wrappers
from vislearn.control.drives import read_lerobot, read_table, read_tub
from vislearn.control.flat import read_flat_hdf5, read_npz
from vislearn.control.hdf import read_minari, read_robomimic, write_minari
from vislearn.control.importers import KINDS, read_trajs, trajs_kind
from vislearn.control.pickles import write_pickle, write_pictures_of
from vislearn.control.trajs import toy_trajs, write_trajs
from vislearn.core import ConfigError, DataError, real_data
from vislearn.movies import write_video

h5py, minari, av = pytest.importorskip('h5py'), pytest.importorskip('minari'), pytest.importorskip('av')
rng = np.random.default_rng(0)


def same(a, b, *columns): return all(np.allclose(getattr(a, k), getattr(b, k)) for k in columns)


# Arrays -----------------------------------------------------------------------------------------------------------------

def flat_columns(toy):
    last = np.zeros(toy.steps, bool); last[toy.starts + toy.lengths - 1] = True
    return dict(image=toy.frames, observations=toy.state, actions=toy.action, rewards=toy.reward, terminals=last)


@pytest.mark.parametrize('kind', ['discrete', 'continuous'])
@pytest.mark.parametrize('ends', ['flags', 'floats', 'numbers', 'timeouts'])
def test_npz_steps_in_a_row(tmp_path, kind, ends):
    toy = toy_trajs(9, kind=kind); data = flat_columns(toy); last = data.pop('terminals')
    data |= dict(flags=dict(done=last), floats=dict(terminals=last.astype(float)), numbers=dict(episode_ends=np.cumsum(toy.lengths)), timeouts=dict(terminals=last & (np.cumsum(last)%2 == 0), timeouts=last & (np.cumsum(last)%2 == 1)))[ends]
    np.savez_compressed(tmp_path/'a.npz', **data); got = read_npz(tmp_path/'a.npz', action_space=toy.action_space, root=tmp_path).validate()
    assert np.array_equal(got.lengths, toy.lengths) and all(same(a, b, 'frames', 'state', 'action', 'reward') for a, b in zip(got, toy)) and got.card.family == 'data' and got.card.name == 'a'
    assert got.action_space == toy.action_space and got.path.is_relative_to(tmp_path) and read_npz(tmp_path/'a.npz', action_space=toy.action_space, root=tmp_path).path == got.path
    np.savez(tmp_path/'a.npz', **(data | dict(rewards=toy.reward + 1))); assert read_npz(tmp_path/'a.npz', action_space=toy.action_space, root=tmp_path).reward[0] == pytest.approx(toy.reward[0] + 1) # a changed file is read again


def test_npz_one_row_per_episode(tmp_path):
    frames, act, state = rng.integers(0, 256, (4, 7, 8, 8, 3), dtype=np.uint8), rng.normal(size=(4, 6, 3)), rng.normal(size=(4, 7, 2))
    np.savez(tmp_path/'a.npz', pixels=frames, cam2=frames[::-1], action=act, state=state, success=np.array([1, 0, 1, 0])); got = read_npz(tmp_path/'a.npz', root=tmp_path)
    assert list(got.lengths) == [6]*4 and np.array_equal(got[2].frames, frames[2, :6]) and np.allclose(got[3].state, state[3, :6]) and got.successes == [True, False, True, False]
    assert np.array_equal(read_npz(tmp_path/'a.npz', frames='cam2', root=tmp_path)[0].frames, frames[3, :6]) and read_npz(tmp_path/'a.npz', frames='', root=tmp_path).frames is None


def test_push_t(tmp_path):
    path = real_data('robot_video/pusht_episode0_96px.npz')
    if path is None: pytest.skip('Push-T of ../shared/data is not here')
    raw = np.load(path); got = read_npz(path, ends='', action_space=('continuous', [0, 0], [512, 512]), root=tmp_path).validate()
    assert list(got.lengths) == [161] and np.array_equal(got[0].frames, raw['image']) and np.allclose(got[0].action, raw['action']) and np.allclose(got[0].state, raw['state']) and got.successes == [False]
    with pytest.raises(DataError, match='is outside the space, -1 to 1'): read_npz(path, ends='', action_space=('continuous', [-1, -1], [1, 1]), root=tmp_path)


def test_bridge(tmp_path):
    path = real_data('robot_video/bridge_v2_25x10_64px.npz')
    if path is None: pytest.skip('Bridge of ../shared/data is not here')
    got = read_npz(path, root=tmp_path); raw = np.load(path)
    assert len(got) == 25 and np.array_equal(got[7].frames, raw['image_0'][7]) and np.allclose(got[7].action, raw['action'][7]) and np.allclose(got[7].state, raw['state'][7])


@pytest.mark.parametrize('kind', ['discrete', 'continuous'])
def test_d3rlpy_and_d4rl_files(tmp_path, kind):
    toy = toy_trajs(6, kind=kind); data = flat_columns(toy); frames = data.pop('image')
    with h5py.File(tmp_path/'a.hdf5', 'w') as f:
        for k, v in data.items(): f[k] = v[:, None] if k == 'actions' and kind == 'discrete' else v
        f.create_group('infos')['goal'] = np.zeros(3)
    got = read_flat_hdf5(tmp_path/'a.hdf5', root=tmp_path); assert all(same(a, b, 'state', 'action', 'reward') for a, b in zip(got, toy)) and len(got) == 6
    with h5py.File(tmp_path/'b.h5', 'w') as f: # pictures, channels first
        f['observations'], f['actions'], f['rewards'], f['terminals'], f['episode_terminals'] = np.moveaxis(frames, -1, 1), data['actions'], data['rewards'], np.zeros(toy.steps), data['terminals']
    got = read_trajs(tmp_path/'b.h5', root=tmp_path); assert all(same(a, b, 'frames', 'action') for a, b in zip(got, toy)) and got.state is None


@pytest.mark.parametrize('data,word', [(dict(x=np.zeros(3)), 'no array of actions'), (dict(actions=np.zeros((5, 2)), state=np.zeros((4, 2))), "'state' has 4 rows, 'actions' 5"), (dict(actions=np.zeros((5, 2)), done=np.arange(5)), "'done' must be flags for 5 steps"),
    (dict(actions=np.zeros((5, 2)), image=np.zeros((5, 8, 8, 3))), 'frames must be uint8, got float64: multiply by 255'), (dict(actions=np.array([{}]*5, object)), 'Python objects'), (dict(actions=np.full((5, 2), np.nan)), 'values are not finite'), (dict(actions=np.zeros((0, 2))), 'no trajectories found|it has no steps')])
def test_bad_arrays(tmp_path, data, word):
    np.savez(tmp_path/'a.npz', **data)
    with pytest.raises(DataError, match=word) as err: read_npz(tmp_path/'a.npz', root=tmp_path/'cache')
    assert '\n' not in str(err.value) and not list((tmp_path/'cache').glob('trajs/*/meta.json'))


# robomimic --------------------------------------------------------------------------------------------------------------

def robomimic(path, toy):
    with h5py.File(path, 'w') as f:
        data = f.create_group('data'); data.attrs['env_args'] = json.dumps(dict(env_name='Lift', type=1)); f['mask/train'], f['mask/valid'] = np.array([f'demo_{i}'.encode() for i in range(0, len(toy), 2)]), np.array([b'demo_11'])
        for i, t in enumerate(toy):
            demo = data.create_group(f'demo_{i}'); demo['actions'], demo['rewards'], demo['dones'], demo['states'] = t.action, t.reward, np.arange(len(t.action)) == len(t.action) - 1, t.state
            demo['obs/front_image'], demo['obs/agentview_image'], demo['obs/object'] = t.frames[:, ::-1], t.frames, t.state
            demo['obs/robot0_eef_pos'], demo['obs/robot0_gripper_qpos'] = t.proprio, np.ones((len(t.action), 1))
    return path


def test_robomimic_files(tmp_path):
    toy = toy_trajs(12, kind='continuous'); path = robomimic(tmp_path/'lift.hdf5', toy); assert trajs_kind(path) == 'robomimic'
    got = read_robomimic(path, 'agentview_image', root=tmp_path, action_space=toy.action_space).validate()
    assert got.card.name == 'Lift' and got.names[-1] == 'lift/demo_11' and all(same(a, b, 'frames', 'state', 'action', 'reward') for a, b in zip(got, toy)) and got.proprio.shape[1] == 3
    assert read_robomimic(path, mask='train', root=tmp_path).names == [f'lift/demo_{i}' for i in range(0, 12, 2)]
    assert read_robomimic(path, state=['object', 'robot0_eef_pos'], proprio=['robot0_eef_pos'], root=tmp_path).state.shape[1] == 6
    for options, word in ((dict(mask='test'), 'it has train, valid'), (dict(camera='front'), "did you mean 'front_image'"), (dict(state=['objects']), "did you mean 'object'")):
        with pytest.raises(DataError, match=word): read_robomimic(path, root=tmp_path, **options)


# Minari -----------------------------------------------------------------------------------------------------------------

@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path/'minari')); (tmp_path/'minari').mkdir(); return tmp_path/'minari'


def write_own(ident, toy, observe, space, jpeg=False, discrete=True, **episode):
    "A data set, by Minari's own functions."
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    buffers = [EpisodeBuffer(seed=int(t.seed), observations=observe(t), actions=t.action, rewards=list(t.reward), terminations=[False]*(len(t.action) - 1) + [True], truncations=[False]*len(t.action), **episode) for t in toy]
    minari.create_dataset_from_buffers(ident, buffers, observation_space=space, action_space=spaces.Discrete(4) if discrete else spaces.Box(-1, 1, (2,), np.float32), jpeg_encoding=jpeg, description='d', algorithm_name='a', author='x', author_email='y', code_permalink='z')


def more(x): return np.concatenate([x, x[-1:] + 1])


@pytest.mark.parametrize('kind', ['discrete', 'continuous'])
@pytest.mark.parametrize('jpeg', [False, True])
def test_minari_of_its_own_making(datasets, tmp_path, kind, jpeg):
    from gymnasium import spaces
    toy = toy_trajs(12, 5, kind, goal=True); space = spaces.Dict(pixels=spaces.Box(0, 255, (32, 32, 3), np.uint8), goal=spaces.Box(0, 255, (32, 32, 3), np.uint8), state=spaces.Box(-9, 9, (4,), np.float32))
    write_own('reach/own-v1', toy, lambda t: dict(pixels=more(t.frames), goal=np.repeat(t.goal[None], len(t.action) + 1, 0), state=more(t.state)), space, jpeg, kind == 'discrete')
    for path in (datasets/'reach'/'own-v1', datasets/'reach'/'own-v1'/'data', 'reach/own-v1'):
        got = read_minari(path, root=tmp_path).validate()
        assert list(got.lengths) == list(toy.lengths) and list(got.seeds) == list(range(5, 17)) and got.action_space == toy.action_space and got.names[11].endswith('episode_11')
        for a, b in zip(got, toy):
            assert same(a, b, 'state', 'action', 'reward')
            off = np.abs(a.frames.astype(int) - b.frames).mean(); assert off < 8 if jpeg else off == 0 and np.array_equal(a.goal, b.goal)


def test_minari_observations_of_other_kinds(datasets, tmp_path):
    from gymnasium import spaces
    toy = toy_trajs(3)
    write_own('plain-v0', toy, lambda t: more(t.state), spaces.Box(-9, 9, (4,), np.float32)); got = read_minari('plain-v0', root=tmp_path); assert all(same(a, b, 'state', 'action') for a, b in zip(got, toy)) and got.frames is None
    goals = spaces.Dict(observation=spaces.Box(-9, 9, (4,), np.float32), achieved_goal=spaces.Box(-9, 9, (2,), np.float32), desired_goal=spaces.Box(-9, 9, (2,), np.float32))
    write_own('goals-v0', toy, lambda t: dict(observation=more(t.state), achieved_goal=more(t.proprio), desired_goal=more(t.proprio)), goals)
    assert read_minari('goals-v0', root=tmp_path).state.shape[1] == 8 and same(read_minari('goals-v0', state=['observation'], root=tmp_path)[1], toy[1], 'state')
    with pytest.raises(DataError, match="no observation 'observations'.*did you mean 'observation'"): read_minari('goals-v0', state=['observations'], root=tmp_path)
    write_own('pictures-v0', toy, lambda t: more(t.frames), spaces.Box(0, 255, (32, 32, 3), np.uint8)); assert same(read_minari('pictures-v0', root=tmp_path)[2], toy[2], 'frames')


@pytest.mark.parametrize('kind', ['discrete', 'continuous'])
@pytest.mark.parametrize('goal', [True, False])
def test_minari_reads_what_is_written(datasets, tmp_path, kind, goal):
    toy = toy_trajs(5, 3, kind, goal=goal); assert write_minari(toy, 'reach/toy-v0') == 'reach/toy-v0'
    data = minari.load_dataset('reach/toy-v0'); assert data.total_episodes == 5 and data.total_steps == toy.steps
    for e, t in zip(data.iterate_episodes(), toy):
        assert np.array_equal(e.observations['pixels'][:-1], t.frames) and np.array_equal(e.observations['pixels'][-1], t.frames[-1]) and np.allclose(e.actions, t.action) and np.allclose(e.rewards, t.reward) and list(e.terminations) == [False]*(len(t.action) - 1) + [True] and not e.truncations.any()
        assert data.observation_space.contains({k: v[0] for k, v in e.observations.items()}) and data.action_space.contains(e.actions[0])
    back = read_minari('reach/toy-v0', root=tmp_path); assert back.successes == toy.successes and list(back.seeds) == list(toy.seeds) and all(same(a, b, 'frames', 'state', 'proprio', 'action', 'reward') for a, b in zip(back, toy))
    assert os.environ['MINARI_DATASETS_PATH'] == str(datasets)


def test_minari_that_is_not_there(datasets, tmp_path):
    with pytest.raises(DataError, match='no Minari data set here'): read_minari('none-v0')
    toy = toy_trajs(2); write_minari(toy, 'x-v0'); meta = datasets/'x-v0'/'data'/'metadata.json'; meta.write_text(json.dumps(json.loads(meta.read_text()) | dict(data_format='arrow')))
    with pytest.raises(DataError, match='the data are arrow, only hdf5 is read'): read_minari('x-v0', root=tmp_path)
    (datasets/'x-v0'/'data'/'main_data.hdf5').write_bytes(b'broken'); meta.write_text(meta.read_text().replace('arrow', 'hdf5'))
    with pytest.raises(DataError, match='no HDF5 file that can be read'): read_minari('x-v0', root=tmp_path)


# Donkey car -------------------------------------------------------------------------------------------------------------

def tub(folder, n=12, gone=(), session=lambda i: 'a'):
    (folder/'images').mkdir(parents=True); rows = []
    for i in range(n): Image.fromarray(np.full((12, 16, 3), i*10, np.uint8)).save(folder/'images'/f'{i}.jpg'); rows.append({'_index': i, '_session_id': session(i), 'cam/image_array': f'{i}.jpg', 'user/angle': i/100, 'user/throttle': .5})
    (folder/'catalog_0.catalog').write_text('\n'.join(map(json.dumps, rows)))
    (folder/'manifest.json').write_text('\n'.join(map(json.dumps, [[], [], {}, {}, {'paths': ['catalog_0.catalog'], 'deleted_indexes': list(gone)}]))); return folder


def test_real_drive(tmp_path):
    path = real_data('robot_video/donkeycar_tub_1000.tar.gz'); got = read_trajs(path, root=tmp_path).validate()
    assert list(got.lengths) == [1000] and got.frames.shape == (1000, 120, 160, 3) and got.action_space == ('continuous', (-1., -1.), (1., 1.)) and got.info['actions'] == ['angle', 'throttle']
    with tarfile.open(path) as tar: tar.extractall(tmp_path/'t', filter='data')
    folder = next((tmp_path/'t').rglob('manifest.json')).parent; rows = [json.loads(r) for r in (folder/'catalog_0.catalog').read_text().splitlines()]
    for i in (0, 431, 999): assert np.array_equal(got.frames[i], np.asarray(Image.open(folder/'images'/rows[i]['cam/image_array']))) and np.allclose(got.action[i], [rows[i]['user/angle'], rows[i]['user/throttle']])
    assert got.action[800:][:, 0].std() == pytest.approx(.488, abs=.001) # as data/README.md says of the test part
    assert np.array_equal(read_tub(folder, root=tmp_path).frames[431], got.frames[431])


def test_gaps_sessions_and_choices(tmp_path):
    got = read_tub(tub(tmp_path/'a', gone=[3, 4], session=lambda i: 'ab'[i > 8]), root=tmp_path); assert list(got.lengths) == [3, 4, 3] and got.names == ['frame 0', 'frame 5', 'frame 9'] and np.allclose(got[1].action[:, 0], np.arange(5, 9)/100)
    assert read_tub(tmp_path/'a', ['throttle'], (6, 8), tmp_path).frames.shape == (10, 6, 8, 3) and (read_tub(tmp_path/'a', ['throttle'], (6, 8), tmp_path).action[:] == .5).all()
    with pytest.raises(ConfigError, match="did you mean 'angle'"): read_tub(tmp_path/'a', ['angel'])
    (tmp_path/'a'/'images'/'7.jpg').write_bytes(b'x')
    with pytest.raises(DataError, match='7.jpg: this picture does not decode'): read_tub(tmp_path/'a', root=tmp_path/'other')
    file = tub(tmp_path/'b')/'catalog_0.catalog'; file.write_text(file.read_text().replace('0.05', '5'))
    with pytest.raises(DataError, match='frame 0: action 5 at step 5 is outside the space, -1 to 1'): read_tub(tmp_path/'b', root=tmp_path/'third')


# LeRobot ----------------------------------------------------------------------------------------------------------------

def lerobot(folder, toy, v2=False, suffix='npz', cameras=('observation.images.front', 'observation.images.wrist')):
    "A folder as LeRobot writes it, in version 3 (three episodes to a file) or 2 (one)."
    (folder/'meta').mkdir(parents=True); per = 1 if v2 else 3
    features = {'action': dict(dtype='float32', shape=list(toy.action.shape[1:])), 'observation.state': dict(dtype='float32', shape=[4])} | {c: dict(dtype='video', shape=[32, 32, 3]) for c in cameras}
    (folder/'meta'/'info.json').write_text(json.dumps(dict(codebase_version='v2.1' if v2 else 'v3.0', fps=10, features=features)))
    for k in range(0, len(toy), per):
        part = [(i, toy[i]) for i in range(k, min(k + per, len(toy)))]; name = f'episode_{k:06d}' if v2 else f'file-{k//per:03d}'
        data = {'action': np.concatenate([t.action for _, t in part]), 'observation.state': np.concatenate([t.state for _, t in part]), 'episode_index': np.concatenate([np.full(len(t.action), i) for i, t in part]), 'next.reward': np.concatenate([t.reward for _, t in part]), 'next.success': np.concatenate([np.arange(len(t.action)) == len(t.action) - 1 for _, t in part])}
        out = folder/'data'/'chunk-000'; out.mkdir(parents=True, exist_ok=True)
        if suffix == 'npz': np.savez(out/f'{name}.npz', **data)
        else:
            head = [f'{n}.{j}' if v.ndim > 1 else n for n, v in data.items() for j in range(v.shape[1] if v.ndim > 1 else 1)]
            (out/f'{name}.csv').write_text('\n'.join([','.join(head)] + [','.join(repr(float(x)) for x in row) for row in np.column_stack(list(data.values()))]))
        for j, c in enumerate(cameras):
            video = folder/'videos'/('chunk-000/' + c if v2 else c + '/chunk-000'); video.mkdir(parents=True, exist_ok=True); write_video(video/f'{name}.mp4', np.concatenate([t.frames for _, t in part])[:, :, ::-1 if j else 1], 10)
    return folder


@pytest.mark.parametrize('v2', [False, True])
@pytest.mark.parametrize('suffix', ['npz', 'csv'])
def test_lerobot_folders(tmp_path, v2, suffix):
    toy = toy_trajs(11, kind='continuous'); got = read_trajs(lerobot(tmp_path/'robot', toy, v2, suffix), root=tmp_path).validate(); assert trajs_kind(tmp_path/'robot') == 'lerobot'
    assert list(got.lengths) == list(toy.lengths) and got.card.name == 'robot' and all(got.successes) and all(same(a, b, 'state', 'action', 'reward') for a, b in zip(got, toy)) and got.info['fps'] == 10
    for a, b in zip(got, toy): assert np.abs(a.frames.astype(int) - b.frames).mean() < 8
    wrist = read_lerobot(tmp_path/'robot', 'observation.images.wrist', root=tmp_path); assert np.abs(wrist.frames[:].astype(int) - np.asarray(toy.frames)[:, :, ::-1]).mean() < 8


def test_lerobot_without_videos_and_broken(tmp_path):
    toy = toy_trajs(4, kind='continuous'); got = read_lerobot(lerobot(tmp_path/'a', toy, cameras=()), root=tmp_path); assert got.frames is None and same(got[3], toy[3], 'action')
    with pytest.raises(DataError, match='it has none with videos'): read_lerobot(tmp_path/'a', 'observation.images.front')
    folder = lerobot(tmp_path/'b', toy); next((folder/'videos'/'observation.images.front').rglob('*.mp4')).unlink()
    with pytest.raises(DataError, match='pictures in the videos of observation.images.front|more pictures'): read_lerobot(folder, root=tmp_path)
    (tmp_path/'x.csv').write_text('a,b\n1,2\n3\n')
    with pytest.raises(DataError, match='x.csv, line 3: 1 fields, expected 2'): read_table(tmp_path/'x.csv')


def test_parquet_needs_pyarrow(tmp_path, monkeypatch):
    folder = lerobot(tmp_path/'a', toy_trajs(2, kind='continuous'), cameras=()); old = next((folder/'data').rglob('*.npz')); old.rename(old.with_suffix('.parquet'))
    real = wrappers.importlib.import_module
    def hidden(name, *args):
        if name.startswith('pyarrow'): raise ModuleNotFoundError("No module named 'pyarrow'", name='pyarrow')
        return real(name, *args)
    monkeypatch.setattr(wrappers.importlib, 'import_module', hidden)
    with pytest.raises(ConfigError, match='file-000.parquet is a Parquet table and needs pyarrow: pip install .vislearn.lerobot..') as err: read_lerobot(folder, root=tmp_path)
    assert '\n' not in str(err.value)


def as_parquet(folder, **extra):
    "Turn the tables of a folder into Parquet files with the types that LeRobot writes."
    import pyarrow as pa, pyarrow.parquet as pq
    for old in (folder/'data').rglob('*.npz'):
        columns = dict(np.load(old)); n = len(columns['action']); old.unlink()
        kinds = {k: pa.list_(pa.float32(), v.shape[1]) if v.ndim == 2 else pa.bool_() if v.dtype == bool else pa.int64() if v.dtype.kind == 'i' else pa.float32() for k, v in columns.items()}
        arrays = {k: pa.array(v.tolist(), kinds[k]) for k, v in columns.items()} | dict(task_index=pa.array([0]*n, pa.int64()), task=pa.array(['reach']*n), ragged=pa.array([[1.]*(i % 3) for i in range(n)], pa.list_(pa.float32())))
        arrays['observation.images.wrist'] = pa.array([dict(bytes=b'x', path='a.png')]*n, pa.struct([('bytes', pa.binary()), ('path', pa.string())]))
        pq.write_table(pa.table(arrays), old.with_suffix('.parquet'), row_group_size=7)
    return folder


@pytest.mark.parametrize('v2', [False, True])
def test_lerobot_folders_with_parquet_tables(tmp_path, v2):
    "Written by pyarrow itself: lists of fixed length, truth values, text, rows of different lengths, pictures inside."
    pytest.importorskip('pyarrow'); toy = toy_trajs(7, kind='continuous'); folder = as_parquet(lerobot(tmp_path/'robot', toy, v2, cameras=('observation.images.front',)))
    got = read_trajs(folder, root=tmp_path).validate(); assert list(got.lengths) == list(toy.lengths) and all(got.successes) and all(same(a, b, 'state', 'action', 'reward') for a, b in zip(got, toy)) and got.frames.shape[1:] == (32, 32, 3)
    table = max(map(read_table, (folder/'data').rglob('*.parquet')), key=lambda t: len(t['action'])); assert table['action'].shape[1] == 2 and table['next.success'].dtype == bool and 'ragged' not in table and 'observation.images.wrist' not in table and table['task'][0] == 'reach'


def test_a_parquet_table_that_is_cut(tmp_path):
    pytest.importorskip('pyarrow'); folder = as_parquet(lerobot(tmp_path/'robot', toy_trajs(2, kind='continuous'), cameras=())); file = next((folder/'data').rglob('*.parquet')); file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match='file-000.parquet: no whole Parquet table') as err: read_lerobot(folder, root=tmp_path)
    assert '\n' not in str(err.value)


# All --------------------------------------------------------------------------------------------------------------------

def test_every_kind_is_recognised(tmp_path, datasets):
    toy, smooth = toy_trajs(3), toy_trajs(12, kind='continuous'); np.savez(tmp_path/'a.npz', **flat_columns(toy)); (tmp_path/'list.pkl').write_bytes(pickle.dumps([dict(images=t.frames, actions=t.action, state_obs=t.state) for t in toy]))
    with h5py.File(tmp_path/'flat.h5', 'w') as f:
        for k, v in flat_columns(toy).items(): f[k] = v
    write_minari(toy, 'reach/toy-v0')
    places = dict(trajs=write_trajs('t', {}, lambda: toy, toy.card, tmp_path, action_space=toy.action_space).path, pickle=write_pickle(toy, tmp_path/'a.pickle'), paths=tmp_path/'list.pkl', pictures=write_pictures_of(toy, tmp_path/'pictures'), npz=tmp_path/'a.npz', flat=tmp_path/'flat.h5',
        robomimic=robomimic(tmp_path/'lift.hdf5', smooth), minari=datasets/'reach'/'toy-v0', tub=tub(tmp_path/'tub'), lerobot=lerobot(tmp_path/'robot', smooth))
    assert set(places) == set(KINDS)
    for kind, path in places.items():
        assert trajs_kind(path) == kind; got = read_trajs(path, root=tmp_path/'cache', validate=True)
        if kind not in ('tub', 'robomimic', 'lerobot'): assert len(got) == 3 and all(same(a, b, 'frames', 'action', 'state') for a, b in zip(got, toy)), kind
        plain = path.rename(path.with_name(f'nameless-{kind}')) if path.is_file() else path # the ending does not matter
        assert trajs_kind(plain) == kind
    assert trajs_kind('reach/toy-v0') == 'minari' and trajs_kind(datasets/'reach'/'toy-v0'/'data'/'main_data.hdf5') == 'minari' and len(read_trajs(datasets/'reach'/'toy-v0'/'data'/'main_data.hdf5', root=tmp_path/'cache')) == 3


def test_nothing_to_recognise(tmp_path):
    (tmp_path/'x.txt').write_text('hello'); (tmp_path/'dir').mkdir(); (tmp_path/'empty').write_bytes(b'')
    for path, word in ((tmp_path/'x.txt', 'expected npz, HDF5, a pickle'), (tmp_path/'dir', 'no demonstrations of a known kind in this folder'), (tmp_path/'none', 'no such file or folder'), (tmp_path/'empty', 'expected npz')):
        with pytest.raises(DataError, match=word): read_trajs(path)
    with pytest.raises(ConfigError, match="did you mean 'robomimic'"): read_trajs(tmp_path/'x.txt', 'robomimik')


def test_without_h5py_one_line_says_what_to_do(tmp_path, monkeypatch):
    with h5py.File(tmp_path/'a.h5', 'w') as f: f['actions'] = np.zeros(3)
    real = wrappers.importlib.import_module
    def hidden(name, *args):
        if name == 'h5py': raise ModuleNotFoundError("No module named 'h5py'", name='h5py')
        return real(name, *args)
    monkeypatch.setattr(wrappers.importlib, 'import_module', hidden)
    with pytest.raises(ConfigError, match=r'a.h5 is an HDF5 file and needs h5py: pip install "vislearn\[minari\]"'): read_trajs(tmp_path/'a.h5')
