"""Say what a checkpoint is: ``python -m openvla_ros.model.inspect PATH``.

Everything but the self-test is read from JSON and the headers of the weight files.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from openvla_ros.action_space.dataset_profile import (
    DatasetProfile,
    check_step_envelope,
    find_dataset_profile,
)
from openvla_ros.action_space.normalization import ActionStats
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.adapter_match import check_adapter_match
from openvla_ros.model.checkpoint import StoredTensor, check_tensors, stored_tensors
from openvla_ros.model.config import OpenVLAConfig, load_config, named_device
from openvla_ros.model.hub import checkpoint_folder
from openvla_ros.model.local_backend import norm_stats_of
from openvla_ros.model.lora import LoraAdapter
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.precision import (
    free_memory_bytes,
    has_native_bf16,
    needed_bytes,
    precision_of_checkpoint,
)
from openvla_ros.model.preprocessor import read_preprocessor
from openvla_ros.model.quantization import SCHEMES
from openvla_ros.model.self_test import run_self_test
from openvla_ros.model.tokenizer import PromptTokenizer, find_tokenizer
from openvla_ros.observation.prompt import build_prompt

_PARTS = {
    'first tower': 'vision_backbone.featurizer.',
    'second tower': 'vision_backbone.fused_featurizer.',
    'projector': 'projector.',
    'language model': 'language_model.model.layers.',
    'embedding, norm': 'language_model.model.',
    'output head': 'language_model.lm_head.',
}
_LICENCES = {
    'llama2': 'Llama 2 Community License (the language model is derived from Llama 2)',
    'vicuna': 'Llama 2 Community License (Vicuna v1.5 is derived from Llama 2)',
    'dinov2': 'Apache-2.0 (DINOv2)',
    'siglip': 'Apache-2.0 (SigLIP)',
}
# Far below this the language model cannot hold Llama's weights, whatever its backbone id says.
_LEAST_LLAMA_PARAMETERS = 6_000_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 0 when the checkpoint can be used, 1 when it is refused."""
    options = _parser().parse_args(arguments)
    try:
        folder = checkpoint_folder(
            options.path, revision=options.revision, allow_download=options.allow_download
        )
        for line in report(
            folder, adapter=options.adapter, dataset_directory=options.dataset_directory
        ):
            print(line)
        if not options.no_self_test:
            print(_row('self-test', self_test(folder, options.adapter, options.device)))
    except ValueError as error:  # ConfigError, CheckpointError and SelfTestError are some
        print(f'refused: {error}', file=sys.stderr)
        return 1
    return 0


def report(
    folder: Path,
    *,
    adapter: str | Path | None = None,
    dataset_directory: str | Path | None = None,
) -> list[str]:
    """Return the lines that describe a checkpoint folder.

    Args:
        folder: The checkpoint's.
        adapter: Folder of a LoRA adapter on top of it.
        dataset_directory: Folder of dataset profiles; the package's own if None.

    Raises:
        ConfigError, CheckpointError: it cannot be used; the message says why.
    """
    config = load_config(folder)
    preprocessor = read_preprocessor(folder)
    tokenizer = find_tokenizer(folder)
    model = OpenVLA(
        config,
        preprocessor.content,
        dtype=config.dtype,
        device='meta',
        tokenizer=tokenizer,
        where=preprocessor.where,
    )
    stored = stored_tensors(folder)
    check_tensors(stored, model.used_shapes(), model.unused_shapes(), folder)
    doubts = _adapter_doubts(model, stored, folder, adapter)
    statistics = norm_stats_of(folder, adapter, allow_base=True)
    return [
        f'{folder}',
        *doubts,
        *_architecture(config),
        *_prompt(config, tokenizer),
        *_image(model),
        *_parameters(stored, set(model.used_shapes())),
        *_precisions(model),
        *_statistics(statistics, dataset_directory),
        *_licences(config, stored),
    ]


