"""What one slot is good for, whatever is tried with it: attacks on upload sessions (docs/protocol.md, section 6)."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hmacfs.protocol.keyring import Keyring
from hmacfs.protocol.signing import encode_bearer
from tests.live.client import Answer, Client, get, request
from tests.live.pieces import (
    BODY,
    DIALECTS,
    PIECE_TYPE,
    TUS,
    NumberedUpload,
    RangeUpload,
    TusUpload,
    Upload,
    begun,
    create,
    numbered,
    partial_file,
    partial_files,
    patch,
)
from tests.servers import wait_until
from tests.servers.hmacfs import FAR_FUTURE, HmacFileServer
from tests.servers.redis import RedisServer

StartServer = Callable[..., HmacFileServer]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HmacFileServer]:
    with HmacFileServer(tmp_path_factory.mktemp("server"), Workers=2, UploadMaxSize="64MB") as running:
        yield running
        running.stop()
        assert running.complaints() == []
        assert running.leftovers() == []


def bearer(server: HmacFileServer, name: str, size: int, filetype: object = "image/png") -> str:
    slot, _, filename = name.partition("/")
    claims = {"slot": slot, "filename": filename, "filesize": size, "filetype": filetype, "exp": FAR_FUTURE}
    return "Bearer " + encode_bearer(server.keyring, claims)


# -- numbered chunks that do not tell the file's size ---------------------------------------------


def test_a_slot_is_not_good_for_fifty_chunks_of_its_size(server: HmacFileServer) -> None:
    name, body = "unsized/a.bin", os.urandom(1000)
    for number in range(1, 51):
        refused = numbered(server, name, body, number, 50)
        assert refused.status == 400
        assert b"X-File-Size" in refused.body
    assert partial_files(server) == []
    assert get(server, name).status == 404


@pytest.mark.parametrize("scheme", ["v2", "v3", "bearer"])
def test_no_scheme_takes_chunks_of_an_unknown_whole(server: HmacFileServer, scheme: str) -> None:
    name, headers = f"unsized-{scheme}/a.bin", {}
    if scheme == "bearer":
        headers["authorization"] = bearer(server, name, 5)
    target = {
        "v2": server.sign_v2(name, 5, "image/png"),
        "v3": server.sign_v3("PUT", name),
        "bearer": server.path(name),
    }[scheme]
    for number in (1, 2):
        refused = request(server, "PUT", target, b"12345", x_chunk_id=number, x_total_chunks=2, **headers)
        assert refused.status == 400
    assert partial_files(server) == []


def test_a_bearer_token_never_takes_chunks_of_an_unknown_whole(start_server: StartServer) -> None:
    """Prosody counts its size as a quota."""
    server = start_server(AcceptUnsizedChunks=True)
    headers = {"authorization": bearer(server, "slot/a.bin", 5), "x_chunk_id": 1, "x_total_chunks": 50}
    refused = request(server, "PUT", server.path("slot/a.bin"), b"12345", **headers)
    assert (refused.status, b"X-File-Size" in refused.body) == (400, True)
    assert partial_files(server) == []
    assert request(server, "PUT", server.path("slot/a.bin"), b"12345", x_file_size=5, **headers).status == 201
    assert numbered(server, "signed/a.bin", b"12345", 1, 2).status == 202


# -- the type that a signature gives the file -----------------------------------------------------


@pytest.mark.parametrize("filetype", ["", " ", None, 7])
def test_a_bearer_token_without_a_type_does_not_leave_it_to_the_put(server: HmacFileServer, filetype: object) -> None:
    name = f"type-{filetype!r}/page.html"
    token = bearer(server, name, 5, filetype)
    stored = request(server, "PUT", server.path(name), b"<b>xy", content_type="image/svg+xml", authorization=token)
    assert stored.status == 201
    assert get(server, name).headers["Content-Type"] == "application/octet-stream"


# -- uploads of one path --------------------------------------------------------------------------

SIZE = 400_000


def flood(server: HmacFileServer, name: str, count: int, forwarded_for: Callable[[int], str | None]) -> list[Answer]:
    """Creations with one slot from many connections at once, each with three quarters of the file."""

    def one(number: int) -> Answer:
        begin = BODY * 3
        headers = {"content_type": PIECE_TYPE, "x_forwarded_for": forwarded_for(number)}
        return create(server, name, SIZE, begin, **headers)

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(one, range(count)))


@pytest.fixture(params=["sqlite", "redis"])
def session_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, object]]:
    """The settings of where sessions are remembered."""
    if request.param == "sqlite":
        yield {}
    else:
        with RedisServer(tmp_path / "redis") as redis:
            yield {"RedisAddr": redis.address}


@pytest.mark.parametrize("networks", [1, 100])
def test_one_slot_makes_three_uploads_at_most(
    start_server: StartServer, session_store: dict[str, object], networks: int
) -> None:
    server = start_server(Workers=2, TrustedProxies=["127.0.0.1"], **session_store)
    resting = begun(TusUpload, server, "neighbour/a.bin")
    answers = flood(server, "slot/film.bin", 100, lambda number: f"2001:db8:{number % networks:x}::1")
    assert {answer.status for answer in answers} <= {201, 404, 409, 410, 429}
    assert sum(answer.status == 201 for answer in answers) >= 3
    files = partial_files(server)
    assert 2 <= len(files) <= 4, "of those that began at one moment more than needed may have ended"
    assert sum(path.stat().st_size for path in files) <= 3 * SIZE + len(BODY)
    # Its neighbours, and itself with other slots, go on.
    for number in range(20):
        upload = begun(TusUpload, server, f"neighbour/{number}")
        assert upload.send(40_000).status == 204
    assert resting.send(40_000).status == 204
    # The last one can be completed.
    last = create(server, "slot/film.bin", SIZE)
    assert last.status == 201
    assert patch(server, last.headers["Location"], 0, BODY * 4).status == 204
    assert get(server, "slot/film.bin").body == BODY * 4
    assert server.complaints() == []


def test_what_a_further_creation_ends_was_silent_longest(start_server: StartServer) -> None:
    server = start_server(MaxSessionsPerPath=2)
    slot = begun(RangeUpload, server, "a/b")
    uploads = [begun(TusUpload, server, "a/b")]
    for upload, age in ((slot, 20), (uploads[0], 10)):  # the kernel's clock for files is a coarse one
        path = partial_file(server, upload.token)
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    assert slot.send(40_000).status == 202
    uploads.append(begun(TusUpload, server, "a/b"))
    assert [upload.probe().status for upload in (slot, *uploads)] == [200, 410, 200]
    assert uploads[0].send(40_000).status == 410
    assert slot.send(80_000).status == 201
    assert uploads[1].send(40_000).status == 409  # the name is another's now
    assert server.complaints() == []


def test_a_connection_that_writes_is_ended_with_its_upload(start_server: StartServer) -> None:
    server = start_server(MaxSessionsPerPath=1, Workers=2)
    first = begun(TusUpload, server, "a/b")

    with Client(server) as client:
        client.head("PATCH", first.url, content_length=60_000, upload_offset=40_000, content_type=PIECE_TYPE, **TUS)
        client.send(BODY[40_000:41_000])
        path = partial_file(server, first.token)
        wait_until(lambda: path.stat().st_size == 41_000)
        second = begun(TusUpload, server, "a/b")
        assert client.answer().status == 409
    assert first.probe().status == 410
    assert not path.exists()
    assert second.send(40_000).status == 204


# -- uploads of one client ------------------------------------------------------------------------


def open_slots(server: HmacFileServer, names: list[str], **headers: object) -> list[int]:
    """Begin an upload with each slot: the answers."""
    statuses = []
    for name in names:
        target = server.path(name) if "authorization" in headers else server.sign_v(name, 10)
        sent = {key: value(name) if callable(value) else value for key, value in headers.items()}
        sent |= {"content_range": "bytes 0-4/10"}
        statuses.append(request(server, "PUT", target, b"12345", **sent).status)
    return statuses


def test_a_users_share_is_no_neighbours(start_server: StartServer) -> None:
    """Behind one address, with signatures that name the user: bearer tokens and ejabberd's slots."""
    server = start_server(MaxSessionsPerClient=3)

    def of(sub: str) -> Callable[[str], str]:
        def authorization(name: str) -> str:
            slot, _, filename = name.partition("/")
            claims = {"slot": slot, "filename": filename, "filesize": 10, "exp": FAR_FUTURE, "sub": sub}
            return "Bearer " + encode_bearer(server.keyring, claims)

        return authorization

    allowed, refused = [202, 202, 202], [202, 202, 202, 429]
    for user in ("romeo", "juliet"):
        names = [f"{user}-{number}/a.bin" for number in range(4)]
        assert open_slots(server, names, authorization=of(f"{user}@example.org")) == refused
        names = [f"{user:a<40}/{number:b>40}/a.bin" for number in range(4)]
        assert open_slots(server, names) == refused
    assert open_slots(server, [f"by-address/{number}" for number in range(3)]) == allowed
    assert server.complaints() == []


