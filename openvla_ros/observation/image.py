"""Camera image to network input: the training-time recipe, then the checkpoint's processor."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy import sparse

from openvla_ros.core.strict_config import ConfigError, did_you_mean

_RESAMPLING = {
    'nearest': Image.Resampling.NEAREST,
    'bilinear': Image.Resampling.BILINEAR,
    'bicubic': Image.Resampling.BICUBIC,
    'box': Image.Resampling.BOX,
    'hamming': Image.Resampling.HAMMING,
    'lanczos': Image.Resampling.LANCZOS,
}
_STRATEGIES = ('resize-naive', 'letterbox', 'resize-crop')
_CROP_AREA = np.float32(0.9)  # the evaluation crop of models trained with image augmentation


@dataclasses.dataclass(frozen=True)
class TowerInput:
    """What one vision tower wants: a square side in pixels and the scaling of three channels."""

    size: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class ImageSpec:
    """How a checkpoint turns RGB images into pixel values, from preprocessor_config.json."""

    resize_strategy: str
    letterbox_fill: tuple[int, int, int] | None
    towers: tuple[TowerInput, ...]

    @property
    def size(self) -> int:
        """Side of the network's square input in pixels."""
        return self.towers[0].size

    @property
    def channels(self) -> int:
        """Channels of the network's input: three per tower."""
        return 3 * len(self.towers)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], where: str = 'preprocessor_config.json'
    ) -> 'ImageSpec':
        """Read the content of a preprocessor_config.json.

        ``image_resize_strategy`` decides; the derived ``tvf_*`` entries are checked against what
        they derive from. Three exceptions. A stored letterbox colour wins over the derived one,
        and stored ``tvf_normalize_params`` that are the bfloat16 rounding of means and stds win
        over those, as in the original processor: the released files were written under bfloat16,
        and training and inference used the rounded numbers. ``tvf_do_letterbox: false`` beside a
        letterbox is passed over: it is what that processor starts from, and stays when only the
        strategy is edited.

        Raises:
            ConfigError: a key is missing, of another type, unknown or contradicts another.
        """
        strategy = _entry(config, 'image_resize_strategy', str, where)
        if strategy not in _STRATEGIES:
            raise ConfigError(
                f'{where}: image_resize_strategy: got {strategy!r}'
                f'{did_you_mean(strategy, _STRATEGIES)}, expected one of {", ".join(_STRATEGIES)}'
            )
        sizes = _entry(config, 'input_sizes', list, where)
        lists = [_entry(config, key, list, where) for key in ('interpolations', 'means', 'stds')]
        if not sizes or any(len(values) != len(sizes) for values in lists):
            raise ConfigError(
                f'{where}: input_sizes, interpolations, means and stds have '
                f'{[len(sizes), *map(len, lists)]} entries, expected one per vision tower in each'
            )
        towers = tuple(
            _tower_input(size, interpolation, mean, std, f'{where}: tower {i}')
            for i, (size, interpolation, mean, std) in enumerate(zip(sizes, *lists))
        )
        if len({tower.size for tower in towers}) > 1:
            raise ConfigError(
                f'{where}: input_sizes: got {sizes}, expected the same size for every tower, '
                'whose images are stacked on channels'
            )
        fused = config.get('use_fused_vision_backbone')
        if isinstance(fused, bool) and fused != (len(towers) == 2):
            raise ConfigError(
                f'{where}: use_fused_vision_backbone is {fused}, but input_sizes describes '
                f'{len(towers)} tower(s)'
            )
        _check_derived_entries(config, strategy, towers, where)
        fill = _letterbox_fill(config, strategy, towers, where)
        normalized = (_as_normalized(config, i, tower, where) for i, tower in enumerate(towers))
        return cls(strategy, fill, tuple(normalized))


