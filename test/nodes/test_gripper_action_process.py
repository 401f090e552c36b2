"""controller_node with gripper servers that are absent, reject, abort, vanish and come back."""

import itertools
import os
import signal
import sys
import time

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from harness.interfaces import control_msgs_environment
from harness.limits import DISARMED
from harness.processes import TEST_FOLDER
from harness.world import World
from reliability.robot import limits_of

from openvla_ros.core.resources import resource_path
from openvla_ros.safety.gripper_goals import RETRY_PAUSE_S

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(240)]

SERVER = '/gripper_controller/gripper_cmd'
OPEN_M, CLOSED_M, EFFORT = 0.04, 0.01, 5.0
ACTION = {
    'name': SERVER,
    'open_position': OPEN_M,
    'closed_position': CLOSED_M,
    'max_effort': EFFORT,
}
WARN, OK = (int.from_bytes(level, 'big') for level in (DiagnosticStatus.WARN, DiagnosticStatus.OK))


@pytest.fixture(scope='module')
def interfaces(tmp_path_factory):
    """The variables with which processes find control_msgs."""
    return control_msgs_environment(tmp_path_factory.mktemp('interfaces'))


class Bench:
    """A World whose robot has a gripper with an action."""

    def __init__(self, world):
        self.world = world

    def start_server(self, *options):
        return self.world.processes.start_actor('gripper', 'gripper_server', *options)

    @property
    def server(self):
        return self.world.processes['gripper']

    def goals(self, count):
        """Wait until the server was asked for so many goals, and return them."""
        return self.world.wait_until(
            lambda: (it := self.server.call('goals')) and len(it) >= count and it,
            f'{count} goals',
        )

    def diagnostics(self):
        lines = self.world.diagnostics(': gripper')
        return lines[-1] if lines else {'level': None, 'message': ''}

    def wait_warning(self, *words):
        """Wait for WARN in diagnostics and for the same sentence in the status."""

        def found():
            last = self.diagnostics()
            said = last['message'], self.world.status().get('sentence', '')
            return last['level'] == WARN and all(w in text for w in words for text in said)

        self.world.wait_until(found, f'a warning with {words}')
        assert SERVER in self.diagnostics()['message']

    def wait_no_warning(self):
        self.world.wait_until(
            lambda: (
                self.diagnostics()['level'] == OK and SERVER not in self.world.status()['sentence']
            ),
            'the end of the warning',
        )


@pytest.fixture
def start(tmp_path, interfaces):
    """Starts a world with a changed gripper.action; ends it after the test."""
    worlds = []

    def start_world(**changes):
        content = yaml.safe_load(resource_path('config/robots/sim.yaml').read_text())
        content['gripper'] |= {'decisions': 1, 'dwell_s': 0.0, 'action': ACTION | changes}
        profile = tmp_path / 'robot.yaml'
        profile.write_text(yaml.safe_dump(content))
        world = World(tmp_path, limits_of(profile), deadline_s=150.0)
        worlds.append(world)
        world.__enter__()
        modules = interfaces.get('PYTHONPATH', os.environ['PYTHONPATH'])
        python_path = os.pathsep.join([str(TEST_FOLDER), modules])
        world.processes.env.update(interfaces | {'PYTHONPATH': python_path})
        module = 'openvla_ros.nodes.controller_node'
        command = [sys.executable, '-m', module, '--ros-args', '-p', f'robot:={profile}']
        world.start_controller(command)
        world.start_robot()
        world.start_operator()
        world.start_policy('--step-s', '0.2')
        return Bench(world)

    yield start_world
    for world in worlds:
        world.__exit__()


@pytest.mark.parametrize(
    ('changes', 'opened', 'closed'),
    [
        (
            {},
            {'position': OPEN_M, 'effort': EFFORT},
            {'position': CLOSED_M, 'effort': EFFORT},
        ),
        (
            {'type': 'ParallelGripperCommand', 'joint': 'finger'},
            {'joint': ['finger'], 'position': [OPEN_M], 'effort': [EFFORT]},
            {'joint': ['finger'], 'position': [CLOSED_M], 'effort': [EFFORT]},
        ),
    ],
)
def test_the_gripper_opens_and_closes_with_one_goal_each(start, changes, opened, closed):
    bench = start(**changes)
    bench.start_server('--type', changes.get('type', 'GripperCommand'))
    bench.world.recover()
    bench.goals(1)
    bench.world.policy.call('pattern', pattern='orbit', gripper=0.0)
    bench.goals(2)
    time.sleep(1.0)
    goals = [{k: v for k, v in goal.items() if k != 't_s'} for goal in bench.goals(2)]
    assert goals == [opened, closed]
    bench.wait_no_warning()


