import numpy as np
import pytest
import torch

from openvla_ros.model.openvla import OpenVLA
from openvla_ros.training.batches import pixel_values
from openvla_ros.training.shared_prefix import prefix_mask, sentence_logits
from openvla_ros.training.small_model import SmallModel, initialise

V = 400


@pytest.fixture(scope='module')
def model():
    sizes = SmallModel(
        image_size=28, vision_width=16, vision_depth=2, vision_heads=2, width=24, hidden=32,
        layers=2, heads=2,
    )  # fmt: skip
    model = OpenVLA.from_config(sizes.config(V), preprocessor=sizes.preprocessor_config())
    initialise(model, V, 0)
    return model.eval()


def test_logits_are_those_of_each_sentence_alone(model):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn((2, 6, 28, 28), generator=generator)
    sentences = torch.randint(3, V, (2, 3, 5), generator=generator)
    together = sentence_logits(model, pixels, sentences, torch.ones_like(sentences, dtype=bool))
    together = together.view(2, 3, 5, -1)
    prefix = torch.ones((2, 1), dtype=torch.int64)
    for k in range(3):
        alone = model.logits(pixels, torch.cat([prefix, sentences[:, k]], 1))[:, -5:]
        torch.testing.assert_close(together[:, k], alone, atol=2e-5, rtol=1e-4)


def test_right_padding_changes_nothing_to_its_left(model):
    pixels = torch.zeros((1, 6, 28, 28))
    sentences = torch.tensor([[[5, 6, 7, 2, 2]]])
    wanted = torch.tensor([[[True, True, True, False, False]]])
    padded = sentence_logits(model, pixels, sentences, wanted)
    exact = sentence_logits(model, pixels, sentences[..., :3], wanted[..., :3])
    torch.testing.assert_close(padded, exact, atol=2e-5, rtol=1e-4)


def test_a_sentence_sees_the_prefix_and_its_own_past_only():
    open_ = prefix_mask(2, 2, 2, torch.device('cpu')) == 0
    assert open_.int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]


def test_every_weight_gets_a_gradient(model):
    sentences = torch.randint(3, V, (1, 2, 4))
    logits = sentence_logits(
        model, torch.randn(1, 6, 28, 28), sentences, torch.ones_like(sentences, dtype=bool)
    )
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)


def test_training_pixels_are_the_run_time_pixels():
    from openvla_ros.observation.image import ImageSpec, preprocess_image

    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    config = SmallModel().preprocessor_config()
    expected = preprocess_image(image, ImageSpec.from_config(config))
    ours = pixel_values(torch.from_numpy(image)[None], config)[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)
