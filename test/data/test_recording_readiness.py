"""What would make an episode useless is said before it is recorded."""

import math
from dataclasses import replace

import pytest

from openvla_ros.data.recording_readiness import (
    Arrivals,
    Needs,
    Observed,
    camera_warning,
    faults,
)

NEEDS = Needs(step_s=0.2, pose_timeout_s=0.2, min_free_bytes=2_000_000_000)
GOOD = Observed(
    image='/camera/image_raw',
    image_age_s=0.03,
    image_rate_hz=30.0,
    image_fault='',
    pose='/ee_pose',
    pose_age_s=0.02,
    pose_fault='',
    gripper='/gripper_cmd',
    opening=1.0,
    free_bytes=50_000_000_000,
)


def test_all_there_is_ready():
    assert faults(GOOD, NEEDS) == []


@pytest.mark.parametrize(
    ('change', 'code', 'sentence'),
    [
        ({'image_age_s': math.inf, 'image_rate_hz': 0.0}, 'NO_IMAGE', 'no image arrived yet'),
        ({'image_age_s': 1.5}, 'NO_IMAGE', '/camera/image_raw: no image for 1.5 s'),
        ({'image_rate_hz': 4.7}, 'CAMERA_SLOW', 'got 4.7 images a second, expected 5 or more'),
        ({'image_fault': 'bayer'}, 'IMAGE_UNUSABLE', '/camera/image_raw: bayer'),
        ({'pose_age_s': math.inf}, 'NO_POSE', '/ee_pose: no pose of the end effector arrived'),
        ({'pose_age_s': 0.4}, 'NO_POSE', 'for 0.4 s'),
        ({'pose_fault': 'frame'}, 'POSE_UNUSABLE', '/ee_pose: frame'),
        ({'opening': None}, 'NO_GRIPPER', '/gripper_cmd: no opening of the gripper arrived'),
        ({'opening': 37.0}, 'GRIPPER_RANGE', 'got an opening of 37, expected 0'),
        ({'opening': math.nan}, 'GRIPPER_RANGE', 'got an opening of nan'),
        ({'free_bytes': 1_900_000_000}, 'DISK_FULL', '1.9 GB left, expected 2 or more'),
    ],
)
def test_each_fault_is_one_sentence(change, code, sentence):
    (fault,) = faults(replace(GOOD, **change), NEEDS)
    assert fault.code == code
    assert sentence in fault.sentence


def test_several_faults_are_all_said():
    observed = replace(GOOD, image_rate_hz=1.0, opening=None)
    assert [fault.code for fault in faults(observed, NEEDS)] == ['CAMERA_SLOW', 'NO_GRIPPER']


def test_a_camera_at_the_dataset_s_rate_with_jitter_is_enough_but_warned_of():
    observed = replace(GOOD, image_rate_hz=4.9)
    assert faults(observed, NEEDS) == []
    assert 'below 10 some steps' in camera_warning(observed, NEEDS)
    assert camera_warning(replace(GOOD, image_rate_hz=9.8), NEEDS) == ''


def test_the_rate_is_that_of_the_last_seconds():
    arrivals = Arrivals()
    assert arrivals.age_s(0.0) == math.inf
    assert arrivals.rate_hz(0.0) == 0.0
    for k in range(61):  # 20 a second from 0 s to 3 s
        arrivals.note(0.05 * k)
    assert arrivals.rate_hz(3.0) == pytest.approx(20.0)
    for k in range(1, 16):  # then 5 a second to 6 s
        arrivals.note(3.0 + 0.2 * k)
    assert arrivals.rate_hz(6.0) == pytest.approx(5.0)
    assert arrivals.age_s(6.5) == pytest.approx(0.5)
    assert arrivals.rate_hz(9.5) == 0.0
    assert arrivals.count == 76
