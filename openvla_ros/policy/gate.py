"""Whether the policy may act now: everything that can forbid it, in one place, and why.

Inputs arrive on one thread, actions are decided on another; one lock makes their order definite:
after ``take_instruction`` has returned, no action of an earlier instruction is published.
Times are passed in: ``now_s`` is steady time, ``ros_now_s`` ROS time.
"""

import dataclasses
import math
import threading
from collections.abc import Callable

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.core.status import Status
from openvla_ros.observation.image_monitor import Arrival, Fingerprint, ImageLimits, ImageMonitor
from openvla_ros.observation.instruction import ActiveInstruction, Intake
from openvla_ros.policy.action_monitor import (
    BAD_OUTPUTS_LIMIT,
    BAD_OUTPUTS_WINDOW_S,
    ActionMonitor,
)
from openvla_ros.policy.statistics import PolicyStatistics

CONTROLLER_TIMEOUT_S = 0.5
"""A status of the controller older than this says nothing about whether the arm moves."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What an action is computed for.

    Attributes:
        text: The instruction.
        identity: Its number; an action for another number is dropped.
        stamp_s: Stamp of the image, ROS time [s].
        arrived_s: Steady time of the image's arrival [s].
    """

    text: str
    identity: int
    stamp_s: float
    arrived_s: float


