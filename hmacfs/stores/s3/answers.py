"""What the engine says: its XML, and headers. Pure."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from hmacfs.stores.s3.bucket import Attributes, ListedObject, ListedUpload, ObjectInfo, Part

METADATA_PREFIX = "x-amz-meta-"
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,20})-([0-9]{1,20})/([0-9]{1,20})")


class Unreadable(ValueError):
    """The answer is no S3: another server's, or only a part of one."""


class ErrorAnswer(NamedTuple):
    """code: the word that S3 has for it, empty if there is none; message: the engine's sentence; region: of the bucket,
    if it is another."""

    status: int
    code: str
    message: str
    region: str = ""


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> ErrorAnswer:
    """An answer to HEAD has no body; one of a proxy before the engine is no XML."""
    region = headers.get("x-amz-bucket-region") or ""
    try:
        root = _parse(body)
    except Unreadable:
        return ErrorAnswer(status, "", "", region)
    return ErrorAnswer(status, _text(root, "Code"), _text(root, "Message"), _text(root, "Region") or region)


def info_of(headers: Mapping[str, str], size: int) -> ObjectInfo:
    metadata = {
        name.lower().removeprefix(METADATA_PREFIX): value
        for name, value in headers.items()
        if name.lower().startswith(METADATA_PREFIX)
    }
    attributes = Attributes(headers.get("content-type") or "", metadata)
    return ObjectInfo(size, http_time(headers.get("last-modified") or ""), headers.get("etag") or "", attributes)


def headers_of(attributes: Attributes) -> dict[str, str]:
    headers = {METADATA_PREFIX + name: value for name, value in attributes.metadata.items()}
    if attributes.content_type:
        headers["Content-Type"] = attributes.content_type
    return headers


def content_range(text: str) -> tuple[int, int, int]:
    """First byte, count and the whole object's size. Raises ``Unreadable``."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        raise Unreadable("the answer to a range has no Content-Range")
    first, last, size = (int(group) for group in match.groups())
    return first, last - first + 1, size


def length_of(headers: Mapping[str, str]) -> int:
    """Raises ``Unreadable``."""
    text = headers.get("content-length") or ""
    if not (text.isascii() and text.isdigit()):
        raise Unreadable("the answer has no Content-Length")
    return int(text)


def http_time(text: str) -> float:
    """Unix seconds; 0 if it is no time."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return 0.0


def listed_objects(body: bytes) -> tuple[list[ListedObject], dict[str, str]]:
    """A page of objects, and the parameters that ask for the next one, empty at the end. Raises ``Unreadable``, as all
    of these do."""
    root = _parse(body, "ListBucketResult")
    is_encoded = _text(root, "EncodingType") == "url"
    objects = [
        ListedObject(
            _key(entry, "Key", is_encoded=is_encoded),
            _number(entry, "Size"),
            _iso_time(_text(entry, "LastModified")),
        )
        for entry in _children(root, "Contents")
    ]
    token = _text(root, "NextContinuationToken")
    return objects, {"continuation-token": token} if _is_truncated(root) and token else {}


def listed_parts(body: bytes) -> tuple[list[Part], dict[str, str]]:
    """The same for parts."""
    root = _parse(body, "ListPartsResult")
    parts = [
        Part(
            _number(entry, "PartNumber"),
            _number(entry, "Size"),
            _iso_time(_text(entry, "LastModified")),
            _etag(entry),
        )
        for entry in _children(root, "Part")
    ]
    marker = _text(root, "NextPartNumberMarker")
    return parts, {"part-number-marker": marker} if _is_truncated(root) and marker else {}


def listed_uploads(body: bytes, prefix: str) -> tuple[list[ListedUpload], dict[str, str]]:
    """The same for multipart uploads whose keys begin with ``prefix``. By that it is told whether they are encoded: of
    ``EncodingType`` engines say what is not so (docs/facts.md, section 13)."""
    root = _parse(body, "ListMultipartUploadsResult")

    def key(element: ET.Element, name: str) -> str:
        decoded = _key(element, name, is_encoded=True)
        return decoded if decoded.startswith(prefix) else _key(element, name, is_encoded=False)

    uploads = [
        ListedUpload(
            key(entry, "Key"),
            _text(entry, "UploadId"),
            _iso_time(_text(entry, "Initiated")),
        )
        for entry in _children(root, "Upload")
    ]
    markers = {
        "key-marker": key(root, "NextKeyMarker"),
        "upload-id-marker": _text(root, "NextUploadIdMarker"),
    }
    return uploads, markers if _is_truncated(root) and any(markers.values()) else {}


def upload_id(body: bytes) -> str:
    found = _text(_parse(body, "InitiateMultipartUploadResult"), "UploadId")
    if not found:
        raise Unreadable("a multipart upload without an id")
    return found


def completion(body: bytes) -> str | ErrorAnswer:
    """The entity tag of a completed object, or the error that may stand inside a 200."""
    root = _parse(body)
    if _name(root) == "Error":
        return ErrorAnswer(200, _text(root, "Code"), _text(root, "Message"))
    if _name(root) != "CompleteMultipartUploadResult":
        raise Unreadable(f"the answer is {_name(root)}")
    return _etag(root)


def completion_request(etags: Mapping[int, str]) -> bytes:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
        for number, etag in sorted(etags.items())
    )
    opening = '<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    return f"{opening}{parts}</CompleteMultipartUpload>".encode()


def _parse(body: bytes, expected: str = "") -> ET.Element:
    if b"<!DOCTYPE" in body:  # S3 has none; entities could grow without end
        raise Unreadable("the answer has a document type")
    try:
        # A completion that takes long begins with blanks, which keep the connection alive.
        root = ET.fromstring(body.strip())  # noqa: S314 - no document type, so no entities
    except ET.ParseError as error:
        raise Unreadable(f"the answer is no XML: {error}") from None
    if expected and _name(root) != expected:
        raise Unreadable(f"the answer is {_name(root)}, not {expected}")
    return root


def _name(element: ET.Element) -> str:
    """Without the namespace, which not every engine gives."""
    return element.tag.rpartition("}")[2]


def _children(element: ET.Element, name: str) -> Iterator[ET.Element]:
    return (child for child in element if _name(child) == name)


def _text(element: ET.Element, name: str) -> str:
    for child in _children(element, name):
        return (child.text or "").strip()
    return ""


def _key(element: ET.Element, name: str, *, is_encoded: bool) -> str:
    for child in _children(element, name):  # a blank at its end belongs to a key
        return unquote_plus(child.text or "") if is_encoded else child.text or ""
    return ""


def _number(element: ET.Element, name: str) -> int:
    text = _text(element, name)
    if not (text.isascii() and text.isdigit()):
        raise Unreadable(f"{name} is no number")
    return int(text)


def _etag(element: ET.Element) -> str:
    text = _text(element, "ETag")
    return text if not text or text.startswith('"') else f'"{text}"'


def _is_truncated(element: ET.Element) -> bool:
    return _text(element, "IsTruncated").lower() == "true"


def _iso_time(text: str) -> float:
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
