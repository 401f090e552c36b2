"""When a gripper's action server gets a goal, and what is wrong with the server.

At most one goal at a time awaits an answer, and a pause follows every failure: however the server
and the wanted opening behave, goals never flood it. Times are steady times, passed in.
"""

import math

ABSENT_FOR_S = 2.0
"""A server absent for this long is reported; discovery takes a moment."""

RETRY_PAUSE_S = 2.0
"""After a failed goal no other goal is sent for this long."""

ANSWER_TIMEOUT_S = 2.0
"""A goal neither accepted nor rejected within this time has failed."""

RESULT_TIMEOUT_S = 10.0
"""An accepted goal without a result within this time has failed."""


class GripperGoals:
    """The goals of one action server.

    Attributes:
        available: Whether the server can take goals.
        problem: What is wrong, a whole sentence; empty if nothing is.
        num_sent: Goals sent so far.
        num_failed: Goals rejected, aborted or without an answer or result in time.
    """

    def __init__(self, server: str) -> None:
        """Start without a server; ``server`` is its name and type for the sentences."""
        self.available = False
        self.problem = ''
        self.num_sent = 0
        self.num_failed = 0
        self._server = server
        self._identities: frozenset[str] = frozenset()
        self._absent_since_s: float | None = None
        self._opening: float | None = None
        self._deadline_s = math.inf
        self._awaits_answer = False
        self._paused_until_s = -math.inf
        self._clears_when_accepted = True

    def see_server(
        self, available: bool, identities: frozenset[str], now_s: float, *, advice: str
    ) -> bool:
        """Take note of whether the server is available.

        Args:
            available: Whether it can take goals.
            identities: Tells one start of the server from the next.
            now_s: Steady time [s].
            advice: What to do if it is not available, a clause.

        Returns:
            Whether the goal in progress is lost: the server that had it is gone.
        """
        lost = not available or bool(identities - self._identities)
        if lost:
            self._forget_goal()
        if available and not self.available:
            self._paused_until_s, self.problem = now_s, ''
        self.available, self._identities = available, identities
        if available:
            self._absent_since_s = None
        elif self._absent_since_s is None:
            self._absent_since_s = now_s
        elif now_s - self._absent_since_s >= ABSENT_FOR_S:
            self._report(f'is not available; {advice}', clears_when_accepted=True)
        return lost

    def is_due(self, opening: float, now_s: float) -> bool:
        """Say whether a goal of this opening (0 closed .. 1 open) is to be sent now."""
        return (
            self.available
            and not self._awaits_answer
            and opening != self._opening
            and now_s >= self._paused_until_s
        )

    def sent(self, opening: float, now_s: float) -> None:
        """Note that a goal of this opening was sent."""
        self.num_sent += 1
        self._opening, self._awaits_answer = opening, True
        self._deadline_s = now_s + ANSWER_TIMEOUT_S

    def accepted(self, now_s: float) -> None:
        """Note that the server accepted the goal."""
        self._awaits_answer = False
        self._deadline_s = now_s + RESULT_TIMEOUT_S
        if self._clears_when_accepted:
            self.problem = ''

    def rejected(self, now_s: float) -> None:
        """Note that the server rejected the goal."""
        self._fail('rejected the goal', now_s, clears_when_accepted=True)

    def succeeded(self) -> None:
        """Note that the gripper has done what the goal asked for."""
        self._deadline_s, self.problem = math.inf, ''

    def aborted(self, now_s: float) -> None:
        """Note that the server gave the goal up."""
        self._fail('aborted the goal', now_s, clears_when_accepted=False)

    def canceled(self) -> None:
        """Note that another client took the gripper over; the goal is not repeated."""
        self._deadline_s = math.inf
        self._report(
            'canceled the goal, probably for another client; the goal is sent again when the '
            'wanted opening changes',
            clears_when_accepted=True,
        )

    def check_deadline(self, now_s: float) -> bool:
        """Fail the goal in progress if it takes too long; returns whether it did."""
        if self._opening is None or now_s <= self._deadline_s:
            return False
        if self._awaits_answer:
            what = f'did not answer the goal within {ANSWER_TIMEOUT_S:g} s'
        else:
            what = f'sent no result within {RESULT_TIMEOUT_S:g} s'
        self._fail(what, now_s, clears_when_accepted=self._awaits_answer)
        return True

    def failed_to_send(self, error: str, now_s: float) -> None:
        """Note that the goal could not be sent or its answer not be read."""
        self._fail(f'could not be reached: {error}', now_s, clears_when_accepted=True)

    def _fail(self, what: str, now_s: float, *, clears_when_accepted: bool) -> None:
        self.num_failed += 1
        wanted = '' if self._opening is None else f' (opening {self._opening:g})'
        self._forget_goal()
        self._paused_until_s = now_s + RETRY_PAUSE_S
        self._report(
            f'{what}{wanted}; while ACTIVE the controller sends it again every '
            f"{RETRY_PAUSE_S:g} s; see the log of the gripper's driver",
            clears_when_accepted=clears_when_accepted,
        )

    def _forget_goal(self) -> None:
        self._opening, self._awaits_answer, self._deadline_s = None, False, math.inf

    def _report(self, what: str, *, clears_when_accepted: bool) -> None:
        self._clears_when_accepted = clears_when_accepted
        self.problem = f'The gripper action server {self._server} {what}.'
