"""Whose requests these are: configured keys, or those of botocore's chain, which renew themselves."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

from hmacfs.errors import StorageFailed, StoreUnavailable
from hmacfs.stores.s3.options import S3Options


@dataclasses.dataclass(frozen=True, slots=True)
class AccessKeys:
    """With the names that botocore's signers ask for."""

    access_key: str
    secret_key: str = dataclasses.field(repr=False)
    token: str | None = dataclasses.field(repr=False)


class Credentials(Protocol):
    """Where keys come from."""

    def keys(self) -> AccessKeys:
        """Those that are good now. Raises ``StorageFailed`` if there are none, ``StoreUnavailable`` if what gives them
        does not answer."""


class ConfiguredCredentials:
    """``S3AccessKey``, ``S3SecretKey``, ``S3SessionToken``."""

    def __init__(self, options: S3Options) -> None:
        secret, token = options.secret_key, options.session_token
        self._keys = AccessKeys(
            options.access_key,
            secret.reveal().decode() if secret is not None else "",
            token.reveal().decode() if token is not None else None,
        )

    def keys(self) -> AccessKeys:
        return self._keys


class ChainCredentials:
    """What the environment (``AWS_*``), the shared files, the container or the machine gives. It is asked at the first
    request; keys that end are renewed by botocore before they do."""

    def __init__(self) -> None:
        self._found: Any = None

    def keys(self) -> AccessKeys:
        # Half a second of processor time and 10 MB, for those who need it.
        import botocore.exceptions
        import botocore.session

        try:
            if self._found is None:
                self._found = botocore.session.get_session().get_credentials()
            if self._found is None:
                raise StorageFailed from LookupError(
                    "no credentials: set S3AccessKey and S3SecretKey, or give some where AWS's tools look for them"
                )
            frozen = self._found.get_frozen_credentials()
        except (botocore.exceptions.BotoCoreError, OSError) as error:
            raise StoreUnavailable from error
        return AccessKeys(frozen.access_key, frozen.secret_key, frozen.token)


def credentials_of(options: S3Options) -> Credentials:
    return ConfiguredCredentials(options) if options.access_key else ChainCredentials()
