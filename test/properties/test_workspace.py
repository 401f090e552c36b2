"""P4, P11, P13: the arm never leaves the box, and from outside it only comes back, slowly."""

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import rig
from properties.strategies import between, directions, examples, play, profiles, streams, twists
from scipy.spatial.transform import Rotation

from openvla_ros.safety.workspace import SpeedLimits, Wall, Workspace, braking_speed

CORNERS = list(itertools.product((0.1, 0.45), (-0.25, 0.25), (0.0, 0.35)))
FACES = [tuple(s if i == j else 0.0 for j in range(3)) for i in range(3) for s in (1.0, -1.0)]
CREEP_MPS = 0.05


@given(
    st.floats(1e-12, 10.0, allow_nan=False),
    st.floats(1e-2, 100.0),
    st.floats(1e-3, 0.2),
)
@examples(9000)
def test_the_braking_curve_stops_inside_the_distance(d: float, a: float, tau: float) -> None:
    """P11: hold u for one period, then lose a tau per period: the way is at most d, for all d, A,
    tau."""
    u = braking_speed(d, a, tau)
    assert u >= 0.0
    periods = math.ceil(u / (a * tau))
    n = periods - 1
    way = tau * (u + n * u - a * tau * n * (n + 1) / 2) if periods else 0.0
    assert way <= d * (1 + 1e-9)
    # The largest such speed: u^2 / (2 A) + u tau = d.
    assert u * u / (2 * a) + u * tau == pytest.approx(d, rel=1e-6)
    # The next limit never asks for more than A tau: reachable for ever.
    assert braking_speed(d - u * tau, a, tau) >= u - a * tau * (1 + 1e-9)


@given(st.floats(max_value=0.0), st.floats(1e-2, 100.0), st.floats(1e-3, 0.2))
@examples(500)
def test_no_speed_is_allowed_towards_a_wall_already_passed(d: float, a: float, tau: float) -> None:
    """P11: f(d) = 0 for d <= 0."""
    assert braking_speed(d, a, tau) == 0.0


@given(profiles(), st.lists(st.tuples(directions, st.floats(0.3, 1.0)), min_size=2, max_size=6))
@examples(250)
def test_pushing_at_walls_from_anywhere_never_leaves_the_box(
    p: rig.RobotProfile, pushes: list
) -> None:
    """P4: long pushes in random directions reach the walls; Rig judges the position of every
    tick."""
    r = rig.Rig(p)
    r.arm()
    for direction, share in pushes:
        for _ in range(4):
            r.act([0.5 * share * x for x in direction] + [0.0] * 3)
            r.ticks(round(0.2 / r.bounds.tau))


@pytest.mark.parametrize(
    'direction',
    FACES + [tuple((c - m) for c, m in zip(corner, (0.275, 0.0, 0.175))) for corner in CORNERS],
)
def test_a_constant_push_reaches_face_or_corner_and_rests_there(direction: tuple) -> None:
    """H57, P4: 6 faces and 8 corners, 60 s of pushing; the wall is reached and never passed."""
    r = rig.Rig()
    r.arm()
    length = math.hypot(*direction)
    for _ in range(300):
        r.act([0.24 * x / length for x in direction] + [0.0] * 3)
        r.ticks(10)
    wall = min(min(p - lo, hi - p) for p, lo, hi in zip(r.position, r.bounds.lo, r.bounds.hi))
    assert 0.0 <= wall <= 0.012, 'the margin is 5 mm'
    assert r.speed() < 1e-3
    assert r.out is not None
    assert 'BOX' in r.out.status.reasons


@given(st.integers(0, 3), directions, st.floats(0.02, 0.25), st.sampled_from([0.1, 0.06]))
@examples(300)
def test_a_late_pose_within_the_stated_latency_does_not_open_the_box(
    delay: int, direction: tuple, speed: float, latency_s: float
) -> None:
    """P4: the measured pose is up to 60 ms old; the profile says so."""
    r = rig.Rig(rig.profile(pose__latency_s=latency_s))
    r.pose_delay_ticks = delay
    r.arm()
    for _ in range(12):
        r.act([speed * x for x in direction] + [0.0] * 3)
        r.ticks(10)


@given(directions, st.lists(st.integers(0, 3), min_size=10, max_size=60))
@examples(200)
def test_lost_poses_do_not_open_the_box(direction: tuple, lost: list) -> None:
    """P4, H43: poses are lost now and then (never longer than the pose timeout)."""
    r = rig.Rig()
    r.arm()
    for i, n in enumerate(lost):
        if i % 5 == 0:
            r.act([0.25 * x for x in direction] + [0.0] * 3)
        r.pose_on = False
        r.ticks(n)
        r.pose_on = True
        r.tick()


