import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.observation.image import (
    ImageRecipe,
    ImageSpec,
    apply_recipe,
    crop_center_area,
    lanczos3_weights,
    preprocess_image,
    resize_image,
    squash_lanczos3,
)

GOLDEN = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'
CONFIG = json.loads((GOLDEN / 'preprocessor_config.json').read_text())
RELEASED = json.loads((GOLDEN / 'preprocessor_config.released.json').read_text())


def single(strategy, **changes):
    return {
        'image_resize_strategy': strategy,
        'input_sizes': [[3, 224, 224]],
        'interpolations': ['bicubic'],
        'means': [[0.5, 0.5, 0.5]],
        'stds': [[0.5, 0.5, 0.5]],
        **changes,
    }


def picture(height, width, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize('i', range(8))
@pytest.mark.parametrize(
    ('config', 'results'), [(CONFIG, 'expected.npz'), (RELEASED, 'expected.released.npz')],
    ids=['plain', 'released'],
)  # fmt: skip
def test_pixel_values_are_bit_for_bit_the_originals(config, results, i):
    image = np.asarray(Image.open(GOLDEN / f'image_{i}.png').convert('RGB'))
    pixel_values = preprocess_image(image, ImageSpec.from_config(config))
    expected = np.load(GOLDEN / results)
    assert pixel_values.dtype == np.float32
    assert pixel_values.shape == (6, 224, 224)
    assert np.array_equal(pixel_values[:, ::7, ::5], expected[f'pixel_values_{i}'])
    means = pixel_values.mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, expected[f'pixel_values_mean_{i}'], rtol=0, atol=1e-6)


def released_with(tower, **entries):
    normalize = [dict(entry) for entry in RELEASED['tvf_normalize_params']]
    normalize[tower].update(entries)
    return {**RELEASED, 'tvf_normalize_params': normalize}


def test_stored_normalization_that_equals_means_and_stds_is_taken_too():
    exact = {'mean': RELEASED['means'][0], 'std': RELEASED['stds'][0]}
    assert ImageSpec.from_config(released_with(0, **exact)) == ImageSpec.from_config(CONFIG)


@pytest.mark.parametrize(
    ('tower', 'entries', 'message'),
    [
        # One unit in the last place of bfloat16 beside the rounding of 0.485, 0.484375.
        (0, {'mean': [0.486328125, 0.455078125, 0.40625]}, r'\[0\].mean: got \[0.486'),
        # SigLIP's numbers where ImageNet's belong, and rounding to float16 in place of bfloat16.
        (0, {'std': [0.5, 0.5, 0.5]}, r'\[0\].std: got \[0.5, 0.5, 0.5\], expected stds'),
        (0, {'std': np.float16(RELEASED['stds'][0]).tolist()}, r'\[0\].std: got'),
        (1, {'mean': [0.5, 0.5, 0.25]}, r'\[1\].mean: got .* expected means\[1\]'),
        (1, {'mean': [0.5, 0.5]}, 'expected three finite numbers'),
    ],
)
def test_stored_normalization_that_derives_from_nothing_is_refused(tower, entries, message):
    with pytest.raises(ConfigError, match=f'^preprocessor_config.json: tvf_norm.*{message}'):
        ImageSpec.from_config(released_with(tower, **entries))


def test_the_letterbox_color_comes_from_means_whatever_is_stored():
    """As the original: 255 * 0.392 is 99.96, of the stored 0.392578125 it would be 100.1."""
    one = single('letterbox', means=[[0.392, 0.392, 0.392]])
    one['tvf_normalize_params'] = [{'mean': [0.392578125] * 3, 'std': [0.5] * 3}]
    spec = ImageSpec.from_config(one)
    assert spec.letterbox_fill == (99, 99, 99)
    assert spec.towers[0].mean == (0.392578125,) * 3


def test_a_constant_picture_stays_constant_in_every_channel_group():
    image = np.full((50, 80, 3), (10, 100, 200), np.uint8)
    pixel_values = preprocess_image(image, ImageSpec.from_config(CONFIG))
    level = np.array([10, 100, 200], np.float32) / np.float32(255)
    for tower in range(2):
        mean = np.array(CONFIG['means'][tower], np.float32)
        std = np.array(CONFIG['stds'][tower], np.float32)
        expected = ((level - mean) / std)[:, None, None]
        assert np.array_equal(
            pixel_values[3 * tower : 3 * tower + 3], np.broadcast_to(expected, (3, 224, 224))
        )


