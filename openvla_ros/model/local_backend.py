"""The network in this process: image and instruction in, an action in dataset units out."""

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.action_space.action_tokens import decode_action_tokens
from openvla_ros.action_space.normalization import (
    STATISTICS_FILE,
    ActionStats,
    load_norm_stats,
    resolve_unnorm_key,
    unnormalize_action,
)
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.compilation import compile_vision
from openvla_ros.model.config import named_device, named_dtype, read_json_object
from openvla_ros.model.decoding import neutral_draft
from openvla_ros.model.gpu_resize import DevicePreprocessor
from openvla_ros.model.graph_start import graphs_wanted, start_graphs
from openvla_ros.model.host_memory import keep_freed_memory
from openvla_ros.model.hub import checkpoint_folder
from openvla_ros.model.openvla import OpenVLA
from openvla_ros.model.packed_linear import pack_weights
from openvla_ros.model.precision import precision_of_checkpoint
from openvla_ros.model.self_test import run_self_test
from openvla_ros.observation.image import preprocess_image, resize_image
from openvla_ros.observation.instruction import MAX_TOKENS, InstructionRefused, quoted
from openvla_ros.observation.prompt import build_prompt
from openvla_ros.policy.inference import PredictedAction


class LocalBackend:
    """An ``InferenceBackend``: a checkpoint with the statistics of one dataset.

    Args:
        model: A network with its tokenizer.
        norm_stats: Statistics by unnorm_key.
        unnorm_key: Which of them; None where there is only one.
        description: For logs; the network's sizes by default.
        use_draft: Let the previous action's tokens be verified in one pass; the tokens are the
            same, found in fewer passes.

    Raises:
        ConfigError: the network has no tokenizer.
        UnnormKeyError: the statistics to use are not determined.
    """

    def __init__(
        self,
        model: OpenVLA,
        norm_stats: Mapping[str, ActionStats],
        unnorm_key: str | None,
        *,
        description: str = '',
        use_draft: bool = True,
    ) -> None:
        if model.tokenizer is None:
            raise ConfigError(
                'the checkpoint has no tokenizer.json, so an instruction cannot be put to it; '
                'copy the tokenizer files of its base model into its folder'
            )
        self.model = model
        self.norm_stats: Mapping[str, ActionStats] | None = norm_stats
        self.unnorm_key = resolve_unnorm_key(norm_stats, unnorm_key)
        self.stats = norm_stats[self.unnorm_key]
        self.image_size = model.image_spec.size
        self._description = description or f'OpenVLA, {model.dtype} on {model.device}'
        self._preprocess = DevicePreprocessor(model.image_spec, model.device, model.dtype)
        self._prompt: tuple[str, torch.Tensor] | None = None
        self._use_draft = use_draft
        self._draft: NDArray[np.int64] | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        unnorm_key: str | None = None,
        *,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str = 'cpu',
        quantization: str | None = None,
        adapter: str | Path | None = None,
        revision: str | None = None,
        allow_download: bool = False,
        allow_base_statistics: bool = False,
        allow_slow: bool = False,
        use_draft: bool = True,
        cuda_graphs: str = 'auto',
        compile_towers: bool = False,
        **options: Any,
    ) -> 'LocalBackend':
        """Load a checkpoint folder or hub id; arguments as in ``OpenVLA.from_pretrained``.

        Args:
            path: Folder or hub id.
            unnorm_key: The dataset whose statistics are used; None where there is only one.
            dtype: Of the parameters; None or 'auto' for the checkpoint's, or float32 where a CPU
                has no bfloat16 instructions.
            device: Where it runs; 'auto' is a GPU where there is one.
            quantization: None or 'none', 'auto' (by free memory, see ``model.precision``), or a
                scheme such as 'nf4' or 'int8'.
            adapter: LoRA adapter folder; its own dataset_statistics.json is used.
            revision: Of a hub id.
            allow_download: Fetch a hub id that is not in the cache.
            allow_base_statistics: Use the base model's statistics with an adapter that has none.
            allow_slow: Load a model of billions of parameters on a CPU all the same.
            use_draft: See the class.
            cuda_graphs: Whether every stage runs as a CUDA graph: 'auto' on a CUDA device, 'on'
                refuses other devices, 'off' never. Graphs that fail or give other tokens are
                warned of and not used (``model.graph_start``).
            compile_towers: Compile the vision part; not bit for bit, see ``model.compilation``.
            options: Further arguments of ``OpenVLA.from_pretrained``.

        Raises:
            ConfigError, CheckpointError, UnnormKeyError: see there and above.
        """
        folder = checkpoint_folder(path, revision=revision, allow_download=allow_download)
        norm_stats = norm_stats_of(folder, adapter, allow_base=allow_base_statistics)
        key = resolve_unnorm_key(norm_stats, unnorm_key)  # before 15 GB are read
        device = named_device(device)
        try_graphs = graphs_wanted(cuda_graphs, device)
        precision = precision_of_checkpoint(
            folder,
            device,
            dtype=None if dtype in (None, 'auto') else named_dtype(dtype, torch.bfloat16),
            quantization=None if quantization in ('none', '') else quantization,
            allow_slow=allow_slow,
        )
        model = OpenVLA.from_pretrained(
            folder,
            dtype=precision.dtype,
            device=device,
            quantization=precision.quantization,
            adapter=adapter,
            **options,
        )
        model.language_model.fuse()
        if model.device.type == 'cpu':
            pack_weights(model.language_model if compile_towers else model)
            keep_freed_memory()
        if compile_towers:
            compile_vision(model)
        if try_graphs:
            start_graphs(model, norm_stats[key].action_dim)
        description = f'{path}' + (f' + {adapter}' if adapter else '')
        description += f', {key}, {precision.reason}'
        return cls(model, norm_stats, key, description=description, use_draft=use_draft)

    @property
    def description(self) -> str:
        """Checkpoint, statistics, precision and how the network runs, in one line."""
        execution = self.model.execution if hasattr(self, 'model') else 'closed'
        return f'{self._description}, {execution}'

    def warm_up(self) -> None:
        """Run the self-test, then one action of each kind, so that the next takes its usual time.

        Raises:
            SelfTestError: the model ignores its image or its logits are not finite.
        """
        run_self_test(self.model, self.stats.action_dim)
        image = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        pixel_values = self._pixel_values(image)
        prompt = self._input_ids('pick up the block')
        result = self.model.decode(pixel_values, prompt, self.stats.action_dim)
        if self._use_draft:
            self.model.decode(pixel_values, prompt, self.stats.action_dim, draft=result.tokens)
        self.reset()

    def predict(self, image: NDArray[np.uint8], instruction: str) -> PredictedAction:
        """Compute one action.

        Args:
            image: uint8[H, W, 3], RGB, after the recipe of the dataset profile.
            instruction: What the human wrote.

        Raises:
            NonActionTokenError: the network wrote a token that is not an action.
            NonFiniteLogitsError: the network gave NaN or infinity.
            InstructionRefused: the instruction is too long for the network.
        """
        model, clock = self.model, _Stages(self.model.device)
        input_ids = self._input_ids(instruction)
        # Nothing is kept from an action that fails.
        draft, self._draft = self._draft, None
        if draft is None and self._use_draft:
            # Standing still, as good a guess as any and better than none.
            draft = np.array(neutral_draft(self.stats.action_dim, model.vocab_size))
        with torch.inference_mode():
            pixel_values = self._pixel_values(image)
            clock.end('preprocess')
            embeds = model.embed(pixel_values, input_ids)
            clock.end('vision')
            result = model.decode_embeds(embeds, self.stats.action_dim, draft=draft)
        clock.end('decode')
        action_norm = decode_action_tokens(
            result.tokens, model.vocab_size, model.config.n_action_bins
        )
        if self._use_draft:
            self._draft = result.tokens
        return PredictedAction(
            action=unnormalize_action(action_norm, self.stats),
            action_tokens=result.tokens,
            stage_s=clock.stage_s(),
            num_passes=result.num_passes,
            min_margin=result.min_margin,
            execution=model.execution,
        )

    def model_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return uint8[S, S, 3]: the image as the (first) tower sees it, before normalisation."""
        return resize_image(image, self.model.image_spec)

    def reset(self) -> None:
        """Forget the previous action's tokens."""
        self._draft = None

    def close(self) -> None:
        """Free the network's memory."""
        self._draft = None
        device = self.model.device
        del self.model
        if device.type == 'cuda':
            torch.cuda.empty_cache()

    def _pixel_values(self, image: NDArray[np.uint8]) -> torch.Tensor:
        """[1, C, S, S] where the network is; the same bits on a GPU as on the CPU."""
        if self.model.device.type == 'cpu':
            return torch.from_numpy(preprocess_image(image, self.model.image_spec))[None]
        return self._preprocess(image)

    def _input_ids(self, instruction: str) -> torch.Tensor:
        """The prompt's ids where the network is; they and the draft go with the instruction."""
        if self._prompt is None or self._prompt[0] != instruction:
            self._prompt = instruction, self._tokenize(instruction)
            self._draft = None
        return self._prompt[1]

    def _tokenize(self, instruction: str) -> torch.Tensor:
        model = self.model
        assert model.tokenizer is not None
        input_ids = model.prompt_ids(
            model.tokenizer(build_prompt(instruction, model.config.prompt_family))
        )
        rows = input_ids.shape[1] + model.config.num_patches + self.stats.action_dim
        if rows > model.config.text.max_position_embeddings:
            raise InstructionRefused(
                f'the instruction {quoted(instruction)} takes {input_ids.shape[1]} tokens; with '
                f'image and action that is {rows} of '
                f'{model.config.text.max_position_embeddings} positions; shorten it'
            )
        template = model.prompt_ids(model.tokenizer(build_prompt('', model.config.prompt_family)))
        own = input_ids.shape[1] - template.shape[1]
        if own > MAX_TOKENS:
            raise InstructionRefused(
                f'the instruction {quoted(instruction)} takes {own} tokens, expected at most '
                f'{MAX_TOKENS}; cut it to one short sentence'
            )
        return input_ids


