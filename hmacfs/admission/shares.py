"""What each client has reserved of the free space, over all processes of the machine.

A client's bytes are counted for the networks that it belongs to (see ``NetworkShares``), in rows that all processes
see: one for each network and process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from hmacfs.addresses import NetworkShares
from hmacfs.errors import TooMuchReserved
from hmacfs.system.shared_rows import Row, SharedRows

#: When a client whose uploads reserve too much may try again, in seconds: some of them may be done then.
_RETRY_AFTER = 10

#: While all together have reserved less than this part of a share, no client can exceed a share, though each of as many
#: processes knows only the others' reservations of a moment ago.
_SMALL = 64
#: How many networks without reservations keep their rows until the next ``publish``.
_KEPT = 1024


class Reserving(Protocol):
    """A reservation. ``left``: its bytes that are still to come; ``published``: how many of them other processes know
    of."""

    networks: NetworkShares
    published: int

    @property
    def left(self) -> int: ...


class _Network:
    """The reservations of this process's clients in one network."""

    __slots__ = ("reservations", "row")

    def __init__(self, row: Row) -> None:
        self.row = row
        self.reservations: set[Reserving] = set()


class ClientShares:
    """networks: those of a client's address. of: what one client may have reserved where uploads may take so many bytes
    in all; 0 for no limit."""

    def __init__(self, rows: SharedRows, networks: Callable[[str], NetworkShares], of: Callable[[int], int]) -> None:
        self._rows = rows
        self.networks = networks
        self.of = of
        self._known: dict[str, _Network] = {}

    def take(self, reservation: Reserving, least: int, most: int, free: int, reserved: int) -> int:
        """Count between ``least`` and ``most`` further bytes of a reservation, where uploads may take ``free`` bytes in
        all and have ``reserved`` so many, as was known a moment ago: how many. Raises ``TooMuchReserved``."""
        share = self.of(free)
        if reserved + most <= share // _SMALL:
            for name, _ in reservation.networks:
                if name not in self._known:
                    with self._rows:
                        self._claim(name)
            self._count(reservation, most)
            return most
        with self._rows:
            for name, shares in reservation.networks if share else ():
                room = self._room(name, share * shares, least)
                if room < least:
                    raise TooMuchReserved(_RETRY_AFTER)
                most = min(most, room)
            for name, _ in reservation.networks:
                if name not in self._known:
                    self._claim(name)
            self._count(reservation, most)
        return most

    def _claim(self, name: str) -> None:
        network = self._known[name] = _Network(Row(_key(name)))
        self._rows.claim(network.row)

    def _count(self, reservation: Reserving, count: int) -> None:
        reservation.published += count
        for name, _ in reservation.networks:
            network = self._known[name]
            network.reservations.add(reservation)
            self._add(network, count)

    def _room(self, name: str, limit: int, least: int) -> int:
        """What clients of a network may reserve besides; exact, as far as this process knows, if it is too little."""
        for _ in range(2):
            room = limit - sum(found.number for found in self._rows.find(_key(name)))
            if room >= least or name not in self._known:
                break
            self._publish(self._known[name].reservations)
        return room

    def give_back(self, reservation: Reserving) -> None:
        """End what ``take`` began."""
        for name, _ in reservation.networks:
            network = self._known.get(name)
            if network is None:
                continue
            network.reservations.discard(reservation)
            self._add(network, -reservation.published)
        if len(self._known) > _KEPT:
            self._release_unused()

    def publish(self) -> None:
        """Publish how many of the reserved bytes are not used yet. To be called once a second."""
        self._release_unused()
        for network in self._known.values():
            self._publish(network.reservations)

    def _release_unused(self) -> None:
        """A client that has uploaded a file often sends another at once: its rows are kept for a moment."""
        unused = [name for name, network in self._known.items() if not network.reservations]
        if unused:
            with self._rows:
                for name in unused:
                    self._rows.release(self._known.pop(name).row)

    def _publish(self, reservations: Iterable[Reserving]) -> None:
        for reservation in reservations:
            used = reservation.published - reservation.left
            reservation.published -= used
            for name, _ in reservation.networks if used else ():
                self._add(self._known[name], -used)

    def _add(self, network: _Network, count: int) -> None:
        network.row.number += count
        self._rows.write(network.row)


def _key(network: str) -> bytes:
    return b"\0reserved by " + network.encode(errors="replace")
