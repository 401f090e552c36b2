"""What the clamp reports every tick, and the sentence that answers "why is it not moving?"."""

from collections.abc import Sequence
from typing import NamedTuple

from openvla_ros.core.vector3 import Vector3
from openvla_ros.safety.safety_state import REASONS, State


class ClampStatus(NamedTuple):
    """The data of SafetyStatus.msg; units, frames and meanings are documented there.

    ``desired`` and ``commanded`` are (linear [m/s], angular [rad/s]) in the base frame.
    """

    state: State
    mode: str
    reasons: tuple[str, ...]
    desired: tuple[Vector3, Vector3]
    commanded: tuple[Vector3, Vector3]
    gripper: float
    scale: float
    box_scale: float
    action_age_s: float
    pose_age_s: float
    estop_age_s: float
    remaining_m: float
    remaining_rad: float
    dropped_m: float
    dropped_rad: float
    wall_distance_m: float
    accepted: int
    rejected: int
    reject_reasons: tuple[str, ...]
    reject_counts: tuple[int, ...]
    ticks: int
    overruns: int
    armed_source: str
    box_lo_m: Vector3
    box_hi_m: Vector3
    missed: int  # actions of the policy that never arrived, by their sequence numbers
    last_refusal: str  # code of the latest refusal while nothing is accepted; '' otherwise
    refusal_sentence: str  # why the latest action was refused; '' if it was not
    policy_note: str  # why no action may come, as the policy says it; '' if nothing is known
    pose_refusal: str  # why the latest pose was not believed; '' if it was
    stop_time_s: float  # from the last accepted action to zero [s]

    @property
    def sentence(self) -> str:
        """One sentence: the state, all reasons, the ages that matter and what to do."""
        return f'{_opening(self)}{_ages(self)}.{_advice(self)}'


def causes_in_words(
    reasons: Sequence[str], refusal_sentence: str, pose_refusal: str, policy_note: str
) -> list[str]:
    """Return what each reason means, and what is known of why actions and poses do not come.

    Args:
        reasons: Codes of `safety_state.REASONS`.
        refusal_sentence: Why actions are refused; '' if they are not.
        pose_refusal: Why poses are refused; '' if they are not.
        policy_note: What the policy says; it goes with NO_POLICY only.
    """
    words = [REASONS.get(code, code) for code in reasons]
    if policy_note and 'NO_POLICY' in reasons:
        words[list(reasons).index('NO_POLICY')] += f' ({policy_note})'
    if refusal_sentence:
        words.append(f'actions are refused because {refusal_sentence}')
    if pose_refusal:
        words.append(f'poses are refused because {pose_refusal}')
    return words


def _opening(status: ClampStatus) -> str:
    first, *rest = causes_in_words(status.reasons, '', '', status.policy_note)
    name = status.state.name
    if status.mode == 'shadow':
        name += ' (shadow: nothing is sent)'
    if status.state == State.ACTIVE:
        speed = sum(x * x for x in status.commanded[0]) ** 0.5
        text = f'{name}: {first}, {speed:.3f} m/s, {1e3 * status.remaining_m:.0f} mm left'
        if status.scale < 1.0:
            text += f', actions scaled by {status.scale:.2f}'
        return f'{text}; {"; ".join(rest)}' if rest else text
    text = f'{name}: not moving because {first}'
    if any(any(part) for part in status.commanded):
        text = f'{name}: coming to rest because {first}'
    if rest:
        prefix = 'arming would be refused' if status.state == State.DISARMED else 'also'
        text += f'; {prefix}: {"; ".join(rest)}'
    causes = causes_in_words((), status.refusal_sentence, status.pose_refusal, '')
    return '; '.join([text, *causes])


def _ages(status: ClampStatus) -> str:
    def shown(age_s: float) -> str:
        return f'{age_s:.2f} s' if age_s >= 0.0 else 'never'

    return (
        f' (last action {shown(status.action_age_s)}, pose {shown(status.pose_age_s)}, '
        f'e-stop heartbeat {shown(status.estop_age_s)})'
    )


def _advice(status: ClampStatus) -> str:
    if status.state in (State.FAULT, State.ESTOP):
        return ' Remove the cause, call ~/reset at rest, then ~/arm.'
    if status.state == State.DISARMED:
        return (
            ' Remove what prevents it, then call ~/arm.' if status.reasons[1:] else ' Call ~/arm.'
        )
    return ''
