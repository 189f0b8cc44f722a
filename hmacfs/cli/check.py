"""``hmac-file-server -check``: mistakes in a configuration, and warnings about it. It changes nothing."""

from __future__ import annotations

from pathlib import Path

from hmacfs.errors import ForeignConfig
from hmacfs.masking import mask


def run(config: Path | None, *, online: bool) -> int:
    """Print the warnings. online: also connect to Redis and to the database. Returns the exit status: 0, even if
    those cannot be reached, since a server starts without them. Raises ``ConfigError`` for a mistake."""
    # None of this is needed to sign.
    from hmacfs.server.preflight import check, remarks
    from hmacfs.sessions.open_session_store import remote_stores, sessions_to_move, unreachable
    from hmacfs.stores.open_file_store import foreseen_remarks

    try:
        settings = check(config)
    except ForeignConfig as error:
        print(*error.translations, sep="\n")
        raise
    remote = remote_stores(settings)
    found = remarks(settings, foreseen_remarks(settings), config)
    for remark in (*found, *sessions_to_move(settings), *(unreachable(settings) if online else ())):
        print(f"warning: {mask(remark, settings.hidden)}")
    if remote and not online:
        print(f"not tried: whether {' and '.join(remote)} can be reached; -check -online connects")
    print(f"{config or 'the environment'}: the configuration is good")
    return 0
