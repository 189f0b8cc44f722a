"""The use cases of an upload session, and all around them that a test changes; over each kind of store."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from hmacfs.errors import (
    NoSpace,
    SessionStoreUnreachable,
    TooLarge,
)
from hmacfs.net import body as net
from hmacfs.protocol.keyring import Keyring
from hmacfs.protocol.names import StoredName
from hmacfs.uploads.contracts.requests import Hash, RequestBody, Sink
from hmacfs.uploads.contracts.stores import FileStore
from hmacfs.uploads.creation import Plan
from hmacfs.uploads.files import FileInfo, FileMetadata
from hmacfs.uploads.progress import Progress, UploadLimits
from hmacfs.uploads.resumable import ResumableUploads
from hmacfs.uploads.session import Owner, Session
from hmacfs.uploads.tokens import SessionTokens
from tests.fakes import MemorySessionStore
from tests.stores.backends import BACKENDS, content, put, write

NAME = StoredName.from_text("slot/photo.jpg")
CONTENT = bytes(range(100))
TTL = 1000.0
OWNER = "192.0.2.1"


class Body(net.Body):
    """Bytes that arrive, and the error that they end with."""

    is_here = False

    def __init__(self, data: bytes, failure: BaseException | None = None) -> None:
        super().__init__()
        self.length, self.timeout = None, 1.0
        self.data = data
        self.failure = failure


class Sessions(MemorySessionStore):
    """A session store of which the nearest part may have ``older`` copies, and that is lost after ``calls_left``."""

    def __init__(self) -> None:
        super().__init__()
        self.older: dict[str, Session] = {}
        self.calls_left = math.inf

    def begin(self, *, is_write: bool = False) -> None:
        self.calls_left -= 1
        super().begin()
        if self.calls_left < 0:
            raise SessionStoreUnreachable

    def get(self, key: str) -> Session | None:
        return self.older.get(key, super().get(key))

    def newest(self, key: str) -> Session | None:
        return super().get(key)


class Traffic:
    """The receiver, and the guard of the space."""

    def __init__(self, world: World) -> None:
        self.spare = 10**6
        #: Called when a piece has arrived.
        self.on_arrival: Callable[[], object] = lambda: None
        self._world = world

    def note_arrival(self, body: RequestBody) -> None:
        raise AssertionError("no piece is looked for")

    def receive(
        self,
        body: RequestBody,
        sink: Sink,
        *,
        limit: int,
        digest: Hash | None = None,
        is_wanted: Callable[[], bool] | None = None,
        cover: Callable[[int, int], int] | None = None,
    ) -> int:
        assert isinstance(body, Body)
        assert is_wanted is not None
        assert not is_wanted()
        write(sink, body.data)
        fd = sink.fileno()
        if fd is not None and body.data:
            os.utime(fd, (self._world.now, self._world.now))
        body.received = len(body.data)
        if digest is not None:
            digest.update(memoryview(body.data))
        if body.received > limit:
            raise TooLarge
        if cover is not None:
            cover(body.received, 0)
        if body.failure is not None:
            raise body.failure
        self.on_arrival()
        return body.received

    @contextmanager
    def reserve(self, count: int | None, body: object = None) -> Iterator[Traffic]:
        self.cover(count or 0, 0)
        yield self

    def cover(self, received: int, written: int) -> int:
        if received > self.spare:
            raise NoSpace
        return self.spare


class World:
    """The use cases over a kind of store (see ``BACKENDS``)."""

    def __init__(self, kind: str, per_client: int = 3, per_path: int = 100) -> None:
        self.now = 50_000.0
        self.sessions = Sessions()
        self.backend = BACKENDS[kind](lambda: self.now)
        self.store, self.partials = self.backend.store, self.backend.store.partials
        self.traffic = Traffic(self)
        self._limits = UploadLimits(max_size=1000, ttl=TTL, per_client=per_client, per_path=per_path)
        self.uploads = self.process(self.store)

    def process(self, store: FileStore) -> ResumableUploads:
        """The use cases of a process that has this access to the store."""
        return ResumableUploads(
            self.sessions,
            store,
            self.backend.locker,
            self.traffic,
            self.traffic,
            self._limits,
            lambda: self.now,
            SessionTokens(Keyring([b"a secret of the unit tests"])),
        )

    def begin(self, length: int | None = len(CONTENT), *, by_slot: bool = True, name: StoredName = NAME) -> Session:
        return self.create(name, length, OWNER, by_slot=by_slot, content_type="image/jpeg")

    def create(
        self, name: StoredName, length: int | None, owner: str, *, by_slot: bool, content_type: str | None = None
    ) -> Session:
        plan = Plan(name, length, content_type, Owner(owner), by_slot=by_slot, dialect="any")
        return self.uploads.create(plan)

    def get(self, session: Session) -> Session:
        """By its token, as a client knows it."""
        return self.uploads.get(self.uploads.token_of(session) or "")

    def append(
        self,
        session: Session,
        offset: int,
        data: bytes,
        *,
        uploads: ResumableUploads | None = None,
        **options: object,
    ) -> Progress:
        """uploads: of the process that takes the piece; ``None`` for one to which nothing happens."""
        uploads = uploads or self.uploads
        return uploads.append(session, offset, Body(data), len(data), **options)  # type: ignore[arg-type]

    # -- what there is

    def unfinished(self) -> set[str]:
        """Not what a sweep looks at again of others that are over."""
        return {key for key in self.partials.untouched_since(math.inf) if self.partials.stat(key) is not None}

    def stored(self, session: Session) -> bytes:
        """What counts of an unfinished upload."""
        return self.backend.content_of(session.key)

    def file(self, name: StoredName = NAME) -> bytes:
        return content(self.store, name)

    def record(self, session: Session) -> Session:
        return self.sessions.records[session.key]

    # -- what others do

    def hold(self, session: Session) -> OtherWriter:
        """Another process writes the upload."""
        return OtherWriter(self, session.key)

    def put_another(self, data: bytes = b"another", name: StoredName = NAME) -> FileInfo:
        """Another upload of the name is published."""
        return put(self.store, name, data)

    def orphan(self, key: str) -> str:
        """An unfinished upload that no session knows: its key."""
        key += "-" * 16
        self.partials.create(key, NAME, None, FileMetadata())
        return key


class OtherWriter:
    """A process that has the lock on an upload."""

    def __init__(self, world: World, key: str) -> None:
        self._world = world
        lease = world.backend.locker.acquire(key)
        assert lease is not None
        self.upload = world.partials.open(key, lease)

    def write(self, data: bytes) -> OtherWriter:
        with self.upload.begin(self.upload.length, atomic=False) as piece:
            write(piece, data)
            fd = piece.fileno()
            if fd is not None:
                os.utime(fd, (self._world.now, self._world.now))
        return self

    def publish(self) -> None:
        with self:
            self.upload.publish(NAME, FileMetadata("image/jpeg"))

    def is_wanted(self) -> bool:
        return self.upload.lease.is_wanted()

    def release(self) -> None:
        self.upload.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
