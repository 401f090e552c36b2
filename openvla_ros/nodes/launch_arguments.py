"""The arguments of the launch files, and those that nobody declared.

`ros2 launch` ignores the latter without a word.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from openvla_ros.core.strict_config import did_you_mean
from openvla_ros.policy.inference import GRAPH_MODES


class Argument(NamedTuple):
    """One argument of a launch file; ``choices`` are the values it may have, None for any."""

    name: str
    default: str
    description: str
    choices: tuple[str, ...] | None = None


_BOOLEANS = ('true', 'false')
_SEEN = (
    Argument('namespace', '', 'namespace of all nodes and topics'),
    Argument('use_sim_time', 'false', 'take ROS time from /clock', _BOOLEANS),
    Argument(
        'markers', 'true', 'start marker_node: RViz markers and the camera overlay', _BOOLEANS
    ),
    Argument('rviz', 'false', 'start RViz with the view of this package', _BOOLEANS),
    Argument(
        'log_level',
        'info',
        'least severe messages shown',
        ('debug', 'info', 'warn', 'error', 'fatal'),
    ),
)
# A parameter left at its default here is left to params_file.
POLICY_ARGUMENTS = (
    Argument(
        'robot',
        '',
        'robot profile, for every node: a name in config/robots, or the path of a .yaml file',
    ),
    Argument('unnorm_key', '', 'dataset whose statistics and conventions the checkpoint uses'),
    Argument('checkpoint', '', 'the network: a folder, or an id on Hugging Face'),
    Argument('server_url', '', 'instead of checkpoint: the server that has it, http://host:port'),
    Argument('adapter', '', 'folder of a LoRA adapter for the checkpoint'),
    Argument(
        'quantization',
        'auto',
        'weights in fewer bits, with -all in the vision towers too; auto: by the free memory',
        ('auto', 'none', 'int8', 'int8-all', 'nf4', 'nf4-double', 'nf4-all', 'nf4-double-all'),
    ),
    Argument('device', 'auto', "where the network runs: 'auto', 'cpu', 'cuda' or 'cuda:N'"),
    Argument(
        'cuda_graphs',
        'auto',
        'run the network as CUDA graphs; auto: on a CUDA device, if they give the same tokens',
        GRAPH_MODES,
    ),
    Argument(
        'allow_slow',
        'false',
        'let a network that is too slow act: the arm stops and goes',
        _BOOLEANS,
    ),
    Argument('image_topic', 'camera/image_raw', 'images of the camera'),
    Argument(
        'image_transport',
        'raw',
        'raw: sensor_msgs/Image on image_topic; compressed: image_topic/compressed',
        ('raw', 'compressed'),
    ),
    Argument(
        'camera_info_topic', 'camera/camera_info', 'calibration of the camera, for the overlay'
    ),
    Argument(
        'camera_pose_topic',
        'camera/pose',
        "pose of the camera (PoseStamped) in the robot's base frame, for the overlay; where "
        'absent, TF',
    ),
    Argument(
        'base_frame', '', "the robot's base frame is in its profile; another name is refused"
    ),
    Argument('ee_frame', '', 'its end-effector frame is in its profile; another name is refused'),
    Argument(
        'ee_pose_topic', 'ee_pose', 'pose of the end effector (PoseStamped) in the base frame'
    ),
    Argument(
        'twist_cmd_topic',
        'controller_node/twist_cmd',
        "where the robot's driver takes its twists (TwistStamped)",
    ),
    Argument(
        'pose_cmd_topic',
        'controller_node/pose_cmd',
        'where a driver that follows a pose takes it (PoseStamped)',
    ),
    Argument(
        'gripper_cmd_topic',
        'controller_node/gripper_cmd',
        'where a driver takes the opening of the gripper (Float64, 0 closed to 1 open)',
    ),
    Argument(
        'mode',
        'profile',
        'profile: as the robot profile says; shadow: all runs, nothing is sent to the robot',
        ('profile', 'shadow'),
    ),
    Argument('params_file', '', 'parameter file for the nodes; arguments given here win over it'),
    *_SEEN,
)
# The checkpoint's default is the small one in the share folder of this package.
DEMO_ARGUMENTS = (
    Argument('checkpoint', '', 'folder of another checkpoint than the small one of this package'),
    Argument('task', 'reach', 'kind of task the scene is made for', ('reach', 'push', 'pick')),
    Argument('seed', '0', 'number of the scene'),
    Argument(
        'mode',
        'profile',
        'profile: the arm moves once armed; shadow: all runs, nothing is sent to the arm',
        ('profile', 'shadow'),
    ),
    *(argument for argument in _SEEN if argument.name != 'use_sim_time'),
)
# What record.launch.py has of its own; its other arguments are those of policy.launch.py.
_RECORDED_TOO = (
    'robot',
    'image_topic',
    'image_transport',
    'camera_info_topic',
    'ee_pose_topic',
    'twist_cmd_topic',
    'params_file',
    'namespace',
    'use_sim_time',
    'log_level',
)
RECORD_ARGUMENTS = (
    Argument('unnorm_key', '', 'dataset the episodes are for'),
    Argument(
        'dataset_directory', '', "folder of dataset profiles; '' for the ones of this package"
    ),
    Argument('directory', '', "folder of the episodes; '' for recordings/<unnorm_key> here"),
    Argument(
        'gripper_cmd_topic',
        'controller_node/gripper_cmd',
        'commanded opening of the gripper (Float64, 0 closed to 1 open)',
    ),
    Argument(
        'gripper_state_topic',
        'gripper_state',
        'measured opening of the gripper (Float64, 0 closed to 1 open)',
    ),
    Argument('joint_states_topic', 'joint_states', 'joint states of the robot'),
    *(argument for argument in POLICY_ARGUMENTS if argument.name in _RECORDED_TOO),
)


def defaults(arguments: Sequence[Argument]) -> dict[str, str]:
    """Return the value of each argument that is not given."""
    return {argument.name: argument.default for argument in arguments}


def unknown_argument(
    command_line: Sequence[str], launch_file: str, known: Collection[str]
) -> str | None:
    """Tell in one sentence which argument a launch file does not have, or None if it has all.

    A mistyped ``mod:=shadow`` would otherwise start an arm that somebody believed in shadow mode.

    Args:
        command_line: As in ``sys.argv``. Unless it names the launch file itself, as it does not
            where another launch file includes this one, its arguments are another's.
        launch_file: Name or path of the launch file.
        known: Names of its arguments.
    """
    name = Path(launch_file).name
    if name not in (Path(word).name for word in command_line):
        return None
    for word in command_line:
        argument, given, _ = word.partition(':=')
        if given and argument not in known:
            hint = did_you_mean(argument, known)
            return f'{name} has no argument {argument!r}{hint}; --show-args lists them'
    return None