def self_test(folder: Path, adapter: str | Path | None, device: str) -> str:
    """Load the weights and run the self-test; return what it says, or why it was not run.

    Raises:
        SelfTestError: the model must not be used.
    """
    chosen = named_device(device)
    try:
        precision = precision_of_checkpoint(folder, chosen, allow_slow=True)
    except ConfigError as error:
        return f'not run: {error}'
    model = OpenVLA.from_pretrained(
        folder,
        dtype=precision.dtype,
        device=chosen,
        quantization=precision.quantization,
        adapter=adapter,
    )
    return f'passed in {precision.name} on {chosen}; {run_self_test(model).sentence()}'


def _adapter_doubts(
    model: OpenVLA,
    stored: Mapping[str, StoredTensor],
    folder: Path,
    adapter: str | Path | None,
) -> list[str]:
    if adapter is None:
        return []
    lora = LoraAdapter.load(adapter).restrict(model.used_shapes(), model.unused_shapes())
    doubt = check_adapter_match(lora, stored, folder)
    return [_row('adapter', f'{adapter}'), *([_row('', doubt)] if doubt else [])]


def _architecture(config: OpenVLAConfig) -> list[str]:
    lines = []
    for i, tower in enumerate(config.towers):
        lines.append(
            _row(
                'architecture' if i == 0 else '',
                f'{tower.timm_id}, {tower.img_size} px, {tower.num_patches} patches, width '
                f'{tower.embed_dim}, {tower.depth - 1} of {tower.depth} blocks run',
            )
        )
    text = config.text
    layers = 3 if config.fused else 2
    return [
        *lines,
        _row('', f'projector of {layers} layers, {config.vision_dim} to {text.hidden_size}'),
        _row(
            '',
            f'Llama ({config.llm_backbone_id}), {text.num_hidden_layers} layers, width '
            f'{text.hidden_size}, {text.num_attention_heads} heads',
        ),
        _row(
            'action tokens',
            f'ids {config.vocab_size - config.n_action_bins} to {config.vocab_size - 1} of '
            f'{config.text.vocab_size} rows',
        ),
    ]


def _prompt(config: OpenVLAConfig, tokenizer: PromptTokenizer | None) -> list[str]:
    prompt = build_prompt('<instruction>', config.prompt_family)
    lines = [_row('prompt', f'{config.prompt_family}: {prompt!r}')]
    if tokenizer is None:
        return [*lines, _row('tokenizer', 'none: instructions cannot be put to this checkpoint')]
    return [*lines, _row('tokenizer', f'tokenizer.json, {tokenizer.vocab_size} pieces')]


def _image(model: OpenVLA) -> list[str]:
    spec = model.image_spec
    filters = ', '.join(dict.fromkeys(tower.interpolation for tower in spec.towers))
    lines = [_row('image', f'{spec.size} x {spec.size}, {spec.resize_strategy}, {filters}')]
    for i, tower in enumerate(spec.towers):
        mean, std = (', '.join(f'{v:.9g}' for v in values) for values in (tower.mean, tower.std))
        derived = model.preprocessor['means'][i], model.preprocessor['stds'][i]
        note = '' if ([*tower.mean], [*tower.std]) == derived else ' (stored bfloat16)'
        lines.append(_row('', f'tower {i}: mean {mean}; std {std}{note}'))
    return lines


def _parameters(stored: Mapping[str, StoredTensor], used: set[str]) -> list[str]:
    rows: list[tuple[str, ...]] = []
    left = dict(stored)
    for part, prefix in _PARTS.items():
        names = [name for name in left if name.startswith(prefix)]
        tensors = [left.pop(name) for name in names]
        if tensors:
            rows.append((part, *_sizes(tensors)))
    dead = [tensor for name, tensor in stored.items() if name not in used]
    files = {tensor.file for tensor in stored.values()}
    rows.append(('all', *_sizes(stored.values())))
    rows.append(('of it never run', *_sizes(dead)))
    dtypes = ', '.join(sorted({str(t.dtype).removeprefix('torch.') for t in stored.values()}))
    head = _row('parameters', f'{len(stored)} tensors of {dtypes} in {len(files)} file(s)')
    return [head, *_table(rows)]


def _sizes(tensors: Iterable[StoredTensor]) -> tuple[str, str]:
    tensors = list(tensors)
    count = sum(math.prod(tensor.shape) for tensor in tensors)
    return f'{count:,}', f'{sum(tensor.nbytes for tensor in tensors) / 1e9:.3f} GB'


