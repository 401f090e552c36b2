"""The controller's states, why it is in them, and which step leads where.

DISARMED --arm--> HOLD <--action / silence--> ACTIVE; a fault or an e-stop latches from anywhere,
and only ``reset`` at rest with the cause gone leads out, always to DISARMED, never to motion.
"""

from enum import IntEnum

# A cause counts as gone when it has not been seen for this long [s].
CAUSE_GONE_S = 1.0


class State(IntEnum):
    """States of the controller; the numbers are those of SafetyStatus.msg."""

    DISARMED = 0
    HOLD = 1
    ACTIVE = 2
    FAULT = 3
    ESTOP = 4


ARMED = (State.HOLD, State.ACTIVE)
LATCHED = (State.FAULT, State.ESTOP)

# What each reason means, for the status sentence. A code is stable, its sentence may improve.
REASONS = {
    # why DISARMED
    'STARTED': 'the controller has just started',
    'OPERATOR': 'an operator disarmed it',
    'RESET': 'it was reset',
    'HOLD_TIMEOUT': 'no action was executed for too long while armed',
    'SOURCE_CHANGED': 'the armed policy has gone and another one is publishing',
    'SHUTDOWN': 'the controller is shutting down',
    # what prevents arming
    'NO_POSE': 'no end-effector pose has arrived',
    'POSE_STALE': 'the end-effector pose is too old',
    'POSE_JUMPED': 'the end-effector pose has just jumped',
    'OUTSIDE_BOX': 'the end effector is outside its workspace',
    'NO_ESTOP': 'no e-stop heartbeat arrives (std_msgs/Bool false on estop, 10 Hz or more)',
    'ESTOP_ENGAGED': 'the e-stop is engaged',
    'NO_GRIPPER': 'the action server of the gripper, which the robot profile requires, is absent',
    'NO_POLICY': 'no policy is publishing actions',
    'TWO_POLICIES': 'more than one policy is publishing actions',
    'FEW_ACTIONS': 'fewer than 3 valid actions arrived lately',
    'MOVING': 'the arm is still moving',
    # why HOLD
    'WAITING': 'armed, waiting for the first action',
    'ACTION_STALE': 'the last action is too old',
    'CLOCK_JUMP': 'ROS time jumped, 3 fresh actions are needed',
    'CLOCK_STOPPED': 'ROS time stands still: /clock is paused or nothing publishes it',
    'OVERRUN': 'the control loop was late',
    # why FAULT
    'FAULT_NON_FINITE': 'an action held NaN or infinity',
    'FAULT_TWO_SOURCES': 'a second policy published while the armed one was alive',
    'FAULT_FLOOD': 'more than 50 actions per second arrived',
    'FAULT_REFUSALS': 'too many actions in a row were refused',
    'FAULT_POSE_JUMP': 'the end-effector pose jumped',
    'FAULT_POSE_OUTSIDE': 'the end effector is far outside its workspace',
    'FAULT_OVERRUN': 'the control loop stood still for more than 0.5 s',
    'FAULT_CLOCK': 'the steady clock went backwards or gave no number',
    'FAULT_INTERNAL': 'the controller met an internal error, see its log',
    # why ESTOP
    'ESTOP': 'the e-stop is engaged',
    'ESTOP_LOST': 'the e-stop heartbeat is lost',
    'ESTOP_SERVICE': 'the e-stop service was called',
    # while ACTIVE
    'EXECUTING': 'executing actions',
    'DONE': 'the last action is used up',
    'BOX': 'the workspace limits the motion',
    'CREEPING': 'outside the workspace, only slow motion inwards',
    'ACCEL_WAIVED': 'the acceleration limit was exceeded to stay inside the workspace',
}


class SafetyState:
    """The state machine; it decides nothing about motion, only about states and causes."""

    def __init__(self) -> None:
        self.state = State.DISARMED
        self.cause = 'STARTED'
        self.since_s: float | None = None
        self._causes: dict[str, float] = {}

    @property
    def latched_causes(self) -> tuple[str, ...]:
        """All causes of the present FAULT or ESTOP; the first is the one that led there."""
        return tuple(self._causes)

    def go(self, state: State, cause: str, now_s: float) -> None:
        """Enter a state that does not latch; ignored while one is latched."""
        if self.state in LATCHED:
            return
        if state != self.state:
            self.since_s = now_s
        self.state, self.cause = state, cause

    def latch(self, state: State, cause: str, now_s: float) -> None:
        """Enter FAULT or ESTOP, or add a cause; an e-stop dominates a fault."""
        if state > self.state:
            if self.state not in LATCHED:
                self._causes.clear()
            self._causes = {cause: now_s, **self._causes}
            self.state, self.cause, self.since_s = state, cause, now_s
        self._causes[cause] = now_s

    def present_causes(self, now_s: float) -> list[str]:
        """Return the latched causes not known to be gone: seen less than a second ago."""
        return [c for c, seen in self._causes.items() if not now_s - seen >= CAUSE_GONE_S]

    def release(self, now_s: float) -> None:
        """Leave FAULT or ESTOP for DISARMED; the caller has checked that this is allowed."""
        self._causes.clear()
        self.state, self.cause, self.since_s = State.DISARMED, 'RESET', now_s
