"""The controller: the only process that may command the arm, and only through the clamp.

Convert, call, convert; what may move and how is decided in `safety/clamp.py`. This file keeps that
going: a steady-clock timer that publishes in every state, callbacks that cannot end the process,
and a shutdown that brings the arm to rest first.
"""

if __name__ == '__main__':  # before what takes long to import
    from openvla_ros.core.early_exit import exit_at_signals

    exit_at_signals()


import contextlib
import functools
import gc
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Bool, Float64, String
from std_srvs.srv import SetBool, Trigger

from openvla_ros.core.clock_diagnosis import NO_CLOCK, explain_stamp, spoken_duration
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.nodes.conversions import (
    action_input_from_message,
    diagnostic_status,
    gripper_diagnostic_status,
    is_known,
    pose_from_message,
    pose_stamped,
    publisher_gid_from_info,
    safety_status_message,
    seconds_from_time,
    twist_stamped,
)
from openvla_ros.nodes.parameters import declare, parameter, sections_for_other_nodes
from openvla_ros.nodes.policy_report import without_figures
from openvla_ros.nodes.rclpy_compat import (
    PublisherEventCallbacks,
    SubscriptionEventCallbacks,
    with_message_info,
)
from openvla_ros.nodes.transport import (
    SHARED_MEMORY_WARNING,
    keep_out_of_shared_memory,
    uses_shared_memory,
)
from openvla_ros.safety.clamp import Clamp, ClampOutput
from openvla_ros.safety.clamp_status import ClampStatus
from openvla_ros.safety.robot_frames import refuse_other_frames
from openvla_ros.safety.robot_profile import RobotProfile, load_robot_profile
from openvla_ros.safety.safety_state import LATCHED, State

NOT_A_SAFETY_FUNCTION = (
    'This is not a certified safety function: behind it must sit a driver that stops the arm when '
    'commands stay away for 0.1 s, and a hardware e-stop.'
)
_ACTION_TOPIC = 'policy_node/action'
_POLICY_STATUS_TOPIC = 'policy_node/status'
_ESTOP_TOPIC = 'estop'
_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
# Matches reliable and best-effort publishers alike; a lost pose is followed by the next one.
_NEWEST_ANY = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
# An e-stop must not be overwritten by a release that follows it within one tick.
_EVERY = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_STATUS_PERIOD_S = 0.1
_DIAGNOSTICS_PERIOD_S = 1.0
_LOG_PERIOD_S = 1.0
_FINAL_ZEROS = 10
_TIMED_TICKS = 500


@dataclass(frozen=True)
class ControllerParameters:
    """Parameters of controller_node; every limit is in the robot's profile."""

    robot: str = parameter(
        description='robot profile: a name in config/robots, or the path of a .yaml file'
    )
    shadow: bool = parameter(
        False,
        description='true: run everything but send nothing to the robot, even if mode is active',
    )
    base_frame: str = parameter(
        '', description="the robot's base frame; '' for the profile's, another name is refused"
    )
    ee_frame: str = parameter(
        '', description="its end-effector frame; '' for the profile's, another name is refused"
    )


