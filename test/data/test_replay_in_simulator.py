"""A demonstration of the simulated arm, recorded, prepared, and done again from the data set."""

import numpy as np
import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed (requirements/data.txt)')

from openvla_ros.action_space.dataset_profile import to_eef_delta
from openvla_ros.data.__main__ import main
from openvla_ros.data.data_set import DataSet
from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.expert import ScriptedExpert
from openvla_ros.sim.tasks import sample_episode

PART_S, PARTS = 0.02, 10
STEPS = 40


def drive(arm, delta, at_s, note):
    """One step of 0.2 s."""
    for part in range(PARTS):
        note(at_s + PART_S * part)
        arm.step(delta.twist(), delta.gripper, PART_S)


@pytest.mark.parametrize('motion', ['achieved', 'commanded'])
def test_the_actions_of_the_data_set_end_where_the_demonstration_ended(tmp_path, open_bag, motion):
    episode = sample_episode('pick', 5)
    arm, expert = SimArm(episode.scene, width=64, height=64), ScriptedExpert(episode.task)
    with open_bag('demonstration') as bag:
        bag.text(0.0, episode.task.instruction)
        for step in range(STEPS):
            at_s = step * PART_S * PARTS
            bag.raw(at_s, arm.render())
            delta = expert.act(arm)

            def note(at_s, delta=delta):
                pose = arm.ee_pose()
                bag.pose(at_s, np.concatenate([pose.position_m, pose.quaternion_xyzw]))
                bag.twist(at_s, delta.twist())
                bag.opening(at_s, delta.gripper)

            drive(arm, delta, at_s, note)
        note(STEPS * PART_S * PARTS)
    ended = arm.ee_pose().position_m.copy()
    arm.close()
    assert main(
        ['prepare', str(tmp_path / 'demonstration'), '--out', str(tmp_path / 'set'),
         '--unnorm-key', 'openvla_ros_demo', '--motion', motion, '--keep-no-ops']
    ) == 0  # fmt: skip
    data = DataSet(tmp_path / 'set')
    again = SimArm(episode.scene, width=64, height=64)
    for index in range(len(data)):
        drive(again, to_eef_delta(data.actions[index], data.profile), 0.0, lambda at_s: None)
    reached = again.ee_pose().position_m.copy()
    started = data.states[0, :3]
    again.close()
    assert np.linalg.norm(ended - started) > 0.05  # it went somewhere
    assert np.linalg.norm(reached - ended) < 0.005
