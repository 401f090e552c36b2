"""Decoding the D tokens of one action: greedily, or several per pass from a draft.

Both return the same tokens. ``jacobi_decode`` feeds a draft of the action (the previous one)
behind the prompt, inside the prefill. Row by row the model says what greedy decoding would have
produced after that prefix; as long as the draft agrees, the tokens are final, and the row of the
first disagreement gives one more. The outputs behind it become the next guess (Jacobi iteration).
Every pass fixes at least one token, the one greedy decoding would choose: at most D passes, one
when the draft is right.

The token is the argmax over the whole vocabulary, the lowest id on a tie, as upstream's
``torch.argmax``. That it lies among the action tokens is a certificate the caller checks
(``DecodeResult.first_non_action``), not something the decoder forces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from openvla_ros.model.llama import KVCache, Llama

#: The last ids of the tokenizer's vocabulary stand for actions (upstream's n_action_bins).
NUM_ACTION_TOKENS = 256
#: From this width on a CPU waits for a layer's weights from memory.
_MEMORY_BOUND_WIDTH = 1024


class NonFiniteLogitsError(ArithmeticError):
    """The model's output holds NaN or infinity, so no token can be chosen."""


@dataclass(frozen=True)
class DecodeResult:
    """One action's tokens and how they came about.

    Attributes:
        tokens: int64[D], argmax over the whole vocabulary.
        margins: float64[D], logit of the token minus the largest other logit; 0 is a tie.
        num_passes: passes of the language model, the prefill included, 1 to D.
    """

    tokens: npt.NDArray[np.int64]
    margins: npt.NDArray[np.float64]
    num_passes: int

    def first_non_action(self, vocab_size: int) -> int | None:
        """Index of the first token outside the action tokens of a tokenizer of ``vocab_size``."""
        tokens = self.tokens
        outside = (tokens < vocab_size - NUM_ACTION_TOKENS) | (tokens >= vocab_size)
        return int(outside.argmax()) if outside.any() else None

    @property
    def min_margin(self) -> float:
        """The smallest margin of the action."""
        return float(self.margins.min())


class Passes(Protocol):
    """The two forward passes decoding is made of.

    Choices come back on the host: float64[2, rows], the token in row 0, its margin in row 1.
    """

    def prefill(self, embeds: Tensor, draft: Sequence[int], num_tokens: int) -> Choices:
        """Run ``embeds`` [1,N,d], then ``draft``; choices after row N-1 and after each draft."""
        ...

    def advance(self, tokens: Sequence[int], position: int) -> Choices:
        """Choices after each of ``tokens``, the first of which stands at ``position``."""
        ...


Choices = npt.NDArray[np.float64]


@torch.inference_mode()
def choose(logits: Tensor) -> Tensor:
    """Argmax (lowest id on a tie) and margin of ``logits`` [R,V] as float64[2,R]; uses them up."""
    token = logits.argmax(-1, keepdim=True)
    top = logits.gather(-1, token).double()
    # topk would need no write, but takes 30 times as long on a CPU.
    rest = logits.scatter_(-1, token, float('-inf')).amax(-1, keepdim=True)
    return torch.cat([token.double(), top - rest], -1).T


