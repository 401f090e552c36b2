"""policy_node with a real network in its process: a small random one that writes action tokens."""

import json
import os
import re
import signal
import socket
import sys
import time

import numpy as np
import pytest
from harness.policy_bench import KEY, Camera, PolicyBench

torch = pytest.importorskip('torch')

from openvla_ros.action_space.dataset_profile import load_dataset_profile  # noqa: E402
from openvla_ros.model import OpenVLA  # noqa: E402
from openvla_ros.model.local_backend import LocalBackend  # noqa: E402
from openvla_ros.policy.policy import Policy  # noqa: E402
from openvla_ros.training.small_model import SmallModel  # noqa: E402
from openvla_ros.training.tokenizer import (  # noqa: E402
    build_tokenizer,
    save_tokenizer,
    unpadded_vocabulary_size,
)

pytestmark = pytest.mark.ros

# Of no interest here is how fast a machine is that runs other tests as well.
PATIENT = ('robot:=sim', 'allow_slow:=true', 'max_observation_age_s:=5.0', 'hang_timeout_s:=30.0')
SIZES = SmallModel(56, 32, 3, 2, 32, 64, 2, 2)
REACH = [0.03, 0.03, 0.03, 0.1, 0.1, 0.1, 1.0]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('checkpoint')
    tokenizer = build_tokenizer(['pick up the red block'])
    save_tokenizer(tokenizer, folder)
    size = unpadded_vocabulary_size(tokenizer)
    model = OpenVLA.from_config(
        {**SIZES.config(size), 'norm_stats': {}},
        preprocessor=SIZES.preprocessor_config(),
        seed=4,
    )
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(8.0)
            if name.endswith('scale_factor'):
                parameter.fill_(0.5)
        head = model.language_model.lm_head.weight
        head.zero_()
        head[size - 256 : size] = torch.randn(256, SIZES.width, generator=generator)
    model.save_pretrained(folder)
    action = {
        'q01': [-x for x in REACH[:6]] + [0.0],
        'q99': REACH,
        'mask': [True] * 6 + [False],
    }
    (folder / 'dataset_statistics.json').write_text(json.dumps({KEY: {'action': action}}))
    return folder


def start(bench, checkpoint, *parameters):
    given = (
        f'unnorm_key:={KEY}',
        f'checkpoint:={checkpoint}',
        'device:=cpu',
        *PATIENT,
        *parameters,
    )
    flags = [part for parameter in given for part in ('-p', parameter)]
    argv = [sys.executable, '-m', 'openvla_ros.nodes.policy_node', '--ros-args', *flags]
    return bench.processes.start('policy', argv)


def test_a_real_network_acts_through_the_node_as_it_does_in_process(checkpoint, tmp_path):
    backend = LocalBackend.load(checkpoint, KEY, device='cpu', quantization=None)
    policy = Policy(backend, load_dataset_profile(KEY))
    with PolicyBench(tmp_path, deadline_s=90.0) as bench:
        camera = Camera(bench.node)
        camera.content = 'frozen'
        process = start(bench, checkpoint, 'stuck_after:=0', 'image_frozen_timeout_s:=0.0')
        bench.wait_code('NO_INSTRUCTION', 60.0)
        bench.instruct('pick up the red block')
        action = bench.wait_actions(3)[-1]
        expected = policy.act(camera._pixels(), 'pick up the red block')
        assert list(action.action_tokens) == expected.predicted.action_tokens.tolist()
        np.testing.assert_allclose(action.action, expected.predicted.action)
        twist = action.twist
        np.testing.assert_allclose(
            [twist.linear.x, twist.linear.y, twist.linear.z], expected.delta.twist()[:3]
        )
        with bench.heard.mirrors() as record:
            bench.wait(lambda: record['model_input'], 'a model input')
        seen = np.frombuffer(record['model_input'][0][1].data, np.uint8)
        np.testing.assert_array_equal(seen, policy.model_input(camera._pixels()).ravel())
        # Seven for the first action, fewer for those after it: in a still scene drafts are taken.
        bench.wait(
            lambda: (
                float(bench.diagnostics['policy_node: policy'][2].get('passes_per_action', 'nan'))
                < 7.0
            ),
            'actions in fewer than seven passes',
        )
        values = bench.diagnostics['policy_node: policy'][2]
        assert {'inference.vision_p50_ms', 'inference.decode_p50_ms'} <= set(values)
        assert values['execution'] == 'eager'
        bench.wait(lambda: ', network: eager' in bench.heard.statuses[-1][1].data, 'how it runs')
        t_s = process.signal(signal.SIGTERM)
        assert process.wait(5.0) == 0
        assert time.monotonic() - t_s < 1.0 * max(1.0, 2 * os.getloadavg()[0] / os.cpu_count())


def test_what_the_checkpoint_lacks_is_named(checkpoint, tmp_path):
    folder = tmp_path / 'copy'
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = folder / 'model.safetensors'
    weights.write_bytes(weights.read_bytes()[:-1000])
    with PolicyBench(tmp_path, deadline_s=60.0) as bench:
        process = start(bench, folder)
        assert process.wait(50.0) == 2
        assert len(re.findall('MODEL_REFUSED.*model.safetensors', process.log_text())) == 1
        assert 'Traceback' not in process.log_text()


def test_a_server_s_network_acts_as_the_same_network_in_process(checkpoint, tmp_path):
    pytest.importorskip('fastapi')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    policy = Policy(
        LocalBackend.load(checkpoint, KEY, device='cpu', quantization=None),
        load_dataset_profile(KEY),
    )
    with PolicyBench(tmp_path, deadline_s=90.0) as bench:
        argv = [sys.executable, '-m', 'openvla_ros.serving', '--model', str(checkpoint)]
        serve = [*argv, '--port', str(port), '--device', 'cpu']
        camera = Camera(bench.node)
        camera.content = 'frozen'
        flags = [
            f'unnorm_key:={KEY}',
            f'server_url:=http://127.0.0.1:{port}',
            'stuck_after:=0',
            *PATIENT,
        ]
        argv = [sys.executable, '-m', 'openvla_ros.nodes.policy_node', '--ros-args']
        bench.processes.start('policy', [*argv, *(w for f in flags for w in ('-p', f))])
        bench.wait_code('SERVER_UNAVAILABLE', 30.0)
        bench.processes.start('server', serve)
        bench.wait_code('NO_INSTRUCTION', 60.0)
        bench.instruct('pick up the red block')
        action = bench.wait_actions(2)[-1]
        expected = policy.act(camera._pixels(), 'pick up the red block')
        assert list(action.action_tokens) == expected.predicted.action_tokens.tolist()
        np.testing.assert_allclose(action.action, expected.predicted.action)
        bench.processes['server'].kill()
        bench.wait_code('SERVER_UNAVAILABLE')
        t_s = time.monotonic()
        time.sleep(0.5)
        assert bench.heard.actions_since(t_s) == []
        bench.processes.start('server', serve)
        bench.wait_code('READY', 60.0)
        bench.wait_actions(1)