def norm_stats_of(
    folder: Path, adapter: str | Path | None, *, allow_base: bool = False
) -> dict[str, ActionStats]:
    """Read the statistics that belong to a checkpoint, or to the adapter on top of it.

    Raises:
        ConfigError: there are none, or an adapter has none of its own and ``allow_base`` is not
            set: its actions are in the units of the data it was trained on, not the base model's.
    """
    config = read_json_object(folder / 'config.json')
    if adapter is None or (allow_base and not (Path(adapter) / STATISTICS_FILE).is_file()):
        return load_norm_stats(folder, config)
    if not (Path(adapter) / STATISTICS_FILE).is_file():
        raise ConfigError(
            f'{adapter}: has no {STATISTICS_FILE}; the statistics of the base model do not belong '
            'to a fine-tuned one; copy the file from the training run into the adapter folder, or '
            'set allow_base_statistics if it was trained with the very same statistics'
        )
    return load_norm_stats(adapter, None)


def statistics_of(
    path: str | Path, adapter: str | Path | None = None, *, revision: str | None = None
) -> dict[str, ActionStats]:
    """Read the statistics of a checkpoint that is on this machine, by its path or hub id.

    Raises:
        ConfigError: as ``checkpoint_folder`` and ``norm_stats_of``.
    """
    return norm_stats_of(checkpoint_folder(path, revision=revision), adapter)


class _Stages:
    """Time from one stage's end to the next: on the clock, or between events in a GPU's queue."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._on_gpu = device.type == 'cuda'
        self._names: list[str] = []
        self._marks: list[Any] = [self._mark()]

    def end(self, stage: str) -> None:
        """Note the end of a stage, without waiting for it."""
        self._names.append(stage)
        self._marks.append(self._mark())

    def stage_s(self) -> dict[str, float]:
        """Seconds by stage; call it once the last stage's results have been read."""
        pairs = pairwise(self._marks)
        if not self._on_gpu:
            return {name: after - before for name, (before, after) in zip(self._names, pairs)}
        self._marks[-1].synchronize()
        return {
            name: 1e-3 * before.elapsed_time(after)
            for name, (before, after) in zip(self._names, pairs)
        }

    def _mark(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True, blocking=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
