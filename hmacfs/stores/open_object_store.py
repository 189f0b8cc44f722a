"""The bucket that the settings describe. What it imports waits by what gevent replaces: not before the fork."""

from __future__ import annotations

from hmacfs.config import ConditionalWrites, Settings
from hmacfs.errors import ConfigError
from hmacfs.stores.object_store_settings import check_settings, options_of
from hmacfs.stores.s3.client import S3Bucket
from hmacfs.stores.s3.exclusive import ExclusiveWrites
from hmacfs.stores.s3.objects import Keys
from hmacfs.stores.s3.observer import CallObserver
from hmacfs.stores.s3.publishing import Publisher
from hmacfs.stores.s3.spool import Spool
from hmacfs.stores.s3.store import S3FileStore
from hmacfs.system import processes
from hmacfs.system.threads import FileCalls, ThreadOffload
from hmacfs.uploads.contracts.entries import Entries

#: For the spool's calls while its disk is slow.
_THREADS = 16
#: See ``ExclusiveWrites``.
TOLD = {ConditionalWrites.ON: True, ConditionalWrites.OFF: False, ConditionalWrites.AUTO: None}


def open_object_store(settings: Settings, claims: Entries, observer: CallObserver | None) -> S3FileStore:
    """Connects to nothing. claims: where names are claimed if the engine ignores conditions. To be called once in each
    process, after its fork. Raises ``ConfigError``."""
    file_calls = FileCalls(ThreadOffload(_THREADS))
    bucket = open_bucket(settings, file_calls, observer)
    exclusive = _exclusive_writes(settings, bucket)
    return S3FileStore(
        Publisher(bucket, claims, exclusive),
        Spool(settings.s3_spool_dir, file_calls),
        prefix=settings.s3_prefix,
        part_size=settings.s3_part_size,
        # Its note follows at once, unless its process is halted between the two: for longer than that no client waits.
        grace=settings.session_ttl,
        check_exclusive=exclusive.check,
    )


def _exclusive_writes(settings: Settings, bucket: S3Bucket) -> ExclusiveWrites:
    return ExclusiveWrites(
        bucket,
        Keys(settings.s3_prefix).reserved,
        told=TOLD[settings.s3_conditional_writes],
        remembered=settings.runtime_dir / "conditional-writes",
        server=f"{processes.parent()} {settings.store_address}",
    )


def open_bucket(settings: Settings, file_calls: FileCalls, observer: CallObserver | None = None) -> S3Bucket:
    """Connects to nothing. Raises ``ConfigError``."""
    check_settings(settings)
    try:
        return S3Bucket(options_of(settings), file_calls, observer)
    except OSError as error:  # of OpenSSL's: what is in the file are no certificates
        raise ConfigError(f"{settings.origins['S3CAFile']}: {settings.s3_ca_file}: {error}") from None
