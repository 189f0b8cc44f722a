"""The contract of ``Bucket``, as one suite: real engines pass it through the client, the stand-in in memory by itself.

A module that runs it has a subclass of ``BucketContract`` and fixtures ``bucket`` (an empty one) and ``engine`` (what it
may be expected to do).
"""

from __future__ import annotations

import itertools
import secrets
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from hmacfs.errors import BadName
from hmacfs.protocol.conditions import WHOLE, ByteRange
from hmacfs.stores.s3.bucket import (
    NO_ATTRIBUTES,
    Attributes,
    Bucket,
    ConditionFailed,
    Doubt,
    FileSection,
    InvalidPart,
    NoSuchUpload,
    OutOfRange,
)

#: The least size of a part but the last one.
PART = 5 * 1024 * 1024
ATTRIBUTES = Attributes("text/plain", {"hmacfs-id": "0123456789abcdef", "hmacfs-owner": "me; you=1, 2/3 (x)"})
KEYS = [
    "plain.txt",
    "a folder/with blanks  and two.txt",
    "plus+percent%41&amp;=?#hash;semi:colon@at,comma'quote\"double(star*)[bracket]{brace}|pipe^caret`tick~!$",
    "<xml>&lt;]]>.xml",
    "snow ☃/héllo wörld 🎉/e\u0301.jpg",
    "a\\backslash",
    ".hmacfs/partial/token/c.0.17",
    "..dots../...",
    "x" * 255,
    "/".join(["é" * 100] * 5),
]


class Expected(NamedTuple):
    """What an engine does that others do not. heeds_new: ``If-None-Match: *`` of a PUT. heeds_complete, heeds_delete:
    ``If-Match``. checks_parts: a completion says ``InvalidPart`` for one that is missing or too small. replaces_parts: a part that was sent again is
    listed as it is now. tells_aborted: a completion of an aborted upload says so, and leaves no doubt. is_flat: there can
    be "a" beside "a/b". is_ordered: listings are in the order of the keys' bytes. has_backslash: it is no slash. has_urls:
    of presigned requests."""

    heeds_new: bool = True
    heeds_complete: bool = True
    heeds_delete: bool = True
    checks_parts: bool = True
    replaces_parts: bool = True
    tells_aborted: bool = True
    is_flat: bool = True
    is_ordered: bool = True
    has_backslash: bool = True
    has_urls: bool = True


def content(bucket: Bucket, key: str, wanted: ByteRange = WHOLE, *, etag: str = "") -> bytes | None:
    download = bucket.get(key, wanted, etag=etag)
    if download is None:
        return None
    try:
        pieces = list(download.pieces(64 * 1024))
    finally:
        download.close()
    assert all(0 < len(piece) <= 64 * 1024 for piece in pieces)
    data = b"".join(pieces)
    assert len(data) == download.count
    return data


def all_keys(bucket: Bucket, prefix: str, limit: int) -> list[str]:
    pages = list(bucket.pages(prefix, limit=limit))
    assert all(0 < len(page) <= limit for page in pages)
    return [found.key for page in pages for found in page]


