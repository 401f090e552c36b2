import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from openvla_ros.action_space.action_tokens import NonActionTokenError, decode_action_tokens
from openvla_ros.action_space.normalization import load_norm_stats, unnormalize_action
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA
from openvla_ros.model.checkpoint import CheckpointError
from openvla_ros.model.config import OpenVLAConfig
from openvla_ros.observation.image import preprocess_image

GOLDEN = Path(__file__).parents[1] / 'golden'
TINY = GOLDEN / 'openvla_tiny'
VARIANTS = sorted(path.name for path in (GOLDEN / 'variants').iterdir() if path.is_dir())


def released(folder):
    """The golden checkpoint with its preprocessor_config.json in openvla-7b's form."""
    folder.mkdir()
    for name in ('config.json', 'model.safetensors'):
        (folder / name).symlink_to(TINY / name)
    (folder / 'preprocessor_config.json').symlink_to(TINY / 'preprocessor_config.released.json')
    return folder


@pytest.fixture(scope='module', params=['expected.npz', 'expected.released.npz'])
def tiny_and_expected(request, tmp_path_factory):
    folder = TINY
    if request.param == 'expected.released.npz':
        folder = released(tmp_path_factory.mktemp('golden') / 'released')
    return OpenVLA.from_pretrained(folder, dtype=torch.float32), dict(
        np.load(TINY / request.param)
    )


@pytest.fixture(scope='module')
def tiny(tiny_and_expected):
    return tiny_and_expected[0]


@pytest.fixture(scope='module')
def expected(tiny_and_expected):
    return tiny_and_expected[1]


def pixels(model, i):
    image = np.asarray(Image.open(TINY / f'image_{i}.png').convert('RGB'))
    return torch.from_numpy(preprocess_image(image, model.image_spec))[None]


def relative(got, want):
    return np.abs(got.numpy() - want).max() / np.abs(want).max()


@pytest.mark.parametrize('i', range(8))
@torch.inference_mode()
def test_every_stage_equals_the_original(tiny, expected, i):
    pixel_values = pixels(tiny, i)
    features = tiny.vision_features(pixel_values)
    assert relative(features[0, ::16], expected[f'vision_features_{i}']) < 1e-4
    assert relative(tiny.project(features)[0, ::16], expected[f'projected_{i}']) < 1e-4
    logits = tiny.logits(pixel_values, tiny.prompt_ids(expected[f'input_ids_{i}']))[0, -1]
    assert relative(logits[31680:], expected[f'last_logits_{i}']) < 1e-4
    assert int(logits.argmax()) == expected[f'argmax_{i}']


@pytest.mark.parametrize('i', range(8))
def test_every_token_and_action_equals_the_original(tiny, expected, i):
    stats = load_norm_stats(TINY, tiny.config.raw)[str(expected[f'unnorm_key_{i}'])]
    tokens = tiny.generate_action_tokens(
        pixels(tiny, i), expected[f'input_ids_{i}'], stats.action_dim
    )
    assert tokens.tolist() == expected[f'tokens_{i}'].tolist()
    action = unnormalize_action(decode_action_tokens(tokens, tiny.vocab_size), stats)
    np.testing.assert_allclose(action, expected[f'action_{i}'], rtol=0, atol=1e-12)


def test_in_bfloat16_the_tokens_agree_wherever_the_margin_allows(tiny, expected):
    half = OpenVLA.from_pretrained(TINY)
    assert half.dtype == torch.bfloat16
    compared = 0
    for i in range(8):
        want = expected[f'tokens_{i}']
        exact = tiny.decode(pixels(tiny, i), expected[f'input_ids_{i}'], len(want))
        tokens = half.decode(pixels(tiny, i), expected[f'input_ids_{i}'], len(want)).tokens
        # bfloat16 keeps 8 bits: two logits may swap when they are closer than a few units in the
        # last place of the largest one; what follows another token is another sequence.
        scale = np.abs(expected[f'last_logits_{i}']).max()
        for token, wanted, margin in zip(tokens, want, exact.margins):
            if margin < 8 * 2**-8 * scale:
                break
            assert token == wanted
            compared += 1
    assert compared >= 20


