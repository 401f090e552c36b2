"""H53, H52: a robot profile that is wrong anywhere is refused in one line that names the place."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from openvla_ros.core.resources import resource_path
from openvla_ros.core.strict_config import ConfigError, parse
from openvla_ros.safety.robot_profile import RobotProfile, load_robot_profile

SIM = yaml.safe_load(resource_path('config/robots/sim.yaml').read_text())
# Signed quantities: minus one is a place like any other.
PLACES = ('box_lo_m', 'box_hi_m')
NUMBERS: list[Any] = [float('nan'), float('inf'), float('-inf'), -1.0, 1e9, '0.2', [0.2], {}, None]


def leaves(content: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every key of the profile with its value."""
    for key, value in content.items():
        yield (*path, key), value
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))


def changed(path: tuple[str, ...], value: Any, *, remove: bool = False, name: str = '') -> dict:
    """The profile with one key set, removed or misspelt."""
    content = copy.deepcopy(SIM)
    place = content
    for part in path[:-1]:
        place = place[part]
    if remove or name:
        old = place.pop(path[-1])
        if name:
            place[name] = old
    else:
        place[path[-1]] = value
    return content


def mutants() -> list[Any]:
    """Wrong profiles: (id, content, a word its error must hold)."""
    out = []

    def add(path: tuple[str, ...], what: str, content: dict) -> None:
        out.append(pytest.param(content, path[-1], id=f'{".".join(path)} {what}'))

    for path, value in leaves(SIM):
        misspelt = path[-1][:-1] + '_'
        add(path, 'misspelt', changed(path, None, name=misspelt))
        add(path, 'removed', changed(path, None, remove=True))
        if isinstance(value, bool):
            wrong: list[Any] = ['yes', 1, 0.0, None]
        elif isinstance(value, (int, float)):
            wrong = NUMBERS
        elif isinstance(value, str):
            wrong = [1, True, ['x'], {}, None] + ([''] if path[-1].endswith('frame') else [])
        elif isinstance(value, list):
            wrong = [value[:-1], [*value, 0.1], 0.1, 'x', None]
            for number in [n for n in NUMBERS if not (n == -1.0 and path[-1] in PLACES)]:
                wrong.append([number, *value[1:]])
        else:
            wrong = [0.1, 'x', []]
        for i, value_ in enumerate(wrong):
            add(path, f'wrong {i}', changed(path, value_))
    lo, hi = SIM['workspace']['box_lo_m'], SIM['workspace']['box_hi_m']
    swapped = changed(('workspace', 'box_lo_m'), hi)
    swapped['workspace']['box_hi_m'] = lo
    add(('workspace', 'box'), 'swapped', swapped)
    gripper = changed(('gripper', 'close_below'), SIM['gripper']['open_above'])
    add(('gripper', 'close_below'), 'not below open_above', gripper)
    weak = changed(('limits', 'stop_acceleration_mps2'), 0.5)
    add(('limits', 'stop_acceleration_mps2'), 'gentler than normal', weak)
    return out


MUTANTS = mutants()


@pytest.mark.parametrize(('content', 'word'), MUTANTS)
def test_a_wrong_profile_is_refused_and_the_place_is_named(content: dict, word: str) -> None:
    """H53: wrong type, NaN, out of range, missing, misspelt, too short, too long, lo above hi."""
    if word == 'required' and 'required' not in content['estop'] and len(content['estop']) == 1:
        parse(RobotProfile, content, 'profile')  # its default is the safe one
        return
    with pytest.raises(ConfigError) as caught:
        parse(RobotProfile, content, 'profile')
    assert '\n' not in str(caught.value)
    assert word in str(caught.value)


def test_there_are_many_mutants_and_the_original_is_fine() -> None:
    """L2: at least 60; and a test in which the original fails as well shows nothing."""
    assert len(MUTANTS) >= 60
    parse(RobotProfile, SIM, 'profile')


def test_an_unstated_estop_is_required() -> None:
    """H47: leaving it out must not switch it off."""
    content = changed(('estop', 'required'), None, remove=True)
    assert parse(RobotProfile, content, 'profile').estop.required


@pytest.mark.parametrize('name', ['simm', '', '../sim', 'sim.yml.bak', '/does/not/exist.yaml'])
def test_an_unknown_profile_is_refused(name: str) -> None:
    """H53: never a default robot."""
    with pytest.raises(ConfigError):
        load_robot_profile(name)
