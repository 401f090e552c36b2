"""Questions about images: every line is checked before anything is trained."""

import json

import numpy as np
import pytest

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.episode import encode_image
from openvla_ros.data.question_set import QuestionSet

GOOD = {'image': 'a.jpg', 'question': 'what color?', 'answer': 'red'}


def write(folder, *rows):
    (folder / 'a.jpg').write_bytes(encode_image(np.full((24, 24, 3), 200, np.uint8)))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / 'questions.jsonl').write_text('\n'.join(lines) + '\n')
    return folder


def test_questions_come_with_their_images(tmp_path):
    data = QuestionSet(write(tmp_path, GOOD, '', {**GOOD, 'answer': ' blue '}))
    assert len(data) == 2
    assert (data.questions[1].question, data.questions[1].answer) == ('what color?', 'blue')
    assert data.image(0).shape == (24, 24, 3)


@pytest.mark.parametrize(
    ('row', 'sentence'),
    [
        ('{', 'line 2: is not JSON'),
        ('[]', 'line 2: got list, expected the keys image, question, answer'),
        ({'image': 'a.jpg', 'question': 'x'}, r"got \['image', 'question'\], expected the keys"),
        ({**GOOD, 'label': 'x'}, 'expected the keys image, question, answer'),
        ({**GOOD, 'answer': ' '}, "answer: got ' ', expected some text"),
        ({**GOOD, 'image': 'b.jpg'}, 'b.jpg is not there'),
    ],
)
def test_a_line_that_is_no_question_is_named(tmp_path, row, sentence):
    with pytest.raises(ConfigError, match=sentence):
        QuestionSet(write(tmp_path, GOOD, row))


def test_an_empty_file_and_a_damaged_image_are_named(tmp_path):
    with pytest.raises(ConfigError, match='holds no question'):
        QuestionSet(write(tmp_path, ''))
    data = QuestionSet(write(tmp_path, GOOD))
    (tmp_path / 'a.jpg').write_bytes(b'no image')
    with pytest.raises(ConfigError, match=r'a.jpg: holds an image that cannot be read'):
        data.image(0)
