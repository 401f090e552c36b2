"""What a run leaves behind when it is stopped in the middle of an export."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from openvla_ros.action_space.normalization import load_norm_stats
from openvla_ros.model import OpenVLA, checkpoint
from openvla_ros.training import __main__ as training
from openvla_ros.training.batches import Demonstrations
from openvla_ros.training.cloning import Schedule
from openvla_ros.training.demonstrations import COLOUR_NAMES, Frames, write_shard
from openvla_ros.training.run import UNNORM_KEY, Run
from openvla_ros.training.small_model import SmallModel

SIZES = SmallModel(
    image_size=28, vision_width=16, vision_depth=2, vision_heads=2, width=24, hidden=32,
    layers=2, heads=2,
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 28, 28, 3), np.uint8)
    actions = rng.normal(0.0, 0.01, (12, 3, len(COLOUR_NAMES), 7)).astype(np.float32)
    run = Run(tmp_path / 'run', SIZES)
    write_shard(run.data / 'expert_0000', [Frames(images, actions, np.zeros((12, 2), np.int8))])
    run.prepare(Demonstrations(run.shards()))
    run.state(Schedule(steps=8)).save(run.state_path)
    return run


class Stop(BaseException):
    """What Ctrl-C, or a killed process, is to the code it interrupts."""


def half_a_file(content, path, **_):
    Path(path).write_bytes(b'\x40\x01\x00\x00')
    raise Stop


def stop_in_call(number, function):
    """``function``, whose call of that number does half its work and ends in Stop."""
    calls = []

    def stopping(source, target, *arguments):
        calls.append(target)
        if len(calls) == number:
            Path(target).write_bytes(Path(source).read_bytes()[:10])
            raise Stop
        return function(source, target, *arguments)

    return stopping


def interrupt(monkeypatch, where):
    if where == 'weights':
        monkeypatch.setattr(checkpoint, 'save_file', half_a_file)
    elif isinstance(where, int):
        monkeypatch.setattr(shutil, 'copyfile', stop_in_call(where, shutil.copyfile))
    else:

        def stop(*_):
            raise Stop

        monkeypatch.setattr(Path, where, stop)


# Copies 1 and 2 are the tokenizer's two files, 3 to 5 the run's conventions.
@pytest.mark.parametrize('where', ['weights', 1, 2, 3, 4, 5, 'chmod', 'rename'])
def test_an_export_interrupted_anywhere_is_redone(run, monkeypatch, where):
    driven_by = []
    monkeypatch.setattr(
        training, 'record_corrections', lambda data, first, n, folder, *_: driven_by.append(folder)
    )
    arguments = SimpleNamespace(correction_shards=1, workers=1)
    with monkeypatch.context() as patched:
        interrupt(patched, where)
        with pytest.raises(Stop):
            training._correct(run, 1, 8, arguments)
    assert not driven_by
    training._correct(run, 1, 8, arguments)
    assert OpenVLA.from_pretrained(driven_by[0]).tokenizer is not None
    assert list(load_norm_stats(driven_by[0], None)) == [UNNORM_KEY]
    left = sorted(path.name for path in run.folder.iterdir() if path.is_dir())
    assert left == ['data', 'round_1']


def test_an_export_replaces_the_one_before_it_only_when_it_is_whole(run, monkeypatch):
    target = run.export(run.folder / 'checkpoint')
    (target / 'of_the_first').touch()
    with monkeypatch.context() as patched:
        interrupt(patched, 'weights')
        with pytest.raises(Stop):
            run.export(target)
    assert (target / 'of_the_first').exists()
    OpenVLA.from_pretrained(target)
    run.export(target)
    assert not (target / 'of_the_first').exists()
    assert OpenVLA.from_pretrained(target).tokenizer is not None


def test_a_start_that_sees_images_differently_is_refused(run, tmp_path):
    started = run.export(tmp_path / 'start')
    path = started / 'preprocessor_config.json'
    config = json.loads(path.read_text())
    going_on = Run(tmp_path / 'going_on', SIZES, started)
    going_on.prepare(Demonstrations(run.shards()))
    going_on.state(Schedule(steps=8))
    path.write_text(json.dumps({**config, 'means': [[0.4, 0.4, 0.4], [0.5, 0.5, 0.5]]}))
    with pytest.raises(ValueError, match=r'its image settings are .*start from a checkpoint of'):
        going_on.state(Schedule(steps=8))
