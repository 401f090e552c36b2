"""A million ticks of everything at once: actions good and bad, operators, lost poses, late ticks.

The attacker of the threat model: a hostile node may stop the robot, it must not move it faster or
farther
than the limits. Rig judges every tick; run it longer with ``python -m properties.fuzz 5000000``.
"""

import math
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from properties import rig

JUNK = [math.nan, math.inf, -math.inf, 1e308, -1e308, 5e-324, 1e3, 0.0, -0.0]
CLEAN_S = 1.2


@dataclass
class Tally:
    """What a fuzz run has met; a run that moved little or latched nothing has tested little."""

    ticks: int = 0
    offered: int = 0
    accepted: int = 0
    moving: int = 0
    states: Counter[int] = field(default_factory=Counter)
    seconds: float = 0.0


def random_profile(rng: random.Random) -> rig.RobotProfile:
    """One of the robots the fuzz runs with."""
    a, alpha = rng.uniform(0.3, 3.0), rng.uniform(2.0, 10.0)
    stop, estop = rng.uniform(1.0, 3.0), rng.uniform(1.0, 3.0)
    return rig.profile(
        control_rate_hz=rng.choice([50.0, 100.0]),
        limits__speed_mps=rng.uniform(0.05, 0.5),
        limits__angular_speed_radps=rng.uniform(0.2, 2.0),
        limits__acceleration_mps2=a,
        limits__angular_acceleration_radps2=alpha,
        limits__stop_acceleration_mps2=a * stop,
        limits__stop_angular_acceleration_radps2=alpha * stop,
        limits__estop_acceleration_mps2=a * stop * estop,
        limits__estop_angular_acceleration_radps2=alpha * stop * estop,
        estop__required=rng.random() < 0.5,
    )


def fuzz(seed: int, ticks: int, per_robot: int = 50_000) -> Tally:
    """Run ``ticks`` judged ticks; raises AssertionError at the first broken limit, with the
    seed."""
    rng, tally, start_s = random.Random(seed), Tally(), time.monotonic()
    while tally.ticks < ticks:
        r = rig.Rig(random_profile(rng))
        try:
            _one_robot(r, rng, min(per_robot, ticks - tally.ticks), tally)
        except AssertionError as error:
            raise AssertionError(f'seed {seed}, tick {tally.ticks}: {error}') from error
    tally.seconds = time.monotonic() - start_s
    return tally


def _one_robot(r: rig.Rig, rng: random.Random, ticks: int, tally: Tally) -> None:
    push = [0.0] * 6
    end = tally.ticks + ticks
    while tally.ticks < end:
        if rng.random() < 0.05:
            push = [rng.uniform(-0.4, 0.4) for _ in range(3)]
            push += [rng.uniform(-1.5, 1.5) for _ in range(3)]
        _event(r, rng)
        tally.offered += 1
        tally.accepted += _send(r, rng, push)
        for _ in range(rng.choice((1, 3, 6, 8, 10, 10, 12))):
            out = r.tick()
            tally.ticks += 1
            tally.moving += r.moving()
            tally.states[int(out.status.state)] += 1
        if r.state not in rig.ARMED and rng.random() < 0.1:
            _operate(r, tally)


def _send(r: rig.Rig, rng: random.Random, push: list[float]) -> bool:
    luck = rng.random()
    if luck < 0.9:
        return r.act([x + rng.uniform(-0.05, 0.05) for x in push], gripper=rng.random()).accepted
    if luck < 0.92:
        return r.act([rng.choice(JUNK) for _ in range(6)], gripper=rng.choice(JUNK)).accepted
    field_name, value = rng.choice(
        [
            ('frame_id', 'ee_link'),
            ('frame_id', ''),
            ('stamp_s', r.ros_s + rng.choice([-2.0, 1.0, 3600.0, -1e9])),
            ('stamp_s', rng.choice(JUNK)),
            ('sequence', rng.choice([0, 1, 2**64 - 1])),
            ('step_s', rng.choice([0.1, 0.33, 0.0, -1.0, math.nan, 1e9])),
            ('source_id', rng.choice(['', 'b' * 32])),
            ('twist', [rng.uniform(-5, 5) for _ in range(rng.randrange(8))]),
        ]
    )
    action = r.action(push)
    return r.offer(rig.replace(action, **{field_name: value})).accepted


def _event(r: rig.Rig, rng: random.Random) -> None:
    """Now and then something else goes wrong, or right again."""
    luck = rng.random()
    if luck < 0.9:
        r.pose_on = True
        r.heartbeat = False
    elif luck < 0.92:
        r.pose_on = False
    elif luck < 0.925:
        r.heartbeat = rng.choice([True, None])
    elif luck < 0.93:
        r.clamp.disarm(r.now_s)
    elif luck < 0.932:
        r.clamp.estop(r.now_s)
    elif luck < 0.935:
        r.tick(rng.uniform(0.0, 0.7))
    elif luck < 0.938:
        r.tick(None, rng.choice([-500.0, 500.0, 0.0, 1.0]))


def _operate(r: rig.Rig, tally: Tally) -> None:
    """An operator puts it right: wait, reset, three clean actions, arm."""
    r.pose_on, r.heartbeat = True, False
    ticks = round(CLEAN_S / r.bounds.tau)
    r.ticks(ticks)
    r.clamp.reset(r.now_s)
    for _ in range(3):
        r.act((0.0,) * 6)
        r.ticks(round(0.2 / r.bounds.tau))
    r.clamp.arm(r.now_s)
    tally.ticks += ticks


if __name__ == '__main__':
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    print(fuzz(first, count))
