import dataclasses

import pytest

from openvla_ros.safety.clamp import ActionInput, Clamp, Pose
from openvla_ros.safety.robot_profile import load_robot_profile

SIM = load_robot_profile('sim')
HERE = Pose((0.25, 0.0, 0.15), (0.0, 0.0, 0.0, 1.0))


def clamp_with_policy(profile=SIM, twist=(0.1, 0.0, 0.0, 0.0, 0.0, 0.0), seconds=1.0):
    """A clamp with a pose every tick and an action every 0.2 s, armed as soon as it may be."""
    clamp = Clamp(profile)
    for k in range(round(seconds / 0.02)):
        now_s, ros_s = 10.0 + 0.02 * k, 1000.0 + 0.02 * k
        clamp.set_pose(HERE, stamp_s=ros_s, now_s=now_s, ros_now_s=ros_s)
        if k % 10 == 0:
            action = ActionInput(ros_s - 0.01, 'base_link', k, 0.2, twist, 1.0, 'p')
            clamp.offer(action, now_s=now_s, ros_now_s=ros_s)
            clamp.arm(now_s)
        output = clamp.step(now_s, ros_s)
    return clamp, output.status, now_s


def test_a_fresh_start_says_what_is_missing_and_what_to_do():
    sentence = Clamp(SIM).step(0.0, 0.0).status.sentence
    assert sentence.startswith('DISARMED: not moving because the controller has just started')
    assert 'no end-effector pose has arrived' in sentence
    assert 'no policy is publishing actions' in sentence
    assert 'last action never, pose never' in sentence
    assert sentence.endswith('then call ~/arm.')


def test_an_armed_arm_says_speed_and_what_is_left():
    _, status, _ = clamp_with_policy()
    assert status.sentence.startswith('ACTIVE: executing actions, 0.0')
    assert 'mm left' in status.sentence
    assert 'scaled' not in status.sentence


def test_a_scaled_action_is_said_to_be():
    profile = dataclasses.replace(SIM, action_scale=0.3)
    _, status, _ = clamp_with_policy(profile)
    assert 'actions scaled by 0.30' in status.sentence


def test_a_stop_is_coming_to_rest_first():
    clamp, _, now_s = clamp_with_policy()
    clamp.fault('FAULT_INTERNAL', now_s)
    sentence = clamp.step(now_s + 0.02, 1000.0).status.sentence
    assert sentence.startswith('FAULT: coming to rest because the controller met an internal')
    assert sentence.endswith('call ~/reset at rest, then ~/arm.')


def test_actions_lost_on_the_way_are_counted():
    # The sequence numbers of this stream go up by ten.
    _, status, _ = clamp_with_policy()
    assert status.missed == 4 * 9


@pytest.mark.parametrize('mode', ['active', 'shadow'])
def test_the_mode_is_in_the_sentence_when_nothing_is_sent(mode):
    sentence = Clamp(dataclasses.replace(SIM, mode=mode)).step(0.0, 0.0).status.sentence
    assert ('nothing is sent' in sentence) == (mode == 'shadow')


def test_it_is_always_one_line():
    for sentence in (
        Clamp(SIM).step(0.0, 0.0).status.sentence,
        clamp_with_policy()[1].sentence,
    ):
        assert '\n' not in sentence
