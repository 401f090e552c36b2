"""A recorded episode appears complete or not at all, and nothing is overwritten."""

import datetime
import subprocess
import sys

import pytest

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.episode_folders import EpisodeFolders
from openvla_ros.data.episode_label import EpisodeLabel, load_label, save_label

NOON = datetime.datetime(2026, 11, 28, 12, 0, 0)
LABEL = EpisodeLabel(
    outcome='success',
    sentence='pick up the red block',
    unnorm_key='my_arm',
    robot='sim',
    base_frame='base_link',
    ee_frame='ee_link',
    topics={'image': '/camera/image_raw'},
)


def begin(folders, content='bag'):
    path = folders.begin(NOON)
    path.mkdir()
    (path / 'data.mcap').write_text(content)
    return path


def visible(directory):
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith('.'))


def test_an_episode_appears_under_its_name_only_when_it_is_finished(tmp_path):
    folders = EpisodeFolders(tmp_path)
    path = begin(folders)
    assert visible(tmp_path) == []
    final = folders.finish(path, LABEL)
    assert visible(tmp_path) == ['2026-11-28_12-00-00']
    assert (final / 'data.mcap').read_text() == 'bag'
    assert load_label(final) == LABEL
    assert folders.lost() == []


def test_two_episodes_of_one_second_get_two_names(tmp_path):
    folders = EpisodeFolders(tmp_path)
    first = folders.finish(begin(folders, 'first'), LABEL)
    second = folders.finish(begin(folders, 'second'), LABEL)
    assert [first.name, second.name] == ['2026-11-28_12-00-00', '2026-11-28_12-00-00_2']
    assert (first / 'data.mcap').read_text() == 'first'


def test_a_lost_episode_is_named_kept_and_its_name_not_used_again(tmp_path):
    folders = EpisodeFolders(tmp_path)
    lost = begin(folders, 'lost')
    folders.close()
    folders = EpisodeFolders(tmp_path)
    assert folders.lost() == [lost]
    final = folders.finish(begin(folders), LABEL)
    assert final.name == '2026-11-28_12-00-00_2'
    assert (lost / 'data.mcap').read_text() == 'lost'


@pytest.mark.parametrize('content', [None, 'of somebody else'])
def test_a_folder_that_appeared_meanwhile_is_not_replaced(tmp_path, content):
    folders = EpisodeFolders(tmp_path)
    path = begin(folders)
    there = tmp_path / path.name
    there.mkdir()
    if content is not None:
        (there / 'file').write_text(content)
    with pytest.raises(FileExistsError, match='exists already'):
        folders.finish(path, LABEL)
    assert (path / 'data.mcap').read_text() == 'bag'
    assert [file.read_text() for file in there.iterdir()] == ([] if content is None else [content])


def test_a_discarded_episode_is_gone(tmp_path):
    folders = EpisodeFolders(tmp_path)
    folders.discard(begin(folders))
    assert folders.lost() == []
    assert visible(tmp_path) == []


def test_two_recorders_do_not_share_a_directory(tmp_path):
    code = (
        'import sys; from openvla_ros.data.episode_folders import EpisodeFolders\n'
        'folders = EpisodeFolders(sys.argv[1]); print("has it", flush=True); sys.stdin.read()'
    )
    other = subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == 'has it\n'
        with pytest.raises(ConfigError, match='another recorder writes to'):
            EpisodeFolders(tmp_path)
        # The lock dies with its process, however that ends.
        other.kill()
        other.wait(10.0)
        EpisodeFolders(tmp_path).close()
    finally:
        other.kill()
        other.communicate()


def test_a_directory_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match=r'file/episodes cannot be written: Not a directory'):
        EpisodeFolders(tmp_path / 'file' / 'episodes')


@pytest.mark.parametrize(
    ('change', 'sentence'),
    [
        ({'outcome': 'sucess'}, r"outcome: got 'sucess' \(did you mean 'success'\?\)"),
        ({'sentence': '  '}, 'sentence: is empty'),
        ({'sentence': 'In: what'}, "contains 'In:'"),
        ({'speed': 1}, "unknown key 'speed'"),
    ],
)
def test_a_label_that_was_edited_wrongly_is_refused(tmp_path, change, sentence):
    save_label(tmp_path, LABEL)
    path = tmp_path / 'episode.yaml'
    lines = [line for line in path.read_text().splitlines() if line.split(':')[0] not in change]
    path.write_text('\n'.join([*lines, *(f'{k}: {v!r}' for k, v in change.items())]))
    with pytest.raises(ConfigError, match=sentence):
        load_label(tmp_path)


def test_a_recording_of_somebody_else_has_no_label(tmp_path):
    assert load_label(tmp_path) is None
