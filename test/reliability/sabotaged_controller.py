"""controller_node whose clamp raises where a file says so: does it survive its own callbacks?

The file named by SABOTAGE_FILE holds the names of the clamp's methods that raise at present.
"""

import functools
import os
import sys
from pathlib import Path
from typing import Any

from openvla_ros.nodes import controller_node
from openvla_ros.safety.clamp import Clamp

METHODS = ('offer', 'set_pose', 'heartbeat', 'arm', 'reset', 'estop', 'step')
ORDERS = Path(os.environ['SABOTAGE_FILE'])


def sabotage(name: str) -> None:
    """Make one method of the clamp raise while its name is in the file."""
    method = getattr(Clamp, name)

    @functools.wraps(method)
    def raising(*arguments: Any, **named: Any) -> Any:
        if name in ORDERS.read_text().split():
            raise RuntimeError(f'planted in {name}')
        return method(*arguments, **named)

    setattr(Clamp, name, raising)


if __name__ == '__main__':
    for each in METHODS:
        sabotage(each)
    sys.exit(controller_node.main())
