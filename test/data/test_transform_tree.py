import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.transform_tree import StampedTransform, TransformTree
from openvla_ros.safety.pose_tracker import Pose

QUARTER_TURN = tuple(Rotation.from_rotvec([0.0, 0.0, np.pi / 2]).as_quat())


def transform(parent, child, position=(0.0, 0.0, 0.0), turn=(0.0, 0.0, 0.0, 1.0), stamp_s=0.0):
    return StampedTransform(stamp_s, parent, child, Pose(tuple(position), turn))


def joint(parent='base', child='tool'):
    return [
        transform(parent, child, (0.1 * i, 0.0, 0.0), stamp_s=10.0 + 0.1 * i) for i in range(4)
    ]


def test_the_way_up_is_composed_of_static_and_moving_transforms():
    static = [transform('base', 'shoulder', (0.0, 0.0, 1.0), QUARTER_TURN)]
    chain = TransformTree(joint('shoulder', 'tool'), static).chain('base', 'tool')
    # The tool goes along the shoulder's x, which is the base's y.
    assert np.allclose(chain.at(10.15).position_m, [0.0, 0.15, 1.0])
    assert np.allclose(chain.at(10.15).quaternion_xyzw, QUARTER_TURN)
    assert chain.span_s == (10.0, pytest.approx(10.3))
    assert chain.at(12.0) is None


def test_a_base_that_is_no_ancestor_is_reached_through_the_common_one():
    static = [transform('world', 'base', (5.0, 0.0, 0.0), QUARTER_TURN)]
    chain = TransformTree(joint('world', 'tool'), static).chain('/base', 'tool')
    # 0.1 - 5 along the world's x is along the base's -y.
    assert np.allclose(chain.at(10.1).position_m, [0.0, 4.9, 0.0])


def test_the_newest_static_transform_holds_at_all_times():
    static = [transform('base', 'link', (1.0, 0.0, 0.0)), transform('base', 'link')]
    chain = TransformTree(joint('link', 'tool'), static).chain('base', 'tool')
    assert np.allclose(chain.at(10.2).position_m, [0.2, 0.0, 0.0])


def test_what_is_above_both_frames_does_not_matter():
    above = [transform('odom', 'base', stamp_s=0.0), transform('map', 'base', stamp_s=1.0)]
    chain = TransformTree([*above, *joint()], []).chain('base', 'tool')
    assert np.allclose(chain.at(10.1).position_m, [0.1, 0.0, 0.0])


@pytest.mark.parametrize(
    ('moving', 'static', 'frames', 'sentence'),
    [
        (joint(), [], ('base', 'tol'), r"frame 'tol' is not among .*did you mean 'tool'.*base"),
        ([], [], ('base', 'tool'), 'there are none'),
        (joint(), [transform('a', 'b')], ('a', 'tool'), "end at 'a' and 'base', which nothing"),
        (joint(), [transform('tool', 'tip')], ('tool', 'tip'), 'are static'),
        ([*joint(), *joint('other')], [], ('base', 'tool'), "parents 'base', 'other', expected"),
        ([*joint('a', 'b'), *joint('b', 'a'), *joint('c', 'd')], [], ('c', 'a'), 'no circle'),
        ([transform('base', 'tool', (np.nan, 0, 0))], [], ('base', 'tool'), 'there are none'),
        ([transform('base', 'base')], [], ('base', 'tool'), 'there are none'),
    ],
)
def test_a_chain_that_is_none_is_one_sentence(moving, static, frames, sentence):
    with pytest.raises(ConfigError, match=sentence) as refusal:
        TransformTree(moving, static).chain(*frames)
    assert '\n' not in str(refusal.value)
