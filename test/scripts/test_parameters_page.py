"""The parameters' documentation is what the nodes declare."""

from pathlib import Path

from scripts.parameters_page import page

DOCS = Path(__file__).parents[2] / 'docs' / 'parameters.md'


def test_the_page_is_up_to_date():
    assert DOCS.read_text() == page(), (
        'run: python scripts/parameters_page.py > docs/parameters.md'
    )


def test_every_parameter_has_a_description_without_a_full_stop_and_a_row():
    rows = [line for line in page().splitlines() if line.startswith('| `')]
    assert len(rows) > 40
    for row in rows:
        meaning = row.split('|')[-2].strip()
        assert len(meaning) > 5, row
        assert not meaning.endswith('.'), row
