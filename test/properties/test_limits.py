"""P1, P2, P3, P5: whatever arrives, what leaves is finite, within every limit, and smooth."""

import math

from hypothesis import given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import any_float, examples, play, profiles, streams


@given(profiles(), streams)
@examples(600)
def test_any_plausible_stream_leaves_within_the_limits_of_any_robot(
    p: rig.RobotProfile, stream: list
) -> None:
    """P1, P2, P3, P5 and P4, P6, P8: Rig judges each tick."""
    r = rig.Rig(p)
    r.arm()
    play(r, stream)
    r.ticks(round(2.0 / r.bounds.tau))
    assert not r.moving()


@given(st.lists(st.tuples(st.lists(any_float, min_size=0, max_size=8), any_float), max_size=8))
@examples(1500)
def test_junk_in_actions_never_moves_an_arm_beyond_its_limits(actions: list) -> None:
    """P1: NaN, infinite, subnormal, 1e308, too few or too many numbers."""
    r = rig.Rig()
    r.arm()
    r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.2))
    r.ticks(5)
    for numbers, gripper in actions:
        r.act(numbers, gripper=gripper)
        r.ticks(3)


@given(st.lists(st.tuples(st.lists(any_float, min_size=7, max_size=7), any_float), max_size=8))
@examples(1000)
def test_junk_poses_never_move_an_arm_beyond_its_limits(poses: list) -> None:
    """P1, P5: the acceleration limit may be waived for a pose jump, the others never."""
    r = rig.Rig()
    r.arm()
    r.box_judged = False
    r.act((0.1, 0.0, 0.0, 0.0, 0.0, 0.2))
    r.ticks(5)
    for numbers, stamp in poses:
        r.clamp.set_pose(
            rig.Pose(tuple(numbers[:3]), tuple(numbers[3:])),
            stamp_s=r.ros_s if stamp > 0 else stamp,
            now_s=r.now_s,
            ros_now_s=r.ros_s,
        )
        r.act((0.1, 0.05, 0.0, 0.0, 0.0, 0.2))
        r.ticks(3)


@given(profiles(), streams)
@examples(300)
def test_acceleration_is_never_waived_when_the_arm_does_what_it_is_told(
    p: rig.RobotProfile, stream: list
) -> None:
    """P5: a measured pose that agrees with the commands never needs the exception."""
    r = rig.Rig(p)
    r.arm()
    waived = []
    tick = r.clamp.step

    def step(now_s: float, ros_now_s: float, *, simulated: bool) -> rig.ClampOutput:
        out = tick(now_s, ros_now_s, simulated=simulated)
        waived.append('ACCEL_WAIVED' in out.status.reasons)
        return out

    r.clamp.step = step  # type: ignore[method-assign]
    play(r, stream)
    assert waived
    assert not any(waived)


@given(st.floats(0.02, 0.05), st.integers(0, 2))
@examples(60)
def test_acceleration_is_waived_only_to_stay_inside_and_says_so(jump_m: float, axis: int) -> None:
    """P5: a pose that jumps against a wall stops the arm at once; without a jump nothing is
    waived."""
    r = rig.Rig(rig.profile(limits__acceleration_mps2=0.5))
    r.arm()
    direction = [0.0] * 6
    direction[axis] = 0.2
    for _ in range(3):
        r.act(direction)
        r.ticks(10)
    assert r.speed() > 0.1
    r.position[axis] = r.bounds.hi[axis] - jump_m
    r.box_judged = False
    out = r.tick()
    speeds_up = r.speed() > math.hypot(*out.twist[:3])
    assert not speeds_up
    if 'ACCEL_WAIVED' in out.status.reasons:
        assert out.status.pose_age_s >= 0.0


@given(st.lists(st.booleans(), min_size=1, max_size=20))
@examples(100)
def test_nothing_moves_and_nothing_is_waived_without_a_pose(arm_again: list) -> None:
    """P5, H54: no pose, no motion."""
    r = rig.Rig()
    r.clamp = rig.Clamp(r.profile)
    r.pose_on = False
    for again in arm_again:
        r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.5))
        out = r.ticks(10)
        if again:
            assert not r.clamp.arm(r.now_s).ok
        assert not r.moving()
        assert 'ACCEL_WAIVED' not in out.status.reasons
