"""The released checkpoint and a fine-tuned one, as they lie on a disk, loaded and inspected."""

import json

import numpy as np
import pytest
from harness.released_checkpoint import (
    EXPECTED,
    HUB_KEYS,
    IMAGES,
    SENTENCES,
    expected_action,
    expected_tokens,
    write_finetuned_checkpoint,
    write_hub_checkpoint,
    write_transformers_5_checkpoint,
)

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model.inspect import main
from openvla_ros.model.local_backend import LocalBackend

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
def backend(form, folder):
    key = 'bridge_orig' if form == 'hub' else 'bridge_like'
    return LocalBackend.load(folder, key, dtype='float32', use_draft=False)


@pytest.mark.parametrize('i', range(8))
def test_a_sentence_and_an_image_give_the_golden_tokens_and_action(backend, folder, i):
    predicted = backend.predict(IMAGES[i], SENTENCES[i])
    assert predicted.action_tokens.tolist() == expected_tokens(i)
    expected = expected_action(i, folder, backend.unnorm_key)
    np.testing.assert_allclose(predicted.action, expected, rtol=0, atol=1e-12)
    if str(EXPECTED[f'unnorm_key_{i}']) == backend.unnorm_key:
        np.testing.assert_allclose(predicted.action, EXPECTED[f'action_{i}'], rtol=0, atol=1e-12)


def test_inspect_reports_it_and_runs_the_self_test(folder, form, capsys):
    assert main([str(folder), '--device', 'cpu']) == 0
    out = capsys.readouterr().out
    assert 'tokenizer.json, 32000 pieces' in out
    assert f'tensors of bfloat16 in {3 if form == "hub" else 4} file(s)' in out
    assert 'mean 0.484375, 0.455078125, 0.40625; std 0.228515625, 0.223632812, 0.224609375' in out
    assert 'self-test      passed' in out
    rows = {line.split()[0]: line for line in out.splitlines() if line.split()}
    if form == 'hub':
        assert set(HUB_KEYS) <= set(rows)
        assert rows['bridge_orig'].endswith(' 5 Hz')
    else:
        assert {'bridge_like', 'no_mask', 'eight_dof'} <= set(rows)
        assert 'bridge_orig' not in rows  # config.json's are the base's
    # Fractal's robot moves up to 0.3 m in a step; who has one raises the bound.
    refused = [line.split()[0] for line in out.splitlines() if 'is refused by policy_node' in line]
    assert refused == (['fractal20220817_data'] if form == 'hub' else [])


def test_inspect_judges_the_reach_of_a_step_as_the_node_does(tmp_path, capsys):
    folder = write_hub_checkpoint(tmp_path / 'checkpoint')
    config = json.loads((folder / 'config.json').read_text())
    config['norm_stats']['bridge_orig']['action']['q99'][0] = 1.0  # a wrong unit
    (folder / 'config.json').write_text(json.dumps(config))
    assert main([str(folder), '--no-self-test']) == 0
    out = capsys.readouterr().out
    reach_m = np.linalg.norm([1.0, 0.0417034997, 0.0400294887])
    assert (
        f'bridge_orig is refused by policy_node: the statistics of bridge_orig allow {reach_m:.3f}'
        in out
    )


def test_the_name_of_a_dataset_is_asked_for_with_the_checkpoint_s_own(folder, form):
    with pytest.raises(ValueError, match='choose one of: ') as refusal:
        LocalBackend.load(folder)
    keys = HUB_KEYS if form == 'hub' else ('bridge_like', 'no_mask', 'eight_dof')
    assert str(refusal.value).endswith(', '.join(keys))


def test_a_flat_statistics_file_is_named_for_what_it_is(tmp_path):
    folder = write_finetuned_checkpoint(tmp_path / 'checkpoint')
    statistics = json.loads((folder / 'dataset_statistics.json').read_text())
    (folder / 'dataset_statistics.json').write_text(json.dumps(statistics['bridge_like']))
    with pytest.raises(ConfigError, match='statistics of one dataset without its name'):
        LocalBackend.load(folder, 'bridge_like')
