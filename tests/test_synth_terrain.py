"Generated sets on disk: three formats, faults, truth, specifications, killed and repeated builds"
import dataclasses, json, os, subprocess, sys, time
from collections import Counter
from pathlib import Path
import numpy as np, pytest
from rosbags.highlevel import AnyReader
from vislearn.core import ConfigError, DataError
from vislearn.synth.messages import FORMATS, OTHER_CALLER, TOPICS
from vislearn.synth.record import PRESETS, Preset, bag_plans
from vislearn.synth.terrain import TerrainSet, Truth, make_terrain, orderings

SMALL = Preset(('concrete', 'grass'), 160, 18.75, 4., 8, 5., 4., 3., 1, 3., 5., 16., imu_hz=50., stand_s=(.5, .5))

@pytest.fixture(scope='module')
def made(tmp_path_factory): return make_terrain(tmp_path_factory.mktemp('synth')/'set', SMALL, workers=0)

def read(path:Path, deserialize=False)->list:
    with AnyReader([path]) as r: return [(c.topic, t, r.deserialize(raw, c.msgtype) if deserialize else bytes(raw), getattr(c.ext, 'callerid', None)) for c, t, raw in r.messages()]

def stamps(msgs:list, topic:str)->np.ndarray:
    return np.array([m.header.stamp.sec*10**9 + m.header.stamp.nanosec for name, _, m, _ in msgs if name==topic])

def test_contents_do_not_depend_on_workers(made, tmp_path):
    again = make_terrain(tmp_path/'set', SMALL, workers=2)
    assert again.names==made.names and again.manifest==made.manifest
    for n in made.names:
        assert read(made.bag(n))==read(again.bag(n)), n
        a, b = made.truth(n).data, again.truth(n).data
        assert a.keys()==b.keys() and all((a[k]==b[k]).all() for k in a)

def test_another_seed_is_another_world(made, tmp_path):
    other = make_terrain(tmp_path/'set', SMALL, seed=1, workers=0)
    a, b = (s.truth('train_grass') for s in (made, other))
    assert not np.allclose(a.poses, b.poses) and (a.world.labels!=b.world.labels).mean()>.2

def test_every_topic_with_its_type_and_rate(made):
    with AnyReader([made.bag('train_grass')]) as r:
        have = {c.topic: c.msgtype for c in r.connections}
        assert have==dict(TOPICS.values())
        count = Counter(c.topic for c, _, _ in r.messages())
        latched = {c.topic for c in r.connections if c.ext.latching}
    seconds = SMALL.train_s
    for topic, hz in (('/odom', 20), ('/joint_states', 20), ('/vectornav/IMU', 50), ('/bev/single/compressed', 5), ('/camera/rgb/image_raw/compressed', 5)):
        assert abs(count[topic] - seconds*hz)<=4, topic
    assert latched=={'/tf_static'} and count['/tf_static']==1

def test_three_formats_hold_the_same_values(made, tmp_path):
    def values(m):
        if isinstance(m, (list, tuple)): return [values(v) for v in m]
        if dataclasses.is_dataclass(m): return {f.name: values(getattr(m, f.name)) for f in dataclasses.fields(m) if f.name not in ('__msgtype__', 'seq')}
        return m.tolist() if isinstance(m, np.ndarray) else m
    want = [(t, ns, values(m)) for t, ns, m, _ in read(made.bag('mixed_0'), True)]
    for fmt in FORMATS[1:]:
        s = make_terrain(tmp_path/fmt, SMALL, fmt, workers=0)
        got = [(t, ns, values(m)) for t, ns, m, _ in read(s.bag('mixed_0'), True)]
        assert sorted(got, key=lambda g: (g[1], g[0], str(g[2])))==sorted(want, key=lambda g: (g[1], g[0], str(g[2]))), fmt
        assert json.loads((s.specs/'train.json').read_text())['categories']['grass'][0]['path']=='../bags/train_grass'