class PolicyGate:
    """Collects what arrives and what the model does, and lets an action through or not."""

    def __init__(
        self,
        limits: ImageLimits,
        *,
        max_observation_age_s: float = 1.0,
        instruction_dwell_s: float = 0.5,
        allow_unicode: bool = False,
        stuck_after: int = 25,
    ) -> None:
        """Start closed: no image, no instruction."""
        self.statistics = PolicyStatistics()
        self.max_observation_age_s = max_observation_age_s
        self._lock = threading.RLock()
        self._instruction = ActiveInstruction(
            min_dwell_s=instruction_dwell_s, allow_unicode=allow_unicode
        )
        self._camera = ImageMonitor(limits)
        self._trust = ActionMonitor(stuck_after=stuck_after)
        self._outcome: Status | None = None
        self._fault: Status | None = None
        self._trusted_identity = 0
        self._image: tuple[float, float] | None = None
        self._assigned: tuple[float, int] | None = None
        self._spent: Assignment | None = None
        self._moving = False
        self._controller_s = -math.inf

    # Settings ----------------------------------------------------------------------------------

    def set_limits(
        self, limits: ImageLimits, *, max_observation_age_s: float, stuck_after: int
    ) -> None:
        """Use other thresholds from now on."""
        with self._lock:
            self._camera.limits = limits
            self._trust.stuck_after = stuck_after
            self.max_observation_age_s = max_observation_age_s

    def shut(self, reason: Status) -> None:
        """Let nothing through any more."""
        with self._lock:
            self._fault = self._fault or reason

    # What arrives ------------------------------------------------------------------------------

    def take_image(
        self,
        arrival: Arrival,
        malformed: Status | None,
        *,
        now_s: float,
        ros_now_s: float,
        simulated: bool = False,
    ) -> Status | None:
        """Judge an arriving image; ``malformed`` says what its fields have already ruled out.

        Returns:
            Why it is dropped, or None if it is now the newest.
        """
        with self._lock:
            if malformed is not None:
                judged: float | Status = self._camera.refuse(malformed, now_s=now_s)
            else:
                judged = self._camera.offer(
                    arrival, now_s=now_s, ros_now_s=ros_now_s, simulated=simulated
                )
            if isinstance(judged, Status):
                self.statistics.refused.add(judged.code)
                return judged
            self._image = (judged, now_s)
            self.statistics.images.mark(now_s)
            return None

    def take_instruction(self, text: str, *, now_s: float) -> Intake:
        """Take an arriving text as the instruction, a stop, or neither."""
        with self._lock:
            intake = self._instruction.offer(text, now_s=now_s)
            self._note_intake(intake)
            return intake

    def take_controller(self, moving: bool, *, now_s: float) -> None:
        """Take note of whether the controller commands the arm to move."""
        with self._lock:
            self._moving, self._controller_s = moving, now_s

    # What is known -----------------------------------------------------------------------------

    @property
    def instruction(self) -> str:
        """The active instruction; empty when there is none."""
        with self._lock:
            return self._instruction.text

    def controller_is_heard(self, now_s: float) -> bool:
        """Say whether a controller tells its state; without it nothing is known of motion."""
        with self._lock:
            return 0.0 <= now_s - self._controller_s <= CONTROLLER_TIMEOUT_S

    @property
    def camera_is_colorless(self) -> bool:
        """Whether the camera has shown no color for a while; the model was trained on color."""
        with self._lock:
            return self._camera.colorless

    def arm_moves(self, now_s: float) -> bool:
        """Say whether the arm is known to be commanded to move."""
        with self._lock:
            return self._moving and self.controller_is_heard(now_s)

    def why_not(self, now_s: float) -> Status | None:
        """Say why nothing is published now, or None."""
        with self._lock:
            instruction = self._instruction
            if self._fault is not None:
                return self._fault
            if instruction.refusal:
                return Status('INSTRUCTION_REFUSED', instruction.refusal)
            if not instruction.text:
                return Status('NO_INSTRUCTION', 'ready; waiting for an instruction')
            if not instruction.may_act(now_s):
                return Status(
                    'INSTRUCTION_CHANGING', 'the instruction changes too fast; waiting a moment'
                )
            return self._camera.verdict(now_s) or self._outcome

    # What is decided ---------------------------------------------------------------------------

    def assign(self, now_s: float) -> Assignment | None:
        """Return what to act on now: the newest image once, for the active instruction.

        A picture that shows nothing or stays the same is handed out too: only looking at the
        next one can tell that it is over.
        """
        with self._lock:
            instruction = self._instruction
            if self._fault or self._image is None or not instruction.may_act(now_s):
                return None
            stamp_s, arrived_s = self._image
            if not 0.0 <= now_s - arrived_s <= self._camera.limits.timeout_s:
                return None
            if self._assigned == (stamp_s, instruction.identity):
                self.statistics.counts.add('ticks_without_new_image')
                return None
            return Assignment(instruction.text, instruction.identity, stamp_s, arrived_s)

    def next_image_is_due(self, now_s: float, within_s: float) -> bool:
        """Say whether the newest image is old for this camera and the next one comes soon.

        Args:
            now_s: Steady time [s].
            within_s: What counts as soon [s].
        """
        with self._lock:
            rate_hz = self.statistics.images.rate_hz(now_s)
            if self._image is None or rate_hz <= 0.0:
                return False
            age_s = now_s - self._image[1]
            return 0.5 < age_s * rate_hz < 1.0 and 1.0 / rate_hz - age_s < within_s

    def taken_up(self, assignment: Assignment) -> bool:
        """Note that an assignment is being worked on; True if the instruction is a new one."""
        with self._lock:
            self._assigned = (assignment.stamp_s, assignment.identity)
            new = assignment.identity != self._trusted_identity
            if new:
                self._trusted_identity = assignment.identity
                self._trust.forget()
            return new

    def is_spent(self, assignment: Assignment) -> bool:
        """Say whether an action for an assignment was published, or at least was about to be."""
        with self._lock:
            return assignment == self._spent

    def look(self, seen: Fingerprint, assignment: Assignment, *, now_s: float) -> Status | None:
        """Take note of a picture's pixels; returns why it is not to be acted on, or None."""
        with self._lock:
            moving = self.arm_moves(now_s)
            self._camera.look(seen, stamp_s=assignment.stamp_s, now_s=now_s, moving=moving)
            refusal = self._camera.verdict(now_s)
            if refusal is not None:
                self.statistics.refused.add(refusal.code)
            return refusal

    def refuse_pixels(self, refusal: Status, *, now_s: float) -> None:
        """Note that an image's content could not be used."""
        with self._lock:
            self._camera.refuse(refusal, now_s=now_s)
            self.refuse_action(refusal)

    def refuse_action(self, refusal: Status) -> None:
        """Note that an inference gave no action."""
        with self._lock:
            self.statistics.refused.add(refusal.code)
            self._outcome = refusal

    def refuse_instruction(self, sentence: str, assignment: Assignment) -> None:
        """Clear an instruction that the model cannot take."""
        with self._lock:
            if assignment.identity == self._instruction.identity:
                self._note_intake(self._instruction.refuse(sentence))

    def refuse_output(self, refusal: Status, *, now_s: float) -> None:
        """Note an output that is no action; too many of them are a fault until a restart."""
        with self._lock:
            self.refuse_action(refusal)
            if self._trust.bad_output(now_s):
                self._fault = Status(
                    'MODEL_FAULT',
                    f'{BAD_OUTPUTS_LIMIT} outputs within {BAD_OUTPUTS_WINDOW_S:g} s were no '
                    f'actions (the last: {refusal.sentence}); is this an OpenVLA checkpoint, and '
                    'undamaged? Restart the policy to try again',
                )

    def let_through(
        self,
        delta: EefDelta,
        assignment: Assignment,
        publish: Callable[[], None],
        *,
        now_s: float,
        ros_now_s: float,
    ) -> Status | None:
        """Publish an action if nothing forbids it.

        Args:
            delta: The action.
            assignment: What it was computed for.
            publish: Called at most once for an assignment, even if it raises, while no input
                can change.
            now_s: Steady time [s].
            ros_now_s: ROS time [s].

        Returns:
            Why it was not published, or None.
        """
        with self._lock:
            if self.is_spent(assignment):
                return Status('ALREADY_PUBLISHED', 'this image has had its action')
            refusal = (
                self._fault
                or self._change_refusal(assignment)
                or self._age_refusal(assignment, now_s, ros_now_s)
            )
            if refusal is None:
                refusal = self._trust.judge(delta, moving=self.arm_moves(now_s))
            if refusal is not None:
                self.statistics.refused.add(refusal.code)
                self._outcome = None if refusal.code == 'INSTRUCTION_CHANGED' else refusal
                return refusal
            self._spent = assignment
            publish()
            self._outcome = None
            self.statistics.actions.mark(now_s)
            return None

    @property
    def reversals(self) -> int:
        """How often the motion was opposite to the one before."""
        return self._trust.reversals

    @property
    def oscillating(self) -> bool:
        """Whether nearly every one of the last motions was opposite to the one before."""
        return self._trust.oscillating

    def _change_refusal(self, assignment: Assignment) -> Status | None:
        if assignment.identity == self._instruction.identity:
            return None
        return Status(
            'INSTRUCTION_CHANGED', 'the instruction changed while the action was computed'
        )

    def _age_refusal(
        self, assignment: Assignment, now_s: float, ros_now_s: float
    ) -> Status | None:
        # Both clocks: ROS time may stand still or jump, steady time knows nothing of the camera.
        ages_s = (ros_now_s - assignment.stamp_s, now_s - assignment.arrived_s)
        if all(age_s <= self.max_observation_age_s for age_s in ages_s):
            return None
        travelled_s = ages_s[0] - ages_s[1]
        slow = 'the way from the camera' if travelled_s > ages_s[1] else 'the model'
        return Status(
            'LATE',
            f'the action came {max(ages_s):.2f} s after its image (allowed '
            f'{self.max_observation_age_s:g} s) and was dropped; {slow} is too slow',
        )

    def _note_intake(self, intake: Intake) -> None:
        if intake.kind == 'refused':
            self.statistics.refused.add('INSTRUCTION_REFUSED')
        if intake.kind != 'same':
            self._outcome = None
