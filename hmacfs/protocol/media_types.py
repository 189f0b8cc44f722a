"""Media types by file name extension, and which of them a browser may show. Pure, and the same on every machine.

The table is nginx's ``mime.types`` where that knows an extension, so that a file has the same type whoever serves it;
``deploy/mime.types`` is made from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

DEFAULT = "application/octet-stream"

_NAME = "[A-Za-z0-9!#$&^_.+-]{1,127}"
#: A comma outside quotes is what the parameters must not hold: browsers read such a header as a list of types and take
#: the last (the Fetch standard's "extract a MIME type"), so "image/png;a=b,text/html" would be shown as a page.
_MEDIA_TYPE = re.compile(rf"""{_NAME}/{_NAME}(?:[ \t]*;(?:[\t !#-+\--~]|"[\t !#-\[\]-~]*")*)?""")
_LENGTH_LIMIT = 512

_EXTENSIONS: Mapping[str, str] = {
    "application/atom+xml": "atom",
    "application/epub+zip": "epub",
    "application/geo+json": "geojson",
    "application/gzip": "gz",
    "application/java-archive": "jar war ear",
    "application/javascript": "js mjs",
    "application/json": "json",
    "application/manifest+json": "webmanifest",
    "application/msword": "doc",
    "application/pdf": "pdf",
    "application/pgp-encrypted": "pgp gpg",
    "application/pgp-signature": "asc sig",
    "application/postscript": "ps eps ai",
    "application/rss+xml": "rss",
    "application/rtf": "rtf",
    "application/sql": "sql",
    "application/toml": "toml",
    "application/vnd.android.package-archive": "apk",
    "application/vnd.debian.binary-package": "deb",
    "application/vnd.google-earth.kml+xml": "kml",
    "application/vnd.google-earth.kmz": "kmz",
    "application/vnd.ms-excel": "xls",
    "application/vnd.ms-fontobject": "eot",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.oasis.opendocument.graphics": "odg",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/wasm": "wasm",
    "application/x-7z-compressed": "7z",
    "application/x-bzip2": "bz2",
    "application/x-iso9660-image": "iso",
    "application/x-perl": "pl pm",
    "application/x-rar-compressed": "rar",
    "application/x-redhat-package-manager": "rpm",
    "application/x-sh": "sh",
    "application/x-shockwave-flash": "swf",
    "application/x-tar": "tar",
    "application/x-x509-ca-cert": "der pem crt",
    "application/x-xpinstall": "xpi",
    "application/x-xz": "xz",
    "application/xhtml+xml": "xhtml",
    "application/yaml": "yaml yml",
    "application/zip": "zip",
    "application/zstd": "zst",
    "audio/aac": "aac",
    "audio/amr": "amr",
    "audio/flac": "flac",
    "audio/midi": "mid midi kar",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg oga opus spx",
    "audio/wav": "wav",
    "audio/webm": "weba",
    "audio/x-aiff": "aif aiff",
    "audio/x-m4a": "m4a",
    "audio/x-matroska": "mka",
    "audio/x-ms-wma": "wma",
    "audio/x-realaudio": "ra",
    "font/otf": "otf",
    "font/ttf": "ttf",
    "font/woff": "woff",
    "font/woff2": "woff2",
    "image/apng": "apng",
    "image/avif": "avif",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/heic": "heic",
    "image/heif": "heif",
    "image/jpeg": "jpeg jpg jpe jfif",
    "image/jxl": "jxl",
    "image/png": "png",
    "image/svg+xml": "svg svgz",
    "image/tiff": "tif tiff",
    "image/webp": "webp",
    "image/x-icon": "ico",
    "text/calendar": "ics",
    "text/css": "css",
    "text/csv": "csv",
    "text/html": "html htm shtml",
    "text/markdown": "md markdown",
    "text/mathml": "mml",
    "text/plain": "txt log conf diff patch",
    "text/vcard": "vcf vcard",
    "text/vtt": "vtt",
    "text/xml": "xml",
    "video/3gpp": "3gpp 3gp",
    "video/mp2t": "ts",
    "video/mp4": "mp4 m4v",
    "video/mpeg": "mpeg mpg",
    "video/ogg": "ogv",
    "video/quicktime": "mov",
    "video/webm": "webm",
    "video/x-flv": "flv",
    "video/x-matroska": "mkv",
    "video/x-ms-asf": "asx asf",
    "video/x-ms-wmv": "wmv",
    "video/x-msvideo": "avi",
}

#: Extension, without its dot, to media type.
BY_EXTENSION: Mapping[str, str] = {
    extension: media_type for media_type, extensions in _EXTENSIONS.items() for extension in extensions.split()
}


def nginx_types() -> str:
    """The table as nginx's ``types`` block: the content of ``deploy/mime.types``."""
    lines = [f"    {media_type} {extensions};" for media_type, extensions in _EXTENSIONS.items()]
    return "\n".join(
        [
            "# Made from hmacfs/protocol/media_types.py, so that a file has the same type whoever serves it.",
            "types {",
            *lines,
            "}",
            "",
        ]
    )


#: The same with the charset that nearly all text is in by now: browsers would take an old single-byte one otherwise.
_SERVED_BY_EXTENSION: Mapping[str, str] = {
    extension: f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type
    for extension, media_type in BY_EXTENSION.items()
}


def type_by_name(path: str) -> str:
    """The ``Content-Type`` of a file that came without one. Example: ``"a/b.txt"`` is ``text/plain; charset=utf-8``."""
    _, dot, extension = path.rpartition(".")
    return _SERVED_BY_EXTENSION.get(extension.lower(), DEFAULT) if dot else DEFAULT


def guess(path: str) -> str:
    """The same without a charset: the media type of the extension, ``application/octet-stream`` if it is none of the
    table's."""
    return type_by_name(path).partition(";")[0]


def is_media_type(text: str) -> bool:
    """Whether this may become a ``Content-Type`` header: one type, with parameters or without, in ASCII."""
    return len(text) <= _LENGTH_LIMIT and _MEDIA_TYPE.fullmatch(text) is not None


def is_inline(content_type: str) -> bool:
    """Whether a browser may show a file of this type (docs/protocol.md, section 4); all others it has to save."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.endswith("+xml"):  # a document, which may have scripts: SVG, and other kinds that browsers know
        return False
    return media_type == "text/plain" or media_type.startswith(("image/", "video/", "audio/"))
