"""Success of the policy through the ROS graph, beside the same scenes in process.

sim_node, controller_node and policy_node run as processes, in real time, from camera topic to
twist topic; for every scene the controller is started anew and armed as an operator does. The
scenes are those of `python -m openvla_ros.evaluation.rollout`, which then tries them in process;
the result is the paired difference with its 95 % interval. Results are kept one line per episode;
started again, it goes on where it was.

    source scripts/env.sh; python -m benchmarks.graph.rollout --episodes 20
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from benchmarks.graph.comparison import (
    GraphOutcome,
    compare,
    read_graph,
    read_in_process,
    table,
)
from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.core.resources import resource_path
from openvla_ros.evaluation.episodes import MAX_STEPS, Outcome
from openvla_ros.msg import PolicyAction, SafetyStatus
from openvla_ros.nodes.conversions import seconds_from_time
from openvla_ros.sim.tasks import KINDS
from scripts.demo_processes import NodeProcess, wait_for

UNNORM_KEY = 'openvla_ros_demo'
PRECISION = 'bf16'
POLICY_LOADED = ('READY', 'NO_INSTRUCTION', 'NO_IMAGE', 'IMAGE_STALE')
_END_WITHIN_S = 3.0
_START_LIMIT_S = 120.0
_ANSWER_LIMIT_S = 15.0
_MOVING = (SafetyStatus.HOLD, SafetyStatus.ACTIVE)
_NAMES = {0: 'DISARMED', 1: 'HOLD', 2: 'ACTIVE', 3: 'FAULT', 4: 'ESTOP'}
_NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
_EVERY = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class TrialError(Exception):
    """One sentence: why an episode could not be run."""


class Operator(Node):
    """Speaks, arms, resets the scene, and notes what happens."""

    def __init__(self) -> None:
        super().__init__('operator')
        self.status = ''
        self.active_instruction = ''
        self.safety: Any = None  # the newest SafetyStatus; None before the first
        self.task: dict[str, Any] = {}
        self.actions: list[tuple[float, float]] = []
        self.position_m = np.full(3, np.nan)
        self.instructions = self.create_publisher(String, 'instruction', _LATCHED)
        self.arm = self.create_client(SetBool, 'controller_node/arm')
        self.reset_scene = self.create_client(Trigger, 'sim_node/reset_scene')
        self.set_scene = self.create_client(SetParameters, 'sim_node/set_parameters')
        subscribe = self.create_subscription
        subscribe(String, 'policy_node/status', self._on_status, _LATCHED)
        subscribe(String, 'policy_node/active_instruction', self._on_instruction, _LATCHED)
        subscribe(SafetyStatus, 'controller_node/status', self._on_safety, _LATCHED)
        subscribe(String, 'sim_node/task', self._on_task, _LATCHED)
        subscribe(PolicyAction, 'policy_node/action', self._on_action, _EVERY)
        subscribe(PoseStamped, 'ee_pose', self._on_pose, _NEWEST)

    @property
    def code(self) -> str:
        """Code of the policy's status."""
        return self.status.partition(':')[0]

    def say(self, text: str) -> None:
        """Publish an instruction; empty stops."""
        self.instructions.publish(String(data=text))

    def _on_status(self, message: String) -> None:
        self.status = message.data

    def _on_instruction(self, message: String) -> None:
        self.active_instruction = message.data

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety = message

    def _on_task(self, message: String) -> None:
        self.task = json.loads(message.data)

    def _on_action(self, message: PolicyAction) -> None:
        now_s = 1e-9 * self.get_clock().now().nanoseconds
        self.actions.append((time.monotonic(), now_s - seconds_from_time(message.header.stamp)))

    def _on_pose(self, message: PoseStamped) -> None:
        p = message.pose.position
        self.position_m = np.array([p.x, p.y, p.z])