@dataclasses.dataclass(frozen=True)
class ImageRecipe:
    """What happened to training images before the processor; a fact of the dataset profile.

    Attributes:
        resize: 'lanczos3' squashes to the network's size as the training loader did; 'none'
            leaves the whole resize to the processor.
        center_crop: Keep the central 90 % of the area (models trained with image augmentation).
        rotate_180: Turn the image upside down first (LIBERO's simulated camera).
        jpeg_roundtrip: Through JPEG (quality 95, 4:2:0) first, as official evaluations do.
    """

    resize: Literal['lanczos3', 'none'] = 'lanczos3'
    center_crop: bool = False
    rotate_180: bool = False
    jpeg_roundtrip: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown resize."""
        if self.resize not in ('lanczos3', 'none'):
            raise ConfigError(f'resize: got {self.resize!r}, expected one of lanczos3, none')


def preprocess_image(image: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.float32]:
    """Resize and normalise one image, bit for bit as OpenVLA's processor does.

    Args:
        image: uint8[H, W, 3], RGB.
        spec: The checkpoint's image specification.

    Returns:
        float32[C, S, S] with C = 3 per tower; tower after tower on channels.

    Raises:
        ValueError: the image has another shape or dtype.
    """
    pixel_values = np.empty((spec.channels, spec.size, spec.size), np.float32)
    planes: dict[str, NDArray[np.intp]] = {}
    for i, tower in enumerate(spec.towers):
        # Towers of one size and filter, the usual case, share one resize.
        if tower.interpolation not in planes:
            levels = resize_image(image, spec, i).transpose(2, 0, 1)
            planes[tower.interpolation] = levels.astype(np.intp)
        table = _normalisation_table(tower.mean, tower.std)
        for channel, plane in enumerate(planes[tower.interpolation]):
            # 'clip' only because numpy would otherwise buffer the output; levels fit the table.
            table[channel].take(plane, out=pixel_values[3 * i + channel], mode='clip')
    return pixel_values


def resize_image(image: NDArray[np.uint8], spec: ImageSpec, tower: int = 0) -> NDArray[np.uint8]:
    """Do the first half of ``preprocess_image``: uint8[H, W, 3] to what a tower sees, [S, S, 3].

    Raises:
        ValueError: the image has another shape or dtype.
    """
    check_rgb_image(image)
    picture = Image.fromarray(image)
    if spec.letterbox_fill is not None:
        picture = _pad_to_square(picture, spec.letterbox_fill)
    return np.asarray(_resize(picture, spec.towers[tower], spec.resize_strategy))


def apply_recipe(image: NDArray[np.uint8], recipe: ImageRecipe, size: int) -> NDArray[np.uint8]:
    """Do to a camera image what was done to the training images before the processor.

    Args:
        image: uint8[H, W, 3], RGB.
        recipe: Which steps, in the original evaluation's order: rotate, JPEG, squash, crop.
        size: Side S of the network's input in pixels.

    Returns:
        uint8[S, S, 3], or [H, W, 3] where the recipe neither squashes nor crops.

    Raises:
        ValueError: the image has another shape or dtype.
    """
    check_rgb_image(image)
    if recipe.rotate_180:
        image = image[::-1, ::-1]
    if recipe.jpeg_roundtrip:
        image = _through_jpeg(image)
    if recipe.resize == 'lanczos3':
        image = squash_lanczos3(image, size)
    if recipe.center_crop:
        image = crop_center_area(image, size)
    return np.ascontiguousarray(image)


def squash_lanczos3(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize uint8[H, W, 3] to [size, size, 3], as tf.image.resize(lanczos3, antialias=True).

    Separable, half-pixel centres, kernel widened by the scale when shrinking, weights normalised
    at the edges; within one level of TensorFlow's float32 (which rounds to nearest, ties to even).
    """
    height, width = image.shape[:2]
    if (height, width) == (size, size):
        return image
    rows, columns = _sparse_lanczos3(height, size), _sparse_lanczos3(width, size)
    # Few of the weights are not zero; as dense matrices this takes three times as long.
    squashed = rows @ image.reshape(height, -1).astype(np.float64)
    by_column = squashed.reshape(size, width, 3).transpose(1, 0, 2).reshape(width, -1)
    squashed = (columns @ by_column).reshape(size, size, 3).transpose(1, 0, 2)
    return np.asarray(np.clip(np.rint(squashed), 0, 255), np.uint8)


@lru_cache(maxsize=16)
def _sparse_lanczos3(length: int, size: int) -> sparse.csr_matrix:
    return sparse.csr_matrix(lanczos3_weights(length, size))


@lru_cache(maxsize=16)
def lanczos3_weights(length: int, size: int) -> NDArray[np.float64]:
    """Return the float64[size, length] matrix that resamples ``length`` samples to ``size``."""
    step = length / size
    scale = max(step, 1.0)
    centers = (np.arange(size)[:, None] + 0.5) * step
    distance = (np.arange(length)[None, :] + 0.5 - centers) / scale
    weights = np.where(np.abs(distance) < 3.0, np.sinc(distance) * np.sinc(distance / 3.0), 0.0)
    normalised = weights / weights.sum(axis=1, keepdims=True)
    normalised.setflags(write=False)
    return np.asarray(normalised)


