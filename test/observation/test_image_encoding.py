"""Every encoding gives the right colour in the right place, and no message does harm."""

import io
import random
import resource

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from openvla_ros.observation.image_encoding import (
    CONVERTED_LAYOUTS,
    LAYOUTS,
    MAX_BYTES,
    NEEDS_LIBRARY,
    ImageRefused,
    compressed_refusal,
    decode_compressed,
    layout_refusal,
    rgb_view,
)

W, H = 20, 17
RGB = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
GRAY = np.repeat(RGB[:, :, :1], 3, axis=2)


def encode(encoding, *, big_endian=False, padding=0):
    """Lay RGB (or GRAY) out in memory by hand; returns bytes and step."""
    order = {'rgb': [0, 1, 2], 'bgr': [2, 1, 0], 'mono': [0]}[
        encoding.rstrip('0123456789').replace('a', '')
    ]
    channels = [RGB[:, :, i] for i in order]
    if 'a' in encoding:
        channels.append(np.full((H, W), 77, np.uint8))
    pixels = np.stack(channels, axis=-1)
    if encoding.endswith('16'):
        wide = (pixels.astype(np.uint16) << 8) | 0x5A
        pixels = wide.astype('>u2' if big_endian else '<u2').view(np.uint8)
    rows = pixels.reshape(H, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=9)
    return rows.tobytes(), rows.shape[1]


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('big_endian', [False, True])
@pytest.mark.parametrize('encoding', LAYOUTS)
def test_every_encoding_gives_the_same_picture(encoding, big_endian, padding):
    data, step = encode(encoding, big_endian=big_endian, padding=padding)
    fields = {'width': W, 'height': H, 'step': step, 'encoding': encoding}
    assert layout_refusal(num_bytes=len(data), **fields) is None
    view = rgb_view(data, big_endian=big_endian, **fields)
    np.testing.assert_array_equal(view, GRAY if encoding.startswith('mono') else RGB)
    assert view.dtype == np.uint8


@pytest.mark.parametrize('encoding', LAYOUTS)
def test_no_encoding_copies(encoding):
    data, step = encode(encoding)
    buffer = bytearray(data)
    view = rgb_view(buffer, width=W, height=H, step=step, encoding=encoding, big_endian=False)
    assert np.shares_memory(view, np.frombuffer(buffer, np.uint8))


def test_blue_and_red_are_not_confused():
    red_as_bgr = bytes([0, 0, 200]) * (16 * 16)
    view = rgb_view(red_as_bgr, width=16, height=16, step=48, encoding='bgr8', big_endian=False)
    assert view[3, 4].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    'encoding',
    [
        '16UC1',
        '32FC1',
        '8UC3',
        '',
        'rgb',
        'RGB8',
        'yuv444',
        'jpeg',
        'é',
        'x' * 2**20,
        'a\nb',
        '\0',
    ],
)
def test_an_unknown_encoding_is_refused_by_name_and_briefly(encoding):
    refusal = layout_refusal(width=64, height=48, step=192, num_bytes=9216, encoding=encoding)
    assert refusal.code == 'IMAGE_ENCODING'
    assert len(refusal.sentence) < 300
    assert '\n' not in refusal.sentence
    assert refusal.sentence.isascii()


@pytest.mark.parametrize(
    'changes',
    [
        {'width': 0},
        {'height': 0},
        {'width': 15},
        {'height': 8193},
        {'width': 2**32 - 1, 'height': 2**32 - 1},
        {'step': 191},
        {'step': 0},
        {'step': 2**32 - 1},
        {'num_bytes': 0},
        {'num_bytes': 9215},
        {'num_bytes': 9217},
        {'num_bytes': MAX_BYTES + 1},
    ],
)
def test_impossible_numbers_are_refused(changes):
    fields = {'width': 64, 'height': 48, 'step': 192, 'num_bytes': 9216, 'encoding': 'rgb8'}
    assert layout_refusal(**fields) is None
    assert layout_refusal(**(fields | changes)).code == 'IMAGE_MALFORMED'