class ControllerNode(Node):
    """Feeds the clamp and publishes what it says, every control period."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__('controller_node', **node_arguments)
        parameters = declare(self, ControllerParameters)
        for sentence in sections_for_other_nodes(self):
            raise ConfigError(sentence)
        self.profile = _profile(parameters)
        self._clamp = Clamp(self.profile)
        self._active = self.profile.mode == 'active'
        self._stop_requested = False
        self._zeros_left = _FINAL_ZEROS
        self.finished = False
        self._logged_s: dict[str, float] = {}
        self._logged_reason = ''
        self._published_key: tuple[Any, ...] = ()
        self._status_due_s = 0.0
        self._diagnostics_due_s = 0.0
        self._last_tick_s: float | None = None
        self._gaps_s: deque[float] = deque(maxlen=_TIMED_TICKS)
        self._costs_s: deque[float] = deque(maxlen=_TIMED_TICKS)
        self._mismatch: dict[str, str] = {}
        self._told_gid = True
        self._clocks: dict[str, str] = {}
        self._callback_errors = 0
        self._policy_status = ''
        self._tf: Any = None
        self._gripper_action: Any = None
        self._gripper_problem = ''
        self._create_outputs()
        self._create_inputs()
        self.create_timer(
            self.profile.period_s,
            self._tick,
            clock=Clock(clock_type=ClockType.STEADY_TIME),
        )
        self._announce()

    # Set up ------------------------------------------------------------------------------------

    def _create_outputs(self) -> None:
        self._twist_publisher = self._publisher(TwistStamped, '~/twist_cmd', _NEWEST)
        self._pose_publisher = self._publisher(PoseStamped, '~/pose_cmd', _NEWEST)
        self._gripper_publisher = self._publisher(Float64, '~/gripper_cmd', _NEWEST)
        self._status_publisher = self._publisher(SafetyStatus, '~/status', _LATCHED)
        self._diagnostics_publisher = self._publisher(
            DiagnosticArray, '/diagnostics', QoSProfile(depth=5)
        )
        if self.profile.gripper.action is not None:
            from openvla_ros.nodes.gripper_action import GripperActionClient

            self._gripper_action = GripperActionClient(self, self.profile.gripper.action)

    def _create_inputs(self) -> None:
        self._subscribe(PolicyAction, _ACTION_TOPIC, with_message_info(self._on_action), _NEWEST)
        self._subscribe(Bool, _ESTOP_TOPIC, self._on_estop, _EVERY)
        # For sentences only: a publisher with another QoS is nothing to warn of.
        self.create_subscription(
            String,
            _POLICY_STATUS_TOPIC,
            self._on_policy_status,
            _LATCHED,
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
        )
        if self.profile.pose.source == 'topic':
            self._subscribe(PoseStamped, 'ee_pose', self._on_pose, _NEWEST_ANY)
        elif self.profile.pose.source == 'tf':
            from openvla_ros.nodes.tf_pose import TfPose

            self._tf = TfPose(self, self.profile.base_frame, self.profile.ee_frame)
        self.create_service(SetBool, '~/arm', self._on_arm)
        self.create_service(Trigger, '~/reset', self._on_reset)
        self.create_service(Trigger, '~/estop', self._on_estop_service)

    def _subscribe(
        self, kind: type, topic: str, callback: Callable[..., None], qos: QoSProfile
    ) -> None:
        events = SubscriptionEventCallbacks(
            incompatible_qos=functools.partial(self._on_incompatible_qos, topic, qos),
            use_default_callbacks=False,
        )
        self.create_subscription(kind, topic, callback, qos, event_callbacks=events)

    def _publisher(self, kind: type, topic: str, qos: QoSProfile) -> Any:
        # rclpy builds its wait set anew 200 times a second and asks each event handler in it; its
        # defaults are two per publisher, a sixth of the processor time of this process.
        on_refused = functools.partial(self._on_refused_qos, topic)
        fits_everybody = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
        events = PublisherEventCallbacks(
            incompatible_qos=None if fits_everybody else on_refused, use_default_callbacks=False
        )
        return self.create_publisher(kind, topic, qos, event_callbacks=events)

    def _announce(self) -> None:
        profile = self.profile
        limits = profile.limits
        step_s = 0.2
        log = self.get_logger()
        log.info(
            f'robot {profile.name!r} ({profile.description}), mode {profile.mode}, '
            f'{profile.control_rate_hz:g} Hz, at most {limits.speed_mps:g} m/s and '
            f'{limits.angular_speed_radps:g} rad/s, box {list(profile.workspace.box_lo_m)} to '
            f'{list(profile.workspace.box_hi_m)} m in {profile.base_frame!r}'
        )
        log.info(
            f't_stop {profile.stop_time_s(step_s):.3f} s and at most '
            f'{1e3 * profile.stop_distance_m(step_s):.0f} mm from the last action to rest, '
            f'for steps of {step_s:g} s'
        )
        log.info(NOT_A_SAFETY_FUNCTION)
        if self._simulated():
            log.warning(
                'ROS time is simulated (use_sim_time): a displacement is what the twist adds up '
                'to in the time of /clock. Never run an arm that is real like this'
            )

    # Callbacks: validate and store -------------------------------------------------------------

    def _on_action(self, message: PolicyAction, info: Any) -> None:
        with self._guard('action'):
            now_s = time.monotonic()
            self._mismatch.pop(_ACTION_TOPIC, None)
            gid = publisher_gid_from_info(info)
            self._told_gid = bool(gid)
            action = action_input_from_message(message, gid)
            ros_now_s = self._ros_now_s()
            verdict = self._clamp.offer(action, now_s=now_s, ros_now_s=ros_now_s)
            wrong_stamp = verdict.reason in ('STAMP_OLD', 'STAMP_FUTURE')
            self._note_clock('policy_node', wrong_stamp, action.stamp_s, ros_now_s)
            if not verdict.accepted and verdict.reason not in ('NOT_ARMED', 'LATCHED'):
                why = f'{verdict.reason}, {self._clamp.refusal_sentence()}'
                self._log_throttled(f'refused an action: {why}', now_s)

    def _on_policy_status(self, message: String) -> None:
        with self._guard('policy status'):
            # Anybody may publish there, and it ends up on an operator's terminal.
            text = ''.join(c if c.isprintable() else ' ' for c in message.data[:300])
            self._policy_status = without_figures(text)
            self._tell_clamp_of_policy()

    def _tell_clamp_of_policy(self) -> None:
        """Say why no action may come; nothing but sentences for the operator depends on it."""
        if not self.count_publishers(_ACTION_TOPIC):
            topic = self.resolve_topic_name(_ACTION_TOPIC)
            self._clamp.note_policy(f'{topic} has no publishers; start policy_node')
        elif not self.count_publishers(_POLICY_STATUS_TOPIC) or self._policy_status.startswith(
            'READY'
        ):
            self._clamp.note_policy('')
        else:
            self._clamp.note_policy(f'policy_node says {self._policy_status}')

    def _on_pose(self, message: PoseStamped) -> None:
        with self._guard('pose'):
            if message.header.frame_id != self.profile.base_frame:
                self._clamp.refuse_pose(
                    f'its frame is {message.header.frame_id[:80]!r}, expected '
                    f'{self.profile.base_frame!r}'
                )
                return
            stamp_s, ros_now_s = seconds_from_time(message.header.stamp), self._ros_now_s()
            believed = self._clamp.set_pose(
                pose_from_message(message),
                stamp_s=stamp_s,
                now_s=time.monotonic(),
                ros_now_s=ros_now_s,
            )
            timeout_s = self.profile.pose.timeout_s
            wrong_stamp = not believed and not abs(ros_now_s - stamp_s) <= timeout_s
            self._note_clock('the publisher of the pose', wrong_stamp, stamp_s, ros_now_s)

    def _on_estop(self, message: Bool) -> None:
        with self._guard('estop'):
            self._mismatch.pop(_ESTOP_TOPIC, None)
            self._clamp.heartbeat(message.data, now_s=time.monotonic())

    def _on_arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        with self._guard('arm'):
            self._tell_clamp_of_policy()
            now_s = time.monotonic()
            reply = self._clamp.arm(now_s) if request.data else self._clamp.disarm(now_s)
            response.success, response.message = reply.ok, reply.sentence
            if self._gripper_problem and not reply.ok:
                response.message = f'{reply.sentence}. {self._gripper_problem}'
            asked = 'arm' if request.data else 'disarm'
            self.get_logger().info(f'asked to {asked}: {response.message}')
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._guard('reset'):
            reply = self._clamp.reset(time.monotonic())
            response.success, response.message = reply.ok, reply.sentence
            self.get_logger().info(f'reset: {reply.sentence}')
        return response

    def _on_estop_service(
        self, _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        with self._guard('estop service'):
            reply = self._clamp.estop(time.monotonic())
            response.success, response.message = reply.ok, reply.sentence
        return response

    def _on_incompatible_qos(self, topic: str, qos: QoSProfile, _: Any) -> None:
        with self._guard('incompatible_qos'):
            offered = {
                info.qos_profile.reliability.name.lower()
                for info in self.get_publishers_info_by_topic(topic)
            }
            self._mismatch[topic] = (
                f'A publisher of {topic} offers {"/".join(sorted(offered)) or "another QoS"}, '
                f'this controller needs {qos.reliability.name.lower()}: nothing of it arrives.'
            )
            self.get_logger().error(self._mismatch[topic])

    def _on_refused_qos(self, topic: str, event: Any) -> None:
        with self._guard('refused_qos'):
            self.get_logger().warning(
                f'{event.total_count} subscriptions of {topic} ask for another QoS than reliable, '
                'volatile: they get nothing. Subscribe with the default QoS.'
            )

    # The tick ----------------------------------------------------------------------------------

    def _tick(self) -> None:
        started_s = time.monotonic()
        output: ClampOutput | None = None
        with self._guard('tick', publish_zero=True):
            if self._tf is not None:
                self._look_up_pose(started_s)
            if self._stop_requested:
                self._clamp.shutdown(started_s)
            output = self._clamp.step(started_s, self._ros_now_s(), simulated=self._simulated())
            self._publish_commands(output)
        self._count_down(output)
        if output is not None and self._gripper_action is not None:
            with self._guard('gripper'):
                self._update_gripper_action(output, started_s)
        if output is not None:
            with self._guard('report'):
                self._report(output.status, started_s)
        if self._last_tick_s is not None:
            self._gaps_s.append(started_s - self._last_tick_s)
        self._last_tick_s = started_s
        self._costs_s.append(time.monotonic() - started_s)

    def _look_up_pose(self, now_s: float) -> None:
        found = self._tf.newest()
        if self._tf.failure:
            self._clamp.refuse_pose(self._tf.failure)
        if found is not None:
            pose, stamp_s = found
            # The tick's own time: a pose received after it would be one from the future.
            self._clamp.set_pose(pose, stamp_s=stamp_s, now_s=now_s, ros_now_s=self._ros_now_s())

    def _publish_commands(self, output: ClampOutput) -> None:
        if not self._active:
            return
        stamp = self.get_clock().now().to_msg()
        frame = self.profile.base_frame
        self._twist_publisher.publish(twist_stamped(output.twist, frame, stamp))
        resting = not output.twist.any()
        # A disarmed controller must not pull an arm that somebody moves by hand to a pose.
        if output.pose is not None and not (output.status.state == State.DISARMED and resting):
            self._pose_publisher.publish(pose_stamped(output.pose, frame, stamp))
        if is_known(output.gripper):
            self._gripper_publisher.publish(Float64(data=output.gripper))

    def _update_gripper_action(self, output: ClampOutput, now_s: float) -> None:
        """Send the opening as a goal, only while actions are executed: a goal moves fingers."""
        client = self._gripper_action
        executing = self._active and output.status.state == State.ACTIVE
        client.update(output.gripper if executing and is_known(output.gripper) else None, now_s)
        self._clamp.set_gripper_available(client.goals.available)
        if client.goals.problem != self._gripper_problem:
            self._gripper_problem = client.goals.problem
            self._status_due_s = self._diagnostics_due_s = now_s
            log = self.get_logger()
            if self._gripper_problem:
                log.warning(self._gripper_problem)
            else:
                log.info(f'gripper action server {client.server!r}: no problem any more')

    def _report(self, status: ClampStatus, now_s: float) -> None:
        key = (status.state, status.mode, status.reasons)
        changed = key != self._published_key
        if changed:
            old_state = self._published_key[0] if self._published_key else None
            self._published_key = key
            self._log_change(status, old_state)
        if changed or now_s >= self._status_due_s:
            self._status_due_s = now_s + _STATUS_PERIOD_S - 0.5 * self.profile.period_s
            stamp = self.get_clock().now().to_msg()
            self._status_publisher.publish(
                safety_status_message(
                    status,
                    (*self._notes(), *filter(None, [self._gripper_problem])),
                    self.profile.base_frame,
                    stamp,
                )
            )
        if changed or now_s >= self._diagnostics_due_s:
            self._tell_clamp_of_policy()
            self._diagnostics_due_s = now_s + _DIAGNOSTICS_PERIOD_S
            self._publish_diagnostics(status)

    def _publish_diagnostics(self, status: ClampStatus) -> None:
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        name = f'{self.get_fully_qualified_name().lstrip("/")}: clamp'
        message.status = [diagnostic_status(status, self._notes(), name, self._timing())]
        if self._gripper_action is not None:
            name = f'{self.get_fully_qualified_name().lstrip("/")}: gripper'
            server, goals = self._gripper_action.server, self._gripper_action.goals
            message.status.append(gripper_diagnostic_status(server, goals, name))
        self._diagnostics_publisher.publish(message)

    def _timing(self) -> dict[str, float]:
        return {
            'tick_gap_p99_ms': 1e3 * _percentile(self._gaps_s, 0.99),
            'tick_gap_max_ms': 1e3 * max(self._gaps_s, default=0.0),
            'tick_cost_p99_ms': 1e3 * _percentile(self._costs_s, 0.99),
            'callback_errors': float(self._callback_errors),
        }

    def _notes(self) -> tuple[str, ...]:
        notes = (*self._mismatch.values(), *self._shared_identity())
        if self._simulated() and not self.get_clock().now().nanoseconds:
            return (*notes, f'{NO_CLOCK[0].upper()}{NO_CLOCK[1:]}.')
        return (*notes, *self._clocks.values())

    def _shared_identity(self) -> tuple[str, ...]:
        """Where rclpy tells no gid, only the graph shows two publishers with one source_id.

        A policy that was killed stays in the graph for up to 20 s: this is a note, not a fault.
        """
        count = 1 if self._told_gid else self.count_publishers(_ACTION_TOPIC)
        if count <= 1:
            return ()
        return (
            f'{count} publishers of {self.resolve_topic_name(_ACTION_TOPIC)}: this ROS '
            'distribution tells them apart by source_id alone; let only one policy run',
        )

    def _note_clock(self, who: str, wrong: bool, stamp_s: float, ros_now_s: float) -> None:
        """Remember for the status which clocks disagree, until a stamp of ``who`` is right."""
        if not wrong:
            self._clocks.pop(who, None)
            return
        age_s = ros_now_s - stamp_s
        where = 'before' if age_s > 0.0 else 'after'
        cause = explain_stamp(who, stamp_s, ros_now_s, simulated=self._simulated())
        self._clocks[who] = (
            f'A stamp of {who} lies {spoken_duration(age_s)} {where} ROS time here: {cause}.'
        )

    def _simulated(self) -> bool:
        return bool(self.get_clock().ros_time_is_active)

    def _count_down(self, output: ClampOutput | None) -> None:
        """After a request to stop: once at rest send some more zeros, then finish."""
        if not self._stop_requested or (output is not None and output.twist.any()):
            return
        self._zeros_left -= 1
        self.finished = self._zeros_left <= 0

    def _publish_zero(self) -> None:
        if self._active:
            stamp = self.get_clock().now().to_msg()
            self._twist_publisher.publish(twist_stamped([0.0] * 6, self.profile.base_frame, stamp))

    # What keeps it alive -----------------------------------------------------------------------

    @contextlib.contextmanager
    def _guard(self, where: str, publish_zero: bool = False) -> Iterator[None]:
        """Turn any exception of a callback into a fault: an exception would end ``spin``."""
        try:
            yield
        except Exception as error:
            self.note_error(where, error)
            if publish_zero:
                with contextlib.suppress(Exception):
                    self._publish_zero()
                    self._clamp.force_rest('FAULT_INTERNAL', time.monotonic())

    def note_error(self, where: str, error: Exception) -> None:
        """Latch FAULT_INTERNAL because of an unexpected exception, and log it."""
        self._callback_errors += 1
        now_s = time.monotonic()
        with contextlib.suppress(Exception):
            self._clamp.fault('FAULT_INTERNAL', now_s)
        with contextlib.suppress(Exception):
            self._log_throttled(
                f'{where}: {type(error).__name__}: {str(error)[:200]}', now_s, error=True
            )

    def request_stop(self) -> None:
        """Ask for rest, zeros and the end; safe to call from a signal handler."""
        self._stop_requested = True

    def _ros_now_s(self) -> float:
        return 1e-9 * self.get_clock().now().nanoseconds

    def _log_change(self, status: ClampStatus, old_state: State | None) -> None:
        if status.state == old_state and status.state in (State.ACTIVE, State.DISARMED):
            return
        # What comes and goes besides, such as late poses, is in the status; here it would flood.
        if status.state == old_state == State.HOLD and status.reasons[0] == self._logged_reason:
            return
        self._logged_reason = status.reasons[0]
        # rclpy allows one severity per line of code.
        if status.state in LATCHED:
            self.get_logger().error(status.sentence)
        else:
            self.get_logger().info(status.sentence)

    def _log_throttled(self, text: str, now_s: float, error: bool = False) -> None:
        key = text[:40]
        if now_s - self._logged_s.get(key, -_LOG_PERIOD_S) < _LOG_PERIOD_S:
            return
        if len(self._logged_s) > 100:
            self._logged_s.clear()
        self._logged_s[key] = now_s
        log = self.get_logger()
        if error:
            log.error(text)
        else:
            log.warning(text)


def main(args: Sequence[str] | None = None) -> int:
    """Run the controller until SIGINT or SIGTERM; 2 for a configuration that cannot be used."""
    argv = list(sys.argv if args is None else args)
    if '--help' in argv or '-h' in argv:
        print(_usage())
        return 0
    try:
        keep_out_of_shared_memory()
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
        node = ControllerNode()
    except Exception as error:  # nothing moves yet: one line instead of a traceback
        kind = '' if isinstance(error, ConfigError) else f'{type(error).__name__}: '
        print(f'controller_node: {kind}{" ".join(str(error).split())}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.request_stop())
    if uses_shared_memory():
        node.get_logger().warning(SHARED_MEMORY_WARNING)
    _protect_process()
    _spin(node)
    node.destroy_node()
    rclpy.try_shutdown()
    return 0


def _spin(node: ControllerNode) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    # What start-up made stays for good; the collector need not look at it between two ticks.
    gc.collect()
    gc.freeze()
    while not node.finished and rclpy.ok():
        try:
            executor.spin_once(timeout_sec=0.5)
        except Exception as error:  # a callback we do not own, such as those of tf2_ros
            node.note_error('executor', error)


def _protect_process() -> None:
    """Be the last process to be killed for memory and one of the first to run, where allowed."""
    with contextlib.suppress(OSError), open('/proc/self/oom_score_adj', 'w') as file:
        file.write('-500')
    with contextlib.suppress(OSError):
        os.nice(-5)


def _profile(parameters: ControllerParameters) -> RobotProfile:
    profile = load_robot_profile(parameters.robot)
    refuse_other_frames(profile, parameters.base_frame, parameters.ee_frame)
    return replace(profile, mode='shadow') if parameters.shadow else profile


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def _usage() -> str:
    return (
        'usage: controller_node --ros-args -p robot:=NAME_OR_YAML [-p shadow:=true]\n\n'
        'Bounds what a policy asks of a robot arm. Nothing moves before ~/arm is called:\n'
        '  ros2 service call /controller_node/arm std_srvs/srv/SetBool "{data: true}"\n\n'
        f'{NOT_A_SAFETY_FUNCTION}'
    )


if __name__ == '__main__':
    sys.exit(main())
