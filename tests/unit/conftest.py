"""What several unit tests share."""

from __future__ import annotations

import pytest

from tests.stores.backends import BACKENDS


@pytest.fixture(params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store that the use cases run over."""
    return str(request.param)
