"""A mistyped launch argument is not ignored."""

from openvla_ros.nodes.launch_arguments import unknown_argument

FILE = '/share/openvla_ros/launch/policy.launch.py'
KNOWN = ('robot', 'mode')


def _command(*arguments, file='policy.launch.py'):
    return ['/bin/ros2', 'launch', 'openvla_ros', file, *arguments]


def test_a_mistyped_argument_is_named_with_the_nearest_one():
    said = unknown_argument(_command('robot:=sim', 'mod:=shadow'), FILE, KNOWN)
    assert said == (
        "policy.launch.py has no argument 'mod' (did you mean 'mode'?); --show-args lists them"
    )


def test_declared_arguments_and_options_are_let_through():
    assert unknown_argument(_command('robot:=a:=b', 'mode:=', '--debug'), FILE, KNOWN) is None


def test_the_launch_file_may_be_named_by_its_path():
    command = ['/bin/ros2', 'launch', './launch/policy.launch.py', 'mod:=shadow']
    assert unknown_argument(command, FILE, KNOWN)


def test_arguments_of_a_launch_file_that_includes_this_one_are_its_own():
    assert unknown_argument(_command('speed:=2', file='cell.launch.py'), FILE, KNOWN) is None
