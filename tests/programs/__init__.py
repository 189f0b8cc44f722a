"""What tests start in processes and machines of their own: a file each."""

from __future__ import annotations

from pathlib import Path


def program(name: str) -> Path:
    """One of the files beside this one."""
    return Path(__file__).with_name(name)
