from pathlib import Path

import pytest

from openvla_ros.safety.admission import REFUSALS
from openvla_ros.safety.safety_state import REASONS

TEXT = (Path(__file__).parents[2] / 'docs' / 'safety.md').read_text()


@pytest.mark.parametrize('codes', [REASONS, REFUSALS])
def test_every_code_is_documented_with_the_sentence_the_controller_says(codes):
    missing = [code for code, text in codes.items() if f'| `{code}` | {text} |' not in TEXT]
    assert missing == []
