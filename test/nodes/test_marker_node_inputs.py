"""What marker_node makes of inputs, seen from inside one process."""

import sys
import time
from types import SimpleNamespace

import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from harness.processes import own_domain_id
from rclpy.context import Context
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.nodes import marker_node
from openvla_ros.nodes.marker_node import NO_FRAME, MarkerNode

pytestmark = pytest.mark.ros


class Kept(list):
    """A publisher with a viewer."""

    def publish(self, message):
        self.append(message)

    def get_subscription_count(self):
        return 1


@pytest.fixture
def started(monkeypatch):
    nodes, notes = [], []
    monkeypatch.setattr(MarkerNode, 'get_logger', lambda _: SimpleNamespace(warning=notes.append))

    def start(**parameters):
        context = Context()
        rclpy.init(context=context, domain_id=domain)
        node = MarkerNode(
            context=context,
            parameter_overrides=[Parameter(k, value=v) for k, v in parameters.items()],
            use_global_arguments=False,
        )
        node._markers, node._overlay, node.notes = Kept(), Kept(), notes
        nodes.append((node, context))
        return node

    with own_domain_id() as domain:
        yield start
        for node, context in nodes:
            node.destroy_node()
            rclpy.shutdown(context=context)


def pose(frame='base_link', w=1.0):
    message = PoseStamped()
    message.header.frame_id = frame
    message.pose.position.x, message.pose.orientation.w = 0.3, w
    return message


def status(frame='base_link', state=0):
    message = SafetyStatus(state=state, sentence='DISARMED: not moving')
    message.header.frame_id = frame
    message.box_hi_m = [1.0, 1.0, 1.0]
    return message


def action(frame):
    message = PolicyAction(step_s=0.2, gripper=1.0)
    message.header.frame_id = frame
    message.twist.linear.y = 0.1
    return message


def image():
    message = Image(width=64, height=48, step=192, encoding='rgb8', data=bytes(64 * 48 * 3))
    message.header.frame_id = 'camera'
    return message


def drawn(node):
    node._draw_markers()
    return {m.ns: m.header.frame_id for m in node._markers[-1].markers if m.ns}


def test_an_unknown_state_is_drawn_as_such_and_ends_nothing(started):
    node = started(robot='sim')
    node._on_safety(status(state=77))
    texts = [m.text for m in (node._draw_markers() or node._markers[-1].markers)]
    assert any('UNKNOWN STATE 77' in text for text in texts)
    node._on_image(image())
    assert len(node._overlay) == 1


def test_a_zero_quaternion_is_named_and_ends_nothing(started):
    node = started(robot='sim')
    node._on_safety(status())
    node._on_pose(pose(w=0.0))
    assert 'workspace' in drawn(node)
    node._on_image(image())
    assert len(node._overlay) == 1
    assert any('ee_pose is not drawn' in note and 'length 0' in note for note in node.notes)


def test_an_exception_in_a_drawing_is_said_once_and_ends_nothing(started, monkeypatch):
    def raises(*_):
        raise RuntimeError('injected')

    node = started(robot='sim')
    monkeypatch.setattr(marker_node, 'scene_markers', raises)
    for _ in range(3):
        node._draw_markers()
    assert [note for note in node.notes if 'injected' in note] == [
        'the markers: RuntimeError: injected'
    ]


def test_without_a_robot_the_frame_is_the_controllers(started):
    node = started()
    node._on_safety(status('arm/base'))
    node._on_pose(pose('arm/base'))
    node._on_action(action('arm/base'))
    frames = drawn(node)
    assert {'workspace', 'policy_displacement'} <= set(frames)
    assert set(frames.values()) == {'arm/base'}


def test_it_says_so_when_nothing_names_a_frame(started):
    node = started()
    node._draw_markers()
    assert node.notes == []
    node._started_s -= 10.0
    node._draw_markers()
    assert node.notes == [NO_FRAME]
    assert len(node._markers) == 0


def test_a_controller_of_another_robot_is_named_with_both_frames(started):
    node = started(robot='wx250s.example', base_frame='wx250s/base_link')
    node._on_safety(status('base_link'))
    assert any("'base_link'" in n and "'wx250s/base_link'" in n for n in node.notes)
    assert set(drawn(node).values()) == {'base_link'}


def test_an_action_in_a_frame_of_nobody_is_not_drawn_and_named(started):
    node = started(robot='sim')
    node._on_safety(status())
    node._on_pose(pose())
    node._on_action(action('camera'))
    assert 'policy_displacement' not in drawn(node)
    assert any("'camera', expected 'base_link' or 'ee_link'" in note for note in node.notes)


def test_a_parameter_that_contradicts_the_profile_is_refused(capfd, monkeypatch):
    arguments = ['-p', 'robot:=wx250s.example', '-p', 'base_frame:=base_link']
    with own_domain_id() as domain:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
        assert marker_node.main(['marker_node', '--ros-args', *arguments]) == 2
    refusal = capfd.readouterr().err
    assert "base_frame: got 'base_link', expected 'wx250s/base_link'" in refusal


def test_the_overlay_looks_the_cameras_pose_up_for_every_frame(started):
    """A camera on the wrist moves with the arm."""
    node = started(robot='sim')
    node._camera_info = CameraInfo(
        width=64, height=48, k=[50.0, 0.0, 32.0, 0.0, 50.0, 24.0, 0.0, 0.0, 1.0]
    )
    seen = []

    class Tree:
        failure = ''
        newest_s = 0

        def look_up(self, parent, child, stamp=None):
            assert (parent, child) == ('base_link', 'camera')
            if stamp is not None and stamp.sec > self.newest_s:
                return None  # TF lags behind the image
            at_s = self.newest_s if stamp is None else stamp.sec
            seen.append(at_s)
            return marker_node.Pose.of((float(at_s), 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)), at_s

    node._tf = Tree()
    for newest_s, stamp_s, expected_m in ((5, 5, 5.0), (6, 6, 6.0), (8, 7, 7.0), (8, 9, 8.0)):
        node._tf.newest_s = newest_s
        message = image()
        message.header.stamp.sec = stamp_s
        projection = node._projection('camera', message.header.stamp)
        assert projection.position_m[0] == expected_m
    assert seen == [5, 6, 7, 8]


def test_without_tf2_ros_the_missing_arrow_is_explained_once(started, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tf2_ros', None)
    node = started(robot='sim')
    for _ in range(3):
        node._overlay_due_s = time.monotonic()
        node._on_image(image())
    assert len(node._overlay) == 3
    assert len([n for n in node.notes if n.startswith('no arrow in the overlay')]) == 1
