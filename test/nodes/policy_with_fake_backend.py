"""policy_node in a process of its own, with a backend that does what a test says.

    python policy_with_fake_backend.py --ros-args -p robot:=sim -p unnorm_key:=openvla_ros_demo ...

The JSON file named by FAKE_BACKEND is read before every prediction:
    action      seven numbers (default: 10 mm along +x, gripper open), with a little noise
    noise       standard deviation of the noise on the six motion numbers (default 1e-4)
    delay_s     wall time of one prediction
    raises      'tokens', 'memory', 'value', 'unavailable', 'instruction' or 'bug'
    raise_count how many predictions raise, then no more (default: all)
    hang        true: never return
    wedge       true: never return from native code that keeps Python's lock
    loading     true: loading goes on until this is gone
    load_raises sentence of a ConfigError when loading
    unit        statistics reach this many metres in one step on every axis
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from openvla_ros.action_space.action_tokens import NonActionTokenError
from openvla_ros.action_space.normalization import ActionStats
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes import policy_node
from openvla_ros.observation.instruction import InstructionRefused
from openvla_ros.policy.inference import BackendUnavailable, PredictedAction


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which is known by its name."""


RAISED = {
    'tokens': lambda _: NonActionTokenError(0, 5, 32000, 256),
    'memory': OutOfMemoryError,
    'value': ValueError,
    'unavailable': BackendUnavailable,
    'instruction': InstructionRefused,
    'bug': KeyError,
}


class FakeBackend:
    """Does what the file says."""

    image_size = 64

    def __init__(self, key: str) -> None:
        self.description = 'fake backend'
        orders = script()
        while script().get('loading'):
            time.sleep(0.05)
        if 'load_raises' in orders:
            raise ConfigError(orders['load_raises'])
        reach = np.full(7, orders.get('unit', 0.03))
        reach[3:6], reach[6] = 0.1, 1.0
        low = -reach
        low[6] = 0.0
        self.norm_stats = {key: ActionStats(low, reach, np.array([True] * 6 + [False]))}
        self._random = np.random.default_rng(0)
        self._raised = 0
        self.resets = 0

    def warm_up(self) -> None:
        """Nothing to warm."""

    def predict(self, image: np.ndarray, instruction: str) -> PredictedAction:
        """Do what the file says."""
        orders = script()
        while orders.get('hang') and instruction != 'pick up the red block':
            time.sleep(0.1)
        if orders.get('wedge') and instruction != 'pick up the red block':
            ctypes.PyDLL(None).sleep(600)
        time.sleep(orders.get('delay_s', 0.0))
        self._raise(orders)
        action = np.array(orders.get('action', [0.01, 0, 0, 0, 0, 0, 1]), float)
        action[:6] += self._random.normal(0.0, orders.get('noise', 1e-4), 6)
        tokens = np.arange(7) + 31900
        return PredictedAction(action, tokens, {'decode': orders.get('delay_s', 0.0)}, 2, 1.5)

    def model_input(self, image: np.ndarray) -> np.ndarray:
        """Return the middle of the picture."""
        return image[:64, :64]

    def reset(self) -> None:
        """Count."""
        self.resets += 1

    def close(self) -> None:
        """Nothing to close."""

    def _raise(self, orders: dict) -> None:
        kind = orders.get('raises')
        if kind is None:
            self._raised = 0
        elif self._raised < orders.get('raise_count', 10**9):
            self._raised += 1
            raise RAISED[kind](f'fake {kind}')


def script() -> dict:
    """Read the orders; the writer replaces the file at once."""
    path = os.environ.get('FAKE_BACKEND', '')
    return json.loads(Path(path).read_text()) if path and Path(path).exists() else {}


if __name__ == '__main__':
    wedged_s = float(os.environ.get('FAKE_WEDGED_S', '15'))
    sys.exit(
        policy_node.main(
            load=lambda parameters: FakeBackend(parameters.unnorm_key), wedged_s=wedged_s
        )
    )