@pytest.mark.parametrize(('height', 'width'), [(480, 640), (640, 480), (101, 173), (224, 224)])
def test_letterbox_pads_to_a_square_with_the_mean_colour(height, width):
    image = picture(height, width)
    side = max(height, width)
    down, across = (side - height) // 2, (side - width) // 2
    # An odd difference leaves one row too few; the shorter side becomes 224, the rest is cut.
    padded = np.full((height + 2 * down, width + 2 * across, 3), 127, np.uint8)
    padded[down : down + height, across : across + width] = image
    short = min(padded.shape[:2])
    target = (
        int(224 * padded.shape[1] / short) if padded.shape[1] > short else 224,
        int(224 * padded.shape[0] / short) if padded.shape[0] > short else 224,
    )
    resized = Image.fromarray(padded).resize(target, Image.Resampling.BICUBIC)
    left, top = round((target[0] - 224) / 2), round((target[1] - 224) / 2)
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224)))
    spec = ImageSpec.from_config(single('letterbox'))
    assert np.array_equal(resize_image(image, spec), expected)


def test_resize_crop_keeps_the_centre_of_the_longer_side():
    image = picture(300, 451)
    # Shorter side 300 -> 224, longer 451 -> int(224 * 451 / 300) = 336, cut from 56 on.
    resized = Image.fromarray(image).resize((336, 224), Image.Resampling.BICUBIC)
    spec = ImageSpec.from_config(single('resize-crop'))
    assert np.array_equal(resize_image(image, spec), np.asarray(resized)[:, 56:280])
    turned = resize_image(np.ascontiguousarray(image.transpose(1, 0, 2)), spec)
    assert turned.shape == (224, 224, 3)


def test_the_letterbox_colour_is_the_stored_one_or_the_last_towers():
    fused = {**CONFIG, 'image_resize_strategy': 'letterbox'}
    assert ImageSpec.from_config(fused).letterbox_fill == (127, 127, 127)
    stored = {**fused, 'tvf_do_letterbox': True, 'tvf_letterbox_fill': [123, 116, 103]}
    assert ImageSpec.from_config(stored).letterbox_fill == (123, 116, 103)


@pytest.mark.parametrize('stored', [False, True, None, ...])
def test_the_strategy_decides_whether_a_picture_is_letterboxed(stored):
    config = {**CONFIG, 'image_resize_strategy': 'letterbox', 'tvf_do_letterbox': stored}
    if stored is ...:
        del config['tvf_do_letterbox']
    assert (resize_image(picture(100, 300), ImageSpec.from_config(config))[0] == 127).all()


def test_other_sizes_and_filters_are_read_from_the_file():
    config = single('resize-naive', input_sizes=[[3, 112, 112]], interpolations=['bilinear'])
    image = picture(60, 90)
    expected = Image.fromarray(image).resize((112, 112), Image.Resampling.BILINEAR)
    spec = ImageSpec.from_config(config)
    assert spec.size == 112
    assert spec.channels == 3
    assert np.array_equal(resize_image(image, spec), np.asarray(expected))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'image_resize_strategy': 'letterbx'}, r"letterbx' \(did you mean 'letterbox'\?\)"),
        ({'input_sizes': [[3, 224, 200]]}, r'input_sizes: got .*expected \[3, S, S\]'),
        ({'input_sizes': [[4, 224, 224]]}, r'input_sizes: got .*expected \[3, S, S\]'),
        ({'interpolations': ['cubic']}, "interpolations: got 'cubic'"),
        ({'interpolations': []}, 'expected one per vision tower'),
        ({'means': [[0.5, 0.5]]}, 'means: got .*three finite numbers'),
        ({'stds': [[0.5, 0.0, 0.5]]}, 'stds: got .*positive'),
        ({'use_fused_vision_backbone': True}, 'describes 1 tower'),
        ({'tvf_resize_params': [{'size': 224}]}, 'contradicts itself'),
        ({'tvf_crop_params': [{'output_size': [200, 200]}]}, 'contradicts itself'),
        ({'tvf_do_letterbox': True}, 'tvf_do_letterbox is true, but .*contradicts itself'),
    ],
)
def test_a_preprocessor_that_cannot_be_followed_is_refused(changes, message):
    with pytest.raises(ConfigError, match=f'^preprocessor_config.json.*{message}'):
        ImageSpec.from_config({**single('resize-naive'), **changes})


@pytest.mark.parametrize('key', ['input_sizes', 'means', 'image_resize_strategy'])
def test_a_missing_key_is_named(key):
    config = single('resize-naive')
    del config[key]
    with pytest.raises(ConfigError, match=f"key '{key}' is missing"):
        ImageSpec.from_config(config)


