"""Which test covers which row of the hazard table, read from the docstrings and the catalogue."""

import ast
import re
from collections import defaultdict
from pathlib import Path

from harness.processes import TEST_FOLDER
from reliability import faults

# The hazards that concern the controller, in a few words each.
ROWS = {
    'H20': 'NaN or Inf in an action',
    'H21': 'wrong tokens decoded as a saturated action',
    'H22': 'wrong dataset key: motion 20 to 35 times too large',
    'H23': 'corrupt statistics: implausible or non-finite actions',
    'H31': 'gripper chatter; the gripper on a stop',
    'H32': 'policy killed',
    'H33': 'controller killed or stopped while moving',
    'H34': 'controller asked to end (SIGTERM, SIGINT)',
    'H35': 'exception in a callback',
    'H36': 'two policies',
    'H37': 'flood of messages',
    'H38': 'wrong frame_id',
    'H39': 'stamp old, in the future, zero, repeated, out of order',
    'H40': 'relay that re-stamps the last action',
    'H41': 'QoS mismatch',
    'H42': 'start order, discovery delay',
    'H43': 'message loss',
    'H44': 'dead publisher still in the graph',
    'H45': 'restart of a node',
    'H46': 'e-stop while moving',
    'H47': 'e-stop heartbeat lost or never there',
    'H48': 'e-stop released',
    'H49': 'system clock set back',
    'H50': 'simulation time paused, silent, slow, fast',
    'H51': 'clock jumps',
    'H52': 'parameter set at run time',
    'H53': 'wrong configuration file',
    'H54': 'pose missing, stale, from the future',
    'H55': 'pose jumps',
    'H56': 'pose outside the box',
    'H57': 'outward velocity at the boundary',
    'H58': 'controller stalls',
    'H59': 'disk full, log storm',
    'H60': 'memory growth',
    'H61': 'busy interpreter beside the controller',
    'H62': 'wrong robot: the profile is named at start and when arming',
}
PROPERTIES = [f'P{number}' for number in range(1, 22)]
FOLDERS = ('properties', 'reliability')


def covering(names: list[str]) -> dict[str, list[str]]:
    """Return for each row or property the tests that name it."""
    found: dict[str, list[str]] = defaultdict(list)
    for folder in FOLDERS:
        for path in sorted((TEST_FOLDER / folder).glob('test_*.py')):
            for test, text in _tests(path):
                for name in _named(text):
                    found[name].append(f'{folder}/{path.name}: {test}')
    for fault in (*faults.MAIN, *faults.SIM_TIME):
        for row in fault.rows:
            found[row].append(f'reliability/faults.py: {fault.name}')
    return {name: found[name] for name in names}


def _tests(path: Path) -> list[tuple[str, str]]:
    tree = ast.parse(path.read_text())
    return [
        (node.name, ast.get_docstring(node) or '')
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith('test_')
    ]


def _named(text: str) -> set[str]:
    """The rows and properties a docstring names: 'H31', 'P1 to P6, P8'."""
    names = set(re.findall(r'\b[HP]\d+\b', text))
    for kind, first, last in re.findall(r'\b([HP])(\d+) to [HP](\d+)\b', text):
        names |= {f'{kind}{number}' for number in range(int(first), int(last) + 1)}
    return names
