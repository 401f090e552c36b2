import math

import numpy as np
import pytest

from openvla_ros.evaluation.intervals import paired_difference, proportion


def test_wilsons_interval_solves_its_own_equation():
    # Its ends are the rates p at which the observed rate is exactly 1.96 standard errors away.
    interval = proportion(19, 20)
    for end in (interval.low, interval.high):
        assert abs(0.95 - end) == pytest.approx(
            1.959964 * math.sqrt(end * (1 - end) / 20), rel=1e-5
        )


def test_no_success_is_not_certainty_of_failure():
    # At zero successes the upper end is z^2 / (n + z^2).
    interval = proportion(0, 10)
    assert interval.low == 0.0
    assert interval.high == pytest.approx(3.841459 / 13.841459, rel=1e-6)


def test_equal_results_differ_by_nothing():
    interval = paired_difference([True, False] * 50, [True, False] * 50)
    assert interval.value == 0.0
    assert interval.low == pytest.approx(-interval.high)
    assert interval.high < 0.03


def test_the_sign_says_who_is_better():
    first, second = [True] * 10 + [False] * 10, [True] * 20
    assert paired_difference(first, second).value == pytest.approx(0.5)
    assert paired_difference(second, first).value == pytest.approx(-0.5)


def test_the_paired_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        hard = rng.random(80)
        first, second = hard < 0.8, hard + 0.1 * rng.standard_normal(80) < 0.8
        low, high = paired_difference(first.tolist(), second.tolist())[1:]
        covered += low <= 0.0 <= high
    # By symmetry around 0.8 (far from the ends) the true difference is next to zero.
    assert covered / 400 > 0.93


def test_nothing_measured_is_refused():
    with pytest.raises(ValueError, match='trials'):
        proportion(0, 0)
    with pytest.raises(ValueError, match='expected pairs'):
        paired_difference([True], [])
