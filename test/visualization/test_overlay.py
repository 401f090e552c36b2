import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openvla_ros.visualization.camera_projection import CameraProjection
from openvla_ros.visualization.overlay import (
    ALLOWED_COLOUR,
    ARROW_GAIN,
    STATE_COLOURS,
    WANTED_COLOUR,
    OverlayState,
    draw_overlay,
)

GREY = np.full((480, 640, 3), 90, np.uint8)
DOWN = np.array([1.0, 0.0, 0.0, 0.0])
PROJECTION = CameraProjection(
    np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]]),
    np.array([0.0, 0.0, 1.0]),
    DOWN,
    640,
    480,
)


def pixels_of(picture, colour):
    return np.argwhere((picture == colour).all(axis=2))


@pytest.mark.parametrize(('height', 'width', 'factor'), [(256, 256, 2), (480, 640, 1)])
def test_small_pictures_are_enlarged_until_text_is_readable(height, width, factor):
    picture = draw_overlay(np.zeros((height, width, 3), np.uint8), OverlayState(), None)
    assert picture.shape == (height * factor, width * factor, 3)


def test_the_arrow_points_where_the_displacement_goes():
    # Looking straight down with base x to the right: +x by 20 mm drawn at gain 5 is 0.1 m = 50 px.
    state = OverlayState(ee_position_m=np.zeros(3), wanted_m=np.array([0.02, 0.0, 0.0]))
    arrow = pixels_of(draw_overlay(GREY, state, PROJECTION), WANTED_COLOUR)
    columns = arrow[:, 1]
    assert columns.min() >= 310
    assert columns.max() == pytest.approx(320 + 500 * 0.02 * ARROW_GAIN, abs=3)
    assert abs(np.median(arrow[:, 0]) - 240) < 3


def test_what_the_clamp_allows_is_drawn_shorter_over_what_was_wanted():
    state = OverlayState(
        ee_position_m=np.zeros(3),
        wanted_m=np.array([0.0, 0.02, 0.0]),
        allowed_m=np.array([0.0, 0.01, 0.0]),
    )
    picture = draw_overlay(GREY, state, PROJECTION)
    # Base +y is up in this picture, so the tip is the smallest row.
    wanted, allowed = (pixels_of(picture, c)[:, 0].min() for c in (WANTED_COLOUR, ALLOWED_COLOUR))
    assert wanted == pytest.approx(240 - 50, abs=3)
    assert allowed == pytest.approx(240 - 25, abs=3)


def test_without_a_camera_or_a_pose_there_is_no_arrow():
    wanted = np.array([0.02, 0.0, 0.0])
    for state, projection in (
        (OverlayState(ee_position_m=np.zeros(3), wanted_m=wanted), None),
        (OverlayState(wanted_m=wanted), PROJECTION),
    ):
        assert len(pixels_of(draw_overlay(GREY, state, projection), WANTED_COLOUR)) == 0


@pytest.mark.parametrize('label', STATE_COLOURS)
def test_the_state_is_shown_in_its_colour(label):
    picture = draw_overlay(GREY, OverlayState(safety_state=label), None)
    assert len(pixels_of(picture, STATE_COLOURS[label])) > 500


def test_the_bars_grow_with_the_action():
    def filled(value):
        bars = np.zeros(7)
        bars[0] = value
        return pixels_of(draw_overlay(GREY, OverlayState(bars=bars), None), WANTED_COLOUR)

    left, right = filled(-1.0), filled(1.0)
    assert len(right) > 1.8 * (len(filled(0.5)) - len(filled(0.0))) + len(filled(0.0)) - 50
    assert left[:, 1].max() <= right[:, 1].min() + 2


@settings(max_examples=25, deadline=None)
@given(
    instruction=st.text(max_size=600),
    sentence=st.text(max_size=600),
    bars=st.lists(st.floats(width=32), min_size=7, max_size=7),
    position=st.lists(st.floats(width=32), min_size=3, max_size=3),
)
def test_nothing_that_can_be_said_breaks_the_drawing(instruction, sentence, bars, position):
    state = OverlayState(
        instruction=instruction,
        sentence=sentence,
        bars=np.array(bars),
        ee_position_m=np.array(position),
        wanted_m=np.array(position),
    )
    assert draw_overlay(GREY[:64, :64], state, PROJECTION).dtype == np.uint8
