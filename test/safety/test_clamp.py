import dataclasses
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from openvla_ros.safety.clamp import ActionInput, Clamp, Pose
from openvla_ros.safety.robot_profile import (
    GripperAction,
    HalfSpace,
    OrientationCone,
    load_robot_profile,
)
from openvla_ros.safety.safety_state import State

SIM = load_robot_profile('sim')
TAU = SIM.period_s
STEP_S = 0.2
START = (0.25, 0.0, 0.15)
NO_TURN = (0.0, 0.0, 0.0)


def changed(profile=SIM, **sections):
    """Replace keys of sections of a profile: changed(limits={'speed_mps': 0.1})."""
    for name, change in sections.items():
        section = getattr(profile, name)
        value = dataclasses.replace(section, **change) if isinstance(change, dict) else change
        profile = dataclasses.replace(profile, **{name: value})
    return profile


WITH_ESTOP = changed(estop={'required': True})
WIDE = changed(workspace={'box_lo_m': (-9.0,) * 3, 'box_hi_m': (9.0,) * 3})


class Rig:
    """A clamp, an arm that does exactly what it is told, and clocks that tick every 20 ms."""

    def __init__(self, profile=SIM, start=START):
        self.clamp = Clamp(profile)
        self.now_s, self.ros_s = 100.0, 5000.0
        self.position = np.array(start)
        self.orientation = Rotation.identity()
        self.sequence = 0
        self.twist = np.zeros(6)
        self.poses = True
        self.heartbeats = profile.estop.required
        self.output = None
        self.speeds, self.steps, self.ticks = [], [], 0

    def tick(self, gap_s=TAU):
        """Let one control period pass."""
        self.now_s += gap_s
        self.ros_s += gap_s
        self.position = self.position + self.twist[:3] * gap_s
        self.orientation = Rotation.from_rotvec(self.twist[3:] * gap_s) * self.orientation
        self.ticks += 1
        if self.poses:
            self.send_pose()
        if self.heartbeats:
            self.clamp.heartbeat(False, now_s=self.now_s)
        self.output = self.clamp.step(self.now_s, self.ros_s)
        self.steps.append(self.output.twist - self.twist)
        self.twist = self.output.twist
        self.speeds.append(np.linalg.norm(self.twist[:3]))
        return self.output

    def send_pose(self, **changes):
        pose = Pose.of(self.position, self.orientation.as_quat())
        times = {'stamp_s': self.ros_s, 'now_s': self.now_s, 'ros_now_s': self.ros_s}
        return self.clamp.set_pose(changes.pop('pose', pose), **(times | changes))

    def offer(self, translation=(0.02, 0.0, 0.0), rotation=NO_TURN, **changes):
        """Offer one action that means this displacement during one step."""
        self.sequence += 1
        step_s = changes.get('step_s', STEP_S)
        action = ActionInput(
            stamp_s=self.ros_s - 0.01,
            frame_id='base_link',
            sequence=self.sequence,
            step_s=STEP_S,
            twist=tuple(np.r_[translation, rotation] / step_s),
            gripper=1.0,
            source_id='policy',
        )
        action = dataclasses.replace(action, **changes)
        return self.clamp.offer(action, now_s=self.now_s, ros_now_s=self.ros_s)

    def stream(self, seconds, translation=(0.02, 0.0, 0.0), rotation=NO_TURN, **changes):
        """Run for some time with an action every 0.2 s, the first one now; return the last."""
        verdict = None
        for k in range(round(seconds / TAU)):
            if k % 10 == 0:
                verdict = self.offer(translation, rotation, **changes)
            self.tick()
        return verdict

    def run(self, seconds):
        for _ in range(round(seconds / TAU)):
            self.tick()

    def arm(self):
        """Show three valid actions and arm."""
        self.stream(0.6, (0.0, 0.0, 0.0))
        reply = self.clamp.arm(self.now_s)
        assert reply.ok, reply.sentence
        return self

    def move(self):
        """Arm and stream until the arm moves at the policy's speed of 0.1 m/s."""
        self.arm().stream(0.8)
        assert self.speeds[-1] > 0.09
        return self

    @property
    def state(self):
        return self.clamp.state

    @property
    def status(self):
        return self.output.status


def ticks_until_rest(rig, most=100):
    for k in range(1, most):
        rig.tick()
        if not rig.twist.any():
            return k
    raise AssertionError('the arm did not come to rest')


