"""Weights on disk: headers first, every name and shape checked, then tensor by tensor.

A safetensors file is an 8-byte length, a JSON header of that length, and the tensors' bytes.
Reading them straight into their parameters keeps the peak at one copy of the weights (plus one
tensor where the dtype or the device changes); memory-mapping would add the file as a second one.
"""

import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SINGLE_FILE = 'model.safetensors'
INDEX_FILE = 'model.safetensors.index.json'
_DTYPES = {
    'BF16': torch.bfloat16,
    'F16': torch.float16,
    'F32': torch.float32,
    'F64': torch.float64,
}
_PICKLE_SUFFIXES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl')
_MAX_HEADER_BYTES = 100_000_000
_PICKLE_HEADS = (b'PK\x03\x04', *(bytes([0x80, protocol]) for protocol in range(2, 6)))
# Written by very old transformers; a function of the configuration, recomputed in float32.
_IGNORED = re.compile(r'language_model\.model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq')

Progress = Callable[[int, int], None]
Change = Callable[[str, Tensor], Tensor]
Place = Callable[[str, Tensor], bool]


class CheckpointError(ValueError):
    """The files of a checkpoint cannot be used; the message names the file and the tensor."""


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where one tensor's bytes are."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    nbytes: int


def stored_tensors(folder: str | Path) -> dict[str, StoredTensor]:
    """List the tensors of a checkpoint folder, sharded or not, without reading their bytes.

    Raises:
        CheckpointError: a file is missing, truncated, a git-LFS pointer, a pickle, or the index
            does not fit the shards.
    """
    folder = Path(folder)
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.is_file() and index.is_file():
        raise CheckpointError(
            f'{folder}: holds both {SINGLE_FILE} and {INDEX_FILE}, which may disagree; remove the '
            'one that is not meant'
        )
    if single.is_file():
        return {tensor.name: tensor for tensor in read_header(single)}
    if index.is_file():
        return _sharded(index)
    raise CheckpointError(_no_weights(folder))


def read_header(path: Path) -> list[StoredTensor]:
    """Read one safetensors file's header and check it against the file's size.

    Raises:
        CheckpointError: it is not a whole safetensors file of float tensors.
    """
    try:
        with path.open('rb') as file:
            size = path.stat().st_size
            head = file.read(8)
            _refuse_other_formats(path, head + file.read(64))
            length = int.from_bytes(head, 'little')
            if len(head) < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
                raise CheckpointError(
                    f'{path}: has {size} bytes, too few for the header it announces; the file is '
                    'truncated or not a safetensors file; download it again'
                )
            file.seek(8)
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(f'{path}: cannot be read: {error.strerror or error}') from error
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f'{path}: its header is not JSON: {error}') from error
    if not isinstance(header, dict):
        raise CheckpointError(f'{path}: its header holds no tensors; download it again')
    header.pop('__metadata__', None)
    tensors = [_stored(name, entry, path, 8 + length) for name, entry in header.items()]
    _check_extent(path, size, 8 + length, tensors)
    return tensors


def check_tensors(
    stored: Mapping[str, StoredTensor],
    used: Mapping[str, tuple[int, ...]],
    unused: Mapping[str, tuple[int, ...]],
    where: str | Path,
) -> None:
    """Refuse a checkpoint whose tensors are not exactly the architecture's.

    Args:
        stored: What the files hold.
        used: Name and shape of every tensor that is computed with.
        unused: Name and shape of those the architecture has but never runs.
        where: The checkpoint, for messages.

    Raises:
        CheckpointError: a tensor is missing, superfluous or of another shape.
    """
    expected = {**used, **unused}
    missing = [name for name in expected if name not in stored]
    extra = [name for name in stored if name not in expected and not _IGNORED.fullmatch(name)]
    if extra:
        file = stored[extra[0]].file
        raise CheckpointError(
            f'{file}: tensor {_listed(extra)} does not belong to the architecture config.json '
            f'describes' + (f', and {_listed(missing)} is missing' if missing else '')
        )
    if missing:
        files = {tensor.file for tensor in stored.values()}
        lacking = files.pop() if len(files) == 1 else Path(where) / INDEX_FILE
        raise CheckpointError(
            f'{lacking}: tensor {_listed(missing)} is missing; the architecture config.json '
            f'describes has {len(expected)} tensors, the checkpoint holds {len(stored)}'
        )
    for name, shape in expected.items():
        if stored[name].shape != shape:
            raise CheckpointError(
                f'{stored[name].file}: tensor {name} has shape {list(stored[name].shape)}, '
                f'expected {list(shape)} from config.json'
            )


