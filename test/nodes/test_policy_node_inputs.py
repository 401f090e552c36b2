"""policy_node as a process: what arrives wrongly stops it, and nothing else does."""

import itertools
import random
import re
import sys
import time

import pytest
from harness.policy_bench import Camera, PolicyBench
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from std_msgs.msg import String

pytestmark = pytest.mark.ros

STALE_S = 0.5
TICK_S = 0.2
SCHEDULING_S = 0.35  # a machine shared with other work


@pytest.fixture(scope='module')
def shared(tmp_path_factory):
    with PolicyBench(tmp_path_factory.mktemp('bench'), deadline_s=400.0) as bench:
        bench.camera = Camera(bench.node)
        bench.orders()
        bench.policy = bench.start_policy()
        bench.wait(lambda: bench.heard.code(), 'a first status', 20.0)
        yield bench


@pytest.fixture
def bench(shared):
    """The shared policy, publishing actions."""
    shared.camera.reset()
    shared.orders()
    shared.moving = None
    shared.wait(
        lambda: shared.instruct('pick up the cube') and shared.heard.code() == 'READY', 'READY'
    )
    shared.wait_actions(2)
    assert shared.policy.returncode is None
    return shared


def silent_after(bench, t_s, within_s, seconds=0.7):
    """Assert that no action arrives later than ``within_s`` after ``t_s``."""
    time.sleep(max(0.0, t_s + within_s - time.monotonic()) + seconds)
    late = bench.heard.actions_since(t_s + within_s)
    assert late == [], f'{len(late)} actions later than {within_s} s'


def test_it_waits_for_an_instruction_and_says_so(shared):
    sentence = shared.wait_code('NO_INSTRUCTION', 20.0)
    assert '/instruction' in sentence
    t_s = time.monotonic()
    silent_after(shared, t_s, 0.0, 0.5)


def test_an_action_says_everything_about_itself(bench):
    first, second = bench.wait_actions(2)[:2]
    assert (first.header.stamp.sec, first.header.stamp.nanosec) in bench.camera.stamps
    assert first.header.frame_id == 'base_link'
    assert second.sequence == first.sequence + 1
    assert re.fullmatch('[0-9a-f]{32}', first.source_id)
    assert second.source_id == first.source_id
    assert (first.instruction, first.unnorm_key) == ('pick up the cube', 'openvla_ros_demo')
    assert first.step_s == 0.2
    # 10 mm in 0.2 s is 50 mm/s, and the noise of the fake is 0.1 mm.
    assert first.twist.linear.x == pytest.approx(0.05, abs=0.004)
    assert first.twist.linear.x == pytest.approx(first.action[0] / 0.2)
    assert first.gripper == 1.0
    assert list(first.action_tokens) == list(range(31900, 31907))
    assert 0.0 < first.inference_s < 1.0


def test_the_rate_is_that_of_the_dataset(bench):
    t_s = time.monotonic()
    bench.wait(lambda: len(bench.heard.actions_since(t_s)) >= 11, '11 actions')
    times = [t for t, _ in bench.heard.actions if t > t_s][:11]
    assert (times[-1] - times[0]) / 10 == pytest.approx(TICK_S, rel=0.15)


def test_the_mirrors_say_the_same_and_the_model_input_is_what_the_network_saw(bench):
    with bench.heard.mirrors() as record:
        bench.wait(lambda: all(len(r) >= 2 for r in record.values()), 'mirrors')
    action_twists = [m.twist.linear.x for _, m in bench.heard.actions]
    twist = record['delta_twist'][-1][1]
    assert twist.twist.linear.x in action_twists
    assert twist.header.frame_id == 'base_link'
    assert record['gripper'][-1][1].data == 1.0
    picture = record['model_input'][-1][1]
    assert (picture.width, picture.height, picture.encoding) == (64, 64, 'rgb8')


