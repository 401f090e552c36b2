"""The stages of an action as CUDA graphs: vision, prefill, and a step of each number of rows.

A graph replays all kernels of a stage with one launch; eager torch needs thousands, which on a
fast GPU take longer than the arithmetic. Replay runs the very kernels that were captured (class
L0). Shapes and addresses must not change, so

- the prefill runs on a whole multiple of 64 rows, with the draft right behind the prompt and
  whatever lies behind both ignored: causal rows do not see it. Prompts of one multiple share a
  graph, and all that an instruction may need are captured at the start;
- a step attends to the whole cache through a mask, its position a number on the device.

Both change which rows a matrix kernel works on, not the algorithm (class L1).

What the graphs were not made for (another number of tokens, a longer prompt) runs operation by
operation. ``model.graph_start`` captures the graphs, compares them and decides on their use.
Without a GPU the same bodies run uncaptured; that is what the tests do. The capture itself has not
been run on a GPU yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from openvla_ros.model.decoding import Choices, EagerPasses, choose
from openvla_ros.model.kv_cache import IndexedWindow, KVCache
from openvla_ros.model.llama import Llama
from openvla_ros.model.projector import Projector
from openvla_ros.model.vision import VisionBackbone
from openvla_ros.policy.inference import is_out_of_memory

_GRANULARITY = 64
_WARM_RUNS = 3

Body = Callable[[], None]
"""Reads and writes tensors of fixed addresses."""

Capture = Callable[[Body], Body]
"""Takes the body of a stage and returns what runs the stage from then on."""


class GraphError(RuntimeError):
    """A stage could not be captured or replayed; the same stage run plainly needs none of it."""


class CudaCapture:
    """A ``Capture`` that records CUDA graphs, which share one pool: no two of them overlap.

    Args:
        device: A CUDA device.

    Raises:
        GraphError: another device.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type != 'cuda':
            raise GraphError(f'a CUDA graph cannot be captured on {device}; use a CUDA device')
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, body: Body) -> Body:
        """Run ``body`` a few times, record it once, and return its replay."""
        main = torch.cuda.current_stream(self._device)
        # On a side stream first: libraries allocate their workspaces on their first call.
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(main)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(side):
                for _ in range(_WARM_RUNS):
                    body()
            main.wait_stream(side)
            # Other threads of the process (ROS) may do as they like meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=side, capture_error_mode='thread_local'
            ):
                body()
        finally:
            # A capture that fails leaves its own stream the current one.
            torch.cuda.set_stream(main)
        replay: Body = graph.replay
        return replay


def uncaptured(body: Body) -> Body:
    """Capture nothing: a stage is its body, run operation by operation. A ``Capture``."""
    return body


def default_capture(device: torch.device) -> Capture:
    """CUDA graphs where there is CUDA, bodies elsewhere."""
    return CudaCapture(device) if device.type == 'cuda' else uncaptured


@contextlib.contextmanager
def graph_errors(what: str) -> Iterator[None]:
    """Turn whatever is raised inside into a GraphError that says what was being done."""
    try:
        yield
    except GraphError:
        raise
    except Exception as error:
        raise GraphError(f'{what}: {one_line(error)}') from error


def one_line(error: BaseException) -> str:
    """An exception as the end of a sentence: its kind and the first line of its text."""
    kind = 'memory ran out' if is_out_of_memory(error) else type(error).__name__
    first = str(error).strip().partition('\n')[0][:200]
    return f'{kind} ({first})' if first else kind


class HostLink:
    """A few numbers to the device before a stage, its choices back after: one wait per pass."""

    def __init__(self, device: torch.device, rows: int) -> None:
        pinned = device.type == 'cuda'
        self._device = device
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
            self._arrived.record(torch.cuda.current_stream(self._device))
            self._arrived.synchronize()
        return self._choices_host.numpy().copy()


