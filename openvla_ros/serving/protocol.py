"""The wire format of OpenVLA's ``/act`` (vla-scripts/deploy.py), without pickle.

An array travels as ``{"__numpy__": base64 of its C-order bytes, "dtype": "|u1", "shape": [H, W,
3]}`` (the format of json-numpy 2.1.1). Only the types named here are ever decoded.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from openvla_ros.core.strict_config import did_you_mean

MAX_REQUEST_BYTES = 96 * 2**20
"""Largest request accepted: a 64 MiB image in base64, with room for the text around it."""
MAX_REPLY_BYTES = 64 * 2**10
MAX_IMAGE_SIDE_PX = 8192
MIN_IMAGE_SIDE_PX = 16
MAX_ACTION_DIM = 64
MAX_JSON_VALUES = 100_000
"""Most values of a body. An image is one string; a million lists would hold Python's lock for
seconds, and nobody else would be answered."""
_REQUEST_KEYS = ('image', 'instruction', 'unnorm_key')
_BASE64_PIECE = 4 * 2**20
ABOUT_INSTRUCTION, ABOUT_OUTPUT = 'instruction', 'output'
"""What a failure of ``/predict`` is ``about``, where asking again would not help."""
ERROR_BODY = b'"error"'
"""What upstream's server answers to any failure; its clients look for this string."""


class ProtocolError(ValueError):
    """A request or reply that is not of the protocol: one sentence that says what is wrong."""


@dataclass(frozen=True)
class ActRequest:
    """One request of a client.

    Attributes:
        image: uint8[H, W, 3], RGB.
        instruction: What the human wrote.
        unnorm_key: Dataset statistics to un-normalise with; None leaves the choice to the server.
        double_encoded: The client wrapped its JSON into a string and expects the same back.
    """

    image: NDArray[np.uint8]
    instruction: str
    unnorm_key: str | None
    double_encoded: bool


def encode_array(array: NDArray[Any]) -> dict[str, Any]:
    """Return the JSON form of an array of uint8 or float64, of any shape."""
    if array.dtype not in (np.uint8, np.float64):
        raise ProtocolError(f'array: got {array.dtype}, expected uint8 or float64')
    contiguous = np.ascontiguousarray(array)
    descr = '|u1' if array.dtype == np.uint8 else '<f8'
    return {
        '__numpy__': base64.b64encode(contiguous.data).decode('ascii'),
        'dtype': descr,
        'shape': list(array.shape),
    }


def decode_array(content: Any, where: str, dtypes: tuple[str, ...]) -> NDArray[Any]:
    """Return the array that a JSON form describes.

    Args:
        content: The parsed JSON object.
        where: Name of the field, for messages.
        dtypes: The type codes accepted there, such as ``('|u1',)``.

    Raises:
        ProtocolError: it is not the JSON form of an array, its type is not accepted, or its bytes
            are not as many as its shape says.
    """
    if not isinstance(content, Mapping) or set(content) != {'__numpy__', 'dtype', 'shape'}:
        raise ProtocolError(f'{where}: expected an array with __numpy__, dtype and shape')
    dtype, shape = content['dtype'], content['shape']
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise ProtocolError(
            f'{where}: got type {str(dtype)[:20]!r}, expected {" or ".join(dtypes)}'
        )
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise ProtocolError(f'{where}: shape is not a list of positive whole numbers')
    try:
        data = _base64_bytes(content['__numpy__'])
    except (binascii.Error, ValueError, TypeError) as error:
        raise ProtocolError(f'{where}: the data is not base64: {error}') from error
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise ProtocolError(f'{where}: got {len(data)} bytes, expected {expected} for {shape}')
    return np.frombuffer(data, np.dtype(dtype)).reshape(shape)


def _base64_bytes(text: str) -> bytes:
    """Decode in pieces: the decoder holds Python's lock, and other requests are to go on."""
    pieces = (text[at : at + _BASE64_PIECE] for at in range(0, len(text), _BASE64_PIECE))
    return b''.join(base64.b64decode(piece, validate=True) for piece in pieces)


def request_body(
    image: NDArray[np.uint8], instruction: str, unnorm_key: str | None = None
) -> bytes:
    """Return the JSON body of a request.

    Args:
        image: uint8[H, W, 3], RGB.
        instruction: What the human wrote.
        unnorm_key: Left out when None.
    """
    content: dict[str, Any] = {'image': encode_array(image), 'instruction': instruction}
    if unnorm_key is not None:
        content['unnorm_key'] = unnorm_key
    return json.dumps(content).encode()


def parse_request(body: bytes) -> ActRequest:
    """Parse the body of a request, plain or double-encoded.

    Keys that are not of the protocol are ignored, as upstream's server does, because clients
    written for several servers send some; one that looks mistyped is refused.

    Raises:
        ProtocolError: the body is not a request; nothing of it may be used then.
    """
    content = _json_object(body, 'request')
    double_encoded = 'encoded' in content
    if double_encoded:
        if len(content) != 1 or not isinstance(content['encoded'], str):
            raise ProtocolError('request: encoded must be the only key and hold text')
        content = _json_object(content['encoded'], 'request: encoded')
    _refuse_oft(content)
    for key in set(content) - set(_REQUEST_KEYS):
        suggestion = did_you_mean(key, _REQUEST_KEYS)
        if suggestion:
            raise ProtocolError(f'request: unknown key {key[:40]!r}{suggestion}')
    for key in ('image', 'instruction'):
        if key not in content:
            raise ProtocolError(f'request: {key} is missing')
    unnorm_key = content.get('unnorm_key')
    if not isinstance(content['instruction'], str):
        raise ProtocolError('request: instruction is not text')
    if unnorm_key is not None and not isinstance(unnorm_key, str):
        raise ProtocolError('request: unnorm_key is not text')
    image = rgb_as_upstream(decode_array(content['image'], 'request: image', ('|u1',)))
    return ActRequest(image, content['instruction'], unnorm_key, double_encoded)


