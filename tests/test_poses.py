"Rigid motions, pose tracks and the tree of frames against slow references, scipy, and real and written bags"
import warnings

import numpy as np, pytest
from scipy.spatial.transform import Rotation, Slerp

from vislearn.core import UserError, real_data
from vislearn.robot.motions import TransformError, axis_rotation, inv_se3, matrix_quat, planar, planar_se3, quat_matrix, se3, slerp, unit_quat, yaw_zxy
from vislearn.robot.poses import PoseGapWarning, PoseTrack, TransformBuffer, pose_track
from vislearn.robot.reader import EmptyTopicError, MissingTopicError

T0 = 1_710_000_000_123_456_789  # a unix time: float64 cannot hold its nanoseconds
TF = [('t_ns', 'i8'), ('parent', 'U12'), ('child', 'U12'), ('xyz', 'f8', 3), ('quat', 'f8', 4), ('callerid', 'U16')]
ODOM = [('t_ns', 'i8'), ('frame', 'U12'), ('child', 'U12'), ('xyz', 'f8', 3), ('quat', 'f8', 4)]


@pytest.fixture
def rng(): return np.random.default_rng(0)


def quats(rng, n):
    q = rng.normal(size=(n, 4))
    return q/np.linalg.norm(q, axis=1, keepdims=True)


class FakeBag:
    def __init__(self, empty=(), **channels): self.channels, self.empty = channels, empty
    def channel(self, role):
        if role in self.empty: raise EmptyTopicError(f'{role} is empty')
        if role not in self.channels: raise MissingTopicError(f"no topic for '{role}', topics found: /image")
        return self.channels[role]


def tf_rows(t, parent='odom', child='body', callerid='/spot/spot_ros', speed=1.):
    rows = np.zeros(len(t), TF)
    rows['t_ns'], rows['parent'], rows['child'], rows['quat'], rows['callerid'] = t, parent, child, [0, 0, 0, 1], callerid
    rows['xyz'][:, 0] = speed*(t-t[0])/1e9
    return rows


def odom_rows(t, speed=1.):
    rows = np.zeros(len(t), ODOM); rows['t_ns'], rows['frame'], rows['child'], rows['quat'] = t, 'odom', 'base_link', [0, 0, 0, 1]
    rows['xyz'][:, 0] = speed*(t-t[0])/1e9
    return rows


# --- rigid motions

def test_rotations_agree_with_scipy(rng):
    q = quats(rng, 500); R = Rotation.from_quat(q)
    np.testing.assert_allclose(quat_matrix(q), R.as_matrix(), atol=1e-12)
    back = matrix_quat(R.as_matrix())
    np.testing.assert_allclose(np.abs((back*q).sum(1)), 1, atol=1e-12); assert (back[:, 3] >= 0).all()
    T = se3(np.zeros((500, 3)), q)
    np.testing.assert_allclose(yaw_zxy(T), R.as_euler('ZXY')[:, 0], atol=1e-9)
    np.testing.assert_allclose(planar(T)[:, 2], R.as_euler('ZYX')[:, 0], atol=1e-9)
    for axis in 'xyz': np.testing.assert_allclose(axis_rotation(axis, [.3, -2]), [Rotation.from_euler(axis, a).as_matrix() for a in (.3, -2)], atol=1e-15)


def test_half_turns_become_quaternions():
    for axis in np.concatenate([np.eye(3), [[1, 1, 0], [1, 1, 1]], -np.eye(3)]):
        R = Rotation.from_rotvec(np.pi*axis/np.linalg.norm(axis)).as_matrix()
        np.testing.assert_allclose(quat_matrix(matrix_quat(R)), R, atol=1e-9)


def test_inverse_of_random_motions(rng):
    T = se3(rng.normal(size=(200, 3))*1000, quats(rng, 200))
    np.testing.assert_allclose(inv_se3(T), np.linalg.inv(T), atol=1e-9)
    np.testing.assert_allclose(inv_se3(inv_se3(T)), T, atol=1e-9)


def test_slerp_agrees_with_scipy(rng):
    for a, b in zip(quats(rng, 60), quats(rng, 60)):
        lam = np.linspace(0, 1, 7); want = Slerp([0, 1], Rotation.from_quat([a, b]))(lam).as_quat()
        np.testing.assert_allclose(np.abs((slerp(a, b, lam)*want).sum(1)), 1, atol=1e-12)


