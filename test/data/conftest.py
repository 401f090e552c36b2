"""A recording of an arm on a curve, as ``ros2 bag record`` leaves it."""

import contextlib
import io
import types

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from scipy.spatial.transform import Rotation

START_NS = 1_700_000_000_000_000_000
STORE = get_typestore(Stores.LATEST)


class Bag:
    """Writes messages, making each topic on first use."""

    def __init__(self, writer):
        self.writer, self.connections = writer, {}

    def write(self, topic, kind, at_s, **fields):
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=STORE)
        message = STORE.types[kind](**fields)
        content = STORE.serialize_cdr(message, kind)
        self.writer.write(self.connections[topic], START_NS + round(at_s * 1e9), content)

    def header(self, at_s):
        at_ns = START_NS + round(at_s * 1e9)
        stamp = STORE.types['builtin_interfaces/msg/Time'](at_ns // 10**9, at_ns % 10**9)
        return STORE.types['std_msgs/msg/Header'](stamp, 'base_link')

    def text(self, at_s, text):
        self.write('/instruction', 'std_msgs/msg/String', at_s, data=text)

    def opening(self, at_s, value):
        self.write('/gripper_cmd', 'std_msgs/msg/Float64', at_s, data=float(value))

    def pose(self, at_s, pose):
        kinds = STORE.types
        position = kinds['geometry_msgs/msg/Point'](*map(float, pose[:3]))
        turn = kinds['geometry_msgs/msg/Quaternion'](*map(float, pose[3:]))
        self.write(
            '/ee_pose', 'geometry_msgs/msg/PoseStamped', at_s, header=self.header(at_s),
            pose=kinds['geometry_msgs/msg/Pose'](position, turn),
        )  # fmt: skip

    def twist(self, at_s, twist):
        vector = STORE.types['geometry_msgs/msg/Vector3']
        parts = vector(*map(float, twist[:3])), vector(*map(float, twist[3:]))
        self.write(
            '/twist_cmd', 'geometry_msgs/msg/TwistStamped', at_s, header=self.header(at_s),
            twist=STORE.types['geometry_msgs/msg/Twist'](*parts),
        )  # fmt: skip

    def jpeg(self, at_s, content):
        self.write(
            '/camera/image_raw/compressed', 'sensor_msgs/msg/CompressedImage', at_s,
            header=self.header(at_s), format='jpeg', data=np.frombuffer(content, np.uint8),
        )  # fmt: skip

    def raw(self, at_s, pixels):
        height, width, _ = pixels.shape
        self.write(
            '/camera/image_raw', 'sensor_msgs/msg/Image', at_s, header=self.header(at_s),
            height=height, width=width, encoding='rgb8', is_bigendian=0, step=3 * width,
            data=pixels.reshape(-1),
        )  # fmt: skip


def pose_at(t):
    """A curve that translates and turns about all axes."""
    position = [0.3 + 0.05 * np.sin(t), 0.1 * np.sin(0.7 * t), 0.2 + 0.03 * np.cos(1.3 * t)]
    turn = Rotation.from_euler('xyz', [3.0 + 0.1 * np.sin(t), 0.2 * np.sin(0.5 * t), 0.15 * t])
    return np.concatenate([position, turn.as_quat()])


def picture(number, size=(48, 64)):
    """A different picture for every number, as JPEG."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format='JPEG', quality=90)
    return buffer.getvalue()


@pytest.fixture
def open_bag(tmp_path):
    """Function that opens a recording of a name to write a ``Bag``, in a ``with`` statement."""

    @contextlib.contextmanager
    def make(name):
        with Writer(tmp_path / name, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            yield Bag(writer)

    return make


@pytest.fixture
def record(tmp_path):
    """Function that records ``seconds`` of the curve; everything about it can be changed."""

    def make(
        name='bag', *, seconds=4.0, text='Pick up the Cup', image_hz=30.0, pose_hz=50.0,
        pose=pose_at, opening=lambda t: float(t < 2.0), image=picture, size=(48, 64), twist=None,
    ):  # fmt: skip
        path = tmp_path / name
        with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            bag = Bag(writer)
            if text is not None:
                bag.text(0.0, text)
            for i in range(round(seconds * image_hz) + 1):
                bag.jpeg(i / image_hz, image(i, size))
            for i in range(round(seconds * pose_hz) + 1):
                if pose is not None:
                    bag.pose(i / pose_hz, pose(i / pose_hz))
                if opening is not None:
                    bag.opening(i / pose_hz, opening(i / pose_hz))
                if twist is not None:
                    bag.twist(i / pose_hz, twist)
        return path

    return make


@pytest.fixture
def curve():
    """What was recorded: ``pose_at(t)`` and ``picture(number)``."""
    return types.SimpleNamespace(pose_at=pose_at, picture=picture)
