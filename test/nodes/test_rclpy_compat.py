"""Callbacks that want to know who published, with and without an rclpy that tells."""

from openvla_ros.nodes import rclpy_compat


def test_a_callback_gets_the_info_where_rclpy_gives_it():
    def callback(message, info):
        pass

    assert rclpy_compat.with_message_info(callback) is callback


def test_without_it_the_callback_gets_an_empty_one(monkeypatch):
    class SubscriptionOfHumble:
        pass

    monkeypatch.setattr(rclpy_compat, 'Subscription', SubscriptionOfHumble)
    got = []
    callback = rclpy_compat.with_message_info(lambda message, info: got.append((message, info)))
    callback('action')
    assert got == [('action', {})]
