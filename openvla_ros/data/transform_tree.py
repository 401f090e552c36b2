"""The frames of a recording's ``/tf`` and ``/tf_static``, read as tf2 reads them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from openvla_ros.core.strict_config import ConfigError, did_you_mean
from openvla_ros.data.pose_history import PoseHistory, compose, inverse, is_rigid
from openvla_ros.safety.pose_tracker import Pose


@dataclass(frozen=True, slots=True)
class StampedTransform:
    """One transform of a TFMessage.

    Attributes:
        stamp_s: Of its header [s]; of no meaning where it is static.
        parent: ``header.frame_id``, without a leading slash.
        child: ``child_frame_id``, without a leading slash.
        pose: Of the child in the parent: p_parent = R(quaternion) p_child + position.
    """

    stamp_s: float
    parent: str
    child: str
    pose: Pose


class TransformTree:
    """Every frame with its parent and where it was there, over time."""

    def __init__(
        self, moving: Iterable[StampedTransform], static: Iterable[StampedTransform]
    ) -> None:
        """Take all transforms of ``/tf`` and of ``/tf_static``, each in the order recorded.

        What tf2 ignores is ignored: no rotation, numbers that are not finite, a frame that is its
        own parent, a frame without a name.
        """
        self._parents: dict[str, set[str]] = {}
        self._static: dict[str, Pose] = {}
        samples: dict[str, list[StampedTransform]] = {}
        for transform in filter(_is_usable, static):
            self._parents.setdefault(transform.child, set()).add(transform.parent)
            self._static[transform.child] = transform.pose
        for transform in filter(_is_usable, moving):
            self._parents.setdefault(transform.child, set()).add(transform.parent)
            samples.setdefault(transform.child, []).append(transform)
        self._moving = {
            child: PoseHistory([t.stamp_s for t in some], [t.pose for t in some])
            for child, some in samples.items()
        }

    def chain(self, base_frame: str, ee_frame: str) -> 'FrameChain':
        """Return what leads from the base to the end effector.

        Raises:
            ConfigError: nothing does, a frame of it has two parents, or none of it ever moves.
        """
        base_frame, ee_frame = base_frame.lstrip('/'), ee_frame.lstrip('/')
        self._check_known(base_frame)
        self._check_known(ee_frame)
        up = self._ancestors(ee_frame, base_frame)
        down = [base_frame] if up[-1] == base_frame else self._ancestors(base_frame, '')
        common = next((frame for frame in up if frame in down), None)
        if common is None:
            raise ConfigError(
                f'no transforms lead from {base_frame!r} to {ee_frame!r}: they end at '
                f'{down[-1]!r} and {up[-1]!r}, which nothing connects; record /tf and /tf_static '
                'of the whole robot, or name frames of one tree'
            )
        chain = FrameChain(
            [self._link(frame) for frame in down[: down.index(common)]],
            [self._link(frame) for frame in up[: up.index(common)]],
        )
        if not chain.moves:
            raise ConfigError(
                f'all transforms from {base_frame!r} to {ee_frame!r} are static; the frames are '
                'of one rigid part, or /tf holds no joints: check base_frame and ee_frame'
            )
        return chain

    def _check_known(self, frame: str) -> None:
        known = set(self._parents).union(*self._parents.values())
        if frame in known:
            return
        shown = ', '.join(sorted(known)[:20]) or 'none'
        raise ConfigError(
            f'frame {frame!r} is not among the recorded frames{did_you_mean(frame, known)}; there '
            f'are {shown}{", ..." if len(known) > 20 else ""}'
        )

    def _ancestors(self, frame: str, last: str) -> list[str]:
        """Return the frame, its parent and so on, up to ``last`` or the root."""
        line = [frame]
        while line[-1] != last and line[-1] in self._parents:
            parents = sorted(self._parents[line[-1]])
            if len(parents) > 1 or parents[0] in line:
                raise ConfigError(
                    f'frame {line[-1]!r} has the parents {", ".join(map(repr, parents))}, '
                    'expected one and no circle; two publishers of transforms contradict each '
                    'other, record without one of them'
                )
            line.append(parents[0])
        return line

    def _link(self, child: str) -> PoseHistory | Pose:
        return self._moving[child] if child in self._moving else self._static[child]


class FrameChain:
    """The pose of one frame in another over time, through all frames between.

    Attributes:
        moves: Whether any of it is from ``/tf``.
        span_s: Where all of its moving transforms are recorded [s].
    """

    def __init__(self, down: list[PoseHistory | Pose], up: list[PoseHistory | Pose]) -> None:
        """Take the links from the base, and from the end effector, to their common ancestor."""
        self._down, self._up = down, up
        moving = [link for link in down + up if isinstance(link, PoseHistory)]
        self.moves = bool(moving)
        self.span_s = (
            max((link.span_s[0] for link in moving), default=-math.inf),
            min((link.span_s[1] for link in moving), default=math.inf),
        )

    def at(self, stamp_s: float) -> Pose | None:
        """Return the pose of the end effector in the base at a time [s]; None in a gap."""
        base = _pose_in_ancestor(self._down, stamp_s)
        tool = _pose_in_ancestor(self._up, stamp_s)
        return None if base is None or tool is None else compose(inverse(base), tool)


def _pose_in_ancestor(links: list[PoseHistory | Pose], stamp_s: float) -> Pose | None:
    pose = Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
    for link in links:
        there = link.at(stamp_s) if isinstance(link, PoseHistory) else link
        if there is None:
            return None
        pose = compose(there, pose)
    return pose


def _is_usable(transform: StampedTransform) -> bool:
    named = transform.parent and transform.child and transform.parent != transform.child
    return bool(named) and is_rigid(transform.pose)