class Graph:
    """The running nodes and the operator in front of them."""

    def __init__(self, checkpoint: Path | None, limit_s: float, logs: Path) -> None:
        """Start simulation and policy; the controller starts with each episode.

        Args:
            checkpoint: Of the policy; None lets the expert drive.
            limit_s: Of each episode.
            logs: Folder.
        """
        self.interrupted = False
        self._expert = checkpoint is None
        self._limit_s = limit_s
        self._logs = logs
        self._processes: dict[str, NodeProcess] = {}
        self._executor = SingleThreadedExecutor()
        self._operator = Operator()
        self._executor.add_node(self._operator)
        policy = {
            **({} if checkpoint is None else {'checkpoint': checkpoint}),
            'robot': 'sim',
            'unnorm_key': UNNORM_KEY,
            'dtype': 'bfloat16',
            'quantization': 'none',
            'device': 'cpu',
            'allow_slow': 'true',
        }
        self._start('sim_node', {'split': 'test'})
        self._start('policy_node', policy)
        operator = self._operator
        self._until('the policy is loaded', lambda: operator.code in POLICY_LOADED, _START_LIMIT_S)
        self._until('the simulation answers', operator.reset_scene.service_is_ready, 30.0)

    def run_episode(self, kind: str, seed: int) -> GraphOutcome:
        """Set the scene, start the controller, speak, arm, watch."""
        self._operator.say('')
        self._end('controller_node')
        task = self._set_scene(kind, seed)
        self._operator.safety = None
        self._start('controller_node', {'robot': 'sim'})
        self._operator.say(task['instruction'])
        self._until('the policy acts', lambda: self._acts_on(task['instruction']), _ANSWER_LIMIT_S)
        accepted, rejected = self._arm()
        armed_s = time.monotonic()
        state = self._watch(armed_s)
        return self._outcome(armed_s, state, accepted, rejected)

    def close(self) -> None:
        """End every process: policy and controller first, so that the arm is at rest."""
        for name in ('policy_node', 'controller_node', 'sim_node'):
            self._end(name)

    # Steps -------------------------------------------------------------------------------------

    def _set_scene(self, kind: str, seed: int) -> dict[str, Any]:
        operator = self._operator
        values = [Parameter('task', value=kind), Parameter('seed', value=seed)]
        request = SetParameters.Request(parameters=[v.to_parameter_msg() for v in values])
        for result in self._ask(operator.set_scene, request).results:
            if not result.successful:
                raise TrialError(f'sim_node refused the scene {kind} {seed}: {result.reason}')
        operator.task = {}
        self._ask(operator.reset_scene, Trigger.Request())
        scene = ('kind', kind), ('seed', seed), ('success', False)
        self._until(
            f'the scene is {kind} {seed}',
            lambda: all(operator.task.get(name) == value for name, value in scene),
            _ANSWER_LIMIT_S,
        )
        return operator.task

    def _acts_on(self, instruction: str) -> bool:
        operator = self._operator
        return operator.code == 'READY' and operator.active_instruction == instruction

    def _arm(self) -> tuple[int, int]:
        """Arm; returns how many actions were accepted and refused until then."""
        operator = self._operator
        self._until(
            'the controller is up',
            lambda: operator.safety is not None and operator.arm.service_is_ready(),
            30.0,
        )
        deadline_s = time.monotonic() + _ANSWER_LIMIT_S
        while True:
            answer = self._ask(operator.arm, SetBool.Request(data=True))
            if answer.success:
                break
            if time.monotonic() > deadline_s:
                raise TrialError(f'the controller does not let itself be armed: {answer.message}')
            self._spin(0.1)
        self._until('it is armed', lambda: operator.safety.state in _MOVING, _ANSWER_LIMIT_S)
        return operator.safety.accepted, operator.safety.rejected

    def _watch(self, armed_s: float) -> int:
        """Wait for success, the end of the time or a state that stops; returns the last state."""
        operator = self._operator
        while time.monotonic() - armed_s < self._limit_s:
            self._spin(0.02)
            self._check()
            if operator.task.get('success') or operator.safety.state not in _MOVING:
                break
        return int(operator.safety.state)

    def _outcome(self, armed_s: float, state: int, accepted: int, rejected: int) -> GraphOutcome:
        operator, now_s = self._operator, time.monotonic()
        task = operator.task
        ages_s = [age_s for at_s, age_s in operator.actions if at_s >= armed_s]
        blocks = {
            c: np.hypot(*(np.array(p) - operator.position_m)[:2])
            for c, p in task['blocks_m'].items()
        }
        ended = 'time' if state in _MOVING else _NAMES[state]
        outcome = Outcome(
            kind=task['kind'],
            seed=task['seed'],
            instruction=task['instruction'],
            colour=task['colour'],
            blocks=len(blocks),
            success=bool(task['success']),
            steps=int(operator.safety.accepted) - accepted,
            went_to=min(blocks, key=lambda colour: blocks[colour]),
            touched_wrong=bool(task['touched_wrong']),
            ended='done' if task['success'] else ended,
        )
        operator.actions.clear()
        return GraphOutcome(
            outcome=outcome,
            seconds=round(now_s - armed_s, 2),
            actions_hz=round(len(ages_s) / (now_s - armed_s), 2),
            camera_to_action_ms=round(1e3 * float(np.median(ages_s or [np.nan])), 1),
            rejected=int(operator.safety.rejected) - rejected,
        )

    # Small things ------------------------------------------------------------------------------

    def _start(self, name: str, parameters: dict[str, Any]) -> None:
        arguments = [
            text for key, value in parameters.items() for text in ('-p', f'{key}:={value}')
        ]
        by_expert = self._expert and name != 'controller_node'
        command = ['benchmarks.graph.expert', name] if by_expert else []
        self._processes[name] = NodeProcess(name, arguments, self._logs, command)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            process.interrupt()
            wait_for([process], time.monotonic() + _END_WITHIN_S)
            process.kill()

    def _ask(self, client: Any, request: Any) -> Any:
        self._until(f'{client.srv_name} is there', client.service_is_ready, _ANSWER_LIMIT_S)
        future = client.call_async(request)
        self._until(f'{client.srv_name} answers', future.done, _ANSWER_LIMIT_S)
        return future.result()

    def _until(self, what: str, is_true: Callable[[], bool], limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while not is_true():
            self._spin(0.02)
            self._check()
            if time.monotonic() > deadline_s:
                raise TrialError(
                    f'waited {limit_s:g} s until {what}, in vain; the policy says '
                    f'{self._operator.status[:200]!r}, the controller '
                    f'{self._operator.safety.sentence if self._operator.safety else "nothing"!r}'
                )

    def _check(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        for process in self._processes.values():
            last_words = process.ended()
            if last_words is not None:
                raise TrialError(last_words)

    def _spin(self, for_s: float) -> None:
        until_s = time.monotonic() + for_s
        while (left_s := until_s - time.monotonic()) > 0.0:
            self._executor.spin_once(timeout_sec=left_s)


def run_graph(arguments: argparse.Namespace) -> None:
    """Run the episodes that are missing."""
    path = arguments.out / 'graph.jsonl'
    done = read_graph(path)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.episodes)
    missing = [
        (kind, seed) for seed in seeds for kind in arguments.task if (kind, seed) not in done
    ]
    if not missing:
        return
    # A domain of its own: another robot on this machine must not be driven along.
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.SystemRandom().randint(1, 101)))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    graph: Graph | None = None

    def interrupt(_: int, __: FrameType | None) -> None:
        if graph is None or graph.interrupted:
            raise KeyboardInterrupt
        graph.interrupted = True

    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, interrupt)
    began_s = time.monotonic()
    try:
        step_s = load_dataset_profile(UNNORM_KEY).step_s
        graph = Graph(arguments.checkpoint, arguments.max_steps * step_s, arguments.out)
        for number, (kind, seed) in enumerate(missing, 1):
            found = _try_twice(graph, kind, seed)
            with path.open('a') as file:
                file.write(found.line() + '\n')
            left_s = (time.monotonic() - began_s) / number * (len(missing) - number)
            outcome = found.outcome
            print(
                f'{number}/{len(missing)} {kind} {seed}: {outcome.ended} after '
                f'{found.seconds:.1f} s, at {outcome.went_to} ({outcome.instruction}), '
                f'{found.actions_hz:.1f} Hz, {found.camera_to_action_ms:.0f} ms, '
                f'{left_s / 60:.1f} min left',
                flush=True,
            )
    finally:
        if graph is not None:
            graph.close()
        rclpy.try_shutdown()


