"""Runs the catalogue of faults: for pytest one case at a time, for a release all of them many
times."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.processes import DeadlineError
from harness.world import NotJudgedError, World, repeated
from reliability.faults import STEP_S, Fault
from reliability.robot import controller_argv, limits_of, write_profile

SIM_TIME = ('--ros-args', '-p', 'use_sim_time:=true')


@dataclass
class Result:
    """What one fault did."""

    fault: Fault
    stop_s: float | None
    seconds: float
    repeated: list[str] = field(default_factory=list)
    judged: bool = True
    error: str = ''


@contextlib.contextmanager
def start_main_world(folder: Path, deadline_s: float = 400.0) -> Iterator[World]:
    """Controller, robot, operator and policy, armed and moving."""
    profile = write_profile(folder)
    with World(folder, limits_of(profile), deadline_s=deadline_s) as world:
        world.start_controller(controller_argv(profile))
        world.start_robot()
        world.start_operator()
        world.start_policy('--step-s', str(STEP_S))
        world.recover()
        yield world


@contextlib.contextmanager
def start_sim_time_world(folder: Path, deadline_s: float = 200.0) -> Iterator[World]:
    """The same, every node on the time of a fake /clock."""
    profile = write_profile(folder)
    with World(folder, limits_of(profile), deadline_s=deadline_s) as world:
        world.start_clock()
        world.start_controller(controller_argv(profile, '-p', 'use_sim_time:=true'))
        world.start_robot(*SIM_TIME)
        world.start_operator()
        world.start_policy('--step-s', str(STEP_S), *SIM_TIME)
        world.recover()
        yield world


def run_fault(world: World, fault: Fault) -> Result:
    """Run one case from a moving arm, again if it could not be judged; raises what it finds."""

    def case() -> float | None:
        world.recover()
        case_s = time.monotonic()
        try:
            return fault.run(world)
        except DeadlineError as error:
            # Something that waits did not come: because of the fault, or of a stalled machine?
            gap_s = world.canary_gap_s(case_s, time.monotonic())
            if gap_s > 0.1:
                raise NotJudgedError(f'{error}; the canary was {gap_s:.3f} s late') from error
            raise
        finally:
            world.processes.end('policy_two')  # what a failed case leaves would fail all others

    start_s = time.monotonic()
    stop_s, why = repeated(case)
    return Result(fault, stop_s, time.monotonic() - start_s, why, judged=len(why) < 3)
