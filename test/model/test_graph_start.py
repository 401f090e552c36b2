"""Graphs drive nothing before they gave the plain path's tokens, and never stop the plain path."""

import copy
import logging
import weakref

import numpy as np
import pytest
import torch

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA
from openvla_ros.model.cuda_graphs import GraphPasses, GraphVision, uncaptured
from openvla_ros.model.graph_start import find_difference, graphs_wanted, start_graphs
from openvla_ros.model.local_backend import LocalBackend
from openvla_ros.model.self_test import probe_images, probe_prompt
from openvla_ros.observation.image import preprocess_image

D = 7
IDS = [1, 270, 280, 290]
#: More than the 112 of the first prefill of 128 rows, 7 of them the action and 16 the image.
LONG_IDS = IDS * 30
ROWS = (100, 150)
#: Captures in order: the prefills of 192 and 128 rows, the steps of 1 to 6 rows, the vision part.
FIRST, FIRST_STEP, LAST = 0, 2, 8


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class Faulty:
    """A capture whose n-th stage raises, at capture or from its n-th replay on, or tells lies."""

    def __init__(self, *, stage, error=None, at_capture=False, replays=0, change=None):
        self._stage, self._error, self._at_capture = stage, error, at_capture
        self._replays, self._change = replays, change
        self.stages = 0

    def __call__(self, body):
        mine = self.stages == self._stage
        self.stages += 1
        if not mine:
            return body
        if self._at_capture:
            raise copy.copy(self._error)  # a traceback would keep what is to be freed
        return lambda: self._replay(body)

    def _replay(self, body):
        if self._error is not None and self._replays == 0:
            raise copy.copy(self._error)
        self._replays -= 1
        body()
        if self._change is not None:
            self._change()


@pytest.fixture
def model(prompted_checkpoint):
    return OpenVLA.from_pretrained(prompted_checkpoint, dtype=torch.float32)


def stages_of(model, capture=None):
    passes = GraphPasses(model.language_model, D, ROWS, capture=capture)
    size = model.image_spec.size
    return passes, GraphVision(model.vision_backbone, model.projector, size, capture=capture)


def images(count=3, seed=1):
    return torch.randn(count, 6, 56, 56, generator=torch.Generator().manual_seed(seed))


def plain_tokens(model):
    return [model.decode(image, IDS, D).tokens.tolist() for image in images()]


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_model_gives_the_same_tokens_through_its_graphs(model, caplog):
    expected = plain_tokens(model)
    assert start_graphs(model, D)
    assert model.execution == 'CUDA graphs'
    assert isinstance(model.passes, GraphPasses)
    for image, tokens in zip(images(), expected):
        assert model.decode(image, IDS, D).tokens.tolist() == tokens
        again = model.decode(image, IDS, D, draft=tokens)
        assert again.tokens.tolist() == tokens
        assert again.num_passes == 1
        for other in (1, 3, 9):
            assert model.decode(image, IDS, other).tokens.tolist()[:7] == tokens[:other]
    with pytest.raises(ValueError, match='pixel_values'):
        model.decode(images()[0, :3], IDS, D)
    assert not warnings_of(caplog)


@pytest.mark.parametrize('error', [OutOfMemoryError('CUDA out of memory'), KeyError('x')])
@pytest.mark.parametrize('stage', [FIRST, FIRST_STEP, LAST])
@pytest.mark.parametrize('at_capture', [True, False])
def test_whatever_is_raised_at_the_start_is_one_warning_and_the_plain_path_runs(
    model, caplog, error, stage, at_capture
):
    expected = plain_tokens(model)
    faulty = Faulty(stage=stage, error=error, at_capture=at_capture)
    assert not start_graphs(model, D, capture=faulty)
    assert faulty.stages == (stage + 1 if at_capture else LAST + 1)
    (warning,) = warnings_of(caplog)
    assert warning.startswith('CUDA graphs are not used: ')
    cause = 'memory ran out' if isinstance(error, OutOfMemoryError) else 'KeyError'
    assert cause in warning
    assert cause in model.execution
    assert model.execution.startswith('eager (')
    assert plain_tokens(model) == expected


