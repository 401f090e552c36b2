"""One gate decides whether an action is published, and always knows why not."""

import threading

import numpy as np
import pytest

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.core.status import Status
from openvla_ros.observation.image_monitor import Arrival, Fingerprint, ImageLimits
from openvla_ros.policy.gate import PolicyGate

ROS = 1_700_000_000.0


def make_gate(**options):
    return PolicyGate(ImageLimits(), **options)


def show(gate, now_s, stamp_s=None):
    stamp_s = ROS + now_s if stamp_s is None else stamp_s
    return gate.take_image(
        Arrival(stamp_s, 'camera', (64, 64, 'rgb8')), None, now_s=now_s, ros_now_s=ROS + now_s
    )


def delta(x=0.01):
    return EefDelta([x, 0, 0], np.zeros(3), 1.0, 'base', 0.2)


class Cycle:
    """Does what the worker does, with times that a test passes."""

    def __init__(self, gate):
        self.gate, self.published = gate, []

    def take_up(self, now_s):
        assignment = self.gate.assign(now_s)
        if assignment is not None:
            self.gate.taken_up(assignment)
        return assignment

    def finish(self, assignment, now_s, action=None):
        return self.gate.let_through(
            action or delta(),
            assignment,
            lambda: self.published.append(assignment.text),
            now_s=now_s,
            ros_now_s=ROS + now_s,
        )


def test_nothing_is_assigned_before_there_is_an_instruction_and_an_image():
    gate = make_gate()
    assert gate.why_not(0.0).code == 'NO_INSTRUCTION'
    assert gate.assign(0.0) is None
    gate.take_instruction('pick', now_s=0.0)
    assert gate.why_not(0.0).code == 'NO_IMAGE'
    assert gate.assign(0.0) is None
    show(gate, 0.1)
    assert gate.why_not(0.1) is None
    assert gate.assign(0.1).text == 'pick'


def test_an_image_is_acted_on_once_and_anew_for_another_instruction():
    gate = make_gate(instruction_dwell_s=0.0)
    cycle = Cycle(gate)
    gate.take_instruction('a', now_s=0.0)
    show(gate, 0.1)
    assert cycle.take_up(0.1) is not None
    assert cycle.take_up(0.2) is None
    assert gate.statistics.counts['ticks_without_new_image'] == 1
    gate.take_instruction('b', now_s=0.25)
    assert cycle.take_up(0.3).text == 'b'


@pytest.mark.parametrize(
    ('age_s', 'due'),
    [
        (0.01, False),  # fresh
        (0.05, False),  # old for a camera of 10 Hz, but the next one is 50 ms away
        (0.085, True),
        (0.099, True),
        (0.11, False),  # it should have come: who knows when it will
    ],
)
def test_the_next_image_is_due_when_the_newest_is_old_for_its_camera(age_s, due):
    gate = make_gate()
    assert not gate.next_image_is_due(0.0, 0.02)
    for i in range(11):
        show(gate, 0.1 * i)
    assert gate.next_image_is_due(1.0 + age_s, 0.02) == due


def test_of_a_camera_seen_once_nothing_is_known():
    gate = make_gate()
    show(gate, 1.0)
    assert not gate.next_image_is_due(1.09, 0.02)


def test_an_action_of_a_former_instruction_is_dropped():
    gate = make_gate()
    cycle = Cycle(gate)
    gate.take_instruction('a', now_s=0.0)
    show(gate, 0.1)
    assignment = cycle.take_up(0.1)
    gate.take_instruction('b', now_s=0.2)
    assert cycle.finish(assignment, 0.3).code == 'INSTRUCTION_CHANGED'
    assert cycle.published == []
    assert gate.statistics.refused['INSTRUCTION_CHANGED'] == 1


def test_an_empty_instruction_stops_at_once_even_what_is_being_computed():
    gate = make_gate()
    cycle = Cycle(gate)
    gate.take_instruction('a', now_s=0.0)
    show(gate, 0.1)
    assignment = cycle.take_up(0.1)
    gate.take_instruction('', now_s=0.2)
    assert cycle.finish(assignment, 0.2) is not None
    gate.take_instruction('a', now_s=0.2)
    assert cycle.finish(assignment, 0.3) is not None
    assert cycle.published == []


def test_no_action_of_an_old_instruction_is_published_after_the_new_one_was_taken():
    gate = make_gate(instruction_dwell_s=0.0)
    published, taken = [], []
    stop = threading.Event()

    def change():
        i = 0
        while not stop.is_set():
            i += 1
            gate.take_instruction(f'task {i}', now_s=0.0)
            taken.append(f'task {i}')

    gate.take_instruction('task 0', now_s=0.0)
    thread = threading.Thread(target=change)
    thread.start()
    for i in range(2000):
        show(gate, 0.0, stamp_s=ROS + 1e-6 * (i + 1))
        assignment = gate.assign(0.0)
        if assignment is None:
            continue

        def publish(assignment=assignment):
            published.append((assignment.text, taken[-1] if taken else 'task 0'))

        gate.let_through(delta(), assignment, publish, now_s=0.0, ros_now_s=ROS)
    stop.set()
    thread.join()
    assert published
    for text, newest in published:
        # `taken` is written after the gate: at most the newest is not in it yet.
        assert int(text.split()[1]) >= int(newest.split()[1])


@pytest.mark.parametrize(('now_s', 'expected'), [(1.0, None), (1.2, 'LATE')])
def test_an_action_that_comes_too_late_is_dropped(now_s, expected):
    gate = make_gate(max_observation_age_s=1.0)
    cycle = Cycle(gate)
    gate.take_instruction('a', now_s=0.0)
    show(gate, 0.1)
    assignment = cycle.take_up(0.1)
    refusal = cycle.finish(assignment, now_s)
    assert (refusal and refusal.code) == expected
    assert gate.why_not(now_s) is not None  # the image is stale as well by then


