"""The judge is judged: a clean run passes, and each planted violation is found under its name."""

from collections.abc import Callable

import numpy as np
import pytest
from harness import recording
from harness.invariants import Exemptions, Run, check
from harness.limits import ACTIVE, DISARMED, ESTOP, FAULT, HOLD, Limits

LIMITS = Limits(
    tau_s=0.02,
    speed_mps=0.25,
    axis_speed_mps=(0.25, 0.25, 0.2),
    turn_radps=1.0,
    accel_mps2=(1.0, 2.0, 5.0),
    turn_accel_radps2=(4.0, 8.0, 20.0),
    box_lo_m=(0.1, -0.25, 0.0),
    box_hi_m=(0.45, 0.25, 0.35),
)
START_S = 100.0
STEP_S = 0.2


def records(kind: int, times: np.ndarray, columns: dict[int, object]) -> np.ndarray:
    out = np.zeros(len(times), recording.RECORD)
    out['kind'], out['t_s'] = kind, times
    for column, values in columns.items():
        out['data'][:, column] = values
    return out


def clean_run() -> Run:
    """0.5 s armed and still, 1 s along x at 0.1 m/s, then 1 s of rest after the last action."""
    times = START_S + LIMITS.tau_s * np.arange(125)
    vx = np.zeros(125)
    vx[25:80] = 0.1
    vx[25:30] = [0.02, 0.04, 0.06, 0.08, 0.1]  # 1 m/s^2
    vx[80:84] = [0.08, 0.06, 0.04, 0.02]
    x = 0.2 + np.cumsum(vx) * LIMITS.tau_s
    twists = records(recording.TWIST, times, {0: vx, 7: 1.0, 8: x, 10: 0.175, 14: 1.0})
    poses = records(recording.POSE, times + 0.005, {0: x, 2: 0.175, 6: 1.0})
    ticks = np.arange(0, 125, 5)
    states = np.where((ticks >= 25) & (ticks < 80), ACTIVE, HOLD)
    statuses = records(recording.STATUS, times[ticks] + 0.001, {0: states, 1: ticks + 1})
    sent = START_S + np.arange(0.48, 1.6, STEP_S)
    actions = records(recording.ACTION, sent, {0: 0.1, 6: STEP_S, 10: 1.0})
    canary_s = START_S - 0.1 + 0.02 * np.arange(140)
    return Run(twists, poses, statuses, actions, records(recording.TICK, canary_s, {0: 0.02}))


def test_a_clean_run_has_no_violation() -> None:
    report = check(clean_run(), LIMITS)
    report.require_clean()
    assert report.samples == 125


def not_a_number(run: Run) -> None:
    run.twists['data'][40, 4] = np.nan


def infinite(run: Run) -> None:
    run.twists['data'][40, 0] = np.inf


def in_another_frame(run: Run) -> None:
    run.twists['data'][40, 7] = 0.0


def above_the_norm_only(run: Run) -> None:
    run.twists['data'][40:60, 0:3] = [0.19, 0.19, 0.0]  # each axis is within its limit


def above_one_axis_only(run: Run) -> None:
    run.twists['data'][40:60, 0:3] = [0.0, 0.0, 0.21]


def turns_too_fast(run: Run) -> None:
    run.twists['data'][40:60, 3] = 1.001


def jerks_in_active(run: Run) -> None:
    run.twists['data'][50, 0] = (
        0.125  # 0.025 m/s in one tick: fine for HOLD (2), too much for ACTIVE (1)
    )


def jerks_in_estop(run: Run) -> None:
    run.statuses['data'][:, 0] = ESTOP
    run.twists['data'][40:, 0] = 0.0
    run.twists['data'][39, 0] = 0.11


def jerks_in_rotation(run: Run) -> None:
    run.twists['data'][50:60, 5] = 0.1  # 4 rad/s^2 * 0.02 s = 0.08 rad/s


def leaves_the_box_between_commands(run: Run) -> None:
    run.poses['data'][60, 1] = 0.2501


def is_outside_at_a_command(run: Run) -> None:
    run.twists['data'][60, 10] = -0.0001


def has_a_pose_that_is_not_a_number(run: Run) -> None:
    run.poses['data'][60, 0] = np.nan


def never_stops(run: Run) -> None:
    run.twists['data'][80:, 0] = 0.1
    run.statuses['data'][:, 0] = ACTIVE


def creeps_in_hold(run: Run) -> None:
    run.twists['data'][100:, 0] = 1e-9


def turns_in_hold(run: Run) -> None:
    run.twists['data'][100:, 5] = 1e-9


def moves_while_disarmed(run: Run) -> None:
    run.statuses['data'][:, 0] = DISARMED


def moves_in_fault(run: Run) -> None:
    run.statuses['data'][7:, 0] = FAULT


def ignores_the_estop(run: Run) -> None:
    run.statuses['data'][7:, 0] = ESTOP


