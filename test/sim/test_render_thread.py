import threading
import time

import numpy as np
import pytest

from openvla_ros.sim.arm import SimArm
from openvla_ros.sim.render_thread import RenderThread
from openvla_ros.sim.scene import Block, Scene

SCENE = Scene(blocks=(Block('red', (0.30, 0.10)),), start_position_m=(0.2, -0.1, 0.15))


@pytest.fixture
def results():
    return {'pictures': [], 'errors': [], 'arrived': threading.Event()}


@pytest.fixture
def renderer(results):
    def keep(picture):
        results['pictures'].append(picture)
        results['arrived'].set()

    thread = RenderThread(64, 48, keep, results['errors'].append)
    yield thread
    thread.close()


def wait_and_clear(results):
    assert results['arrived'].wait(20)
    results['arrived'].clear()


def offer(renderer, arm, tag):
    end_s = time.monotonic() + 10
    while not renderer.offer(arm, tag):
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_a_picture_shows_the_moment_it_was_asked_for(renderer, results):
    arm = SimArm(SCENE, width=64, height=48)
    offer(renderer, arm, 'now')
    expected_pose = arm.camera_pose()
    expected = arm.render()
    arm.step([0.2, 0.1, -0.1, 0, 0, 0], 0.0, 0.4)
    wait_and_clear(results)
    picture = results['pictures'][0]
    np.testing.assert_array_equal(picture.pixels, expected)
    np.testing.assert_allclose(picture.camera_pose.position_m, expected_pose.position_m)
    assert (picture.intrinsics.width, picture.intrinsics.height) == (64, 48)
    assert picture.tag == 'now'
    arm.close()


def test_it_follows_a_change_of_scene(renderer, results):
    offer(renderer, SimArm(SCENE, render=False), 1)
    wait_and_clear(results)
    other = Scene(blocks=(Block('blue', (0.25, 0.0)),), table_rgb=(0.2, 0.2, 0.2))
    offer(renderer, SimArm(other, render=False), 2)
    wait_and_clear(results)
    first, second = results['pictures']
    assert first.pixels.mean() > second.pixels.mean() + 20


def test_a_busy_renderer_refuses_and_never_blocks(results):
    release = threading.Event()
    thread = RenderThread(32, 32, lambda _: release.wait(10), results['errors'].append)
    arm = SimArm(SCENE, render=False)
    offer(thread, arm, 1)
    time.sleep(0.2)
    start_s = time.monotonic()
    assert not thread.offer(arm, 2)
    assert time.monotonic() - start_s < 0.05
    release.set()
    thread.close()
    assert results['errors'] == []


def test_an_error_while_delivering_is_reported_and_survived(results):
    calls = []

    def fail_once(picture):
        calls.append(picture)
        results['arrived'].set()
        if len(calls) == 1:
            raise RuntimeError('broken pipe')

    thread = RenderThread(32, 32, fail_once, results['errors'].append)
    arm = SimArm(SCENE, render=False)
    for tag in (1, 2):
        offer(thread, arm, tag)
        wait_and_clear(results)
    thread.close()
    assert [str(error) for error in results['errors']] == ['broken pipe']
    assert [picture.tag for picture in calls] == [1, 2]
