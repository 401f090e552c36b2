"""A plan of `nodes/launch_plan.py` as actions of ROS's launch: what the launch files share."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.launch_arguments import Argument, unknown_argument
from openvla_ros.nodes.launch_plan import PACKAGE, LaunchPlan, ProcessPlan

_REFUSED_PARAMETERS = 2  # exit code of our nodes


def launch_description(
    launch_file: str, arguments: Sequence[Argument], make_plan: Callable[..., LaunchPlan]
) -> LaunchDescription:
    """Return a launch file's description.

    Args:
        launch_file: Its ``__file__``.
        arguments: What it may be given.
        make_plan: ``policy_plan`` or ``demo_plan`` of `nodes/launch_plan.py`.
    """

    def start(context: LaunchContext) -> list[Action]:
        given = {a.name: LaunchConfiguration(a.name).perform(context) for a in arguments}
        unknown = unknown_argument(sys.argv, launch_file, given)
        if unknown:
            raise RuntimeError(unknown)
        share = Path(get_package_share_directory(PACKAGE))
        pushed = context.launch_configurations.get('ros_namespace', '')
        try:
            plan: LaunchPlan = make_plan(given, share, _is_installed, pushed)
        except ConfigError as error:
            raise RuntimeError(str(error)) from error
        return launch_actions(plan)

    declared = [
        DeclareLaunchArgument(
            a.name, default_value=a.default, description=a.description, choices=a.choices
        )
        for a in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def launch_actions(plan: LaunchPlan) -> list[Action]:
    """Return the actions that start what is planned."""
    environment = [SetEnvironmentVariable(*pair) for pair in plan.environment.items()]
    nodes = [_node(process) for process in plan.processes]
    ours = [node for node, p in zip(nodes, plan.processes) if p.package == PACKAGE]
    lines = [LogInfo(msg=line) for line in plan.lines]
    return [*environment, *nodes, *_refusals(ours), *lines]


def _node(process: ProcessPlan) -> Node:
    options: dict[str, Any] = {}
    if process.respawn_delay_s is not None:
        options = {'respawn': True, 'respawn_delay': process.respawn_delay_s}
    if process.name:
        options['name'] = process.name
    if process.log_level:
        options['ros_arguments'] = ['--log-level', process.log_level]
    # launch would read a text as YAML, and "1.0" as a number.
    values = {
        key: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for key, value in process.parameters.items()
    }
    files = [process.parameters_file] if process.parameters_file else []
    return Node(
        package=process.package,
        executable=process.executable,
        namespace=process.namespace,
        output='screen',
        parameters=[*files, values],
        remappings=list(process.remappings),
        arguments=list(process.arguments),
        **options,
    )


def _refusals(nodes: Sequence[Node]) -> list[Action]:
    """A node that refuses its parameters says why and ends; starting it again would not help."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> None:
        if event.returncode == _REFUSED_PARAMETERS and not context.is_shutdown:
            # Ends everything, with an exit code that says so.
            raise RuntimeError(f'{event.process_name} refused its parameters, as it says above')

    return [RegisterEventHandler(OnProcessExit(target_action=n, on_exit=on_exit)) for n in nodes]


def _is_installed(package: str) -> bool:
    try:
        get_package_share_directory(package)
    except PackageNotFoundError:
        return False
    return True
