import time

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.sim.arm import GRIPPER_DOWN, MAX_JOINT_RADPS, SimArm
from openvla_ros.sim.scene import BLOCK_HALF_M, Block, Scene

SCENE = Scene(blocks=(Block('red', (0.30, 0.12)),), start_position_m=(0.25, -0.05, 0.15))


@pytest.fixture
def arm():
    return SimArm(SCENE, render=False)


def test_it_starts_at_rest_at_the_scenes_place_with_the_gripper_down_and_open(arm):
    np.testing.assert_allclose(arm.ee_pose().position_m, SCENE.start_position_m, atol=1e-4)
    np.testing.assert_allclose(arm.ee_pose().rotation(), GRIPPER_DOWN, atol=1e-3)
    assert arm.gripper_opening() == pytest.approx(1.0)
    arm.step(np.zeros(6), 1.0, 1.0)
    np.testing.assert_allclose(arm.ee_pose().position_m, SCENE.start_position_m, atol=5e-4)
    assert np.linalg.norm(arm.ee_velocity()[:3]) < 1e-4


@pytest.mark.parametrize('axis', [0, 1, 2])
@pytest.mark.parametrize('speed', [0.05, -0.2])
def test_a_twist_integrates_to_its_displacement(arm, axis, speed):
    before = arm.ee_pose().position_m
    twist = np.zeros(6)
    twist[axis] = speed
    arm.step(twist, 1.0, 0.4)
    arm.step(np.zeros(6), 1.0, 0.2)
    expected = np.zeros(3)
    expected[axis] = speed * 0.4
    np.testing.assert_allclose(arm.ee_pose().position_m - before, expected, atol=5e-4)
    np.testing.assert_allclose(arm.ee_pose().rotation(), GRIPPER_DOWN, atol=5e-3)


def test_an_angular_velocity_turns_about_base_axes_through_the_end_effector(arm):
    before = arm.ee_pose()
    omega = np.array([0.3, -0.2, 0.5])
    arm.step([0, 0, 0, *omega], 1.0, 0.6)
    arm.step(np.zeros(6), 1.0, 0.2)
    expected = Rotation.from_rotvec(omega * 0.6).as_matrix() @ before.rotation()
    np.testing.assert_allclose(arm.ee_pose().rotation(), expected, atol=5e-3)
    np.testing.assert_allclose(arm.ee_pose().position_m, before.position_m, atol=1e-3)


def test_it_is_at_rest_within_a_tenth_of_a_second_of_a_zero_twist(arm):
    arm.step([0.2, 0.1, -0.1, 0, 0, 0], 1.0, 0.4)
    assert np.linalg.norm(arm.ee_velocity()[:3]) > 0.2
    arm.step(np.zeros(6), 1.0, 0.1)
    assert np.linalg.norm(arm.ee_velocity()[:3]) < 0.005


def test_the_same_calls_give_the_same_numbers():
    def run():
        arm = SimArm(SCENE, render=False)
        arm.step([0.1, 0.15, -0.2, 0, 0, 0.2], 0.3, 0.6)
        return np.concatenate([arm.data.qpos, arm.data.qvel])

    np.testing.assert_array_equal(run(), run())


def test_the_table_stops_it_and_nothing_winds_up(arm):
    arm.step([0, 0, -0.2, 0, 0, 0], 1.0, 3.0)
    low = arm.ee_pose().position_m[2]
    assert -0.01 < low < 0.02  # the finger tips are 12 mm below the end effector's point
    arm.step([0, 0, 0.1, 0, 0, 0], 1.0, 0.6)
    assert arm.ee_pose().position_m[2] > low + 0.02


def test_beyond_its_reach_it_stays_within_joint_limits_and_comes_back_at_once(arm):
    arm.step([0.25, 0, 0.25, 0, 0, 0], 1.0, 4.0)
    joints = arm.joint_state().positions[:6]
    assert np.all(joints >= arm.model.jnt_range[:6, 0] - 0.01)
    assert np.all(joints <= arm.model.jnt_range[:6, 1] + 0.01)
    far = arm.ee_pose().position_m
    arm.step([-0.1, 0, -0.1, 0, 0, 0], 1.0, 0.6)
    assert np.linalg.norm(arm.ee_pose().position_m - far) > 0.04


def test_no_joint_is_asked_to_be_faster_than_published(arm):
    fastest = 0.0
    last = arm.data.ctrl[:6].copy()
    for _ in range(100):
        arm.step([-0.25, 0.25, 0.25, 1.0, 1.0, 1.0], 1.0, 0.02)
        fastest = max(fastest, float(np.abs(arm.joint_state().velocities[:6]).max()))
    assert fastest < 1.3 * MAX_JOINT_RADPS
    assert not np.array_equal(last, arm.data.ctrl[:6])


def test_the_gripper_closes_and_opens_in_a_third_of_a_second(arm):
    arm.step(np.zeros(6), 0.0, 0.5)
    assert arm.gripper_opening() < 0.02
    arm.step(np.zeros(6), float('nan'), 0.3)
    assert arm.gripper_opening() < 0.02  # NaN keeps what was wanted
    arm.step(np.zeros(6), 1.0, 0.5)
    assert arm.gripper_opening() > 0.98
    left, right = arm.joint_state().positions[6:]
    assert left == pytest.approx(-right, abs=5e-4)


def test_a_grasped_block_is_lifted_and_held_through_motion():
    arm = SimArm(
        Scene(blocks=(Block('blue', (0.28, 0.0), 0.25),), start_position_m=(0.28, 0.0, 0.10)),
        render=False,
    )
    arm.step([0, 0, -0.1, 0, 0, 0], 1.0, 0.8)
    arm.step(np.zeros(6), 0.0, 0.6)
    arm.step([0, 0, 0.1, 0, 0, 0], 0.0, 1.0)
    for twist in ([0.1, 0.1, 0], [0, -0.2, 0], [-0.2, 0, 0.0]):
        arm.step([*twist, 0, 0, 0], 0.0, 0.6)
    arm.step(np.zeros(6), 0.0, 3.0)
    assert arm.block_positions()['blue'][2] > BLOCK_HALF_M + 0.08


def test_a_block_left_alone_does_not_move(arm):
    before = arm.block_positions()['red']
    arm.step(np.zeros(6), 1.0, 5.0)
    np.testing.assert_allclose(arm.block_positions()['red'], before, atol=5e-4)


@pytest.mark.parametrize('twist', [[0] * 5, [np.nan] + [0] * 5, [0, 0, np.inf, 0, 0, 0]])
def test_a_twist_that_is_not_six_finite_numbers_is_refused(arm, twist):
    with pytest.raises(ValueError, match='expected 6 finite numbers'):
        arm.step(twist, 1.0, 0.2)


@pytest.mark.parametrize('dt_s', [0.0, -0.02, 0.03])
def test_a_time_that_is_no_multiple_of_the_control_period_is_refused(arm, dt_s):
    with pytest.raises(ValueError, match=r'multiple of 0\.02 s'):
        arm.step(np.zeros(6), 1.0, dt_s)


def test_it_is_faster_than_real_time(arm):
    start_s = time.process_time()
    arm.step([0.05, 0.02, -0.02, 0, 0, 0], 1.0, 2.0)
    assert 2.0 / (time.process_time() - start_s) > 10.0


def test_rendering_without_having_asked_for_it_is_refused(arm):
    with pytest.raises(RuntimeError, match='render=False'):
        arm.render()
