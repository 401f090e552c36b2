"""The stages of an action as CUDA graphs: vision, prefill, and a step of each number of rows.

A graph replays all kernels of a stage with one launch; eager torch needs thousands, which on a
fast GPU take longer than the arithmetic. Replay runs the very kernels that were captured (class
L0). Shapes and addresses must not change, so

- the prefill runs on a whole multiple of 64 rows, with the draft right behind the prompt and
  whatever lies behind both ignored: causal rows do not see it. Prompts of one multiple, which is
  most of them, share a graph, so a new instruction need not be captured;
- a step attends to the whole cache through a mask, its position a number on the device.

Both change which rows a matrix kernel works on, not the algorithm (class L1).

Without a GPU the same bodies run uncaptured; that is what the tests do. The capture itself has not
been run on a GPU yet.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openvla_ros.model.decoding import Choices, choose
from openvla_ros.model.kv_cache import IndexedWindow, KVCache
from openvla_ros.model.llama import Llama
from openvla_ros.model.projector import Projector
from openvla_ros.model.vision import VisionBackbone

if TYPE_CHECKING:
    from openvla_ros.model.openvla import OpenVLA

_GRANULARITY = 64
_WARM_RUNS = 3
#: Prompt beside the image: template, instruction and the lone space, 20 to 60 rows.
_USUAL_PROMPT_ROWS = 40


class Stage:
    """A body that reads and writes tensors of fixed addresses; one graph launch when captured."""

    def __init__(self, body: Callable[[], None], pool: Any) -> None:
        self._body = body
        self._graph: torch.cuda.CUDAGraph | None = None
        if pool is not None:
            self._capture(pool)

    def _capture(self, pool: Any) -> None:
        # On a side stream first: libraries allocate their workspaces on their first call.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_RUNS):
                self._body()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads of the process (ROS) may do as they like meanwhile.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode='thread_local'):
            self._body()

    def __call__(self) -> None:
        """Run it on the current stream."""
        if self._graph is None:
            self._body()
        else:
            self._graph.replay()


def graph_pool(device: torch.device, capture: bool) -> Any:
    """Memory that stages which never overlap share; None where nothing is captured.

    Raises:
        RuntimeError: capturing is asked for without a GPU.
    """
    if not capture:
        return None
    if device.type != 'cuda':
        raise RuntimeError(
            f'CUDA graphs were asked for on {device}; use a CUDA device or leave them out'
        )
    return torch.cuda.graph_pool_handle()


class HostLink:
    """A few numbers to the device before a stage, its choices back after: one wait per pass."""

    def __init__(self, device: torch.device, rows: int) -> None:
        pinned = device.type == 'cuda'
        self._numbers_host = torch.zeros(rows + 1, dtype=torch.int64, pin_memory=pinned)
        self.numbers = torch.zeros(rows + 1, dtype=torch.int64, device=device)
        self.choices = torch.zeros(2, rows, dtype=torch.float64, device=device)
        self._choices_host = torch.zeros(2, rows, dtype=torch.float64, pin_memory=pinned)
        # A blocking event sleeps in the driver: the GIL and the core are free meanwhile.
        self._arrived: torch.cuda.Event | None = None
        if pinned:
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def send(self, numbers: Sequence[int]) -> None:
        """Put numbers where the stage reads them; those not given stay."""
        count = len(numbers)
        self._numbers_host[:count] = torch.tensor(numbers, dtype=torch.int64)
        self.numbers[:count].copy_(self._numbers_host[:count], non_blocking=True)

    def receive(self) -> Choices:
        """Wait for the stage and return its choices float64[2, rows]."""
        self._choices_host.copy_(self.choices, non_blocking=True)
        if self._arrived is not None:
            self._arrived.record()
            self._arrived.synchronize()
        return self._choices_host.numpy().copy()


class GraphPasses:
    """The passes of decoding as graphs; an implementation of ``decoding.Passes``.

    Args:
        llama: The language model, weights in place (they must not move any more).
        num_tokens: D, of every action.
        capture: Capture graphs; by default where the model is on a GPU.
    """

    def __init__(self, llama: Llama, num_tokens: int, *, capture: bool | None = None) -> None:
        device = llama.lm_head.weight.device
        self._llama = llama
        self._num_tokens = num_tokens
        self._pool = graph_pool(device, device.type == 'cuda' if capture is None else capture)
        self._dtype = llama.model.norm.weight.dtype
        self._device = device
        self._links = [HostLink(device, rows) for rows in range(1, num_tokens + 1)]
        self._cache: KVCache | None = None
        self._embeds: dict[int, Tensor] = {}
        self._prefills: dict[int, Stage] = {}
        self._steps: dict[int, Stage] = {}

    @torch.inference_mode()
    def prepare(self, prompt_rows: int) -> None:
        """Capture everything that prompts of about this many rows need."""
        self._prefill_stage(self._bucket(prompt_rows))
        for rows in range(1, self._num_tokens):
            self._step_stage(rows)

    @torch.inference_mode()
    def prefill(self, embeds: Tensor, draft: Sequence[int], num_tokens: int) -> Choices:
        """See ``decoding.Passes``.

        Raises:
            ValueError: another number of tokens than it was made for.
        """
        if num_tokens != self._num_tokens or len(draft) not in (0, num_tokens - 1):
            raise ValueError(
                f'GraphPasses.prefill got {num_tokens} tokens and a draft of {len(draft)}, but '
                f'was made for {self._num_tokens}; make another'
            )
        N = embeds.shape[1]
        bucket = self._bucket(N)
        stage, link = self._prefill_stage(bucket), self._links[num_tokens - 1]
        link.send([N - 1, *draft])
        rows = self._embeds[bucket]
        rows[:, :N].copy_(embeds)
        if draft:
            guess = self._llama.embed(link.numbers[1:num_tokens])
            rows[:, N : N + len(draft)].copy_(guess)
        stage()
        return self._checked(link.receive()[:, : len(draft) + 1])

    @torch.inference_mode()
    def advance(self, tokens: Sequence[int], position: int) -> Choices:
        """See ``decoding.Passes``."""
        stage, link = self._step_stage(len(tokens)), self._links[len(tokens) - 1]
        link.send([position, *tokens])
        stage()
        return self._checked(link.receive())

    def _checked(self, choices: Choices) -> Choices:
        # What lies behind the mask is multiplied by zero, which does not make NaN harmless.
        if self._cache is not None and not bool((abs(choices) < float('inf')).all()):
            self._cache.kv.zero_()
        return choices

    def _bucket(self, prompt_rows: int) -> int:
        """Rows of the prefill: prompt and action, rounded up."""
        bucket = -(-(prompt_rows + self._num_tokens) // _GRANULARITY) * _GRANULARITY
        return min(bucket, self._llama.config.max_position_embeddings)

    def _cache_of(self, length: int) -> KVCache:
        if self._cache is None or self._cache.max_len < length:
            # Graphs hold the old addresses.
            self._prefills.clear()
            self._steps.clear()
            config = self._llama.config
            self._cache = KVCache(config, length, dtype=self._dtype, device=self._device)
        return self._cache

    def _prefill_stage(self, bucket: int) -> Stage:
        cache = self._cache_of(bucket)
        if bucket not in self._prefills:
            width = self._llama.config.hidden_size
            embeds = torch.zeros(1, bucket, width, dtype=self._dtype, device=self._device)
            self._embeds[bucket] = embeds
            link = self._links[self._num_tokens - 1]

            def body() -> None:
                logits = self._llama.picked(embeds, cache, link.numbers[0], self._num_tokens)
                link.choices.copy_(choose(logits))

            self._prefills[bucket] = Stage(body, self._pool)
        return self._prefills[bucket]

    def _step_stage(self, rows: int) -> Stage:
        if self._cache is None:
            raise RuntimeError('GraphPasses.advance was called before prefill; prefill first.')
        if rows not in self._steps:
            cache, link = self._cache, self._links[rows - 1]

            def body() -> None:
                position = link.numbers[0]
                positions = position + torch.arange(rows, device=self._device)
                embeds = self._llama.embed(link.numbers[None, 1:]).to(self._dtype)
                logits = self._llama.step(embeds, IndexedWindow(cache, positions), positions)
                link.choices.copy_(choose(logits))

            self._steps[rows] = Stage(body, self._pool)
        return self._steps[rows]


class GraphVision:
    """Pixel values to rows of the language model as one graph, the two towers side by side.

    Args:
        backbone: One or two towers.
        projector: Behind them.
        size: Side of the image.
        capture: Capture a graph; by default where the towers are on a GPU.
    """

    def __init__(
        self,
        backbone: VisionBackbone,
        projector: Projector,
        size: int,
        *,
        capture: bool | None = None,
    ) -> None:
        position = backbone.featurizer.pos_embed
        self._device, dtype = position.device, position.dtype
        on_gpu = self._device.type == 'cuda'
        self._pool = graph_pool(self._device, on_gpu if capture is None else capture)
        self._side = torch.cuda.Stream() if on_gpu else None  # type: ignore[no-untyped-call]
        self._backbone, self._projector = backbone, projector
        channels = 3 if backbone.fused_featurizer is None else 6
        self._pixels = torch.zeros(1, channels, size, size, dtype=dtype, device=self._device)
        with torch.inference_mode():
            self._rows = torch.zeros_like(self._compute())
            self._stage = Stage(self._body, self._pool)

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        """[1, 3 or 6, S, S] -> [1, P, d], valid until the next call."""
        self._pixels.copy_(pixel_values, non_blocking=True)
        self._stage()
        return self._rows

    def _body(self) -> None:
        self._rows.copy_(self._compute())

    def _compute(self) -> Tensor:
        second = self._backbone.fused_featurizer
        if second is None or self._side is None:
            rows: Tensor = self._projector(self._backbone(self._pixels))
            return rows
        main = torch.cuda.current_stream()
        self._side.wait_stream(main)
        with torch.cuda.stream(self._side):
            other = second(self._pixels[:, 3:])
        features = self._backbone.featurizer(self._pixels[:, :3])
        main.wait_stream(self._side)
        # Allocated on one stream, used on another.
        other.record_stream(main)
        result: Tensor = self._projector(torch.cat([features, other], dim=2))
        return result


def capture_graphs(model: OpenVLA, num_tokens: int, *, capture: bool | None = None) -> bool:
    """Let ``model`` run its stages as graphs; says so on stderr and leaves it eager if they fail.

    Args:
        model: Weights in place.
        num_tokens: D, of every action.
        capture: As in ``GraphPasses``.
    """
    try:
        passes = GraphPasses(model.language_model, num_tokens, capture=capture)
        passes.prepare(model.config.num_patches + _USUAL_PROMPT_ROWS)
        size = model.image_spec.size
        stage = GraphVision(model.vision_backbone, model.projector, size, capture=capture)
    except RuntimeError as error:
        print(
            f'CUDA graphs cannot be captured, every kernel is launched on its own: {error}',
            file=sys.stderr,
            flush=True,
        )
        return False
    model.passes, model.vision_stage = passes, stage
    return True
