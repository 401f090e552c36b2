"""ROS parameters from one frozen dataclass: declared, described, checked strictly, documented.

A node writes one dataclass whose fields are made by ``parameter(...)``. Everything about a
parameter (type, unit, range, choices, whether it may change at run time, description) is in that
field and nowhere else: ``declare`` reads it for ROS, ``markdown_table`` for the documentation.
Types: bool, int, float, str and non-empty tuples of one of them.
"""

import dataclasses
import itertools
import math
import sys
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from openvla_ros.core.strict_config import load_yaml, parse

T = TypeVar('T')

_INT64 = 2**63 - 1


def parameter(
    default: Any = dataclasses.MISSING,
    *,
    description: str,
    unit: str = '',
    lo: float | None = None,
    hi: float | None = None,
    choices: Sequence[Any] | None = None,
    read_only: bool = True,
) -> Any:
    """Return a dataclass field that describes one ROS parameter.

    Args:
        default: Value where nothing is given; without one the parameter must be set.
        description: One sentence for ``ros2 param describe`` and the documentation.
        unit: SI unit, such as 's' or 'm/s'; empty for a pure number or text.
        lo: Smallest allowed value (of each element of an array).
        hi: Largest allowed value (of each element of an array).
        choices: The allowed values, where only some are.
        read_only: False if ``ros2 param set`` may change it while the node runs.
    """
    metadata: dict[str, Any] = {'description': description, 'unit': unit, 'read_only': read_only}
    metadata |= {k: v for k, v in (('lo', lo), ('hi', hi)) if v is not None}
    if choices is not None:
        metadata['choices'] = tuple(choices)
    return dataclasses.field(default=default, metadata=metadata)


def declare(node: Node, cls: type[T], on_change: Callable[[T], None] | None = None) -> T:
    """Declare every field of ``cls`` as a parameter of ``node`` and return their values.

    Overrides of the command line, of YAML files and of ``parameter_overrides`` are checked as
    one: whole numbers are taken for floating-point parameters, everything else must fit exactly.

    Args:
        node: The node; its parameters are declared here.
        cls: Frozen dataclass of ``parameter(...)`` fields; its ``__post_init__`` may raise
            ValueError for values that do not fit together.
        on_change: Called with the new values after a change at run time was checked; a
            ValueError from it refuses the change.

    Raises:
        ConfigError: (strict_config) an unknown, missing or unfitting parameter, by name.
    """
    where = f'parameters of {node.get_fully_qualified_name()}'
    values = parse(cls, _overrides(node), where)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        value = getattr(values, field.name)
        if isinstance(value, tuple) and not value:
            raise TypeError(f'{cls.__name__}.{field.name}: an empty array has no ROS type')
        node.declare_parameter(
            field.name,
            list(value) if isinstance(value, tuple) else value,
            _descriptor(cls, field),
            ignore_override=True,
        )
    _check_changes(node, values, where, on_change)
    return values


def markdown_table(cls: type) -> str:
    """Return the Markdown table of the parameters of ``cls``, one row each, for the docs."""
    rows = [
        '| parameter | type | default | allowed | at run time | meaning |',
        '|---|---|---|---|---|---|',
    ]
    for field in dataclasses.fields(cls):
        kind = _ros_type(cls, field)
        cells = (
            f'`{field.name}`',
            kind,
            _default_text(field),
            _allowed_text(field),
            'fixed' if field.metadata['read_only'] else 'may change',
            _description(field),
        )
        rows.append('| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |')
    return '\n'.join(rows) + '\n'


def sections_for_other_nodes(node: Node, args: Sequence[str] | None = None) -> list[str]:
    """Return a sentence for every ``--params-file`` in which no section fits ``node``.

    ROS silently ignores such a file, so a mistyped node name in it leaves all defaults in force.

    Args:
        node: The node whose name the sections should fit.
        args: The command line; ``sys.argv`` if None.
    """
    argv = list(sys.argv if args is None else args)
    sentences = []
    for flag, path in itertools.pairwise(argv):
        if flag == '--params-file' and not _has_section(path, node.get_name()):
            sentences.append(
                f'{path}: no section of this parameter file is for '
                f'{node.get_fully_qualified_name()}, so nothing in it is used; '
                "name the section after the node or use '/**'"
            )
    return sentences


