"""Reading objects."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from hmacfs.errors import HmacfsError
from hmacfs.protocol.conditions import ByteRange
from hmacfs.stores.s3.bucket import Bucket, ConditionFailed, Doubt, Download, OutOfRange
from hmacfs.uploads.files import FileInfo


class ObjectSource:
    """A ``Source``. download: bytes that are on their way already."""

    def __init__(self, bucket: Bucket, key: str, info: FileInfo, download: Download | None) -> None:
        self._bucket = bucket
        self._key = key
        self.info = info
        self._download = download

    def pieces(self, offset: int, count: int, size: int) -> Iterator[bytes]:
        """See ``Source``. If the engine breaks off, the rest is asked for once more. Raises ``OSError`` if that fails,
        or if the file has been replaced."""
        end, is_repeated = min(offset + count, self.info.size), False
        while offset < end:
            try:
                for piece in self._opened(offset, end - offset).pieces(size):
                    # An engine that sends more than it was asked for must not make us do so.
                    yield piece if offset + len(piece) <= end else piece[: end - offset]
                    offset += len(piece)
                    if offset >= end:
                        break
                else:
                    if is_repeated:
                        return
                    is_repeated = True
            except Doubt as error:
                if is_repeated:
                    raise OSError(errno.EIO, "the object store broke off") from error
                is_repeated = True
            finally:
                self.close()

    def _opened(self, offset: int, count: int) -> Download:
        download = self._download
        if download is not None and download.first == offset and download.count >= count:
            return download
        self.close()
        try:
            download = self._bucket.get(self._key, ByteRange(offset, offset + count - 1), etag=self.info.etag)
        except (ConditionFailed, OutOfRange, HmacfsError) as error:
            raise OSError(errno.EIO, "the object store does not go on") from error
        if download is None or (download.first, download.info.etag) != (offset, self.info.etag):
            if download is not None:
                download.close()
            raise OSError(errno.ESTALE, "the file was removed or replaced")
        self._download = download
        return download

    def fileno(self) -> None:
        return None

    def close(self) -> None:
        download, self._download = self._download, None
        if download is not None:
            download.close()
