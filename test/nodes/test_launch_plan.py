"""What the launch files start, decided without ROS."""

from pathlib import Path

import pytest
import yaml

from openvla_ros.core.resources import resource_path, share_directory
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.launch_plan import absolute_namespace, demo_plan, policy_plan, record_plan

SHARE = share_directory()
GIVEN = {'robot': 'wx250s.example', 'unnorm_key': 'bridge_orig', 'checkpoint': 'somewhere'}
KEY = 'openvla_ros_demo'
OUR_NODES = ('policy_node', 'controller_node', 'marker_node')


def plan(pushed='', installed=(), **given):
    return policy_plan({**GIVEN, **given}, SHARE, lambda package: package in installed, pushed)


def test_every_node_is_given_the_robot():
    started = plan()
    assert [p.executable for p in started.processes] == list(OUR_NODES)
    for process in started.processes:
        assert process.parameters['robot'] == 'wx250s.example'


def test_every_node_of_ours_comes_back_when_something_ends_it():
    for process in plan().processes:
        assert process.respawn_delay_s is not None


@pytest.mark.parametrize(
    ('name', 'expected'),
    [('base_frame', 'wx250s/base_link'), ('ee_frame', 'wx250s/ee_gripper_link')],
)
def test_a_frame_that_contradicts_the_profile_is_refused_with_both_names(name, expected):
    assert plan(**{name: expected}).process('policy_node').parameters[name] == expected
    with pytest.raises(ConfigError, match=f"{name}: got 'other', expected '{expected}'"):
        plan(**{name: 'other'})


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match=r'not given: robot, checkpoint \(or server_url\);'):
        policy_plan({'unnorm_key': 'bridge_orig'}, SHARE, lambda _: False)


def test_a_parameter_file_may_hold_what_is_not_given():
    started = policy_plan({'params_file': 'my.yaml'}, SHARE, lambda _: False)
    for process in started.processes:
        assert process.parameters_file == 'my.yaml'
        assert 'robot' not in process.parameters


def test_a_robot_that_does_not_exist_is_refused_before_anything_starts():
    with pytest.raises(ConfigError, match=r"did you mean 'wx250s\.example'"):
        plan(robot='wx250s')


@pytest.mark.parametrize(
    ('own', 'pushed', 'expected'),
    [
        ('', '', ''),
        ('left', '', '/left'),
        ('/left/', '', '/left'),
        ('', '/cell', '/cell'),
        ('left', '/cell', '/cell/left'),
        ('/left', '/cell', '/left'),  # as ROS does with an absolute name
    ],
)
def test_a_namespace_is_resolved_below_the_pushed_one(own, pushed, expected):
    assert absolute_namespace(own, pushed) == expected
    started = plan(pushed, namespace=own)
    assert {p.namespace for p in started.processes} == {expected}
    said = '\n'.join(started.lines)
    assert f'topic pub --once --keep-alive 1 {expected}/instruction std_msgs/msg/String' in said
    assert f'service call {expected}/controller_node/arm std_srvs/srv/SetBool' in said


def test_the_commands_come_in_the_order_in_which_they_are_needed():
    said = '\n'.join(plan().lines)
    assert -1 < said.index('/instruction') < said.index('/estop') < said.index('/arm')


def test_the_heartbeat_is_spoken_of_only_where_the_robot_needs_one():
    assert not any('/estop' in line for line in plan(robot='sim').lines)


def test_rviz_shows_the_robots_frame_and_every_topic_of_the_view_in_its_namespace(tmp_path):
    started = plan(installed=['rviz2'], rviz='true', namespace='left')
    rviz = started.process('rviz2')
    shown = yaml.safe_load(Path(rviz.arguments[1]).read_text())['Visualization Manager']
    assert shown['Global Options']['Fixed Frame'] == 'wx250s/base_link'
    topics = {
        display[key]['Value']
        for display in shown['Displays']
        for key in ('Topic', 'Description Topic')
        if key in display
    }
    assert '/marker_node/markers' in topics
    assert len(topics) >= 4
    # A relative name on the right is what puts the namespace in front.
    assert dict(rviz.remappings) == {topic: topic.lstrip('/') for topic in topics}