@pytest.mark.parametrize('angle', [1e-9, 1e-3, 0.0632, 0.0633, 0.0634, 0.1])
def test_slerp_is_smooth_where_it_becomes_a_straight_line(angle):
    a, b = Rotation.from_rotvec([[0, 0, 0], [0, 0, angle]]).as_quat(); lam = np.linspace(0, 1, 11)
    np.testing.assert_allclose(2*np.arctan2(slerp(a, b, lam)[:, 2], slerp(a, b, lam)[:, 3]), lam*angle, rtol=2e-4, atol=1e-15)


def test_quaternion_norms():
    assert np.allclose(np.linalg.norm(unit_quat([[0, 0, 0, .91], [0, 1.09, 0, 0]]), axis=1), 1)
    for norm in (0, .89, 1.11, np.nan):
        with pytest.raises(TransformError, match='1 of 2 quaternions have no unit norm'): unit_quat([[0, 0, 0, 1], [0, 0, 0, norm]])


# --- tracks

def slow_pose(track, t, max_gap_s=.25, max_extrapolation_s=.02):
    "One query, spec 2.4 word by word; None where there is no answer."
    times = [int(x) for x in track.t_ns]
    if t in times: i = times.index(t); return se3(track.xyz[i], track.quat[i])
    if t < times[0]: k = 0
    elif t > times[-1]: k = len(times)-2
    else: k = max(i for i, x in enumerate(times) if x < t)
    if max(times[0]-t, t-times[-1]) > max_extrapolation_s*1e9 or times[k+1]-times[k] > max_gap_s*1e9: return None
    lam = (t-times[k])/(times[k+1]-times[k]); a, b = track.quat[k], track.quat[k+1]
    if (dot := float(a@b)) < 0: b, dot = -b, -dot
    if dot > .9995: q = (1-lam)*a + lam*b
    else: th = np.arccos(dot); q = (np.sin((1-lam)*th)*a + np.sin(lam*th)*b)/np.sin(th)
    return se3((1-lam)*track.xyz[k] + lam*track.xyz[k+1], q/np.linalg.norm(q))


def test_interpolation_agrees_with_the_slow_reference(rng):
    t = T0 + np.cumsum(rng.choice([20, 50, 100, 240, 260, 900], 80))*10**6 + rng.integers(0, 999, 80)
    q = Rotation.from_rotvec(np.cumsum(rng.normal(0, .2, (80, 3)), 0)).as_quat()*rng.choice([-1, 1], (80, 1))
    order = rng.permutation(80)
    track = PoseTrack(t[order], xyz=rng.normal(size=(80, 3))[order], quat=q[order])
    ask = np.concatenate([rng.integers(t[0]-4*10**7, t[-1]+4*10**7, 600), t])
    T, valid = track.at(ask)
    assert 0.2 < valid.mean() < 1
    for got, ok, x in zip(T, valid, ask):
        want = slow_pose(track, int(x))
        assert ok == (want is not None)
        if ok: np.testing.assert_allclose(got, want, atol=1e-9)
        else: assert np.isnan(got).all()


def test_mid_of_a_quarter_turn_is_45_degrees():
    track = PoseTrack(T0+np.array([0, 10**8]), planar_se3([[0, 0, 0], [1, 0, np.pi/2]]))
    T, ok = track.at([T0+5*10**7])
    assert ok[0] and abs(np.degrees(planar(T)[0, 2])-45) < 1e-9


def test_the_nanosecond_counts():
    track = PoseTrack(T0+np.array([0, 100]), planar_se3([[0, 0, 0], [100, 0, 0]]))
    np.testing.assert_allclose(track.at(T0+np.arange(101))[0][:, 0, 3], np.arange(101), atol=1e-9)


def test_seed_lookup_agrees_with_its_definition(rng):
    t = T0 + np.sort(rng.choice(10**9, 40, replace=False)); track = PoseTrack(t, planar_se3(rng.normal(size=(40, 3))))
    ask = rng.integers(t[0]-10**8, t[-1]+10**8, 300); T, ok = track.at(ask, interpolate=False)
    for got, valid, x in zip(T, ok, ask):
        later = np.flatnonzero(t >= x)
        assert valid == (len(later) > 0)
        if valid: np.testing.assert_array_equal(got, track.T[later[0]])


