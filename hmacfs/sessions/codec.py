"""The records of sessions, the same in every store, and which of two copies is the newer. Pure.

A record is one JSON text of ASCII characters, so that no character set, collation or length limit of a database can
change it. A field that this release does not know is left out; one that is missing has its default, or what 1.0.0
showed by other fields.

Servers of 1.0.0 may read and write the same records, so what they read has the name it had: the key is called
``token``, which it was then, and ``metadata`` of numbered chunks says where the next one begins, as ``next_chunk_at``
does. A record that they wrote last has only the former; a record of this release has both, and they are the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from hmacfs.dialects import content_range, numbered, tus
from hmacfs.errors import SessionStoreUnreachable
from hmacfs.uploads.session import Session, State

#: A match if the text can be a key at all. Any other comes from a URL that somebody made up, and no store is asked.
is_key: Callable[[str], object] = re.compile(r"[A-Za-z0-9_-]{1,64}").fullmatch
_FIELDS = frozenset(field.name for field in dataclasses.fields(Session))
_STORED_AS_THEY_ARE = tuple(field.name for field in dataclasses.fields(Session) if field.name != "key")
_to_json = json.JSONEncoder(separators=(",", ":")).encode
#: Only one writer saves a session at a time, so already the second attempt finds the number right.
_SAVE_ATTEMPTS = 3


def digest(text: str) -> str:
    """A key of fixed length for a text of any: SHA-256 in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def encode(session: Session) -> str:
    """Raises ``ValueError`` if the key is none."""
    if not is_key(session.key):
        raise ValueError("not a session key")
    record = {"token": session.key, **{name: getattr(session, name) for name in _STORED_AS_THEY_ARE}}
    if session.dialect == numbered.NAME:
        record["metadata"] = str(session.next_chunk_at)
    return _to_json(record)


def decode(record: str) -> Session:
    """The inverse of ``encode``."""
    stored = json.loads(record)
    fields = {name: value for name, value in stored.items() if name in _FIELDS}
    fields["key"], fields["state"] = stored["token"], State(stored["state"])
    if "next_chunk_at" not in fields:
        _add_what_old_records_lack(fields)
    if fields["dialect"] == numbered.NAME:
        fields["metadata"] = ""
    return Session(**fields)


def _add_what_old_records_lack(fields: dict[str, Any]) -> None:
    """1.0.0 recorded no dialect; it told them apart by the slot and by the metadata."""
    if "dialect" not in fields:
        by_slot = numbered.NAME if fields["metadata"] else content_range.NAME
        fields["dialect"] = tus.NAME if fields["slot"] is None else by_slot
    if fields["dialect"] == numbered.NAME:
        fields["next_chunk_at"] = int(fields["metadata"] or 0)


def supersedes(one: Session, other: Session) -> bool:
    """Whether ``one`` is a newer copy than ``other`` of the same session."""
    return (one.revision, one.touched) > (other.revision, other.touched)


def save_with(put: Callable[[Session], Session], session: Session) -> Session:
    """``SessionStore.save`` by means of ``Replica.put``. The caller holds the writer lock, so its copy is the newest: a
    copy with a higher revision, left from a time when stores were apart, is overwritten."""
    wanted = dataclasses.replace(session, revision=session.revision + 1)
    for _ in range(_SAVE_ATTEMPTS):
        stored = put(wanted)
        if stored is wanted or stored == wanted:
            return wanted
        wanted = dataclasses.replace(session, revision=stored.revision + 1)
    raise SessionStoreUnreachable
