"""A camera, an operator and a controller's status around one or more policy processes."""

import array
import contextlib
import io
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TwistStamped
from PIL import Image as Picture
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64, String

from harness.processes import DeadlineError, Processes
from openvla_ros.msg import PolicyAction, SafetyStatus

FAKE = Path(__file__).parents[1] / 'nodes' / 'policy_with_fake_backend.py'
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
KEY = 'openvla_ros_demo'


class Camera:
    """Publishes small pictures; a test changes the attributes while it runs.

    Attributes:
        content: 'noise', 'frozen' or 'black'; None publishes nothing.
        offset_s: Added to the stamp; ``stamp_s`` replaces it.
        changes: Fields of the message that are overwritten.
    """

    def __init__(self, node, topic='camera/image_raw', *, best_effort=False, rate_hz=30.0):
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        self._kind = CompressedImage if topic.endswith('compressed') else Image
        self._publisher = node.create_publisher(
            self._kind, topic, QoSProfile(depth=1, reliability=reliability)
        )
        self._node = node
        self.content = 'noise'
        self.offset_s, self.stamp_s = 0.0, None
        self.width, self.height = 64, 48
        self.encoding = 'rgb8'
        self.changes = {}
        self.stamps = []
        self._random = np.random.default_rng(0)
        self._frozen = self._random.integers(0, 256, (400, 400, 4), np.uint8)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.timer = node.create_timer(1 / rate_hz, self._tick, clock=steady)

    def reset(self):
        """Be an ordinary camera again."""
        self.content, self.offset_s, self.stamp_s = 'noise', 0.0, None
        self.width, self.height, self.encoding, self.changes = 64, 48, 'rgb8', {}

    def send(self, **changes):
        """Publish one picture with overwritten fields."""
        message = self._kind()
        message.header.frame_id = 'camera_optical_frame'
        stamp_s = self._node.get_clock().now().nanoseconds * 1e-9 + self.offset_s
        stamp_s = stamp_s if self.stamp_s is None else self.stamp_s
        message.header.stamp.sec = int(stamp_s)
        message.header.stamp.nanosec = int(1e9 * (stamp_s - int(stamp_s)))
        self.stamps.append((message.header.stamp.sec, message.header.stamp.nanosec))
        pixels = self._pixels()
        if self._kind is CompressedImage:
            buffer = io.BytesIO()
            Picture.fromarray(pixels).save(buffer, 'JPEG', quality=95)
            message.format, data = 'rgb8; jpeg compressed bgr8', buffer.getvalue()
        else:
            message.width, message.height, message.encoding = (
                self.width,
                self.height,
                self.encoding,
            )
            message.step, data = 3 * self.width, pixels.tobytes()
        message.data = array.array('B', data)
        for name, value in {**self.changes, **changes}.items():
            setattr(message, name, value)
        self._publisher.publish(message)

    def _tick(self):
        if self.content is not None:
            self.send()

    def _pixels(self):
        shape = (self.height, self.width, 3)
        if self.content == 'black':
            return np.zeros(shape, np.uint8)
        if self.content == 'frozen':
            return np.ascontiguousarray(self._frozen[: self.height, : self.width, :3])
        if self.content == 'gray':
            return np.repeat(self._random.integers(0, 256, (*shape[:2], 1), np.uint8), 3, axis=2)
        return self._random.integers(0, 256, shape, np.uint8)


class Heard:
    """What one policy published, with steady times of arrival."""

    def __init__(self, node, namespace=''):
        prefix = f'{namespace}/policy_node' if namespace else 'policy_node'
        self.statuses, self.actions, self.instructions = [], [], []
        self._node, self._prefix = node, prefix
        self._subscribe(String, 'status', self.statuses, LATCHED)
        self._subscribe(String, 'active_instruction', self.instructions, LATCHED)
        self._subscribe(PolicyAction, 'action', self.actions, 10)

    def _subscribe(self, kind, name, record, qos):
        def keep(message):
            record.append((time.monotonic(), message))

        return self._node.create_subscription(kind, f'{self._prefix}/{name}', keep, qos)

    @contextlib.contextmanager
    def mirrors(self):
        """Listen to the mirrored topics within the block."""
        record = {'delta_twist': [], 'gripper': [], 'model_input': []}
        kinds = {'delta_twist': TwistStamped, 'gripper': Float64, 'model_input': Image}
        subscriptions = [self._subscribe(kinds[n], n, record[n], 10) for n in kinds]
        try:
            yield record
        finally:
            for subscription in subscriptions:
                self._node.destroy_subscription(subscription)

    def code(self):
        """The newest status code."""
        return self.statuses[-1][1].data.split(':')[0] if self.statuses else ''

    def codes(self, since_s=0.0):
        """Status codes since then, without repetitions."""
        codes = [m.data.split(':')[0] for t, m in list(self.statuses) if t >= since_s]
        return [c for i, c in enumerate(codes) if i == 0 or c != codes[i - 1]]

    def actions_since(self, t_s):
        """Actions that arrived after then."""
        return [m for t, m in list(self.actions) if t > t_s]


