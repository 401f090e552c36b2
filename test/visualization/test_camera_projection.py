import math

import numpy as np
import pytest

from openvla_ros.visualization.camera_projection import CameraProjection

K = np.array([[300.0, 0.0, 127.5], [0.0, 300.0, 127.5], [0.0, 0.0, 1.0]])
# A camera 1 m above the base, looking straight down, picture's right along base x: the optical
# axes are x -> base x, y -> base -y, z -> base -z, half a turn about x.
LOOKING_DOWN = (1.0, 0.0, 0.0, 0.0)


def camera(position=(0.0, 0.0, 1.0), quaternion=LOOKING_DOWN, matrix=K):
    return CameraProjection(matrix, np.array(position), np.array(quaternion), 256, 256)


def test_the_point_below_the_camera_is_the_principal_point():
    assert camera().pixel((0.0, 0.0, 0.0)) == pytest.approx((127.5, 127.5))


def test_a_point_moves_by_focal_length_over_distance():
    # 0.1 m to the right at 1 m distance: 30 px; base +y is up in this picture.
    assert camera().pixel((0.1, 0.0, 0.0)) == pytest.approx((157.5, 127.5))
    assert camera().pixel((0.0, 0.1, 0.5)) == pytest.approx((127.5, 67.5))


def test_a_point_behind_the_lens_has_no_pixel():
    assert camera().pixel((0.0, 0.0, 1.5)) is None
    assert camera().pixel((0.0, 0.0, 1.0)) is None
    assert camera().pixel((math.nan, 0.0, 0.0)) is None


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'matrix': np.zeros((3, 3))}, 'no positive focal length'),
        ({'matrix': np.full((3, 3), np.nan)}, 'no positive focal length'),
        ({'quaternion': (0.0, 0.0, 0.0, 0.0)}, 'unit length'),
        ({'position': (np.inf, 0.0, 0.0)}, 'not finite'),
    ],
)
def test_a_camera_that_would_draw_at_a_wrong_place_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        camera(**change)