sizes = st.one_of(st.integers(0, 70), st.sampled_from([8192, 8193, 2**31, 2**32 - 1]))


@settings(max_examples=1000, deadline=None)
@example(width=64, height=48, step=192, num_bytes=9216, encoding='rgb8', big_endian=True)
@given(
    width=sizes,
    height=sizes,
    step=sizes,
    num_bytes=st.integers(0, 20_000),
    encoding=st.one_of(st.sampled_from([*LAYOUTS, *NEEDS_LIBRARY, '16UC1']), st.text(max_size=5)),
    big_endian=st.booleans(),
)
def test_malformed_images_do_no_harm(width, height, step, num_bytes, encoding, big_endian):
    survive(width, height, step, num_bytes, encoding, big_endian)


def test_ten_thousand_more_that_are_nearly_right_do_no_harm():
    generator = random.Random(0)
    usable = 0
    for _ in range(10_000):
        encoding = generator.choice([*LAYOUTS])
        width, height = generator.randrange(14, 40), generator.randrange(14, 40)
        step = width * LAYOUTS[encoding].bytes_per_pixel + generator.choice([-1, 0, 0, 0, 1, 7])
        num_bytes = step * height + generator.choice([-1, 0, 0, 0, 1])
        usable += survive(width, height, step, num_bytes, encoding, generator.random() < 0.5)
    assert 3000 < usable < 8000


def survive(width, height, step, num_bytes, encoding, big_endian):
    """Use an image if it is accepted, and say whether it was."""
    fields = {'width': width, 'height': height, 'step': step, 'encoding': encoding}
    if layout_refusal(**fields, num_bytes=num_bytes) is None and encoding in CONVERTED_LAYOUTS:
        used = step * (height - 1) + width * CONVERTED_LAYOUTS[encoding].bytes_per_pixel
        assert used <= num_bytes
        assert width % 2 == 0 or 'bayer' in encoding
    if encoding not in LAYOUTS or layout_refusal(num_bytes=num_bytes, **fields) is not None:
        return False
    view = rgb_view(bytes(num_bytes), big_endian=big_endian, **fields)
    assert view.shape == (height, width, 3)
    assert int(view.sum()) == 0  # touches every pixel: a wrong stride would leave the buffer
    return True


# --- compressed ----------------------------------------------------------------------------


def compressed(kind, picture=RGB, **options):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind, **options)
    return buffer.getvalue()


def test_png_is_exact_and_jpeg_is_close():
    np.testing.assert_array_equal(decode_compressed(compressed('PNG')), RGB)
    smooth = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    close = decode_compressed(compressed('JPEG', smooth, quality=95)).astype(int)
    assert np.abs(close - smooth).max() <= 3


@pytest.mark.parametrize('value', [0, 1000, 40000, 65535])
def test_a_16_bit_png_keeps_its_more_significant_byte(value):
    picture = np.full((16, 16), value, np.uint16)
    decoded = decode_compressed(compressed('PNG', picture))
    assert decoded.shape == (16, 16, 3)
    assert (decoded == value >> 8).all()


def test_one_channel_and_alpha_become_rgb():
    gray, alpha = RGB[:, :, 0], np.dstack([RGB, np.full((H, W), 7, np.uint8)])
    np.testing.assert_array_equal(decode_compressed(compressed('PNG', gray)), GRAY)
    np.testing.assert_array_equal(decode_compressed(compressed('PNG', alpha)), RGB)


@pytest.mark.parametrize(
    'content',
    [b'', b'x', b'\xff\xd8\xff', b'GIF89a' + bytes(100), b'\x89PNG\r\n\x1a\n' + bytes(100)],
)
def test_what_is_no_picture_is_refused(content):
    with pytest.raises(ImageRefused) as refused:
        decode_compressed(content)
    assert refused.value.refusal.code == 'IMAGE_MALFORMED'


