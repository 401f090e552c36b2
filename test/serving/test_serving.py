import json
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI

from openvla_ros.action_space.action_tokens import NonActionTokenError
from openvla_ros.action_space.normalization import ActionStats, UnnormKeyError, resolve_unnorm_key
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.evaluation import replay
from openvla_ros.observation.instruction import InstructionRefused
from openvla_ros.policy.inference import BackendUnavailable, PredictedAction
from openvla_ros.serving import app as app_module
from openvla_ros.serving.app import create_app
from openvla_ros.serving.client import RemoteBackend
from openvla_ros.serving.protocol import (
    encode_array,
    parse_reply,
    parse_request,
    request_body,
)

IMAGE = np.arange(32 * 24 * 3, dtype=np.uint8).reshape(24, 32, 3)
STATS = {
    'arm_a': ActionStats(np.full(7, -1.0), np.full(7, 1.0), np.array([True] * 6 + [False])),
    'arm_b': ActionStats(np.full(7, -2.0), np.full(7, 3.0), np.array([True] * 6 + [False])),
}


class MeanColourBackend:
    """Answers with numbers that follow from its inputs, so that a mix-up shows."""

    description = 'mean colour'
    norm_stats = STATS

    def __init__(self, key, state):
        self.key, self.state = key, state

    def reset(self):
        """Nothing is kept."""

    def predict(self, image, instruction):
        time.sleep(self.state.get('delay_s', 0.0))
        if 'error' in self.state:
            error = self.state['error']
            if self.state.get('raise_once'):
                del self.state['error']
            raise error
        action = np.array([*image.mean(axis=(0, 1)), len(instruction), 0, 0, 1.0])
        action[4] = list(STATS).index(self.key)
        tokens = None if self.state.get('no_tokens') else np.arange(7, dtype=np.int64) + 31744
        return PredictedAction(action, tokens, {'vision': 0.25}, 3, 0.5)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class Server:
    """A real uvicorn server on localhost, in a thread of the test."""

    def __init__(self, app, port):
        config = uvicorn.Config(app, host='127.0.0.1', port=port, log_level='warning')
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.url = f'http://127.0.0.1:{port}'

    def __enter__(self):
        self.thread.start()
        deadline_s = time.monotonic() + 20
        while not self.server.started:
            assert time.monotonic() < deadline_s, 'the server did not start'
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.server.force_exit = True
        self.thread.join(10)


@pytest.fixture
def state():
    return {}


@pytest.fixture
def server(state):
    def backend_of_key(key):
        return MeanColourBackend(resolve_unnorm_key(STATS, key), state)

    with Server(create_app(backend_of_key, STATS, 'mean colour', 112), free_port()) as running:
        yield running


def post(url, body):
    request = urllib.request.Request(url, body, {'Content-Type': 'application/json'})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def expected_action(instruction, key_index):
    return np.array([*IMAGE.mean(axis=(0, 1)), len(instruction), key_index, 0, 1.0])


def test_a_client_of_upstreams_server_gets_upstreams_bytes(server):
    status, _, body = post(server.url + '/act', request_body(IMAGE, 'go up', 'arm_b'))
    expected = json.dumps(encode_array(expected_action('go up', 1)), separators=(',', ':'))
    assert status == 200
    assert body == expected.encode()


def test_a_double_encoded_request_gets_a_double_encoded_reply(server):
    body = json.dumps({'encoded': request_body(IMAGE, 'go up', 'arm_a').decode()}).encode()
    status, _, reply = post(server.url + '/act', body)
    assert status == 200
    inner = json.loads(json.loads(reply))
    assert inner == encode_array(expected_action('go up', 0))


