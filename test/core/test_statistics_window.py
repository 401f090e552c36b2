"""Rates, percentiles and counts over a window."""

import math

import pytest

from openvla_ros.core.statistics_window import Counters, EventRate, SlidingValues


def test_percentiles_are_of_the_last_values():
    values = SlidingValues(length=101)
    for i in range(1000):
        values.add(float(i))
    # The last are 899 ... 999.
    assert values.percentile(50) == 949.0
    assert values.percentile(99) == 998.0
    assert values.mean() == 949.0
    assert len(values) == 101


def test_no_values_are_nan_and_not_an_error():
    assert math.isnan(SlidingValues().percentile(50))
    assert math.isnan(SlidingValues().mean())


def test_the_rate_is_that_of_the_intervals():
    rate = EventRate(window_s=5.0)
    for i in range(26):
        rate.mark(0.2 * i)
    assert rate.rate_hz(5.0) == pytest.approx(5.0)


def test_silence_lowers_the_rate_and_ends_it():
    rate = EventRate(window_s=5.0)
    for i in range(11):
        rate.mark(0.1 * i)
    assert rate.rate_hz(1.0) == pytest.approx(10.0)
    assert rate.rate_hz(3.0) == pytest.approx(10 / (1.0 + 2.0 - 0.1))
    assert rate.rate_hz(10.0) == 0.0
    assert EventRate().rate_hz(0.0) == 0.0


def test_counters_start_at_zero_and_keep_their_order():
    counters = Counters()
    assert counters['a'] == 0
    for name in 'bab':
        counters.add(name)
    assert counters.as_dict() == {'b': 2, 'a': 1}
    assert list(counters.as_dict()) == ['b', 'a']
