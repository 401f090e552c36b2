"""A clamp with a plant around it, and a judge that looks at every tick.

The bounds are computed here from the formulas of the specification, not read from the clamp. The
plant follows exactly what is sent (with the 0.1 s timeout a driver must have), so its position is
the integral.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from openvla_ros.core.resources import resource_path
from openvla_ros.core.strict_config import load_yaml, parse
from openvla_ros.safety.admission import ActionInput
from openvla_ros.safety.clamp import Clamp, ClampOutput, Pose, Verdict
from openvla_ros.safety.robot_profile import RobotProfile

DISARMED, HOLD, ACTIVE, FAULT, ESTOP = range(5)
ARMED = (HOLD, ACTIVE)
LATCHED = (FAULT, ESTOP)
DRIVER_TIMEOUT_S = 0.1
ROOM = 1.0 + 1e-9
POLICY = 'a' * 32


@cache
def _sim() -> dict[str, Any]:
    return load_yaml(resource_path('config/robots/sim.yaml'))


def profile(**changes: Any) -> RobotProfile:
    """The simulated arm's profile with dotted keys changed (``limits__speed_mps=0.1``)."""
    content = copy.deepcopy(_sim())
    for key, value in changes.items():
        *path, last = key.split('__')
        place = content
        for part in path:
            place = place[part]
        place[last] = value
    return parse(RobotProfile, content, 'test profile')


@dataclass(frozen=True)
class Bounds:
    """The specification's numbers for one profile."""

    tau: float
    v: float
    v_axis: tuple[float, float, float]
    w: float
    a: tuple[float, float, float, float, float]  # per state
    alpha: tuple[float, float, float, float, float]
    lo: tuple[float, float, float]
    hi: tuple[float, float, float]

    @classmethod
    def of(cls, p: RobotProfile) -> 'Bounds':
        limits = p.limits
        a, a_s, a_e = (
            limits.acceleration_mps2,
            limits.stop_acceleration_mps2,
            limits.estop_acceleration_mps2,
        )
        b, b_s, b_e = (
            limits.angular_acceleration_radps2,
            limits.stop_angular_acceleration_radps2,
            limits.estop_angular_acceleration_radps2,
        )
        return cls(
            tau=1.0 / p.control_rate_hz,
            v=limits.speed_mps,
            v_axis=limits.axis_speed_mps,
            w=limits.angular_speed_radps,
            a=(a_s, a_s, a, a_s, a_e),
            alpha=(b_s, b_s, b, b_s, b_e),
            lo=p.workspace.box_lo_m,
            hi=p.workspace.box_hi_m,
        )

    def hold_s(self, step_s: float) -> float:
        """H = 1.25 T."""
        return 1.25 * step_s

    def ramp_s(self, state: int = HOLD) -> float:
        """Time from full speed to rest in a state."""
        return max(self.v / self.a[state], self.w / self.alpha[state])

    def t_stop(self, step_s: float) -> float:
        """t_stop = H + V/A_s + 2 tau."""
        return self.hold_s(step_s) + self.ramp_s() + 2.0 * self.tau

    def d_stop(self, step_s: float) -> float:
        """V (H + tau) + V^2 / (2 A_s) + V tau."""
        v = self.v
        return v * (self.hold_s(step_s) + self.tau) + v * v / (2 * self.a[HOLD]) + v * self.tau