# Arming ----------------------------------------------------------------------------------------


def test_it_boots_disarmed_and_says_why_nothing_moves():
    rig = Rig()
    rig.tick()
    assert rig.state == State.DISARMED
    assert not rig.twist.any()
    assert 'no policy is publishing' in rig.status.sentence


def test_actions_alone_never_move_the_arm():
    rig = Rig()
    assert rig.stream(5.0).reason == 'NOT_ARMED'
    assert max(rig.speeds) == 0.0


def test_arming_alone_does_not_execute_an_earlier_action():
    rig = Rig().arm()
    rig.run(1.0)
    assert max(rig.speeds) == 0.0
    assert rig.state == State.HOLD


def test_an_action_after_arming_moves_the_arm():
    rig = Rig().arm()
    assert rig.offer().accepted
    rig.tick()
    assert rig.twist[0] > 0.0
    assert rig.state == State.ACTIVE


def refused(rig):
    reply = rig.clamp.arm(rig.now_s)
    assert not reply.ok
    assert rig.state == State.DISARMED
    return reply.sentence


def test_arming_needs_three_valid_actions():
    rig = Rig()
    rig.stream(0.4)
    assert 'fewer than 3 valid actions' in refused(rig)


def test_what_prevents_arming_comes_in_the_order_in_which_one_sees_to_it():
    clamp = Clamp(WITH_ESTOP)
    clamp.step(0.0, 0.0)
    clamp.note_policy('policy_node says NO_INSTRUCTION: waiting for an instruction')
    sentence = clamp.arm(0.0).sentence
    places = [
        sentence.index(part)
        for part in ('NO_INSTRUCTION: waiting', 'no end-effector pose', 'no e-stop heartbeat')
    ]
    assert places == sorted(places)


def test_actions_in_another_frame_are_named_with_both_frames_where_arming_is_refused():
    rig = Rig()
    for _ in range(4):
        assert rig.offer(frame_id='camera').reason == 'FRAME'
        rig.run(0.2)
    sentence = refused(rig)
    assert 'fewer than 3 valid actions' in sentence
    assert "their frame is 'camera', expected 'base_link' or 'ee_link'" in sentence
    assert 'start policy_node with the robot profile' in sentence
    # Once the policy is started with the right robot, the status does not go on complaining.
    rig.stream(0.2)
    assert 'their frame' not in rig.status.sentence


def test_arming_needs_a_policy_heard_in_the_last_second():
    rig = Rig()
    rig.stream(0.6)
    rig.run(1.1)
    assert 'no policy' in refused(rig)


def test_arming_refuses_two_policies():
    rig = Rig()
    rig.stream(0.6)
    rig.offer(source_id='another')
    assert 'more than one policy' in refused(rig)


def test_arming_needs_a_pose():
    rig = Rig()
    rig.poses = False
    rig.stream(0.6)
    assert 'no end-effector pose' in refused(rig)


def test_arming_needs_a_fresh_pose():
    rig = Rig()
    rig.tick()
    rig.poses = False
    rig.stream(0.6)
    assert 'pose is too old' in refused(rig)


def test_arming_needs_a_pose_inside_the_box():
    rig = Rig(start=(0.45 + 0.01, 0.0, 0.15))
    rig.stream(0.6)
    assert 'outside its workspace' in refused(rig)


def test_arming_needs_the_estop_heartbeat_where_it_is_required():
    rig = Rig(WITH_ESTOP)
    rig.heartbeats = False
    rig.stream(0.6)
    assert 'no e-stop heartbeat' in refused(rig)


@pytest.mark.parametrize('required', [True, False])
def test_arming_needs_the_gripper_server_where_it_is_required(required):
    action = GripperAction('gripper', 0.04, 0.01, max_effort=5.0, required=required)
    rig = Rig(changed(gripper={'action': action}))
    rig.stream(0.6)
    if required:
        assert 'action server of the gripper' in refused(rig)
        assert 'NO_GRIPPER' in rig.output.status.reasons
        rig.clamp.set_gripper_available(True)
    assert rig.clamp.arm(rig.now_s).ok


def test_arming_needs_a_pose_that_has_not_just_jumped():
    rig = Rig()
    rig.stream(0.6)
    rig.position = rig.position + np.array([0.1, 0.0, 0.0])
    rig.tick()
    assert 'jumped' in refused(rig)
    rig.stream(1.2)
    assert rig.clamp.arm(rig.now_s).ok


