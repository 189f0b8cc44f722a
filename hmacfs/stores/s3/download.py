"""An object's bytes on their way from the engine."""

from __future__ import annotations

from collections.abc import Iterator

from hmacfs.stores.s3 import answers
from hmacfs.stores.s3.bucket import Doubt, ObjectInfo
from hmacfs.stores.s3.connection import Lost, Silent
from hmacfs.stores.s3.observer import CallObserver
from hmacfs.stores.s3.response import Response

_PARTIAL = 206


class S3Download:
    """A ``Download``. Raises ``Unreadable`` if the answer does not say what it is."""

    def __init__(self, response: Response, observer: CallObserver) -> None:
        self._response = response
        self._observer = observer
        size = self.count = answers.length_of(response.headers)
        self.first = 0
        if response.status == _PARTIAL:
            self.first, self.count, size = answers.content_range(response.headers.get("content-range") or "")
        self.info: ObjectInfo = answers.info_of(response.headers, size)

    def pieces(self, size: int) -> Iterator[bytes]:
        try:
            yield from self._response.pieces(size)
        except Lost as error:
            raise Doubt(f"get: {error}", may_repeat=True) from error
        except Silent as error:
            raise Doubt(f"get: {error}", may_repeat=False) from error

    def close(self) -> None:
        self._observer.note_bytes(0, self._response.received)
        self._response.close()
