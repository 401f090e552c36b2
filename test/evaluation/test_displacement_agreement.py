import numpy as np
import pytest

from openvla_ros.evaluation.displacement_agreement import Displacements, compare

RNG = np.random.default_rng(0)
N = 60
RECORDED = Displacements(
    RNG.normal(0, 0.01, (N, 3)), RNG.normal(0, 0.05, (N, 3)), (np.arange(N) % 20 < 10) * 1.0
)


def predicted(translation=None, rotation=None, gripper=None):
    return Displacements(
        RECORDED.translation_m if translation is None else translation,
        RECORDED.rotation_rad if rotation is None else rotation,
        RECORDED.gripper if gripper is None else gripper,
    )


def test_a_perfect_prediction_has_no_error_and_no_finding():
    agreement = compare(predicted(), RECORDED)
    assert agreement.findings == ()
    assert agreement.direction_cosine == pytest.approx(1.0)
    assert agreement.within_30_deg == 1.0
    assert agreement.gripper_agreement == 1.0
    assert all(axis.mean_abs_error == 0 and axis.sign_agreement == 1.0 for axis in agreement.axes)


def test_a_noisy_prediction_has_no_finding():
    noise = RNG.normal(0, 0.006, (N, 3))
    assert compare(predicted(RECORDED.translation_m + noise), RECORDED).findings == ()


@pytest.mark.parametrize(('axis', 'name'), enumerate('xyz'))
def test_a_flipped_axis_is_named(axis, name):
    signs = np.ones(3)
    signs[axis] = -1
    (finding,) = compare(predicted(RECORDED.translation_m * signs), RECORDED).findings
    assert finding.startswith(f'axis {name} looks flipped')


def test_a_flipped_rotation_is_named():
    signs = np.array([1, 1, -1])
    (finding,) = compare(predicted(rotation=RECORDED.rotation_rad * signs), RECORDED).findings
    assert finding.startswith('axis rz looks flipped')


def test_swapped_axes_are_named():
    findings = compare(predicted(RECORDED.translation_m[:, [1, 0, 2]]), RECORDED).findings
    assert findings == ('axes x and y look swapped',)


def test_units_that_differ_are_named():
    (finding,) = compare(predicted(RECORDED.translation_m * 20), RECORDED).findings
    assert 'predicted translations are 20 times as long' in finding


def test_an_inverted_gripper_is_named():
    (finding,) = compare(predicted(gripper=1 - RECORDED.gripper), RECORDED).findings
    assert finding.startswith('the gripper looks inverted')


def test_errors_are_in_millimetres_and_milliradians():
    shifted = RECORDED.translation_m + np.array([0.003, 0, 0])
    agreement = compare(predicted(shifted, RECORDED.rotation_rad + 0.02), RECORDED)
    assert agreement.axes[0].mean_abs_error == pytest.approx(3.0)
    assert agreement.axes[3].mean_abs_error == pytest.approx(20.0)
    assert agreement.axes[3].unit == 'mrad'


def test_a_recording_at_rest_says_nothing():
    still = Displacements(np.zeros((N, 3)), np.zeros((N, 3)), np.full(N, np.nan))
    agreement = compare(still, still)
    assert agreement.direction_cosine is None
    assert agreement.gripper_agreement is None
    assert agreement.axes[0].sign_agreement is None
    assert agreement.findings == ()


def test_nothing_cannot_be_compared():
    none = Displacements(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))
    with pytest.raises(ValueError, match='got 0 predicted and 0 recorded'):
        compare(none, none)
