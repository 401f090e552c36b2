"""Draft-in-prefill with Jacobi refinement gives greedy decoding's tokens, in fewer passes."""

import math

import numpy as np
import pytest
import torch

from openvla_ros.model import decoding
from openvla_ros.model.decoding import (
    DecodeResult,
    EagerPasses,
    NonFiniteLogitsError,
    choose,
    greedy_decode,
    jacobi_decode,
    neutral_draft,
)
from openvla_ros.model.llama import Llama, LlamaConfig

D = 7
VOCAB = 384
CONFIG = LlamaConfig.from_dict(
    {
        'vocab_size': VOCAB,
        'hidden_size': 48,
        'intermediate_size': 96,
        'num_hidden_layers': 3,
        'num_attention_heads': 4,
    }
)


def make_llama(dtype=torch.float32, seed=0, scale=6.0):
    """Random weights, scaled so that the tokens depend on everything before them."""
    llama = Llama(CONFIG, dtype=torch.float32)
    llama.reset_parameters(seed)
    with torch.no_grad():
        for parameter in llama.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    return llama.to(dtype).eval()


def prompts(kind, count, seed, dtype=torch.float32):
    """A sequence of prompts [1,12,d] as a camera would make them."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(1, 12, CONFIG.hidden_size, generator=generator)
    for _ in range(count):
        if kind == 'random':
            state = torch.randn(state.shape, generator=generator)
        elif kind == 'smooth':
            drift = torch.randn(state.shape, generator=generator)
            state = 0.9998 * state + 0.02 * drift
        yield state.to(dtype)


def adversarial_drafts(tokens, rng):
    """Drafts wrong in every way: at k, from k on, shifted, constant, random."""
    wrong = (tokens + 1 + rng.integers(0, VOCAB - 1, D)) % VOCAB
    for k in range(D):
        yield np.where(np.arange(D) == k, wrong, tokens)
        yield np.where(np.arange(D) < k, tokens, wrong)
    yield np.roll(tokens, 1)
    yield np.full(D, tokens[0])
    yield rng.integers(0, VOCAB, D)


@pytest.mark.parametrize('kind', ['random', 'smooth', 'static'])
def test_it_equals_greedy_decoding_with_the_previous_action_as_draft(kind):
    for seed in range(3):
        passes = EagerPasses(make_llama(seed=seed))
        draft = neutral_draft(D, VOCAB)
        counts = []
        for embeds in prompts(kind, 30, seed):
            greedy = greedy_decode(passes, embeds, D)
            result = jacobi_decode(passes, embeds, D, draft)
            np.testing.assert_array_equal(result.tokens, greedy.tokens)
            np.testing.assert_allclose(result.margins, greedy.margins, atol=1e-4)
            assert greedy.num_passes == D
            counts.append(result.num_passes)
            draft = result.tokens
        assert max(counts) <= D
        if kind == 'static':
            assert counts[1:] == [1] * 29


def test_it_equals_greedy_decoding_with_adversarial_drafts():
    rng = np.random.default_rng(5)
    passes = EagerPasses(make_llama())
    for embeds in prompts('random', 12, 8):
        greedy = greedy_decode(passes, embeds, D)
        for draft in adversarial_drafts(greedy.tokens, rng):
            result = jacobi_decode(passes, embeds, D, draft)
            np.testing.assert_array_equal(result.tokens, greedy.tokens)
            agree = int((np.cumsum(draft != greedy.tokens) == 0).sum())
            assert result.num_passes <= D - min(agree, D - 1)


def ulp(value):
    """Distance of bfloat16 numbers around ``value``."""
    return 2.0 ** (math.floor(math.log2(abs(value))) - 7)


@pytest.mark.parametrize('memory_bound_width', [1024, 1], ids=['one row', 'one row as two'])
def test_in_bfloat16_it_differs_from_greedy_decoding_only_at_ties(
    record_property, monkeypatch, memory_bound_width
):
    """Another row count is another matrix kernel, so a near tie may fall the other way."""
    monkeypatch.setattr(decoding, '_MEMORY_BOUND_WIDTH', memory_bound_width)
    differences = []
    for seed in range(3):
        llama = make_llama(torch.bfloat16, seed, scale=3.0)
        passes = EagerPasses(llama)
        draft = neutral_draft(D, VOCAB)
        for embeds in prompts('smooth', 40, seed, torch.bfloat16):
            greedy = greedy_decode(passes, embeds, D)
            result = jacobi_decode(passes, embeds, D, draft)
            draft = result.tokens
            if (result.tokens != greedy.tokens).any():
                first = int((result.tokens != greedy.tokens).argmax())
                differences.append(float(greedy.margins[first]))
                scale = float(np.abs(_logit(llama, embeds, greedy.tokens, first)))
                assert greedy.margins[first] <= 2 * ulp(scale)
    record_property('bf16_differences', differences)


def test_a_row_run_as_two_gives_the_choice_of_the_first(monkeypatch):
    llama = make_llama(torch.bfloat16, scale=3.0)
    passes = EagerPasses(llama)
    (embeds,) = prompts('random', 1, 0, torch.bfloat16)
    passes.prefill(embeds, (), D)
    alone = [passes.advance([token], embeds.shape[1] + 5) for token in range(20)]
    monkeypatch.setattr(decoding, '_MEMORY_BOUND_WIDTH', 1)
    doubled = [passes.advance([token], embeds.shape[1] + 5) for token in range(20)]
    for one, two in zip(alone, doubled, strict=True):
        assert one.shape == two.shape == (2, 1)
        assert one[0, 0] == two[0, 0] or one[1, 0] < 0.1


@torch.inference_mode()
def _logit(llama, embeds, tokens, index):
    """The largest logit of the token at ``index``, from one plain pass."""
    ids = torch.tensor([tokens[:index].tolist()], dtype=torch.int64)
    return llama(torch.cat([embeds, llama.embed(ids)], 1))[0, -1].float().max().item()


def test_a_tie_goes_to_the_lowest_id():
    logits = torch.tensor([[0.0, 3.0, 1.0, 3.0], [5.0, 5.0, 5.0, 5.0], [1.0, 2.0, 0.5, 0.0]])
    np.testing.assert_array_equal(choose(logits.bfloat16()), [[1, 0, 1], [0, 0, 1]])


def test_every_margin_is_the_distance_to_the_runner_up():
    logits = torch.randn(6, VOCAB, generator=torch.Generator().manual_seed(0))
    token, margin = choose(logits.clone()).numpy()
    ordered = np.sort(logits.numpy(), 1).astype(np.float64)
    np.testing.assert_array_equal(token, logits.numpy().argmax(1))
    np.testing.assert_allclose(margin, ordered[:, -1] - ordered[:, -2])


def test_a_token_outside_the_action_tokens_is_found():
    def result(tokens):
        return DecodeResult(np.array(tokens), np.ones(len(tokens)), 1)

    assert result([31744, 31999, 31872]).first_non_action(32000) is None
    assert result([31744, 31743, 2]).first_non_action(32000) == 1
    assert result([32000, 31744, 31744]).first_non_action(32000) == 0


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_non_finite_logits_are_an_error(value):
    llama = make_llama()
    with torch.no_grad():
        llama.lm_head.weight[3] = value
    passes = EagerPasses(llama)
    embeds = next(prompts('random', 1, 0))
    with pytest.raises(NonFiniteLogitsError):
        greedy_decode(passes, embeds, D)
    with pytest.raises(NonFiniteLogitsError):
        jacobi_decode(passes, embeds, D, [1] * D)


def test_a_short_draft_is_refused_and_the_last_token_is_not_needed():
    passes = EagerPasses(make_llama())
    embeds = next(prompts('random', 1, 0))
    tokens = greedy_decode(passes, embeds, D).tokens
    assert jacobi_decode(passes, embeds, D, tokens[:-1]).num_passes == 1
    with pytest.raises(ValueError, match='at least 6'):
        jacobi_decode(passes, embeds, D, tokens[:-2])


def test_the_cache_follows_a_longer_prompt():
    llama = make_llama()
    passes = EagerPasses(llama, granularity=4)
    generator = torch.Generator().manual_seed(2)
    for length in (5, 30, 9):
        embeds = torch.randn(1, length, CONFIG.hidden_size, generator=generator)
        fresh = greedy_decode(EagerPasses(llama), embeds, D)
        np.testing.assert_array_equal(greedy_decode(passes, embeds, D).tokens, fresh.tokens)


def test_the_cache_follows_a_model_that_is_cast():
    llama = make_llama()
    passes, embeds = EagerPasses(llama), next(prompts('random', 1, 0))
    greedy_decode(passes, embeds, D)
    llama.double()
    cast = greedy_decode(passes, embeds.double(), D)
    fresh = greedy_decode(EagerPasses(llama), embeds.double(), D)
    np.testing.assert_array_equal(cast.margins, fresh.margins)
