"""Which methods a resource knows, and how ``Allow`` names them (RFC 9110 sections 9.1, 10.2.1). Pure.

Names of methods are case-sensitive: ``put`` is no method of this server.
"""

from __future__ import annotations

from collections.abc import Iterable

from hmacfs.web.messages import TUS_PATH

METHODS = ("OPTIONS", "HEAD", "GET", "PUT", "POST", "PATCH", "DELETE")

_ON_FILES = ("OPTIONS", "HEAD", "GET", "PUT", "POST")
_ON_TUS_UPLOADS = ("OPTIONS", "HEAD", "GET", "POST", "PATCH", "DELETE")


def methods_of(path_info: str, prefix: str) -> tuple[str, ...]:
    """The methods of a path below the mount point ``prefix``; all there are for the asterisk of OPTIONS."""
    if path_info == "*":
        return METHODS
    return _ON_TUS_UPLOADS if path_info.startswith(prefix + TUS_PATH) else _ON_FILES


def allow(methods: Iterable[str]) -> tuple[str, str]:
    """The header, in the one order that all answers have."""
    known = set(methods)
    return "Allow", ", ".join(method for method in METHODS if method in known)