def test_arming_needs_rest():
    rig = Rig().move()
    rig.clamp.disarm(rig.now_s)
    assert 'moving' in refused(rig)


def test_arming_twice_is_harmless():
    rig = Rig().move()
    assert rig.clamp.arm(rig.now_s).ok
    assert rig.state == State.ACTIVE


def test_disarming_stops_and_later_actions_do_not_move():
    rig = Rig().move()
    assert rig.clamp.disarm(rig.now_s).ok
    ticks_until_rest(rig)
    rig.speeds.clear()
    rig.stream(1.0)
    assert max(rig.speeds) == 0.0
    assert rig.state == State.DISARMED


# Motion ----------------------------------------------------------------------------------------


def test_a_steady_stream_moves_smoothly_at_the_policy_speed():
    rig = Rig(WIDE).arm()
    rig.stream(1.0)
    rig.speeds.clear()
    rig.stream(3.0)
    assert min(rig.speeds) > 0.097
    assert max(rig.speeds) < 0.1001


def test_actions_that_come_a_little_late_do_not_make_the_arm_stutter():
    rig = Rig(WIDE).arm()
    rig.stream(1.0)
    rig.speeds.clear()
    for _ in range(10):
        rig.offer()
        rig.run(11 * TAU)  # a period later than the policy's step of 10 periods
    assert min(rig.speeds) > 0.02 / (11 * TAU) - 1e-6


@pytest.mark.parametrize('frame', ['base_link', 'ee_link'])
def test_the_integrated_twist_is_the_sum_of_the_accepted_displacements(frame):
    rig = Rig(WIDE).arm()
    rng = np.random.default_rng(4)
    start = rig.position
    wanted_position, wanted_turn = np.zeros(3), Rotation.identity()
    for _ in range(40):
        translation, rotation = rng.normal(size=3) * 0.012, rng.normal(size=3) * 0.06
        turn = rig.orientation if frame == 'ee_link' else Rotation.identity()
        assert rig.offer(translation, rotation, frame_id=frame).accepted
        wanted_position = wanted_position + turn.apply(translation)
        wanted_turn = Rotation.from_rotvec(turn.apply(rotation)) * wanted_turn
        rig.run(0.2)
        assert rig.status.scale == 1.0
    rig.stream(4.0, (0.0, 0.0, 0.0))
    assert not rig.twist.any()
    assert rig.status.dropped_m == 0.0
    np.testing.assert_allclose(rig.position - start, wanted_position, atol=1e-5)
    assert (rig.orientation * wanted_turn.inv()).magnitude() < 1e-4


def test_when_the_displacement_is_used_up_the_arm_rests_however_late_the_next_action_is():
    rig = Rig().arm()
    rig.offer((0.004, 0.0, 0.0), step_s=0.4)  # valid for 0.5 s, done after 0.44
    rig.run(0.48)
    assert rig.state == State.ACTIVE
    assert not rig.twist.any()
    assert rig.position[0] - START[0] == pytest.approx(0.004, abs=1e-6)
    assert rig.status.reasons == ('DONE',)


def test_a_stale_action_drops_the_rest_and_reports_it_to_the_millimetre():
    rig = Rig().arm()
    rig.offer((0.05, 0.0, 0.0))
    rig.run(1.0)
    assert rig.state == State.HOLD
    assert rig.status.remaining_m == 0.0
    assert rig.status.dropped_m == pytest.approx(0.05 - (rig.position[0] - START[0]), abs=1e-9)


def test_direction_and_screw_of_an_action_are_kept_from_rest():
    rig = Rig(WIDE).arm()
    translation, rotation = np.array([0.03, -0.02, 0.01]), np.array([0.02, 0.1, -0.05])
    rig.offer(translation, rotation)
    for _ in range(12):
        rig.tick()
        v, w = rig.twist[:3], rig.twist[3:]
        np.testing.assert_allclose(
            v / np.linalg.norm(v), translation / np.linalg.norm(translation)
        )
        ratio = np.linalg.norm(w) / np.linalg.norm(v)
        assert ratio == pytest.approx(np.linalg.norm(rotation) / np.linalg.norm(translation))