def test_towers_of_different_sizes_are_refused():
    with pytest.raises(ConfigError, match='the same size for every tower'):
        ImageSpec.from_config({**CONFIG, 'input_sizes': [[3, 224, 224], [3, 384, 384]]})


@pytest.mark.parametrize(
    'image',
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=['float', 'mono', 'alpha', 'empty'],
)
def test_anything_but_an_rgb_image_is_refused(image):
    with pytest.raises(ValueError, match='expected a non-empty uint8'):
        preprocess_image(image, ImageSpec.from_config(CONFIG))


def test_lanczos_weights_sum_to_one_and_keep_an_unchanged_size():
    for length, size in [(480, 224), (100, 224), (7, 3)]:
        np.testing.assert_allclose(lanczos3_weights(length, size).sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(lanczos3_weights(9, 9), np.eye(9), atol=1e-12)


def test_the_squash_is_a_lanczos_resize_that_ignores_the_aspect_ratio():
    image = picture(480, 640)
    squashed = squash_lanczos3(image, 224)
    reference = Image.fromarray(image).resize((224, 224), Image.Resampling.LANCZOS)
    # Pillow's own Lanczos works in fixed point and rounds between the axes.
    assert np.abs(squashed.astype(int) - np.asarray(reference)).max() <= 2
    assert np.array_equal(squash_lanczos3(image[:224, :224], 224), image[:224, :224])


def test_the_squash_is_the_weighted_sum_over_both_axes():
    image = picture(31, 17, seed=3)
    rows, columns = lanczos3_weights(31, 12), lanczos3_weights(17, 12)
    for y, x in [(0, 0), (5, 7), (11, 11)]:
        value = sum(
            rows[y, i] * columns[x, j] * image[i, j, 1].astype(float)
            for i in range(31)
            for j in range(17)
        )
        assert squash_lanczos3(image, 12)[y, x, 1] == round(min(max(value, 0), 255))


def test_the_squash_leaves_out_only_weights_that_are_zero():
    for height, width in [(480, 640), (90, 300), (224, 300), (100, 80)]:
        image = picture(height, width, seed=4)
        rows, columns = lanczos3_weights(height, 224), lanczos3_weights(width, 224)
        dense = np.einsum('yh,hwc,xw->yxc', rows, image.astype(float), columns, optimize=True)
        expected = np.clip(np.rint(dense), 0, 255)
        np.testing.assert_array_equal(squash_lanczos3(image, 224), expected)


def test_the_crop_interpolates_the_central_ninety_percent_of_the_area():
    image = picture(224, 224, seed=5)
    cropped = crop_center_area(image, 224)
    side = np.sqrt(0.9)
    positions = (1 - side) / 2 * 223 + np.arange(224) * side * 223 / 223
    for y, x in [(0, 0), (100, 37), (223, 223)]:
        top, left = int(positions[y]), int(positions[x])
        down, along = positions[y] - top, positions[x] - left
        patch = image[top : top + 2, left : left + 2].astype(float)
        value = np.einsum('i,j,ijc->c', [1 - down, down], [1 - along, along], patch)
        # Back to whole levels as TensorFlow does: floor(x / 255 * 255.5).
        assert np.abs(cropped[y, x] - np.floor(value / 255 * 255.5)).max() <= 1


def test_cropping_a_constant_picture_changes_nothing():
    for level in (0, 1, 127, 128, 254, 255):
        image = np.full((224, 224, 3), level, np.uint8)
        assert np.array_equal(crop_center_area(image, 224), image)


def test_the_recipe_rotates_squashes_and_crops_in_this_order():
    image = picture(256, 256, seed=2)
    recipe = ImageRecipe(resize='lanczos3', center_crop=True, rotate_180=True)
    turned = np.ascontiguousarray(image[::-1, ::-1])
    expected = crop_center_area(squash_lanczos3(turned, 224), 224)
    assert np.array_equal(apply_recipe(image, recipe, 224), expected)


def test_a_recipe_of_nothing_gives_the_image_back():
    image = picture(30, 40)
    assert np.array_equal(apply_recipe(image, ImageRecipe(resize='none'), 224), image)
    assert apply_recipe(image, ImageRecipe(resize='none', center_crop=True), 64).shape == (
        64,
        64,
        3,
    )


def test_the_jpeg_step_changes_levels_but_not_the_picture():
    image = picture(96, 96, seed=1)
    through = apply_recipe(image, ImageRecipe(resize='none', jpeg_roundtrip=True), 96)
    difference = np.abs(through.astype(int) - image)
    assert 0 < difference.mean() < 6


def test_an_unknown_resize_is_refused():
    with pytest.raises(ConfigError, match="resize: got 'bicubic'"):
        ImageRecipe(resize='bicubic')
