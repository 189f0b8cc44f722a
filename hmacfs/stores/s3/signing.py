"""Signature version 4, by botocore."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from botocore.auth import UNSIGNED_PAYLOAD, S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest

from hmacfs.stores.s3.credentials import Credentials
from hmacfs.stores.s3.options import BucketAddress

# It tells signatures, with which others could do the same for a while.
logging.getLogger("botocore").setLevel(logging.INFO)


class _HeaderAuth(S3SigV4Auth):  # type: ignore[misc]
    """Leaves the body out: it is hashed neither here nor there. What changes it under way is left to TLS."""

    def payload(self, _request: object) -> str:
        return str(UNSIGNED_PAYLOAD)


class Signer:
    """Signs requests to one bucket."""

    def __init__(self, address: BucketAddress, region: str, credentials: Credentials) -> None:
        self._address = address
        self._region = region
        self._credentials = credentials

    def sign(self, method: str, target: str, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers to send: those, and what makes them a signed request."""
        request: Any = AWSRequest(method, self._address.url(target), {"Host": self._address.authority, **headers})
        _HeaderAuth(self._credentials.keys(), "s3", self._region).add_auth(request)
        return dict(request.headers.items())

    def presign(self, target: str, seconds: int) -> str:
        """A URL that is the right to GET that for so long."""
        request: Any = AWSRequest("GET", self._address.url(target))
        S3SigV4QueryAuth(self._credentials.keys(), "s3", self._region, seconds).add_auth(request)
        return str(request.url)