@pytest.mark.parametrize('name', VARIANTS)
@torch.inference_mode()
def test_other_checkpoints_of_the_family_equal_the_original(variant, golden_formula, name):
    folder = variant(name)
    model = OpenVLA.from_pretrained(folder, dtype=torch.float32)
    want = np.load(GOLDEN / 'variants' / name / 'expected.npz')
    statistics = load_norm_stats(folder, model.config.raw)
    for i, (height, width) in enumerate([(480, 640), (173, 101), (333, 112)]):
        image = golden_formula['picture'](i, height, width)
        pixel_values = preprocess_image(image, model.image_spec)
        assert np.array_equal(pixel_values[:, ::7, ::5], want[f'pixel_values_{i}'])
        pixel_values = torch.from_numpy(pixel_values)[None]
        features = model.vision_features(pixel_values)
        assert relative(features[0, ::8], want[f'vision_features_{i}']) < 1e-4
        assert relative(model.project(features)[0, ::8], want[f'projected_{i}']) < 1e-4
        ids = golden_formula['prompt'](i, 5 + 4 * i)
        logits = model.logits(pixel_values, model.prompt_ids(ids))[0, -1]
        assert relative(logits[31680:], want[f'last_logits_{i}']) < 1e-4
        assert int(logits.argmax()) == want[f'argmax_{i}']
        stats = statistics[str(want[f'unnorm_key_{i}'])]
        tokens = model.generate_action_tokens(pixel_values, ids, stats.action_dim)
        assert tokens.tolist() == want[f'tokens_{i}'].tolist()
        action_norm = decode_action_tokens(tokens, model.vocab_size, clip=True)
        action = unnormalize_action(action_norm, stats)
        np.testing.assert_allclose(action, want[f'action_{i}'], rtol=0, atol=1e-12)


def test_words_in_place_of_an_action_are_reported_not_executed(variant, golden_formula):
    model = OpenVLA.from_pretrained(variant('words_instead_of_actions'), dtype=torch.float32)
    image = preprocess_image(golden_formula['picture'](0, 480, 640), model.image_spec)
    tokens = model.generate_action_tokens(
        torch.from_numpy(image), golden_formula['prompt'](0, 5), 7
    )
    with pytest.raises(NonActionTokenError, match=f'action token 0 is id {tokens[0]}'):
        decode_action_tokens(tokens, model.vocab_size)


def test_the_prompt_family_follows_the_language_model(variant):
    def family(name):
        raw = json.loads((GOLDEN / 'variants' / name / 'config.json').read_text())
        return OpenVLAConfig.from_dict(raw).prompt_family

    assert family('v01_letterbox') == 'vicuna_v15'
    assert family('resize_crop') == 'openvla'


@pytest.mark.parametrize(
    ('manifest', 'overrides', 'tensors', 'parameters'),
    [
        ('openvla-7b', {}, 982, 7_541_237_184),
        (
            'openvla-v01-7b',
            {
                'vision_backbone_id': 'siglip-vit-so400m',
                'llm_backbone_id': 'vicuna-v15-7b',
                'use_fused_vision_backbone': False,
                'timm_model_ids': ['vit_so400m_patch14_siglip_224'],
                'timm_override_act_layers': [None],
                'image_sizes': [224],
                'image_resize_strategy': 'letterbox',
            },
            None,
            7_188_124_608,
        ),
    ],
)
def test_the_released_architectures_are_consumed_to_the_last_tensor(
    manifest, overrides, tensors, parameters
):
    shapes = json.loads((GOLDEN / f'{manifest}.manifest.json').read_text())
    raw = json.loads((TINY / 'config.json').read_text())
    raw.pop('timm_model_kwargs')
    # As released: what transformers' LlamaConfig has by default is not written.
    raw['text_config'] = {'model_type': 'llama', 'pad_token_id': 32000, 'vocab_size': 32064}
    model = OpenVLA.from_config({**raw, **overrides}, device='meta', dtype=torch.bfloat16)
    used, unused = model.used_shapes(), model.unused_shapes()
    assert not used.keys() & unused.keys()
    assert {name: list(shape) for name, shape in (used | unused).items()} == shapes
    assert tensors is None or len(shapes) == tensors
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == parameters


