"""Fine-tuning against upstream's own (golden/finetuning: loss, gradients, five AdamW steps)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from openvla_ros.model import OpenVLA
from openvla_ros.model.lora import LoraAdapter, LowRank
from openvla_ros.training.examples import Batch, Example, action_answer, make_batch
from openvla_ros.training.fine_tuning import FineTuning, Optimization
from openvla_ros.training.held_out import evaluate
from openvla_ros.training.new_adapter import adapted_shapes, adapter_tensors
from openvla_ros.training.strategies import select_trained

GOLDEN = Path(__file__).parents[1] / 'golden'
CHECKPOINT = GOLDEN / 'openvla_tiny'
UPSTREAM = GOLDEN / 'finetuning'
OUT = json.loads((UPSTREAM / 'out.json').read_text())
SPACE, END, PAD, V = 29871, 2, 32000, 32000
#: Upstream clips nothing; float32 as the golden run.
SETTINGS = Optimization(rate=5e-4, decay=0.01, clip=0.0, bfloat16=False, recompute=False)


def golden_examples(spec):
    stored = np.load(UPSTREAM / 'batch.npz')
    examples = []
    for i, (ids, action) in enumerate(zip(stored['input_ids'], stored['actions'])):
        prompt = tuple(int(n) for n in ids[: list(ids).index(SPACE) + 1])
        image = np.asarray(Image.open(CHECKPOINT / f'image_{i}.png').convert('RGB'))
        examples.append(Example(image, prompt, action_answer(action, V, END)))
    return examples


def golden_adapter(tensors):
    prefix = 'base_model.model.'
    names = {key.removeprefix(prefix).rsplit('.', 2)[0] for key in tensors}
    layers = {
        name: LowRank(*(tensors[f'{prefix}{name}.lora_{part}.weight'] for part in 'AB'))
        for name in names
    }
    return LoraAdapter(Path('golden'), 4 / 4, layers, {})


@pytest.fixture(scope='module')
def base():
    return OpenVLA.from_pretrained(CHECKPOINT, dtype='float32')


def tuning_from_golden_start(settings=SETTINGS):
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype='float32')
    start = golden_adapter(load_file(UPSTREAM / 'lora_init.safetensors'))
    start.restrict(model.used_shapes(), model.unused_shapes()).attach(model, torch.float32, 'cpu')
    return FineTuning(model, select_trained(model, 'lora'), settings)


@pytest.fixture(scope='module')
def batch(base):
    return make_batch(golden_examples(base.image_spec), base.image_spec, PAD)


def test_the_token_rows_are_upstreams(batch):
    stored = np.load(UPSTREAM / 'batch.npz')
    length = batch.input_ids.shape[1]
    assert (stored['input_ids'][:, length:] == PAD).all()
    np.testing.assert_array_equal(batch.input_ids, stored['input_ids'][:, :length])
    np.testing.assert_array_equal(batch.labels, stored['labels'][:, :length])


def test_the_first_gradients_equal_upstreams(batch):
    tuning = tuning_from_golden_start()
    loss, _ = tuning.gradients([batch])
    assert loss == pytest.approx(OUT['losses'][0], rel=1e-6)
    expected = load_file(UPSTREAM / 'grad_step0.safetensors')
    got = {
        f'base_model.model.{name.rsplit(".", 1)[0]}.{name.rsplit(".", 1)[1]}.weight': p.grad
        for name, p in tuning.trained.items()
    }
    assert set(got) == set(expected)
    for name, slope in expected.items():
        torch.testing.assert_close(
            got[name].view(slope.shape), slope, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: n + m
        )
    norm = torch.cat([slope.flatten() for slope in got.values()]).norm()
    assert float(norm) == pytest.approx(OUT['grad_norm_step0'], rel=1e-5)


@pytest.fixture(scope='module')
def after_five(batch):
    tuning = tuning_from_golden_start()
    losses = [tuning.step([batch]).loss for _ in range(5)]
    return losses, adapter_tensors(tuning.model)


def test_five_losses_equal_upstreams(after_five):
    np.testing.assert_allclose(after_five[0], OUT['losses'], rtol=1e-5)


def test_the_adapter_after_five_steps_equals_upstreams(after_five):
    expected = load_file(UPSTREAM / 'adapter_after_5' / 'adapter_model.safetensors')
    for name, value in after_five[1].items():
        assert float((value - expected[name]).abs().max()) < 1e-5, name


def test_a_batch_in_two_parts_gives_the_gradient_of_the_whole(batch):
    whole, parted = tuning_from_golden_start(), tuning_from_golden_start()
    loss, accuracy = whole.gradients([batch])
    parts = [
        Batch(batch.pixel_values[s], batch.input_ids[s], batch.labels[s])
        for s in (slice(0, 1), slice(1, 4))
    ]
    assert parted.gradients(parts) == (pytest.approx(loss, rel=1e-6), accuracy)
    for name, parameter in whole.trained.items():
        torch.testing.assert_close(
            parted.trained[name].grad,
            parameter.grad,
            atol=1e-5,
            rtol=1e-5,
            msg=lambda m, n=name: n + m,
        )


def test_recomputed_layers_give_the_same_gradient(batch):
    plain = tuning_from_golden_start()
    recomputed = tuning_from_golden_start(Optimization(clip=0.0, bfloat16=False, recompute=True))
    assert plain.gradients([batch]) == recomputed.gradients([batch])
    for name, parameter in plain.trained.items():
        assert torch.equal(recomputed.trained[name].grad, parameter.grad), name


def test_a_run_that_was_interrupted_ends_with_the_same_weights(batch):
    through, stopped = tuning_from_golden_start(), tuning_from_golden_start()
    for _ in range(4):
        through.step([batch])
    for _ in range(2):
        stopped.step([batch])
    later = tuning_from_golden_start()
    later.restore(stopped.state())
    for _ in range(2):
        later.step([batch])
    assert later.step_number == 4
    for name, value in through.trained.items():
        assert torch.equal(later.trained[name], value), name


def test_the_gradient_is_clipped_to_the_norm_asked_for(batch):
    free, clipped = (
        tuning_from_golden_start(),
        tuning_from_golden_start(
            Optimization(rate=5e-4, clip=0.5, bfloat16=False, recompute=False)
        ),
    )
    reports = [tuning.step([batch]) for tuning in (free, clipped)]
    assert reports[0].gradient_norm == reports[1].gradient_norm > 0.5
    # Adam's first step does not depend on the scale; its memory does.
    first = [
        next(iter(t.state()['optimizer']['state'].values()))['exp_avg'] for t in (free, clipped)
    ]
    ratio = 0.5 / reports[0].gradient_norm
    torch.testing.assert_close(first[1], first[0] * ratio, rtol=1e-4, atol=1e-9)


def test_training_keeps_adapters_and_their_memory_in_float32_above_a_bfloat16_base(batch):
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype='bfloat16')
    start = golden_adapter(load_file(UPSTREAM / 'lora_init.safetensors'))
    start.restrict(model.used_shapes(), model.unused_shapes()).attach(model, torch.bfloat16, 'cpu')
    tuning = FineTuning(model, select_trained(model, 'lora'), Optimization(rate=2e-5))
    before = {name: value.detach().clone() for name, value in tuning.trained.items()}
    tuning.step([batch])
    assert {value.dtype for value in tuning.trained.values()} == {torch.float32}
    memory = tuning.state()['optimizer']['state'].values()
    assert {entry['exp_avg'].dtype for entry in memory} == {torch.float32}
    # A step of 2e-5 is below bfloat16's spacing at the size of A; here it arrives.
    head = 'language_model.lm_head.lora_B'
    moved = (tuning.trained[head].detach() - before[head]).abs()
    assert float(moved.max()) == pytest.approx(2e-5, rel=1e-2)


def test_a_judgement_in_between_does_not_change_the_gradient_above_four_bits(batch):
    """Without gradients bitsandbytes would repack its weights for a kernel that has none."""
    pytest.importorskip('bitsandbytes')
    model = OpenVLA.from_pretrained(
        CHECKPOINT, dtype='bfloat16', quantization='nf4', merge_adapter=False
    )
    start = golden_adapter(load_file(UPSTREAM / 'lora_init.safetensors'))
    live = LoraAdapter(
        Path('golden'), 1.0, {n: start.layers[n] for n in adapted_shapes(model)}, {}
    )
    live.attach(model, torch.float32, 'cpu')
    tuning = FineTuning(model, select_trained(model, 'lora'), Optimization(recompute=False))
    tuning.gradients([batch])
    first = {name: p.grad.clone() for name, p in tuning.trained.items()}
    for parameter in tuning.trained.values():
        parameter.grad = None
    evaluate(tuning, [(batch, 1.0)])
    tuning.gradients([batch])
    for name, slope in first.items():
        assert torch.equal(tuning.trained[name].grad, slope), name
    assert first['projector.fc1.lora_B'].abs().max() > 0
