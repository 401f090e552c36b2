import json
from pathlib import Path

import pytest

from openvla_ros.core.strict_config import ConfigError
from openvla_ros.observation.prompt import build_prompt, build_question_prompt, prompt_family

GOLDEN = json.loads((Path(__file__).parents[1] / 'golden' / 'golden_vectors.json').read_text())


@pytest.mark.parametrize(
    'instruction',
    ['put spoon on towel', 'pick up the red block', 'put the carrot on the plate'],
)
def test_the_prompt_is_letter_for_letter_the_training_prompt(instruction):
    assert build_prompt(instruction, 'openvla') in GOLDEN['prompts']


def test_the_instruction_is_lowered_and_otherwise_left_alone():
    assert build_prompt('Pick  {instruction} UP.', 'openvla') == (
        'In: What action should the robot take to pick  {instruction} up.?\nOut:'
    )


def test_the_vicuna_prompt_is_a_chat():
    assert build_prompt('Move', 'vicuna_v15') == (
        'A chat between a curious user and an artificial intelligence assistant. The assistant '
        "gives helpful, detailed, and polite answers to the user's questions. USER: What action "
        'should the robot take to move? ASSISTANT:'
    )


def test_the_language_model_decides_the_family():
    assert prompt_family('llama2-7b-pure') == 'openvla'
    assert prompt_family('vicuna-v15-7b') == 'vicuna_v15'


def test_unknown_families_and_language_models_are_refused():
    with pytest.raises(ConfigError, match="llm_backbone_id: got 'phi-2-3b', expected one of"):
        prompt_family('phi-2-3b')
    with pytest.raises(ValueError, match="got 'chatml', expected one of openvla, vicuna_v15"):
        build_prompt('move', 'chatml')


def test_a_question_stands_in_the_same_template_in_its_own_words():
    asked = build_question_prompt('What COLOR is it?', 'openvla')
    assert asked == 'In: What COLOR is it?\nOut:'
    assert build_question_prompt('why?', 'vicuna_v15').endswith('USER: why? ASSISTANT:')
