import colorsys
import itertools

import mujoco
import numpy as np
import pytest

from openvla_ros.sim.scene import (
    COLOURS,
    Block,
    CameraMount,
    Distractor,
    Scene,
    build_model,
    look_at_quaternion_wxyz,
)
from openvla_ros.sim.scene_sampling import (
    BLOCK_REGION_M,
    BLOCK_SPACING_M,
    DISTRACTOR_SPACING_M,
    sample_scene,
)


def test_hues_are_at_least_40_degrees_apart_and_saturated():
    hsv = [colorsys.rgb_to_hsv(*rgb) for rgb in COLOURS.values()]
    for (a, *_), (b, *_) in itertools.combinations(hsv, 2):
        assert min(abs(a - b), 1 - abs(a - b)) * 360 >= 40
    assert min(saturation for _, saturation, _ in hsv) > 0.8


def test_distractors_are_not_saturated():
    for seed in range(50):
        scene = sample_scene(np.random.default_rng(seed), ['red', 'blue'], keep_lane=False)
        for distractor in scene.distractors:
            assert colorsys.rgb_to_hsv(*distractor.rgb)[1] < 0.6


def test_an_unknown_or_repeated_colour_is_refused():
    with pytest.raises(ValueError, match="got colour 'pink', expected one of red"):
        Scene(blocks=(Block('pink', (0.3, 0)),))
    with pytest.raises(ValueError, match='each at most once'):
        Scene(blocks=(Block('red', (0.3, 0)), Block('red', (0.2, 0))))


def test_the_model_holds_what_the_scene_says():
    scene = Scene(
        blocks=(Block('red', (0.30, 0.10), 0.2), Block('green', (0.25, -0.10))),
        distractors=(Distractor('ball', (0.2, 0.25), 0.02, 0.0, (0.5, 0.5, 0.5)),),
    )
    model = build_model(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    np.testing.assert_allclose(data.body('block_red').xpos, [0.30, 0.10, 0.02])
    np.testing.assert_allclose(data.body('block_green').xpos, [0.25, -0.10, 0.02])
    np.testing.assert_allclose(data.camera('camera').xpos, scene.camera.position_m)


def test_the_camera_looks_at_its_target_with_the_horizon_level():
    mount = CameraMount()
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, look_at_quaternion_wxyz(mount))
    right, up, backward = matrix.reshape(3, 3).T
    towards = np.subtract(mount.target_m, mount.position_m)
    np.testing.assert_allclose(-backward, towards / np.linalg.norm(towards), atol=1e-9)
    assert right[2] == pytest.approx(0.0, abs=1e-9)
    assert up[2] > 0


@pytest.mark.parametrize('keep_lane', [False, True])
def test_sampled_blocks_stand_apart_within_their_region(keep_lane):
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scene = sample_scene(rng, ['red', 'blue', 'green', 'yellow'], keep_lane=keep_lane)
        places = [block.position_m for block in scene.blocks]
        for x, y in places:
            assert BLOCK_REGION_M[0][0] <= x <= BLOCK_REGION_M[0][1]
            assert BLOCK_REGION_M[1][0] <= y <= BLOCK_REGION_M[1][1]
        for a, b in itertools.combinations(places, 2):
            assert np.hypot(*np.subtract(a, b)) > BLOCK_SPACING_M
        for distractor in scene.distractors:
            gaps = [np.hypot(*np.subtract(distractor.position_m, p)) for p in places]
            assert min(gaps) >= DISTRACTOR_SPACING_M


def test_light_camera_table_and_start_vary():
    scenes = [
        sample_scene(np.random.default_rng(seed), ['red', 'blue'], keep_lane=False)
        for seed in range(40)
    ]
    for attribute in ('lighting', 'camera', 'table_rgb', 'start_position_m'):
        assert len({getattr(scene, attribute) for scene in scenes}) == 40
    assert {len(scene.distractors) for scene in scenes} == {0, 1, 2, 3}