@pytest.mark.parametrize('layout', ['nested', 'plain'])
def test_foot_layouts(tmp_path, layout):
    one = dataclasses.replace(SMALL, terrains=('grass',), n_mixed=0)
    s = make_terrain(tmp_path/'set', one, foot_layout=layout, workers=0)
    msgs = [m for t, _, m, _ in read(s.bag('train_grass'), True) if t=='/spot/status/feet']
    assert len(msgs[0].states)==4 and hasattr(msgs[0].states[0], 'terrain')==(layout=='nested')

def test_faults_and_clean(made, tmp_path):
    msgs = read(made.bag('train_concrete'), True)
    assert (np.diff(np.sort(stamps(msgs, '/odom')))==0).sum()==2
    for topic in ('/bev/single/compressed', '/camera/rgb/image_raw/compressed'): assert (np.diff(stamps(msgs, topic))<0).sum()==1
    jitter = np.array([ns for t, ns, _, _ in msgs if t=='/joint_states']) - stamps(msgs, '/joint_states')
    assert 1e6<=jitter.min() and jitter.max()<=5e6 and jitter.std()>5e5
    states = len(made.truth('train_concrete').t_ns); feet = sum(t=='/spot/status/feet' for s in made.names for t, *_ in read(made.bag(s)))
    total = sum(len(made.truth(n).t_ns) for n in made.names); assert 0 < total - feet < .05*total
    clean = make_terrain(tmp_path/'set', SMALL, clean=True, workers=0); msgs = read(clean.bag('train_concrete'), True)
    assert len(stamps(msgs, '/odom'))==len(stamps(msgs, '/spot/status/feet'))==states
    assert (np.diff(stamps(msgs, '/odom'))>0).all() and (np.diff(stamps(msgs, '/bev/single/compressed'))>0).all()
    delay = np.array([ns for t, ns, _, _ in msgs if t=='/camera/rgb/image_raw/compressed']) - stamps(msgs, '/camera/rgb/image_raw/compressed')
    assert 30e6<=delay.min() and delay.max()<=80e6

def test_transform_tree(made):
    tr = made.truth('train_grass'); k = 0
    for topic, _, m, caller in read(made.bag('train_grass'), True):
        if topic!='/tf': continue
        edges = {(t.header.frame_id, t.child_frame_id): t.transform for t in m.transforms}
        if caller==OTHER_CALLER: assert set(edges)=={('map', 'dock')}; continue
        assert len(edges)==7 and ('body', 'kinect') in edges and sum(a=='body' and b.endswith('upper_leg') for a, b in edges)==4
        k = int(np.searchsorted(tr.t_ns, (s := m.transforms[0].header.stamp).sec*10**9 + s.nanosec))
        b = edges['odom', 'body'].translation; assert (b.x, b.y)==pytest.approx(tuple(tr.odom[k,:2]))
        v, q = edges['body', 'vision'].translation, edges['body', 'vision'].rotation # the chain is reversed: invert it to get the true pose
        from scipy.spatial.transform import Rotation
        p = -Rotation.from_quat([q.x, q.y, q.z, q.w]).inv().apply([v.x, v.y, v.z])
        assert p==pytest.approx(tr.poses[k,[0, 1, 3]], abs=1e-9)
        assert Rotation.from_quat([q.x, q.y, q.z, q.w]).inv().as_euler('ZYX')==pytest.approx([(tr.poses[k,2]+np.pi)%(2*np.pi)-np.pi, tr.poses[k,5], tr.poses[k,4]], abs=1e-9)

def test_camera_edge_matches_the_camera_model(made):
    from scipy.spatial.transform import Rotation
    t = next(m for topic, _, m, _ in read(made.bag('mixed_0'), True) if topic=='/tf_static').transforms[0]; T = np.array(made.truth('mixed_0').camera.T_body_camera)
    q, p = t.transform.rotation, t.transform.translation
    assert Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()==pytest.approx(T[:3,:3], abs=1e-12) and (p.x, p.y, p.z + .5)==pytest.approx(tuple(T[:3,3]))

