"""A displacement of the end effector is checked when made and divides into a twist."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.action_space.eef_delta import EefDelta, delta_between, pose_after


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


#: At x = 0.3 m, turned by 90 degrees about z: its own x axis is the base's y axis.
QUARTER_TURN = np.array([0.3, 0.0, 0.2, 0.0, 0.0, np.sqrt(0.5), np.sqrt(0.5)])


@pytest.mark.parametrize(
    ('frame', 'position'), [('base', [0.32, -0.01, 0.2]), ('ee', [0.31, 0.02, 0.2])]
)
def test_a_displacement_is_along_the_axes_of_its_frame(frame, position):
    after = pose_after(QUARTER_TURN, make(frame=frame))
    np.testing.assert_allclose(after[:3], position, atol=1e-12)
    # About z both frames agree: 90 degrees and 0.1 rad more.
    turned = Rotation.from_quat(after[3:]).as_rotvec()
    np.testing.assert_allclose(turned, [0.0, 0.0, np.pi / 2 + 0.1], atol=1e-12)


@pytest.mark.parametrize('frame', ['base', 'ee'])
def test_the_displacement_between_two_poses_leads_from_one_to_the_other(frame):
    rng = np.random.default_rng(0)
    for _ in range(50):
        before, after = (
            np.concatenate([rng.normal(size=3), Rotation.random(rng=rng).as_quat()])
            for _ in range(2)
        )
        delta = delta_between(before, after, gripper=0.5, frame=frame, step_s=0.2)
        assert (delta.frame, delta.gripper, delta.step_s) == (frame, 0.5, 0.2)
        reached = pose_after(before, delta)
        np.testing.assert_allclose(reached[:3], after[:3], atol=1e-12)
        off = Rotation.from_quat(reached[3:]) * Rotation.from_quat(after[3:]).inv()
        assert off.magnitude() < 1e-9


@pytest.mark.parametrize('frame', ['base', 'ee'])
def test_a_displacement_comes_back_from_the_poses_it_connects(frame):
    delta = make(frame=frame, rotation_rad=[0.1, -0.2, 0.05])
    again = delta_between(
        QUARTER_TURN, pose_after(QUARTER_TURN, delta), gripper=1.0, frame=frame, step_s=0.2
    )
    np.testing.assert_allclose(again.translation_m, delta.translation_m, atol=1e-12)
    np.testing.assert_allclose(again.rotation_rad, delta.rotation_rad, atol=1e-12)
