"""Tell a running policy what to do: `scripts/say.py push the blue block`; no words stop it."""

import sys
import time

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String


def main() -> int:
    """Publish the words on /instruction; 1 if no policy listens."""
    words = ' '.join(sys.argv[1:])
    rclpy.init()
    node = rclpy.create_node('say')
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = node.create_publisher(String, '/instruction', qos)
    deadline_s = time.monotonic() + 5.0
    while publisher.get_subscription_count() == 0:
        if time.monotonic() > deadline_s:
            print('nobody listens on /instruction; does a policy run here?', file=sys.stderr)
            return 1
        time.sleep(0.05)
    publisher.publish(String(data=words))
    publisher.wait_for_all_acked(rclpy.duration.Duration(seconds=2.0))
    print(f'said {words!r}' if words else 'said nothing: the policy stops')
    return 0


if __name__ == '__main__':
    sys.exit(main())