def test_hopping_over_networks_does_not_multiply_a_clients_share(start_server: StartServer) -> None:
    server = start_server(MaxSessionsPerClient=2, TrustedProxies=["127.0.0.1"])

    def begin(number: int, address: str) -> int:
        (status,) = open_slots(server, [f"slot-{number}/a.bin"], x_forwarded_for=address)
        return status

    assert {begin(number, f"2001:db8:0:{number}::1") for number in range(8)} == {202}
    assert {begin(number, f"2001:db8:0:{number}::1") for number in range(8, 20)} == {429}
    assert begin(20, "2001:db8:1::1") == begin(21, "192.0.2.1") == 202


# -- how long an upload lives ---------------------------------------------------------------------


def test_a_byte_now_and_then_does_not_keep_an_upload_for_ever(start_server: StartServer) -> None:
    server = start_server(SessionTTL="500ms", SweepInterval="200ms")
    upload = begun(TusUpload, server, "a/b", 1)
    last = [upload.send(1)]

    def has_ended() -> bool:
        last.append(upload.send(len(last) + 1))
        return last[-1].status != 204

    wait_until(has_ended, what="the upload's end")
    assert last[-1].status in (404, 410)
    wait_until(lambda: partial_files(server) == [], what="a sweep")
    assert server.complaints() == []


