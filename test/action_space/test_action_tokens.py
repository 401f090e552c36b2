import json
from pathlib import Path

import numpy as np
import pytest

from openvla_ros.action_space.action_tokens import (
    NonActionTokenError,
    decode_action_tokens,
    encode_action,
)

GOLDEN = json.loads((Path(__file__).parents[1] / 'golden' / 'golden_vectors.json').read_text())
LLAMA = 32000


@pytest.mark.parametrize('vector', GOLDEN['encode'], ids=lambda v: f'x={v["x"]}')
def test_values_are_written_and_read_as_the_original_does(vector):
    tokens = encode_action([vector['x']], LLAMA)
    assert tokens.tolist() == [vector['id']]
    assert tokens.dtype == np.int64
    assert decode_action_tokens(tokens, LLAMA).tolist() == [vector['decoded']]


@pytest.mark.parametrize('vector', GOLDEN['decode'], ids=lambda v: str(v['id']))
def test_clipped_reading_equals_the_original_for_any_id(vector):
    decoded = decode_action_tokens([vector['id']], LLAMA, clip=True)
    assert decoded.tolist() == [vector['decoded']]


@pytest.mark.parametrize('token', [0, 2, 29871, LLAMA - 257, LLAMA, LLAMA + 63, -1])
def test_a_token_that_is_not_an_action_is_named_and_never_read_as_one(token):
    tokens = [LLAMA - 1, LLAMA - 256, token, 5]
    with pytest.raises(NonActionTokenError, match=f'action token 2 is id {token}, expected') as e:
        decode_action_tokens(tokens, LLAMA)
    assert (e.value.position, e.value.token_id) == (2, token)


def test_every_action_id_is_read_as_its_own_bin_centre_except_the_two_highest_bins():
    ids = np.arange(LLAMA - 256, LLAMA)
    values = decode_action_tokens(ids, LLAMA)
    # Bin i has the centre (2 i - 254) / 255; id V - 256 would be bin 255, which does not exist.
    expected = (2 * np.minimum(LLAMA - ids - 1, 254) - 254) / 255
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-15)
    assert encode_action(values[1:], LLAMA).tolist() == ids[1:].tolist()


def test_another_vocabulary_only_shifts_the_ids():
    x = np.linspace(-1, 1, 77)
    assert np.array_equal(encode_action(x, 1000) + 31000, encode_action(x, LLAMA))
    assert np.array_equal(
        decode_action_tokens(encode_action(x, 1000), 1000),
        decode_action_tokens(encode_action(x, LLAMA), LLAMA),
    )


def test_the_round_trip_costs_at_most_half_a_bin():
    x = np.random.default_rng(0).uniform(-1, 1, 2000)
    error = np.abs(decode_action_tokens(encode_action(x, LLAMA), LLAMA) - x)
    assert error.max() <= 1 / 255 + 1e-12


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_not_written(bad):
    with pytest.raises(ValueError, match='expected finite values'):
        encode_action([0.0, bad], LLAMA)