@given(directions, st.lists(between(0.005, 0.059), min_size=20, max_size=60))
@examples(150)
def test_irregular_ticks_do_not_open_the_box(direction: tuple, gaps: list) -> None:
    """P4: ticks come up to three periods late (later ones are stale), the driver holds the last
    twist."""
    r = rig.Rig(rig.profile(workspace__margin_m=0.01))
    r.arm()
    for i, gap_s in enumerate(gaps):
        if i % 4 == 0:
            r.act([0.25 * x for x in direction] + [0.0] * 3)
        r.tick(gap_s)


@given(st.integers(0, 2), st.booleans(), between(0.001, 0.049), directions)
@examples(400)
def test_from_outside_the_arm_only_comes_back_and_slowly(
    axis: int, high: bool, depth_m: float, direction: tuple
) -> None:
    """P13, H56: no component outward, |v| <= 0.05 m/s; back inside it moves normally again."""
    r = rig.Rig()
    r.arm()
    r.act((0.0,) * 6)
    r.tick()
    # Move the arm out by hand in small steps (a jump would be a fault of its own).
    edge = r.bounds.hi[axis] if high else r.bounds.lo[axis]
    wanted = edge + depth_m if high else edge - depth_m
    r.box_judged = False
    while abs(r.position[axis] - wanted) > 1e-9:
        step = max(-0.01, min(0.01, wanted - r.position[axis]))
        r.position[axis] += step
        r.act((0.0,) * 6)
        r.tick()
    for _ in range(5):
        r.act([0.3 * x for x in direction] + [0.0] * 3)
        for _ in range(10):
            out = r.tick()
            if out.status.wall_distance_m < 0.0:
                outward = out.twist[axis] if high else -out.twist[axis]
                assert outward <= 0.0
                assert r.speed() <= CREEP_MPS + 1e-9


@given(st.integers(0, 2), st.booleans())
@examples(20)
def test_an_inward_push_brings_the_arm_back_inside(axis: int, high: bool) -> None:
    """P13, H56: outside both ways must not be blocked."""
    r = rig.Rig()
    edge = r.bounds.hi[axis] + 0.02 if high else r.bounds.lo[axis] - 0.02
    r.arm()
    r.box_judged = False
    while abs(r.position[axis] - edge) > 1e-9:
        r.position[axis] += max(-0.01, min(0.01, edge - r.position[axis]))
        r.act((0.0,) * 6)
        r.tick()
    inward = [0.0] * 6
    inward[axis] = -0.1 if high else 0.1
    for _ in range(10):
        r.act(inward)
        r.ticks(10)
    assert r.bounds.lo[axis] < r.position[axis] < r.bounds.hi[axis]


def test_more_than_50_mm_outside_is_a_fault() -> None:
    """H56."""
    r = rig.Rig()
    r.arm()
    r.box_judged = False
    r.act((0.0,) * 6)
    while r.position[0] < r.bounds.hi[0] + 0.052:
        r.position[0] += 0.008
        r.act((0.0,) * 6)
        r.tick()
    r.tick()
    assert r.state == rig.FAULT
    assert not r.clamp.reset(r.now_s + 2.0).ok, 'the cause is still there'


@given(streams, directions, between(-0.02, 0.05))
@examples(250)
def test_a_half_space_is_never_passed(stream: list, normal: tuple, offset: float) -> None:
    """P4 with a table, a camera post: n . x <= b holds at every tick."""
    centre = (0.275, 0.0, 0.175)
    b = sum(n * c for n, c in zip(normal, centre)) + 0.03 + offset
    p = rig.profile(
        workspace__half_spaces=[{'name': 'post', 'normal': list(normal), 'offset_m': b}]
    )
    r = rig.Rig(p)
    assume(sum(n * c for n, c in zip(normal, centre)) < b - 0.006)
    r.arm()
    for twist, step_s, gap in stream:
        # Push towards the half-space, not anywhere.
        pushed = [x + 0.2 * n for x, n in zip(twist[:3], normal)] + twist[3:]
        r.act([x * 0.2 / step_s for x in pushed], step_s=step_s)
        for _ in range(max(1, round(gap * step_s / r.bounds.tau))):
            r.tick()
            assert sum(n * x for n, x in zip(normal, r.position)) <= b + 1e-9


@given(st.lists(twists(), min_size=4, max_size=10), st.floats(0.1, 1.5))
@examples(250)
def test_an_orientation_cone_is_never_left(stream: list, half_angle: float) -> None:
    """P4 for orientation: |Log(R0^T R)| <= theta_max at every tick, by scipy's Rotation."""
    p = rig.profile(
        workspace__orientation_cone={
            'centre_quaternion_xyzw': [0.0, 0.0, 0.0, 1.0],
            'half_angle_rad': half_angle,
        }
    )
    r = rig.Rig(p)
    r.arm()
    for twist in stream:
        r.act(twist)
        for _ in range(12):
            r.tick()
            angle = Rotation.from_quat(r.quaternion).magnitude()
            assert angle <= half_angle + 1e-6


