"""A kinematic robot and the recorder of the run: follows twists and writes everything down.

It has the timeout that every driver behind the controller needs: a twist older than 0.1 s is not
followed any more. There are no dynamics: what was sent is what moves, so the integrated
pose is the judgement of the workspace box.
"""

import argparse
import math
import random
import time

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64

from harness import recording
from harness.actor import Actor, run, split_stamp
from openvla_ros.msg import PolicyAction, SafetyStatus

COMMAND_TIMEOUT_S = 0.1
EXTREMES = [math.nan, math.inf, -math.inf, 1e308, 5e-324, 0.0, 1.0, -0.3, 0.2]
DEEP = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class FakeRobot(Actor):
    """Integrates ``controller_node/twist_cmd`` and publishes ``ee_pose``."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__('fake_robot')
        self._record = recording.Writer(options.record)
        self._text = recording.TextWriter(options.record + '.jsonl')
        self._diagnostics = recording.TextWriter(options.record + '.diagnostics.jsonl')
        self._base_frame = options.base_frame
        self._position = np.array(options.position, float)
        self._quaternion = np.array(options.quaternion, float)
        self._twist = np.zeros(6)
        self._received_s = -math.inf
        self._advanced_s = time.monotonic()
        self._by_ros_time = options.by_ros_time
        self._advanced_ros_s = self.ros_now_s()
        self._publishing = True
        self._stamp_offset_s = 0.0
        self._offset = np.zeros(3)
        self._nan = False
        self._pose_frame = options.base_frame
        self._pose = self.create_publisher(PoseStamped, 'ee_pose', 1)
        self.create_subscription(TwistStamped, 'controller_node/twist_cmd', self._on_twist, DEEP)
        self.create_subscription(SafetyStatus, 'controller_node/status', self._on_status, LATCHED)
        self.create_subscription(Float64, 'controller_node/gripper_cmd', self._on_gripper, DEEP)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, DEEP)
        if options.record_actions:
            self.create_subscription(PolicyAction, 'policy_node/action', self._on_action, DEEP)
        self.every(1.0 / options.pose_hz, self._tick)

    def do_pose_publishing(self, on: bool) -> None:
        """Start or stop publishing the pose (a dead encoder, a dead TF tree)."""
        self._publishing = on

    def do_pose_stamp_offset(self, offset_s: float) -> None:
        """Shift the pose's stamps: negative is the past."""
        self._stamp_offset_s = offset_s

    def do_pose_frame(self, frame: str) -> None:
        """Publish the pose in another frame."""
        self._pose_frame = frame

    def do_pose_nan(self, on: bool) -> None:
        """Publish NaN positions."""
        self._nan = on

    def do_pose_offset(self, offset_m: list[float]) -> None:
        """Report a pose this far from the true one (an encoder jump)."""
        self._offset = np.array(offset_m, float)

    def do_fuzz_poses(self, count: int, seed: int) -> int:
        """Publish ``count`` poses of random, mostly broken content; answers how many."""
        rng = random.Random(seed)
        for _ in range(count):
            message = PoseStamped()
            message.header.frame_id = rng.choice(['base_link', '', 'camera', 'x' * 1000])
            offset_s = rng.choice([0.0, -0.01, -2.0, 1.0, 1e9, -1e6])
            stamp = message.header.stamp
            stamp.sec, stamp.nanosec = split_stamp(self.ros_now_s() + offset_s)
            numbers = [rng.choice(EXTREMES) for _ in range(7)]
            where, turn = message.pose.position, message.pose.orientation
            where.x, where.y, where.z = numbers[:3]
            turn.x, turn.y, turn.z, turn.w = numbers[3:]
            self._pose.publish(message)
        return count

    def do_place(self, position_m: list[float], quaternion: list[float] | None = None) -> float:
        """Put the robot somewhere else at once (only sensible while nothing is armed)."""
        self._position = np.array(position_m, float)
        if quaternion is not None:
            self._quaternion = np.array(quaternion, float)
        return time.monotonic()

    def do_pose(self) -> list[float]:
        """Answer the true position and quaternion."""
        return [*self._position, *self._quaternion]

    def _on_twist(self, message: TwistStamped) -> None:
        now_s = time.monotonic()
        self._advance(now_s)
        linear, angular = message.twist.linear, message.twist.angular
        twist = [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]
        self._twist[:] = twist
        self._received_s = now_s
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        in_base = float(message.header.frame_id == self._base_frame)
        self._record.write(
            recording.TWIST, [*twist, stamp, in_base, *self._position, *self._quaternion], now_s
        )

    def _on_status(self, message: SafetyStatus) -> None:
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        now_s = self._record.write(
            recording.STATUS,
            [
                message.state,
                message.ticks,
                message.overruns,
                message.accepted,
                message.rejected,
                message.scale,
                message.box_scale,
                message.action_age_s,
                message.pose_age_s,
                message.estop_age_s,
                message.remaining_m,
                message.remaining_rad,
                message.dropped_m,
                message.dropped_rad,
                message.wall_distance_m,
                message.gripper,
                stamp,
            ],
        )
        self._text.write(
            {
                't_s': now_s,
                'state': message.state,
                'sentence': message.sentence,
                'reasons': list(message.reasons),
                'rejects': dict(zip(message.reject_reasons, map(int, message.reject_counts))),
                'mode': message.mode,
                'armed_source': message.armed_source,
                'ticks': int(message.ticks),
                'accepted': int(message.accepted),
                'rejected': int(message.rejected),
            }
        )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            head = {'name': status.name, 'level': ord(status.level), 'message': status.message}
            self._diagnostics.write({'t_s': time.monotonic(), **head, **values})

    def _on_gripper(self, message: Float64) -> None:
        self._record.write(recording.GRIPPER, [message.data])

    def _on_action(self, message: PolicyAction) -> None:
        linear, angular = message.twist.linear, message.twist.angular
        stamp = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self._record.write(
            recording.ACTION,
            [
                *(linear.x, linear.y, linear.z, angular.x, angular.y, angular.z),
                *(message.step_s, message.gripper, message.sequence, stamp, 1.0),
            ],
        )

    def _advance(self, now_s: float) -> float:
        """Move to ``now_s``; returns the speed after it, m/s."""
        end_s = min(now_s, self._received_s + COMMAND_TIMEOUT_S)
        dt_s = max(0.0, end_s - self._advanced_s)
        if self._by_ros_time:
            ros_now_s, steady_s = self.ros_now_s(), now_s - self._advanced_s
            share = dt_s / steady_s if steady_s > 0.0 else 0.0
            dt_s = share * max(0.0, ros_now_s - self._advanced_ros_s)
            self._advanced_ros_s = ros_now_s if steady_s > 0.0 else self._advanced_ros_s
        if dt_s > 0.0 and np.all(np.isfinite(self._twist)):
            self._position = self._position + self._twist[:3] * dt_s
            self._quaternion = rotate(self._quaternion, self._twist[3:] * dt_s)
        self._advanced_s = now_s
        return float(np.linalg.norm(self._twist[:3])) if end_s == now_s else 0.0

    def _tick(self) -> None:
        now_s = time.monotonic()
        speed = self._advance(now_s)
        self._record.write(recording.POSE, [*self._position, *self._quaternion, speed], now_s)
        if not self._publishing:
            return
        message = PoseStamped()
        message.header.frame_id = self._pose_frame
        stamp = message.header.stamp
        stamp.sec, stamp.nanosec = split_stamp(self.ros_now_s() + self._stamp_offset_s)
        shown = self._position + self._offset if not self._nan else np.full(3, math.nan)
        where, turn = message.pose.position, message.pose.orientation
        where.x, where.y, where.z = map(float, shown)
        turn.x, turn.y, turn.z, turn.w = map(float, self._quaternion)
        self._pose.publish(message)


def rotate(quaternion_xyzw: np.ndarray, rotation_vector: np.ndarray) -> np.ndarray:
    """Return Exp(rotation_vector) * quaternion, both in the base frame, normalised."""
    angle = float(np.linalg.norm(rotation_vector))
    half = np.sinc(angle / (2 * math.pi)) / 2  # sin(angle/2) / angle
    ax, ay, az = rotation_vector * half
    aw = math.cos(angle / 2)
    bx, by, bz, bw = quaternion_xyzw
    product = np.array(
        [
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
            aw * bw - ax * bx - ay * by - az * bz,
        ]
    )
    return product / np.linalg.norm(product)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--record', required=True)
    parser.add_argument('--base-frame', default='base_link')
    parser.add_argument('--position', type=float, nargs=3, default=[0.275, 0.0, 0.175])
    parser.add_argument('--quaternion', type=float, nargs=4, default=[0.0, 0.0, 0.0, 1.0])
    parser.add_argument('--pose-hz', type=float, default=50.0)
    parser.add_argument('--record-actions', action='store_true')
    parser.add_argument(
        '--by-ros-time', action='store_true', help='move by ROS time, as in a simulator'
    )
    chosen = parser.parse_known_args()[0]
    run(lambda: FakeRobot(chosen))