def test_a_fast_action_is_scaled_as_a_whole():
    rig = Rig(WIDE).arm()
    rig.offer((0.08, 0.0, 0.0), (0.0, 0.0, 0.1))  # 0.4 m/s, 0.25 are allowed
    rig.run(0.1)
    assert rig.status.scale == pytest.approx(0.625)
    assert rig.twist[5] / rig.twist[0] == pytest.approx(0.1 / 0.08)


def test_the_action_scale_divides_every_displacement():
    rig = Rig(changed(action_scale=0.3)).arm()
    rig.stream(1.0)
    rig.stream(4.0, (0.0, 0.0, 0.0))
    assert rig.position[0] - START[0] == pytest.approx(0.3 * 5 * 0.02, abs=1e-5)


def test_speeds_and_accelerations_stay_within_the_limits():
    rig = Rig(WIDE).arm()
    rng = np.random.default_rng(1)
    for _ in range(60):
        rig.offer(rng.normal(size=3) * 0.03, rng.normal(size=3) * 0.15)
        rig.run(0.2)
    steps = np.array(rig.steps)
    assert max(rig.speeds) <= 0.25 + 1e-9
    assert np.linalg.norm(steps[:, :3], axis=1).max() <= 1.0 * TAU + 1e-9
    assert np.linalg.norm(steps[:, 3:], axis=1).max() <= 4.0 * TAU + 1e-9


def test_end_effector_twists_are_turned_by_the_present_pose():
    rig = Rig()
    rig.orientation = Rotation.from_euler('z', 90, degrees=True)
    rig.arm().offer((0.02, 0.0, 0.0), frame_id='ee_link')
    rig.run(0.1)
    np.testing.assert_allclose(rig.twist[:3], [0.0, rig.speeds[-1], 0.0], atol=1e-12)


def test_the_leash_bounds_what_a_burst_can_pile_up():
    slow = changed(WIDE, limits={'acceleration_mps2': 0.05, 'stop_acceleration_mps2': 0.05})
    rig = Rig(slow).arm()
    rig.stream(6.0, (0.049, 0.0, 0.0))
    assert rig.status.remaining_m <= 0.2 + 1e-9
    assert rig.status.dropped_m > 0.0


# Workspace -------------------------------------------------------------------------------------

