"""Weights and pictures from a formula, so that golden outputs need no stored weights.

Every number is integer arithmetic on 32 bits and one scaling, the same on any machine. The
expected outputs beside this file were made by giving these weights to the original OpenVLA code.
"""

import zlib

import numpy as np


def noise(name: str, count: int) -> np.ndarray:
    """float64[count] on [-0.5, 0.5), different for every name."""
    x = np.arange(count, dtype=np.uint32) + np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x / 2.0**32 - 0.5


def weight(name: str, shape: tuple[int, ...], vocab_size: int, word_scale: float) -> np.ndarray:
    """float32 weight of the tensor of that name; to be rounded to bfloat16.

    ``word_scale`` multiplies the rows of lm_head that are not action tokens.
    """
    values = noise(name, int(np.prod(shape))).reshape(shape)
    leaf = name.rpartition('.')[2]
    if 'norm' in name and leaf == 'weight':
        return (1.0 + 0.4 * values).astype(np.float32)
    if leaf == 'scale_factor':
        return (0.5 + values).astype(np.float32)
    if name.endswith('embed_tokens.weight'):
        return (2.0 * values).astype(np.float32)
    if len(shape) >= 2 and leaf == 'weight':
        values = values * (4.5 / np.sqrt(np.prod(shape[1:])))
        if 'lm_head' in name:
            values[: vocab_size - 256] *= word_scale
            values[vocab_size:] *= word_scale
        return values.astype(np.float32)
    return (0.8 * values).astype(np.float32)


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """uint8[height, width, 3]: coloured blocks of 13 pixels with a fine pattern on them."""
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    channel = np.arange(3)[None, None, :]
    blocks = noise(f'picture {seed}', (height // 13 + 1) * (width // 13 + 1) * 3) + 0.5
    blocks = blocks.reshape(height // 13 + 1, width // 13 + 1, 3)
    base = (blocks * 220).astype(np.int64)[rows // 13, columns // 13, channel]
    return (base + (rows * 7 + columns * 11 + channel * 5) % 36).astype(np.uint8)


def prompt(seed: int, length: int) -> np.ndarray:
    """int64[length] token ids below 31000, the beginning of sequence first."""
    ids = ((noise(f'prompt {seed}', length) + 0.5) * 30990).astype(np.int64) + 3
    ids[0] = 1
    return ids
