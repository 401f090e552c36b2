"""The clamp: between what a policy asks for and what an arm is told.

Whatever arrives, what leaves is finite, within the limits of the robot's profile, from a position
from which the arm can still stop inside its workspace, and zero soon after the policy falls
silent. All times are passed in: ``now_s`` from a steady clock, ``ros_now_s`` from ROS time.
Nothing here reads a clock, logs or blocks.

Where ROS time is simulated, so is the arm: it moves by what it is told for as long as *ROS* time
passes. Displacements and the length of a step then count in ROS time ("the arm's time" below,
elsewhere the same as steady time); stops, timeouts and accelerations stay on the steady clock,
because nothing that arrives on a topic may make the arm stop later or accelerate harder.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core import unit_quaternion
from openvla_ros.core.ros_pace import SLOWEST, RosPace
from openvla_ros.core.vector3 import ZERO, Vector3, is_finite, limit_norm, norm, scale
from openvla_ros.safety.admission import REFUSALS, ActionInput, Admission, frame_refusal
from openvla_ros.safety.clamp_status import ClampStatus, causes_in_words
from openvla_ros.safety.displacement_budget import DisplacementBudget
from openvla_ros.safety.gripper import GripperFilter
from openvla_ros.safety.pose_tracker import Pose, PoseTracker
from openvla_ros.safety.robot_profile import RobotProfile
from openvla_ros.safety.safety_state import (
    ARMED,
    CAUSE_GONE_S,
    LATCHED,
    REASONS,
    SafetyState,
    State,
)
from openvla_ros.safety.workspace import (
    CREEP_SPEED_MPS,
    FAR_OUTSIDE_M,
    SpeedLimits,
    Step,
    Wall,
    Workspace,
    clip_rotation,
    plan_step,
)

__all__ = ['ActionInput', 'Clamp', 'ClampOutput', 'ClampStatus', 'Pose', 'Reply', 'Verdict']

LATE_TICKS = 3.0  # a tick later than this many periods makes every action stale
STALLED_S = 0.5  # a control loop that stood still this long is a fault
CLOCK_JUMP_S = 0.5  # ROS time against steady time
POSE_SETTLE_S = 1.0  # no reset and no arming so soon after the pose jumped
_UNLIMITED = SpeedLimits((-math.inf,) * 3, (math.inf,) * 3, ())


class Verdict(NamedTuple):
    """Whether an action will be executed; the reason is a code of `admission.REFUSALS` or ''."""

    accepted: bool
    reason: str


class Reply(NamedTuple):
    """Answer to a request of an operator."""

    ok: bool
    sentence: str


class ClampOutput(NamedTuple):
    """What to send in this tick.

    Attributes:
        twist: float64[6], linear [m/s] then angular [rad/s], base frame.
        gripper: Opening, 0 closed .. 1 open; NaN before the first command.
        status: The report.
        pose: Commanded pose at the end of this tick, or None before the first measured pose.
    """

    twist: NDArray[np.float64]
    gripper: float
    status: ClampStatus
    pose: Pose | None


class Clamp:
    """One robot's clamp. Boots DISARMED; see `safety_state` for the states."""

    def __init__(self, profile: RobotProfile) -> None:
        self.profile = profile
        self._tau = profile.period_s
        self._state = SafetyState()
        self._admission = Admission(profile)
        self._budget = DisplacementBudget(profile)
        self._workspace = Workspace(profile)
        self._pose = PoseTracker(profile)
        self._gripper = GripperFilter(profile.gripper)
        self._gripper_available = False
        self._changes = _changes_per_tick(profile)
        self._v: Vector3 = ZERO
        self._w: Vector3 = ZERO
        self._desired = (ZERO, ZERO)
        self._scale = 1.0
        self._box_scale = 1.0
        self._waived = False
        self._confined = False
        self._tick_s: float | None = None
        self._tick_ros_s = math.nan
        self._simulated = False
        self._pace = RosPace()
        self._arm_s = 0.0
        self._action_s = -math.inf
        self._action_arm_s = -math.inf
        self._action_seen = False
        self._waiting = False
        self._hold_s = 0.0
        self._step_s = profile.actions.step_s_range[1]
        self._resync = False
        self._armed_source = ''
        self._estop_s: float | None = None
        self._estop_engaged = False
        self._shut_down = False
        self._accepted = 0
        self._rejected: dict[str, int] = {}
        self._rejected_view: tuple[tuple[str, ...], tuple[int, ...]] = ((), ())
        self._refused_in_a_row = 0
        self._last_refusal = ''
        self._refused_frame = ''
        self._policy_note = ''
        self._ticks = 0
        self._overruns = 0

    @property
    def state(self) -> State:
        """Present state."""
        return self._state.state

    # What comes in -----------------------------------------------------------------------------

    def offer(self, action: ActionInput, *, now_s: float, ros_now_s: float) -> Verdict:
        """Judge one action and, when armed, add its displacement to what is left to do.

        Args:
            action: The action as received.
            now_s: Steady time of receipt [s].
            ros_now_s: ROS time of receipt [s].
        """
        refusal = self._admit(action, now_s, ros_now_s)
        if refusal:
            self._refused_frame = action.frame_id
            self._count_refusal(refusal, now_s)
            return Verdict(False, refusal)
        self._execute(action, now_s)
        return Verdict(True, '')

    def set_pose(self, pose: Pose, *, stamp_s: float, now_s: float, ros_now_s: float) -> bool:
        """Take a measured end-effector pose (base frame); False if it is not believed."""
        jumped_before = self._pose.jumped_s
        believed = self._pose.offer(pose, stamp_s, now_s, ros_now_s)
        if self._pose.jumped_s != jumped_before and not self._unarmed_at_rest():
            self.fault('FAULT_POSE_JUMP', now_s)
        return believed

    def refuse_pose(self, why: str) -> None:
        """Note why the caller did not pass a pose on, for the status."""
        self._pose.refuse(why)

    def note_policy(self, why: str) -> None:
        """Note why no action may come, for the sentences about arming; '' if nothing is known."""
        self._policy_note = why

    def set_gripper_available(self, available: bool) -> None:
        """Note whether the gripper's action server is available; a required one must be to arm."""
        self._gripper_available = available

    def heartbeat(self, engaged: bool, *, now_s: float) -> None:
        """Take one e-stop heartbeat; ``engaged`` stops and latches at once."""
        if not math.isfinite(now_s):
            self.fault('FAULT_CLOCK', self._tick_s or 0.0)
            return
        self._estop_s, self._estop_engaged = now_s, engaged
        if engaged:
            self._latch(State.ESTOP, 'ESTOP', now_s)

    # Requests of an operator -------------------------------------------------------------------

    def arm(self, now_s: float) -> Reply:
        """Allow motion: only actions received from now on are executed."""
        if self.state in ARMED:
            return Reply(True, f'already armed: {self.state.name}')
        if self.state in LATCHED:
            return Reply(False, f'refused: {self.state.name} is latched, call ~/reset first')
        blockers = self._arming_blockers(now_s)
        if blockers:
            words = causes_in_words(
                blockers, self.refusal_sentence(), self._pose.refusal, self._policy_note
            )
            return Reply(False, f'refused: {"; ".join(words)}')
        self._armed_source = self._admission.sources(now_s)[0]
        self._budget.clear()
        self._pose.settle()
        self._gripper.forget()
        self._resync = False
        self._waiting = True
        self._refused_in_a_row = 0
        self._last_refusal = ''
        self._state.go(State.HOLD, 'WAITING', now_s)
        return Reply(
            True, f'armed: robot {self.profile.name!r}, policy {self._armed_source[:16]!r}'
        )

    def disarm(self, now_s: float, cause: str = 'OPERATOR') -> Reply:
        """Stop and forbid motion; from FAULT and ESTOP nothing changes."""
        if self.state in LATCHED:
            return Reply(False, f'{self.state.name} is latched: already stopped, not armed')
        self._drop_budget(State.DISARMED)
        self._armed_source = ''
        self._state.go(State.DISARMED, cause, now_s)
        return Reply(True, 'disarmed')

    def reset(self, now_s: float) -> Reply:
        """Leave FAULT or ESTOP for DISARMED: only at rest and with every cause gone."""
        if self.state in ARMED:
            return Reply(False, f'refused: {self.state.name} is not latched, there is no fault')
        if self.state == State.DISARMED:
            return Reply(True, 'nothing to reset: DISARMED')
        if self._shut_down:
            return Reply(False, 'refused: the controller is shutting down')
        if not self._at_rest():
            return Reply(False, 'refused: the arm is still moving')
        present = self._present_causes(now_s)
        if present:
            return Reply(False, 'refused: ' + '; '.join(REASONS[code] for code in present))
        self._state.release(now_s)
        return Reply(True, 'reset: DISARMED, call ~/arm to allow motion')

    def estop(self, now_s: float) -> Reply:
        """Stop with the e-stop deceleration and latch."""
        self._latch(State.ESTOP, 'ESTOP_SERVICE', now_s)
        return Reply(True, 'e-stop latched')

    def fault(self, reason: str, now_s: float) -> None:
        """Stop and latch FAULT; ``reason`` is a code of `safety_state.REASONS`."""
        self._latch(State.FAULT, reason, now_s)

    def force_rest(self, reason: str, now_s: float) -> None:
        """Latch FAULT and count the arm as at rest: the caller sent zeros in place of a tick."""
        self.fault(reason, now_s)
        self._v = self._w = ZERO

    def shutdown(self, now_s: float) -> None:
        """Ramp to rest for good: from now on nothing arms this clamp."""
        self.disarm(now_s, 'SHUTDOWN')
        self._shut_down = True

    # The tick ----------------------------------------------------------------------------------

    def step(self, now_s: float, ros_now_s: float, *, simulated: bool = False) -> ClampOutput:
        """Compute what to send in this control period; call it once per period, always.

        Args:
            now_s: Steady time [s].
            ros_now_s: ROS time [s].
            simulated: ROS time is that of ``/clock``, and so is the arm's.
        """
        if simulated != self._simulated:
            self._simulated, self._pace = simulated, RosPace()
        now_s = self._advance(now_s, ros_now_s)
        self._supervise(now_s)
        self._move(now_s)
        if self.state == State.ACTIVE:
            self._gripper.step(self._arm_time_s(now_s))
        else:
            self._gripper.forget()
            if self._at_rest():
                self._budget.clear()
        twist = np.array((*self._v, *self._w))
        return ClampOutput(twist, self._gripper.command, self._status(now_s), self._target())

    def _advance(self, now_s: float, ros_now_s: float) -> float:
        """Account for the time since the last tick; return a usable steady time."""
        self._ticks += 1
        last_s = self._tick_s
        if not math.isfinite(now_s):
            self.fault('FAULT_CLOCK', last_s or 0.0)
            return last_s or 0.0
        gap_s = self._tau if last_s is None else now_s - last_s
        if gap_s < 0.0:
            self.fault('FAULT_CLOCK', now_s)
        elif gap_s > LATE_TICKS * self._tau:
            self._overrun(gap_s, now_s)
        self._watch_ros_clock(gap_s, ros_now_s, now_s)
        dt_s = min(max(gap_s, 0.0), LATE_TICKS * self._tau)
        if self._simulated:
            passed_s = self._pace.note(now_s, ros_now_s)
            dt_s = passed_s * dt_s / gap_s if gap_s > 0.0 else 0.0
            self._budget.set_pace(self._factor)
            self._admission.pace = self._factor
            self._arm_s += dt_s
        elif self._admission.pace != 1.0:
            self._budget.set_pace(1.0)
            self._admission.pace = 1.0
        self._budget.consume(self._v, self._w, dt_s)
        self._pose.move(self._v, self._w, dt_s)
        self._tick_s, self._tick_ros_s = now_s, ros_now_s
        return now_s

    @property
    def _factor(self) -> float:
        """How much of the arm's time passes in a second, for planning: never below 0.1."""
        return max(self._pace.factor, SLOWEST) if self._simulated else 1.0

    def _arm_time_s(self, now_s: float) -> float:
        """Return the arm's time at a steady time: steady time itself unless simulated [s]."""
        if not self._simulated or self._tick_s is None:
            return now_s
        return self._arm_s + self._pace.factor * (now_s - self._tick_s)

    def _overrun(self, gap_s: float, now_s: float) -> None:
        self._overruns += 1
        if self.state in ARMED:
            self._halt('OVERRUN', now_s)
        if gap_s > STALLED_S and not self._unarmed_at_rest():
            self.fault('FAULT_OVERRUN', now_s)

    def _watch_ros_clock(self, gap_s: float, ros_now_s: float, now_s: float) -> None:
        if abs((ros_now_s - self._tick_ros_s) - gap_s) > CLOCK_JUMP_S:
            self._admission.forget_time()
            self._pose.forget_time()
            self._pace.forget()
            if self.state in ARMED:
                self._resync = True
                self._halt('CLOCK_JUMP', now_s)

    def _supervise(self, now_s: float) -> None:
        """Leave the state if a condition for being in it does not hold any more."""
        if self.state in ARMED and self.profile.estop.required and not self._estop_alive(now_s):
            self._latch(State.ESTOP, 'ESTOP_LOST', now_s)
        if self._far_outside() and not self._unarmed_at_rest():
            self.fault('FAULT_POSE_OUTSIDE', now_s)
        if self.state == State.ACTIVE:
            if not self._pose.is_fresh(now_s):
                self._halt('POSE_STALE', now_s)
            elif self._simulated and self._pace.stands_still(now_s):
                self._halt('CLOCK_STOPPED', now_s)
            elif not self._action_is_valid(now_s):
                self._halt('ACTION_STALE', now_s)
        elif self.state == State.HOLD:
            since_s = self._state.since_s
            if since_s is not None and now_s - since_s > self.profile.hold_timeout_s:
                self.disarm(now_s, 'HOLD_TIMEOUT')

    def _action_is_valid(self, now_s: float) -> bool:
        """Tell whether the last action still holds: 1.25 steps of the arm's time.

        However ROS time goes on, no longer than that took at the pace at which the action came.
        """
        if not 0.0 <= now_s - self._action_s <= self._hold_s:
            return False
        if not self._simulated:
            return True
        arm_age_s = self._arm_time_s(now_s) - self._action_arm_s
        return arm_age_s <= self.profile.hold_s(self._step_s)

    def _move(self, now_s: float) -> None:
        """Choose the twist of this period: towards the wanted one as far as the limits allow."""
        v_wanted, w_wanted = self._wanted(now_s)
        change, angular_change = self._changes[self.state]
        if self.state == State.ACTIVE:
            slow = min(1.0, self._factor)
            change, angular_change = slow * change, slow * angular_change
        limits, walls = self._limits(now_s)
        free = plan_step(self._v, self._v, v_wanted, change)
        linear = free
        if limits is not _UNLIMITED:
            allowed, target = limits.clip(self._v), limits.clip(v_wanted)
            if allowed != self._v or target != v_wanted:
                linear = plan_step(self._v, allowed, target, change)
        angular = plan_step(
            self._w, clip_rotation(self._w, walls), clip_rotation(w_wanted, walls), angular_change
        )
        v, w = _together(linear, angular, self._v, self._w)
        if walls and self._pose.commanded is not None:
            quick = max(1.0, self._factor)
            turned = self._workspace.keep_in_cone(
                self._pose.commanded.quaternion_xyzw, scale(w, quick) if quick > 1.0 else w
            )
            w = scale(turned, 1.0 / quick) if quick > 1.0 else turned
        self._waived = linear.waived or angular.waived
        self._box_scale = 1.0 if linear is free else _ratio(norm(v), norm(free.at(free.share)))
        self._v, self._w = self._checked(v, w, now_s)

    def _wanted(self, now_s: float) -> tuple[Vector3, Vector3]:
        if self.state != State.ACTIVE or self._pose.commanded is None:
            return ZERO, ZERO
        position, quaternion = self._pose.commanded
        budget, workspace = self._budget, self._workspace
        translation = workspace.confine_displacement(position, budget.translation)
        rotation = workspace.confine_rotation(quaternion, budget.rotation)
        if translation != budget.translation or rotation != budget.rotation:
            self._confined = True
            budget.replace(translation, rotation)
        v, w = budget.twist(self._arm_time_s(now_s))
        if self._outside():
            v = limit_norm(v, CREEP_SPEED_MPS)
        return v, w

    def _limits(self, now_s: float) -> tuple[SpeedLimits, tuple]:  # type: ignore[type-arg]
        commanded, measured = self._pose.commanded, self._pose.measured
        if commanded is None or measured is None:
            return _UNLIMITED, ()
        hold_s = self._pose.hold_s(now_s, self._tau)
        limits = self._workspace.speed_limits(commanded.position_m, measured.position_m, hold_s)
        walls = self._workspace.rotation_walls(
            commanded.quaternion_xyzw, measured.quaternion_xyzw, hold_s
        )
        quick = self._factor
        if quick <= 1.0:
            return limits, walls
        # By the steady clock, on which it brakes, this arm is faster than it is told to be.
        slower = SpeedLimits(
            scale(limits.lo, 1.0 / quick),
            scale(limits.hi, 1.0 / quick),
            _slower(limits.walls, quick),
        )
        return slower, _slower(walls, quick)

    def _checked(self, v: Vector3, w: Vector3, now_s: float) -> tuple[Vector3, Vector3]:
        limits = self.profile.limits
        if (
            is_finite(v)
            and is_finite(w)
            and norm(v) <= limits.speed_mps * (1.0 + 1e-9)
            and norm(w) <= limits.angular_speed_radps * (1.0 + 1e-9)
        ):
            return v, w
        self.fault('FAULT_INTERNAL', now_s)
        return ZERO, ZERO

    # Actions -----------------------------------------------------------------------------------

    def _admit(self, action: ActionInput, now_s: float, ros_now_s: float) -> str:
        if not math.isfinite(now_s):
            return 'TIME'
        if self._admission.hear(action.source_id, now_s):
            self.fault('FAULT_FLOOD', now_s)
            return 'FLOOD'
        if self.state in ARMED and action.source_id != self._armed_source:
            self._meet_stranger(now_s)
            return 'SOURCE'
        refusal = self._admission.judge(action, now_s, ros_now_s)
        if refusal == 'NON_FINITE':
            self.fault('FAULT_NON_FINITE', now_s)
        if refusal:
            return refusal
        if self.state in LATCHED:
            return 'LATCHED'
        if self.state == State.DISARMED:
            return 'NOT_ARMED'
        if not self._pose.is_fresh(now_s):
            return 'POSE'
        if self._resync and not self._admission.enough_valid(now_s):
            return 'CLOCK_JUMP'
        return ''

    def _meet_stranger(self, now_s: float) -> None:
        if self._armed_source in self._admission.sources(now_s):
            self.fault('FAULT_TWO_SOURCES', now_s)
        else:
            self.disarm(now_s, 'SOURCE_CHANGED')

    def _execute(self, action: ActionInput, now_s: float) -> None:
        x, y, z, rx, ry, rz = (float(value) for value in action.twist)
        v: Vector3 = (x, y, z)
        w: Vector3 = (rx, ry, rz)
        if action.frame_id == self.profile.ee_frame:
            assert self._pose.measured is not None
            v = unit_quaternion.rotate(self._pose.measured.quaternion_xyzw, v)
            w = unit_quaternion.rotate(self._pose.measured.quaternion_xyzw, w)
        self._scale = self._common_scale(v, w)
        self._desired = (v, w)
        self._confined = False
        share = self._scale * action.step_s
        arm_s = self._arm_time_s(now_s)
        self._budget.add(scale(v, share), scale(w, share), action.step_s, arm_s)
        self._gripper.offer(action.gripper)
        self._action_s, self._action_arm_s, self._action_seen = now_s, arm_s, True
        self._step_s = action.step_s
        self._hold_s = self.profile.hold_s(action.step_s) * self._slowdown
        self._resync = self._waiting = False
        self._accepted += 1
        self._refused_in_a_row = 0
        self._last_refusal = ''
        self._state.go(State.ACTIVE, 'EXECUTING', now_s)

    @property
    def _slowdown(self) -> float:
        return self._pace.slowdown if self._simulated else 1.0

    def _common_scale(self, v: Vector3, w: Vector3) -> float:
        """One factor for all six numbers: the path keeps its direction and its screw."""
        limits = self.profile.limits
        factor = min(
            1.0,
            _ratio(limits.speed_mps, norm(v)),
            _ratio(limits.angular_speed_radps, norm(w)),
            *(_ratio(limit, abs(part)) for limit, part in zip(limits.axis_speed_mps, v)),
        )
        return self.profile.action_scale * factor

    def _count_refusal(self, code: str, now_s: float) -> None:
        self._rejected[code] = self._rejected.get(code, 0) + 1
        self._rejected_view = (tuple(self._rejected), tuple(self._rejected.values()))
        if code in ('NOT_ARMED', 'LATCHED'):
            self._last_refusal = ''  # the action itself is as it should be
            return
        self._last_refusal = code
        if self.state in ARMED and code != 'RATE':
            self._refused_in_a_row += 1
            if self._refused_in_a_row > self.profile.actions.max_refused_in_a_row:
                self.fault('FAULT_REFUSALS', now_s)

    def refusal_sentence(self) -> str:
        """Return why actions are refused; '' if the latest was not."""
        if self._last_refusal == 'FRAME':
            return frame_refusal(self._refused_frame, self.profile)
        return REFUSALS.get(self._last_refusal, '')

    # States ------------------------------------------------------------------------------------

    def _halt(self, cause: str, now_s: float) -> None:
        self._drop_budget(State.HOLD)
        self._state.go(State.HOLD, cause, now_s)

    def _latch(self, state: State, cause: str, now_s: float) -> None:
        self._drop_budget(state)
        self._armed_source = ''
        self._state.latch(state, cause, now_s)

    def _drop_budget(self, state: State) -> None:
        """Drop what is left to do, but for the ramp to rest that ``state`` will make."""
        self._hold_s = -1.0
        if self.state == State.ACTIVE:
            self._budget.keep_ramp(self._v, self._w, *self._changes[state])

    def _arming_blockers(self, now_s: float) -> list[str]:
        """Return every reason why arming would be refused now, in the order one sees to them.

        The policy's come first: it wants an instruction and an image, and says which is missing.
        """
        if self._shut_down:
            return ['SHUTDOWN']
        blockers = []
        if not self._at_rest():
            blockers.append('MOVING')
        sources = self._admission.sources(now_s)
        if not sources:
            blockers.append('NO_POLICY')
        elif len(sources) > 1:
            blockers.append('TWO_POLICIES')
        elif not self._admission.enough_valid(now_s):
            blockers.append('FEW_ACTIONS')
        blockers += self._pose_blockers(now_s)
        if self._estop_engaged:
            blockers.append('ESTOP_ENGAGED')
        elif self.profile.estop.required and not self._estop_alive(now_s):
            blockers.append('NO_ESTOP')
        action = self.profile.gripper.action
        if action is not None and action.required and not self._gripper_available:
            blockers.append('NO_GRIPPER')
        if self._simulated and self._pace.stands_still(now_s):
            blockers.append('CLOCK_STOPPED')
        return blockers

    def _pose_blockers(self, now_s: float) -> list[str]:
        measured = self._pose.measured
        if measured is None:
            return ['NO_POSE']
        if not self._pose.is_fresh(now_s):
            return ['POSE_STALE']
        if self._has_just_jumped(now_s):
            return ['POSE_JUMPED']
        return [] if self._workspace.contains(measured.position_m) else ['OUTSIDE_BOX']

    def _present_causes(self, now_s: float) -> list[str]:
        present = [c for c in self._state.present_causes(now_s) if not c.startswith('ESTOP')]
        if self._estop_engaged:
            present.append('ESTOP_ENGAGED')
        elif self.profile.estop.required and not self._estop_alive(now_s):
            present.append('NO_ESTOP')
        if self._far_outside() and 'FAULT_POSE_OUTSIDE' not in present:
            present.append('FAULT_POSE_OUTSIDE')
        if self._has_just_jumped(now_s) and 'FAULT_POSE_JUMP' not in present:
            present.append('FAULT_POSE_JUMP')
        return present

    def _estop_alive(self, now_s: float) -> bool:
        if self._estop_s is None:
            return False
        return 0.0 <= now_s - self._estop_s <= self.profile.estop.timeout_s

    def _at_rest(self) -> bool:
        return self._v == ZERO and self._w == ZERO

    def _unarmed_at_rest(self) -> bool:
        return self.state not in ARMED and self._at_rest()

    def _outside(self) -> bool:
        measured = self._pose.measured
        return measured is not None and not self._workspace.contains(measured.position_m)

    def _has_just_jumped(self, now_s: float) -> bool:
        return 0.0 <= now_s - self._pose.jumped_s < POSE_SETTLE_S

    def _far_outside(self) -> bool:
        measured = self._pose.measured
        return (
            measured is not None
            and self._workspace.wall_distance_m(measured.position_m) < -FAR_OUTSIDE_M
        )

    # Report ------------------------------------------------------------------------------------

    def _target(self) -> Pose | None:
        """Return the commanded pose at the end of this period."""
        if self.state == State.DISARMED and self._at_rest():
            self._pose.settle()
        commanded = self._pose.commanded
        if commanded is None or self._at_rest():
            return commanded
        tau, (x, y, z) = self._tau * self._factor, commanded.position_m
        v, w = self._v, self._w
        turned = unit_quaternion.multiply(
            unit_quaternion.exp(scale(w, tau)), commanded.quaternion_xyzw
        )
        return Pose((x + v[0] * tau, y + v[1] * tau, z + v[2] * tau), turned)

    def _reasons(self, now_s: float) -> tuple[str, ...]:
        reasons = self._state_reasons(now_s)
        return (*reasons, 'ACCEL_WAIVED') if self._waived else reasons

    def _state_reasons(self, now_s: float) -> tuple[str, ...]:
        if self.state in LATCHED:
            return self._state.latched_causes
        if self.state == State.DISARMED:
            return (self._state.cause, *self._arming_blockers(now_s))
        if self.state == State.HOLD:
            return self._hold_reasons(now_s)
        reasons = ['DONE' if self._at_rest() else 'EXECUTING']
        if self._confined or self._box_scale < 1.0:
            reasons.append('BOX')
        if self._outside():
            reasons.append('CREEPING')
        return tuple(reasons)

    def _hold_reasons(self, now_s: float) -> tuple[str, ...]:
        """Return what keeps the arm in HOLD now, the cause first if it is still there."""
        present = []
        if not self._pose.is_fresh(now_s):
            present.append('POSE_STALE')
        if self._simulated and self._pace.stands_still(now_s):
            present.append('CLOCK_STOPPED')
        if self._resync:
            present.append('CLOCK_JUMP')
        late = self._state.cause == 'OVERRUN'
        if late:
            present.append('OVERRUN')
        if self._waiting:
            present.append('WAITING')
        # A late tick holds until the next action; where none comes, that is what keeps the arm.
        elif not present or (late and now_s - self._action_s > CAUSE_GONE_S):
            present.append('ACTION_STALE')
        return tuple(sorted(present, key=lambda code: code != self._state.cause))

    def _status(self, now_s: float) -> ClampStatus:
        pose = self._pose.measured
        workspace = self._workspace
        return ClampStatus(
            state=self.state,
            mode=self.profile.mode,
            reasons=self._reasons(now_s),
            desired=self._desired,
            commanded=(self._v, self._w),
            gripper=self._gripper.command,
            scale=self._scale,
            box_scale=self._box_scale,
            action_age_s=now_s - self._action_s if self._action_seen else -1.0,
            pose_age_s=self._pose.age_s(now_s),
            estop_age_s=-1.0 if self._estop_s is None else now_s - self._estop_s,
            remaining_m=norm(self._budget.translation),
            remaining_rad=norm(self._budget.rotation),
            dropped_m=self._budget.dropped_m,
            dropped_rad=self._budget.dropped_rad,
            wall_distance_m=math.nan if pose is None else workspace.wall_distance_m(pose[0]),
            accepted=self._accepted,
            rejected=sum(self._rejected_view[1]),
            reject_reasons=self._rejected_view[0],
            reject_counts=self._rejected_view[1],
            ticks=self._ticks,
            overruns=self._overruns,
            armed_source=self._armed_source,
            box_lo_m=workspace.box_lo,
            box_hi_m=workspace.box_hi,
            missed=self._admission.missed,
            last_refusal=self._last_refusal,
            refusal_sentence=self.refusal_sentence(),
            policy_note=self._policy_note,
            pose_refusal=self._pose.refusal,
            stop_time_s=self.profile.stop_time_s(self._step_s)
            + (self._slowdown - 1.0) * self.profile.hold_s(self._step_s),
        )


