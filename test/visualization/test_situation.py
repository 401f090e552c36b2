import math

import numpy as np
import pytest

from openvla_ros.visualization.situation import PATH_S, STALE_S, PoseView, SafetyView, Situation

UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])
QUARTER_TURN_ABOUT_Z = np.array([0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)])


def safety(state='ACTIVE', speed_mps=(0.1, 0.0, 0.0), **changes):
    values = {
        'state': state,
        'sentence': 'moving',
        'linear_mps': np.array(speed_mps),
        'angular_radps': np.zeros(3),
        'gripper': 1.0,
        'wall_distance_m': 0.1,
        'box_lo_m': np.array([0.1, -0.2, 0.0]),
        'box_hi_m': np.array([0.5, 0.2, 0.3]),
        'frame_id': 'base_link',
    }
    return SafetyView(**{**values, **changes})


def moved(situation, now_s, twist=(0.1, 0, 0, 0, 0, 0.5), *, frame_is_ee=False):
    situation.saw_action(np.array(twist, float), frame_is_ee, 1.0, 0.2, 0.05, now_s)


def test_a_twist_is_shown_as_the_displacement_of_one_step():
    situation = Situation()
    moved(situation, 1.0)
    action = situation.action(1.1)
    assert action.displacement_m == pytest.approx([0.02, 0.0, 0.0])
    assert action.rotation_rad == pytest.approx([0.0, 0.0, 0.1])


def test_an_action_in_the_end_effector_frame_is_turned_into_the_base_frame():
    situation = Situation()
    moved(situation, 1.0, frame_is_ee=True)
    assert situation.action(1.0) is None
    situation.saw_pose(PoseView(np.zeros(3), QUARTER_TURN_ABOUT_Z), 1.0)
    moved(situation, 1.0, frame_is_ee=True)
    # The end effector's x points along the base's y.
    assert situation.action(1.0).displacement_m == pytest.approx([0.0, 0.02, 0.0])


def test_the_allowed_displacement_is_the_commanded_speed_over_one_step():
    situation = Situation()
    moved(situation, 1.0)
    assert situation.allowed_m(1.0) is None
    situation.saw_safety(safety(speed_mps=(0.05, 0.0, 0.0)), 1.0)
    assert situation.allowed_m(1.0) == pytest.approx([0.01, 0.0, 0.0])


def test_what_is_old_is_not_shown():
    situation = Situation()
    moved(situation, 1.0)
    situation.saw_safety(safety(), 1.0)
    situation.saw_pose(PoseView(np.zeros(3), UPRIGHT), 1.0)
    later = 1.0 + STALE_S + 0.01
    state = situation.overlay_state(later)
    assert (state.wanted_m, state.allowed_m, state.safety_state, state.ee_position_m) == (
        None,
    ) * 4
    assert situation.last_safety().state == 'ACTIVE'
    assert situation.safety_age_s(later) == pytest.approx(STALE_S + 0.01)


def test_the_rate_is_that_of_the_last_actions_and_ends_with_them():
    situation = Situation()
    for step in range(11):
        moved(situation, 0.2 * step)
    assert situation.policy_rate_hz(2.0) == pytest.approx(5.0)
    assert situation.policy_rate_hz(2.0 + STALE_S + 0.1) is None


def test_the_path_holds_points_apart_and_forgets():
    situation = Situation()
    for n in range(100):
        situation.saw_pose(PoseView(np.array([1e-4 * n, 0.0, 0.0]), UPRIGHT), 0.01 * n)
    # 9.9 mm in steps of at least 2 mm: the first point and four more.
    assert len(situation.path(1.0)) == 5
    assert situation.path(1.0 + PATH_S) == []


def test_a_pause_is_not_taken_for_a_slow_rate():
    situation = Situation()
    for now_s in (1.0, 1.2, 1.4, 60.0, 60.2, 60.4):
        moved(situation, now_s)
    assert situation.policy_rate_hz(60.4) == pytest.approx(5.0)


def test_a_policy_that_is_gone_has_no_instruction_in_force():
    situation = Situation()
    situation.instruction, situation.policy_sentence = 'push the block', 'READY: publishing'
    assert situation.overlay_state(1.0).instruction == 'push the block'
    situation.policy_there = False
    state = situation.overlay_state(1.0)
    assert state.instruction == ''
    assert state.policy_sentence == 'policy gone, its last word: READY: publishing'
