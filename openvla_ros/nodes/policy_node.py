"""The policy: camera and instruction in, one action at a fixed rate out.

The executor's thread only stores what arrives and hands, at every tick, the newest image to the
worker. The worker owns the model and does the rest: pixels, network, checks, publication. What
may be published is decided in `policy/gate.py`; ``~/status`` says why nothing is.
"""

if __name__ == '__main__':  # before what takes long to import
    from openvla_ros.core.early_exit import exit_at_signals

    exit_at_signals()


import collections
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions

from openvla_ros.core.clock_diagnosis import CLOCK_STOPPED, NO_CLOCK
from openvla_ros.core.ros_pace import RosPace
from openvla_ros.core.status import Status
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.core.wedge_guard import WedgeGuard
from openvla_ros.msg import SafetyStatus
from openvla_ros.nodes.image_subscription import ImageSubscription
from openvla_ros.nodes.inference_worker import InferenceWorker
from openvla_ros.nodes.instruction_subscriptions import InstructionSubscriptions
from openvla_ros.nodes.log_forwarding import forward_log, stop_forwarding
from openvla_ros.nodes.parameters import declare, sections_for_other_nodes
from openvla_ros.nodes.policy_conversions import arrival_from_message, image_refusal, is_moving
from openvla_ros.nodes.policy_cycle import Observation, PolicyCycle
from openvla_ros.nodes.policy_outputs import PolicyOutputs
from openvla_ros.nodes.policy_parameters import PolicyParameters
from openvla_ros.nodes.policy_report import READY, PolicyReport
from openvla_ros.nodes.policy_startup import (
    LoadBackend,
    load_backend,
    load_profile,
    start_policy,
)
from openvla_ros.observation.image_monitor import COLORLESS_S
from openvla_ros.policy.gate import PolicyGate

_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_REPORT_PERIOD_S = 1.0
_ENDED = Status('ENDED', 'the policy was stopped')
# So many skipped of the last ticks are said once, and once that it is over.
_SLOW_SKIPS, _JUDGED_TICKS = 3, 20
# The worker, ROS time and the status are watched so often on the steady clock, whatever ROS time
# does.
_WATCH_PERIOD_S = 0.1
# Longest time between two looks that counts as inference time: a process that was stopped and
# continued did not hang.
_LONGEST_TICK_S = 0.5
# A tick waits at most so much of its period for an image that is due: less than the quarter of a
# step for which the controller holds an action beyond its end.
_PATIENCE = 0.1
# The executor's own silence, which only native code that keeps Python's lock can cause.
_WEDGED_S = 15.0
_CLOSE_S = 0.3
_SPIN_S = 0.1


