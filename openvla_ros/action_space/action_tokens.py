"""Action values on [-1, 1] and the token ids that stand for them, the last ids of the vocabulary.

The interval is cut by 256 edges linspace(-1, 1, 256); a value in bin d (1 to 256) is written as id
V - d, with V = text_config.vocab_size - pad_to_multiple_of. An id is read as its bin's centre
(2 i - 254) / 255 with i = V - id - 1, the two highest bins sharing the last centre, as in OpenVLA.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

NUM_BINS = 256


class NonActionTokenError(ValueError):
    """The model wrote a token that is not an action; read as one it would mean maximum motion.

    Attributes:
        position: Index of the first such token among the action's tokens.
        token_id: Its id.
    """

    def __init__(self, position: int, token_id: int, vocab_size: int, num_bins: int) -> None:
        self.position = position
        self.token_id = token_id
        super().__init__(
            f'action token {position} is id {token_id}, expected an id from '
            f'{vocab_size - num_bins} to {vocab_size - 1}: the model did not write an action, and '
            'none was made of it'
        )


def encode_action(
    action_norm: ArrayLike, vocab_size: int, num_bins: int = NUM_BINS
) -> NDArray[np.int64]:
    """Write normalised action values as token ids; the inverse of decode_action_tokens.

    Args:
        action_norm: float[...]; values outside [-1, 1] are clipped to it, as in training.
        vocab_size: V, the vocabulary without its padding rows.
        num_bins: Number of bin edges.

    Returns:
        int64[...], the same shape.

    Raises:
        ValueError: a value is not finite.
    """
    values = np.asarray(action_norm, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f'action_norm: got {values.tolist()}, expected finite values')
    edges = np.linspace(-1.0, 1.0, num_bins)
    bins = np.digitize(np.clip(values, -1.0, 1.0), edges)
    return np.asarray(vocab_size - bins, np.int64)


def decode_action_tokens(
    tokens: ArrayLike, vocab_size: int, num_bins: int = NUM_BINS, *, clip: bool = False
) -> NDArray[np.float64]:
    """Read token ids as normalised action values; the inverse of encode_action.

    Args:
        tokens: int[D].
        vocab_size: V, the vocabulary without its padding rows.
        num_bins: Number of bin edges.
        clip: Read any other id as the nearest end of the range, as the original code does; only
            for comparison with it, never for motion.

    Returns:
        float64[D] in (-1, 1).

    Raises:
        NonActionTokenError: an id is outside [V - num_bins, V - 1] and ``clip`` is not set.
    """
    ids = np.asarray(tokens, np.int64)
    if not clip:
        wrong = np.flatnonzero((ids < vocab_size - num_bins) | (ids >= vocab_size))
        if wrong.size:
            first = int(wrong[0])
            raise NonActionTokenError(first, int(ids.flat[first]), vocab_size, num_bins)
    edges = np.linspace(-1.0, 1.0, num_bins)
    centers = (edges[:-1] + edges[1:]) / 2.0
    return np.asarray(centers[np.clip(vocab_size - ids - 1, 0, num_bins - 2)], np.float64)
