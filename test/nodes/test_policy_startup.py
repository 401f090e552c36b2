"""A policy starts only with plausible statistics and at the rate it was trained for."""

import contextlib
import http.server
import json
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.action_space.normalization import ActionStats
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.inference_worker import StartRefused
from openvla_ros.nodes.policy_parameters import PolicyParameters
from openvla_ros.nodes.policy_startup import (
    check_waits,
    load_backend,
    load_profile,
    start_policy,
)
from openvla_ros.policy.inference import BackendUnavailable, PredictedAction

KEY = 'bridge_orig'
PROFILE = load_dataset_profile(KEY)


class Backend:
    """A backend whose statistics reach ``metres`` and ``radians`` on every axis."""

    description, image_size = 'fake', 32

    def __init__(self, metres=0.03, radians=0.1, delay_s=0.0, away=0, key=KEY):
        reach = np.array([metres] * 3 + [radians] * 3 + [1.0])
        low = np.array([*(-reach[:6]), 0.0])
        self.norm_stats = {key: ActionStats(low, reach, np.array([True] * 6 + [False]))}
        self._delay_s, self.away = delay_s, away

    def warm_up(self):
        if self.away:
            self.away -= 1
            raise BackendUnavailable('server http://x cannot be reached')

    def predict(self, image, instruction):
        time.sleep(self._delay_s)
        return PredictedAction(np.zeros(7))


def start(backend, *, rate_hz=5.0, closing=None, **parameters):
    given = PolicyParameters(unnorm_key=KEY, checkpoint='folder', **parameters)
    load = backend if callable(backend) else lambda _: backend
    said = []
    policy = start_policy(given, PROFILE, rate_hz, load, said.append, closing or threading.Event())
    return policy, [refusal.code for refusal in said]


def refused(*args, **kwargs):
    with pytest.raises(StartRefused) as refusal:
        start(*args, **kwargs)
    return refusal.value


def test_it_says_what_it_does_and_returns_a_policy():
    backend = Backend()
    policy, said = start(backend)
    assert policy.backend is backend
    assert policy.profile is PROFILE
    assert said == ['LOADING', 'WARMING_UP', 'WARMING_UP']


@pytest.mark.parametrize(('metres', 'radians'), [(0.06, 0.1), (1.0, 0.1), (0.03, 0.5)])
def test_implausible_statistics_are_refused_and_named(metres, radians):
    refusal = refused(Backend(metres, radians))
    assert (refusal.code, refusal.exit_code) == ('MODEL_REFUSED', 2)
    assert f'{metres * 3**0.5:.3f} m and {radians * 3**0.5:.3f} rad' in str(refusal)
    assert 'plausible_step_m' in str(refusal)


def test_a_robot_with_longer_steps_says_so():
    start(Backend(0.06, 0.5), plausible_step_m=0.2, plausible_step_rad=1.0)


def test_a_checkpoint_without_statistics_of_this_dataset_is_refused_with_its_keys():
    refusal = refused(Backend(key='other_robot'))
    assert refusal.exit_code == 2
    assert 'other_robot' in str(refusal)


def test_a_model_that_is_too_slow_stays_to_say_which_rate_it_keeps():
    refusal = refused(Backend(delay_s=0.02), rate_hz=100.0)
    assert (refusal.code, refusal.exit_code) == ('TOO_SLOW', None)
    assert 'allow_slow' in str(refusal)
    start(Backend(delay_s=0.02), rate_hz=100.0, allow_slow=True)


def test_a_slow_model_that_is_allowed_is_refused_where_none_of_its_actions_would_count():
    refusal = refused(Backend(delay_s=0.08), allow_slow=True, max_observation_age_s=0.06)
    assert (refusal.code, refusal.exit_code) == ('TOO_SLOW', None)
    said = re.search(r'set max_observation_age_s:=(\d\.\d)', str(refusal))
    assert said is not None, str(refusal)
    assert 'actions.max_age_s' in str(refusal)
    start(Backend(delay_s=0.08), allow_slow=True, max_observation_age_s=float(said[1]))


@pytest.mark.parametrize(
    ('action_s', 'settings', 'said'),
    [
        (1.2, {}, 'max_observation_age_s is 1 s.*set max_observation_age_s:=1.8;.*1.8 s too'),
        (0.6, {'hang_timeout_s': 0.5}, 'hang_timeout_s is 0.5 s.*set hang_timeout_s:=0.9;'),
        (6.0, {}, 'set max_observation_age_s:=9.0 and hang_timeout_s:=9.0;'),
        (9.0, {}, 'may be 10 s old at most; use a faster device'),
    ],
)
def test_waits_that_are_shorter_than_the_model_are_named_with_the_values_to_set(
    action_s, settings, said
):
    with pytest.raises(StartRefused, match=said):
        check_waits(action_s, PolicyParameters(allow_slow=True, **settings))


