"""A perfect policy for the graph rollout: what the way through ROS costs, whatever the network.

The simulation writes the state of the scene into the first rows of every image, at the moment it
is taken; the policy's backend reads it back and does what the scripted expert would, after a
sleep as long as an inference. So the expert sees exactly as late as a network would.

    python -m benchmarks.graph.rollout --expert
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.dataset_profile import from_eef_delta, load_dataset_profile
from openvla_ros.action_space.normalization import ActionStats
from openvla_ros.evaluation import episodes
from openvla_ros.evaluation.rollout import Results, Trial
from openvla_ros.policy.inference import PredictedAction
from openvla_ros.policy.policy import Policy
from openvla_ros.safety.robot_profile import load_robot_profile
from openvla_ros.sim.arm import EePose, SimArm
from openvla_ros.sim.expert import ScriptedExpert
from openvla_ros.sim.tasks import Task, sample_episode, understand

UNNORM_KEY = 'openvla_ros_demo'
IMAGE_SIDE = 256
#: About what a checkpoint of the demonstration's size takes on one core.
INFERENCE_S = 0.015
_LENGTH_BYTES = 4


def write_state(pixels: NDArray[np.uint8], state: bytes) -> NDArray[np.uint8]:
    """Return a copy of uint8[H, W, 3] with the state in its first bytes."""
    written = np.array(pixels)
    content = len(state).to_bytes(_LENGTH_BYTES, 'little') + state
    written.reshape(-1)[: len(content)] = np.frombuffer(content, np.uint8)
    return written


def read_state(pixels: NDArray[np.uint8]) -> Any:
    """Return what ``write_state`` wrote."""
    flat = pixels.reshape(-1)
    length = int.from_bytes(flat[:_LENGTH_BYTES].tobytes(), 'little')
    return json.loads(flat[_LENGTH_BYTES : _LENGTH_BYTES + length].tobytes())


def state_of(arm: SimArm) -> bytes:
    """What the expert looks at."""
    pose = arm.ee_pose()
    state = {
        'blocks': {colour: p.tolist() for colour, p in arm.block_positions().items()},
        'position': pose.position_m.tolist(),
        'quaternion': pose.quaternion_xyzw.tolist(),
        'opening': arm.gripper_opening(),
    }
    return json.dumps(state).encode()


class ExpertBackend:
    """Reads the state from the image and asks the expert."""

    image_size = IMAGE_SIDE

    def __init__(self, sleep_s: float) -> None:
        self.description = f'scripted expert, {sleep_s:g} s per action'
        reach = np.array([0.03, 0.03, 0.03, 0.1, 0.1, 0.1, 1.0])
        low = np.append(-reach[:6], 0.0)
        self.norm_stats: Mapping[str, ActionStats] | None = {
            UNNORM_KEY: ActionStats(low, reach, np.array([True] * 6 + [False]))
        }
        self._profile = load_dataset_profile(UNNORM_KEY)
        self._sleep_s = sleep_s

    def warm_up(self) -> None:
        """Nothing to warm."""

    def predict(self, image: NDArray[np.uint8], instruction: str) -> PredictedAction:
        """Sleep, then do what the expert would have done when the image was taken."""
        time.sleep(self._sleep_s)
        meant = understand(instruction)
        try:
            state = read_state(image)
        except ValueError:
            meant = None  # the start-up measures with an image of nothing
        if meant is None:
            return PredictedAction(np.array([0.0] * 6 + [1.0]))
        seen: Any = SimpleNamespace(
            block_positions=lambda: {c: np.array(p) for c, p in state['blocks'].items()},
            ee_pose=lambda: EePose(np.array(state['position']), np.array(state['quaternion'])),
            gripper_opening=lambda: state['opening'],
        )
        delta = ScriptedExpert(Task(*meant, instruction)).act(seen)
        return PredictedAction(from_eef_delta(delta, self._profile))

    def model_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image."""
        return image

    def reset(self) -> None:
        """It has no memory."""

    def close(self) -> None:
        """Nothing is held."""


class StateArm(SimArm):
    """Its camera shows the state; nothing is rendered."""

    def render(self) -> NDArray[np.uint8]:
        """Return an image that holds nothing but the state."""
        return write_state(np.zeros((IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8), state_of(self))


def run_in_process(out: Path, kinds: list[str], seeds: range, max_steps: int) -> None:
    """The same scenes without ROS, written as the rollout writes them."""
    out.mkdir(parents=True, exist_ok=True)
    results = Results(out / 'episodes.jsonl')
    policy = Policy(ExpertBackend(0.0), load_dataset_profile(UNNORM_KEY))
    episodes.SimArm = StateArm  # type: ignore[attr-defined]
    for kind in kinds:
        for seed in seeds:
            trial = Trial('bf16', kind, seed)  # type: ignore[arg-type]
            if trial not in results.outcomes:
                episode = sample_episode(trial.kind, seed, 'test')
                robot = load_robot_profile('sim')
                outcome = episodes.run_episode(policy, episode, robot, max_steps=max_steps)
                results.add(trial, outcome)


def run_sim(arguments: list[str]) -> int:
    """sim_node whose images hold the state."""
    from openvla_ros.nodes import sim_node
    from openvla_ros.sim.render_thread import Picture

    class StateSimNode(sim_node.SimNode):
        def __init__(self, **node_arguments: Any) -> None:
            self._states: dict[tuple[int, int], bytes] = {}
            super().__init__(**node_arguments)
            offer = self._renderer.offer

            def offer_with_state(arm: SimArm, stamp: Any) -> bool:
                self._states[stamp.sec, stamp.nanosec] = state_of(arm)
                if not (taken := offer(arm, stamp)):
                    del self._states[stamp.sec, stamp.nanosec]
                return taken

            self._renderer.offer = offer_with_state  # type: ignore[assignment, method-assign]

        def _publish_picture(self, picture: Any) -> None:
            state = self._states.pop((picture.tag.sec, picture.tag.nanosec))
            pixels = write_state(picture.pixels, state)
            super()._publish_picture(
                Picture(pixels, picture.intrinsics, picture.camera_pose, picture.tag)
            )

    sim_node.SimNode = StateSimNode  # type: ignore[misc]
    return sim_node.main(['sim_node', *arguments])


def run_policy(arguments: list[str]) -> int:
    """policy_node with the expert in place of a network."""
    from openvla_ros.nodes import policy_node

    return policy_node.main(['policy_node', *arguments], lambda _: ExpertBackend(INFERENCE_S))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('role', choices=('sim_node', 'policy_node', 'in_process'))
    parser.add_argument('--out', type=Path)
    parser.add_argument('--task', nargs='+')
    parser.add_argument('--first-seed', type=int)
    parser.add_argument('--episodes', type=int)
    parser.add_argument('--max-steps', type=int)
    chosen, rest = parser.parse_known_args()
    if chosen.role == 'in_process':
        seeds = range(chosen.first_seed, chosen.first_seed + chosen.episodes)
        run_in_process(chosen.out, chosen.task, seeds, chosen.max_steps)
        return 0
    return run_sim(rest) if chosen.role == 'sim_node' else run_policy(rest)


if __name__ == '__main__':
    sys.exit(main())
