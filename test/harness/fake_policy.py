"""A policy without a network: publishes PolicyAction, well or badly, as told.

Pattern ``orbit`` circles in the middle of the box by the pose it hears, so the arm always moves
and never comes near a wall; ``constant`` repeats one twist; ``none`` is silent.
"""

import argparse
import math
import random
import secrets
import threading
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy

from harness import recording
from harness.actor import Actor, run, split_stamp
from openvla_ros.msg import PolicyAction

EXTREMES = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e3, -1e-9, 0.0, 0.25, -0.25]


class FakePolicy(Actor):
    """Publishes actions; each is in its record, with the scenario's opinion of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options.node_name)
        self._record = recording.Writer(options.record)
        self._centre = np.array(options.centre, float)
        self._position: np.ndarray | None = None
        self._step_s = options.step_s
        self._speed = options.speed
        self._frame = options.frame
        self._source_id = secrets.token_hex(16)
        self._sequence = 0
        self._pattern = options.pattern
        self._twist = [0.0] * 6
        self._gripper = 1.0
        self._changes: dict[str, Any] = {}
        self._acceptable = True
        self._drop = 0.0
        self._last: PolicyAction | None = None
        reliability = (
            ReliabilityPolicy.BEST_EFFORT if options.best_effort else ReliabilityPolicy.RELIABLE
        )
        qos = QoSProfile(depth=1, reliability=reliability)
        self._actions = self.create_publisher(PolicyAction, options.topic, qos)
        self.create_subscription(PoseStamped, 'ee_pose', self._on_pose, 1)
        if options.relay_from:
            self.create_subscription(PolicyAction, options.relay_from, self._on_relayed, 1)
        self._timer = self.every(
            self._step_s if options.rate_hz == 0 else 1 / options.rate_hz, self._tick
        )

    def do_pattern(
        self,
        pattern: str,
        twist: list[float] | None = None,
        speed: float | None = None,
        gripper: float | None = None,
        rate_hz: float | None = None,
        step_s: float | None = None,
        frame: str | None = None,
    ) -> float:
        """Choose what is published from now on; answers the steady time."""
        self._pattern = pattern
        self._twist = twist if twist is not None else self._twist
        self._speed = speed if speed is not None else self._speed
        self._gripper = gripper if gripper is not None else self._gripper
        self._frame = frame if frame is not None else self._frame
        self._step_s = step_s if step_s is not None else self._step_s
        if rate_hz is not None or step_s is not None:
            self.destroy_timer(self._timer)
            self._timer = self.every(1 / rate_hz if rate_hz else self._step_s, self._tick)
        return time.monotonic()

    def do_spoil(self, acceptable: bool = False, **changes: Any) -> float:
        """Change fields of every action from now on (see _changed); no changes heals."""
        self._changes, self._acceptable = changes, acceptable if changes else True
        return time.monotonic()

    def do_send(self, acceptable: bool = False, count: int = 1, **changes: Any) -> float:
        """Publish ``count`` changed actions now; answers the steady time before the first."""
        t_s = time.monotonic()
        for _ in range(count):
            self._publish(self._next_twist(), changes, acceptable)
        return t_s

    def do_repeat_last(self, fresh_stamp: bool = False, count: int = 1) -> float:
        """Publish the newest message again, as it was or with a new stamp (a replay, a relay)."""
        t_s = time.monotonic()
        for _ in range(count):
            if self._last is not None:
                if fresh_stamp:
                    self._stamp(self._last, self.ros_now_s())
                self._send(self._last, acceptable=False)
        return t_s

    def do_drop(self, probability: float) -> None:
        """Lose this part of the actions (their sequence numbers are used up)."""
        self._drop = probability

    def do_flood(self, duration_s: float, spoiled: bool = False) -> int:
        """Publish as fast as this process can; answers how many. Blocks this actor meanwhile."""
        end_s = time.monotonic() + duration_s
        count = 0
        while time.monotonic() < end_s:
            changes = {'stamp_offset_s': -5.0} if spoiled else {}
            self._publish(self._next_twist(), changes, acceptable=not spoiled)
            count += 1
        return count

    def do_burn(self, threads: int, duration_s: float) -> float:
        """Keep the interpreter of this process busy with Python threads for a while."""
        t_s = time.monotonic()

        def spin() -> None:
            while time.monotonic() < t_s + duration_s:
                sum(range(1000))

        for _ in range(threads):
            threading.Thread(target=spin, daemon=True).start()
        return t_s

    def do_fuzz(self, count: int, seed: int, pause_s: float = 0.0) -> int:
        """Publish ``count`` messages of random, mostly broken content; answers how many."""
        rng = random.Random(seed)
        for _ in range(count):
            self._send(self._fuzzed(rng), acceptable=False)
            if pause_s:
                time.sleep(pause_s)
        return count

    def do_new_source(self) -> str:
        """Behave as a restarted policy on the same publisher: new source id, sequence from 1."""
        self._source_id, self._sequence = secrets.token_hex(16), 0
        return self._source_id

    def _on_pose(self, message: PoseStamped) -> None:
        where = message.pose.position
        position = np.array([where.x, where.y, where.z])
        if np.all(np.isfinite(position)):
            self._position = position

    def _on_relayed(self, message: PolicyAction) -> None:
        self._last = message

    def _tick(self) -> None:
        if self._pattern == 'none':
            return
        if self._pattern == 'relay':
            self.do_repeat_last(fresh_stamp=True)
            return
        if self._drop and random.random() < self._drop:
            self._sequence += 1
            return
        self._publish(self._next_twist(), self._changes, self._acceptable)

    def _next_twist(self) -> list[float]:
        if self._pattern != 'orbit' or self._position is None:
            return list(self._twist)
        away = self._position - self._centre
        around = np.array([-away[1], away[0], 0.0])
        norm = float(np.linalg.norm(around[:2]))
        around = around / norm if norm > 1e-3 else np.array([1.0, 0.0, 0.0])
        # Towards a radius of 4 cm, and back to the centre plane.
        wanted = around + np.array(
            [*(-away[:2] * (norm - 0.04) / max(norm, 1e-3) * 20), -20 * away[2]]
        )
        direction = wanted / np.linalg.norm(wanted)
        return [*map(float, direction * self._speed), 0.0, 0.0, 0.0]

    def _publish(self, twist: list[float], changes: dict[str, Any], acceptable: bool) -> None:
        self._sequence += 1
        message = PolicyAction()
        message.header.frame_id = self._frame
        message.sequence = self._sequence
        message.step_s = self._step_s
        message.gripper = self._gripper
        message.source_id = self._source_id
        message.instruction = 'circle'
        message.unnorm_key = 'fake'
        set_twist(message, twist)
        self._stamp(message, self.ros_now_s())
        self._changed(message, changes)
        self._send(message, acceptable)

    def _changed(self, message: PolicyAction, changes: dict[str, Any]) -> None:
        """Apply changes: frame, twist, twist_at {index: value}, stamp_s, stamp_offset_s, sequence,
        sequence_offset, step_s, gripper, source_id."""
        for name, value in changes.items():
            if name == 'frame':
                message.header.frame_id = value
            elif name == 'frame_length':
                message.header.frame_id = 'x' * value
            elif name == 'twist':
                set_twist(message, value)
            elif name == 'twist_at':
                twist = get_twist(message)
                for index, number in value.items():
                    twist[int(index)] = number
                set_twist(message, twist)
            elif name == 'stamp_s':
                self._stamp(message, value)
            elif name == 'stamp_offset_s':
                self._stamp(message, self.ros_now_s() + value)
            elif name == 'sequence_offset':
                message.sequence = max(0, message.sequence + value)
            elif name in ('sequence', 'step_s', 'gripper', 'source_id'):
                setattr(message, name, value)
            else:
                raise ValueError(f'no such change: {name}')

    def _fuzzed(self, rng: random.Random) -> PolicyAction:
        def number() -> float:
            return rng.choice(EXTREMES) if rng.random() < 0.5 else rng.uniform(-0.5, 0.5)

        message = PolicyAction()
        message.header.frame_id = rng.choice(['base_link', 'ee_link', '', 'camera', 'x' * 1000])
        offset = rng.choice([0.0, -0.01, -2.0, 1.0, 3600.0, -1e6, 1e9])
        self._stamp(message, self.ros_now_s() + offset)
        message.sequence = rng.choice([0, 1, self._sequence, self._sequence + 1, 2**63, 2**64 - 1])
        self._sequence = (self._sequence + 1) % 2**62
        message.step_s = rng.choice([0.2, 0.1, 0.0, -1.0, 1e-300, math.nan, math.inf])
        message.gripper = number()
        message.source_id = rng.choice([self._source_id, '', 'f' * 32, 'x' * 5000])
        message.instruction = rng.choice(['', 'go', 'x' * 10000])
        message.action = [number() for _ in range(rng.choice([0, 6, 7, 8, 100]))]
        message.action_tokens = [rng.randrange(-(2**63), 2**63) for _ in range(rng.choice([0, 7]))]
        message.inference_s = number()
        set_twist(message, [number() for _ in range(6)])
        return message

    def _stamp(self, message: PolicyAction, t_s: float) -> None:
        message.header.stamp.sec, message.header.stamp.nanosec = split_stamp(t_s)

    def _send(self, message: PolicyAction, acceptable: bool) -> None:
        self._last = message
        stamp_s = message.header.stamp.sec + message.header.stamp.nanosec * 1e-9
        self._record.write(
            recording.ACTION,
            [
                *get_twist(message),
                message.step_s,
                message.gripper,
                float(message.sequence),
                stamp_s,
                float(acceptable),
            ],
        )
        self._actions.publish(message)


def set_twist(message: PolicyAction, twist: list[float]) -> None:
    """Write six numbers into the message."""
    linear, angular = message.twist.linear, message.twist.angular
    linear.x, linear.y, linear.z = map(float, twist[:3])
    angular.x, angular.y, angular.z = map(float, twist[3:])


def get_twist(message: PolicyAction) -> list[float]:
    """Read the six numbers of the message."""
    linear, angular = message.twist.linear, message.twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--record', required=True)
    parser.add_argument('--node-name', default='policy_node')
    parser.add_argument('--topic', default='policy_node/action')
    parser.add_argument('--step-s', type=float, default=0.2)
    parser.add_argument('--rate-hz', type=float, default=0.0, help='0: one action per step')
    parser.add_argument('--speed', type=float, default=0.1)
    parser.add_argument(
        '--pattern', default='orbit', choices=['orbit', 'constant', 'none', 'relay']
    )
    parser.add_argument('--frame', default='base_link')
    parser.add_argument('--centre', type=float, nargs=3, default=[0.275, 0.0, 0.175])
    parser.add_argument('--best-effort', action='store_true')
    parser.add_argument('--relay-from', default='')
    chosen = parser.parse_known_args()[0]
    run(lambda: FakePolicy(chosen), shared_memory=True)
