"""What the properties draw from: profiles, displacements, streams, junk; and how many examples."""

import math
import os
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from properties import rig

from openvla_ros.safety.robot_profile import RobotProfile

# 1 for `make test`; the mutation job uses less, a release more.
EFFORT = float(os.environ.get('OPENVLA_ROS_PROPERTY_EFFORT', '1'))


def examples(count: int) -> settings:
    """Settings for this many examples at the usual effort; no deadline, the machine may be
    busy."""
    return settings(
        max_examples=max(5, round(count * EFFORT)),
        deadline=None,
        derandomize=EFFORT <= 1,  # a release looks where no run has looked before
        database=None,
        phases=(Phase.explicit, Phase.generate, *((Phase.shrink,) if EFFORT >= 1 else ())),
        suppress_health_check=list(HealthCheck),
    )


def between(lo: float, hi: float) -> st.SearchStrategy[float]:
    """Finite floats in an interval."""
    return st.floats(lo, hi, allow_nan=False, allow_subnormal=False)


fractions = between(0.0, 1.0)
steps_s = st.sampled_from([0.1, 0.2, 1 / 3])
directions = st.builds(
    lambda azimuth, z: (
        math.sqrt(1 - z * z) * math.cos(azimuth),
        math.sqrt(1 - z * z) * math.sin(azimuth),
        z,
    ),
    between(0.0, 2 * math.pi),
    between(-1.0, 1.0),
) | st.sampled_from([(1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)])


@st.composite
def twists(draw: Any, translation_m: float = 0.1, rotation_rad: float = 0.6) -> list[float]:
    """A plausible displacement as a twist over a step of 0.2 s."""
    along, around = draw(directions), draw(directions)
    v = draw(fractions) * translation_m / 0.2 * (1 - 1e-9)
    w = draw(fractions) * rotation_rad / 0.2 * (1 - 1e-9)
    return [v * x for x in along] + [w * x for x in around]


@st.composite
def profiles(draw: Any, **fixed: Any) -> RobotProfile:
    """Robots from sluggish to brisk."""
    v, w = draw(between(0.02, 0.6)), draw(between(0.1, 3.0))
    a, alpha = draw(between(0.2, 5.0)), draw(between(1.0, 20.0))
    stop, estop = draw(between(1.0, 4.0)), draw(between(1.0, 4.0))
    axis = [v * draw(between(0.3, 1.2)) for _ in range(3)]
    changes = {
        'control_rate_hz': draw(st.sampled_from([50.0, 100.0])),
        'action_scale': draw(st.sampled_from([1.0, 1.0, 0.3])),
        'limits__speed_mps': v,
        'limits__axis_speed_mps': axis,
        'limits__angular_speed_radps': w,
        'limits__acceleration_mps2': a,
        'limits__angular_acceleration_radps2': alpha,
        'limits__stop_acceleration_mps2': a * stop,
        'limits__stop_angular_acceleration_radps2': alpha * stop,
        'limits__estop_acceleration_mps2': a * stop * estop,
        'limits__estop_angular_acceleration_radps2': alpha * stop * estop,
        'workspace__margin_m': draw(st.sampled_from([0.0, 0.005])),
        'pose__latency_s': draw(st.sampled_from([0.0, 0.03, 0.1])),
    }
    return rig.profile(**{**changes, **fixed})


# A stream is a list of (twist, step_s, periods until the next one as a part of the step).
streams = st.lists(
    st.tuples(twists(), steps_s, st.sampled_from([0.5, 0.8, 1.0, 1.0, 1.2, 2.0])),
    min_size=1,
    max_size=8,
)
gentle_streams = st.lists(
    st.tuples(
        twists(translation_m=0.02, rotation_rad=0.08), st.sampled_from([0.5, 0.8, 1.0, 1.2])
    ),
    min_size=1,
    max_size=8,
)
any_float = st.floats() | st.sampled_from(
    [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e18, -1e18, 0.0, 1e3, -1.0]
)


def play(r: rig.Rig, stream: list[tuple[list[float], float, float]]) -> None:
    """Offer each action of a stream and let the periods until the next one pass."""
    for twist, step_s, gap in stream:
        share = 0.2 / step_s  # the twists are drawn for steps of 0.2 s: keep the displacement
        r.act([x * share for x in twist], step_s=step_s)
        r.ticks(max(1, round(gap * step_s / r.bounds.tau)))


def to_rest(r: rig.Rig, step_s: float = 0.2, limit_s: float = 60.0) -> None:
    """Offer zero actions until everything accepted is done and the arm rests."""
    for _ in range(round(limit_s / step_s)):
        r.act((0.0,) * 6, step_s=step_s)
        r.ticks(round(step_s / r.bounds.tau))
        if not r.moving():
            return
    raise AssertionError(f'the arm does not come to rest: {r.out}')
