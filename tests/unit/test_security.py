"""``SECURITY.md`` names what there is."""

from __future__ import annotations

import re
from pathlib import Path

from hmacfs.config.settings import SETTINGS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_test_and_file_that_it_names_is_there() -> None:
    named = re.findall(r"`([\w/.-]+\.(?:py|txt))`", TEXT)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_setting_that_it_names_is_one() -> None:
    headers = {"Forwarded"}
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z][A-Za-z]+)*)`", TEXT)) - headers
    assert len(named) > 10
    assert named <= {setting.key for setting in SETTINGS}


def test_a_newcomer_finds_it() -> None:
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
