"""Everything together for minutes: camera, policy node, controller, robot, operator."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness.limits import ACTIVE, ESTOP, FAULT
from harness.world import World
from reliability.policy import order, start_policy
from reliability.robot import controller_argv, limits_of, write_profile

CAMERA_HZ, CAMERA_HZ_NEEDED = 30.0, 27.0
LATE_TICK_S, TICKS_IN_TIME = 0.04, 0.999
RSS_MB_PER_MIN = 0.5
CPU_SHARE = 0.15
WATCHED = ('controller', 'policy')
INSTRUCTION_EVERY_S = 20.0
WARM_UP_S = 60.0  # allocators and discovery settle; slopes are taken after it


@dataclass(frozen=True)
class SoakResult:
    """Figures of one soak; None where the run was too short, or the machine too busy, to judge."""

    seconds: float
    commands: int
    camera_hz: float
    ticks_in_time: float
    tick_gap_ms: tuple[float, float, float]  # median, 99 %, longest, as the recorder received them
    canary_late: float  # part of the canary's own wakes that were later than LATE_TICK_S
    faults: int
    stops: int
    missed_stops: int
    instructions: int
    rss_mb_per_min: dict[str, float]
    files: dict[str, tuple[int, int]]
    cpu: dict[str, float]

    def problems(self) -> list[str]:
        """Which figures are not reached; times only where the canary itself was in time."""
        out = []
        quiet = self.canary_late < 1.0 - TICKS_IN_TIME
        if self.camera_hz < CAMERA_HZ_NEEDED and quiet:
            out.append(f'camera {self.camera_hz:.1f} Hz, expected {CAMERA_HZ_NEEDED} or more')
        if self.ticks_in_time < TICKS_IN_TIME and quiet:
            out.append(f'{self.ticks_in_time:.5f} of the ticks in time, expected {TICKS_IN_TIME}')
        if self.faults:
            out.append(f'{self.faults} latched states, expected none')
        if self.missed_stops:
            out.append(f'{self.missed_stops} stops missed')
        for name, slope in self.rss_mb_per_min.items():
            if self.seconds >= 2 * WARM_UP_S and slope > RSS_MB_PER_MIN:
                out.append(f'{name} grows by {slope:.2f} MB/min, expected {RSS_MB_PER_MIN}')
        for name, (before, after) in self.files.items():
            if after > before:
                out.append(f'{name} has {after} open files after {before}')
        if self.cpu['controller'] > CPU_SHARE and quiet:
            out.append(f'controller uses {self.cpu["controller"]:.0%} of a core')
        return out


@contextmanager
def soak_world(folder: Path, seconds: float) -> Iterator[World]:
    """The whole graph, armed and moving."""
    profile = write_profile(folder)
    with World(folder, limits_of(profile), deadline_s=seconds + 120.0) as world:
        world.start_controller(controller_argv(profile))
        world.start_robot('--record-actions', '--pose-hz', '50')
        world.start_operator()
        start_policy(world)
        world.start_camera('--rate-hz', str(CAMERA_HZ))
        world.wait_until(lambda: world.diagnostics('policy'), 'the policy node', 60.0)
        # Latched: the policy may not have found the operator yet.
        world.operator.call('instruct', text='push the red block', latched=True)
        order(world, [0.012, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
        world.recover(30.0)
        yield world


def soak(folder: Path, seconds: float) -> SoakResult:
    """Let everything run, circle, change the instruction, stop by an empty one, and measure."""
    with soak_world(folder, seconds) as world:
        start_s = time.monotonic()
        cpu = {name: world.processes[name].cpu_s() for name in WATCHED}
        files = {name: world.processes[name].open_files() for name in WATCHED}
        memory: dict[str, list[tuple[float, float]]] = {name: [] for name in WATCHED}
        stops = missed = instructions = 0
        due_s = start_s + min(INSTRUCTION_EVERY_S, seconds / 3)
        while time.monotonic() < start_s + seconds:
            _steer(world)
            for name in WATCHED:
                memory[name].append((time.monotonic(), world.processes[name].rss_mb()))
            if time.monotonic() > due_s:
                due_s += min(INSTRUCTION_EVERY_S, seconds / 3)
                instructions += 1
                stops += 1
                missed += not _stop_and_go(world, instructions)
            time.sleep(0.2)
        end_s = time.monotonic()
        report = world.check()
        report.require_clean()
        gaps = np.diff(world.twists(start_s, end_s)['t_s'])
        wakes = world.canary_gaps(start_s, end_s)
        hertz = [float(d['camera_hz']) for d in world.diagnostics('policy', start_s + 5.0)]
        return SoakResult(
            seconds=end_s - start_s,
            commands=report.samples,
            camera_hz=float(np.median(hertz)) if hertz else math.nan,
            ticks_in_time=float(np.mean(gaps < LATE_TICK_S)),
            tick_gap_ms=tuple(1e3 * np.quantile(gaps, [0.5, 0.99, 1.0])),
            canary_late=float(np.mean(wakes > LATE_TICK_S)),
            faults=sum(s['state'] in (FAULT, ESTOP) for s in world.statuses(start_s)),
            stops=stops,
            missed_stops=missed,
            instructions=instructions,
            rss_mb_per_min={name: _slope(memory[name]) for name in WATCHED},
            files={n: (files[n], world.processes[n].open_files()) for n in WATCHED},
            cpu={n: (world.processes[n].cpu_s() - cpu[n]) / (end_s - start_s) for n in WATCHED},
        )


def _steer(world: World) -> None:
    """Let the policy circle in the middle of the box at some 50 mm/s, away from the walls."""
    lo, hi = np.array(world.limits.box_lo_m), np.array(world.limits.box_hi_m)
    away = world.poses()['data'][-1, :3] - (lo + hi) / 2
    around = np.array([-away[1], away[0], 0.0]) + 1e-6
    step = 0.01 * around / np.linalg.norm(around) - 0.1 * away
    order(world, [*map(float, step), 0.0, 0.0, 0.0, 1.0])


def _stop_and_go(world: World, number: int) -> bool:
    """An empty instruction is a stop, a new one within 30 s goes on; tells whether it stopped."""
    t_s = world.operator.call('instruct', text='')
    try:
        world.time_to_zero(t_s, deadline_s=3.0)
    except AssertionError:
        return False
    world.operator.call('instruct', text=f'push the block number {number}')
    world.wait_state(ACTIVE, deadline_s=10.0)
    return True


def _slope(samples: list[tuple[float, float]]) -> float:
    """MB per minute by a straight line through what followed the warm-up (or the later half)."""
    times, sizes = np.array(samples).T
    late = times > times[0] + min(WARM_UP_S, (times[-1] - times[0]) / 2)
    if late.sum() < 3:
        return 0.0
    return float(np.polyfit(times[late] - times[0], sizes[late], 1)[0] * 60.0)
