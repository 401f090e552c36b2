import pytest

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA, hub
from openvla_ros.model.hub import checkpoint_folder, download_command


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))


def test_a_folder_is_itself(tmp_path):
    assert checkpoint_folder(tmp_path) == tmp_path
    with pytest.raises(ConfigError, match="is a folder, which has no revision; got 'main'"):
        checkpoint_folder(tmp_path, revision='main')


def test_a_file_and_a_mistyped_path_are_refused(tmp_path):
    (tmp_path / 'model.safetensors').touch()
    with pytest.raises(ConfigError, match='is a file, expected the folder'):
        checkpoint_folder(tmp_path / 'model.safetensors')
    with pytest.raises(ConfigError, match='no such folder, and not a hub id'):
        checkpoint_folder(tmp_path / 'chekpoint')


def test_a_hub_id_is_not_downloaded_unasked_and_the_command_is_given(monkeypatch):
    asked = []

    def snapshot_download(name, **options):
        asked.append(options['local_files_only'])
        raise hub.LocalEntryNotFoundError('not there')

    monkeypatch.setattr(hub, 'snapshot_download', snapshot_download)
    command = 'hf download openvla/openvla-7b --revision abc --include'
    with pytest.raises(ConfigError, match=f'not in the Hugging Face cache .*{command}'):
        checkpoint_folder('openvla/openvla-7b', revision='abc')
    with pytest.raises(ConfigError, match='the hub cannot be reached'):
        checkpoint_folder('openvla/openvla-7b', allow_download=True)
    assert asked == [True, False]


def test_a_cached_checkpoint_is_found_by_its_id(tmp_path):
    snapshot = tmp_path / 'cache' / 'models--someone--model' / 'snapshots' / ('a' * 40)
    snapshot.mkdir(parents=True)
    (snapshot / 'config.json').write_text('{}')
    refs = tmp_path / 'cache' / 'models--someone--model' / 'refs'
    refs.mkdir()
    (refs / 'main').write_text('a' * 40)
    assert checkpoint_folder('someone/model') == snapshot


def test_from_pretrained_reaches_for_the_hub_unless_told_not_to(monkeypatch):
    asked = []

    def snapshot_download(name, **options):
        asked.append((options['revision'], options['local_files_only']))
        raise hub.LocalEntryNotFoundError('not there')

    monkeypatch.setattr(hub, 'snapshot_download', snapshot_download)
    for options in ({'revision': 'abc'}, {'allow_download': False}):
        with pytest.raises(ConfigError, match='not in the Hugging Face cache'):
            OpenVLA.from_pretrained('openvla/openvla-7b', **options)
    assert asked == [('abc', False), (None, True)]


def test_only_data_is_ever_fetched():
    command = download_command('openvla/openvla-7b')
    assert '*.safetensors' in command
    assert not any(name in command for name in ('.py', '.bin', '.pt'))