def test_figures_are_on_the_status_and_in_the_diagnostics(bench):
    bench.wait(lambda: 'of 5.0 Hz' in bench.heard.statuses[-1][1].data, 'figures')
    level, message, values = bench.diagnostics['policy_node: policy']
    assert level == b'\0'
    assert message.startswith('READY')
    for name in ('conversion', 'preprocessing', 'inference', 'publish', 'camera_to_publish'):
        assert float(values[f'{name}_p50_ms']) <= float(values[f'{name}_p99_ms'])
    assert values['passes_per_action'] == '2.00'
    assert int(values['completed_inferences']) >= int(values['published_actions'])
    assert float(values['camera_hz']) == pytest.approx(30, rel=0.2)


# --- camera --------------------------------------------------------------------------------


def test_a_silent_camera_stops_the_actions_and_a_speaking_one_starts_them(bench):
    t_s = time.monotonic()
    bench.camera.content = None
    silent_after(bench, t_s, STALE_S + TICK_S + SCHEDULING_S)
    assert bench.heard.code() == 'IMAGE_STALE'
    bench.camera.content = 'noise'
    bench.wait_code('READY')
    bench.wait_actions(2)


@pytest.mark.parametrize(
    ('code', 'change'),
    [
        ('IMAGE_REPEATED', {'stamp_s': 'now'}),
        ('IMAGE_OLD', {'offset_s': -2.0}),
        ('CLOCK_SKEW', {'offset_s': 1.0}),
        ('CLOCK_SKEW', {'offset_s': 3600.0}),
        ('IMAGE_UNSTAMPED', {'stamp_s': 0.0}),
        ('IMAGE_ENCODING', {'changes': {'encoding': '16UC1'}}),
        ('IMAGE_MALFORMED', {'changes': {'step': 10}}),
    ],
)
def test_images_that_cannot_be_used_stop_the_actions_with_their_cause(bench, code, change):
    t_s = time.monotonic()
    for name, value in change.items():
        setattr(bench.camera, name, time.time() if value == 'now' else value)
    sentence = bench.wait_code(code, 3.0)
    assert len(sentence) > len(code) + 10
    silent_after(bench, t_s, STALE_S + TICK_S + SCHEDULING_S, 0.3)
    bench.camera.reset()
    bench.wait_code('READY')


def test_a_frozen_camera_stops_the_actions_while_the_arm_moves(bench):
    bench.moving = True
    bench.wait(
        lambda: bench.diagnostics['policy_node: policy'][2]['controller'] == 'heard', 'heard'
    )
    t_s = time.monotonic()
    bench.camera.content = 'frozen'
    bench.wait_code('IMAGE_FROZEN', 3.0)
    silent_after(bench, t_s, 1.0 + 3 * TICK_S + SCHEDULING_S, 0.3)
    bench.moving = False  # the arm rests because of it; that must not start it again
    time.sleep(0.5)
    assert bench.heard.code() == 'IMAGE_FROZEN'
    bench.camera.content = 'noise'
    bench.wait_code('READY')


def test_a_still_scene_is_no_trouble_while_the_arm_rests(bench):
    bench.moving = False
    bench.camera.content = 'frozen'
    t_s = time.monotonic()
    time.sleep(1.6)
    assert bench.heard.codes(t_s) in (['READY'], [])
    assert len(bench.heard.actions_since(t_s)) >= 5


def test_a_black_picture_stops_the_actions(bench):
    bench.camera.content = 'black'
    bench.wait_code('IMAGE_BLANK', 3.0)
    silent_after(bench, time.monotonic(), TICK_S, 0.4)
    bench.camera.content = 'noise'
    bench.wait_code('READY')


def test_another_resolution_is_taken_and_said_once(bench):
    bench.camera.width, bench.camera.height = 80, 60
    t_s = time.monotonic()
    bench.wait_actions(4)
    assert bench.policy.log_text().count('the camera changed to images of 80x60') == 1
    assert bench.heard.codes(t_s) in (['READY'], [])


