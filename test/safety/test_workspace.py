import dataclasses
import math

import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.safety.robot_profile import HalfSpace, OrientationCone, load_robot_profile
from openvla_ros.safety.workspace import SpeedLimits, Wall, Workspace, braking_speed, plan_step

TAU = 0.02
SIM = load_robot_profile('sim')
MIDDLE = (0.275, 0.0, 0.175)


def workspace(**changes):
    changed = dataclasses.replace(SIM.workspace, **changes)
    return Workspace(dataclasses.replace(SIM, workspace=changed))


@pytest.mark.parametrize('distance', [1e-9, 1e-4, 0.003, 0.05, 1.0])
@pytest.mark.parametrize('deceleration', [0.1, 1.0, 5.0])
def test_braking_from_the_allowed_speed_stops_before_the_wall(distance, deceleration):
    left = distance
    speed = braking_speed(left, deceleration, TAU)
    for _ in range(100_000):
        left -= speed * TAU
        assert left >= 0.0
        allowed = braking_speed(left, deceleration, TAU)
        assert allowed >= speed - deceleration * TAU * (1 + 1e-9), 'braking harder than allowed'
        if speed < 1e-12:
            return
        speed = allowed
    assert speed < 1e-3


def test_the_allowed_speed_satisfies_the_stopping_equation():
    speed = braking_speed(0.1, 2.0, TAU)
    assert speed**2 / (2 * 2.0) + speed * TAU == pytest.approx(0.1)


@pytest.mark.parametrize('distance', [0.0, -0.1, -math.inf, math.nan])
def test_no_speed_towards_a_wall_that_is_reached(distance):
    assert braking_speed(distance, 1.0, TAU) == 0.0


def test_far_from_all_walls_nothing_is_limited():
    limits = workspace().speed_limits(MIDDLE, MIDDLE, TAU)
    assert limits.clip((0.1, 0.1, 0.1)) == (0.1, 0.1, 0.1)


def test_at_a_wall_only_the_outward_part_is_taken_away():
    at_wall = (0.445, 0.0, 0.175)  # 0.45 less the margin of 5 mm
    limits = workspace().speed_limits(at_wall, at_wall, TAU)
    assert limits.clip((0.1, 0.1, 0.1)) == pytest.approx((0.0, 0.1, 0.1), abs=1e-6)
    assert limits.clip((-0.1, 0.0, 0.0)) == (-0.1, 0.0, 0.0)


def test_the_worse_of_commanded_and_measured_position_counts():
    at_wall = (0.445, 0.0, 0.175)
    for pair in ((at_wall, MIDDLE), (MIDDLE, at_wall)):
        assert workspace().speed_limits(*pair, TAU).hi[0] == pytest.approx(0.0, abs=1e-6)


def test_an_old_measurement_allows_less_speed():
    near = (0.42, 0.0, 0.175)
    fresh = workspace().speed_limits(MIDDLE, near, TAU).hi[0]
    assert workspace().speed_limits(MIDDLE, near, TAU + 0.1).hi[0] < fresh


def test_a_half_space_takes_away_what_leads_out_of_it():
    post = HalfSpace('post', (0.0, 0.6, 0.8), 0.14)  # MIDDLE is exactly on it
    limits = workspace(half_spaces=(post,), margin_m=0.0).speed_limits(MIDDLE, MIDDLE, TAU)
    slid = limits.clip((0.0, 0.1, 0.0))
    assert slid == pytest.approx((0.0, 0.1 - 0.06 * 0.6, -0.06 * 0.8))
    assert limits.contains(slid)


def test_between_two_walls_the_clipped_velocity_is_still_allowed():
    limits = SpeedLimits((-0.2,) * 3, (0.2, 0.0, 0.2), (Wall((0.6, -0.8, 0.0), 0.0),))
    for v in ((0.1, 0.1, 0.0), (0.2, -0.2, 0.1), (0.15, 0.0, -0.1)):
        clipped = limits.clip(v)
        assert limits.contains(clipped)
        assert math.hypot(*clipped) <= math.hypot(*v)


def test_a_displacement_is_cut_where_it_leaves_the_box():
    assert workspace().confine_displacement(MIDDLE, (1.0, -0.1, 0.0)) == pytest.approx(
        (0.445 - 0.275, -0.1, 0.0)
    )


def test_a_displacement_from_outside_may_only_lead_in():
    outside = (0.46, 0.0, 0.175)
    assert workspace().confine_displacement(outside, (0.1, 0.0, 0.0))[0] == 0.0
    assert workspace().confine_displacement(outside, (-0.1, 0.0, 0.0))[0] == -0.1


def test_the_wall_distance_is_that_of_the_nearest_face_and_negative_outside():
    assert workspace().wall_distance_m((0.44, 0.0, 0.2)) == pytest.approx(0.01)
    assert workspace().wall_distance_m((0.47, 0.0, 0.2)) == pytest.approx(-0.02)


def cone(half_angle_rad):
    return OrientationCone((0.0, 0.0, 0.0, 1.0), half_angle_rad)


def quaternion(*rotvec):
    return tuple(Rotation.from_rotvec(rotvec).as_quat())


def test_the_cone_limits_turning_outwards_only():
    space = workspace(orientation_cone=cone(0.5))
    walls = space.rotation_walls(quaternion(0.5, 0, 0), quaternion(0.5, 0, 0), TAU)
    assert all(wall.normal == pytest.approx((1.0, 0.0, 0.0)) for wall in walls)
    assert all(wall.speed == 0.0 for wall in walls)


def test_a_rotation_is_cut_at_the_cone():
    space = workspace(orientation_cone=cone(0.5))
    cut = space.confine_rotation(quaternion(0.3, 0, 0), (0.6, 0.0, 0.0))
    assert cut == pytest.approx((0.2, 0.0, 0.0))


def test_turning_along_the_cone_does_not_spiral_out_of_it():
    space = workspace(orientation_cone=cone(0.5))
    orientation = Rotation.from_rotvec([0.499, 0.0, 0.0])
    for _ in range(2000):
        w = space.keep_in_cone(tuple(orientation.as_quat()), (0.0, 1.0, 0.0))
        orientation = Rotation.from_rotvec([x * TAU for x in w]) * orientation
        assert orientation.magnitude() <= 0.5 + 1e-6


def test_a_step_goes_as_far_towards_the_wanted_velocity_as_the_acceleration_allows():
    step = plan_step((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.3, 0.4, 0.0), 0.1)
    assert step.at(step.share) == pytest.approx((0.06, 0.08, 0.0))


def test_a_step_within_reach_arrives_exactly():
    step = plan_step((0.1, 0.0, 0.0), (0.1, 0.0, 0.0), (0.0, 0.0, 0.0), 0.2)
    assert step.at(step.share) == (0.0, 0.0, 0.0)


def test_position_goes_before_acceleration_and_the_step_says_so():
    step = plan_step((0.2, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.02)
    assert step.waived
    assert step.at(step.share) == (0.0, 0.0, 0.0)


def test_a_step_never_leaves_the_acceleration_ball_when_a_wall_pushes():
    # The wall has taken 0.01 from x; what is left of 0.02 goes towards y.
    step = plan_step((0.1, 0.0, 0.0), (0.09, 0.0, 0.0), (0.09, 0.2, 0.0), 0.02)
    v = step.at(step.share)
    assert math.dist(v, (0.1, 0.0, 0.0)) == pytest.approx(0.02)
