"""When a gripper server gets goals, over steady times that the tests choose."""

import pytest

from openvla_ros.safety.gripper_goals import (
    ABSENT_FOR_S,
    ANSWER_TIMEOUT_S,
    RESULT_TIMEOUT_S,
    RETRY_PAUSE_S,
    GripperGoals,
)

A, B = frozenset(['a']), frozenset(['b'])


def see(goals, now_s, *, available=True, who=A):
    return goals.see_server(available, who if available else frozenset(), now_s, advice='start it')


@pytest.fixture
def goals():
    it = GripperGoals("'/gripper' (GripperCommand)")
    see(it, 0.0)
    return it


def send(goals, opening, now_s):
    assert goals.is_due(opening, now_s)
    goals.sent(opening, now_s)


def test_without_a_server_no_goal_is_due_and_the_server_is_named_after_a_while():
    goals = GripperGoals("'/gripper' (GripperCommand)")
    see(goals, 10.0, available=False)
    assert not goals.is_due(1.0, 10.0)
    assert goals.problem == ''
    see(goals, 10.0 + ABSENT_FOR_S, available=False)
    assert goals.problem == (
        "The gripper action server '/gripper' (GripperCommand) is not available; start it."
    )
    see(goals, 13.0)
    assert goals.problem == ''
    assert goals.is_due(1.0, 13.0)


def test_an_accepted_goal_is_sent_once(goals):
    send(goals, 1.0, 0.0)
    goals.accepted(0.1)
    goals.succeeded()
    assert not any(goals.is_due(1.0, 0.1 * k) for k in range(1000))
    assert goals.is_due(0.0, 0.2)


def test_a_new_opening_waits_for_the_answer_to_the_goal_before(goals):
    send(goals, 1.0, 0.0)
    assert not goals.is_due(0.0, 0.1)
    goals.accepted(0.1)
    assert goals.is_due(0.0, 0.1)


@pytest.mark.parametrize(('fail', 'said'), [('rejected', 'rejected'), ('aborted', 'aborted')])
def test_a_failed_goal_is_said_and_repeated_after_a_pause(goals, fail, said):
    send(goals, 1.0, 0.0)
    if fail == 'aborted':
        goals.accepted(0.1)
    getattr(goals, fail)(0.2)
    assert said in goals.problem
    assert "'/gripper'" in goals.problem
    assert not goals.is_due(1.0, 0.2 + 0.99 * RETRY_PAUSE_S)
    assert not goals.is_due(0.0, 0.2 + 0.99 * RETRY_PAUSE_S)
    assert goals.is_due(1.0, 0.2 + RETRY_PAUSE_S)
    assert goals.num_failed == 1


def test_a_rejection_is_over_when_a_goal_is_accepted_and_an_abortion_when_one_succeeds(goals):
    send(goals, 1.0, 0.0)
    goals.rejected(0.1)
    send(goals, 1.0, 3.0)
    goals.accepted(3.1)
    assert goals.problem == ''
    goals.aborted(3.2)
    send(goals, 1.0, 6.0)
    goals.accepted(6.1)
    assert 'aborted' in goals.problem
    goals.succeeded()
    assert goals.problem == ''


def test_a_server_that_does_not_answer_is_tried_again(goals):
    send(goals, 1.0, 0.0)
    assert not goals.check_deadline(ANSWER_TIMEOUT_S)
    assert goals.check_deadline(ANSWER_TIMEOUT_S + 0.01)
    assert 'did not answer' in goals.problem
    assert goals.is_due(1.0, ANSWER_TIMEOUT_S + RETRY_PAUSE_S + 0.01)


def test_a_goal_without_a_result_is_tried_again(goals):
    send(goals, 1.0, 0.0)
    goals.accepted(0.5)
    assert not goals.check_deadline(0.5 + RESULT_TIMEOUT_S)
    assert goals.check_deadline(0.6 + RESULT_TIMEOUT_S)
    assert 'no result' in goals.problem


def test_a_goal_that_another_client_displaced_is_not_repeated(goals):
    send(goals, 1.0, 0.0)
    goals.accepted(0.1)
    goals.canceled()
    assert 'canceled' in goals.problem
    assert not goals.is_due(1.0, 100.0)
    send(goals, 0.0, 100.0)
    goals.accepted(100.1)
    assert goals.problem == ''


@pytest.mark.parametrize('seen_absent', [True, False])
def test_a_server_that_restarts_gets_the_goal_again_at_once(goals, seen_absent):
    send(goals, 1.0, 0.0)
    goals.accepted(0.1)
    goals.succeeded()
    assert not see(goals, 0.5)
    if seen_absent:
        assert see(goals, 1.0, available=False)
        assert not goals.is_due(1.0, 1.0)
    assert see(goals, 1.5, who=B)
    assert goals.is_due(1.0, 1.5)


def test_a_server_that_rejects_everything_gets_few_goals_whatever_is_wanted(goals):
    for tick in range(60 * 50):
        now_s = tick / 50
        opening = float(tick % 2)
        if goals.is_due(opening, now_s):
            goals.sent(opening, now_s)
            goals.rejected(now_s)
    # One at once, then at most one a pause.
    assert 2 <= goals.num_sent <= 1 + 60 / RETRY_PAUSE_S
