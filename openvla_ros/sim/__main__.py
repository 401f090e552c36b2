"""``python -m openvla_ros.sim``: how well the expert does, and how fast the simulation is."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

import numpy as np

from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.expert import STEP_S, ScriptedExpert
from openvla_ros.sim.tasks import KINDS, Kind, Split, Success, sample_episode

MAX_STEPS = 60


def expert_report(kind: Kind, episodes: int, split: Split) -> dict[str, float]:
    """Roll the expert out on the first seeds of a split, without rendering."""
    steps, wrong, fastest_mps = [], 0, 0.0
    start_s, simulated_s = time.process_time(), 0.0
    for seed in range(episodes):
        episode = sample_episode(kind, seed, split)
        arm = SimArm(episode.scene, render=False)
        expert, success = ScriptedExpert(episode.task), Success(episode.task, arm)
        for step in range(MAX_STEPS):
            action = expert.act(arm)
            fastest_mps = max(fastest_mps, float(np.linalg.norm(action.twist()[:3])))
            for _ in range(10):
                arm.step(action.twist(), action.gripper, STEP_S / 10)
                success.update(arm)
            if success.done:
                steps.append(step + 1)
                break
        simulated_s += arm.time_s
        wrong += success.touched_wrong
    return {
        'episodes': episodes,
        'success': len(steps) / episodes,
        'touched_wrong': wrong / episodes,
        'steps_median': float(np.median(steps)) if steps else float('nan'),
        'steps_max': float(max(steps, default=0)),
        'fastest_mps': fastest_mps,
        'times_real_time': simulated_s / (time.process_time() - start_s),
    }


def render_ms(side_px: int, pictures: int = 50) -> float:
    """Return the processor time of one picture, episode's start not counted."""
    arm = SimArm(sample_episode('reach', 0).scene, width=side_px, height=side_px)
    arm.render()
    start_s = time.process_time()
    for _ in range(pictures):
        arm.render()
    elapsed_s = time.process_time() - start_s
    arm.close()
    return 1e3 * elapsed_s / pictures


def main(args: Sequence[str] | None = None) -> int:
    """Print a table and one JSON line."""
    parser = argparse.ArgumentParser(prog='python -m openvla_ros.sim', description=__doc__)
    parser.add_argument('--episodes', type=int, default=100, help='per task')
    parser.add_argument('--split', choices=('train', 'test'), default='test')
    options = parser.parse_args(args)
    os.environ.setdefault('LP_NUM_THREADS', '1')
    report: dict[str, object] = {'split': options.split}
    for kind in KINDS:
        report[kind] = row = expert_report(kind, options.episodes, options.split)
        print(
            f'{kind:6s} success {row["success"]:.3f} of {options.episodes}, '
            f'other block moved {row["touched_wrong"]:.3f}, '
            f'steps median {row["steps_median"]:.0f} max {row["steps_max"]:.0f}, '
            f'fastest {row["fastest_mps"]:.3f} m/s, {row["times_real_time"]:.0f} x real time'
        )
    for side_px in (112, 224, 256):
        report[f'render_{side_px}_ms'] = cost_ms = render_ms(side_px)
        print(f'render {side_px} x {side_px}: {cost_ms:.1f} ms of one core')
    print(json.dumps(report))
    return 0


if __name__ == '__main__':
    sys.exit(main())
