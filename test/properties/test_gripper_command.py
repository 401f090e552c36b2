"""P16, H31: the gripper never chatters, never moves on a stop, and NaN is no command."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import between, examples
from properties.test_direction import FAR
from properties.test_stop import STOPS, moving

CLOSE_BELOW, OPEN_ABOVE, DECISIONS, DWELL_S = 0.4, 0.6, 2, 0.6


@given(st.lists(st.tuples(between(-0.5, 1.5), st.integers(1, 10)), min_size=5, max_size=40))
@examples(500)
def test_the_gripper_follows_hysteresis_equal_decisions_and_dwell(wanted: list) -> None:
    """P16 against a model: close < 0.4, open > 0.6, 2 equal in a row, 0.6 s between changes."""
    r = rig.Rig()
    r.arm()
    r.ticks(40)
    changes: list[float] = []
    accepted: list[float] = []
    command = r.gripper
    for opening, gap in wanted:
        if r.act((0.0,) * 6, gripper=opening).accepted:
            accepted.append(opening)
        for _ in range(gap):
            out = r.tick()
            if out.gripper != command and not (math.isnan(out.gripper) and math.isnan(command)):
                assert out.gripper in (0.0, 1.0)
                decisive = [x for x in accepted if not CLOSE_BELOW <= x <= OPEN_ABOVE]
                newest = decisive[-DECISIONS:]
                assert len(newest) == DECISIONS
                assert all((x > OPEN_ABOVE) == (out.gripper == 1.0) for x in newest)
                changes.append(r.now_s)
                command = out.gripper
    assert all(b - a >= DWELL_S - 1e-9 for a, b in pairwise(changes))


def test_a_gripper_between_049_and_051_at_30_hz_does_not_chatter() -> None:
    """H31: at most one change per 0.6 s (here none: both are inside the hysteresis)."""
    r = rig.Rig()
    r.arm()
    seen = set()
    for k in range(300):
        r.act((0.0,) * 6, gripper=0.49 if k % 2 else 0.51, step_s=0.04)
        seen.add(r.tick(1 / 30).gripper)
    assert len({x for x in seen if not math.isnan(x)}) <= 1


def test_a_gripper_alternating_open_and_closed_at_30_hz_changes_rarely() -> None:
    """H31: pairs of equal decisions, 0.6 s dwell: at most 10 / 0.6 changes in 10 s, and some."""
    r = rig.Rig()
    r.arm()
    commands = []
    for k in range(300):
        r.act((0.0,) * 6, gripper=float(k // 2 % 2), step_s=0.05)
        commands.append(r.tick(1 / 30).gripper)
    changes = sum(a != b for a, b in pairwise(commands) if not math.isnan(a))
    assert 1 <= changes <= 10 / DWELL_S


def test_a_wanted_opening_is_reached() -> None:
    """A gripper that never moves would pass everything else."""
    r = rig.Rig()
    r.arm()
    for wanted in (0.0, 1.0, 0.0):
        for _ in range(5):
            r.act((0.0,) * 6, gripper=wanted)
            r.ticks(10)
        assert r.gripper == wanted


@pytest.mark.parametrize('cause', STOPS)
@pytest.mark.parametrize('gripper', [0.0, 1.0])
@pytest.mark.parametrize('after', [0, 2])
def test_no_stop_opens_or_closes_the_gripper(cause: str, gripper: float, after: int) -> None:
    """P16: frozen in every state but ACTIVE, whatever is asked for before or after."""
    r = rig.Rig(rig.profile(**FAR))
    r.arm()
    for _ in range(8):
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), gripper=gripper)
        r.ticks(10)
    assert r.gripper == gripper
    for _ in range(after):
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), gripper=1.0 - gripper)
        r.now_s, r.ros_s = r.now_s + 1e-3, r.ros_s + 1e-3
    r.clamp.disarm(r.now_s) if cause == 'disarm' else STOPS[cause][0](r)
    for _ in range(60):
        r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), gripper=1.0 - gripper)
        assert r.tick().gripper == gripper


def test_a_decision_from_before_a_stop_is_not_carried_out_after_it() -> None:
    """P16: one vote before the stop and one after it are not two in a row."""
    r = moving()
    for _ in range(4):
        r.act((0.0,) * 6, gripper=1.0)
        r.ticks(10)
    r.act((0.0,) * 6, gripper=0.0)
    r.ticks(60)
    assert r.state == rig.HOLD
    r.act((0.0,) * 6, gripper=0.0)
    r.ticks(5)
    assert r.gripper == 1.0
    r.act((0.0,) * 6, gripper=0.0)
    r.ticks(12)
    assert r.gripper == 0.0
