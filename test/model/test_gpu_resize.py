"""The device's preprocessing against Pillow and against the CPU's, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openvla_ros.model.gpu_resize import (
    DevicePreprocessor,
    normalisation_table,
    resample_weights,
    resize_like_pillow,
)
from openvla_ros.observation.image import ImageSpec, preprocess_image, resample

GOLDEN = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'
METHODS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}
#: Height and width: cameras, enlarging, one side only, odd, tiny, and the network's own size.
SIZES = [
    (480, 640),
    (720, 1280),
    (256, 256),
    (224, 300),
    (300, 224),
    (320, 240),
    (250, 220),
    (97, 131),
    (1, 9),
    (224, 224),
]


def pictures(height, width):
    """Noise, saturated noise, a ramp and edges: where clipping and rounding can go wrong."""
    generator = np.random.default_rng(height * 10007 + width)
    noise = generator.integers(0, 256, (height, width, 3), np.uint8)
    yield noise
    yield np.where(noise > 127, 255, 0).astype(np.uint8)
    ramp = np.linspace(0, 255, height * width * 3).reshape(height, width, 3)
    yield ramp.astype(np.uint8)
    checker = ((np.indices((height, width)).sum(0) // 3) % 2 * 255).astype(np.uint8)
    yield np.repeat(checker[:, :, None], 3, 2)


def make_spec(strategy='resize-naive', interpolations=('bicubic', 'bicubic'), size=224):
    return ImageSpec.from_config(
        {
            'image_resize_strategy': strategy,
            'input_sizes': [[3, size, size]] * 2,
            'interpolations': list(interpolations),
            'means': [[0.485, 0.456, 0.406], [0.5, 0.5, 0.5]],
            'stds': [[0.229, 0.224, 0.225], [0.5, 0.5, 0.5]],
        }
    )


@pytest.mark.parametrize('interpolation', METHODS)
@pytest.mark.parametrize(('height', 'width'), SIZES)
def test_every_pixel_equals_pillow_s(height, width, interpolation):
    rows = torch.from_numpy(resample_weights(height, 224, interpolation))
    columns = torch.from_numpy(resample_weights(width, 224, interpolation))
    for picture in pictures(height, width):
        expected = resample(Image.fromarray(picture), 224, 224, METHODS[interpolation])
        got = resize_like_pillow(torch.from_numpy(picture), rows, columns)
        np.testing.assert_array_equal(got.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_weights_of_every_output_sum_to_one():
    for length in (100, 224, 640):
        total = resample_weights(length, 224, 'bicubic').sum(1) / (1 << 22)
        np.testing.assert_allclose(total, 1.0, atol=1e-5)


@pytest.mark.parametrize('strategy', ['resize-naive', 'letterbox', 'resize-crop'])
@pytest.mark.parametrize('interpolations', [('bicubic', 'bicubic'), ('bicubic', 'lanczos')])
@pytest.mark.parametrize(('height', 'width'), [(120, 160), (224, 224)])
def test_pixel_values_equal_the_cpu_s(strategy, interpolations, height, width):
    spec = make_spec(strategy, interpolations)
    preprocessor = DevicePreprocessor(spec, 'cpu', torch.float32)
    for picture in pictures(height, width):
        got = preprocessor(picture)
        assert got.shape == (1, 6, 224, 224)
        np.testing.assert_array_equal(got[0].numpy(), preprocess_image(picture, spec))


def test_pixel_values_in_bfloat16_are_the_rounded_ones():
    spec = make_spec()
    picture = next(pictures(240, 320))
    got = DevicePreprocessor(spec, 'cpu', torch.bfloat16)(picture)
    expected = torch.from_numpy(preprocess_image(picture, spec)).bfloat16()
    assert torch.equal(got[0], expected)


@pytest.mark.parametrize('size', [14, 16, 224])
def test_the_table_holds_every_level(size):
    table = normalisation_table(make_spec(size=size))
    assert table.shape == (2, 3, 256)
    level = np.float32(200) / np.float32(255)
    assert table[0, 1, 200] == (level - np.float32(0.456)) / np.float32(0.224)
    assert table[1, 2, 255] == 1.0


def test_a_wrong_image_is_refused():
    preprocessor = DevicePreprocessor(make_spec(), 'cpu', torch.float32)
    with pytest.raises(ValueError, match='float64'):
        preprocessor(np.zeros((4, 4, 3)))


@pytest.mark.parametrize('i', range(8))
@pytest.mark.parametrize('form', ['', '.released'])
def test_pixel_values_on_the_device_are_bit_for_bit_the_originals(form, i):
    config = json.loads((GOLDEN / f'preprocessor_config{form}.json').read_text())
    on_device = DevicePreprocessor(ImageSpec.from_config(config), 'cpu', torch.float32)
    pixel_values = on_device(np.asarray(Image.open(GOLDEN / f'image_{i}.png').convert('RGB')))
    expected = np.load(GOLDEN / f'expected{form}.npz')[f'pixel_values_{i}']
    assert np.array_equal(pixel_values[0, :, ::7, ::5], expected)
