"""What a policy_node does that was stopped, is wedged, or is told things."""

import os
import signal
import subprocess
import sys
import time

import pytest
from harness.policy_bench import LATCHED, Camera, PolicyBench
from std_msgs.msg import String

pytestmark = pytest.mark.ros

WEDGED_S = 1.0
HANG_S = 1.0
PLAIN_PUBLISHER = """
import time, rclpy
from std_msgs.msg import String
rclpy.init()
node = rclpy.create_node('plain')
publisher = node.create_publisher(String, 'instruction', 1)  # as `ros2 topic pub` makes it
end_s = time.monotonic() + 4.0
while time.monotonic() < end_s:
    publisher.publish(String(data='pick up the cube'))
    rclpy.spin_once(node, timeout_sec=0.2)
"""


@pytest.fixture
def bench(tmp_path):
    with PolicyBench(tmp_path, deadline_s=100.0) as bench:
        bench.orders()
        bench.processes.env['FAKE_WEDGED_S'] = str(WEDGED_S)
        yield bench


def acting(bench, *parameters):
    bench.camera = Camera(bench.node)
    policy = bench.start_policy(f'hang_timeout_s:={HANG_S}', *parameters)
    bench.wait_code('NO_INSTRUCTION', 45.0)
    bench.instruct('pick up the cube')
    bench.wait_actions(2)
    time.sleep(1.2)  # the report that starts what watches over it
    return policy


def test_a_policy_that_was_stopped_for_longer_than_every_timeout_goes_on(bench):
    policy = acting(bench)
    policy.signal(signal.SIGSTOP)
    time.sleep(HANG_S + WEDGED_S + 2.0)
    policy.signal(signal.SIGCONT)
    bench.wait_actions(8)
    assert policy.returncode is None


def test_native_code_that_keeps_pythons_lock_still_ends_it(bench):
    policy = acting(bench)
    bench.orders(wedge=True)
    assert policy.wait(20.0) == -signal.SIGKILL
    assert 'native code keeps it' in policy.log_text()
    assert 'in predict' in policy.log_text(), 'the stack that says where'


def test_nothing_that_watches_is_left_when_it_ends(bench):
    policy = acting(bench)
    children = subprocess.run(
        ['ps', '--ppid', str(policy.pid), '-o', 'pid='], capture_output=True, text=True, check=True
    )
    pids = [int(word) for word in children.stdout.split()]
    assert len(pids) == 1
    policy.signal(signal.SIGTERM)
    assert policy.wait(10.0) == 0
    bench.wait(lambda: not os.path.exists(f'/proc/{pids[0]}'), 'the end of the guard', 3.0)


def test_every_change_of_the_instruction_is_in_the_log(bench):
    policy = acting(bench)
    wanted = [f'push block {number}' for number in range(5)]
    for text in wanted:
        bench.instruct(text)
        bench.wait(lambda text=text: f"instruction: '{text}'" in policy.log_text(), text)
        bench.instruct('')
        bench.wait(lambda: bench.heard.instructions[-1][1].data == '', 'the stop')
    assert policy.log_text().count('stop: the instruction is empty') == 5


def test_a_plain_publisher_of_instructions_logs_no_warning_of_qos_on_either_side(bench):
    Camera(bench.node)
    policy = bench.start_policy()
    bench.wait_code('NO_INSTRUCTION', 45.0)
    plain = bench.processes.start('plain', [sys.executable, '-c', PLAIN_PUBLISHER])
    bench.wait_actions(2)
    assert plain.wait(15.0) == 0
    for process in (policy, plain):
        assert 'incompatible' not in process.log_text().lower()


def test_what_a_latched_publisher_said_before_comes_once_and_never_again(bench):
    Camera(bench.node)
    bench.instruct('open the drawer', latched=True)
    policy = bench.start_policy()
    bench.wait(lambda: "instruction: 'open the drawer'" in policy.log_text(), 'latched', 45.0)
    bench.instruct('close the drawer')
    bench.wait(lambda: "instruction: 'close the drawer'" in policy.log_text(), 'the newer one')
    # Another latched publisher appears; what the first one latched must not come back by that.
    other = bench.node.create_publisher(String, 'instruction', LATCHED)
    time.sleep(6.0)
    assert policy.log_text().count("instruction: 'open the drawer'") == 1
    bench.node.destroy_publisher(other)
