"""docs/parameters.md, made from the nodes' own declarations.

python scripts/parameters_page.py > docs/parameters.md
"""

import sys

from openvla_ros.nodes.controller_node import ControllerParameters
from openvla_ros.nodes.marker_node import MarkerParameters
from openvla_ros.nodes.parameters import markdown_table
from openvla_ros.nodes.policy_parameters import PolicyParameters
from openvla_ros.nodes.recorder_node import RecorderParameters
from openvla_ros.nodes.sim_node import SimParameters

_HEAD = """# Parameters of the nodes

Made by `python scripts/parameters_page.py > docs/parameters.md`; a test compares.

An unknown or unfitting parameter, on the command line or in a YAML file, ends a node with one
sentence and exit code 2. `fixed` parameters are read-only once the node runs; the others are
checked again at every `ros2 param set`. Whole numbers are taken for `double` at start.
The limits of the robot are not parameters: they are in its profile (`config/robots`).
"""

_NODES = (
    ('policy_node', PolicyParameters, 'Set `unnorm_key` and either `checkpoint` or `server_url`.'),
    ('controller_node', ControllerParameters, 'Set `robot`.'),
    ('sim_node', SimParameters, ''),
    ('marker_node', MarkerParameters, ''),
    ('recorder_node', RecorderParameters, 'Set `robot` and `unnorm_key`.'),
)


def page() -> str:
    """Return the whole page."""
    parts = [_HEAD]
    for name, parameters, note in _NODES:
        parts.append(f'## {name}\n')
        if note:
            parts.append(f'{note}\n')
        parts.append(markdown_table(parameters))
    return '\n'.join(parts)


if __name__ == '__main__':
    sys.stdout.write(page())
