"""Whether what arrives now would make an episode that can be learnt from."""

import math
from collections import deque
from dataclasses import dataclass

from openvla_ros.core.status import Status

_WINDOW_S = 3.0
#: A measured rate may be this much below the dataset's: clocks and jitter.
_RATE_SLACK = 0.05
#: A camera is silent after so many of the dataset's steps.
_SILENT_STEPS = 3.0
#: Poses are looked up by a timer, so no shorter silence is seen.
_SHORTEST_SILENCE_S = 0.3
_OPENING_SLACK = 0.02


class Arrivals:
    """When the messages of a topic arrived, on one steady clock."""

    def __init__(self) -> None:
        """Begin without a message."""
        self._times_s: deque[float] = deque()
        self.count = 0

    def note(self, now_s: float) -> None:
        """Count a message."""
        self.count += 1
        self._times_s.append(now_s)
        while self._times_s[0] < now_s - _WINDOW_S:
            self._times_s.popleft()

    def age_s(self, now_s: float) -> float:
        """Return the time since the last message [s]; infinity before the first."""
        return now_s - self._times_s[-1] if self._times_s else math.inf

    def rate_hz(self, now_s: float) -> float:
        """Return the rate over the last three seconds; 0 with fewer than two messages in them."""
        times_s = [t for t in self._times_s if t >= now_s - _WINDOW_S]
        span_s = times_s[-1] - times_s[0] if len(times_s) > 1 else 0.0
        return (len(times_s) - 1) / span_s if span_s > 0.0 else 0.0


@dataclass(frozen=True)
class Needs:
    """What an episode of one robot and dataset needs.

    Attributes:
        step_s: Of the dataset [s].
        pose_timeout_s: Age at which the robot's pose is too old [s].
        min_free_bytes: Below this nothing is recorded.
    """

    step_s: float
    pose_timeout_s: float
    min_free_bytes: int


@dataclass(frozen=True)
class Observed:
    """What arrives at one moment.

    Attributes:
        image: Where images are expected, for sentences.
        image_age_s: Since the last one [s]; infinity if none came.
        image_rate_hz: Images a second.
        image_fault: Why the last one cannot be used; empty if it can.
        pose: Where the pose is expected, for sentences.
        pose_age_s: Since the last one [s].
        pose_fault: Why the last one cannot be used; empty if it can.
        gripper: Where an opening is expected, for sentences.
        opening: The last one, expected in 0 closed .. 1 open; None if none came.
        free_bytes: What the disk still takes.
    """

    image: str
    image_age_s: float
    image_rate_hz: float
    image_fault: str
    pose: str
    pose_age_s: float
    pose_fault: str
    gripper: str
    opening: float | None
    free_bytes: int


def faults(observed: Observed, needs: Needs) -> list[Status]:
    """Return why an episode recorded now would be of no use; empty where it would."""
    found = [
        _image_fault(observed, needs),
        _pose_fault(observed, needs),
        _gripper_fault(observed),
        _disk_fault(observed, needs),
    ]
    return [fault for fault in found if fault is not None]


def camera_warning(observed: Observed, needs: Needs) -> str:
    """Say what a camera below twice the dataset's rate costs; empty for a faster one."""
    wanted_hz = 2.0 / needs.step_s
    if observed.image_rate_hz >= (1.0 - _RATE_SLACK) * wanted_hz:
        return ''
    return (
        f'{observed.image} gives {observed.image_rate_hz:.1f} images a second; below '
        f'{wanted_hz:g} some steps have no image younger than half a step and are dropped later'
    )


def _image_fault(observed: Observed, needs: Needs) -> Status | None:
    if observed.image_age_s > max(1.0, _SILENT_STEPS * needs.step_s):
        return Status(
            'NO_IMAGE',
            f'{observed.image}: no image {_since(observed.image_age_s)}; start the camera, or '
            'name its topic',
        )
    if observed.image_fault:
        return Status('IMAGE_UNUSABLE', f'{observed.image}: {observed.image_fault}')
    needed_hz = 1.0 / needs.step_s
    if observed.image_rate_hz < (1.0 - _RATE_SLACK) * needed_hz:
        return Status(
            'CAMERA_SLOW',
            f'{observed.image}: got {observed.image_rate_hz:.1f} images a second, expected '
            f'{needed_hz:g} or more for the steps of {needs.step_s:g} s of the dataset; raise the '
            "camera's rate",
        )
    return None


def _pose_fault(observed: Observed, needs: Needs) -> Status | None:
    if observed.pose_fault:
        return Status('POSE_UNUSABLE', f'{observed.pose}: {observed.pose_fault}')
    if observed.pose_age_s > max(needs.pose_timeout_s, _SHORTEST_SILENCE_S):
        return Status(
            'NO_POSE',
            f'{observed.pose}: no pose of the end effector {_since(observed.pose_age_s)}; start '
            "the robot's driver, or name the topic of its pose",
        )
    return None


def _gripper_fault(observed: Observed) -> Status | None:
    if observed.opening is None:
        return Status(
            'NO_GRIPPER',
            f'{observed.gripper}: no opening of the gripper arrived; publish it there as Float64, '
            '0 closed to 1 open',
        )
    if not -_OPENING_SLACK <= observed.opening <= 1.0 + _OPENING_SLACK:  # NaN too
        return Status(
            'GRIPPER_RANGE',
            f'{observed.gripper}: got an opening of {observed.opening:g}, expected 0 (closed) to '
            '1 (open); convert the signal before recording it',
        )
    return None


def _disk_fault(observed: Observed, needs: Needs) -> Status | None:
    if observed.free_bytes >= needs.min_free_bytes:
        return None
    return Status(
        'DISK_FULL',
        f'the disk has {observed.free_bytes / 1e9:.1f} GB left, expected '
        f'{needs.min_free_bytes / 1e9:g} or more (min_free_gb); free some, or choose another '
        'directory',
    )


def _since(age_s: float) -> str:
    return 'arrived yet' if math.isinf(age_s) else f'for {age_s:.1f} s'
