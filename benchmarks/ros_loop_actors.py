"""The processes of the ROS loop benchmark: a camera, the measured policy_node, and a listener.

    python -m benchmarks.ros_loop_actors camera --rate-hz 30 [--best-effort]
    python -m benchmarks.ros_loop_actors listener
    python -m benchmarks.ros_loop_actors policy --file out.npz [--sleep-s 0.1] --ros-args ...

Every time is of the system's clock in nanoseconds, the clock of the images' stamps.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from harness.actor import Actor, run
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

from openvla_ros.action_space.normalization import ActionStats
from openvla_ros.msg import PolicyAction
from openvla_ros.nodes import policy_cycle, policy_node
from openvla_ros.nodes.policy_cycle import Observation
from openvla_ros.policy.inference import PredictedAction
from openvla_ros.policy.policy import Policy

_DIFFERENT_FRAMES = 8
_EVERY = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class Camera(Actor):
    """Publishes noise at a steady rate and remembers when."""

    def __init__(self, rate_hz: float, width: int, height: int, best_effort: bool) -> None:
        super().__init__('camera')
        reliability = ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE
        self._publisher = self.create_publisher(
            Image, 'camera/image_raw', QoSProfile(depth=1, reliability=reliability)
        )
        self._frames = [_noise(width, height, seed) for seed in range(_DIFFERENT_FRAMES)]
        self._stamps_ns: list[int] = []
        self._publish_ns: list[int] = []
        self.every(1 / rate_hz, self._tick)

    def do_sent(self) -> list[list[int]]:
        """Answer the stamps and how long publishing took."""
        return [self._stamps_ns, self._publish_ns]

    def _tick(self) -> None:
        frame = self._frames[len(self._stamps_ns) % _DIFFERENT_FRAMES]
        stamp_ns = time.time_ns()
        frame.header.stamp.sec, frame.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        self._publisher.publish(frame)
        self._stamps_ns.append(stamp_ns)
        self._publish_ns.append(time.time_ns() - stamp_ns)


def _noise(width: int, height: int, seed: int) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image = Image(width=width, height=height, encoding='rgb8', step=3 * width)
    image.header.frame_id = 'camera_optical_frame'
    image.data.frombytes(pixels.tobytes())
    return image


class Listener(Actor):
    """Speaks the instruction and notes when actions arrive."""

    def __init__(self) -> None:
        super().__init__('listener')
        self._status = ''
        self._actions: list[tuple[int, int]] = []
        self._say = self.create_publisher(String, 'instruction', _LATCHED)
        self.create_subscription(String, 'policy_node/status', self._on_status, _LATCHED)
        self.create_subscription(PolicyAction, 'policy_node/action', self._on_action, _EVERY)

    def do_instruct(self, text: str) -> None:
        """Publish an instruction."""
        self._say.publish(String(data=text))

    def do_status(self) -> str:
        """Answer what the policy said last."""
        return self._status

    def do_actions(self) -> list[tuple[int, int]]:
        """Answer stamp and arrival of every action."""
        return self._actions

    def _on_status(self, message: String) -> None:
        self._status = message.data

    def _on_action(self, message: PolicyAction) -> None:
        arrived_ns = time.time_ns()
        self._actions.append((_stamp_ns(message), arrived_ns))


class Measurements:
    """What happened when inside the policy's process.

    Attributes:
        images: Stamp and entry of the callback.
        inferences: Stamp, start and end of the worker's job.
        ticks: Times of the policy's timer.
    """

    def __init__(self) -> None:
        self.images: list[tuple[int, int]] = []
        self.inferences: list[tuple[int, int, int]] = []
        self.ticks: list[int] = []

    def save(self, path: str, skipped_ticks: int) -> None:
        """Write an .npz."""
        np.savez(
            path,
            images=np.array(self.images, np.int64).reshape(-1, 2),
            inferences=np.array(self.inferences, np.int64).reshape(-1, 3),
            ticks=np.array(self.ticks, np.int64),
            skipped_ticks=skipped_ticks,
        )


class SleepingBackend:
    """Takes its time without computing: what remains is the cost of everything else."""

    image_size = 224

    def __init__(self, unnorm_key: str, sleep_s: float) -> None:
        self.description = f'sleeps {sleep_s:g} s'
        reach = np.array([0.03, 0.03, 0.03, 0.1, 0.1, 0.1, 1.0])
        low = np.append(-reach[:6], 0.0)
        self.norm_stats: Mapping[str, ActionStats] | None = {
            unnorm_key: ActionStats(low, reach, np.array([True] * 6 + [False]))
        }
        self._sleep_s = sleep_s
        self._random = np.random.default_rng(0)

    def warm_up(self) -> None:
        """Nothing to warm."""

    def predict(self, image: NDArray[np.uint8], instruction: str) -> PredictedAction:
        """Sleep, then move a little."""
        time.sleep(self._sleep_s)
        return PredictedAction(np.append(self._random.uniform(-0.01, 0.01, 6), 1.0))

    def model_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image."""
        return image

    def reset(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Nothing is held."""


def measured_node(notes: Measurements, path: str) -> type[policy_node.PolicyNode]:
    """The real node with a clock at its callbacks."""

    class MeasuredNode(policy_node.PolicyNode):
        def _on_image(self, message: Any) -> None:
            notes.images.append((_stamp_ns(message), time.time_ns()))
            super()._on_image(message)

        def _tick(self) -> None:
            notes.ticks.append(time.time_ns())
            super()._tick()

        def close(self) -> bool:
            notes.save(path, self._gate.statistics.counts['skipped_ticks'])
            return super().close()

    return MeasuredNode


def measured_cycle(notes: Measurements) -> type[policy_cycle.PolicyCycle]:
    """The real cycle with a clock around it."""

    class MeasuredCycle(policy_cycle.PolicyCycle):
        def run(self, policy: Policy, observation: Observation) -> None:
            started_ns = time.time_ns()
            super().run(policy, observation)
            stamp_ns = _stamp_ns(observation.message)
            notes.inferences.append((stamp_ns, started_ns, time.time_ns()))

    return MeasuredCycle


def run_policy(path: str, sleep_s: float | None, ros_arguments: list[str]) -> int:
    """Run policy_node with clocks in it; with a sleeping backend where ``sleep_s`` is given."""
    notes = Measurements()
    policy_node.PolicyNode = measured_node(notes, path)  # type: ignore[misc]
    policy_node.PolicyCycle = measured_cycle(notes)  # type: ignore[attr-defined]
    argv = ['policy_node', *ros_arguments]
    if sleep_s is None:
        return policy_node.main(argv)
    return policy_node.main(argv, lambda p: SleepingBackend(p.unnorm_key, sleep_s))


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('role', choices=('camera', 'listener', 'policy'))
    parser.add_argument('--rate-hz', type=float, default=30.0)
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--best-effort', action='store_true')
    parser.add_argument('--file', default='policy.npz')
    parser.add_argument('--sleep-s', type=float)
    chosen, rest = parser.parse_known_args()
    if chosen.role == 'policy':
        return run_policy(chosen.file, chosen.sleep_s, rest)
    make: Callable[[], Actor] = Listener
    if chosen.role == 'camera':
        size = (chosen.width, chosen.height)
        make = lambda: Camera(chosen.rate_hz, *size, chosen.best_effort)  # noqa: E731
    run(make)
    return 0


if __name__ == '__main__':
    sys.exit(main())
