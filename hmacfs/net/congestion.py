"""The congestion control of connections from this machine."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from hmacfs.addresses import is_loopback

#: They space segments out in time, at the bandwidth that they have measured (``bbr``, ``bbr2``, ``bbr3``). The kernel's
#: other algorithms send as soon as the window allows.
_PACING = b"bbr"
#: Built into every kernel, and the one that every user may choose unless the administrator has forbidden it
#: (net.ipv4.tcp_allowed_congestion_control).
_UNPACED = b"reno"
_NAME_BYTES = 16


class LocalCongestion:
    """Takes the pacing off connections over the loopback, of a proxy or a client on the machine: between two processes
    there is no bottleneck to measure, and a download of 1 GiB took 1.7 to 2.6 times as long with ``bbr``. Far clients
    keep what the administrator has chosen.

    Not for a listener whose connections are not paced, nor where the kernel does not let this process choose.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._is_needed = _is_paced(listener) and _may_choose(listener.family)

    def set_up(self, sock: Any, address: object) -> None:
        """Of an accepted connection: its socket, and the address that ``accept`` gave."""
        if self._is_needed and isinstance(address, tuple) and is_loopback(address[0]):
            with contextlib.suppress(OSError):  # the administrator forbade it meanwhile, or the peer is gone
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)


def _is_paced(listener: socket.socket) -> bool:
    """Whether the connections that it accepts are: they inherit its algorithm."""
    try:
        name = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
    except (OSError, AttributeError):  # no TCP; a system without the option
        return False
    return name.startswith(_PACING)


def _may_choose(family: int) -> bool:
    with socket.socket(family) as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _UNPACED)
        except OSError:
            return False
        return True