def test_a_standing_ros_clock_does_not_make_a_late_action_timely():
    gate = make_gate()
    gate.take_instruction('a', now_s=0.0)
    show(gate, 0.1)
    assignment = gate.assign(0.1)
    refusal = gate.let_through(
        delta(), assignment, lambda: None, now_s=5.0, ros_now_s=assignment.stamp_s
    )
    assert refusal.code == 'LATE'


def test_frozen_and_stuck_count_only_while_the_controller_says_that_the_arm_moves():
    gate = make_gate()
    assert not gate.arm_moves(0.0)
    gate.take_controller(True, now_s=0.0)
    assert gate.arm_moves(0.4)
    assert not gate.arm_moves(0.6)  # a controller that is silent says nothing
    gate.take_controller(False, now_s=1.0)
    assert not gate.arm_moves(1.0)


def run_for(gate, seconds, *, moving, digest, rate_hz=5.0):
    cycle = Cycle(gate)
    codes = []
    for i in range(int(seconds * rate_hz)):
        now_s = 1.0 + i / rate_hz
        show(gate, now_s)
        gate.take_controller(moving, now_s=now_s)
        assignment = cycle.take_up(now_s)
        refusal = gate.look(Fingerprint(digest(i), 50.0), assignment, now_s=now_s)
        refusal = refusal or cycle.finish(assignment, now_s)
        codes.append(refusal and refusal.code)
    return codes


def test_a_frozen_camera_stops_the_actions_and_a_moving_one_does_not():
    gate = make_gate(stuck_after=0)
    gate.take_instruction('a', now_s=0.0)
    codes = run_for(gate, 3.0, moving=True, digest=lambda i: b'x')
    assert codes[0] is None
    assert codes[-1] == 'IMAGE_FROZEN'
    gate = make_gate(stuck_after=0)
    gate.take_instruction('a', now_s=0.0)
    assert set(run_for(gate, 3.0, moving=True, digest=lambda i: bytes([i]))) == {None}


def test_the_same_motion_while_moving_is_stuck_until_another_instruction():
    gate = make_gate(stuck_after=10)
    gate.take_instruction('a', now_s=0.0)
    codes = run_for(gate, 4.0, moving=True, digest=lambda i: bytes([i]))
    assert codes == [None] * 10 + ['STUCK'] * 10
    assert gate.why_not(4.8).code == 'STUCK'
    gate.take_instruction('b', now_s=4.9)
    assert gate.why_not(5.0) is None


def test_three_outputs_that_are_no_actions_are_a_fault_that_stays():
    gate = make_gate()
    gate.take_instruction('a', now_s=0.0)
    for now_s in (1.0, 2.0):
        show(gate, now_s)
        gate.refuse_output(Status('BAD_TOKENS', 'token 5'), now_s=now_s)
        assert gate.why_not(now_s).code == 'BAD_TOKENS'
    gate.refuse_output(Status('BAD_TOKENS', 'token 5'), now_s=3.0)
    show(gate, 3.0)
    gate.take_instruction('b', now_s=3.0)
    assert gate.why_not(4.0).code == 'MODEL_FAULT'
    assert gate.assign(3.1) is None
    assert gate.statistics.refused['BAD_TOKENS'] == 3


def test_an_instruction_the_model_cannot_take_is_cleared():
    gate = make_gate()
    gate.take_instruction('a', now_s=0.0)
    show(gate, 0.1)
    assignment = gate.assign(0.1)
    gate.refuse_instruction('too many tokens', assignment)
    assert gate.instruction == ''
    assert gate.why_not(0.2) == Status('INSTRUCTION_REFUSED', 'too many tokens')


def test_a_dropped_image_is_counted_by_its_reason():
    gate = make_gate()
    assert show(gate, 1.0, stamp_s=ROS - 5.0).code == 'IMAGE_OLD'
    malformed = Status('IMAGE_MALFORMED', 'x')
    arrival = Arrival(ROS + 1, 'camera', (0, 0, ''))
    assert gate.take_image(arrival, malformed, now_s=1.0, ros_now_s=ROS + 1) == malformed
    assert gate.statistics.refused.as_dict() == {'IMAGE_OLD': 1, 'IMAGE_MALFORMED': 1}
    gate.take_instruction('a', now_s=1.0)
    assert gate.why_not(1.1).code == 'IMAGE_MALFORMED'


def test_once_shut_nothing_passes():
    gate = make_gate()
    cycle = Cycle(gate)
    gate.take_instruction('a', now_s=0.0)
    show(gate, 0.1)
    assignment = cycle.take_up(0.1)
    gate.shut(Status('ENDED', 'x'))
    assert cycle.finish(assignment, 0.2).code == 'ENDED'
    assert cycle.published == []


def test_an_image_has_one_action_even_if_publishing_it_raises():
    gate = make_gate()
    gate.take_instruction('pick', now_s=0.0)
    show(gate, 1.0)
    assignment = gate.assign(1.0)
    gate.taken_up(assignment)
    published = []

    def publish():
        published.append(assignment.text)
        raise MemoryError

    with pytest.raises(MemoryError):
        gate.let_through(delta(), assignment, publish, now_s=1.0, ros_now_s=ROS + 1.0)
    assert gate.is_spent(assignment)
    again = gate.let_through(delta(), assignment, publish, now_s=1.0, ros_now_s=ROS + 1.0)
    assert again.code == 'ALREADY_PUBLISHED'
    assert published == ['pick']
    show(gate, 1.2)
    assert not gate.is_spent(gate.assign(1.2))
