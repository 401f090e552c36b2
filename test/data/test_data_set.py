"""Damaged, foreign and incomplete data sets are refused by name."""

import json

import numpy as np
import pytest

pytest.importorskip('pyarrow', reason='pyarrow is not installed (requirements/data.txt)')

import pyarrow as pa
import pyarrow.parquet as pq

from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.data_set import DataSet
from openvla_ros.data.data_set_writer import DataSetWriter
from openvla_ros.data.episode import Episode, encode_image, no_ops

PROFILE = load_dataset_profile('openvla_ros_demo')


def make_episode(length=6, seed=0, instruction='push the block'):
    rng = np.random.default_rng(seed)
    images = [encode_image(rng.integers(0, 256, (24, 32, 3), np.uint8)) for _ in range(length)]
    states = rng.normal(size=(length, 7)).astype(np.float32)
    actions = rng.normal(0.0, 0.02, (length, 7)).astype(np.float32)
    actions[:, 6] = rng.integers(0, 2, length)
    return Episode(images, states, actions, instruction)


@pytest.fixture
def folder(tmp_path):
    with DataSetWriter(tmp_path / 'set', PROFILE) as writer:
        writer.add(make_episode(6, 0))
        writer.add(make_episode(4, 1, 'lift the block'))
    return tmp_path / 'set'


def change_info(folder, **changes):
    path = folder / 'meta/info.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_was_written_is_read_back(folder):
    data = DataSet(folder)
    episodes = [make_episode(6, 0), make_episode(4, 1, 'lift the block')]
    np.testing.assert_array_equal(data.actions, np.concatenate([e.actions for e in episodes]))
    np.testing.assert_array_equal(data.states, np.concatenate([e.states for e in episodes]))
    assert data.encoded_image(7) == episodes[1].images[1]
    assert data.frame(7).instruction == 'lift the block'
    assert data.profile == PROFILE


def test_the_statistics_are_those_of_the_numbers(folder):
    stats = json.loads((folder / 'meta/stats.json').read_text())
    actions = DataSet(folder).actions
    np.testing.assert_allclose(stats['action']['q01'], np.quantile(actions, 0.01, axis=0))
    np.testing.assert_allclose(stats['action']['std'], actions.std(0))
    assert stats['action']['count'] == [10]
    image = stats['observation.images.camera']
    # Noise that is uniform on 0 to 255.
    np.testing.assert_allclose(np.array(image['mean']), 0.5, atol=0.05)
    np.testing.assert_allclose(np.array(image['q10']), 0.1, atol=0.06)
    assert np.array(image['max']).shape == (3, 1, 1)


def test_a_file_that_holds_several_episodes_is_read(folder):
    """As lerobot itself writes them."""
    files = sorted((folder / 'data/chunk-000').iterdir())
    pq.write_table(pa.concat_tables([pq.read_table(f) for f in files]), files[0])
    files[1].unlink()
    path = folder / 'meta/episodes/chunk-000/file-000.parquet'
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row['data/file_index'] = 0
    pq.write_table(pa.Table.from_pylist(rows), path)
    data = DataSet(folder)
    expected = make_episode(4, 1)
    assert data.encoded_image(8) == expected.images[2]
    np.testing.assert_array_equal(data.frame(8).action, expected.actions[2])


def test_nothing_is_left_of_a_data_set_whose_making_failed(tmp_path):
    zeros = np.zeros((1, 7), np.float32)
    small = Episode([encode_image(np.zeros((16, 16, 3), np.uint8))], zeros, zeros, 'x')

    def write():
        with DataSetWriter(tmp_path / 'set', PROFILE) as writer:
            writer.add(make_episode())
            writer.add(small)

    with pytest.raises(ConfigError, match='images of one size'):
        write()
    assert list(tmp_path.iterdir()) == []


def test_an_episode_without_a_sentence_or_with_nan_is_refused():
    good = make_episode()
    with pytest.raises(ConfigError, match='expected at least one image and a sentence'):
        Episode(good.images, good.states, good.actions, ' ')
    bad = good.actions.copy()
    bad[2, 3] = np.nan
    with pytest.raises(ConfigError, match=r'actions: .* finite'):
        Episode(good.images, good.states, bad, 'push')


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'codebase_version': 'v2.1'}, "codebase_version: got 'v2.1', expected 'v3.0'"),
        ({'fps': 10}, 'step_s: got 0.2, expected 0.1'),
        ({'total_frames': 11}, 'holds 10 frames, expected 11'),
        ({'total_episodes': 3}, 'lists 2 episodes, expected 0 to 2'),
    ],
)
def test_a_contradiction_is_named(folder, changes, sentence):
    change_info(folder, **changes)
    with pytest.raises(ConfigError, match=sentence):
        DataSet(folder)


def test_videos_and_other_dimensions_are_refused(folder):
    info = json.loads((folder / 'meta/info.json').read_text())
    features = info['features']
    camera = {
        'observation.images.camera': {**features['observation.images.camera'], 'dtype': 'video'}
    }
    change_info(folder, features=features | camera)
    with pytest.raises(ConfigError, match='videos cannot be read yet'):
        DataSet(folder)
    change_info(folder, features=features | {'action': {**features['action'], 'shape': [14]}})
    with pytest.raises(ConfigError, match=r'features.action.shape: got \[14\], expected \[7\]'):
        DataSet(folder)


def test_a_missing_profile_sentence_or_file_is_named(folder):
    profile = folder / 'meta/dataset_profile.yaml'
    text = profile.read_text()
    profile.unlink()
    with pytest.raises(ConfigError, match='nobody knows what the actions mean'):
        DataSet(folder)
    profile.write_text(text)
    (folder / 'data/chunk-000/file-001.parquet').unlink()
    with pytest.raises(ConfigError, match=r'file-001.parquet: cannot be read as parquet'):
        DataSet(folder)


def test_a_truncated_file_is_named(folder):
    path = folder / 'data/chunk-000/file-000.parquet'
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r'file-000.parquet: cannot be read as parquet'):
        DataSet(folder)


def test_missing_sentences_are_counted(folder):
    path = folder / 'meta/episodes/chunk-000/file-000.parquet'
    rows = pq.read_table(path).to_pylist()
    rows[1]['tasks'] = ['']
    pq.write_table(pa.Table.from_pylist(rows), path)
    with pytest.raises(
        ConfigError, match='1 of 2 episodes have no sentence, the first is episode 1'
    ):
        DataSet(folder)


def test_a_step_is_a_no_op_only_if_the_gripper_stays_too():
    actions = np.zeros((4, 7))
    actions[1, 6] = actions[2, 6] = 1.0
    actions[3] = [1e-4, 0, 0, 0, 0, 0, 1.0]
    assert no_ops(actions, 0.0).tolist() == [True, False, True, False]
    assert no_ops(actions, 1.0).tolist() == [False, False, True, False]
