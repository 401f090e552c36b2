"""Names the other servers that people have at an address where OpenVLA's ``/act`` is expected.

What identifies each: OpenVLA-OFT's and OpenVLA's ``vla-scripts/deploy.py`` are FastAPI
applications with the one route ``/act``, whose handlers have different names in
``/openapi.json``; vLLM and other OpenAI-like servers list their models on ``/v1/models``; openpi's
``websocket_policy_server.py`` answers plain HTTP on ``/healthz`` alone and asks for an upgrade
(426) everywhere else.
"""

import json
from collections.abc import Callable
from typing import Any

UPGRADE_REQUIRED = 426
OPENPI = "openpi's (a websocket with msgpack)"
Ask = Callable[[str], tuple[int, bytes] | None]
"""Gets a path of the server: HTTP status and body, or None where it does not answer."""


def foreign_server(health_status: int, ask: Ask) -> str | None:
    """Say whose server it is, or None where nothing speaks against OpenVLA's ``/act``.

    Args:
        health_status: HTTP status of its ``/health``.
        ask: Gets further paths.
    """
    if health_status == UPGRADE_REQUIRED:
        return OPENPI if _status(ask('/healthz')) == 200 else 'a websocket server'
    routes = _object(ask('/openapi.json')).get('paths')
    if isinstance(routes, dict) and '/act' in routes:
        return _oft(routes['/act'])
    return _openai_like(_object(ask('/v1/models')))


def _oft(route: Any) -> str | None:
    post = route.get('post') if isinstance(route, dict) else None
    operation = str(post.get('operationId', '')) if isinstance(post, dict) else ''
    if operation.startswith('get_server_action'):
        return "OpenVLA-OFT's (several images and the robot's state in, several actions out)"
    return None


def _openai_like(models: dict[str, Any]) -> str | None:
    listed = models.get('data')
    if models.get('object') != 'list' or not isinstance(listed, list):
        return None
    owners = {str(model.get('owned_by')) for model in listed if isinstance(model, dict)}
    return "vLLM's (OpenAI's API, text out)" if 'vllm' in owners else "one of OpenAI's API"


def _status(answer: tuple[int, bytes] | None) -> int:
    return 0 if answer is None else answer[0]


def _object(answer: tuple[int, bytes] | None) -> dict[str, Any]:
    """Return the JSON object of a good answer; empty for any other."""
    if answer is None or answer[0] != 200:
        return {}
    try:
        content = json.loads(answer[1])
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
