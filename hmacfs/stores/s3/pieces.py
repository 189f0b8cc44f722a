"""A piece of an unfinished upload on its way."""

from __future__ import annotations

import logging
from typing import Self

from hmacfs.errors import HmacfsError
from hmacfs.stores.s3.grid import Grid
from hmacfs.stores.s3.sending import PartSender
from hmacfs.uploads.contracts.requests import ENDLESS

log = logging.getLogger("hmacfs.stores")


class ObjectPiece:
    """A ``Piece`` of which what arrived counts: each cell is sent as soon as it is full, what is left at the end as a
    remainder.

    The first cell has the bytes of the remainders before it again: ``_known`` so many. They are asked for only once it
    is full.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._begin = grid.length
        self._size = grid.cell_size
        self._known = self._begin - grid.whole * self._size
        self._is_taken_back = False
        self._sender = PartSender(grid.spool, grid.put_part, grid.whole + 1)
        self.room = self._size - self._known

    def __enter__(self) -> Self:
        if self._known:
            self._sender.current.skip(self._known)
        return self

    def write(self, data: memoryview) -> None:
        self._sender.current.write(data)

    def fileno(self) -> int:
        return self._sender.current.fd

    def hand_on(self) -> int:
        if self._known:
            self._sender.current.fill(self._grid.tail())
            self._known = 0
        self._sender.send()
        return self._size

    def roll_back(self) -> None:
        self._is_taken_back = True
        self._sender.close()
        self._grid.go_back(self._begin)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if not self._is_taken_back:
                self._store_rest()
        except HmacfsError as failure:
            if kind is None:
                raise
            log.debug("what arrived of a broken piece could not be stored: %s", failure)
        finally:
            self._sender.close()

    def _store_rest(self) -> None:
        self._sender.wait()
        file, start = self._sender.current, (self._sender.number - 1) * self._size
        length = file.measure() - self._known
        if 0 < length < self._size - self._known:  # a cell that is full, and could not be sent, is no remainder
            self._grid.put_remainder(start + self._known, file.section(self._known, length), length)


class AtomicPiece:
    """A ``Piece`` that is spooled whole: nothing of it goes out before its end. What its end itself fails at may leave
    the first of its bytes, which count."""

    room = ENDLESS

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._known = grid.length - grid.whole * grid.cell_size
        self._file = grid.spool.new()
        self._is_taken_back = False

    def __enter__(self) -> Self:
        try:
            self._file.skip(self._known)
        except BaseException:
            self._file.close()
            raise
        return self

    def write(self, data: memoryview) -> None:
        self._file.write(data)

    def fileno(self) -> int:
        return self._file.fd

    def hand_on(self) -> int:
        return self.room

    def roll_back(self) -> None:
        self._is_taken_back = True

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None and not self._is_taken_back:
                self._store()
        finally:
            self._file.close()

    def _store(self) -> None:
        grid, size = self._grid, self._grid.cell_size
        length, number, at, known = self._file.measure(), grid.whole + 1, 0, self._known
        if length >= size:
            self._file.fill(grid.tail())
        while length - at >= size:
            grid.put_part(number, self._file.section(at, size))
            number, at, known = number + 1, at + size, 0
        if length - at > known:
            start = (number - 1) * size + known
            grid.put_remainder(start, self._file.section(at + known, length - at - known), length - at - known)
