from pathlib import Path

import pytest

from openvla_ros.model.inspect import main

TINY = Path(__file__).parents[1] / 'golden' / 'openvla_tiny'


def said(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def test_the_report_says_what_the_checkpoint_is(capsys):
    text = said(capsys, TINY, '--no-self-test')
    for words in (
        'vit_so400m_patch14_siglip_224, 224 px, 256 patches, width 72, 3 of 4 blocks run',
        'projector of 3 layers, 136 to 64',
        'Llama (llama2-7b-pure), 3 layers, width 64, 4 heads',
        'ids 31744 to 31999 of 32064 rows',
        r"openvla: 'In: What action should the robot take to <instruction>?\nOut:'",
        'tokenizer      none',
        '224 x 224, resize-naive, bicubic',
        '151 tensors of bfloat16 in 1 file(s)',
        'GB free',
        'nf4-double-all',
        'licence',
    ):
        assert words in text
    assert 'self-test' not in text


def test_parameters_are_counted_by_part(capsys):
    rows = [line.split() for line in said(capsys, TINY, '--no-self-test').splitlines()]
    counts = {' '.join(r[:-3]): int(r[-3].replace(',', '')) for r in rows if r[-1:] == ['GB']}
    parts = ['first tower', 'second tower', 'projector', 'language model', 'output head']
    assert counts['projector'] == 136 * 544 + 544 + 544 * 64 + 64 + 64 * 64 + 64
    assert counts['output head'] == 32064 * 64
    assert sum(counts[part] for part in [*parts, 'embedding, norm']) == counts['all']


def test_the_reach_of_one_step_is_given_in_mm_and_mrad(capsys):
    text = said(capsys, TINY, '--no-self-test')
    row = next(line.split() for line in text.splitlines() if 'bridge_like' in line)
    # q01 and q99 of the file, times a thousand.
    assert row[1:4] == ['7', '-28.7', '+28.3']
    assert row[12:14] == ['-207.2', '+203.8']
    assert 'none: as m and rad' in ' '.join(row)
    assert '8 values are not a pose and a gripper' in text


def test_the_self_test_is_run(capsys, prompted_checkpoint):
    text = said(capsys, prompted_checkpoint, '--device', 'cpu')
    assert 'tokenizer.json, 1024 pieces' in text
    assert 'passed in bfloat16 on cpu' in text or 'passed in float32 on cpu' in text
    assert 'relative difference of the logits black and white' in text


@pytest.mark.parametrize('damage', ['config.json', 'model.safetensors', None])
def test_a_checkpoint_that_cannot_be_used_is_refused_in_one_sentence(
    capsys, small_checkpoint, damage
):
    if damage:
        (small_checkpoint / damage).write_text('{')
    else:
        small_checkpoint = small_checkpoint / 'nowhere'
    assert main([str(small_checkpoint)]) == 1
    output = capsys.readouterr()
    assert output.err.startswith(f'refused: {small_checkpoint}')
    assert output.err.count('\n') == 1
