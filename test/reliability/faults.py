"""The catalogue of process faults: each injected into a moving arm, judged, and healed again.

Every function gets a `World` whose arm moves, does its harm, requires what the hazard table
requires, and
leaves healthy processes behind. The invariants of every sample of the whole run are judged apart.
"""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.limits import ACTIVE, DISARMED, ESTOP, FAULT, HOLD, STATE_NAMES
from harness.world import Injection, World

STEP_S = 0.2
ESTOP_LIMIT_S = 0.15  # from the button to zero, all included
DRIVER_TIMEOUT_S = 0.1
POSE_TIMEOUT_S = 0.2
HEARTBEAT_TIMEOUT_S = 0.3


@dataclass(frozen=True)
class Fault:
    """One kind of fault: the hazard rows it covers, and how it is run."""

    name: str
    rows: tuple[str, ...]
    run: Callable[[World], float | None]  # answers the seconds to zero, where it stops the arm


MAIN: list[Fault] = []  # one controller, one policy, one robot, shared by all cases
SIM_TIME: list[Fault] = []  # the same on a fake /clock


def fault(rows: str, where: list[Fault] = MAIN) -> Callable:
    """Put a function into a catalogue."""

    def register(run: Callable[[World], float | None]) -> Callable:
        where.append(Fault(run.__name__, tuple(rows.split()), run))
        return run

    return register


def variants(rows: str, cases: dict[str, object], where: list[Fault] = MAIN) -> Callable:
    """Put one function into a catalogue once per case; it gets the case's value."""

    def register(run: Callable) -> Callable:
        for name, value in cases.items():

            def one(world: World, value: object = value) -> float | None:
                return run(world, value)

            where.append(Fault(f'{run.__name__} {name}', tuple(rows.split()), one))
        return run

    return register


def stops(world: World, injected: Injection, what: str, within_s: float | None = None) -> float:
    """Require zero within t_stop (or ``within_s``) and answer how long it took."""
    within_s = world.limits.t_stop_s(STEP_S) if within_s is None else within_s
    taken_s = world.time_to_zero(injected.t_s)
    world.judge_time(what, taken_s, within_s, injected.t_s)
    return taken_s


def requires_state(world: World, state: int, reason: str, since_s: float) -> None:
    """Require that the controller says this state and this reason."""
    status = world.wait_state(state, since_s=since_s)
    assert reason in status['reasons'], status
    assert status['sentence'].startswith(STATE_NAMES[state]), status


def latches(world: World, state: int, reason: str, since_s: float) -> None:
    """Require a latched state that survives healthy actions, needs reset, and reset never arms."""
    requires_state(world, state, reason, since_s)
    world.require_stays_still(0.4)
    assert not world.request('arm')[0], 'arm was granted in a latched state'
    world.wait_until(lambda: world.request('reset')[0], 'reset is granted at rest')
    assert world.wait_state(DISARMED)
    world.require_stays_still(0.3)


# The policy process


@variants('H32 H44', {'first': 1, 'second': 2, 'third': 3})
def policy_kill_9(world: World, _: int) -> float:
    injected = world.inject(world.policy.kill)
    taken_s = stops(world, injected, 'kill -9 policy')
    requires_state(world, HOLD, 'ACTION_STALE', injected.t_s)
    world.start_policy()
    return taken_s


@variants('H25', {'for 1 s': 1.0, 'for 2 s': 2.0})
def policy_sigstop(world: World, seconds: float) -> float:
    injected = world.inject(lambda: world.policy.signal(signal.SIGSTOP))
    taken_s = stops(world, injected, 'SIGSTOP policy')
    time.sleep(max(0.0, injected.t_s + seconds - time.monotonic()))
    world.policy.signal(signal.SIGCONT)
    world.wait_state(ACTIVE)  # the same policy goes on: no arming needed
    return taken_s


@fault('H25 H32')
def policy_sigterm(world: World) -> float:
    injected = world.inject(lambda: world.policy.signal(signal.SIGTERM))
    taken_s = stops(world, injected, 'SIGTERM policy')
    world.start_policy()
    return taken_s


