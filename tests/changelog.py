"""Moves the changes in ``changes/`` into the changelog's section that is not released yet: ``python -m tests.changelog``."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import hmacfs

ROOT = Path(__file__).parents[1]
CHANGES = ROOT / "changes"
CHANGELOG = ROOT / "CHANGELOG.md"
WIDTH = 120
UNRELEASED = " (unreleased)\n"
#: Before the first heading of a section.
UPDATING = ""
#: The parts in the names of files, and the headings that they stand for.
HEADINGS = {
    "updating": UPDATING,
    "downloads": "### Downloads\n",
    "uploads": "### Uploads\n",
    "pieces": "### Uploads in pieces\n",
    "settings": "### Configuration and commands\n",
    "store": "### The store\n",
    "running": "### Running it\n",
    "building": "### Building and testing\n",
}


class ChangeError(Exception):
    """A file that is no change; the message says what to do about it."""


class Change(NamedTuple):
    """heading: one of ``HEADINGS``. text: one paragraph."""

    heading: str
    text: str


def change_files(folder: Path) -> list[Path]:
    """The files of changes in ``folder``, in a fixed order."""
    return sorted(path for path in folder.iterdir() if path.name != "README.md")


def read_change(path: Path) -> Change:
    """Raises ``ChangeError``."""
    words, _, part = path.name.removesuffix(".md").rpartition(".")
    if path.suffix != ".md" or not words or part not in HEADINGS:
        raise ChangeError(f"{path.name}: call it <a few words>.<part>.md, the part one of {', '.join(HEADINGS)}")
    text = path.read_text(encoding="utf-8").strip()
    if not text or "\n\n" in text or text.startswith(("-", "*", "#")) or not text.endswith((".", ")")):
        raise ChangeError(f"{path.name}: write one paragraph of whole sentences, without a bullet or a heading")
    return Change(HEADINGS[part], " ".join(text.split()))


def collected(changelog: str, changes: Iterable[Change], version: str) -> str:
    """The changelog with ``changes`` at the ends of their lists in its newest section, which is ``version``'s if the
    newest one there is released. Raises ``ChangeError`` if that one has been released already."""
    begin = changelog.index("\n## ") + 1
    title = changelog[begin:].partition("\n")[0].removeprefix("## ")
    if title == version:
        raise ChangeError(f"{version} has been released: raise __version__ first")
    if not title.endswith(UNRELEASED.strip()):
        changelog = f"{changelog[:begin]}## {version}{UNRELEASED}\n{changelog[begin:]}"
    end = changelog.find("\n## ", begin)
    end = len(changelog) if end < 0 else end + 1
    section = changelog[begin:end]
    for change in changes:
        section = _added(section, change)
    return changelog[:begin] + section + changelog[end:]


def _added(section: str, change: Change) -> str:
    bullet = textwrap.fill(
        change.text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    start = 0
    if change.heading != UPDATING:
        start = section.find(f"\n{change.heading}")
        if start < 0:
            return f"{section.rstrip()}\n\n{change.heading}\n{bullet}\n\n"
    end = section.find("\n### ", start + 1)
    list_so_far, rest = (section, "") if end < 0 else (section[:end], section[end:])
    list_so_far = list_so_far.rstrip()
    last_line = list_so_far.rpartition("\n")[2]
    gap = "\n" if last_line.startswith(("- ", "  ")) else "\n\n"
    return f"{list_so_far}{gap}{bullet}\n{rest or chr(10)}"


def main() -> None:
    files = change_files(CHANGES)
    try:
        changes = [read_change(path) for path in files]
        text = collected(CHANGELOG.read_text(encoding="utf-8"), changes, hmacfs.__version__)
    except ChangeError as error:
        sys.exit(f"changes: {error}")
    CHANGELOG.write_text(text, encoding="utf-8")
    for path in files:
        path.unlink()
    print(f"{len(files)} changes moved into {CHANGELOG.name}")


if __name__ == "__main__":
    main()
