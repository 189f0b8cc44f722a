"""What commands say of failures."""

from __future__ import annotations

from hmacfs.config.messages import one_line
from hmacfs.errors import for_operator


def explained(error: BaseException) -> str:
    """With its cause, which is for the operator."""
    return one_line(for_operator(error))
