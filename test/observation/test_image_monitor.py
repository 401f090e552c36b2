"""A camera is trusted only while its images are new, timely and alive."""

import math

import numpy as np
import pytest

from openvla_ros.core.status import Status
from openvla_ros.observation.image_monitor import (
    COLORLESS_S,
    Arrival,
    Fingerprint,
    ImageLimits,
    ImageMonitor,
    fingerprint,
)

ROS = 1_700_000_000.0  # ROS time at steady time 0


def arrival(stamp_s, frame_id='camera', geometry=(640, 480, 'rgb8')):
    return Arrival(stamp_s, frame_id, geometry)


def offer(monitor, now_s, *, stamp_s=None, ros_now_s=None, **others):
    ros_now_s = ROS + now_s if ros_now_s is None else ros_now_s
    stamp_s = ros_now_s - 0.02 if stamp_s is None else stamp_s
    return monitor.offer(arrival(stamp_s, **others), now_s=now_s, ros_now_s=ros_now_s)


def code(result):
    return result.code if isinstance(result, Status) else None


def test_without_an_image_it_says_so():
    assert ImageMonitor(ImageLimits()).verdict(0.0).code == 'NO_IMAGE'


def test_an_image_is_fresh_for_the_timeout_and_then_stale():
    monitor = ImageMonitor(ImageLimits(timeout_s=0.5))
    assert offer(monitor, 1.0) == pytest.approx(ROS + 0.98)
    assert monitor.verdict(1.5) is None
    assert monitor.verdict(1.51).code == 'IMAGE_STALE'
    offer(monitor, 2.0)
    assert monitor.verdict(2.0) is None


@pytest.mark.parametrize('now_s', [0.5, -math.inf, math.nan])
def test_a_time_that_runs_backwards_makes_nothing_fresh(now_s):
    monitor = ImageMonitor(ImageLimits())
    offer(monitor, 1.0)
    assert monitor.verdict(now_s) is not None


def test_the_same_stamp_again_is_dropped_and_feeds_nothing():
    monitor = ImageMonitor(ImageLimits())
    offer(monitor, 1.0, stamp_s=ROS + 0.9)
    for now_s in (1.1, 1.2, 1.3, 1.4):
        assert code(offer(monitor, now_s, stamp_s=ROS + 0.9)) == 'IMAGE_REPEATED'
    assert monitor.verdict(1.6).code == 'IMAGE_REPEATED'


@pytest.mark.parametrize(
    ('age_s', 'expected'),
    [
        (0.49, None),
        (0.51, 'IMAGE_OLD'),
        (2.0, 'IMAGE_OLD'),
        (1e9, 'IMAGE_OLD'),
        (-0.04, None),
        (-0.06, 'CLOCK_SKEW'),
        (-1.0, 'CLOCK_SKEW'),
        (-3600.0, 'CLOCK_SKEW'),
        (math.nan, 'IMAGE_OLD'),
    ],
)
def test_old_and_future_stamps_are_dropped_with_causes_of_their_own(age_s, expected):
    monitor = ImageMonitor(ImageLimits())
    assert code(offer(monitor, 1.0, stamp_s=ROS + 1.0 - age_s)) == expected
    if expected:
        assert monitor.verdict(1.01).code == expected
        assert monitor.verdict(10.0).code == 'NO_IMAGE'


def test_an_image_without_stamp_needs_permission_and_then_counts_from_its_arrival():
    assert code(offer(ImageMonitor(ImageLimits()), 1.0, stamp_s=0.0)) == 'IMAGE_UNSTAMPED'
    monitor = ImageMonitor(ImageLimits(allow_unstamped=True))
    assert offer(monitor, 1.0, stamp_s=0.0) == ROS + 1.0
    assert monitor.verdict(1.1) is None


def test_after_the_clock_was_set_back_new_stamps_are_new():
    monitor = ImageMonitor(ImageLimits())
    offer(monitor, 1.0)
    assert code(offer(monitor, 1.1, ros_now_s=ROS - 500.0)) is None
    assert monitor.verdict(1.1) is None


def test_a_paused_clock_makes_images_repeat_and_then_stale():
    monitor = ImageMonitor(ImageLimits())
    offer(monitor, 1.0, stamp_s=ROS, ros_now_s=ROS)
    assert code(offer(monitor, 1.5, stamp_s=ROS, ros_now_s=ROS)) == 'IMAGE_REPEATED'
    assert monitor.verdict(1.6) is not None


def test_another_frame_is_another_camera():
    monitor = ImageMonitor(ImageLimits(expected_frame_id='camera'))
    assert code(offer(monitor, 1.0, frame_id='wrist')) == 'WRONG_CAMERA'
    assert code(offer(monitor, 1.1)) is None


def test_a_change_of_geometry_is_accepted_unless_locked():
    for locked, expected in ((False, None), (True, 'GEOMETRY_CHANGED')):
        monitor = ImageMonitor(ImageLimits(lock_geometry=locked))
        offer(monitor, 1.0)
        assert code(offer(monitor, 1.1, geometry=(320, 240, 'rgb8'))) == expected


# --- pixels --------------------------------------------------------------------------------


def play(monitor, pictures, *, moving, rate_hz=10.0):
    """Show pictures one after the other; return the verdicts' codes."""
    codes = []
    for i, seen in enumerate(pictures):
        now_s = 1.0 + i / rate_hz
        stamp_s = offer(monitor, now_s)
        monitor.look(seen, stamp_s=stamp_s, now_s=now_s, moving=moving)
        codes.append(code(monitor.verdict(now_s)))
    return codes


