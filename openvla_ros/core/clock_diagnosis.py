"""Which clocks disagree, said from a stamp, the time it arrived, and how the ones before differed.

A stamp's age tells that something is wrong; its size, and whether it stays the same, tell what.
"""

import collections

# Seconds since 1970 at the start of 2001: below it a time counts from some start, not from 1970.
_COUNTS_FROM_A_START_S = 978_307_200.0
# Nothing on its way takes this long: two clocks, not one slow one.
_TWO_CLOCKS_S = 60.0
# Ages of a slow camera or network differ more than this; those of two clocks do not.
_CONSTANT_SPREAD_S = 0.05
_AGES = 10

NO_CLOCK = (
    'use_sim_time is true, but no time has arrived on /clock; start the simulator with its clock, '
    'play a bag with `ros2 bag play --clock`, or set use_sim_time to false'
)
CLOCK_STOPPED = (
    'ROS time stands still: /clock is paused or nothing publishes it any more; continue the '
    'simulation or the bag'
)


class StampAges:
    """Remembers how old the stamps of one publisher were on arrival."""

    def __init__(self) -> None:
        """Start with none."""
        self._ages_s: collections.deque[float] = collections.deque(maxlen=_AGES)

    def add(self, age_s: float) -> None:
        """Take the age [s] of one stamp: ROS time of arrival minus the stamp."""
        self._ages_s.append(age_s)

    @property
    def are_constant(self) -> bool:
        """Whether the last ten ages were equal to 50 ms: an offset, not a delay."""
        ages_s = self._ages_s
        return len(ages_s) == _AGES and max(ages_s) - min(ages_s) < _CONSTANT_SPREAD_S


def explain_stamp(
    what: str, stamp_s: float, ros_now_s: float, *, simulated: bool, constant: bool = False
) -> str:
    """Say which clocks made a stamp too old or too far ahead, and what to do.

    Args:
        what: Who stamped, such as 'the camera'.
        stamp_s: The stamp [s].
        ros_now_s: ROS time on its arrival [s].
        simulated: ROS time is that of /clock.
        constant: The stamps before were off by the same amount.

    Returns:
        A part of a sentence, to follow a semicolon.
    """
    age_s = ros_now_s - stamp_s
    from_start = stamp_s < _COUNTS_FROM_A_START_S
    if simulated and not from_start and ros_now_s < _COUNTS_FROM_A_START_S:
        return (
            f'{what} stamps by the wall clock and ROS time is that of /clock; set use_sim_time '
            f'for {what} too'
        )
    if not simulated and from_start:
        return (
            f'{what} counts from a start of its own: a simulator (set use_sim_time to true) or a '
            "camera's own clock (let its driver stamp with the computer's time)"
        )
    if abs(age_s) > _TWO_CLOCKS_S:
        return _two_clocks(what, age_s, simulated)
    if constant:
        return (
            f'the last {_AGES} were off by the same time, so the clock of the computer of {what} '
            'differs; synchronize the computers (chrony or PTP)'
        )
    if age_s < 0.0:
        return f'synchronize the clocks of {what} and of this computer (chrony or PTP)'
    return 'look for a slow driver, a slow network, or a clock that is behind (chrony, PTP)'


def _two_clocks(what: str, age_s: float, simulated: bool) -> str:
    if simulated:
        return f'{what} does not take its time from /clock; set use_sim_time for it too'
    if age_s > 0.0:
        return (
            'a recording? Play it with `ros2 bag play --clock` and start these nodes with '
            f'use_sim_time:=true; otherwise the clock of {what} is wrong (chrony or PTP)'
        )
    return f'the clock of {what} or of this computer is wrong; synchronize them (chrony or PTP)'


def spoken_duration(seconds: float) -> str:
    """Return a duration as people say it: '0.53 s', '12 min', '3.2 h', '41 days'."""
    seconds = abs(seconds)
    if seconds < 120.0:
        return f'{seconds:.2f} s'
    if seconds < 7200.0:
        return f'{seconds / 60.0:.0f} min'
    if seconds < 172_800.0:
        return f'{seconds / 3600.0:.1f} h'
    return f'{seconds / 86_400.0:.0f} days'
