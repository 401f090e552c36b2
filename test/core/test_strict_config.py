import dataclasses
import math
from typing import Literal

import pytest

from openvla_ros.core.strict_config import ConfigError, load_yaml, parse, parse_file


@dataclasses.dataclass(frozen=True)
class Box:
    lo_m: tuple[float, float, float]
    hi_m: tuple[float, float, float]

    def __post_init__(self) -> None:
        if any(lo >= hi for lo, hi in zip(self.lo_m, self.hi_m)):
            raise ValueError('lo_m must be below hi_m on every axis')


@dataclasses.dataclass(frozen=True)
class Limits:
    speed_mps: float = dataclasses.field(metadata={'lo': 0.0, 'hi': 1.0})
    box: Box
    mode: Literal['shadow', 'active']
    names: tuple[str, ...] = ()
    comment: str | None = None
    count: int = 3


GOOD = {'speed_mps': 0.2, 'box': {'lo_m': [0, 0, 0], 'hi_m': [1, 1, 1]}, 'mode': 'shadow'}


def parsed(**changes: object) -> Limits:
    return parse(Limits, {**GOOD, **changes}, 'robot.yaml')


def test_whole_numbers_are_numbers_and_lists_become_tuples():
    limits = parsed(speed_mps=1, names=['a', 'b'])
    assert limits.speed_mps == 1.0
    assert isinstance(limits.speed_mps, float)
    assert limits.box.hi_m == (1.0, 1.0, 1.0)
    assert limits.names == ('a', 'b')
    assert limits.comment is None


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(ConfigError, match=r"robot.yaml: unknown key 'sped_mps' .*'speed_mps'"):
        parsed(sped_mps=0.1)


def test_a_missing_key_without_default_is_named():
    content = {key: value for key, value in GOOD.items() if key != 'mode'}
    with pytest.raises(ConfigError, match=r"robot.yaml: key 'mode' is missing"):
        parse(Limits, content, 'robot.yaml')


@pytest.mark.parametrize('bad', [math.nan, math.inf, -0.1, 1.1, '0.2', True, None, [0.2]])
def test_a_number_out_of_range_or_of_another_type_is_refused(bad):
    with pytest.raises(ConfigError, match=r'robot.yaml: speed_mps: got'):
        parsed(speed_mps=bad)


def test_a_nested_key_is_named_with_its_dotted_path():
    with pytest.raises(ConfigError, match=r'robot.yaml: box: lo_m: got 2 values, expected 3'):
        parsed(box={'lo_m': [0, 0], 'hi_m': [1, 1, 1]})
    with pytest.raises(ConfigError, match=r'robot.yaml: box: hi_m\[1\]: got nan'):
        parsed(box={'lo_m': [0, 0, 0], 'hi_m': [1, math.nan, 1]})


def test_a_rule_between_keys_is_checked_and_located():
    with pytest.raises(ConfigError, match=r'robot.yaml: box: lo_m must be below hi_m'):
        parsed(box={'lo_m': [0, 0, 2], 'hi_m': [1, 1, 1]})


def test_a_choice_is_exact():
    with pytest.raises(ConfigError, match=r"mode: got 'Active' \(did you mean 'active'\?\)"):
        parsed(mode='Active')


def test_true_is_not_a_whole_number():
    with pytest.raises(ConfigError, match='count: got True, expected a whole number'):
        parsed(count=True)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a: 1\na: 2\n', "line 2: key 'a' is given twice"),
        ('- 1\n', 'holds list, expected a mapping'),
        ('a: [1\n', 'is not valid YAML'),
        ('', 'holds NoneType'),
        ('1: 2\n', 'key 1 is not a string'),
        ('a: !!python/object/apply:os.system [ls]\n', 'is not valid YAML'),
    ],
)
def test_a_file_that_is_not_a_mapping_of_unique_text_keys_is_refused(tmp_path, text, message):
    path = tmp_path / 'robot.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_yaml(path)


def test_a_file_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / 'robot.yaml'
    path.write_text('[' * 5000)
    with pytest.raises(ConfigError, match='nested too deeply'):
        load_yaml(path)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'robot.yaml').write_text('a: 1')
    assert load_yaml('~/robot.yaml') == {'a': 1}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r'none.yaml: cannot be read: No such file'):
        parse_file(Limits, tmp_path / 'none.yaml')
