"""Cost of one control tick of the clamp, by itself: `python benchmarks/clamp.py`.

CPU time of this process, so other load on the machine changes caches but not the count. Prints the
machine, one line per case, and the same as JSON in the last line.
"""

import gc
import json
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from openvla_ros.safety.clamp import ActionInput, Clamp, Pose
from openvla_ros.safety.robot_profile import OrientationCone, RobotProfile, load_robot_profile
from openvla_ros.safety.safety_state import State

TICKS = 20_000
SIM = load_robot_profile('sim')


def run(profile: RobotProfile, moving: bool) -> NDArray[np.float64]:
    """Return CPU microseconds of every step() while streaming 5 Hz actions and 50 Hz poses."""
    clamp = Clamp(profile)
    tau = profile.period_s
    position, twist = np.array([0.275, 0.0, 0.175]), np.zeros(6)
    rng = np.random.default_rng(0)
    costs = np.empty(TICKS)
    gc.disable()
    for k in range(TICKS):
        now_s, ros_s = 100.0 + k * tau, 5000.0 + k * tau
        position = position + twist[:3] * tau
        pose = Pose.of(position.tolist(), (0.0, 0.0, 0.0, 1.0))
        clamp.set_pose(pose, stamp_s=ros_s, now_s=now_s, ros_now_s=ros_s)
        if k % 10 == 0:
            values = tuple(rng.normal(size=6) * [0.05, 0.05, 0.05, 0.2, 0.2, 0.2])
            action = ActionInput(ros_s - 0.01, 'base_link', k, 0.2, values, 1.0, 'policy')
            clamp.offer(action, now_s=now_s, ros_now_s=ros_s)
        if moving and clamp.state == State.DISARMED:
            clamp.arm(now_s)
        started = time.process_time_ns()
        twist = clamp.step(now_s, ros_s).twist
        costs[k] = (time.process_time_ns() - started) / 1e3
    gc.enable()
    return costs[TICKS // 10 :]


def cpu_model() -> str:
    for line in Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.split(':', 1)[1].strip()
    return platform.processor()


def main() -> None:
    cone = OrientationCone((0.0, 0.0, 0.0, 1.0), 1.0)
    cases = {
        'disarmed': (SIM, False),
        'active': (SIM, True),
        'active with cone': (
            replace(SIM, workspace=replace(SIM.workspace, orientation_cone=cone)),
            True,
        ),
    }
    machine = {
        'cpu': cpu_model(),
        'cores': os.cpu_count(),
        'load_1min': os.getloadavg()[0],
        'python': platform.python_version(),
    }
    print(', '.join(f'{key} {value}' for key, value in machine.items()))
    result: dict[str, Any] = {'benchmark': 'clamp_tick_us', 'ticks': TICKS, **machine}
    for name, (profile, moving) in cases.items():
        p50, p99 = np.percentile(run(profile, moving), [50, 99])
        print(f'{name}: p50 {p50:.1f} us, p99 {p99:.1f} us per tick')
        result[name] = {'p50': round(float(p50), 1), 'p99': round(float(p99), 1)}
    print(json.dumps(result))


if __name__ == '__main__':
    main()
