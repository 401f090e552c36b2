import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.core import unit_quaternion as uq

ROTVECS = [
    (0.0, 0.0, 0.0),
    (1e-10, 0.0, 0.0),
    (0.3, -0.2, 0.1),
    (0.0, 3.1, 0.0),
    (-2.0, 1.0, 2.0),
]


@pytest.mark.parametrize('rotvec', ROTVECS)
def test_exp_is_that_of_scipy(rotvec):
    np.testing.assert_allclose(uq.exp(rotvec), Rotation.from_rotvec(rotvec).as_quat(), atol=1e-12)


@pytest.mark.parametrize('rotvec', ROTVECS)
def test_log_undoes_exp(rotvec):
    np.testing.assert_allclose(uq.log(uq.exp(rotvec)), rotvec, atol=1e-12)


def test_log_takes_the_short_way_for_either_sign_of_the_quaternion():
    q = uq.exp((0.0, 0.0, 0.5))
    np.testing.assert_allclose(uq.log(tuple(-x for x in q)), (0.0, 0.0, 0.5), atol=1e-12)


def test_multiply_applies_the_second_argument_first():
    a, b = uq.exp((0.4, 0.0, 0.1)), uq.exp((0.0, -0.7, 0.3))
    expected = (Rotation.from_quat(a) * Rotation.from_quat(b)).as_matrix()
    np.testing.assert_allclose(
        Rotation.from_quat(uq.multiply(a, b)).as_matrix(), expected, atol=1e-12
    )


def test_rotate_turns_vectors_as_scipy_does():
    q = uq.exp((0.4, -1.0, 0.1))
    np.testing.assert_allclose(
        uq.rotate(q, (1.0, 2.0, 3.0)), Rotation.from_quat(q).apply([1.0, 2.0, 3.0]), atol=1e-12
    )


def test_the_inverse_takes_the_rotation_back():
    q = uq.exp((0.4, -1.0, 0.1))
    np.testing.assert_allclose(uq.multiply(q, uq.inverse(q)), uq.IDENTITY, atol=1e-12)


def test_normalized_has_length_one():
    assert np.linalg.norm(uq.normalized((0.0, 3.0, 0.0, 4.0))) == pytest.approx(1.0)
