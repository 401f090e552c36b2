"""Merging on disk equals merging while loading, and upstream finds every tensor."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openvla_ros.model import OpenVLA
from openvla_ros.training.merge import main
from openvla_ros.training.new_adapter import (
    adapted_layers,
    adapter_tensors,
    new_adapter,
    write_adapter,
)

GOLDEN = Path(__file__).parents[1] / 'golden'
CHECKPOINT = GOLDEN / 'openvla_tiny'


@pytest.fixture
def adapter(tmp_path):
    """An adapter that changes every layer."""
    folder = tmp_path / 'adapter'
    folder.mkdir()
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype='float32')
    new_adapter(model, 4, 4, 0).attach(model, torch.float32, 'cpu')
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            layer.lora_B.normal_(0.0, 0.05, generator=generator)
    write_adapter(adapter_tensors(model), folder, rank=4, alpha=4, base='')
    statistics = json.loads((CHECKPOINT / 'config.json').read_text())['norm_stats']
    (folder / 'dataset_statistics.json').write_text(json.dumps(statistics))
    return folder


def merge(adapter, out, checkpoint=CHECKPOINT):
    return main(['--checkpoint', str(checkpoint), '--adapter', str(adapter), '--out', str(out)])


def test_the_merged_checkpoint_equals_merging_while_loading_to_the_bit(tmp_path, adapter):
    assert merge(adapter, tmp_path / 'merged') == 0
    merged = OpenVLA.from_pretrained(tmp_path / 'merged').state_dict()
    loaded = OpenVLA.from_pretrained(CHECKPOINT, adapter=adapter).state_dict()
    base = OpenVLA.from_pretrained(CHECKPOINT).state_dict()
    assert merged.keys() == loaded.keys()
    for name, value in merged.items():
        assert torch.equal(value, loaded[name]), name
    changed = [name for name, value in merged.items() if not torch.equal(value, base[name])]
    assert 'language_model.lm_head.weight' in changed
    assert 'vision_backbone.featurizer.patch_embed.proj.weight' in changed


def test_what_never_runs_is_the_bases_and_not_zero(tmp_path, adapter):
    merge(adapter, tmp_path / 'merged')
    base = load_file(CHECKPOINT / 'model.safetensors')
    merged = load_file(tmp_path / 'merged' / 'model.safetensors')
    assert merged.keys() == base.keys()
    dead = OpenVLA.from_pretrained(CHECKPOINT).unused_shapes()
    for name in dead:
        assert torch.equal(merged[name], base[name]), name
    assert any(base[name].any() for name in dead)


def test_shards_stay_shards(tmp_path, adapter):
    sharded = tmp_path / 'sharded'
    model = OpenVLA.from_pretrained(CHECKPOINT)
    statistics = json.loads((CHECKPOINT / 'config.json').read_text())['norm_stats']
    model.save_pretrained(sharded, norm_stats=statistics, max_shard_bytes=2_000_000)
    assert merge(adapter, tmp_path / 'merged', sharded) == 0
    names = {path.name for path in (tmp_path / 'merged').glob('*.safetensors')}
    assert len(names) > 1
    assert names == {path.name for path in sharded.glob('*.safetensors')}
    merged = OpenVLA.from_pretrained(tmp_path / 'merged').state_dict()
    loaded = OpenVLA.from_pretrained(sharded, adapter=adapter).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in merged.items())


def with_auto_map(tmp_path, code):
    folder = tmp_path / 'base'
    shutil.copytree(CHECKPOINT, folder)
    content = json.loads((folder / 'config.json').read_text())
    content['auto_map'] = {'AutoConfig': 'configuration_prismatic.OpenVLAConfig'}
    (folder / 'config.json').write_text(json.dumps(content))
    if code:
        (folder / 'configuration_prismatic.py').write_text('# code\n')
    return folder


def test_auto_map_is_left_out_where_its_code_is_not_there(tmp_path, adapter, capsys):
    assert merge(adapter, tmp_path / 'merged', with_auto_map(tmp_path, code=False)) == 0
    assert 'auto_map' not in json.loads((tmp_path / 'merged' / 'config.json').read_text())
    assert 'auto_map is left out, as configuration_prismatic.py' in capsys.readouterr().out


def test_auto_map_stays_and_its_code_is_copied_where_it_is(tmp_path, adapter):
    assert merge(adapter, tmp_path / 'merged', with_auto_map(tmp_path, code=True)) == 0
    assert 'auto_map' in json.loads((tmp_path / 'merged' / 'config.json').read_text())
    assert (tmp_path / 'merged' / 'configuration_prismatic.py').read_text() == '# code\n'


def test_an_existing_folder_or_missing_statistics_is_refused(tmp_path, adapter, capsys):
    (tmp_path / 'merged').mkdir()
    assert merge(adapter, tmp_path / 'merged') == 2
    assert 'exists already' in capsys.readouterr().err
    (adapter / 'dataset_statistics.json').unlink()
    assert merge(adapter, tmp_path / 'other') == 2
    assert 'has no dataset_statistics.json' in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {'adapter', 'merged'}


def test_an_adapter_of_another_architecture_is_refused(tmp_path, adapter, capsys):
    raw = json.loads((CHECKPOINT / 'config.json').read_text())
    raw['text_config'] = {**raw['text_config'], 'intermediate_size': 96}
    OpenVLA.from_config(raw).save_pretrained(tmp_path / 'other')
    assert merge(adapter, tmp_path / 'merged', tmp_path / 'other') == 2
    assert 'use the base checkpoint it was trained on' in capsys.readouterr().err
