"""What driving through the ROS graph costs: the same scenes there and in process, pair by pair.

In process nothing takes time: the arm stands still while the network computes. Through the graph
it moves on while images travel, the network computes and actions travel back. The difference of
the two success rates over the same scenes is what that costs.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openvla_ros.evaluation.episodes import Outcome
from openvla_ros.evaluation.intervals import Interval, paired_difference, proportion

Key = tuple[str, int]
"""Kind of task and seed: the scene."""


@dataclasses.dataclass(frozen=True)
class GraphOutcome:
    """One episode through the graph.

    Attributes:
        outcome: As in process; its steps are the actions the controller accepted.
        seconds: From arming to the end.
        actions_hz: Rate of actions while armed.
        camera_to_action_ms: Age of the image when its action arrived, median.
        rejected: Actions the controller refused while armed.
    """

    outcome: Outcome
    seconds: float
    actions_hz: float
    camera_to_action_ms: float
    rejected: int

    @property
    def key(self) -> Key:
        """The scene."""
        return self.outcome.kind, self.outcome.seed

    def line(self) -> str:
        """As one line of a file holds it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_line(cls, line: str) -> 'GraphOutcome':
        """Read it back."""
        content = json.loads(line)
        return cls(**{**content, 'outcome': Outcome(**content['outcome'])})


def read_graph(path: Path) -> dict[Key, GraphOutcome]:
    """Outcomes kept so far; none where the file is missing."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(found := GraphOutcome.from_line(line)).key: found for line in lines}


def read_in_process(path: Path, precision: str) -> dict[Key, Outcome]:
    """Outcomes of ``openvla_ros.evaluation.rollout`` in one precision, from its episodes.jsonl."""
    found: dict[Key, Outcome] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        content = json.loads(line)
        if content.pop('precision') == precision:
            outcome = Outcome(**content)
            found[outcome.kind, outcome.seed] = outcome
    return found


def compare(
    graph: Mapping[Key, GraphOutcome], in_process: Mapping[Key, Outcome]
) -> dict[str, Any]:
    """Rates of both with their intervals, and the paired difference, by kind and over all.

    Scenes that only one side tried are left out.

    Raises:
        ValueError: no scene was tried by both.
    """
    both = sorted(graph.keys() & in_process.keys())
    if not both:
        raise ValueError('graph comparison: no scene was tried both ways, expected one or more')
    kinds = sorted({kind for kind, _ in both})
    rows = {kind: [key for key in both if key[0] == kind] for kind in kinds}
    rows['all'] = both
    return {
        'pairs': len(both),
        'by_kind': {name: _row(keys, graph, in_process) for name, keys in rows.items()},
        'camera_to_action_ms_median': _median(graph[key].camera_to_action_ms for key in both),
        'actions_hz_median': _median(graph[key].actions_hz for key in both),
        'rejected_actions': sum(graph[key].rejected for key in both),
        'only_in_process_succeeded': _differing(both, in_process, graph, first=True),
        'only_graph_succeeded': _differing(both, in_process, graph, first=False),
    }


def _row(
    keys: Sequence[Key], graph: Mapping[Key, GraphOutcome], in_process: Mapping[Key, Outcome]
) -> dict[str, Any]:
    through = [graph[key].outcome for key in keys]
    inside = [in_process[key] for key in keys]
    difference = paired_difference([o.success for o in inside], [o.success for o in through])
    return {
        'pairs': len(keys),
        'in_process': _rates(inside),
        'graph': _rates(through),
        'graph_minus_in_process': difference._asdict(),
    }


def _rates(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    several = [o for o in outcomes if o.blocks > 1]
    rates = {'success': proportion(sum(o.success for o in outcomes), len(outcomes))._asdict()}
    if several:
        went = sum(o.went_to_named for o in several)
        rates['went_to_named'] = proportion(went, len(several))._asdict()
    return rates


def _median(values: Any) -> float:
    return round(float(np.nanmedian(list(values))), 2)


def _differing(
    keys: Sequence[Key],
    in_process: Mapping[Key, Outcome],
    graph: Mapping[Key, GraphOutcome],
    *,
    first: bool,
) -> list[str]:
    return [
        f'{kind} {seed}'
        for kind, seed in keys
        if in_process[kind, seed].success == first
        and graph[kind, seed].outcome.success == (not first)
    ]


def table(comparison: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    lines = [
        '| task | scenes | in process (95 %) | through ROS (95 %) | difference, points (95 %) |',
        '|---|---|---|---|---|',
    ]
    for kind, row in comparison['by_kind'].items():
        difference = Interval(**row['graph_minus_in_process'])
        lines.append(
            f'| {kind} | {row["pairs"]} | {Interval(**row["in_process"]["success"])} '
            f'| {Interval(**row["graph"]["success"])} | {100 * difference.value:+.1f} '
            f'({100 * difference.low:+.1f} to {100 * difference.high:+.1f}) |'
        )
    return '\n'.join(lines)