def test_a_server_that_is_not_there_yet_is_waited_for(monkeypatch):
    monkeypatch.setattr('openvla_ros.nodes.policy_startup._RETRY_S', 0.01)
    _, said = start(Backend(away=3))
    assert said.count('SERVER_UNAVAILABLE') == 3
    assert said.count('WARMING_UP') == 2  # a state that flickers would fill the log


def test_a_server_of_another_project_is_not_waited_for():
    class ForeignServer(Backend):
        def warm_up(self):
            raise ConfigError("server_url http://x: this server is vLLM's")

    refusal = refused(ForeignServer())
    assert (refusal.code, refusal.exit_code) == ('MODEL_REFUSED', 2)
    assert "this server is vLLM's" in str(refusal)


def test_waiting_for_a_server_ends_with_the_node():
    closing = threading.Event()
    closing.set()
    refusal = refused(Backend(away=10**9), closing=closing)
    assert refusal.exit_code is None


@pytest.mark.parametrize(
    ('error', 'code', 'exit_code'),
    [
        (ConfigError('bad\nfile'), 'MODEL_REFUSED', 2),
        (FileNotFoundError('no file'), 'MODEL_REFUSED', 2),
        (ModuleNotFoundError("No module named 'torch'"), 'NOT_INSTALLED', 2),
        (BackendUnavailable('gone'), 'SERVER_UNAVAILABLE', 3),
    ],
)
def test_what_fails_while_loading_is_one_sentence(error, code, exit_code):
    def load(_):
        raise error

    refusal = refused(load)
    assert (refusal.code, refusal.exit_code) == (code, exit_code)
    assert '\n' not in str(refusal)


@pytest.mark.parametrize('frames', [('', 'ee'), ('base', ''), ('arm', 'arm')])
def test_frames_that_cannot_be_told_apart_are_refused(frames):
    with pytest.raises(ConfigError, match=r'expected the robot profile .*, or both names'):
        PolicyParameters(base_frame=frames[0], ee_frame=frames[1]).frames()


def test_the_frames_are_those_of_the_robots_profile():
    frames = PolicyParameters(robot='wx250s.example').frames()
    assert (frames.base, frames.ee) == ('wx250s/base_link', 'wx250s/ee_gripper_link')


@pytest.mark.parametrize('given', [{}, {'checkpoint': 'a', 'server_url': 'http://b:8000'}])
def test_exactly_one_place_of_inference_is_asked_for(given):
    with pytest.raises(ConfigError, match='exactly one'):
        load_backend(PolicyParameters(unnorm_key=KEY, **given))


def test_a_server_is_a_remote_backend_with_the_given_patience():
    parameters = PolicyParameters(
        unnorm_key=KEY, server_url='http://127.0.0.1:9', server_timeout_s=0.5
    )
    backend = load_backend(parameters)
    with pytest.raises(BackendUnavailable):
        backend.warm_up()
    backend.close()


def test_every_parameter_of_the_checkpoint_reaches_the_local_backend(monkeypatch):
    local_backend = pytest.importorskip('openvla_ros.model.local_backend')
    seen = {}
    monkeypatch.setattr(
        local_backend,
        'LocalBackend',
        SimpleNamespace(load=lambda *args, **options: seen.update(options, args=args)),
    )
    load_backend(
        PolicyParameters(
            unnorm_key=KEY,
            checkpoint='c',
            adapter='a',
            revision='r',
            device='cpu',
            dtype='float16',
            quantization='nf4',
            cuda_graphs='off',
            allow_download=True,
            allow_slow=True,
        )
    )
    assert seen == {
        'args': ('c', KEY),
        'adapter': 'a',
        'revision': 'r',
        'device': 'cpu',
        'dtype': 'float16',
        'quantization': 'nf4',
        'cuda_graphs': 'off',
        'allow_download': True,
        'allow_slow': True,
    }


@contextlib.contextmanager
def server_that_says(health):
    """Address of an HTTP server whose every answer is ``health``; 404 where that is None."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.dumps(health).encode()
            self.send_response(404 if health is None else 200)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Keep quiet."""

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_without_a_key_those_of_the_server_come_first():
    entry = {'action': {'q01': [0.0, 0.0], 'q99': [1.0, 1.0]}}
    health = {'image_size': 224, 'norm_stats': {'my_arm': entry, KEY: entry}}
    with (
        server_that_says(health) as url,
        pytest.raises(
            ConfigError, match=f'{url} has statistics of: my_arm, {KEY}; of these {KEY} '
        ),
    ):
        load_profile(PolicyParameters(server_url=url))


def test_a_server_that_tells_no_keys_leaves_the_profiles_to_choose_from():
    with (
        server_that_says(None) as url,
        pytest.raises(ConfigError, match=rf'unnorm_key: is not set in .*{KEY}'),
    ):
        load_profile(PolicyParameters(server_url=url))
    with pytest.raises(ConfigError, match=rf'unnorm_key: is not set in .*{KEY}'):
        load_profile(PolicyParameters(server_url=url, server_timeout_s=0.5))
