"""A displacement of the end effector is checked when made and divides into a twist."""

import numpy as np
import pytest

from openvla_ros.core.eef_delta import EefDelta


def make(**changes):
    values = {
        'translation_m': [0.02, -0.01, 0.0],
        'rotation_rad': [0.0, 0.0, 0.1],
        'gripper': 1.0,
        'frame': 'base',
        'step_s': 0.2,
    }
    return EefDelta(**(values | changes))


def test_the_twist_is_the_displacement_over_the_step():
    # 20 mm in 0.2 s is 0.1 m/s; 0.1 rad in 0.2 s is 0.5 rad/s.
    np.testing.assert_allclose(make().twist(), [0.1, -0.05, 0.0, 0.0, 0.0, 0.5])


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('translation_m', [0.0, float('nan'), 0.0]),
        ('translation_m', [0.0, 0.0]),
        ('rotation_rad', [float('inf'), 0.0, 0.0]),
        ('gripper', float('nan')),
        ('gripper', 1.01),
        ('frame', 'world'),
        ('step_s', 0.0),
        ('step_s', float('nan')),
    ],
)
def test_what_could_not_be_executed_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        make(**{name: value})


def test_the_arrays_cannot_change_afterwards():
    source = np.array([0.01, 0.0, 0.0])
    delta = make(translation_m=source)
    source[0] = 5.0
    assert delta.translation_m[0] == 0.01
    with pytest.raises(ValueError, match='read-only'):
        delta.translation_m[0] = 1.0


def test_the_bins_nearest_to_zero_are_no_motion():
    assert not make(translation_m=[0.0002, 0.0002, 0.0002], rotation_rad=[0.001] * 3).is_motion()
    assert make().is_motion()
    assert make(translation_m=[0, 0, 0]).is_motion()