class PolicyNode(Node):
    """Subscribes, decides at every tick, and publishes what the worker computed."""

    def __init__(
        self,
        load: LoadBackend = load_backend,
        *,
        wedged_s: float = _WEDGED_S,
        **node_arguments: Any,
    ) -> None:
        super().__init__('policy_node', **node_arguments)
        self._wedged_s = wedged_s
        self._guardian: WedgeGuard | None = None
        self._pace = RosPace()
        parameters = declare(self, PolicyParameters, self._on_parameters)
        self.parameters = parameters
        for sentence in sections_for_other_nodes(self):
            raise ConfigError(sentence)
        self.profile = load_profile(parameters)
        frames = parameters.frames()
        self._frame_id = frames.base if self.profile.frame == 'base' else frames.ee
        self.stop_requested = False
        self.exit_code = 0
        self._gate = PolicyGate(
            parameters.image_limits(),
            max_observation_age_s=parameters.max_observation_age_s,
            instruction_dwell_s=parameters.instruction_dwell_s,
            allow_unicode=parameters.allow_unicode,
            stuck_after=parameters.stuck_after,
        )
        self._newest: tuple[Any, Time] | None = None
        self._starting = Status('LOADING', 'starting')
        self._skips: collections.deque[bool] = collections.deque(maxlen=_JUDGED_TICKS)
        self._slow_said = False
        self._tick_s: float | None = None
        self._inference_s = 0.0
        self._completed = 0
        self._takes_jobs = False
        self._geometry: tuple[int, int, str] | None = None
        self._publishers_said = 1
        self._colorless_said = False
        self._outputs = PolicyOutputs(
            self, frame_id=self._frame_id, unnorm_key=parameters.unnorm_key
        )
        self._says = PolicyReport(self)
        self._create_inputs()
        self._worker: InferenceWorker[Observation] = InferenceWorker(
            lambda: start_policy(
                parameters,
                self.profile,
                self.policy_rate_hz,
                load,
                self._on_start_progress,
                self._worker.closing,
            ),
            PolicyCycle(self._gate, self._outputs, self._ros_now_s).run,
        )
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._create_tick_timers()
        self.create_timer(_WATCH_PERIOD_S, self._watch, clock=self._steady)
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=self._steady)
        self.create_timer(parameters.log_period_s, self._log_figures, clock=self._steady)
        self._announce()
        forward_log(self.get_logger())
        self._worker.start()

    @property
    def policy_rate_hz(self) -> float:
        """The rate asked for, or the dataset's."""
        return self.parameters.rate_hz or 1 / self.profile.step_s

    # Set up ------------------------------------------------------------------------------------

    def _create_inputs(self) -> None:
        self._camera = ImageSubscription(
            self,
            transport=self.parameters.image_transport,
            reliability=self.parameters.image_reliability,
            on_image=self._on_image,
        )
        self._texts = InstructionSubscriptions(self, self._on_instruction)
        self.create_subscription(
            SafetyStatus, 'controller_node/status', self._on_controller, _NEWEST
        )

    def _create_tick_timers(self) -> None:
        """Tick at the policy's rate: of simulated time, where ROS time is that.

        Elsewhere on the steady clock: a timer of ROS time stops when the system's clock is set
        back.
        """
        self._simulated = self._ros_time_is_simulated()
        clock = self.get_clock() if self._simulated else self._steady
        period_s = 1 / self.policy_rate_hz
        self._patience_s = _PATIENCE * period_s
        self._tick_timer = self.create_timer(period_s, self._tick, clock=clock)
        self._patience_timer = self.create_timer(
            self._patience_s, self._end_of_patience, clock=clock
        )
        self._patience_timer.cancel()
        self._waits_for_image = False

    def _announce(self) -> None:
        profile, log = self.profile, self.get_logger()
        log.info(
            f'dataset {profile.unnorm_key}: {self.policy_rate_hz:.2f} Hz, steps of '
            f'{profile.step_s:g} s, frame {self._frame_id!r} ({profile.frame}), rotation '
            f'{profile.rotation}, one unit is {profile.translation_scale_m:g} m and '
            f'{profile.rotation_scale_rad:g} rad'
        )
        log.info(f'camera {self._camera.topic}, instruction {self._texts.topic}')
        if self._simulated:
            log.info('ROS time is simulated (use_sim_time): the rate is one of /clock')
        self._warn_of_settings()

    def _warn_of_settings(self) -> None:
        log = self.get_logger()
        if self.policy_rate_hz > 1.01 / self.profile.step_s:
            log.warning(
                f'{self.policy_rate_hz:g} Hz is faster than the {1 / self.profile.step_s:g} Hz of '
                'the dataset: the arm will be asked to move faster than it was shown'
            )
        for name in ('image_frozen_timeout_s', 'image_blank_timeout_s', 'stuck_after'):
            if not getattr(self.parameters, name):
                log.warning(f'{name} is 0: this check is off')

    # Callbacks: check and store ----------------------------------------------------------------

    def _on_image(self, message: Any) -> None:
        with self._guard('image'):
            arrival = arrival_from_message(message)
            refusal = self._gate.take_image(
                arrival,
                image_refusal(message),
                now_s=time.monotonic(),
                ros_now_s=self._ros_now_s(),
                simulated=self._simulated,
            )
            if refusal is not None:
                self._says.warn(refusal.code, refusal.sentence)
                return
            stamp = message.header.stamp
            if arrival.stamp_s == 0.0:
                stamp = self.get_clock().now().to_msg()
            self._newest = (message, stamp)
            if arrival.geometry != self._geometry:
                self._tell_geometry(arrival.geometry, message.header.frame_id)
            if self._waits_for_image:
                self._act_on_newest()

    def _on_instruction(self, text: str) -> None:
        with self._guard('instruction'):
            intake = self._gate.take_instruction(text, now_s=time.monotonic())
            if intake.kind == 'same':
                return
            if intake.kind == 'refused':
                self._says.warn(intake.kind, intake.sentence)
            else:
                self.get_logger().info(intake.sentence)  # every change: what was it told, when
            self._publish_state()

    def _on_controller(self, message: SafetyStatus) -> None:
        with self._guard('controller status'):
            self._gate.take_controller(is_moving(message), now_s=time.monotonic())

    def _on_parameters(self, parameters: PolicyParameters) -> None:
        old, self.parameters = self.parameters, parameters
        self._gate.set_limits(
            parameters.image_limits(),
            max_observation_age_s=parameters.max_observation_age_s,
            stuck_after=parameters.stuck_after,
        )
        if parameters.rate_hz != old.rate_hz:
            self._recreate_tick_timers()
        self._warn_of_settings()

    def _recreate_tick_timers(self) -> None:
        self.destroy_timer(self._tick_timer)
        self.destroy_timer(self._patience_timer)
        self._create_tick_timers()

    def _on_start_progress(self, progress: Status) -> None:
        # The status logs a code that is new to it; from here come the steps within one.
        if progress != self._starting and progress.code == self._says.code:
            self.get_logger().info(progress.sentence)
        self._starting = progress

    # The tick: hand over one observation -------------------------------------------------------

    def _watch(self) -> None:
        with self._guard('watch'):
            now_s = time.monotonic()
            self._watch_worker(now_s)
            if self._simulated != self._ros_time_is_simulated():
                self._pace = RosPace()
                self._recreate_tick_timers()
            if self._simulated:
                self._pace.note(now_s, self._ros_now_s())
            self._publish_state()

    def _tick(self) -> None:
        with self._guard('tick'):
            now_s = time.monotonic()
            self._gate.statistics.counts.add('ticks')
            if self._takes_jobs and self._newest is not None:
                due = self._gate.next_image_is_due(now_s, self._patience_s)
                if due and not self._worker.busy:
                    self._waits_for_image = True
                    self._patience_timer.reset()
                else:
                    self._act_on_newest()
            self._publish_state()

    def _end_of_patience(self) -> None:
        with self._guard('tick'):
            self._act_on_newest()

    def _act_on_newest(self) -> None:
        self._patience_timer.cancel()
        self._waits_for_image = False
        if self._newest is None:
            return
        message, stamp = self._newest
        assignment = self._gate.assign(time.monotonic())
        if assignment is not None:
            self._hand_over(Observation(message, stamp, assignment))

    def _hand_over(self, observation: Observation) -> None:
        skipped = not self._worker.submit(observation)
        self._skips.append(skipped)
        if skipped:
            self._gate.statistics.counts.add('skipped_ticks')
        rate_hz, log = self._wall_rate_hz, self.get_logger()
        if not self._slow_said and sum(self._skips) >= _SLOW_SKIPS:
            self._slow_said = True
            log.warning(
                f'the model is slower than {rate_hz:.3g} Hz{self._pace_note()}: ticks are skipped'
            )
        elif self._slow_said and len(self._skips) == _JUDGED_TICKS and not any(self._skips):
            self._slow_said = False
            log.info(f'the model keeps {rate_hz:.3g} Hz again')

    @property
    def _wall_rate_hz(self) -> float:
        """The policy's rate by the clock on the wall."""
        return self.policy_rate_hz * (self._pace.factor if self._simulated else 1.0)

    def _pace_note(self) -> str:
        if not self._simulated:
            return ''
        return (
            f' ({self.policy_rate_hz:.3g} Hz of simulated time, which runs at '
            f'{self._pace.factor:.2f} of real time)'
        )

    def _watch_worker(self, now_s: float) -> None:
        """Note whether the worker takes jobs; end the node if it never will again."""
        self._takes_jobs = False
        worker = self._worker
        elapsed_s = 0.0 if self._tick_s is None else now_s - self._tick_s
        self._tick_s = now_s
        # Two inferences in a row are not one long one, though no look fell between them.
        if worker.completed != self._completed:
            self._completed, self._inference_s = worker.completed, 0.0
        busy = worker.ready and worker.busy
        self._inference_s = self._inference_s + min(elapsed_s, _LONGEST_TICK_S) if busy else 0.0
        limit_s = self.parameters.hang_timeout_s
        if worker.failure is not None:
            failure = worker.failure
            self._end(failure.code, failure.sentence, failure.exit_code)
        elif not worker.alive:
            self._end('INFERENCE_DIED', 'the inference thread ended', 3)
        elif self._inference_s > limit_s:
            self._end('INFERENCE_HUNG', f'one inference takes longer than {limit_s:g} s', 3)
        else:
            self._takes_jobs = worker.ready

    def _end(self, code: str, sentence: str, exit_code: int | None) -> None:
        """Do nothing from now on, and end the process unless ``exit_code`` is None."""
        self._starting = Status(code, sentence)
        if exit_code is not None and not self.stop_requested:
            self._says.log_end(self._starting, exit_code)
            self.exit_code, self.stop_requested = exit_code, True

    # Reports -----------------------------------------------------------------------------------

    def _state(self) -> Status:
        """Return what the status says: READY, or why nothing is published."""
        if self.stop_requested and not self.exit_code:
            return _ENDED
        if not self._worker.ready or self.stop_requested:
            return self._starting
        now_s = time.monotonic()
        refusal = self._clock_refusal(now_s) or self._gate.why_not(now_s)
        if refusal is None and self._inference_s > self.parameters.max_observation_age_s:
            return Status(
                'INFERENCE_SLOW', 'one inference takes longer than its image is good for'
            )
        if refusal is None:
            return Status(READY, 'actions are published')
        if refusal.code == 'NO_INSTRUCTION':
            return Status(
                refusal.code, f'{refusal.sentence} (std_msgs/String on {self._texts.topic})'
            )
        return self._camera.explain(refusal)

    def _clock_refusal(self, now_s: float) -> Status | None:
        if not self._simulated:
            return None
        if not self.get_clock().now().nanoseconds:
            return Status('NO_CLOCK', NO_CLOCK)
        if self._pace.stands_still(now_s):
            return Status('CLOCK_STOPPED', CLOCK_STOPPED)
        return None

    def _publish_state(self, figures: str = '') -> None:
        self._says.publish(self._state(), self._gate.instruction, figures)

    def _report(self) -> None:
        with self._guard('report'):
            now_s = time.monotonic()
            publishers = self._texts.publisher_count()
            ready = self._worker.ready
            figures = self._gate.statistics.summary(now_s, self._wall_rate_hz)
            figures += self._pace_note()
            if publishers > 1:
                figures += f', {publishers} publishers of {self._texts.topic}'
            if self._gate.camera_is_colorless:
                figures += ', the images have no color'
            self._publish_state(figures if ready else '')
            self._says.publish_diagnostics(
                self._state(), self._backend_description(), self._values(now_s, publishers)
            )
            if publishers > 1 and self._publishers_said <= 1:
                self.get_logger().warning(
                    f'{publishers} publishers of {self._texts.topic}; the newest text wins'
                )
            self._publishers_said = publishers
            self._tell_color()
            if self._gate.oscillating:
                self._says.warn(
                    'oscillating', 'the model reverses its motion at nearly every step'
                )
            # Native code that keeps Python's lock stops this thread too; only a process of its
            # own can end it then.
            if ready and not self.stop_requested:
                if self._guardian is None:
                    self._guardian = WedgeGuard(self.parameters.hang_timeout_s + self._wedged_s)
                self._guardian.beat()

    def _values(self, now_s: float, publishers: int) -> dict[str, str]:
        heard = self._gate.controller_is_heard(now_s)
        return {
            'instruction': self._gate.instruction,
            'instruction_publishers': str(publishers),
            'unnorm_key': self.parameters.unnorm_key,
            'camera_topic': self._camera.topic,
            'camera_publishers': ' '.join(self._camera.publishers),
            'camera_colorless': str(self._gate.camera_is_colorless).lower(),
            'camera_lost_images': str(self._camera.loss.total),
            'controller': 'heard' if heard else 'not heard, checks of a moving arm rest',
            'published_actions': str(self._outputs.sequence),
            'completed_inferences': str(self._worker.completed),
            'reversals': str(self._gate.reversals),
            **({'real_time_factor': f'{self._pace.factor:.2f}'} if self._simulated else {}),
            **self._gate.statistics.values(now_s, self.policy_rate_hz),
        }

    def _backend_description(self) -> str:
        return self._worker.policy.backend.description if self._worker.policy else ''

    def _log_figures(self) -> None:
        with self._guard('log'):
            if self._worker.ready:
                figures = self._gate.statistics.summary(time.monotonic(), self._wall_rate_hz)
                self.get_logger().info(f'{self._state().code}: {figures}{self._pace_note()}')

    def _tell_color(self) -> None:
        colorless = self._gate.camera_is_colorless
        if colorless and not self._colorless_said:
            self.get_logger().warning(
                f'{self._camera.topic}: the images have had no color for {COLORLESS_S:g} s (all '
                'channels are equal), and the model was trained on color; is the camera in a '
                'mono mode?'
            )
        elif self._colorless_said and not colorless:
            self.get_logger().info(f'{self._camera.topic}: the images have color again')
        self._colorless_said = colorless

    def _tell_geometry(self, geometry: tuple[int, int, str], frame_id: str) -> None:
        width, height, encoding = geometry
        text = f'images of {width}x{height} {encoding[:40]!a} in frame {frame_id[:80]!a}'
        if self._geometry is None:
            self.get_logger().info(text)
        else:
            self._says.warn('geometry', f'the camera changed to {text}')
        self._geometry = geometry

    # What keeps it alive -----------------------------------------------------------------------

    def request_stop(self) -> None:
        """Ask for the end; safe to call from a signal handler."""
        self.stop_requested = True

    def close(self) -> bool:
        """Say that it is over and wait a moment for the worker; False if it still computes."""
        if self._guardian is not None:
            self._guardian.close()
        self._gate.shut(_ENDED)
        if not self.exit_code:
            self._starting = _ENDED
        with contextlib.suppress(Exception):
            self._publish_state()
        self._says.flush()
        stop_forwarding()
        return self._worker.close(_CLOSE_S)

    @contextlib.contextmanager
    def _guard(self, where: str) -> Iterator[None]:
        """Log any exception of a callback: it would end ``spin``."""
        try:
            yield
        except Exception as error:
            self.note_error(where, error)

    def note_error(self, where: str, error: Exception) -> None:
        """Count and log an unexpected exception."""
        self._gate.statistics.counts.add('callback_errors')
        text = ' '.join(str(error).split())[:200]
        self._says.warn(where, f'{where}: {type(error).__name__}: {text}')

    def _ros_now_s(self) -> float:
        return 1e-9 * float(self.get_clock().now().nanoseconds)

    def _ros_time_is_simulated(self) -> bool:
        return bool(self.get_clock().ros_time_is_active)