def test_truth_answers(made):
    for n, main in (('train_concrete', 0), ('holdout_grass', 1)):
        tr = made.truth(n)
        assert set(tr.data['terrain'])=={main} and tr.names==('concrete', 'grass') and tr.levels.tolist()==[0, 2] and len(tr)==len(tr.exposure)
        assert tr.patch_label(4, 4)[0]==main and tr.patch_label(3, 8)==(main, 1.)
        lab = tr.bev_labels(5); assert lab.shape==(tr.bev.rows, tr.bev.cols) and ((lab==-1)==~tr.bev.mask()).all()
    tr = made.truth('mixed_0'); lab = tr.bev_labels(3); rng = np.random.default_rng(0)
    rows, cols = np.nonzero(lab>=0)
    for i in rng.integers(len(rows), size=50): # one pixel at a time
        x, y = (tr.bev.v0 - rows[i] - .5)/tr.bev.ppm, (tr.bev.u0 - cols[i] - .5)/tr.bev.ppm; px, py, yaw = tr.image_poses[3,:3]
        wx, wy = px + np.cos(yaw)*x - np.sin(yaw)*y, py + np.sin(yaw)*x + np.cos(yaw)*y
        assert lab[rows[i], cols[i]]==tr.world.labels[int(np.floor(wy*20))%320, int(np.floor(wx*20))%320]

def test_truth_of_something_else(made, tmp_path):
    (tmp_path/'x.npz').write_bytes(b'nothing')
    with pytest.raises(DataError, match='expected a file written by make_terrain'): Truth(tmp_path/'x.npz')
    with pytest.raises(DataError, match="did you mean 'train_grass'"): made.bag('train_gras')
    with pytest.raises(DataError, match='no manifest.json'): TerrainSet(tmp_path)

def test_windows_leave_out_the_standing_phases(made):
    spec = json.loads((made.specs/'train.json').read_text())
    assert spec['version']==2 and spec['topic_map']=='spot_seed' and (spec['bev']['rows'], spec['bev']['cols'])==(made.truth('mixed_0').bev.rows, made.truth('mixed_0').bev.cols)
    for name, (datum,) in spec['categories'].items():
        tr = made.truth(f'train_{name}'); t = tr.t_ns/1e9; inside = (t>datum['start']+.41) & (t<datum['end']-.41)
        assert (made.specs/datum['path']).resolve()==made.bag(f'train_{name}').resolve()
        moving = np.linalg.norm(np.diff(tr.poses[:,:2], axis=0), axis=1)>1e-3
        assert moving[inside[1:]].all() and not moving[t[1:]<datum['start']].any() and not moving[t[:-1]>datum['end']].any()
    assert 'orderings' not in json.loads((made.specs/'holdout.json').read_text())

def test_orderings_and_extrapolation():
    all8 = orderings(tuple(bag_plans(PRESETS['tiny'])[k].name[6:] for k in range(8))); pair = {(o['first'], o['second']): o['label'] for o in all8}
    assert sorted(k for k, v in pair.items() if v==0)==[('concrete', n) for n in ('asphalt', 'pebble_pavement', 'red_brick')]
    assert {('concrete', 'mulch'), ('mulch', 'grass'), ('grass', 'bush'), ('bush', 'marble_rock'), ('concrete', 'marble_rock')} <= {k for k, v in pair.items() if v==-1}

def test_extrapolation_says_nothing_about_the_other_paved_ones(tmp_path):
    s = make_terrain(tmp_path/'set', dataclasses.replace(SMALL, terrains=('concrete', 'asphalt', 'grass'), train_s=2., holdout_s=2., n_mixed=0), workers=0)
    named = lambda f: {n for o in json.loads((s.specs/f).read_text())['orderings'] for n in (o['first'], o['second'])}
    assert named('train.json')=={'concrete', 'asphalt', 'grass'} and named('extrapolate/train.json')=={'concrete', 'grass'}
    datum = json.loads((s.specs/'extrapolate/train.json').read_text())['categories']['asphalt'][0]
    assert (s.specs/'extrapolate'/datum['path']).resolve()==s.bag('train_asphalt').resolve()

def test_same_set_is_reused_and_another_refused(made):
    before = {p: p.stat().st_mtime_ns for p in made.path.rglob('*')}
    again = make_terrain(made.path, SMALL, workers=0)
    assert {p: p.stat().st_mtime_ns for p in again.path.rglob('*')}==before
    with pytest.raises(ConfigError, match='another set.*seed 0 -> 5'): make_terrain(made.path, SMALL, seed=5)
    with pytest.raises(ConfigError, match='clean False -> True'): make_terrain(made.path, SMALL, clean=True)

