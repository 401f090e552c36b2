import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.safety.displacement_budget import (
    DisplacementBudget,
    cruise_speed,
    stopping_distance,
)
from openvla_ros.safety.robot_profile import load_robot_profile

TAU = 0.02
SIM = load_robot_profile('sim')
CHANGE = SIM.limits.acceleration_mps2 * TAU
ZERO = (0.0, 0.0, 0.0)


def path(speed, cruise_ticks, change):
    """Sum up what cruising and then braking to rest covers, tick by tick."""
    length = cruise_ticks * speed * TAU
    while speed > 0.0:
        length += speed * TAU
        speed -= change
    return length


@pytest.mark.parametrize('cruise_ticks', [0, 1, 9, 100])
@pytest.mark.parametrize('distance', [1e-9, 1e-4, 0.003, 0.02, 0.04, 0.2])
def test_cruising_and_braking_covers_the_distance_exactly(distance, cruise_ticks):
    speed = cruise_speed(distance, cruise_ticks, CHANGE, TAU)
    assert path(speed, cruise_ticks, CHANGE) == pytest.approx(distance, rel=1e-9)


@pytest.mark.parametrize('speed', [0.0, 0.005, 0.02, 0.11, 0.25])
def test_the_stopping_distance_is_that_of_braking_from_now_on(speed):
    expected, v = 0.0, max(0.0, speed - CHANGE)
    while v > 0.0:
        expected += v * TAU
        v -= CHANGE
    assert stopping_distance(speed, CHANGE, TAU) == pytest.approx(expected, abs=1e-12)


def test_what_is_consumed_is_taken_away():
    budget = DisplacementBudget(SIM)
    budget.add((0.03, 0.0, 0.0), ZERO, 0.2, now_s=0.0)
    budget.consume((0.1, 0.05, 0.0), ZERO, 0.1)
    assert budget.translation == pytest.approx((0.02, -0.005, 0.0))


def test_rotations_add_by_composition_and_not_by_number():
    budget = DisplacementBudget(SIM)
    first, second = (0.5, 0.0, 0.0), (0.0, 0.5, 0.0)
    budget.add(ZERO, first, 0.2, now_s=0.0)
    budget.add(ZERO, second, 0.2, now_s=0.2)
    expected = Rotation.from_rotvec(second) * Rotation.from_rotvec(first)
    np.testing.assert_allclose(budget.rotation, expected.as_rotvec(), atol=1e-12)


def test_a_rotation_left_after_turning_completes_the_accepted_one():
    budget = DisplacementBudget(SIM)
    budget.add(ZERO, (0.3, -0.4, 0.2), 0.2, now_s=0.0)
    done = (0.1, 0.2, 0.0)
    budget.consume(ZERO, done, 1.0)
    total = Rotation.from_rotvec(budget.rotation) * Rotation.from_rotvec(done)
    np.testing.assert_allclose(total.as_rotvec(), (0.3, -0.4, 0.2), atol=1e-12)


def test_the_leash_drops_and_reports_what_is_too_much():
    budget = DisplacementBudget(SIM)  # leash: 2 steps of 0.1 m and of 0.6 rad
    for _ in range(3):
        dropped = budget.add((0.0, 0.09, 0.0), (0.0, 0.0, 0.5), 0.2, now_s=0.0)
    assert dropped
    assert budget.translation == pytest.approx((0.0, 0.2, 0.0))
    assert budget.dropped_m == pytest.approx(0.07)
    assert budget.dropped_rad == pytest.approx(0.3)


def test_an_empty_budget_wants_rest():
    assert DisplacementBudget(SIM).twist(0.0) == (ZERO, ZERO)


def test_translation_and_rotation_are_given_the_same_time():
    budget = DisplacementBudget(SIM)
    budget.add((0.02, 0.0, 0.0), (0.0, 0.0, 0.2), 0.2, now_s=0.0)
    v, w = budget.twist(0.0)
    assert v[0] / 0.02 == pytest.approx(w[2] / 0.2)


def test_the_speed_limits_hold_on_the_norm_and_on_each_axis():
    slow_x = dataclasses.replace(SIM.limits, axis_speed_mps=(0.05, 0.25, 0.25))
    budget = DisplacementBudget(dataclasses.replace(SIM, limits=slow_x))
    budget.add((0.1, 0.15, 0.0), ZERO, 0.2, now_s=0.0)
    v, _ = budget.twist(0.0)
    assert v == pytest.approx((0.05, 0.075, 0.0))
    budget = DisplacementBudget(SIM)
    budget.add((0.1, 0.15, 0.0), ZERO, 0.2, now_s=0.0)
    assert math.hypot(*budget.twist(0.0)[0]) <= 0.25 + 1e-12


def test_a_stop_drops_all_but_the_ramp_to_rest():
    budget = DisplacementBudget(SIM)
    budget.add((0.05, 0.0, 0.0), ZERO, 0.2, now_s=0.0)
    budget.keep_ramp((0.1, 0.0, 0.0), ZERO, 0.04, 0.16)
    # From 0.1 m/s by 0.04 per tick: 0.06 and 0.02 m/s for 20 ms each.
    assert budget.translation == pytest.approx((0.0016, 0.0, 0.0))
    assert budget.dropped_m == pytest.approx(0.05 - 0.0016)
