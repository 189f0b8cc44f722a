"""The labels that counters begin with."""

from __future__ import annotations

import re
from pathlib import Path

from hmacfs.dialects import tus
from hmacfs.errors import ConfigError, HmacfsError, NotAllowed, StoreStarting
from hmacfs.stores.s3.observer import OUTCOMES
from hmacfs.telemetry import labels
from hmacfs.web import problems

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_every_reason_of_an_error_is_known() -> None:
    reasons = {kind.reason for kind in problems._STATUS}
    assert reasons <= labels.upload_reasons() | labels.DOWNLOAD_REASONS
    assert {tus.UnsupportedVersion.reason, tus.NotAPiece.reason} <= labels.upload_reasons()
    assert labels.REFUSALS.keys() <= labels.upload_reasons()
    assert not {"bad-config", "not-allowed"} & labels.upload_reasons()


def test_readme_lists_the_types_of_all_problems() -> None:
    """In one table, with their statuses: those of ``errors`` and the dialects, and the two of ``web.routing`` itself."""
    readme = (DEPLOY.parent / "README.md").read_text(encoding="utf-8")
    listed = {
        (int(status), reason)
        for status, reasons in re.findall(r"^\| ([45]\d\d) \| (`.+`) \|$", readme, re.MULTILINE)
        for reason in re.findall(r"`([a-z-]+)`", reasons)
    }
    known = {
        (next(problems._STATUS[base].value for base in kind.__mro__ if base in problems._STATUS), kind.reason)
        for kind in labels._kinds(HmacfsError)
        if not issubclass(kind, (ConfigError, NotAllowed, StoreStarting))
    }
    assert listed == known | {(405, "method-not-allowed"), (500, "internal-error")}


def test_every_status_of_an_error_is_known() -> None:
    known = {status for _, status in labels.responses()}
    assert {str(status.value) for status in problems._STATUS.values()} <= known


def test_what_alerts_ask_for_is_known() -> None:
    text = (DEPLOY / "alerts.yml").read_text()
    asked = {word for group in re.findall(r'reason=~?"([^"]+)"', text) for word in group.split("|")}
    assert "body-cut-short" in asked
    assert asked <= labels.upload_reasons() | set(labels.REFUSALS.values()) | set(OUTCOMES)
