import contextlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from openvla_ros.model import OpenVLA
from openvla_ros.model.checkpoint import (
    CheckpointError,
    ProgressLine,
    read_header,
    stored_tensors,
)

GOLDEN = Path(__file__).parents[1] / 'golden'
WEIGHTS = 'model.safetensors'
SOME = 'vision_backbone.fused_featurizer.blocks.2.attn.qkv.weight'
UNUSED = 'vision_backbone.fused_featurizer.attn_pool.kv.weight'


def change(folder, edit):
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={'format': 'pt'})


def shard(folder, parts=3):
    """Split the weights as save_pretrained of transformers does."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map = {}
    for i in range(parts):
        name = f'model-{i + 1:05d}-of-{parts:05d}.safetensors'
        content = {k: v for j, (k, v) in enumerate(tensors.items()) if j % parts == i}
        save_file(content, folder / name, metadata={'format': 'pt'})
        weight_map |= dict.fromkeys(content, name)
    index = {'metadata': {'total_size': 0}, 'weight_map': weight_map}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
    return weight_map


def refused(folder, *words):
    with pytest.raises(CheckpointError) as error:
        OpenVLA.from_pretrained(folder)
    message = str(error.value)
    for word in words:
        assert word in message, message
    assert '\n' not in message


@pytest.mark.parametrize('name', [SOME, UNUSED])
def test_a_missing_tensor_is_named(small_checkpoint, name):
    change(small_checkpoint, lambda tensors: tensors.pop(name))
    refused(small_checkpoint, str(small_checkpoint / WEIGHTS), name, 'missing')


def test_a_tensor_that_no_shard_has_is_named_with_the_index(small_checkpoint):
    change(small_checkpoint, lambda tensors: tensors.pop(SOME))
    shard(small_checkpoint)
    refused(small_checkpoint, 'model.safetensors.index.json', SOME, 'missing')


def test_a_superfluous_tensor_is_named(small_checkpoint):
    change(small_checkpoint, lambda t: t.update({'action_head.weight': torch.zeros(2)}))
    refused(small_checkpoint, WEIGHTS, 'action_head.weight', 'does not belong')


@pytest.mark.parametrize('name', [SOME, UNUSED])
def test_a_tensor_of_another_shape_is_named(small_checkpoint, name):
    change(small_checkpoint, lambda t: t.update({name: t[name][:-1].clone()}))
    refused(small_checkpoint, WEIGHTS, name, 'expected')


def test_frequencies_written_by_old_libraries_are_ignored(small_checkpoint):
    name = 'language_model.model.layers.0.self_attn.rotary_emb.inv_freq'
    change(small_checkpoint, lambda t: t.update({name: torch.full((4,), 9.0)}))
    OpenVLA.from_pretrained(small_checkpoint)


@pytest.mark.parametrize('lost', [1, 1000])
def test_a_truncated_file_is_named_with_the_tensor_it_ends_in(small_checkpoint, lost):
    path = small_checkpoint / WEIGHTS
    path.write_bytes(path.read_bytes()[:-lost])
    last = max(read_header_of(small_checkpoint), key=lambda entry: entry[1])[0]
    refused(small_checkpoint, WEIGHTS, 'truncated', last)


def read_header_of(folder):
    with (folder / WEIGHTS).open('rb') as file:
        (length,) = struct.unpack('<Q', file.read(8))
        header = json.loads(file.read(length))
    return [(k, v['data_offsets'][1]) for k, v in header.items() if k != '__metadata__']


@pytest.mark.parametrize('length', [0, 5, 8, 100, 3000])
def test_a_file_cut_in_its_header_is_refused(small_checkpoint, length):
    path = small_checkpoint / WEIGHTS
    path.write_bytes(path.read_bytes()[:length])
    refused(small_checkpoint, str(path))


def test_a_git_lfs_pointer_is_recognised(small_checkpoint):
    pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 7\n'
    (small_checkpoint / WEIGHTS).write_bytes(pointer)
    refused(small_checkpoint, WEIGHTS, 'git-LFS pointer', 'git lfs pull')


def test_a_pickle_is_recognised_by_content_and_by_name(small_checkpoint):
    torch.save({'a': torch.zeros(3)}, small_checkpoint / WEIGHTS)
    refused(small_checkpoint, WEIGHTS, 'pickle')
    (small_checkpoint / WEIGHTS).rename(small_checkpoint / 'pytorch_model.bin')
    refused(small_checkpoint, 'pytorch_model.bin', 'pickle')


def test_an_index_that_leads_to_a_pickle_is_refused(small_checkpoint):
    weight_map = dict.fromkeys(shard(small_checkpoint), 'pytorch_model-00001.bin')
    index = small_checkpoint / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': weight_map}))
    refused(small_checkpoint, index.name, 'pytorch_model-00001.bin', 'pickle')


def test_shards_are_read_through_their_index(small_checkpoint):
    whole = OpenVLA.from_pretrained(small_checkpoint).state_dict()
    shard(small_checkpoint)
    sharded = OpenVLA.from_pretrained(small_checkpoint).state_dict()
    assert all(torch.equal(whole[name], value) for name, value in sharded.items())


def test_a_missing_shard_is_named(small_checkpoint):
    weight_map = shard(small_checkpoint)
    (small_checkpoint / weight_map[SOME]).unlink()
    refused(small_checkpoint, weight_map[SOME], 'missing')


def test_a_truncated_shard_is_named(small_checkpoint):
    path = small_checkpoint / shard(small_checkpoint)[SOME]
    path.write_bytes(path.read_bytes()[:-10])
    refused(small_checkpoint, path.name, 'truncated')


def test_an_index_that_does_not_fit_its_shards_is_refused(small_checkpoint):
    weight_map = shard(small_checkpoint)
    index = small_checkpoint / 'model.safetensors.index.json'
    other = next(name for name in weight_map.values() if name != weight_map[SOME])
    index.write_text(json.dumps({'weight_map': {**weight_map, SOME: other}}))
    refused(small_checkpoint, SOME, 'do not belong together')
    index.write_text(json.dumps({'weight_map': {**weight_map, 'ghost.weight': other}}))
    refused(small_checkpoint, 'ghost.weight', other, 'missing')


@pytest.mark.parametrize('content', ['', '{', '[]', '{"weight_map": []}', '{"weight_map": 3}'])
def test_a_damaged_index_is_refused(small_checkpoint, content):
    shard(small_checkpoint)
    (small_checkpoint / 'model.safetensors.index.json').write_text(content)
    refused(small_checkpoint, 'model.safetensors.index.json')


def test_an_index_cannot_lead_out_of_the_folder(small_checkpoint):
    weight_map = shard(small_checkpoint)
    outside = dict.fromkeys(weight_map, '../elsewhere.safetensors')
    index = small_checkpoint / 'model.safetensors.index.json'
    index.write_text(json.dumps({'weight_map': outside}))
    refused(small_checkpoint, '../elsewhere.safetensors', 'not a plain file name')


def test_shards_without_an_index_and_an_empty_folder_are_refused(small_checkpoint):
    shard(small_checkpoint)
    (small_checkpoint / 'model.safetensors.index.json').unlink()
    refused(small_checkpoint, 'model.safetensors.index.json', 'missing')
    for path in small_checkpoint.glob('*.safetensors'):
        path.unlink()
    refused(small_checkpoint, str(small_checkpoint), 'holds neither')


def test_two_sets_of_weights_in_one_folder_are_refused(small_checkpoint):
    (small_checkpoint / 'model.safetensors.index.json').write_text('{"weight_map": {}}')
    refused(small_checkpoint, 'holds both')


def test_weights_quantised_before_saving_are_refused(small_checkpoint):
    change(small_checkpoint, lambda t: t.update({SOME: t[SOME].to(torch.int8)}))
    refused(small_checkpoint, WEIGHTS, SOME, 'I8')


@pytest.mark.parametrize('seed', range(40))
def test_damage_to_the_header_never_escapes_as_another_error(small_checkpoint, seed):
    path = small_checkpoint / WEIGHTS
    data = bytearray(path.read_bytes())
    generator = torch.Generator().manual_seed(seed)
    (length,) = struct.unpack('<Q', data[:8])
    for _ in range(3):
        at = int(torch.randint(0, 8 + length, (1,), generator=generator))
        data[at] = int(torch.randint(0, 256, (1,), generator=generator))
    path.write_bytes(data)
    with contextlib.suppress(CheckpointError):
        stored = stored_tensors(small_checkpoint)
        assert sum(entry.nbytes for entry in stored.values()) == len(data) - 8 - length


def test_progress_counts_every_byte_read_and_only_those_needed(small_checkpoint):
    seen = []
    model = OpenVLA.from_pretrained(
        small_checkpoint, progress=lambda done, total: seen.append((done, total))
    )
    needed = sum(parameter.numel() * 2 for parameter in model.parameters())
    assert seen[-1] == (needed, needed)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert needed < (small_checkpoint / WEIGHTS).stat().st_size


def test_progress_is_shown_for_large_checkpoints_only(capsys):
    line = ProgressLine('openvla-7b')
    line(900_000_000, 900_000_000)
    assert capsys.readouterr().err == ''
    line(15_000_000_000, 15_000_000_000)
    assert capsys.readouterr().err == 'loading openvla-7b: 15.0 of 15.0 GB (100 %)\n'


def test_a_file_replaced_after_the_check_is_noticed(small_checkpoint, monkeypatch):
    from openvla_ros.model import checkpoint

    original = checkpoint.check_tensors

    def check_then_truncate(*args):
        original(*args)
        path = small_checkpoint / WEIGHTS
        path.write_bytes(path.read_bytes()[: Path(path).stat().st_size // 2])

    monkeypatch.setattr('openvla_ros.model.openvla.check_tensors', check_then_truncate)
    refused(small_checkpoint, WEIGHTS, 'ends inside tensor')


def test_the_header_gives_places_without_reading_values(small_checkpoint):
    tensors = load_file(small_checkpoint / WEIGHTS)
    entries = {entry.name: entry for entry in read_header(small_checkpoint / WEIGHTS)}
    assert entries.keys() == tensors.keys()
    assert entries[SOME].shape == tuple(tensors[SOME].shape)
    assert entries[SOME].dtype == torch.bfloat16


@pytest.mark.slow
def test_loading_takes_one_copy_of_the_weights(tmp_path):
    raw = json.loads((GOLDEN / 'openvla_tiny' / 'config.json').read_text())
    raw['text_config'] |= {'hidden_size': 768, 'intermediate_size': 3072, 'num_hidden_layers': 4}
    model = OpenVLA.from_config(raw, dtype=torch.bfloat16, device='meta')
    model.to_empty(device='cpu').save_pretrained(tmp_path, max_shard_bytes=50_000_000)
    # In a process of its own: the peak of this one has seen other tests.
    script = (
        'import sys, torch, transformers\n'
        'from openvla_ros.model import OpenVLA\n'
        'import openvla_ros.model.openvla\n'
        'def status(key):\n'
        '    lines = open("/proc/self/status").read().splitlines()\n'
        '    return 1024 * int(next(l for l in lines if l.startswith(key)).split()[1])\n'
        # What the libraries take on first use (with CUDA's, more) does not depend on the size.
        'OpenVLA.from_pretrained(sys.argv[2])\n'
        'before = status("VmRSS")\n'
        'model = OpenVLA.from_pretrained(sys.argv[1])\n'
        'print(status("VmHWM") - before, sum(p.nbytes for p in model.parameters()))\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', script, str(tmp_path), str(GOLDEN / 'openvla_tiny')],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    peak, weights = map(int, result.stdout.split())
    assert weights > 150_000_000
    assert peak < 1.3 * weights
