import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.core.resources import resource_path
from openvla_ros.sim.arm import READY_JOINTS_RAD
from openvla_ros.sim.inverse_kinematics import DampedLeastSquares


@pytest.fixture
def model():
    return mujoco.MjModel.from_xml_path(str(resource_path('config/sim/arm.xml')))


@pytest.fixture
def solver(model):
    solver = DampedLeastSquares(model, 'ee', 6)
    solver.set_joints(READY_JOINTS_RAD)
    return solver


def angle_between(a, b):
    return float(np.linalg.norm(Rotation.from_matrix(a @ b.T).as_rotvec()))


def test_it_finds_the_pose_of_nearby_joints(model, solver):
    rng = np.random.default_rng(3)
    other = DampedLeastSquares(model, 'ee', 6)
    for _ in range(30):
        other.set_joints(READY_JOINTS_RAD + rng.uniform(-0.3, 0.3, 6))
        solver.set_joints(READY_JOINTS_RAD)
        solver.solve(other.site_position(), other.site_rotation(), iterations=100)
        assert np.linalg.norm(solver.site_position() - other.site_position()) < 1e-4
        assert angle_between(solver.site_rotation(), other.site_rotation()) < 1e-3


def test_joints_never_leave_their_limits_however_far_the_target_is(model, solver):
    rng = np.random.default_rng(5)
    for _ in range(40):
        target = rng.uniform(-2.0, 2.0, 3)
        rotation = Rotation.random(random_state=rng).as_matrix()
        joints = solver.solve(target, rotation, iterations=30)
        assert np.all(joints >= model.jnt_range[:6, 0] - 1e-12)
        assert np.all(joints <= model.jnt_range[:6, 1] + 1e-12)
        assert np.all(np.isfinite(joints))


def test_an_unreachable_target_is_approached_in_its_direction(solver):
    # Shoulder to the tool: 0.2549 + 0.25 + 0.1586 m is the longest the arm can be.
    start = solver.site_position()
    goal = np.array([1.5, 0.0, 0.3])
    solver.solve(goal, solver.site_rotation(), iterations=200)
    assert solver.site_position()[0] > start[0] + 0.1
    assert np.linalg.norm(solver.site_position() - [0, 0, 0.11065]) < 0.6635


def test_one_iteration_moves_no_joint_more_than_allowed(model):
    solver = DampedLeastSquares(model, 'ee', 6, max_joint_step_rad=0.01)
    solver.set_joints(READY_JOINTS_RAD)
    before = solver.joints
    after = solver.solve(np.array([0.3, 0.3, 0.1]), solver.site_rotation(), iterations=1)
    assert np.abs(after - before).max() <= 0.01 + 1e-12
