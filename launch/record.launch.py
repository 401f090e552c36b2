"""The recorder for one robot. It listens; it moves nothing."""

from openvla_ros.nodes.launch_actions import launch_description
from openvla_ros.nodes.launch_arguments import RECORD_ARGUMENTS
from openvla_ros.nodes.launch_plan import record_plan


def generate_launch_description():
    return launch_description(__file__, RECORD_ARGUMENTS, record_plan)
