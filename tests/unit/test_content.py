"""What a body is by its headers."""

from __future__ import annotations

import pytest

from hmacfs.errors import BadCoding, BadRequest, IsForm
from hmacfs.protocol.signing import Scheme, Verified
from hmacfs.web.content import check_body, type_to_record
from hmacfs.web.messages import Request
from tests.unit.requests import EMPTY

FORM, MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"
OPEN = Verified(Scheme.V, binds_length=True)
TYPED = Verified(Scheme.V2, binds_length=True, binds_type=True)


def request(environ: dict[str, str]) -> Request:
    return Request({"REQUEST_METHOD": "PUT", **environ}, "192.0.2.1", EMPTY)


def claimed(content_type: str) -> Verified:
    return Verified(Scheme.BEARER, binds_length=True, content_type=content_type)


@pytest.mark.parametrize(
    "environ",
    [{}, {"HTTP_CONTENT_ENCODING": ""}, {"HTTP_CONTENT_ENCODING": "identity"}, {"HTTP_CONTENT_ENCODING": "Identity, identity"},
     {"HTTP_X_AMZ_CONTENT_SHA256": "UNSIGNED-PAYLOAD"}, {"HTTP_ACCEPT_ENCODING": "gzip"}, {"HTTP_UPLOAD_COMPLETE": "?1", "HTTP_UPLOAD_DRAFT_INTEROP_VERSION": "6"}],
)  # fmt: skip
def test_a_body_may_come_as_it_is(environ: dict[str, str]) -> None:
    check_body(request(environ))


@pytest.mark.parametrize(
    "environ",
    [{"HTTP_CONTENT_ENCODING": "gzip"}, {"HTTP_CONTENT_ENCODING": "identity,br"}, {"HTTP_CONTENT_ENCODING": "aws-chunked"},
     {"HTTP_CONTENT_ENCODING": "x"}, {"HTTP_X_AMZ_CONTENT_SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"},
     {"HTTP_X_AMZ_CONTENT_SHA256": "streaming-unsigned-payload-trailer"}, {"HTTP_X_AMZ_DECODED_CONTENT_LENGTH": "5"}],
)  # fmt: skip
def test_no_coding_is_undone(environ: dict[str, str]) -> None:
    with pytest.raises(BadCoding):
        check_body(request(environ))


@pytest.mark.parametrize("environ", [{"HTTP_UPLOAD_COMPLETE": "?0"}, {"HTTP_UPLOAD_INCOMPLETE": "?1"}])
def test_a_part_in_a_dialect_that_is_not_spoken_is_no_file(environ: dict[str, str]) -> None:
    with pytest.raises(BadRequest):
        check_body(request(environ))


@pytest.mark.parametrize(
    ("sent", "verified", "recorded"),
    [
        (None, OPEN, None), ("image/png", OPEN, "image/png"), ("no type", OPEN, "application/octet-stream"),
        (FORM, OPEN, None), (FORM.upper(), OPEN, None), (FORM + "; charset=utf-8", OPEN, FORM + "; charset=utf-8"),
        (FORM, TYPED, FORM), (MULTIPART, TYPED, MULTIPART), ("multipart/related", OPEN, "multipart/related"),
        (FORM, claimed("image/png"), "image/png"), ("image/gif", claimed("image/png"), "image/png"), (None, claimed(FORM), FORM),
        (MULTIPART, claimed(MULTIPART), MULTIPART),
    ],
)  # fmt: skip
def test_the_type_that_is_recorded(sent: str | None, verified: Verified, recorded: str | None) -> None:
    assert type_to_record(sent, verified) == recorded


@pytest.mark.parametrize("verified", [OPEN, claimed("image/png"), Verified(Scheme.V3, binds_length=False)])
def test_a_form_is_no_file(verified: Verified) -> None:
    with pytest.raises(IsForm, match="curl -T"):
        type_to_record(MULTIPART, verified)