@fault('H45 H32')
def policy_restarted_needs_arming(world: World) -> float:
    injected = world.inject(world.policy.kill)
    taken_s = stops(world, injected, 'kill -9 policy, restart')
    time.sleep(1.1)  # the dead one counts as alive for 1 s
    world.start_policy()
    requires_state(world, DISARMED, 'SOURCE_CHANGED', injected.t_s)
    world.require_stays_still(0.5)
    return taken_s


@fault('H36 H45')
def policy_restarted_at_once_is_a_second_source_or_a_successor(world: World) -> float:
    injected = world.inject(world.policy.kill)
    world.start_policy()
    taken_s = stops(world, injected, 'policy replaced')
    status = world.wait_until(
        lambda: world.status() if world.status()['state'] in (FAULT, DISARMED) else None,
        'FAULT or DISARMED',
    )
    assert {'FAULT_TWO_SOURCES', 'SOURCE_CHANGED'} & set(status['reasons']), status
    world.require_stays_still(0.3)
    return taken_s


# What it says


@variants('H20', {f'field {i}': i for i in range(6)})
def nan_action(world: World, index: int) -> float:
    bad = {str(index): float('nan')}
    injected = world.inject(lambda: world.policy.call('send', twist_at=bad))
    taken_s = stops(world, injected, 'NaN')
    latches(world, FAULT, 'FAULT_NON_FINITE', injected.t_s)
    return taken_s


@variants('H20 H31', {'inf': float('inf'), 'nan': float('nan')})
def non_finite_gripper(world: World, value: float) -> float:
    injected = world.inject(lambda: world.policy.call('send', gripper=value))
    taken_s = stops(world, injected, 'non-finite gripper')
    latches(world, FAULT, 'FAULT_NON_FINITE', injected.t_s)
    return taken_s


@fault('H20')
def inf_action(world: World) -> float:
    bad = {'2': float('-inf')}
    injected = world.inject(lambda: world.policy.call('send', twist_at=bad))
    taken_s = stops(world, injected, 'Inf')
    latches(world, FAULT, 'FAULT_NON_FINITE', injected.t_s)
    return taken_s


@variants(
    'H38 H39 H22 H40',
    {
        'wrong frame': ('FRAME', {'frame': 'camera_optical_frame'}),
        'empty frame': ('FRAME', {'frame': ''}),
        '1 MB frame': ('FRAME', {'frame_length': 1_000_000}),
        'stamp 2 s old': ('STAMP_OLD', {'stamp_offset_s': -2.0}),
        'stamp 1 s ahead': ('STAMP_FUTURE', {'stamp_offset_s': 1.0}),
        'stamp 1 h ahead': ('STAMP_FUTURE', {'stamp_offset_s': 3600.0}),
        'stamp 0': ('STAMP_ZERO', {'stamp_s': 0.0}),
        'sequence stands still': ('SEQUENCE', {'sequence': 1}),
        'implausible 1 m': ('IMPLAUSIBLE', {'twist': [5.0, 0.0, 0.0, 0.0, 0.0, 0.0]}),
        'implausible 1e308': ('IMPLAUSIBLE', {'twist': [1e308, 1e308, 0.0, 0.0, 0.0, 0.0]}),
        'implausible turn': ('IMPLAUSIBLE', {'twist': [0.0, 0.0, 0.0, 0.0, 4.0, 0.0]}),
        'step 0 s': ('STEP_S', {'step_s': 0.0}),
        'step NaN': ('STEP_S', {'step_s': float('nan')}),
        'step 10 s': ('STEP_S', {'step_s': 10.0}),
    },
)
def refused(world: World, case: tuple[str, dict]) -> float:
    code, changes = case
    before = world.status()['rejects'].get(code, 0)
    injected = world.inject(lambda: world.policy.call('spoil', **changes))
    taken_s = stops(world, injected, f'refused: {code}')
    world.wait_until(lambda: world.status()['rejects'].get(code, 0) > before, f'{code} counted')
    assert world.status()['state'] == HOLD
    world.policy.call('spoil')
    world.wait_state(ACTIVE)  # heals itself
    return taken_s


