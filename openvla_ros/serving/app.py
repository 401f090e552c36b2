"""The inference server: OpenVLA's ``/act``, byte for byte, with errors a client can tell apart."""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import FastAPI, Request, Response

from openvla_ros.action_space.normalization import ActionStats, UnnormKeyError
from openvla_ros.observation.instruction import InstructionRefused, parse_instruction
from openvla_ros.policy.inference import (
    BackendUnavailable,
    InferenceBackend,
    PredictedAction,
    free_memory,
    is_out_of_memory,
)
from openvla_ros.serving.protocol import (
    ABOUT_INSTRUCTION,
    ABOUT_OUTPUT,
    ERROR_BODY,
    MAX_REQUEST_BYTES,
    ActRequest,
    ProtocolError,
    encode_array,
    parse_request,
    reply_body,
)

BackendOfKey = Callable[[str | None], InferenceBackend]
"""Gives the backend that un-normalises with the given key; raises UnnormKeyError."""

MAX_WAITING = 2
"""Requests that may wait for the network; a robot wants a fresh answer or none."""

_LOG = logging.getLogger('openvla_ros.serving')


class RequestRefused(Exception):  # noqa: N818 - a reply, not a defect
    """A request that gets no action.

    Attributes:
        status: HTTP status.
        sentence: What was wrong and what to do.
        about: ABOUT_INSTRUCTION, ABOUT_OUTPUT or ''.
    """

    def __init__(self, status: int, sentence: str, about: str = '') -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.about = about


class Inference:
    """One network, one request at a time, in a thread of its own."""

    def __init__(self, backend_of_key: BackendOfKey) -> None:
        self._backend_of_key = backend_of_key
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix='inference')
        self._waiting = 0
        self.answered = 0

    async def answer(self, request: ActRequest) -> PredictedAction:
        """Compute the action of a request; raises RequestRefused."""
        if self._waiting >= MAX_WAITING:
            raise RequestRefused(503, f'{MAX_WAITING} requests are waiting already; ask again')
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            prediction = await loop.run_in_executor(self._worker, self._predict, request)
        finally:
            self._waiting -= 1
        self.answered += 1
        return prediction

    def close(self) -> None:
        """Let the request in flight end and take no more."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _predict(self, request: ActRequest) -> PredictedAction:
        try:
            backend = self._backend_of_key(request.unnorm_key)
            return _predict_with_one_retry(backend, request)
        except UnnormKeyError as error:
            raise RequestRefused(422, str(error)) from error
        except InstructionRefused as error:
            raise RequestRefused(422, str(error), ABOUT_INSTRUCTION) from error
        except BackendUnavailable as error:
            raise RequestRefused(503, str(error)) from error
        except (ValueError, ArithmeticError) as error:
            # A token that is no action, or numbers that are not finite.
            _LOG.warning('no action: %s', error)
            raise RequestRefused(500, str(error), ABOUT_OUTPUT) from error
        except Exception as error:
            _LOG.exception('inference failed')
            sentence = f'inference failed: {type(error).__name__}: {error}'.rstrip(': ')
            raise RequestRefused(500, sentence) from error


def create_app(
    backend_of_key: BackendOfKey,
    norm_stats: Mapping[str, ActionStats],
    description: str,
    image_size: int,
) -> FastAPI:
    """Build the server's application.

    Args:
        backend_of_key: Gives the backend for a request's unnorm_key.
        norm_stats: The checkpoint's statistics by key, told on ``/health``.
        description: What runs, told on ``/health``.
        image_size: Side of the network's input [px], told on ``/health``.

    Routes:
        POST /act: upstream's protocol. On failure the body is upstream's ``"error"``; the HTTP
            status and the header ``X-Error`` say what upstream does not.
        POST /predict: the same request; the reply is an object with action, action_tokens,
            stage_s, num_passes, min_margin and execution; on failure an object with ``detail``
            and, where the instruction or the network's output is the cause, ``about``.
        GET /health: status, description, image_size, answered and norm_stats.
    """
    inference = Inference(backend_of_key)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        inference.close()

    app = FastAPI(
        title='openvla_ros', docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    health = {
        'status': 'ready',
        'description': description,
        'image_size': image_size,
        'norm_stats': {key: {'action': _stats_json(stats)} for key, stats in norm_stats.items()},
    }

    @app.post('/act')
    async def act(http_request: Request) -> Response:
        try:
            request = await _read(http_request)
            prediction = await inference.answer(request)
        except RequestRefused as refusal:
            headers = {'X-Error': _header_text(refusal.sentence)}
            return _json_response(ERROR_BODY, refusal.status, headers)
        return _json_response(reply_body(prediction.action, double_encoded=request.double_encoded))

    @app.post('/predict')
    async def predict(http_request: Request) -> Response:
        try:
            prediction = await inference.answer(await _read(http_request))
        except RequestRefused as refusal:
            content = {'detail': refusal.sentence}
            if refusal.about:
                content['about'] = refusal.about
            return _json_response(_bytes(content), refusal.status)
        return _json_response(_bytes(_prediction_json(prediction)))

    @app.get('/health')
    async def tell_health() -> Response:
        return _json_response(_bytes({**health, 'answered': inference.answered}))

    return app


async def _read(http_request: Request) -> ActRequest:
    """Read and check one request, never holding more than the largest one allowed."""
    body = bytearray()
    async for chunk in http_request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            raise RequestRefused(413, f'request: more than {MAX_REQUEST_BYTES} bytes')
    # A large image takes a while to decode; the event loop answers others meanwhile.
    return await asyncio.to_thread(_parse, body)


def _parse(body: bytearray) -> ActRequest:
    try:
        request = parse_request(bytes(body))
        # Whether letters beyond ASCII are wanted is for the client to say; upstream takes them.
        if parse_instruction(request.instruction, allow_unicode=True).is_stop:
            raise InstructionRefused('the instruction is empty; ask for nothing by asking nothing')
    except ProtocolError as error:
        raise RequestRefused(422, str(error)) from error
    except InstructionRefused as error:
        raise RequestRefused(422, str(error), ABOUT_INSTRUCTION) from error
    return request


def _predict_with_one_retry(backend: InferenceBackend, request: ActRequest) -> PredictedAction:
    try:
        return backend.predict(request.image, request.instruction)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # Outside the except clause: the traceback holds the tensors that are to be freed.
    backend.reset()
    free_memory()
    return backend.predict(request.image, request.instruction)


def _prediction_json(prediction: PredictedAction) -> dict[str, Any]:
    tokens = prediction.action_tokens
    return {
        'action': encode_array(prediction.action),
        'action_tokens': None if tokens is None else tokens.tolist(),
        'stage_s': dict(prediction.stage_s),
        'num_passes': prediction.num_passes,
        'min_margin': prediction.min_margin,
        'execution': prediction.execution,
    }


def _stats_json(stats: ActionStats) -> dict[str, Any]:
    content: dict[str, Any] = {
        'q01': stats.q01.tolist(),
        'q99': stats.q99.tolist(),
        'mask': stats.mask.tolist(),
    }
    if stats.minimum is not None:
        content['min'] = stats.minimum.tolist()
    if stats.maximum is not None:
        content['max'] = stats.maximum.tolist()
    return content


def _bytes(content: Any) -> bytes:
    return json.dumps(content, separators=(',', ':')).encode()


def _json_response(
    body: bytes, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    return Response(body, status_code=status, headers=headers, media_type='application/json')


def _header_text(sentence: str) -> str:
    printable = ''.join(c if ' ' <= c <= '~' else '?' for c in sentence)
    return printable[:300].strip()  # HTTP allows no space at either end
