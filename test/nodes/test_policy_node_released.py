"""policy_node started on checkpoint folders as people have them, held to the golden results."""

import re
import sys

import numpy as np
import pytest
from harness.policy_bench import Camera, PolicyBench
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
    write_profiles,
    write_transformers_5_checkpoint,
)

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.nodes.policy_parameters import PolicyParameters
from openvla_ros.nodes.policy_startup import load_profile

pytest.importorskip('torch')
pytestmark = pytest.mark.ros

FORMS = {
    'hub': (write_hub_checkpoint, 'bridge_orig'),
    'finetuned': (write_finetuned_checkpoint, 'bridge_like'),
    'transformers_5': (write_transformers_5_checkpoint, 'bridge_like'),
}
PATIENT = ('allow_slow:=true', 'max_observation_age_s:=5.0', 'hang_timeout_s:=30.0')


@pytest.fixture(scope='module', params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope='module')
def folder(form, tmp_path_factory):
    return FORMS[form][0](tmp_path_factory.mktemp('released') / form)


class GoldenCamera(Camera):
    """Publishes one of the golden images."""

    def show(self, i):
        self.content = None
        self.image = IMAGES[i]
        self.height, self.width = self.image.shape[:2]
        self.content = 'golden'

    def _pixels(self):
        return self.image


def start(bench, folder, *parameters):
    given = ('robot:=sim', f'checkpoint:={folder}', 'device:=cpu', 'dtype:=float32', *PATIENT)
    flags = [part for parameter in (*given, *parameters) for part in ('-p', parameter)]
    argv = [sys.executable, '-m', 'openvla_ros.nodes.policy_node', '--ros-args', *flags]
    return bench.processes.start('policy', argv)


def test_the_node_publishes_the_golden_tokens_and_actions(folder, form, tmp_path):
    key = FORMS[form][1]
    checks = ['stuck_after:=0', 'image_frozen_timeout_s:=0.0', 'image_blank_timeout_s:=0.0']
    profiles = write_profiles(tmp_path / 'profiles')
    with PolicyBench(tmp_path, deadline_s=90.0) as bench:
        camera = GoldenCamera(bench.node)
        camera.show(0)
        start(bench, folder, f'unnorm_key:={key}', f'dataset_directory:={profiles}', *checks)
        bench.wait_code('NO_INSTRUCTION', 60.0)
        for i in range(8):
            camera.show(i)
            bench.instruct(SENTENCES[i])
            action = bench.wait(lambda i=i: golden_action(bench, i), f'the action of image {i}')
            expected = expected_action(i, folder, key)
            np.testing.assert_allclose(action.action, expected, rtol=0, atol=1e-12)
            if str(EXPECTED[f'unnorm_key_{i}']) == key:
                golden = EXPECTED[f'action_{i}']
                np.testing.assert_allclose(action.action, golden, rtol=0, atol=1e-12)
            assert action.unnorm_key == key


def test_an_adapter_of_another_checkpoint_ends_the_node_with_both_reasons(tmp_path):
    folder = write_finetuned_checkpoint(tmp_path / 'checkpoint')
    adapter = write_adapter(tmp_path / 'adapter', head='other')
    profiles = write_profiles(tmp_path / 'profiles')
    with PolicyBench(tmp_path, deadline_s=60.0) as bench:
        given = ('unnorm_key:=bridge_like', f'dataset_directory:={profiles}')
        process = start(bench, folder, f'adapter:={adapter}', *given)
        assert process.wait(50.0) == 2
        said = process.log_text()
        assert bench.heard.actions == []
    assert 'it belongs to another checkpoint, or it is merged into this one already' in said
    assert 'Traceback' not in said


def golden_action(bench, i):
    """The newest action, once it is of this sentence and has the golden tokens."""
    actions = list(bench.heard.actions)
    newest = actions[-1][1] if actions else None
    # Right after a change the image may still be the one before.
    right = newest is not None and newest.instruction == SENTENCES[i]
    return newest if right and list(newest.action_tokens) == expected_tokens(i) else None


def test_without_a_key_the_node_ends_with_the_checkpoint_s_own_first(folder, form, tmp_path):
    with PolicyBench(tmp_path, deadline_s=60.0) as bench:
        process = start(bench, folder)
        assert process.wait(50.0) == 2
        said = process.log_text().strip().splitlines()[-1]
    keys = HUB_KEYS if form == 'hub' else ('bridge_like', 'no_mask', 'eight_dof')
    assert f'unnorm_key: is not set; {folder} has statistics of: {", ".join(keys)}; of' in said
    usable = 'bridge_orig, fractal20220817_data' if form == 'hub' else 'none'
    assert f'of these {usable} can be set now' in said


def test_without_a_key_a_wrong_folder_is_said_first(tmp_path):
    with pytest.raises(
        ConfigError, match=re.escape(f'{str(tmp_path / "nowhere")!r} is not a fol')
    ):
        load_profile(PolicyParameters(checkpoint=str(tmp_path / 'nowhere')))


def test_without_a_key_the_statistics_of_the_adapter_are_listed(folder, tmp_path):
    (tmp_path / 'dataset_statistics.json').write_text(
        '{"my_arm": {"action": {"q01": [0, 1], "q99": [1, 2]}}}'
    )
    parameters = PolicyParameters(checkpoint=str(folder), adapter=str(tmp_path))
    with pytest.raises(ConfigError, match=f'{tmp_path} has statistics of: my_arm; of these none'):
        load_profile(parameters)
