"""P21: what is sent integrates to what was accepted, then the arm rests."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import (
    between,
    directions,
    examples,
    gentle_streams,
    profiles,
    steps_s,
    streams,
    to_rest,
)
from properties.test_direction import FAR
from scipy.spatial.transform import Rotation


def require_exact(
    r: rig.Rig, travel: np.ndarray, turn: Rotation, way: float, angle: float
) -> None:
    """|integral - sum| <= max(1 %, 0.1 mm), and the same for rotation with 1 mrad."""
    missed = float(np.linalg.norm(np.array(r.travel) - travel))
    assert missed <= max(0.01 * way, 1e-4), f'{missed * 1e3:.3f} mm of {way * 1e3:.1f} mm'
    off = (Rotation.from_quat(r.turn) * turn.inv()).magnitude()
    assert off <= max(0.01 * angle, 1e-3), f'{off:.5f} rad of {angle:.3f} rad'


@given(gentle_streams, steps_s, st.sampled_from([50.0, 100.0]))
@examples(500)
def test_a_stream_integrates_to_the_sum_of_its_displacements(
    stream: list, step_s: float, rate_hz: float
) -> None:
    """P21: gaps under H, gentle enough that no scale, box, leash or stale drop is reported."""
    r = rig.Rig(rig.profile(**FAR, control_rate_hz=rate_hz))
    r.arm()
    travel, turn, way, angle = np.zeros(3), Rotation.identity(), 0.0, 0.0
    for displacement, gap in stream:
        twist = [x * 0.2 / step_s for x in displacement]
        if r.act(twist, step_s=step_s).accepted:
            p, phi = np.array(twist[:3]) * step_s, np.array(twist[3:]) * step_s
            travel, turn = travel + p, Rotation.from_rotvec(phi) * turn
            way, angle = way + float(np.linalg.norm(p)), angle + float(np.linalg.norm(phi))
        out = r.ticks(max(1, round(gap * step_s / r.bounds.tau)))
        assert out is not None
        assert out.status.scale == 1.0
    to_rest(r, step_s)
    assert r.out is not None
    assert r.out.status.dropped_m == 0.0
    assert r.out.status.dropped_rad == 0.0
    require_exact(r, travel, turn, way, angle)


@given(profiles(**FAR), streams)
@examples(500)
def test_a_stream_is_exact_or_says_what_was_taken_away(p: rig.RobotProfile, stream: list) -> None:
    """P21 for any robot and stream: integral + reported drops cover the scaled sum."""
    r = rig.Rig(p)
    r.arm()
    travel, way = np.zeros(3), 0.0
    for twist, step_s, gap in stream:
        if r.act([x * 0.2 / step_s for x in twist], step_s=step_s).accepted:
            r.tick()
            assert r.out is not None
            moved = np.array(twist[:3]) * 0.2 * r.out.status.scale
            travel, way = travel + moved, way + float(np.linalg.norm(moved))
        r.ticks(max(1, round(min(gap, 1.2) * step_s / r.bounds.tau) - 1))
    to_rest(r, stream[-1][1])
    assert r.out is not None
    missed = float(np.linalg.norm(np.array(r.travel) - travel))
    assert missed <= r.out.status.dropped_m + max(0.01 * way, 1e-4)


@given(directions, between(0.02, 0.22), steps_s)
@examples(200)
def test_one_action_moves_the_arm_by_its_displacement_and_no_farther(
    direction: tuple, speed: float, step_s: float
) -> None:
    """A late policy never makes the arm coast: the arm rests however late the next action is.

    Without zero actions after it, H ends the motion; what is left then is reported as dropped.
    """
    r = rig.Rig(rig.profile(**FAR))
    r.arm()
    size = speed * step_s
    r.act([speed * x for x in direction] + [0.0] * 3, step_s=step_s)
    r.ticks(round(3.0 / r.bounds.tau))
    assert not r.moving()
    assert r.out is not None
    travelled = math.hypot(*r.travel)
    assert travelled <= size * rig.ROOM + 1e-6
    assert travelled + r.out.status.dropped_m == pytest.approx(size, rel=0.01, abs=1e-4)


@given(directions, between(0.02, 0.05), st.integers(4, 12))
@examples(150)
def test_what_exceeds_the_leash_is_dropped_and_reported(
    direction: tuple, size: float, count: int
) -> None:
    """The budget is bounded by a leash of 2 plausible steps (0.2 m): nothing piles up beyond
    it."""
    p = rig.profile(**FAR, limits__speed_mps=0.25, limits__acceleration_mps2=0.02)
    r = rig.Rig(p)
    r.arm()
    for _ in range(count):
        r.act([size / 0.2 * x for x in direction] + [0.0] * 3)
        out = r.ticks(10)
        assert out is not None
        assert out.status.remaining_m <= 0.2 + 1e-9
    assert out is not None
    accounted = math.hypot(*r.travel) + out.status.remaining_m + out.status.dropped_m
    assert accounted == pytest.approx(count * size * min(1.0, 0.05 / size), rel=0.02, abs=2e-3)


def test_displacement_does_not_depend_on_when_messages_arrive() -> None:
    """Section 2.3: the trained step divides, never the measured interval: 1 ms apart is not 29
    m/s."""
    ends = []
    for gap_ticks in (5, 10, 12):
        r = rig.Rig(rig.profile(**FAR))
        r.arm()
        for _ in range(8):
            r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0))
            r.ticks(gap_ticks)
        to_rest(r)
        ends.append(r.travel[0])
    assert ends == pytest.approx([0.16] * 3, rel=0.01)


def test_rotation_vectors_compose_and_are_not_added() -> None:
    """Section 2.3: 8 quarter turns about changing axes end where their product ends."""
    r = rig.Rig(rig.profile(**FAR))
    r.arm()
    turn = Rotation.identity()
    for k in range(8):
        phi = np.zeros(3)
        phi[k % 3] = 0.19
        r.act([0.0] * 3 + (phi / 0.2).tolist())
        turn = Rotation.from_rotvec(phi) * turn
        r.ticks(10)
    to_rest(r)
    assert (Rotation.from_quat(r.turn) * turn.inv()).magnitude() < 2e-3
    added = Rotation.from_rotvec([0.57, 0.57, 0.38])
    assert (added * turn.inv()).magnitude() > 0.04, 'the test would not see the difference'
