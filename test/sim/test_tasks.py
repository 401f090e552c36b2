import numpy as np
import pytest

from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.scene import COLOURS, Block, Scene
from openvla_ros.sim.tasks import (
    KINDS,
    PHRASINGS,
    Success,
    Task,
    find_episode,
    sample_episode,
    understand,
)

RED_AND_BLUE = (Block('red', (0.28, 0.0)), Block('blue', (0.22, 0.12)))


def arm_at(x, y, z):
    return SimArm(Scene(blocks=RED_AND_BLUE, start_position_m=(x, y, z)), render=False)


def judge(kind, arm, colour='red'):
    return Success(Task(kind, colour, f'{kind} {colour}'), arm)


def move(arm, success, twist, seconds, opening=1.0):
    for _ in range(round(seconds / 0.02)):
        arm.step([*twist, 0, 0, 0], opening, 0.02)
        success.update(arm)


@pytest.mark.parametrize('kind', KINDS)
def test_a_seed_is_an_episode_for_ever(kind):
    assert sample_episode(kind, 17) == sample_episode(kind, 17)
    assert sample_episode(kind, 17) != sample_episode(kind, 18)


@pytest.mark.parametrize('kind', KINDS)
def test_no_scene_is_in_both_splits(kind):
    def places(split):
        return {sample_episode(kind, seed, split).scene.blocks for seed in range(200)}

    assert places('train').isdisjoint(places('test'))


@pytest.mark.parametrize('kind', KINDS)
def test_scenes_have_two_to_four_blocks_and_the_sentence_names_one_of_them(kind):
    counts, colours, phrasings = set(), set(), set()
    for seed in range(150):
        episode = sample_episode(kind, seed)
        in_scene = [block.colour for block in episode.scene.blocks]
        counts.add(len(in_scene))
        colours.add(episode.task.colour)
        phrasings.add(episode.task.instruction.replace(episode.task.colour, '{}'))
        assert episode.task.colour in in_scene
        assert understand(episode.task.instruction) == (kind, episode.task.colour)
    assert counts == {2, 3, 4}
    assert colours == set(COLOURS)
    assert phrasings == set(PHRASINGS[kind])


@pytest.mark.parametrize(
    ('kind', 'seed', 'split'), [('fly', 0, 'train'), ('reach', -1, 'train'), ('reach', 0, 'dev')]
)
def test_an_unknown_episode_is_refused(kind, seed, split):
    with pytest.raises(ValueError, match=r'expected kind reach\|push\|pick'):
        sample_episode(kind, seed, split)


@pytest.mark.parametrize(
    ('sentence', 'meaning'),
    [
        ('Pick up the RED block.', ('pick', 'red')),
        ('please push the green cube', ('push', 'green')),
        ('make coffee', None),
        ('reach the block', None),
        ('reach the red or the blue block', None),
        ('reach and push the red block', None),
        ('', None),
    ],
)
def test_a_sentence_means_one_task_and_one_colour_or_nothing(sentence, meaning):
    assert understand(sentence) == meaning


def test_an_episode_is_found_for_a_sentence():
    episode = find_episode('lift the purple block', 3)
    assert (episode.task.kind, episode.task.colour) == ('pick', 'purple')
    assert episode.task.instruction == 'lift the purple block'
    assert episode.seed >= 3
    assert episode.scene == sample_episode('pick', episode.seed, 'test').scene
    with pytest.raises(ValueError, match="got 'sing', expected a task"):
        find_episode('sing', 0)


def test_reach_needs_the_end_effector_over_the_block_for_a_while():
    arm = arm_at(0.28, 0.0, 0.075)  # 5 mm above the goal at 0.02 + 0.05
    success = judge('reach', arm)
    move(arm, success, (0, 0, 0), 0.30)
    assert not success.done
    move(arm, success, (0, 0, 0), 0.14)
    assert success.done


def test_reach_of_another_block_is_no_success():
    arm = arm_at(0.28, 0.0, 0.075)
    success = judge('reach', arm, 'blue')
    move(arm, success, (0, 0, 0), 1.0)
    assert not success.done


def test_passing_over_the_block_is_no_reach():
    arm = arm_at(0.28, -0.10, 0.075)
    success = judge('reach', arm)
    move(arm, success, (0, 0.2, 0), 1.0)  # 60 mm of success zone at 0.2 m/s take 0.3 s
    assert not success.done


def test_push_needs_four_centimetres_away_from_the_arm():
    arm = arm_at(0.20, 0.0, 0.022)
    success = judge('push', arm)
    move(arm, success, (0, 0, 0), 0.4, opening=0.0)
    # Fingers' front at 0.2105, block's back at 0.26: contact after 49.5 mm.
    move(arm, success, (0.1, 0, 0), 0.84, opening=0.0)
    assert arm.block_positions()['red'][0] - 0.28 == pytest.approx(0.0345, abs=0.004)
    assert not success.done
    move(arm, success, (0.1, 0, 0), 0.10, opening=0.0)
    assert success.done
    assert not success.touched_wrong


def test_pushing_the_wrong_block_is_noticed():
    arm = arm_at(0.20, 0.0, 0.022)
    success = judge('push', arm, 'blue')
    move(arm, success, (0.1, 0, 0), 1.2, opening=0.0)
    assert not success.done
    assert success.touched_wrong


def test_pick_needs_five_centimetres_for_a_while():
    arm = arm_at(0.28, 0.0, 0.02)
    success = judge('pick', arm)
    move(arm, success, (0, 0, 0), 0.5, opening=0.0)
    move(arm, success, (0, 0, 0.1), 0.45, opening=0.0)
    assert not success.done
    move(arm, success, (0, 0, 0.1), 0.15, opening=0.0)
    assert not success.done
    move(arm, success, (0, 0, 0), 0.5, opening=0.0)
    assert success.done
    move(arm, success, (0, 0, 0), 0.5, opening=1.0)  # dropped again: done stays done
    assert arm.block_positions()['red'][2] < 0.05
    assert success.done


def test_an_arm_at_rest_does_nothing():
    for kind in KINDS:
        arm = arm_at(0.20, -0.10, 0.15)
        success = judge(kind, arm)
        move(arm, success, (0, 0, 0), 2.0)
        assert not success.done
        assert not success.touched_wrong
        np.testing.assert_allclose(arm.block_positions()['red'], [0.28, 0, 0.02], atol=5e-4)
