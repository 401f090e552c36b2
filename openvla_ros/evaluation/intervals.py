"""How sure a measured rate is: 95 % intervals for proportions and for paired differences."""

import math
from typing import NamedTuple

_Z95 = 1.959963984540054


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{100 * self.value:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f})'


def proportion(successes: int, trials: int) -> Interval:
    """Wilson's score interval (Wilson 1927), which holds for few trials and near 0 and 1 too.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f'got {successes} successes in {trials} trials')
    rate, z2 = successes / trials, _Z95**2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    spread = _Z95 * math.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2))
    spread /= 1 + z2 / trials
    return Interval(rate, max(0.0, centre - spread), min(1.0, centre + spread))


def paired_difference(first: list[bool], second: list[bool]) -> Interval:
    """Rate of ``second`` minus rate of ``first`` over the same trials.

    The value is the plain difference; the interval is Wald's with half a trial added to each of
    the four outcomes of a pair (Agresti and Min 2005).

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f'got {len(first)} and {len(second)} trials, expected pairs')
    won = sum(b and not a for a, b in zip(first, second))
    lost = sum(a and not b for a, b in zip(first, second))
    trials = len(first) + 2
    centre = (won - lost) / trials
    spread = _Z95 * math.sqrt(won + lost + 1 - (won - lost) ** 2 / trials) / trials
    return Interval((won - lost) / len(first), centre - spread, centre + spread)
