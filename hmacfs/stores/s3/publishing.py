"""Making a file visible under its name: exclusively, and so that each doubt about the outcome can be settled.

Every upload has an *identity*, which its object carries. Whatever the engine answered, or did not answer, a HEAD tells
afterwards whether the name is this upload's, another's, or nobody's: so a success is never told of another's file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from hmacfs.errors import NameTaken, StorageFailed, StoreUnavailable
from hmacfs.stores.s3.bucket import (
    Attributes,
    Bucket,
    ConditionFailed,
    Doubt,
    InvalidPart,
    NoSuchUpload,
    ObjectInfo,
    Payload,
)
from hmacfs.stores.s3.claims import Claimed, Claims
from hmacfs.stores.s3.objects import claimant_of, is_file, own_etag
from hmacfs.stores.s3.placeholders import Placeholders
from hmacfs.uploads.contracts.entries import Entries

#: Pauses before an attempt is made again, in seconds: a rival that is about to publish is done meanwhile.
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)


class Publisher:
    """Publishes files in a bucket.

    claims: where names are claimed if the engine ignores conditions. is_exclusive: whether its conditional PUT is
    exclusive; raises ``StoreUnavailable`` while that is not known. sleep: cooperative.
    """

    def __init__(
        self,
        bucket: Bucket,
        claims: Entries,
        is_exclusive: Callable[[], bool],
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.bucket = bucket
        self._claims = Claims(bucket, claims)
        self._placeholders = Placeholders(bucket, self._claims)
        self.is_exclusive = is_exclusive
        self.sleep = sleep or time.sleep  # asked for here: in a gevent worker it is cooperative only after the fork

    def check_free(self, key: str) -> None:
        """Raises ``NameTaken`` if there is a file, ``StoreUnavailable`` while another upload is about to become one."""
        stored = self.bucket.head(key)
        if stored is not None and claimant_of(stored):
            self._placeholders.end_overdue(key, stored)
            stored = self.bucket.head(key)
        if is_file(stored):
            raise NameTaken
        if stored is not None:
            raise StoreUnavailable(where=key)

    def create(self, key: str, payload: Payload, attributes: Attributes, identity: str) -> str:
        """Store a file of one portion; its entity tag. For engines with exclusive creation. Raises ``NameTaken``,
        ``StoreUnavailable``: then nothing is visible yet."""
        return self._publish(key, identity, lambda _: self.bucket.put(key, payload, attributes, is_new=True))

    def complete(self, key: str, upload_id: str, etags: Mapping[int, str], identity: str) -> str:
        """Make the parts of a multipart upload the file; its entity tag. Raises ``NameTaken``, ``StoreUnavailable``,
        and ``StorageFailed`` if the engine does not take them."""
        if not self.is_exclusive():
            return self._publish(key, identity, lambda _: self._claims.complete(key, upload_id, etags, identity))
        return self._publish(
            key,
            identity,
            lambda placeholder: self._placeholders.replace(key, upload_id, etags, identity, placeholder),
        )

    def _publish(self, key: str, identity: str, attempt: Callable[[ObjectInfo | None], str]) -> str:
        """The entity tag of the file, which an ``attempt`` makes: it is told of the upload's own placeholder if that is
        there, and made while nothing else is. Raises ``NameTaken``, ``StorageFailed``, ``StoreUnavailable``."""
        stored: ObjectInfo | None = None
        doubt: Exception | None = None
        for pause in _PAUSES:
            if pause:
                self.sleep(pause)
            if stored is None or claimant_of(stored) == identity:
                try:
                    return attempt(stored)
                except Claimed as error:  # by this upload itself, after a doubt: which says more
                    doubt = doubt or error
                except (ConditionFailed, NoSuchUpload, Doubt) as error:
                    doubt = error
                except InvalidPart as error:
                    raise StorageFailed(where=key) from error
            stored = self.bucket.head(key)
            if etag := own_etag(stored, identity):
                return etag
            if stored is None and isinstance(doubt, ConditionFailed):
                self._refuse_folder(key)
            if _is_hopeless(doubt):
                break
            if stored is not None and claimant_of(stored) != identity:
                self._placeholders.end_overdue(key, stored)
        if isinstance(doubt, NoSuchUpload):  # aborted by a sweep, before the placeholder was there
            self.withdraw(key, identity)
        raise StoreUnavailable(where=key) from doubt

    def _refuse_folder(self, key: str) -> None:
        """To SeaweedFS "a" is a folder's name once there is "a/b": a condition always finds something there, and nobody
        can read it. Where it was another file that is gone by now, the name was taken all the same."""
        if any(self.bucket.pages(f"{key}/", limit=1)):
            raise NameTaken

    def withdraw(self, key: str, identity: str) -> None:
        """See ``Placeholders``."""
        self._placeholders.withdraw(key, identity)


def _is_hopeless(doubt: Exception | None) -> bool:
    """Whether trying again is of no use: the engine is silent, or the multipart upload is gone."""
    return isinstance(doubt, NoSuchUpload) or (isinstance(doubt, Doubt) and not doubt.may_repeat)