class Rig:
    """Clamp, plant, clocks and judge."""

    def __init__(
        self,
        p: RobotProfile | None = None,
        *,
        position: Sequence[float] | None = None,
        quaternion: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
        now_s: float = 100.0,
        ros_s: float = 1.7e9,
        judged: bool = True,
    ) -> None:
        self.profile = p or profile()
        self.bounds = Bounds.of(self.profile)
        self.clamp = Clamp(self.profile)
        lo, hi = self.bounds.lo, self.bounds.hi
        self.position = list(position or [(a + b) / 2 for a, b in zip(lo, hi)])
        self.quaternion = tuple(quaternion)
        self.now_s, self.ros_s = now_s, ros_s
        self.judged = judged
        self.box_judged = True
        self.pose_on = True
        self.pose_delay_ticks = 0
        self.gain = 1.0  # the plant moves this much farther than it is told
        self.heartbeat: bool | None = False
        self.factor: float | None = None  # real-time factor of simulated ROS time, and of the arm
        self.lump_s = 0.0  # /clock tells simulated time in lumps of this size
        self.v = (0.0, 0.0, 0.0)
        self.w = (0.0, 0.0, 0.0)
        self.path = 0.0
        self.travel = [0.0, 0.0, 0.0]
        self.turn = (0.0, 0.0, 0.0, 1.0)
        self.accepted_s = -math.inf
        self.accepted_step_s = 0.0
        self.late_s = 0.0  # by how much ticks were late since then: nothing can be sent meanwhile
        self.sequence = 0
        self.gripper = math.nan
        self.out: ClampOutput | None = None
        self._delayed: list[tuple[list[float], Any, float]] = []
        self._send_pose()

    @property
    def state(self) -> int:
        """State of the last tick."""
        return int(self.clamp.state)

    def action(self, twist: Sequence[float], **fields: Any) -> ActionInput:
        """A well-formed action of the bound policy; any field may be replaced."""
        self.sequence += 1
        usual = ActionInput(
            stamp_s=self._told_s(),
            frame_id=self.profile.base_frame,
            sequence=self.sequence,
            step_s=0.2,
            twist=tuple(twist),
            gripper=1.0,
            source_id=POLICY,
        )
        return replace(usual, **fields) if fields else usual

    def act(self, twist: Sequence[float], **fields: Any) -> Verdict:
        """Offer an action now."""
        return self.offer(self.action(twist, **fields))

    def offer(self, action: ActionInput) -> Verdict:
        """Offer this action now."""
        verdict = self.clamp.offer(action, now_s=self.now_s, ros_now_s=self._told_s())
        if verdict.accepted:
            self.accepted_s, self.accepted_step_s = self.now_s, action.step_s
            self.late_s = 0.0
        return verdict

    def arm(self) -> None:
        """Arm as the specification wants it: pose, heartbeat, three valid actions, then the
        call."""
        for _ in range(3):
            self.act((0.0,) * 6)
            self.ticks(self.step_ticks(0.2))
        reply = self.clamp.arm(self.now_s)
        assert reply.ok, reply.sentence

    def step_ticks(self, step_s: float) -> int:
        """Control periods in a step of ROS time."""
        return max(1, round(step_s / (self.factor or 1.0) / self.bounds.tau))

    def ticks(self, count: int) -> ClampOutput | None:
        """Let this many control periods pass; returns the last output."""
        for _ in range(count):
            self.tick()
        return self.out

    def tick(self, dt_s: float | None = None, ros_dt_s: float | None = None) -> ClampOutput:
        """Let one period pass, step the clamp, judge what it sends."""
        dt_s = self.bounds.tau if dt_s is None else dt_s
        if self.factor is not None and ros_dt_s is None:
            ros_dt_s = self.factor * dt_s
        self._follow(min(dt_s, DRIVER_TIMEOUT_S) * (1.0 if self.factor is None else self.factor))
        self.now_s += dt_s
        self.late_s += max(0.0, dt_s - self.bounds.tau)
        self.ros_s += dt_s if ros_dt_s is None else ros_dt_s
        self._send_pose()
        if self.heartbeat is not None:
            self.clamp.heartbeat(self.heartbeat, now_s=self.now_s)
        out = self.clamp.step(self.now_s, self._told_s(), simulated=self.factor is not None)
        if self.judged:
            self._judge(out)
        self.v, self.w = tuple(out.twist[:3].tolist()), tuple(out.twist[3:].tolist())
        self.gripper = out.gripper
        self.out = out
        return out

    def speed(self) -> float:
        """Speed of the last command."""
        return math.hypot(*self.v)

    def moving(self) -> bool:
        """Whether the last command is not exactly zero."""
        return any(self.v) or any(self.w)

    def _told_s(self) -> float:
        """ROS time as /clock tells it."""
        return math.floor(self.ros_s / self.lump_s) * self.lump_s if self.lump_s else self.ros_s

    def slowdown(self) -> float:
        """How much longer an action holds on the steady clock than its length in ROS time."""
        return 1.0 / min(1.0, self.factor or 1.0)

    def _follow(self, dt_s: float) -> None:
        if any(self.v):
            way_s = dt_s * self.gain
            self.position = [p + v * way_s for p, v in zip(self.position, self.v)]
            self.travel = [p + v * dt_s for p, v in zip(self.travel, self.v)]
            self.path += math.hypot(*self.v) * dt_s
        if any(self.w):
            self.quaternion = turned(self.quaternion, self.w, dt_s)
            self.turn = turned(self.turn, self.w, dt_s)

    def _send_pose(self) -> None:
        if not self.pose_on:
            return
        self._delayed.append((self.position, self.quaternion, self._told_s()))
        if len(self._delayed) <= self.pose_delay_ticks:
            return
        position, quaternion, stamp_s = self._delayed.pop(0)
        self.clamp.set_pose(
            Pose(tuple(position), quaternion),
            stamp_s=stamp_s,
            now_s=self.now_s,
            ros_now_s=self._told_s(),
        )

    def _judge(self, out: ClampOutput) -> None:
        b, state = self.bounds, int(out.status.state)
        twist = out.twist.tolist()
        assert all(map(math.isfinite, twist)), twist
        v, w = twist[:3], twist[3:]
        speed, turn = math.hypot(*v), math.hypot(*w)
        assert speed <= b.v * ROOM, (speed, b.v)
        assert all(abs(x) <= limit * ROOM for x, limit in zip(v, b.v_axis)), v
        assert turn <= b.w * ROOM, (turn, b.w)
        if 'ACCEL_WAIVED' not in out.status.reasons:
            dv = math.hypot(*(x - y for x, y in zip(v, self.v)))
            assert dv <= b.a[state] * b.tau * ROOM + 1e-12, (dv, b.a[state] * b.tau, state)
            dw = math.hypot(*(x - y for x, y in zip(w, self.w)))
            assert dw <= b.alpha[state] * b.tau * ROOM + 1e-12, (dw, b.alpha[state] * b.tau, state)
        if state != ACTIVE:
            assert speed <= math.hypot(*self.v) * ROOM, 'the arm speeds up without being ACTIVE'
            assert turn <= math.hypot(*self.w) * ROOM, 'the arm turns faster without being ACTIVE'
            assert out.gripper == self.gripper or math.isnan(self.gripper), 'the gripper moved'
        age_s = self.now_s - self.accepted_s
        longer_s = (1.05 * self.slowdown() - 1.05) * b.hold_s(self.accepted_step_s)
        if age_s > b.t_stop(self.accepted_step_s) + longer_s + self.late_s:
            assert speed == 0.0, f'still moving {age_s:.3f} s after the last accepted action'
            assert turn == 0.0, f'still turning {age_s:.3f} s after the last accepted action'
        if self.box_judged:
            for p, lo, hi in zip(self.position, b.lo, b.hi):
                assert lo - 1e-9 <= p <= hi + 1e-9, f'{self.position} left the box'


def turned(
    q: Sequence[float], w: Sequence[float], dt_s: float
) -> tuple[float, float, float, float]:
    """Return Exp(w dt) q for a unit quaternion (x, y, z, w), base axes."""
    angle = math.hypot(*w) * dt_s
    factor = math.sin(angle / 2) / angle * dt_s if angle > 0.0 else 0.0
    ax, ay, az = (x * factor for x in w)
    aw = math.cos(angle / 2)
    bx, by, bz, bw = q
    product = (
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
        aw * bw - ax * bx - ay * by - az * bz,
    )
    length = math.hypot(*product)
    return tuple(x / length for x in product)  # type: ignore[return-value]