ALIVE = [Fingerprint(bytes([i]), 50.0) for i in range(100)]
SAME = [Fingerprint(b'x', 50.0)] * 100
BLACK = [Fingerprint(bytes([i]), 0.5) for i in range(100)]


def test_the_same_picture_while_moving_is_frozen_after_a_second():
    codes = play(ImageMonitor(ImageLimits()), SAME[:20], moving=True)
    # First seen at 0; the same at 0.1 s starts the count; more than 1.0 s later is 1.2 s.
    assert codes.index('IMAGE_FROZEN') == 12
    assert set(codes[12:]) == {'IMAGE_FROZEN'}


def test_the_same_picture_at_rest_is_a_still_scene():
    assert set(play(ImageMonitor(ImageLimits()), SAME, moving=False)) == {None}


def test_frozen_stays_while_the_arm_rests_because_of_it_and_ends_with_a_new_picture():
    monitor = ImageMonitor(ImageLimits())
    play(monitor, SAME[:20], moving=True)
    stamp_s = offer(monitor, 5.0)
    monitor.look(SAME[0], stamp_s=stamp_s, now_s=5.0, moving=False)
    assert monitor.verdict(5.0).code == 'IMAGE_FROZEN'
    stamp_s = offer(monitor, 5.1)
    monitor.look(ALIVE[0], stamp_s=stamp_s, now_s=5.1, moving=False)
    assert monitor.verdict(5.1) is None


def test_looking_twice_at_one_image_does_not_make_it_frozen():
    monitor = ImageMonitor(ImageLimits())
    stamp_s = offer(monitor, 1.0)
    for i in range(50):
        now_s = 1.0 + 0.1 * i
        monitor.look(SAME[0], stamp_s=stamp_s, now_s=now_s, moving=True)
    assert monitor.verdict(1.0) is None


def test_a_changing_picture_is_alive():
    assert set(play(ImageMonitor(ImageLimits()), ALIVE, moving=True)) == {None}


def test_a_blank_picture_is_refused_after_a_second_moving_or_not():
    for moving in (True, False):
        codes = play(ImageMonitor(ImageLimits()), BLACK[:20] + ALIVE[:1], moving=moving)
        assert codes.index('IMAGE_BLANK') == 11
        assert codes[-1] is None


GRAY = [Fingerprint(bytes([i]), 50.0, has_color=False) for i in range(100)]


def when_colorless(monitor, seen):
    """Show images at 10 Hz; returns whether each was followed by the report."""
    said = []
    for i, one in enumerate(seen):
        now_s = 1.0 + i / 10
        monitor.look(one, stamp_s=offer(monitor, now_s), now_s=now_s, moving=True)
        said.append(monitor.colorless)
    return said


def test_images_without_color_are_reported_after_some_seconds_until_a_color_is_seen():
    said = when_colorless(ImageMonitor(ImageLimits()), GRAY[:40] + ALIVE[:1])
    assert said.index(True) == round(10 * COLORLESS_S) + 1
    assert all(said[round(10 * COLORLESS_S) + 1 : 40])
    assert not said[40]


def test_images_without_color_are_no_reason_not_to_act():
    assert set(play(ImageMonitor(ImageLimits()), GRAY, moving=True)) == {None}


def test_a_gray_image_now_and_then_and_a_dark_one_are_not_reported():
    assert not any(when_colorless(ImageMonitor(ImageLimits()), (GRAY[:9] + ALIVE[:1]) * 9))
    dark = [Fingerprint(bytes([i]), 0.5, has_color=False) for i in range(100)]
    assert not any(when_colorless(ImageMonitor(ImageLimits(blank_s=0.0)), dark))


def test_zero_switches_a_check_off():
    limits = ImageLimits(frozen_s=0.0, blank_s=0.0)
    assert set(play(ImageMonitor(limits), SAME, moving=True)) == {None}
    assert set(play(ImageMonitor(limits), BLACK, moving=True)) == {None}


def test_the_fingerprint_sees_noise_and_structure():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (480, 640, 3), np.uint8)
    noisy = np.clip(picture + rng.integers(-1, 2, picture.shape), 0, 255).astype(np.uint8)
    assert fingerprint(picture) == fingerprint(picture.copy())
    assert fingerprint(picture).digest != fingerprint(noisy).digest
    assert fingerprint(picture[:, :, ::-1]).digest != fingerprint(picture).digest
    black = np.zeros((480, 640, 3), np.uint8)
    assert fingerprint(black).brightness_std == 0.0
    assert fingerprint(np.full((16, 16, 3), 255, np.uint8)).brightness_std == pytest.approx(0.0)
    # Half black, half white: every sample is 127.5 away from the mean.
    black[:, 320:] = 255
    assert fingerprint(black).brightness_std == pytest.approx(127.5, rel=1e-3)


def test_the_fingerprint_tells_gray_from_color():
    levels = np.random.default_rng(0).integers(0, 253, (480, 640, 1), np.uint8)
    gray = np.repeat(levels, 3, axis=2)
    assert not fingerprint(gray).has_color
    # JPEG rounds the channels of a gray image by a level or two.
    assert not fingerprint(gray + np.array([0, 2, 1], np.uint8)).has_color
    tinted = gray.copy()
    tinted[..., 2] += 3
    assert fingerprint(tinted).has_color
    patch = gray.copy()
    patch[100:130, 200:230] = (200, 30, 30)
    assert fingerprint(patch).has_color
