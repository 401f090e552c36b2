"""Adapters that training starts with and writes."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openvla_ros.model import OpenVLA
from openvla_ros.model.lora import CONFIG_FILE, WEIGHTS_FILE, LoraAdapter
from openvla_ros.training.new_adapter import adapter_tensors, new_adapter, write_adapter

GOLDEN = Path(__file__).parents[1] / 'golden'
CHECKPOINT = GOLDEN / 'openvla_tiny'
UPSTREAM = GOLDEN / 'finetuning' / 'adapter_after_5'


@pytest.fixture
def model():
    return OpenVLA.from_pretrained(CHECKPOINT, dtype='float32')


def pixels_and_ids(model):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 6, 224, 224, generator=generator), torch.tensor([[1, 500, 700, 29871]])


def test_it_adapts_every_layer_upstream_adapts_but_those_that_never_run(model):
    upstream = load_file(UPSTREAM / WEIGHTS_FILE)
    new_adapter(model, 4, 4, 0).attach(model, torch.float32, 'cpu')
    ours = adapter_tensors(model)
    assert {name: value.shape for name, value in ours.items()}.items() <= {
        name: value.shape for name, value in upstream.items()
    }.items()
    dead = ('featurizer.blocks.2.', 'fused_featurizer.blocks.3.', 'attn_pool.')
    unused = tuple(model.unused_shapes())
    missing = {name.removeprefix('base_model.model.') for name in set(upstream) - set(ours)}
    assert missing
    for name in missing:
        layer = name.rsplit('.lora_', 1)[0]
        assert f'{layer}.weight' in unused, name
        assert any(part in layer for part in dead)


def test_a_new_adapter_changes_nothing(model):
    example = pixels_and_ids(model)
    with torch.no_grad():
        before = model.logits(*example)
        new_adapter(model, 4, 4, 0).attach(model, torch.float32, 'cpu')
        after = model.logits(*example)
    assert torch.equal(before, after)


def test_a_is_normal_with_the_deviation_of_one_over_the_rank_and_the_seed_decides(model):
    first, same, other = (new_adapter(model, 8, 8, seed).layers for seed in (0, 0, 1))
    name = 'projector.fc1'
    assert torch.equal(first[name].A, same[name].A)
    assert not torch.equal(first[name].A, other[name].A)
    values = torch.cat([low.A.flatten() for low in first.values()])
    # The deviation of a sample of n normal values has a relative error of 1 / sqrt(2 n).
    assert float(values.std()) == pytest.approx(1 / 8, rel=4 / math.sqrt(2 * len(values)))
    assert not any(low.B.any() for low in first.values())


def test_a_quantized_base_takes_the_same_adapter():
    pytest.importorskip('bitsandbytes')
    model = OpenVLA.from_pretrained(
        CHECKPOINT, dtype='bfloat16', quantization='nf4', merge_adapter=False
    )
    adapter = new_adapter(model, 4, 4, 0)
    adapter.attach(model, torch.float32, 'cpu')
    logits = model.logits(*pixels_and_ids(model))
    logits.float().sum().backward()
    head = model.language_model.lm_head.lora_B.grad
    assert torch.isfinite(head).all()
    assert head.abs().sum() > 0


def test_the_file_of_settings_holds_what_peft_0_11_1_knows_and_nothing_else(tmp_path, model):
    new_adapter(model, 4, 4, 0).attach(model, torch.float32, 'cpu')
    write_adapter(adapter_tensors(model), tmp_path, rank=4, alpha=4, base='openvla/openvla-7b')
    ours = json.loads((tmp_path / CONFIG_FILE).read_text())
    upstream = json.loads((UPSTREAM / CONFIG_FILE).read_text())
    assert ours.pop('base_model_name_or_path') == 'openvla/openvla-7b'
    del upstream['base_model_name_or_path']
    for settings in (ours, upstream):
        settings['target_modules'] = set(settings['target_modules'])
    # Two of upstream's fifteen are only in the pooling head, which never runs.
    assert upstream['target_modules'] - ours['target_modules'] <= {'q', 'kv'}
    del ours['target_modules'], upstream['target_modules']
    assert ours == upstream


def test_what_is_written_is_read_back_to_the_bit(tmp_path, model):
    adapter = new_adapter(model, 4, 2, 3)
    adapter.attach(model, torch.float32, 'cpu')
    write_adapter(adapter_tensors(model), tmp_path, rank=4, alpha=2, base='')
    loaded = LoraAdapter.load(tmp_path)
    assert loaded.scale == adapter.scale == 0.5
    assert set(loaded.layers) == set(adapter.layers)
    for name, low in adapter.layers.items():
        assert torch.equal(loaded.layers[name].A, low.A)
        assert torch.equal(loaded.layers[name].B, low.B)
    assert (tmp_path / WEIGHTS_FILE).stat().st_mode & 0o044
