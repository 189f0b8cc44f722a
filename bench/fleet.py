"""The contenders in use, and the folders they work in."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.contenders import Contender


class Place:
    """A folder of our own on some file system, removed at the end of the context."""

    def __init__(self, base: Path) -> None:
        base.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="hmacfs-bench-", dir=base))
        self.folder.chmod(0o755)  # nginx's workers serve files from it

    @property
    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A million files are removed several times faster than by shutil.
        subprocess.run(["rm", "-rf", str(self.folder)], check=True)


class Fleet:
    """Starts each contender when it is first asked for, and stops all at the end of the context: they wait side by
    side for their turn, since an idle one costs nothing."""

    def __init__(self) -> None:
        self._running: dict[tuple[type[Contender], Path], Contender] = {}

    def get(self, kind: type[Contender], place: Path) -> Contender:
        """The contender of that kind whose folder is in ``place``. Raises what its start does, and ``RuntimeError`` if
        it has ended meanwhile: the next call then starts another."""
        key = (kind, place)
        if key not in self._running:
            contender = kind(place / kind.name)
            try:
                contender.start()
            except BaseException:
                contender.stop()
                raise
            self._running[key] = contender
        try:
            self._running[key].require_running()
        except RuntimeError:
            self._running.pop(key).stop()
            raise
        return self._running[key]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for contender in self._running.values():
            contender.stop()
