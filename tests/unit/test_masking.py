"""No message shows a password, wherever somebody has put it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import toml

from hmacfs.config import SETTINGS, load, warnings
from hmacfs.config.messages import shown
from hmacfs.config.placeholders import can_be_guessed, is_placeholder
from hmacfs.errors import ConfigError
from hmacfs.masking import mask, mask_value, passwords_in
from hmacfs.sessions import open_session_store as opening
from hmacfs.telemetry.logs import JsonFormatter, TextFormatter

PASSWORD = "Xy7!kept"
ENCODED = "Xy7%21kept"
#: What people put where an address belongs; a second "@", slashes and blanks are in passwords too.
VALUES: list[Any] = [
    f"postgres://user:{PASSWORD}@db.example.org:5432/hmacfs",
    f"postgres://user:{PASSWORD}@more@db.example.org:5432/hmacfs",
    f"postgres://user:more@{PASSWORD}@db.example.org",
    f"postgres://user:a/{PASSWORD}/b@db.example.org",
    f"postgres://user:a b {PASSWORD}@db.example.org",
    f"postgres://user:{ENCODED}@db.example.org",
    f"postgres%3A%2F%2Fuser%3A{ENCODED}%40db.example.org",
    f"redis://:{PASSWORD}@cache.example.org:6379/0,redis://:{PASSWORD}@other.example.org",
    f"redis+sentinel://cache.example.org/?sentinel_password={PASSWORD}",
    f"rediss://cache.example.org:0/0?password={PASSWORD}&ssl=1",
    f"://{PASSWORD}@",
    f"user:{PASSWORD}@db.example.org:5432",
    f"user:more@{PASSWORD}@db.example.org:5432",
    f"{PASSWORD}@db.example.org",
    f"db.example.org:5432/hmacfs?user=me&password={PASSWORD}",
    f"db.example.org:5432/hmacfs?p%61ssword={PASSWORD}",
    f"host=db.example.org password={PASSWORD} dbname=hmacfs",
    f"host=db.example.org password='a {PASSWORD}' dbname=hmacfs",
]
VALUES += [[value] for value in VALUES[:9]] + [[["x", VALUES[0]]], {"password": PASSWORD}, [{"url": VALUES[1]}]]
HELD = ("kept", "Xy7")


def refusal(tmp_path: Path, settings: dict[str, Any]) -> str:
    """What is said of a configuration, whether it can be used or not."""
    path = tmp_path / "config.toml"
    path.write_text(toml.dumps({"Secret": "0123456789abcdeX!kl", "StoreDir": str(tmp_path / "store"), **settings}))
    try:
        loaded = load(path, {})
        opening.check_settings(loaded)
    except ConfigError as error:
        return str(error)
    return " ".join(warnings(loaded))


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_no_refused_setting_shows_what_may_be_a_password(tmp_path: Path, value: object) -> None:
    more = {"FallbackEnabled": True, "FallbackDBUser": "user", "FallbackDBName": "name"}
    for setting in SETTINGS:
        said = refusal(tmp_path, {**more, "UnixSocket": setting.key == "ListenPort", setting.key: value})
        assert not any(word in said for word in HELD), said
    for key in ("FallbackDBHost", "RedisAddr", "MetricsPort"):
        assert key in refusal(tmp_path, {**more, key: value}) or key == "RedisAddr"


@pytest.mark.parametrize("value", VALUES[:18])
def test_a_value_shows_where_it_leads_but_no_password(value: str) -> None:
    found = mask_value(value)
    assert not any(word in found for word in HELD)
    assert shown(value) == repr(found) or len(found) > 58


@pytest.mark.parametrize(
    "text", ["localhost:5432", "redis://cache:6379/0", "/srv/uploads", "https://a.example.org", "60/minute", "50%25"]
)
def test_what_holds_no_password_is_shown_as_it_is(text: str) -> None:
    assert mask_value(text) == mask(text) == text


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f'could not translate "postgres://u:{PASSWORD}@db/x": no name', 'could not translate "postgres://***@db/x": no name'),
        (f"Error connecting to redis://:{PASSWORD}@cache:6379.", "Error connecting to redis://***@cache:6379."),
        (f"invalid dsn: host=db password={PASSWORD} port=1", "invalid dsn: host=db password=*** port=1"),
        (f"invalid dsn: password='a b {PASSWORD}'", "invalid dsn: password=***"),
        (f"host name u:{PASSWORD}@db.example.org", "host name ***@db.example.org"),
        ("Error 111 connecting to 127.0.0.1:6379. Refused.", "Error 111 connecting to 127.0.0.1:6379. Refused."),
        ("the address of a@example.org: 5", "the address of a@example.org: 5"),
        ("was told: sesame and more, and so on", "was told: ***, and so on"),
    ],
)  # fmt: skip
def test_messages_of_drivers(message: str, expected: str) -> None:
    assert mask(message, ["sesame and more"]) == expected


def test_the_passwords_of_a_url_are_known() -> None:
    assert passwords_in(f"redis://user:{ENCODED}@cache/0?sentinel_password=other") == [ENCODED, PASSWORD, "other"]
    assert passwords_in("redis://[") == []


@pytest.mark.parametrize("form", [TextFormatter, JsonFormatter])
def test_no_line_of_the_log_shows_a_password(form: type[TextFormatter]) -> None:
    try:
        raise ValueError(f"it was {PASSWORD}")
    except ValueError as error:
        trouble = (type(error), error, error.__traceback__)
    record = logging.LogRecord("hmacfs", logging.WARNING, __file__, 1, "url %s", (VALUES[0],), trouble)
    line = form([PASSWORD]).format(record)
    assert "db.example.org" in line
    assert not any(word in line for word in HELD)


def test_a_driver_that_repeats_the_password_is_not_heard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    values = {"RedisAddr": f"redis://:{ENCODED}@cache", "Secret": "0123456789abcdeX!kl", "StoreDir": str(tmp_path)}
    path.write_text(toml.dumps(values))
    monkeypatch.setattr(opening, "_redis_problem", lambda _: f"AUTH {PASSWORD} failed")
    assert list(opening.unreachable(load(path, {}))) == ["Redis does not serve: AUTH *** failed"]


@pytest.mark.parametrize(
    "secret",
    ["a-horse-is-a-horse-even-is-a-jet", "changeme", "Change_Me!", "secret", "stronghmacsecret", "your-secret-key-here",
     "your_hmac_secret_of_32_bytes_....", "put the Secret here", "the old one", "supersecret1234567890", "PASSWORD", "12password34",
     "replace-me-with-something-long", "<placeholder>", "your_db_password", "insert_secret_here"],
)  # fmt: skip
def test_what_everybody_knows_is_a_placeholder(secret: str) -> None:
    assert is_placeholder(secret)


@pytest.mark.parametrize(
    "secret", ["aaaaaaaaaaaaaaaa", "1234567890123456", "abcabcabcabcabcabc", "0123456789abcdef", "fedcba9876543210"]
)
def test_what_foretells_itself_can_be_guessed(secret: str) -> None:
    assert can_be_guessed(secret)


@pytest.mark.parametrize(
    "secret",
    ["correct horse battery staple", "dGhpcyBpcyBub3QgYSB0ZXN0", "9f86d081884c7d659a2feaa0c55ad015", "zK8!rq#Lm2@vX5$t",
     "secretary of the treasury, 1789", "4711-0815-2342-1138-0007"],
)  # fmt: skip
def test_a_secret_is_a_secret(secret: str) -> None:
    assert not is_placeholder(secret)
    assert not can_be_guessed(secret)


def test_check_and_the_start_warn_of_weak_secrets_and_go_on(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    secrets = {"Secret": "stronghmacsecret", "PreviousSecrets": ["aaaaaaaaaaaaaaaaaaaa"], "RedisPassword": "changeme"}
    path.write_text(toml.dumps({**secrets, "StoreDir": str(tmp_path / "store")}))
    run = [sys.executable, "-m", "hmacfs", "-check", "-config", str(path)]
    checked = subprocess.run(run, check=True, capture_output=True, text=True)
    assert checked.stdout.count("openssl rand") == 2
    assert re.search("PreviousSecrets: .*: take it out", checked.stdout)
    for key in secrets:
        assert f"{key}: " in checked.stdout
    assert not any(str(value) in checked.stdout for value in ("stronghmacsecret", "aaaaaaa", "changeme"))


def test_a_refused_setting_is_masked_once_more() -> None:
    assert "kept" not in str(ConfigError(f"RedisAddr: redis://:{PASSWORD}@cache: is not understood"))