def _try_twice(graph: Graph, kind: str, seed: int) -> GraphOutcome:
    """An episode that never began counts for neither side; one that began is never repeated."""
    try:
        return graph.run_episode(kind, seed)
    except TrialError as error:
        print(f'  {kind} {seed} could not begin, trying once more: {error}', flush=True)
        return graph.run_episode(kind, seed)


def run_in_process(arguments: argparse.Namespace) -> Path:
    """Let the rollout try what it has not yet tried; returns its file of episodes."""
    folder = arguments.in_process or arguments.out / 'in_process'
    module = ['openvla_ros.evaluation.rollout']
    module += ['--checkpoint', str(arguments.checkpoint), '--precision', PRECISION]
    module += ['--sheet-rows', '0']
    command = [
        *(sys.executable, '-m'),
        *(['benchmarks.graph.expert', 'in_process'] if arguments.expert else module),
        *('--episodes', str(arguments.episodes), '--first-seed', str(arguments.first_seed)),
        *('--max-steps', str(arguments.max_steps), '--task', *arguments.task),
        *('--out', str(folder)),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Path(folder) / 'episodes.jsonl'


def main() -> int:
    """Run what is missing both ways, print the table, write comparison.json."""
    arguments = _arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        run_graph(arguments)
    except TrialError as error:
        print(f'graph_rollout: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print('the same scenes in process ...', flush=True)
    episodes = run_in_process(arguments)
    comparison = compare(
        read_graph(arguments.out / 'graph.jsonl'), read_in_process(episodes, PRECISION)
    )
    comparison |= {
        **_what_drove(arguments.checkpoint),
        'max_steps': arguments.max_steps,
        'load_1min': round(os.getloadavg()[0], 2),
        'cores': os.cpu_count(),
    }
    (arguments.out / 'comparison.json').write_text(json.dumps(comparison, indent=1) + '\n')
    print(table(comparison))
    print(json.dumps(comparison))
    return 0


def _what_drove(checkpoint: Path | None) -> dict[str, str]:
    if checkpoint is None:
        return {'policy': 'scripted expert'}
    weights = (checkpoint / 'model.safetensors').read_bytes()
    return {'policy': checkpoint.name, 'weights_sha256': hashlib.sha256(weights).hexdigest()[:16]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add('--checkpoint', type=Path, help='folder; default: the shipped one')
    add('--expert', action='store_true', help='the scripted expert instead of a network')
    add('--episodes', type=int, default=20, help='held-out scenes per task')
    add('--first-seed', type=int, default=0, help='seed of the first scene')
    add('--task', nargs='+', default=list(KINDS), choices=KINDS)
    add('--max-steps', type=int, default=MAX_STEPS, help='policy steps per episode')
    add('--in-process', type=Path, help='folder of a rollout of the same checkpoint to continue')
    add('--out', type=Path, default=Path('out/graph_rollout'), help='folder for results and logs')
    arguments = parser.parse_args()
    if not arguments.expert:
        arguments.checkpoint = arguments.checkpoint or resource_path('checkpoints/demo')
    return arguments


if __name__ == '__main__':
    sys.exit(main())