FACES = [(s * (i == 0), s * (i == 1), s * (i == 2)) for i in range(3) for s in (1, -1)]
CORNERS = [(a, b, c) for a in (1, -1) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize('direction', FACES + CORNERS)
def test_pushing_against_a_wall_for_a_long_time_stays_inside(direction):
    rig = Rig().arm()
    push = np.array(direction) / np.linalg.norm(direction) * 0.04
    for _ in range(40):
        rig.offer(push)
        for _ in range(10):
            rig.tick()
            assert rig.status.wall_distance_m >= 0.0
            assert 'ACCEL_WAIVED' not in rig.status.reasons
    assert rig.status.wall_distance_m == pytest.approx(SIM.workspace.margin_m, abs=1e-3)
    assert np.linalg.norm(np.array(rig.steps)[:, :3], axis=1).max() <= 1.0 * TAU + 1e-9


def test_along_a_wall_the_arm_slides():
    rig = Rig(start=(0.43, -0.2, 0.15)).arm()
    rig.stream(2.0, (0.02, 0.02, 0.0))
    assert rig.twist[0] == pytest.approx(0.0, abs=1e-3)
    assert rig.twist[1] > 0.09


def test_pushing_into_a_wall_does_not_pile_up():
    rig = Rig(start=(0.44, 0.0, 0.15)).arm()
    rig.stream(3.0, (0.03, 0.0, 0.0))
    assert rig.status.dropped_m > 0.3
    rig.stream(0.2, (-0.02, 0.0, 0.0))
    assert rig.twist[0] < -0.05


def test_a_half_space_holds():
    post = HalfSpace('post', (0.6, 0.8, 0.0), 0.2)
    rig = Rig(changed(workspace={'half_spaces': (post,)})).arm()
    rig.stream(4.0, (0.03, 0.02, 0.0))
    assert 0.0 <= 0.2 - (0.6 * rig.position[0] + 0.8 * rig.position[1]) < 0.01
    assert 'ACCEL_WAIVED' not in rig.status.reasons


def test_the_orientation_cone_holds_while_other_turns_go_on():
    cone = OrientationCone((0.0, 0.0, 0.0, 1.0), 0.4)
    rig = Rig(changed(workspace={'orientation_cone': cone})).arm()
    for _ in range(30):
        rig.offer(NO_TURN, (0.1, 0.05, 0.02))
        for _ in range(10):
            rig.tick()
            assert rig.orientation.magnitude() <= 0.4 + 1e-6
    assert rig.orientation.magnitude() > 0.35


def test_an_arm_pushed_out_of_the_box_only_creeps_back():
    rig = Rig(start=(0.44, 0.0, 0.15)).arm()
    rig.stream(0.2, (0.0, 0.0, 0.0))
    rig.position = np.array([0.46, 0.0, 0.15])
    rig.stream(0.4, (0.02, 0.0, 0.0))
    assert rig.twist[0] <= 0.0
    assert rig.position[0] == pytest.approx(0.46)
    rig.speeds.clear()
    rig.stream(0.2, (-0.04, 0.0, 0.0))
    assert rig.twist[0] < 0.0
    assert max(rig.speeds) <= 0.05 + 1e-9
    assert 'CREEPING' in rig.status.reasons


def test_an_arm_far_outside_the_box_is_a_fault():
    rig = Rig(start=(0.449, 0.0, 0.15)).arm()
    for _ in range(8):
        rig.position = rig.position + np.array([0.01, 0.0, 0.0])
        rig.stream(0.2, (0.0, 0.0, 0.0))
    assert rig.status.reasons[0] == 'FAULT_POSE_OUTSIDE'
    assert 'far outside' in rig.clamp.reset(rig.now_s).sentence


# Silence ---------------------------------------------------------------------------------------


def test_silence_stops_within_t_stop_and_within_the_stop_distance():
    rig = Rig(WIDE).arm()
    rig.stream(2.0, (0.05, 0.0, 0.0))
    rig.offer((0.05, 0.0, 0.0))
    sent_s, start = rig.now_s, rig.position[0]
    speeds = []
    while rig.now_s - sent_s < 2.0:
        rig.tick()
        speeds.append(rig.speeds[-1])
        if rig.now_s - sent_s > SIM.stop_time_s(STEP_S):
            assert not rig.twist.any()
    assert rig.position[0] - start <= SIM.stop_distance_m(STEP_S)
    stale = speeds[round(0.25 / TAU) :]
    assert (np.diff(stale) <= 0.0).all()


def test_after_silence_a_fresh_action_resumes_without_arming():
    rig = Rig().move()
    rig.run(2.0)
    assert rig.state == State.HOLD
    assert rig.status.reasons == ('ACTION_STALE',)
    assert rig.offer().accepted
    rig.tick()
    assert rig.state == State.ACTIVE


def test_half_a_minute_of_silence_disarms():
    rig = Rig().move()
    rig.run(30.5)
    assert rig.state == State.DISARMED
    assert rig.status.reasons[0] == 'HOLD_TIMEOUT'
    rig.stream(1.0)
    assert rig.state == State.DISARMED


def test_refused_actions_are_no_sign_of_life():
    rig = Rig().move()
    rig.speeds.clear()
    for _ in range(5):
        assert rig.offer(frame_id='camera').reason == 'FRAME'
        rig.run(0.2)
    assert rig.speeds[-1] == 0.0
    assert "their frame is 'camera', expected 'base_link' or 'ee_link'" in rig.status.sentence


def test_actions_refused_for_ten_seconds_in_a_row_are_a_fault():
    rig = Rig().move()
    for _ in range(51):
        rig.offer(stamp_s=rig.ros_s - 5.0)
        rig.run(0.2)
    assert rig.status.reasons[0] == 'FAULT_REFUSALS'


def test_a_replayed_stream_adds_no_motion():
    rig = Rig().arm()
    first = rig.sequence
    stamps = []
    for _ in range(5):
        stamps.append(rig.ros_s - 0.01)
        rig.offer()
        rig.run(0.2)
    accepted = rig.status.accepted
    for k, stamp_s in enumerate(stamps):
        verdict = rig.offer(stamp_s=stamp_s, sequence=first + k + 1)
        assert not verdict.accepted
        rig.run(0.1)
    assert rig.status.accepted == accepted


def test_a_restarted_clamp_is_disarmed():
    rig = Rig().move()
    rig.clamp = Clamp(SIM)
    rig.stream(1.0)
    assert rig.state == State.DISARMED
    assert rig.speeds[-1] == 0.0


# Faults ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
def test_a_non_finite_action_latches(bad):
    rig = Rig().move()
    assert rig.offer(twist=(bad, 0.0, 0.0, 0.0, 0.0, 0.0)).reason == 'NON_FINITE'
    assert rig.state == State.FAULT
    assert ticks_until_rest(rig) <= math.ceil(0.1 / (2.0 * TAU))
    rig.stream(3.0)
    assert rig.speeds[-1] == 0.0
    assert rig.status.reasons == ('FAULT_NON_FINITE',)


def test_a_second_policy_while_the_first_lives_is_a_fault():
    rig = Rig().move()
    assert rig.offer(source_id='another').reason == 'SOURCE'
    rig.tick()
    assert rig.status.reasons == ('FAULT_TWO_SOURCES',)


def test_a_restarted_policy_needs_arming_but_no_reset():
    rig = Rig().move()
    rig.run(1.5)
    rig.sequence = 0
    rig.stream(1.0, source_id='restarted')
    assert rig.state == State.DISARMED
    assert rig.status.reasons[0] == 'SOURCE_CHANGED'
    assert rig.speeds[-1] == 0.0
    assert rig.clamp.arm(rig.now_s).ok
    rig.stream(0.4, source_id='restarted')
    assert rig.speeds[-1] > 0.05


def test_a_flood_is_a_fault():
    rig = Rig().move()
    for _ in range(60):
        rig.offer()
        rig.tick(0.015)
    assert rig.status.reasons == ('FAULT_FLOOD',)


def test_more_actions_than_twice_the_rate_are_not_executed():
    rig = Rig(WIDE).arm()
    before = rig.status.accepted
    for _ in range(200):
        rig.offer((0.001, 0.0, 0.0))
        rig.tick(0.025)
    assert rig.status.accepted - before <= 2 * 5 * 5 + 2


def test_a_pose_jump_while_armed_is_a_fault():
    rig = Rig().move()
    rig.position = rig.position + np.array([0.0, 0.1, 0.0])
    rig.tick()
    assert rig.status.reasons == ('FAULT_POSE_JUMP',)


def test_a_stale_pose_holds_and_heals():
    rig = Rig().move()
    rig.poses = False
    rig.stream(0.6)
    assert rig.state == State.HOLD
    assert rig.status.reasons[0] == 'POSE_STALE'
    assert rig.speeds[-1] == 0.0
    assert rig.offer().reason == 'POSE'
    rig.poses = True
    rig.stream(0.6)
    assert rig.state == State.ACTIVE


def test_a_pose_from_the_future_is_no_pose():
    rig = Rig().move()
    rig.poses = False
    for _ in range(40):
        rig.send_pose(stamp_s=rig.ros_s + 1.0)
        rig.tick()
    assert rig.state == State.HOLD
    assert 'poses are refused because its stamp is -1 s old' in rig.status.sentence


def test_one_late_tick_holds_and_the_next_action_resumes():
    rig = Rig().move()
    rig.tick(0.1)
    assert rig.status.reasons == ('OVERRUN',)
    assert rig.status.overruns == 1
    rig.run(0.2)
    assert rig.speeds[-1] == 0.0
    rig.offer()
    rig.tick()
    assert rig.state == State.ACTIVE


def test_a_late_tick_does_not_hide_that_no_action_comes_any_more():
    rig = Rig().move()
    rig.tick(0.1)
    rig.run(1.2)
    assert rig.status.reasons == ('OVERRUN', 'ACTION_STALE')


def test_a_late_tick_does_not_hide_that_the_first_action_is_awaited():
    rig = Rig().arm()
    rig.tick(0.1)
    assert rig.status.reasons == ('OVERRUN', 'WAITING')


def test_a_control_loop_that_stood_still_is_a_fault():
    rig = Rig().move()
    before = rig.speeds[-1]
    rig.tick(0.6)
    assert rig.status.reasons[0] == 'FAULT_OVERRUN'
    assert rig.speeds[-1] < before


def test_a_disarmed_control_loop_may_stand_still():
    rig = Rig()
    rig.tick()
    rig.tick(5.0)
    assert rig.state == State.DISARMED


@pytest.mark.parametrize('jump_s', [500.0, -500.0, 0.6, -0.6])
def test_a_clock_jump_holds_until_three_fresh_actions(jump_s):
    rig = Rig().move()
    rig.ros_s += jump_s
    rig.tick()
    assert rig.state == State.HOLD
    assert rig.status.reasons[0] == 'CLOCK_JUMP'
    verdicts = []
    for _ in range(3):
        verdicts.append(rig.offer())
        rig.run(0.2)
    assert [v.accepted for v in verdicts] == [False, False, True]
    assert verdicts[0].reason == 'CLOCK_JUMP'


def test_a_paused_ros_clock_stops_the_arm():
    rig = Rig().move()
    paused_s = rig.ros_s
    for k in range(50):
        rig.now_s += TAU
        rig.ros_s = paused_s
        if k % 10 == 0:
            rig.offer()
        rig.send_pose()
        rig.twist = rig.clamp.step(rig.now_s, rig.ros_s).twist
    assert not rig.twist.any()


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf, 1e18, -1e18, 0.0])
def test_a_senseless_steady_time_stops_and_latches(bad):
    rig = Rig().move()
    speed = rig.speeds[-1]
    output = rig.clamp.step(bad, rig.ros_s)
    assert np.isfinite(output.twist).all()
    assert np.linalg.norm(output.twist[:3]) <= speed
    assert rig.state == State.FAULT
    ticks_until_rest(rig)
    rig.stream(1.0)
    assert rig.speeds[-1] == 0.0


