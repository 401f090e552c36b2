import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.safety.pose_tracker import Pose, PoseTracker
from openvla_ros.safety.robot_profile import load_robot_profile

SIM = load_robot_profile('sim')
HERE = Pose((0.3, 0.0, 0.2), (0.0, 0.0, 0.0, 1.0))
ROS = 1000.0


def tracker(pose=HERE):
    it = PoseTracker(SIM)
    assert it.offer(pose, ROS, 10.0, ROS)
    return it


def moved(x, y, z):
    return Pose((0.3 + x, y, 0.2 + z), HERE.quaternion_xyzw)


@pytest.mark.parametrize(
    ('pose', 'age_s', 'why'),
    [
        (Pose((math.nan, 0.0, 0.2), HERE.quaternion_xyzw), 0.0, 'finite'),
        (Pose((0.3, 0.0, math.inf), HERE.quaternion_xyzw), 0.0, 'finite'),
        (Pose((0.3, 0.0, 0.2), (0.0, 0.0, 0.0, 0.0)), 0.0, 'length 0'),
        (Pose((0.3, 0.0, 0.2), (0.5, 0.5, 0.0, 0.0)), 0.0, 'length'),
        (Pose((1e6, 0.0, 0.2), HERE.quaternion_xyzw), 0.0, 'from the base'),
        (HERE, 0.21, 'old'),
        (HERE, -0.06, 'old'),
    ],
)
def test_a_pose_that_cannot_be_is_refused_with_its_reason(pose, age_s, why):
    it = PoseTracker(SIM)
    assert not it.offer(pose, ROS - age_s, 10.0, ROS)
    assert it.measured is None
    assert why in it.refusal


def test_a_pose_with_the_same_stamp_is_not_a_new_one():
    it = tracker()
    assert not it.offer(HERE, ROS, 10.1, ROS + 0.1)
    assert 'increase' in it.refusal


def test_freshness_ends_with_the_timeout_of_the_steady_clock():
    it = tracker()
    assert it.is_fresh(10.19)
    assert not it.is_fresh(10.21)
    assert not it.is_fresh(9.9)
    assert not it.is_fresh(math.nan)


def test_a_pose_within_reach_is_no_jump():
    it = tracker()
    assert it.offer(moved(0.03, 0.0, 0.0), ROS + 0.02, 10.02, ROS + 0.02)
    assert it.jumped_s == -math.inf  # 3 * 0.25 m/s * 20 ms + 20 mm = 35 mm are allowed


def test_a_pose_out_of_reach_is_a_jump():
    it = tracker()
    assert it.offer(moved(0.04, 0.0, 0.0), ROS + 0.02, 10.02, ROS + 0.02)
    assert it.jumped_s == 10.02


def test_the_commanded_pose_integrates_commands():
    it = tracker()
    it.move((0.1, 0.0, 0.0), (0.0, 0.0, 0.5), 0.1)
    assert it.commanded.position_m == pytest.approx((0.31, 0.0, 0.2))
    np.testing.assert_allclose(
        it.commanded.quaternion_xyzw, Rotation.from_rotvec([0, 0, 0.05]).as_quat(), atol=1e-12
    )


def test_the_commanded_pose_is_held_on_a_leash():
    it = tracker()
    for _ in range(100):
        it.move((0.25, 0.0, 0.0), (0.0, 0.0, 1.0), 0.02)
    assert it.commanded.position_m == pytest.approx((0.35, 0.0, 0.2))
    turned = Rotation.from_quat(it.commanded.quaternion_xyzw).magnitude()
    assert turned == pytest.approx(SIM.pose.leash_rad)


def test_an_integrated_pose_follows_commands_and_takes_no_measurement():
    pose = dataclasses.replace(SIM.pose, source='integrated', start_position_m=(0.2, 0.0, 0.1))
    it = PoseTracker(dataclasses.replace(SIM, pose=pose))
    it.move((0.1, 0.0, 0.0), (0.0, 0.0, 0.0), 0.1)
    assert it.measured.position_m == pytest.approx((0.21, 0.0, 0.1))
    assert not it.offer(HERE, ROS, 10.0, ROS)
    assert it.is_fresh(1e9)
    assert it.hold_s(10.0, 0.02) == 0.02


def test_the_unseen_time_counts_latency_and_the_age_of_the_measurement():
    assert tracker().hold_s(10.05, 0.02) == pytest.approx(0.02 + SIM.pose.latency_s + 0.05)
