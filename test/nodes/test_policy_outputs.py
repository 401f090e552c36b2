"""Mirrors of the action are made only for those who listen."""

import numpy as np
import pytest
from builtin_interfaces.msg import Time

from openvla_ros.action_space.dataset_profile import load_dataset_profile, to_eef_delta
from openvla_ros.nodes.policy_outputs import PolicyOutputs
from openvla_ros.policy.inference import PredictedAction
from openvla_ros.policy.policy import PolicyStep


class Publisher:
    """Counts."""

    def __init__(self):
        self.sent, self.listeners = [], 0

    def get_subscription_count(self):
        return self.listeners

    def publish(self, message):
        self.sent.append(message)


class Now:
    """A time."""

    def to_msg(self):
        return Time(sec=99)


class Node:
    """Makes publishers, and is its own clock."""

    def __init__(self):
        self.publishers = {}

    def create_publisher(self, kind, name, qos):
        return self.publishers.setdefault(name, Publisher())

    def get_clock(self):
        return self

    def now(self):
        return Now()


class Policy:
    """Has a backend that counts."""

    def __init__(self):
        self.backend, self.calls = self, 0

    def model_input(self, prepared):
        self.calls += 1
        return prepared


def test_what_nobody_hears_is_not_made():
    node, policy = Node(), Policy()
    outputs = PolicyOutputs(node, frame_id='base', unnorm_key='bridge_orig')
    action = np.array([0.01, 0, 0, 0, 0, 0, 1.0])
    step = PolicyStep(
        to_eef_delta(action, load_dataset_profile('bridge_orig')),
        PredictedAction(action),
        np.zeros((4, 4, 3), np.uint8),
        {'inference': 0.1},
    )
    for listeners in (0, 1):
        for publisher in node.publishers.values():
            publisher.listeners = listeners
        outputs.publish_action(step, Time(sec=1), 'x')
        outputs.publish_model_input(policy, step, Time(sec=1), 'camera')
        sent = {name: len(publisher.sent) for name, publisher in node.publishers.items()}
        assert sent == {
            '~/action': 1 + listeners,
            '~/delta_twist': listeners,
            '~/gripper': listeners,
            '~/model_input': listeners,
        }
        assert policy.calls == listeners
    assert [m.sequence for m in node.publishers['~/action'].sent] == [1, 2]
    twist = node.publishers['~/delta_twist'].sent[0]
    assert twist.header.stamp.sec == 99
    assert twist.twist.linear.x == pytest.approx(0.05)  # 10 mm in 0.2 s
    assert node.publishers['~/gripper'].sent[0].data == 1.0