def test_rviz_reads_our_own_view_where_its_frame_fits():
    rviz = plan(installed=['rviz2'], rviz='true', robot='sim').process('rviz2')
    assert rviz.arguments == ('-d', str(resource_path('config/openvla.rviz')))


def test_rviz_that_is_not_installed_is_left_out_with_a_line():
    started = plan(rviz='true')
    assert 'rviz2' not in [p.executable for p in started.processes]
    assert any('rviz2 is not installed' in line for line in started.lines)


def test_texts_stay_texts_on_the_command_line():
    arguments = plan(checkpoint='1.0').process('policy_node').ros_arguments()
    assert 'checkpoint:="1.0"' in arguments
    assert 'use_sim_time:=false' in arguments


def test_the_camera_keeps_its_name_with_its_transport():
    started = plan(image_topic='/front/image', image_transport='compressed')
    remappings = dict(started.process('policy_node').remappings)
    assert remappings['camera/image_raw/compressed'] == '/front/image/compressed'


def test_the_commands_go_where_the_robots_driver_takes_them():
    started = plan(twist_cmd_topic='/servo_node/delta_twist_cmds', pose_cmd_topic='target')
    remappings = dict(started.process('controller_node').remappings)
    assert remappings['~/twist_cmd'] == '/servo_node/delta_twist_cmds'
    assert remappings['~/pose_cmd'] == 'target'
    assert remappings['~/gripper_cmd'] == 'controller_node/gripper_cmd'
    assert '~/twist_cmd' not in dict(started.process('policy_node').remappings)
    rviz = plan(installed=['rviz2'], rviz='true', pose_cmd_topic='target').process('rviz2')
    assert dict(rviz.remappings)['/controller_node/pose_cmd'] == 'target'


def test_the_demo_is_the_policy_for_the_simulated_arm():
    started = demo_plan({'seed': '3', 'mode': 'shadow'}, SHARE, lambda _: False)
    assert [p.executable for p in started.processes] == ['sim_node', *OUR_NODES]
    assert started.process('sim_node').parameters == {'task': 'reach', 'seed': 3}
    assert started.process('controller_node').parameters['shadow'] is True
    assert started.process('policy_node').parameters['robot'] == 'sim'
    assert started.process('policy_node').parameters['checkpoint'] == str(
        resource_path('checkpoints/demo')
    )


def test_a_seed_that_is_no_number_is_refused():
    with pytest.raises(ConfigError, match="seed: got 'x', expected a whole number"):
        demo_plan({'seed': 'x'}, SHARE, lambda _: False)


def test_more_parameters_change_one_node_only():
    before = plan()
    after = before.with_parameters('marker_node', overlay_rate_hz=5.0)
    assert after.process('marker_node').parameters['overlay_rate_hz'] == 5.0
    assert after.process('policy_node') == before.process('policy_node')


def test_the_recorder_is_told_of_the_robot_and_of_the_topics_by_their_own_names():
    given = {
        'robot': 'sim',
        'unnorm_key': KEY,
        'namespace': 'left',
        'image_topic': '/front/image',
        'image_transport': 'compressed',
        'gripper_cmd_topic': '/hand/command',
    }
    started = record_plan(given, SHARE, lambda _: False)
    recorder = started.process('recorder_node')
    assert recorder.namespace == '/left'
    assert recorder.parameters == {
        'robot': 'sim',
        'unnorm_key': KEY,
        'image_transport': 'compressed',
        'use_sim_time': False,
    }
    remappings = dict(recorder.remappings)
    assert remappings['camera/image_raw/compressed'] == '/front/image/compressed'
    assert remappings['controller_node/gripper_cmd'] == '/hand/command'
    said = '\n'.join(started.lines)
    assert 'service call /left/recorder_node/start_episode openvla_ros/srv/StartEpisode' in said
    with pytest.raises(ConfigError, match='not given: unnorm_key;'):
        record_plan({'robot': 'sim'}, SHARE, lambda _: False)
