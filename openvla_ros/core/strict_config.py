"""Configuration parsed once, at the edge, into frozen dataclasses; anything unexpected is refused.

A field of a configuration dataclass may carry ``metadata`` with ``lo``/``hi`` (bounds for
a number or for each element of a sequence of numbers) and ``choices`` (allowed values).
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar('T')


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says where, got, expected, what to do."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice (PyYAML silently keeps the last one)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(
                    f'line {key_node.start_mark.line + 1}: key {key!r} is not a string'
                )
            if key in seen:
                raise ConfigError(
                    f'line {key_node.start_mark.line + 1}: key {key!r} is given twice'
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``' (did you mean X?)'`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f' (did you mean {near[0]!r}?)' if near else ''


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping.

    Raises:
        ConfigError: the file is missing, is not valid YAML, or does not hold a mapping.
    """
    # No shell expands the ~ of `-p robot:=~/arm.yaml`.
    path = Path(path).expanduser()
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f'{path}: cannot be read: {error.strerror or error}') from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: is not valid YAML: {" ".join(str(error).split())}') from error
    except RecursionError as error:
        raise ConfigError(f'{path}: is not valid YAML: nested too deeply') from error
    except ConfigError as error:
        raise ConfigError(f'{path}: {error}') from error
    if not isinstance(content, dict):
        raise ConfigError(f'{path}: holds {type(content).__name__}, expected a mapping of keys')
    return content


def parse(cls: type[T], content: Any, where: str) -> T:
    """Build the frozen dataclass ``cls`` from a mapping, strictly.

    Args:
        cls: A dataclass; nested dataclasses, ``tuple[X, ...]``, ``tuple[X, X, X]``, ``X | None``,
            ``Literal`` and the plain types bool, int, float and str are understood.
        content: What YAML or JSON gave.
        where: What is being read, for messages: a path or a dotted key.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, a non-finite number, or a value out
            of range; also whatever ``cls.__post_init__`` raises as ValueError, ``where`` in front.
    """
    if not isinstance(content, Mapping):
        raise ConfigError(f'{where}: got {_shown(content)}, expected a mapping of keys')
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    for key in content:
        if key not in fields:
            hint = did_you_mean(str(key), fields)
            raise ConfigError(
                f'{where}: unknown key {key!r}{hint}; known keys: {", ".join(fields)}'
            )
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in content:
            values[name] = _value(hints[name], content[name], f'{where}: {name}', field.metadata)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f'{where}: key {name!r} is missing; it has no default, write it down'
            )
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f'{where}: {error}') from error


def parse_file(cls: type[T], path: str | Path) -> T:
    """Read a YAML file into the dataclass ``cls``; raises ConfigError as load_yaml and parse."""
    return parse(cls, load_yaml(path), str(path))


def _value(kind: Any, got: Any, where: str, metadata: Mapping[str, Any]) -> Any:
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return _choice(got, typing.get_args(kind), where)
    if origin in (typing.Union, types.UnionType):
        options = [arg for arg in typing.get_args(kind) if arg is not type(None)]
        if got is None and len(options) < len(typing.get_args(kind)):
            return None
        return _value(options[0], got, where, metadata)
    if origin is tuple:
        return _sequence(typing.get_args(kind), got, where, metadata)
    if origin is dict:
        if not isinstance(got, Mapping):
            raise ConfigError(f'{where}: got {_shown(got)}, expected a mapping of keys')
        inner = typing.get_args(kind)[1]
        return {str(k): _value(inner, v, f'{where}.{k}', metadata) for k, v in got.items()}
    if dataclasses.is_dataclass(kind):
        return parse(typing.cast(type[Any], kind), got, where)
    return _scalar(kind, got, where, metadata)


def _sequence(args: tuple[Any, ...], got: Any, where: str, metadata: Mapping[str, Any]) -> Any:
    if isinstance(got, str) or not isinstance(got, (list, tuple)):
        raise ConfigError(f'{where}: got {_shown(got)}, expected a list')
    if len(args) == 2 and args[1] is Ellipsis:
        kinds = [args[0]] * len(got)
    else:
        kinds = list(args)
        if len(kinds) != len(got):
            raise ConfigError(f'{where}: got {len(got)} values, expected {len(kinds)}')
    return tuple(
        _value(k, v, f'{where}[{i}]', metadata) for i, (k, v) in enumerate(zip(kinds, got))
    )


def _scalar(kind: Any, got: Any, where: str, metadata: Mapping[str, Any]) -> Any:
    if kind is Any:
        return got
    if kind is float and isinstance(got, int) and not isinstance(got, bool):
        got = float(got)
    if not isinstance(got, kind) or (kind is not bool and isinstance(got, bool)):
        raise ConfigError(f'{where}: got {_shown(got)}, expected {_type_name(kind)}')
    if kind is float and not math.isfinite(got):
        raise ConfigError(f'{where}: got {got}, expected a finite number')
    if kind in (int, float):
        lo, hi = metadata.get('lo', -math.inf), metadata.get('hi', math.inf)
        if not lo <= got <= hi:
            raise ConfigError(f'{where}: got {got}, expected {_range_text(lo, hi)}')
    if 'choices' in metadata:
        return _choice(got, metadata['choices'], where)
    return got


def _choice(got: Any, choices: Iterable[Any], where: str) -> Any:
    choices = list(choices)
    for choice in choices:
        if type(got) is type(choice) and got == choice:
            return got
    hint = did_you_mean(got, [str(c) for c in choices]) if isinstance(got, str) else ''
    raise ConfigError(
        f'{where}: got {_shown(got)}{hint}, expected one of {", ".join(repr(c) for c in choices)}'
    )


def _range_text(lo: float, hi: float) -> str:
    if math.isinf(hi):
        return f'{lo} or more'
    if math.isinf(lo):
        return f'{hi} or less'
    return f'between {lo} and {hi}'


def _type_name(kind: Any) -> str:
    names = {float: 'a number', int: 'a whole number', str: 'text', bool: 'true or false'}
    return names.get(kind, getattr(kind, '__name__', str(kind)))


def _shown(got: Any) -> str:
    text = repr(got)
    return text if len(text) <= 60 else text[:57] + '...'
