"""The statements of the SQL stores, which each of their databases understands. ``schema`` has the tables."""

from __future__ import annotations

from hmacfs.uploads.session import CountedBy

SESSIONS = "hmacfs_sessions"
ENTRIES = "hmacfs_entries"
VERSION = "hmacfs_schema"
#: How many of ``schema.STEPS`` the tables have had that these statements are for.
SCHEMA_VERSION = 4

_COLUMNS = (
    *("token", "open_slot", "finished_slot", "open_owner", "open_site", "path_digest"),
    *("state", "touched", "revision", "record"),
)
_CHANGES = ", ".join(f"{name} = :{name}" for name in _COLUMNS if name not in ("token", "open_slot"))
_IS_OLDER = "token = :token AND (revision < :revision OR (revision = :revision AND touched < :touched))"
_OPEN_BY = {CountedBy.OWNER: "open_owner", CountedBy.SITE: "open_site"}

# ruff: noqa: S608 - they are made of constants
_RECORDS = f"SELECT record FROM {SESSIONS} WHERE"
BY_KEY = f"{_RECORDS} token = :sought"
BY_SLOT = f"{_RECORDS} open_slot = :sought"
BY_FINISHED_SLOT = f"{_RECORDS} finished_slot = :sought ORDER BY touched DESC LIMIT 1"
BY_PATH = f"{_RECORDS} path_digest = :sought"
STALE = f"{_RECORDS} touched < :before ORDER BY touched, token LIMIT :most"
OPEN_BY = {by: f"{_RECORDS} {column} = :sought ORDER BY touched, token LIMIT :most" for by, column in _OPEN_BY.items()}
KEYS_SINCE = f"SELECT token FROM {SESSIONS} WHERE touched >= :since ORDER BY touched, token"
COUNT_OPEN = {by: f"SELECT count(*) FROM {SESSIONS} WHERE {column} = :sought" for by, column in _OPEN_BY.items()}
COUNT_BY_STATE = f"SELECT state, count(*) FROM {SESSIONS} GROUP BY state"

INSERT = f"INSERT INTO {SESSIONS} ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)})"
#: Only an older copy is replaced. An open session's claim to its slot stays as it is, another has none.
REPLACE_OPEN = f"UPDATE {SESSIONS} SET {_CHANGES} WHERE {_IS_OLDER}"
REPLACE_ENDED = f"UPDATE {SESSIONS} SET {_CHANGES}, open_slot = NULL WHERE {_IS_OLDER}"
REMOVE = f"DELETE FROM {SESSIONS} WHERE token = :sought"

REACHED = f"SELECT version FROM {VERSION}"
CHANGE_NOTHING = f"UPDATE {VERSION} SET version = 0 WHERE version < 0"


class EntryStatements:
    """Those for shared entries. clock: see ``DatabaseSpec``."""

    def __init__(self, clock: str) -> None:
        it_is = "entry = :entry AND version = :former"
        ends = f"{clock} + :seconds"
        self.read = f"SELECT value, version, ends - {clock} FROM {ENTRIES} WHERE entry = :entry"
        self.version = f"SELECT version FROM {ENTRIES} WHERE entry = :entry"
        self.insert = f"INSERT INTO {ENTRIES} (entry, value, version, ends) VALUES (:entry, :value, :version, {ends})"
        self.replace = f"UPDATE {ENTRIES} SET value = :value, version = :version, ends = {ends} WHERE {it_is}"
        self.replace_value = f"UPDATE {ENTRIES} SET value = :value, version = :version WHERE {it_is}"
        self.remove = f"DELETE FROM {ENTRIES} WHERE {it_is}"
        self.forget = f"DELETE FROM {ENTRIES} WHERE ends < {clock} - :kept"
