import json

import pytest
from tokenizers import Tokenizer

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.model import OpenVLA
from openvla_ros.model.tokenizer import PromptTokenizer, find_tokenizer
from openvla_ros.observation.prompt import build_prompt


def pieces(folder, ids):
    tokenizer = Tokenizer.from_file(str(folder / 'tokenizer.json'))
    return [tokenizer.id_to_token(i) for i in ids]


def test_a_prompt_is_bos_the_pieces_and_the_lone_space(tokenizer_folder):
    ids = PromptTokenizer(tokenizer_folder)('In: up?\nOut:')
    assert pieces(tokenizer_folder, ids) == [
        '<s>',
        *'▁In:▁up?',
        '<0x0A>',
        *'Out:',
        '▁',
    ]


def test_a_space_that_is_there_is_not_doubled(tokenizer_folder):
    tokenizer = PromptTokenizer(tokenizer_folder)
    assert tokenizer('Out: ') == tokenizer('Out:')


def test_a_post_processor_that_adds_bos_does_not_add_a_second_one(tokenizer_folder):
    plain = PromptTokenizer(tokenizer_folder)('Out:')
    content = json.loads((tokenizer_folder / 'tokenizer.json').read_text())
    content['post_processor'] = {
        'type': 'TemplateProcessing',
        'single': [
            {'SpecialToken': {'id': '<s>', 'type_id': 0}},
            {'Sequence': {'id': 'A', 'type_id': 0}},
        ],
        'pair': [{'Sequence': {'id': 'A', 'type_id': 0}}, {'Sequence': {'id': 'B', 'type_id': 1}}],
        'special_tokens': {'<s>': {'id': '<s>', 'ids': [1], 'tokens': ['<s>']}},
    }
    (tokenizer_folder / 'tokenizer.json').write_text(json.dumps(content))
    assert PromptTokenizer(tokenizer_folder)('Out:') == plain


def test_letters_outside_the_vocabulary_fall_back_to_bytes(tokenizer_folder):
    ids = PromptTokenizer(tokenizer_folder)(build_prompt('é', 'openvla'))
    assert '<0xC3> <0xA9>' in ' '.join(pieces(tokenizer_folder, ids))


def test_the_space_is_the_tokenizers_own(tokenizer_folder, prompted_checkpoint):
    tokenizer = PromptTokenizer(tokenizer_folder)
    assert pieces(tokenizer_folder, [tokenizer.space_id]) == ['▁']
    model = OpenVLA.from_pretrained(prompted_checkpoint)
    assert model.prompt_ids([1, 5]).tolist() == [[1, 5, tokenizer.space_id]]


def test_a_tokenizer_without_the_pieces_every_prompt_needs_is_refused(tokenizer_folder):
    path = tokenizer_folder / 'tokenizer.json'
    path.write_text(path.read_text().replace('"▁":', '"_":'))
    with pytest.raises(ConfigError, match=r"tokenizer\.json: has no piece '▁'"):
        PromptTokenizer(tokenizer_folder)


@pytest.mark.parametrize('content', ['', '{}', 'version https://git-lfs.github.com/spec/v1\n'])
def test_a_damaged_tokenizer_is_named(tokenizer_folder, content):
    (tokenizer_folder / 'tokenizer.json').write_text(content)
    with pytest.raises(ConfigError, match=r'tokenizer\.json: is (not a tokenizer|a git-LFS)'):
        find_tokenizer(tokenizer_folder)


def test_no_tokenizer_is_no_error_but_one_of_another_vocabulary_is(tmp_path, prompted_checkpoint):
    assert find_tokenizer(tmp_path) is None
    for path in prompted_checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((tmp_path / 'tokenizer.json').read_text())
    content['model']['vocab']['one_more'] = 1024
    content['added_tokens'] = [t for t in content['added_tokens'] if t['content'] != '<PAD>']
    (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=r'tokenizer\.json: has 1025 pieces, expected 1024'):
        OpenVLA.from_pretrained(tmp_path)


def test_the_tokenizer_travels_with_a_saved_checkpoint(tmp_path, prompted_checkpoint):
    OpenVLA.from_pretrained(prompted_checkpoint).save_pretrained(tmp_path)
    prompt = build_prompt('pick up the block', 'openvla')
    assert PromptTokenizer(tmp_path)(prompt) == PromptTokenizer(prompted_checkpoint)(prompt)