def test_an_absent_server_is_named_and_when_required_nothing_arms_until_it_is_there(start):
    bench = start(required=True)
    bench.wait_warning('is not available', 'GripperCommand')
    granted, sentence = bench.world.request('arm')
    assert not granted
    assert SERVER in sentence
    assert 'NO_GRIPPER' in bench.world.status()['reasons']
    bench.start_server()
    bench.wait_no_warning()
    bench.world.recover()
    assert bench.goals(1)[0]['position'] == OPEN_M


def test_an_absent_server_that_is_not_required_does_not_keep_the_arm_from_moving(start):
    bench = start()
    bench.world.recover()
    bench.wait_warning('is not available')
    assert bench.world.status()['state'] != DISARMED
    bench.start_server()
    bench.goals(1)
    bench.wait_no_warning()


def test_a_server_of_the_other_type_is_told_from_an_absent_one(start):
    bench = start()
    bench.start_server('--type', 'ParallelGripperCommand')
    bench.wait_warning('control_msgs/action/ParallelGripperCommand', 'gripper.action.type')


@pytest.mark.parametrize('mode', ['reject', 'abort'])
def test_a_failed_goal_is_said_and_retried_with_a_pause_until_it_succeeds(start, mode):
    bench = start()
    bench.start_server('--mode', mode)
    bench.world.recover()
    bench.wait_warning(f'{mode}ed the goal')
    times_s = [goal['t_s'] for goal in bench.goals(3)]
    pauses_s = [later - earlier for earlier, later in itertools.pairwise(times_s)]
    assert min(pauses_s) > 0.95 * RETRY_PAUSE_S
    bench.server.call('mode', mode='accept')
    bench.wait_no_warning()
    count = len(bench.goals(1))
    time.sleep(1.5 * RETRY_PAUSE_S)
    assert len(bench.goals(1)) == count


def test_a_gripper_that_stalls_on_an_object_holds_it_and_one_that_stalls_opening_is_stuck(start):
    bench = start()
    bench.start_server('--mode', 'stall')
    bench.world.recover()
    bench.wait_warning('aborted the goal (opening 1)')
    bench.world.policy.call('pattern', pattern='orbit', gripper=0.0)
    bench.wait_no_warning()
    count = len(bench.goals(2))
    time.sleep(1.5 * RETRY_PAUSE_S)
    assert len(bench.goals(count)) == count
    assert bench.goals(count)[-1]['position'] == CLOSED_M


def test_a_server_that_vanishes_and_comes_back_gets_the_opening_again(start):
    bench = start()
    bench.start_server()
    bench.world.recover()
    bench.goals(1)
    bench.server.call('leave')
    bench.wait_warning('is not available')
    bench.server.call('come_back')
    assert [goal['position'] for goal in bench.goals(2)] == [OPEN_M, OPEN_M]
    bench.wait_no_warning()


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'name': 'not a name'}, "gripper.action: name 'not a name' is not the name of an action"),
        ({'type': 'Gripper'}, "gripper: action: type: got 'Gripper'"),
    ],
)
def test_a_wrong_action_ends_with_2_and_one_line_that_names_it(start, changes, said):
    controller = start(**changes).world.controller
    assert controller.wait(15.0) == 2
    assert len(controller.log_text().strip().splitlines()) == 1
    assert said in controller.log_text()


def test_a_server_that_is_killed_and_restarted_at_once_gets_the_opening_again(start):
    bench = start()
    bench.start_server()
    bench.world.recover()
    bench.goals(1)
    bench.server.kill()
    bench.start_server()
    assert bench.goals(1)[0]['position'] == OPEN_M


def test_a_server_that_hangs_does_not_hold_up_the_control_loop(start):
    bench = start()
    bench.start_server()
    bench.world.recover()
    bench.goals(1)
    bench.server.signal(signal.SIGSTOP)
    stopped_s = time.monotonic()
    bench.world.policy.call('pattern', pattern='orbit', gripper=0.0)
    bench.wait_warning('did not answer the goal')
    ticks = len(bench.world.twists(since_s=stopped_s))
    # Half of 50 Hz leaves room for a loaded machine; a loop that waits sends next to none.
    assert ticks > 25 * (time.monotonic() - stopped_s)
    bench.server.signal(signal.SIGCONT)
    bench.wait_no_warning()
    assert bench.goals(2)[-1]['position'] == CLOSED_M


def test_goals_wait_until_the_controller_is_active_again(start):
    bench = start()
    bench.start_server('--mode', 'reject')
    bench.world.recover()
    bench.wait_warning('rejected the goal')
    bench.world.request('arm', on=False)
    bench.world.wait_state(DISARMED)
    count = len(bench.goals(1))
    time.sleep(1.5 * RETRY_PAUSE_S)
    assert len(bench.goals(1)) == count, 'a disarmed controller moved the fingers'
    bench.world.recover()
    bench.goals(count + 1)
