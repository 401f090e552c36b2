"""The augmentation against TensorFlow's own (golden/finetuning/augmentation.npz)."""

from pathlib import Path

import numpy as np
import pytest

from openvla_ros.training.augmentation import (
    Augmentation,
    crop,
    scale_contrast,
    scale_saturation,
    shift_brightness,
    shift_hue,
)

GOLDEN = np.load(Path(__file__).parents[1] / 'golden' / 'finetuning' / 'augmentation.npz')


def stored(name, i):
    return GOLDEN[f'{name}_{i}']


@pytest.mark.parametrize('i', range(4))
def test_every_step_equals_tensorflows(i):
    augmentation = Augmentation(*stored('draws', i))
    levels = crop(stored('image', i).astype(np.float32) / np.float32(255.0), augmentation)
    steps = {'cropped': levels}
    steps['brightness'] = levels = shift_brightness(levels, augmentation.brightness)
    steps['contrast'] = levels = scale_contrast(levels, augmentation.contrast)
    steps['saturation'] = levels = scale_saturation(levels, augmentation.saturation)
    steps['hue'] = shift_hue(levels, augmentation.hue)
    for name, got in steps.items():
        np.testing.assert_allclose(got[::9, ::7], stored(name, i), atol=2e-6, err_msg=name)


@pytest.mark.parametrize('i', range(4))
def test_the_whole_augmentation_gives_tensorflows_pixels(i):
    got = Augmentation(*stored('draws', i)).apply(stored('image', i)).astype(int)
    difference = np.abs(got - stored('result', i))
    # A level that lies within float32 rounding of an integer may fall on either side of it.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


def test_the_two_offsets_of_the_crop_are_drawn_independently():
    rng = np.random.default_rng(0)
    drawn = [Augmentation.draw(rng) for _ in range(200)]
    tops, lefts = np.array([(a.top, a.left) for a in drawn]).T
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.2
    assert 0.0 <= tops.min() <= tops.max() <= 1.0 - 0.9**0.5


def test_what_is_drawn_stays_in_upstreams_ranges():
    rng = np.random.default_rng(1)
    for a in (Augmentation.draw(rng) for _ in range(500)):
        assert a.side**2 == pytest.approx(0.9)
        assert abs(a.brightness) <= 0.2
        assert 0.8 <= a.contrast <= 1.2
        assert 0.8 <= a.saturation <= 1.2
        assert abs(a.hue) <= 0.05


def test_no_change_leaves_the_image_as_it_is():
    image = np.random.default_rng(2).integers(0, 256, (32, 32, 3), np.uint8)
    same = Augmentation(0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0).apply(image)
    np.testing.assert_array_equal(same, image)
