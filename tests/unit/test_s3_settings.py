"""The settings of an object store: what they need, default to and exclude. Nothing here connects to one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest
import toml

from hmacfs.config import (
    SETTINGS,
    ConditionalWrites,
    DownloadOffload,
    Settings,
    Storage,
    check_paths,
    check_private_paths,
    exposed_to_others,
    inaccessible_files,
    load,
    make_folders,
    notes,
    warnings,
)
from hmacfs.errors import ConfigError
from hmacfs.server.preflight import check_changes, check_state_stays
from hmacfs.sessions.open_session_store import forgotten_sessions, sessions_to_move
from hmacfs.stores import object_store_settings
from hmacfs.stores.object_store_settings import check_settings
from hmacfs.stores.prepare_file_store import foreseen_remarks, prepare_file_store
from hmacfs.stores.s3 import spool
from hmacfs.system import anonymous_files
from hmacfs.system.threads import FileCalls, ThreadOffload

SECRET = "0123456789abcdef-secret"
KEY = "9c8bW-of-the-engine"


def settings(tmp_path: Path, environ: dict[str, str] | None = None, /, **values: Any) -> Settings:
    """``None``: not given."""
    document = {
        "Secret": SECRET,
        "Storage": "s3",
        "S3Endpoint": "http://127.0.0.1:1",
        "S3Bucket": "files",
        "StateDir": str(tmp_path / "state"),
        "RuntimeDir": str(tmp_path / "run"),
        **values,
    }
    path = tmp_path / "config.toml"
    path.write_text(toml.dumps({key: value for key, value in document.items() if value is not None}))
    return load(path, environ or {})


def test_what_is_given_by_default(tmp_path: Path) -> None:
    loaded = settings(tmp_path)
    assert loaded.storage is Storage.S3
    assert (loaded.store_dir, loaded.reserved_folder, loaded.runtime_folders) == (None, None, None)
    assert (loaded.s3_prefix, loaded.s3_region, loaded.s3_access_key) == ("", "us-east-1", "")
    assert (loaded.s3_secret_key, loaded.s3_session_token, loaded.s3_ca_file) == (None, None, None)
    assert (loaded.s3_part_size, loaded.s3_timeout) == (8 * 2**20, 30.0)
    assert loaded.s3_conditional_writes is ConditionalWrites.AUTO
    assert loaded.s3_spool_dir == tmp_path / "state" / "spool"


def test_sessions_that_no_other_machine_knows_are_told_of_and_deserve_no_warning(tmp_path: Path) -> None:
    """One machine alone is well served like that, and nobody can tell from its settings that there are others."""
    assert warnings(settings(tmp_path)) == []
    (note,) = notes(settings(tmp_path))
    assert note.startswith(f"{tmp_path}/config.toml: S3Bucket: unfinished uploads, their locks and claims of names")
    for shared in (
        {"RedisAddr": "redis.example:6379"},
        {"FallbackEnabled": True, "FallbackDBType": "postgres", "FallbackDBUser": "a", "FallbackDBName": "b"},
    ):
        assert notes(settings(tmp_path, **shared)) == []


def test_the_bucket_is_in_the_path_for_an_engine_of_ones_own(tmp_path: Path) -> None:
    assert settings(tmp_path).s3_path_style
    assert not settings(tmp_path, S3Endpoint=None).s3_path_style
    assert not settings(tmp_path, S3PathStyle=False).s3_path_style
    assert settings(tmp_path, {"HMACFS_S3_PATH_STYLE": "true"}, S3Endpoint=None).s3_path_style


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("S3Endpoint", "https://s3.example.org/", "https://s3.example.org"), ("S3Endpoint", "http://[::1]:9000", "http://[::1]:9000"),
        ("S3Prefix", "/a/b/", "a/b/"), ("S3Prefix", "a", "a/"), ("S3Prefix", "/", ""), ("S3Prefix", "\u00fc \u2603", "\u00fc \u2603/"),
        ("S3PartSize", "5MB", 5 * 2**20), ("S3PartSize", "5GB", 5 * 2**30), ("S3Timeout", "500ms", 0.5),
        ("S3ConditionalWrites", "Off", ConditionalWrites.OFF), ("DownloadOffload", "redirect", DownloadOffload.REDIRECT),
    ],
)  # fmt: skip
def test_values(tmp_path: Path, key: str, value: object, expected: object) -> None:
    (field,) = (setting.field for setting in SETTINGS if setting.key == key)
    assert getattr(settings(tmp_path, **{key: value}), field) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"Storage": "s4"}, ["Storage", '"local" or "s3"']),
        ({"S3Bucket": None}, ["S3Bucket", 'is needed with Storage = "s3"']), ({"S3Bucket": "a/b"}, ["S3Bucket", "a bucket's name"]),
        ({"StateDir": None}, ["StateDir", 'is needed with Storage = "s3"']), ({"RuntimeDir": None}, ["RuntimeDir", 'is needed with Storage = "s3"']),
        ({"S3Endpoint": "s3.example.org"}, ["S3Endpoint", "https://"]), ({"S3Endpoint": "https://s3.example.org/path"}, ["S3Endpoint", "without a path"]),
        ({"S3Endpoint": "https://me@s3.example.org"}, ["S3Endpoint"]), ({"S3Endpoint": "https://a:b:c"}, ["S3Endpoint"]),
        ({"S3Prefix": "a//b"}, ["S3Prefix", "a path"]), ({"S3Prefix": "a/../b"}, ["S3Prefix"]), ({"S3Prefix": "a/.hmacfs"}, ["S3Prefix"]),
        ({"S3Prefix": "\u00fc" * 129}, ["S3Prefix", "256 bytes"]), ({"S3Prefix": "a\u200b"}, ["S3Prefix"]),
        ({"S3Region": "eu west"}, ["S3Region", "without spaces"]),
        ({"S3AccessKey": "id"}, ["S3SecretKey", "is needed with S3AccessKey"]), ({"S3SecretKey": KEY}, ["S3AccessKey", "is needed with S3SecretKey"]),
        ({"S3SessionToken": KEY}, ["S3AccessKey", "is needed with S3SessionToken"]),
        ({"S3PartSize": "4MB"}, ["S3PartSize", "5242880"]), ({"S3PartSize": "6GB"}, ["S3PartSize", "5368709120"]),
        ({"S3Timeout": 0}, ["S3Timeout"]), ({"S3ConditionalWrites": True}, ["S3ConditionalWrites", '"auto" or "on" or "off"']),
        ({"S3CAFile": "/x"}, ["S3CAFile", "https"]), ({"UploadMaxSize": "6TB"}, ["UploadMaxSize", "5 TB"]),
        ({"Storage": "local"}, ["StoreDir is missing", "HMACFS_STORE_DIR"]),
        ({"Storage": "local", "StoreDir": "/x", "DownloadOffload": "redirect"}, ["DownloadOffload", 'Storage = "s3"']),
    ],
)  # fmt: skip
def test_what_is_refused_and_how(tmp_path: Path, values: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, **values)
    assert all(word in str(refused.value) for word in words), refused.value
    assert KEY not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_secrets_come_from_anywhere_and_never_show(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    for environ, values in (
        ({}, {"S3SecretKey": KEY}),
        ({"HMACFS_S3_SECRET_KEY": KEY}, {}),
        ({"HMACFS_S3_SECRET_KEY_FILE": str(tmp_path / "key")}, {}),
    ):
        loaded = settings(tmp_path, environ, S3AccessKey="id", S3SessionToken="token-of-a-while", **values)
        assert loaded.s3_secret_key is not None
        assert loaded.s3_session_token is not None
        assert loaded.s3_secret_key.reveal() == KEY.encode()
        assert {KEY, "token-of-a-while"} <= set(loaded.hidden)
        assert KEY not in repr(loaded)
        assert "token-of-a-while" not in repr(loaded)


def test_a_store_dir_that_containers_are_given_does_no_harm(tmp_path: Path) -> None:
    loaded = settings(tmp_path, {"HMACFS_STORE_DIR": "/proc/none"})
    assert loaded.store_dir is None
    check_paths(loaded)
    assert warnings(loaded) == []


def test_settings_of_an_object_store_without_one_are_told_of(tmp_path: Path) -> None:
    environ = {"HMACFS_S3_REGION": "us-east-1"}
    loaded = settings(tmp_path, environ, Storage=None, StoreDir=str(tmp_path / "store"), S3PartSize="8MB")
    path = tmp_path / "config.toml"
    assert warnings(loaded) == [
        f'{where}: has no effect without Storage = "s3"'
        for where in (f"{path}: S3Endpoint", f"{path}: S3Bucket", "HMACFS_S3_REGION", f"{path}: S3PartSize")
    ]


def test_the_folders_that_there_are(tmp_path: Path) -> None:
    loaded = settings(tmp_path, S3SpoolDir=str(tmp_path / "spool" / "of-ours"))
    check_paths(loaded)
    check_private_paths(loaded, tmp_path / "config.toml", {})
    assert not (tmp_path / "spool").exists()
    make_folders(loaded)
    assert prepare_file_store(loaded) == (0, ())
    check_paths(loaded)
    for folder in (loaded.state_dir, loaded.runtime_dir, loaded.s3_spool_dir):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert list(foreseen_remarks(loaded)) == []
    assert list(inaccessible_files(loaded)) == []
    assert [*forgotten_sessions(loaded), *sessions_to_move(loaded)] == []
    assert loaded.has_own_state_dir


def test_the_spool_is_made_where_the_state_is(tmp_path: Path) -> None:
    loaded = settings(tmp_path)
    prepare_file_store(loaded)
    assert loaded.s3_spool_dir.stat().st_mode & 0o777 == 0o700


def test_a_spool_without_anonymous_files_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path) -> NoReturn:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    loaded = settings(tmp_path)
    for module in (anonymous_files, spool):
        monkeypatch.setattr(module, "open_anonymous", refuse)
    remark = "the spool's file system has no anonymous files: a server that is killed may leave empty ones there"
    assert list(foreseen_remarks(loaded)) == [remark]
    assert not loaded.s3_spool_dir.exists()
    assert prepare_file_store(loaded) == (0, (remark,))
    with spool.Spool(loaded.s3_spool_dir, FileCalls(ThreadOffload(1))).new() as file:
        file.write(memoryview(b"data"))
    assert [*loaded.s3_spool_dir.iterdir()] == []


@pytest.mark.parametrize("key", ["StateDir", "RuntimeDir", "S3SpoolDir"])
def test_folders_that_cannot_be_used(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"config.toml: {key}: /proc/none cannot be written: "):
        check_paths(settings(tmp_path, **{key: "/proc/none"}))
    with pytest.raises(ConfigError, match=f"config.toml: {key}: "):
        make_folders(settings(tmp_path, **{key: "/proc/none"}))


def test_a_spool_that_cannot_be_made_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.toml: S3SpoolDir: /proc/none cannot be used: "):
        prepare_file_store(settings(tmp_path, S3SpoolDir="/proc/none"))


def test_certificates_that_cannot_be_read(tmp_path: Path) -> None:
    loaded = settings(tmp_path, S3Endpoint="https://s3.example.org", S3CAFile=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=f"config.toml: S3CAFile: {tmp_path}/none.pem cannot be read: "):
        check_paths(loaded)
    (tmp_path / "none.pem").touch()
    check_paths(loaded)


def test_what_is_missing_is_told_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = settings(tmp_path)
    check_settings(loaded)
    monkeypatch.setattr(object_store_settings, "find_spec", lambda _name: None)
    check_settings(settings(tmp_path, Storage="local", StoreDir="/srv/files"))
    with pytest.raises(ConfigError, match=r"config.toml: Storage: .*pip install 'hmac-file-server\[s3\]'"):
        check_settings(loaded)


def test_no_bucket_can_stand_before_an_address(tmp_path: Path) -> None:
    loaded = settings(tmp_path, S3Endpoint="https://192.0.2.1", S3PathStyle=False)
    with pytest.raises(ConfigError, match=r"config.toml: S3Endpoint: .*S3PathStyle = true"):
        check_settings(loaded)


def test_the_state_is_lost_in_the_runtime_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which a reboot may empty"):
        check_private_paths(settings(tmp_path, StateDir=str(tmp_path / "run" / "state")), None, {})


def test_who_else_may_look_at_what_is_on_its_way(tmp_path: Path) -> None:
    loaded = settings(tmp_path, S3SpoolDir="/dev/shm")
    config = tmp_path / "config.toml"
    assert any(
        remark.startswith("/dev/shm can be changed by every user") for remark in exposed_to_others(loaded, config, {})
    )


def test_a_reload_to_another_bucket_may_bring_another_state(tmp_path: Path) -> None:
    running = settings(tmp_path)
    with pytest.raises(ConfigError, match=r"StateDir: .* needs a restart"):
        check_state_stays(running, settings(tmp_path, StateDir=str(tmp_path / "other")))
    elsewhere = settings(tmp_path, S3Bucket="others", StateDir=str(tmp_path / "other"))
    check_state_stays(running, elsewhere)
    check_changes(running, elsewhere)
    assert (tmp_path / "other" / "spool").is_dir()


def test_where_the_files_are_is_told_in_words(tmp_path: Path) -> None:
    assert settings(tmp_path, S3Prefix="a").store_address == "s3://files/a/ at http://127.0.0.1:1"
    assert settings(tmp_path, S3Endpoint=None, S3Region="eu-1").store_address == "s3://files/ at Amazon, eu-1"
    local = settings(tmp_path, Storage="local", StoreDir="/srv/files", S3Endpoint=None, S3Bucket=None)
    assert local.store_address == os.fspath("/srv/files")