def _together(linear: Step, angular: Step, v: Vector3, w: Vector3) -> tuple[Vector3, Vector3]:
    """Take both steps, a part that speeds up no faster than the other, so the path is kept.

    A part that slows down always takes all it may: braking late would overshoot.
    """
    share = min(linear.share, angular.share)
    linear_share = share if norm(linear.at(1.0)) >= norm(v) else linear.share
    angular_share = share if norm(angular.at(1.0)) >= norm(w) else angular.share
    return linear.at(linear_share), angular.at(angular_share)


def _slower(walls: tuple[Wall, ...], quick: float) -> tuple[Wall, ...]:
    return tuple(Wall(wall.normal, wall.speed / quick) for wall in walls)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > part else 1.0


def _changes_per_tick(profile: RobotProfile) -> dict[State, tuple[float, float]]:
    """Return the largest change of linear and angular speed per tick in each state."""
    limits, tau = profile.limits, profile.period_s
    normal = (limits.acceleration_mps2 * tau, limits.angular_acceleration_radps2 * tau)
    stop = (limits.stop_acceleration_mps2 * tau, limits.stop_angular_acceleration_radps2 * tau)
    estop = (limits.estop_acceleration_mps2 * tau, limits.estop_angular_acceleration_radps2 * tau)
    return {
        State.DISARMED: stop,
        State.HOLD: stop,
        State.ACTIVE: normal,
        State.FAULT: stop,
        State.ESTOP: estop,
    }
