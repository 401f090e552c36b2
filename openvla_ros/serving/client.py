"""Inference on another machine: a client of OpenVLA's ``/act`` protocol that never needs torch."""

import json
import time
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from openvla_ros.action_space.normalization import (
    ActionStats,
    parse_norm_stats,
    resolve_unnorm_key,
)
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.observation.instruction import InstructionRefused
from openvla_ros.policy.inference import BackendUnavailable, PredictedAction
from openvla_ros.serving.foreign_server import OPENPI, foreign_server
from openvla_ros.serving.protocol import (
    ABOUT_INSTRUCTION,
    ABOUT_OUTPUT,
    MAX_REPLY_BYTES,
    ProtocolError,
    check_action,
    check_image,
    decode_array,
    parse_reply,
    request_body,
)

UPSTREAM_IMAGE_SIZE = 224
"""Side of the input of every checkpoint that upstream's server serves [px]."""
MAX_HEALTH_BYTES = 4 * 2**20
"""Statistics of some hundred datasets fit; anything larger is not a health report."""
_NOT_READY = (429, 500, 502, 503, 504)
"""To ask again; any other answer but our own report is of a server that has no /health."""


class RemoteBackend:
    """An inference backend whose network runs behind ``server_url``.

    Our own server (``python -m openvla_ros.serving``) also tells its statistics, tokens and
    stage times; upstream's server tells the action alone.

    Attributes:
        description: The server's address and what it says it runs.
        image_size: Side of the network's input [px]; upstream's 224 until the server says.
        norm_stats: Statistics by unnorm_key, or None when the server does not tell them.
    """

    def __init__(self, server_url: str, unnorm_key: str, *, timeout_s: float = 2.0) -> None:
        """Prepare the client; nothing is sent before :meth:`warm_up`.

        Args:
            server_url: For example 'http://gpu-box:8000'.
            unnorm_key: Sent with every request.
            timeout_s: Longest wait for one answer, sending and computing included.

        Raises:
            ConfigError: the address is not an http or https address, or the time is not positive.
        """
        self._url = _checked_url(server_url)
        if not 0.0 < timeout_s < 600.0:
            raise ConfigError(f'server_timeout_s: got {timeout_s}, expected between 0 and 600')
        self._unnorm_key = unnorm_key
        self._timeout_s = timeout_s
        # A robot talks to its own network: proxies of the environment are not asked.
        self._http = httpx.Client(trust_env=False, follow_redirects=False)
        self._detailed = False
        self.description = f'server {self._url}'
        self.image_size = UPSTREAM_IMAGE_SIZE
        self.norm_stats: Mapping[str, ActionStats] | None = None

    def warm_up(self) -> None:
        """Ask the server what it is.

        Raises:
            BackendUnavailable: it does not answer, or is not ready.
            ConfigError: its statistics are not usable, or it is another project's server.
            UnnormKeyError: it answers and does not have the statistics of our unnorm_key.
        """
        status, body = self._exchange('GET', '/health', None, MAX_HEALTH_BYTES)
        if status in _NOT_READY:
            raise BackendUnavailable(
                f'server {self._url} is not ready: HTTP {status}{_said(body)}'
            )
        if status == 200 and _is_our_health(body):
            self._read_health(body)
            return
        foreign = foreign_server(status, self._ask)
        if foreign is not None:
            raise ConfigError(f'server_url {self._url}: {_not_openvla(foreign)}')
        self._detailed = False
        self.description = f"server {self._url} (speaks upstream's /act alone)"

    def unnorm_keys(self) -> list[str]:
        """Return the keys of the statistics the server has; empty where it does not tell them.

        Raises:
            BackendUnavailable: it does not answer.
            ConfigError: its statistics are not usable.
        """
        status, body = self._exchange('GET', '/health', None, MAX_HEALTH_BYTES)
        if status != 200 or not _is_our_health(body):
            return []
        content = _object(body, 'health')
        return list(parse_norm_stats(content.get('norm_stats', {}), f'server {self._url}'))

    def predict(self, image: NDArray[np.uint8], instruction: str) -> PredictedAction:
        """Have the server compute one action.

        Args:
            image: uint8[H, W, 3], RGB.
            instruction: What the human wrote.

        Returns:
            The action, float64[D], checked to be finite; tokens and times where the server tells.

        Raises:
            InstructionRefused: the instruction does not fit the network (our server tells).
            ValueError: what the network wrote is not an action (our server tells).
            BackendUnavailable: no answer in time, a refusal, or an answer that is not an action.
        """
        body = request_body(check_image(image), instruction, self._unnorm_key)
        started_s = time.perf_counter()
        route = '/predict' if self._detailed else '/act'
        status, reply = self._exchange('POST', route, body, MAX_REPLY_BYTES)
        elapsed_s = time.perf_counter() - started_s
        if status != 200:
            raise self._refusal(status, reply)
        try:
            return self._prediction(reply, elapsed_s)
        except ProtocolError as error:
            raise BackendUnavailable(f'server {self._url}: {error}') from error

    def model_input(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the image as it is sent; the resize to the network happens on the server."""
        return image

    def reset(self) -> None:
        """Do nothing: the protocol has no state."""

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _prediction(self, reply: bytes, elapsed_s: float) -> PredictedAction:
        if not self._detailed:
            return PredictedAction(
                action=parse_reply(reply),
                action_tokens=None,
                stage_s={'request': elapsed_s},
                num_passes=None,
                min_margin=None,
            )
        content = _object(reply, 'reply')
        stages = {str(k): float(v) for k, v in _object_at(content, 'stage_s').items()}
        return PredictedAction(
            action=check_action(decode_array(content.get('action'), 'reply: action', ('<f8',))),
            action_tokens=_tokens(content.get('action_tokens')),
            stage_s={**stages, 'request': elapsed_s},
            num_passes=_number(content, 'num_passes', int),
            min_margin=_number(content, 'min_margin', float),
            execution=str(content.get('execution', ''))[:200],
        )

    def _refusal(self, status: int, reply: bytes) -> Exception:
        """Return what the network itself would have raised, where our server tells it."""
        said = _said(reply)
        about = _about(reply) if self._detailed else ''
        if about == ABOUT_INSTRUCTION:
            return InstructionRefused(said[2:])
        if about == ABOUT_OUTPUT:
            return ValueError(f'server {self._url}{said}')
        return BackendUnavailable(f'server {self._url} refused: HTTP {status}{said}')

    def _read_health(self, body: bytes) -> None:
        content = _object(body, 'health')
        stats = parse_norm_stats(content.get('norm_stats', {}), f'server {self._url}')
        resolve_unnorm_key(stats, self._unnorm_key)
        size = content.get('image_size')
        if type(size) is not int or not 1 <= size <= 4096:
            raise BackendUnavailable(f'server {self._url} tells no image_size; is it another one?')
        self._detailed = True
        self.image_size = size
        self.norm_stats = stats
        self.description = f'server {self._url}: {str(content.get("description", ""))[:200]}'

    def _ask(self, path: str) -> tuple[int, bytes] | None:
        if self._url.endswith('/v1'):  # as the clients of OpenAI's API write the address
            path = path.removeprefix('/v1')
        try:
            return self._exchange('GET', path, None, MAX_HEALTH_BYTES)
        except BackendUnavailable:
            return None

    def _exchange(
        self, method: str, route: str, body: bytes | None, max_bytes: int
    ) -> tuple[int, bytes]:
        """Send one request; a connection that the server had closed meanwhile is renewed once."""
        deadline_s = time.monotonic() + self._timeout_s
        for attempt in range(2):
            try:
                return self._send(method, route, body, max_bytes, deadline_s)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
                if attempt == 1 or time.monotonic() >= deadline_s:
                    raise self._unavailable(error) from error
            except (httpx.HTTPError, TimeoutError) as error:
                raise self._unavailable(error) from error
        raise AssertionError('unreachable')

    def _send(
        self, method: str, route: str, body: bytes | None, max_bytes: int, deadline_s: float
    ) -> tuple[int, bytes]:
        remaining_s = max(deadline_s - time.monotonic(), 0.001)
        headers = {'Content-Type': 'application/json'} if body is not None else {}
        request = self._http.stream(
            method, self._url + route, content=body, headers=headers, timeout=remaining_s
        )
        received = bytearray()
        with request as response:
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) > max_bytes:
                    raise BackendUnavailable(
                        f'server {self._url}{route} answers more than {max_bytes} bytes; '
                        'is it an OpenVLA server?'
                    )
                # The time-out of httpx counts between bytes; a server that drips must end too.
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f'no whole answer within {self._timeout_s} s')
            return response.status_code, bytes(received)

    def _unavailable(self, error: Exception) -> BackendUnavailable:
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
            return BackendUnavailable(
                f'server {self._url} did not answer within {self._timeout_s} s; is it overloaded?'
            )
        reason = ' '.join(str(error).split())[:120] or type(error).__name__
        return BackendUnavailable(f'server {self._url} cannot be reached: {reason}')


def _checked_url(server_url: str) -> str:
    try:
        url = httpx.URL(server_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError(f'server_url: {server_url!r} is not an address: {error}') from error
    if url.scheme in ('ws', 'wss'):
        raise ConfigError(f'server_url {server_url!r}: {_not_openvla(OPENPI)}')
    if url.scheme not in ('http', 'https') or not url.host:
        raise ConfigError(
            f"server_url: got {server_url!r}, expected an address such as 'http://gpu-box:8000'"
        )
    return str(url).rstrip('/').removesuffix('/act')


def _not_openvla(whose: str) -> str:
    return (
        f"this server is {whose}, expected one of OpenVLA's /act; run `python -m "
        'openvla_ros.serving --model CHECKPOINT` on that machine and give its address'
    )


def _object(body: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f'{where}: is not JSON: {str(error)[:120]}') from error
    if not isinstance(content, dict):
        raise ProtocolError(f'{where}: got {type(content).__name__}, expected an object')
    return content


def _object_at(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict) or not all(type(v) in (int, float) for v in value.values()):
        raise ProtocolError(f'reply: {key} is not an object of numbers')
    return value


def _tokens(content: Any) -> NDArray[np.int64] | None:
    if content is None:
        return None
    if not isinstance(content, list) or not all(type(token) is int for token in content):
        raise ProtocolError('reply: action_tokens is not a list of whole numbers')
    return np.array(content, np.int64)


def _number(content: dict[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if value is None:
        return None
    if type(value) not in (int, float):
        raise ProtocolError(f'reply: {key} is not a number')
    return kind(value)


def _is_our_health(body: bytes) -> bool:
    """Say whether a health report is our server's; others answer whatever they like."""
    try:
        return {'image_size', 'norm_stats'} <= set(_object(body, 'health'))
    except ProtocolError:
        return False


def _about(body: bytes) -> str:
    try:
        return str(_object(body, 'reply').get('about', ''))
    except ProtocolError:
        return ''


def _said(body: bytes) -> str:
    """Return what an error reply says, on one short line."""
    try:
        detail = json.loads(body)
    except (ValueError, RecursionError):
        return ''
    if isinstance(detail, dict):
        detail = detail.get('detail', '')
    return f': {" ".join(str(detail).split())[:200]}' if detail else ''
