"""The whole package on a simulated arm: `make demo`, `make demo INSTRUCTION="push the red block"`.

Starts sim_node, controller_node, policy_node and marker_node as processes, arms the controller as
an operator would, shows what happens and leaves an animation and a plot. Ctrl-C ends everything.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String
from std_srvs.srv import SetBool

from openvla_ros.core.resources import resource_path, share_directory
from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.nodes.conversions import seconds_from_time
from openvla_ros.nodes.launch_plan import demo_plan
from openvla_ros.nodes.marker_conversions import twist_vector
from openvla_ros.nodes.policy_conversions import rgb_from_message
from openvla_ros.sim.tasks import understand
from scripts.demo_pictures import Recording, save_animation, save_plot
from scripts.demo_processes import NodeProcess, wait_for

DEFAULT_INSTRUCTION = 'move to the red block'
STATES = {0: 'DISARMED', 1: 'HOLD', 2: 'ACTIVE', 3: 'FAULT', 4: 'ESTOP'}
OUR_NODES = ('sim_node', 'controller_node', 'policy_node', 'marker_node')
POLICY_GAVE_UP = ('TOO_SLOW', 'MODEL_REFUSED', 'NOT_INSTALLED', 'OUT_OF_MEMORY')
POLICY_LOADED = ('READY', 'NO_INSTRUCTION')
END_WITHIN_S = 1.3
_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_EVERY = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class DemoError(Exception):
    """One sentence: why the demo cannot go on."""


class Interrupted(Exception):  # noqa: N818  (it is not an error)
    """The user pressed Ctrl-C."""


class Operator(Node):
    """What a person in front of the arm does and sees: speaks, arms, watches."""

    def __init__(self) -> None:
        super().__init__('demo')
        self.recording = Recording()
        self.policy_status = ''
        self.active_instruction = ''
        self.instruction_since_s = 0.0
        self.safety: SafetyStatus | None = None
        self.task: dict[str, Any] = {}
        self.latencies_s: deque[float] = deque(maxlen=20)
        self._say = self.create_publisher(String, 'instruction', _LATCHED)
        self._arm = self.create_client(SetBool, 'controller_node/arm')
        subscribe = self.create_subscription
        subscribe(String, 'policy_node/status', self._on_policy_status, _LATCHED)
        subscribe(String, 'policy_node/active_instruction', self._on_instruction, _LATCHED)
        subscribe(SafetyStatus, 'controller_node/status', self._on_safety, _LATCHED)
        subscribe(String, 'sim_node/task', self._on_task, _LATCHED)
        subscribe(PolicyAction, 'policy_node/action', self._on_action, _EVERY)
        subscribe(TwistStamped, 'controller_node/twist_cmd', self._on_sent, _EVERY)
        subscribe(Float64, 'controller_node/gripper_cmd', self._on_gripper, _EVERY)
        subscribe(PoseStamped, 'ee_pose', self._on_pose, _NEWEST)
        subscribe(Image, 'marker_node/overlay', self._on_overlay, _NEWEST)

    def say(self, instruction: str) -> None:
        """Publish the sentence, as anybody may from another terminal."""
        self._say.publish(String(data=instruction))

    def arm(self, on: bool) -> Any:
        """Ask the controller to arm or disarm; returns the future of its answer."""
        return self._arm.call_async(SetBool.Request(data=on))

    def someone_listens(self) -> bool:
        """Tell whether the policy would hear an instruction and the controller a call."""
        return self._say.get_subscription_count() > 0 and self._arm.service_is_ready()

    def _on_policy_status(self, message: String) -> None:
        self.policy_status = message.data

    def _on_instruction(self, message: String) -> None:
        if message.data != self.active_instruction:
            self.active_instruction = message.data
            self.instruction_since_s = time.monotonic()

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety = message
        self.recording.states.append((time.monotonic(), STATES[message.state]))

    def _on_task(self, message: String) -> None:
        self.task = json.loads(message.data)

    def _on_action(self, message: PolicyAction) -> None:
        twist = twist_vector(message.twist)
        now_s = time.monotonic()
        self.latencies_s.append(
            1e-9 * self.get_clock().now().nanoseconds - seconds_from_time(message.header.stamp)
        )
        self.recording.wanted.append((now_s, *_speeds(twist), message.gripper))

    def _on_sent(self, message: TwistStamped) -> None:
        self.recording.sent.append((time.monotonic(), *_speeds(twist_vector(message.twist))))

    def _on_gripper(self, message: Float64) -> None:
        self.recording.grippers.append((time.monotonic(), message.data))

    def _on_pose(self, message: PoseStamped) -> None:
        p = message.pose.position
        self.recording.positions.append((time.monotonic(), np.array([p.x, p.y, p.z])))

    def _on_overlay(self, message: Image) -> None:
        self.recording.add_frame(time.monotonic(), rgb_from_message(message))


class Demo:
    """Starts, waits, arms, shows, ends."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.interrupted = False
        self.armed_s: float | None = None
        self.processes: dict[str, NodeProcess] = {}
        self.operator = Operator()
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.operator)
        self._terminal = sys.stdout.isatty()
        self._shown_s = 0.0

    def run(self) -> None:
        """Go through the demo; what was started still runs at the end."""
        instruction = self.arguments.instruction
        self._refuse_company()
        self._start(instruction)
        self._until('the nodes are up', lambda: self.operator.someone_listens(), 60.0)
        self._until('the policy is loaded', lambda: self._policy_code() in POLICY_LOADED, 300.0)
        print(f'telling the policy: {instruction!r}')
        self.operator.say(instruction)
        self._until('the policy is ready', lambda: self._policy_code() == 'READY', 30.0)
        self._arm()
        self._watch()
        self._finish_moving()

    def end(self) -> bool:
        """End every process within two seconds; True if the arm was seen at rest before."""
        deadline_s = time.monotonic() + END_WITHIN_S
        for name in ('controller_node', 'policy_node', 'marker_node'):
            if name in self.processes:
                self.processes[name].interrupt()
        # The controller ramps the arm to rest before it ends; the arm must be there that long.
        while not (rested := self._at_rest()) and time.monotonic() < deadline_s - 0.3:
            self._spin(0.02)
        if 'sim_node' in self.processes:
            self.processes['sim_node'].interrupt()
        wait_for(self.processes.values(), deadline_s)
        for process in self.processes.values():
            process.kill()
        return rested

    # Steps -------------------------------------------------------------------------------------

    def _refuse_company(self) -> None:
        """Another robot on this ROS domain would be armed and driven along."""
        self._spin(1.0)
        others = set(OUR_NODES) & set(self.operator.get_node_names())
        if others:
            domain = os.environ.get('ROS_DOMAIN_ID', '0')
            raise DemoError(
                f'on ROS domain {domain} there already is {", ".join(sorted(others))}; '
                'end that, or set ROS_DOMAIN_ID to another number'
            )

    def _start(self, instruction: str) -> None:
        checkpoint = self.arguments.checkpoint or _shipped_checkpoint()
        given = {'checkpoint': str(checkpoint), 'seed': str(self.arguments.seed)}
        plan = demo_plan(given, share_directory(), installed=lambda _: False)
        plan = plan.with_parameters('marker_node', overlay_rate_hz=5.0, markers_rate_hz=1.0)
        if understand(instruction):
            plan = plan.with_parameters('sim_node', instruction=instruction)
        else:
            print('the simulation knows no such task: nobody can judge its success')
        self.arguments.out.mkdir(parents=True, exist_ok=True)
        names = [process.executable for process in plan.processes]
        print(f'starting {", ".join(names)} (checkpoint {checkpoint})')
        os.environ.update(plan.environment)
        for process in plan.processes:
            name = process.executable
            self.processes[name] = NodeProcess(name, process.ros_arguments(), self.arguments.out)

    def _arm(self) -> None:
        """Arm as an operator would: look, then call the service."""
        answer = ''
        deadline_s = time.monotonic() + 15.0
        print('arming as an operator would: controller_node/arm')
        while time.monotonic() < deadline_s:
            future = self.operator.arm(True)
            self._until('the controller answers', future.done, 5.0)
            answer = future.result().message
            if future.result().success:
                print(f'  {answer}')
                self.armed_s = time.monotonic()
                return
            self._spin(0.5)
        raise DemoError(f'the controller does not let itself be armed: {answer}')

    def _watch(self) -> None:
        """Show what happens until the task is done or its time is over."""
        operator = self.operator
        done_s: float | None = None
        assert self.armed_s is not None
        while True:
            self._spin(0.05)
            now_s = time.monotonic()
            self._show(now_s)
            done_s = (done_s or now_s) if self._task_is_done() else None
            begun_s = max(self.armed_s, operator.instruction_since_s)
            if now_s - begun_s > self.arguments.seconds:
                break
            if done_s is not None and now_s - done_s > 2.0 and not self.arguments.stay:
                break
        self._end_line()

    def _finish_moving(self) -> None:
        future = self.operator.arm(False)
        self._until('the controller disarms', future.done, 5.0)
        with contextlib.suppress(DemoError):
            self._until('the arm rests', self._at_rest, 3.0)

    def summary(self) -> None:
        """Print what was achieved."""
        operator, recording = self.operator, self.operator.recording
        task = operator.task
        judged = 'done' if self._task_is_done() else 'NOT done'
        if not self._task_is_current():
            judged = (
                f'not judged: the simulation knows {", ".join(task.get("blocks_m", ()))} blocks'
            )
        latencies_ms = sorted(1e3 * value for value in operator.latencies_s)
        print()
        print(f'  instruction   {operator.active_instruction!r}: {judged}')
        if self._task_is_current() and task.get('touched_wrong'):
            print('                another block than the one asked for was touched')
        if latencies_ms:
            middle = latencies_ms[len(latencies_ms) // 2]
            print(
                f'  policy        {len(recording.wanted)} actions, {recording.rate_hz():.1f} Hz, '
                f'{middle:.0f} ms from camera stamp to action (median of the last)'
            )
        if operator.safety is not None:
            safety = operator.safety
            counts = zip(safety.reject_reasons, safety.reject_counts)
            refused = ', '.join(f'{count} {code}' for code, count in counts if count)
            print(
                f'  controller    {safety.accepted} actions accepted, {safety.rejected} refused'
                + (f' ({refused})' if refused else '')
            )
        print(f'  end effector  went {recording.way_m():.3f} m')

    def save_pictures(self) -> None:
        """Write animation and plot and say where."""
        out = self.arguments.out
        recording = self.operator.recording
        begin_s = (self.armed_s or 0.0) - 1.0
        print('\nwriting pictures ...', flush=True)
        frames = [frame for frame in recording.frames if frame[0] >= begin_s]
        if save_animation(frames, out / 'demo.gif'):
            print(f'  animation     {out / "demo.gif"}')
        save_plot(recording, out / 'demo.png', self.operator.active_instruction, begin_s)
        print(f'  plot          {out / "demo.png"}')
        print(f'  logs          {out}/*.log')

    # Small things ------------------------------------------------------------------------------

    def _spin(self, for_s: float) -> None:
        until_s = time.monotonic() + for_s
        while (left_s := until_s - time.monotonic()) > 0.0:
            self.executor.spin_once(timeout_sec=left_s)

    def _until(self, what: str, is_true: Any, limit_s: float) -> None:
        """Spin until something holds, saying what the policy says meanwhile."""
        deadline_s = time.monotonic() + limit_s
        said = ''
        while not is_true():
            self._spin(0.05)
            self._check()
            if self._policy_code() in POLICY_GAVE_UP:
                raise DemoError(f'the policy: {self.operator.policy_status}')
            if self.operator.policy_status != said and self._policy_code() not in POLICY_LOADED:
                said = self.operator.policy_status
                print(f'  policy: {said[:150]}')
            if time.monotonic() > deadline_s:
                raise DemoError(
                    f'waited {limit_s:g} s until {what}, in vain; the policy says '
                    f'{self.operator.policy_status or "nothing"!r}; logs in {self.arguments.out}'
                )

    def _check(self) -> None:
        if self.interrupted:
            raise Interrupted
        for process in self.processes.values():
            last_words = process.ended()
            if last_words is not None:
                raise DemoError(last_words)

    def _policy_code(self) -> str:
        return self.operator.policy_status.partition(':')[0]

    def _task_is_done(self) -> bool:
        return self._task_is_current() and bool(self.operator.task.get('success'))

    def _task_is_current(self) -> bool:
        """Tell whether the simulation judges what was said: a task it knows, a block it has."""
        task = self.operator.task
        meant = understand(self.operator.active_instruction)
        return bool(task) and meant == (task.get('kind'), task.get('colour'))

    def _at_rest(self) -> bool:
        """Tell whether the last commands were zeros; an arm nobody commanded does not move."""
        return all(row[1] == 0.0 and row[2] == 0.0 for row in self.operator.recording.sent[-3:])

    def _show(self, now_s: float) -> None:
        self._check()
        if now_s - self._shown_s < (0.2 if self._terminal else 1.0):
            return
        self._shown_s = now_s
        operator, recording = self.operator, self.operator.recording
        latency_ms = 1e3 * operator.latencies_s[-1] if operator.latencies_s else float('nan')
        recent = [row[0] for row in recording.wanted[-10:]]
        rate_hz = (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 else 0.0
        if not recent or now_s - recent[-1] > 1.0:
            rate_hz = 0.0
        # The sentence begins with the state.
        safety = 'no controller' if operator.safety is None else operator.safety.sentence
        position = recording.positions[-1][1] if recording.positions else np.full(3, np.nan)
        line = (
            f'{operator.active_instruction!r} | {rate_hz:4.1f} Hz {latency_ms:4.0f} ms | '
            f'ee {position[0]:.3f} {position[1]:+.3f} {position[2]:.3f} m, '
            f'went {recording.way_m():.2f} m | '
            f'{"done | " if self._task_is_done() else ""}{safety}'
        )
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print('\r' + line[:width].ljust(width), end='', flush=True)
        else:
            print(line[:220], flush=True)

    def _end_line(self) -> None:
        if self._terminal:
            print()


def main() -> int:
    """Run the demo; 0 when it ran, 1 when it could not, 130 after Ctrl-C."""
    arguments = _arguments()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    demo = Demo(arguments)

    def interrupt(_: int, __: FrameType | None) -> None:
        demo.interrupted = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    status = 0
    try:
        demo.run()
    except Interrupted:
        print('\nending everything ...', flush=True)
        status = 130
    except DemoError as error:
        print(f'\ndemo: {error}', file=sys.stderr)
        status = 1
    finally:
        rested = demo.end()
    if demo.armed_s is not None:
        print('the arm is at rest' if rested else 'the arm was NOT seen at rest')
    if status == 0:
        demo.summary()
        demo.save_pictures()
    rclpy.try_shutdown()
    if status == 130:
        # On a busy machine Python takes most of a second to take itself down.
        sys.stdout.flush()
        os._exit(status)
    return status


def _speeds(twist: np.ndarray) -> tuple[float, float]:
    return float(np.linalg.norm(twist[:3])), float(np.linalg.norm(twist[3:]))


def _shipped_checkpoint() -> Path:
    try:
        return resource_path('checkpoints/demo')
    except FileNotFoundError as error:
        raise DemoError(f'there is no checkpoint: {error}') from error


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    said = os.environ.get('INSTRUCTION') or DEFAULT_INSTRUCTION
    add = parser.add_argument
    add('--instruction', default=said, help=f'what to do; the default is {DEFAULT_INSTRUCTION!r}')
    add('--checkpoint', help='folder of another checkpoint than checkpoints/demo')
    add('--seed', type=int, default=0, help='number of the scene')
    add('--seconds', type=float, default=30.0, help='time for one instruction')
    add('--stay', action='store_true', help='do not end when the task is done')
    add('--out', type=Path, default=Path('out/demo'), help='folder for pictures and logs')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
