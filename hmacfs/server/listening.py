"""Addresses to listen at: as gunicorn writes them, and whether they are free."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from typing import Any

from hmacfs.config import Settings, TcpAddress, UnixAddress

#: Linux's, which Python does not name; and an interface that no machine has.
_SO_BINDTOIFINDEX = 62
_NO_INTERFACE = 2**31 - 1


def bind_address(settings: Settings) -> str:
    """``ListenPort`` for gunicorn."""
    listen = settings.listen
    if isinstance(listen, UnixAddress):
        return f"unix:{listen.path}"
    if not listen.host:
        return f"[::]:{listen.port}" if socket.has_dualstack_ipv6() else f"0.0.0.0:{listen.port}"
    return f"[{listen.host}]:{listen.port}" if ":" in listen.host else f"{listen.host}:{listen.port}"


def address_of(listener: Any) -> str:
    """The address of a listening socket, as ``ListenPort`` would have it."""
    address = listener.getsockname()
    if isinstance(address, bytes):  # the abstract namespace
        return "@" + address[1:].decode(errors="replace")
    if isinstance(address, str):
        return address
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def refuse_connections(listener: Any) -> None:
    """Have the kernel refuse new connections, in all processes that share the listener, and go on with those that it
    has begun: they can still be accepted. Nothing happens for a Unix socket, or where the kernel does not allow it.

    To accept until nothing waits and to close then is not enough: a client's connection and its request may arrive
    between the two, and the close resets them. Bound to an interface that does not exist, the listener is not found
    for a new connection.
    """
    if listener.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # Linux before 5.7, for want of CAP_NET_RAW
            listener.setsockopt(socket.SOL_SOCKET, _SO_BINDTOIFINDEX, _NO_INTERFACE)


def address_problem(origin: str, address: TcpAddress | UnixAddress) -> str:
    """Why nothing can listen at this address; empty if it can. gunicorn would try for five seconds and say it six
    times; and it would take the socket file away from a server that uses it."""
    if isinstance(address, UnixAddress):
        return _unix_socket_problem(origin, str(address.path))
    host = address.host or None
    try:
        found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return f"{origin}: cannot listen at {address}: there is no such host"
    for family, kind, protocol, _, where in found:
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and host is None:
                trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                trial.bind(where)
            except OSError as error:
                if host is None and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue
                return f"{origin}: cannot listen at {address}: {os.strerror(error.errno or 0)}{_remedy(error)}"
    return ""


def _remedy(error: OSError) -> str:
    """What helps where nothing can listen, as the end of a sentence."""
    match error.errno:
        case errno.EADDRINUSE:
            return "; another program listens there: choose another port"
        case errno.EACCES:
            return "; low ports are for root: choose one from 1024 on"
        case errno.EADDRNOTAVAIL:
            return "; this machine has no such address"
    return ""


def _unix_socket_problem(origin: str, path: str) -> str:
    try:
        with socket.socket(socket.AF_UNIX) as trial:
            trial.connect(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return "" if error.errno == errno.ECONNREFUSED else f"{origin}: cannot listen at {path}: {error.strerror}"
    return f"{origin}: cannot listen at {path}: another server does"