def test_disorder_is_counted_and_repaired(rng):
    t = T0 + np.arange(50)*10**8; T = planar_se3(np.stack([np.arange(50.), 0*t, 0*t], 1))
    messy = np.concatenate([rng.permutation(50), [7, 7]]); Tm = T[messy].copy(); Tm[-2:, 0, 3] = 99
    track = PoseTrack(t[messy], Tm)
    np.testing.assert_array_equal(track.t_ns, t); np.testing.assert_allclose(track.xyz[:, 0], np.arange(50)) # the first of equal stamps stays
    assert track.report['duplicates'] == 2 and track.report['unsorted'] > 10 and track.report['samples'] == 52


def test_speed_and_length_of_a_circle():
    a = np.linspace(0, 2*np.pi, 2001); t = T0 + np.arange(2001)*10**7
    track = PoseTrack(t, planar_se3(np.stack([3*np.cos(a), 3*np.sin(a), a+np.pi/2], 1)))
    assert abs(track.path_length()-6*np.pi) < 1e-4
    np.testing.assert_allclose(track.speed()[1:-1], 6*np.pi/20, rtol=1e-4)
    assert PoseTrack([T0], planar_se3([[0, 0, 0]])).speed().tolist() == [0]


# --- tree of frames

@pytest.fixture
def tree(rng):
    "odom -> body (moving), body -> vision (moving, published upside down), body -> mount -> camera (static)"
    t, buf = T0 + np.arange(30)*5*10**7, TransformBuffer()
    buf.add('odom', 'body', t, np.cumsum(rng.normal(size=(30, 3)), 0), Rotation.from_rotvec(np.cumsum(rng.normal(0, .1, (30, 3)), 0)).as_quat())
    buf.add('/body', '/vision', t+10**6, rng.normal(size=(30, 3)), Rotation.from_rotvec(np.cumsum(rng.normal(0, .1, (30, 3)), 0)).as_quat())
    buf.add('body', 'mount', 0, [.1, 0, .2], quats(rng, 1)[0], static=True); buf.add('mount', 'camera', T0, [.2, .1, 0], quats(rng, 1)[0])
    return buf


def test_chain_is_the_product_of_its_edges(tree):
    t = T0 + 123_456_789
    edge = lambda p: (tree.edge(p)[0].T[0] if tree.edge(p)[1] else slow_pose(tree.edge(p)[0], t))
    want = np.linalg.inv(edge(('body', 'vision'))) @ edge(('body', 'mount')) @ edge(('mount', 'camera'))
    np.testing.assert_allclose(tree.lookup('vision', 'camera', t), want, atol=1e-12)
    np.testing.assert_allclose(tree.lookup('odom', 'vision', t), edge(('odom', 'body')) @ edge(('body', 'vision')), atol=1e-12)


@pytest.mark.parametrize('ends', [('odom', 'body'), ('vision', 'camera'), ('odom', 'camera'), ('odom', 'vision')])
def test_there_and_back_is_identity(tree, ends):
    t = T0 + np.arange(2, 28)*5*10**7 + 7
    there, ok = tree.lookup_many(*ends, t); back, _ = tree.lookup_many(*ends[::-1], t)
    assert ok.all(); np.testing.assert_allclose(there @ back, np.broadcast_to(np.eye(4), (26, 4, 4)), atol=1e-12)


def test_many_equals_one_by_one(tree, rng):
    t = rng.integers(T0-10**8, T0+16*10**8, 60); T, ok = tree.lookup_many('odom', 'camera', t)
    assert 0 < ok.sum() < 60
    for got, valid, x in zip(T, ok, t):
        if valid: np.testing.assert_array_equal(got, tree.lookup('odom', 'camera', int(x)))
        else:
            with pytest.raises(TransformError, match='odom -> body has 30 samples from'): tree.lookup('odom', 'camera', int(x))


