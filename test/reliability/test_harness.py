"""The harness itself, with real processes: it finds fault with a controller without a clamp."""

import fcntl
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from harness.limits import ACTIVE, Limits
from harness.processes import DeadlineError, own_domain_id
from harness.world import World

pytestmark = pytest.mark.ros

LIMITS = Limits(
    tau_s=0.02,
    speed_mps=0.25,
    axis_speed_mps=(0.25, 0.25, 0.25),
    turn_radps=1.0,
    accel_mps2=(1.0, 2.0, 5.0),
    turn_accel_radps2=(4.0, 8.0, 20.0),
    box_lo_m=(0.1, -0.25, 0.0),
    box_hi_m=(0.45, 0.25, 0.35),
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, LIMITS, deadline_s=60.0) as world:
        world.start_controller([sys.executable, '-m', 'harness.careless_controller'])
        world.start_robot()
        world.start_operator()
        world.start_policy('--step-s', '0.1')
        yield world


def commanded(world: World, twist: list[float] | None) -> None:
    """Let the policy say ``twist`` (None: whatever it says) until the robot hears it, or zeros."""
    if twist is not None:
        world.policy.call('spoil', twist=twist)
    wanted = np.zeros(6) if twist is None else np.array(twist)

    def heard() -> bool:
        newest = world.twists(since_s=time.monotonic() - 0.2)['data'][-1:]
        return len(newest) > 0 and np.allclose(newest[0, :6], wanted, equal_nan=True)

    world.wait_until(heard, f'the robot hears {wanted}')


def test_a_controller_without_a_clamp_is_found_out(world: World) -> None:
    world.recover()
    injected = world.inject(world.policy.kill)
    assert injected.speed_mps == pytest.approx(0.1, abs=0.01)
    time.sleep(1.2)
    world.start_policy('--pattern', 'constant')
    commanded(world, [0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    time.sleep(0.4)  # with 1 m/s: through the box
    commanded(world, [0.0, 0.0, 0.0, 0.0, 0.0, float('nan')])
    commanded(world, [0.0, 0.0, 0.0, 0.0, 0.0, 3.0])
    world.request('arm', on=False)
    commanded(world, None)
    world.request('arm')
    commanded(world, [0.0, 0.0, 0.0, 0.0, 0.0, 3.0])
    kinds = world.check().kinds()
    assert {'finite', 'speed', 'axis_speed', 'turn', 'accel', 'turn_accel', 'box'} <= kinds
    if world.canary_gap_s(injected.t_s, injected.t_s + 1.2) < 0.06:
        assert 'late_stop' in kinds


def test_a_process_that_does_not_answer_is_a_deadline_and_not_a_hang(world: World) -> None:
    world.policy.signal(signal.SIGSTOP)
    with pytest.raises(DeadlineError, match='no answer'):
        world.policy.call('ping', deadline_s=0.3)


def test_nothing_survives_the_run(tmp_path: Path) -> None:
    with World(tmp_path, LIMITS, deadline_s=30.0) as world:
        world.start_operator()
        pids = [world.operator.pid, world.processes['canary'].pid]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_deadline_of_a_run_ends_its_processes(tmp_path: Path) -> None:
    with World(tmp_path, LIMITS, deadline_s=1.0) as world:
        canary = world.processes['canary']
        assert canary.wait(5.0) == -signal.SIGKILL


def test_domain_ids_are_not_shared() -> None:
    with own_domain_id() as first, own_domain_id() as second:
        assert first != second
        assert min(first, second) >= 1
        assert max(first, second) <= 101


def test_an_arm_that_does_not_move_cannot_be_injected(world: World) -> None:
    world.policy.call('pattern', pattern='none')
    world.request('arm')
    world.wait_state(ACTIVE)
    with pytest.raises(DeadlineError, match='motion'):
        world.inject(world.policy.kill, deadline_s=0.3)


def test_this_run_holds_a_ros_domain_that_no_other_run_gets():
    """Whatever starts ROS in a test without asking for a domain is alone on this one."""
    domain = os.environ['ROS_DOMAIN_ID']
    lock = Path(tempfile.gettempdir()) / 'openvla_ros_domains' / domain
    with open(lock) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
