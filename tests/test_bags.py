"Bags: every real one, round trips in every format, damage of every kind"
import io, json, os, pickle, sqlite3, subprocess, sys, warnings
import numpy as np, pytest
from PIL import Image
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer as Writer2
from vislearn.core import ConfigError, UserError, real_data
from vislearn.robot.bags import (Bag, BagError, BagWarning, DecodeError, EmptyTopicError, MissingTopicError, TimeRangeError, TopicMap, WrongTypeError,
                                 bag_check, bag_info, format_check, format_info)
from vislearn.robot.msgs import LAYOUTS, typestore
from vislearn.movies import natural_key
from vislearn.robot.reader import Recording, find_files, natural
from vislearn.robot.rows import SPOT_JOINTS

FORMATS = ('ros1', 'sqlite3', 'mcap')
T0 = 1_700_000_000 * 10**9

def real(name):
    path = real_data('bags/'+name)
    if path is None: pytest.skip(f'real data bags/{name} is not here')
    return path

# ---- messages and files -------------------------------------------------------------------------

class Make:
    "Short names for messages of one version of ROS and one foot layout"
    def __init__(self, ros=1, layout='flat'): self.ros, self.layout, self.store = ros, layout, typestore(layout, ros)
    def __call__(self, name, *args):
        name = next(n for n in self.store.types if n.endswith('/msg/'+name)) if '/' not in name else name
        return self.store.types[name](*args)
    def time(self, t): return self('builtin_interfaces/msg/Time', t//10**9, t%10**9)
    def head(self, t, frame=''): return self('std_msgs/msg/Header', *([0] if self.ros==1 else []), self.time(t), frame)
    def vec(self, *v): return self('geometry_msgs/msg/Vector3', *map(float, v))
    def point(self, *v): return self('geometry_msgs/msg/Point', *map(float, v))
    def quat(self, *v): return self('geometry_msgs/msg/Quaternion', *map(float, v))
    def odom(self, t, xyz=(0,0,0), quat=(0,0,0,1)):
        pose = self('geometry_msgs/msg/PoseWithCovariance', self('geometry_msgs/msg/Pose', self.point(*xyz), self.quat(*quat)), np.zeros(36))
        twist = self('geometry_msgs/msg/Twist', self.vec(1, 2, 3), self.vec(4, 5, 6))
        return self('nav_msgs/msg/Odometry', self.head(t, 'odom'), 'body', pose, self('geometry_msgs/msg/TwistWithCovariance', twist, np.zeros(36)))
    def tf(self, *edges):
        one = lambda t, parent, child, xyz: self('geometry_msgs/msg/TransformStamped', self.head(t, parent), child,
                                                 self('geometry_msgs/msg/Transform', self.vec(*xyz), self.quat(0, 0, 0, 1)))
        return self('tf2_msgs/msg/TFMessage', [one(*e) for e in edges])
    def twist(self, t):
        body = self('geometry_msgs/msg/Twist', self.vec(.1, .2, .3), self.vec(.4, .5, .6))
        return self('geometry_msgs/msg/TwistWithCovarianceStamped', self.head(t, 'odom'), self('geometry_msgs/msg/TwistWithCovariance', body, np.zeros(36)))
    def joints(self, t, names=SPOT_JOINTS, base=0.):
        pos = base + np.arange(len(names), dtype=float)
        return self('sensor_msgs/msg/JointState', self.head(t), list(names), pos, pos+100, pos+200)
    def battery(self, t):
        span = self('builtin_interfaces/msg/Duration', 9, 0)
        cell = self('spot_msgs/msg/BatteryState', self.head(t), 'pack', 77., span, -6., 52., np.array([30., 35.]), 3)
        return self('spot_msgs/msg/BatteryStateArray', [cell])
    def feet(self, t, k=0):
        vec, more = (self.vec if self.layout=='nested' else self.point), []
        if self.layout!='plain':
            ground = (.5+k, 'odom', vec(.01+k, 0, 0), vec(.02, .03, .04), vec(0, 0, 1), .25, .125)
            more = [self('spot_msgs/msg/TerrainState', *ground)] if self.layout=='nested' else ground
        feet = [self('spot_msgs/msg/FootState', self.point(.3, i, -.5), i%3, *more) for i in range(4)]
        return self('spot_msgs/msg/FootStateArray', *([self.head(t, 'body')] if self.layout=='flat' else []), feet)
    def imu(self, t, g=9.8): return self('sensor_msgs/msg/Imu', self.head(t, 'imu'), self.quat(0, 0, 0, 1), np.zeros(9), self.vec(.1, .2, .3), np.zeros(9), self.vec(0, g, 0), np.zeros(9))
    def camera(self, t, n=5):
        roi = self('sensor_msgs/msg/RegionOfInterest', 0, 0, 0, 0, False)
        return self('sensor_msgs/msg/CameraInfo', self.head(t, 'cam'), 480, 640, 'plumb_bob', np.arange(n)/10., np.arange(9.), np.eye(3).ravel(), np.arange(12.), 0, 0, roi)
    def jpeg(self, t, k=0, cut=None, size=(32, 24), quality=90):
        data = jpeg_bytes(k, size, quality)[:cut]
        return self('sensor_msgs/msg/CompressedImage', self.head(t, 'cam'), 'bgr8; jpeg compressed bgr8', np.frombuffer(data, np.uint8))

def jpeg_bytes(k, size=(32, 24), quality=90):
    file = io.BytesIO(); Image.fromarray(np.full((size[1], size[0], 3), k%256, np.uint8)).save(file, 'jpeg', quality=quality)
    return file.getvalue()

def write_bag(path, fmt, rows, make, chunk=None, compress=False):
    "Write rows of (topic, log time, message) or (topic, log time, message, callerid)"
    conns = {}
    writer = Writer1(path) if fmt=='ros1' else Writer2(path, version=9, storage_plugin=StoragePlugin.SQLITE3 if fmt=='sqlite3' else StoragePlugin.MCAP)
    if fmt=='ros1' and chunk: writer.chunk_threshold = chunk
    if compress: writer.set_compression(Writer1.CompressionFormat.BZ2) if fmt=='ros1' else writer.set_compression(CompressionMode.STORAGE if fmt=='mcap' else CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        for topic, log, msg, *caller in rows:
            key = topic, *caller
            if key not in conns: conns[key] = writer.add_connection(topic, msg.__msgtype__, typestore=make.store, **(dict(callerid=caller[0]) if caller else {}))
            raw = make.store.serialize_ros1(msg, msg.__msgtype__) if fmt=='ros1' else make.store.serialize_cdr(msg, msg.__msgtype__)
            writer.write(conns[key], log, raw)
    return path

def full_rows(make, n=6, step=5*10**7):
    "Every topic of the seed's robot, n messages each"
    rows = []
    for k in range(n):
        t = T0 + k*step; log = t + 3*10**6
        rows += [('/tf', log, make.tf((t, 'odom', 'body', (k, 0, 0)), (t, 'body', 'kinect', (0, 0, 1)))), ('/odom', log, make.odom(t, (k, 2*k, 0))),
                 ('/joint_states', log, make.joints(t, base=k)), ('/spot/odometry/twist', log, make.twist(t)), ('/spot/status/battery_states', log, make.battery(t)),
                 ('/spot/status/feet', log, make.feet(t, k)), ('/vectornav/IMU', log, make.imu(t)), ('/camera/rgb/camera_info', log, make.camera(t)),
                 ('/bev/single/compressed', log, make.jpeg(t, 10*k)), ('/camera/rgb/image_raw/compressed', log, make.jpeg(t, 20*k))]
    return rows + [('/tf_static', T0, make.tf((T0, 'body', 'camera', (1, 2, 3))))]

def suffixed(tmp_path, fmt, name='a'): return tmp_path/(name+'.bag' if fmt=='ros1' else name)
def data_file(path): return path if path.is_file() else next(f for f in path.iterdir() if f.suffix in ('.db3', '.mcap'))

# ---- type facts ---------------------------------------------------------------------------------

def test_ros1_md5_of_all_spot_messages():
    facts = {('plain', 'FootState'): '524cf45b9d66134675b586174885a624', ('flat', 'FootState'): 'd20aa8b0ffb56969b0f12cd7aa880c7b', ('nested', 'FootState'): 'b315748465703ff0724bcad0b58e8e71',
             ('nested', 'TerrainState'): '8ace1ec594dcaee88134d9f49cb542d9', ('flat', 'FootStateArray'): '9c852027f123e9811a6399cbdb707612', ('flat_headerless', 'FootStateArray'): 'df5bc872904c57418e9c809350e51501',
             ('plain', 'FootStateArray'): '6bad9df4582060c21e7bde863865e1cb', ('nested', 'FootStateArray'): '8d803aa327217b778d3c15f2d99f2de9',
             ('flat', 'BatteryState'): 'd4f77065e2805bf6a288541cb5a848ce', ('flat', 'BatteryStateArray'): '5be00bcb9a392f14ba6707e020a94106'}
    assert {k: typestore(k[0]).generate_msgdef('spot_msgs/msg/'+k[1], ros_version=1)[1] for k in facts} == facts
    std = {'tf2_msgs/msg/TFMessage': '94810edda583a504dfda3829e70d7eec', 'sensor_msgs/msg/CompressedImage': '8f7a12909da2c9d3332d540a0977563f', 'sensor_msgs/msg/JointState': '3066dcd76a6cfaef579bd0f34173e9fd',
           'nav_msgs/msg/Odometry': 'cd5e73d190d741a2f92e81eda573aca7', 'geometry_msgs/msg/TwistWithCovarianceStamped': '8927a1a12fb2607ceea095b2dc440a96',
           'geometry_msgs/msg/TransformStamped': 'b5764a33bfeb3588febc2682852579b0', 'sensor_msgs/msg/Imu': '6a62c6daae103f4ff57a132d6f95cec2', 'std_msgs/msg/Header': '2176decaecbce78abc3b96ef049fabed'}
    assert {k: typestore().generate_msgdef(k, ros_version=1)[1] for k in std} == std

def test_ros2_type_hashes():
    facts = {('plain', 'FootState'): '4805642ade591', ('flat', 'FootState'): '1672855155309', ('nested', 'FootState'): 'c8eea4d462558', ('flat', 'FootStateArray'): '8bc3bd54acccc',
             ('plain', 'BatteryState'): 'dc928006b3949', ('plain', 'BatteryStateArray'): '5d85b5a60b6c7'}
    for (layout, name), start in facts.items(): assert typestore(layout, 2).hash_rihs01('spot_msgs/msg/'+name).startswith('RIHS01_'+start), (layout, name)

# ---- real bags ----------------------------------------------------------------------------------

TABLES = {
    'husky_outdoor_imu_odom_gps.bag': (16806, 395.3, {'/fix': ('sensor_msgs/NavSatFix', 989, 2.5, '/gps'), '/husky_velocity_controller/odom': ('nav_msgs/Odometry', 3952, 10.0, 'odom'), '/imu/data': ('sensor_msgs/Imu', 11865, 30.0, 'imu_link')}),
    'jackal_imu_odom_simtime.bag': (6121, 61.2, {'/imu/data': ('sensor_msgs/Imu', 3061, 50.0, 'base_link'), '/jackal_velocity_controller/odom': ('nav_msgs/Odometry', 3060, 50.0, 'odom')}),
    'picam_planar_marker_board.bag': (33, 0.5, {'/raspicam_node/camera/camera_info': ('sensor_msgs/CameraInfo', 32, None, None), 'raspicam_node/camera/image/compressed': ('sensor_msgs/CompressedImage', 1, None, None)}),
}

@pytest.mark.parametrize('name', TABLES)
def test_info_of_real_bags(name):
    info = bag_info(real(name))
    messages, seconds, topics = TABLES[name]
    assert (info['messages'], info['format'], info['warnings']) == (messages, 'ros1', []) and abs(info['duration_s']-seconds) < .06
    assert set(info['topics']) == set(topics)
    for topic, (kind, count, hz, frame) in topics.items():
        got = info['topics'][topic]
        assert (got['type'], got['count']) == (kind, count)
        if hz: assert abs(got['hz']-hz) < .05 and got['min_hz'] <= got['hz']+1e-9 and got['frame_id'] == frame
    assert json.loads(json.dumps(info)) == info
    for topic in topics: assert topic in format_info(info)

def test_husky_way_and_gravity():
    bag = Bag(real('husky_outdoor_imu_odom_gps.bag'), TopicMap(odom='husky_velocity_controller/odom', imu='/imu/data'))
    odom, imu = bag.channel('odom'), bag.channel('imu')
    assert abs(np.linalg.norm(np.diff(odom['xyz'], axis=0), axis=1).sum()/358.8 - 1) < .005 and abs(odom['lin'][:, 0].max()-1.02) < .01
    np.testing.assert_allclose(imu['acc'].mean(0), [-.215, 9.791, .079], atol=1e-3)
    assert abs(len(odom)-3952) <= 2 and abs(len(imu)-11865) <= 5 and (np.diff(odom['t_ns']) > 0).all() and bag.start_ns//10**9 == 1432235498
    half = bag.channel('odom', stop_ns=bag.start_ns + 100*10**9)
    assert (half['t_ns'] < bag.start_ns+100*10**9).all() and 990 < len(half) < 1010

def test_sim_time_bag_keeps_its_small_times():
    bag = Bag(real('jackal_imu_odom_simtime.bag'), TopicMap(odom='/jackal_velocity_controller/odom'))
    assert bag.start_ns == 47_580_000_000 and abs(bag.channel('odom')['t_ns'][0] - bag.start_ns) < 10**9

def test_picam_topic_without_slash():
    bag = Bag(real('picam_planar_marker_board.bag'), TopicMap(camera='/raspicam_node/camera/image/compressed', camera_info='raspicam_node/camera/camera_info'))
    images, cam = bag.images('camera'), bag.channel('camera_info')
    assert images[0].shape == (720, 1280, 3) and images[0].dtype == np.uint8 and [im.shape for _, im in images.iter()] == [(720, 1280, 3)]
    row = cam[0]
    assert (row['width'], row['height'], str(row['model'])) == (1280, 720, 'plumb_bob')
    np.testing.assert_allclose(row['K'][[0, 1, 0, 1], [0, 1, 2, 2]], [1276.7, 1274.3, 634.9, 379.8], atol=.06)
    np.testing.assert_allclose(row['D'], [.1465, -.2847, .0013, -.0043, 0], atol=6e-5)

def test_ros1_message_types():
    bag = Bag(real('ros1_message_types.bag'))
    assert len(bag.topics) == 9 and all(t.count==1 for t in bag.topics.values())
    assert bag.images('/image')[0].shape == (240, 360, 3) and bag.images('/compressedimage')[0].shape == (2, 2, 3)
    assert next(bag.messages('/occupancygrid'))[1].info.width > 0

@pytest.mark.parametrize('fmt', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('bare', [False, True])
def test_message_zoo(fmt, bare):
    path = real(f'ros2_message_zoo_{fmt}')
    bag = Bag(data_file(path) if bare else path)
    info = bag.info()
    assert (info['messages'], len(info['topics']), info['format'], info['warnings']) == (188, 94, fmt, []) and all(t['count']==2 for t in info['topics'].values())
    assert abs(info['duration_s']-18.7) < .05
    assert sum(1 for topic in info['topics'] for _ in bag.messages(topic)) == 188 and not bag.warnings

COUNTS = dict(AAA=804, BBB=742, CCC=742, DDD=753, EEE=804, FFF=772, GGG=731, HHH=726)

@pytest.mark.parametrize('fmt', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('how', ['folder', 'files'])
def test_split_bags(fmt, how):
    path = real(f'ros2_split_{fmt}')
    bag = Bag(path if how=='folder' else sorted(path.glob('wbag_*')))
    assert {t: i.count for t, i in bag.topics.items()} == COUNTS and sum(COUNTS.values()) == 6074 == bag.info()['messages']
    assert bag.topics['AAA'].type == 'std_msgs/msg/String' and sum(1 for _ in bag.messages('/AAA')) == 804

# ---- round trips --------------------------------------------------------------------------------

@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('compress', [False, True])
def test_every_topic_comes_back(tmp_path, fmt, compress):
    make = Make(1 if fmt=='ros1' else 2)
    bag = Bag(write_bag(suffixed(tmp_path, fmt), fmt, full_rows(make), make, compress=compress))
    t = T0 + np.arange(6)*5*10**7
    odom, tf, static, joints = (bag.channel(r) for r in ('odom', 'tf', 'tf_static', 'joint_states'))
    assert (odom['t_ns']==t).all() and (odom['log_ns']==t+3*10**6).all() and odom['xyz'].tolist()==[[k, 2*k, 0] for k in range(6)]
    assert set(odom['frame'])=={'odom'} and set(odom['child'])=={'body'} and (odom['lin']==[1, 2, 3]).all() and (odom['ang']==[4, 5, 6]).all() and (odom['quat']==[0, 0, 0, 1]).all()
    assert len(tf)==12 and tf[tf['child']=='body']['xyz'][:, 0].tolist()==list(range(6)) and set(tf[tf['child']=='kinect']['parent'])=={'body'}
    assert static[['parent', 'child']].tolist()==[('body', 'camera')] and static['xyz'].tolist()==[[1, 2, 3]]
    assert joints['pos'].shape==(6, 12) and (joints['pos'][2]==np.arange(12)+2).all() and (joints['vel']==joints['pos']+100).all() and (joints['eff']==joints['pos']+200).all() and bag.joints()==SPOT_JOINTS
    twist, cell, feet, imu, cam = (bag.channel(r) for r in ('twist', 'battery', 'feet', 'imu', 'camera_info'))
    assert (twist['lin']==[.1, .2, .3]).all() and (twist['ang']==[.4, .5, .6]).all() and (twist['t_ns']==t).all()
    assert cell[0][['n', 'percent', 'current', 'voltage', 'power', 'celsius']].tolist()==(1, 77., -6., 52., 312., 35.) and (cell['t_ns']==t).all()
    assert feet['contact'].tolist()==[[0, 1, 2, 0]]*6 and feet['slip'][3, 0].tolist()==[3.01, 0, 0] and feet['felt'].all() and (feet['pen_std']==.125).all() and (feet['t_ns']==t).all()
    assert (imu['acc']==[0, 9.8, 0]).all() and (imu['ang']==[.1, .2, .3]).all() and set(imu['frame'])=={'imu'}
    assert (cam['K'][0]==np.arange(9).reshape(3, 3)).all() and (cam['P'][0]==np.arange(12).reshape(3, 4)).all() and cam['D'][0].tolist()==[0, .1, .2, .3, .4] and cam['width'][0]==640
    for role, gain in (('image', 10), ('camera', 20)):
        images = bag.images(role)
        assert (images.t_ns==t).all() and len(images)==6
        for k, image in images.iter(): assert image.shape==(24, 32, 3) and abs(int(image.mean())-gain*k) <= 1 and (image==images[k]).all()
    assert not bag.warnings and bag.info()['messages']==61 and bag.info()['format']==fmt

@pytest.mark.parametrize('fmt', FORMATS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_foot_layouts(tmp_path, fmt, layout):
    make = Make(1 if fmt=='ros1' else 2, layout)
    feet = Bag(write_bag(suffixed(tmp_path, fmt), fmt, [('/spot/status/feet', T0+k, make.feet(T0+k-5, k)) for k in range(3)], make)).channel('feet')
    assert feet['t_ns'].tolist()==[T0+k-(5 if layout=='flat' else 0) for k in range(3)] and feet['contact'].tolist()==[[0, 1, 2, 0]]*3 and feet['pos'][0, 2].tolist()==[.3, 2, -.5]
    if layout=='plain': assert not feet['felt'].any() and all(np.isnan(feet[f]).all() for f in ('mu', 'slip', 'slip_vel', 'normal', 'pen_mean', 'pen_std'))
    else: assert feet['felt'].all() and feet['mu'][2].tolist()==[2.5]*4 and (feet['normal'][:, :, 2]==1).all() and (feet['pen_mean']==.25).all()

@pytest.mark.parametrize('layout', LAYOUTS)
def test_sqlite_without_definitions(tmp_path, layout):
    "Recorders before 2023 stored no definitions: ours are used, and the foot layout is found by trial."
    make = Make(2, layout)
    rows = [('/spot/status/feet', T0+k, make.feet(T0, k)) for k in range(3)] + [('/odom', T0+k, make.odom(T0+k)) for k in range(3)] + [('/tf', T0, make.tf((T0, 'a', 'b', (1, 2, 3))))]
    file = data_file(write_bag(tmp_path/'old', 'sqlite3', rows, make))
    with sqlite3.connect(file) as db: db.execute('DELETE FROM message_definitions')
    bag = Bag(file)
    assert not any(c.msgdef.data for c in bag.rec.connections)
    assert bag.channel('feet')['contact'][0].tolist()==[0, 1, 2, 0] and bag.channel('feet')['felt'].all()==(layout!='plain') and len(bag.channel('odom'))==3 and len(bag.channel('tf'))==1

def test_unknown_type_without_definition_costs_one_topic(tmp_path):
    make = Make(2)
    file = data_file(write_bag(tmp_path/'old', 'sqlite3', [('/odom', T0, make.odom(T0)), ('/strange', T0, make.imu(T0))], make))
    with sqlite3.connect(file) as db: db.execute('DELETE FROM message_definitions'); db.execute("UPDATE topics SET type='my_msgs/msg/Thing' WHERE name='/strange'")
    bag = Bag(file)
    assert len(bag.channel('odom'))==1 and bag.topics['/strange'].count==1
    with pytest.warns(BagWarning, match=r'1 message of /strange: unreadable \(BagError: the bag holds no definition of my_msgs/msg/Thing'): assert list(bag.messages('/strange'))==[]

def test_two_layouts_in_two_files(tmp_path):
    "Files of one recording may carry different definitions of a type."
    for k, layout in enumerate(('flat', 'plain')):
        make = Make(1, layout); write_bag(tmp_path/f'part_{k}.bag', 'ros1', [('/spot/status/feet', T0+k*10**9, make.feet(T0+k*10**9))], make)
    for bag in (Bag(tmp_path), Bag([tmp_path/'part_0.bag', tmp_path/'part_1.bag'])):
        assert bag.channel('feet')['felt'].tolist()==[[True]*4, [False]*4]

def test_two_publishers_keep_their_callerid(tmp_path):
    make = Make()
    rows = [('/tf', T0+k, make.tf((T0+k, 'odom', 'body', (k, 0, 0))), '/spot/spot_ros') for k in range(3)] + [('/tf', T0+k, make.tf((T0+k, 'odom', 'body', (9, 9, 9))), '/other_node') for k in range(3)]
    tf = Bag(write_bag(tmp_path/'two.bag', 'ros1', sorted(rows, key=lambda r: r[1]), make)).channel('tf')
    assert len(tf)==6 and set(tf['callerid'])=={'/spot/spot_ros', '/other_node'}
    assert tf[tf['callerid']=='/spot/spot_ros']['xyz'][:, 0].tolist()==[0, 1, 2]

def test_split_ros1_reads_as_one(tmp_path):
    make = Make()
    for k in range(3): write_bag(tmp_path/f'run_{9+k}.bag', 'ros1', [('/odom', T0+(10*k+i)*10**8, make.odom(T0+(10*k+i)*10**8, (10*k+i, 0, 0))) for i in range(10)], make)
    bag = Bag(tmp_path)
    assert [p.name for p in bag.rec.paths]==['run_9.bag', 'run_10.bag', 'run_11.bag'] and bag.channel('odom')['xyz'][:, 0].tolist()==list(range(30)) and bag.end_ns==T0+29*10**8

# ---- time ---------------------------------------------------------------------------------------

def test_disorder_and_duplicates_are_put_right_and_counted(tmp_path):
    make = Make()
    stamps = [0, 1, 3, 2, 4, 4, 5]
    rows = [('/odom', T0+i*10**7, make.odom(T0+s*10**7, (i, 0, 0))) for i, s in enumerate(stamps)] + [('/bev/single/compressed', T0+i*10**7, make.jpeg(T0+s*10**7, 10*i)) for i, s in enumerate(stamps)]
    bag = Bag(write_bag(tmp_path/'a.bag', 'ros1', rows, make))
    odom, images = bag.channel('odom'), bag.images()
    assert ((odom['t_ns']-T0)//10**7).tolist()==[0, 1, 2, 3, 4, 5] and odom['xyz'][:, 0].tolist()==[0, 1, 3, 2, 4, 6]
    assert ((images.t_ns-T0)//10**7).tolist()==[0, 1, 2, 3, 4, 5] and [round(im.mean()/10) for _, im in images.iter()]==[0, 1, 3, 2, 4, 6]
    for topic in ('/odom', '/bev/single/compressed'): assert bag.warnings[topic, 'out of time order, sorted']==1 and bag.warnings[topic, 'same time as another, dropped']==1

@pytest.mark.parametrize('bad, source', [(1, 'header'), (3, 'log')])
def test_bad_stamps(tmp_path, bad, source):
    "Up to 1 % of bad stamps are replaced one by one, more mean that the clock is wrong."
    make = Make()
    rows = [('/odom', T0+k*10**7, make.odom(0 if k<bad else T0+k*10**7-10**6)) for k in range(200)]
    path = write_bag(tmp_path/'a.bag', 'ros1', rows, make)
    bag, forced = Bag(path), Bag(path, time_source='log')
    with warnings.catch_warnings(): warnings.simplefilter('ignore', BagWarning); t, info = bag.channel('odom')['t_ns'], bag.topics['/odom']
    assert info.time_source==source and t[100]==T0+100*10**7-(10**6 if source=='header' else 0) and t[0]==T0
    assert (forced.channel('odom')['t_ns']==T0+np.arange(200)*10**7).all()

def test_windows(tmp_path):
    make = Make()
    bag = Bag(write_bag(tmp_path/'a.bag', 'ros1', full_rows(make), make))
    lo, hi = T0+10**8, T0+2*10**8
    assert len(bag.channel('odom', lo, hi))==2 and len(bag.images('image', lo, hi))==2 and len(list(bag.messages('/odom', lo, hi)))==2 and len(bag.channel('tf_static', lo, hi))==1
    assert [t for t, _ in bag.messages('odom')]==bag.channel('odom')['t_ns'].tolist() and len(bag.channel('odom', lo+1, lo+2))==0
    for call in (lambda: bag.channel('odom', 0, 10**9), lambda: bag.images('image', T0+10**12), lambda: next(bag.messages('odom', stop_ns=1))):
        with pytest.raises(TimeRangeError, match=r'1700000000\.\d+ to 1700000000\.\d+ s \(2023-11-14T22:13:20'): call()
    with pytest.raises(TimeRangeError, match='these look like seconds'): bag.channel('odom', 1_700_000_000, 1_700_000_001)
    with pytest.raises(TimeRangeError, match='start is after stop'): bag.channel('odom', hi, lo)

# ---- joints, cameras ----------------------------------------------------------------------------

def test_joints_by_name(tmp_path):
    make = Make()
    rows = [('/joint_states', T0+1, make.joints(T0+1, ['spot/'+n for n in SPOT_JOINTS[::-1]]+['arm_sh0'])), ('/joint_states', T0+2, make.joints(T0+2, SPOT_JOINTS[:6]))]
    joints = Bag(write_bag(tmp_path/'a.bag', 'ros1', rows, make)).channel('joint_states')
    assert joints['pos'][0].tolist()==list(range(12))[::-1] and joints['pos'][1, :6].tolist()==list(range(6)) and np.isnan(joints['eff'][1, 6:]).all()
    bag = Bag(write_bag(tmp_path/'b.bag', 'ros1', [('/joint_states', T0, make.joints(T0, ['right', 'left']))], make))
    assert bag.channel('joint_states')['pos'].tolist()==[[0, 1]] and bag.joints()==('right', 'left')

def test_distortion_vectors_of_other_lengths(tmp_path):
    make = Make()
    cam = Bag(write_bag(tmp_path/'a.bag', 'ros1', [('/camera/rgb/camera_info', T0+n, make.camera(T0+n, n)) for n in (0, 5, 8)], make)).channel('camera_info')
    assert cam['D'].shape==(3, 8) and cam['D'][0].tolist()==[0]*8 and cam['D'][2, 7]==.7

# ---- images -------------------------------------------------------------------------------------

@pytest.mark.parametrize('fmt', FORMATS)
def test_one_bad_image_is_skipped_and_named(tmp_path, fmt):
    make = Make(1 if fmt=='ros1' else 2)
    rows = [('/bev/single/compressed', T0+k*10**8, make.jpeg(T0+k*10**8, k, cut=150 if k==7 else None)) for k in range(150)]
    bag = Bag(write_bag(suffixed(tmp_path, fmt), fmt, rows, make))
    images = bag.images()
    with pytest.warns(BagWarning, match='1 of 150 images of /bev/single/compressed skipped: JPEG payload is damaged'): got = [i for i, _ in images.iter()]
    assert got==[i for i in range(150) if i!=7] and [(t, n) for (t, _), n in bag.warnings.items()]==[('/bev/single/compressed', 1)]
    with pytest.raises(DecodeError, match='image 7 of /bev/single/compressed'): images[7]

def test_too_many_bad_images(tmp_path):
    make = Make()
    rows = [('/bev/single/compressed', T0+k*10**8, make.jpeg(T0+k*10**8, k, cut=100 if k<3 else None)) for k in range(150)]
    images = Bag(write_bag(tmp_path/'a.bag', 'ros1', rows, make)).images()
    with pytest.raises(DecodeError, match=r'2 of 150 images of /bev/single/compressed .*more than 1%'): list(images.iter())
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); assert len(list(Bag(tmp_path/'a.bag').images(max_bad=.05).iter()))==147

def test_images_with_equal_log_times(tmp_path):
    make = Make()
    bag = Bag(write_bag(tmp_path/'a.bag', 'ros1', [('/bev/single/compressed', T0, make.jpeg(T0+k*10**8, 40*k)) for k in range(6)], make))
    images = bag.images()
    assert [round(images[k].mean()/40) for k in range(6)]==list(range(6)) and [round(im.mean()/40) for _, im in images.iter([5, 0, 3])]==[5, 0, 3]

def test_raw_images(tmp_path):
    make, rows = Make(), []
    rgb = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    for k, (enc, data) in enumerate(dict(rgb8=rgb, bgr8=rgb[..., ::-1], rgba8=np.dstack([rgb, rgb[..., :1]]), bgra8=np.dstack([rgb[..., ::-1], rgb[..., :1]]), mono8=rgb[..., 0]).items()):
        lines = np.pad(data.reshape(3, -1), ((0, 0), (0, 5)))
        rows.append(('/camera', T0+k, make('sensor_msgs/msg/Image', make.head(T0+k), 3, 4, enc, 0, lines.shape[1], lines.ravel())))
    images = Bag(write_bag(tmp_path/'a.bag', 'ros1', rows, make), TopicMap(camera='/camera')).images('camera')
    for k in range(4): assert (images[k]==rgb).all()
    assert (images[4]==rgb[..., :1]).all()

MEMORY = '''
import sys, numpy as np
from vislearn.robot.bags import Bag
peak = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])/1e3
before = peak()
images = Bag(sys.argv[1]).images()
n = sum(im.shape==(480, 640, 3) for _, im in images.iter()) + sum(images[i].shape==(480, 640, 3) for i in range(0, len(images), 101))
print(n, round(peak()-before))
'''

@pytest.mark.slow
@pytest.mark.parametrize('fmt', FORMATS)
def test_memory_of_2000_images(tmp_path, fmt):
    make, noise = Make(1 if fmt=='ros1' else 2), np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    file = io.BytesIO(); Image.fromarray(noise).save(file, 'jpeg', quality=60)
    data = np.frombuffer(file.getvalue(), np.uint8); assert len(data) > 100_000
    msg = lambda t: make('sensor_msgs/msg/CompressedImage', make.head(t, 'cam'), 'jpeg', data)
    path = write_bag(suffixed(tmp_path, fmt), fmt, (('/bev/single/compressed', T0+k*10**8, msg(T0+k*10**8)) for k in range(2000)), make)
    out = subprocess.run([sys.executable, '-c', MEMORY, str(path)], capture_output=True, text=True, check=True).stdout.split()
    assert int(out[0])==2020 and int(out[1]) < 150, out

# ---- bad input ----------------------------------------------------------------------------------

def test_wrong_paths(tmp_path):
    cases = {'nothing.bag': 'no file or folder', 'notes.txt': 'is not a bag by its name', 'zero.bag': r'empty \(0 bytes\)', 'folder': 'is not a bag: no metadata.yaml', 'text.mcap': 'does not begin like a .mcap file', 'odd.bag': 'looks like mcap'}
    (tmp_path/'notes.txt').write_text('x'); (tmp_path/'zero.bag').touch(); (tmp_path/'folder').mkdir(); (tmp_path/'text.mcap').write_text('hello'); (tmp_path/'odd.bag').write_bytes(b'\x89MCAP0\r\n')
    for name, text in cases.items():
        for call in (Bag, bag_info, bag_check):
            with pytest.raises(BagError, match=text) as err: call(tmp_path/name)
            assert isinstance(err.value, UserError) and '\n' not in str(err.value) and name in str(err.value)
    make = Make(); write_bag(tmp_path/'good.bag', 'ros1', [('/odom', T0, make.odom(T0))], make)
    with pytest.raises(BagError, match="did you mean 'good.bag'"): Bag(tmp_path/'godo.bag')
    with pytest.raises(ConfigError, match='no topic map'): Bag(tmp_path/'good.bag', 'spot_sed')

@pytest.mark.parametrize('fmt', FORMATS)
def test_no_messages(tmp_path, fmt):
    make = Make(1 if fmt=='ros1' else 2)
    path = suffixed(tmp_path, fmt)
    with Writer1(path) if fmt=='ros1' else Writer2(path, version=9, storage_plugin=StoragePlugin.SQLITE3 if fmt=='sqlite3' else StoragePlugin.MCAP) as writer: writer.add_connection('/odom', 'nav_msgs/msg/Odometry', typestore=make.store)
    bag = Bag(path)
    assert bag.info()['messages']==0 and 'no messages' in format_info(bag.info()) and not bag_check(path)['ok']
    for call in (lambda: bag.start_ns, lambda: bag.channel('odom'), lambda: bag.channel('tf')):
        with pytest.raises((EmptyTopicError, MissingTopicError)): call()

def test_topic_errors(tmp_path):
    make = Make()
    path = write_bag(tmp_path/'a.bag', 'ros1', [('/my/odometry', T0, make.odom(T0)), ('/imu', T0, make.imu(T0))], make)
    with pytest.raises(MissingTopicError, match=r"has no topic /odom \(role odom\); of its type: /my/odometry, try TopicMap\(odom='/my/odometry'\); topics found: .*/imu \(sensor_msgs/Imu\)"): Bag(path).channel('odom')
    with pytest.raises(MissingTopicError, match=r"did you mean '/imu'.*topics found: /my/odometry"): Bag(path).stamps('/imuu')
    with pytest.raises(WrongTypeError, match='/imu .role odom. carries sensor_msgs/msg/Imu, expected nav_msgs/msg/Odometry'): Bag(path, TopicMap(odom='/imu')).channel('odom')
    with pytest.raises(WrongTypeError, match='expected sensor_msgs/msg/CompressedImage or sensor_msgs/msg/Image'): Bag(path, TopicMap(image='/imu')).images()
    check = bag_check(path, TopicMap(image='/imu', tf='/tf', odom='my/odometry', imu='/imu'))
    assert {r['role']: r['verdict'] for r in check['rows']}==dict(image='wrong type', tf='missing', odom='slow', imu='slow') and not check['ok'] and len(check['problems'])==1
    assert 'wrong type' in format_check(check) and 'problem: no images' in format_check(check)

def test_check_of_a_good_bag(tmp_path):
    make = Make()
    check = bag_check(write_bag(tmp_path/'a.bag', 'ros1', full_rows(make, 40), make))
    assert check['ok'] and {r['verdict'] for r in check['rows'] if r['role']!='imu'}=={'ok'} and json.loads(json.dumps(check))==check
    imu = next(r for r in check['rows'] if r['role']=='imu')
    assert imu['verdict']=='slow' and imu['wanted_hz']==39.5 and abs(imu['hz']-20) < 1e-6 and abs(imu['max_gap_s']-.05) < 1e-9

@pytest.mark.parametrize('fmt', FORMATS)
def test_truncated_bags(tmp_path, fmt):
    make = Make(1 if fmt=='ros1' else 2)
    file = data_file(write_bag(suffixed(tmp_path, fmt), fmt, full_rows(make, 20), make))
    data = file.read_bytes(); hint = dict(ros1='rosbag reindex', mcap='mcap recover', sqlite3='recover')[fmt]
    for share in (.02, .3, .5, .8, .97):
        cut = tmp_path/f'cut{file.suffix}'; cut.write_bytes(data[:int(share*len(data))])
        with pytest.raises(BagError, match=hint) as err: Bag(cut)
        assert '\n' not in str(err.value)

@pytest.mark.filterwarnings('ignore::vislearn.robot.bags.BagWarning')
@pytest.mark.parametrize('fmt', ['ros1', 'mcap'])
@pytest.mark.parametrize('compress', [True, False])
def test_corrupt_chunk_costs_only_itself(tmp_path, fmt, compress):
    make, rng = Make(1 if fmt=='ros1' else 2), np.random.default_rng(0)
    jpeg = lambda t: make('sensor_msgs/msg/CompressedImage', make.head(t, 'cam'), 'jpeg', np.frombuffer(jpeg_bytes(9) + rng.bytes(6_000 if fmt=='ros1' else 60_000), np.uint8))
    rows = [r for k in range(100) for r in (('/odom', T0+k*10**8, make.odom(T0+k*10**8, (k, 0, 0))), ('/bev/single/compressed', T0+k*10**8+1, jpeg(T0+k*10**8)))]
    file = data_file(write_bag(suffixed(tmp_path, fmt), fmt, rows, make, chunk=100_000, compress=compress))
    rec = Recording(file)
    if fmt=='ros1': places = [(c.datapos, c.datasize) for c in rec.readers[0].chunks.values()]
    else: places = [(c.chunk_start_offset, c.chunk_length) for c in rec.readers[0].storage.chunks]
    assert len(places) > 3
    pos, size = places[1]
    data = bytearray(file.read_bytes())
    if compress and fmt=='ros1': data[pos+size//2:pos+size//2+200] = b'\xff'*200
    else: data[pos+60:pos+size-60] = b'\xff'*(size-120)
    file.write_bytes(data)
    bag = Bag(file)
    with pytest.warns(BagWarning, match=r'\d+ messages of /odom: damaged chunk'): odom = bag.channel('odom')
    lost = sum(n for (topic, _), n in bag.warnings.items() if topic=='/odom')
    assert len(odom)+lost==100 and lost < 40 and odom['xyz'][0, 0]==0 and odom['xyz'][-1, 0]==99 and (odom['xyz'][:, 0]==(odom['t_ns']-T0)/10**8).all()
    info = bag.info()
    gone = [w for w in info['warnings'] if 'damaged chunk' in w['reason']] # a message may also be there, but not decode
    assert info['messages']+sum(w['count'] for w in gone)==200 and {w['topic'] for w in gone}=={'/odom', '/bev/single/compressed'} and 'damaged chunk' in format_info(info)
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); assert len(list(bag.images().iter()))==info['topics']['/bev/single/compressed']['count']

@pytest.mark.parametrize('plugin', [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_messages_compressed_one_by_one(tmp_path, plugin):
    make, writer = Make(2), Writer2(tmp_path/'a', version=9, storage_plugin=plugin)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        conn = writer.add_connection('/odom', 'nav_msgs/msg/Odometry', typestore=make.store)
        for k in range(20): writer.write(conn, T0+k, make.store.serialize_cdr(make.odom(T0+k, (k, 0, 0)), conn.msgtype))
    assert Bag(tmp_path/'a').channel('odom')['xyz'][:, 0].tolist()==list(range(20))
    file = data_file(tmp_path/'a'); data = bytearray(file.read_bytes())
    frames = [i for i in range(len(data)-4) if data[i:i+4]==b'\x28\xb5\x2f\xfd']; assert len(frames)==20
    data[frames[7]:frames[7]+4] = b'oops'; file.write_bytes(data)
    bag = Bag(tmp_path/'a')
    with pytest.warns(BagWarning, match='1 message of /odom: damaged message'): assert len(bag.channel('odom'))==19

@pytest.mark.parametrize('what', ['chunk header', 'index'])
def test_damaged_chunk_header_or_index(tmp_path, what):
    make = Make()
    path = write_bag(tmp_path/'a.bag', 'ros1', [('/odom', T0+k*10**8, make.odom(T0+k*10**8)) for k in range(100)], make, chunk=8000)
    chunks = list(Recording(path).readers[0].chunks.values()); assert len(chunks) > 5
    data, chunk = bytearray(path.read_bytes()), chunks[2]
    at = chunk.datapos-30 if what=='chunk header' else chunk.datapos+chunk.datasize
    n = 12 if what=='chunk header' else 60; data[at:at+n] = b'\x00'*n; path.write_bytes(data)
    with pytest.warns(BagWarning, match='of /odom: chunk index is damaged'): odom = (bag := Bag(path)).channel('odom')
    assert len(odom)+sum(bag.warnings.values())==100 and 70 < len(odom) < 100

def test_message_that_does_not_decode(tmp_path):
    make = Make()
    with Writer1(tmp_path/'a.bag') as writer:
        conn = writer.add_connection('/odom', 'nav_msgs/msg/Odometry', typestore=make.store)
        for k in range(10):
            raw = bytes(make.store.serialize_ros1(make.odom(T0+k), conn.msgtype))
            writer.write(conn, T0+k, raw[:-9] if k in (3, 4) else raw)
    bag = Bag(tmp_path/'a.bag')
    with pytest.warns(BagWarning, match=r'2 messages of /odom: unreadable'): assert len(bag.channel('odom'))==8
    assert len(list(bag.messages('odom')))==8 and sum(bag.warnings.values())==2
    with warnings.catch_warnings(): warnings.simplefilter('error'); bag.channel('odom') # said once
    with Writer1(tmp_path/'b.bag') as writer: writer.write(writer.add_connection('/odom', 'nav_msgs/msg/Odometry', typestore=make.store), T0, b'\x00'*9)
    with pytest.raises(EmptyTopicError, match='no readable message'): Bag(tmp_path/'b.bag').channel('odom')

@pytest.mark.parametrize('fmt', FORMATS)
def test_any_damage_is_an_error_for_users_or_a_counted_loss(tmp_path, fmt):
    "Overwrite bytes at many places: never a traceback of another kind, never more messages than there were."
    make, rng = Make(1 if fmt=='ros1' else 2), np.random.default_rng(1)
    rows = [('/odom', T0+k*10**8, make.odom(T0+k*10**8)) for k in range(60)] + [('/vectornav/IMU', T0+k*10**8, make.imu(T0+k*10**8)) for k in range(60)]
    file = data_file(write_bag(suffixed(tmp_path, fmt), fmt, sorted(rows, key=lambda r: r[1]), make, chunk=6000, compress=fmt=='mcap'))
    whole, read = file.read_bytes(), []
    for k in range(40):
        data, at = bytearray(whole), int(rng.integers(0, len(whole)))
        data[at:at+24] = rng.bytes(24); file.write_bytes(data[:len(whole)])
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: read.append(Bag(file, TopicMap(odom='/odom')).info()['messages'])
            except BagError as err: assert '\n' not in str(err)
            try: assert len(Bag(file, TopicMap(odom='/odom')).channel('odom')) <= 60
            except BagError: pass
    assert max(read) <= 120 and (fmt!='ros1' or np.mean(np.array(read) > 90) > .8)

# ---- processes ----------------------------------------------------------------------------------

@pytest.mark.parametrize('fmt', FORMATS)
def test_bags_travel_to_other_processes(tmp_path, fmt):
    make = Make(1 if fmt=='ros1' else 2)
    bag = Bag(write_bag(suffixed(tmp_path, fmt), fmt, full_rows(make), make))
    images, data = bag.images(), pickle.dumps(bag)
    assert len(data) < 10_000 and (pickle.loads(data).channel('odom')==bag.channel('odom')).all() and (pickle.loads(pickle.dumps(images))[2]==images[2]).all()
    pids = [os.fork() for _ in range(2)] if hasattr(os, 'fork') else []
    if 0 in pids: os._exit(0 if all((pickle.loads(data).images()[k]==images[k]).all() for k in range(6)) else 1)
    assert all(os.waitstatus_to_exitcode(os.waitpid(p, 0)[1])==0 for p in pids)


def test_parts_of_a_recording_are_sorted_as_films_are(tmp_path):
    "By numbers, not by letters; one rule for all files."
    assert natural is natural_key
    for k in (10, 9, 1): (tmp_path/f'drive_{k}.bag').write_bytes((real_data('bags/husky_outdoor_imu_odom_gps.bag')).read_bytes()[:64])
    assert [f.name for f in find_files(tmp_path)] == ['drive_1.bag', 'drive_9.bag', 'drive_10.bag']
