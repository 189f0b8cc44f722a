"""What an operator wants to know of the bucket that the settings describe: no server needs it."""

from __future__ import annotations

from collections.abc import Iterator

from hmacfs.config import Settings
from hmacfs.stores.open_object_store import TOLD, open_bucket
from hmacfs.stores.s3.checkup import Checkup, Finding
from hmacfs.stores.s3.objects import Keys
from hmacfs.system.threads import FileCalls, ThreadOffload


def check_bucket(settings: Settings) -> Iterator[Finding]:
    """Each finding as soon as it is there. Connects, and leaves nothing in the bucket. Raises ``ConfigError``."""
    bucket = open_bucket(settings, FileCalls(ThreadOffload(1)))
    try:
        yield from Checkup(
            bucket,
            lambda: bucket.clock_offset,
            Keys(settings.s3_prefix).reserved,
            told=TOLD[settings.s3_conditional_writes],
        ).run()
    finally:
        bucket.close()
