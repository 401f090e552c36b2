"""Camera images in, actions out, as messages."""

import array
import sys
import types

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.action_space.dataset_profile import load_dataset_profile, to_eef_delta
from openvla_ros.msg import SafetyStatus
from openvla_ros.nodes.policy_conversions import (
    arrival_from_message,
    image_refusal,
    is_moving,
    policy_action_message,
    rgb_from_message,
)
from openvla_ros.observation.image_encoding import ImageRefused
from openvla_ros.policy.inference import PredictedAction
from openvla_ros.policy.policy import PolicyStep


def image(encoding='rgb8', width=32, height=20, channels=3, **fields):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    message = Image(width=width, height=height, encoding=encoding, step=width * channels)
    message.header.stamp = Time(sec=12, nanosec=500_000_000)
    message.header.frame_id = 'camera'
    message.data = array.array('B', pixels.tobytes())
    for name, value in fields.items():
        setattr(message, name, value)
    return message, pixels


def test_an_arrival_is_the_header_and_the_geometry():
    arrival = arrival_from_message(image()[0])
    assert arrival.stamp_s == 12.5
    assert arrival.frame_id == 'camera'
    assert arrival.geometry == (32, 20, 'rgb8')


def test_a_name_of_a_megabyte_is_cut():
    message, _ = image(encoding='x' * 10**6)
    message.header.frame_id = 'y' * 10**6
    arrival = arrival_from_message(message)
    assert len(arrival.frame_id) < 300
    assert len(arrival.geometry[2]) < 300
    assert len(image_refusal(message).sentence) < 300


@pytest.mark.parametrize(('encoding', 'order'), [('rgb8', [0, 1, 2]), ('bgr8', [2, 1, 0])])
def test_the_pixels_are_a_view_of_the_message_in_the_right_order(encoding, order):
    message, pixels = image(encoding)
    assert image_refusal(message) is None
    rgb = rgb_from_message(message)
    np.testing.assert_array_equal(rgb, pixels[:, :, order])
    assert np.shares_memory(rgb, np.frombuffer(message.data, np.uint8))


def test_the_more_significant_byte_of_a_big_endian_channel_comes_first():
    message, pixels = image('mono16', channels=2, is_bigendian=1)
    np.testing.assert_array_equal(rgb_from_message(message)[:, :, 0], pixels[:, :, 0])


def test_without_cv_bridge_opencv_converts_a_bayer_image(monkeypatch):
    pytest.importorskip('cv2', reason='opencv-python-headless (requirements/camera.txt)')
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    message, _ = image('bayer_rggb8', channels=1)
    # Red at even rows and columns only: every pixel is as red as its neighbors.
    pixels = np.zeros((20, 32), np.uint8)
    pixels[::2, ::2] = 200
    message.data = array.array('B', pixels.tobytes())
    assert image_refusal(message) is None
    assert (rgb_from_message(message) == (200, 0, 0)).all()


def test_without_cv_bridge_and_opencv_a_bayer_image_is_refused_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)
    monkeypatch.setitem(sys.modules, 'cv2', None)
    message, _ = image('bayer_rggb8', channels=1)
    assert image_refusal(message) is None
    with pytest.raises(ImageRefused, match="'bayer_rggb8' needs cv_bridge"):
        rgb_from_message(message)


@pytest.mark.parametrize(
    ('result', 'said'),
    [
        (np.zeros((20, 32, 3), np.uint8), None),
        (np.zeros((20, 32), np.uint8), 'expected uint8'),
        (RuntimeError('[yuv422] wrong'), 'cannot convert'),
    ],
)
def test_with_cv_bridge_what_it_makes_is_used_and_what_it_raises_is_a_refusal(
    monkeypatch, result, said
):
    class CvBridge:
        def imgmsg_to_cv2(self, message, desired_encoding):
            assert desired_encoding == 'rgb8'
            if isinstance(result, Exception):
                raise result
            return result

    monkeypatch.setitem(sys.modules, 'cv_bridge', types.SimpleNamespace(CvBridge=CvBridge))
    message, _ = image('yuv422', channels=2)
    if said is None:
        assert rgb_from_message(message).shape == (20, 32, 3)
    else:
        with pytest.raises(ImageRefused, match=said):
            rgb_from_message(message)


@pytest.mark.parametrize(
    ('form', 'data', 'usable'),
    [
        ('jpeg', b'x', True),
        ('png', b'', False),
        ('16UC1; compressedDepth png', b'x', False),
        ('16UC1; png compressed ', b'x', False),
        ('32FC1; png compressed ', b'x', False),
        ('mono16; png compressed ', b'x', False),
        ('bayer_rggb8; jpeg compressed mono8', b'x', False),
        ('rgb8; jpeg compressed bgr8', b'x', True),
        ('', b'x', True),
    ],
)
def test_a_compressed_image_is_judged_by_length_and_format(form, data, usable):
    message = CompressedImage(format=form, data=array.array('B', data))
    assert (image_refusal(message) is None) == usable
    if usable:
        with pytest.raises(ImageRefused):
            rgb_from_message(message)


def test_an_action_message_carries_the_whole_decision():
    profile = load_dataset_profile('bridge_orig')
    action = np.array([0.02, 0.0, -0.01, 0.0, 0.0, 0.1, 0.0])
    predicted = PredictedAction(action, np.arange(7) + 31744)
    stages = {'inference': 0.125}
    step = PolicyStep(to_eef_delta(action, profile), predicted, np.zeros((1, 1, 3)), stages)
    message = policy_action_message(
        step,
        stamp=Time(sec=5, nanosec=7),
        frame_id='base',
        sequence=3,
        source_id='ab',
        instruction='put it down',
        unnorm_key='bridge_orig',
    )
    assert (message.header.stamp.sec, message.header.stamp.nanosec) == (5, 7)
    assert (message.header.frame_id, message.sequence, message.step_s) == ('base', 3, 0.2)
    # 20 mm and 0.1 rad in 0.2 s.
    assert message.twist.linear.x == pytest.approx(0.1)
    assert message.twist.linear.z == pytest.approx(-0.05)
    assert message.twist.angular.z == pytest.approx(0.5)
    assert message.gripper == 0.0
    assert list(message.action) == action.tolist()
    assert list(message.action_tokens) == [31744, 31745, 31746, 31747, 31748, 31749, 31750]
    assert message.inference_s == 0.125


@pytest.mark.parametrize(
    ('state', 'speed', 'moving'),
    [
        (SafetyStatus.ACTIVE, 0.05, True),
        (SafetyStatus.ACTIVE, 0.0, False),
        (SafetyStatus.HOLD, 0.05, False),
        (SafetyStatus.FAULT, 0.05, False),
    ],
)
def test_only_an_active_controller_that_commands_a_twist_moves_the_arm(state, speed, moving):
    message = SafetyStatus(state=state)
    message.commanded.angular.y = -speed
    assert is_moving(message) == moving
