"""Whether the camera can be trusted: stamps, age, frozen or blank pictures. Time is passed in."""

import dataclasses
import functools
import hashlib

import numpy as np
from numpy.typing import NDArray

from openvla_ros.core.clock_diagnosis import StampAges, explain_stamp, spoken_duration
from openvla_ros.core.status import Status

JUMP_S = 0.5
"""A larger difference between the advance of ROS time and of steady time is a jump of a clock."""

GRAY_SPREAD = 2
"""Channels that differ by no more than this are gray; JPEG rounds that much."""

COLORLESS_S = 3.0
"""Images without a color for longer than this are reported."""

_SAMPLE_SIDE = 64


@dataclasses.dataclass(frozen=True)
class ImageLimits:
    """When a camera is no longer trusted.

    Attributes:
        timeout_s: Longest silence of the camera, steady time [s].
        max_age_s: Oldest stamp accepted on arrival, ROS time [s].
        max_ahead_s: How far a stamp may lie in the future [s].
        frozen_s: How long the picture may stay the same while the arm moves [s]; 0 never checks.
        blank_s: How long the picture may be without structure [s]; 0 never checks.
        blank_std: Standard deviation of brightness, 0 .. 255, below which it has none.
        allow_unstamped: Take a stamp of zero for the time of arrival.
        expected_frame_id: The only frame_id accepted; empty accepts any.
        lock_geometry: Accept only the size and encoding of the first image.
    """

    timeout_s: float = 0.5
    max_age_s: float = 0.5
    max_ahead_s: float = 0.05
    frozen_s: float = 1.0
    blank_s: float = 1.0
    blank_std: float = 2.0
    allow_unstamped: bool = False
    expected_frame_id: str = ''
    lock_geometry: bool = False


