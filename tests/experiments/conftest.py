"""Most of these tests wait for the compiler."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _haste(compiled_in_haste):
    """See tests/conftest.py."""