# -- what is kept opens nothing -------------------------------------------------------------------


def kept_by(server: HmacFileServer) -> bytes:
    """All that can be read in the reserved folder, its names included."""
    folder = server.store / ".hmacfs"
    paths = [path for path in folder.rglob("*") if path.is_file()]
    parts = [path.name.encode() for path in paths]
    return b"\n".join(parts + [path.read_bytes() for path in paths if path.parent.name != "partial"])


def check_that_nothing_opens(server: HmacFileServer, kept: bytes, uploads: list[Upload]) -> None:
    """Neither the tokens are in it, nor anything else that is taken for one."""
    for upload in uploads:
        assert upload.token.encode() not in kept
        assert upload.token[1:].encode() not in kept
    words = {word.decode() for word in re.findall(rb"[A-Za-z0-9_-]{32,64}", kept)}
    keys = {partial_file(server, upload.token).name for upload in uploads}
    assert keys <= words, "what is looked at is what is kept"
    for word in sorted(words | {f"s{word[:43]}" for word in keys} | {word[:43] for word in keys}):
        url = f"{server.prefix}.hmacfs/tus/{word}"
        answers = [
            request(server, "HEAD", url, **TUS),
            request(server, "GET", url),
            patch(server, url, 40_000, b"evil"),
            request(server, "DELETE", url, **TUS),
            *(request(server, "HEAD", server.path(upload.name), x_session_token=word) for upload in uploads),
        ]
        assert {answer.status for answer in answers} == {404}
    for upload in uploads:
        assert upload.send(40_000).status in (202, 204)


def test_who_reads_the_session_database_takes_no_upload_over(start_server: StartServer) -> None:
    server = start_server(Workers=2)
    uploads = [begun(kind, server, f"a/{kind.dialect}") for kind in DIALECTS]
    check_that_nothing_opens(server, kept_by(server), uploads)
    done = [begun(kind, server, f"b/{kind.dialect}", 60_000) for kind in DIALECTS]
    for upload in done:
        assert upload.send(60_000).status in (201, 204)
        assert upload.token.encode() not in kept_by(server)
    assert server.complaints() == []