def _refuse_oft(content: Mapping[str, Any]) -> None:
    """Name the protocol of OpenVLA-OFT's clients, whose cameras have keys of their own."""
    cameras = [key for key in content if key == 'full_image' or 'wrist' in key]
    if not cameras:
        return
    shown = ', '.join(key[:40] for key in cameras[:3])
    raise ProtocolError(
        f"request: {shown}: this is OpenVLA-OFT's protocol; this server runs OpenVLA, which takes "
        "one image and no state: send image and instruction, or ask OpenVLA-OFT's own server"
    )


def rgb_as_upstream(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Convert an image as upstream's server does: ``Image.fromarray(image).convert('RGB')``.

    Args:
        image: uint8[H, W, 3] RGB, uint8[H, W, 4] RGBA (alpha is dropped, not blended),
            uint8[H, W] or uint8[H, W, 1] gray (which upstream's Pillow refuses), or
            uint8[H, W, 2] gray with alpha.

    Returns:
        uint8[H, W, 3], RGB.

    Raises:
        ProtocolError: another shape, or an implausible size.
    """
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim == 3 and image.shape[2] == 3:
        return check_image(image)
    if image.ndim != 2 and (image.ndim != 3 or image.shape[2] not in (2, 4)):
        raise ProtocolError(
            f'image: got uint8{list(image.shape)}, expected uint8[H, W, 3] in RGB order, RGBA or '
            'gray'
        )
    _check_sides(image)
    return np.asarray(Image.fromarray(image).convert('RGB'))


def check_image(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the image if it is uint8[H, W, 3] of a plausible size; raises ProtocolError."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f'{image.dtype}{list(image.shape)}'
        raise ProtocolError(f'image: got {got}, expected uint8[H, W, 3] in RGB order')
    _check_sides(image)
    return image


def _check_sides(image: NDArray[Any]) -> None:
    if not all(MIN_IMAGE_SIDE_PX <= side <= MAX_IMAGE_SIDE_PX for side in image.shape[:2]):
        raise ProtocolError(
            f'image: got {image.shape[1]} x {image.shape[0]} pixels, expected sides of '
            f'{MIN_IMAGE_SIDE_PX} to {MAX_IMAGE_SIDE_PX}'
        )


def reply_body(action: NDArray[np.float64], *, double_encoded: bool) -> bytes:
    """Return the body of a reply, byte for byte as upstream's server writes it.

    Args:
        action: float64[D], un-normalised.
        double_encoded: As the request was.
    """
    encoded = encode_array(np.asarray(action, np.float64))
    if double_encoded:
        return json.dumps(json.dumps(encoded), ensure_ascii=False).encode()
    return json.dumps(encoded, separators=(',', ':')).encode()


def parse_reply(body: bytes) -> NDArray[np.float64]:
    """Parse a reply, plain or double-encoded, and check it.

    Returns:
        float64[D], 1 <= D <= 64, all finite.

    Raises:
        ProtocolError: the server said "error", or the body is not an action.
    """
    if len(body) > MAX_REPLY_BYTES:
        raise ProtocolError(f'reply: got {len(body)} bytes, expected {MAX_REPLY_BYTES} at most')
    content = _json(body, 'reply')
    if isinstance(content, str) and content != 'error':
        content = _json(content, 'reply')
    if content == 'error':
        raise ProtocolError('reply: the server answered "error"; its log says why')
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        raise ProtocolError(
            f'reply: got {len(content)} arrays, expected one action; this is the server of '
            'OpenVLA-OFT, which answers with several'
        )
    return check_action(decode_array(content, 'reply', ('<f8', '<f4')))


def check_action(action: NDArray[Any]) -> NDArray[np.float64]:
    """Return the action as float64[D]; raises ProtocolError when it is no finite vector."""
    if action.ndim != 1 or action.size > MAX_ACTION_DIM:
        got = list(action.shape)
        raise ProtocolError(f'action: got shape {got}, expected [D] with D <= {MAX_ACTION_DIM}')
    if not np.isfinite(action).all():
        raise ProtocolError(f'action: got {action.tolist()}, expected finite numbers')
    return action.astype(np.float64)


def _json(text: bytes | str, where: str) -> Any:
    marks: tuple[Any, ...] = (',', '[', '{') if isinstance(text, str) else (b',', b'[', b'{')
    values = sum(text.count(mark) for mark in marks)
    if values > MAX_JSON_VALUES:
        raise ProtocolError(
            f'{where}: holds about {values} values, expected {MAX_JSON_VALUES} at most; an array '
            'travels as base64 in __numpy__, not as a list'
        )
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f'{where}: is not JSON: {str(error)[:120]}') from error


def _json_object(text: bytes | str, where: str) -> dict[str, Any]:
    content = _json(text, where)
    if not isinstance(content, dict):
        raise ProtocolError(f'{where}: got {type(content).__name__}, expected an object')
    return content


def _refuse_constant(name: str) -> Any:
    raise ValueError(f'{name} is not a number of JSON')
