"""Parameters come from one dataclass, and anything unexpected is refused in one sentence."""

import dataclasses

import pytest

rclpy = pytest.importorskip('rclpy')
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from openvla_ros.core.strict_config import ConfigError  # noqa: E402
from openvla_ros.nodes.parameters import (  # noqa: E402
    declare,
    markdown_table,
    parameter,
    sections_for_other_nodes,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    name: str = parameter('arm', description='Name of the arm')
    rate_hz: float = parameter(
        5.0, description='Rate of the loop', unit='Hz', lo=0.1, hi=100.0, read_only=False
    )
    count: int = parameter(3, description='How many', lo=1)
    box: tuple[float, ...] = parameter((0.1, 0.2), description='A box', unit='m', lo=-1.0, hi=1.0)
    mode: str = parameter('auto', description='How', choices=('auto', 'manual'), read_only=False)

    def __post_init__(self):
        if self.mode == 'manual' and self.rate_hz > 50.0:
            raise ValueError('rate_hz: above 50 Hz only in mode auto')


@pytest.fixture
def make_node():
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    nodes = []

    def make(overrides=None, cli_args=None):
        node = Node(
            f'settings_{len(nodes)}',
            context=context,
            cli_args=cli_args,
            parameter_overrides=[Parameter(k, value=v) for k, v in (overrides or {}).items()],
        )
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


def set_one(node, name, value):
    return node.set_parameters([Parameter(name, value=value)])[0]


def test_defaults_are_declared_with_descriptors(make_node):
    node = make_node()
    assert declare(node, Settings) == Settings()
    descriptor = node.describe_parameter('rate_hz')
    assert descriptor.description == 'Rate of the loop [Hz]'
    assert not descriptor.read_only
    assert descriptor.floating_point_range[0].from_value == 0.1
    assert descriptor.floating_point_range[0].to_value == 100.0
    assert node.describe_parameter('count').integer_range[0].from_value == 1
    assert node.describe_parameter('count').read_only
    assert node.describe_parameter('mode').additional_constraints == "'auto', 'manual'"
    assert list(node.get_parameter('box').value) == [0.1, 0.2]


def test_overrides_are_used_and_a_whole_number_serves_as_a_float(make_node):
    node = make_node({'rate_hz': 10, 'box': [0, 1]})
    settings = declare(node, Settings)
    assert settings.rate_hz == 10.0
    assert settings.box == (0.0, 1.0)
    assert isinstance(node.get_parameter('rate_hz').value, float)


def test_an_unknown_parameter_is_refused_with_the_nearest_name(make_node):
    with pytest.raises(ConfigError, match=r"unknown key 'rate_hx' \(did you mean 'rate_hz'\?\)"):
        declare(make_node({'rate_hx': 1.0}), Settings)


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('rate_hz', float('nan')),
        ('rate_hz', 1e9),
        ('rate_hz', 'fast'),
        ('rate_hz', True),
        ('count', 0),
        ('count', 1.5),
        ('box', [0.0, float('nan')]),
        ('box', [99.0]),
        ('mode', 'atuo'),
        ('name', 5),
    ],
)
def test_an_unfitting_override_is_refused_by_name(make_node, name, value):
    with pytest.raises(ConfigError, match=name):
        declare(make_node({name: value}), Settings)


def test_a_parameter_without_default_must_be_set(make_node):
    @dataclasses.dataclass(frozen=True)
    class Needed:
        robot: str = parameter(description='Profile of the robot')

    with pytest.raises(ConfigError, match="key 'robot' is missing"):
        declare(make_node(), Needed)
    assert declare(make_node({'robot': 'sim'}), Needed).robot == 'sim'


def test_overrides_of_a_yaml_file_are_checked_too(make_node, tmp_path):
    good, bad, other = (tmp_path / f'{n}.yaml' for n in ('good', 'bad', 'other'))
    good.write_text('/**:\n  ros__parameters:\n    rate_hz: 7.0\n')
    bad.write_text('/**:\n  ros__parameters:\n    rat_hz: 7.0\n')
    other.write_text('policy_nod:\n  ros__parameters:\n    rate_hz: 7.0\n')

    def args(path):
        return ['--ros-args', '--params-file', str(path)]

    assert declare(make_node(cli_args=args(good)), Settings).rate_hz == 7.0
    with pytest.raises(ConfigError, match='rat_hz'):
        declare(make_node(cli_args=args(bad)), Settings)
    node = make_node(cli_args=args(other))
    assert declare(node, Settings).rate_hz == 5.0
    assert 'no section' in sections_for_other_nodes(node, args(other))[0]
    assert sections_for_other_nodes(node, args(good)) == []


def test_a_change_at_run_time_is_checked_and_reported(make_node):
    node = make_node()
    seen = []
    declare(node, Settings, seen.append)
    assert set_one(node, 'rate_hz', 20.0).successful
    assert seen[-1].rate_hz == 20.0
    for value in (float('nan'), float('inf'), -1.0, 1e9, 'x', [1.0], 7):
        assert not set_one(node, 'rate_hz', value).successful
    assert node.get_parameter('rate_hz').value == 20.0
    assert len(seen) == 1


def test_a_read_only_parameter_stays(make_node):
    node = make_node()
    declare(node, Settings)
    for value in ([0.0], [float('nan'), 0.0], []):
        assert not set_one(node, 'box', value).successful
    assert not set_one(node, 'name', 'other').successful
    assert list(node.get_parameter('box').value) == [0.1, 0.2]


def test_values_that_do_not_fit_together_are_refused(make_node):
    node = make_node()
    declare(node, Settings)
    assert set_one(node, 'mode', 'manual').successful
    result = set_one(node, 'rate_hz', 60.0)
    assert not result.successful
    assert 'above 50 Hz' in result.reason


def test_the_listener_may_refuse_a_change(make_node):
    node = make_node()

    def refuse(_):
        raise ValueError('not while moving')

    declare(node, Settings, refuse)
    result = set_one(node, 'rate_hz', 6.0)
    assert not result.successful
    assert result.reason == 'not while moving'


def test_the_table_has_one_row_for_each_parameter():
    lines = markdown_table(Settings).splitlines()
    assert len(lines) == 2 + len(dataclasses.fields(Settings))
    assert lines[3] == (
        '| `rate_hz` | double | `5.0` | 0.1 to 100.0 | may change | Rate of the loop [Hz] |'
    )
    assert '| `box` | double array | `[0.1, 0.2]` | -1.0 to 1.0 | fixed | A box [m] |' in lines