class EagerPasses:
    """Passes run operation by operation, on any device; the cache grows to the longest prompt."""

    def __init__(self, llama: Llama, *, granularity: int = 64) -> None:
        self._llama = llama
        self._granularity = granularity
        self._cache: KVCache | None = None

    def _cache_for(self, length: int, like: Tensor) -> KVCache:
        cache = self._cache
        kind = like.device, like.dtype
        if cache is None or cache.max_len < length or (cache.kv.device, cache.kv.dtype) != kind:
            max_len = -(-length // self._granularity) * self._granularity
            self._cache = cache = KVCache(
                self._llama.config, max_len, dtype=like.dtype, device=like.device
            )
        return cache

    @torch.inference_mode()
    def prefill(self, embeds: Tensor, draft: Sequence[int], num_tokens: int) -> Choices:
        """See ``Passes``."""
        N = embeds.shape[1]
        cache = self._cache_for(N + num_tokens, embeds)
        if len(draft):
            ids = torch.as_tensor([draft], dtype=torch.int64, device=embeds.device)
            embeds = torch.cat([embeds, self._llama.embed(ids).to(embeds.dtype)], 1)
        logits = self._llama(embeds, cache=cache, rows=slice(N - 1, N + len(draft)))
        return choose(logits[0]).cpu().numpy()

    @torch.inference_mode()
    def advance(self, tokens: Sequence[int], position: int) -> Choices:
        """See ``Passes``."""
        if self._cache is None:
            raise RuntimeError(
                'EagerPasses.advance was called before prefill; call prefill first.'
            )
        kv = self._cache.kv
        count = len(tokens)
        if count == 1 and self._one_row_is_slow(kv):
            tokens = [*tokens, *tokens]  # nobody looks at the second; its place is written next
        ids = torch.as_tensor([tokens], dtype=torch.int64, device=kv.device)
        embeds = self._llama.embed(ids).to(kv.dtype)
        logits = self._llama(embeds, cache=self._cache, position=position, rows=slice(0, count))
        return choose(logits[0]).cpu().numpy()

    def _one_row_is_slow(self, kv: Tensor) -> bool:
        """Whether two rows take less time than one.

        torch 2.13 multiplies one bfloat16 row on a CPU at 17 GB/s of weights and two at 28 GB/s
        (`benchmarks.full_size_cpu`); small or quantised weights gain nothing.
        """
        llama = self._llama
        return (
            kv.device.type == 'cpu'
            and kv.dtype == torch.bfloat16
            and llama.config.hidden_size >= _MEMORY_BOUND_WIDTH
            and type(llama.layers[0].mlp.down_proj) is torch.nn.Linear
        )


def greedy_decode(passes: Passes, embeds: Tensor, num_tokens: int) -> DecodeResult:
    """Decode exactly ``num_tokens`` tokens after ``embeds`` [1,N,d], one pass each.

    Raises:
        NonFiniteLogitsError: if a logit is NaN or infinite.
    """
    N = embeds.shape[1]
    choices = _checked(passes.prefill(embeds, (), num_tokens))
    columns = [choices[:, 0]]
    for step in range(num_tokens - 1):
        choices = _checked(passes.advance([int(columns[-1][0])], N + step))
        columns.append(choices[:, 0])
    return _result(np.stack(columns, 1), num_tokens)


def jacobi_decode(
    passes: Passes, embeds: Tensor, num_tokens: int, draft: Sequence[int]
) -> DecodeResult:
    """The tokens of ``greedy_decode`` in 1 to ``num_tokens`` passes.

    Args:
        passes: the model.
        embeds: [1,N,d], the prompt.
        num_tokens: D.
        draft: a guess of the D tokens (the last one is never needed), any ids of the vocabulary.

    Raises:
        NonFiniteLogitsError: if a logit of a token that was accepted is NaN or infinite.
        ValueError: if the draft is too short.
    """
    if len(draft) < num_tokens - 1:
        raise ValueError(
            f'jacobi_decode got a draft of {len(draft)} tokens for {num_tokens}; give at least '
            f'{num_tokens - 1}.'
        )
    N = embeds.shape[1]
    guess = [int(token) for token in draft[: num_tokens - 1]]
    out = passes.prefill(embeds, guess, num_tokens)
    known, num_passes = 0, 1
    while True:
        known = _accept(out, guess, known)
        if known == num_tokens:
            return _result(out, num_passes)
        guess = [int(token) for token in out[0, : num_tokens - 1]]
        out[:, known:] = passes.advance(guess[known - 1 :], N + known - 1)
        num_passes += 1


def _accept(out: Choices, guess: Sequence[int], known: int) -> int:
    """Number of tokens now final: ``known``, the guesses that agree in order, and one more."""
    final = known + 1
    while final < out.shape[1] and guess[final - 1] == out[0, final - 1]:
        final += 1
    _checked(out[:, :final])
    return final


def _checked(choices: Choices) -> Choices:
    if not np.isfinite(choices).all():
        raise NonFiniteLogitsError(
            'The language model gave NaN or infinite logits where finite ones were expected; '
            'check the checkpoint, the adapter and the precision.'
        )
    return choices


def _result(choices: Choices, num_passes: int) -> DecodeResult:
    return DecodeResult(choices[0].astype(np.int64), choices[1].copy(), num_passes)


def neutral_draft(num_tokens: int, vocab_size: int) -> list[int]:
    """A draft when there is no previous action: the token of zero in every dimension."""
    return [vocab_size - NUM_ACTION_TOKENS // 2] * num_tokens
