"""The server on checkpoint folders as people have them, asked as upstream's clients ask."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from harness.released_checkpoint import (
    EXPECTED,
    HUB_KEYS,
    IMAGES,
    SENTENCES,
    expected_action,
    expected_tokens,
    write_adapter,
    write_finetuned_checkpoint,
    write_hub_checkpoint,
    write_transformers_5_checkpoint,
)

from openvla_ros.serving.__main__ import main
from openvla_ros.serving.protocol import decode_array, request_body

WRITE = {
    'hub': write_hub_checkpoint,
    'finetuned': write_finetuned_checkpoint,
    'transformers_5': write_transformers_5_checkpoint,
}


@pytest.fixture(scope='module', params=WRITE)
def form(request):
    return request.param


@pytest.fixture(scope='module')
def folder(form, tmp_path_factory):
    return WRITE[form](tmp_path_factory.mktemp('released') / form)


@pytest.fixture(scope='module')
def url(folder, tmp_path_factory):
    """Address of a server process."""
    log = tmp_path_factory.mktemp('log') / 'server.txt'
    with log.open('w') as file:
        port = _free_port()
        argv = [sys.executable, '-m', 'openvla_ros.serving', '--model', str(folder)]
        argv += ['--port', str(port), '--device', 'cpu', '--dtype', 'float32']
        process = subprocess.Popen(argv, stdout=file, stderr=file)
    try:
        address = f'http://127.0.0.1:{port}'
        deadline_s = time.monotonic() + 60.0
        while 'ready: ' not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def ask(url, i, key):
    body = request_body(IMAGES[i], SENTENCES[i], key)
    request = urllib.request.Request(url + '/predict', body, {'Content-Type': 'application/json'})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize('i', range(8))
def test_every_golden_image_gets_the_golden_tokens_and_action(url, folder, form, i):
    key = 'bridge_orig' if form == 'hub' else str(EXPECTED[f'unnorm_key_{i}'])
    status, reply = ask(url, i, key)
    assert status == 200, reply
    action = decode_array(reply['action'], 'action', ('<f8',))
    if form == 'hub':
        assert reply['action_tokens'] == expected_tokens(i)
        np.testing.assert_allclose(action, expected_action(i, folder, key), rtol=0, atol=1e-12)
    else:
        assert reply['action_tokens'] == EXPECTED[f'tokens_{i}'].tolist()
        np.testing.assert_allclose(action, EXPECTED[f'action_{i}'], rtol=0, atol=1e-12)


def test_a_request_without_a_key_is_told_the_checkpoint_s_own(url, form):
    status, reply = ask(url, 0, None)
    assert status == 422
    keys = HUB_KEYS if form == 'hub' else ('bridge_like', 'no_mask', 'eight_dof')
    assert reply['detail'].endswith('choose one of: ' + ', '.join(keys))


def test_statistics_that_the_node_would_refuse_get_no_action(url, form):
    """Fractal's robot moves 0.3 m in a step; that must be said by whoever starts the server."""
    status, reply = ask(url, 0, 'fractal20220817_data')
    assert status == 422
    if form != 'hub':  # config.json's statistics are the base's, not this model's
        assert "got 'fractal20220817_data', expected one of: bridge_like" in reply['detail']
        return
    assert 'the statistics of fractal20220817_data allow 0.' in reply['detail']
    assert 'raise plausible_step_m' in reply['detail']


def test_a_server_of_nothing_but_such_statistics_does_not_start(tmp_path, capsys):
    folder = write_hub_checkpoint(tmp_path / 'checkpoint')
    argv = ['--model', str(folder), '--device', 'cpu', '--unnorm-key', 'fractal20220817_data']
    assert main(argv) == 2
    assert 'raise plausible_step_m and plausible_step_rad' in capsys.readouterr().err


def test_an_adapter_of_another_checkpoint_is_not_served(tmp_path, capsys):
    folder = write_hub_checkpoint(tmp_path / 'checkpoint')
    adapter = write_adapter(tmp_path / 'adapter', head='other')
    assert main(['--model', str(folder), '--device', 'cpu', '--adapter', str(adapter)]) == 2
    assert 'or it is merged into this one already' in capsys.readouterr().err