def load_weights(
    module: nn.Module,
    stored: Iterable[StoredTensor],
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    progress: Progress | None = None,
    change: Change | None = None,
    place: Place | None = None,
) -> None:
    """Stream tensors into a module built on the meta device.

    Args:
        module: Its parameters of the stored tensors' names are replaced; others are left alone.
        stored: What to read; in the order of files and offsets whatever the order given.
        dtype: Of the new parameters.
        device: Of the new parameters.
        progress: Called with (bytes read, bytes in all) after every tensor.
        change: Called with every tensor's name and its value on the CPU in the new dtype; gives
            the value to use, for instance with an adapter merged in.
        place: Then called with name and value; true means that it has taken the tensor, for
            instance quantised it.

    Raises:
        CheckpointError: a file ended early.
    """
    ordered = sorted(stored, key=lambda tensor: (str(tensor.file), tensor.start))
    total, done = sum(tensor.nbytes for tensor in ordered), 0
    by_file: dict[Path, list[StoredTensor]] = {}
    for tensor in ordered:
        by_file.setdefault(tensor.file, []).append(tensor)
    for path, tensors in by_file.items():
        # Unbuffered: the bytes go from the page cache into the parameter, with no copy between.
        with path.open('rb', buffering=0) as file:
            for tensor in tensors:
                value = read_tensor(file, tensor).to(dtype)
                if change is not None:
                    value = change(tensor.name, value)
                if place is None or not place(tensor.name, value):
                    _set_parameter(module, tensor.name, value.to(device))
                done += tensor.nbytes
                if progress is not None:
                    progress(done, total)


def read_tensor(file: BinaryIO, stored: StoredTensor) -> Tensor:
    """Read one tensor's bytes from its open file into a new CPU tensor of its stored dtype."""
    value = torch.empty(stored.shape, dtype=stored.dtype)
    if not stored.nbytes:
        return value
    view = value.reshape(-1).view(torch.uint8).numpy().data
    file.seek(stored.start)
    filled = 0
    while filled < stored.nbytes:
        count = file.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(
                f'{stored.file}: ends inside tensor {stored.name}; download the file again'
            )
        filled += count
    return value


def save_weights(
    state: Mapping[str, Tensor],
    unused: Mapping[str, tuple[int, ...]],
    folder: Path,
    max_shard_bytes: int,
) -> None:
    """Write tensors as model.safetensors, or as shards with an index where they are larger.

    Args:
        state: What the network computes with.
        unused: Name and shape of what it does not have but the layout does; written as zeros.
        folder: Exists; files of an earlier checkpoint there are replaced.
        max_shard_bytes: Of one file.

    Raises:
        OSError: the folder cannot be written.
    """
    dtype = next(iter(state.values())).dtype
    tensors: dict[str, Tensor] = dict(state)
    tensors |= {name: torch.zeros(shape, dtype=dtype) for name, shape in unused.items()}
    for stale in [*folder.glob('model*.safetensors'), folder / INDEX_FILE]:
        stale.unlink(missing_ok=True)
    shards = _shards(tensors, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for i, names in enumerate(shards, start=1):
        single = len(shards) == 1
        file = SINGLE_FILE if single else f'model-{i:05d}-of-{len(shards):05d}.safetensors'
        content = {name: tensors[name].detach().cpu().contiguous() for name in names}
        save_file(content, str(folder / file), metadata={'format': 'pt'})
        (folder / file).chmod(0o644)  # safetensors makes it readable for its owner only
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors.values())
        index = {'metadata': {'total_size': total}, 'weight_map': weight_map}
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2) + '\n', encoding='utf-8')


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


