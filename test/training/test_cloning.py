import numpy as np
import pytest
import torch

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.training.__main__ import main
from openvla_ros.training.batches import Demonstrations
from openvla_ros.training.cloning import Schedule, make_optimizers, train
from openvla_ros.training.demonstrations import COLOUR_NAMES, Frames, write_shard
from openvla_ros.training.run import Run
from openvla_ros.training.small_model import SmallModel

SIZES = SmallModel(
    image_size=28, vision_width=16, vision_depth=2, vision_heads=2, width=24, hidden=32,
    layers=2, heads=2,
)  # fmt: skip
SCHEDULE = Schedule(steps=8, batch=4, sentences=2, find=1, warm_up=2, save_every=3)


@pytest.fixture
def run(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 28, 28, 3), np.uint8)
    actions = rng.normal(0.0, 0.01, (12, 3, len(COLOUR_NAMES), 7)).astype(np.float32)
    actions[..., 3:6] = 0.0
    actions[..., 6] = rng.integers(0, 2, actions.shape[:-1])
    run = Run(tmp_path, SIZES)
    write_shard(run.data / 'expert_0000', [Frames(images, actions, np.zeros((12, 2), np.int8))])
    run.prepare(Demonstrations(run.shards()))
    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)  # training takes over this setting


def go_on(run, until):
    state = run.state(SCHEDULE)
    data, preprocessor = Demonstrations(run.shards()), SIZES.preprocessor_config()
    train(
        state, data, run.writer(), preprocessor, SCHEDULE, run.state_path, lambda _: None,
        until=until, threads=1,
    )  # fmt: skip
    return state


def test_a_run_that_was_stopped_ends_with_the_weights_of_one_that_was_not(run):
    go_on(run, 5)
    resumed = go_on(run, None)
    run.state_path.unlink()
    whole = go_on(run, None)
    assert resumed.step == whole.step == 8
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict())
    torch.testing.assert_close(resumed.average, whole.average)


@pytest.mark.parametrize('size', ['13', '0', '-1'])
def test_fewer_images_than_a_batch_is_one_sentence_before_anything_is_trained(run, size):
    arguments = ['--out', str(run.folder), '--shards', '0', '--batch', size]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    sentence = str(end.value)
    assert f'got 12 images for batches of {size}, expected a batch of 1 to 12' in sentence
    assert '\n' not in sentence
    assert not run.state_path.exists()


def test_no_demonstrations_at_all_is_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match='got 0 shards of demonstrations'):
        main(['--out', str(tmp_path), '--shards', '0'])


def test_training_itself_refuses_a_batch_larger_than_the_data(run):
    schedule = Schedule(steps=8, batch=13, sentences=2, find=1)
    with pytest.raises(ConfigError, match='got 12 images for batches of 13'):
        train(
            run.state(schedule), Demonstrations(run.shards()), run.writer(),
            SIZES.preprocessor_config(), schedule, run.state_path, lambda _: None, threads=1,
        )  # fmt: skip


def test_every_parameter_is_updated_by_exactly_one_optimizer(run):
    model = run.new_model(0)
    updated = [
        id(parameter)
        for optimizer in make_optimizers(model, SCHEDULE)
        for group in optimizer.param_groups
        for parameter in group['params']
    ]
    assert sorted(updated) == sorted(id(parameter) for parameter in model.parameters())


def test_token_tables_head_and_patch_filters_are_left_to_adamw(run):
    model = run.new_model(0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    muon, adamw = make_optimizers(model, SCHEDULE)
    by_muon = {names[id(p)] for group in muon.param_groups for p in group['params']}
    left = {name for name, p in model.named_parameters() if p.ndim == 2} - by_muon
    assert left == {'language_model.model.embed_tokens.weight', 'language_model.lm_head.weight'}
    filters = {names[id(p)] for p in adamw.param_groups[1]['params']}
    towers = {name.split('.')[1] for name in filters}
    assert all('patch_embed' in name for name in filters)
    assert towers == {'featurizer', 'fused_featurizer'}


def test_both_optimizers_follow_the_schedule(run):
    muon, adamw = go_on(run, 3).optimizers
    part = SCHEDULE.part(2)
    rates = [group['lr'] for optimizer in (muon, adamw) for group in optimizer.param_groups]
    assert rates == pytest.approx([2e-3 * part, 1e-3 * part, 1e-4 * part])


def test_a_state_of_the_version_with_adamw_alone_is_refused_with_what_to_do(run):
    go_on(run, 1)
    content = torch.load(run.state_path, weights_only=True)
    content['optimizer'] = content.pop('optimizers')[1]
    torch.save(content, run.state_path)
    with pytest.raises(ValueError, match=r'AdamW alone.*--start'):
        go_on(run, 2)


def test_training_learns_what_the_demonstrations_have_in_common(run):
    schedule = Schedule(steps=60, batch=4, sentences=2, find=1, peak_rate=1e-2, warm_up=2)
    lines = []
    train(
        run.state(schedule), Demonstrations(run.shards()), run.writer(),
        SIZES.preprocessor_config(), schedule, run.state_path, lines.append, threads=1,
    )  # fmt: skip
    rotation_right = [float(share) for share in lines[-1].split('right ')[1].split()[3:6]]
    assert min(rotation_right) > 0.9
