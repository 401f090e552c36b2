"""A policy joins a backend with the conventions of its dataset."""

import dataclasses

import numpy as np
import pytest

from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.observation.image import ImageRecipe, apply_recipe
from openvla_ros.policy.inference import PredictedAction, is_out_of_memory
from openvla_ros.policy.policy import Policy
from openvla_ros.policy.rate_check import measure_durations_s, rate_kept_hz
from openvla_ros.policy.statistics import PolicyStatistics

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


class Backend:
    """Remembers what it was asked."""

    description, norm_stats, image_size = 'fake', None, 32

    def __init__(self, action):
        self.action, self.asked = np.array(action, float), []

    def predict(self, image, instruction):
        self.asked.append((image, instruction))
        return PredictedAction(self.action, None, {'decode': 0.25})

    def model_input(self, image):
        return image[::2, ::2]


def test_the_backend_gets_the_recipe_of_the_dataset_and_its_numbers_become_metres():
    profile = load_dataset_profile('libero_goal')
    backend = Backend([1, 0, 0, 0, 0, 1, 0])
    step = Policy(backend, profile).act(IMAGE, 'open the drawer')
    image, instruction = backend.asked[0]
    np.testing.assert_array_equal(image, apply_recipe(IMAGE, profile.image, 32))
    assert image is step.prepared
    assert instruction == 'open the drawer'
    np.testing.assert_allclose(step.delta.translation_m, [0.05, 0, 0])
    np.testing.assert_allclose(step.delta.rotation_rad, [0, 0, 0.5])
    assert step.delta.gripper == 0.0
    assert step.stage_s['inference.decode'] == 0.25
    assert {'recipe', 'inference'} < set(step.stage_s)


def test_the_model_input_is_the_prepared_image_as_the_backend_sees_it():
    profile = dataclasses.replace(load_dataset_profile('bridge_orig'), image=ImageRecipe('none'))
    seen = Policy(Backend([0] * 7), profile).model_input(IMAGE)
    np.testing.assert_array_equal(seen, IMAGE[::2, ::2])


@pytest.mark.parametrize('action', [[0] * 6, [0] * 8, [float('nan')] + [0] * 6])
def test_what_is_no_action_is_refused(action):
    with pytest.raises(ValueError, match='action'):
        Policy(Backend(action), load_dataset_profile('bridge_orig')).act(IMAGE, 'x')


def test_the_rate_check_shows_ten_different_pictures_of_the_camera():
    backend = Backend([0] * 7)
    profile = dataclasses.replace(load_dataset_profile('bridge_orig'), image=ImageRecipe('none'))
    durations_s = measure_durations_s(Policy(backend, profile))
    assert len(durations_s) == 10
    images = [image for image, _ in backend.asked]
    assert {image.shape for image in images} == {(480, 640, 3)}
    assert len({image.tobytes() for image in images}) == 10


def test_the_rate_kept_is_that_of_nine_in_ten():
    assert rate_kept_hz([0.1] * 9 + [5.0]) == pytest.approx(10.0)
    assert rate_kept_hz([0.1] * 8 + [0.5] * 2) == pytest.approx(2.0)


def test_memory_that_ran_out_is_known_by_name():
    torch_like = type('OutOfMemoryError', (RuntimeError,), {})
    assert is_out_of_memory(torch_like())
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError('out of memory?'))


def test_the_summary_names_rate_latency_skips_and_refusals():
    statistics = PolicyStatistics()
    for i in range(11):
        statistics.actions.mark(0.2 * i)
        statistics.images.mark(0.2 * i)
        stages = {'conversion': 0.001, 'preprocessing': 0.002, 'inference': 0.05}
        statistics.add_stages({**stages, 'publish': 0.003, 'camera_to_publish': 0.1})
        statistics.add_decoding(2, 0.5)
    statistics.counts.add('skipped_ticks')
    statistics.refused.add('IMAGE_OLD')
    assert statistics.summary(2.0, 5.0) == (
        '5.0 of 5.0 Hz, camera 5.0 Hz, camera to action 100/100 ms (p50/p99; conversion 1/1, '
        'preprocessing 2/2, inference 50/50, publish 3/3), 1 ticks skipped, refused: 1 IMAGE_OLD'
    )
    values = statistics.values(2.0, 5.0)
    assert values['inference_p99_ms'] == '50.0'
    assert values['passes_per_action'] == '2.00'
    assert values['refused IMAGE_OLD'] == '1'
    assert PolicyStatistics().summary(0.0, 5.0).endswith('refused: none')
    assert 'execution' not in values
    statistics.execution = 'CUDA graphs'
    assert statistics.summary(2.0, 5.0).endswith('refused: 1 IMAGE_OLD, network: CUDA graphs')
    assert statistics.values(2.0, 5.0)['execution'] == 'CUDA graphs'
    assert PolicyStatistics().values(0.0, 5.0)['skipped_ticks'] == '0'
