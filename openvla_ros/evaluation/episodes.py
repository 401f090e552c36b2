"""One episode of a policy in the simulator, through the policy step and clamp of the nodes."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.action_tokens import NonActionTokenError
from openvla_ros.policy.policy import Policy
from openvla_ros.safety.robot_profile import RobotProfile
from openvla_ros.safety.safety_state import State
from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.episode_loop import EpisodeLoop
from openvla_ros.sim.tasks import Episode, Success

#: Policy steps before an episode counts as failed: twice what the expert needs at most.
MAX_STEPS = 50


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one episode.

    Attributes:
        kind: reach, push or pick.
        seed: Of the held-out scene.
        instruction: What was said.
        colour: The block it names.
        blocks: How many blocks stood there.
        success: Whether the task was done in time.
        steps: Policy steps taken.
        went_to: Colour of the block nearest to the end effector at the end, seen from above.
        touched_wrong: Whether another block was moved.
        ended: 'done', 'time', 'bad tokens' or the state of the clamp that stopped it.
    """

    kind: str
    seed: int
    instruction: str
    colour: str
    blocks: int
    success: bool
    steps: int
    went_to: str
    touched_wrong: bool
    ended: str

    @property
    def went_to_named(self) -> bool:
        """Whether the arm ended at the block the sentence names."""
        return self.went_to == self.colour

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return dataclasses.asdict(self)


def run_episode(
    policy: Policy,
    episode: Episode,
    robot: RobotProfile,
    *,
    max_steps: int = MAX_STEPS,
    pictures: list[NDArray[np.uint8]] | None = None,
) -> Outcome:
    """Let a policy try one task.

    Args:
        policy: What decides.
        episode: Task and scene.
        robot: Limits of the clamp.
        max_steps: Policy steps before giving up.
        pictures: Filled with what the camera saw at each step, where given.
    """
    arm = SimArm(episode.scene)
    try:
        return _run(policy, episode, robot, arm, max_steps, pictures)
    finally:
        arm.close()


def _run(
    policy: Policy,
    episode: Episode,
    robot: RobotProfile,
    arm: SimArm,
    max_steps: int,
    pictures: list[NDArray[np.uint8]] | None,
) -> Outcome:
    instruction = episode.task.instruction
    policy.backend.reset()
    loop = EpisodeLoop(arm, robot)
    success = Success(episode.task, arm)
    ended, steps = 'time', 0
    try:
        loop.start(policy.act(arm.render(), instruction).delta)
        while steps < max_steps:
            image = arm.render()
            if pictures is not None:
                pictures.append(image)
            loop.step(policy.act(image, instruction).delta)
            steps += 1
            if success.update(arm):
                ended = 'done'
                break
            if loop.clamp.state not in (State.ACTIVE, State.HOLD):
                ended = loop.clamp.state.name
                break
    except NonActionTokenError:
        ended = 'bad tokens'
    return Outcome(
        kind=episode.task.kind,
        seed=episode.seed,
        instruction=instruction,
        colour=episode.task.colour,
        blocks=len(episode.scene.blocks),
        success=success.done,
        steps=steps,
        went_to=nearest_block(arm),
        touched_wrong=success.touched_wrong,
        ended=ended,
    )


def nearest_block(arm: SimArm) -> str:
    """Return the colour of the block nearest to the end effector, seen from above."""
    position = arm.ee_pose().position_m
    apart = {
        colour: float(np.hypot(*(block - position)[:2]))
        for colour, block in arm.block_positions().items()
    }
    return min(apart, key=lambda colour: apart[colour])
