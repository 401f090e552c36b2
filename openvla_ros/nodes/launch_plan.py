"""What is started: which nodes, with which parameters, remappings and environment.

Plain Python, so that the launch files, `make demo` and the tests start the same: a launch file
turns a plan into launch actions, the others into command lines.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.dds_profile import profile_for_images
from openvla_ros.nodes.launch_arguments import (
    DEMO_ARGUMENTS,
    POLICY_ARGUMENTS,
    RECORD_ARGUMENTS,
    defaults,
)
from openvla_ros.nodes.rviz_view import view_for_robot, viewed_topics
from openvla_ros.safety.robot_frames import refuse_other_frames
from openvla_ros.safety.robot_profile import RobotProfile, load_robot_profile

PACKAGE = 'openvla_ros'
Value = bool | int | float | str
Installed = Callable[[str], bool]
"""Tells whether a ROS package of this name is installed."""

_COMMANDS = ('twist_cmd', 'pose_cmd', 'gripper_cmd')  # from the controller to the driver
_FRAME_PARAMETERS = ('robot', 'base_frame', 'ee_frame')
_POLICY_PARAMETERS = (
    'unnorm_key',
    'checkpoint',
    'server_url',
    'adapter',
    'quantization',
    'device',
    'cuda_graphs',
    'image_transport',
)
_RECORDER_PARAMETERS = (
    'robot',
    'unnorm_key',
    'dataset_directory',
    'directory',
    'image_transport',
)


@dataclass(frozen=True)
class ProcessPlan:
    """One process.

    Attributes:
        package: ROS package of the executable.
        executable: Its name; for a node of this package, the module in openvla_ros/nodes.
        name: Name of the node; '' for the executable's own.
        namespace: Absolute namespace; '' for none.
        parameters: ROS parameters; they win over ``parameters_file``.
        parameters_file: Path of a ROS parameter file; '' for none.
        remappings: (from, to).
        arguments: Command line before ``--ros-args``.
        log_level: Least severe messages shown; '' for the executable's own.
        respawn_delay_s: Start it again so long after it ended; None for never.
    """

    package: str
    executable: str
    name: str = ''
    namespace: str = ''
    parameters: Mapping[str, Value] = field(default_factory=dict)
    parameters_file: str = ''
    remappings: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    log_level: str = ''
    respawn_delay_s: float | None = None

    def ros_arguments(self) -> list[str]:
        """Return what follows ``--ros-args`` on the command line."""
        words = ['--log-level', self.log_level] if self.log_level else []
        if self.name:
            words += ['-r', f'__node:={self.name}']
        if self.namespace:
            words += ['-r', f'__ns:={self.namespace}']
        if self.parameters_file:
            words += ['--params-file', self.parameters_file]
        for key, value in self.parameters.items():
            # JSON is YAML: the text "1.0" stays a text.
            words += ['-p', f'{key}:={json.dumps(value, ensure_ascii=False)}']
        for old, new in self.remappings:
            words += ['-r', f'{old}:={new}']
        return words


@dataclass(frozen=True)
class LaunchPlan:
    """Everything one launch file starts.

    Attributes:
        processes: In this order.
        environment: Variables for all of them.
        lines: What to tell the person who launches.
    """

    processes: tuple[ProcessPlan, ...]
    environment: Mapping[str, str]
    lines: tuple[str, ...]

    def process(self, executable: str) -> ProcessPlan:
        """Return the process of an executable.

        Raises:
            KeyError: the plan does not have it.
        """
        for process in self.processes:
            if process.executable == executable:
                return process
        raise KeyError(executable)

    def with_parameters(self, executable: str, **parameters: Value) -> 'LaunchPlan':
        """Return the plan with more parameters for one executable."""
        old = self.process(executable)
        new = replace(old, parameters={**old.parameters, **parameters})
        return replace(self, processes=tuple(new if p is old else p for p in self.processes))


def absolute_namespace(namespace: str, pushed: str = '') -> str:
    """Return a namespace as ROS resolves it below the one that PushRosNamespace has set."""
    if namespace.startswith('/'):
        pushed = ''
    parts = [part for part in f'{pushed}/{namespace}'.split('/') if part]
    return '/' + '/'.join(parts) if parts else ''


def policy_plan(
    given: Mapping[str, str], share: Path, installed: Installed, pushed_namespace: str = ''
) -> LaunchPlan:
    """Plan policy.launch.py: policy and controller for one robot, and what shows them.

    Args:
        given: Values of POLICY_ARGUMENTS; one that is absent has its default.
        share: Folder that holds config/.
        installed: Tells which ROS packages there are.
        pushed_namespace: What PushRosNamespace has set around the launch file.

    Raises:
        ConfigError: something is missing or contradicts the robot's profile.
    """
    given = {**defaults(POLICY_ARGUMENTS), **given}
    _refuse_missing(given)
    namespace = absolute_namespace(given['namespace'], pushed_namespace)
    profile = load_robot_profile(given['robot']) if given['robot'] else None
    if profile is not None:
        refuse_other_frames(profile, given['base_frame'], given['ee_frame'])
    processes = [*_policy_and_controller(given, namespace)]
    if given['markers'] == 'true':
        # It only shows; but what ended it once (a driver's broken message) must not blind anyone.
        processes.append(_node('marker_node', given, namespace, (), {}, respawn_delay_s=2.0))
    lines: list[str] = []
    if given['rviz'] == 'true' and installed('rviz2'):
        processes.append(_rviz(given, namespace, share, profile))
    elif given['rviz'] == 'true':
        lines.append('rviz2 is not installed here; RViz is left out')
    return LaunchPlan(
        tuple(processes),
        dict([profile_for_images(share)]),
        (*lines, *_what_to_do(namespace, profile)),
    )


def demo_plan(
    given: Mapping[str, str], share: Path, installed: Installed, pushed_namespace: str = ''
) -> LaunchPlan:
    """Plan demo.launch.py: the simulated arm, and policy_plan for the robot 'sim'.

    Args:
        given: Values of DEMO_ARGUMENTS; one that is absent has its default.
        share: As for policy_plan.
        installed: As for policy_plan.
        pushed_namespace: As for policy_plan.

    Raises:
        ConfigError: an argument cannot be used.
    """
    given = {**defaults(DEMO_ARGUMENTS), **given}
    of_policy = {
        'robot': 'sim',
        'unnorm_key': 'openvla_ros_demo',
        'allow_slow': 'true',  # nobody is hurt by this arm when it stops and goes
        'camera_pose_topic': 'sim_node/camera_pose',
        **{name: value for name, value in given.items() if name not in ('task', 'seed')},
        'checkpoint': given['checkpoint'] or str(share / 'checkpoints' / 'demo'),
    }
    plan = policy_plan(of_policy, share, installed, pushed_namespace)
    namespace = absolute_namespace(given['namespace'], pushed_namespace)
    sim = ProcessPlan(
        PACKAGE,
        'sim_node',
        name='sim_node',
        namespace=namespace,
        parameters={'task': given['task'], 'seed': _whole_number('seed', given['seed'])},
        log_level=given['log_level'],
    )
    if not installed('robot_state_publisher'):
        line = 'robot_state_publisher is not installed here; RViz shows no robot model'
        return replace(plan, processes=(sim, *plan.processes), lines=(line, *plan.lines))
    urdf = (share / 'config' / 'sim' / 'arm.urdf').read_text(encoding='utf-8')
    model = ProcessPlan(
        'robot_state_publisher',
        'robot_state_publisher',
        namespace=namespace,
        parameters={'robot_description': urdf},
    )
    return replace(plan, processes=(sim, model, *plan.processes))


def record_plan(
    given: Mapping[str, str], share: Path, installed: Installed, pushed_namespace: str = ''
) -> LaunchPlan:
    """Plan record.launch.py: the recorder, beside whatever drives the robot.

    Args:
        given: Values of RECORD_ARGUMENTS; one that is absent has its default.
        share: As for policy_plan.
        installed: As for policy_plan.
        pushed_namespace: As for policy_plan.

    Raises:
        ConfigError: something is missing.
    """
    usual = defaults(RECORD_ARGUMENTS)
    given = {**usual, **given}
    missing = [name for name in ('robot', 'unnorm_key') if not given[name]]
    if missing and not given['params_file']:
        raise ConfigError(f'not given: {", ".join(missing)}; --show-args says what they are')
    namespace = absolute_namespace(given['namespace'], pushed_namespace)
    values: dict[str, Value] = {
        key: given[key] for key in _RECORDER_PARAMETERS if given[key] != usual[key]
    }
    transport = '/compressed' if given['image_transport'] == 'compressed' else ''
    recorder = ProcessPlan(
        PACKAGE,
        'recorder_node',
        name='recorder_node',
        namespace=namespace,
        parameters=values | {'use_sim_time': given['use_sim_time'] == 'true'},
        parameters_file=given['params_file'],
        remappings=(
            (f'camera/image_raw{transport}', f'{given["image_topic"]}{transport}'),
            ('camera/camera_info', given['camera_info_topic']),
            ('ee_pose', given['ee_pose_topic']),
            ('controller_node/twist_cmd', given['twist_cmd_topic']),
            ('controller_node/gripper_cmd', given['gripper_cmd_topic']),
            ('gripper_state', given['gripper_state_topic']),
            ('joint_states', given['joint_states_topic']),
        ),
        log_level=given['log_level'],
        respawn_delay_s=2.0,
    )
    node = f'{namespace}/recorder_node'
    sentence = '"{sentence: put the spoon on the towel}"'
    lines = (
        'Nothing is recorded until an episode starts:',
        f'  ros2 service call {node}/start_episode openvla_ros/srv/StartEpisode {sentence}',
        f'  ros2 service call {node}/end_episode openvla_ros/srv/EndEpisode '
        '"{outcome: success}"  # or failure, or discard',
    )
    return LaunchPlan((recorder,), dict([profile_for_images(share)]), lines)


def _policy_and_controller(
    given: Mapping[str, str], namespace: str
) -> tuple[ProcessPlan, ProcessPlan]:
    slow: dict[str, Value] = {'allow_slow': True} if given['allow_slow'] == 'true' else {}
    shadow: dict[str, Value] = {'shadow': True} if given['mode'] == 'shadow' else {}
    controller = _node('controller_node', given, namespace, (), shadow, respawn_delay_s=2.0)
    driver = tuple((f'~/{name}', given[f'{name}_topic']) for name in _COMMANDS)
    return (
        # It ends itself when its inference hangs or dies; the controller then must be re-armed.
        _node('policy_node', given, namespace, _POLICY_PARAMETERS, slow, respawn_delay_s=5.0),
        replace(controller, remappings=(*controller.remappings, *driver)),
    )


def _node(
    name: str,
    given: Mapping[str, str],
    namespace: str,
    parameters: tuple[str, ...],
    fixed: Mapping[str, Value],
    *,
    respawn_delay_s: float,
) -> ProcessPlan:
    """Plan a node of this package; every one of them knows the robot."""
    usual = defaults(POLICY_ARGUMENTS)
    values: dict[str, Value] = {
        key: given[key] for key in (*_FRAME_PARAMETERS, *parameters) if given[key] != usual[key]
    }
    values |= {'use_sim_time': given['use_sim_time'] == 'true', **fixed}
    transport = '/compressed' if given['image_transport'] == 'compressed' else ''
    return ProcessPlan(
        PACKAGE,
        name,
        name=name,
        namespace=namespace,
        parameters=values,
        parameters_file=given['params_file'],
        remappings=(
            (f'camera/image_raw{transport}', f'{given["image_topic"]}{transport}'),
            ('camera/camera_info', given['camera_info_topic']),
            ('camera/pose', given['camera_pose_topic']),
            ('ee_pose', given['ee_pose_topic']),
        ),
        log_level=given['log_level'],
        respawn_delay_s=respawn_delay_s,
    )


def _rviz(
    given: Mapping[str, str], namespace: str, share: Path, profile: RobotProfile | None
) -> ProcessPlan:
    view = share / 'config' / 'openvla.rviz'
    # The view names topics without a namespace; a remapping puts this robot's in front.
    commanded = {f'controller_node/{name}': given[f'{name}_topic'] for name in _COMMANDS}
    topics = viewed_topics(view)
    remappings = tuple((f'/{topic}', commanded.get(topic, topic)) for topic in topics)
    if profile is not None:
        view = view_for_robot(view, profile.base_frame)
    return ProcessPlan(
        'rviz2',
        'rviz2',
        namespace=namespace,
        arguments=('-d', str(view)),
        remappings=remappings,
        parameters={'use_sim_time': given['use_sim_time'] == 'true'},
    )


def _what_to_do(namespace: str, profile: RobotProfile | None) -> tuple[str, ...]:
    """Say what an operator does before the arm moves, in the order in which one does it."""
    say = 'std_msgs/msg/String "{data: put the spoon on the towel}"'
    lines = [
        'Nothing moves until the policy has an instruction and the controller is armed:',
        f'  ros2 topic pub --once --keep-alive 1 {namespace}/instruction {say}',
    ]
    if profile is not None and profile.estop.required:
        lines.append(
            f'  (robot {profile.name!r} also needs its e-stop heartbeat: std_msgs/Bool false on '
            f'{namespace}/estop at 10 Hz or more)'
        )
    arm = 'std_srvs/srv/SetBool "{data: true}"'
    return (*lines, f'  ros2 service call {namespace}/controller_node/arm {arm}')


def _refuse_missing(given: Mapping[str, str]) -> None:
    missing = [name for name in ('robot', 'unnorm_key') if not given[name]]
    if not given['checkpoint'] and not given['server_url']:
        missing.append('checkpoint (or server_url)')
    if missing and not given['params_file']:  # with one, the nodes see what is missing
        raise ConfigError(f'not given: {", ".join(missing)}; --show-args says what they are')


def _whole_number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f'{name}: got {text!r}, expected a whole number') from None