class BucketContract:
    """The suite."""

    # -- objects ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", KEYS, ids=itertools.count())
    def test_a_key_is_any_text(self, bucket: Bucket, engine: Expected, key: str) -> None:
        if "\\" in key and not engine.has_backslash:
            pytest.skip("to this engine a backslash is a slash")
        etag = bucket.put(key, b"content", ATTRIBUTES)
        info = bucket.head(key)
        assert info is not None
        assert (info.size, info.etag, info.attributes) == (7, etag, ATTRIBUTES)
        assert content(bucket, key) == b"content"
        assert [[(found.key, found.size) for found in page] for page in bucket.pages(key)] == [[(key, 7)]]
        upload = bucket.begin_multipart(key, ATTRIBUTES)
        assert [(found.key, found.upload_id) for found in bucket.uploads(key)] == [(key, upload)]
        bucket.put_part(key, upload, 1, b"part")
        assert [(part.number, part.size) for part in bucket.parts(key, upload)] == [(1, 4)]
        bucket.abort(key, upload)
        bucket.delete(key)
        assert bucket.head(key) is None

    def test_times_are_unix_seconds(self, bucket: Bucket) -> None:
        before = time.time()
        bucket.put("a", b"1")
        ((listed,),), info = bucket.pages("a"), bucket.head("a")
        assert info is not None
        assert before - 2 <= info.modified <= time.time() + 2
        assert before - 2 <= listed.modified <= time.time() + 2

    def test_an_etag_has_quotes_and_tells_contents_apart(self, bucket: Bucket) -> None:
        first, second = bucket.put("a", b"1"), bucket.put("a", b"2")
        assert first != second
        assert all(etag.startswith('"') and etag.endswith('"') and len(etag) > 2 for etag in (first, second))

    def test_an_object_is_replaced_with_all_that_it_carries(self, bucket: Bucket) -> None:
        bucket.put("a", b"first", ATTRIBUTES)
        bucket.put("a", b"second!", Attributes("image/png", {"other": "x"}))
        info = bucket.head("a")
        assert info is not None
        assert (info.size, info.attributes) == (7, Attributes("image/png", {"other": "x"}))

    def test_an_object_may_be_empty(self, bucket: Bucket) -> None:
        bucket.put("empty", b"", ATTRIBUTES)
        info = bucket.head("empty")
        assert info is not None
        assert (info.size, info.attributes) == (0, ATTRIBUTES)
        assert content(bucket, "empty") == b""

    def test_what_is_not_there(self, bucket: Bucket) -> None:
        assert bucket.head("nothing") is None
        assert bucket.get("nothing") is None
        assert bucket.get("nothing", ByteRange(3, 9)) is None
        bucket.delete("nothing")
        assert all_keys(bucket, "nothing", 5) == []

    @pytest.mark.parametrize(
        ("wanted", "first", "expected"),
        [
            (WHOLE, 0, b"0123456789"),
            (ByteRange(0, 0), 0, b"0"),
            (ByteRange(3, 5), 3, b"345"),
            (ByteRange(7, None), 7, b"789"),
            (ByteRange(8, 10**18), 8, b"89"),
            (ByteRange(None, 4), 6, b"6789"),
            (ByteRange(None, 99), 0, b"0123456789"),
        ],
    )
    def test_a_part_of_an_object(self, bucket: Bucket, wanted: ByteRange, first: int, expected: bytes) -> None:
        bucket.put("digits", b"0123456789", ATTRIBUTES)
        download = bucket.get("digits", wanted)
        assert download is not None
        assert (download.info.size, download.first, download.count) == (10, first, len(expected))
        assert download.info.attributes == ATTRIBUTES
        assert b"".join(download.pieces(4)) == expected
        download.close()

    @pytest.mark.parametrize("wanted", [ByteRange(10, None), ByteRange(99, 100)])
    def test_a_range_after_the_end(self, bucket: Bucket, wanted: ByteRange) -> None:
        bucket.put("digits", b"0123456789")
        with pytest.raises(OutOfRange):
            bucket.get("digits", wanted)

    def test_a_download_that_is_left_does_no_harm(self, bucket: Bucket) -> None:
        bucket.put("large", secrets.token_bytes(3_000_000))
        download = bucket.get("large")
        assert download is not None
        assert len(next(download.pieces(1000))) == 1000
        download.close()
        assert content(bucket, "large", ByteRange(0, 9)) is not None

    def test_a_get_under_a_condition(self, bucket: Bucket) -> None:
        etag = bucket.put("a", b"1")
        assert content(bucket, "a", etag=etag) == b"1"
        bucket.put("a", b"2")
        with pytest.raises(ConditionFailed):
            bucket.get("a", etag=etag)

    def test_a_section_of_a_file_is_sent(self, bucket: Bucket) -> None:
        data = secrets.token_bytes(3_000_017)
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            bucket.put("section", FileSection(file.fileno(), 1_000, 2_999_000))
            assert content(bucket, "section") == data[1_000:3_000_000]
            bucket.put("section", FileSection(file.fileno(), 5, 0))
            assert content(bucket, "section") == b""

    # -- conditions -------------------------------------------------------------------------------

    def test_a_new_object_replaces_none(self, bucket: Bucket, engine: Expected) -> None:
        bucket.put("new", b"first", is_new=True)
        if engine.heeds_new:
            with pytest.raises(ConditionFailed):
                bucket.put("new", b"second", is_new=True)
        else:
            bucket.put("new", b"second", is_new=True)
        assert content(bucket, "new") == (b"first" if engine.heeds_new else b"second")
        bucket.delete("new")
        bucket.put("new", b"third", is_new=True)
        assert content(bucket, "new") == b"third"

    def test_of_rivals_one_makes_the_object(self, bucket: Bucket, engine: Expected) -> None:
        if not engine.heeds_new:
            pytest.skip("this engine ignores If-None-Match")

        def attempt(data: bytes) -> bytes | None:
            try:
                bucket.put("contended", data, is_new=True)
            except (ConditionFailed, Doubt):
                return None
            return data

        with ThreadPoolExecutor(16) as threads:
            winners = [data for data in threads.map(attempt, [b"%d" % n for n in range(16)]) if data is not None]
        assert len(winners) == 1
        assert content(bucket, "contended") == winners[0]

    def test_a_deletion_under_a_condition(self, bucket: Bucket, engine: Expected) -> None:
        old, new = bucket.put("a", b"1"), bucket.put("a", b"2")
        if engine.heeds_delete:
            with pytest.raises(ConditionFailed):
                bucket.delete("a", etag=old)
            assert content(bucket, "a") == b"2"
        bucket.delete("a", etag=new)
        assert bucket.head("a") is None
        bucket.delete("a", etag=new)

    # -- listings ---------------------------------------------------------------------------------

    def test_a_listing_is_of_a_prefix(self, bucket: Bucket) -> None:
        for key in ("a/1", "a/2", "a/b/3", "ab", "b/4"):
            bucket.put(key, b"")
        assert {*all_keys(bucket, "a/", 10)} == {"a/1", "a/2", "a/b/3"}
        assert {*all_keys(bucket, "a", 10)} == {"a/1", "a/2", "a/b/3", "ab"}
        assert len(all_keys(bucket, "", 10)) == 5

    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
    def test_pages_have_every_object_once(self, bucket: Bucket, engine: Expected, limit: int) -> None:
        keys = ["p/a/b é+", "p/a/c", "p/a-b", "p/a.b", "p/a0 %41", "p/b/c/d", "p/b/c/e", "p/b-", "p/b/c-"]
        keys += ["p/a", "p/b/c"] if engine.is_flat else []
        for key in keys:
            bucket.put(key, b"")
        found = all_keys(bucket, "p/", limit)
        assert sorted(found) == sorted(keys)
        if engine.is_ordered:
            assert found == sorted(keys, key=str.encode)

    # -- multipart uploads ------------------------------------------------------------------------

    def test_parts_become_an_object(self, bucket: Bucket) -> None:
        upload = bucket.begin_multipart("large", ATTRIBUTES)
        first, last = secrets.token_bytes(PART), b"the rest"
        tags = {2: bucket.put_part("large", upload, 2, last), 1: bucket.put_part("large", upload, 1, first)}
        assert bucket.head("large") is None
        assert all_keys(bucket, "", 100) == []
        assert [(part.number, part.size, part.etag) for part in bucket.parts("large", upload)] == [
            (1, PART, tags[1]),
            (2, 8, tags[2]),
        ]
        etag = bucket.complete("large", upload, tags)
        info = bucket.head("large")
        assert info is not None
        assert (info.size, info.etag, info.attributes) == (PART + 8, etag, ATTRIBUTES)
        assert content(bucket, "large") == first + last
        assert bucket.uploads("large") == []
        with pytest.raises(NoSuchUpload):
            bucket.parts("large", upload)

    def test_a_part_is_replaced(self, bucket: Bucket, engine: Expected) -> None:
        upload = bucket.begin_multipart("a", NO_ATTRIBUTES)
        bucket.put_part("a", upload, 1, b"first")
        tag = bucket.put_part("a", upload, 1, b"second!")
        (part,) = bucket.parts("a", upload)
        assert not engine.replaces_parts or (part.size, part.etag) == (7, tag)
        bucket.complete("a", upload, {1: tag})
        assert content(bucket, "a") == b"second!"

    def test_a_completion_replaces_the_object(self, bucket: Bucket, engine: Expected) -> None:
        old = bucket.put("a", b"placeholder")
        upload = bucket.begin_multipart("a", ATTRIBUTES)
        tags = {1: bucket.put_part("a", upload, 1, b"whole")}
        if engine.heeds_complete:
            with pytest.raises(ConditionFailed):
                bucket.complete("a", upload, tags, etag='"00000000000000000000000000000000"')
            assert content(bucket, "a") == b"placeholder"
        bucket.complete("a", upload, tags, etag=old)
        assert content(bucket, "a") == b"whole"

    def test_a_completion_whose_object_is_gone(self, bucket: Bucket, engine: Expected) -> None:
        if not engine.heeds_complete:
            pytest.skip("this engine ignores If-Match of a completion")
        old = bucket.put("a", b"placeholder")
        upload = bucket.begin_multipart("a", ATTRIBUTES)
        tags = {1: bucket.put_part("a", upload, 1, b"whole")}
        bucket.delete("a")
        with pytest.raises(ConditionFailed):
            bucket.complete("a", upload, tags, etag=old)
        assert bucket.head("a") is None

    def test_a_completion_with_parts_that_are_not_there(self, bucket: Bucket, engine: Expected) -> None:
        upload = bucket.begin_multipart("a", NO_ATTRIBUTES)
        tag = bucket.put_part("a", upload, 1, b"x")
        with pytest.raises(InvalidPart):
            bucket.complete("a", upload, {1: '"00000000000000000000000000000000"'})
        with pytest.raises(InvalidPart if engine.checks_parts else NoSuchUpload):
            bucket.complete("a", upload, {1: tag, 2: tag})
        assert bucket.head("a") is None

    def test_a_part_that_is_too_small_is_refused(self, bucket: Bucket, engine: Expected) -> None:
        if not engine.checks_parts:
            pytest.skip("this engine takes parts of any size")
        upload = bucket.begin_multipart("a", NO_ATTRIBUTES)
        tags = {number: bucket.put_part("a", upload, number, b"x") for number in (1, 2)}
        with pytest.raises(InvalidPart):
            bucket.complete("a", upload, tags)

    def test_an_upload_that_was_aborted_is_no_more(self, bucket: Bucket, engine: Expected) -> None:
        upload = bucket.begin_multipart("a", NO_ATTRIBUTES)
        tag = bucket.put_part("a", upload, 1, b"x")
        bucket.abort("a", upload)
        bucket.abort("a", upload)
        assert bucket.uploads("a") == []
        calls: list[Callable[[], object]] = [
            lambda: bucket.put_part("a", upload, 2, b"y"),
            lambda: bucket.parts("a", upload),
        ]
        for call in calls:
            with pytest.raises(NoSuchUpload):
                call()
        with pytest.raises(NoSuchUpload if engine.tells_aborted else Doubt):
            bucket.complete("a", upload, {1: tag})
        assert bucket.head("a") is None

    def test_uploads_are_of_exactly_one_key(self, bucket: Bucket) -> None:
        wanted = {bucket.begin_multipart("dir/a", NO_ATTRIBUTES) for _ in range(2)}
        for other in ("dir/ab", "dir/a/b", "di", "dir/a "):
            bucket.begin_multipart(other, NO_ATTRIBUTES)
        assert {found.upload_id for found in bucket.uploads("dir/a")} == wanted
        assert {found.key for found in bucket.uploads("dir/a")} == {"dir/a"}
        assert bucket.uploads("dir/") == []

    def test_all_parts_are_listed(self, bucket: Bucket) -> None:
        upload = bucket.begin_multipart("many", NO_ATTRIBUTES)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number: bucket.put_part("many", upload, number, b"x"), range(1, 1102)))
        assert [part.number for part in bucket.parts("many", upload)] == list(range(1, 1102))
        bucket.abort("many", upload)

    # -- the rest ---------------------------------------------------------------------------------

    def test_a_key_that_is_too_long(self, bucket: Bucket) -> None:
        """Or one that this engine takes."""
        key = "/".join(["y" * 200] * 6)
        try:
            bucket.put(key, b"1")
        except BadName:
            assert all_keys(bucket, "y", 10) == []
        else:
            assert content(bucket, key) == b"1"

    def test_it_can_be_checked(self, bucket: Bucket) -> None:
        bucket.check("")
        bucket.check("none/of/these/")

    @pytest.mark.parametrize("key", KEYS[:5], ids=itertools.count())
    def test_a_presigned_url_is_the_right_to_read(self, bucket: Bucket, engine: Expected, key: str) -> None:
        if not engine.has_urls:
            pytest.skip("it has no URLs")
        bucket.put(key, b"content", ATTRIBUTES)
        overrides = {
            "response-content-type": "text/html; charset=utf-8",
            "response-content-disposition": "attachment; filename*=UTF-8''%C3%A9%20x",
        }
        url = bucket.presigned(key, seconds=60, overrides=overrides)
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert answer.read() == b"content"
            assert answer.headers["Content-Type"] == overrides["response-content-type"]
            assert answer.headers["Content-Disposition"] == overrides["response-content-disposition"]
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(url[:-1] + ("0" if url[-1] != "0" else "1"), timeout=20)
        refused.value.close()
        assert refused.value.code == 403
