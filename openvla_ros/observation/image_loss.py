"""Whether images are lost on the way from the camera: what the middleware counts, judged."""

import collections

WINDOW_S = 5.0
LOST_IN_WINDOW = 5
"""So many losses within WINDOW_S are said; none within WINDOW_S is the end of it."""


class ImageLoss:
    """Counts lost images and says once that there are too many, and once that it is over."""

    def __init__(self) -> None:
        """Start with none lost."""
        self.total = 0
        self.losing = False
        self._counted: collections.deque[tuple[float, int]] = collections.deque()

    def note(self, lost: int, now_s: float) -> None:
        """Take note of images lost since the last call; ``now_s`` is steady time."""
        self.total += lost
        self._counted.append((now_s, lost))

    def judge(self, now_s: float) -> bool:
        """Look at the last WINDOW_S; returns whether ``losing`` has changed."""
        while self._counted and now_s - self._counted[0][0] > WINDOW_S:
            self._counted.popleft()
        recent = sum(lost for _, lost in self._counted)
        before = self.losing
        self.losing = recent > 0 if before else recent >= LOST_IN_WINDOW
        return self.losing != before
