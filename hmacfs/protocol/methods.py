"""The methods of HTTP that this server knows, and how ``Allow`` names them (RFC 9110 sections 9.1, 10.2.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable

METHODS = ("OPTIONS", "HEAD", "GET", "PUT", "POST", "PATCH", "DELETE")


def allow(methods: Iterable[str]) -> tuple[str, str]:
    """The header, in the one order that all answers have."""
    known = set(methods)
    return "Allow", ", ".join(method for method in METHODS if method in known)
