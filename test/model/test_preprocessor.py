import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA
from openvla_ros.model.inspect import main
from openvla_ros.model.preprocessor import read_preprocessor
from openvla_ros.observation.image import preprocess_image

TINY = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'
RELEASED = json.loads((TINY / 'preprocessor_config.released.json').read_text())


@pytest.fixture
def folder(tmp_path):
    """The golden checkpoint without a word about images."""
    for name in ('config.json', 'model.safetensors'):
        (tmp_path / name).symlink_to(TINY / name)
    return tmp_path


def write(folder, name, content):
    (folder / name).write_text(json.dumps(content))


def nested(content=RELEASED):
    """As ProcessorMixin.save_pretrained of transformers 5.23 writes it."""
    return {'image_processor': content, 'processor_class': 'PrismaticProcessor'}


def test_transformers_5_s_processor_config_alone_gives_the_released_pixels(folder):
    write(folder, 'processor_config.json', nested())
    model = OpenVLA.from_pretrained(folder)
    image = np.asarray(Image.open(TINY / 'image_5.png').convert('RGB'))
    expected = np.load(TINY / 'expected.released.npz')
    pixel_values = preprocess_image(image, model.image_spec)
    assert np.array_equal(pixel_values[:, ::7, ::5], expected['pixel_values_5'])


def test_what_was_loaded_in_one_form_is_saved_in_the_other_with_the_same_meaning(folder, tmp_path):
    write(folder, 'processor_config.json', nested())
    model = OpenVLA.from_pretrained(folder)
    model.save_pretrained(tmp_path / 'saved')
    assert read_preprocessor(tmp_path / 'saved').content == RELEASED


def test_a_processor_config_without_image_settings_is_passed_over(folder):
    write(folder, 'processor_config.json', {'processor_class': 'PrismaticProcessor'})
    write(folder, 'preprocessor_config.json', RELEASED)
    assert read_preprocessor(folder).content == RELEASED


def test_both_files_may_stand_side_by_side_if_they_mean_the_same(folder):
    write(folder, 'processor_config.json', nested())
    write(folder, 'preprocessor_config.json', RELEASED)
    assert read_preprocessor(folder).content == RELEASED


def test_two_files_that_mean_different_pixels_are_refused(folder):
    exact = json.loads((TINY / 'preprocessor_config.json').read_text())
    write(folder, 'processor_config.json', nested())
    write(folder, 'preprocessor_config.json', exact)
    with pytest.raises(ConfigError, match=r'preprocessor_config.json: gives images other pixel'):
        OpenVLA.from_pretrained(folder)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'preprocessor_config.json: is missing, and .*processor_config.json too'),
        ({}, 'is missing, and .*processor_config.json has no image_processor'),
        ({'image_processor': 3}, 'processor_config.json: image_processor: got 3'),
        ({'image_processor': {}}, "image_processor: key 'image_resize_strategy' is missing"),
    ],
)
def test_a_folder_that_says_nothing_about_images_is_refused(folder, capsys, content, message):
    if content is not None:
        write(folder, 'processor_config.json', content)
    with pytest.raises(ConfigError, match=message):
        OpenVLA.from_pretrained(folder)
    assert main([str(folder), '--no-self-test']) == 1
    assert 'refused: ' in capsys.readouterr().err


def test_inspect_says_which_normalization_is_used(folder, capsys):
    write(folder, 'preprocessor_config.json', RELEASED)
    assert main([str(folder), '--no-self-test']) == 0
    out = capsys.readouterr().out
    assert 'mean 0.484375, 0.455078125, 0.40625; std 0.228515625, ' in out
    assert out.count('(stored bfloat16)') == 1
