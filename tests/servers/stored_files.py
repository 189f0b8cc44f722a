"""What a server has stored, as a test sees it that asks the place itself: a folder, or a bucket."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from hmacfs.config.values import Secret
from hmacfs.stores.s3.client import S3Bucket
from hmacfs.stores.s3.notes import Notes
from hmacfs.stores.s3.objects import Keys, is_file
from hmacfs.stores.s3.options import S3Options
from hmacfs.system.threads import FileCalls, ThreadOffload

_PIECE = 256 * 1024


class StoredFiles(Protocol):
    def content(self, name: str) -> bytes:
        """Of a stored file. Raises ``FileNotFoundError``."""

    def names(self) -> list[str]:
        """Of all stored files, in their order."""

    def remove(self, name: str) -> None: ...

    def leftovers(self) -> list[str]:
        """What a failed whole upload should not have left."""

    def unfinished(self) -> dict[str, int]:
        """How many bytes there are of each unfinished upload, by the key of its session."""

    def close(self) -> None: ...


class FolderFiles:
    def __init__(self, store: Path) -> None:
        self._store = store

    def content(self, name: str) -> bytes:
        return (self._store / name).read_bytes()

    def names(self) -> list[str]:
        return sorted(
            str(path.relative_to(self._store))
            for path in self._store.rglob("*")
            if path.is_file() and ".hmacfs" not in path.parts
        )

    def remove(self, name: str) -> None:
        (self._store / name).unlink()

    def leftovers(self) -> list[str]:
        """Anything in the staging area, empty folders."""
        staged = [str(path) for path in (self._store / ".hmacfs" / "tmp").iterdir()]
        empty = [
            str(path)
            for path in self._store.rglob("*")
            if path.is_dir() and ".hmacfs" not in path.parts and not any(path.iterdir())
        ]
        return staged + empty

    def unfinished(self) -> dict[str, int]:
        found = {}
        for path in (self._store / ".hmacfs" / "partial").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it was completed this moment
                found[path.name] = path.stat().st_size
        return found

    def close(self) -> None:
        pass


class BucketFiles:
    """settings: the server's."""

    def __init__(self, settings: dict[str, object]) -> None:
        options = S3Options(
            endpoint=str(settings["S3Endpoint"]),
            bucket=str(settings["S3Bucket"]),
            access_key=str(settings["S3AccessKey"]),
            secret_key=Secret(str(settings["S3SecretKey"])),
        )
        self._bucket = S3Bucket(options, FileCalls(ThreadOffload(2)))
        self._keys = Keys(str(settings.get("S3Prefix", "")))
        self._notes = Notes(self._bucket, self._keys)

    def content(self, name: str) -> bytes:
        download = self._bucket.get(self._keys.prefix + name)
        if download is None:
            raise FileNotFoundError(name)
        with contextlib.closing(download):
            return b"".join(download.pieces(_PIECE))

    def names(self) -> list[str]:
        return sorted(name for name in self._visible() if self._is_file(name))

    def remove(self, name: str) -> None:
        self._bucket.delete(self._keys.prefix + name)

    def leftovers(self) -> list[str]:
        """Placeholders."""
        return sorted(name for name in self._visible() if not self._is_file(name))

    def _visible(self) -> list[str]:
        found = [one.key for page in self._bucket.pages(self._keys.prefix) for one in page]
        return [key.removeprefix(self._keys.prefix) for key in found if not key.startswith(self._keys.reserved)]

    def _is_file(self, name: str) -> bool:
        return is_file(self._bucket.head(self._keys.prefix + name))

    def unfinished(self) -> dict[str, int]:
        found = {}
        for key in self._notes.survey()[0]:
            inventory = self._notes.inventory(key)
            if inventory is not None:
                found[key] = inventory.length
        return found

    def close(self) -> None:
        self._bucket.close()
