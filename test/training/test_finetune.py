"""The whole way at small size: data set and checkpoint to a folder that a policy starts from."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip('pyarrow', reason='pyarrow is not installed (requirements/data.txt)')
pytest.importorskip('matplotlib')

from openvla_ros.action_space.dataset_profile import DatasetProfile, load_dataset_profile
from openvla_ros.core.resources import resource_path
from openvla_ros.core.strict_config import parse_file
from openvla_ros.data.data_set import DataSet
from openvla_ros.data.data_set_writer import DataSetWriter
from openvla_ros.data.episode import Episode, encode_image
from openvla_ros.data.question_set import QuestionSet
from openvla_ros.model import OpenVLA
from openvla_ros.model.local_backend import LocalBackend
from openvla_ros.observation.image import apply_recipe, preprocess_image
from openvla_ros.training import finetune
from openvla_ros.training.inference_check import check_inference
from openvla_ros.training.mixture import ExampleMaker, Mixture, Source, split_source
from openvla_ros.training.strategies import trains

PROFILE = load_dataset_profile('openvla_ros_demo')
CHECKPOINT = resource_path('checkpoints/demo')
COLORS = ((220, 30, 30), (30, 60, 220))


def colored_episode(color, seed, length=8):
    """The color of the image says which way to go: something that can be learnt in seconds."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 40, (length, 48, 64, 3)) + np.array(COLORS[color])
    images = [encode_image(np.clip(image, 0, 255).astype(np.uint8)) for image in pixels]
    actions = np.zeros((length, 7))
    actions[:, :6] = np.array([0.02, -0.01, 0.015, 0.01, -0.02, 0.0]) * (1 if color else -1)
    actions[:, 6] = color
    states = np.zeros((length, 7), np.float32)
    return Episode(images, states, actions.astype(np.float32), 'push the block')


def make_set(folder, episodes=6, **changes):
    with DataSetWriter(folder, PROFILE) as writer:
        for number in range(episodes):
            writer.add(colored_episode(number % 2, number, **changes))
    return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp('data') / 'set')


def arguments(data, out, **options):
    sets = data if isinstance(data, list) else [data]
    settings = {'steps': 2, 'batch': 4, 'rank': 4, 'evaluate_every': 2, 'save_every': 2}
    settings |= {
        'held_out': 0.3,
        'held_out_frames': 8,
        'device': 'cpu',
        'float32': True,
        'check_frames': 0,
    }
    command = ['--checkpoint', str(CHECKPOINT), '--out', str(out), '--data', *map(str, sets)]
    for name, value in (settings | options).items():
        if value is not False:
            command += [f'--{name.replace("_", "-")}', *([] if value is True else [str(value)])]
    return command


def run(data, out, **options):
    return finetune.main(arguments(data, out, **options))


def progress(out):
    return [json.loads(line) for line in (out / 'progress.jsonl').read_text().splitlines()]


def trained(out):
    return torch.load(out / 'state.pt', weights_only=True)['trained']


@pytest.fixture(scope='module')
def learnt(data, tmp_path_factory):
    out = tmp_path_factory.mktemp('runs') / 'learnt'
    assert (
        run(
            data,
            out,
            steps=30,
            batch=8,
            rate=4e-3,
            evaluate_every=15,
            no_augment=True,
            check_frames=16,
        )
        == 0
    )
    return out


def test_it_learns_what_held_out_episodes_show_too(learnt):
    judged = [row['held_out'] for row in progress(learnt) if 'held_out' in row]
    assert judged[-1]['loss'] < 0.1 * judged[0]['loss']
    assert judged[-1]['token_accuracy'] > 0.9
    assert judged[-1]['gripper_accuracy'] == 1.0


def test_the_folder_is_all_that_a_policy_needs_and_reproduces_the_accuracy(data, learnt):
    """The node's own path: adapter, statistics and profile of the folder, greedy decoding."""
    backend = LocalBackend.load(CHECKPOINT, 'openvla_ros_demo', adapter=learnt, device='cpu')
    profile = parse_file(DatasetProfile, learnt / 'dataset_profile.yaml')
    assert profile.image.center_crop is False  # trained without augmentation
    frames = DataSet(data)
    for index in (0, 9):  # one of each color
        frame = frames.frame(index)
        image = apply_recipe(frame.image, profile.image, backend.image_size)
        predicted = backend.predict(image, frame.instruction)
        assert round(float(predicted.action[6])) == frame.action[6]
        assert np.sign(predicted.action[0]) == np.sign(frame.action[0])