def main(
    args: Sequence[str] | None = None,
    load: LoadBackend = load_backend,
    wedged_s: float = _WEDGED_S,
) -> int:
    """Run the policy until SIGINT or SIGTERM.

    Args:
        args: The command line; ``sys.argv`` if None, and then the process ends here.
        load: Makes the inference backend; tests give a fake one.
        wedged_s: So long beyond hang_timeout_s the process may give no sign of life [s].

    Returns:
        0; 2 for a configuration or checkpoint that cannot be used; 3 for an inference that hung,
        died or ran out of memory, after which a launcher should start the node again.
    """
    argv = list(sys.argv if args is None else args)
    if '--help' in argv or '-h' in argv:
        print(_usage())
        return 0
    try:
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
        node = PolicyNode(load, wedged_s=wedged_s)
    except Exception as error:  # one line instead of a traceback
        kind = '' if isinstance(error, ConfigError) else f'{type(error).__name__}: '
        print(f'policy_node: {kind}{" ".join(str(error).split())}', file=sys.stderr)
        rclpy.try_shutdown()
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: node.request_stop())
    _offer_to_die_first()
    _spin(node)
    idle = node.close()
    node.destroy_node()
    rclpy.try_shutdown()
    if args is None or not idle:
        # Nothing is left to do, but Python would wait for a worker inside native code, and take
        # rclpy and torch apart for a second even without one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(node.exit_code)
    return node.exit_code


def _spin(node: PolicyNode) -> None:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not node.stop_requested and rclpy.ok():
        try:
            executor.spin_once(timeout_sec=_SPIN_S)
        except Exception as error:  # a callback of rclpy itself, or a message it cannot take
            node.note_error('executor', error)


def _offer_to_die_first() -> None:
    """Where memory runs out the policy goes before the controller."""
    with contextlib.suppress(OSError), open('/proc/self/oom_score_adj', 'w') as file:
        file.write('500')


def _usage() -> str:
    return (
        'usage: policy_node --ros-args -p robot:=NAME_OR_YAML -p unnorm_key:=KEY '
        '-p checkpoint:=FOLDER\n'
        '       policy_node --ros-args -p robot:=NAME_OR_YAML -p unnorm_key:=KEY '
        '-p server_url:=http://HOST:8000\n\n'
        'Computes actions from camera/image_raw and instruction and publishes them on ~/action;\n'
        'nothing moves without a controller_node that is armed. docs/parameters.md lists every\n'
        'parameter. This is not a certified safety function.'
    )


if __name__ == '__main__':
    sys.exit(main())