@fault('H39')
def same_message_again_and_again(world: World) -> float:
    def replay() -> float:
        t_s = world.policy.call('pattern', pattern='none')
        world.policy.call('repeat_last', count=5)
        return t_s

    injected = world.inject(replay)
    for _ in range(5):
        world.policy.call('repeat_last')
        time.sleep(0.1)
    taken_s = stops(world, injected, 'replay')
    world.policy.call('pattern', pattern='orbit')
    return taken_s


@fault('H40')
def relay_keeps_a_dead_policy_alive(world: World) -> float:
    """A repeater in front of the controller re-stamps the last action for ever."""
    injected = world.inject(lambda: world.policy.call('pattern', pattern='relay'))
    taken_s = stops(world, injected, 'relay')
    world.wait_until(lambda: world.status()['rejects'].get('SEQUENCE', 0) > 0, 'SEQUENCE counted')
    world.policy.call('pattern', pattern='orbit')
    return taken_s


@variants('H43', {'p = 0.1': 0.1, 'p = 0.3': 0.3, 'p = 0.5': 0.5})
def lost_messages(world: World, probability: float) -> None:
    world.inject(lambda: (world.policy.call('drop', probability=probability), time.monotonic())[1])
    time.sleep(1.5)
    world.policy.call('drop', probability=0.0)
    assert world.status()['state'] in (ACTIVE, HOLD)  # stop and go, never a fault


# How many


@fault('H36')
def second_policy(world: World) -> float:
    injected = world.inject(lambda: _second(world))
    taken_s = stops(world, injected, 'second policy', 5.0)  # its discovery is not the clamp's
    requires_state(world, FAULT, 'FAULT_TWO_SOURCES', injected.t_s)
    world.processes.end('policy_two')
    time.sleep(1.1)
    return taken_s


def _second(world: World) -> float:
    world.start_policy('--node-name', 'policy_two', name='policy_two')
    return time.monotonic()


@variants('H37', {'valid': False, 'refused': True})
def flood(world: World, spoiled: bool) -> float:
    injected = world.inject(
        lambda: (time.monotonic(), world.policy.send('flood', duration_s=1.0, spoiled=spoiled))[0]
    )
    requires_state(world, FAULT, 'FAULT_FLOOD', injected.t_s)
    taken_s = world.time_to_zero(injected.t_s)
    world.judge_time('flood', taken_s, 0.2 + world.limits.ramp_s(), injected.t_s)
    time.sleep(1.2)
    return taken_s


# The operator


@variants('H46 H48', {'first': 1, 'second': 2, 'third': 3})
def estop_button(world: World, _: int) -> float:
    injected = world.inject(lambda: world.operator.call('press'))
    taken_s = stops(world, injected, 'e-stop', ESTOP_LIMIT_S - 0.1)
    requires_state(world, ESTOP, 'ESTOP', injected.t_s)
    assert not world.request('reset')[0], 'reset was granted with the button pressed'
    world.operator.call('release')
    world.require_stays_still(0.3)
    latches(world, ESTOP, 'ESTOP', injected.t_s)
    return taken_s


@fault('H46 H48')
def estop_service(world: World) -> float:
    injected = world.inject(
        lambda: (time.monotonic(), world.operator.call('request', service='estop'))[0]
    )
    taken_s = stops(world, injected, 'e-stop service', ESTOP_LIMIT_S - 0.1)
    latches(world, ESTOP, 'ESTOP_SERVICE', injected.t_s)
    return taken_s


@variants('H47', {'killed': True, 'silent': False})
def estop_heartbeat_lost(world: World, kill: bool) -> float:
    injected = world.inject(
        world.operator.kill if kill else lambda: world.operator.call('beating', on=False)
    )
    allowed_s = HEARTBEAT_TIMEOUT_S + world.limits.ramp_s(2) + 2 * world.limits.tau_s
    taken_s = stops(world, injected, 'heartbeat lost', allowed_s)
    if kill:
        world.start_operator()
    else:
        world.operator.call('beating', on=True)
    latches(world, ESTOP, 'ESTOP_LOST', injected.t_s)
    return taken_s


@fault('H48')
def disarm(world: World) -> float:
    injected = world.inject(
        lambda: (time.monotonic(), world.operator.call('request', service='arm', on=False))[0]
    )
    allowed_s = 0.1 + world.limits.ramp_s() + 2 * world.limits.tau_s
    taken_s = stops(world, injected, 'disarm', allowed_s)
    requires_state(world, DISARMED, 'OPERATOR', injected.t_s)
    world.require_stays_still(0.5)
    return taken_s