def _has_section(path: str, node_name: str) -> bool:
    """Say whether a ROS parameter file has a section whose last name fits the node."""

    def last_names(content: Any, last: str) -> Iterable[str]:
        for key, value in content.items() if isinstance(content, Mapping) else ():
            if key == 'ros__parameters':
                yield last
            else:
                yield from last_names(value, str(key).rsplit('/', 1)[-1])

    return any(last in (node_name, '*', '**') for last in last_names(load_yaml(path), ''))


def _overrides(node: Node) -> dict[str, Any]:
    """Collect what was given for this node, less what rclpy itself declares."""
    # rclpy has no public way to read the overrides of parameters that were never declared, and
    # those are exactly the mistyped ones; the attribute is the same from Humble to Kilted.
    given: Mapping[str, Parameter[Any]] = node._parameter_overrides
    return {
        name: _plain(parameter.value)
        for name, parameter in given.items()
        if not node.has_parameter(name) and not name.startswith('qos_overrides.')
    }


def _plain(value: Any) -> Any:
    """Return a ROS parameter value as plain Python: arrays become lists."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        return value
    return list(value)


def _check_changes(
    node: Node, values: T, where: str, on_change: Callable[[T], None] | None
) -> None:
    names = {field.name for field in dataclasses.fields(values)}  # type: ignore[arg-type]
    current = values

    # In quotes: rclpy's Parameter is generic from Kilted on, and Python evaluates this line.
    def check(changes: 'list[Parameter[Any]]') -> SetParametersResult:
        nonlocal current
        ours = {change.name: _plain(change.value) for change in changes if change.name in names}
        if not ours:
            return SetParametersResult(successful=True)
        mapping = {name: getattr(current, name) for name in names} | ours
        try:
            changed = parse(type(current), mapping, where)
            if on_change is not None:
                on_change(changed)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        current = changed
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def _descriptor(cls: type, field: 'dataclasses.Field[Any]') -> ParameterDescriptor:
    metadata = field.metadata
    descriptor = ParameterDescriptor(
        description=_description(field), read_only=metadata['read_only']
    )
    allowed = _allowed_text(field)
    if allowed:
        descriptor.additional_constraints = allowed
    lo, hi = metadata.get('lo'), metadata.get('hi')
    if lo is None and hi is None:
        return descriptor
    kind = typing.get_type_hints(cls)[field.name]
    if kind is float:
        big = sys.float_info.max
        descriptor.floating_point_range = [
            FloatingPointRange(
                from_value=float(-big if lo is None else lo),
                to_value=float(big if hi is None else hi),
            )
        ]
    elif kind is int:
        descriptor.integer_range = [
            IntegerRange(
                from_value=-_INT64 if lo is None else math.ceil(lo),
                to_value=_INT64 if hi is None else math.floor(hi),
            )
        ]
    return descriptor


def _description(field: 'dataclasses.Field[Any]') -> str:
    text: str = field.metadata['description']
    unit = field.metadata['unit']
    return f'{text} [{unit}]' if unit else text


def _ros_type(cls: type, field: 'dataclasses.Field[Any]') -> str:
    kind = typing.get_type_hints(cls)[field.name]
    names = {bool: 'bool', int: 'integer', float: 'double', str: 'string'}
    if typing.get_origin(kind) is tuple:
        arguments = typing.get_args(kind)
        count = '' if arguments[-1] is Ellipsis else f'[{len(arguments)}]'
        return f'{names[arguments[0]]} array{count}'
    if typing.get_origin(kind) is typing.Literal:
        return names[type(typing.get_args(kind)[0])]
    return names[kind]


def _default_text(field: 'dataclasses.Field[Any]') -> str:
    if field.default is dataclasses.MISSING:
        return 'none, must be set'
    if isinstance(field.default, bool):
        return f'`{str(field.default).lower()}`'
    if isinstance(field.default, tuple):
        return f'`{list(field.default)}`'
    if field.default == '':
        return "`''`"
    return f'`{field.default}`'


def _allowed_text(field: 'dataclasses.Field[Any]') -> str:
    metadata = field.metadata
    if 'choices' in metadata:
        return ', '.join(f"'{c}'" if isinstance(c, str) else str(c) for c in metadata['choices'])
    lo, hi = metadata.get('lo'), metadata.get('hi')
    if lo is None and hi is None:
        return ''
    if hi is None:
        return f'>= {lo}'
    if lo is None:
        return f'<= {hi}'
    return f'{lo} to {hi}'
