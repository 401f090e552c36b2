"""Policy, controller and arm on the time of a /clock that runs slower or faster than real time."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from harness.policy_bench import FAKE, KEY, Camera, PolicyBench
from harness.world import World
from reliability.robot import controller_argv, limits_of, write_profile

from openvla_ros.msg import SafetyStatus

pytestmark = pytest.mark.ros

SIM_TIME = ('--ros-args', '-p', 'use_sim_time:=true')
STEP_S, STEP_M = 0.2, 0.02
HOLD_S, STANDS_STILL_S = 1.25 * STEP_S, 0.3


@pytest.fixture
def start(tmp_path):
    """Return a function that starts everything at a real-time factor, the arm moving along +x."""
    worlds = []

    def run(factor):
        profile = write_profile(tmp_path)
        world = World(tmp_path, limits_of(profile), deadline_s=120.0)
        world.__enter__()
        worlds.append(world)
        clock = world.start_clock()
        clock.call('factor', factor=factor)
        world.start_robot(
            '--by-ros-time', '--record-actions', '--position', *['0.12', '0', '0.175'], *SIM_TIME
        )
        world.start_operator()
        world.start_camera('--width', '64', '--height', '48', *SIM_TIME)
        world.start_controller(controller_argv(profile, '-p', 'use_sim_time:=true'))
        orders = tmp_path / 'orders.json'
        orders.write_text(json.dumps({'action': [STEP_M, 0, 0, 0, 0, 0, 1], 'noise': 1e-5}))
        flags = [
            f'robot:={profile}',
            f'unnorm_key:={KEY}',
            'use_sim_time:=true',
            'allow_slow:=true',
        ]
        argv = [sys.executable, str(FAKE), '--ros-args', *(x for f in flags for x in ('-p', f))]
        world.processes.start('policy', argv, env={'FAKE_BACKEND': str(orders)})
        world.wait_until(lambda: 'NO_INSTRUCTION' in world.policy.log_text(), 'the policy', 45.0)
        # Sent until it is heard: a publisher that was just discovered may lose the first.
        world.wait_until(
            lambda: world.operator.call('instruct', text='go') and 'go' in said(world), 'go'
        )
        world.arm(20.0)
        world.wait_until(lambda: world.speed_mps() > 0.05, 'motion')
        return world

    yield run
    for world in worlds:
        world.__exit__()


def said(world):
    return world.policy.log_text().split('instruction: ')[-1][:10]


@pytest.mark.parametrize('factor', [0.25, 2.0])
def test_an_action_moves_what_it_says_and_comes_at_the_datasets_rate_in_simulated_time(
    start, factor
):
    world = start(factor)
    world.wait_until(lambda: world.poses()['data'][-1, 0] > 0.26, '0.14 m', 30.0)
    world.operator.call('instruct', text='')
    world.wait_until(lambda: world.speed_mps() == 0.0, 'rest')
    time.sleep(0.3 + 0.3 / factor)  # the last report of what was dropped
    statuses = world._tail.of(3)['data']
    accepted, dropped_m = statuses[-1, 3], statuses[-1, 12]
    travelled_m = world.poses()['data'][-1, 0] - 0.12
    assert accepted >= 7
    assert dropped_m < STEP_M
    assert travelled_m == pytest.approx(accepted * STEP_M - dropped_m, rel=0.02, abs=2e-3)
    stamps_s = world._tail.of(4)['data'][:, 9]
    rate_hz = (len(stamps_s) - 1) / (stamps_s[-1] - stamps_s[0])
    assert rate_hz == pytest.approx(1 / STEP_S, rel=0.12)

    assert world.check().kinds() <= {'late_stop'}  # judged by the hold of real time


@pytest.mark.parametrize('factor', [0.25, 2.0])
@pytest.mark.parametrize('fault', ['silent policy', 'standing clock'])
def test_silence_and_a_standing_clock_stop_the_arm_by_the_steady_clock(start, factor, fault):
    world = start(factor)
    if fault == 'silent policy':
        injected = world.inject(world.policy.kill)
        allowed_s = HOLD_S / min(1.0, factor)
    else:
        injected = world.inject(lambda: world.processes['clock'].call('factor', factor=0.0))
        allowed_s = STANDS_STILL_S
    allowed_s += world.limits.ramp_s() + 2 * world.limits.tau_s
    taken_s = world.time_to_zero(injected.t_s)
    world.judge_time(fault, taken_s, 1.05 * allowed_s, injected.t_s)
    if fault == 'standing clock':
        world.wait_until(lambda: 'CLOCK_STOPPED' in world.status()['reasons'], 'the reason')
        assert '/clock is paused' in world.status()['sentence']
        world.wait_until(lambda: 'CLOCK_STOPPED' in world.policy.log_text(), "the policy's")
        world.processes['clock'].call('factor', factor=factor)
        world.wait_until(lambda: world.speed_mps() > 0.05, 'motion again, without a call')


# --- sentences ------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path):
    with PolicyBench(tmp_path, deadline_s=100.0) as bench:
        bench.orders()
        yield bench


def test_a_clock_that_is_missing_is_named_by_policy_and_controller(bench):
    bench.start_policy('use_sim_time:=true')
    sentences = []
    bench.node.create_subscription(
        SafetyStatus, 'controller_node/status', lambda m: sentences.append(m.sentence), 1
    )
    argv = [sys.executable, '-m', 'openvla_ros.nodes.controller_node', '--ros-args']
    bench.processes.start('controller', [*argv, '-p', 'robot:=sim', '-p', 'use_sim_time:=true'])
    assert 'no time has arrived on /clock' in bench.wait_code('NO_CLOCK', 45.0)
    bench.wait(lambda: sentences, 'the status of the controller')
    bench.wait(lambda: 'no time has arrived on /clock' in sentences[-1], 'the same there')
    assert 'use_sim_time to false' in sentences[-1]


def test_stamps_of_other_clocks_are_named_with_the_cure(bench):
    camera = Camera(bench.node)
    bench.start_policy()
    bench.wait_code('NO_INSTRUCTION', 45.0)
    bench.instruct('pick up the cube')
    bench.wait_actions(2)
    wall_s = time.time()
    for offset_s, code, expected in [
        (-86_400.0 * 3, 'IMAGE_OLD', 'ros2 bag play --clock'),
        (-3.2, 'IMAGE_OLD', 'the clock of the computer of the camera differs'),
        (3.2, 'CLOCK_SKEW', 'the clock of the computer of the camera differs'),
        (40.0 - wall_s, 'IMAGE_OLD', "a camera's own clock"),
    ]:
        camera.offset_s = offset_s
        bench.wait(
            lambda code=code, expected=expected: (
                bench.heard.code() == code and expected in bench.heard.statuses[-1][1].data
            ),
            f'{code}: {expected}',
        )
        camera.offset_s = 0.0
        bench.wait_code('READY')


def test_the_simulator_that_runs_in_real_time_refuses_simulated_time():
    argv = [sys.executable, '-m', 'openvla_ros.nodes.sim_node', '--ros-args']
    done = subprocess.run(
        [*argv, '-p', 'use_sim_time:=true'],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert 'use_sim_time: got true, expected false' in done.stderr


def test_the_rates_shown_are_those_of_the_wall(start):
    world = start(0.25)
    found = world.wait_until(
        lambda: [
            line for line in world.diagnostics('policy_node: policy')
            if abs(float(line.get('real_time_factor', 'nan')) - 0.25) < 0.02
        ],
        'the real-time factor on /diagnostics',
    )  # fmt: skip
    assert np.isclose(float(found[-1]['policy_rate_hz']), 5.0)