@dataclasses.dataclass(frozen=True)
class Arrival:
    """What is known of an image before its pixels are touched.

    Attributes:
        stamp_s: Its stamp, ROS time [s]; 0 if it has none.
        frame_id: Its frame.
        geometry: Width, height and encoding (a compressed image: its format).
    """

    stamp_s: float
    frame_id: str
    geometry: tuple[int, int, str]


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What is remembered of a picture.

    Attributes:
        digest: Hash of a regular sample of its pixels.
        brightness_std: Standard deviation of the sample's luma, 0 .. 255.
        has_color: Whether a pixel of the sample is not gray.
    """

    digest: bytes
    brightness_std: float
    has_color: bool = True


def fingerprint(image: NDArray[np.uint8]) -> Fingerprint:
    """Return the fingerprint of an image uint8[H, W, 3], RGB.

    About 64 x 64 pixels in a regular grid: sensor noise changes some of them in every frame.
    """
    rows = max(image.shape[0] // _SAMPLE_SIDE, 1)
    columns = max(image.shape[1] // _SAMPLE_SIDE, 1)
    sample = np.ascontiguousarray(image[::rows, ::columns])
    luma = sample @ np.array([0.299, 0.587, 0.114])
    red, green, blue = np.moveaxis(sample.astype(np.int16), -1, 0)
    spread = np.maximum(abs(red - green), abs(blue - green)).max()
    return Fingerprint(
        hashlib.blake2b(sample.tobytes(), digest_size=16).digest(),
        float(luma.std()),
        bool(spread > GRAY_SPREAD),
    )


class ImageMonitor:
    """Judges every arriving image and says why there is none to act on.

    Attributes:
        limits: When the camera is no longer trusted.
        colorless: Whether all images have been gray for COLORLESS_S; no reason not to act.
    """

    def __init__(self, limits: ImageLimits) -> None:
        """Start without an image."""
        self.limits = limits
        self._geometry: tuple[int, int, str] | None = None
        self._stamp_s = -float('inf')
        self._ages = StampAges()
        self._clocks: tuple[float, float] | None = None
        self._accepted_s: float | None = None
        self._refused: tuple[float, Status] | None = None
        self._digest = b''
        self._looked_stamp_s = -float('inf')
        self._same_since_s: float | None = None
        self._blank_since_s: float | None = None
        self._frozen = False
        self._blank = False
        self._gray_since_s: float | None = None
        self.colorless = False

    def offer(
        self, arrival: Arrival, *, now_s: float, ros_now_s: float, simulated: bool = False
    ) -> float | Status:
        """Judge an image by its header.

        Args:
            arrival: What is known of it.
            now_s: Steady time [s].
            ros_now_s: ROS time [s].
            simulated: ROS time is that of /clock; for the sentence only.

        Returns:
            The stamp to use [s] (the time of arrival if it has none and that is allowed), or why
            the image is dropped.
        """
        self._forget_stamp_after_a_jump(now_s, ros_now_s)
        self._ages.add(ros_now_s - arrival.stamp_s)
        refusal = self._stamp_refusal(arrival, ros_now_s, simulated) or self._identity_refusal(
            arrival
        )
        if refusal is not None:
            return self.refuse(refusal, now_s=now_s)
        self._stamp_s = arrival.stamp_s or ros_now_s
        self._geometry = self._geometry or arrival.geometry
        self._accepted_s = now_s
        return self._stamp_s

    def refuse(self, refusal: Status, *, now_s: float) -> Status:
        """Remember that an image was dropped, for the status; returns the refusal."""
        self._refused = (now_s, refusal)
        return refusal

    def look(self, seen: Fingerprint, *, stamp_s: float, now_s: float, moving: bool) -> None:
        """Take note of a picture's pixels.

        Args:
            seen: Its fingerprint.
            stamp_s: Its stamp; a picture already looked at is not counted again.
            now_s: Steady time [s].
            moving: Whether the arm is commanded to move; a still scene may stay the same.
        """
        if stamp_s == self._looked_stamp_s:
            return
        self._looked_stamp_s = stamp_s
        limits = self.limits
        if seen.brightness_std >= limits.blank_std or not limits.blank_s:
            self._blank_since_s, self._blank = None, False
        else:
            self._blank_since_s = now_s if self._blank_since_s is None else self._blank_since_s
            self._blank = self._blank or now_s - self._blank_since_s > limits.blank_s
        self._look_for_color(seen, now_s)
        if seen.digest != self._digest or not limits.frozen_s:
            self._digest = seen.digest
            self._same_since_s, self._frozen = None, False
        elif not moving:
            # Already frozen stays so: the arm stands still because of it.
            self._same_since_s = None
        else:
            self._same_since_s = now_s if self._same_since_s is None else self._same_since_s
            self._frozen = self._frozen or now_s - self._same_since_s > limits.frozen_s

    def _look_for_color(self, seen: Fingerprint, now_s: float) -> None:
        # A dark or overexposed image has no color either and is a matter of its own.
        if seen.brightness_std < self.limits.blank_std:
            return
        if seen.has_color:
            self._gray_since_s, self.colorless = None, False
            return
        self._gray_since_s = now_s if self._gray_since_s is None else self._gray_since_s
        self.colorless = self.colorless or now_s - self._gray_since_s > COLORLESS_S

    def verdict(self, now_s: float) -> Status | None:
        """Say why there is no image to act on now, or None; ``now_s`` is steady time."""
        limits = self.limits
        # A time that ran backwards or is not a number must not make an image fresh.
        fresh = (
            self._accepted_s is not None and 0.0 <= now_s - self._accepted_s <= limits.timeout_s
        )
        if not fresh:
            if self._refused and 0.0 <= now_s - self._refused[0] <= max(limits.timeout_s, 1.0):
                return self._refused[1]
            if self._accepted_s is None:
                return Status('NO_IMAGE', 'no image has arrived; is the camera running?')
            return Status(
                'IMAGE_STALE',
                f'no usable image for more than {limits.timeout_s:g} s; the camera is silent',
            )
        if self._frozen:
            return Status(
                'IMAGE_FROZEN',
                f'the picture stayed the same for more than {limits.frozen_s:g} s while the arm '
                'moved; restart the camera',
            )
        if self._blank:
            return Status(
                'IMAGE_BLANK',
                f'the picture has shown nothing (black or saturated) for more than '
                f'{limits.blank_s:g} s; look at the lens, the light and the exposure',
            )
        return None

    def _forget_stamp_after_a_jump(self, now_s: float, ros_now_s: float) -> None:
        if self._clocks is not None:
            steady_s, ros_s = now_s - self._clocks[0], ros_now_s - self._clocks[1]
            # Only a clock that went back makes good stamps look old.
            if ros_s < min(0.0, steady_s - JUMP_S):
                self._stamp_s = -float('inf')
        self._clocks = (now_s, ros_now_s)

    def _stamp_refusal(self, arrival: Arrival, ros_now_s: float, simulated: bool) -> Status | None:
        limits, stamp_s = self.limits, arrival.stamp_s
        if stamp_s == 0.0:
            if limits.allow_unstamped:
                return None
            return Status(
                'IMAGE_UNSTAMPED',
                'the image has no stamp, so its age is unknown; have the driver stamp it, or set '
                'allow_unstamped_images',
            )
        repeated = Status(
            'IMAGE_REPEATED',
            'the stamp of the image did not advance; the same image is sent again',
        )
        if stamp_s == self._stamp_s:
            return repeated
        age_s = ros_now_s - stamp_s
        cause = functools.partial(
            explain_stamp,
            'the camera',
            stamp_s,
            ros_now_s,
            simulated=simulated,
            constant=self._ages.are_constant,
        )
        if age_s < -limits.max_ahead_s:
            return Status(
                'CLOCK_SKEW',
                f'the image is stamped {spoken_duration(age_s)} in the future (allowed '
                f'{limits.max_ahead_s:g} s); {cause()}',
            )
        # Written so that an age that is not a number is refused too.
        if not age_s <= limits.max_age_s:
            return Status(
                'IMAGE_OLD',
                f'the image was {spoken_duration(age_s)} old on arrival (allowed '
                f'{limits.max_age_s:g} s); {cause()}',
            )
        return repeated if stamp_s < self._stamp_s else None

    def _identity_refusal(self, arrival: Arrival) -> Status | None:
        limits = self.limits
        if limits.expected_frame_id and arrival.frame_id != limits.expected_frame_id:
            return Status(
                'WRONG_CAMERA',
                f'the image is of frame {arrival.frame_id[:80]!r}, expected '
                f'{limits.expected_frame_id!r}; remap camera/image_raw to the right camera',
            )
        if limits.lock_geometry and self._geometry and arrival.geometry != self._geometry:
            return Status(
                'GEOMETRY_CHANGED',
                f'the image is {_shown(arrival.geometry)}, but it was {_shown(self._geometry)} '
                'and lock_image_geometry is set; restart the policy to accept it',
            )
        return None


def _shown(geometry: tuple[int, int, str]) -> str:
    width, height, encoding = geometry
    return f'{width}x{height} {encoding[:40]!r}'