def test_who_reads_redis_takes_no_upload_over(start_server: StartServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis:
        server = start_server(RedisAddr=redis.address)
        uploads = [begun(kind, server, f"a/{kind.dialect}") for kind in DIALECTS]
        parts: list[bytes] = []
        with redis.client() as client:
            for key in map(str, client.scan_iter()):
                read: dict[str, Callable[[str], object]] = {
                    "hash": client.hgetall,
                    "set": client.smembers,
                    "string": client.get,
                    "zset": lambda name: client.zrange(name, 0, -1),
                }
                parts += [key.encode(), repr(read[str(client.type(key))](key)).encode()]
        check_that_nothing_opens(server, b"\n".join(parts), uploads)


# -- secrets that change --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DIALECTS)
def test_a_change_of_the_secret_loses_no_upload(start_server: StartServer, kind: type[Upload]) -> None:
    server = start_server()
    upload = begun(kind, server, "a/b", 20_000)
    server.stop()
    server.settings |= {"Secret": "a new secret, longer than 16", "PreviousSecrets": [server.settings["Secret"]]}
    server.start()
    assert upload.send(20_000).status in (202, 204)
    assert upload.probe().headers["Upload-Offset"] == "40000"
    token = upload.token  # the one that it had
    # Once the old secret is given up, a slot is signed again, and its token is known to nobody but its client.
    server.stop()
    del server.settings["PreviousSecrets"]
    server.keyring = Keyring([str(server.settings["Secret"]).encode()])
    server.start()
    if not isinstance(upload, TusUpload):
        assert upload.send(40_000).status == 403
        upload.url = server.sign_v("a/b", len(BODY))
        upload.tokens.clear()
    assert upload.send(40_000).status in (202, 204)
    assert upload.tokens <= {token}
    if not isinstance(upload, TusUpload):
        assert upload.tokens == set()
        probe = request(server, "HEAD", server.path("a/b"), x_session_token=token)
        assert (probe.status, probe.headers["Upload-Offset"]) == (200, "60000")
    for offset in (60_000, 80_000):
        answer = upload.send(offset)
    assert answer.status in (201, 204)
    assert get(server, "a/b").body == BODY


# -- uploads of the first release -----------------------------------------------------------------


def as_in_the_first_release(server: HmacFileServer, upload: Upload) -> str:
    """What is kept of an upload as 1.0.0 kept it, the token for a key; that token."""
    file = partial_file(server, upload.token)
    token = f"AbC-_{upload.dialect}".ljust(43, "x")
    file.rename(file.with_name(token))
    database = sqlite3.connect(server.store / ".hmacfs" / "sessions.sqlite3")
    with database:
        ((text,),) = database.execute("SELECT record FROM hmacfs_sessions WHERE token = ?", (file.name,))
        record = json.loads(text)
        for name in ("nonce", "site", "etag", "chunk_count"):
            del record[name]
        changes = (token, json.dumps({**record, "token": token}), file.name)
        database.execute(
            "UPDATE hmacfs_sessions SET token = ?, record = ?, path_digest = NULL, open_site = NULL WHERE token = ?",
            changes,
        )
    database.close()
    upload.tokens = {token}
    if isinstance(upload, TusUpload):
        upload.url = f"{server.prefix}.hmacfs/tus/{token}"
    return token


def test_unfinished_uploads_of_the_first_release_go_on(start_server: StartServer) -> None:
    server = start_server()
    uploads = [begun(kind, server, f"a/{kind.dialect}") for kind in DIALECTS]
    server.stop()
    tokens = [as_in_the_first_release(server, upload) for upload in uploads]
    server.start()
    for upload, token in zip(uploads, tokens, strict=True):
        assert upload.probe().headers["Upload-Offset"] == "40000"
        assert upload.token == token
        assert [upload.send(offset).status for offset in (40_000, 80_000)] in ([202, 201], [204, 204])
        assert upload.stored().read_bytes() == BODY
    assert partial_files(server) == []
    assert server.complaints() == []


def test_unfinished_uploads_of_the_first_release_expire(start_server: StartServer) -> None:
    server = start_server(SessionTTL="3s", SweepInterval="1h")
    uploads = [begun(kind, server, f"a/{kind.dialect}") for kind in DIALECTS]
    server.stop()
    for upload in uploads:
        as_in_the_first_release(server, upload)
    server.start()
    wait_until(lambda: all(upload.probe().status in (404, 410) for upload in uploads))
    assert server.sweep() in ("removed 3 expired uploads and 0 orphans\n", "removed 0 expired uploads and 0 orphans\n")
    assert partial_files(server) == []


# -- who has no right learns nothing --------------------------------------------------------------


def probes(server: HmacFileServer, name: str, size: int) -> Iterator[tuple[str, str, bytes, dict[str, Any]]]:
    """Requests that prove no right to an upload of this name and size."""
    path, junk = server.path(name), "0" * 64
    stranger = Keyring([b"another server's secret"])
    slot, _, filename = name.partition("/")
    claims = {"slot": slot, "filename": filename, "filesize": size, "exp": FAR_FUTURE}
    for query in (
        *("", "?", f"?v={junk}", f"?v2={junk}", f"?token={junk}", "?v=", "?v=%ff", f"?v={junk}&v={junk}"),
        *(f"?v3={junk}&expires={FAR_FUTURE}", f"?v3={junk}", f"?v3={junk}&expires=1", "?junk=1"),
    ):
        for method in ("HEAD", "GET", "OPTIONS", "POST", "PATCH", "DELETE"):
            yield method, path + query, b"", {}
            yield method, path + query, b"", {"upload_length": size, "upload_offset": 0, **TUS}
        yield "PUT", path + query, b"x", {}
        yield "PUT", path + query, b"x", {"content_range": f"bytes 0-0/{size}"}
        yield "PUT", path + query, b"x", {"x_chunk_id": 1, "x_total_chunks": 3, "x_file_size": size}
    others = (server.sign_v(name, size + 1), server.sign_v("other/name", size).replace("/other/name", f"/{name}"))
    for target in (*others, server.sign_v2(name, size, "text/never"), server.sign_v3("DELETE", name)):
        yield "HEAD", target, b"", {}
        yield "PUT", target, b"x", {"content_range": f"bytes 0-0/{size}"}
    for token in ("x", junk, "s" + 43 * "A", 43 * "A", "\xff\xfe", "a b", "," * 5000):
        for method in ("HEAD", "GET", "PUT"):
            yield method, path, b"", {"x_session_token": token}
            yield method, f"{path}?v={junk}", b"", {"x_session_token": token}
    for keyring, changed in ((stranger, {}), (server.keyring, {"exp": 1}), (server.keyring, {"filesize": size + 1})):
        for method in ("HEAD", "GET", "PUT"):
            yield method, path, b"", {"authorization": "Bearer " + encode_bearer(keyring, {**claims, **changed})}
    for word in ("Bearer", "Bearer x", "Bearer a.b.c", "Basic eDp5", "bearer \xff"):
        yield "HEAD", path, b"", {"authorization": word}


@pytest.mark.parametrize("signed", [False, True])
def test_nobody_learns_whether_an_upload_is_open(start_server: StartServer, *, signed: bool) -> None:
    server = start_server(RequireSignedDownloads=signed, AuthFailureRateLimit="")
    kinds: dict[str, type[Upload]] = {"range0": RangeUpload, "number": NumberedUpload, "tus000": TusUpload}
    for name, kind in kinds.items():
        begun(kind, server, f"{name}/a.jpg")

    def answers(name: str) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for method, target, body, headers in probes(server, f"{name}/a.jpg", len(BODY)):
            answer = request(server, method, target, body, **headers)
            told = sorted((key, value) for key, value in answer.headers.items() if key not in ("Date", "X-Request-ID"))
            found.append((method, target.replace(name, "NAME"), headers, answer.status, told, answer.body))
        return found

    unknown = answers("unknow")
    assert {one[3] for one in unknown} <= {200, 204, 400, 401, 403, 404, 405, 410, 411, 412, 413, 415}
    for name in kinds:
        for open_one, unknown_one in zip(answers(name), unknown, strict=True):
            # v3 and bearer signatures of the name differ with it; what is answered does not.
            assert open_one[3:] == unknown_one[3:], (open_one[:3], unknown_one[:3])
    assert server.complaints() == []
