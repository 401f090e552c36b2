"""Where a checkpoint is: a folder, the Hugging Face cache, or, only when asked, the hub."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from openvla_ros.core.strict_config import ConfigError

# Data only: what could run code (Python files, pickles) is not even fetched.
_PATTERNS = ['*.json', '*.safetensors', 'tokenizer.model', 'README.md', 'LICENSE*']
_HUB_ID = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')


def checkpoint_folder(
    path_or_hub_id: str | Path, *, revision: str | None = None, allow_download: bool = False
) -> Path:
    """Return the folder of a checkpoint named by its path or its hub id.

    Args:
        path_or_hub_id: A folder, or an id such as 'openvla/openvla-7b'.
        revision: Branch, tag or commit of a hub id.
        allow_download: Fetch what the local cache does not have; otherwise nothing is downloaded.

    Raises:
        ConfigError: there is no such folder, or the id is not in the cache (the message has the
            command that downloads it) or not on the hub.
    """
    path = Path(path_or_hub_id).expanduser()
    name = str(path_or_hub_id)
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f'{path}: is a folder, which has no revision; got {revision!r}')
        return path
    if path.is_file():
        raise ConfigError(f'{path}: is a file, expected the folder of a checkpoint')
    if not _HUB_ID.fullmatch(name):
        raise ConfigError(f'{name}: no such folder, and not a hub id such as openvla/openvla-7b')
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=not allow_download,
                allow_patterns=_PATTERNS,
            )
        )
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f'{name}: no such folder, and not in the Hugging Face cache'
            + (f' at revision {revision}' if revision else '')
            + (', and the hub cannot be reached' if allow_download else '')
            + f'; download it with `{download_command(name, revision)}`'
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise ConfigError(f'{name}: cannot be had from the hub: {error}') from error


def download_command(hub_id: str, revision: str | None = None) -> str:
    """Return the shell command that puts a checkpoint into the cache."""
    at = f' --revision {revision}' if revision else ''
    includes = ' '.join(f"--include '{pattern}'" for pattern in _PATTERNS[:3])
    return f'hf download {hub_id}{at} {includes}'
