"""The real-time factor, and a smooth reading of a clock that comes in lumps."""

import math

import pytest

from openvla_ros.core.ros_pace import SLOWEST, RosPace


def feed(pace, factor, seconds, *, now_s=100.0, ros_s=50.0, lump_s=0.0, period_s=0.02):
    """Read a clock every period; returns what passed in all and the times at the end."""
    passed_s = 0.0
    for _ in range(round(seconds / period_s)):
        now_s, ros_s = now_s + period_s, ros_s + factor * period_s
        told_s = math.floor(ros_s / lump_s) * lump_s if lump_s else ros_s
        passed_s += pace.note(now_s, told_s)
    return passed_s, now_s, ros_s


@pytest.mark.parametrize('lump_s', [0.0, 0.001, 1 / 60])
@pytest.mark.parametrize('factor', [0.25, 1.0, 2.0])
def test_it_finds_the_factor_and_loses_no_time(factor, lump_s):
    pace = RosPace()
    _, now_s, ros_s = feed(pace, factor, 1.0, lump_s=lump_s)
    assert pace.factor == pytest.approx(factor, rel=0.05)
    passed_s, *_ = feed(pace, factor, 10.0, now_s=now_s, ros_s=ros_s, lump_s=lump_s)
    assert passed_s == pytest.approx(10.0 * factor, abs=lump_s + 1e-9)


def test_a_change_of_pace_is_followed_within_its_window_and_loses_no_time():
    pace = RosPace()
    _, now_s, ros_s = feed(pace, 1.0, 2.0)
    passed_s, *_ = feed(pace, 0.25, 3.0, now_s=now_s, ros_s=ros_s)
    assert pace.factor == pytest.approx(0.25)
    assert passed_s == pytest.approx(0.75, abs=1e-3)


def test_time_that_stands_still_is_noticed_after_0_3_s_and_passes_no_more():
    pace = RosPace()
    _, now_s, ros_s = feed(pace, 1.0, 2.0)
    assert not pace.stands_still(now_s + 0.29)
    assert pace.stands_still(now_s + 0.31)
    feed(pace, 0.0, 1.0, now_s=now_s, ros_s=ros_s)
    assert pace.factor == 0.0
    assert pace.note(now_s + 1.02, ros_s) == 0.0
    assert pace.slowdown == 1.0 / SLOWEST  # never infinite


@pytest.mark.parametrize(
    'wrong', [(math.nan, 60.0), (101.0, math.nan), (99.0, 60.0), (102.5, 1.0)]
)
def test_a_clock_that_is_none_or_runs_backwards_lets_no_time_pass(wrong):
    pace = RosPace()
    feed(pace, 0.5, 2.0)
    assert pace.note(*wrong) == 0.0
    assert pace.factor == pytest.approx(0.5)
