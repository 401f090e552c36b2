"""The architecture of openvla-7b with random weights, built without a download.

Values do not change how long a matrix product takes; what they say does not matter here. Tokens of
random weights are seldom action tokens, so the drafts are made from the tokens themselves.
"""

from __future__ import annotations

from typing import Any

import torch

from openvla_ros.model import OpenVLA

CONFIG: dict[str, Any] = {
    'model_type': 'openvla',
    'vision_backbone_id': 'dinosiglip-vit-so-224px',
    'llm_backbone_id': 'llama2-7b-pure',
    'use_fused_vision_backbone': True,
    'timm_model_ids': ['vit_large_patch14_reg4_dinov2.lvd142m', 'vit_so400m_patch14_siglip_224'],
    'timm_override_act_layers': [None, None],
    'image_sizes': [224, 224],
    'image_resize_strategy': 'resize-naive',
    'pad_to_multiple_of': 64,
    'n_action_bins': 256,
    'torch_dtype': 'bfloat16',
    'text_config': {'model_type': 'llama', 'vocab_size': 32064, 'pad_token_id': 32000},
}
#: 'In: What action should the robot take to put the spoon on the towel?\nOut:' and the lone space.
PROMPT_IDS = [
    int(token)
    for line in (
        '1 512 29901 1724 3158 881 278 19964 2125 304 1925 278 805 6150',
        '373 278 304 29893 295 29973 13 3744 29901 29871',
    )
    for token in line.split()
]
_PATTERN = 2**24 + 1


@torch.no_grad()
def fill(model: OpenVLA, seed: int = 0) -> None:
    """Fill with a repeated pattern of normal numbers: at the speed of memory."""
    device = next(model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    pattern = torch.randn(_PATTERN, generator=generator, device=device) * 0.02
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and ('norm' in name or 'scale_factor' in name):
            parameter.fill_(1.0)
            continue
        flat, start = parameter.view(-1), 0
        while start < len(flat):
            part = pattern[: len(flat) - start]
            flat[start : start + len(part)].copy_(part)
            start += len(part)


def build(device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> OpenVLA:
    """The network on ``device``, weights filled, products joined."""
    model = OpenVLA.from_config(CONFIG, dtype=dtype, device='meta').to_empty(device=device)
    fill(model)
    model.language_model.fuse()
    return model.eval()