def tiny_config(**changes):
    raw = json.loads((TINY / 'config.json').read_text())
    raw['text_config'] = {**raw['text_config'], 'vocab_size': 512 + 64, 'hidden_size': 32}
    raw['image_sizes'] = [56, 56]
    return {**raw, **changes}


def random_inputs(model, batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    size = model.image_spec.size
    pixel_values = torch.randn(batch, model.image_spec.channels, size, size, generator=generator)
    return pixel_values, torch.randint(0, 512, (batch, length), generator=generator)


def test_a_batch_is_the_same_as_one_by_one_and_right_padding_changes_nothing():
    model = OpenVLA.from_config(tiny_config(), seed=1)
    pixel_values, ids = random_inputs(model, 3, 10)
    together = model.logits(pixel_values, ids)
    assert together.shape == (3, 16 + 10, 576)
    for i in range(3):
        alone = model.logits(pixel_values[i : i + 1], ids[i : i + 1, :7])
        torch.testing.assert_close(together[i, : 16 + 7], alone[0], rtol=1e-4, atol=1e-5)


def test_the_image_stands_between_the_first_id_and_the_rest():
    model = OpenVLA.from_config(tiny_config(), seed=1)
    pixel_values, ids = random_inputs(model, 1, 6)
    embeds = model.embed(pixel_values, ids)
    text = model.language_model.embed(ids)
    assert torch.equal(embeds[:, 0], text[:, 0])
    assert torch.equal(embeds[:, 1:17], model.project(model.vision_features(pixel_values)))
    assert torch.equal(embeds[:, 17:], text[:, 1:])


def test_every_parameter_learns():
    model = OpenVLA.from_config(tiny_config(), seed=2)
    model.logits(*random_inputs(model, 2, 5)).float().square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_seed_decides_the_random_weights():
    first, same, other = (OpenVLA.from_config(tiny_config(), seed=s) for s in (5, 5, 6))
    inputs = random_inputs(first, 1, 4)
    assert torch.equal(first.logits(*inputs), same.logits(*inputs))
    assert not torch.equal(first.logits(*inputs), other.logits(*inputs))


def test_random_weights_start_as_training_from_scratch_does():
    kwargs = [{'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'init_values': 0.25}] * 2
    model = OpenVLA.from_config(tiny_config(timm_model_kwargs=kwargs))
    for name, parameter in model.named_parameters():
        if name.endswith('bias'):
            assert not parameter.any(), name
        elif 'norm' in name:
            assert (parameter == 1).all(), name
        elif name.endswith('scale_factor'):
            assert (parameter == 0.25).all(), name
        elif parameter.numel() > 500:
            assert 0.018 < parameter.std() < 0.022, name


@pytest.mark.parametrize('max_shard_bytes', [5_000_000_000, 200_000])
def test_what_is_saved_is_loaded_again_in_the_released_layout(tmp_path, max_shard_bytes):
    model = OpenVLA.from_config(tiny_config(), seed=3)
    statistics = {'mine': {'action': {'q01': [-1.0], 'q99': [1.0]}}}
    model.save_pretrained(tmp_path, norm_stats=statistics, max_shard_bytes=max_shard_bytes)
    again = OpenVLA.from_pretrained(tmp_path, dtype=torch.float32)
    inputs = random_inputs(model, 1, 5)
    assert torch.equal(again.logits(*inputs), model.logits(*inputs))
    assert list(load_norm_stats(tmp_path, again.config.raw)) == ['mine']
    assert (tmp_path / 'model.safetensors').exists() == (max_shard_bytes > 10**6)


def test_the_lone_space_is_appended_only_where_it_is_missing(tiny):
    assert tiny.prompt_ids([1, 5]).tolist() == [[1, 5, 29871]]
    assert tiny.prompt_ids(np.array([[1, 29871]])).tolist() == [[1, 29871]]
    with pytest.raises(ValueError, match='one prompt is decoded at a time'):
        tiny.prompt_ids([[1, 2], [1, 3]])
    with pytest.raises(ValueError, match='expected ids from 0 to 32063'):
        tiny.prompt_ids([1, 32064])


def test_a_small_vocabulary_without_a_tokenizer_cannot_be_prompted():
    model = OpenVLA.from_config(tiny_config())
    with pytest.raises(ValueError, match='without a tokenizer 29871 is appended'):
        model.prompt_ids([1, 5])


def test_a_draft_changes_the_passes_and_not_the_tokens(tiny, expected):
    ids, want = expected['input_ids_0'], expected['tokens_0']
    greedy = tiny.decode(pixels(tiny, 0), ids, 7)
    drafted = tiny.decode(pixels(tiny, 0), ids, 7, draft=want)
    wrong = tiny.decode(pixels(tiny, 0), ids, 7, draft=[31744] * 7)
    assert greedy.tokens.tolist() == drafted.tokens.tolist() == wrong.tokens.tolist()
    assert (greedy.num_passes, drafted.num_passes) == (7, 1)


def test_arrays_and_lists_are_taken_as_well_as_tensors(tiny, expected):
    pixel_values, ids = pixels(tiny, 0), tiny.prompt_ids(expected['input_ids_0'])
    with torch.inference_mode():
        assert torch.equal(
            tiny.vision_features(pixel_values.numpy()), tiny.vision_features(pixel_values)
        )
        logits = tiny.logits(pixel_values, ids)
        assert torch.equal(tiny.logits(pixel_values.numpy(), ids.numpy()), logits)
        assert torch.equal(tiny.logits(pixel_values, ids.tolist()), logits)
    tokens = tiny.generate_action_tokens(pixel_values[0].numpy(), ids.tolist(), 7)
    assert tokens.tolist() == expected['tokens_0'].tolist()


@pytest.mark.parametrize('num_tokens', [0, -1])
def test_an_action_of_no_tokens_is_refused(tiny, num_tokens):
    with pytest.raises(ValueError, match=f'num_tokens: got {num_tokens}, expected 1 or more'):
        tiny.generate_action_tokens(pixels(tiny, 0), [1], num_tokens)


@pytest.mark.parametrize('token', [-1, 32064])
def test_a_draft_of_ids_that_do_not_exist_is_refused(tiny, token):
    with pytest.raises(ValueError, match=r'draft: got .*expected ids from 0 to 32063'):
        tiny.decode(pixels(tiny, 0), [1], 7, draft=[token] * 7)


@pytest.mark.parametrize('shape', [(1, 3, 224, 224), (1, 6, 225, 225), (6, 224, 224)])
def test_pixel_values_of_another_shape_are_refused(tiny, shape):
    with pytest.raises(ValueError, match=r'expected \[B, 6, 224, 224\]'):
        tiny.vision_features(torch.zeros(shape))


def test_a_network_that_is_not_plain_is_not_saved(tmp_path):
    model = OpenVLA.from_pretrained(TINY)
    model.projector.fc3 = torch.nn.Identity()
    with pytest.raises(CheckpointError, match='packed for a CPU or has an unmerged adapter'):
        model.save_pretrained(tmp_path / 'out')


def test_the_preprocessor_must_fit_the_towers():
    preprocessor = json.loads((TINY / 'preprocessor_config.json').read_text())
    with pytest.raises(ConfigError, match=r'\[224, 224\], expected \[56, 56\] as image_sizes'):
        OpenVLA.from_config(tiny_config(), preprocessor=preprocessor)


def test_a_network_joined_for_inference_is_written_in_the_released_layout(tmp_path):
    model = OpenVLA.from_pretrained(TINY)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    model.language_model.fuse()
    model.save_pretrained(tmp_path / 'copy')
    again = OpenVLA.from_pretrained(tmp_path / 'copy').state_dict()
    assert set(again) == set(expected)
    assert all(torch.equal(again[name], value) for name, value in expected.items())
