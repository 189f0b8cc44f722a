"""The use case of most requests: one upload in one request."""

from __future__ import annotations

from hmacfs.errors import LengthRequired, NameTaken, NoSpace, TooLarge, TooMuchReserved
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.requests import Digest, Receiver, RequestBody, Running, Space
from hmacfs.uploads.contracts.stores import FileStore
from hmacfs.uploads.files import FileInfo, FileMetadata


class UploadFile:
    """Stores a file that comes as one request body. ``max_size`` in bytes (``UploadMaxSize``)."""

    def __init__(
        self,
        store: FileStore,
        receiver: Receiver,
        running: Running,
        space: Space,
        *,
        max_size: int,
    ) -> None:
        self._store = store
        self._cheap_bytes = store.capabilities.cheap_bytes
        self._receiver = receiver
        self._running = running
        self._space = space
        self.max_size = max_size

    def __call__(
        self,
        name: StoredName,
        body: RequestBody,
        length: int | None,
        metadata: FileMetadata,
        *,
        binds_length: bool,
        digest: Digest | None = None,
    ) -> FileInfo:
        """Store ``body`` as ``name``.

        length: what the request declares, ``None`` if it does not; binds_length: whether the signature covers it;
        metadata: what is kept with the file; digest: what the request claims of the bytes.
        All that can be known beforehand is checked before a byte of the body is asked for, in the order of
        docs/protocol.md, section 3. Raises ``LengthRequired``, ``TooLarge``, ``NameTaken``, ``UploadRunning``,
        ``NoSpace``, ``TooMuchReserved``, ``StorageFailed``, ``Superseded``, and what the body and the digest raise.
        """
        if length is None and binds_length:
            raise LengthRequired
        if length is not None and length > self.max_size:
            raise TooLarge
        # Publication finds a taken name as well, and a small body that is here costs little until then.
        is_judged_late = digest is None and body.is_here and length is not None and length <= self._cheap_bytes
        if not is_judged_late:
            self._store.check_free(name)
        # After the name, so that a taken one is refused alike whenever the bytes come.
        if digest is None and not body.is_here:
            self._receiver.note_arrival(body)
        try:
            if body.is_here:
                self._running.wait_until_free(name)
                return self._receive(name, body, length, metadata, digest)
            with self._running.claim(name, body):
                return self._receive(name, body, length, metadata, digest)
        except (NoSpace, TooMuchReserved):
            if is_judged_late and self._store.exists(name):
                raise NameTaken from None
            raise

    def _receive(
        self, name: StoredName, body: RequestBody, length: int | None, metadata: FileMetadata, digest: Digest | None
    ) -> FileInfo:
        with (
            self._space.reserve(space := self._store.space_of(length), body) as reserved,
            self._store.stage(name, length, metadata, is_here=body.is_here) as staged,
        ):
            cover = reserved.cover if space is None else None
            self._receiver.receive(body, staged, limit=self.max_size, digest=digest, cover=cover)
            if digest is not None:
                digest.check()
            return staged.publish()
