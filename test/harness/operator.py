"""The human at the robot: an e-stop heartbeat at 20 Hz and the calls arm, disarm, reset, estop."""

import argparse
import random
import time
from typing import Any

from rcl_interfaces.srv import ListParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from harness.actor import Actor, run

ALPHABETS = [' \t\n', 'ab', '\x00\x01\x7f', 'äö€\u200b', '\U0001f916', 'Out:\nIn: ', '"\'{}$()']


class Operator(Actor):
    """Publishes ``estop`` (false = not pressed) and calls the controller's services."""

    def __init__(self) -> None:
        super().__init__('operator')
        self._pressed = False
        self._beating = True
        self._estop = self.create_publisher(Bool, 'estop', 1)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._instructions = {
            False: self.create_publisher(String, 'instruction', 1),
            True: self.create_publisher(String, 'instruction', latched),
        }
        self._by_name = {
            'arm': self.create_client(SetBool, 'controller_node/arm'),
            'reset': self.create_client(Trigger, 'controller_node/reset'),
            'estop': self.create_client(Trigger, 'controller_node/estop'),
        }
        self._answers: dict[int, Any] = {}
        self._calls = 0
        self.every(0.05, self._beat)

    def do_press(self) -> float:
        """Press the e-stop button: true from now on, at once; answers the steady time."""
        self._pressed = True
        return self._beat()

    def do_release(self) -> float:
        """Release the button."""
        self._pressed = False
        return self._beat()

    def do_beating(self, on: bool) -> float:
        """Stop or start the heartbeat."""
        self._beating = on
        return time.monotonic()

    def do_instruct(self, text: str, latched: bool = False) -> float:
        """Publish an instruction."""
        self._instructions[latched].publish(String(data=text))
        return time.monotonic()

    def do_instruction_readers(self) -> int:
        """How many subscriptions the unlatched instructions reach."""
        return self._instructions[False].get_subscription_count()

    def do_fuzz_instructions(self, count: int, seed: int) -> int:
        """Publish ``count`` texts nobody should say to a robot; answers how many."""
        rng = random.Random(seed)
        for _ in range(count):
            length = rng.choice([0, 1, 10, 512, 513, 10_000])
            alphabet = rng.choice(ALPHABETS)
            self._instructions[False].publish(
                String(data=''.join(rng.choice(alphabet) for _ in range(length)))
            )
        return count

    def do_request(self, service: str, on: bool = True) -> int:
        """Call a service (``on`` only for arm); answers a number for do_answer. Never blocks."""
        client = self._by_name[service]
        if not client.service_is_ready():
            return 0
        request = SetBool.Request(data=on) if service == 'arm' else Trigger.Request()
        return self._later(client.call_async(request), lambda r: [r.success, r.message])

    def do_list_parameters(self, node: str) -> int:
        """Ask a node for the names of its parameters; answers a number for do_answer."""
        client = self.create_client(ListParameters, f'{node}/list_parameters')
        client.wait_for_service(5.0)
        return self._later(
            client.call_async(ListParameters.Request()), lambda response: response.result.names
        )

    def do_set_parameters(self, node: str, pairs: list[list[Any]]) -> int:
        """Try to set parameters one by one; do_answer then gives [successful, reason] of each."""
        client = self.create_client(SetParameters, f'{node}/set_parameters')
        client.wait_for_service(5.0)
        given = [Parameter(name, value=value).to_parameter_msg() for name, value in pairs]
        return self._later(
            client.call_async(SetParameters.Request(parameters=given)),
            lambda response: [[r.successful, r.reason] for r in response.results],
        )

    def do_answer(self, number: int) -> Any:
        """Answer what a call returned, or None while there is nothing."""
        return self._answers.get(number)

    def _later(self, future: Any, answer: Any) -> int:
        """Keep the answer of a call for do_answer under the number returned."""
        self._calls += 1
        number = self._calls

        def keep(done: Any) -> None:
            self._answers[number] = answer(done.result())

        future.add_done_callback(keep)
        return number

    def _beat(self) -> float:
        t_s = time.monotonic()
        if self._beating:
            self._estop.publish(Bool(data=self._pressed))
        return t_s


if __name__ == '__main__':
    argparse.ArgumentParser(description=__doc__).parse_known_args()
    run(Operator)
