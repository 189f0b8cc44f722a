"""Values and texts from outside in messages, which are one line each. Pure."""

from __future__ import annotations

from hmacfs.masking import mask_value


def shown(value: object, *, is_secret: bool = False) -> str:
    """A value for a message: short, on one line, and nothing of a secret or of what may be a password."""
    if is_secret:
        return "(not shown)"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        printed = f"[{', '.join(shown(item) for item in value)}]"
    else:
        printed = repr(mask_value(str(value)) if isinstance(value, str) else value)
    return printed if len(printed) <= 60 else printed[:57] + "..."


def one_line(value: object) -> str:
    """For a message: control characters and line ends replaced, so that it stays one line."""
    return "".join(c if c.isprintable() else "?" for c in str(value))