def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path/'mine.txt').write_text('x')
    with pytest.raises(ConfigError, match='not empty'): make_terrain(tmp_path, SMALL)
    assert os.listdir(tmp_path)==['mine.txt']

def test_wrong_arguments(tmp_path):
    for kw, text in ((dict(preset='tinny'), "did you mean 'tiny'"), (dict(format='rosbag'), 'format must be one of'), (dict(foot_layout='flatt'), "did you mean 'flat'"),
                     (dict(format='mcap', foot_layout='nested'), 'ROS 1 only'), (dict(textures=tmp_path), 'no photograph for')):
        with pytest.raises((ConfigError, DataError), match=text): make_terrain(tmp_path/'set', **{'preset': 'ci', **kw})
    assert not (tmp_path/'set').exists()

def test_failed_build_leaves_nothing(tmp_path, monkeypatch):
    from vislearn.synth import terrain
    def broken(*_): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(terrain, 'save_truth', broken)
    with pytest.raises(OSError): make_terrain(tmp_path/'set', SMALL, workers=0)
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith('.lock')]==[]

def test_leftovers_of_a_killed_build_are_removed(tmp_path):
    left = tmp_path/'.set.tmp-99999'/'bags'; left.mkdir(parents=True); (left/'half.bag').write_bytes(b'#ROSBAG V2.0')
    s = make_terrain(tmp_path/'set', dataclasses.replace(SMALL, terrains=('grass',), train_s=2., holdout_s=2., n_mixed=0), workers=0)
    assert not list(tmp_path.glob('.set.tmp-*')) and s.names==['train_grass', 'holdout_grass']

@pytest.mark.slow
def test_killed_build_is_cleaned_and_redone(tmp_path):
    code = f'from vislearn.synth.record import *; from vislearn.synth.terrain import *\nif __name__=="__main__": make_terrain({str(tmp_path/"set")!r}, Preset(("concrete", "grass"), 160, 18.75, train_s=300., stand_s=(.5, .5)), workers=2)'
    script = tmp_path/'build.py'; script.write_text(code)
    p = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
    deadline = time.time() + 60
    while not list(tmp_path.glob('.set.tmp-*/bags/*')) and time.time()<deadline: time.sleep(.1)
    started = list(tmp_path.glob('.set.tmp-*/bags/*')); p.kill(); p.wait()
    assert started and not (tmp_path/'set').exists()
    time.sleep(.5); sizes = [f.stat().st_size for f in tmp_path.glob('.set.tmp-*/bags/*')]; time.sleep(1)
    assert sizes==[f.stat().st_size for f in tmp_path.glob('.set.tmp-*/bags/*')], 'orphaned workers must stop writing'
    s = make_terrain(tmp_path/'set', SMALL, workers=0)
    assert not list(tmp_path.glob('.set.tmp-*')) and len(s.names)==5 and read(s.bag('mixed_0'))

def test_night_is_dark_and_texture_shift_changes_only_the_holdout(made, tmp_path):
    import io
    from PIL import Image
    one = dataclasses.replace(SMALL, terrains=('grass',), n_mixed=0); first = lambda s, n: next(m for t, _, m, _ in read(s.bag(n), True) if t=='/camera/rgb/image_raw/compressed').data.tobytes()
    day, shifted, night = (make_terrain(tmp_path/k, one, workers=0, **kw) for k, kw in (('day', {}), ('shift', dict(texture_shift=True)), ('night', dict(night=True))))
    mean = lambda s: np.asarray(Image.open(io.BytesIO(first(s, 'train_grass')))).mean()
    assert mean(night)<.4*mean(day)
    assert first(day, 'train_grass')==first(shifted, 'train_grass') and first(day, 'holdout_grass')!=first(shifted, 'holdout_grass')

def test_presets_have_the_sizes_of_the_specification():
    from vislearn.synth.record import preset_bev
    for name, rows, cols in (('ci', 225, 433), ('tiny', 300, 578), ('full', 750, 1456)):
        b = preset_bev(PRESETS[name]); assert (b.rows, b.cols)==(rows, cols)
