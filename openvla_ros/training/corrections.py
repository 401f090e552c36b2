"""Corrections: the policy acts, the expert says what it should have done (Ross et al. 2011).

Cloning shows a policy the states an expert gets into; its own small errors lead elsewhere. Here
the policy itself drives, through the clamp as it will at run time, and every image gets the
expert's actions as in ``demonstrations``.
"""

import numpy as np

from openvla_ros.action_space.action_tokens import NonActionTokenError
from openvla_ros.policy.policy import Policy
from openvla_ros.safety.robot_profile import RobotProfile
from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.episode_loop import EpisodeLoop
from openvla_ros.sim.expert import ScriptedExpert
from openvla_ros.sim.tasks import KINDS, Episode, Kind, Success, sample_episode
from openvla_ros.training.demonstrations import (
    COLOUR_NAMES,
    Frames,
    expert_actions,
    without_rotation,
)

#: Training scenes from here on are for corrections; the demonstrations use those below.
FIRST_SEED = 1_000_000


def record_correction(
    kind: Kind,
    number: int,
    policy: Policy,
    robot: RobotProfile,
    *,
    max_steps: int = 40,
    every: int = 2,
    help_after: int = 18,
) -> Frames:
    """Let the policy try one training scene and record what the expert would do.

    Args:
        kind: The task.
        number: Which of the scenes for corrections.
        policy: What drives.
        robot: Limits of the clamp.
        max_steps: Policy steps at most; the episode ends 2 steps after the task is done.
        every: One image is kept per this many steps.
        help_after: From this step on the expert drives every other stretch of 4 steps, so that
            the later parts of a task are seen although the policy does not get there yet.
    """
    episode = sample_episode(kind, FIRST_SEED + number, 'train')
    arm = SimArm(episode.scene)
    try:
        return _record(arm, episode, policy, robot, max_steps, every, help_after)
    finally:
        arm.close()


def _record(
    arm: SimArm,
    episode: Episode,
    policy: Policy,
    robot: RobotProfile,
    max_steps: int,
    every: int,
    help_after: int,
) -> Frames:
    task = episode.task
    doing = (KINDS.index(task.kind), COLOUR_NAMES.index(task.colour))
    expert = ScriptedExpert(task)
    loop, success = EpisodeLoop(arm, robot), Success(task, arm)
    policy.backend.reset()
    loop.start(without_rotation(expert.act(arm)))
    images, actions = [], []
    last_step = max_steps
    for step in range(max_steps):
        picture = arm.render()
        if step % every == episode.seed % every:
            images.append(policy.prepare(picture))
            actions.append(expert_actions(arm, policy.profile))
        helped = step >= help_after and (step - help_after) // 4 % 2 == 0
        try:
            delta = policy.act(picture, task.instruction).delta
        except NonActionTokenError:
            helped = True
        loop.step(without_rotation(expert.act(arm)) if helped else delta)
        if success.update(arm):
            last_step = min(last_step, step + 2)
        if step >= last_step:
            break
    return Frames(np.array(images), np.array(actions), np.array([doing] * len(images), np.int8))
