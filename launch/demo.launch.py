"""The simulated arm with policy and controller on top: `policy.launch.py` for the robot 'sim'."""

from openvla_ros.nodes.launch_actions import launch_description
from openvla_ros.nodes.launch_arguments import DEMO_ARGUMENTS
from openvla_ros.nodes.launch_plan import demo_plan


def generate_launch_description():
    return launch_description(__file__, DEMO_ARGUMENTS, demo_plan)
