"""P10, P19, P20: scaling keeps the path, tighter limits only take away, and no frame is
special."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import (
    between,
    directions,
    examples,
    gentle_streams,
    profiles,
    streams,
    twists,
)
from scipy.spatial.transform import Rotation

FAR = {'workspace__box_lo_m': [-50.0] * 3, 'workspace__box_hi_m': [50.0] * 3}


@given(profiles(**FAR), twists())
@examples(600)
def test_the_direction_of_a_displacement_is_kept_in_every_tick(
    p: rig.RobotProfile, twist: list
) -> None:
    """P10: one common factor, never per axis: v is parallel to dp and w to phi."""
    r = rig.Rig(p)
    r.arm()
    r.act(twist)
    along, around = np.array(twist[:3]), np.array(twist[3:])
    for _ in range(25):
        r.tick()
        for moved, wanted in ((np.array(r.v), along), (np.array(r.w), around)):
            size = float(np.linalg.norm(wanted))
            if size > 1e-6:
                assert np.linalg.norm(np.cross(moved, wanted)) <= 1e-9 * size
                assert np.dot(moved, wanted) >= 0.0


@given(profiles(**FAR), twists())
@examples(300)
def test_the_screw_of_a_displacement_is_kept(p: rig.RobotProfile, twist: list) -> None:
    """P10: what is travelled and what is turned keep their ratio, by the scale the status reports.

    s = action_scale min(1, V/|v|, min_i V_i/|v_i|, W/|w|).
    """
    v, w = math.hypot(*twist[:3]), math.hypot(*twist[3:])
    assume(v > 1e-3 and w > 1e-3)
    r = rig.Rig(p)
    r.arm()
    assert r.act(twist).accepted
    b = r.bounds
    scale = p.action_scale * min(
        1.0,
        b.v / v,
        *(limit / max(abs(x), 1e-12) for limit, x in zip(b.v_axis, twist)),
        b.w / w,
    )
    assert r.tick().status.scale == pytest.approx(scale, rel=1e-9)
    while r.now_s - r.accepted_s < 6.0:
        r.act((0.0,) * 6)
        r.accepted_s = -math.inf if not r.moving() else r.accepted_s
        r.ticks(round(0.2 / b.tau))
        if not r.moving():
            break
    travelled, turned = math.hypot(*r.travel), Rotation.from_quat(r.turn).magnitude()
    assert travelled == pytest.approx(scale * v * 0.2, rel=0.01, abs=1e-4)
    assert turned == pytest.approx(scale * w * 0.2, rel=0.01, abs=1e-3)


@given(twists(translation_m=0.04, rotation_rad=0.15))
@examples(200)
def test_from_rest_translation_and_rotation_keep_their_proportion_while_speeding_up(
    twist: list,
) -> None:
    """P10: |v| / |w| of every tick up to the cruise, not only at the end."""
    v, w = math.hypot(*twist[:3]), math.hypot(*twist[3:])
    assume(v > 1e-3 and w > 1e-3)
    r = rig.Rig(rig.profile(**FAR))
    r.arm()
    r.act(twist)
    speed = -1.0
    for _ in range(10):
        out = r.tick()
        if r.speed() <= speed:
            break
        speed = r.speed()
        assert math.hypot(*out.twist[3:]) * v == pytest.approx(speed * w, rel=1e-6)


TIGHTENED = {
    'limits__speed_mps': 0.25,
    'limits__angular_speed_radps': 1.0,
    'limits__acceleration_mps2': 1.0,
    'limits__angular_acceleration_radps2': 4.0,
    'action_scale': 1.0,
}


@pytest.mark.parametrize('limit', TIGHTENED)
@given(share=between(0.1, 1.0), twist=twists())
@examples(120)
def test_tightening_a_limit_never_increases_a_command_given_from_rest(
    limit: str, share: float, twist: list
) -> None:
    """P19: tick by tick while both speed up from the same state, neither norm is larger.

    (Later a slower arm may well be the faster one: it still has to do what the other has done.)
    """
    loose = rig.Rig(rig.profile(**FAR))
    tight = rig.Rig(rig.profile(**{**FAR, limit: TIGHTENED[limit] * share}))
    for r in (loose, tight):
        r.arm()
        r.act(twist)
    speeding_up = [True, True]
    before = (0.0, 0.0)
    for _ in range(10):
        a, b = loose.tick().twist, tight.tick().twist
        now = (math.hypot(*a[:3]), math.hypot(*a[3:]))
        speeding_up = [s and x > y for s, x, y in zip(speeding_up, now, before)]
        before = now
        if speeding_up[0]:
            assert math.hypot(*b[:3]) <= now[0] * rig.ROOM + 1e-12
        if speeding_up[1]:
            assert math.hypot(*b[3:]) <= now[1] * rig.ROOM + 1e-12


@pytest.mark.parametrize('limit', ['limits__speed_mps', 'limits__angular_speed_radps'])
@given(share=between(0.1, 1.0), stream=streams)
@examples(120)
def test_a_tighter_speed_limit_never_makes_the_arm_go_farther(
    limit: str, share: float, stream: list
) -> None:
    """P19: the sum of what is accepted shrinks with the scale, and each tick obeys the new
    limit."""
    loose = rig.Rig(rig.profile(**FAR))
    tight = rig.Rig(rig.profile(**{**FAR, limit: TIGHTENED[limit] * share}))
    for r in (loose, tight):
        r.arm()
    for twist, step_s, gap in stream:
        scales = []
        for r in (loose, tight):
            r.act([x * 0.2 / step_s for x in twist], step_s=step_s)
            r.ticks(max(1, round(gap * step_s / r.bounds.tau)))
            assert r.out is not None
            scales.append(r.out.status.scale)
        assert scales[1] <= scales[0] * rig.ROOM


@given(share=between(0.2, 1.0), axis=st.integers(0, 2), sign=st.sampled_from([1.0, -1.0]))
@examples(120)
def test_a_smaller_box_is_a_smaller_reach(share: float, axis: int, sign: float) -> None:
    """P19: shrinking the box never lets the arm come farther out.

    (Along one axis: an arm stopped on one axis has more of its acceleration left for the others.)
    """
    direction = [sign if i == axis else 0.0 for i in range(3)]
    reach = []
    for size in (0.2, 0.2 * share):
        r = rig.Rig(
            rig.profile(
                workspace__box_lo_m=[-size] * 3,
                workspace__box_hi_m=[size] * 3,
            )
        )
        r.arm()
        for _ in range(6):
            r.act([0.25 * x for x in direction] + [0.0] * 3)
            r.ticks(10)
        reach.append([abs(x) for x in r.position])
    assert all(small <= large + 1e-9 for small, large in zip(reach[1], reach[0]))


@given(gentle_streams, directions, between(-math.pi, math.pi))
@examples(300)
def test_a_turned_input_is_a_turned_output(stream: list, axis: tuple, angle: float) -> None:
    """P20: away from the box, turning every displacement by R turns every command by R."""
    turn = Rotation.from_rotvec(angle * np.array(axis))
    straight, turned = rig.Rig(rig.profile(**FAR)), rig.Rig(rig.profile(**FAR))
    for r in (straight, turned):
        r.arm()
    for twist, gap in stream:
        straight.act(twist)
        turned.act([*turn.apply(twist[:3]), *turn.apply(twist[3:])])
        for _ in range(round(gap * 10)):
            a, b = straight.tick().twist, turned.tick().twist
            assert np.allclose(turn.apply(a[:3]), b[:3], atol=1e-9)
            assert np.allclose(turn.apply(a[3:]), b[3:], atol=1e-8)


@given(twists(0.02, 0.1), directions, between(-math.pi, math.pi))
@examples(300)
def test_an_action_in_the_end_effector_frame_is_turned_by_the_present_pose(
    twist: list, axis: tuple, angle: float
) -> None:
    """P20: twist_base = R_base_ee twist_ee, for translation and rotation."""
    turn = Rotation.from_rotvec(angle * np.array(axis))
    pose = tuple(turn.as_quat())
    p = rig.profile(**FAR)
    in_ee, in_base = rig.Rig(p, quaternion=pose), rig.Rig(p, quaternion=pose)
    for r in (in_ee, in_base):
        r.arm()
    assert in_ee.act(twist, frame_id=p.ee_frame).accepted
    assert in_base.act([*turn.apply(twist[:3]), *turn.apply(twist[3:])]).accepted
    for _ in range(20):
        assert np.allclose(in_ee.tick().twist, in_base.tick().twist, atol=1e-9)


@given(st.text(max_size=30))
@examples(200)
def test_an_unknown_frame_is_refused_and_moves_nothing(frame: str) -> None:
    """H38: an exact match with base or end-effector frame; an empty or a long one is refused."""
    r = rig.Rig()
    assume(frame not in (r.profile.base_frame, r.profile.ee_frame))
    r.arm()
    for _ in range(5):
        verdict = r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.0), frame_id=frame)
        assert not verdict.accepted
        assert verdict.reason == 'FRAME'
        r.ticks(10)
        assert not r.moving()


@pytest.mark.parametrize('signs', [(1, 1, 1), (-1, 1, -1)])
def test_a_saturated_action_on_all_axes_is_scaled_by_its_norm(signs: tuple) -> None:
    """H21, section 2.3: the corner of Bridge's statistics is 0.323 m/s; no single axis is too
    fast."""
    r = rig.Rig(rig.profile(**FAR))
    r.arm()
    corner = [0.144 * signs[0], 0.209 * signs[1], 0.201 * signs[2]]
    wanted = math.hypot(*corner)
    assert max(map(abs, corner)) < 0.25 < wanted
    for _ in range(5):
        assert r.act([*corner, 0.0, 0.0, 0.0]).accepted
        r.ticks(10)
    assert r.out is not None
    assert r.out.status.scale == pytest.approx(0.25 / wanted, rel=1e-9)
    assert 0.24 < r.speed() <= 0.25 * rig.ROOM
