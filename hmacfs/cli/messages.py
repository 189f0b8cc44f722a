"""What commands say of failures."""

from __future__ import annotations

from hmacfs.config.messages import one_line
from hmacfs.errors import StorageFailed


def explained(error: BaseException) -> str:
    """With its cause, which is for the operator."""
    text = error.for_log() if isinstance(error, StorageFailed) else str(error)
    return one_line(text or type(error).__name__)
