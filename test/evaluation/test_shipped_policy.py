import pytest

from openvla_ros.core.resources import resource_path
from openvla_ros.core.robot_profile import load_robot_profile
from openvla_ros.evaluation.episodes import run_episode
from openvla_ros.evaluation.rollout import load_policy
from openvla_ros.sim.tasks import KINDS, sample_episode

# Measured: 44 of 48 episodes (Wilson 95 %: 80 % at least). At 80 % fewer than 7 of 12 have a
# chance of 2 %; an arm that does not find its block has none.
LEAST = 7


@pytest.mark.slow
def test_the_shipped_policy_still_finds_its_block():
    policy, robot = (
        load_policy(resource_path('checkpoints/demo'), 'bf16'),
        load_robot_profile('sim'),
    )
    done = sum(
        run_episode(policy, sample_episode(kind, seed, 'test'), robot, max_steps=50).success
        for kind in KINDS
        for seed in range(4)
    )
    assert done >= LEAST
