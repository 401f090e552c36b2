"""Where a recording tells the end-effector pose: a PoseStamped topic, or the transforms."""

from dataclasses import dataclass
from typing import Protocol

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.pose_history import PoseHistory
from openvla_ros.data.recording import POSE_TYPE, TRANSFORMS_TYPE, Recording, Track
from openvla_ros.data.transform_tree import FrameChain, TransformTree
from openvla_ros.safety.pose_tracker import Pose
from openvla_ros.safety.robot_profile import load_robot_profile

DEFAULT_BASE_FRAME = 'base_link'


class PoseSource(Protocol):
    """Tells the pose of the end effector in the base frame over time."""

    span_s: tuple[float, float]

    def at(self, stamp_s: float) -> Pose | None:
        """Return the pose at a time [s], or None where it is not recorded."""
        ...


@dataclass(frozen=True)
class RobotFrames:
    """Frames of the robot, and where its pose is to be looked for.

    Attributes:
        base_frame: Frame that displacements are compared in.
        ee_frame: Frame of the end effector; empty where nobody named it.
        ee_frame_named: The user named it, rather than the profile.
        prefer_transforms: Look at the transforms first, then for a pose topic.
        pose_topic: Named by the user, or None.
        tf_topic: Named by the user, or None.
    """

    base_frame: str
    ee_frame: str
    ee_frame_named: bool
    prefer_transforms: bool
    pose_topic: str | None
    tf_topic: str | None

    @classmethod
    def of(
        cls,
        robot: str | None,
        base_frame: str | None,
        ee_frame: str | None,
        pose_topic: str | None,
        tf_topic: str | None,
    ) -> 'RobotFrames':
        """Take what the user named; what is left open comes from the robot's profile, if any.

        Raises:
            ConfigError: the profile cannot be used, or two sources of the pose are named.
        """
        if pose_topic and (ee_frame or tf_topic):
            named = f'--ee-frame {ee_frame}' if ee_frame else f'--tf-topic {tf_topic}'
            raise ConfigError(
                f'both --pose-topic {pose_topic} and {named} are given; say which one tells the '
                'pose'
            )
        profile = load_robot_profile(robot) if robot else None
        if tf_topic and not ee_frame and profile is None:
            raise ConfigError('--tf-topic needs the end effector: say --ee-frame or --robot')
        from_profile = profile is not None and profile.pose.source == 'tf'
        return cls(
            base_frame or (profile.base_frame if profile else DEFAULT_BASE_FRAME),
            ee_frame or (profile.ee_frame if profile else ''),
            bool(ee_frame),
            bool(ee_frame or tf_topic or from_profile),
            pose_topic,
            tf_topic,
        )

    def check(self, frame_id: str, topic: str, recording: Recording) -> None:
        """Refuse a topic of another frame; raises ConfigError."""
        if frame_id != self.base_frame:
            raise ConfigError(
                f'{recording.path}: {topic} is in frame {frame_id!r}, expected the base frame '
                f'{self.base_frame!r}; if that is its name say --base-frame {frame_id or "NAME"}'
            )


def recorded_pose(recording: Recording, frames: RobotFrames) -> tuple[PoseSource, str] | None:
    """Return the pose over time and where it is from, or None where none is recorded.

    Raises:
        ConfigError: what is recorded, or was named, cannot be used.
    """
    pose_topic = _pose_topic(recording, frames)
    if frames.ee_frame and (frames.prefer_transforms or not pose_topic):
        tf_topic = _tf_topic(recording, frames)
        if tf_topic:
            chain = _chain(recording, frames, tf_topic)
            return chain, f'{tf_topic}, {frames.base_frame} to {frames.ee_frame}'
        if frames.ee_frame_named:
            raise ConfigError(
                f'{recording.path}: --ee-frame {frames.ee_frame} needs /tf, which is not '
                'recorded; record it, or leave --ee-frame out'
            )
    if pose_topic is None:
        return None
    track = recording.poses(recording.choose(pose_topic, (POSE_TYPE,), 'end-effector pose'))
    frames.check(track.frame_id, pose_topic, recording)
    history = pose_history(track)
    if not history:
        raise ConfigError(
            f'{recording.path}: none of the {len(track.stamps_s)} poses of {pose_topic} can be '
            'used, expected finite numbers and a quaternion of length 1; correct its publisher'
        )
    return history, pose_topic


def pose_history(track: Track) -> PoseHistory:
    """Return the poses float64[N, 7] of a track as a history."""
    return PoseHistory(
        track.stamps_s.tolist(), [Pose.of(row[:3], row[3:]) for row in track.values.tolist()]
    )


def unused_transforms(recording: Recording, frames: RobotFrames) -> str:
    """Return a hint where /tf is recorded and only the name of the end effector is missing."""
    if frames.ee_frame or not _moving_topics(recording):
        return ''
    return '; /tf is recorded: say --robot PROFILE or --ee-frame FRAME (and --base-frame)'


def _pose_topic(recording: Recording, frames: RobotFrames) -> str | None:
    found = recording.topics((POSE_TYPE,))
    return frames.pose_topic or next((t for t in found if t.rsplit('/', 1)[-1] == 'ee_pose'), None)


def _moving_topics(recording: Recording) -> list[str]:
    found = recording.topics((TRANSFORMS_TYPE,))
    return sorted(topic for topic in found if not topic.endswith('_static'))


def _tf_topic(recording: Recording, frames: RobotFrames) -> str | None:
    if frames.tf_topic:
        return recording.choose(frames.tf_topic, (TRANSFORMS_TYPE,), 'transform')
    moving = _moving_topics(recording)
    if len(moving) > 1:
        raise ConfigError(
            f'{recording.path}: has {len(moving)} topics with transforms '
            f'({", ".join(moving)}); say --tf-topic'
        )
    return moving[0] if moving else None


def _chain(recording: Recording, frames: RobotFrames, topic: str) -> FrameChain:
    static = f'{topic}_static'
    there = static in recording.topics((TRANSFORMS_TYPE,))
    tree = TransformTree(
        recording.transforms(topic), recording.transforms(static) if there else ()
    )
    try:
        return tree.chain(frames.base_frame, frames.ee_frame)
    except ConfigError as error:
        missing = '' if there else f' ({static} is not recorded)'
        raise ConfigError(f'{recording.path}: {topic}: {error}{missing}') from error
