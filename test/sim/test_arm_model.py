"""The MuJoCo arm, the URDF and the published numbers of the WidowX 250 6DOF are one arm."""

import xml.etree.ElementTree as ElementTree

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.core.resources import resource_path

# Interbotix wx250s description: offset of each joint from the one before [m], limits [deg].
PUBLISHED = {
    'waist': ((0, 0, 0.072), (-180, 180)),
    'shoulder': ((0, 0, 0.03865), (-108, 114)),
    'elbow': ((0.04975, 0, 0.25), (-123, 92)),
    'forearm_roll': ((0.175, 0, 0), (-180, 180)),
    'wrist_angle': ((0.075, 0, 0), (-100, 123)),
    'wrist_rotate': ((0.065, 0, 0), (-180, 180)),
}
# ee_arm 0.043 + ee_bar 0.023 + ee_gripper 0.027575, and the fingers' travel.
PUBLISHED_EE_M = 0.093575
PUBLISHED_FINGER_M = (0.015, 0.037)


@pytest.fixture(scope='module')
def model():
    return mujoco.MjModel.from_xml_path(str(resource_path('config/sim/arm.xml')))


@pytest.fixture(scope='module')
def urdf():
    return ElementTree.parse(resource_path('config/sim/arm.urdf')).getroot()


def numbers(element, attribute, default):
    text = None if element is None else element.get(attribute)
    return np.array([float(x) for x in (text or default).split()])


def urdf_transform(joint, value):
    origin = joint.find('origin')
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler('xyz', numbers(origin, 'rpy', '0 0 0')).as_matrix()
    transform[:3, 3] = numbers(origin, 'xyz', '0 0 0')
    motion = np.eye(4)
    axis = numbers(joint.find('axis'), 'xyz', '1 0 0')
    if joint.get('type') == 'revolute':
        motion[:3, :3] = Rotation.from_rotvec(axis * value).as_matrix()
    elif joint.get('type') == 'prismatic':
        motion[:3, 3] = axis * value
    return transform @ motion


def urdf_poses(urdf, values):
    poses = {'base_link': np.eye(4)}
    for joint in urdf.findall('joint'):  # parents come before their children in the file
        parent, child = joint.find('parent').get('link'), joint.find('child').get('link')
        poses[child] = poses[parent] @ urdf_transform(joint, values.get(joint.get('name'), 0.0))
    return poses


def test_urdf_and_mjcf_put_every_link_at_the_same_pose_at_random_joints(model, urdf):
    data = mujoco.MjData(model)
    names = [model.joint(i).name for i in range(model.njnt)]
    rng = np.random.default_rng(7)
    links = [link.get('name') for link in urdf.findall('link')]
    assert len(links) == model.nbody - 1  # all but the world
    for _ in range(50):
        data.qpos[:] = rng.uniform(model.jnt_range[:, 0], model.jnt_range[:, 1])
        mujoco.mj_kinematics(model, data)
        poses = urdf_poses(urdf, dict(zip(names, data.qpos)))
        for link in links:
            body = data.body(link)
            np.testing.assert_allclose(poses[link][:3, 3], body.xpos, atol=1e-9)
            np.testing.assert_allclose(poses[link][:3, :3].ravel(), body.xmat, atol=1e-9)


def test_urdf_and_mjcf_have_the_same_limits_and_masses(model, urdf):
    for joint in urdf.findall('joint'):
        if joint.get('type') == 'fixed':
            continue
        limit = joint.find('limit')
        expected = model.joint(joint.get('name')).range
        np.testing.assert_allclose(
            [float(limit.get('lower')), float(limit.get('upper'))], expected, atol=1e-9
        )
    for link in urdf.findall('link'):
        mass = link.find('inertial/mass')
        if mass is not None:
            body = model.body(link.get('name'))
            assert float(mass.get('value')) == pytest.approx(body.mass[0], abs=1e-6)


def test_lengths_and_limits_are_the_published_ones(model):
    for name, (offset_m, limits_deg) in PUBLISHED.items():
        joint = model.joint(name)
        np.testing.assert_allclose(model.body(joint.bodyid[0]).pos, offset_m, atol=1e-12)
        np.testing.assert_allclose(np.rad2deg(joint.range), limits_deg, atol=1e-3)
    np.testing.assert_allclose(model.body('ee_link').pos, (PUBLISHED_EE_M, 0, 0), atol=1e-12)
    np.testing.assert_allclose(model.joint('left_finger').range, PUBLISHED_FINGER_M)


def test_the_ee_site_is_the_ee_link(model):
    assert model.body(model.site('ee').bodyid[0]).name == 'ee_link'
    np.testing.assert_array_equal(model.site('ee').pos, np.zeros(3))
