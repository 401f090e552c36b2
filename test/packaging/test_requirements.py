"""pyproject.toml gives ranges, requirements/ the versions that are tested: they must agree."""

import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
ROOMS = {'core': PROJECT['dependencies'], **PROJECT['optional-dependencies']}


def _normal(name: str) -> str:
    return name.lower().replace('_', '-')


def _pins(room: str) -> list[Requirement]:
    lines = (ROOT / 'requirements' / f'{room}.txt').read_text().splitlines()
    found = [Requirement(line.split('#')[0]) for line in lines if line and line[0] not in '#-']
    # lint.txt names packages of other rooms too; their pins are those rooms'.
    return [pin for pin in found if room != 'lint' or pin.specifier]


def _ranges(room: str) -> dict[str, Requirement]:
    return {_normal(range_.name): range_ for range_ in map(Requirement, ROOMS[room])}


@pytest.mark.parametrize('room', ROOMS)
def test_a_room_has_the_same_packages_as_ranges_and_as_pins(room):
    assert {_normal(pin.name) for pin in _pins(room)} == set(_ranges(room))


@pytest.mark.parametrize('room', ROOMS)
def test_every_pin_lies_within_its_range(room):
    ranges = _ranges(room)
    for pin in _pins(room):
        (specifier,) = pin.specifier
        assert specifier.operator == '=='
        assert ranges[_normal(pin.name)].specifier.contains(specifier.version), str(pin)


def test_no_range_is_an_exact_pin_so_that_a_jetson_keeps_its_torch():
    for room in ROOMS:
        for range_ in _ranges(room).values():
            assert range_.specifier, str(range_)
            assert all(part.operator not in ('==', '===') for part in range_.specifier)


def test_the_set_up_installs_the_pins_of_every_room():
    lines = (ROOT / 'requirements' / 'all.txt').read_text().splitlines()
    assert {line for line in lines if line.startswith('-r')} == {f'-r {r}.txt' for r in ROOMS}
