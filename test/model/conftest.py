"""The golden checkpoints of the model tests."""

import functools
import json
import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers

from openvla_ros.model import OpenVLA
from openvla_ros.model.tokenizer import find_tokenizer

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


def write_tokenizer(folder, vocab_size=1024, space=True):
    """A tokenizer.json with Llama's rules: '▁' in front, characters, bytes for the rest."""
    pieces = ['<unk>', '<s>', '</s>', *(f'<0x{byte:02X}>' for byte in range(256))]
    pieces += [*('▁' if space else ''), *'abcdefghijklmnopqrstuvwxyzIOWU:?.']
    pieces += [f'filler{i}' for i in range(vocab_size - len(pieces))]
    tokenizer = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token='<unk>')
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    )
    tokenizer.add_special_tokens(['<unk>', '<s>', '</s>', '<PAD>'])
    tokenizer.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(json.dumps({'bos_token': '<s>'}))


@pytest.fixture
def tokenizer_folder(tmp_path):
    folder = tmp_path / 'tokenizer'
    folder.mkdir()
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope='session')
def prompted_checkpoint(tmp_path_factory):
    """A small random checkpoint that writes action tokens and has a tokenizer (do not change)."""
    folder = tmp_path_factory.mktemp('prompted') / 'checkpoint'
    folder.mkdir()
    write_tokenizer(folder)
    raw = json.loads((GOLDEN / 'openvla_tiny' / 'config.json').read_text())
    raw['text_config'] = {**raw['text_config'], 'vocab_size': 1024 + 64, 'hidden_size': 32}
    raw['image_sizes'] = [56, 56]
    raw['norm_stats'] = {'bridge_like': raw['norm_stats']['bridge_like']}
    model = OpenVLA.from_config(raw, tokenizer=find_tokenizer(folder), seed=4)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
            if name.endswith('scale_factor'):
                parameter.fill_(0.5)
        head = model.language_model.lm_head.weight
        head.zero_()
        head[1024 - 256 : 1024] = torch.randn(256, 32, generator=generator)
    model.save_pretrained(folder)
    return folder
