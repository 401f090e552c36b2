"""LoRA adapters as upstream's finetune.py leaves them, against peft itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA
from openvla_ros.model.inspect import main as inspect
from openvla_ros.model.lora import CONFIG_FILE, WEIGHTS_FILE, LoraAdapter, LowRank

peft = pytest.importorskip('peft')

CHECKPOINT = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'
#: What 'all-linear' became in upstream's runs: basenames of every linear layer and convolution.
TARGETS = [
    'qkv',
    'proj',
    'q',
    'kv',
    'fc1',
    'fc2',
    'fc3',
    'q_proj',
    'k_proj',
    'v_proj',
    'o_proj',
    'gate_proj',
    'up_proj',
    'down_proj',
    'lm_head',
]
RANK, ALPHA = 4, 2
HEAD_KEY = 'base_model.model.language_model.lm_head.base_layer.weight'
DEAD = ('vision_backbone.featurizer.blocks.2.attn.qkv', (192, 64))
DEAD_POOL = ('vision_backbone.fused_featurizer.attn_pool.kv', (144, 72))


def wrap(model):
    """A peft model with adapters that are not zero."""
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, bias='none'
    )
    # peft reads a transformers-like config where there is an attribute of that name.
    ours, model.config = model.config, {'model_type': 'openvla'}
    wrapped = peft.get_peft_model(model, config)
    model.config = ours
    generator = torch.Generator().manual_seed(7)
    for name, parameter in wrapped.named_parameters():
        if 'lora_' in name:
            parameter.data.normal_(0.0, 0.05, generator=generator)
    return wrapped


def complete_as_upstream(folder, state):
    """Add what upstream's file holds besides: the head's base, and adapters of dead blocks."""
    path = folder / WEIGHTS_FILE
    tensors = load_file(path)
    tensors[HEAD_KEY] = state
    for name, (rows, columns) in (DEAD, DEAD_POOL):
        tensors[f'base_model.model.{name}.lora_A.weight'] = torch.ones(RANK, columns)
        tensors[f'base_model.model.{name}.lora_B.weight'] = torch.ones(rows, RANK)
    save_file(tensors, str(path), metadata={'format': 'pt'})


@pytest.fixture(scope='module', params=['float32', 'bfloat16'])
def fine_tuned(request, tmp_path_factory):
    """An adapter folder, its dtype, peft's merged weights and peft's own logits."""
    folder = tmp_path_factory.mktemp('adapter')
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype=request.param)
    head = model.language_model.lm_head.weight.detach().clone()
    wrapped = wrap(model)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    complete_as_upstream(folder, head)
    with torch.no_grad():
        logits = model.logits(*example()).float()
    merged = wrapped.merge_and_unload()
    state = {name: value.detach().clone() for name, value in merged.state_dict().items()}
    return folder, request.param, state, logits


def example():
    generator = torch.Generator().manual_seed(3)
    ids = torch.tensor([[1, 512, 29901, 1724, 29871]])
    return torch.randn(1, 6, 224, 224, generator=generator), ids


def test_the_adapter_covers_head_convolutions_and_projector(fine_tuned):
    adapter = LoraAdapter.load(fine_tuned[0])
    assert adapter.scale == ALPHA / RANK
    assert {
        'language_model.lm_head',
        'projector.fc3',
        'vision_backbone.featurizer.patch_embed.proj',
        'vision_backbone.fused_featurizer.patch_embed.proj',
        DEAD[0],
        DEAD_POOL[0],
    } <= set(adapter.layers)


def test_merged_weights_equal_pefts_own_merge(fine_tuned):
    folder, dtype, expected, _ = fine_tuned
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype=dtype, adapter=folder)
    state = model.state_dict()
    assert set(state) == set(expected)
    for name, value in state.items():
        if 'patch_embed' in name and dtype == 'float32':  # peft sums it as a convolution
            torch.testing.assert_close(value, expected[name], atol=1e-7, rtol=1e-6)
        else:
            assert torch.equal(value, expected[name]), name


def test_the_base_is_really_changed(fine_tuned):
    folder, dtype, _, _ = fine_tuned
    base = OpenVLA.from_pretrained(CHECKPOINT, dtype=dtype).state_dict()
    adapter = LoraAdapter.load(folder)
    for name in adapter.layers:
        if name not in (DEAD[0], DEAD_POOL[0]):
            key = f'{name}.weight'
            assert not torch.equal(adapter.merged(key, base[key]), base[key]), name


@torch.no_grad()
def test_beside_the_weights_it_gives_pefts_logits(fine_tuned):
    folder, dtype, _, expected = fine_tuned
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype=dtype, adapter=folder, merge_adapter=False)
    model.language_model.fuse()
    got = model.logits(*example()).float()
    tolerance = 1e-6 if dtype == 'float32' else 0.02
    assert (got - expected).norm() <= tolerance * expected.norm()


@torch.no_grad()
@pytest.mark.parametrize('merge', [True, False])
def test_it_works_on_a_quantised_base(fine_tuned, merge):
    pytest.importorskip('bitsandbytes')
    folder, dtype, _, expected = fine_tuned
    model = OpenVLA.from_pretrained(
        CHECKPOINT, dtype=dtype, adapter=folder, merge_adapter=merge, quantization='int8'
    )
    got = model.logits(*example()).float()
    assert (got - expected).norm() <= 0.05 * expected.norm()


def changed_head(folder, change):
    """Overwrite the head that the adapter file brings along."""
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors[HEAD_KEY] = change(tensors[HEAD_KEY])
    save_file(tensors, str(folder / WEIGHTS_FILE))


@pytest.mark.parametrize('merge', [True, False])
def test_an_adapter_trained_on_another_head_is_refused_with_both_reasons(
    fine_tuned, tmp_path, merge
):
    folder = copied(fine_tuned[0], tmp_path)

    def one_unit_off(head):
        head = head.clone()
        head[7, 3] = 2 * head[7, 3] + 1.0
        return head

    changed_head(folder, one_unit_off)
    with pytest.raises(ConfigError, match=r'was trained on another .*lm_head.*1 of ') as refusal:
        OpenVLA.from_pretrained(CHECKPOINT, adapter=folder, merge_adapter=merge)
    assert 'belongs to another checkpoint, or it is merged into this one already' in str(
        refusal.value
    )


def test_an_adapter_on_the_checkpoint_it_is_merged_into_is_refused(fine_tuned, tmp_path, capsys):
    folder, dtype, _, _ = fine_tuned
    OpenVLA.from_pretrained(CHECKPOINT, dtype=dtype, adapter=folder).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match='it is merged into this one already'):
        OpenVLA.from_pretrained(tmp_path, dtype=dtype, adapter=folder)
    assert inspect([str(tmp_path), '--adapter', str(folder), '--no-self-test']) == 1
    assert 'merged into this one already' in capsys.readouterr().err


def test_a_head_in_another_dtype_is_the_checkpoint_s_all_the_same(fine_tuned, tmp_path):
    folder = copied(fine_tuned[0], tmp_path)
    changed_head(folder, lambda head: head.float())
    OpenVLA.from_pretrained(CHECKPOINT, adapter=folder)
    wide = tmp_path / 'float32'
    wide.mkdir()
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype='float32')
    with torch.no_grad():  # finer than bfloat16 tells
        model.language_model.lm_head.weight.mul_(1.0 + 2**-14)
    model.save_pretrained(wide)
    changed_head(folder, lambda head: head.bfloat16())
    OpenVLA.from_pretrained(wide, adapter=folder)


@pytest.mark.parametrize(
    ('head', 'statistics', 'warned'),
    [
        (False, 'the same', True),
        (False, 'other', False),
        (False, 'only the adapter has them', False),
        (True, 'the same', False),
    ],
)
def test_an_adapter_that_may_be_merged_already_is_warned_of(
    fine_tuned, tmp_path, caplog, capsys, head, statistics, warned
):
    folder = copied(fine_tuned[0], tmp_path)
    if not head:
        tensors = load_file(folder / WEIGHTS_FILE)
        del tensors[HEAD_KEY]
        save_file(tensors, str(folder / WEIGHTS_FILE))
    checkpoint = tmp_path / 'checkpoint'
    checkpoint.mkdir()
    for path in CHECKPOINT.iterdir():
        (checkpoint / path.name).symlink_to(path)
    entry = json.loads((CHECKPOINT / 'config.json').read_text())['norm_stats']['bridge_like']
    (folder / 'dataset_statistics.json').write_text(json.dumps({'mine': entry}))
    if statistics != 'only the adapter has them':
        entry['action']['q01'][0] -= 0.0 if statistics == 'the same' else 0.001
        (checkpoint / 'dataset_statistics.json').write_text(json.dumps({'mine': entry}))
    OpenVLA.from_pretrained(checkpoint, adapter=folder)
    assert ('may be merged into this checkpoint already' in caplog.text) == warned
    assert inspect([str(checkpoint), '--adapter', str(folder), '--no-self-test']) == 0
    assert ('may be merged' in capsys.readouterr().out) == warned


def test_a_delta_is_the_sum_over_the_rank():
    """Worked by hand: W[o, i] = scale * sum_r B[o, r] A[r, i]."""
    low = LowRank(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[10.0, 1.0]]))
    assert low.delta(0.5).tolist() == [[5.0, 11.5]]


def test_a_convolution_s_delta_equals_running_it_beside():
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(2, 3, 5, 5, generator=generator)
    B = torch.randn(8, 2, 1, 1, generator=generator)
    images = torch.randn(1, 3, 10, 10, generator=generator)
    beside = nn.functional.conv2d(nn.functional.conv2d(images, A, stride=5), B) * 0.5
    merged = nn.functional.conv2d(images, LowRank(A, B).delta(0.5), stride=5)
    torch.testing.assert_close(merged, beside)


def copied(folder, target):
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (target / name).write_bytes((folder / name).read_bytes())
    return target


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'use_dora': True}, 'use_dora'),
        ({'peft_type': 'IA3'}, 'peft_type'),
        ({'use_qalora': True}, 'use_qalora'),
        ({'alora_invocation_tokens': [5]}, 'alora_invocation_tokens'),
        ({'rank_pattern': {'qkv': 8}}, 'rank_pattern'),
        ({'init_lora_weights': 'pissa'}, 'init_lora_weights'),
        ({'r': 8}, 'expected rank 8'),
        ({'r': None}, 'r is None'),
    ],
)
def test_another_variant_of_adapter_is_refused(fine_tuned, tmp_path, change, message):
    folder = copied(fine_tuned[0], tmp_path)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        LoraAdapter.load(folder)


def test_rank_stabilised_adapters_scale_by_the_root(fine_tuned, tmp_path):
    folder = copied(fine_tuned[0], tmp_path)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, 'use_rslora': True}))
    assert LoraAdapter.load(folder).scale == ALPHA / RANK**0.5


@pytest.mark.parametrize('name', ['elsewhere.fc1', 'projector.fc1'])
def test_an_adapter_of_another_checkpoint_is_refused(fine_tuned, tmp_path, name):
    folder = copied(fine_tuned[0], tmp_path)
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors[f'base_model.model.{name}.lora_A.weight'] = torch.zeros(RANK, 3)
    tensors[f'base_model.model.{name}.lora_B.weight'] = torch.zeros(5, RANK)
    save_file(tensors, str(folder / WEIGHTS_FILE))
    with pytest.raises(ConfigError, match=name):
        OpenVLA.from_pretrained(CHECKPOINT, adapter=folder)


def test_a_head_of_another_vocabulary_is_refused(fine_tuned, tmp_path):
    folder = copied(fine_tuned[0], tmp_path)
    tensors = load_file(folder / WEIGHTS_FILE)
    tensors[HEAD_KEY] = tensors[HEAD_KEY][:-64].clone()
    save_file(tensors, str(folder / WEIGHTS_FILE))
    with pytest.raises(ConfigError, match=r'lm_head\.weight of shape \[32000, 64\]'):
        OpenVLA.from_pretrained(CHECKPOINT, adapter=folder)


def test_half_an_adapter_and_a_strange_tensor_are_refused(fine_tuned, tmp_path):
    folder = copied(fine_tuned[0], tmp_path)
    tensors = load_file(folder / WEIGHTS_FILE)
    half = dict(tensors)
    del half['base_model.model.projector.fc2.lora_B.weight']
    save_file(half, str(folder / WEIGHTS_FILE))
    with pytest.raises(ConfigError, match=r'projector\.fc2'):
        LoraAdapter.load(folder)
    save_file(
        {**tensors, 'base_model.model.x.lora_magnitude_vector': torch.ones(1)},
        str(folder / WEIGHTS_FILE),
    )
    with pytest.raises(ConfigError, match='lora_magnitude_vector'):
        LoraAdapter.load(folder)


def test_a_missing_or_damaged_file_is_named(fine_tuned, tmp_path):
    with pytest.raises(ConfigError, match=CONFIG_FILE):
        LoraAdapter.load(tmp_path)
    folder = copied(fine_tuned[0], tmp_path)
    (folder / WEIGHTS_FILE).write_bytes(b'version https://git-lfs')
    with pytest.raises(ConfigError, match=f'{WEIGHTS_FILE}: is a git-LFS pointer'):
        LoraAdapter.load(folder)
    (folder / WEIGHTS_FILE).rename(folder / 'adapter_model.bin')
    with pytest.raises(ConfigError, match=r'adapter_model\.bin is a pickle'):
        LoraAdapter.load(folder)