# The pose


@variants(
    'H54',
    {
        'stops': ({'on': False}, 'pose_publishing', {'on': True}),
        'from the future': ({'offset_s': 1.0}, 'pose_stamp_offset', {'offset_s': 0.0}),
        'too old': ({'offset_s': -1.0}, 'pose_stamp_offset', {'offset_s': 0.0}),
        'NaN': ({'on': True}, 'pose_nan', {'on': False}),
        'in another frame': ({'frame': 'camera'}, 'pose_frame', {'frame': 'base_link'}),
    },
)
def pose(world: World, case: tuple[dict, str, dict]) -> float:
    harm, command, healing = case
    injected = world.inject(lambda: (time.monotonic(), world.robot.call(command, **harm))[0])
    allowed_s = POSE_TIMEOUT_S + world.limits.ramp_s() + 3 * world.limits.tau_s
    taken_s = stops(world, injected, 'pose', allowed_s)
    requires_state(world, HOLD, 'POSE_STALE', injected.t_s)
    world.robot.call(command, **healing)
    world.wait_state(ACTIVE)  # heals itself
    return taken_s


@variants('H55', {'60 mm': 0.06, '-80 mm': -0.08})
def pose_jump(world: World, offset_m: float) -> float:
    injected = world.inject(
        lambda: (time.monotonic(), world.robot.call('pose_offset', offset_m=[0, offset_m, 0]))[0]
    )
    world.exempt_window('accel', since_s=injected.t_s, until_s=injected.t_s + 0.3)
    allowed_s = world.limits.ramp_s() + 4 * world.limits.tau_s
    taken_s = stops(world, injected, 'pose jump', allowed_s)
    requires_state(world, FAULT, 'FAULT_POSE_JUMP', injected.t_s)
    world.robot.call('pose_offset', offset_m=[0.0, 0.0, 0.0])
    world.require_stays_still(1.2)
    latches(world, FAULT, 'FAULT_POSE_JUMP', injected.t_s)
    return taken_s


# The controller itself


@fault('H33 H45')
def controller_kill_9(world: World) -> float:
    injected = world.inject(world.controller.kill)
    _driver_stops(world, injected)
    restarted_s = time.monotonic()
    world.start_controller()
    world.wait_state(DISARMED, deadline_s=10.0, since_s=restarted_s)
    world.require_stays_still(0.5)
    return DRIVER_TIMEOUT_S


@variants('H58 H33', {'for 0.2 s': 0.2, 'for 0.9 s': 0.9})
def controller_stalls(world: World, seconds: float) -> float | None:
    injected = world.inject(lambda: world.controller.signal(signal.SIGSTOP))
    time.sleep(seconds)
    resumed_s = world.controller.signal(signal.SIGCONT)
    world.exempt_window('stop', since_s=injected.t_s, until_s=resumed_s + 0.7)
    if seconds > 0.5:
        taken_s = world.time_to_zero(resumed_s)
        allowed_s = world.limits.ramp_s() + 3 * world.limits.tau_s
        world.judge_time('ramp after a stall', taken_s, allowed_s, resumed_s)
        latches(world, FAULT, 'FAULT_OVERRUN', injected.t_s)
        return None
    since = world.statuses(injected.t_s)
    world.wait_until(
        lambda: any('OVERRUN' in s['reasons'] for s in world.statuses(injected.t_s)),
        f'OVERRUN reported, not only {since[-1:]}',
    )
    world.wait_state(ACTIVE)
    return None


@variants('H34', {'SIGTERM': signal.SIGTERM, 'SIGINT': signal.SIGINT})
def controller_asked_to_end(world: World, number: int) -> float:
    injected = world.inject(lambda: world.controller.signal(number))
    assert world.controller.wait(3.0) == 0
    last = world.twists(since_s=injected.t_s)['data'][:, :6]
    assert len(last) >= 10, 'too few commands after the signal'
    assert not last[-10:].any(), f'the last ten commands are not zeros: {last[-10:]}'
    taken_s = world.time_to_zero(injected.t_s)
    allowed_s = world.limits.ramp_s() + 3 * world.limits.tau_s
    world.judge_time('ramp before the exit', taken_s, allowed_s, injected.t_s)
    restarted_s = time.monotonic()
    world.start_controller()
    world.wait_state(DISARMED, deadline_s=10.0, since_s=restarted_s)
    return taken_s


