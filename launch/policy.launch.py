"""Policy and controller for one robot. Nothing moves until an operator arms the controller."""

import sys
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from openvla_ros.core.dds_profile import profile_for_images
from openvla_ros.core.launch_arguments import unknown_argument

BOOLEANS = ['true', 'false']
ARM = "std_srvs/srv/SetBool '{data: true}'"
REFUSED_PARAMETERS = 2  # exit code of our nodes
VIEWED_TOPICS = (  # of config/openvla.rviz
    'robot_description',
    'marker_node/markers',
    'marker_node/overlay',
    'controller_node/pose_cmd',
)

# name, default, description, choices; a parameter left at its default here is left to params_file.
ARGUMENTS = [
    ('robot', '', 'robot profile: a name in config/robots, or the path of a .yaml file', None),
    ('unnorm_key', '', 'dataset whose statistics and conventions the checkpoint uses', None),
    ('checkpoint', '', 'the network: a folder, or an id on Hugging Face', None),
    ('server_url', '', 'instead of checkpoint: the server that has it, http://host:port', None),
    ('adapter', '', 'folder of a LoRA adapter for the checkpoint', None),
    (
        'quantization',
        'auto',
        'weights in fewer bits, with -all in the vision towers too; auto: by the free memory',
        ['auto', 'none', 'int8', 'int8-all', 'nf4', 'nf4-double', 'nf4-all', 'nf4-double-all'],
    ),
    ('device', 'auto', "where the network runs: 'auto', 'cpu', 'cuda' or 'cuda:N'", None),
    (
        'cuda_graphs',
        'auto',
        'run the network as CUDA graphs; auto: on a CUDA device, if they give the same tokens',
        ['auto', 'on', 'off'],
    ),
    (
        'allow_slow',
        'false',
        'let a network that is too slow act: the arm stops and goes',
        BOOLEANS,
    ),
    ('image_topic', 'camera/image_raw', 'images of the camera', None),
    (
        'image_transport',
        'raw',
        'raw: sensor_msgs/Image on image_topic; compressed: image_topic/compressed',
        ['raw', 'compressed'],
    ),
    (
        'camera_info_topic',
        'camera/camera_info',
        'calibration of the camera, for the overlay',
        None,
    ),
    (
        'camera_pose_topic',
        'camera/pose',
        'pose of the camera (PoseStamped) in base_frame, for the overlay; where absent, TF',
        None,
    ),
    ('base_frame', 'base_link', "name of the robot's base frame", None),
    ('ee_frame', 'ee_link', "name of the robot's end-effector frame", None),
    ('ee_pose_topic', 'ee_pose', 'pose of ee_frame (PoseStamped) in base_frame', None),
    (
        'mode',
        'profile',
        'profile: as the robot profile says; shadow: all runs, nothing is sent to the robot',
        ['profile', 'shadow'],
    ),
    ('params_file', '', 'parameter file for the nodes; arguments given here win over it', None),
    ('namespace', '', 'namespace of all nodes and topics', None),
    ('use_sim_time', 'false', 'take ROS time from /clock', BOOLEANS),
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
    """For all that is started here; a camera started elsewhere needs it too (see the file)."""
    share = Path(get_package_share_directory('openvla_ros'))
    return SetEnvironmentVariable(*profile_for_images(share))


def _start(context):
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    _refuse_what_cannot_work(given)
    slow = {'allow_slow': True} if given['allow_slow'] == 'true' else {}
    shadow = {'shadow': True} if given['mode'] == 'shadow' else {}
    policy = _node(
        given,
        'policy_node',
        [
            'unnorm_key',
            'checkpoint',
            'server_url',
            'adapter',
            'quantization',
            'device',
            'cuda_graphs',
            'image_transport',
            'base_frame',
            'ee_frame',
        ],
        slow,
        # It ends itself when its inference hangs or dies; the controller then must be re-armed.
        respawn=True,
        respawn_delay=5.0,
    )
    controller = _node(
        given, 'controller_node', ['robot'], shadow, respawn=True, respawn_delay=2.0
    )
    actions = [policy, controller, *_refusals(policy, controller)]
    if given['markers'] == 'true':
        actions.append(_node(given, 'marker_node', ['base_frame', 'ee_frame']))
    if given['rviz'] == 'true':
        actions.append(_rviz(given))
    prefix = f'/{given["namespace"].strip("/")}'.rstrip('/')
    return [
        *actions,
        LogInfo(msg='Nothing moves until the controller is armed. To arm it:'),
        LogInfo(msg=f'  ros2 service call {prefix}/controller_node/arm {ARM}'),
    ]


def _refuse_what_cannot_work(given):
    unknown = unknown_argument(sys.argv, __file__, given)
    if unknown:
        raise RuntimeError(unknown)
    needed = ('robot', 'unnorm_key', 'checkpoint')
    missing = [name for name in needed if not given[name]]
    if given['server_url'] and 'checkpoint' in missing:
        missing.remove('checkpoint')
    if missing and not given['params_file']:  # with one, the nodes see what is missing
        names = ', '.join(
            'checkpoint (or server_url)' if n == 'checkpoint' else n for n in missing
        )
        raise RuntimeError(f'not given: {names}; --show-args says what they are')


def _node(given, name, parameters, fixed=None, **options):
    defaults = {key: default for key, default, *_ in ARGUMENTS}
    values = {
        key: ParameterValue(given[key], value_type=str)
        for key in parameters
        if given[key] != defaults[key]
    }
    values |= {'use_sim_time': given['use_sim_time'] == 'true', **(fixed or {})}
    transport = '/compressed' if given['image_transport'] == 'compressed' else ''
    return Node(
        package='openvla_ros',
        executable=name,
        name=name,
        namespace=given['namespace'],
        output='screen',
        parameters=[*([given['params_file']] if given['params_file'] else []), values],
        remappings=[
            (f'camera/image_raw{transport}', f'{given["image_topic"]}{transport}'),
            ('camera/camera_info', given['camera_info_topic']),
            ('camera/pose', given['camera_pose_topic']),
            ('ee_pose', given['ee_pose_topic']),
        ],
        ros_arguments=['--log-level', given['log_level']],
        **options,
    )


def _refusals(*nodes):
    """A node that refuses its parameters says why and ends; starting it again would not help."""

    def on_exit(event, _):
        if event.returncode == REFUSED_PARAMETERS:
            # Ends everything, with an exit code that says so.
            raise RuntimeError(f'{event.process_name} refused its parameters, as it says above')

    return [RegisterEventHandler(OnProcessExit(target_action=n, on_exit=on_exit)) for n in nodes]


def _rviz(given):
    try:
        get_package_share_directory('rviz2')
    except PackageNotFoundError:
        return LogInfo(msg='rviz2 is not installed here; RViz is left out')
    view = Path(get_package_share_directory('openvla_ros')) / 'config' / 'openvla.rviz'
    return Node(
        package='rviz2',
        executable='rviz2',
        namespace=given['namespace'],
        arguments=['-d', str(view)],
        # The view names topics without a namespace; a remapping puts this robot's in front.
        remappings=[(f'/{topic}', topic) for topic in VIEWED_TOPICS],
        parameters=[{'use_sim_time': given['use_sim_time'] == 'true'}],
    )
