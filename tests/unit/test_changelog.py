"""Collecting the files of ``changes/`` into the changelog."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.changelog import CHANGELOG, CHANGES, HEADINGS, Change, ChangeError, change_files, collected, read_change

LOG = """# Changelog

## 1.1.0 (unreleased)

What is new.

To do when updating:

- Read this,
  all of it.

### Uploads

- The first.

### Running it

- The second.

## 1.0.0

- The oldest.
"""


def change(part: str, text: str) -> Change:
    return Change(HEADINGS[part], text)


def test_changes_go_to_the_ends_of_their_lists() -> None:
    changes = [
        change("uploads", "More."),
        change("running", "Faster."),
        change("updating", "Beware."),
        change("uploads", "Last."),
    ]
    text = collected(LOG, changes, "1.1.0")
    expected = LOG.replace("- The first.\n", "- The first.\n- More.\n- Last.\n")
    expected = expected.replace("- The second.\n", "- The second.\n- Faster.\n").replace(
        "all of it.\n", "all of it.\n- Beware.\n"
    )
    assert text == expected


def test_a_heading_that_is_missing_is_added_at_the_end_of_the_section() -> None:
    text = collected(LOG, [change("store", "Deeper."), change("store", "Wider.")], "1.1.0")
    assert "- The second.\n\n### The store\n\n- Deeper.\n- Wider.\n\n## 1.0.0\n" in text


def test_after_a_release_a_new_section_begins() -> None:
    released = LOG.replace(" (unreleased)", "")
    text = collected(released, [change("updating", "Beware."), change("store", "Deeper.")], "1.2.0")
    assert "\n## 1.2.0 (unreleased)\n\n- Beware.\n\n### The store\n\n- Deeper.\n\n## 1.1.0\n" in text
    assert text.endswith(released.partition("## 1.1.0\n")[2])


def test_a_released_section_gets_no_more() -> None:
    with pytest.raises(ChangeError, match="raise __version__"):
        collected(LOG.replace(" (unreleased)", ""), [change("store", "Deeper.")], "1.1.0")


def test_the_only_section_may_be_the_last_of_the_file() -> None:
    text = collected(LOG.partition("\n## 1.0.0")[0], [change("running", "Faster.")], "1.1.0")
    assert text.endswith("- The second.\n- Faster.\n\n")


def test_long_changes_are_wrapped() -> None:
    text = collected(LOG, [change("uploads", "word " * 60 + "end.")], "1.1.0")
    added = text.partition("- The first.\n")[2].partition("\n\n")[0].splitlines()
    assert added[0].startswith("- word")
    assert all(line.startswith("  word") for line in added[1:])
    assert max(map(len, added)) <= 120


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("words.md", "A change."), ("words.other.md", "A change."), (".uploads.md", "A change."), ("words.uploads", "A change."),
        ("words.uploads.md", ""), ("words.uploads.md", "- A change."), ("words.uploads.md", "A change"),
        ("words.uploads.md", "A change.\n\nAnother."),
    ],
)  # fmt: skip
def test_what_is_no_change_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    (path,) = change_files(tmp_path)
    with pytest.raises(ChangeError, match=name.replace(".", r"\.")):
        read_change(path)


def test_those_that_wait_here_can_be_collected() -> None:
    changes = [read_change(path) for path in change_files(CHANGES)]
    text = collected(CHANGELOG.read_text(encoding="utf-8"), changes, "0")
    for one in changes:
        assert one.text.split()[0] in text
    for heading in HEADINGS.values():
        assert heading in text


def test_the_table_in_the_folder_names_all_parts() -> None:
    table = (CHANGES / "README.md").read_text(encoding="utf-8")
    for part, heading in HEADINGS.items():
        assert f"| `{part}` | {heading.strip('# ').strip()}" in table
