from pathlib import Path

import pytest
import torch

from openvla_ros.model import OpenVLA
from openvla_ros.model.decoding import EagerPasses
from openvla_ros.model.self_test import SelfTestError, run_self_test

TINY = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'


@pytest.fixture
def model():
    return OpenVLA.from_pretrained(TINY)


def test_a_working_model_passes_and_says_how_much_the_image_counts(model):
    report = run_self_test(model)
    assert set(report.differences) == {'black and white', 'black and noise', 'white and noise'}
    assert all(difference > 0.1 for difference in report.differences.values())
    assert set(report.tokens) == {'black', 'white', 'noise'}
    assert report.sentence().startswith('the image counts: ')


def test_a_model_with_a_tokenizer_is_asked_with_a_real_prompt(prompted_checkpoint, monkeypatch):
    model = OpenVLA.from_pretrained(prompted_checkpoint)
    asked, join = [], model.join

    def spy(image, input_ids):
        asked.append(input_ids.tolist())
        return join(image, input_ids)

    monkeypatch.setattr(model, 'join', spy)
    run_self_test(model)
    sentence = 'In: What action should the robot take to pick up the block?\nOut:'
    assert asked == [[model.tokenizer(sentence)]] * 3
    assert len(asked[0][0]) > 20


def test_the_decoder_is_asked_for_as_many_tokens_as_an_action_has(model):
    asked = []

    class Spy(EagerPasses):
        def prefill(self, embeds, draft, num_tokens):
            asked.append(num_tokens)
            return super().prefill(embeds, draft, num_tokens)

    model.passes = Spy(model.language_model)
    run_self_test(model, 7)
    assert asked == [7] * 3


def test_a_model_that_ignores_its_image_is_refused(model):
    torch.nn.init.zeros_(model.projector.fc3.weight)
    with pytest.raises(SelfTestError, match=r'same logits .* the model ignores its image'):
        run_self_test(model)


def test_two_images_that_look_the_same_to_it_are_enough_to_refuse(model, monkeypatch):
    seen = model.vision_backbone.forward

    def forward(pixel_values):
        # White and noise look the same to it, black does not.
        return seen(torch.zeros_like(pixel_values) + (pixel_values.mean() > -1.0))

    monkeypatch.setattr(model.vision_backbone, 'forward', forward)
    with pytest.raises(SelfTestError, match='white and noise images give the same logits'):
        run_self_test(model)


def test_a_decoder_that_loses_the_image_is_refused_although_the_network_sees(model):
    class Blind(EagerPasses):
        def prefill(self, embeds, draft, num_tokens):
            # What the original code does on newer libraries: the image never reaches the decoder.
            text = torch.cat([embeds[:, :1], embeds[:, 1 + model.config.num_patches :]], 1)
            return super().prefill(text, draft, num_tokens)

    model.passes = Blind(model.language_model)
    with pytest.raises(SelfTestError, match='decoder answers every image'):
        run_self_test(model)


def test_logits_that_are_not_finite_are_refused(model):
    with torch.no_grad():
        model.language_model.lm_head.weight[5, 5] = float('nan')
    with pytest.raises(SelfTestError, match='logits for a black image are not finite'):
        run_self_test(model)
