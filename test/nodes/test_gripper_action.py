"""What the gripper's action needs before anything runs; test_gripper_action_process runs it."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.gripper_action import GripperActionClient
from openvla_ros.safety.robot_profile import GripperAction

SETTINGS = GripperAction('gripper_cmd', open_position=0.04, closed_position=0.01, max_effort=5.0)


def test_without_control_msgs_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'control_msgs', None)
    with pytest.raises(ConfigError, match='control-msgs'):
        GripperActionClient(None, SETTINGS)


def test_a_control_msgs_that_lacks_the_action_says_which(monkeypatch):
    control_msgs = ModuleType('control_msgs')
    control_msgs.action = SimpleNamespace(ParallelGripperCommand=None)
    monkeypatch.setitem(sys.modules, 'control_msgs', control_msgs)
    with pytest.raises(ConfigError, match='has no action GripperCommand'):
        GripperActionClient(None, SETTINGS)
