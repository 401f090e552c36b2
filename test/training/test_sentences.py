import numpy as np
import pytest

from openvla_ros.action_space.action_tokens import decode_action_tokens
from openvla_ros.action_space.normalization import ActionStats
from openvla_ros.training.sentences import IGNORED, SentenceWriter
from openvla_ros.training.tokenizer import build_tokenizer, unpadded_vocabulary_size

STATS = ActionStats(
    np.array([-0.02, -0.02, -0.02, -0.1, -0.1, -0.1, 0.0]),
    np.array([0.02, 0.02, 0.02, 0.1, 0.1, 0.1, 1.0]),
    np.array([True] * 6 + [False]),
)
ANSWER = np.array([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 0.0])


@pytest.fixture(scope='module')
def tokenizer():
    return build_tokenizer(['push the red block', 'pick up the red block'])


@pytest.fixture(scope='module')
def writer(tokenizer):
    return SentenceWriter(tokenizer, STATS)


def test_only_the_action_and_the_end_count(writer, tokenizer):
    row = writer.write(['push the red block'], ANSWER[None])
    counted = row.targets[0][row.targets[0] != IGNORED]
    assert len(counted) == 8
    assert counted[-1] == tokenizer.token_to_id('</s>')
    values = decode_action_tokens(counted[:7], unpadded_vocabulary_size(tokenizer))
    np.testing.assert_allclose(values, ANSWER, atol=1.01 / 255)


def test_the_lone_space_predicts_the_first_action_token(writer, tokenizer):
    row = writer.write(['push the red block'], ANSWER[None])
    first = int(np.flatnonzero(row.targets[0] != IGNORED)[0])
    assert row.tokens[0, first] == tokenizer.token_to_id('▁')
    assert row.targets[0, first] == row.tokens[0, first + 1]


def test_every_target_is_the_next_token(writer):
    row = writer.write(['push the red block'], ANSWER[None])
    counted = np.flatnonzero(row.targets[0] != IGNORED)
    assert (row.targets[0, counted[:-1]] == row.tokens[0, counted[:-1] + 1]).all()


def test_padding_does_not_count(writer):
    rows = writer.write(
        ['push the red block', 'pick up the red block'], np.stack([ANSWER, ANSWER])
    )
    assert ((rows.targets != IGNORED).sum(1) == 8).all()
    assert rows.targets[0, -1] == IGNORED
    assert rows.targets[1, -1] != IGNORED


def test_the_prompt_is_the_one_used_at_run_time(writer, tokenizer, tmp_path):
    from openvla_ros.model.tokenizer import PromptTokenizer
    from openvla_ros.observation.prompt import build_prompt
    from openvla_ros.training.tokenizer import save_tokenizer

    save_tokenizer(tokenizer, tmp_path)
    at_run_time = PromptTokenizer(tmp_path)(build_prompt('Pick up the RED block', 'openvla'))
    assert writer.prompt('Pick up the RED block') == at_run_time[1:]
