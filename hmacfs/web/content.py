"""What a request's body is by its headers, and whether it can be stored as it arrives (docs/protocol.md, section 3)."""

from __future__ import annotations

from hmacfs.dialects import tus
from hmacfs.errors import BadCoding, BadRequest, IsForm
from hmacfs.protocol.media_types import DEFAULT, is_media_type
from hmacfs.protocol.signing import Verified
from hmacfs.web.messages import Request

#: The Content-Type that curl's ``--data``, wget's ``--body-file`` and Python's urllib give to any body by default.
_NO_TYPE = "application/x-www-form-urlencoded"
#: The Content-Type of ``curl -F``: the file is a part of a form.
_FORM = "multipart/form-data"


def check_body(request: Request) -> None:
    """Refuse a body that is not a file's bytes as they are, before a byte of it is read.

    Raises ``BadCoding`` for one in a coding that would have to be undone here or named to each client that downloads
    the file, and ``BadRequest`` for a part of a file in a dialect that this server does not speak.
    """
    environ = request.environ
    # draft-ietf-httpbis-resumable-upload, and its drafts before the fourth.
    if environ.get("HTTP_UPLOAD_COMPLETE") == "?0" or environ.get("HTTP_UPLOAD_INCOMPLETE") == "?1":
        raise BadRequest("The body is not the whole file, in a dialect that this server does not speak.")
    if "HTTP_CONTENT_ENCODING" in environ:
        codings = environ["HTTP_CONTENT_ENCODING"].split(",")
        if any(word.strip().lower() not in ("", "identity") for word in codings):
            raise BadCoding
    # S3's clients frame bodies in signed chunks, and some don't name that as a coding.
    if "HTTP_X_AMZ_DECODED_CONTENT_LENGTH" in environ or (
        "HTTP_X_AMZ_CONTENT_SHA256" in environ and environ["HTTP_X_AMZ_CONTENT_SHA256"].upper().startswith("STREAMING-")
    ):
        raise BadCoding("The body is in aws-chunked framing; this server stores bodies as they are.")


def check_upload_body(request: Request) -> None:
    """``check_body`` for a PUT; sets ``request.file_type``. Raises ``IsForm`` as well."""
    check_body(request)
    verified = request.verified
    assert verified is not None
    if request.content_type is not None or verified.content_type is not None:
        request.file_type = type_to_record(request.content_type, verified)


def check_creation(request: Request) -> None:
    """``check_body`` for a POST that creates a tus upload; sets ``request.file_type``, the signature's type before that
    of the metadata. Raises ``BadRequest`` for malformed metadata as well."""
    check_body(request)
    assert request.verified is not None
    told = tus.filetype(request.environ)
    request.file_type = recordable_type(request.verified.content_type or told)


def type_to_record(sent: str | None, verified: Verified) -> str | None:
    """The type to keep with a file that is sent with this Content-Type, ``None`` for that of its extension.

    A type that the signature covers counts before the header. Raises ``IsForm`` for a form, unless the signature says
    that the file is one.
    """
    covered = verified.content_type or (sent if verified.binds_type else None)
    if sent is not None and _media_type(sent) == _FORM and (covered is None or _media_type(covered) != _FORM):
        raise IsForm
    if covered is None and sent is not None and sent.strip().lower() == _NO_TYPE:
        return None
    return recordable_type(covered or sent)


def recordable_type(content_type: str | None) -> str | None:
    """The type to keep with a file: a text that is no media type could not be sent as a header, and becomes
    ``application/octet-stream``."""
    if content_type is None:
        return None
    return content_type if is_media_type(content_type) else DEFAULT


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