@pytest.mark.parametrize(
    ('body', 'sentence'),
    [
        (b'{}', 'image is missing'),
        (request_body(IMAGE, 'go'), 'unnorm_key is not set'),
        (request_body(IMAGE, 'go', 'arm_c'), "unnorm_key: got 'arm_c'"),
        (request_body(IMAGE, '', 'arm_a'), 'instruction'),
        (request_body(IMAGE, 'x' * 600, 'arm_a'), 'instruction'),
        (request_body(IMAGE, 'go\nOut:', 'arm_a'), 'instruction'),
    ],
)
def test_a_wrong_request_is_upstreams_error_with_a_status_and_a_sentence(server, body, sentence):
    status, headers, reply = post(server.url + '/act', body)
    assert (status, reply) == (422, b'"error"')
    assert sentence in headers['x-error']
    status, _, reply = post(server.url + '/predict', body)
    assert status == 422
    assert sentence in json.loads(reply)['detail']


def test_letters_beyond_ascii_are_taken_as_upstream_takes_them(server):
    status, _, reply = post(server.url + '/act', request_body(IMAGE, 'öffne die Tür', 'arm_a'))
    assert status == 200
    assert (parse_reply(reply) == expected_action('öffne die Tür', 0)).all()


def test_memory_that_runs_out_once_is_freed_and_the_action_still_comes(server, state):
    state['error'], state['raise_once'] = MemoryError(), True
    assert post(server.url + '/act', request_body(IMAGE, 'go', 'arm_a'))[0] == 200
    state['error'] = MemoryError()
    state['raise_once'] = False
    assert post(server.url + '/act', request_body(IMAGE, 'go', 'arm_a'))[0] == 500


def test_a_failing_network_is_an_error_and_the_next_request_works(server, state):
    state['error'] = RuntimeError('CUDA says no')
    status, headers, reply = post(server.url + '/act', request_body(IMAGE, 'go', 'arm_a'))
    assert (status, reply) == (500, b'"error"')
    assert 'CUDA says no' in headers['x-error']
    del state['error']
    assert post(server.url + '/act', request_body(IMAGE, 'go', 'arm_a'))[0] == 200


def test_health_answers_while_a_body_is_parsed(server, monkeypatch):
    parsing, parsed = threading.Event(), threading.Event()

    def slow_parse(body):
        parsing.set()
        assert parsed.wait(20)
        return parse_request(body)

    monkeypatch.setattr(app_module, 'parse_request', slow_parse)
    replies = []
    body = request_body(IMAGE, 'go', 'arm_a')
    asker = threading.Thread(target=lambda: replies.append(post(server.url + '/act', body)[0]))
    asker.start()
    try:
        assert parsing.wait(10)
        with urllib.request.urlopen(server.url + '/health', timeout=5) as health:
            assert json.loads(health.read())['status'] == 'ready'
    finally:
        parsed.set()
        asker.join(20)
    assert replies == [200]


def test_a_gray_or_rgba_image_is_acted_on(server):
    gray = np.full((24, 32), 7, np.uint8)
    status, _, reply = post(server.url + '/act', request_body(gray, 'go', 'arm_a'))
    assert status == 200
    assert parse_reply(reply)[:3].tolist() == [7.0, 7.0, 7.0]
    rgba = np.concatenate([IMAGE, IMAGE[..., :1]], axis=2)
    status, _, reply = post(server.url + '/predict', request_body(rgba, 'go', 'arm_a'))
    assert status == 200
    assert (parse_reply(_action(reply)) == expected_action('go', 0)).all()


def _action(reply):
    return json.dumps(json.loads(reply)['action']).encode()


def test_a_queue_never_grows(server, state):
    state['delay_s'] = 0.5
    statuses = []

    def ask():
        statuses.append(post(server.url + '/act', request_body(IMAGE, 'go', 'arm_a'))[0])

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(20)
    assert statuses.count(200) == 2
    assert statuses.count(503) == 4


def test_the_node_side_gets_action_tokens_and_times(server):
    backend = RemoteBackend(server.url, 'arm_b')
    backend.warm_up()
    assert set(backend.norm_stats) == {'arm_a', 'arm_b'}
    assert backend.image_size == 112
    assert (backend.norm_stats['arm_b'].q99 == 3.0).all()
    prediction = backend.predict(IMAGE, 'go up')
    assert (prediction.action == expected_action('go up', 1)).all()
    assert prediction.action_tokens.tolist() == list(range(31744, 31751))
    assert prediction.num_passes == 3
    assert prediction.min_margin == 0.5
    assert prediction.stage_s['vision'] == 0.25
    assert 0.0 < prediction.stage_s['request'] < 5.0