def test_training_frames_through_the_policys_way_are_in_the_report(learnt):
    report = (learnt / 'report.md').read_text()
    line = next(line for line in report.splitlines() if line.startswith('training frames:'))
    assert line.endswith('they agree within a point')
    assert float(line.split()[2]) > 80.0


def test_a_policy_with_other_weights_than_training_had_is_found_out(data, learnt, tmp_path):
    """As after a wrong --checkpoint, or an adapter that was not loaded."""
    folder, frames = tmp_path / 'last', list(range(0, 48, 4))
    shutil.copytree(learnt / 'last', folder)
    backend = LocalBackend.load(CHECKPOINT, 'openvla_ros_demo', adapter=folder, device='cpu')
    source = Source(DataSet(data), 1.0, np.arange(48), np.arange(48))
    maker = ExampleMaker(backend.model, [source], augment=False)
    wanted = np.array([maker.plain(source, frame).answer[:-1] for frame in frames])

    def check():
        return check_inference(
            CHECKPOINT, folder, source.data, frames, wanted, wanted, device='cpu'
        )

    assert check().policy > 0.8
    tensors = load_file(folder / 'adapter_model.safetensors')
    save_file(
        {n: torch.zeros_like(v) for n, v in tensors.items()}, folder / 'adapter_model.safetensors'
    )
    assert not check().passed
    assert 'DIFFER' in str(check())


def test_it_leaves_best_last_report_and_plot(learnt):
    for name in ('adapter_config.json', 'adapter_model.safetensors', 'dataset_statistics.json'):
        assert (learnt / name).is_file()
        assert (learnt / 'last' / name).is_file()
    assert (learnt / 'progress.png').stat().st_size > 5000
    report = (learnt / 'report.md').read_text()
    assert '| rank | 4 |' in report
    assert '| 30 |' in report


def test_augmentation_makes_the_policy_crop_the_middle(data, tmp_path):
    assert run(data, tmp_path / 'run') == 0
    profile = parse_file(DatasetProfile, tmp_path / 'run' / 'dataset_profile.yaml')
    assert profile.image.center_crop is True
    assert 'with augmentation' in profile.sources['image']