def test_hundreds_of_malformed_images_leave_it_alive_and_small(bench):
    generator = random.Random(0)
    numbers = [0, 1, 15, 48, 64, 192, 8193, 2**31, 2**32 - 1]
    encodings = ['rgb8', 'bgr8', 'mono16', 'yuv422', 'bayer_rggb8', '16UC1', 'é', '', 'x' * 10**6]
    before_mb = bench.policy.rss_mb()
    for i in range(400):
        bench.camera.send(
            width=generator.choice(numbers),
            height=generator.choice(numbers),
            step=generator.choice(numbers),
            encoding=encodings[i % len(encodings)] if i < 40 else generator.choice(encodings[:-1]),
            is_bigendian=generator.randrange(256),
        )
        time.sleep(0.003)
    bench.wait_actions(2)
    assert bench.policy.rss_mb() - before_mb < 20.0
    values = bench.diagnostics['policy_node: policy'][2]
    assert int(values['refused IMAGE_ENCODING']) > 10
    assert int(values['refused IMAGE_MALFORMED']) > 10
    assert 'callback_errors' not in values
    assert 'Traceback' not in bench.policy.log_text()
    assert max(map(len, bench.policy.log_text().splitlines())) < 700


@pytest.mark.parametrize('best_effort', [False, True])
def test_a_camera_process_that_starts_late_dies_and_comes_back(bench, best_effort):
    bench.camera.content = None
    bench.wait_code('IMAGE_STALE')
    flags = ['--width', '64', '--height', '48', *(['--best-effort'] if best_effort else [])]
    camera = bench.processes.start_actor('camera', 'fake_camera', *flags)
    bench.wait_code('READY')
    bench.wait_actions(2)
    t_s = camera.kill()
    silent_after(bench, t_s, STALE_S + TICK_S + SCHEDULING_S, 0.2)
    assert bench.heard.code() == 'IMAGE_STALE'
    bench.processes.start_actor('camera', 'fake_camera', *flags)
    bench.wait_code('READY')
    bench.wait_actions(1)
    bench.processes.end('camera')


def test_a_camera_without_color_is_reported_once_and_the_policy_goes_on(bench):
    bench.camera.content = 'gray'
    bench.wait(lambda: 'the images have no color' in bench.heard.statuses[-1][1].data, 'a report')
    bench.wait_actions(2)
    time.sleep(1.5)
    assert bench.policy.log_text().count('images have had no color') == 1
    assert bench.diagnostics['policy_node: policy'][2]['camera_colorless'] == 'true'
    bench.camera.content = 'noise'
    bench.wait(lambda: 'images have color again' in bench.policy.log_text(), 'the end')
    bench.wait(
        lambda: 'the images have no color' not in bench.heard.statuses[-1][1].data, 'the end'
    )


# --- instruction ---------------------------------------------------------------------------


def test_an_empty_instruction_stops_at_once(bench):
    t_s = bench.instruct('')
    bench.wait_code('NO_INSTRUCTION')
    silent_after(bench, t_s, 0.1 + SCHEDULING_S, 0.3)
    bench.wait(lambda: bench.heard.instructions[-1][1].data == '', 'echo')


def test_a_refused_instruction_clears_the_old_one(bench):
    t_s = bench.instruct('x' * 513)
    assert '512 bytes' in bench.wait_code('INSTRUCTION_REFUSED')
    silent_after(bench, t_s, 0.1 + SCHEDULING_S, 0.2)
    before_mb = bench.policy.rss_mb()
    bench.instruct('y' * 10_000_000)
    bench.instruct('pick\nup')
    bench.wait(lambda: 'U+000A' in bench.heard.statuses[-1][1].data, 'its reason')
    assert bench.policy.rss_mb() - before_mb < 60.0


def test_the_active_instruction_is_echoed(bench):
    bench.instruct('  open the drawer ')
    bench.wait(lambda: bench.heard.instructions[-1][1].data == 'open the drawer', 'echo')
    bench.wait(lambda: bench.heard.actions[-1][1].instruction == 'open the drawer', 'action')


