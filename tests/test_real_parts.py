"""A bag from real parts: photographs of the Husky, their calibration, and its odometry, through the whole path.

No openly licensed recording with both camera and odometry could be had, so the test writes one with the real writer.
"""

import numpy as np, pytest, yaml
from vislearn.core import real_data, seed_all
from vislearn.robot.bags import Bag, TopicMap
from vislearn.robot.bev import BevSpec, BevWarp
from vislearn.robot.camera import CameraModel
from vislearn.robot.msgs import typestore
from vislearn.robot.poses import TransformBuffer, pose_track
from vislearn.terrain.pairs import PatchParams
from vislearn.terrain.patches import Patches, extract

SOURCE, PHOTOS = real_data('bags/husky_outdoor_imu_odom_gps.bag'), real_data('husky_terrain')
pytestmark = pytest.mark.skipif(not (SOURCE and PHOTOS), reason='data/real is not here')
TOPICS = TopicMap(camera='/left/image_rect/compressed', camera_info='/left/camera_info', tf_static='/tf_static', odom='/husky_velocity_controller/odom', body_frame='base_link')
SECONDS, HZ = 30, 5


def write_bag(path):
    "Photographs at 5 Hz along 30 s of the real odometry."
    from rosbags.rosbag1 import Writer
    ts = typestore(ros=1); T = ts.types
    stamp = lambda ns: T['builtin_interfaces/msg/Time'](sec=int(ns//10**9), nanosec=int(ns % 10**9))
    header = lambda ns, frame: T['std_msgs/msg/Header'](seq=0, stamp=stamp(ns), frame_id=frame)
    real = Bag(SOURCE, TopicMap(odom=TOPICS.odom, body_frame='base_link'))
    moving = next(t for t, m in real.messages('odom') if m.twist.twist.linear.x > .5)
    cal = yaml.safe_load((PHOTOS/'calibration.yaml').read_text()); pose = np.array(cal['robot_from_camera'])
    photos = [p.read_bytes() for p in sorted((PHOTOS/'images').glob('*.jpg'))]
    K = np.array(cal['K'], float).ravel(); P = np.zeros(12); P[[0, 1, 2, 4, 5, 6, 8, 9, 10]] = K
    size = cal['image_size']
    with Writer(path) as w:
        con = {n: w.add_connection(t, kind, typestore=ts) for n, t, kind in (('cam', TOPICS.camera, 'sensor_msgs/msg/CompressedImage'),
            ('info', TOPICS.camera_info, 'sensor_msgs/msg/CameraInfo'), ('odom', TOPICS.odom, 'nav_msgs/msg/Odometry'), ('static', TOPICS.tf_static, 'tf2_msgs/msg/TFMessage'))}
        def put(name, ns, msg): w.write(con[name], int(ns), ts.serialize_ros1(msg, con[name].msgtype))
        quat = quaternion(pose[:3, :3])
        put('static', moving, T['tf2_msgs/msg/TFMessage'](transforms=[T['geometry_msgs/msg/TransformStamped'](header=header(moving, 'base_link'), child_frame_id='camera',
            transform=T['geometry_msgs/msg/Transform'](translation=T['geometry_msgs/msg/Vector3'](*pose[:3, 3]), rotation=T['geometry_msgs/msg/Quaternion'](*quat)))]))
        for t, m in real.messages('odom', moving, moving+SECONDS*10**9): put('odom', t, m)
        for k in range(SECONDS*HZ):
            ns = moving + k*10**9//HZ
            put('cam', ns, T['sensor_msgs/msg/CompressedImage'](header=header(ns, 'camera'), format='jpeg', data=np.frombuffer(photos[k//30 % 5], np.uint8)))
            put('info', ns, T['sensor_msgs/msg/CameraInfo'](header=header(ns, 'camera'), height=size['height'], width=size['width'], distortion_model='plumb_bob', D=np.zeros(5), K=K,
                R=np.eye(3).ravel(), P=P, binning_x=0, binning_y=0, roi=T['sensor_msgs/msg/RegionOfInterest'](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)))
    return path


def quaternion(R):
    "x, y, z, w of a rotation matrix."
    from scipy.spatial.transform import Rotation
    return Rotation.from_matrix(R).as_quat()


@pytest.fixture(scope='module')
def bag(tmp_path_factory): return Bag(write_bag(tmp_path_factory.mktemp('real')/'husky_parts.bag'), TOPICS)


def test_poses_come_from_odometry(bag):
    images = bag.images('camera')
    track = pose_track(bag, images.t_ns)
    T, valid = track.at(images.t_ns)
    assert len(images) == SECONDS*HZ and valid.mean() > .95 and track.child == 'base_link'
    assert 10 < track.path_length() < 31                      # up to 1.02 m/s for 30 s


def test_calibration_survives_the_bag(bag):
    row = bag.channel('camera_info')[0]
    pose = TransformBuffer.from_channel(bag.channel('tf_static')[:0], bag.channel('tf_static')).lookup('base_link', 'camera', int(row['t_ns']))
    cam = CameraModel.from_camera_info(row, pose)
    want = {(1, 0): (1004.0, 1110.3), (2, 0): (974.5, 722.8), (4, 0): (959.0, 519.0)}      # data/real: stated with the photographs
    uv, front = cam.project(np.array([[x, y, 0.] for x, y in want]))
    assert front.all() and np.abs(uv - np.array(list(want.values()))).max() < .2


def test_from_bag_to_costmap(bag, tmp_path):
    from vislearn.terrain.costmap import costmap
    from vislearn.terrain.nets import CostNet, EmbeddingNet, FullCostNet
    cam = CameraModel.from_yaml(PHOTOS/'calibration.yaml'); bev = BevSpec.from_camera(cam, ppm=60, horizon_m=4.)
    params = PatchParams(patch_px=26, patch_m=26/60)
    got = Patches(extract(bag.path, params, bev, cam, TOPICS.model_dump(), tmp_path))
    assert len(got) > 300 and len(got.keys) > 20
    near = got.images(got.clearest[:8])
    assert near.shape[1:] == (3, 26, 26) and near.float().std() > 5                      # ground, not black
    seed_all(0)
    model = FullCostNet(EmbeddingNet(8), CostNet(8)).eval()
    res = costmap(BevWarp(cam, bev)(bag.images('camera')[0]), model, bev, stride=26, patch_px=26)
    seen = np.isfinite(res.cost)
    assert .2 < seen.mean() < .95 and (res.cost[seen] > 0).all()