class ProgressLine:
    """Shows how far a long load is, on stderr: every two seconds, and only above 1 GB."""

    def __init__(self, what: str, *, least_bytes: int = 1_000_000_000) -> None:
        self._what = what
        self._least_bytes = least_bytes
        self._shown_s = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Show ``done`` of ``total`` bytes."""
        now_s = time.monotonic()
        if total < self._least_bytes or (now_s - self._shown_s < 2.0 and done < total):
            return
        self._shown_s = now_s
        print(
            f'loading {self._what}: {done / 1e9:.1f} of {total / 1e9:.1f} GB '
            f'({100 * done // total} %)',
            file=sys.stderr,
            flush=True,
        )


def _sharded(index: Path) -> dict[str, StoredTensor]:
    try:
        content = json.loads(index.read_text(encoding='utf-8'))
        weight_map = content['weight_map']
        shards = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f'{index}: is not an index of shards ({type(error).__name__}: {error}); download it '
            'again'
        ) from error
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise CheckpointError(f'{index}: shard {shard!r} is not a plain file name')
        _refuse_pickle_name(index, shard)
        if not (index.parent / shard).is_file():
            raise CheckpointError(
                f'{index.parent / shard}: is missing, but {index.name} lists it; download it again'
            )
        for tensor in read_header(index.parent / shard):
            if weight_map.get(tensor.name) != shard:
                raise CheckpointError(
                    f'{tensor.file}: holds tensor {tensor.name}, which {index.name} '
                    f'places in {weight_map.get(tensor.name)!r}; the files do not belong together'
                )
            tensors[tensor.name] = tensor
    for name, shard in weight_map.items():
        if name not in tensors:
            raise CheckpointError(
                f'{index.parent / shard}: tensor {name} is missing, but {index.name} places it '
                'there'
            )
    return tensors


def _stored(name: str, entry: Any, path: Path, data_start: int) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = entry['dtype'], tuple(entry['shape']), entry['data_offsets']
        count = 1
        for side in shape:
            count *= side
        if not 0 <= begin <= end or any(side < 0 for side in shape):
            raise ValueError('negative size')
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'{path}: the header entry of tensor {name} is damaged ({error}); download it again'
        ) from error
    if dtype not in _DTYPES:
        raise CheckpointError(
            f'{path}: tensor {name} is {dtype}, expected one of {", ".join(_DTYPES)}; weights '
            'quantised before saving are not supported, quantise while loading instead'
        )
    if end - begin != count * _DTYPES[dtype].itemsize:
        raise CheckpointError(
            f'{path}: tensor {name} has {end - begin} bytes, expected '
            f'{count * _DTYPES[dtype].itemsize} for shape {list(shape)} of {dtype}'
        )
    return StoredTensor(name, path, _DTYPES[dtype], shape, data_start + begin, end - begin)


def _check_extent(path: Path, size: int, data_start: int, tensors: list[StoredTensor]) -> None:
    position = data_start
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.nbytes)):
        if tensor.start != position:
            raise CheckpointError(
                f'{path}: tensor {tensor.name} begins at byte {tensor.start}, expected '
                f'{position}; the header is damaged'
            )
        position += tensor.nbytes
        if position > size:
            raise CheckpointError(
                f'{path}: is truncated: tensor {tensor.name} ends at byte {position}, the file at '
                f'{size}; download it again'
            )
    if position != size:
        raise CheckpointError(
            f'{path}: has {size} bytes, but its tensors end at {position}; download it again'
        )


def _refuse_other_formats(path: Path, head: bytes) -> None:
    if head.startswith(b'version https://git-lfs'):
        raise CheckpointError(
            f'{path}: is a git-LFS pointer, not the weights; run `git lfs pull` in its repository'
        )
    # A header of 640 bytes begins like a pickle too; only a pickle's goes on to a huge length.
    if head.startswith(_PICKLE_HEADS) and int.from_bytes(head[:8], 'little') > _MAX_HEADER_BYTES:
        raise CheckpointError(
            f'{path}: is a pickle, which can run code when it is loaded; only safetensors files '
            'are read'
        )


def _refuse_pickle_name(where: Path, name: str) -> None:
    if name.endswith(_PICKLE_SUFFIXES):
        raise CheckpointError(
            f'{where}: names {name}, a pickle, which can run code when it is loaded; only '
            'safetensors files are read'
        )


def _no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f'{folder}: is not a folder'
    names = sorted(path.name for path in folder.iterdir())
    pickles = [n for n in names if n.endswith((*_PICKLE_SUFFIXES, '.bin.index.json'))]
    if pickles:
        return (
            f'{folder / pickles[0]}: is a pickle, which can run code when it is loaded; only '
            'safetensors files are read; convert the checkpoint where it came from'
        )
    if any(name.endswith('.safetensors') for name in names):
        return f'{folder / INDEX_FILE}: is missing, but the folder holds shards; download it again'
    return f'{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}'


def _set_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    parent, _, leaf = name.rpartition('.')
    owner = module.get_submodule(parent)
    trainable = owner.get_parameter(leaf).requires_grad
    setattr(owner, leaf, nn.Parameter(value, requires_grad=trainable))


def _listed(names: list[str]) -> str:
    shown = ', '.join(names[:3])
    return shown if len(names) <= 3 else f'{shown} and {len(names) - 3} more'
