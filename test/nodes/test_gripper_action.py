import sys
from types import ModuleType, SimpleNamespace

import pytest

from openvla_ros.core.robot_profile import GripperAction
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes import gripper_action

SETTINGS = GripperAction('gripper_cmd', open_position=0.04, closed_position=0.01, max_effort=5.0)


class Goal:
    def __init__(self):
        self.command = SimpleNamespace(position=0.0, max_effort=0.0)


class Server:
    """Stands in for an action client and its server."""

    def __init__(self, *_):
        self.ready, self.goals = True, []

    def server_is_ready(self):
        return self.ready

    def send_goal_async(self, goal):
        self.goals.append((goal.command.position, goal.command.max_effort))


@pytest.fixture
def client(monkeypatch):
    actions = ModuleType('control_msgs.action')
    actions.GripperCommand = SimpleNamespace(Goal=Goal)
    monkeypatch.setitem(sys.modules, 'control_msgs', ModuleType('control_msgs'))
    monkeypatch.setitem(sys.modules, 'control_msgs.action', actions)
    monkeypatch.setattr(gripper_action, 'ActionClient', Server)
    return gripper_action.GripperActionClient(None, SETTINGS)


def test_an_opening_becomes_a_position_of_the_server(client):
    client.send(1.0)
    client.send(0.0)
    assert client._client.goals == [(0.04, 5.0), (0.01, 5.0)]


def test_the_same_opening_is_sent_once(client):
    for _ in range(100):
        client.send(1.0)
    assert len(client._client.goals) == 1


def test_a_goal_waits_until_the_server_is_there(client):
    client._client.ready = False
    client.send(1.0)
    client._client.ready = True
    client.send(1.0)
    assert client._client.goals == [(0.04, 5.0)]


def test_without_control_msgs_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'control_msgs.action', None)
    with pytest.raises(ConfigError, match='control-msgs'):
        gripper_action.GripperActionClient(None, SETTINGS)
