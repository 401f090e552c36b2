"""Simulation time that can pause, jump, crawl and race: /clock at 100 Hz of real time."""

import argparse
import time

from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from harness.actor import Actor, run, split_stamp


class FakeClock(Actor):
    """ROS time = offset + factor * steady time."""

    def __init__(self, start_s: float) -> None:
        super().__init__('fake_clock')
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._publisher = self.create_publisher(Clock, '/clock', qos)
        self._ros_s = start_s
        self._factor = 1.0
        self._before_s = time.monotonic()
        self._speaking = True
        self.every(0.01, self._tick)

    def do_factor(self, factor: float) -> float:
        """Run this many times as fast as real time; 0 pauses."""
        self._factor = factor
        return time.monotonic()

    def do_jump(self, by_s: float) -> float:
        """Jump at once."""
        self._ros_s += by_s
        self._tick()
        return time.monotonic()

    def do_speaking(self, on: bool) -> float:
        """Stop or start publishing."""
        self._speaking = on
        return time.monotonic()

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._ros_s += self._factor * (now_s - self._before_s)
        self._before_s = now_s
        if self._speaking:
            message = Clock()
            message.clock.sec, message.clock.nanosec = split_stamp(self._ros_s)
            self._publisher.publish(message)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--start-s', type=float, default=10000.0)
    chosen = parser.parse_known_args()[0]
    run(lambda: FakeClock(chosen.start_s))