def crop_center_area(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Crop the central 90 % of the area of uint8[H, W, 3] and resize it to [size, size, 3].

    float32 arithmetic in the order of tf.image.crop_and_resize (bilinear, corners aligned, no
    antialias) between tf.image.convert_image_dtype to float and back.
    """
    scaled = image.astype(np.float32) * np.float32(1.0 / 255.0)
    side = np.sqrt(_CROP_AREA)
    top, bottom, down = _crop_taps(image.shape[0], size, side)
    left, right, along = _crop_taps(image.shape[1], size, side)
    along = along[None, :, None]

    def across(rows: NDArray[np.intp]) -> NDArray[np.float32]:
        first = scaled[rows][:, left]
        return np.asarray(first + (scaled[rows][:, right] - first) * along)

    upper = across(top)
    cropped = upper + (across(bottom) - upper) * down[:, None, None]
    return (np.clip(cropped, 0.0, 1.0) * np.float32(255.5)).astype(np.uint8)


def check_rgb_image(image: NDArray[np.uint8]) -> None:
    """Raise ValueError unless the image is a non-empty uint8[H, W, 3]."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(
            f'image: got {image.dtype}{list(image.shape)}, expected a non-empty uint8[H, W, 3] '
            'in RGB order'
        )


def _crop_taps(
    length: int, size: int, side: np.float32
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    start = (np.float32(1.0) - side) / np.float32(2.0)
    stop = start + side
    last = np.float32(length - 1)
    step = (stop - start) * last / np.float32(max(size - 1, 1))
    position = start * last + np.arange(size, dtype=np.float32) * step
    before = np.floor(position)
    after = np.minimum(np.ceil(position), last)
    return before.astype(np.intp), after.astype(np.intp), (position - before).astype(np.float32)


def _through_jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    # 4:2:0 at quality 95: what tf.io.encode_jpeg does by default.
    Image.fromarray(np.ascontiguousarray(image)).save(
        buffer, format='JPEG', quality=95, subsampling=2
    )
    return np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert('RGB'))


def resample(
    picture: Image.Image, width: int, height: int, method: Image.Resampling
) -> Image.Image:
    """Resize across, then down, as every Pillow did that OpenVLA was trained with.

    Pillow 13 begins with the cheaper direction. Between the two it rounds to 8 bits, so many
    pictures taller than wide would get other pixels (by 1 level at 720x1280, by up to 23 at
    220x250).
    """
    if picture.width != width:
        picture = picture.resize((width, picture.height), method)
    if picture.height != height:
        picture = picture.resize((width, height), method)
    return picture


def _resize(picture: Image.Image, tower: TowerInput, strategy: str) -> Image.Image:
    size, method = tower.size, _RESAMPLING[tower.interpolation]
    if strategy == 'resize-naive':
        return resample(picture, size, size, method)
    width, height = picture.size
    if width <= height:
        target = (size, int(size * height / width))
    else:
        target = (int(size * width / height), size)
    picture = resample(picture, *target, method)
    # round() is to even here, as in torchvision's centre crop.
    left = round((target[0] - size) / 2.0)
    top = round((target[1] - size) / 2.0)
    return picture.crop((left, top, left + size, top + size))


def _pad_to_square(picture: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    # An odd difference leaves the picture one pixel short of square; so does the original.
    width, height = picture.size
    side = max(width, height)
    across, down = (side - width) // 2, (side - height) // 2
    return ImageOps.expand(picture, border=(across, down, across, down), fill=fill)


@lru_cache(maxsize=16)
def _normalisation_table(
    mean: tuple[float, float, float], std: tuple[float, float, float]
) -> NDArray[np.float32]:
    # A pixel has 256 values: the float32 arithmetic of the original is done once per value.
    level = np.arange(256, dtype=np.float32) / np.float32(255.0)
    shift = np.asarray(mean, np.float32)[:, None]
    scale = np.asarray(std, np.float32)[:, None]
    return np.asarray((level[None, :] - shift) / scale)


def _tower_input(size: Any, interpolation: Any, mean: Any, std: Any, where: str) -> TowerInput:
    if (
        not isinstance(size, (list, tuple))
        or len(size) != 3
        or any(type(value) is not int or value < 1 for value in size)
        or size[0] != 3
        or size[1] != size[2]
    ):
        raise ConfigError(f'{where}: input_sizes: got {size}, expected [3, S, S]')
    if interpolation not in _RESAMPLING:
        raise ConfigError(
            f'{where}: interpolations: got {interpolation!r}, expected one of '
            f'{", ".join(_RESAMPLING)}'
        )
    means = _triple(mean, f'{where}: means')
    stds = _triple(std, f'{where}: stds')
    if min(stds) <= 0:
        raise ConfigError(f'{where}: stds: got {std}, expected positive numbers')
    return TowerInput(size[1], interpolation, means, stds)


def _triple(values: Any, where: str) -> tuple[float, float, float]:
    if (
        not isinstance(values, (list, tuple))
        or len(values) != 3
        or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values)
        or not np.isfinite(values).all()
    ):
        raise ConfigError(f'{where}: got {values}, expected three finite numbers')
    return float(values[0]), float(values[1]), float(values[2])


