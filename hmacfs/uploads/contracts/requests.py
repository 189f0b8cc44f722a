"""What the use cases need of a request's body, of what moves it, and of what admits it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from hmacfs.protocol.names import StoredName

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: The room of a sink that never has to hand anything on.
ENDLESS = sys.maxsize


class RequestBody(Protocol):
    """The body of one request; one object owns it, counts it, and says once how it ended.

    length: the declared number of bytes, ``None`` while it is unknown. received: how many have been read so far.
    client: the address of the client, empty if that is not known. least_rate: bytes per second below which the client
    counts as stalled (see ``net.body.Body``). is_here: all of it has arrived, with the request's head or by the
    time of ``Receiver.note_arrival``. is_complete: all of it has been read.
    waiting_since: the monotonic time since when the client is waited for, 0.0 while it is not.
    """

    received: int
    client: str
    least_rate: int
    waiting_since: float
    is_interrupted: bool

    @property
    def length(self) -> int | None: ...

    @property
    def is_here(self) -> bool: ...

    @property
    def is_complete(self) -> bool: ...

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read at least one byte, or 0 at the proper end. Raises ``IncompleteBody`` at any other end,
        ``PeerTimeout``."""

    def wait_for_data(self) -> None:
        """Wait until the next read can make progress; may return early."""

    def yield_if_due(self) -> None:
        """Let other transfers run if this one has kept the loop for long enough."""

    def interrupt(self) -> None:
        """End it before its time: its reader gets ``IncompleteBody``."""


class Hash(Protocol):
    """Is told of bytes, as ``hashlib``'s objects are."""

    def update(self, data: memoryview, /) -> None: ...


class Digest(Hash, Protocol):
    """What is claimed of the bytes: ``check`` raises ``HmacfsError`` if it does not hold for those it was told of."""

    def check(self) -> None: ...


class Sink(Protocol):
    """Takes the bytes of a file or a piece, in their order.

    room: how many bytes it takes before ``hand_on`` must be called, read once, at the beginning. The writer counts:

        room = sink.room
        for data in portions:      # none longer than room
            sink.write(data)
            room -= len(data)
            if not room:
                room = sink.hand_on()
    """

    @property
    def room(self) -> int: ...

    def write(self, data: memoryview, /) -> None:
        """Take all of ``data``. Cooperative; raises ``OSError`` or this project's errors."""

    def hand_on(self) -> int:
        """Send a full portion on its way; the room of the next one. Cooperative; may wait for an earlier portion."""

    def fileno(self) -> int | None:
        """A descriptor to whose position the bytes may be written instead (spliced, for example), to be asked for again
        after ``hand_on``; ``None`` if it has none."""


class Running(Protocol):
    """Sees to it that of each name one upload is running. Another one that is silent is interrupted, which ends it with
    ``Superseded``; one that is not is ``UploadRunning`` for the newcomer."""

    def claim(self, name: StoredName, body: RequestBody) -> AbstractContextManager[object]:
        """Keeps others out. Entering the context raises ``UploadRunning``."""

    def wait_until_free(self, name: StoredName) -> None:
        """For a body that is here, and keeps nobody out. Raises ``UploadRunning``."""


class Reserved(Protocol):
    """Space that is set aside for a body."""

    def cover(self, received: int, written: int) -> int:
        """For a body whose length nobody knows: have at least the ``received`` bytes set aside, of which so many are
        ``written``; how many may be before this is called again. Raises ``NoSpace``, ``TooMuchReserved``."""


class Space(Protocol):
    """Guards the free space. ``reserve`` raises ``NoSpace``, and ``TooMuchReserved`` if the body's client has too much
    of it; until the end of its context the bytes count as used, with a body those that it has not received yet.
    ``None``: nobody knows how many there will be, and none are set aside but by ``cover``."""

    def reserve(self, count: int | None, body: RequestBody | None = None) -> AbstractContextManager[Reserved]: ...


class Receiver(Protocol):
    """Moves request bodies into sinks."""

    def note_arrival(self, body: RequestBody) -> None:
        """Let ``body.is_here`` be true if the rest has arrived meanwhile, and can be moved without a wait. Not for a
        body that is digested."""

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
        """Write what is left of ``body``; the number of bytes that was.

        digest: is told of the bytes. is_wanted: asked some times a second; once it says that another writer wants the
        file, this one ends. cover: called with the bytes received and those written before there are more than it
        returned last (0 at first); raises what keeps them from being written.

        Raises ``TooLarge`` once the body exceeds ``limit`` bytes, ``Superseded`` for one that was interrupted, and what
        the body raises. What arrived before that is written.
        """
