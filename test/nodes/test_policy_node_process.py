"""How policy_node starts, refuses to start, ends, and shares a graph."""

import re
import signal
import sys
import time

import pytest
from harness.policy_bench import KEY, Camera, Heard, PolicyBench
from harness.processes import own_domain_id
from std_msgs.msg import String

from openvla_ros.nodes import policy_node

pytestmark = pytest.mark.ros


@pytest.fixture
def bench(tmp_path):
    with PolicyBench(tmp_path, deadline_s=60.0) as bench:
        bench.orders()
        yield bench


def acting(bench, *parameters, **orders):
    """Start a policy that publishes actions for a camera."""
    bench.camera = Camera(bench.node)
    policy = bench.start_policy(*parameters)
    bench.wait_code('NO_INSTRUCTION', 20.0)
    bench.instruct('pick up the cube')
    bench.wait_actions(2)
    bench.orders(**orders)
    return policy


def last_line(process):
    return process.log_text().strip().splitlines()[-1]


# --- start ---------------------------------------------------------------------------------


def test_it_is_ready_only_after_loading_and_warming_up(bench):
    bench.orders(load_s=0.5, delay_s=0.02)
    Camera(bench.node)
    bench.start_policy()
    bench.instruct('pick up the cube', latched=True)
    bench.wait_code('READY', 20.0)
    first_action_s = bench.wait(lambda: bench.heard.actions, 'an action')[0][0]
    codes = bench.heard.codes()
    assert codes[0] == 'LOADING'
    assert codes[-1] == 'READY'
    assert set(codes) <= {'LOADING', 'WARMING_UP', 'NO_INSTRUCTION', 'NO_IMAGE', 'READY'}
    ready_s = next(t for t, m in bench.heard.statuses if m.data.startswith('READY'))
    assert first_action_s > ready_s - 0.3


def test_a_latched_instruction_reaches_a_policy_that_starts_later(bench):
    Camera(bench.node)
    bench.instruct('open the drawer', latched=True)
    bench.start_policy()
    bench.wait(lambda: bench.heard.actions, 'an action', 20.0)
    assert bench.heard.actions[0][1].instruction == 'open the drawer'
    bench.instruct('', latched=False)  # anybody may stop what somebody else has latched
    bench.wait_code('NO_INSTRUCTION')
    time.sleep(0.5)
    assert bench.heard.code() == 'NO_INSTRUCTION'


