"""OpenVLA: image and prompt in, action tokens out.

The sequence the language model sees is ``[BOS] + P projected patches + the rest of the prompt``,
plainly causal. Letters in shapes: B batch, T prompt ids, P patches, N = T + P, C vision width,
d language width, W rows of the embedding (V plus padding rows), S side of the image.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openvla_ros.action_space.normalization import STATISTICS_FILE
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.adapter_match import check_adapter_match
from openvla_ros.model.checkpoint import (
    CheckpointError,
    Progress,
    ProgressLine,
    StoredTensor,
    check_tensors,
    load_weights,
    save_weights,
    stored_tensors,
)
from openvla_ros.model.config import (
    OpenVLAConfig,
    load_config,
    named_device,
    named_dtype,
)
from openvla_ros.model.cuda_graphs import GraphError
from openvla_ros.model.decoding import (
    DecodeResult,
    EagerPasses,
    Passes,
    greedy_decode,
    jacobi_decode,
)
from openvla_ros.model.hub import checkpoint_folder
from openvla_ros.model.llama import Llama
from openvla_ros.model.lora import LoraAdapter
from openvla_ros.model.preprocessor import PREPROCESSOR_FILE, read_preprocessor
from openvla_ros.model.projector import Projector
from openvla_ros.model.quantization import Quantizer, quantization_scheme
from openvla_ros.model.tokenizer import LLAMA_SPACE_ID, PromptTokenizer, find_tokenizer
from openvla_ros.model.vision import VisionBackbone, unused_shapes
from openvla_ros.observation.image import ImageSpec
from openvla_ros.policy.inference import free_memory

#: Tensors, or what becomes one.
Pixels: TypeAlias = Tensor | NDArray[np.float32]
PromptIds: TypeAlias = Tensor | NDArray[np.int64] | Sequence[int] | Sequence[Sequence[int]]
_TOWER_NAMES = ('featurizer', 'fused_featurizer')
#: The two ways in which the stages of an action run.
EAGER, GRAPHS = 'eager', 'CUDA graphs'
_LOG = logging.getLogger('openvla_ros.model')


class OpenVLA(nn.Module):
    """The network; parameter names are the released checkpoints' tensor names.

    Build it with ``from_pretrained`` or ``from_config``.

    Attributes:
        config: What config.json says.
        preprocessor: The content of preprocessor_config.json.
        image_spec: The same, parsed, for ``core.image.preprocess_image``.
        tokenizer: The checkpoint's own, or None where its folder has none.
        space_id: The id of the lone '▁' that precedes the action tokens.
    """

    def __init__(
        self,
        config: OpenVLAConfig,
        preprocessor: Mapping[str, Any],
        *,
        dtype: torch.dtype,
        device: torch.device | str = 'cpu',
        tokenizer: PromptTokenizer | None = None,
        where: str = PREPROCESSOR_FILE,
    ) -> None:
        super().__init__()
        _check_tokenizer(config, tokenizer)
        factory: dict[str, Any] = {'dtype': dtype, 'device': device}
        self.config = config
        self.preprocessor = preprocessor
        self.image_spec = _matching_spec(config, preprocessor, where)
        self.tokenizer = tokenizer
        self.space_id = tokenizer.space_id if tokenizer else LLAMA_SPACE_ID
        self.vision_backbone = VisionBackbone(config.towers, **factory)
        self.projector = Projector(
            config.vision_dim, config.text.hidden_size, config.fused, **factory
        )
        self.language_model = Llama(config.text, **factory)
        self._passes: Passes | None = None
        self._vision_stage: Callable[[Tensor], Tensor] | None = None
        #: How the stages run, for people: EAGER with or without a reason, or GRAPHS.
        self.execution = EAGER

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        *,
        preprocessor: Mapping[str, Any] | None = None,
        tokenizer: PromptTokenizer | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = 'cpu',
        seed: int = 0,
    ) -> 'OpenVLA':
        """Build a network with random weights, for training from scratch and for benchmarks.

        Args:
            config: The content of a config.json.
            preprocessor: The content of a preprocessor_config.json; by default what the towers'
                timm entries say.
            tokenizer: To go with it.
            dtype: Of the parameters.
            device: Of the parameters; 'meta' builds without memory and without values.
            seed: Of the random weights.

        Raises:
            ConfigError: as ``OpenVLAConfig.from_dict`` and ``ImageSpec.from_config``.
        """
        parsed = OpenVLAConfig.from_dict(config)
        preprocessor = preprocessor or default_preprocessor(parsed)
        # On the meta device first: torch's own initialisation of 7.5e9 weights would be discarded.
        model = cls(parsed, preprocessor, dtype=dtype, device='meta', tokenizer=tokenizer)
        if torch.device(device).type != 'meta':
            model.to_empty(device=device)
            model._reset_parameters(seed)
        return model

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = 'cpu',
        quantization: str | None = None,
        adapter: str | Path | None = None,
        merge_adapter: bool = True,
        allow_download: bool = True,
        progress: Progress | None = None,
    ) -> 'OpenVLA':
        """Load a checkpoint in the released layout, from safetensors and JSON alone.

        Args:
            path_or_hub_id: A folder, or a hub id such as 'openvla/openvla-7b'.
            revision: Branch, tag or commit of a hub id.
            dtype: Of the parameters, as such or by name; None or 'auto' for the one config.json
                names (bfloat16).
            device: Of the parameters; 'auto' is a GPU where there is one.
            quantization: None or a scheme of ``model.quantization``, such as 'nf4' or 'int8'.
            adapter: Folder of a LoRA adapter to put on top; base weights it brings along must be
                the checkpoint's.
            merge_adapter: Add the adapter to the weights; otherwise it runs beside them, and a
                quantized network keeps a product for every layer that one can be put beside.
            allow_download: Fetch a hub id that the local cache does not have; what starts a robot
                (``LocalBackend``) does so only when asked.
            progress: Called with (bytes read, bytes in all); by default a line on stderr.

        Raises:
            ConfigError: there is no such checkpoint or device, one of the checkpoint's JSON
                files cannot be used, or the adapter does not belong to the checkpoint.
            CheckpointError: the weights cannot be used; file and tensor are named.
        """
        device = named_device(device)
        folder = checkpoint_folder(
            path_or_hub_id, revision=revision, allow_download=allow_download
        )
        config = load_config(folder)
        dtype = named_dtype(dtype, config.dtype)
        preprocessor = read_preprocessor(folder)
        model = cls(
            config,
            preprocessor.content,
            dtype=dtype,
            device='meta',
            tokenizer=find_tokenizer(folder),
            where=preprocessor.where,
        )
        stored = stored_tensors(folder)
        used, unused = model.used_shapes(), model.unused_shapes()
        check_tensors(stored, used, unused, folder)
        lora = LoraAdapter.load(adapter).restrict(used, unused) if adapter else None
        if lora is not None:
            _check_match(lora, stored, folder)
        change = None if lora is None or not merge_adapter else lora.merged
        quantizer = None
        if quantization is not None:
            scheme = quantization_scheme(quantization)
            quantizer = Quantizer(model, scheme, device, join=merge_adapter)
        load_weights(
            model,
            [stored[name] for name in used],
            dtype=dtype,
            device=device,
            progress=progress or ProgressLine(folder.name),
            change=change,
            place=None if quantizer is None else quantizer.place,
        )
        if quantizer is not None:
            quantizer.finish()
        if lora is not None and not merge_adapter:
            lora.attach(model, dtype, device)
        return model.eval()

    def used_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor a checkpoint must hold and this network computes with."""
        return {name: tuple(value.shape) for name, value in self.state_dict().items()}

    def unused_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the tensors a checkpoint holds that never run."""
        return {
            f'vision_backbone.{prefix}.{name}': shape
            for prefix, tower in zip(_TOWER_NAMES, self.config.towers)
            for name, shape in unused_shapes(tower).items()
        }

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the towers, which pixel values are cast to."""
        return self.vision_backbone.featurizer.pos_embed.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.vision_backbone.featurizer.pos_embed.device

    @property
    def vocab_size(self) -> int:
        """V: action ids are [V - 256, V - 1]."""
        return self.config.vocab_size

    @property
    def passes(self) -> Passes:
        """The forward passes decoding runs; set it to run them another way (CUDA graphs)."""
        if self._passes is None:
            self._passes = EagerPasses(self.language_model)
        return self._passes

    @passes.setter
    def passes(self, passes: Passes | None) -> None:
        self._passes = passes

    def use_graphs(self, passes: Passes, vision_stage: Callable[[Tensor], Tensor]) -> None:
        """Run the stages as CUDA graphs until one fails; ``model.graph_start`` decides on it.

        Args:
            passes: Of decoding; may raise GraphError.
            vision_stage: Towers and projector, for one image at a time; may raise GraphError.
        """
        self._passes, self._vision_stage, self.execution = passes, vision_stage, GRAPHS

    def leave_graphs(self, reason: str) -> None:
        """Run every stage operation by operation from now on, and warn once."""
        self._passes = self._vision_stage = None
        self.execution = f'{EAGER} (no {GRAPHS}: {reason})'
        free_memory()
        _LOG.warning(
            'CUDA graphs are not used: %s. The network runs operation by operation instead: the '
            'same actions, but slower. To start without trying, set cuda_graphs to off',
            reason,
        )

    def vision_features(self, pixel_values: Pixels) -> Tensor:
        """Patch features of both towers, joined on channels.

        Args:
            pixel_values: float[B, 3 or 6, S, S], tensor or array, from
                ``core.image.preprocess_image``; any float dtype, cast to the towers'.

        Returns:
            [B, P, C].

        Raises:
            ValueError: another number of channels or another size than the checkpoint's.
        """
        pixels = self._checked_pixels(pixel_values)
        features: Tensor = self.vision_backbone(pixels.to(self.device, self.dtype))
        return features

    def _checked_pixels(self, pixel_values: Pixels) -> Tensor:
        pixel_values = torch.as_tensor(pixel_values)
        size = self.image_spec.size
        expected = (3 * len(self.config.towers), size, size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f'pixel_values: got shape {list(pixel_values.shape)}, expected '
                f'[B, {", ".join(map(str, expected))}]'
            )
        return pixel_values

    def project(self, features: Tensor) -> Tensor:
        """Features [B, P, C] to rows of the language model [B, P, d]."""
        rows: Tensor = self.projector(features)
        return rows

    def embed(self, pixel_values: Pixels, input_ids: PromptIds) -> Tensor:
        """The language model's input: [BOS], the image, the rest of the prompt.

        Args:
            pixel_values: float[B, 3 or 6, S, S].
            input_ids: int64[B, T], BOS first.

        Returns:
            [B, N, d].
        """
        image = None
        if self._vision_stage is not None and not torch.is_grad_enabled():
            image = self._graphed_image(self._vision_stage, self._checked_pixels(pixel_values))
        if image is None:
            image = self.project(self.vision_features(pixel_values))
        return self.join(image, input_ids)

    def _graphed_image(self, stage: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor | None:
        """Projected patches by the graph, or None where it was not made for them or failed."""
        if len(pixels) != 1:
            return None
        try:
            return stage(pixels)
        except GraphError as error:
            reason = str(error)
        # Outside the except clause: the traceback holds the graph's tensors.
        self.leave_graphs(reason)
        return None

    def join(self, image: Tensor, input_ids: PromptIds) -> Tensor:
        """Put projected patches [B, P, d] behind the first id of int64[B, T]: [B, N, d].

        Raises:
            ValueError: the ids are not [B, T] or outside the embedding.
        """
        ids = torch.as_tensor(input_ids).to(self.device)
        rows = self.config.text.vocab_size
        if ids.ndim != 2 or ids.shape[0] != image.shape[0] or not ids.shape[1]:
            raise ValueError(
                f'input_ids: got shape {list(ids.shape)}, expected [{image.shape[0]}, T] with the '
                'beginning-of-sequence id first'
            )
        # On a GPU this check would wait for the device; prompt_ids makes it before copying.
        if ids.device.type == 'cpu' and bool(((ids < 0) | (ids >= rows)).any()):
            raise ValueError(f'input_ids: got ids outside 0 to {rows - 1}')
        text = self.language_model.embed(ids).to(image.dtype)
        return torch.cat([text[:, :1], image, text[:, 1:]], dim=1)

    def logits(self, pixel_values: Pixels, input_ids: PromptIds) -> Tensor:
        """Logits after every row of the whole sequence; batched and differentiable.

        The ids are taken as they are (nothing is appended). Row 0 is BOS, rows 1 to P the image,
        row P + i the prompt's id i. Right padding changes nothing to its left.

        Args:
            pixel_values: float[B, 3 or 6, S, S].
            input_ids: int64[B, T].

        Returns:
            [B, N, W] in the language model's dtype.

        Raises:
            ValueError: a shape does not fit, or the sequence is longer than the model's positions.
        """
        logits: Tensor = self.language_model(self.embed(pixel_values, input_ids))
        return logits

    def prompt_ids(self, input_ids: PromptIds) -> Tensor:
        """Return int64[1, T] with the lone space's id appended where it is missing.

        Raises:
            ValueError: more than one prompt, or an id that the embedding does not have.
        """
        ids = torch.as_tensor(input_ids, dtype=torch.int64, device='cpu')
        ids = ids[None] if ids.ndim == 1 else ids
        if ids.ndim != 2 or ids.shape[0] != 1 or not ids.shape[1]:
            raise ValueError(
                f'input_ids: got shape {list(ids.shape)}, expected [T] or [1, T]: one prompt is '
                'decoded at a time'
            )
        if int(ids[0, -1]) != self.space_id:
            ids = torch.cat([ids, ids.new_full((1, 1), self.space_id)], dim=1)
        rows = self.config.text.vocab_size
        if int(ids.min()) < 0 or int(ids.max()) >= rows:
            raise ValueError(
                f'input_ids: got {ids[0].tolist()}, expected ids from 0 to {rows - 1}'
                + ('' if self.tokenizer else f' (without a tokenizer {self.space_id} is appended)')
            )
        return ids.to(self.device)

    @torch.inference_mode()
    def decode(
        self,
        pixel_values: Pixels,
        input_ids: PromptIds,
        num_tokens: int,
        *,
        draft: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> DecodeResult:
        """Decode exactly ``num_tokens`` tokens greedily, and say how.

        Args:
            pixel_values: float[3 or 6, S, S] or [1, 3 or 6, S, S].
            input_ids: int64[T] or [1, T], BOS first; the lone space's id (29871 without a
                tokenizer) is appended where it is missing.
            num_tokens: D, the action's dimension.
            draft: A guess of the tokens, such as the previous action's; it changes the number of
                passes, not the tokens.

        Returns:
            The tokens, their margins and the number of passes. Whether they are action tokens is
            for ``core.action_tokens.decode_action_tokens`` to refuse.

        Raises:
            ValueError: a shape does not fit, no token is asked for, or the draft is too short or
                holds an id that the embedding does not have.
            NonFiniteLogitsError: the network gave NaN or infinity.
        """
        pixels = torch.as_tensor(pixel_values)
        ids = self.prompt_ids(input_ids)
        embeds = self.embed(pixels[None] if pixels.ndim == 3 else pixels, ids)
        return self.decode_embeds(embeds, num_tokens, draft=draft)

    def decode_embeds(
        self,
        embeds: Tensor,
        num_tokens: int,
        *,
        draft: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> DecodeResult:
        """As ``decode``, from the embedded sequence [1, N, d]."""
        if num_tokens < 1:
            raise ValueError(f'num_tokens: got {num_tokens}, expected 1 or more')
        guess = None if draft is None else [int(token) for token in draft]
        rows = self.config.text.vocab_size
        if guess is not None and any(not 0 <= token < rows for token in guess):
            raise ValueError(f'draft: got {guess}, expected ids from 0 to {rows - 1}')
        try:
            return self._decode(embeds, num_tokens, guess)
        except GraphError as error:
            reason = str(error)
        self.leave_graphs(reason)
        return self._decode(embeds, num_tokens, guess)

    def _decode(
        self, embeds: Tensor, num_tokens: int, draft: Sequence[int] | None
    ) -> DecodeResult:
        if draft is None:
            return greedy_decode(self.passes, embeds, num_tokens)
        return jacobi_decode(self.passes, embeds, num_tokens, draft)

    def generate_action_tokens(
        self,
        pixel_values: Pixels,
        input_ids: PromptIds,
        num_tokens: int,
        *,
        draft: Sequence[int] | NDArray[np.int64] | None = None,
    ) -> Tensor:
        """The tokens of ``decode``: int64[num_tokens] on the CPU, each the argmax over all ids."""
        result = self.decode(pixel_values, input_ids, num_tokens, draft=draft)
        return torch.from_numpy(result.tokens)

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        norm_stats: Mapping[str, Any] | None = None,
        max_shard_bytes: int = 5_000_000_000,
    ) -> None:
        """Write the released layout: config, preprocessor, tokenizer, safetensors.

        The tensors that never run are written as zeros, so that the layout is complete.

        Args:
            folder: Made where it does not exist.
            norm_stats: Written as dataset_statistics.json.
            max_shard_bytes: Larger checkpoints become shards with an index.

        Raises:
            CheckpointError: the network is quantised, packed or carries an unmerged adapter.
        """
        folder, state = Path(folder), self.state_dict()
        plain = OpenVLA(self.config, self.preprocessor, dtype=self.dtype, device='meta')
        if {name: tuple(value.shape) for name, value in state.items()} != plain.used_shapes():
            raise CheckpointError(
                f'{folder}: not written: the network is quantised, packed for a CPU or has an '
                'unmerged adapter; load it by OpenVLA.from_pretrained without quantization and '
                'with merge_adapter, then save it'
            )
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / 'config.json', self.config.raw)
        _write_json(folder / PREPROCESSOR_FILE, self.preprocessor)
        if norm_stats is not None:
            _write_json(folder / STATISTICS_FILE, norm_stats)
        if self.tokenizer is not None:
            self.tokenizer.save(folder)
        save_weights(state, self.unused_shapes(), folder, max_shard_bytes)

    @torch.no_grad()
    def _reset_parameters(self, seed: int) -> None:
        generator = torch.Generator(device=self.device).manual_seed(seed)
        self.vision_backbone.reset_parameters(generator)
        self.projector.reset_parameters(generator)
        self.language_model.reset_parameters(seed)


def default_preprocessor(config: OpenVLAConfig) -> dict[str, Any]:
    """The preprocessor_config.json that goes with a configuration's towers."""
    towers = config.towers
    return {
        'processor_class': 'PrismaticProcessor',
        'image_processor_type': 'PrismaticImageProcessor',
        'use_fused_vision_backbone': config.fused,
        'image_resize_strategy': config.image_resize_strategy,
        'input_sizes': [[3, tower.img_size, tower.img_size] for tower in towers],
        'interpolations': ['bicubic' for _ in towers],
        'means': [list(tower.mean) for tower in towers],
        'stds': [list(tower.std) for tower in towers],
    }


def _check_match(adapter: LoraAdapter, stored: Mapping[str, StoredTensor], folder: Path) -> None:
    doubt = check_adapter_match(adapter, stored, folder)
    if doubt:
        _LOG.warning('%s', doubt)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')


def _matching_spec(config: OpenVLAConfig, content: Mapping[str, Any], where: str) -> ImageSpec:
    spec = ImageSpec.from_config(content, where)
    wanted = [tower.img_size for tower in config.towers]
    if [tower.size for tower in spec.towers] != wanted:
        raise ConfigError(
            f'{where}: input_sizes describes {[tower.size for tower in spec.towers]}, expected '
            f'{wanted} as image_sizes in config.json'
        )
    return spec


def _check_tokenizer(config: OpenVLAConfig, tokenizer: PromptTokenizer | None) -> None:
    if tokenizer is not None and tokenizer.vocab_size != config.vocab_size:
        raise ConfigError(
            f'{tokenizer.folder}/tokenizer.json: has {tokenizer.vocab_size} pieces, expected '
            f'{config.vocab_size} (text_config.vocab_size without pad_to_multiple_of): the last '
            f'{config.n_action_bins} of them are the actions'
        )
