"""marker_node beside the simulated arm and the controller, over real DDS."""

import io
import sys
import time
from collections import Counter

import PIL.Image
import pytest
import rclpy
import yaml
from harness.processes import Processes
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from visualization_msgs.msg import Marker, MarkerArray

from openvla_ros.core.resources import resource_path
from openvla_ros.msg import PolicyAction
from openvla_ros.visualization.situation import STALE_S

pytestmark = pytest.mark.ros

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
# Types of the messages each of RViz's displays subscribes to.
DISPLAY_TYPES = {
    'rviz_default_plugins/RobotModel': 'std_msgs/msg/String',
    'rviz_default_plugins/MarkerArray': 'visualization_msgs/msg/MarkerArray',
    'rviz_default_plugins/Pose': 'geometry_msgs/msg/PoseStamped',
    'rviz_default_plugins/Image': 'sensor_msgs/msg/Image',
}


class Viewer:
    """A policy that says one action again and again, and somebody who looks."""

    def __init__(self, domain_id):
        self.domain_id = domain_id
        self._context = rclpy.Context()
        self._context.init(domain_id=domain_id)
        self.node = rclpy.create_node('policy_node', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.latest, self.count = {}, Counter()
        self._action = self.node.create_publisher(PolicyAction, '~/action', 1)
        self._instruction = self.node.create_publisher(String, '~/active_instruction', LATCHED)
        self._status = self.node.create_publisher(String, '~/status', LATCHED)
        self._instruction.publish(String(data='push the red block'))
        self._status.publish(String(data='READY: publishing at 5.0 Hz'))
        self.acting = True
        self.node.create_timer(0.2, self._act)
        self.look_at('marker_node/markers', MarkerArray)

    def _act(self):
        if self.acting:
            message = PolicyAction(step_s=0.2, gripper=1.0, source_id='test')
            message.header.frame_id = 'base_link'
            message.header.stamp = self.node.get_clock().now().to_msg()
            message.twist.linear.y = 0.1
            self._action.publish(message)

    def look_at(self, topic, kind):
        def keep(message):
            self.latest[topic] = message
            self.count[topic] += 1

        return self.node.create_subscription(kind, topic, keep, 5)

    def look_at_overlay(self):
        return self.look_at('marker_node/overlay', Image)

    def wait(self, condition, deadline_s=30.0):
        end_s = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end_s, 'the condition was not met in time'
            self._executor.spin_once(timeout_sec=0.02)

    def shapes(self):
        found = {}
        message = self.latest.get('marker_node/markers')
        for marker in message.markers if message else ():
            if marker.action == Marker.ADD:
                found.setdefault(marker.ns, []).append(marker)
        return found

    def close(self):
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture(scope='module')
def viewer(tmp_path_factory):
    with Processes(tmp_path_factory.mktemp('markers'), deadline_s=110.0) as processes:
        for name, *arguments in (
            ('sim_node', '-p', 'image_width:=128', '-p', 'image_height:=128'),
            ('controller_node', '-p', 'robot:=sim'),
            ('marker_node', '-r', 'camera/pose:=sim_node/camera_pose'),
        ):
            command = [sys.executable, '-m', f'openvla_ros.nodes.{name}', '--ros-args']
            processes.start(name, [*command, *arguments])
        viewer = Viewer(int(processes.env['ROS_DOMAIN_ID']))
        yield viewer
        viewer.close()


def test_what_policy_and_clamp_say_is_drawn_in_the_base_frame(viewer):
    wanted = {'policy_displacement', 'workspace', 'state', 'policy', 'instruction'}
    viewer.wait(lambda: wanted <= set(viewer.shapes()))
    shapes = viewer.shapes()
    assert shapes['instruction'][0].text == '"push the red block"'
    assert shapes['policy'][0].text.startswith('READY')
    assert shapes['state'][0].text.startswith('DISARMED')
    start, tip = shapes['policy_displacement'][0].points
    # 0.1 m/s along +y.
    assert tip.y > start.y
    assert (tip.x, tip.z) == pytest.approx((start.x, start.z))
    assert 'allowed_twist' not in shapes
    for markers in shapes.values():
        for marker in markers:
            assert marker.header.frame_id == 'base_link'
            assert marker.lifetime.sec + 1e-9 * marker.lifetime.nanosec > 0.0


def publishers_of(viewer, topic):
    return [info.node_name for info in viewer.node.get_publishers_info_by_topic(topic)]


def test_every_display_of_the_rviz_view_has_its_topic_and_type_in_the_graph(viewer):
    view = yaml.safe_load(resource_path('config/openvla.rviz').read_text())
    displays = view['Visualization Manager']['Displays']
    wanted = {}
    for display in displays:
        topic = display.get('Topic') or display.get('Description Topic')
        if topic:
            wanted[topic['Value']] = DISPLAY_TYPES[display['Class']]
    assert len(wanted) >= 4

    def found():
        return {
            topic: types
            for topic, types in viewer.node.get_topic_names_and_types()
            if topic in wanted and publishers_of(viewer, topic)
        }

    viewer.wait(lambda: len(found()) == len(wanted))
    assert {topic: types[0] for topic, types in found().items()} == wanted
    assert view['Visualization Manager']['Global Options']['Fixed Frame'] == 'base_link'


def camera_readers(viewer):
    infos = viewer.node.get_subscriptions_info_by_topic('camera/image_raw')
    return [info.node_name for info in infos]


def test_the_overlay_costs_nothing_until_somebody_looks(viewer):
    assert 'marker_node' not in camera_readers(viewer)
    looking = viewer.look_at_overlay()
    viewer.wait(lambda: viewer.count['marker_node/overlay'] >= 3)
    overlay = viewer.latest['marker_node/overlay']
    # 128 pixels are enlarged to the next whole multiple that can be read.
    assert (overlay.width, overlay.height, overlay.encoding) == (512, 512, 'rgb8')
    viewer.node.destroy_subscription(looking)
    viewer.wait(lambda: 'marker_node' not in camera_readers(viewer))


def test_a_camera_that_is_only_compressed_has_its_overlay_too(viewer, tmp_path):
    content = io.BytesIO()
    PIL.Image.new('RGB', (64, 48), (200, 30, 30)).save(content, format='PNG')
    topic = 'another/camera/image_raw/compressed'
    camera = viewer.node.create_publisher(CompressedImage, topic, 1)
    message = CompressedImage(format='png', data=content.getvalue())
    sending = viewer.node.create_timer(0.1, lambda: camera.publish(message))
    looking = viewer.look_at('another/marker_node/overlay', Image)
    command = [sys.executable, '-m', 'openvla_ros.nodes.marker_node', '--ros-args']
    domain = {'ROS_DOMAIN_ID': str(viewer.domain_id)}
    with Processes(tmp_path, deadline_s=60.0) as processes:
        processes.env.update(domain)
        processes.start('marker_node', [*command, '-r', '__ns:=/another'])
        viewer.wait(lambda: viewer.count['another/marker_node/overlay'] >= 2)
    overlay = viewer.latest['another/marker_node/overlay']
    assert (overlay.width, overlay.height) == (640, 480)
    viewer.node.destroy_timer(sending)
    viewer.node.destroy_subscription(looking)
    viewer.node.destroy_publisher(camera)


def test_a_policy_that_falls_silent_is_not_drawn_any_more(viewer):
    viewer.wait(lambda: 'policy_displacement' in viewer.shapes())
    viewer.acting = False
    viewer.wait(lambda: 'policy_displacement' not in viewer.shapes(), STALE_S + 10.0)
    assert 'state' in viewer.shapes()
