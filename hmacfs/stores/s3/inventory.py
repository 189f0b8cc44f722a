"""What there is of an unfinished upload in the bucket, and what of that counts. Pure.

A request may be carried out long after its sender gave it up, lost its lease or died, and more than once. So nothing
here is changed or named twice: each remainder and each tombstone has a name of its own, and what it says stays true.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Self
from urllib.parse import quote, unquote

from hmacfs.stores.s3.bucket import ObjectInfo, Part

_MULTIPART = re.compile(r"u\.([0-9]{1,16})\.(.+)")
_REMAINDER = re.compile(r"c\.([0-9]{1,16})\.([0-9]{1,16})\.([0-9]{1,16})\.[0-9a-f]+")
_TOMBSTONE = re.compile(r"t\.([0-9]{1,16})\.[0-9a-f]+")


class Mark(NamedTuple):
    """The note of a multipart upload."""

    upload_id: str
    part_size: int

    @property
    def name(self) -> str:
        return f"u.{self.part_size}.{quote(self.upload_id, safe='')}"

    @classmethod
    def from_name(cls, name: str) -> Self | None:
        match = _MULTIPART.fullmatch(name)
        return cls(unquote(match[2]), int(match[1])) if match else None


class Remainder(NamedTuple):
    """Bytes that are less than a cell. era: of the piece that they came with. modified: Unix seconds."""

    start: int
    length: int
    era: int
    modified: float
    name: str

    @classmethod
    def new(cls, start: int, length: int, era: int, modified: float) -> Self:
        return cls(start, length, era, modified, f"c.{start}.{length}.{era}.{_unique()}")

    @classmethod
    def from_name(cls, name: str, modified: float) -> Self | None:
        match = _REMAINDER.fullmatch(name)
        return cls(int(match[1]), int(match[2]), int(match[3]), modified, name) if match else None

    @property
    def end(self) -> int:
        return self.start + self.length


class Tombstone(NamedTuple):
    """Bytes that were taken back, for good: parts by the ids of their multipart uploads and their numbers, each known
    from its replacements by its time; and all remainders of earlier eras but those that are ``kept``."""

    era: int = 0
    parts: Mapping[str, Mapping[int, float]] = {}
    kept: Collection[str] = frozenset()

    def name(self) -> str:
        """A new one."""
        return f"t.{self.era}.{_unique()}"

    @staticmethod
    def era_of(name: str) -> int | None:
        match = _TOMBSTONE.fullmatch(name)
        return int(match[1]) if match else None

    @classmethod
    def from_json(cls, era: int, text: bytes) -> Self:
        """Raises ``ValueError``, ``KeyError``."""
        told = json.loads(text)
        parts = {
            upload_id: {int(number): modified for number, modified in times.items()}
            for upload_id, times in told["parts"].items()
        }
        return cls(era, parts, frozenset(told["kept"]))

    def to_json(self) -> bytes:
        return json.dumps({"parts": self.parts, "kept": sorted(self.kept)}).encode()

    def has(self, upload_id: str, part: Part) -> bool:
        return self.parts.get(upload_id, {}).get(part.number) == part.modified

    def has_remainder(self, one: Remainder) -> bool:
        return one.era < self.era and one.name not in self.kept


@dataclasses.dataclass(slots=True)
class Inventory:
    """What there is of an upload.

    listed: the parts of each multipart upload, by number; ``None`` for one that is gone. file: what one that is gone
    has become. outdated: the names of earlier tombstones. era: the latest one that anything is of. touched: when the
    newest of it came, in Unix seconds.

    mark: of the multipart upload that counts, ``None`` before the first whole cell; of several, which two holders of
    the lease began, it is the one that got furthest, since that has all that was acknowledged. whole: how many of its
    parts count. chain: the remainders after these, in their order; of several, see ``_precedence``. length: the bytes
    of both.
    """

    listed: dict[Mark, dict[int, Part] | None] = dataclasses.field(default_factory=dict)
    remainders: set[Remainder] = dataclasses.field(default_factory=set)
    tombstone: Tombstone = dataclasses.field(default_factory=Tombstone)
    outdated: set[str] = dataclasses.field(default_factory=set)
    era: int = 0
    file: ObjectInfo | None = None
    is_unverified: bool = False
    touched: float = 0.0
    mark: Mark | None = None
    whole: int = 0
    chain: list[Remainder] = dataclasses.field(default_factory=list)
    length: int = 0

    @property
    def marks(self) -> list[Mark]:
        return sorted(self.listed)

    @property
    def others(self) -> list[Mark]:
        """Those of multipart uploads that do not count, or are gone."""
        return [mark for mark in self.marks if mark != self.mark]

    @property
    def parts(self) -> dict[int, Part]:
        """Of the multipart upload that counts."""
        parts = self.listed[self.mark] if self.mark is not None else None
        return {} if parts is None else parts

    def add_part(self, mark: Mark, part: Part) -> None:
        parts = self.listed[mark] = self.listed.get(mark) or {}
        parts[part.number] = part
        self.count()

    def add_remainder(self, one: Remainder) -> None:
        self.remainders.add(one)
        self.era = max(self.era, one.era)
        self.count()

    def count(self) -> None:
        """Find ``mark``, ``whole``, ``chain`` and ``length`` by the rest."""
        present = [mark for mark in self.marks if self.listed[mark] is not None]
        self.mark = max(present, key=self._whole, default=None)
        self.whole = self._whole(self.mark) if self.mark is not None else 0
        self.chain, self.length = self._chain(self.whole * self.mark.part_size if self.mark is not None else 0)

    def _whole(self, mark: Mark) -> int:
        parts, whole = self.listed[mark] or {}, 0
        while (part := parts.get(whole + 1)) and part.size == mark.part_size and not self.is_void(mark, part):
            whole += 1
        return whole

    def _chain(self, end: int) -> tuple[list[Remainder], int]:
        by_start: defaultdict[int, list[Remainder]] = defaultdict(list)
        for one in self.remainders:
            if not self.tombstone.has_remainder(one):
                by_start[one.start].append(one)
        best: dict[int, list[Remainder]] = {}
        for start in sorted(by_start, reverse=True):
            best[start] = max(([one, *best.get(one.end, ())] for one in by_start[start]), key=_precedence)
        chain = best.get(end, [])
        return chain, chain[-1].end if chain else end

    def is_void(self, mark: Mark, part: Part) -> bool:
        """Whether it was taken back."""
        return self.tombstone.has(mark.upload_id, part)

    def taken_back(self, offset: int, era: int) -> Tombstone:
        """What has nothing after ``offset`` count."""
        parts = {
            mark.upload_id: {
                number: part.modified
                for number, part in (listed or {}).items()
                if number * mark.part_size > offset or self.is_void(mark, part)
            }
            for mark, listed in self.listed.items()
        }
        kept = {one.name for one in self.remainders if one.start < offset and not self.tombstone.has_remainder(one)}
        return Tombstone(era, parts, kept)


def _precedence(chain: Sequence[Remainder]) -> tuple[list[int], int, list[tuple[float, str]]]:
    """The highest of those with one start counts. First the latest eras: what the latest piece stored may be
    acknowledged, with all that it found; what comes late is of a piece that was given up before. Then the furthest end:
    two holders may have had one era. Then what came first."""
    eras = sorted((one.era for one in chain), reverse=True)
    return eras, chain[-1].end, [(-one.modified, one.name) for one in chain]


def _unique() -> str:
    return secrets.token_hex(4)


def marks_in(names: Iterable[str]) -> list[Mark]:
    """Those that are names of marks."""
    return [mark for name in names if (mark := Mark.from_name(name))]
