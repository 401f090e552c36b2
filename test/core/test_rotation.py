"""Rotations against matrices written out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.core.rotation import (
    euler_xyz_from_rotvec,
    integrate_quaternion,
    rotate_by_quaternion,
    rotation_from_rotvec,
    rotvec_from_euler_xyz,
    rotvec_from_rotation,
)


def rx(a):
    return np.array([[1, 0, 0], [0, math.cos(a), -math.sin(a)], [0, math.sin(a), math.cos(a)]])


def ry(a):
    return np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])


def rz(a):
    return np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])


angles = st.floats(-1.5, 1.5)


@settings(max_examples=60, deadline=None)
@given(roll=angles, pitch=angles, yaw=angles)
def test_euler_angles_are_about_fixed_axes_roll_first(roll, pitch, yaw):
    rotvec = rotvec_from_euler_xyz([roll, pitch, yaw])
    expected = rz(yaw) @ ry(pitch) @ rx(roll)
    np.testing.assert_allclose(rotation_from_rotvec(rotvec).as_matrix(), expected, atol=1e-12)
    np.testing.assert_allclose(euler_xyz_from_rotvec(rotvec), [roll, pitch, yaw], atol=1e-9)


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_a_rotation_about_one_axis_is_the_same_in_both_forms(axis):
    turn = np.zeros(3)
    turn[axis] = 0.3
    np.testing.assert_allclose(rotvec_from_euler_xyz(turn), turn, atol=1e-15)


def test_two_quarter_turns_written_out_by_hand():
    # x by 90 degrees takes y to z; then z by 90 degrees takes x to y. Together x -> y -> ...:
    # the matrix maps x to y, y to z, z to x, a turn of 120 degrees about (1, 1, 1).
    rotvec = rotvec_from_euler_xyz([math.pi / 2, 0.0, math.pi / 2])
    np.testing.assert_allclose(rotvec, np.full(3, math.radians(120) / math.sqrt(3)), atol=1e-12)


def test_log_is_the_inverse_of_exp():
    turn = np.array([0.1, -0.2, 0.3])
    np.testing.assert_allclose(rotvec_from_rotation(rotation_from_rotvec(turn)), turn, atol=1e-15)


def test_a_quaternion_about_z_turns_x_to_y():
    quarter = [0.0, 0.0, math.sin(math.pi / 4), math.cos(math.pi / 4)]
    np.testing.assert_allclose(rotate_by_quaternion(quarter, [1, 0, 0]), [0, 1, 0], atol=1e-15)


def test_turning_is_about_the_axes_of_the_base():
    # The tool points its x along base y; turning about base x must not be about tool x.
    quarter = np.array([0.0, 0.0, math.sin(math.pi / 4), math.cos(math.pi / 4)])
    turned = integrate_quaternion(quarter, [math.pi / 2, 0, 0], 1.0)
    expected = rx(math.pi / 2) @ rz(math.pi / 2)
    for column in np.eye(3):
        np.testing.assert_allclose(
            rotate_by_quaternion(turned, column), expected @ column, atol=1e-12
        )
