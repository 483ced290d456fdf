"""Networks are compiled in haste."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _in_haste(compiled_in_haste):
    """For every test here."""
