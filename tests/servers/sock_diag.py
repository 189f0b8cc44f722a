"""What the kernel tells about the TCP connections of others: sock_diag(7)."""

from __future__ import annotations

import socket
import struct

_BY_FAMILY, _REQUEST_DUMP, _ERROR, _DONE = 20, 0x301, 2, 3
_ESTABLISHED, _CONGESTION = 1, 4
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type
_ANSWER_BYTES = 72  # inet_diag_msg, after which the attributes begin
_ATTRIBUTE = struct.Struct("=HH")  # length, type


def congestion_controls(port: int) -> list[str]:
    """Those of the connections over IPv4 whose near end has this port."""
    ask = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 1 << (_CONGESTION - 1), 1 << _ESTABLISHED) + bytes(
        48
    )
    found: list[str] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4) as diag:
        diag.settimeout(10)
        diag.send(_HEADER.pack(_HEADER.size + len(ask), _BY_FAMILY, _REQUEST_DUMP, 1, 0) + ask)
        while True:
            data = diag.recv(1 << 20)
            while data:
                length, kind, *_ = _HEADER.unpack_from(data)
                if kind in (_ERROR, _DONE):
                    return found
                message, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
                if int.from_bytes(message[4:6], "big") == port:
                    found.append(_attribute(message[_ANSWER_BYTES:], _CONGESTION))


def _attribute(data: bytes, wanted: int) -> str:
    while data:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if kind == wanted:
            return data[_ATTRIBUTE.size : length].rstrip(b"\0").decode()
        data = data[(length + 3) & ~3 :]
    raise AssertionError("the kernel did not say")
