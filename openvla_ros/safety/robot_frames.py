"""The names of a robot's two frames: its profile is the one source of them, for every node."""

from dataclasses import dataclass

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.safety.robot_profile import RobotProfile, load_robot_profile


@dataclass(frozen=True)
class RobotFrames:
    """The robot's own names of its base frame and its end-effector frame, as in TF."""

    base: str
    ee: str


def robot_frames(robot: str, base_frame: str = '', ee_frame: str = '') -> RobotFrames:
    """Return the frames a node works in.

    Args:
        robot: Robot profile, a name in config/robots or the path of a .yaml file; '' for none.
        base_frame: What the node's parameter of this name says; '' if it says nothing.
        ee_frame: The same.

    Raises:
        ConfigError: a parameter contradicts the profile, the profile cannot be used, or neither
            the profile nor both parameters are given.
    """
    if robot:
        profile = load_robot_profile(robot)
        refuse_other_frames(profile, base_frame, ee_frame)
        return RobotFrames(profile.base_frame, profile.ee_frame)
    if base_frame and ee_frame and base_frame != ee_frame:
        return RobotFrames(base_frame, ee_frame)
    raise ConfigError(
        f'robot: is not set, base_frame is {base_frame!r} and ee_frame {ee_frame!r}; expected '
        'the robot profile that controller_node has (robot:=NAME or robot:=FILE.yaml), or both '
        'names: they say in which frame an action is meant'
    )


def refuse_other_frames(profile: RobotProfile, base_frame: str, ee_frame: str) -> None:
    """Refuse parameters that name other frames than the profile.

    Raises:
        ConfigError: one does; the sentence names both frames.
    """
    given = {'base_frame': base_frame, 'ee_frame': ee_frame}
    for parameter, name in given.items():
        expected = getattr(profile, parameter)
        if name and name != expected:
            raise ConfigError(
                f'{parameter}: got {name!r}, expected {expected!r} as the profile of robot '
                f'{profile.name!r} says; leave {parameter} out, or correct it in the profile'
            )
