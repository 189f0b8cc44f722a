"""How a setting is declared: once, as a field of the dataclass ``Settings``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from hmacfs.config.parsers import Parser
from hmacfs.config.values import Storage

P = TypeVar("P")
T = TypeVar("T")

ENVIRONMENT_PREFIX = "HMACFS_"
#: The default of a setting that has to be given.
REQUIRED = object()

_METADATA = "setting"


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """A declaration.

    key: the name in the TOML file. parse: from what TOML or the environment gives; bounds are its arguments. default:
    as it would be written in the file. text: the meaning, for README. is_secret: nothing of it is ever shown, and
    ``variable`` with ``_FILE`` may name a file that holds it. may_hold_password: messages do not show it. resolve:
    makes the final value of the parsed one and of those of all fields; its ``ValueError`` is a sentence. storage: the
    kind that it belongs to; with the other it need not be given, and has no effect. field: the attribute of
    ``Settings``.
    """

    key: str
    parse: Parser[Any]
    default: object
    text: str
    is_secret: bool = False
    may_hold_password: bool = False
    resolve: Callable[[Any, Mapping[str, Any]], Any] | None = None
    variable_name: str = ""
    storage: Storage | None = None
    field: str = ""

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENVIRONMENT_PREFIX + (self.variable_name or self.field.upper())


@overload
def setting(
    key: str,
    parse: Parser[T],
    default: object,
    text: str,
    *,
    is_secret: bool = ...,
    may_hold_password: bool = ...,
    storage: Storage | None = ...,
) -> T: ...
@overload
def setting(
    key: str,
    parse: Parser[P],
    default: object,
    text: str,
    *,
    resolve: Callable[[P, Mapping[str, Any]], T],
    variable_name: str = ...,
    storage: Storage | None = ...,
) -> T: ...
def setting(key: str, parse: Parser[Any], default: object, text: str, **options: Any) -> Any:
    """The field of a dataclass that declares a setting: see ``Setting``.

    The type that it claims to return is the final value's, so that the type checker holds it against the annotation:
    ``workers: int = setting("Workers", integer(0, 1024), 0, "worker processes")``.
    """
    declaration = Setting(key, parse, default, text, **options)
    is_shown = not (declaration.is_secret or declaration.may_hold_password)
    return dataclasses.field(metadata={_METADATA: declaration}, repr=is_shown)


def declared_settings(settings: type) -> tuple[Setting, ...]:
    """The settings that the fields of a dataclass declare, in their order."""
    return tuple(
        dataclasses.replace(field.metadata[_METADATA], field=field.name)
        for field in dataclasses.fields(settings)
        if _METADATA in field.metadata
    )
