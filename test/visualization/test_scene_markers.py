import numpy as np
import pytest

from openvla_ros.visualization.overlay import STATE_COLOURS, UNKNOWN_COLOUR
from openvla_ros.visualization.scene_markers import DISPLACEMENT_GAIN, WHITE, scene_markers
from openvla_ros.visualization.situation import STALE_S, PoseView, SafetyView, Situation

UPRIGHT = np.array([0.0, 0.0, 0.0, 1.0])
LO, HI = np.array([0.1, -0.2, 0.0]), np.array([0.5, 0.2, 0.3])


def situation_at(position=(0.3, 0.0, 0.15), state='ACTIVE', speed_mps=(0.05, 0.0, 0.0)):
    position = np.array(position, float)
    situation = Situation()
    situation.instruction = 'push the red block'
    situation.policy_sentence = 'READY: publishing'
    situation.saw_pose(PoseView(position, UPRIGHT), 1.0)
    situation.saw_action(np.array([0.1, 0, 0, 0, 0, 0]), False, 1.0, 0.2, 0.05, 1.0)
    distance = min((position - LO).min(), (HI - position).min())
    situation.saw_safety(
        SafetyView(state, 'moving', np.array(speed_mps), np.zeros(3), 0.5, distance, LO, HI, 'b'),
        1.0,
    )
    return situation


def by_namespace(situation, now_s=1.0):
    found = {}
    for shape in scene_markers(situation, now_s):
        found.setdefault(shape.namespace, []).append(shape)
    return found


def test_the_arrows_show_what_is_wanted_and_what_is_allowed():
    shapes = by_namespace(situation_at())
    wanted = np.diff(shapes['policy_displacement'][0].points_m, axis=0)[0]
    allowed = np.diff(shapes['allowed_twist'][0].points_m, axis=0)[0]
    # 0.1 m/s and 0.05 m/s for a step of 0.2 s.
    assert wanted == pytest.approx([0.02 * DISPLACEMENT_GAIN, 0.0, 0.0])
    assert allowed == pytest.approx([0.01 * DISPLACEMENT_GAIN, 0.0, 0.0])


def test_an_arm_at_rest_has_no_allowed_arrow():
    assert 'allowed_twist' not in by_namespace(situation_at(speed_mps=(0.0, 0.0, 0.0)))


def test_the_box_has_twelve_edges_between_its_corners():
    edges = by_namespace(situation_at())['workspace'][0].points_m.reshape(12, 2, 3)
    lengths = np.abs(edges[:, 1] - edges[:, 0])
    assert sorted(lengths.max(axis=1).round(6)) == [0.3] * 4 + [0.4] * 8
    assert ((lengths > 0).sum(axis=1) == 1).all()
    assert (edges.reshape(-1, 3).min(axis=0) == LO).all()
    assert (edges.reshape(-1, 3).max(axis=0) == HI).all()


def test_a_near_wall_is_shown_the_more_the_nearer():
    assert 'walls' not in by_namespace(situation_at())
    far = by_namespace(situation_at((0.3, 0.0, 0.04)))['walls']
    near = by_namespace(situation_at((0.3, 0.0, 0.005)))['walls']
    assert len(near) == 1
    assert near[0].position_m == pytest.approx([0.3, 0.0, 0.0])
    assert near[0].opacity > far[0].opacity


@pytest.mark.parametrize('state', STATE_COLOURS)
def test_the_state_is_written_in_its_colour(state):
    text = by_namespace(situation_at(state=state))['state'][0]
    assert text.colour == STATE_COLOURS[state]
    assert text.text == f'{state}: moving'


def test_stale_data_vanish_or_turn_grey():
    shapes = by_namespace(situation_at(), 1.0 + STALE_S + 1.0)
    moving = {'policy_displacement', 'policy_rotation', 'allowed_twist', 'gripper', 'walls'}
    assert not moving & set(shapes)
    assert shapes['workspace'][0].colour == UNKNOWN_COLOUR
    assert shapes['state'][0].colour == UNKNOWN_COLOUR
    assert shapes['state'][0].text == 'controller silent for 2.0 s'


def test_the_words_of_a_policy_that_is_gone_turn_grey():
    situation = situation_at()
    assert by_namespace(situation)['instruction'][0].colour == WHITE
    situation.policy_there = False
    shapes = by_namespace(situation, 1.0 + STALE_S + 1.0)
    assert shapes['instruction'][0].colour == UNKNOWN_COLOUR
    assert shapes['policy'][0].colour == UNKNOWN_COLOUR
    assert shapes['policy'][0].text == 'policy gone, its last word: READY: publishing'


def test_knowing_nothing_still_says_so():
    shapes = by_namespace(Situation())
    assert {name: shape[0].text for name, shape in shapes.items()} == {
        'instruction': 'no instruction',
        'state': 'no controller',
        'policy': 'no policy',
    }