def test_edges_with_samples_around_the_time_are_preferred(tree):
    "A second way from odom to body takes over when the first one stops, and hands back."
    late = T0 + np.arange(40)*5*10**7
    tree.add('odom', 'gps', late, np.tile([7., 0, 0], (40, 1)) + np.arange(40)[:, None]*1e-3, np.tile([0., 0, 0, 1], (40, 1))); tree.add('gps', 'body', 0, [0, 1, 0], [0, 0, 0, 1], static=True)
    T, ok = tree.lookup_many('odom', 'body', [T0+10**8, T0+18*10**8])
    assert ok.all()
    np.testing.assert_allclose(T[0], tree.edge(('odom', 'body'))[0].T[2], atol=1e-12); np.testing.assert_allclose(T[1, :3, 3], [7.036, 1.036, .036], atol=1e-9)


def test_errors_of_the_tree(tree):
    tree.add('map', 'dock', 0, [0, 0, 0], [0, 0, 0, 1])
    for ask, words in ((('odom', 'camra'), r"'camra' is unknown \(did you mean 'camera'\?\): known are body, camera, dock, map, mount, odom, vision"),
                       (('odom', 'dock'), 'connected are body camera mount odom vision; dock map'), (('odom', 'body'), 'no transform from .* at 0.000 s')):
        with pytest.raises(TransformError, match=words): tree.lookup(*ask, 0)
    with pytest.raises(TransformError, match='known are none'): TransformBuffer().lookup('a', 'b', 0)
    gap = TransformBuffer(); gap.add('odom', 'body', [0, 10**9], [[0, 0, 0], [1, 0, 0]], [[0, 0, 0, 1]]*2)
    with pytest.raises(TransformError, match='from 0.000 to 1.000 s with a gap there'): gap.lookup('odom', 'body', 5*10**8)


def test_a_bad_quaternion_elsewhere_does_no_harm(tree):
    tree.add('map', 'dock', 0, [0, 0, 0], [0, 0, 0, 0])
    assert tree.lookup('odom', 'camera', T0+10**8).shape == (4, 4)
    with pytest.raises(TransformError, match='poses of dock in map: 1 of 1'): tree.lookup('map', 'dock', 0)


# --- pose source of a recording

def test_transforms_win_when_they_cover_the_images():
    t = T0 + np.arange(200)*5*10**7; images = t[:-1] + 2*10**7
    for stop, source in ((200, 'tf'), (191, 'tf'), (189, 'odom')): # 199, 190 and 188 of 199 images lie between transforms: 100, 95.5 and 94.5 %
        track = pose_track(FakeBag(tf=tf_rows(t[:stop]), odom=odom_rows(t)), images)
        assert track.report['source'] == source and track.report['cover'] >= .95, stop
    assert track.child == 'base_link' and pose_track(FakeBag(tf=tf_rows(t), odom=odom_rows(t)), source='odom').report['source'] == 'odom'


def test_the_best_source_with_a_warning_when_none_covers():
    t = T0 + np.arange(100)*10**8
    with pytest.warns(PoseGapWarning, match='poses from odom cover 60% of the 100 times'):
        assert pose_track(FakeBag(tf=tf_rows(t[:30]), odom=odom_rows(t[:60])), t).report['source'] == 'odom'
    with warnings.catch_warnings(): warnings.simplefilter('error'); pose_track(FakeBag(tf=tf_rows(t)), t)


def test_no_pose_source_says_what_was_found():
    with pytest.raises(UserError, match="no pose source. tf: no topic for 'tf', topics found: /image .* odom: odom is empty"): pose_track(FakeBag(empty=['odom']))
    with pytest.raises(TransformError, match="frame 'body' is unknown.*: known are base, odom"): pose_track(FakeBag(tf=tf_rows(T0+np.arange(9), child='base')))
    with pytest.raises(TransformError, match="give 0 poses of 'body'"): pose_track(FakeBag(tf=tf_rows(T0+np.arange(1)))) # one transform is no track


def test_the_publisher_filter(rng):
    t = T0 + np.arange(100)*5*10**7; ours, theirs = tf_rows(t), tf_rows(t+10**6, callerid='/other', speed=-3.)
    bag = FakeBag(tf=np.concatenate([ours, theirs])[rng.permutation(200)]); bag.map = type('Map', (), dict(odom_frame='odom', body_frame='body', callerid='/spot/spot_ros'))
    np.testing.assert_allclose(pose_track(bag).xyz[:, 0], ours['xyz'][:, 0])
    bag.map.callerid = '/somebody'; assert len(pose_track(bag)) == 200  # a publisher that does not occur filters nothing
    bag.channels['tf']['callerid'] = ''; bag.map.callerid = '/spot/spot_ros'; assert len(pose_track(bag)) == 200  # ROS 2


