"""The shipped policy on its tasks: passes per action, and the same tokens as without drafts.

Episodes in the simulator, in process. Every action is decoded from the previous one's tokens, as
the node does, and once more greedily on the same picture; the tokens are compared and the passes
counted. If all tokens are equal, so is the success.

    python -m benchmarks.demo_policy --checkpoint checkpoints/demo
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.conditions import conditions, output_argument, print_conditions, print_result
from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.evaluation.episodes import run_episode
from openvla_ros.model.local_backend import LocalBackend
from openvla_ros.policy.inference import PredictedAction
from openvla_ros.policy.policy import Policy
from openvla_ros.safety.robot_profile import load_robot_profile
from openvla_ros.sim.tasks import KINDS, sample_episode

UNNORM_KEY = 'openvla_ros_demo'
_ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass
class Comparison:
    """A backend that decodes every action twice and keeps count."""

    drafted: LocalBackend
    greedy: LocalBackend
    passes: list[int] = dataclasses.field(default_factory=list)
    drafted_ms: list[float] = dataclasses.field(default_factory=list)
    greedy_ms: list[float] = dataclasses.field(default_factory=list)
    tied_margins: list[float] = dataclasses.field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the drafted backend's."""
        return getattr(self.drafted, name)

    def predict(self, image: NDArray[np.uint8], instruction: str) -> PredictedAction:
        """As the drafted backend, compared with the greedy one."""
        greedy = self.greedy.predict(image, instruction)
        drafted = self.drafted.predict(image, instruction)
        assert drafted.num_passes is not None
        assert drafted.action_tokens is not None
        assert greedy.action_tokens is not None
        self.passes.append(drafted.num_passes)
        self.drafted_ms.append(1e3 * sum(drafted.stage_s.values()))
        self.greedy_ms.append(1e3 * sum(greedy.stage_s.values()))
        if not np.array_equal(drafted.action_tokens, greedy.action_tokens):
            self.tied_margins.append(min(drafted.min_margin or 0.0, greedy.min_margin or 0.0))
        return drafted


def run(checkpoint: Path, dtype: str, episodes: int) -> dict[str, Any]:
    """Episodes of every kind of task."""
    drafted = LocalBackend.load(checkpoint, UNNORM_KEY, dtype=dtype)
    greedy = LocalBackend(drafted.model, drafted.norm_stats or {}, UNNORM_KEY, use_draft=False)
    backend = Comparison(drafted, greedy)
    policy, robot = Policy(backend, load_dataset_profile(UNNORM_KEY)), load_robot_profile('sim')
    result: dict[str, Any] = {}
    successes = 0
    for kind in KINDS:
        before = len(backend.passes)
        for seed in range(episodes):
            successes += run_episode(policy, sample_episode(kind, seed, 'test'), robot).success
        taken = backend.passes[before:]
        result[f'{kind}, mean passes'] = round(statistics.mean(taken), 3)
    result |= {
        'episodes': episodes * len(KINDS),
        'successes': successes,
        'actions': len(backend.passes),
        'mean_passes': round(statistics.mean(backend.passes), 3),
        'passes': dict(sorted(Counter(backend.passes).items())),
        'different_actions': len(backend.tied_margins),
        'smallest_margins_where_different': sorted(backend.tied_margins),
        'drafted_ms_p50': round(statistics.median(backend.drafted_ms), 2),
        'greedy_ms_p50': round(statistics.median(backend.greedy_ms), 2),
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--checkpoint', type=Path, default=_ROOT / 'checkpoints' / 'demo')
    parser.add_argument('--episodes', type=int, default=10, help='of each kind of task')
    parser.add_argument('--dtypes', nargs='+', default=['float32', 'bfloat16'])
    output_argument(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = conditions()
    print_conditions(found)
    result: dict[str, Any] = {'checkpoint': arguments.checkpoint.name}
    for dtype in arguments.dtypes:
        result[dtype] = run(arguments.checkpoint, dtype, arguments.episodes)
        print(dtype, result[dtype], flush=True)
    print_result('demo_policy', found, result, arguments.output)


if __name__ == '__main__':
    main()