@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf, 1e18])
def test_a_senseless_ros_time_stops_but_heals(bad):
    rig = Rig().move()
    rig.clamp.step(rig.now_s + TAU, bad)
    assert not rig.clamp.offer(
        ActionInput(rig.ros_s, 'base_link', 10**6, 0.2, (0.0,) * 6, 1.0, 'policy'),
        now_s=rig.now_s + TAU,
        ros_now_s=bad,
    ).accepted


def test_an_internal_error_latches():
    rig = Rig().move()
    rig.clamp.fault('FAULT_INTERNAL', rig.now_s)
    rig.stream(2.0)
    assert rig.state == State.FAULT
    assert rig.speeds[-1] == 0.0


# E-stop, reset ---------------------------------------------------------------------------------


def test_the_estop_brakes_hardest_and_stays():
    rig = Rig(WIDE).arm()
    rig.stream(3.0, (0.05, 0.0, 0.0))
    speed = rig.speeds[-1]
    rig.clamp.heartbeat(True, now_s=rig.now_s)
    assert ticks_until_rest(rig) <= math.ceil(speed / (5.0 * TAU)) + 1
    rig.stream(2.0)
    assert rig.state == State.ESTOP
    assert rig.speeds[-1] == 0.0


def test_releasing_the_estop_does_nothing_but_allow_a_reset():
    rig = Rig(WITH_ESTOP).move()
    rig.heartbeats = False
    rig.clamp.heartbeat(True, now_s=rig.now_s)
    rig.stream(0.2)
    assert 'engaged' in rig.clamp.reset(rig.now_s).sentence
    rig.heartbeats = True
    rig.stream(2.0)
    assert rig.state == State.ESTOP
    assert rig.clamp.reset(rig.now_s).ok
    assert rig.state == State.DISARMED
    rig.stream(2.0)
    assert max(rig.speeds[-100:]) == 0.0