def test_no_action_for_an_old_instruction_while_it_changes_every_50_ms(bench):
    bench.orders(delay_s=0.3)
    time.sleep(0.2)
    sent = [('pick up the cube', 0.0)]
    for i in range(40):
        text = f'task {i}'
        sent.append((text, bench.instruct(text)))
        time.sleep(0.05)
    bench.orders()
    bench.wait(lambda: bench.heard.actions[-1][1].instruction == 'task 39', 'the last one')
    replaced = {text: t for (text, _), (_, t) in itertools.pairwise(sent)}
    late = [
        (m.instruction, t - replaced[m.instruction])
        for t, m in bench.heard.actions
        if m.instruction in replaced and t - replaced[m.instruction] > SCHEDULING_S
        if t > sent[1][1]
    ]
    assert late == []


def test_two_publishers_of_instructions_are_told(bench):
    publisher = bench.node.create_publisher(String, 'instruction', 1)
    bench.wait(
        lambda: bench.diagnostics['policy_node: policy'][2]['instruction_publishers'] == '2',
        'two publishers',
    )
    bench.wait(lambda: '2 publishers of /instruction' in bench.policy.log_text(), 'a warning')
    bench.wait(
        lambda: '2 publishers of /instruction' in bench.heard.statuses[-1][1].data, 'a status'
    )
    bench.node.destroy_publisher(publisher)


# --- the model, as far as it heals -----------------------------------------------------------


def test_a_slow_model_skips_ticks_and_says_so_once(bench):
    bench.orders(delay_s=0.35)
    skipped = int(bench.diagnostics['policy_node: policy'][2].get('skipped_ticks', 0))
    bench.wait(
        lambda: (
            int(bench.diagnostics['policy_node: policy'][2].get('skipped_ticks', 0)) >= skipped + 5
        ),
        'skipped ticks',
    )
    assert bench.policy.log_text().count('ticks are skipped') == 1
    assert bench.heard.code() == 'READY'


def test_an_action_later_than_a_second_is_dropped(bench):
    bench.orders(delay_s=1.2)
    t_s = time.monotonic()
    bench.wait_code('LATE', 4.0)
    silent_after(bench, t_s, 0.2 + SCHEDULING_S, 0.1)
    bench.orders()
    bench.wait_code('READY', 5.0)


def test_memory_that_runs_out_once_is_freed_and_the_action_still_comes(bench):
    bench.orders(raises='memory', raise_count=1)
    bench.wait_actions(3)
    assert bench.policy.returncode is None


def test_a_server_that_is_away_is_waited_for(bench):
    bench.orders(raises='unavailable')
    bench.wait_code('SERVER_UNAVAILABLE')
    bench.orders()
    bench.wait_code('READY')


# --- parameters ----------------------------------------------------------------------------


def test_parameters_change_only_as_they_may(bench):
    client = bench.node.create_client(SetParameters, 'policy_node/set_parameters')
    assert client.wait_for_service(5.0)

    def change(name, value):
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        future = client.call_async(request)
        bench.wait(future.done, f'setting {name}')
        return future.result().results[0]

    for name in ('unnorm_key', 'base_frame', 'checkpoint'):
        assert not change(name, 'x').successful
    for value in (float('nan'), -1.0, 1e9, 'x', [5.0]):
        assert not change('rate_hz', value).successful
    assert change('rate_hz', 10.0).successful
    t_s = time.monotonic()
    bench.wait(lambda: len(bench.heard.actions_since(t_s)) >= 11, '11 actions')
    times = [t for t, _ in bench.heard.actions if t > t_s][1:11]
    assert (times[-1] - times[0]) / 9 == pytest.approx(0.1, rel=0.25)
    bench.moving = True
    bench.orders(noise=0.0)
    assert change('stuck_after', 5).successful
    bench.wait_code('STUCK')
    bench.orders()
    bench.wait_code('READY')
    assert change('stuck_after', 25).successful
    assert change('rate_hz', 0.0).successful


def test_nothing_went_wrong_inside(shared):
    assert 'Traceback' not in shared.policy.log_text()
    assert 'callback_errors' not in shared.diagnostics['policy_node: policy'][2]
    assert sys.getsizeof(shared.policy.log_text()) < 100_000
