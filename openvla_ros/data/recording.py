"""A rosbag2 recording (sqlite3 or MCAP) read without ROS: images, instructions and what moved."""

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection, MessageDefinitionFormat
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from openvla_ros.core.resources import resource_path
from openvla_ros.core.status import Status
from openvla_ros.core.strict_config import ConfigError, did_you_mean
from openvla_ros.data.transform_tree import StampedTransform
from openvla_ros.observation.color_conversion import converted_rgb
from openvla_ros.observation.image_encoding import (
    LAYOUTS,
    ImageRefused,
    compressed_refusal,
    decode_compressed,
    layout_refusal,
    rgb_view,
)
from openvla_ros.safety.pose_tracker import Pose

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
POSE_TYPE = 'geometry_msgs/msg/PoseStamped'
TRANSFORMS_TYPE = 'tf2_msgs/msg/TFMessage'
TWIST_TYPE = 'geometry_msgs/msg/TwistStamped'
ACTION_TYPE = 'openvla_ros/msg/PolicyAction'
TEXT_TYPE = 'std_msgs/msg/String'
OPENING_TYPE = 'std_msgs/msg/Float64'

ROUNDING_S = 1e-6
"""Today's date in seconds leaves a quarter of a microsecond to a float64."""

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class StampedImage:
    """One picture of the recording.

    Attributes:
        stamp_s: Of its header [s]; the time of recording where the header has none.
        recorded_s: The time of recording [s].
        image: uint8[H, W, 3], RGB.
    """

    stamp_s: float
    recorded_s: float
    image: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Track:
    """Something recorded over time.

    Attributes:
        stamps_s: float64[N], increasing [s].
        values: float64[N, D].
        frame_id: Of the headers; empty where the type has none.
    """

    stamps_s: Vector
    values: Vector
    frame_id: str

    def between(self, start_s: float, end_s: float) -> Vector:
        """Return the values of start_s <= stamp < end_s, float64[M, D]."""
        first = bisect.bisect_left(self.stamps_s, start_s - ROUNDING_S)
        last = bisect.bisect_left(self.stamps_s, end_s - ROUNDING_S)
        return self.values[first:last]

    def before(self, stamp_s: float) -> Vector | None:
        """Return the newest value not after ``stamp_s``, float64[D], or None."""
        index = bisect.bisect_right(self.stamps_s, stamp_s) - 1
        return self.values[index] if index >= 0 else None