def _entry(config: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in config:
        raise ConfigError(f'{where}: key {key!r} is missing')
    value = config[key]
    if isinstance(value, tuple) and kind is list:
        value = list(value)
    if not isinstance(value, kind):
        raise ConfigError(f'{where}: {key}: got {value!r}, expected a {kind.__name__}')
    return value


def _letterbox_fill(
    config: Mapping[str, Any], strategy: str, towers: Sequence[TowerInput], where: str
) -> tuple[int, int, int] | None:
    if strategy != 'letterbox':
        return None
    fill = config.get('tvf_letterbox_fill')
    if fill is None:
        # The original loops over the towers and keeps the last one's colour.
        red, green, blue = towers[-1].mean
        return int(red * 255), int(green * 255), int(blue * 255)
    red, green, blue = _triple(fill, f'{where}: tvf_letterbox_fill')
    return int(red), int(green), int(blue)


def _check_derived_entries(
    config: Mapping[str, Any], strategy: str, towers: Sequence[TowerInput], where: str
) -> None:
    if config.get('tvf_do_letterbox') is True and strategy != 'letterbox':
        raise ConfigError(
            f'{where}: tvf_do_letterbox is true, but image_resize_strategy is {strategy!r}; the '
            'file contradicts itself'
        )
    for i, tower in enumerate(towers):
        whole = [tower.size, tower.size]
        expected = {
            ('tvf_resize_params', 'size'): whole if strategy == 'resize-naive' else tower.size,
            ('tvf_crop_params', 'output_size'): whole,
            ('tvf_resize_params', 'interpolation'): int(_RESAMPLING[tower.interpolation]),
        }
        for (group, name), want in expected.items():
            got = _stored_entry(config, group, i, name, where)
            if got is not None and got != want:
                raise ConfigError(
                    f'{where}: {group}[{i}].{name} is {got}, but the other entries say {want}; '
                    'the file contradicts itself'
                )


def _as_normalized(
    config: Mapping[str, Any], index: int, tower: TowerInput, where: str
) -> TowerInput:
    """Return the tower with the mean and std that the original processor computes with."""
    used = {'mean': tower.mean, 'std': tower.std}
    for name, key, derived in (('mean', 'means', tower.mean), ('std', 'stds', tower.std)):
        stored = _stored_entry(config, 'tvf_normalize_params', index, name, where)
        if stored is None:
            continue
        at = f'{where}: tvf_normalize_params[{index}].{name}'
        got, exact = _triple(stored, at), np.asarray(derived, np.float32)
        rounded = _rounded_to_bfloat16(exact)
        if not any(np.array_equal(np.asarray(got, np.float32), v) for v in (exact, rounded)):
            raise ConfigError(
                f'{at}: got {list(got)}, expected {key}[{index}] {list(derived)} or its bfloat16 '
                f'rounding {rounded.tolist()}; the file contradicts itself, download it again'
            )
        used[name] = got
    return dataclasses.replace(tower, mean=used['mean'], std=used['std'])


def _stored_entry(config: Mapping[str, Any], group: str, index: int, name: str, where: str) -> Any:
    """Return a derived entry of a tower as the file stores it; None where it does not."""
    entries = config.get(group)
    if entries is None:
        return None
    if not isinstance(entries, list) or any(not isinstance(e, Mapping) for e in entries):
        raise ConfigError(f'{where}: {group}: got {entries!r}, expected a list of mappings')
    return entries[index].get(name) if index < len(entries) else None


def _rounded_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round float32 to the nearest bfloat16, ties to even, and back."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(
        16
    )
    return np.asarray((rounded << np.uint32(16)).view(np.float32))
