"""The use case of most requests: one upload in one request."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

from hmacfs.errors import LengthRequired, NameTaken, NoSpace, TooLarge, TooMuchReserved
from hmacfs.protocol.names import StoredName


class Counted(Protocol):
    """A request body that knows how many bytes of it were received, and whose they are: ``client`` is an address, empty
    if that is not known. ``is_here``: all of it has arrived."""

    @property
    def received(self) -> int: ...

    @property
    def is_here(self) -> bool: ...

    @property
    def client(self) -> str: ...


class Incoming(Counted, Protocol):
    """One that can be ended before its time. ``waiting_since``: the monotonic time since when its client is waited for,
    0.0 while it is not."""

    @property
    def waiting_since(self) -> float: ...

    def interrupt(self) -> None: ...


BodyT = TypeVar("BodyT", bound=Incoming, contravariant=True)
FactsT = TypeVar("FactsT", covariant=True)


class StagedFile(Protocol[FactsT]):
    """A file that nobody sees until ``publish`` returns."""

    @property
    def fd(self) -> int: ...

    def publish(self, name: StoredName, content_type: str | None) -> FactsT: ...


class Storage(Protocol[FactsT]):
    """What storing a whole file needs. All errors are this project's own (``NameTaken``, ``NoSpace``,
    ``StorageFailed``); nothing is visible or left over unless ``publish`` returned. ``durable``: that waits for the
    disk."""

    @property
    def durable(self) -> bool: ...

    def exists(self, name: StoredName) -> bool: ...

    def stage(self, name: StoredName) -> AbstractContextManager[StagedFile[FactsT]]: ...


class Running(Protocol):
    """Sees to it that of each name one upload is running. Entering ``claim``'s context raises ``UploadRunning``; if the
    other one is silent that is interrupted instead, which ends it with ``TakenOver``."""

    def claim(self, name: StoredName, body: Incoming) -> AbstractContextManager[object]: ...


class Reserved(Protocol):
    """Space that is set aside for a body."""

    def cover(self, received: int, written: int) -> int:
        """For a body whose length nobody knows: have at least the ``received`` bytes set aside, of which so many are
        ``written``; how many may be before this is called again. Raises ``NoSpace``, ``TooMuchReserved``."""


class Space(Protocol):
    """Guards the free space. Entering ``reserve``'s context raises ``NoSpace``, and ``TooMuchReserved`` if the body's
    client has too much of it; inside it the bytes count as used, with a body those that it has not received yet.
    ``None``: nobody knows how many there will be, and none are set aside but by ``cover``."""

    def reserve(self, count: int | None, body: Counted | None = None) -> AbstractContextManager[Reserved]: ...


class Digest(Protocol):
    """What is claimed of the bytes: ``check`` raises ``HmacfsError`` if it does not hold for those it was told of."""

    def update(self, data: memoryview, /) -> None: ...

    def check(self) -> None: ...


class Receiver(Protocol[BodyT]):
    """Moves a request body into a file, telling ``digest`` of it; raises what became of it (``BodyCutShort``,
    ``Stalled``, ``TooLarge``). ``cover`` is called with the bytes received and written before there are more than it
    returned last, and raises what keeps them from being written."""

    def receive(
        self,
        body: BodyT,
        fd: int,
        *,
        limit: int,
        digest: Digest | None = None,
        cover: Callable[[int, int], int] | None = None,
    ) -> int: ...


class UploadFile(Generic[BodyT, FactsT]):
    """Stores a file that comes as one request body. ``max_size`` in bytes (``UploadMaxSize``)."""

    def __init__(
        self,
        storage: Storage[FactsT],
        receiver: Receiver[BodyT],
        running: Running,
        space: Space,
        *,
        max_size: int,
    ) -> None:
        self._storage = storage
        self._receiver = receiver
        self._running = running
        self._space = space
        self.max_size = max_size

    def __call__(
        self,
        name: StoredName,
        body: BodyT,
        length: int | None,
        content_type: str | None,
        *,
        binds_length: bool,
        digest: Digest | None = None,
    ) -> FactsT:
        """Store ``body`` as ``name``.

        length: what the request declares, ``None`` if it does not; binds_length: whether the signature covers it;
        digest: what the request claims of the bytes.
        All that can be known beforehand is checked before a byte of the body is asked for, in the order of
        docs/protocol.md, section 3. Raises ``LengthRequired``, ``TooLarge``, ``NameTaken``, ``UploadRunning``,
        ``NoSpace``, ``TooMuchReserved``, ``StorageFailed``, ``TakenOver``, and what the body and the digest raise.
        """
        if length is None and binds_length:
            raise LengthRequired
        if length is not None and length > self.max_size:
            raise TooLarge
        # Publication finds a taken name as well, and a small body that is here costs little until then.
        is_judged_late = body.is_here and digest is None and not self._storage.durable
        if not is_judged_late and self._storage.exists(name):
            raise NameTaken
        try:
            return self._store(name, body, length, content_type, digest)
        except (NoSpace, TooMuchReserved):
            if is_judged_late and self._storage.exists(name):
                raise NameTaken from None
            raise

    def _store(
        self, name: StoredName, body: BodyT, length: int | None, content_type: str | None, digest: Digest | None
    ) -> FactsT:
        with (
            self._running.claim(name, body),
            self._space.reserve(length, body) as reserved,
            self._storage.stage(name) as staged,
        ):
            cover = reserved.cover if length is None else None
            self._receiver.receive(body, staged.fd, limit=self.max_size, digest=digest, cover=cover)
            if digest is not None:
                digest.check()
            return staged.publish(name, content_type)
