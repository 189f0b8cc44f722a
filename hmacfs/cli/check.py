"""``hmac-file-server -check``: mistakes in a configuration, and warnings about it. It changes nothing."""

from __future__ import annotations

from pathlib import Path

from hmacfs.config import Settings, Storage
from hmacfs.errors import ForeignConfig
from hmacfs.masking import mask


def run(config: Path | None, *, online: bool) -> int:
    """Print the warnings. online: also connect to Redis, to the database and to the object store. Returns the exit
    status: 0, even if those cannot be reached, since a server starts without them. Raises ``ConfigError`` for a
    mistake."""
    # None of this is needed to sign.
    from hmacfs.server.preflight import check, remarks
    from hmacfs.sessions.open_session_store import remote_stores, sessions_to_move, unreachable
    from hmacfs.stores.prepare_file_store import foreseen_remarks

    try:
        settings = check(config)
    except ForeignConfig as error:
        print(*error.translations, sep="\n")
        raise
    remote = [*remote_stores(settings), *([settings.store_address] if settings.storage is Storage.S3 else [])]
    found = remarks(settings, foreseen_remarks(settings), config)
    for remark in (*found, *sessions_to_move(settings), *(unreachable(settings) if online else ())):
        print(f"warning: {mask(remark, settings.hidden)}")
    if online and settings.storage is Storage.S3:
        _check_bucket(settings)
    if remote and not online:
        print(f"not tried: whether {' and '.join(remote)} can be reached; -check -online connects")
    print(f"{config or 'the environment'}: the configuration is good")
    return 0


def _check_bucket(settings: Settings) -> None:
    """Print what there is to know of it, a line each. It is used, and left as it was."""
    from hmacfs.stores.check_object_store import check_bucket  # an extra

    for subject, problem in check_bucket(settings):
        line = f"object store: {subject}: {problem or 'good'}"
        print(f"warning: {mask(line, settings.hidden)}" if problem else line, flush=True)
