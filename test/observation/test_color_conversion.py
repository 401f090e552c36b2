"""Bayer and YUV images become RGB; expected colors are derived from the encodings' definitions."""

import sys

import numpy as np
import pytest

from openvla_ros.observation.color_conversion import converted_rgb
from openvla_ros.observation.image_encoding import BAYER_LAYOUTS, YUV422_LAYOUTS, ImageRefused

W, H = 32, 20
COLORS = [(200, 30, 90), (0, 255, 0), (10, 20, 240), (128, 128, 128)]


def mosaic(order, color, bits=8, big_endian=False):
    """Uniform color through the filter pattern ``order``: its rows, two letters each."""
    pattern = [[color['rgb'.index(letter)] for letter in order[i : i + 2]] for i in (0, 2)]
    levels = np.tile(np.array(pattern, np.uint16), (H // 2, W // 2))
    if bits == 8:
        return levels.astype(np.uint8)
    return ((levels << 8) | 0x5A).astype('>u2' if big_endian else '<u2').view(np.uint8)


def yuv422(first, color):
    """Uniform color as ITU-R BT.601 (studio swing) YUV 4:2:2; ``first`` is 'y' or 'u'."""
    r, g, b = (value / 255 for value in color)
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    y = round(16 + 219 * luma)
    u, v = round(128 + 224 * (b - luma) / 1.772), round(128 + 224 * (r - luma) / 1.402)
    pair = [y, u, y, v] if first == 'y' else [u, y, v, y]
    return np.tile(np.array(pair, np.uint8), (H, W // 2))


def convert(rows, encoding, *, padding=0, big_endian=False):
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return converted_rgb(
        rows.tobytes(),
        width=W,
        height=H,
        step=rows.shape[1],
        encoding=encoding,
        big_endian=big_endian,
    )


@pytest.fixture
def opencv():
    pytest.importorskip('cv2', reason='opencv-python-headless (requirements/camera.txt)')


@pytest.mark.usefixtures('opencv')
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('color', COLORS)
@pytest.mark.parametrize('encoding', BAYER_LAYOUTS)
def test_a_mosaic_of_one_color_becomes_that_color(encoding, color, padding):
    rows = mosaic(encoding[6:10], color, bits=int(encoding[10:]))
    rgb = convert(rows, encoding, padding=padding)
    assert (rgb.shape, rgb.dtype) == ((H, W, 3), np.uint8)
    assert (rgb == color).all()


@pytest.mark.usefixtures('opencv')
def test_the_more_significant_byte_of_a_big_endian_mosaic_is_used():
    rows = mosaic('rggb', COLORS[0], bits=16, big_endian=True)
    assert (convert(rows, 'bayer_rggb16', big_endian=True) == COLORS[0]).all()


@pytest.mark.usefixtures('opencv')
def test_a_colored_half_stays_on_its_side():
    rows = np.hstack(
        [mosaic('grbg', COLORS[0])[:, : W // 2], mosaic('grbg', COLORS[2])[:, W // 2 :]]
    )
    rgb = convert(rows, 'bayer_grbg8')
    assert (rgb[:, : W // 2 - 2] == COLORS[0]).all()
    assert (rgb[:, W // 2 + 2 :] == COLORS[2]).all()


@pytest.mark.usefixtures('opencv')
@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('color', COLORS)
@pytest.mark.parametrize('encoding', YUV422_LAYOUTS)
def test_yuv_of_one_color_becomes_that_color(encoding, color, padding):
    # sensor_msgs: yuv422 is the deprecated name of UYVY, yuv422_yuy2 that of YUYV.
    rows = yuv422('u' if encoding in ('yuv422', 'uyvy') else 'y', color)
    rgb = convert(rows, encoding, padding=padding)
    # One level of a rounded chroma is up to 2.02 levels of blue.
    np.testing.assert_allclose(rgb.astype(int), np.broadcast_to(color, rgb.shape), atol=3)


@pytest.mark.parametrize('encoding', ['bayer_rggb8', 'yuyv'])
def test_without_opencv_the_refusal_names_the_libraries(monkeypatch, encoding):
    monkeypatch.setitem(sys.modules, 'cv2', None)
    with pytest.raises(ImageRefused, match=f"'{encoding}' needs cv_bridge or opencv") as refused:
        convert(np.zeros((H, 2 * W), np.uint8), encoding)
    assert 'rgb8' in str(refused.value)


def test_what_only_cv_bridge_converts_says_so():
    with pytest.raises(ImageRefused, match="'nv24' needs cv_bridge, which"):
        convert(np.zeros((H, W), np.uint8), 'nv24')