@pytest.mark.parametrize(
    ('parameters', 'said'),
    [
        ([], 'unnorm_key: is not set.*bridge_orig.*libero_spatial'),
        (['unnorm_key:=bridge'], "'bridge' has no dataset profile.*did you mean 'bridge_orig'"),
        ([f'unnorm_key:={KEY}', 'rat_hz:=5.0'], "unknown key 'rat_hz'.*did you mean 'rate_hz'"),
        ([f'unnorm_key:={KEY}', 'rate_hz:=fast'], 'rate_hz.*expected a number'),
        ([f'unnorm_key:={KEY}', 'rate_hz:='], 'policy_node: .*rate_hz'),
        (
            [f'unnorm_key:={KEY}', 'server_url:=http://x', 'server_timeout_s:=9'],
            'server_timeout_s.*less than hang_timeout_s',
        ),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_in_one_sentence(
    parameters, said, capsys, monkeypatch
):
    with own_domain_id() as domain:
        monkeypatch.setenv('ROS_DOMAIN_ID', str(domain))
        flags = [part for parameter in parameters for part in ('-p', parameter)]
        assert policy_node.main(['policy_node', '--ros-args', *flags]) == 2
    sentence = capsys.readouterr().err.strip()
    assert re.search(said, sentence)
    assert '\n' not in sentence


@pytest.mark.parametrize(
    ('orders', 'said'),
    [
        ({'load_raises': '/nowhere: no such checkpoint'}, '/nowhere: no such checkpoint'),
        ({'unit': 1.0}, 'allow 1.732 m.*wrong key or a wrong unit'),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_one_sentence(bench, orders, said):
    bench.orders(**orders)
    policy = bench.start_policy()
    assert policy.wait(20.0) == 2
    assert re.search(said, last_line(policy))
    assert 'Traceback' not in policy.log_text()
    assert bench.heard.actions == []


def test_a_missing_checkpoint_is_refused_by_the_real_backend(bench):
    pytest.importorskip('torch')
    argv = [sys.executable, '-m', 'openvla_ros.nodes.policy_node', '--ros-args']
    argv += ['-p', f'unnorm_key:={KEY}', '-p', 'checkpoint:=/nowhere/openvla']
    policy = bench.processes.start('policy', argv)
    assert policy.wait(60.0) == 2
    assert '/nowhere/openvla' in last_line(policy)
    assert 'Traceback' not in policy.log_text()


def test_neither_checkpoint_nor_server_is_refused(bench):
    argv = [sys.executable, '-m', 'openvla_ros.nodes.policy_node', '--ros-args']
    policy = bench.processes.start('policy', [*argv, '-p', f'unnorm_key:={KEY}'])
    assert policy.wait(20.0) == 2
    assert 'exactly one' in last_line(policy)


def test_with_a_server_it_never_imports_torch_and_waits_for_the_server(bench, tmp_path):
    script = (
        'import os, sys, openvla_ros.nodes.policy_node as p\n'
        'code = p.main(sys.argv)\n'
        "print('torch' in sys.modules, file=sys.stderr, flush=True)\n"
        'os._exit(code)\n'
    )
    argv = [sys.executable, '-c', script, '--ros-args', '-p', f'unnorm_key:={KEY}']
    policy = bench.processes.start('policy', [*argv, '-p', 'server_url:=http://127.0.0.1:9'])
    bench.wait_code('SERVER_UNAVAILABLE', 20.0)
    t_s = policy.signal(signal.SIGTERM)
    assert policy.wait(5.0) == 0
    assert time.monotonic() - t_s < 1.0
    assert last_line(policy) == 'False'


def test_a_model_that_cannot_keep_the_rate_is_not_ready_and_says_which_rate_it_keeps(bench):
    bench.orders(delay_s=0.4)
    Camera(bench.node)
    policy = bench.start_policy()
    sentence = bench.wait_code('TOO_SLOW', 25.0)
    assert re.search(r'keeps 2\.[0-5]\d Hz here, 5\.00 Hz are needed', sentence)
    bench.instruct('pick up the cube')
    time.sleep(1.0)
    assert bench.heard.actions == []
    assert policy.returncode is None
    policy.signal(signal.SIGTERM)
    assert policy.wait(5.0) == 0


def test_a_slow_model_runs_where_that_is_allowed(bench):
    bench.orders(delay_s=0.25)
    Camera(bench.node)
    bench.start_policy('allow_slow:=true')
    bench.wait_code('NO_INSTRUCTION', 25.0)
    bench.instruct('pick up the cube')
    bench.wait_actions(3)


def test_a_camera_that_offers_less_than_what_was_asked_for_is_named(bench):
    Camera(bench.node, best_effort=True)
    bench.start_policy('image_reliability:=reliable')
    bench.wait_code('NO_INSTRUCTION', 20.0)
    bench.instruct('pick up the cube')
    assert 'image_reliability' in bench.wait_code('QOS_MISMATCH')


def test_compressed_images_come_by_the_name_of_image_transport(bench):
    Camera(bench.node, 'front/image/compressed')
    bench.start_policy('image_transport:=compressed', ros=['-r', 'camera/image_raw:=front/image'])
    bench.wait_code('NO_INSTRUCTION', 20.0)
    bench.instruct('pick up the cube')
    bench.wait_actions(2)
    bench.wait(lambda: bench.diagnostics, 'diagnostics')
    assert bench.diagnostics['policy_node: policy'][2]['camera_topic'] == '/front/image/compressed'


# --- end -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('when', 'number'),
    [('loading', signal.SIGTERM), ('inferring', signal.SIGINT), ('acting', signal.SIGTERM)],
)
def test_it_ends_within_a_second_whatever_it_does(bench, when, number):
    if when == 'loading':
        bench.orders(load_s=30.0)
        policy = bench.start_policy()
        bench.wait_code('LOADING', 20.0)
    else:
        policy = acting(bench, **({'hang': True} if when == 'inferring' else {}))
        time.sleep(0.5)
    t_s = policy.signal(number)
    assert policy.wait(5.0) == 0
    assert time.monotonic() - t_s < 1.0
    assert 'Traceback' not in policy.log_text()
    bench.wait_code('ENDED')


def test_a_hung_inference_ends_it_with_exit_code_3(bench):
    policy = acting(bench, 'hang_timeout_s:=2.0', hang=True)
    t_s = time.monotonic()
    assert policy.wait(8.0) == 3
    assert 1.5 < time.monotonic() - t_s < 3.5
    assert 'INFERENCE_HUNG' in policy.log_text()
    bench.wait_code('INFERENCE_HUNG')


def test_a_stopped_and_continued_process_did_not_hang(bench):
    policy = acting(bench, 'hang_timeout_s:=2.0', delay_s=0.1)
    policy.signal(signal.SIGSTOP)
    time.sleep(3.0)
    policy.signal(signal.SIGCONT)
    bench.wait_actions(3)
    assert policy.returncode is None


@pytest.mark.parametrize(
    ('kind', 'code'), [('bug', 'INFERENCE_DIED'), ('memory', 'OUT_OF_MEMORY')]
)
def test_an_inference_that_cannot_go_on_ends_it_with_exit_code_3(bench, kind, code):
    policy = acting(bench, raises=kind)
    assert policy.wait(5.0) == 3
    bench.wait_code(code)


@pytest.mark.parametrize(
    ('orders', 'code'),
    [
        ({'raises': 'tokens'}, 'BAD_TOKENS'),
        ({'action': [0.01, float('nan'), 0, 0, 0, 0, 1]}, 'BAD_ACTION'),
    ],
)
def test_a_model_that_writes_no_actions_is_a_fault_that_stays(bench, orders, code):
    policy = acting(bench, **orders)
    sentence = bench.wait_code('MODEL_FAULT')
    assert 'Restart' in sentence
    t_s = time.monotonic()
    bench.orders()
    bench.instruct('another task')
    time.sleep(0.7)
    assert bench.heard.code() == 'MODEL_FAULT'
    assert bench.heard.actions_since(t_s) == []
    assert policy.returncode is None
    assert bench.diagnostics['policy_node: policy'][2][f'refused {code}'] == '3'


# --- two robots ----------------------------------------------------------------------------


def test_two_robots_in_one_graph_do_not_hear_each_other(bench):
    node, heard = bench.node, {}
    for robot in ('left', 'right'):
        Camera(node, f'{robot}/camera/image_raw')
        heard[robot] = Heard(node, robot)
        bench.start_policy(f'base_frame:={robot}_base', name=robot, ros=['-r', f'__ns:=/{robot}'])
    texts = {r: node.create_publisher(String, f'{r}/instruction', 1) for r in heard}
    for robot in heard:
        bench.wait_code('NO_INSTRUCTION', 25.0, heard[robot])
    texts['left'].publish(String(data='left task'))
    bench.wait_actions(3, heard=heard['left'])
    assert heard['right'].actions == []
    assert heard['right'].code() == 'NO_INSTRUCTION'
    texts['right'].publish(String(data='right task'))
    bench.wait_actions(3, heard=heard['right'])
    texts['left'].publish(String(data=''))
    bench.wait_code('NO_INSTRUCTION', heard=heard['left'])
    bench.wait_actions(2, heard=heard['right'])
    for robot, record in heard.items():
        messages = [m for _, m in record.actions]
        assert {m.instruction for m in messages} == {f'{robot} task'}
        assert {m.header.frame_id for m in messages} == {f'{robot}_base'}
        assert len({m.source_id for m in messages}) == 1
    assert heard['left'].actions[0][1].source_id != heard['right'].actions[0][1].source_id
    assert {'left/policy_node: policy', 'right/policy_node: policy'} <= set(bench.diagnostics)
    assert bench.heard.actions == []
