"""What arrives, judged before an episode begins."""

import io

import numpy as np
import pytest
from PIL import Image as Pillow
from sensor_msgs.msg import CompressedImage, Image

from openvla_ros.nodes.recorded_topics import _image_fault


def jpeg():
    buffer = io.BytesIO()
    Pillow.fromarray(np.zeros((48, 64, 3), np.uint8)).save(buffer, format='JPEG')
    return buffer.getvalue()


def test_images_that_can_be_read_have_no_fault():
    raw = Image(width=64, height=48, step=192, encoding='rgb8', data=bytes(64 * 48 * 3))
    assert _image_fault(raw) == ''
    assert _image_fault(CompressedImage(format='jpeg', data=jpeg())) == ''
    assert _image_fault(None) == ''  # that none came is another sentence


@pytest.mark.parametrize(
    ('message', 'sentence'),
    [
        (Image(width=64, height=48, step=128, encoding='16UC1', data=bytes(64 * 48 * 2)), '16UC1'),
        (Image(width=64, height=48, step=192, encoding='rgb8', data=bytes(9)), '9 bytes'),
        (CompressedImage(format='jpeg', data=jpeg()[:100]), 'image'),
        (CompressedImage(format='bayer_rggb8; jpeg compressed', data=jpeg()), 'bayer_rggb8'),
    ],
)
def test_an_image_that_nobody_can_read_is_one_sentence(message, sentence):
    fault = _image_fault(message)
    assert sentence in fault
    assert '\n' not in fault