class Recording:
    """An open recording; use it in a ``with`` statement.

    Raises:
        ConfigError: the folder is not a recording that can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise ConfigError(f'{self.path}: there is no such recording')
        if self.path.is_file() and (self.path.parent / 'metadata.yaml').is_file():
            self.path = self.path.parent  # somebody named the file inside the recording's folder
        if self.path.suffix == '.bag':
            raise ConfigError(
                f'{self.path}: is a recording of ROS 1, expected rosbag2; convert it: '
                f'rosbags-convert --src {self.path} --dst {self.path.stem}'
            )
        try:
            self._reader = Reader(self.path)
            self._reader.open()
            self._types = _typestore(self._reader.connections)
        except Exception as error:  # rosbags raises what the damaged file makes it raise
            raise self._unreadable(error) from error

    def __enter__(self) -> 'Recording':
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        self._reader.close()

    def topics(self, kinds: Sequence[str] = ()) -> dict[str, str]:
        """Return the type of every topic that holds messages, of some types or of all."""
        return {
            connection.topic: connection.msgtype
            for connection in self._reader.connections
            if connection.msgcount and (not kinds or connection.msgtype in kinds)
        }

    def choose(
        self, wanted: str | None, kinds: Sequence[str], what: str, usual: Sequence[str] = ()
    ) -> str:
        """Return the topic to read: the given one, or the only one of these types.

        Args:
            wanted: Named by the user, or None.
            kinds: Message types that will do.
            what: Is looked for, in messages.
            usual: Where there are several, the only one whose name ends like the first of these
                that any ends like.

        Raises:
            ConfigError: it is not there, is of another type, or several are.
        """
        found = self.topics(kinds)
        if wanted is not None:
            if wanted not in found:
                everything = self.topics()
                hint = did_you_mean(wanted, everything)
                got = everything.get(wanted, 'not recorded')
                raise ConfigError(
                    f'{self.path}: {what} topic {wanted!r} is {got}{hint}, expected one of '
                    f'{", ".join(found) or "none: there is no topic of this kind"}'
                )
            return wanted
        for ending in usual if len(found) > 1 else ():
            named = [topic for topic in found if f'/{topic}'.endswith(f'/{ending}')]
            if named:
                found = {topic: found[topic] for topic in named}
                break
        if len(found) != 1:
            listed = ', '.join(sorted(found)) or 'none'
            raise ConfigError(
                f'{self.path}: has {len(found)} topics with a {what} ({listed}); name one of them'
            )
        return next(iter(found))

    def images(self, topic: str, refused: list[Status]) -> Iterator[StampedImage]:
        """Yield the pictures of a topic in the order of recording.

        Args:
            topic: Of type Image or CompressedImage.
            refused: Gets the reason of every picture that cannot be used; it is left out.
        """
        for connection, at_ns, message in self._timed_messages(topic):
            try:
                if connection.msgtype == IMAGE_TYPES[0]:
                    image = _raw_image(message)
                else:
                    image = _compressed_image(message)
            except ImageRefused as refusal:
                refused.append(refusal.refusal)
                continue
            yield StampedImage(_stamp_s(message, at_ns), 1e-9 * at_ns, image)

    def encoded_images(self, topic: str, refused: list[Status]) -> Iterator[tuple[float, bytes]]:
        """Yield (stamp [s], JPEG or PNG file) of a CompressedImage topic, as it was recorded.

        Args:
            topic: Of type CompressedImage.
            refused: Gets the reason of every image that cannot be decoded; it is left out.
        """
        for _, at_ns, message in self._timed_messages(topic):
            content = bytes(message.data)
            try:
                decode_compressed(np.frombuffer(content, np.uint8))
            except ImageRefused as refusal:
                refused.append(refusal.refusal)
                continue
            yield _stamp_s(message, at_ns), content

    def poses(self, topic: str) -> Track:
        """Return poses as float64[N, 7]: position [m], then quaternion xyzw."""
        return self._track(topic, _pose_values)

    def twists(self, topic: str) -> Track:
        """Return twists as float64[N, 6]: linear [m/s], then angular [rad/s]."""
        return self._track(topic, lambda m: _twist_values(m.twist))

    def actions(self, topic: str) -> Track:
        """Return PolicyActions as float64[N, 7]: displacement [m], rotation [rad], opening."""
        return self._track(
            topic, lambda m: [*(m.step_s * v for v in _twist_values(m.twist)), m.gripper]
        )

    def openings(self, topic: str) -> Track:
        """Return gripper openings as float64[N, 1], at the times of recording."""
        return self._track(topic, lambda m: [m.data], has_header=False)

    def transforms(self, topic: str) -> list[StampedTransform]:
        """Return the transforms of a TFMessage topic in the order of recording."""
        return [
            _stamped_transform(transform, at_ns)
            for _, at_ns, message in self._timed_messages(topic)
            for transform in message.transforms
        ]

    def texts(self, topic: str) -> list[tuple[float, str]]:
        """Return (time of recording [s], text) of a String topic."""
        return [
            (1e-9 * at_ns, str(message.data)) for _, at_ns, message in self._timed_messages(topic)
        ]

    def _track(self, topic: str, values_of: Any, *, has_header: bool = True) -> Track:
        stamps, values, frame = [], [], ''
        for _, at_ns, message in self._timed_messages(topic):
            stamps.append(_stamp_s(message, at_ns) if has_header else 1e-9 * at_ns)
            values.append(values_of(message))
            frame = message.header.frame_id if has_header else ''
        order = np.argsort(stamps, kind='stable')
        return Track(np.array(stamps)[order], np.array(values, np.float64)[order], frame)

    def _timed_messages(self, topic: str) -> Iterator[tuple[Connection, int, Any]]:
        connections = [c for c in self._reader.connections if c.topic == topic]
        messages = iter(self._reader.messages(connections))
        while True:
            try:
                connection, at_ns, data = next(messages)
                message = self._types.deserialize_cdr(data, connection.msgtype)
            except StopIteration:
                return
            except Exception as error:  # as above; a damaged file may open and break off later
                raise self._unreadable(error, f' from {topic} on') from error
            yield connection, at_ns, message

    def _unreadable(self, error: Exception, where: str = '') -> ConfigError:
        said = ' '.join(str(error).split())[:200] or type(error).__name__
        return ConfigError(f'{self.path}: cannot be read as a rosbag2 recording{where}: {said}')


def _typestore(connections: Sequence[Connection]) -> Any:
    """Return the types that are read here: the standard ones, and ours as they were recorded.

    Definitions of other types in the recording are not looked at: one that is incomplete or of a
    newer kind must not stand in the way of the rest.
    """
    typestore = get_typestore(Stores.LATEST)
    recorded = {
        connection.msgtype: connection.msgdef.data
        for connection in connections
        if connection.msgdef.format == MessageDefinitionFormat.MSG
    }
    text = recorded.get(ACTION_TYPE) or resource_path('msg/PolicyAction.msg').read_text('utf-8')
    typestore.register({ACTION_TYPE: get_types_from_msg(text, ACTION_TYPE)[ACTION_TYPE]})
    return typestore


def _raw_image(message: Any) -> NDArray[np.uint8]:
    refusal = layout_refusal(
        width=message.width,
        height=message.height,
        step=message.step,
        num_bytes=len(message.data),
        encoding=message.encoding,
    )
    if refusal is not None:
        raise ImageRefused(refusal)
    rgb_of = rgb_view if message.encoding in LAYOUTS else converted_rgb
    return rgb_of(
        np.ascontiguousarray(message.data),
        width=message.width,
        height=message.height,
        step=message.step,
        encoding=message.encoding,
        big_endian=bool(message.is_bigendian),
    )


def _compressed_image(message: Any) -> NDArray[np.uint8]:
    refusal = compressed_refusal(num_bytes=len(message.data), image_format=message.format)
    if refusal is not None:
        raise ImageRefused(refusal)
    return decode_compressed(message.data)


def _stamp_s(message: Any, at_ns: int) -> float:
    stamp = message.header.stamp
    if not stamp.sec and not stamp.nanosec:  # a driver that does not stamp
        return 1e-9 * at_ns
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def _pose_values(message: Any) -> list[float]:
    p, q = message.pose.position, message.pose.orientation
    return [p.x, p.y, p.z, q.x, q.y, q.z, q.w]


def _stamped_transform(message: Any, at_ns: int) -> StampedTransform:
    p, q = message.transform.translation, message.transform.rotation
    return StampedTransform(
        _stamp_s(message, at_ns),
        message.header.frame_id.lstrip('/'),
        message.child_frame_id.lstrip('/'),
        Pose((p.x, p.y, p.z), (q.x, q.y, q.z, q.w)),
    )


def _twist_values(twist: Any) -> list[float]:
    linear, angular = twist.linear, twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]
