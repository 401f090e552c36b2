import math

import numpy as np
import pytest

from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.driver import CATCH_UP_S, SimDriver
from openvla_ros.sim.scene import Block, Scene

TICK_S = 0.02


@pytest.fixture
def driver():
    scene = Scene(blocks=(Block('red', (0.33, 0.14)),), start_position_m=(0.22, -0.05, 0.15))
    return SimDriver(SimArm(scene, render=False), 100.0)


def speed(driver):
    return float(np.linalg.norm(driver.arm.ee_velocity()[:3]))


def run(driver, start_s, seconds, twist=None):
    for i in range(round(seconds / TICK_S)):
        now_s = start_s + (i + 1) * TICK_S
        if twist is not None:
            driver.command(twist, now_s - 0.001)
        driver.advance(now_s)
    return start_s + round(seconds / TICK_S) * TICK_S


def test_it_follows_a_fresh_twist(driver):
    before = driver.arm.ee_pose().position_m
    run(driver, 100.0, 0.4, [0.1, 0, 0, 0, 0, 0])
    moved = driver.arm.ee_pose().position_m - before
    assert moved[0] == pytest.approx(0.04, abs=0.002)


def test_without_commands_it_stops_within_timeout_tick_and_braking_time(driver):
    now_s = run(driver, 100.0, 0.4, [0.2, 0.1, 0, 0, 0, 0])
    received_s = now_s - 0.001
    assert speed(driver) > 0.2
    while driver.advance(now_s := now_s + TICK_S).periods and speed(driver) > 0.005:
        assert now_s < received_s + 0.1 + TICK_S + 0.1
    assert now_s >= received_s + 0.08  # a command is not dropped before its time either


def test_it_follows_again_when_commands_come_back(driver):
    now_s = run(driver, 100.0, 0.4, [0.2, 0, 0, 0, 0, 0])
    now_s = run(driver, now_s, 1.0)
    assert speed(driver) < 1e-3
    run(driver, now_s, 0.4, [0, 0.2, 0, 0, 0, 0])
    assert speed(driver) > 0.15


def test_a_stall_does_not_move_the_arm_with_an_old_twist(driver):
    now_s = run(driver, 100.0, 0.4, [0.2, 0, 0, 0, 0, 0])
    before = driver.arm.ee_pose().position_m
    progress = driver.advance(now_s + 5.0)
    assert progress.lost_s == pytest.approx(5.0 - CATCH_UP_S)
    assert progress.periods == round(CATCH_UP_S / TICK_S)
    assert np.linalg.norm(driver.arm.ee_pose().position_m - before) < 0.01


@pytest.mark.parametrize('bad', [[math.nan] + [0] * 5, [0, 0, math.inf, 0, 0, 0], [0.1] * 5])
def test_a_bad_twist_is_refused_and_ends_the_one_before(driver, bad):
    now_s = run(driver, 100.0, 0.4, [0.2, 0, 0, 0, 0, 0])
    assert 'expected 6 finite numbers' in driver.command(bad, now_s)
    for i in range(5):
        driver.advance(now_s + (i + 1) * TICK_S)
    assert speed(driver) < 0.005


def test_a_clock_that_jumps_back_moves_nothing(driver):
    now_s = run(driver, 100.0, 0.2, [0.2, 0, 0, 0, 0, 0])
    before = driver.arm.data.qpos.copy()
    assert driver.advance(now_s - 10.0).periods == 0
    np.testing.assert_array_equal(driver.arm.data.qpos, before)


@pytest.mark.parametrize('opening', [-0.1, 1.1, math.nan, math.inf])
def test_a_gripper_opening_out_of_range_is_refused(driver, opening):
    driver.set_opening(0.0)
    assert 'expected 0 (closed) to 1 (open)' in driver.set_opening(opening)
    run(driver, 100.0, 0.6)
    assert driver.arm.gripper_opening() < 0.02
