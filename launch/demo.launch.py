"""The simulated arm with policy and controller on top: `policy.launch.py` for the robot 'sim'."""

import sys
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from openvla_ros.core.dds_profile import profile_for_images
from openvla_ros.core.launch_arguments import unknown_argument

SHARE = Path(get_package_share_directory('openvla_ros'))
BOOLEANS = ['true', 'false']
REFUSED_PARAMETERS = 2  # exit code of our nodes

# name, default, description, choices
ARGUMENTS = [
    (
        'checkpoint',
        str(SHARE / 'checkpoints' / 'demo'),
        'folder of the checkpoint; the small one of this package',
        None,
    ),
    ('task', 'reach', 'kind of task the scene is made for', ['reach', 'push', 'pick']),
    ('seed', '0', 'number of the scene', None),
    (
        'mode',
        'profile',
        'profile: the arm moves once armed; shadow: all runs, nothing is sent to the arm',
        ['profile', 'shadow'],
    ),
    ('namespace', '', 'namespace of all nodes and topics', None),
    ('markers', 'true', 'start marker_node: RViz markers and the camera overlay', BOOLEANS),
    ('rviz', 'false', 'start RViz with the view of this package', BOOLEANS),
    (
        'log_level',
        'info',
        'least severe messages shown',
        ['debug', 'info', 'warn', 'error', 'fatal'],
    ),
]


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)
        for name, default, text, choices in ARGUMENTS
    ]
    return LaunchDescription([*arguments, _dds_profile(), OpaqueFunction(function=_start)])


def _dds_profile():
    """Images larger than Fast DDS's own shared memory would hardly arrive; see the file."""
    return SetEnvironmentVariable(*profile_for_images(SHARE))


# In a function of its own, so that --show-args does not list what is fixed here.
def _start(context):
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    unknown = unknown_argument(sys.argv, __file__, given)
    if unknown:
        raise RuntimeError(unknown)
    sim = Node(
        package='openvla_ros',
        executable='sim_node',
        name='sim_node',
        namespace=given['namespace'],
        output='screen',
        parameters=[
            {
                'task': ParameterValue(given['task'], value_type=str),
                'seed': ParameterValue(LaunchConfiguration('seed')),
            }
        ],
        ros_arguments=['--log-level', given['log_level']],
    )
    of_policy = {
        'robot': 'sim',
        'unnorm_key': 'openvla_ros_demo',
        'allow_slow': 'true',  # nobody is hurt by this arm when it stops and goes
        'camera_pose_topic': 'sim_node/camera_pose',
        **{name: given[name] for name in given if name not in ('task', 'seed')},
    }
    return [
        sim,
        RegisterEventHandler(OnProcessExit(target_action=sim, on_exit=_end_without_arm)),
        _robot_state_publisher(given),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'policy.launch.py')),
            launch_arguments=of_policy.items(),
        ),
    ]


def _end_without_arm(event, context):
    if event.returncode == REFUSED_PARAMETERS and not context.is_shutdown:
        raise RuntimeError(f'{event.process_name} refused its parameters, as it says above')


def _robot_state_publisher(given):
    try:
        get_package_share_directory('robot_state_publisher')
    except PackageNotFoundError:
        return LogInfo(
            msg='robot_state_publisher is not installed here; RViz shows no robot model'
        )
    urdf = (SHARE / 'config' / 'sim' / 'arm.urdf').read_text()
    return Node(
        package='robot_state_publisher',
        executable='robot_state_publisher',
        namespace=given['namespace'],
        parameters=[{'robot_description': ParameterValue(urdf, value_type=str)}],
    )
