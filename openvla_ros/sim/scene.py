"""A table-top scene: blocks, distractors, light, camera; and the MuJoCo model made from it.

All positions are in ``base_link``: x forward from the arm, y left, z up, table top at z = 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core.resources import resource_path
from openvla_ros.sim import offscreen  # noqa: F401  (chooses OpenGL before mujoco is imported)

import mujoco  # isort: skip

Rgb = tuple[float, float, float]
Xyz = tuple[float, float, float]

# Hues 55 degrees or more apart, so that light and shadow cannot turn one into another.
COLOURS: Mapping[str, Rgb] = MappingProxyType(
    {
        'red': (0.85, 0.06, 0.06),
        'yellow': (0.95, 0.80, 0.03),
        'green': (0.08, 0.60, 0.13),
        'blue': (0.06, 0.20, 0.85),
        'purple': (0.60, 0.10, 0.72),
    }
)
BLOCK_HALF_M = 0.02
BLOCK_MASS_KG = 0.04
# A pale stripe across the table; a push ends when the block's centre is beyond it.
LINE_X_M = 0.40
CAMERA_NAME = 'camera'


@dataclass(frozen=True)
class Block:
    """A cube of one colour standing on the table."""

    colour: str
    position_m: tuple[float, float]
    yaw_rad: float = 0.0


@dataclass(frozen=True)
class Distractor:
    """Something dull that no instruction names; it does not move."""

    shape: Literal['box', 'cylinder', 'ball']
    position_m: tuple[float, float]
    half_size_m: float
    yaw_rad: float
    rgb: Rgb


@dataclass(frozen=True)
class Lighting:
    """One lamp that casts shadows, and the light that comes from everywhere."""

    position_m: Xyz = (0.15, -0.25, 1.6)
    diffuse: float = 0.50
    ambient: float = 0.50


@dataclass(frozen=True)
class CameraMount:
    """Where the camera is and where it looks."""

    position_m: Xyz = (-0.03, 0.36, 0.50)
    target_m: Xyz = (0.28, 0.0, 0.05)
    fov_deg: float = 45.0


@dataclass(frozen=True)
class Scene:
    """Everything that makes one episode look and start as it does."""

    blocks: tuple[Block, ...]
    distractors: tuple[Distractor, ...] = ()
    lighting: Lighting = Lighting()
    camera: CameraMount = CameraMount()
    table_rgb: Rgb = (0.72, 0.66, 0.58)
    start_position_m: Xyz = (0.22, 0.0, 0.16)

    def __post_init__(self) -> None:
        colours = [block.colour for block in self.blocks]
        unknown = [c for c in colours if c not in COLOURS]
        if unknown:
            raise ValueError(
                f'Scene.blocks: got colour {unknown[0]!r}, expected one of {", ".join(COLOURS)}'
            )
        if len(set(colours)) != len(colours):
            raise ValueError(
                f'Scene.blocks: got colours {", ".join(colours)}, expected each at most once, '
                'or an instruction cannot tell which block it means'
            )


@cache
def _arm_xml() -> str:
    return resource_path('config/sim/arm.xml').read_text(encoding='utf-8')


def build_model(scene: Scene) -> mujoco.MjModel:
    """Compile the arm of config/sim/arm.xml and the scene into one MuJoCo model."""
    spec = mujoco.MjSpec.from_string(_arm_xml())
    _add_room(spec, scene)
    for block in scene.blocks:
        _add_block(spec, block)
    for distractor in scene.distractors:
        _add_distractor(spec, distractor)
    return spec.compile()


def _add_room(spec: mujoco.MjSpec, scene: Scene) -> None:
    # Shadows cost most of a software rendering: 5 ms with these, 30 ms with MuJoCo's defaults.
    spec.visual.quality.shadowsize = 512
    spec.visual.quality.numslices = 12
    spec.visual.quality.numstacks = 6
    spec.visual.quality.offsamples = 4
    spec.visual.map.znear = 0.02
    spec.visual.map.shadowscale = 0.95
    spec.visual.headlight.ambient = [scene.lighting.ambient] * 3
    spec.visual.headlight.diffuse = [0.1] * 3
    spec.visual.headlight.specular = [0.0] * 3
    spec.stat.extent = 1.0
    spec.stat.center = [0.25, 0.0, 0.1]
    world = spec.worldbody
    position = np.array(scene.lighting.position_m)
    world.add_light(
        name='lamp',
        pos=position,
        dir=np.array([0.27, 0.0, 0.0]) - position,
        diffuse=[scene.lighting.diffuse] * 3,
        specular=[0.1] * 3,
        cutoff=32.0,
        exponent=1.0,
        castshadow=True,
    )
    world.add_geom(
        name='table',
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.45, 0.55, 0.02],
        pos=[0.20, 0.0, -0.02],
        rgba=[*scene.table_rgb, 1.0],
        friction=[0.6, 0.005, 0.0001],
    )
    world.add_geom(
        name='line',
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.006, 0.30, 0.0002],
        pos=[LINE_X_M, 0.0, 0.0],
        rgba=[0.95, 0.95, 0.92, 1.0],
        contype=0,
        conaffinity=0,
    )
    world.add_geom(
        name='floor',
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[3.0, 3.0, 0.1],
        pos=[0.0, 0.0, -0.7],
        rgba=[0.30, 0.31, 0.33, 1.0],
    )
    world.add_camera(
        name=CAMERA_NAME,
        pos=scene.camera.position_m,
        quat=look_at_quaternion_wxyz(scene.camera),
        fovy=scene.camera.fov_deg,
    )


def _add_block(spec: mujoco.MjSpec, block: Block) -> None:
    body = spec.worldbody.add_body(
        name=f'block_{block.colour}',
        pos=[*block.position_m, BLOCK_HALF_M],
        quat=yaw_quaternion_wxyz(block.yaw_rad),
    )
    body.add_freejoint(name=f'block_{block.colour}')
    body.add_geom(
        name=f'block_{block.colour}',
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[BLOCK_HALF_M] * 3,
        mass=BLOCK_MASS_KG,
        rgba=[*COLOURS[block.colour], 1.0],
        friction=[0.6, 0.01, 0.0002],
        condim=4,
        solref=[0.005, 1.0],
    )


def _add_distractor(spec: mujoco.MjSpec, distractor: Distractor) -> None:
    kinds = {
        'box': mujoco.mjtGeom.mjGEOM_BOX,
        'cylinder': mujoco.mjtGeom.mjGEOM_CYLINDER,
        'ball': mujoco.mjtGeom.mjGEOM_SPHERE,
    }
    half = distractor.half_size_m
    spec.worldbody.add_geom(
        type=kinds[distractor.shape],
        size=[half, half, half],
        pos=[*distractor.position_m, half],
        quat=yaw_quaternion_wxyz(distractor.yaw_rad),
        rgba=[*distractor.rgb, 1.0],
    )


def yaw_quaternion_wxyz(yaw_rad: float) -> NDArray[np.float64]:
    """Return the rotation about z as a quaternion in MuJoCo's order."""
    return np.array([np.cos(yaw_rad / 2), 0.0, 0.0, np.sin(yaw_rad / 2)])


def look_at_quaternion_wxyz(mount: CameraMount) -> NDArray[np.float64]:
    """Return the orientation of a MuJoCo camera (looks along -z, y up) aimed at the target."""
    backward = np.subtract(mount.position_m, mount.target_m)
    backward /= np.linalg.norm(backward)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(backward, right), backward], axis=1)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.reshape(9))
    return quaternion