@settings(max_examples=300, deadline=None)
@given(
    cut=st.integers(0, 2000), flips=st.lists(st.integers(0, 2000), max_size=5), jpeg=st.booleans()
)
def test_damaged_pictures_are_refused_or_decoded(cut, flips, jpeg):
    content = bytearray(compressed('JPEG' if jpeg else 'PNG'))
    for position in flips:
        content[position % len(content)] ^= 0xFF
    try:
        decoded = decode_compressed(bytes(content[: len(content) - cut % len(content)]))
    except ImageRefused:
        return
    assert decoded.ndim == 3
    assert decoded.shape[2] == 3


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    bomb = compressed('PNG', np.zeros((8200, 8192), np.uint8))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageRefused, match='8192x8200'):
        decode_compressed(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # kB


@pytest.mark.parametrize(
    ('form', 'held'),
    [
        # What image_transport publishes for these cameras: as JPEG, as PNG, and with
        # the plugin's own option for Bayer.
        ('bayer_rggb8; jpeg compressed mono8', 'Bayer mosaic'),
        ('bayer_rggb8; jpeg compressed ', 'Bayer mosaic'),
        ('bayer_gbrg16; png compressed ', 'Bayer mosaic'),
        ('bayer_rggb8; jpeg compressed bayer_rggb8', 'Bayer mosaic'),
        ('bayer_rggb8; jpeg compressed bgr8', 'Bayer mosaic'),
        ('yuv422_yuy2; jpeg compressed mono8', 'brightness of a YUV image'),
        ('yuv422; jpeg compressed ', 'brightness of a YUV image'),
        ('uyvy; jpeg compressed mono8', 'brightness of a YUV image'),
        ('nv12; jpeg compressed mono8', 'brightness of a YUV image'),
        ('mono8; jpeg compressed ', 'brightness without color'),
        ('mono8; jpeg compressed mono8', 'brightness without color'),
        ('mono16; png compressed ', 'brightness without color'),
    ],
)
def test_a_compressed_image_without_its_colors_is_refused_with_what_to_do(form, held):
    refusal = compressed_refusal(num_bytes=1000, image_format=form)
    assert refusal.code == 'IMAGE_ENCODING'
    assert held in refusal.sentence
    assert form.strip()[:20] in refusal.sentence
    assert 'image_transport to raw' in refusal.sentence


@pytest.mark.parametrize(
    'form',
    [
        *('jpeg', 'png', '', 'rgb8; jpeg compressed bgr8', 'bgra8; png compressed bgr8'),
        'rgb16; png compressed bgr16',
        # Where sensor_msgs counts YUV as color, image_transport converts it first.
        'yuv422_yuy2; jpeg compressed bgr8',
    ],
)
def test_a_compressed_image_with_its_colors_is_used(form):
    assert compressed_refusal(num_bytes=1000, image_format=form) is None


@pytest.mark.parametrize('encoding', CONVERTED_LAYOUTS)
def test_rows_that_are_too_short_for_a_converted_encoding_are_refused(encoding):
    row = 64 * CONVERTED_LAYOUTS[encoding].bytes_per_pixel
    fields = {'width': 64, 'height': 48, 'encoding': encoding}
    assert layout_refusal(**fields, step=row, num_bytes=row * 48) is None
    assert layout_refusal(**fields, step=row - 1, num_bytes=(row - 1) * 48) is not None
    assert layout_refusal(**fields, step=row, num_bytes=row * 48 - 1) is not None


@pytest.mark.parametrize('encoding', ['yuv422', 'uyvy', 'yuyv', 'yuv422_yuy2'])
def test_two_pixels_share_a_color_so_the_width_is_even(encoding):
    refusal = layout_refusal(width=33, height=20, step=66, num_bytes=1320, encoding=encoding)
    assert 'even' in refusal.sentence