def test_a_lost_estop_heartbeat_is_an_estop():
    rig = Rig(WITH_ESTOP).move()
    rig.heartbeats = False
    rig.stream(0.4)
    assert rig.state == State.ESTOP
    assert rig.status.reasons == ('ESTOP_LOST',)
    rig.run(0.2)
    assert 'no e-stop heartbeat' in rig.clamp.reset(rig.now_s).sentence


def test_the_estop_service_latches():
    rig = Rig().move()
    assert rig.clamp.estop(rig.now_s).ok
    rig.tick()
    assert rig.status.reasons == ('ESTOP_SERVICE',)


def test_an_estop_comes_after_a_fault_too():
    rig = Rig().move()
    rig.offer(twist=(math.nan,) * 6)
    rig.clamp.heartbeat(True, now_s=rig.now_s)
    rig.tick()
    assert rig.status.reasons == ('ESTOP', 'FAULT_NON_FINITE')


def test_reset_is_refused_while_moving():
    rig = Rig().move()
    rig.offer(twist=(math.nan,) * 6)
    rig.tick()
    assert 'moving' in rig.clamp.reset(rig.now_s).sentence
    assert rig.state == State.FAULT


def test_reset_is_refused_while_the_cause_goes_on():
    rig = Rig().move()
    rig.offer(twist=(math.nan,) * 6)
    rig.run(0.5)
    assert 'NaN' in rig.clamp.reset(rig.now_s).sentence
    rig.offer(twist=(math.nan,) * 6)
    rig.run(0.9)
    assert not rig.clamp.reset(rig.now_s).ok
    rig.run(0.2)
    assert rig.clamp.reset(rig.now_s).ok


