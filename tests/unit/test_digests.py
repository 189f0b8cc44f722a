"""What headers claim of a body (RFC 9530, RFC 1864)."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hmacfs.errors import BadRequest, ChecksumMismatch, DigestMismatch
from hmacfs.protocol.digests import Claim, claims_of_file, digests_of_body, digests_of_file, digests_of_whole

DATA = b"the bytes"
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=80)


def b64(algorithm: str, data: bytes = DATA) -> str:
    return base64.b64encode(hashlib.new(algorithm, data, usedforsecurity=False).digest()).decode()


SHA256, SHA512 = f"sha-256=:{b64('sha256')}:", f"sha-512=:{b64('sha512')}:"
WRONG256, WRONG512 = f"sha-256=:{b64('sha256', b'x')}:", f"sha-512=:{b64('sha512', b'x')}:"


def holds(data: bytes = DATA, **environ: str) -> bool | None:
    """Whether what these headers claim holds; ``None`` if they claim nothing."""
    digests = digests_of_body({f"HTTP_{key}": value for key, value in environ.items()})
    if digests is None:
        return None
    for begin in range(0, len(data), 4):
        digests.update(memoryview(data)[begin : begin + 4])
    try:
        digests.check()
    except DigestMismatch:
        return False
    return True


def test_nothing_may_be_claimed() -> None:
    assert digests_of_body({}) is None
    assert claims_of_file({}) == ""
    assert digests_of_file("") is None
    assert digests_of_whole({}) is None


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (SHA256, True), (SHA512, True), (f"{SHA256}, {SHA512}", True), (f"{SHA256},{WRONG512}", False), (WRONG256, False),
        (f"  {SHA256}\t,\t{SHA512}  ", True), (f"{WRONG256}, {SHA256}", True), (f"{SHA256}, {WRONG256}", False),
        ("md5=:AAAA:", None), ("sha=:AAAA:, unixsum=30637", None), ("", None), ("  ", None), ("a", None),
        (f'a=1, b=?1, c="x, y\\"", d=tok/en;e=1.5;f, g=(1 2 "x");h, i, j=@5, {SHA256};p=:AA==:', True),
        (SHA256.replace("=:", "=:").rstrip(":").rstrip("=") + ":", True),
        ('x="sha-256=:AAAA:"', None),
    ],
)  # fmt: skip
def test_a_field_is_verified(field: str, expected: bool | None) -> None:
    assert holds(CONTENT_DIGEST=field) is expected


@pytest.mark.parametrize(
    "field",
    ["sha-256", "sha-256=1", "sha-256=:AAAA:", "sha-256=::", f"sha-256={b64('sha256')}", f'sha-256="{b64("sha256")}"',
     f"SHA-256=:{b64('sha256')}:", SHA256 + ",", "," + SHA256, SHA256 + ";", SHA256 + " " + SHA512, SHA256 + "x", "sha-256=:???:",
     f"sha-256=:{b64('sha256')}", f"sha-256=(:{b64('sha256')}:)", "\u00e9=1", "a=\u00e9", 'a="', "a=(", "a=" + "1" * 16,
     f"sha-512=:{b64('sha256')}:", ", " * 3, "a=1, " * 2000],
)  # fmt: skip
def test_a_malformed_field_is_refused(field: str) -> None:
    for key in ("HTTP_CONTENT_DIGEST", "HTTP_REPR_DIGEST"):
        with pytest.raises(BadRequest):
            digests_of_whole({key: field})


def test_content_md5_is_verified() -> None:
    assert holds(CONTENT_MD5=b64("md5")) is True
    assert holds(CONTENT_MD5=b64("md5", b"x")) is False
    for malformed in ("", "AAAA", b64("md5") + "," + b64("md5"), hashlib.md5(DATA).hexdigest(), "\u00e9" * 22):
        with pytest.raises(BadRequest):
            digests_of_body({"HTTP_CONTENT_MD5": malformed})


def test_the_hash_that_s3s_clients_sign_is_verified_where_it_is_one() -> None:
    right = hashlib.sha256(DATA).hexdigest()
    assert holds(X_AMZ_CONTENT_SHA256=right) is holds(X_AMZ_CONTENT_SHA256=right.upper()) is True
    assert holds(X_AMZ_CONTENT_SHA256="0" * 64) is False
    assert holds(X_AMZ_CONTENT_SHA256="UNSIGNED-PAYLOAD") is None


def test_repr_digest_is_of_the_whole_file() -> None:
    environ = {"HTTP_REPR_DIGEST": WRONG256}
    assert digests_of_body(environ) is None
    for digests in (digests_of_file(claims_of_file(environ)), digests_of_whole(environ)):
        assert digests is not None
        digests.update(memoryview(DATA))
        with pytest.raises(DigestMismatch, match="Repr-Digest"):
            digests.check()


def test_what_is_claimed_of_a_file_is_kept_as_a_text() -> None:
    """Of it only what can be judged."""
    field = f"unixsum=30637, {SHA512};q=1, {SHA256}"
    claims = claims_of_file({"HTTP_REPR_DIGEST": field})
    assert claims == f"{SHA256}, {SHA512}"
    assert claims_of_file({"HTTP_REPR_DIGEST": claims}) == claims
    assert claims_of_file({"HTTP_REPR_DIGEST": "unixsum=30637"}) == ""


def test_a_claim_has_an_error_of_its_own() -> None:
    claim = Claim("Upload-Checksum", "sha1", b"x" * 20, ChecksumMismatch)
    digests = digests_of_body({"HTTP_CONTENT_DIGEST": SHA256}, claim)
    assert digests is not None
    digests.update(memoryview(DATA))
    with pytest.raises(ChecksumMismatch, match="Upload-Checksum"):
        digests.check()


@given(VALUES | VALUES.map(lambda text: f"{SHA256},{text}"))
def test_any_field_is_read_or_refused(field: str) -> None:
    try:
        digests_of_body({"HTTP_CONTENT_DIGEST": field, "HTTP_CONTENT_MD5": b64("md5")})
    except BadRequest as error:
        assert str(error) == "Content-Digest is malformed."
