"""The simulated arm with policy and controller on top: `policy.launch.py` for the robot 'sim'."""

import os
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    SetEnvironmentVariable,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory('openvla_ros'))
BOOLEANS = ['true', 'false']


def generate_launch_description():
    profile = os.environ.get(
        'FASTDDS_DEFAULT_PROFILES_FILE', str(SHARE / 'config/fastdds_shm.xml')
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'checkpoint',
                default_value=str(SHARE / 'checkpoints' / 'demo'),
                description='folder of the checkpoint; the small one of this package',
            ),
            DeclareLaunchArgument(
                'task',
                default_value='reach',
                description='kind of task the scenes are made for',
                choices=['reach', 'push', 'pick'],
            ),
            DeclareLaunchArgument('seed', default_value='0', description='number of the scene'),
            DeclareLaunchArgument(
                'namespace', default_value='', description='namespace of all nodes and topics'
            ),
            DeclareLaunchArgument(
                'rviz', default_value='false', description='start RViz', choices=BOOLEANS
            ),
            DeclareLaunchArgument(
                'log_level',
                default_value='info',
                description='least severe messages shown',
                choices=['debug', 'info', 'warn', 'error', 'fatal'],
            ),
            # Images larger than Fast DDS's own shared memory would hardly arrive; see the file.
            SetEnvironmentVariable('FASTDDS_DEFAULT_PROFILES_FILE', profile),
            Node(
                package='openvla_ros',
                executable='sim_node',
                name='sim_node',
                namespace=LaunchConfiguration('namespace'),
                output='screen',
                parameters=[
                    {
                        'task': ParameterValue(LaunchConfiguration('task'), value_type=str),
                        'seed': ParameterValue(LaunchConfiguration('seed'), value_type=int),
                    }
                ],
                ros_arguments=['--log-level', LaunchConfiguration('log_level')],
            ),
            _robot_state_publisher(),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'policy.launch.py')),
                launch_arguments={
                    'robot': 'sim',
                    'unnorm_key': 'openvla_ros_demo',
                    'allow_slow': 'true',  # nobody is hurt by this arm when it stops and goes
                    'camera_pose_topic': 'sim_node/camera_pose',
                    'checkpoint': LaunchConfiguration('checkpoint'),
                    'namespace': LaunchConfiguration('namespace'),
                    'rviz': LaunchConfiguration('rviz'),
                    'log_level': LaunchConfiguration('log_level'),
                }.items(),
            ),
        ]
    )


def _robot_state_publisher():
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
        namespace=LaunchConfiguration('namespace'),
        parameters=[{'robot_description': ParameterValue(urdf, value_type=str)}],
    )