def test_after_a_reset_nothing_moves_until_armed_and_a_new_action_arrives():
    rig = Rig().move()
    rig.offer(twist=(math.nan,) * 6)
    rig.stream(2.0)
    assert rig.clamp.reset(rig.now_s).ok
    rig.speeds.clear()
    rig.stream(1.0)
    assert rig.clamp.arm(rig.now_s).ok
    rig.run(0.3)
    assert max(rig.speeds) == 0.0
    rig.stream(0.3)
    assert rig.speeds[-1] > 0.0


def test_arming_a_latched_controller_is_refused():
    rig = Rig().move()
    rig.clamp.estop(rig.now_s)
    rig.run(0.5)
    assert 'reset first' in rig.clamp.arm(rig.now_s).sentence


def test_reset_does_not_disarm_an_armed_controller():
    rig = Rig().move()
    assert not rig.clamp.reset(rig.now_s).ok
    assert rig.state == State.ACTIVE


# Gripper, shutdown, report ---------------------------------------------------------------------


def test_the_gripper_is_frozen_outside_active():
    rig = Rig().arm()
    rig.stream(1.0, gripper=1.0)
    assert rig.output.gripper == 1.0
    rig.clamp.estop(rig.now_s)
    rig.stream(2.0, gripper=0.0)
    assert rig.output.gripper == 1.0


def test_decisions_before_a_stop_do_not_move_the_gripper_after_it():
    rig = Rig().arm()
    rig.stream(1.0, gripper=1.0)
    rig.offer(gripper=0.0)
    rig.run(1.0)
    rig.offer(gripper=0.0)
    rig.run(0.2)
    assert rig.output.gripper == 1.0


def test_after_shutdown_it_ramps_to_rest_and_never_arms_again():
    rig = Rig().move()
    rig.clamp.shutdown(rig.now_s)
    ticks_until_rest(rig)
    rig.stream(1.0)
    assert 'shutting down' in refused(rig)


def test_zeros_sent_by_the_caller_count_as_rest():
    rig = Rig().move()
    rig.clamp.force_rest('FAULT_INTERNAL', rig.now_s)
    rig.tick()
    assert not rig.twist.any()


def test_the_commanded_pose_leads_the_measured_one_by_one_period():
    rig = Rig().move()
    expected = rig.position + rig.twist[:3] * TAU
    np.testing.assert_allclose(rig.output.pose.position_m, expected, atol=1e-9)


def test_a_disarmed_arm_moved_by_hand_is_not_pulled_back():
    rig = Rig()
    rig.tick()
    for _ in range(100):
        rig.position = rig.position + np.array([0.001, 0.0, 0.0])
        rig.tick()
    np.testing.assert_allclose(rig.output.pose.position_m, rig.position)


def test_shadow_computes_everything():
    rig = Rig(changed(mode='shadow')).arm()
    rig.position = np.array(START)
    for _ in range(5):
        rig.offer()
        for _ in range(10):
            rig.twist = np.zeros(6)  # the arm does not follow: nothing is sent to it
            rig.tick()
    assert rig.status.mode == 'shadow'
    assert rig.speeds[-1] > 0.09
    assert 'nothing is sent' in rig.status.sentence


def test_the_status_counts_and_ages():
    rig = Rig().move()
    rig.offer(frame_id='camera')
    rig.tick()
    status = rig.status
    assert status.accepted == 4
    assert dict(zip(status.reject_reasons, status.reject_counts)) == {'NOT_ARMED': 3, 'FRAME': 1}
    assert status.rejected == 4
    assert status.action_age_s == pytest.approx(0.22)
    assert status.pose_age_s == pytest.approx(0.0)
    assert status.estop_age_s == -1.0
    assert status.armed_source == 'policy'
    assert status.ticks == rig.ticks
