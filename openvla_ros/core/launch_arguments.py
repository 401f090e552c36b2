"""Arguments of a launch file that nobody declared: `ros2 launch` ignores them without a word."""

from collections.abc import Collection, Sequence
from pathlib import Path

from .strict_config import did_you_mean


def unknown_argument(
    command_line: Sequence[str], launch_file: str, known: Collection[str]
) -> str | None:
    """Tell in one sentence which argument a launch file does not have, or None if it has all.

    A mistyped ``mod:=shadow`` would otherwise start an arm that somebody believed in shadow mode.

    Args:
        command_line: As in ``sys.argv``. Unless it names the launch file itself, as it does not
            where another launch file includes this one, its arguments are another's.
        launch_file: Name or path of the launch file.
        known: Names of its arguments.
    """
    name = Path(launch_file).name
    if name not in (Path(word).name for word in command_line):
        return None
    for word in command_line:
        argument, given, _ = word.partition(':=')
        if given and argument not in known:
            hint = did_you_mean(argument, known)
            return f'{name} has no argument {argument!r}{hint}; --show-args lists them'
    return None
