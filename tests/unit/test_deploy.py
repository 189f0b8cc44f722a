"""The files of ``deploy/`` by themselves and with one another."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import hmacfs
from hmacfs.cli import main
from hmacfs.config import SETTINGS, TcpAddress, UnixAddress, load
from hmacfs.protocol.media_types import BY_EXTENSION, type_by_name
from hmacfs.stores.s3 import objects
from tests.servers import require_binary

DEPLOY = Path(__file__).parents[2] / "deploy"


def read(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def test_the_configuration_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = read("config.toml")
    for folder in ("/run", "/var/lib", "/var/log"):
        text = text.replace(f'"{folder}/hmac-file-server', f'"{tmp_path}{folder}')
        (tmp_path / folder.lstrip("/")).mkdir(parents=True)
    (tmp_path / "config.toml").write_text(text)
    (tmp_path / "secret").write_text("of sixteen bytes\n")
    monkeypatch.setenv("HMACFS_SECRET_FILE", str(tmp_path / "secret"))
    assert main(["-config", str(tmp_path / "config.toml"), "-check"]) == 0


def test_what_it_leaves_commented_out_is_good_too(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=[A-Z]\w+ = )", "", read("config.toml"), flags=re.MULTILINE)
    text = text.replace('["the old one"]', '["the old one, of 25 bytes"]')
    (tmp_path / "config.toml").write_text(text)
    settings = load(tmp_path / "config.toml", {"HMACFS_SECRET": "of sixteen bytes"})
    assert settings.fallback_enabled and settings.redis_addr and settings.download_rate_limit  # noqa: PT018
    assert set(tomllib.loads(text)) <= {setting.key for setting in SETTINGS}


def test_the_files_fit_one_another() -> None:
    settings = load(DEPLOY / "config.toml", {"HMACFS_SECRET": "of sixteen bytes"})
    nginx, unit = read("nginx.conf"), read("hmac-file-server.service")
    assert isinstance(settings.listen, UnixAddress)
    assert f"server unix:{settings.listen.path} " in nginx
    assert f"\nListenStream={settings.listen.path}\n" in read("hmac-file-server.socket")
    assert f"alias {settings.store_dir}/;" in nginx
    assert f"client_body_timeout {settings.read_timeout:.0f}s;" in nginx
    assert f"send_timeout {settings.write_timeout:.0f}s;" in nginx
    for path, directive in [
        (settings.listen.path, "RuntimeDirectory"),
        (settings.runtime_dir, "RuntimeDirectory"),
        (settings.store_dir, "StateDirectory"),
        (settings.log_file, "LogsDirectory"),
    ]:
        assert path is not None
        assert f"\n{directive}={path.parent.name}\n" in unit
        assert f"\nd {path.parent} " in read("hmac-file-server.tmpfiles")
    assert settings.log_file is not None
    assert f"{settings.log_file.parent}/*.log" in read("hmac-file-server.logrotate")
    assert isinstance(settings.metrics_port, TcpAddress)


def test_nginx_names_the_charset_of_the_same_types() -> None:
    (listed,) = re.findall(r"charset_types ([^;]*);", read("nginx.conf"))
    served = {one for extension, one in BY_EXTENSION.items() if type_by_name(f"x.{extension}").endswith("=utf-8")}
    assert listed.split() == sorted(served)


@pytest.mark.parametrize("name", ["metronome.cfg.lua", "prosody.cfg.lua"])
def test_what_xmpp_servers_read_is_lua(name: str) -> None:
    """All that can be tried of Metronome's, of which Debian has no package."""
    subprocess.run([require_binary("luac"), "-p", DEPLOY / name], check=True)


@pytest.mark.parametrize("file", ["nginx.conf", "compose/nginx.conf", "haproxy.cfg", "compose/haproxy.cfg"])
def test_a_proxy_that_names_the_client_takes_the_clients_own_word_away(file: str) -> None:
    lines = [line.split() for line in (DEPLOY / file).read_text(encoding="utf-8").splitlines()]
    named = [
        line for line in lines if line[-2:] in (["X-Forwarded-For", "$remote_addr;"], ["X-Forwarded-For", "%[src]"])
    ]
    deleted = [line for line in lines if line[-2:] in (["Forwarded", '"";'], ["del-header", "Forwarded"])]
    assert len(named) == len(deleted) > 0


@pytest.mark.parametrize("file", ["nginx.conf", "compose/nginx.conf"])
def test_nginx_logs_in_its_own_format_and_what_belongs_to_a_request_nowhere_else(file: str) -> None:
    text = read(file)
    assert re.findall(r"^ +access_log (.*);$", text, re.MULTILINE) == ["/var/log/nginx/access.log hmac_file_server"]
    assert re.findall(r"^ +error_log (.*);$", text, re.MULTILINE) == ["/var/log/nginx/error.log emerg"]
    (form,) = re.findall(r"^log_format hmac_file_server ([^;]*);$", text, re.MULTILINE)
    assert not set(re.findall(r"\$(\w+)", form)) & {
        "request",
        "request_uri",
        "uri",
        "args",
        "query_string",
        "http_referer",
    }


def test_nginx_hides_all_that_is_kept_with_an_object() -> None:
    kept = {value for name, value in vars(objects).items() if name.startswith("_") and str(value).startswith("hmacfs-")}
    assert len(kept) > 5
    assert kept <= set(re.findall(r"proxy_hide_header x-amz-meta-([\w-]+);", read("nginx.conf")))


def test_no_core_dump_is_left_and_no_log_fills_the_disk() -> None:
    assert "\nLimitCORE=0\n" in read("hmac-file-server.service")
    assert re.search(r"^ +maxsize \d+M$", read("hmac-file-server.logrotate"), re.MULTILINE)


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (DEPLOY.parent / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == hmacfs.__version__
    assert len(set(headings)) == len(headings)
