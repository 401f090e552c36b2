"""10^6 judged ticks of everything at once, in two processes."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from properties.fuzz import Tally, fuzz
from properties.strategies import EFFORT

TICKS = round(1_000_000 * EFFORT)
PROCESSES = 2
SEEDS = 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_ticks_of_hostile_input_break_no_limit() -> None:
    """P1 to P6, P8, P9, P14 and the threat model: stop it they may, move it beyond its limits
    never."""
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        tallies = list(pool.map(fuzz, range(SEEDS), [TICKS // SEEDS] * SEEDS))
    assert sum(tally.ticks for tally in tallies) >= TICKS
    together = Tally()
    for tally in tallies:
        together.states += tally.states
        together.moving += tally.moving
        together.offered += tally.offered
        together.accepted += tally.accepted
    # A fuzz that mostly rests in a latched state tests little: at least a fifth of it must move.
    assert together.moving > 0.2 * TICKS
    assert together.accepted > 0.2 * together.offered
    assert set(together.states) == {0, 1, 2, 3, 4}
