"""Policy and controller for one robot. Nothing moves until an operator arms the controller."""

from openvla_ros.nodes.launch_actions import launch_description
from openvla_ros.nodes.launch_arguments import POLICY_ARGUMENTS
from openvla_ros.nodes.launch_plan import policy_plan


def generate_launch_description():
    return launch_description(__file__, POLICY_ARGUMENTS, policy_plan)
