"""The bodies of the graphs, run uncaptured: same tokens, fixed shapes and addresses."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from openvla_ros.model import OpenVLA
from openvla_ros.model.cuda_graphs import (
    CudaCapture,
    GraphError,
    GraphPasses,
    GraphVision,
    uncaptured,
)
from openvla_ros.model.decoding import (
    EagerPasses,
    NonFiniteLogitsError,
    greedy_decode,
    jacobi_decode,
)
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
    eager, graphs = EagerPasses(llama), GraphPasses(llama, D, (5, 100))
    assert graphs.buckets == [64, 128]
    draft = [200] * D
    # 57 rows and the action fill one multiple of 64 exactly; 58 need the next. 122 have none.
    for embeds in prompts([5, 57, 58, 12, 40, 121, 122, 30, 5]):
        expected = greedy_decode(eager, embeds, D)
        np.testing.assert_array_equal(greedy_decode(graphs, embeds, D).tokens, expected.tokens)
        result = jacobi_decode(graphs, embeds, D, draft)
        np.testing.assert_array_equal(result.tokens, expected.tokens)
        np.testing.assert_allclose(result.margins, expected.margins, atol=1e-4)
        assert result.num_passes == jacobi_decode(eager, embeds, D, draft).num_passes
        draft = [int(token) for token in result.tokens]


@pytest.mark.parametrize('num_tokens', [1, 2, 6, 8, 14])
def test_any_other_number_of_tokens_runs_plainly_and_leaves_the_graphs_as_they_were(num_tokens):
    llama = make_llama()
    eager, graphs = EagerPasses(llama), GraphPasses(llama, D, (10, 40))
    for embeds in prompts([10, 40, 25]):
        expected = greedy_decode(eager, embeds, num_tokens)
        np.testing.assert_array_equal(
            greedy_decode(graphs, embeds, num_tokens).tokens, expected.tokens
        )
        drafted = jacobi_decode(graphs, embeds, num_tokens, expected.tokens.tolist())
        np.testing.assert_array_equal(drafted.tokens, expected.tokens)
        assert drafted.num_passes == 1
        seven = greedy_decode(eager, embeds, D).tokens
        np.testing.assert_array_equal(greedy_decode(graphs, embeds, D).tokens, seven)


def test_the_stages_are_captured_once_and_replayed_whenever_they_were_made_for_it():
    captured, replayed = [], []

    def capture(body):
        captured.append(body)

        def replay():
            replayed.append(body)
            body()

        return replay

    graphs = GraphPasses(make_llama(), D, (10, 100), capture=capture)
    assert len(captured) == 2 + (D - 1)  # two multiples of 64, steps of 1 to 6 rows
    (embeds,) = prompts([10])
    greedy_decode(graphs, embeds, D)
    assert len(replayed) == D
    greedy_decode(graphs, embeds, D - 1)
    assert (len(captured), len(replayed)) == (2 + (D - 1), D)


def test_nothing_a_stage_touches_moves_between_actions():
    graphs = GraphPasses(make_llama(), D, (20, 50))

    def addresses():
        tensors = [graphs._cache.kv, *graphs._embeds.values()]
        for link in graphs._links:
            tensors += [link.numbers, link.choices]
        return [tensor.data_ptr() for tensor in tensors], [id(s) for s in graphs._steps.values()]

    before = addresses()
    for embeds in prompts([20, 30, 40, 50]):
        jacobi_decode(graphs, embeds, D, [3] * D)
    assert addresses() == before


@pytest.mark.parametrize('row', [3, 45])
def test_not_a_number_does_not_poison_the_next_action(row):
    llama = make_llama()
    graphs = GraphPasses(llama, D, (10, 50))
    long, short = prompts([50, 10])
    poisoned = long.clone()
    poisoned[0, row] = float('nan')
    with pytest.raises(NonFiniteLogitsError):
        greedy_decode(graphs, poisoned, D)
    expected = greedy_decode(EagerPasses(llama), short, D)
    np.testing.assert_array_equal(greedy_decode(graphs, short, D).tokens, expected.tokens)


def test_a_step_before_any_prefill_is_refused():
    with pytest.raises(RuntimeError, match='before prefill'):
        GraphPasses(make_llama(), D, (10, 10)).advance([1], 10)


def test_a_capture_without_a_gpu_says_so():
    with pytest.raises(GraphError, match='cannot be captured on cpu; use a CUDA device'):
        CudaCapture(torch.device('cpu'))


class FakeCuda:
    """Streams as torch.cuda has them, and a capture that leaves its stream current if it fails."""

    def __init__(self, monkeypatch, error=None):
        self.main, self.current, self.ran_on = FakeStream('main'), None, []
        self.current = self.main
        self._error = error
        for name, fake in {
            'graph_pool_handle': lambda: 'pool',
            'current_stream': lambda device: self.current,
            'Stream': lambda device: FakeStream('side'),
            'CUDAGraph': lambda: SimpleNamespace(replay=lambda: self.ran_on.append('graph')),
            'stream': self._on,
            'set_stream': self._set,
            'graph': self._capture,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def body(self):
        self.ran_on.append(self.current.name)

    def _set(self, stream):
        self.current = stream

    @contextlib.contextmanager
    def _on(self, stream):
        before, self.current = self.current, stream
        yield
        self.current = before

    @contextlib.contextmanager
    def _capture(self, graph, *, pool, stream, capture_error_mode):
        assert (pool, stream.name) == ('pool', 'side')
        self.current = stream
        yield
        if self._error is not None:
            raise self._error
        self.current = self.main


class FakeStream:
    """Keeps what it was told to wait for."""

    def __init__(self, name):
        self.name, self.waited = name, []

    def wait_stream(self, other):
        self.waited.append(other.name)


def test_a_capture_warms_up_beside_the_main_stream_and_returns_the_replay(monkeypatch):
    cuda = FakeCuda(monkeypatch)
    replay = CudaCapture(torch.device('cuda', 1))(cuda.body)
    assert cuda.ran_on == ['side'] * 4  # three times to warm up, once recorded
    assert cuda.main.waited == ['side']
    replay()
    assert cuda.ran_on[4:] == ['graph']
    assert cuda.current is cuda.main


def test_a_capture_that_fails_leaves_the_main_stream_the_current_one(monkeypatch):
    cuda = FakeCuda(monkeypatch, error=RuntimeError('operation not permitted when capturing'))
    capture = CudaCapture(torch.device('cuda', 0))
    with pytest.raises(RuntimeError, match='not permitted'):
        capture(cuda.body)
    assert cuda.current is cuda.main


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (
            OutOfMemoryError('CUDA out of memory. Tried\nto'),
            r'memory ran out \(CUDA out of memory',
        ),
        (KeyError('x'), r"KeyError \('x'\)"),
        (AssertionError(), 'AssertionError$'),
    ],
)
def test_whatever_a_stage_raises_is_an_error_of_the_graph(error, said):
    def broken():
        raise error

    def capture(body):
        raise error

    with pytest.raises(GraphError, match=f'the language model could not be captured: {said}'):
        GraphPasses(make_llama(), D, (10, 10), capture=capture)
    graphs = GraphPasses(make_llama(), D, (10, 10), capture=lambda body: broken)
    (embeds,) = prompts([10])
    with pytest.raises(GraphError, match=f'the prefill could not be replayed: {said}'):
        graphs.prefill(embeds, (), D)
    with pytest.raises(GraphError, match=f'a step could not be replayed: {said}'):
        graphs.advance([1], 10)


@torch.inference_mode()
def test_the_vision_stage_equals_towers_and_projector():
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype=torch.float32)
    stage = GraphVision(model.vision_backbone, model.projector, 224, capture=uncaptured)
    generator = torch.Generator().manual_seed(0)
    address = None
    for _ in range(2):
        pixels = torch.randn(1, 6, 224, 224, generator=generator)
        rows = stage(pixels)
        assert torch.equal(rows, model.project(model.vision_features(pixels)))
        assert address in (None, rows.data_ptr())
        address = rows.data_ptr()


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device to capture graphs on')
def test_captured_graphs_give_the_same_tokens():
    llama = make_llama().cuda()
    eager, graphs = EagerPasses(llama), GraphPasses(llama, D, (20, 80))
    for embeds in prompts([20, 40, 80, 20]):
        embeds = embeds.cuda()
        expected = greedy_decode(eager, embeds, D).tokens
        np.testing.assert_array_equal(jacobi_decode(graphs, embeds, D, [5] * D).tokens, expected)
