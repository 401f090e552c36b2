"""A controller without a clamp, the negative control of the harness: whatever it is told, it does.

It forwards each action as it is and sends the last one for ever. A harness that does not find
fault with it finds fault with nothing.
"""

import rclpy
from geometry_msgs.msg import Twist, TwistStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import SetBool, Trigger

from openvla_ros.msg import PolicyAction, SafetyStatus


class CarelessController(Node):
    """Has the interface of controller_node and none of its care."""

    def __init__(self) -> None:
        super().__init__('controller_node')
        self._twist = Twist()
        self._state = SafetyStatus.DISARMED
        self._ticks = 0
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._commands = self.create_publisher(TwistStamped, '~/twist_cmd', 1)
        self._status = self.create_publisher(SafetyStatus, '~/status', latched)
        self.create_subscription(PolicyAction, 'policy_node/action', self._on_action, 1)
        self.create_service(SetBool, '~/arm', self._on_arm)
        self.create_service(Trigger, '~/reset', self._on_trigger)
        self.create_service(Trigger, '~/estop', self._on_trigger)
        self.create_timer(0.02, self._tick)

    def _on_action(self, message: PolicyAction) -> None:
        self._twist = message.twist

    def _on_arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._state = SafetyStatus.ACTIVE if request.data else SafetyStatus.DISARMED
        response.success = True
        return response

    def _on_trigger(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = True
        return response

    def _tick(self) -> None:
        self._ticks += 1
        command = TwistStamped()
        command.header.frame_id = 'base_link'
        command.header.stamp = self.get_clock().now().to_msg()
        if self._state == SafetyStatus.ACTIVE:
            command.twist = self._twist
        self._commands.publish(command)
        if self._ticks % 5 == 0:
            self._status.publish(SafetyStatus(state=self._state, ticks=self._ticks))


if __name__ == '__main__':
    rclpy.init()
    rclpy.spin(CarelessController())
