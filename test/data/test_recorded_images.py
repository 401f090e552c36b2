"""What replay makes of the images of a recording: the same as the policy does of a camera's."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from openvla_ros.data.recording import Recording
from openvla_ros.evaluation import replay

STORE = get_typestore(Stores.LATEST)
W, H = 32, 20
RED = (200, 0, 0)


def header():
    stamp = STORE.types['builtin_interfaces/msg/Time'](12, 0)
    return STORE.types['std_msgs/msg/Header'](stamp, 'camera')


def jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, 'JPEG')
    return np.frombuffer(buffer.getvalue(), np.uint8)


def images_of(folder, kind, **fields):
    """Record one message and read it; returns the images and the refusals."""
    path = folder / 'bag'
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection('/image', kind, typestore=STORE)
        message = STORE.types[kind](header=header(), **fields)
        bag.write(connection, 12 * 10**9, STORE.serialize_cdr(message, kind))
    refused = []
    with Recording(path) as recording:
        return [found.image for found in recording.images('/image', refused)], refused


def compressed(folder, image_format, pixels):
    kind = 'sensor_msgs/msg/CompressedImage'
    return images_of(folder, kind, format=image_format, data=jpeg(pixels))


def raw(folder, encoding, rows):
    return images_of(
        folder,
        'sensor_msgs/msg/Image',
        height=H,
        width=W,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=rows.reshape(-1),
    )


def red_mosaic():
    rows = np.zeros((H, W), np.uint8)
    rows[::2, ::2] = RED[0]
    return rows


@pytest.mark.parametrize(
    'image_format',
    [
        'bayer_rggb8; jpeg compressed mono8',
        'yuv422_yuy2; jpeg compressed mono8',
        'mono8; jpeg compressed ',
    ],
)
def test_a_recorded_compressed_image_without_its_colors_is_refused(tmp_path, image_format):
    images, refused = compressed(tmp_path, image_format, red_mosaic())
    assert images == []
    (refusal,) = refused
    assert refusal.code == 'IMAGE_ENCODING'
    assert 'image_transport to raw' in refusal.sentence


def test_replay_says_once_what_to_do_instead(tmp_path, monkeypatch, capsys):
    path = tmp_path / 'bag'
    kind = 'sensor_msgs/msg/CompressedImage'
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection('/image', kind, typestore=STORE)
        for second in (12, 13, 14):
            message = STORE.types[kind](
                header=header(),
                format='bayer_rggb8; jpeg compressed mono8',
                data=jpeg(red_mosaic()),
            )
            bag.write(connection, second * 10**9, STORE.serialize_cdr(message, kind))
    backend = SimpleNamespace(
        description='none', image_size=64, norm_stats=None, warm_up=lambda: None
    )
    monkeypatch.setattr(replay, '_backend', lambda options: backend)
    arguments = ['--unnorm-key', 'openvla_ros_demo', '--instruction', 'a', '--against', 'none']
    assert replay.main([str(path), *arguments, '--out', str(tmp_path / 'out')]) == 2
    said = capsys.readouterr().err
    assert said.count('image_transport to raw') == 1
    assert 'IMAGE_ENCODING: 3' in said


def test_a_recorded_compressed_image_in_color_is_read(tmp_path):
    pixels = np.broadcast_to(np.array(RED, np.uint8), (H, W, 3))
    (image,), refused = compressed(tmp_path, 'bgr8; jpeg compressed bgr8', pixels)
    assert refused == []
    np.testing.assert_allclose(image.astype(int), pixels, atol=3)  # JPEG rounds


def test_a_recorded_bayer_image_is_converted(tmp_path):
    pytest.importorskip('cv2', reason='opencv-python-headless (requirements/camera.txt)')
    (image,), refused = raw(tmp_path, 'bayer_rggb8', red_mosaic())
    assert refused == []
    assert (image == RED).all()
