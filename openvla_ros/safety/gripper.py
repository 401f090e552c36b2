"""Gripper commands without chatter: hysteresis, equal decisions in a row, and a dwell time."""

import math

from openvla_ros.safety.robot_profile import GripperRules

CLOSED = 0.0
OPEN = 1.0


class GripperFilter:
    """Turns wanted openings (0 closed .. 1 open) into a command that changes rarely.

    The command is NaN until the first decision; it is never changed by a stop or a fault.
    """

    def __init__(self, rules: GripperRules) -> None:
        self._rules = rules
        self._run = 0
        self._decision = math.nan
        self._changed_s = -math.inf
        self.command = math.nan

    def offer(self, opening: float) -> None:
        """Take the opening of an accepted action; NaN is ignored, the rest is clipped to 0..1."""
        if math.isnan(opening):
            return
        if opening < self._rules.close_below:
            decision = CLOSED
        elif opening > self._rules.open_above:
            decision = OPEN
        else:
            return
        self._run = self._run + 1 if decision == self._decision else 1
        self._decision = decision

    def forget(self) -> None:
        """Forget decisions not yet carried out; called whenever the arm is not executing."""
        self._run = 0
        self._decision = math.nan

    def step(self, now_s: float) -> float:
        """Return the command of this period; it changes at most once per dwell time."""
        if (
            self._run >= self._rules.decisions
            and self._decision != self.command
            and not 0.0 <= now_s - self._changed_s < self._rules.dwell_s
        ):
            self.command = self._decision
            self._changed_s = now_s
        return self.command
