"""An arm, a clamp and a clock without ROS: what the nodes do, one policy step at a time.

The policy step is ``Policy.act`` and the bounds are ``Clamp``, the same objects the nodes call,
and the clamp ticks at the robot's control rate; only transport and waiting are left out.
Simulated time advances by exactly one step of the policy per call, as if inference took no time.
"""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.safety.admission import VALID_NEEDED, ActionInput
from openvla_ros.safety.clamp import Clamp, ClampOutput
from openvla_ros.safety.pose_tracker import Pose
from openvla_ros.safety.robot_profile import RobotProfile

_SOURCE = 'in-process'
# Any start will do; zero would mean 'no stamp'.
_START_S = 1000.0


class MeasuredPose(Protocol):
    """Pose of the end effector in the base frame."""

    @property
    def position_m(self) -> NDArray[np.float64]:
        """float64[3] [m]."""

    @property
    def quaternion_xyzw(self) -> NDArray[np.float64]:
        """float64[4]."""


class SteppedArm(Protocol):
    """An arm that moves when told how long."""

    def step(self, twist_base: ArrayLike, gripper_opening: float, dt_s: float) -> None:
        """Follow a twist [m/s, rad/s] for a time; a NaN opening keeps the last one."""

    def ee_pose(self) -> MeasuredPose:
        """Return the measured pose."""


class NotArmedError(RuntimeError):
    """The clamp would not arm; the message is its own."""


class EpisodeLoop:
    """Moves an arm by displacements, through a clamp.

    Attributes:
        clamp: The clamp; its state says whether it still lets anything through.
        now_s: Simulated time.
    """

    def __init__(self, arm: SteppedArm, profile: RobotProfile) -> None:
        """Start at rest, disarmed."""
        self.clamp = Clamp(profile)
        self.now_s = _START_S
        self._arm = arm
        self._profile = profile
        self._sequence = 0

    def start(self, delta: EefDelta) -> None:
        """Show the clamp enough valid actions and arm it, as an operator would.

        Args:
            delta: What the policy decided for the start; nothing of it is executed here.

        Raises:
            NotArmedError: the clamp refused.
        """
        for _ in range(VALID_NEEDED):
            self.step(delta)
        reply = self.clamp.arm(self.now_s)
        if not reply.ok:
            raise NotArmedError(reply.sentence)

    def step(self, delta: EefDelta) -> ClampOutput:
        """Offer one action and let its step pass.

        Returns:
            What the clamp said in the last tick.
        """
        ticks = round(delta.step_s * self._profile.control_rate_hz)
        for tick in range(ticks):
            self._measure()
            if tick == 0:
                self._offer(delta)
            output = self.clamp.step(self.now_s, self.now_s)
            self._arm.step(output.twist, output.gripper, self._profile.period_s)
            self.now_s += self._profile.period_s
        return output

    def _offer(self, delta: EefDelta) -> None:
        frames = {'base': self._profile.base_frame, 'ee': self._profile.ee_frame}
        action = ActionInput(
            stamp_s=self.now_s,
            frame_id=frames[delta.frame],
            sequence=self._sequence,
            step_s=delta.step_s,
            twist=tuple(delta.twist()),
            gripper=delta.gripper,
            source_id=_SOURCE,
        )
        self._sequence += 1
        self.clamp.offer(action, now_s=self.now_s, ros_now_s=self.now_s)

    def _measure(self) -> None:
        pose = self._arm.ee_pose()
        measured = Pose.of(tuple(pose.position_m), tuple(pose.quaternion_xyzw))
        self.clamp.set_pose(measured, stamp_s=self.now_s, now_s=self.now_s, ros_now_s=self.now_s)
