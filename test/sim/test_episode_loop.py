import numpy as np
import pytest

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.safety.robot_profile import load_robot_profile
from openvla_ros.sim.episode_loop import EpisodeLoop, NotArmedError


class _Pose:
    def __init__(self, position):
        self.position_m = position
        self.quaternion_xyzw = np.array([0.0, 0.0, 0.0, 1.0])


class PerfectArm:
    """Goes exactly where the twist says."""

    def __init__(self, position=(0.25, 0.0, 0.15)):
        self.position = np.array(position)
        self.twists = []

    def step(self, twist_base, gripper_opening, dt_s):
        self.position = self.position + np.asarray(twist_base)[:3] * dt_s
        self.twists.append(np.asarray(twist_base))

    def ee_pose(self):
        return _Pose(self.position)


def _delta(x=0.0, y=0.0, z=0.0):
    return EefDelta(np.array([x, y, z]), np.zeros(3), 1.0, 'base', 0.2)


def test_nothing_moves_before_the_clamp_is_armed():
    arm = PerfectArm()
    loop = EpisodeLoop(arm, load_robot_profile('sim'))
    loop.start(_delta(x=0.02))
    assert not np.any(arm.twists)


def test_displacements_add_up_exactly():
    arm = PerfectArm()
    loop = EpisodeLoop(arm, load_robot_profile('sim'))
    loop.start(_delta())
    for _ in range(5):
        loop.step(_delta(x=0.01, y=-0.005))
    for _ in range(3):
        loop.step(_delta())
    np.testing.assert_allclose(arm.position, [0.30, -0.025, 0.15], atol=5e-4)


def test_one_step_of_the_policy_is_ten_ticks_of_the_clamp():
    arm = PerfectArm()
    loop = EpisodeLoop(arm, load_robot_profile('sim'))
    before_s = loop.now_s
    loop.step(_delta())
    assert len(arm.twists) == 10
    assert loop.now_s - before_s == pytest.approx(0.2)


def test_the_limits_of_the_robot_hold_here_too():
    arm = PerfectArm()
    profile = load_robot_profile('sim')
    loop = EpisodeLoop(arm, profile)
    loop.start(_delta())
    for _ in range(3):
        loop.step(_delta(x=0.09))
    speeds = np.linalg.norm(np.array(arm.twists)[:, :3], axis=1)
    assert speeds.max() <= profile.limits.speed_mps + 1e-9


def test_an_arm_outside_its_box_is_not_armed():
    loop = EpisodeLoop(PerfectArm(position=(0.25, 0.0, 0.5)), load_robot_profile('sim'))
    with pytest.raises(NotArmedError):
        loop.start(_delta())
