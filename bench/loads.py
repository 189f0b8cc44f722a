"""Loads from curl (large files) and wrk (small ones), each checked: every answer, and what is stored afterwards."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from bench.contenders import SECRET, Contender
from bench.curl import curl
from bench.names import PREFIX, UploadList, names, signed_path
from bench.outcome import LoadFailed, Outcome
from bench.stores import Stored, warm_memory
from bench.wrk import threads, wrk

#: More than any server here takes in a second on one core: a list of paths must not end before the run.
_UPLOADS_PER_CORE_SECOND = 40_000
_BYTES_PER_CORE_SECOND = 6e9


class Load(Protocol):
    """``prepare`` comes before and ``verify`` after what is measured. ``run`` takes about ``seconds``, or as long as
    its work does. All may raise ``LoadFailed``; ``verify`` removes from the store what the load brought there."""

    def prepare(self, contender: Contender) -> None: ...

    def run(self, contender: Contender, seconds: int, /) -> Outcome: ...

    def verify(self, contender: Contender, outcome: Outcome, /) -> None: ...


class CurlUpload:
    """``streams`` curls at once, each of which uploads the file ``source`` ``each`` times."""

    def __init__(self, source: Path, *, streams: int = 1, each: int = 1) -> None:
        self._source = source
        self._names = list(names(streams * each, filename="video.mp4"))
        self._streams = streams

    def prepare(self, contender: Contender) -> None:
        contender.take_out(self._names, self._source)
        warm_memory(len(self._names) * self._source.stat().st_size)

    def run(self, contender: Contender, _seconds: int) -> Outcome:
        size, count = self._source.stat().st_size, len(self._names)
        shares = [self._names[stream :: self._streams] for stream in range(self._streams)]
        transfers, wall = curl(*(self._arguments(contender, share, size) for share in shares))
        wrong = [transfer for transfer in transfers if transfer.status != 201 or transfer.sent != size]
        if wrong or len(transfers) != count:
            raise LoadFailed(f"{count} uploads ended in {len(transfers)} answers, these among them: {wrong[:3]}")
        # A single curl's own clock leaves its start out; several have no common clock but ours.
        return Outcome(transfers[0].seconds if count == 1 else wall, count, count * size)

    def _arguments(self, contender: Contender, share: Sequence[str], size: int) -> list[str]:
        arguments = []
        for name in share:
            url = f"{contender.url}{signed_path(SECRET, name, size)}"
            arguments += ["--output", os.devnull, "--upload-file", str(self._source), url]
        return arguments

    def verify(self, contender: Contender, outcome: Outcome) -> None:
        _require(contender.take_out(self._names, self._source), complete=outcome.answered, unanswered=0)


class CurlDownload:
    """``streams`` curls at once, each of which downloads the file ``source`` and throws it away."""

    def __init__(self, source: Path, *, streams: int = 1) -> None:
        self._source = source
        self._name = next(names(1, filename="film.mp4"))
        self._streams = streams

    def prepare(self, contender: Contender) -> None:
        contender.put_in(self._name, self._source)

    def run(self, contender: Contender, _seconds: int) -> Outcome:
        size, count = self._source.stat().st_size, self._streams
        transfers, wall = curl(*[["--output", os.devnull, f"{contender.url}{PREFIX}{self._name}"]] * count)
        wrong = [transfer for transfer in transfers if transfer.status != 200 or transfer.received != size]
        if wrong or len(transfers) != count:
            raise LoadFailed(f"{count} downloads of {size} bytes ended as {wrong[:3]}")
        return Outcome(transfers[0].seconds if count == 1 else wall, count, count * size)

    def verify(self, contender: Contender, _outcome: Outcome) -> None:
        contender.take_out([self._name], self._source)


class WrkUpload:
    """wrk with ``connections``, on each of which it uploads one file like ``body`` after the other.

    folder: for the list of signed paths, made once for all contenders and long enough for runs of ``longest`` seconds.
    """

    def __init__(self, body: Path, folder: Path, *, connections: int, longest: int) -> None:
        self._body = body
        self._folder = folder
        self._connections = connections
        self._longest = longest

    @cached_property
    def _paths(self) -> UploadList:
        size = self._body.stat().st_size
        rate = min(_UPLOADS_PER_CORE_SECOND, _BYTES_PER_CORE_SECOND / size) * (os.cpu_count() or 1)
        base = self._folder / f"paths-{size}-{self._connections}"
        return UploadList(base, SECRET, size, threads=threads(self._connections), count=int(rate * (self._longest + 1)))

    def prepare(self, contender: Contender) -> None:
        self._take_out(contender)

    def run(self, contender: Contender, seconds: int) -> Outcome:
        env = {"BENCH_PATHS": str(self._paths.base), "BENCH_BODY": str(self._body)}
        return wrk(contender.url, seconds, connections=self._connections, **env).outcome(self._paths.size)

    def verify(self, contender: Contender, outcome: Outcome) -> None:
        """A load that ends breaks off as many requests as it has connections: those may or may not be stored."""
        _require(self._take_out(contender), complete=outcome.answered, unanswered=self._connections)

    def _take_out(self, contender: Contender) -> Stored:
        stored = Stored(0, 0)
        for mine in self._paths.by_thread:
            stored = stored.plus(contender.take_out(mine, self._body, gap=self._connections))
        return stored


class WrkDownload:
    """wrk with ``connections``, on each of which it downloads the file ``source`` again and again, under one name or in
    turn under as many as ``count``, for whose list ``folder`` is."""

    def __init__(self, source: Path, folder: Path, *, connections: int, count: int = 1) -> None:
        self._source = source
        self._connections = connections
        # No other file of this name was ever there: nginx may keep one open for a minute.
        self._names = list(names(count, filename=f"picture-{count}-{source.stat().st_size}.jpg"))
        self._paths = folder / f"{self._names[0].partition('/')[2]}.paths"

    def prepare(self, contender: Contender) -> None:
        for name in self._names:
            contender.put_in(name, self._source)
        for thread in range(threads(self._connections)):
            mine = self._names[thread :: threads(self._connections)] or self._names
            lines = "".join(f"{PREFIX}{name}\n" for name in mine)
            self._paths.with_name(f"{self._paths.name}.{thread}").write_text(lines)

    def run(self, contender: Contender, seconds: int) -> Outcome:
        size = self._source.stat().st_size
        env = {"BENCH_PATHS": str(self._paths)}
        result = wrk(contender.url, seconds, connections=self._connections, **env)
        if result.bytes < result.requests * size:
            raise LoadFailed(f"{result.requests} downloads of {size} bytes brought {result.bytes} bytes")
        return result.outcome(size)

    def verify(self, contender: Contender, _outcome: Outcome) -> None:
        with urllib.request.urlopen(f"{contender.url}{PREFIX}{self._names[-1]}", timeout=10) as answer:
            if answer.read() != self._source.read_bytes():
                raise LoadFailed("a download brought other bytes")
        contender.take_out(self._names, self._source)


def _require(stored: Stored, *, complete: int, unanswered: int) -> None:
    """Raises ``LoadFailed`` if the store does not hold what was answered with success."""
    if not complete <= stored.complete <= complete + unanswered:
        raise LoadFailed(f"{complete} uploads were answered with success, {stored.complete} are stored")
    if stored.partial > unanswered:
        raise LoadFailed(f"{stored.partial} stored files are not what was sent")
