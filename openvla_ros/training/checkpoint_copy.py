"""A checkpoint copied tensor by tensor with some of them changed, in a layout upstream loads.

What never runs is copied from the base as it is, so that upstream finds every tensor it expects.
The folder is made under another name and renamed when it is complete.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from openvla_ros.action_space.normalization import STATISTICS_FILE
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.checkpoint import (
    INDEX_FILE,
    SINGLE_FILE,
    ProgressLine,
    StoredTensor,
    read_tensor,
    stored_tensors,
)
from openvla_ros.model.config import read_json_object

#: Everything of a checkpoint's folder that is neither weights nor rewritten here.
_COPIED = ('*.json', 'tokenizer.model', 'LICENSE*')
_OWN = ('config.json', STATISTICS_FILE, INDEX_FILE)


def copy_checkpoint(
    source: Path,
    out: Path,
    change: Callable[[str, Tensor], Tensor],
    norm_stats: Mapping[str, Any],
) -> list[str]:
    """Copy a checkpoint with changed weights; one file of the source is in memory at a time.

    Args:
        source: Folder of the base checkpoint.
        out: Must not exist.
        change: From name and stored value to the value to write, of the same dtype and shape.
        norm_stats: Written as dataset_statistics.json; config.json keeps the base's.

    Returns:
        What a person should know about the copy, a sentence each.

    Raises:
        ConfigError: ``out`` exists.
        CheckpointError: the source's weights cannot be read.
    """
    refuse_existing(out)
    stored = stored_tensors(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', dir=out.parent))
    try:
        notes = _copy_configuration(source, partial)
        _write_json(partial / STATISTICS_FILE, norm_stats)
        _copy_weights(stored, partial, change)
        partial.chmod(0o755)  # mkdtemp makes it its owner's only
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return notes


def refuse_existing(out: Path) -> None:
    """Refuse to write where something is.

    Raises:
        ConfigError: ``out`` exists.
    """
    if out.exists():
        raise ConfigError(f'{out}: exists already; name another folder, or move that one away')


def _copy_weights(
    stored: Mapping[str, StoredTensor], folder: Path, change: Callable[[str, Tensor], Tensor]
) -> None:
    total, done = sum(tensor.nbytes for tensor in stored.values()), 0
    progress = ProgressLine('the base checkpoint')
    weight_map: dict[str, str] = {}
    files = dict.fromkeys(tensor.file for tensor in stored.values())
    for path in files:
        content: dict[str, Tensor] = {}
        tensors = [tensor for tensor in stored.values() if tensor.file == path]
        with path.open('rb', buffering=0) as file:
            for tensor in sorted(tensors, key=lambda t: t.start):
                value = read_tensor(file, tensor)
                content[tensor.name] = change(tensor.name, value).to(value.dtype).contiguous()
                done += tensor.nbytes
                progress(done, total)
        name = SINGLE_FILE if len(files) == 1 else path.name
        save_file(content, str(folder / name), metadata={'format': 'pt'})
        (folder / name).chmod(0o644)  # safetensors makes it readable for its owner only
        weight_map |= dict.fromkeys(content, name)
    if len(files) > 1:
        index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
        _write_json(folder / INDEX_FILE, index)


def _copy_configuration(source: Path, folder: Path) -> list[str]:
    """Copy every file that is not weights; leave out ``auto_map`` where its code is not there."""
    for pattern in _COPIED:
        for path in source.glob(pattern):
            if path.name not in _OWN:
                shutil.copyfile(path, folder / path.name)
    notes, wanted = [], set()
    for name in ('config.json', 'preprocessor_config.json', 'processor_config.json'):
        if not (source / name).is_file():
            continue
        content = read_json_object(source / name)
        # transformers calls 'module.Class', or 'repository--module.Class' where code is elsewhere.
        modules = [str(target) for target in (content.get('auto_map') or {}).values()]
        files = {f'{m.split(".")[0]}.py' for m in modules if '--' not in m}
        if all((source / file).is_file() for file in files):
            wanted |= files
        elif content.pop('auto_map', None):
            notes.append(
                f'{name}: auto_map is left out, as {", ".join(sorted(files))} are not beside the '
                'base checkpoint: register the OpenVLA classes with transformers before loading'
            )
        _write_json(folder / name, content)
    for file in wanted:
        shutil.copyfile(source / file, folder / file)
    return notes


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n', encoding='utf-8')
