"""A camera that can freeze, blank, lie about its stamps, change geometry, or send garbage."""

import argparse
import array
import random
import time
from typing import Any

import numpy as np
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from harness.actor import Actor, run, split_stamp

BYTES_PER_PIXEL = {
    'rgb8': 3,
    'bgr8': 3,
    'rgba8': 4,
    'bgra8': 4,
    'mono8': 1,
    'mono16': 2,
    '16UC1': 2,
}


FUZZED: dict[str, list[Any]] = {
    'width': [0, 1, 15, 16, 63, 8193, 2**32 - 1],
    'height': [0, 1, 15, 16, 47, 8193, 2**32 - 1],
    'step': [0, 1, 191, 193, 2**31, 2**32 - 1],
    'encoding': [
        *('', 'rgb8', 'bgr8', 'mono8', 'mono16', '16UC1', '32FC1', 'yuv422', 'bayer_rggb8'),
        *('rgb8\n', 'x' * 100_000, 'ä' * 50),
    ],
    'data_length': [0, 1, 100, 64 * 48 * 3 - 1, 64 * 48 * 3 + 1, 200_000],
}


class FakeCamera(Actor):
    """Publishes ``camera/image_raw`` at a steady rate."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__('fake_camera')
        self._width, self._height = options.width, options.height
        self._encoding = options.encoding
        self._content = options.content
        self._frame_id = options.frame_id
        self._offset_s = 0.0
        self._fixed_stamp_s: float | None = None
        self._changes: dict[str, Any] = {}
        self._rng = np.random.default_rng(0)
        self._noise = self._rng.integers(0, 256, 1 << 20, dtype=np.uint8)
        self._sent = 0
        reliability = (
            ReliabilityPolicy.BEST_EFFORT if options.best_effort else ReliabilityPolicy.RELIABLE
        )
        qos = QoSProfile(depth=1, reliability=reliability)
        self._images = self.create_publisher(Image, options.topic, qos)
        self._timer = self.every(1 / options.rate_hz, self._tick)

    def do_rate(self, rate_hz: float) -> None:
        """Change the rate; 0 stops."""
        self.destroy_timer(self._timer)
        if rate_hz:
            self._timer = self.every(1 / rate_hz, self._tick)

    def do_content(self, content: str) -> float:
        """Show 'noise' (every frame differs), 'frozen' (always the same), 'black' or 'white'."""
        self._content = content
        return time.monotonic()

    def do_size(self, width: int, height: int) -> float:
        """Change the size from now on."""
        self._width, self._height = width, height
        return time.monotonic()

    def do_encoding(self, encoding: str) -> float:
        """Change the encoding from now on; unknown ones are sent with 3 bytes per pixel."""
        self._encoding = encoding
        return time.monotonic()

    def do_stamp(self, offset_s: float = 0.0, fixed_s: float | None = None) -> float:
        """Stamp frames with now + offset_s, or always with fixed_s."""
        self._offset_s, self._fixed_stamp_s = offset_s, fixed_s
        return time.monotonic()

    def do_spoil(self, **changes: Any) -> float:
        """Overwrite width, height, step, encoding or data_length of every frame; none heals."""
        self._changes = changes
        return time.monotonic()

    def do_send(self, count: int = 1, **changes: Any) -> float:
        """Publish frames now with overwritten fields; answers the steady time before the first."""
        t_s = time.monotonic()
        for _ in range(count):
            self._publish(changes)
        return t_s

    def do_fuzz(self, count: int, seed: int) -> int:
        """Publish ``count`` frames whose header and data contradict each other in random ways."""
        rng = random.Random(seed)
        for _ in range(count):
            changes: dict[str, Any] = {}
            for name, values in FUZZED.items():
                if rng.random() < 0.4:
                    changes[name] = rng.choice(values)
            self._publish(changes)
        return count

    def do_sent(self) -> int:
        """Answer how many frames were published."""
        return self._sent

    def _tick(self) -> None:
        self._publish(self._changes)

    def _publish(self, changes: dict[str, Any]) -> None:
        pixel = BYTES_PER_PIXEL.get(self._encoding, 3)
        message = Image()
        message.header.frame_id = self._frame_id
        stamp_s = self.ros_now_s() + self._offset_s
        if self._fixed_stamp_s is not None:
            stamp_s = self._fixed_stamp_s
        message.header.stamp.sec, message.header.stamp.nanosec = split_stamp(stamp_s)
        message.width, message.height = self._width, self._height
        message.step = self._width * pixel
        message.encoding = self._encoding
        length = changes.get('data_length', message.step * message.height)
        message.data = self._pixels(length)
        for name in ('width', 'height', 'step', 'encoding'):
            if name in changes:
                setattr(message, name, changes[name])
        self._sent += 1
        self._images.publish(message)

    def _pixels(self, length: int) -> Any:
        if self._content in ('black', 'white'):
            return array.array('B', bytes([0 if self._content == 'black' else 255]) * length)
        start = 0 if self._content == 'frozen' else int(self._rng.integers(0, 4096))
        repeats = -(-(length + start) // len(self._noise))
        noise = self._noise if repeats == 1 else np.tile(self._noise, repeats)
        return array.array('B', noise[start : start + length].tobytes())


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--topic', default='camera/image_raw')
    parser.add_argument('--rate-hz', type=float, default=30.0)
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--encoding', default='rgb8')
    parser.add_argument(
        '--content', default='noise', choices=['noise', 'frozen', 'black', 'white']
    )
    parser.add_argument('--frame-id', default='camera_optical_frame')
    parser.add_argument('--best-effort', action='store_true')
    chosen = parser.parse_known_args()[0]
    run(lambda: FakeCamera(chosen), shared_memory=True)
