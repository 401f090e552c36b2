import pytest

from openvla_ros.model.tokenizer import PromptTokenizer
from openvla_ros.observation.prompt import build_prompt
from openvla_ros.training.tokenizer import (
    build_tokenizer,
    load_tokenizer,
    save_tokenizer,
    unpadded_vocabulary_size,
)

SENTENCES = [
    f'{verb} the {colour} block' for verb in ('push', 'pick up') for colour in ('red', 'blue')
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('tokenizer')
    save_tokenizer(build_tokenizer(SENTENCES), path)
    return path


def test_the_checkpoint_reader_appends_the_lone_space(folder):
    tokenizer = PromptTokenizer(folder)
    ids = tokenizer(build_prompt('push the red block', 'openvla'))
    assert ids[0] == tokenizer.bos_id == 1
    assert ids[-1] == tokenizer.space_id == load_tokenizer(folder).token_to_id('▁')


def test_the_last_256_ids_are_pieces_that_no_sentence_contains(folder):
    tokenizer = load_tokenizer(folder)
    size = unpadded_vocabulary_size(tokenizer)
    for token_id in (size - 256, size - 1):
        assert 0x2800 <= ord(tokenizer.id_to_token(token_id)) <= 0x28FF
    for sentence in SENTENCES:
        assert max(tokenizer.encode(build_prompt(sentence, 'openvla')).ids) < size - 256


def test_padding_is_the_first_id_behind_the_vocabulary(folder):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.token_to_id('<PAD>') == unpadded_vocabulary_size(tokenizer)


def test_known_words_are_one_token_each_and_the_template_two(folder):
    tokens = load_tokenizer(folder).encode(build_prompt('push the blue block', 'openvla')).tokens
    assert tokens[2:-1] == ['▁push', '▁the', '▁blue', '▁block']
    assert len(tokens) == 1 + 1 + 4 + 1


@pytest.mark.parametrize('text', ['push the red block', 'größe 😀', 'RED, blue; "x"\n?'])
def test_any_text_survives_the_round_trip(folder, text):
    tokenizer = load_tokenizer(folder)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_no_merge_crosses_the_border_of_a_word(folder):
    # 'to' ends the template and 'the' follows a verb: an unknown word after them stays apart.
    tokens = load_tokenizer(folder).encode(build_prompt('red thethe', 'openvla')).tokens
    assert all('▁' not in token[1:] for token in tokens[2:-1])