@pytest.mark.parametrize('at_capture', [True, False])
def test_graphs_that_are_given_up_leave_nothing_in_memory(model, at_capture):
    faulty, bodies = Faulty(stage=LAST, error=OutOfMemoryError(), at_capture=at_capture), []

    def capture(body):
        bodies.append(weakref.ref(getattr(body, '__self__', body)))
        return faulty(body)

    assert not start_graphs(model, D, capture=capture)
    assert len(bodies) == LAST + 1
    assert [body() for body in bodies] == [None] * (LAST + 1)


@pytest.mark.parametrize('stage', [FIRST, FIRST_STEP, FIRST_STEP + 5, LAST])
def test_graphs_that_raise_while_driving_are_left_within_the_same_action(model, caplog, stage):
    expected = plain_tokens(model)
    # A stage whose replays at the start are counted first, so that it fails right after.
    counting = Faulty(stage=stage, replays=10**6)
    assert start_graphs(model, D, capture=counting)
    used = 10**6 - counting._replays
    assert used > 0
    faulty = Faulty(stage=stage, replays=used, error=OutOfMemoryError('CUDA out of memory'))
    assert start_graphs(model, D, capture=faulty)
    assert not warnings_of(caplog)
    draft = [0] * D  # nothing right: steps of 6 to 1 rows
    for image, tokens in zip(images(), expected):
        if stage == FIRST:  # the prefill of longer prompts
            model.decode(image, LONG_IDS, D)
        assert model.decode(image, IDS, D, draft=draft).tokens.tolist() == tokens
    (warning,) = warnings_of(caplog)
    assert 'could not be replayed: memory ran out (CUDA out of memory)' in warning
    assert model.execution.startswith('eager (no CUDA graphs: ')


def spoiled(model, stage, spoil):
    """Stages of which one spoils its choices behind every replay."""

    def change():
        for link in passes._links:
            spoil(link.choices)

    passes, vision = stages_of(model, Faulty(stage=stage, change=change))
    return passes, vision


@pytest.mark.parametrize(
    ('stage', 'said'),
    [
        (FIRST, 'for a black image the prefill gives token'),
        (FIRST_STEP, 'the step of 1 rows gives token'),
        (FIRST_STEP + 5, 'the step of 6 rows gives token'),
    ],
)
def test_other_tokens_are_found_in_whatever_stage_they_come_from(model, stage, said):
    passes, vision = spoiled(model, stage, lambda choices: choices[0].add_(1))
    assert said in find_difference(model, passes, vision, D)


def test_graphs_of_other_tokens_are_not_used(model, caplog, monkeypatch):
    expected = plain_tokens(model)
    step = model.language_model.step
    monkeypatch.setattr(
        model.language_model, 'step', lambda *arguments: step(*arguments).roll(1, -1)
    )
    assert not start_graphs(model, D)
    (warning,) = warnings_of(caplog)
    assert 'expected' in warning
    assert 'as without graphs' in warning
    assert plain_tokens(model) == expected


def test_a_vision_part_that_sees_something_else_is_found(model):
    passes, vision = stages_of(model)
    assert find_difference(model, passes, vision, D) is None
    vision._replay = lambda: None  # always the image before
    assert 'for a black image the prefill' in find_difference(model, passes, vision, D)


def test_logits_that_are_not_finite_are_a_difference(model):
    passes, vision = spoiled(model, FIRST_STEP, lambda choices: choices[1].fill_(float('nan')))
    assert 'the step of 1 rows gives logits that are not finite' in find_difference(
        model, passes, vision, D
    )