def test_the_box_does_not_slow_what_is_far_from_its_walls() -> None:
    """A limit that always bites would pass every test above."""
    r = rig.Rig()
    r.arm()
    r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
    scales = []
    for _ in range(10):
        scales.append(r.tick().status.box_scale)
    assert scales == [1.0] * 10
    assert r.speed() == pytest.approx(0.2, abs=0.03)


@given(profiles(), streams)
@examples(40)
def test_slides_along_a_wall_instead_of_sticking_to_it(p: rig.RobotProfile, stream: list) -> None:
    """H57: pushing obliquely into a wall still moves along it."""
    r = rig.Rig(p)
    r.arm()
    for _ in range(40):
        r.act((0.2, 0.0, 0.0, 0.0, 0.0, 0.0))
        r.ticks(round(0.2 / r.bounds.tau))
    before = r.position[1]
    for _ in range(5):
        r.act((0.2, 0.1, 0.0, 0.0, 0.0, 0.0))
        r.ticks(round(0.2 / r.bounds.tau))
    play(r, stream[:1])
    assert r.travel[1] > 0.0 or r.position[1] > before


@given(between(0.9, 1.05), st.integers(0, 4), directions)
@examples(250)
def test_an_arm_that_does_not_quite_do_what_it_is_told_stays_in_the_box(
    gain: float, delay: int, direction: tuple
) -> None:
    """P4: the measured pose counts too, late as it is; the commanded one alone would drift out."""
    r = rig.Rig(rig.profile(pose__latency_s=0.1))
    r.gain = gain
    r.pose_delay_ticks = delay
    r.arm()
    for _ in range(15):
        r.act([0.25 * x for x in direction] + [0.0] * 3)
        r.ticks(10)


@given(st.integers(0, 2), st.booleans())
@examples(12)
def test_pushing_at_a_wall_stores_nothing(axis: int, high: bool) -> None:
    """The way back begins at once: what the wall took away is gone and not still to be done."""
    r = rig.Rig()
    r.arm()
    push = [0.0] * 6
    push[axis] = 0.2 if high else -0.2
    for _ in range(30):
        r.act(push)
        r.ticks(10)
    assert r.speed() < 1e-3
    before = r.position[axis]
    back = [0.0] * 6
    back[axis] = -push[axis] / 2
    r.act(back)
    r.ticks(12)
    assert abs(r.position[axis] - before) == pytest.approx(0.02, rel=0.2)
    assert 'BOX' not in r.out.status.reasons  # type: ignore[union-attr]


@given(profiles(), between(1e-4, 0.3), between(0.8, 1.25), between(0.8, 1.25))
@examples(600)
def test_three_walls_at_once_never_ask_for_more_than_the_acceleration(
    p: rig.RobotProfile, d: float, y: float, z: float
) -> None:
    """P11, P5: A_b = A / sqrt(3): moving into a corner at the limit, the next is in reach."""
    walls, b = Workspace(p), rig.Bounds.of(p)
    margin = p.workspace.margin_m
    at = [h - margin - x for h, x in zip(b.hi, (d, d * y, d * z))]
    allowed = walls.speed_limits(tuple(at), tuple(at), b.tau).hi
    then = [x + v * b.tau for x, v in zip(at, allowed)]
    next_allowed = walls.speed_limits(tuple(then), tuple(then), b.tau).hi
    needed = math.dist(allowed, next_allowed)
    assert needed <= b.a[rig.ACTIVE] * b.tau * rig.ROOM + 1e-12


vectors = st.tuples(between(-0.3, 0.3), between(-0.3, 0.3), between(-0.3, 0.3))


@given(
    vectors,
    st.tuples(between(0.0, 0.2), between(0.0, 0.2), between(0.0, 0.2)),
    st.tuples(between(0.0, 0.2), between(0.0, 0.2), between(0.0, 0.2)),
    st.lists(st.tuples(directions, between(0.0, 0.2)), max_size=4),
)
@examples(1500)
def test_a_clipped_velocity_is_allowed_and_never_longer(
    v: tuple, down: tuple, up: tuple, walls: list
) -> None:
    """P4: the set is an interval per axis and half-spaces; clipping ends inside it."""
    limits = SpeedLimits(tuple(-x for x in down), up, tuple(Wall(n, s) for n, s in walls))
    clipped = limits.clip(v)
    assert all(-a - 1e-9 <= x <= b + 1e-9 for x, a, b in zip(clipped, down, up))
    for normal, speed in walls:
        assert sum(n * x for n, x in zip(normal, clipped)) <= speed + 1e-9
    assert math.hypot(*clipped) <= math.hypot(*v) * rig.ROOM