def _precisions(model: OpenVLA) -> list[str]:
    lines = []
    for name in dict.fromkeys([named_device('auto').type, 'cpu']):
        device = torch.device(name)
        free = free_memory_bytes(device)
        rows = []
        for label, scheme, dtype in [
            ('float32', None, torch.float32),
            ('bfloat16', None, torch.bfloat16),
            *((scheme.name, scheme, torch.bfloat16) for scheme in SCHEMES.values()),
        ]:
            needed = needed_bytes(
                model.used_shapes(), model.config.text, dtype, scheme, device.type
            )
            fits = 'fits' if needed <= free else 'does not fit'
            rows.append((label, f'{needed / 1e9:.2f} GB', fits))
        native = '' if has_native_bf16(device) else ', bfloat16 emulated'
        lines.append(_row('precisions', f'{name}, {free / 1e9:.1f} GB free{native}'))
        lines += _table(rows)
    return lines


def _statistics(statistics: Mapping[str, ActionStats], directory: str | Path | None) -> list[str]:
    head = ('unnorm_key', 'tokens', 'x', 'y', 'z [mm]', 'r1', 'r2', 'r3 [mrad]', 'profile')
    rows: list[tuple[str, ...]] = [head]
    refusals = []
    for key, stats in statistics.items():
        profile = find_dataset_profile(key, directory)
        rows.append((key, str(stats.action_dim), *_envelope(stats, profile)))
        refusals += _refusals(key, stats, profile)
    reach = 'reach of one step, lowest and highest'
    return [_row('statistics', reach), *_table(rows), *refusals]


def _refusals(key: str, stats: ActionStats, profile: DatasetProfile | None) -> list[str]:
    """What policy_node would say of these statistics, if it refuses them."""
    try:
        if profile is not None:
            check_step_envelope(stats, profile)
    except ConfigError as error:
        return [_row('', f'{key} is refused by policy_node: {error}')]
    return []


def _envelope(stats: ActionStats, profile: DatasetProfile | None) -> tuple[str, ...]:
    if stats.action_dim != 7:
        return (*[''] * 6, f'{stats.action_dim} values are not a pose and a gripper')
    # Without a profile the usual units are taken, metres and radians, and it is said.
    metres = profile.translation_scale_m if profile else 1.0
    radians = profile.rotation_scale_rad if profile else 1.0
    low, high = stats.envelope()
    cells = [
        f'{low[i] * scale * 1e3:+.1f} {high[i] * scale * 1e3:+.1f}'
        for i, scale in enumerate([metres] * 3 + [radians] * 3)
    ]
    return (*cells, f'{1.0 / profile.step_s:.3g} Hz' if profile else 'none: as m and rad')


def _licences(config: OpenVLAConfig, stored: Mapping[str, StoredTensor]) -> list[str]:
    count = sum(math.prod(tensor.shape) for tensor in stored.values())
    if count < _LEAST_LLAMA_PARAMETERS:
        return [_row('licence', 'too small to hold the weights of Llama 2; ask who trained it')]
    parts = [config.llm_backbone_id, *(tower.timm_id for tower in config.towers)]
    found = [text for word, text in _LICENCES.items() if any(word in part for part in parts)]
    lines = [_row('licence' if i == 0 else '', text) for i, text in enumerate(found)]
    return [*lines, _row('', "and the data's own, for what the checkpoint was fine-tuned on")]


def _row(label: str, text: str) -> str:
    return f'{label:<15}{text}'


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows)]
    return [
        _row('', '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        for row in rows
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m openvla_ros.model.inspect', description='Say what a checkpoint is.'
    )
    add = parser.add_argument
    add('path', help='folder of the checkpoint, or a hub id that is in the cache')
    add('--adapter', help='folder of a LoRA adapter to go on top')
    add('--dataset-directory', help="folder of dataset profiles (default: the package's own)")
    add('--revision', help='branch, tag or commit of a hub id')
    add('--device', default='auto', help="of the self-test: 'auto', 'cpu' or 'cuda'")
    add('--no-self-test', action='store_true', help='do not load the weights')
    add('--allow-download', action='store_true', help='fetch a hub id that is not in the cache')
    return parser


if __name__ == '__main__':
    sys.exit(main())
