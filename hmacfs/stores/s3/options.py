"""Where the bucket is and how it is talked to: the client's own values. Pure."""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from hmacfs.config.values import Secret

DEFAULT_REGION = "us-east-1"


@dataclasses.dataclass(frozen=True, slots=True)
class S3Options:
    """endpoint: a URL without a path, empty for AWS. access_key, secret_key: empty for those of the environment, the
    files or the machine that the SDKs of AWS look at. path_style: the bucket is the first segment of the path, not of
    the host. ca_file: whose certificates to trust, ``None`` for the system's. timeout: seconds without a byte.
    max_retries: how often to try again what failed for the moment; retry_delay: the longest pause before that."""

    endpoint: str
    bucket: str
    region: str = DEFAULT_REGION
    access_key: str = ""
    secret_key: Secret | None = None
    session_token: Secret | None = None
    path_style: bool = True
    ca_file: Path | None = None
    timeout: float = 30.0
    max_retries: int = 3
    retry_delay: float = 2.0


class BucketAddress(NamedTuple):
    """host, port: to connect to. authority: the ``Host`` header. root: the path of the bucket, with the slash before
    a key."""

    is_encrypted: bool
    host: str
    port: int
    authority: str
    root: str

    def target(self, key: str = "", parameters: dict[str, str] | None = None) -> str:
        """What the request line names. Everything is percent-encoded once, as signature version 4 has it."""
        path = self.root + quote(key, safe="/~")
        # Sorted and with "%20", since that is what is signed.
        return f"{path}?{urlencode(sorted(parameters.items()), quote_via=quote, safe='~')}" if parameters else path

    def url(self, target: str) -> str:
        return f"{'https' if self.is_encrypted else 'http'}://{self.authority}{target}"


def address_of(options: S3Options) -> BucketAddress:
    """Raises ``ValueError``; the message ends the sentence "S3Endpoint: ..."."""
    endpoint = urlsplit(options.endpoint or _aws(options.region))
    host, port = endpoint.hostname, endpoint.port  # raises ValueError for a port that is none
    if endpoint.scheme not in ("http", "https") or not host:
        raise ValueError("must be a URL that begins with http:// or https://")
    if endpoint.username is not None or endpoint.password is not None:
        raise ValueError("must not hold credentials: give them as S3AccessKey and S3SecretKey")
    if endpoint.path not in ("", "/") or endpoint.query or endpoint.fragment:
        raise ValueError("must be a URL without a path")
    is_encrypted = endpoint.scheme == "https"
    if not options.path_style:
        if _is_ip_address(host):
            raise ValueError("is an IP address, before which no bucket can stand: set S3PathStyle = true")
        host = f"{options.bucket}.{host}"
    shown = f"[{host}]" if ":" in host else host
    usual = 443 if is_encrypted else 80
    authority = shown if port in (None, usual) else f"{shown}:{port}"
    root = f"/{quote(options.bucket, safe='~')}/" if options.path_style else "/"
    return BucketAddress(is_encrypted, host, port or usual, authority, root)


def _aws(region: str) -> str:
    return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def _is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