class GraphPasses:
    """The passes of decoding as graphs; an implementation of ``decoding.Passes``.

    Args:
        llama: The language model, weights in place (they must not move any more).
        num_tokens: D, of the actions it is made for.
        prompt_rows: Rows of the shortest and of the longest prompt it is made for, image
            included.
        capture: How stages are captured; by default as CUDA graphs where the model is on a GPU.

    Raises:
        GraphError: a stage could not be captured.
    """

    def __init__(
        self,
        llama: Llama,
        num_tokens: int,
        prompt_rows: tuple[int, int],
        *,
        capture: Capture | None = None,
    ) -> None:
        device = llama.lm_head.weight.device
        self._llama, self._num_tokens = llama, num_tokens
        self._dtype, self._device = llama.model.norm.weight.dtype, device
        self.buckets = self._buckets(*prompt_rows)
        self._plain = EagerPasses(llama)
        self._running_plainly = True
        with graph_errors('the language model could not be captured'), torch.inference_mode():
            capture = capture or default_capture(device)
            self._links = [HostLink(device, rows) for rows in range(1, num_tokens + 1)]
            self._cache = KVCache(llama.config, self.buckets[-1], dtype=self._dtype, device=device)
            width = llama.config.hidden_size
            self._embeds = {
                bucket: torch.zeros(1, bucket, width, dtype=self._dtype, device=device)
                for bucket in self.buckets
            }
            # The largest first: what the others need then fits into its memory.
            self._prefills = {
                bucket: capture(self._prefill_body(bucket)) for bucket in reversed(self.buckets)
            }
            self._steps = {rows: capture(self._step_body(rows)) for rows in range(1, num_tokens)}

    @torch.inference_mode()
    def prefill(self, embeds: Tensor, draft: Sequence[int], num_tokens: int) -> Choices:
        """See ``decoding.Passes``; what the graphs were not made for runs plainly.

        Raises:
            GraphError: a graph could not be replayed.
        """
        bucket = self._bucket(embeds, draft, num_tokens)
        self._running_plainly = bucket is None
        if bucket is None:
            return self._plain.prefill(embeds, draft, num_tokens)
        with graph_errors('the prefill could not be replayed'):
            return self._replay_prefill(bucket, embeds, draft)

    @torch.inference_mode()
    def advance(self, tokens: Sequence[int], position: int) -> Choices:
        """See ``decoding.Passes``.

        Raises:
            GraphError: a graph could not be replayed.
        """
        if self._running_plainly:
            return self._plain.advance(tokens, position)
        with graph_errors('a step could not be replayed'):
            link = self._links[len(tokens) - 1]
            link.send([position, *tokens])
            self._steps[len(tokens)]()
            return self._checked(link.receive())

    def _replay_prefill(self, bucket: int, embeds: Tensor, draft: Sequence[int]) -> Choices:
        N, link = embeds.shape[1], self._links[-1]
        link.send([N - 1, *draft])
        rows = self._embeds[bucket]
        rows[:, :N].copy_(embeds)
        if draft:
            guess = self._llama.embed(link.numbers[1 : 1 + len(draft)])
            rows[:, N : N + len(draft)].copy_(guess)
        self._prefills[bucket]()
        return self._checked(link.receive()[:, : len(draft) + 1])

    def _checked(self, choices: Choices) -> Choices:
        # What lies behind the mask is multiplied by zero, which does not make NaN harmless.
        if not bool((abs(choices) < float('inf')).all()):
            for kept in (self._cache.kv, *self._embeds.values()):
                kept.zero_()
        return choices

    def _buckets(self, shortest: int, longest: int) -> list[int]:
        """Rows of the prefills, ascending: prompt and action, rounded up."""
        limit = self._llama.config.max_position_embeddings
        first, last = (
            -(-(rows + self._num_tokens) // _GRANULARITY) for rows in (shortest, longest)
        )
        return sorted({min(_GRANULARITY * n, limit) for n in range(first, last + 1)})

    def _bucket(self, embeds: Tensor, draft: Sequence[int], num_tokens: int) -> int | None:
        """Rows of the prefill that takes a prompt, or None where none was made for it."""
        D = self._num_tokens
        if len(embeds) != 1 or num_tokens != D or len(draft) not in (0, D - 1):
            return None
        return next((b for b in self.buckets if embeds.shape[1] + D <= b), None)

    def _prefill_body(self, bucket: int) -> Body:
        embeds, cache, link = self._embeds[bucket], self._cache, self._links[-1]

        def body() -> None:
            logits = self._llama.picked(embeds, cache, link.numbers[0], self._num_tokens)
            link.choices.copy_(choose(logits))

        return body

    def _step_body(self, rows: int) -> Body:
        cache, link = self._cache, self._links[rows - 1]

        def body() -> None:
            position = link.numbers[0]
            positions = position + torch.arange(rows, device=self._device)
            embeds = self._llama.embed(link.numbers[None, 1:]).to(self._dtype)
            logits = self._llama.step(embeds, IndexedWindow(cache, positions), positions)
            link.choices.copy_(choose(logits))

        return body


class GraphVision:
    """Pixel values to rows of the language model as one graph, the two towers side by side.

    Args:
        backbone: One or two towers.
        projector: Behind them.
        size: Side of the image.
        capture: As in ``GraphPasses``.

    Raises:
        GraphError: it could not be captured.
    """

    def __init__(
        self,
        backbone: VisionBackbone,
        projector: Projector,
        size: int,
        *,
        capture: Capture | None = None,
    ) -> None:
        position = backbone.featurizer.pos_embed
        self._device, dtype = position.device, position.dtype
        self._side: torch.cuda.Stream | None = None
        self._backbone, self._projector = backbone, projector
        channels = 3 if backbone.fused_featurizer is None else 6
        with graph_errors('the vision part could not be captured'), torch.inference_mode():
            if self._device.type == 'cuda':
                self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            self._pixels = torch.zeros(1, channels, size, size, dtype=dtype, device=self._device)
            self._rows = torch.zeros_like(self._compute())
            self._replay = (capture or default_capture(self._device))(self._body)

    @torch.inference_mode()
    def __call__(self, pixel_values: Tensor) -> Tensor:
        """[1, 3 or 6, S, S] -> [1, P, d], valid until the next call.

        Raises:
            GraphError: the graph could not be replayed.
        """
        with graph_errors('the vision part could not be replayed'):
            self._pixels.copy_(pixel_values, non_blocking=True)
            self._replay()
            return self._rows

    def _body(self) -> None:
        self._rows.copy_(self._compute())

    def _compute(self) -> Tensor:
        second = self._backbone.fused_featurizer
        if second is None or self._side is None:
            rows: Tensor = self._projector(self._backbone(self._pixels))
            return rows
        main = torch.cuda.current_stream(self._device)
        self._side.wait_stream(main)
        with torch.cuda.stream(self._side):
            other = second(self._pixels[:, 3:])
        features = self._backbone.featurizer(self._pixels[:, :3])
        main.wait_stream(self._side)
        # Allocated on one stream, used on another.
        other.record_stream(main)
        result: Tensor = self._projector(torch.cat([features, other], dim=2))
        return result
