"""What the arm did, or was told, during one step after an image: the reference of a replay."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.core.rotation import rotate_by_quaternion
from openvla_ros.data.recorded_pose import PoseSource
from openvla_ros.data.recording import Track

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Motion:
    """A displacement of one step in the base frame.

    Attributes:
        translation_m: float64[3].
        rotation_rad: float64[3], rotation vector.
        gripper: Opening 0..1, or NaN where it is not recorded.
    """

    translation_m: Vector
    rotation_rad: Vector
    gripper: float


class RecordedMotion(Protocol):
    """Tells what was done in the step that begins at an image.

    Attributes:
        description: What it is, in a sentence after "compared with".
        span_s: Time of the first and the last of what is recorded [s].
    """

    description: str
    span_s: tuple[float, float]

    def during(self, start_s: float, step_s: float) -> Motion | None:
        """Return the motion of [start_s, start_s + step_s), or None where it is not recorded."""
        ...


class AchievedMotion:
    """From end-effector poses: what the arm really did, as Bridge's training targets were made."""

    def __init__(self, poses: PoseSource, openings: Track | None, source: str = '') -> None:
        """Take the poses, where recorded gripper openings float64[M, 1], and their source."""
        self._poses, self._openings = poses, openings
        self.span_s = poses.span_s
        where = f' ({source})' if source else ''
        self.description = f'the achieved motion of the end effector{where}'

    def during(self, start_s: float, step_s: float) -> Motion | None:
        """Return the difference of the poses at the step's ends."""
        before, after = self.pose_at(start_s), self.pose_at(start_s + step_s)
        if before is None or after is None:
            return None
        turned = Rotation.from_quat(after[3:]) * Rotation.from_quat(before[3:]).inv()
        return Motion(
            after[:3] - before[:3],
            np.asarray(turned.as_rotvec()),
            _opening(self._openings, start_s + step_s),
        )

    def pose_at(self, stamp_s: float) -> Vector | None:
        """Return position and quaternion, float64[7], at a time; None where there is a gap."""
        pose = self._poses.at(stamp_s)
        return None if pose is None else np.array([*pose.position_m, *pose.quaternion_xyzw])


class CommandedTwist:
    """From TwistStamped commands: their integral over the step."""

    def __init__(self, twists: Track, openings: Track | None) -> None:
        """Take twists float64[N, 6] in the base frame and, where recorded, openings."""
        self._twists, self._openings = twists, openings
        self.span_s = _span_s(twists)
        self.description = 'the recorded twist commands'

    def during(self, start_s: float, step_s: float) -> Motion | None:
        """Return the mean twist of the step times its length."""
        twists = self._twists.between(start_s, start_s + step_s)
        if not len(twists):
            return None
        moved = twists.mean(axis=0) * step_s
        return Motion(moved[:3], moved[3:], _opening(self._openings, start_s + step_s))


class RecordedActions:
    """From PolicyAction messages: what another run of a policy wanted for the same image."""

    def __init__(self, actions: Track) -> None:
        """Take actions float64[N, 7] with the stamps of their images."""
        self._actions = actions
        self.span_s = _span_s(actions)
        self.description = 'the recorded actions of a policy'

    def during(self, start_s: float, step_s: float) -> Motion | None:
        """Return the action of the image with this stamp."""
        actions = self._actions.between(start_s, start_s + 1e-5)
        if not len(actions):
            return None
        return Motion(actions[0, :3], actions[0, 3:6], float(actions[0, 6]))


def motion_of_delta(delta: EefDelta, pose: Vector | None) -> Motion | None:
    """Return a predicted displacement in the base frame.

    Args:
        delta: What the policy said.
        pose: float64[7] at the image; needed for a displacement in the end-effector frame.

    Returns:
        None where the pose is needed and missing.
    """
    translation, rotation = delta.translation_m, delta.rotation_rad
    if delta.frame == 'ee':
        if pose is None:
            return None
        translation = rotate_by_quaternion(pose[3:], translation)
        rotation = rotate_by_quaternion(pose[3:], rotation)
    return Motion(translation, rotation, delta.gripper)


def _span_s(track: Track) -> tuple[float, float]:
    return float(track.stamps_s[0]), float(track.stamps_s[-1])


def _opening(openings: Track | None, stamp_s: float) -> float:
    value = None if openings is None else openings.before(stamp_s)
    return float('nan') if value is None else float(value[0])