@pytest.mark.parametrize(
    ('error', 'raised'),
    [
        (InstructionRefused('takes 229 tokens'), InstructionRefused),
        (NonActionTokenError(3, 2, 32000, 256), ValueError),
        (FloatingPointError('the network gave NaN'), ValueError),
        (RuntimeError('CUDA says no'), BackendUnavailable),
    ],
)
def test_the_node_side_is_told_why_the_network_made_no_action(server, state, error, raised):
    backend = RemoteBackend(server.url, 'arm_a')
    backend.warm_up()
    state['error'] = error
    with pytest.raises(raised) as refusal:
        backend.predict(IMAGE, 'go')
    assert str(error) in str(refusal.value)
    del state['error']
    assert backend.predict(IMAGE, 'go').action.shape == (7,)


def test_a_key_the_server_lacks_is_refused_at_the_start(server):
    with pytest.raises(UnnormKeyError, match='arm_a, arm_b'):
        RemoteBackend(server.url, 'bridge_orig').warm_up()


def test_who_names_no_key_is_told_those_of_the_server(server, capsys, tmp_path):
    assert RemoteBackend(server.url, '').unnorm_keys() == ['arm_a', 'arm_b']
    assert replay.main([str(tmp_path), '--server-url', server.url]) == 2
    assert 'choose one of: arm_a, arm_b' in capsys.readouterr().err


def test_a_server_that_is_not_ours_tells_no_keys():
    with Server(foreign_app({}), free_port()) as running:
        assert RemoteBackend(running.url, '').unnorm_keys() == []


def test_a_slow_server_is_given_up_after_the_time_out(server, state):
    backend = RemoteBackend(server.url, 'arm_a', timeout_s=0.3)
    backend.warm_up()
    state['delay_s'] = 3.0
    started_s = time.monotonic()
    with pytest.raises(BackendUnavailable, match=r'did not answer within 0\.3 s'):
        backend.predict(IMAGE, 'go')
    assert time.monotonic() - started_s < 2.0


def test_a_server_that_comes_back_is_used_again(state):
    port = free_port()

    def app():
        return create_app(lambda key: MeanColourBackend(key, state), STATS, 'x', 112)

    backend = RemoteBackend(f'http://127.0.0.1:{port}', 'arm_a')
    with pytest.raises(BackendUnavailable, match='cannot be reached'):
        backend.warm_up()
    with Server(app(), port):
        backend.warm_up()
        assert backend.predict(IMAGE, 'go').action.shape == (7,)
    with pytest.raises(BackendUnavailable, match='cannot be reached'):
        backend.predict(IMAGE, 'go')
    with Server(app(), port):
        assert backend.predict(IMAGE, 'go').action.shape == (7,)


async def _answer(send, status, body):
    await send({'type': 'http.response.start', 'status': status, 'headers': []})
    await send({'type': 'http.response.body', 'body': body})


def foreign_app(replies):
    """An ASGI server that is not ours: what it says to a path is given."""

    async def app(scope, receive, send):
        if scope['type'] == 'http':
            status, body = replies.get(scope['path'], (404, b'{"detail":"Not Found"}'))
            await _answer(send, status, body)

    return app


@pytest.mark.parametrize(
    'health',
    [
        (404, b'{"detail":"Not Found"}'),
        (405, b''),
        (501, b'<html>Unsupported method</html>'),
        (200, b'ok'),
        (200, b'{"status": "ok"}'),
    ],
)
def test_a_server_whose_health_is_not_ours_is_spoken_to_by_act(health):
    action = np.array([0.1, 0, 0, 0, 0, 0, 1.0])
    reply = json.dumps(encode_array(action)).encode()
    app = foreign_app({'/health': health, '/act': (200, reply)})
    with Server(app, free_port()) as running:
        backend = RemoteBackend(running.url + '/act', 'bridge_orig')
        backend.warm_up()
        assert backend.norm_stats is None
        prediction = backend.predict(IMAGE, 'go')
        assert (prediction.action == parse_reply(reply)).all()
        assert prediction.action_tokens is None


