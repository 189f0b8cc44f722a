"""``hmac-file-server -check``: mistakes in a configuration, and warnings about it. It changes nothing."""

from __future__ import annotations

from pathlib import Path

from hmacfs.config import Settings, Storage, notes
from hmacfs.errors import ForeignConfig
from hmacfs.masking import mask


def run(config: Path | None, *, online: bool) -> int:
    """Print what there is to know, a line each. online: also connect to Redis, to the database and to the object store.
    Returns the exit status: 1 if something about the object store keeps a server from working, and 0 even if the others
    cannot be reached, since downloads and whole uploads go on without them. Raises ``ConfigError`` for a mistake."""
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
    for note in notes(settings):
        print(f"note: {mask(note, settings.hidden)}")
    works = _check_bucket(settings) if online and settings.storage is Storage.S3 else True
    if remote and not online:
        print(f"not tried: whether {' and '.join(remote)} can be reached; -check -online connects")
    verdict = "the configuration is good" if works else "a server starts with this configuration, and does not work"
    print(f"{config or 'the environment'}: {verdict}")
    return 0 if works else 1


def _check_bucket(settings: Settings) -> bool:
    """Print what there is to know of it, a line each; whether a server works with it. The bucket is left as it was."""
    from hmacfs.stores.check_object_store import check_bucket  # an extra

    works = True
    print(f"connecting to {mask(settings.store_address, settings.hidden)}", flush=True)
    for finding in check_bucket(settings):
        line = f"object store: {finding.subject}: {finding.problem or 'good'}"
        if finding.problem:
            line = f"{'warning' if finding.is_tolerable else 'error'}: {mask(line, settings.hidden)}"
            works = works and finding.is_tolerable
        print(line, flush=True)
    return works