def _driver_stops(world: World, injected: Injection) -> None:
    """The robot's own timeout ends motion when the controller says nothing (H33)."""
    last_s = float(world.twists(until_s=injected.t_s + 0.05)['t_s'][-1])
    world.wait_until(
        lambda: len(world.poses(since_s=last_s + DRIVER_TIMEOUT_S + 0.04)),
        'poses after the timeout',
    )
    moving = world.poses(since_s=last_s + DRIVER_TIMEOUT_S + 0.02)
    assert not moving['data'][:, 7].any(), 'the robot goes on without commands'


# Where


@fault('H57')
def push_into_a_corner(world: World) -> None:
    """Box and limits are judged at every sample; the arm arrives and rests at the wall."""
    push = [0.12, 0.12, 0.12, 0.0, 0.0, 0.3]
    world.inject(lambda: world.policy.call('pattern', pattern='constant', twist=push))
    world.wait_until(
        lambda: 'BOX' in world.status()['reasons'] and world.speed_mps() < 0.01, 'rest at the wall'
    )
    back = [-0.15, -0.15, -0.15, 0.0, 0.0, -0.3]
    world.policy.call('pattern', pattern='constant', twist=back)
    world.wait_until(lambda: world.wall_m() > 0.08, 'back in the middle')
    world.policy.call('pattern', pattern='orbit')


# Time (on a fake /clock)


@fault('H50', SIM_TIME)
def clock_pauses(world: World) -> float:
    injected = world.inject(lambda: world.processes['clock'].call('factor', factor=0.0))
    taken_s = stops(world, injected, 'clock pauses', 1.0)
    world.require_stays_still(0.5)
    world.processes['clock'].call('factor', factor=1.0)
    return taken_s


@fault('H50', SIM_TIME)
def clock_silent(world: World) -> float:
    injected = world.inject(
        lambda: (time.monotonic(), world.processes['clock'].call('speaking', on=False))[0]
    )
    taken_s = stops(world, injected, 'clock silent', 1.0)
    world.require_stays_still(0.5)
    world.processes['clock'].call('speaking', on=True)
    return taken_s


@variants('H50', {'ten times as fast': 10.0, 'at a tenth': 0.1}, SIM_TIME)
def clock_runs(world: World, factor: float) -> None:
    """Ages in ROS time are wrong now; no limit is (the invariants judge).

    How long an action holds follows the factor, so the time to rest is judged here below 1.
    """
    injected = world.inject(lambda: world.processes['clock'].call('factor', factor=factor))
    time.sleep(1.5)
    killed_s = world.policy.kill()
    slowdown = 1.0 / min(1.0, factor)
    allowed_s = 1.25 * STEP_S * slowdown + world.limits.ramp_s() + 2 * world.limits.tau_s
    taken_s = world.time_to_zero(killed_s, deadline_s=allowed_s + 2.0)
    if slowdown > 1.0:
        world.exempt_window('stop', since_s=injected.t_s, until_s=killed_s + taken_s + 0.1)
    world.judge_time('clock runs', taken_s, allowed_s, killed_s)
    world.processes['clock'].call('factor', factor=1.0)
    world.start_policy()


@variants('H49 H51', {'back 500 s': -500.0, 'ahead 500 s': 500.0}, SIM_TIME)
def clock_jump(world: World, by_s: float) -> None:
    injected = world.inject(lambda: world.processes['clock'].call('jump', by_s=by_s))
    world.wait_until(
        lambda: any('CLOCK_JUMP' in s['reasons'] for s in world.statuses(injected.t_s)),
        'CLOCK_JUMP reported',
    )
    world.wait_state(ACTIVE, since_s=injected.t_s)  # three fresh actions later
    return


def shuffled(catalogue: list[Fault], seed: int) -> list[Fault]:
    """The catalogue in another order, so that no case depends on the one before it."""
    return random.Random(seed).sample(catalogue, len(catalogue))
