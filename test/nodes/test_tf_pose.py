import sys
from types import ModuleType

import pytest
from geometry_msgs.msg import TransformStamped

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.tf_pose import TfPose


class NoTransformError(Exception):
    pass


class Buffer:
    """Stands in for tf2_ros.Buffer: knows one transform, or none."""

    transform = None

    def __init__(self, **_):
        pass

    def lookup_transform(self, target, source, _):
        if self.transform is None:
            raise NoTransformError(f'{target} and {source} are not connected')
        assert (target, source) == ('base_link', 'ee_link')
        return self.transform


@pytest.fixture
def tf(monkeypatch):
    module = ModuleType('tf2_ros')
    module.Buffer, module.TransformException = Buffer, NoTransformError
    module.TransformListener = lambda *_, **__: None
    monkeypatch.setitem(sys.modules, 'tf2_ros', module)
    monkeypatch.setattr(Buffer, 'transform', None)
    return TfPose(None, 'base_link', 'ee_link')


def transform(seconds):
    message = TransformStamped()
    message.header.stamp.sec = seconds
    message.transform.translation.x = 0.3
    message.transform.rotation.w = 1.0
    return message


def test_no_transform_is_no_pose(tf):
    assert tf.newest() is None


def test_a_new_transform_is_a_pose_with_its_stamp(tf, monkeypatch):
    monkeypatch.setattr(Buffer, 'transform', transform(7))
    pose, stamp_s = tf.newest()
    assert pose.position_m == (0.3, 0.0, 0.0)
    assert pose.quaternion_xyzw == (0.0, 0.0, 0.0, 1.0)
    assert stamp_s == 7.0


def test_the_same_transform_is_not_a_new_pose(tf, monkeypatch):
    monkeypatch.setattr(Buffer, 'transform', transform(7))
    tf.newest()
    assert tf.newest() is None


def test_without_tf2_ros_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)
    with pytest.raises(ConfigError, match='source: topic'):
        TfPose(None, 'base_link', 'ee_link')


def test_a_transform_that_is_not_there_says_which_and_why(tf, monkeypatch):
    assert tf.newest() is None
    assert tf.failure.startswith("TF does not have 'ee_link' in 'base_link': ")
    assert 'not connected' in tf.failure
    monkeypatch.setattr(Buffer, 'transform', transform(7))
    tf.newest()
    assert tf.failure == ''
