"""The robot of the process tests: the simulated arm's profile, with an e-stop that is required."""

import sys
from pathlib import Path
from typing import Any

import yaml
from harness.limits import Limits
from harness.processes import REPOSITORY

SIM_PROFILE = REPOSITORY / 'config' / 'robots' / 'sim.yaml'
PYTHON = sys.executable


def write_profile(folder: Path, **changes: Any) -> Path:
    """Write the profile with dotted keys changed (``pose__timeout_s=0.1``) and return its path."""
    content = yaml.safe_load(SIM_PROFILE.read_text())
    for key, value in {'estop__required': True, **changes}.items():
        *path, last = key.split('__')
        place = content
        for part in path:
            place = place[part]
        place[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / 'robot.yaml'
    target.write_text(yaml.safe_dump(content))
    return target


def limits_of(profile: Path) -> Limits:
    """Read the numbers a run is judged by from the YAML itself, not through the package."""
    content = yaml.safe_load(profile.read_text())
    limits = content['limits']
    return Limits(
        tau_s=1.0 / content['control_rate_hz'],
        speed_mps=limits['speed_mps'],
        axis_speed_mps=tuple(limits['axis_speed_mps']),
        turn_radps=limits['angular_speed_radps'],
        accel_mps2=(
            limits['acceleration_mps2'],
            limits['stop_acceleration_mps2'],
            limits['estop_acceleration_mps2'],
        ),
        turn_accel_radps2=(
            limits['angular_acceleration_radps2'],
            limits['stop_angular_acceleration_radps2'],
            limits['estop_angular_acceleration_radps2'],
        ),
        box_lo_m=tuple(content['workspace']['box_lo_m']),
        box_hi_m=tuple(content['workspace']['box_hi_m']),
    )


def controller_argv(profile: Path, *options: str, module: str = '') -> list[str]:
    """The controller as its users start it, on this profile."""
    module = module or 'openvla_ros.nodes.controller_node'
    return [PYTHON, '-m', module, '--ros-args', '-p', f'robot:={profile}', *options]
