"""In which frame a robot is drawn: its base frame, from its profile or from what is drawn."""


class DrawingFrame:
    """The robot's frames as far as they are known; '' is not known.

    The controller's word counts most: what moves, moves in its frame.
    """

    def __init__(self, base_frame: str = '', ee_frame: str = '') -> None:
        """Begin with what the robot's profile or a parameter says."""
        self._given = base_frame
        self.base = base_frame
        self.ee = ee_frame

    def controller_works_in(self, frame_id: str) -> str:
        """Take the frame of the controller's status; return a warning if it is another robot's.

        Raises:
            ValueError: it names no frame.
        """
        if not frame_id:
            raise ValueError('its frame_id is empty')
        self.base = frame_id
        if not self._given or frame_id == self._given:
            return ''
        return (
            f'controller_node works in frame {frame_id[:80]!r}, the robot given to this node has '
            f'{self._given!r}; drawn in the former. Start both with the same robot (robot:=...)'
        )

    def expect_base(self, frame_id: str) -> None:
        """Take the frame of a pose where none is known yet.

        Raises:
            ValueError: it is not the base frame.
        """
        self.base = self.base or frame_id
        if not frame_id or frame_id != self.base:
            raise ValueError(f'its frame is {frame_id[:80]!r}, expected {self.base!r}')

    def is_ee(self, frame_id: str) -> bool:
        """Tell whether an action is meant in the end-effector frame, False for the base frame.

        Raises:
            ValueError: it is neither.
        """
        if frame_id and frame_id == self.base:
            return False
        if frame_id and frame_id == self.ee:
            return True
        if not self.base:
            raise ValueError("the robot's base frame is not known yet")
        raise ValueError(
            f'its frame is {frame_id[:80]!r}, expected {self.base!r} or {self.ee!r}: start '
            'policy_node and this node with the robot of controller_node (robot:=...)'
        )
