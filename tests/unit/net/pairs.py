"""Connected pairs of sockets, and what bodies are received with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket

from hmacfs.net.body import Body, SocketBody
from hmacfs.net.receive import Receiver
from hmacfs.net.splice import Splicer
from hmacfs.net.transport import ReceiveBuffer, Transport
from hmacfs.stores.local.sinks import FileSink
from tests.stores.local import file_calls


class ConnectedPair:
    """Two connected sockets: what a test sends into ``far`` is what the body reads."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.near = near
        self.transport = Transport(near)
        self.receive_buffer = ReceiveBuffer(self.transport)

    def read_ahead(self, data: bytes) -> None:
        """Have these bytes in the buffer, as if they had come with a request's head."""
        self.send(data)
        while self.receive_buffer.count < len(data):
            self.receive_buffer.more(5)

    def send(self, data: bytes, *, then_close: bool = False) -> gevent.Greenlet[..., Any]:
        def sending() -> None:
            self.far.sendall(data)
            if then_close:
                self.far.shutdown(socket.SHUT_WR)

        return gevent.spawn(sending)

    def close(self) -> None:
        self.transport.close()
        self.near.close()
        self.far.close()


def content(sink: FileSink) -> bytes:
    return os.pread(sink.fileno(), 1 << 26, 0)


def receiver(**changes: Any) -> Receiver:
    return Receiver(file_calls(), **{"chunk_size": 65536, **changes})


def no_splice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Splicer, "if_supported", classmethod(lambda cls, file_calls: None))


Feed = Callable[[pytest.MonkeyPatch, ConnectedPair, bytes], Body]


def by_splice(_: pytest.MonkeyPatch, pair: ConnectedPair, data: bytes) -> Body:
    return SocketBody(pair.receive_buffer, len(data), 5)


def by_buffer(monkeypatch: pytest.MonkeyPatch, pair: ConnectedPair, data: bytes) -> Body:
    no_splice(monkeypatch)
    return SocketBody(pair.receive_buffer, len(data), 5)
