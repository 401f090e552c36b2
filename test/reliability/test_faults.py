"""Process faults on real processes, each into a moving arm; the catalogue and its rows:
faults.py."""

import warnings

import pytest
from harness.world import World
from reliability import faults
from reliability.runner import run_fault

pytestmark = [pytest.mark.ros, pytest.mark.slow]


class NotJudgedWarning(UserWarning):
    """A time that this machine was too busy to judge; limits were judged all the same."""


def run(world: World, fault: faults.Fault) -> None:
    result = run_fault(world, fault)
    if result.repeated:
        outcome = 'repeated' if result.judged else 'never judged'
        warnings.warn(
            f'{fault.name}: {outcome}: {result.repeated}', NotJudgedWarning, stacklevel=1
        )


@pytest.mark.parametrize('fault', faults.MAIN, ids=lambda f: f.name.replace(' ', '_'))
def test_a_fault_stops_a_moving_arm(main_world: World, fault: faults.Fault) -> None:
    run(main_world, fault)


def test_no_sample_of_all_these_faults_broke_an_invariant(main_world: World) -> None:
    report = main_world.check()
    report.require_clean()
    assert report.samples > 50


@pytest.mark.parametrize('fault', faults.SIM_TIME, ids=lambda f: f.name.replace(' ', '_'))
def test_simulation_time_out_of_order_stops_the_arm(
    sim_time_world: World, fault: faults.Fault
) -> None:
    run(sim_time_world, fault)


def test_no_sample_on_simulation_time_broke_an_invariant(sim_time_world: World) -> None:
    sim_time_world.check().require_clean()