class Tied:
    """Passes that answer as the plain ones, with one token of the prefill changed."""

    def __init__(self, passes, position, margin):
        self.buckets = passes.buckets
        self._passes, self._position, self._margin = passes, position, margin

    def prefill(self, embeds, draft, num_tokens):
        choices = self._passes.prefill(embeds, draft, num_tokens)
        if self._position < choices.shape[1]:
            choices[0, self._position] += 1
            choices[1, self._position] = self._margin
        return choices

    def advance(self, tokens, position):
        return self._passes.advance(tokens, position)


def ulps_of_the_first_token(model, ids):
    """Units in the last place of the largest logit in bfloat16, of every probe image."""
    for image in probe_images(model.image_spec.size).values():
        pixels = torch.from_numpy(preprocess_image(image, model.image_spec))[None]
        with torch.inference_mode():
            logits = model.language_model(model.embed(pixels, ids), rows=slice(-1, None))
        top = abs(float(logits.max()))
        yield 2.0 ** (np.floor(np.log2(top)) - 7)  # 7 bits behind the first


@pytest.mark.parametrize(
    ('dtype', 'ulps', 'found'),
    [
        (torch.bfloat16, 1.9, False),
        (torch.bfloat16, 2.1, True),
        (torch.float32, 0.0, True),
    ],
)
def test_only_tokens_as_good_as_tied_may_change_places_and_none_in_float32(
    prompted_checkpoint, dtype, ulps, found
):
    model = OpenVLA.from_pretrained(prompted_checkpoint, dtype=dtype)
    with torch.no_grad():  # every token ties with every other
        head = model.language_model.lm_head.weight
        head[:] = head[900].clone()
        model.language_model.model.norm.weight.fill_(1.0)
    passes, vision = stages_of(model)
    assert find_difference(model, passes, vision, D) is None
    units = list(ulps_of_the_first_token(model, probe_prompt(model)))
    changed = Tied(passes, 0, ulps * (max(units) if found else min(units)))
    assert (find_difference(model, changed, vision, D) is not None) == found


def test_the_whole_backend_warms_up_and_acts_through_the_graphs(prompted_checkpoint):
    def load():
        return LocalBackend.load(prompted_checkpoint, None, dtype='float32', device='cpu')

    plain, graphed = load(), load()
    replays = []

    def capture(body):
        return lambda: (replays.append(body), body())

    assert start_graphs(graphed.model, graphed.stats.action_dim, capture=capture)
    replays.clear()
    graphed.warm_up()
    # Vision and 7 passes for each image of the self-test and the first action, 1 pass with its
    # draft: nothing of the warm-up went another way.
    assert len(replays) == 3 * (1 + D) + (1 + D) + (1 + 1)
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        expected = plain.predict(image, 'pick up the block')
        predicted = graphed.predict(image, 'pick up the block')
        assert predicted.action_tokens.tolist() == expected.action_tokens.tolist()
        assert predicted.num_passes == expected.num_passes
        assert (expected.execution, predicted.execution) == ('eager', 'CUDA graphs')
    assert graphed.description.endswith(', CUDA graphs')
    assert plain.description.endswith(', eager')


@pytest.mark.parametrize(
    ('mode', 'device', 'wanted'),
    [
        ('auto', 'cpu', False),
        ('off', 'cpu', False),
        ('auto', 'cuda:1', True),
        ('on', 'cuda', True),
        ('off', 'cuda', False),
    ],
)
def test_graphs_are_tried_on_cuda_devices_unless_switched_off(mode, device, wanted):
    assert graphs_wanted(mode, torch.device(device)) is wanted


def test_graphs_asked_for_where_there_are_none_are_refused(prompted_checkpoint):
    with pytest.raises(ConfigError, match=r"cuda_graphs: got 'on', but the network runs on cpu"):
        LocalBackend.load(prompted_checkpoint, None, device='cpu', cuda_graphs='on')
    with pytest.raises(ConfigError, match=r"got 'atuo' \(did you mean 'auto'\?\), expected one"):
        LocalBackend.load(prompted_checkpoint, None, device='cpu', cuda_graphs='atuo')


def test_uncaptured_stages_are_their_bodies():
    body = print
    assert uncaptured(body) is body