def test_a_server_that_is_still_loading_is_not_taken_for_another_one():
    app = foreign_app({'/health': (503, b'{"detail": "loading"}')})
    with (
        Server(app, free_port()) as running,
        pytest.raises(BackendUnavailable, match='not ready: HTTP 503: loading'),
    ):
        RemoteBackend(running.url, 'bridge_orig').warm_up()


@pytest.mark.parametrize(
    ('reply', 'sentence'),
    [
        ((200, b'"error"'), 'the server answered "error"'),
        ((200, json.dumps(encode_array(np.full(7, np.inf))).encode()), 'expected finite'),
        ((200, b'x' * 100_000), 'answers more than'),
        ((200, b'<html>'), 'is not JSON'),
        ((500, b'{"detail": "boom"}'), 'HTTP 500: boom'),
        ((302, b''), 'HTTP 302'),
    ],
)
def test_an_answer_that_is_not_an_action_never_becomes_one(reply, sentence):
    with Server(foreign_app({'/act': reply}), free_port()) as running:
        backend = RemoteBackend(running.url, 'bridge_orig')
        backend.warm_up()
        with pytest.raises(BackendUnavailable, match=sentence):
            backend.predict(IMAGE, 'go')


class DeployedPolicy:
    """A handler of each name that `vla-scripts/deploy.py` has: OpenVLA's and OpenVLA-OFT's."""

    def predict_action(self, payload: dict) -> str:
        return 'error'

    def get_server_action(self, payload: dict) -> str:
        return 'error'


def deployed(handler):
    app = FastAPI()
    app.post('/act')(getattr(DeployedPolicy(), handler))
    return app


def models_of(owner):
    listed = {'object': 'list', 'data': [{'id': 'x', 'object': 'model', 'owned_by': owner}]}
    return foreign_app({'/health': (200, b''), '/v1/models': (200, json.dumps(listed).encode())})


def openpi_like(healthz):
    # What websockets 17.4, openpi's server, answers to a GET without an upgrade: 426.
    said = b'Failed to open a WebSocket connection: missing Connection header.\n'
    paths = dict.fromkeys(('/health', '/act', '/openapi.json', '/v1/models'), (426, said))
    return foreign_app({**paths, '/healthz': healthz})


@pytest.mark.parametrize(
    ('app', 'whose'),
    [
        (deployed('get_server_action'), "this server is OpenVLA-OFT's"),
        (models_of('vllm'), "this server is vLLM's"),
        (models_of('sglang'), "this server is one of OpenAI's API"),
        (openpi_like((200, b'OK\n')), "this server is openpi's"),
        (openpi_like((426, b'')), 'this server is a websocket server'),
    ],
)
def test_a_server_of_another_project_is_refused_by_name(app, whose):
    with Server(app, free_port()) as running:
        with pytest.raises(ConfigError) as refusal:
            RemoteBackend(running.url, 'bridge_orig').warm_up()
        assert str(refusal.value).startswith(f'server_url {running.url}: {whose}')
        assert 'python -m openvla_ros.serving' in str(refusal.value)


def test_vllm_is_named_at_the_address_its_clients_use():
    with (
        Server(models_of('vllm'), free_port()) as running,
        pytest.raises(ConfigError, match="this server is vLLM's"),
    ):
        RemoteBackend(running.url + '/v1', 'bridge_orig').warm_up()


def test_upstreams_own_server_is_not_taken_for_another():
    with Server(deployed('predict_action'), free_port()) as running:
        backend = RemoteBackend(running.url, 'bridge_orig')
        backend.warm_up()
        assert "speaks upstream's /act alone" in backend.description


def test_a_websocket_address_is_openpis():
    with pytest.raises(
        ConfigError, match="server_url 'ws://gpu-box:8000': this server is openpi's"
    ):
        RemoteBackend('ws://gpu-box:8000', 'bridge_orig')


@pytest.mark.parametrize('url', ['gpu-box:8000', 'ftp://gpu', '', 'http://', 'file:///etc/passwd'])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match='server_url'):
        RemoteBackend(url, 'bridge_orig')
