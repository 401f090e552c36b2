"""Every hazard of the controller and every property has a test that names it."""

from reliability.coverage import PROPERTIES, ROWS, covering


def test_every_hazard_row_of_the_controller_has_a_test() -> None:
    assert [row for row, tests in covering(list(ROWS)).items() if not tests] == []


def test_every_property_has_a_test() -> None:
    assert [name for name, tests in covering(PROPERTIES).items() if not tests] == []
