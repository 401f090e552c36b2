"""The golden checkpoints of the model tests."""

import functools
import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

GOLDEN = Path(__file__).parents[1] / 'golden'
VARIANTS = GOLDEN / 'variants'


@functools.cache
def formula():
    return runpy.run_path(str(VARIANTS / 'formula.py'))


def write_variant(name, folder):
    """Make the checkpoint folder of test/golden/variants/<name> from its formula."""
    source = VARIANTS / name
    config = json.loads((source / 'config.json').read_text())
    vocab_size = config['text_config']['vocab_size'] - config['pad_to_multiple_of']
    word_scale = json.loads((source / 'formula.json').read_text())['word_scale']
    shapes = json.loads((source / 'shapes.json').read_text())
    tensors = {
        key: torch.from_numpy(
            formula()['weight'](key, tuple(shape), vocab_size, word_scale)
        ).bfloat16()
        for key, shape in shapes.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    for file in ('config.json', 'preprocessor_config.json'):
        (folder / file).write_text((source / file).read_text())
    return folder


@pytest.fixture(scope='session')
def golden_formula():
    return formula()


@pytest.fixture(scope='session')
def variant(tmp_path_factory):
    """Function from a variant's name to its checkpoint folder (made once; do not change it)."""
    made = {}

    def folder_of(name):
        if name not in made:
            made[name] = write_variant(name, tmp_path_factory.mktemp('variants') / name)
        return made[name]

    return folder_of


@pytest.fixture
def small_checkpoint(tmp_path, variant):
    """A checkpoint folder of the test's own, to be damaged."""
    source = variant('small_towers_bilinear')
    folder = tmp_path / 'checkpoint'
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder
