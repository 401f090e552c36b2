import pytest

from openvla_ros.safety.safety_state import SafetyState, State


def test_it_starts_disarmed():
    assert SafetyState().state == State.DISARMED


def test_an_armed_state_may_follow_another():
    machine = SafetyState()
    machine.go(State.HOLD, 'WAITING', 1.0)
    machine.go(State.ACTIVE, 'EXECUTING', 2.0)
    assert (machine.state, machine.cause, machine.since_s) == (State.ACTIVE, 'EXECUTING', 2.0)


def test_the_time_of_entry_stays_while_the_state_does():
    machine = SafetyState()
    machine.go(State.HOLD, 'WAITING', 1.0)
    machine.go(State.HOLD, 'POSE_STALE', 2.0)
    assert machine.since_s == 1.0


@pytest.mark.parametrize('latched', [State.FAULT, State.ESTOP])
@pytest.mark.parametrize('wanted', [State.DISARMED, State.HOLD, State.ACTIVE])
def test_nothing_but_release_leaves_a_latched_state(latched, wanted):
    machine = SafetyState()
    machine.latch(latched, 'FAULT_FLOOD', 1.0)
    machine.go(wanted, 'OPERATOR', 2.0)
    assert machine.state == latched
    machine.release(3.0)
    assert machine.state == State.DISARMED


def test_the_first_cause_is_kept_first():
    machine = SafetyState()
    machine.latch(State.FAULT, 'FAULT_FLOOD', 1.0)
    machine.latch(State.FAULT, 'FAULT_NON_FINITE', 2.0)
    machine.latch(State.FAULT, 'FAULT_FLOOD', 3.0)
    assert machine.latched_causes == ('FAULT_FLOOD', 'FAULT_NON_FINITE')


def test_an_estop_dominates_a_fault_and_a_fault_does_not_dominate_an_estop():
    machine = SafetyState()
    machine.latch(State.FAULT, 'FAULT_FLOOD', 1.0)
    machine.latch(State.ESTOP, 'ESTOP', 2.0)
    machine.latch(State.FAULT, 'FAULT_OVERRUN', 3.0)
    assert machine.state == State.ESTOP
    assert machine.latched_causes == ('ESTOP', 'FAULT_FLOOD', 'FAULT_OVERRUN')


def test_a_cause_is_present_until_a_second_after_it_was_last_seen():
    machine = SafetyState()
    machine.latch(State.FAULT, 'FAULT_FLOOD', 1.0)
    machine.latch(State.FAULT, 'FAULT_FLOOD', 5.0)
    assert machine.present_causes(5.9) == ['FAULT_FLOOD']
    assert machine.present_causes(6.1) == []


@pytest.mark.parametrize('now_s', [float('nan'), -1.0])
def test_a_time_that_cannot_be_counts_as_present(now_s):
    machine = SafetyState()
    machine.latch(State.FAULT, 'FAULT_FLOOD', 1.0)
    assert machine.present_causes(now_s) == ['FAULT_FLOOD']
