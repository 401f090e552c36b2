import json

import numpy as np
import pytest
import torch

from openvla_ros.action_space.action_tokens import NonActionTokenError, decode_action_tokens
from openvla_ros.action_space.normalization import UnnormKeyError, unnormalize_action
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA
from openvla_ros.model.local_backend import LocalBackend, norm_stats_of
from openvla_ros.observation.image import preprocess_image, resize_image
from openvla_ros.observation.instruction import InstructionRefused
from openvla_ros.observation.prompt import build_prompt


@pytest.fixture(scope='module')
def backend(prompted_checkpoint):
    return LocalBackend.load(
        prompted_checkpoint, 'bridge_like', dtype=torch.float32, device='cpu', quantization=None
    )


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_an_action_is_what_the_pieces_say_it_is(backend, prompted_checkpoint):
    backend.reset()
    predicted = backend.predict(picture(1), 'Pick up the block')
    model = OpenVLA.from_pretrained(prompted_checkpoint, dtype=torch.float32)
    pixel_values = torch.from_numpy(preprocess_image(picture(1), model.image_spec))
    ids = model.tokenizer(build_prompt('Pick up the block', 'openvla'))
    tokens = model.generate_action_tokens(pixel_values, ids, 7)
    assert predicted.action_tokens.tolist() == tokens.tolist()
    want = unnormalize_action(decode_action_tokens(tokens, 1024), backend.stats)
    assert predicted.action.tolist() == want.tolist()
    assert set(predicted.stage_s) == {'preprocess', 'vision', 'decode'}
    assert predicted.num_passes == 7
    assert predicted.min_margin > 0


def test_the_previous_action_saves_passes_until_it_is_forgotten(backend):
    backend.reset()
    first = backend.predict(picture(2), 'pick up the block')
    again = backend.predict(picture(2), 'pick up the block')
    assert again.action_tokens.tolist() == first.action_tokens.tolist()
    assert again.num_passes == 1
    backend.reset()
    assert backend.predict(picture(2), 'pick up the block').num_passes == 7


def test_another_instruction_starts_without_the_previous_actions_tokens(backend, monkeypatch):
    drafts, decode = [], backend.model.decode_embeds

    def spy(*arguments, draft):
        drafts.append(list(draft))
        return decode(*arguments, draft=draft)

    monkeypatch.setattr(backend.model, 'decode_embeds', spy)
    backend.reset()
    for instruction in ('pick up the block', 'pick up the block', 'push the block'):
        tokens = backend.predict(picture(2), instruction).action_tokens
        backend.predict(picture(2), instruction)
        assert drafts[-1] == tokens.tolist()
    still = [1024 - 128] * 7
    assert [draft == still for draft in drafts] == [True, False, False, False, True, False]


def test_warming_up_runs_the_self_test_and_leaves_no_draft(backend, prompted_checkpoint):
    backend.warm_up()
    assert backend.predict(picture(3), 'pick up the block').num_passes == 7
    blind = LocalBackend.load(prompted_checkpoint, None, device='cpu')
    torch.nn.init.zeros_(blind.model.projector.fc3.weight)
    with pytest.raises(ValueError, match='ignores its image'):
        blind.warm_up()


def test_words_are_never_turned_into_motion_nor_kept_as_a_draft(prompted_checkpoint):
    backend = LocalBackend.load(prompted_checkpoint, None, dtype=torch.float32, device='cpu')
    with torch.no_grad():
        backend.model.language_model.lm_head.weight.copy_(
            backend.model.language_model.lm_head.weight.roll(-300, 0)
        )
    for _ in range(2):
        with pytest.raises(NonActionTokenError, match='action token 0 is id'):
            backend.predict(picture(1), 'pick up the block')


def test_an_instruction_too_long_for_the_network_is_refused(backend):
    with pytest.raises(InstructionRefused, match=r'takes \d+ tokens; with image and action'):
        backend.predict(picture(1), 'pick up the block ' * 200)


def test_an_instruction_of_more_than_64_tokens_is_refused(backend):
    # One letter is one token of this tokenizer.
    backend.predict(picture(1), 'x' * 60)
    with pytest.raises(InstructionRefused, match='expected at most 64'):
        backend.predict(picture(1), 'x' * 70)


def test_the_model_input_is_what_the_network_sees(backend):
    seen = backend.model_input(picture(5))
    assert seen.shape == (backend.image_size, backend.image_size, 3)
    assert np.array_equal(seen, resize_image(picture(5), backend.model.image_spec))


def test_the_description_names_checkpoint_statistics_and_precision(backend, prompted_checkpoint):
    assert str(prompted_checkpoint) in backend.description
    assert 'bridge_like' in backend.description
    assert 'float32' in backend.description


def test_an_unknown_key_is_refused_before_the_weights_are_read(prompted_checkpoint, monkeypatch):
    monkeypatch.setattr(OpenVLA, 'from_pretrained', lambda *_, **__: pytest.fail('was loaded'))
    with pytest.raises(UnnormKeyError, match='expected one of: bridge_like'):
        LocalBackend.load(prompted_checkpoint, 'bridge_orig')


def test_a_checkpoint_without_a_tokenizer_cannot_be_instructed(variant):
    with pytest.raises(ConfigError, match=r'no tokenizer\.json'):
        LocalBackend.load(variant('small_towers_bilinear'), 'bridge_like', device='cpu')


def test_an_adapter_brings_its_own_statistics_or_is_refused(tmp_path, prompted_checkpoint):
    with pytest.raises(ConfigError, match='do not belong to a fine-tuned one'):
        norm_stats_of(prompted_checkpoint, tmp_path)
    allowed = norm_stats_of(prompted_checkpoint, tmp_path, allow_base=True)
    assert list(allowed) == ['bridge_like']
    own = {'my_robot': {'action': {'q01': [-1.0] * 7, 'q99': [1.0] * 7}}}
    (tmp_path / 'dataset_statistics.json').write_text(json.dumps(own))
    assert list(norm_stats_of(prompted_checkpoint, tmp_path)) == ['my_robot']
    assert list(norm_stats_of(prompted_checkpoint, tmp_path, allow_base=True)) == ['my_robot']


def test_closing_frees_the_network(prompted_checkpoint):
    backend = LocalBackend.load(prompted_checkpoint, None, device='cpu')
    backend.close()
    assert not hasattr(backend, 'model')
    assert backend.description.endswith(', closed')
