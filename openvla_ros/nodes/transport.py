"""What a process that must not be held up shares with others: sockets, not memory.

Fast DDS hands messages over in shared memory, behind locks that all processes of a machine use. A
process that is killed or stopped while it holds one holds up whoever reads or writes there, for
seconds or for good (eProsima/Fast-DDS issues 1144 and 5469). Measured here: of 250 kills of a
process that published as fast as it could, 2 kept controller_node silent for 0.5 s and more. What
the controller exchanges is small, so it can do without.
"""

import os
from pathlib import Path

from openvla_ros.core.resources import resource_path
from openvla_ros.nodes.dds_profile import FOR_IMAGES, profile_variable

_CHOSEN_BY_USER = ('FASTDDS_BUILTIN_TRANSPORTS', 'ROS_STATIC_PEERS')
_RANGE = 'ROS_AUTOMATIC_DISCOVERY_RANGE'

SHARED_MEMORY_WARNING = (
    'this process uses the shared memory of Fast DDS: another process that is killed or stopped '
    'can hold it up. Your settings of the middleware were kept; let them leave shared memory out, '
    'as config/fastdds_udp.xml does'
)


def keep_out_of_shared_memory() -> None:
    """Let this process speak UDP alone; call it before ``rclpy.init``.

    A profile, transports or peers of the user's own stay as they are: their discovery may depend
    on them. Only this package's profile for images is replaced. Other middlewares do not read
    these variables.
    """
    environ, variable = os.environ, profile_variable()
    own_profile = Path(environ.get(variable) or FOR_IMAGES).name != FOR_IMAGES
    if own_profile or any(environ.get(name) for name in _CHOSEN_BY_USER):
        return
    if environ.get('ROS_LOCALHOST_ONLY', '0') != '0':
        return
    name = 'fastdds_udp.xml'
    if environ.get(_RANGE, '').upper() == 'LOCALHOST':
        # rmw_fastrtps would add its own shared memory to any profile; this one does the rest.
        environ[_RANGE] = 'SYSTEM_DEFAULT'
        name = 'fastdds_udp_localhost.xml'
    environ[variable] = str(resource_path(f'config/{name}'))


def uses_shared_memory() -> bool:
    """Whether this process has mapped a segment of Fast DDS (any version)."""
    try:
        maps = Path('/proc/self/maps').read_text(errors='replace')
    except OSError:
        return False
    return '/dev/shm/fastdds_' in maps or '/dev/shm/fastrtps_' in maps