def test_reversed_tree_and_static_frames_as_the_robot_sends_them():
    "body -> odom (upside down) and body -> camera in every message: the seed's layout."
    t = T0 + np.arange(50)*5*10**7; T = planar_se3(np.stack([(t-T0)/1e9, .1*(t-T0)/1e9, (t-T0)/1e9], 1)); inv = inv_se3(T)
    rows = tf_rows(t, 'body', 'odom'); rows['xyz'], rows['quat'] = inv[:, :3, 3], matrix_quat(inv[:, :3, :3])
    fixed = tf_rows(t, 'body', 'camera', speed=0.); fixed['xyz'] = [.3, 0, .7]
    bag = FakeBag(tf=np.concatenate([rows, fixed]))
    track = pose_track(bag, t); np.testing.assert_allclose(track.T, T, atol=1e-12); assert len(track) == 50
    camera = TransformBuffer.from_channel(bag.channel('tf')); assert camera.edge(('body', 'camera'))[1] # never changes: static
    np.testing.assert_allclose(camera.lookup('body', 'camera', 0)[:3, 3], [.3, 0, .7])


def test_ros1_bag_with_two_publishers(tmp_path):
    "Written with the real writer, read through robot.bags."
    from rosbags.rosbag1 import Writer
    from vislearn.robot.bags import Bag
    from vislearn.robot.msgs import typestore
    from vislearn.robot.topics import TopicMap
    store = typestore(ros=1); kinds = store.types; t = T0 + np.arange(40)*5*10**7
    def stamped(ns, parent, child, x):
        header = kinds['std_msgs/msg/Header'](0, kinds['builtin_interfaces/msg/Time'](int(ns)//10**9, int(ns)%10**9), parent)
        return kinds['geometry_msgs/msg/TransformStamped'](header, child, kinds['geometry_msgs/msg/Transform'](
            kinds['geometry_msgs/msg/Vector3'](x, 0., 0.), kinds['geometry_msgs/msg/Quaternion'](0., 0., 0., 1.)))
    with Writer(tmp_path/'two.bag') as writer:
        conns = {c: writer.add_connection('/tf', 'tf2_msgs/msg/TFMessage', typestore=store, callerid=c) for c in ('/spot/spot_ros', '/other_node')}
        for k, ns in enumerate(t):
            for caller, x in (('/spot/spot_ros', .1*k), ('/other_node', -7.)):
                msg = kinds['tf2_msgs/msg/TFMessage']([stamped(ns+(caller=='/other_node'), 'odom', 'body', x)])
                writer.write(conns[caller], int(ns), store.serialize_ros1(msg, 'tf2_msgs/msg/TFMessage'))
    track = pose_track(Bag(tmp_path/'two.bag', TopicMap(tf='/tf', callerid='/spot/spot_ros')), t)
    assert track.report['source'] == 'tf' and len(track) == 40
    np.testing.assert_allclose(track.xyz[:, 0], .1*np.arange(40))


@pytest.mark.parametrize('name,topic,n,length', [('husky_outdoor_imu_odom_gps', '/husky_velocity_controller/odom', 3952, 358.8), ('jackal_imu_odom_simtime', '/jackal_velocity_controller/odom', 3060, None)])
def test_real_bags(name, topic, n, length):
    path = real_data(f'bags/{name}.bag')
    if path is None: pytest.skip(f'{name}.bag is not installed')
    from vislearn.robot.bags import Bag
    from vislearn.robot.topics import TopicMap
    track = pose_track(Bag(path, TopicMap(odom=topic)))
    assert track.report['source'] == 'odom' and track.report['samples'] == n and track.report['not_finite'] == 0 and len(track) > .99*n
    if length: assert abs(track.path_length()/length-1) < .005 and abs(track.speed().max()-1.02) < .2
    mid = (track.t_ns[1:] + track.t_ns[:-1])//2; T, ok = track.at(mid)
    assert ok.mean() > .95 and np.allclose(np.linalg.norm(T[ok][:, :3, 3]-track.xyz[:-1][ok], axis=1), np.linalg.norm(np.diff(track.xyz, axis=0), axis=1)[ok]/2, atol=1e-6)
