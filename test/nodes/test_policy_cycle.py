"""An observation becomes one action or none, wherever memory runs out on the way."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from sensor_msgs.msg import Image

from openvla_ros.action_space.eef_delta import EefDelta
from openvla_ros.nodes import policy_cycle
from openvla_ros.nodes.inference_worker import InferenceWorker
from openvla_ros.nodes.policy_cycle import Observation, PolicyCycle
from openvla_ros.observation.image_monitor import Arrival, ImageLimits
from openvla_ros.policy.gate import PolicyGate
from openvla_ros.policy.inference import PredictedAction
from openvla_ros.policy.policy import PolicyStep


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class Trap:
    """Raises at chosen calls of chosen places, and counts all of them."""

    def __init__(self, place='', calls=(1,)):
        self.place, self.calls, self.counts = place, calls, {}

    def __call__(self, place):
        self.counts[place] = self.counts.get(place, 0) + 1
        if place == self.place and self.counts[place] in self.calls:
            raise OutOfMemoryError('CUDA out of memory')


class Policy:
    """Acts always; its backend counts resets."""

    def __init__(self, trap):
        self._trap = trap
        self.backend = SimpleNamespace(reset=lambda: trap('reset'), close=lambda: None)

    def act(self, image, instruction):
        self._trap('act')
        delta = EefDelta([0.01, 0, 0], np.zeros(3), 1.0, 'base', 0.2)
        stages = {'recipe': 0.0, 'inference': 0.0}
        return PolicyStep(delta, PredictedAction(np.zeros(7)), image, stages)


class Outputs:
    """Keeps what is published; a trap stands before the action, behind it, and at the mirror."""

    def __init__(self, trap):
        self._trap, self.actions = trap, []

    def publish_action(self, step, stamp, instruction):
        self._trap('before the action')
        self.actions.append(instruction)
        self._trap('behind the action')

    def publish_model_input(self, policy, step, stamp, frame_id):
        self._trap('model input')


class Bench:
    """Gate, cycle and worker as in the node, with one image and one instruction."""

    def __init__(self, trap, monkeypatch):
        self.trap, self.outputs = trap, Outputs(trap)
        # Freeing memory takes a second in a large process on a busy machine: none is late here.
        limits = ImageLimits(timeout_s=60.0)
        self.gate = PolicyGate(limits, max_observation_age_s=60.0, instruction_dwell_s=0.0)
        convert = policy_cycle.rgb_from_message

        def converted(message):
            trap('image')
            return convert(message)

        monkeypatch.setattr(policy_cycle, 'rgb_from_message', converted)
        cycle = PolicyCycle(self.gate, self.outputs, time.time)
        self.worker = InferenceWorker(lambda: Policy(trap), cycle.run)
        self.worker.start()
        self._wait(lambda: self.worker.ready)
        self.gate.take_instruction('pick up the block', now_s=time.monotonic())

    def run(self):
        """Hand over one new image and wait for the end of its job."""
        message = Image(height=8, width=8, encoding='rgb8', step=24)
        pixels = np.random.default_rng().integers(0, 256, 192, dtype=np.uint8)
        message.data = pixels.tobytes()
        arrival = Arrival(time.time(), 'camera', (8, 8, 'rgb8'))
        self.gate.take_image(arrival, None, now_s=time.monotonic(), ros_now_s=time.time())
        assignment = self.gate.assign(time.monotonic())
        assert self.worker.submit(Observation(message, Time(), assignment))
        self._wait(lambda: not self.worker.busy or not self.worker.alive)

    @staticmethod
    def _wait(condition):
        end_s = time.monotonic() + 5.0
        while not condition():
            assert time.monotonic() < end_s
            threading.Event().wait(0.002)


@pytest.fixture
def make_bench(monkeypatch):
    made = []

    def make(trap):
        made.append(Bench(trap, monkeypatch))
        return made[-1]

    yield make
    for bench in made:
        bench.worker.close(2.0)


@pytest.mark.parametrize(
    ('place', 'published', 'computed'),
    [
        ('image', 1, 1),
        ('act', 1, 2),
        ('before the action', 0, 1),
        ('behind the action', 1, 1),
        ('model input', 1, 1),
    ],
)
def test_memory_that_runs_out_never_publishes_an_action_twice(
    make_bench, place, published, computed
):
    bench = make_bench(Trap(place))
    bench.run()
    assert bench.outputs.actions == ['pick up the block'] * published
    assert bench.trap.counts['act'] == computed
    assert bench.worker.failure is None
    # The next image is acted on as if nothing had been.
    bench.run()
    assert len(bench.outputs.actions) == published + 1
    assert bench.gate.why_not(time.monotonic()) is None


@pytest.mark.parametrize('place', ['behind the action', 'model input'])
def test_memory_that_runs_out_behind_every_action_ends_nothing(make_bench, place):
    bench = make_bench(Trap(place, calls=range(100)))
    for i in range(3):
        bench.run()
        assert len(bench.outputs.actions) == i + 1
    assert bench.worker.failure is None


@pytest.mark.parametrize('place', ['image', 'act'])
def test_memory_that_runs_out_twice_before_an_action_ends_the_worker(make_bench, place):
    bench = make_bench(Trap(place, calls=(1, 2)))
    bench.run()
    assert bench.worker.failure.code == 'OUT_OF_MEMORY'
    assert bench.outputs.actions == []