def test_a_run_that_goes_on_after_a_stop_ends_as_one_that_did_not_stop(data, tmp_path):
    assert run(data, tmp_path / 'through', steps=4) == 0
    assert run(data, tmp_path / 'stopped', steps=2) == 0
    assert run(data, tmp_path / 'stopped', steps=4) == 0
    through, stopped = trained(tmp_path / 'through'), trained(tmp_path / 'stopped')
    assert through.keys() == stopped.keys()
    for name, value in through.items():
        assert torch.equal(stopped[name], value), name
    losses = [
        [r['loss'] for r in progress(tmp_path / d) if 'loss' in r] for d in ('through', 'stopped')
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_whole_batch(data, tmp_path):
    assert run(data, tmp_path / 'one', steps=3) == 0
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2']
    command += ['-m', 'openvla_ros.training.finetune', *arguments(data, tmp_path / 'two', steps=3)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=100,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    losses = [[r['loss'] for r in progress(tmp_path / d) if 'loss' in r] for d in ('one', 'two')]
    assert len(losses[1]) == 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    one, two = trained(tmp_path / 'one'), trained(tmp_path / 'two')
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-5, msg=name)


def test_a_run_that_is_done_keeps_what_it_made(data, tmp_path):
    run(data, tmp_path / 'run')
    kept = ('state.pt', 'adapter_model.safetensors', 'progress.jsonl', 'report.md')
    before = {name: (tmp_path / 'run' / name).read_bytes() for name in kept}
    assert run(data, tmp_path / 'run') == 0
    assert {name: (tmp_path / 'run' / name).read_bytes() for name in kept} == before


@pytest.mark.filterwarnings('error:.*autograd kernel was not registered')
def test_it_trains_adapters_above_a_base_in_four_bits(data, tmp_path):
    pytest.importorskip('bitsandbytes')
    options = {'float32': False, 'quantization': 'nf4', 'steps': 10, 'rate': 4e-3}
    assert run(data, tmp_path / 'run', **options, evaluate_every=5, no_augment=True) == 0
    judged = [row['held_out'] for row in progress(tmp_path / 'run') if 'held_out' in row]
    assert judged[-1]['loss'] < 0.6 * judged[0]['loss']


def test_micro_batches_change_nothing_but_memory(data, tmp_path):
    run(data, tmp_path / 'whole', micro_batch=4)
    run(data, tmp_path / 'parts', micro_batch=2)
    losses = [
        [r['loss'] for r in progress(tmp_path / d) if 'loss' in r] for d in ('whole', 'parts')
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_other_settings_in_the_same_folder_are_refused(data, tmp_path, capsys):
    run(data, tmp_path / 'run')
    before = (tmp_path / 'run' / 'state.pt').read_bytes()
    assert run(data, tmp_path / 'run', rank=8) == 2
    assert 'rank: the run was begun with 4, got 8' in capsys.readouterr().err
    assert (tmp_path / 'run' / 'state.pt').read_bytes() == before


@pytest.mark.parametrize('strategy', ['full', 'sandwich', 'frozen_vision', 'last_layer'])
def test_whole_weights_become_a_checkpoint_that_keeps_what_was_frozen(data, tmp_path, strategy):
    assert run(data, tmp_path / 'run', strategy=strategy, rate=1e-3) == 0
    base = OpenVLA.from_pretrained(CHECKPOINT).state_dict()
    tuned = OpenVLA.from_pretrained(tmp_path / 'run' / 'last').state_dict()
    changed = {name for name, value in tuned.items() if not torch.equal(value, base[name])}
    layers = OpenVLA.from_pretrained(CHECKPOINT).config.text.num_hidden_layers
    assert changed
    assert all(trains(strategy, name, layers) for name in changed)
    assert 'language_model.lm_head.weight' in changed
    assert (tmp_path / 'run' / 'best' / 'dataset_profile.yaml').is_file()


def test_two_data_sets_are_mixed_by_their_weights(tmp_path):
    sets = [make_set(tmp_path / name, episodes) for name, episodes in (('a', 2), ('b', 4))]
    sources = [split_source(DataSet(s), w, 0.0, 0) for s, w in zip(sets, (2.5, 0.5))]
    mixture = Mixture(sources, 0)
    assert len(mixture) == 2.5 * 16 + 0.5 * 32
    rows = mixture.rows(0, len(mixture))
    visits = np.bincount(rows[rows[:, 0] == 0, 1], minlength=16)
    assert set(visits) == {2, 3}
    assert (rows[:, 0] == 1).sum() == 16
    # The order is the same wherever one begins, and another in the next epoch.
    np.testing.assert_array_equal(Mixture(sources, 0).rows(50, 60), mixture.rows(50, 60))
    assert not np.array_equal(mixture.rows(len(mixture), 2 * len(mixture)), rows)


def test_held_out_episodes_are_never_trained_on(data):
    source = split_source(DataSet(data), 1.0, 0.3, 0)
    episodes = source.data.episode_index
    assert not set(episodes[source.train]) & set(episodes[source.held_out])
    assert len(source.train) + len(source.held_out) == len(source.data)
    assert len(set(episodes[source.held_out])) == 2  # 0.3 of 6 episodes, rounded up


@pytest.mark.parametrize(
    ('options', 'sentence'),
    [
        ({'batch': 64}, '32 frames to train on, expected at least the batch of 64'),
        ({'strategy': 'lorra'}, "strategy: got 'lorra' (did you mean 'lora'?)"),
        ({'strategy': 'full', 'quantization': 'nf4'}, 'only with --strategy lora'),
        ({'steps': 0}, '--steps: got 0, expected 1 or more'),
        ({'held_out': 1.5}, '--held-out: got 1.5'),
    ],
)
def test_bad_input_is_one_sentence_before_anything_starts(
    data, tmp_path, capsys, options, sentence
):
    assert run(data, tmp_path / 'run', **options) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count('\n') == 1
    assert not (tmp_path / 'run').exists()


def test_a_foreign_folder_a_missing_set_and_a_bad_weight_are_refused(data, tmp_path, capsys):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'thesis.txt').write_text('mine')
    assert run(data, tmp_path / 'run') == 2
    assert 'is not a fine-tuning' in capsys.readouterr().err
    assert run(tmp_path / 'no_set', tmp_path / 'other') == 2
    assert 'no_set/meta/info.json: cannot be read' in capsys.readouterr().err
    assert run(f'{data}:-1', tmp_path / 'other') == 2
    assert "got the weight '-1', expected a positive number" in capsys.readouterr().err


@pytest.fixture
def questions(tmp_path):
    """What color an image has; no robot in it."""
    folder = tmp_path / 'questions'
    folder.mkdir()
    rows = []
    for number in range(8):
        color = number % 2
        image = colored_episode(color, 100 + number, 1).images[0]
        (folder / f'{number}.jpg').write_bytes(image)
        answer = ('red', 'blue')[color]
        rows.append({'image': f'{number}.jpg', 'question': 'which color?', 'answer': answer})
    (folder / 'questions.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder


def test_questions_are_trained_on_beside_actions(data, questions, tmp_path):
    """The answer is read as upstream writes it: a lone space, the answer's own pieces, </s>."""
    out = tmp_path / 'run'
    options = {'steps': 50, 'batch': 8, 'rate': 6e-3, 'no_augment': True, 'evaluate_every': 50}
    assert run([data, f'{questions}:4'], out, **options) == 0
    judged = [row['held_out'] for row in progress(out) if 'held_out' in row]
    assert judged[-1]['gripper_accuracy'] == 1.0
    model = OpenVLA.from_pretrained(CHECKPOINT, dtype='float32', adapter=out)
    maker = ExampleMaker(model, [Source(DataSet(data), 1.0, *[np.arange(48)] * 2)], augment=False)
    asked = Source(QuestionSet(questions), 1.0, np.arange(8), np.arange(0))
    for index in range(8):
        example = maker.plain(asked, index)
        assert example.prompt[-1] == model.space_id
        pixels = preprocess_image(example.image, model.image_spec)
        said = model.decode(pixels, list(example.prompt), len(example.answer)).tokens
        assert tuple(int(token) for token in said) == example.answer
    statistics = json.loads((out / 'dataset_statistics.json').read_text())
    assert list(statistics) == ['openvla_ros_demo']


def test_a_gripper_that_is_open_in_every_frame_is_learnt_as_open(tmp_path):
    with DataSetWriter(tmp_path / 'set', PROFILE) as writer:
        for seed in range(2):
            episode = colored_episode(1, seed)
            writer.add(dataclasses.replace(episode, actions=_moving(episode.actions)))
    model = OpenVLA.from_pretrained(CHECKPOINT)
    source = Source(DataSet(tmp_path / 'set'), 1.0, np.arange(16), np.arange(0))
    maker = ExampleMaker(model, [source], augment=False)
    gripper = maker.plain(source, 3).answer[6]
    # 1 lies in the highest of 256 bins, which is written as V - 256.
    assert gripper == model.config.vocab_size - 256


def _moving(actions):
    """The same with a range in every dimension but the gripper's, which is 1."""
    actions = actions.copy()
    actions[:, :6] = np.linspace(-0.02, 0.02, len(actions))[:, None]
    assert set(actions[:, 6]) == {1.0}
    return actions


def test_questions_alone_are_refused(questions, tmp_path, capsys):
    assert run(questions, tmp_path / 'run') == 2
    assert 'only questions, expected at least one robot data set' in capsys.readouterr().err


def test_a_sentence_that_does_not_fit_is_refused_before_any_training(tmp_path, capsys):
    with DataSetWriter(tmp_path / 'set', PROFILE) as writer:
        for seed in range(2):
            episode = colored_episode(seed, seed)
            writer.add(dataclasses.replace(episode, instruction='q' * 2000))
    assert run(tmp_path / 'set', tmp_path / 'run') == 2
    assert 'tokens with its answer, expected at most' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_a_run_that_diverges_says_so_and_keeps_what_it_saved(data, tmp_path, capsys):
    assert run(data, tmp_path / 'run') == 0
    state = torch.load(tmp_path / 'run' / 'state.pt', weights_only=True)
    next(iter(state['trained'].values())).fill_(float('nan'))
    torch.save(state, tmp_path / 'run' / 'state.pt')
    assert run(data, tmp_path / 'run', steps=4) == 1
    error = capsys.readouterr().err
    assert 'step 3: the loss is nan' in error
    assert 'begin again with a --rate below 0.0005' in error
    assert torch.load(tmp_path / 'run' / 'state.pt', weights_only=True)['step'] == 2


def test_too_little_memory_is_refused_with_what_would_fit(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(finetune, 'free_memory_bytes', lambda device: 100_000_000)
    assert run(data, tmp_path / 'run', strategy='full', batch=8) == 2
    error = capsys.readouterr().err
    assert 'needs' in error
    assert '0.1 GB are free on cpu; --micro-batch 1' in error
    assert not (tmp_path / 'run').exists()
