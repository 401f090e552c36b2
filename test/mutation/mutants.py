"""Faults planted into the clamp by hand, each a mistake somebody could make; tests must find them.

A mutant replaces a text that occurs exactly once in its file; when the clamp is rewritten and the
text
is gone, the mutation job fails until the mutant is rewritten too.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One planted fault: where, what is replaced by what, and which test files should see it."""

    file: str
    old: str
    new: str
    tests: str  # names of test/properties/test_<name>.py, the likeliest first
    killer: str = ''  # the test in the first of them that is run before all others
    equivalent: str = ''  # why no test can see it; such a mutant must survive


WORKSPACE = 'workspace.py'
CLAMP = 'clamp.py'
ADMISSION = 'admission.py'
BUDGET = 'displacement_budget.py'
GRIPPER = 'gripper.py'
POSE = 'pose_tracker.py'
STATE = 'safety_state.py'
PROFILE = 'robot_profile.py'
QUATERNION = 'unit_quaternion.py'

_BRAKING = (
    'speed = 2.0 * deceleration * distance / '
    '(b + math.sqrt(b * b + 2.0 * deceleration * distance))'
)

MUTANTS = [
    # The workspace
    Mutant(
        WORKSPACE,
        _BRAKING,
        'speed = distance / hold_s',
        'workspace',
        'test_the_braking_curve_stops_inside_the_distance',
    ),
    Mutant(
        WORKSPACE,
        _BRAKING,
        'speed = math.sqrt(2.0 * deceleration * distance)',
        'workspace',
        'test_the_braking_curve_stops_inside_the_distance',
    ),
    Mutant(
        WORKSPACE,
        'parts = math.sqrt(3.0) + len(self._half_spaces)',
        'parts = 1.0',
        'workspace limits',
        'test_three_walls_at_once_never_ask_for_more_than_the_acceleration',
    ),
    Mutant(
        WORKSPACE,
        '    if not distance > 0.0:\n        return 0.0\n',
        '    distance = abs(distance)\n',
        'workspace',
        'test_no_speed_is_allowed_towards_a_wall_already_passed',
    ),
    Mutant(
        WORKSPACE,
        'min(max(v[1], lo[1]), hi[1])',
        'max(v[1], lo[1])',
        'workspace',
        'test_a_clipped_velocity_is_allowed_and_never_longer',
    ),
    Mutant(
        WORKSPACE,
        'return _clip_to_walls(v, self) if self.walls else v',
        'return v',
        'workspace',
        'test_a_clipped_velocity_is_allowed_and_never_longer',
    ),
    Mutant(
        WORKSPACE,
        'CREEP_SPEED_MPS = 0.05',
        'CREEP_SPEED_MPS = 0.25',
        'workspace',
        'test_from_outside_the_arm_only_comes_back_and_slowly',
    ),
    Mutant(
        WORKSPACE,
        'FAR_OUTSIDE_M = 0.05',
        'FAR_OUTSIDE_M = 0.5',
        'workspace',
        'test_more_than_50_mm_outside_is_a_fault',
    ),
    Mutant(
        WORKSPACE,
        'room = max_change * max_change - dot(back, back)',
        'room = max_change * max_change',
        'limits workspace',
        'test_acceleration_is_waived_only_to_stay_inside_and_says_so',
    ),
    Mutant(
        WORKSPACE,
        'return Step(allowed, way, min(max(share, 0.0), 1.0), False)',
        'return Step(allowed, way, max(share, 0.0), False)',
        'limits displacement',
        equivalent='Step.at() takes a share of 1 or more as the whole way',
    ),
    # The clamp
    Mutant(
        CLAMP,
        'LATE_TICKS = 3.0',
        'LATE_TICKS = 1e9',
        'stop',
        'test_a_late_tick_is_treated_as_stale_before_anything_is_computed',
    ),
    Mutant(
        CLAMP, 'STALLED_S = 0.5', 'STALLED_S = 1e9', 'stop', 'test_a_long_stall_is_a_latched_fault'
    ),
    Mutant(
        CLAMP,
        'CLOCK_JUMP_S = 0.5',
        'CLOCK_JUMP_S = 1e12',
        'time',
        'test_a_jump_of_ros_time_is_a_hold_until_three_fresh_actions',
    ),
    Mutant(
        CLAMP,
        "        if engaged:\n            self._latch(State.ESTOP, 'ESTOP', now_s)",
        '        pass',
        'latch',
        'test_a_latched_stop_needs_reset_at_rest_then_arm_then_a_new_action',
    ),
    Mutant(
        CLAMP,
        'State.ESTOP: estop,',
        'State.ESTOP: stop,',
        'latch',
        'test_an_estop_brakes_harder_than_a_fault',
    ),
    Mutant(
        CLAMP,
        'State.HOLD: stop,',
        'State.HOLD: normal,',
        'stop',
        'test_after_the_last_action_the_arm_rests_in_time_and_within_the_distance',
    ),
    Mutant(
        CLAMP,
        'State.FAULT: stop,',
        'State.FAULT: normal,',
        'stop',
        'test_no_stop_is_outrun_by_actions_that_keep_coming',
    ),
    Mutant(
        CLAMP,
        'State.ACTIVE: normal,',
        'State.ACTIVE: stop,',
        'limits',
        'test_any_plausible_stream_leaves_within_the_limits_of_any_robot',
    ),
    Mutant(
        CLAMP,
        'share = self._scale * action.step_s',
        'share = action.step_s',
        'direction',
        'test_the_screw_of_a_displacement_is_kept',
    ),
    Mutant(
        CLAMP,
        '            _ratio(limits.speed_mps, norm(v)),\n',
        '',
        'direction',
        'test_the_screw_of_a_displacement_is_kept',
    ),
    Mutant(
        CLAMP,
        '            _ratio(limits.angular_speed_radps, norm(w)),\n',
        '',
        'direction',
        'test_the_screw_of_a_displacement_is_kept',
    ),
    Mutant(
        CLAMP,
        'return self.profile.action_scale * factor',
        'return factor',
        'direction',
        'test_the_screw_of_a_displacement_is_kept',
    ),
    Mutant(
        CLAMP,
        'if not 0.0 <= now_s - self._action_s <= self._hold_s:',
        'if not now_s - self._action_s <= self._hold_s:',
        'time',
        'test_an_action_received_in_the_future_is_not_fresh',
    ),
    Mutant(
        CLAMP,
        '            self._count_refusal(refusal, now_s)\n            return',
        '            self._count_refusal(refusal, now_s)\n'
        '            self._action_s = now_s\n            return',
        'time admission',
        'test_a_wrong_stamp_or_step_length_is_refused_and_no_sign_of_life',
    ),
    Mutant(
        CLAMP,
        "        if not self._at_rest():\n            return Reply(False, 'refused: the arm",
        "        if False:\n            return Reply(False, 'refused: the arm",
        'latch',
        'test_a_latched_stop_needs_reset_at_rest_then_arm_then_a_new_action',
    ),
    Mutant(
        CLAMP,
        '        present = self._present_causes(now_s)\n        if present:',
        '        present = self._present_causes(now_s)\n        if False:',
        'latch',
        'test_a_latched_stop_needs_reset_at_rest_then_arm_then_a_new_action',
    ),
    Mutant(
        CLAMP,
        "        if self.state in LATCHED:\n            return Reply(False, f'refused:",
        "        if False:\n            return Reply(False, f'refused:",
        'latch',
        'test_a_latched_stop_needs_reset_at_rest_then_arm_then_a_new_action',
    ),
    Mutant(
        CLAMP,
        "if refusal == 'NON_FINITE':",
        "if refusal == 'NEVER':",
        'admission',
        'test_nan_and_infinity_in_each_of_seven_fields_latch',
    ),
    Mutant(
        CLAMP,
        'if self.state in ARMED and action.source_id != self._armed_source:',
        'if False:',
        'latch admission',
        'test_a_second_policy_latches_a_fault_and_a_successor_disarms',
    ),
    Mutant(
        CLAMP,
        '<= self.profile.estop.timeout_s',
        '<= 1e9',
        'latch',
        'test_a_lost_heartbeat_latches_only_where_it_is_required',
    ),
    Mutant(
        CLAMP,
        '> self.profile.hold_timeout_s',
        '> 1e9',
        'stop',
        'test_an_armed_arm_without_actions_disarms_after_30_s',
    ),
    Mutant(
        CLAMP,
        '            w = unit_quaternion.rotate(self._pose.measured.quaternion_xyzw, w)\n',
        '',
        'direction',
        'test_an_action_in_the_end_effector_frame_is_turned_by_the_present_pose',
    ),
    Mutant(
        CLAMP,
        'if self.state != State.ACTIVE or self._pose.commanded is None:',
        'if self.state == State.DISARMED or self._pose.commanded is None:',
        'stop latch',
        'test_no_stop_is_outrun_by_actions_that_keep_coming',
    ),
    Mutant(
        CLAMP,
        'translation = workspace.confine_displacement(position, budget.translation)',
        'translation = budget.translation',
        'workspace',
        'test_pushing_at_a_wall_stores_nothing',
    ),
    Mutant(
        CLAMP,
        '        if self.state == State.ACTIVE:\n'
        '            self._gripper.step(self._arm_time_s(now_s))\n        else:\n',
        '        self._gripper.step(self._arm_time_s(now_s))\n'
        '        if self.state != State.ACTIVE:\n',
        'gripper_command',
        'test_no_stop_opens_or_closes_the_gripper',
    ),
    # Simulated ROS time
    Mutant(
        CLAMP,
        'self._budget.set_pace(self._factor)',
        'self._budget.set_pace(1.0)',
        'simulated_time',
    ),
    Mutant(
        CLAMP,
        'dt_s = passed_s * dt_s / gap_s if gap_s > 0.0 else 0.0',
        'pass',
        'simulated_time',
        'test_an_action_moves_what_it_says_at_any_real_time_factor',
    ),
    Mutant(
        CLAMP,
        'self._hold_s = self.profile.hold_s(action.step_s) * self._slowdown',
        'self._hold_s = self.profile.hold_s(action.step_s)',
        'simulated_time',
        'test_an_action_moves_what_it_says_at_any_real_time_factor',
    ),
    Mutant(
        CLAMP,
        'self._hold_s = self.profile.hold_s(action.step_s) * self._slowdown',
        'self._hold_s = math.inf',
        'simulated_time stop',
    ),
    Mutant(
        CLAMP,
        'elif self._simulated and self._pace.stands_still(now_s):',
        'elif False:',
        'simulated_time',
        'test_an_action_that_holds_long_in_a_slow_simulation_does_not_outlive_the_clock',
    ),
    Mutant(
        CLAMP,
        'if quick <= 1.0:',
        'if quick > 0.0:',
        'simulated_time',
        'test_a_fast_arm_brakes_before_the_wall',
    ),
    Mutant(
        BUDGET,
        'self._change = min(1.0, factor) * self._full_change',
        'self._change = factor * self._full_change',
        'simulated_time',
        'test_the_arm_does_not_go_beyond_and_come_back',
    ),
    Mutant(
        ADMISSION,
        'gone_s = self.pace * max(0.0, now_s - self._tokens_s)',
        'gone_s = max(0.0, now_s - self._tokens_s)',
        'simulated_time',
        'test_a_policy_that_keeps_its_rate_by_the_steady_clock_is_refused_some_actions',
    ),
    Mutant(
        CLAMP,
        '            and norm(v) <= limits.speed_mps * (1.0 + 1e-9)\n',
        '',
        'limits',
        equivalent='a second guard behind limits that hold already; nothing reaches it',
    ),
    Mutant(
        CLAMP,
        '        self._budget.clear()\n        self._pose.settle()\n'
        '        self._gripper.forget()',
        '        self._pose.settle()\n        self._gripper.forget()',
        'latch displacement',
        equivalent='arming needs rest, and at rest outside ACTIVE each tick has cleared it',
    ),
    # Admission
    Mutant(
        ADMISSION,
        'if not action.stamp_s > self._last_stamp_s:',
        'if False:',
        'admission',
        'test_a_stamp_that_does_not_increase_is_refused_whatever_the_sequence',
    ),
    Mutant(
        ADMISSION,
        "return 'SEQUENCE' if same and action.sequence <= self._last_sequence else ''",
        "return ''",
        'admission',
        'test_a_relay_that_stamps_the_last_action_anew_is_no_sign_of_life',
    ),
    Mutant(
        ADMISSION,
        'math.hypot(x, y, z) * action',
        'max(x, y, z) * action',
        'admission',
        'test_an_implausible_displacement_is_refused_and_not_cut',
    ),
    Mutant(
        ADMISSION,
        'RATE_FACTOR = 2.0',
        'RATE_FACTOR = 4.0',
        'admission',
        'test_accepted_actions_never_exceed_twice_the_policy_rate',
    ),
    Mutant(
        ADMISSION,
        'RATE_BURST = 2.0',
        'RATE_BURST = 20.0',
        'admission',
        'test_accepted_actions_never_exceed_twice_the_policy_rate',
    ),
    Mutant(
        ADMISSION,
        'FLOOD_MESSAGES = 50',
        'FLOOD_MESSAGES = 5000',
        'admission',
        'test_more_than_50_messages_in_a_second_are_a_flood',
    ),
    Mutant(
        ADMISSION,
        'if not age_s >= -self._rules.max_future_s:',
        'if age_s < -1e9:',
        'time',
        'test_only_stamps_from_the_recent_past_are_accepted',
    ),
    Mutant(
        ADMISSION,
        'if not age_s <= self._rules.max_age_s:',
        'if age_s > 1e9:',
        'time',
        'test_only_stamps_from_the_recent_past_are_accepted',
    ),
    Mutant(
        ADMISSION,
        "return '' if action.frame_id in self._frames else 'FRAME'",
        "return ''",
        'direction',
        'test_an_unknown_frame_is_refused_and_moves_nothing',
    ),
    Mutant(
        ADMISSION,
        'VALID_NEEDED = 3',
        'VALID_NEEDED = 1',
        'latch',
        'test_arming_is_refused_with_a_reason',
    ),
    Mutant(
        ADMISSION,
        'HEARD_S = 1.0',
        'HEARD_S = 100.0',
        'latch',
        'test_a_second_policy_latches_a_fault_and_a_successor_disarms',
    ),
    # The displacement budget
    Mutant(
        BUDGET,
        '            self.translation = add_scaled(self.translation, v, -dt_s)',
        '            pass',
        'displacement',
        'test_a_stream_integrates_to_the_sum_of_its_displacements',
    ),
    Mutant(
        BUDGET,
        'self._keep_rotation(_after(rotation, self.rotation), self._leash_rad)',
        'self._keep_rotation(_after(self.rotation, rotation), self._leash_rad)',
        'displacement',
        'test_rotation_vectors_compose_and_are_not_added',
    ),
    Mutant(
        BUDGET,
        'self._leash_m = profile.actions.leash_steps',
        'self._leash_m = 100.0',
        'displacement',
        'test_what_exceeds_the_leash_is_dropped_and_reported',
    ),
    Mutant(
        BUDGET,
        'rate = min(speed, self._speed) / distance',
        'rate = speed / distance',
        'limits direction',
        'test_any_plausible_stream_leaves_within_the_limits_of_any_robot',
    ),
    Mutant(
        BUDGET,
        'if abs(part) * rate > limit:',
        'if False:',
        'limits direction displacement stop',
        'test_any_plausible_stream_leaves_within_the_limits_of_any_robot',
    ),
    # The gripper
    Mutant(
        GRIPPER,
        '            and not 0.0 <= now_s - self._changed_s < self._rules.dwell_s\n',
        '',
        'gripper_command',
        'test_the_gripper_follows_hysteresis_equal_decisions_and_dwell',
    ),
    Mutant(
        GRIPPER,
        'self._run >= self._rules.decisions',
        'self._run >= 1',
        'gripper_command',
        'test_the_gripper_follows_hysteresis_equal_decisions_and_dwell',
    ),
    Mutant(
        GRIPPER,
        'elif opening > self._rules.open_above:',
        'elif opening >= self._rules.close_below:',
        'gripper_command',
        'test_the_gripper_follows_hysteresis_equal_decisions_and_dwell',
    ),
    # The pose
    Mutant(
        POSE,
        'JUMP_SLACK_M = 0.02',
        'JUMP_SLACK_M = 20.0',
        'stop',
        'test_a_pose_that_jumps_is_a_latched_fault',
    ),
    Mutant(
        POSE,
        'if not -_FUTURE_S <= age_s <= self._settings.timeout_s:',
        'if not age_s <= self._settings.timeout_s:',
        'stop',
        'test_a_pose_from_the_past_or_the_future_is_not_believed',
    ),
    Mutant(
        POSE,
        'return self.integrated or 0.0 <= now_s - self._received_s <= self._settings.timeout_s',
        'return True',
        'stop latch',
        'test_a_stale_pose_is_a_hold_that_heals',
    ),
    # The state machine and the numbers
    Mutant(
        STATE,
        "self.state, self.cause, self.since_s = State.DISARMED, 'RESET', now_s",
        "self.state, self.cause, self.since_s = State.HOLD, 'RESET', now_s",
        'latch',
        'test_a_latched_stop_needs_reset_at_rest_then_arm_then_a_new_action',
    ),
    Mutant(
        STATE,
        'if state > self.state:',
        'if state != self.state:',
        'latch',
        'test_the_estop_dominates_a_fault_and_the_first_cause_is_kept',
    ),
    Mutant(
        STATE,
        'CAUSE_GONE_S = 1.0',
        'CAUSE_GONE_S = 0.0',
        'latch',
        'test_reset_is_refused_while_the_cause_keeps_coming',
    ),
    Mutant(
        STATE,
        '        if self.state in LATCHED:\n            return\n',
        '',
        'latch',
        equivalent='a second guard: no caller asks for it while FAULT or ESTOP is latched',
    ),
    Mutant(
        PROFILE,
        'return 1.25 * step_s',
        'return 2.5 * step_s',
        'stop',
        'test_the_numbers_of_the_default_limits_are_those_of_the_specification',
    ),
    Mutant(
        QUATERNION,
        'factor = math.sin(0.5 * angle) / angle if angle > 1e-8 else 0.5',
        'factor = 0.5',
        'displacement',
        'test_rotation_vectors_compose_and_are_not_added',
    ),
]
