"""Computed memory against what autograd really keeps, and against what is known of openvla-7b."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from openvla_ros.core.resources import resource_path
from openvla_ros.model import OpenVLA
from openvla_ros.training.examples import IGNORED, Batch, answer_logits
from openvla_ros.training.fine_tuning import FineTuning, Optimization
from openvla_ros.training.memory import Plan, saved_bytes, training_memory
from openvla_ros.training.new_adapter import new_adapter
from openvla_ros.training.strategies import select_trained

RELEASED = {
    'model_type': 'openvla',
    'vision_backbone_id': 'dinosiglip-vit-so-224px',
    'llm_backbone_id': 'llama2-7b-pure',
    'use_fused_vision_backbone': True,
    'timm_model_ids': ['vit_large_patch14_reg4_dinov2.lvd142m', 'vit_so400m_patch14_siglip_224'],
    'image_sizes': [224, 224],
    'image_resize_strategy': 'resize-naive',
    'n_action_bins': 256,
    'pad_to_multiple_of': 64,
    'torch_dtype': 'bfloat16',
    'text_config': {'model_type': 'llama', 'vocab_size': 32064},
}


def plan(strategy='lora', micro_batch=16, quantization=None, recompute=True, bfloat16=True):
    return Plan(strategy, 32, micro_batch, bfloat16, quantization, recompute, 'cuda')


@pytest.mark.parametrize(
    ('planned', 'at_least', 'at_most'),
    [
        # Upstream names 72 GB for a batch of 16; weights and adapters alone are 15.0 + 1.8 GB.
        (plan(recompute=False), 70.0, 74.0),
        (plan(), 16.8, 24.0),
        # 0.5625 bytes for each of the 6.5 billion weights in the language model's matrices.
        (plan(quantization='nf4'), 0.5625 * 6.5 + 1.8, 12.5),
    ],
)
def test_openvla_7b_takes_what_it_is_known_to_take(planned, at_least, at_most):
    model = OpenVLA.from_config(RELEASED, device='meta', dtype=torch.bfloat16)
    assert at_least < training_memory(model, planned).total / 1e9 < at_most


def really_saved(model, strategy):
    """Bytes autograd keeps for two examples, weights apart."""
    if strategy == 'lora':
        new_adapter(model, 32, 16, 0).attach(model, torch.float32, 'cpu')
    trained = select_trained(model, strategy)
    FineTuning(model, trained, Optimization(bfloat16=False, recompute=False))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.zeros(2, 64, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    labels[:, -9:] = 5
    size = model.image_spec.size
    batch = Batch(torch.randn(2, model.image_spec.channels, size, size), ids, labels)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        logits, targets = answer_logits(model, batch)
        torch.nn.functional.cross_entropy(logits.float(), targets)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize('strategy', ['lora', 'full', 'sandwich', 'frozen_vision', 'last_layer'])
def test_what_is_computed_is_what_autograd_keeps(strategy):
    model = OpenVLA.from_pretrained(resource_path('checkpoints/demo'), dtype='float32')
    computed = saved_bytes(model, plan(strategy, 2, recompute=False, bfloat16=False))
    # Which parts of attention are kept is the kernel's, and the meta device has none.
    assert computed == pytest.approx(really_saved(model, strategy), rel=0.1)


@pytest.mark.parametrize('strategy', ['lora', 'full', 'frozen_vision'])
def test_blocks_that_are_computed_again_keep_less(strategy):
    model = OpenVLA.from_config(RELEASED, device='meta', dtype=torch.bfloat16)
    plain = saved_bytes(model, plan(strategy, 2, recompute=False))
    assert saved_bytes(model, plan(strategy, 2)) < 0.15 * plain
