"""The bodies of the graphs, run uncaptured: same tokens, fixed shapes and addresses."""

from pathlib import Path

import numpy as np
import pytest
import torch

from openvla_ros.model import OpenVLA
from openvla_ros.model.cuda_graphs import GraphPasses, GraphVision, capture_graphs
from openvla_ros.model.decoding import EagerPasses, greedy_decode, jacobi_decode
from openvla_ros.model.llama import Llama, LlamaConfig

CHECKPOINT = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'
D = 7
CONFIG = LlamaConfig.from_dict(
    {
        'vocab_size': 384,
        'hidden_size': 48,
        'intermediate_size': 96,
        'num_hidden_layers': 3,
        'num_attention_heads': 4,
        'num_key_value_heads': 2,
    }
)


def make_llama(seed=0):
    llama = Llama(CONFIG, dtype=torch.float32)
    llama.reset_parameters(seed)
    with torch.no_grad():
        for parameter in llama.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    llama.fuse()
    return llama.eval()


def prompts(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for length in lengths:
        yield torch.randn(1, length, CONFIG.hidden_size, generator=generator)


def test_tokens_equal_eager_decoding_for_prompts_of_any_length():
    llama = make_llama()
    eager, graphs = EagerPasses(llama), GraphPasses(llama, D)
    draft = [200] * D
    # 57 rows and the action fill one multiple of 64 exactly; 58 need the next.
    for embeds in prompts([5, 57, 58, 12, 40, 121, 30, 5]):
        expected = greedy_decode(eager, embeds, D)
        np.testing.assert_array_equal(greedy_decode(graphs, embeds, D).tokens, expected.tokens)
        result = jacobi_decode(graphs, embeds, D, draft)
        np.testing.assert_array_equal(result.tokens, expected.tokens)
        np.testing.assert_allclose(result.margins, expected.margins, atol=1e-4)
        assert result.num_passes == jacobi_decode(eager, embeds, D, draft).num_passes
        draft = [int(token) for token in result.tokens]


def test_nothing_a_stage_touches_moves_between_actions():
    graphs = GraphPasses(make_llama(), D)

    def addresses():
        tensors = [graphs._cache.kv, *graphs._embeds.values()]
        for link in graphs._links:
            tensors += [link.numbers, link.choices]
        return [tensor.data_ptr() for tensor in tensors], [id(s) for s in graphs._steps.values()]

    graphs.prepare(30)
    before = addresses()
    for embeds in prompts([20, 30, 40, 50]):
        jacobi_decode(graphs, embeds, D, [3] * D)
    assert addresses() == before


def test_a_longer_prompt_makes_all_stages_anew():
    graphs = GraphPasses(make_llama(), D)
    graphs.prepare(30)
    stages = dict(graphs._steps)
    graphs.prepare(100)
    assert all(graphs._steps[rows] is not stage for rows, stage in stages.items())
    assert list(graphs._prefills) == [128]


def test_not_a_number_does_not_poison_the_next_action():
    llama = make_llama()
    graphs = GraphPasses(llama, D)
    long, short = prompts([50, 10])
    poisoned = long.clone()
    poisoned[0, 3] = float('nan')
    with pytest.raises(ArithmeticError):
        greedy_decode(graphs, poisoned, D)
    expected = greedy_decode(EagerPasses(llama), short, D)
    np.testing.assert_array_equal(greedy_decode(graphs, short, D).tokens, expected.tokens)


def test_it_refuses_what_it_was_not_made_for():
    graphs = GraphPasses(make_llama(), D)
    (embeds,) = prompts([10])
    with pytest.raises(RuntimeError, match='before prefill'):
        graphs.advance([1], 10)
    with pytest.raises(ValueError, match='made for 7'):
        greedy_decode(graphs, embeds, 8)
    with pytest.raises(RuntimeError, match='CUDA graphs were asked for on cpu'):
        GraphPasses(make_llama(), D, capture=True)


@torch.inference_mode()
def test_the_vision_stage_equals_towers_and_projector():
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype=torch.float32)
    stage = GraphVision(model.vision_backbone, model.projector, 224)
    generator = torch.Generator().manual_seed(0)
    address = None
    for _ in range(2):
        pixels = torch.randn(1, 6, 224, 224, generator=generator)
        rows = stage(pixels)
        assert torch.equal(rows, model.project(model.vision_features(pixels)))
        assert address in (None, rows.data_ptr())
        address = rows.data_ptr()


def test_a_model_gives_the_same_tokens_through_its_stages():
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 6, 224, 224, generator=generator)
    ids = [1, 512, 29901, 1724]
    expected = [model.decode(image, ids, D).tokens for image in images]
    assert capture_graphs(model, D, capture=False)
    for image, tokens in zip(images, expected):
        np.testing.assert_array_equal(model.decode(image, ids, D).tokens, tokens)
        again = model.decode(image, ids, D, draft=tokens)
        np.testing.assert_array_equal(again.tokens, tokens)
        assert again.num_passes == 1
    with pytest.raises(ValueError, match='pixel_values'):
        model.decode(images[0, :3], ids, D)


def test_a_model_that_cannot_be_captured_stays_as_it_is(capsys):
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype=torch.float32)
    assert not capture_graphs(model, D, capture=True)
    assert 'CUDA graphs' in capsys.readouterr().err
    assert model.vision_stage is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device to capture graphs on')
def test_captured_graphs_give_the_same_tokens():
    llama = make_llama().cuda()
    eager, graphs = EagerPasses(llama), GraphPasses(llama, D)
    for embeds in prompts([20, 40, 80, 20]):
        embeds = embeds.cuda()
        expected = greedy_decode(eager, embeds, D).tokens
        np.testing.assert_array_equal(jacobi_decode(graphs, embeds, D, [5] * D).tokens, expected)