class PolicyBench:
    """Everything around policies on a ROS domain of its own; use as a context manager."""

    def __init__(self, folder, *, deadline_s=60.0):
        self.processes = Processes(folder, deadline_s=deadline_s)
        self.orders_file = Path(folder) / 'orders.json'
        self.moving = None
        self.diagnostics = {}

    def __enter__(self):
        self.processes.__enter__()
        domain = int(self.processes.env['ROS_DOMAIN_ID'])
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node('bench', context=self._context)
        self._texts = {
            False: self.node.create_publisher(String, 'instruction', 1),
        }
        self._controller = self.node.create_publisher(SafetyStatus, 'controller_node/status', 1)
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.node.create_timer(0.1, self._report_motion, clock=steady)
        self.heard = Heard(self.node)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.processes.__exit__()
        self._context.try_shutdown()
        self._thread.join(5.0)

    def orders(self, **orders):
        """Say what the fake backend does from now on; whatever is not given is ordinary."""
        text = json.dumps(orders)
        self.orders_file.with_suffix('.new').write_text(text)
        os.replace(self.orders_file.with_suffix('.new'), self.orders_file)

    def start_policy(self, *parameters, name='policy', ros=(), allow_slow=True):
        """Start a policy with the fake backend; parameters are 'name:=value'.

        ``allow_slow`` because a loaded machine may be slow while the policy measures itself.
        """
        given = ['robot:=sim', f'unnorm_key:={KEY}', f'allow_slow:={str(allow_slow).lower()}']
        flags = [part for p in (*given, *parameters) for part in ('-p', p)]
        argv = [sys.executable, str(FAKE), '--ros-args', *flags, *ros]
        return self.processes.start(name, argv, env={'FAKE_BACKEND': str(self.orders_file)})

    def instruct(self, text, latched=False):
        """Publish an instruction; returns the steady time just before."""
        if latched not in self._texts:
            self._texts[latched] = self.node.create_publisher(String, 'instruction', LATCHED)
        t_s = time.monotonic()
        self._texts[latched].publish(String(data=text))
        return t_s

    def wait(self, condition, what, deadline_s=10.0):
        """Poll until the condition holds and return its value."""
        end_s = time.monotonic() + deadline_s
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end_s:
                logs = {n: p.log_tail(600) for n, p in self.processes._running.items()}
                raise DeadlineError(
                    f'not within {deadline_s} s: {what}; statuses: {self.heard.codes()}; {logs}'
                )
            time.sleep(0.01)

    def wait_code(self, code, deadline_s=10.0, heard=None):
        """Wait until the status has this code; returns its sentence."""
        heard = heard or self.heard
        self.wait(lambda: heard.code() == code, f'status {code}', deadline_s)
        return heard.statuses[-1][1].data

    def wait_actions(self, count=2, deadline_s=10.0, heard=None):
        """Wait for so many actions that arrive from now on, and return them."""
        heard, t_s = heard or self.heard, time.monotonic()
        self.wait(lambda: len(heard.actions_since(t_s)) >= count, f'{count} actions', deadline_s)
        return heard.actions_since(t_s)

    def _on_diagnostics(self, message):
        for status in message.status:
            values = {v.key: v.value for v in status.values}
            self.diagnostics[status.name] = (status.level, status.message, values)

    def _report_motion(self):
        if self.moving is not None:
            message = SafetyStatus(state=SafetyStatus.ACTIVE)
            message.commanded.linear.x = 0.05 if self.moving else 0.0
            self._controller.publish(message)

    def _spin(self):
        while self._context.ok():
            with contextlib.suppress(ExternalShutdownException):
                try:
                    self._executor.spin_once(timeout_sec=0.1)
                except Exception:
                    if self._context.ok():
                        raise
