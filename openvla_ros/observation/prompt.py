"""The sentence around the instruction; it must be, letter for letter, the one used in training."""

from typing import Literal, get_args

from openvla_ros.core.strict_config import ConfigError

PromptFamily = Literal['openvla', 'vicuna_v15']

_TEMPLATES: dict[str, str] = {
    'openvla': 'In: {message}\nOut:',
    'vicuna_v15': (
        'A chat between a curious user and an artificial intelligence assistant. '
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        'USER: {message} ASSISTANT:'
    ),
}
_ACTION_QUESTION = 'What action should the robot take to {instruction}?'
_FAMILY_OF_BACKBONE: dict[str, PromptFamily] = {
    'llama2-7b-pure': 'openvla',
    'llama2-13b-pure': 'openvla',
    'vicuna-v15-7b': 'vicuna_v15',
    'vicuna-v15-13b': 'vicuna_v15',
}


def build_prompt(instruction: str, family: PromptFamily) -> str:
    """Put an instruction into the checkpoint's template, in lower case and otherwise unchanged.

    Args:
        instruction: What the human wrote, such as 'put the spoon on the towel'.
        family: The checkpoint's template, from ``prompt_family``.

    Raises:
        ValueError: the family is not known.
    """
    return build_question_prompt(
        _ACTION_QUESTION.replace('{instruction}', instruction.lower()), family
    )


def build_question_prompt(question: str, family: PromptFamily) -> str:
    """Put any question about an image into the checkpoint's template, unchanged.

    Args:
        question: Such as 'What color is the block?'.
        family: The checkpoint's template, from ``prompt_family``.

    Raises:
        ValueError: the family is not known.
    """
    if family not in _TEMPLATES:
        raise ValueError(
            f'prompt family: got {family!r}, expected one of {", ".join(get_args(PromptFamily))}'
        )
    return _TEMPLATES[family].replace('{message}', question)


def prompt_family(llm_backbone_id: str) -> PromptFamily:
    """Return the template a checkpoint was trained with, from config.json's llm_backbone_id.

    Raises:
        ConfigError: the language model is not one whose template is known.
    """
    if llm_backbone_id not in _FAMILY_OF_BACKBONE:
        raise ConfigError(
            f'llm_backbone_id: got {llm_backbone_id!r}, expected one of '
            f'{", ".join(_FAMILY_OF_BACKBONE)}, whose prompts are known'
        )
    return _FAMILY_OF_BACKBONE[llm_backbone_id]
