import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from openvla_ros.sim import camera
from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.offscreen import NoOffscreenGlError, select_gl
from openvla_ros.sim.scene import COLOURS, Block, Scene

SCENE = Scene(
    blocks=(Block('red', (0.24, 0.12)), Block('blue', (0.32, -0.02))),
    start_position_m=(0.18, -0.15, 0.20),
)


def project(arm, point_m):
    """The pinhole model on known frames: optical z forward, x right, y down."""
    pose = arm.camera_pose()
    x, y, z = pose.rotation().T @ (point_m - pose.position_m)
    k = arm.camera_info().matrix()
    return np.array([k[0, 0] * x / z + k[0, 2], k[1, 1] * y / z + k[1, 2]])


def pixels_of(image, colour):
    """Centroid (column, row) of the pixels whose hue is this block's."""
    unit = np.array(COLOURS[colour]) / np.linalg.norm(COLOURS[colour])
    norm = np.linalg.norm(image.astype(float), axis=2) + 1e-9
    rows, columns = np.nonzero(((image @ unit) / norm > 0.985) & (norm > 40))
    return np.array([columns.mean(), rows.mean()]), len(rows)


@pytest.mark.parametrize(('width', 'height'), [(256, 256), (640, 480), (112, 112)])
def test_blocks_appear_where_camera_info_and_pose_project_them(width, height):
    arm = SimArm(SCENE, width=width, height=height)
    image = arm.render()
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    for colour, position in arm.block_positions().items():
        centroid, count = pixels_of(image, colour)
        assert count > 0.004 * height**2
        assert np.linalg.norm(centroid - project(arm, position)) < 0.012 * height
    arm.close()


def test_the_same_scene_renders_to_the_same_pixels():
    def picture():
        arm = SimArm(SCENE, width=96, height=96)
        image = arm.render()
        arm.close()
        return image

    np.testing.assert_array_equal(picture(), picture())


def test_arms_may_be_rendered_in_turns_and_in_another_thread():
    one = SimArm(SCENE, width=64, height=64)
    two = SimArm(Scene(blocks=(Block('green', (0.3, 0.0)),)), width=96, height=80)
    first = one.render()
    assert two.render().shape == (80, 96, 3)
    np.testing.assert_array_equal(one.render(), first)
    images = []

    def work():
        third = SimArm(SCENE, width=64, height=64)
        images.append(third.render())
        third.close()
        camera.free_thread_contexts()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(20)
    np.testing.assert_array_equal(images[0], first)
    one.close()
    two.close()


@pytest.mark.parametrize('size', [(0, 64), (64, 641)])
def test_a_size_that_cannot_be_rendered_is_refused(size):
    with pytest.raises(ValueError, match='expected 1 to 640 each'):
        SimArm(SCENE, width=size[0], height=size[1]).render()


@pytest.mark.parametrize(
    ('environment', 'libraries', 'expected'),
    [
        ({}, {'EGL', 'OpenGL', 'OSMesa'}, 'egl'),
        ({}, {'EGL', 'GL'}, 'egl'),
        ({}, {'EGL', 'OSMesa'}, 'osmesa'),
        ({}, {'EGL'}, 'disable'),
        ({}, set(), 'disable'),
        ({'MUJOCO_GL': 'glfw'}, {'EGL'}, 'glfw'),
        ({'MUJOCO_GL': ''}, {'EGL', 'GL'}, 'egl'),
    ],
)
def test_opengl_is_egl_then_osmesa_then_none_unless_the_user_chose(
    environment, libraries, expected
):
    chosen = select_gl(environment, lambda name: name if name in libraries else None)
    assert chosen == environment['MUJOCO_GL'] == expected


@pytest.mark.parametrize(('chosen', 'missing'), [('osmesa', 'libOSMesa'), ('EGL', 'libOpenGL')])
def test_a_chosen_opengl_that_is_not_there_is_one_sentence(chosen, missing):
    with pytest.raises(
        NoOffscreenGlError, match=rf'MUJOCO_GL={chosen} needs {missing}.*apt install'
    ):
        select_gl({'MUJOCO_GL': chosen}, lambda name: name if name == 'EGL' else None)


def test_without_opengl_physics_works_and_a_picture_is_refused_with_what_to_install():
    code = (
        'from openvla_ros.sim.arm import SimArm\n'
        'from openvla_ros.sim.tasks import sample_episode\n'
        'arm = SimArm(sample_episode("reach", 0).scene)\n'
        'arm.step([0.1, 0, 0, 0, 0, 0], 1.0, 0.2)\n'
        'arm.render()\n'
    )
    environment = {**os.environ, 'MUJOCO_GL': 'disable'}
    environment['PYTHONPATH'] = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, '-c', code], env=environment, capture_output=True, text=True, timeout=60
    )
    last_line = ended.stderr.strip().splitlines()[-1]
    assert 'NoOffscreenGlError: there is no picture to be had' in last_line
    assert 'apt install libegl1' in last_line
