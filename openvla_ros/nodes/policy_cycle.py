"""One observation from message to action, in the worker's thread."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from numpy.typing import NDArray

from openvla_ros.action_space.action_tokens import NonActionTokenError
from openvla_ros.core.status import Status
from openvla_ros.nodes.policy_conversions import rgb_from_message
from openvla_ros.nodes.policy_outputs import PolicyOutputs
from openvla_ros.observation.image_encoding import ImageRefused
from openvla_ros.observation.image_monitor import fingerprint
from openvla_ros.observation.instruction import InstructionRefused
from openvla_ros.policy.gate import Assignment, PolicyGate
from openvla_ros.policy.inference import BackendUnavailable
from openvla_ros.policy.policy import Policy, PolicyStep
from openvla_ros.policy.statistics import (
    CAMERA_TO_PUBLISH,
    IMAGE_AGE_AT_START,
    PREPROCESSING,
)


@dataclasses.dataclass(frozen=True)
class Observation:
    """One image and what to do with it.

    Attributes:
        message: sensor_msgs/Image or CompressedImage.
        stamp: The stamp its action gets.
        assignment: What the gate wants done with it.
    """

    message: Any
    stamp: Time
    assignment: Assignment


class PolicyCycle:
    """Pixels, network, checks, publication."""

    def __init__(
        self, gate: PolicyGate, outputs: PolicyOutputs, ros_now_s: Callable[[], float]
    ) -> None:
        """Join what decides and what publishes; ``ros_now_s`` tells ROS time [s]."""
        self._gate = gate
        self._outputs = outputs
        self._ros_now_s = ros_now_s

    def run(self, policy: Policy, observation: Observation) -> None:
        """Do one observation; what it meets on the way is noted at the gate."""
        gate, assignment = self._gate, observation.assignment
        if gate.is_spent(assignment):
            # Tried again because memory ran out behind the action, which is on its way already.
            gate.statistics.counts.add('memory_ran_out_behind_action')
            return
        if gate.taken_up(assignment):
            policy.backend.reset()
        image_age_s = self._ros_now_s() - assignment.stamp_s
        started_s = time.perf_counter()
        image = self._image(observation)
        if image is None:
            return
        converted_s = time.perf_counter()
        step = self._decide(policy, image, assignment)
        if step is None:
            return
        computed_s = time.perf_counter()
        refusal = gate.let_through(
            step.delta,
            assignment,
            lambda: self._outputs.publish_action(step, observation.stamp, assignment.text),
            now_s=time.monotonic(),
            ros_now_s=self._ros_now_s(),
        )
        stages = {
            IMAGE_AGE_AT_START: image_age_s,
            'conversion': converted_s - started_s,
            PREPROCESSING: step.stage_s['recipe'] + step.stage_s.get('inference.preprocess', 0.0),
            **step.stage_s,
        }
        stages['publish'] = time.perf_counter() - computed_s
        if refusal is None:
            stages[CAMERA_TO_PUBLISH] = self._ros_now_s() - assignment.stamp_s
        gate.statistics.add_stages(stages)
        gate.statistics.add_decoding(step.predicted.num_passes, step.predicted.min_margin)
        gate.statistics.execution = step.predicted.execution
        frame_id = observation.message.header.frame_id
        self._outputs.publish_model_input(policy, step, observation.stamp, frame_id)

    def _image(self, observation: Observation) -> NDArray[np.uint8] | None:
        """Return the pixels, or None if they are not to be acted on."""
        gate = self._gate
        try:
            image = rgb_from_message(observation.message)
        except ImageRefused as refused:
            gate.refuse_pixels(refused.refusal, now_s=time.monotonic())
            return None
        seen = fingerprint(image)
        refusal = gate.look(seen, observation.assignment, now_s=time.monotonic())
        return image if refusal is None else None

    def _decide(
        self, policy: Policy, image: NDArray[np.uint8], assignment: Assignment
    ) -> PolicyStep | None:
        """Return what the policy decides, or None if that is no action."""
        gate = self._gate
        try:
            return policy.act(image, assignment.text)
        except NonActionTokenError as error:
            gate.refuse_output(Status('BAD_TOKENS', str(error)), now_s=time.monotonic())
        except InstructionRefused as refused:
            gate.refuse_instruction(str(refused), assignment)
        except BackendUnavailable as error:
            gate.refuse_action(Status('SERVER_UNAVAILABLE', str(error)))
        except (ValueError, ArithmeticError) as error:
            # Not seven numbers, or not finite. A model that works does neither.
            gate.refuse_output(Status('BAD_ACTION', str(error)), now_s=time.monotonic())
        return None