PLANTED: list[tuple[Callable[[Run], None], str]] = [
    (not_a_number, 'finite'),
    (infinite, 'finite'),
    (in_another_frame, 'frame'),
    (above_the_norm_only, 'speed'),
    (above_one_axis_only, 'axis_speed'),
    (turns_too_fast, 'turn'),
    (jerks_in_active, 'accel'),
    (jerks_in_estop, 'accel'),
    (jerks_in_rotation, 'turn_accel'),
    (leaves_the_box_between_commands, 'box'),
    (is_outside_at_a_command, 'box'),
    (has_a_pose_that_is_not_a_number, 'box'),
    (never_stops, 'late_stop'),
    (creeps_in_hold, 'moves_in_HOLD'),
    (turns_in_hold, 'moves_in_HOLD'),
    (moves_while_disarmed, 'moves_in_DISARMED'),
    (moves_in_fault, 'moves_in_FAULT'),
    (ignores_the_estop, 'moves_in_ESTOP'),
]


@pytest.mark.parametrize(('plant', 'invariant'), PLANTED, ids=lambda p: getattr(p, '__name__', p))
def test_a_planted_violation_is_found(plant: Callable[[Run], None], invariant: str) -> None:
    run = clean_run()
    plant(run)
    report = check(run, LIMITS)
    assert invariant in report.kinds()
    with pytest.raises(AssertionError, match=invariant):
        report.require_clean()


def test_a_late_stop_is_not_judged_but_noted_when_the_canary_was_late_too() -> None:
    run = clean_run()
    never_stops(run)
    run.canary['data'][:, 0] = 0.5
    report = check(run, LIMITS)
    assert 'late_stop' not in report.kinds()
    assert report.notes['late samples not judged (the canary was late too)'] > 0


def test_a_stop_ramp_without_its_status_is_possible_only_where_the_canary_was_late() -> None:
    run = clean_run()
    jerks_in_active(run)  # 1.25 m/s^2: too much for ACTIVE, fine for HOLD
    assert 'accel' in check(run, LIMITS).kinds()
    run.canary['data'][55, 0] = 0.1
    report = check(run, LIMITS)
    report.require_clean()
    run.twists['data'][50, 0] = 0.16  # 3 m/s^2 is too much for either
    assert 'accel' in check(run, LIMITS).kinds()


def test_a_late_stop_is_not_judged_without_a_canary() -> None:
    run = clean_run()
    never_stops(run)
    without = Run(run.twists, run.poses, run.statuses, run.actions, run.canary[:0])
    assert 'late_stop' not in check(without, LIMITS).kinds()


def test_an_action_the_scenario_calls_unacceptable_does_not_excuse_motion() -> None:
    run = clean_run()
    run.actions['data'][2:, 10] = 0.0
    assert 'late_stop' in check(run, LIMITS).kinds()


def stamped(run: Run) -> Run:
    run.twists['data'][:, 6] = run.twists['t_s'] + 1e9
    run.statuses['data'][:, 16] = run.statuses['t_s'] + 1e9
    return run


def test_a_recorder_that_read_late_does_not_mispair_states() -> None:
    """Commands that waited are read after the status of a later tick: their stamps say when."""
    run = stamped(clean_run())
    run.twists['t_s'][76:84] = run.twists['t_s'][84] - 1e-3 * np.arange(8, 0, -1)
    check(run, LIMITS).require_clean()
    creeps_in_hold(run)
    jerks_in_active(run)
    assert {'accel', 'moves_in_HOLD'} <= check(run, LIMITS).kinds()


def test_a_lost_sample_is_not_mistaken_for_a_jerk_but_noted() -> None:
    run = clean_run()
    kept = np.delete(np.arange(125), [26, 27])
    lossy = Run(run.twists[kept], run.poses, run.statuses, run.actions, run.canary)
    report = check(lossy, LIMITS)
    report.require_clean()
    assert report.notes['samples lost on the way to the recorder'] == 2


def test_a_jerk_after_a_late_tick_is_found() -> None:
    """A tick that comes late may still change the twist by one tau only."""
    run = clean_run()
    run.twists['t_s'][50:] += 0.06
    run.statuses['t_s'][10:] += 0.06
    run.twists['data'][50:80, 0] = 0.15
    assert 'accel' in check(run, LIMITS).kinds()


def test_an_exempt_window_covers_only_its_invariant_and_time() -> None:
    run = clean_run()
    leaves_the_box_between_commands(run)
    at_s = float(run.poses['t_s'][60])
    around = ((at_s - 0.01, at_s + 0.01),)
    check(run, LIMITS, Exemptions(box=around)).require_clean()
    assert 'box' in check(run, LIMITS, Exemptions(accel=around)).kinds()
    before = ((at_s - 0.5, at_s - 0.1),)
    assert 'box' in check(run, LIMITS, Exemptions(box=before)).kinds()


def test_a_restart_of_the_controller_is_no_jerk_but_its_new_run_is_judged() -> None:
    run = clean_run()
    run.twists['data'][60:80, 0] = 0.0
    at_s = float(run.twists['t_s'][60]) - 0.01
    assert 'accel' in check(run, LIMITS).kinds()
    run.twists['data'][80:84, 0] = 0.0
    check(run, LIMITS, Exemptions(restarts_s=(at_s,))).require_clean()
