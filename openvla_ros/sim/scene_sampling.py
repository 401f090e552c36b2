"""Random scenes: what may vary, and by how much."""

from collections.abc import Sequence

import numpy as np

from openvla_ros.sim.scene import (
    COLOURS,
    Block,
    CameraMount,
    Distractor,
    Lighting,
    Rgb,
    Scene,
    Xyz,
)

# Where blocks stand: in the camera's view, and within the arm's reach with the gripper down.
BLOCK_REGION_M = ((0.20, 0.33), (-0.15, 0.15))
# Room for the open gripper beside a block (its fingers' outer faces are 45 mm from its centre).
BLOCK_SPACING_M = 0.085
# Distractors stand in a ring around the blocks' region, and nearer when there is room.
DISTRACTOR_REGION_M = ((0.12, 0.46), (-0.30, 0.30))
DISTRACTOR_SPACING_M = 0.10
# On the far side of the blocks as the camera sees it, so that the gripper hides none at first.
START_REGION_M = ((0.16, 0.26), (-0.15, 0.03), (0.14, 0.20))
BLOCK_YAW_RAD = 0.3
_DULL: tuple[Rgb, ...] = (
    (0.30, 0.30, 0.32),
    (0.55, 0.55, 0.55),
    (0.82, 0.82, 0.80),
    (0.42, 0.33, 0.26),
    (0.60, 0.52, 0.42),
)
_TABLES: tuple[Rgb, ...] = (
    (0.72, 0.66, 0.58),
    (0.62, 0.62, 0.62),
    (0.58, 0.50, 0.42),
    (0.74, 0.74, 0.72),
    (0.56, 0.60, 0.62),
)


def sample_scene(rng: np.random.Generator, colours: Sequence[str], *, keep_lane: bool) -> Scene:
    """Return a random scene.

    Args:
        rng: Where all randomness comes from.
        colours: One block each; the first is the one the instruction will name.
        keep_lane: Leave free the way of the first block, away from the arm.
    """
    unknown = [c for c in colours if c not in COLOURS]
    if unknown:
        raise ValueError(
            f'sample_scene: got colour {unknown[0]!r}, expected one of {", ".join(COLOURS)}'
        )
    places = _block_places(rng, len(colours), keep_lane)
    blocks = tuple(
        Block(colour, place, float(rng.uniform(-BLOCK_YAW_RAD, BLOCK_YAW_RAD)))
        for colour, place in zip(colours, places)
    )
    return Scene(
        blocks=blocks,
        distractors=_distractors(rng, places, keep_lane),
        lighting=_lighting(rng),
        camera=_camera(rng),
        table_rgb=_jittered(rng, _TABLES[rng.integers(len(_TABLES))], 0.05),
        start_position_m=_uniform3(rng, START_REGION_M),
    )


def _block_places(
    rng: np.random.Generator, count: int, keep_lane: bool
) -> list[tuple[float, float]]:
    (x_lo, x_hi), (y_lo, y_hi) = BLOCK_REGION_M
    while True:
        places: list[tuple[float, float]] = []
        for _ in range(200):
            place = (float(rng.uniform(x_lo, x_hi)), float(rng.uniform(y_lo, y_hi)))
            if all(_apart(place, p) > BLOCK_SPACING_M for p in places) and not (
                keep_lane and places and _in_lane(place, places[0])
            ):
                places.append(place)
            if len(places) == count:
                return places


def _in_lane(place: tuple[float, float], pushed: tuple[float, float]) -> bool:
    """Whether a thing stands where the first block is pushed, or where the gripper comes from."""
    return abs(place[1] - pushed[1]) < 0.09 and place[0] > pushed[0] - 0.12


def _distractors(
    rng: np.random.Generator, blocks: Sequence[tuple[float, float]], keep_lane: bool
) -> tuple[Distractor, ...]:
    (x_lo, x_hi), (y_lo, y_hi) = DISTRACTOR_REGION_M
    wanted = int(rng.integers(0, 4))
    found: list[Distractor] = []
    for _ in range(60):
        place = (float(rng.uniform(x_lo, x_hi)), float(rng.uniform(y_lo, y_hi)))
        others = [*blocks, *(d.position_m for d in found)]
        if len(found) == wanted:
            break
        if min(_apart(place, o) for o in others) < DISTRACTOR_SPACING_M:
            continue
        if np.hypot(*place) < 0.14 or (keep_lane and _in_lane(place, blocks[0])):
            continue
        found.append(
            Distractor(
                shape=('box', 'cylinder', 'ball')[rng.integers(3)],
                position_m=place,
                half_size_m=float(rng.uniform(0.012, 0.022)),
                yaw_rad=float(rng.uniform(-np.pi, np.pi)),
                rgb=_jittered(rng, _DULL[rng.integers(len(_DULL))], 0.04),
            )
        )
    return tuple(found)


def _lighting(rng: np.random.Generator) -> Lighting:
    return Lighting(
        position_m=_uniform3(rng, ((0.0, 0.5), (-0.4, 0.4), (1.5, 1.8))),
        diffuse=float(rng.uniform(0.35, 0.60)),
        ambient=float(rng.uniform(0.40, 0.58)),
    )


def _camera(rng: np.random.Generator) -> CameraMount:
    nominal = CameraMount()
    return CameraMount(
        position_m=_jittered(rng, nominal.position_m, 0.015),
        target_m=_jittered(rng, nominal.target_m, 0.012),
        fov_deg=float(nominal.fov_deg + rng.uniform(-1.0, 1.0)),
    )


def _apart(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(np.hypot(a[0] - b[0], a[1] - b[1]))


def _jittered(rng: np.random.Generator, nominal: Xyz, half_range: float) -> Xyz:
    x, y, z = np.add(nominal, rng.uniform(-half_range, half_range, 3)).tolist()
    return (x, y, z)


def _uniform3(rng: np.random.Generator, ranges: Sequence[tuple[float, float]]) -> Xyz:
    x, y, z = (float(rng.uniform(lo, hi)) for lo, hi in ranges)
    return (x, y, z)
