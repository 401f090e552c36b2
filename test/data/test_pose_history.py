import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from openvla_ros.data.pose_history import PoseHistory, compose, interpolate, inverse
from openvla_ros.safety.pose_tracker import Pose

NO_TURN = (0.0, 0.0, 0.0, 1.0)


def random_pose(rng):
    quaternion = rng.normal(size=4)
    return Pose.of(rng.uniform(-1, 1, 3), quaternion / np.linalg.norm(quaternion))


def matrix(pose):
    result = np.eye(4)
    result[:3, :3] = Rotation.from_quat(pose.quaternion_xyzw).as_matrix()
    result[:3, 3] = pose.position_m
    return result


def at_x(x, quaternion=NO_TURN):
    return Pose((x, 0.0, 0.0), quaternion)


def test_between_two_samples_the_pose_is_interpolated_as_scipy_does():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second, part = random_pose(rng), random_pose(rng), rng.uniform()
        found = interpolate(first, second, part)
        ends = Rotation.from_quat([first.quaternion_xyzw, second.quaternion_xyzw])
        expected = Slerp([0.0, 1.0], ends)(part)
        assert (Rotation.from_quat(found.quaternion_xyzw) * expected.inv()).magnitude() < 1e-9
        line = np.add(first.position_m, part * np.subtract(second.position_m, first.position_m))
        assert np.allclose(found.position_m, line)


def test_both_signs_of_a_quaternion_turn_the_short_way():
    quaternion = Rotation.from_rotvec([0.0, 0.0, 0.2]).as_quat()
    found = interpolate(at_x(0.0), Pose.of((0.0, 0.0, 0.0), -quaternion), 0.5)
    turned = Rotation.from_quat(found.quaternion_xyzw).as_rotvec()
    assert turned == pytest.approx([0.0, 0.0, 0.1])


def test_composition_and_inverse_are_those_of_matrices():
    rng = np.random.default_rng(1)
    a, b = random_pose(rng), random_pose(rng)
    assert np.allclose(matrix(compose(a, b)), matrix(a) @ matrix(b))
    assert np.allclose(matrix(inverse(a)), np.linalg.inv(matrix(a)))


def test_samples_may_come_in_any_order():
    history = PoseHistory([10.2, 10.0, 10.1], [at_x(2.0), at_x(0.0), at_x(1.0)])
    assert history.at(10.05).position_m[0] == pytest.approx(0.5)
    assert history.span_s == (10.0, 10.2)


def test_a_gap_in_which_the_arm_moved_is_unknown_but_for_its_ends():
    history = PoseHistory([0.0, 1.0], [at_x(0.0), at_x(0.3)])
    assert history.at(0.5) is None
    assert history.at(0.04) == at_x(0.0)
    assert history.at(0.96) == at_x(0.3)
    assert history.at(-0.04) == at_x(0.0)
    assert history.at(1.06) is None


def test_an_arm_that_is_where_it_was_did_not_move_in_a_gap():
    history = PoseHistory([0.0, 1.0, 2.0], [at_x(0.3), at_x(0.3), at_x(0.4)])
    assert history.at(0.5).position_m == pytest.approx((0.3, 0.0, 0.0))
    assert history.at(1.5) is None


@pytest.mark.parametrize(
    'bad',
    [
        at_x(math.nan),
        at_x(math.inf),
        at_x(9.0, (0.0, 0.0, 0.0, 0.0)),
        at_x(9.0, (0.0, 0.0, 0.0, 2.0)),
        at_x(9.0, (math.nan, 0.0, 0.0, 1.0)),
    ],
)
def test_a_sample_that_is_no_pose_is_ignored(bad):
    history = PoseHistory([0.0, 0.1, 0.2], [at_x(0.0), bad, at_x(0.2)])
    assert history.at(0.1).position_m == pytest.approx((0.1, 0.0, 0.0))
    assert PoseHistory([0.0], [bad]).at(0.0) is None
