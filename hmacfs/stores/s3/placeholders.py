"""Placeholders: an upload's name is taken by a small object, which its completion replaces.

Only the creation of an object is exclusive everywhere: so a name is taken by that, once all parts are there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from hmacfs.errors import StoreUnavailable
from hmacfs.stores.s3.bucket import Bucket, ConditionFailed, Doubt, InvalidPart, NoSuchUpload, ObjectInfo
from hmacfs.stores.s3.claims import Claimed, Claims
from hmacfs.stores.s3.objects import claimant_of, placeholder_of, seal_of, sealed_parts, upload_id_of

log = logging.getLogger("hmacfs.stores")

#: A placeholder this old is a dead process's: a live one replaces its own at once, or learns that it cannot.
OVERDUE_SECONDS = 60.0


class Placeholders:
    """claims: by which one process at a time removes a dead one."""

    def __init__(self, bucket: Bucket, claims: Claims) -> None:
        self._bucket = bucket
        self._claims = claims

    def replace(
        self, key: str, upload_id: str, etags: Mapping[int, str], identity: str, placeholder: ObjectInfo | None
    ) -> str:
        """Make the parts of a multipart upload the file, in place of its placeholder, or of one that is made before;
        the file's entity tag. Raises what ``Bucket.put`` and ``complete`` do."""
        if placeholder is not None:
            etag = placeholder.etag
        else:  # the identity in it makes its entity tag one of its own
            attributes = placeholder_of(identity, upload_id, etags)
            etag = self._bucket.put(key, identity.encode(), attributes, is_new=True)
        return self._bucket.complete(key, upload_id, etags, etag=etag)

    def end_overdue(self, key: str, placeholder: ObjectInfo) -> None:
        """Have another upload's placeholder become its file if it is overdue, or go if that cannot be any more.

        A placeholder is there once all parts are, and then the completion alone is missing, which anybody can ask for.
        So no acknowledged byte is lost, and who was only slow finds its file. Times are the engine's alone."""
        if self._bucket.now() - placeholder.modified < OVERDUE_SECONDS:
            return
        upload_id = upload_id_of(placeholder)
        try:
            etags = sealed_parts(seal_of(placeholder), self._bucket.parts(key, upload_id))
            if etags:
                self._bucket.complete(key, upload_id, etags, etag=placeholder.etag)
        except NoSuchUpload:
            self._remove_dead(key, placeholder)
        except (ConditionFailed, InvalidPart, Doubt) as error:
            log.debug("an overdue upload could not be completed: %s", error)

    def withdraw(self, key: str, identity: str) -> None:
        """Take away the placeholder of an upload that is given up, of which nothing can become a file then. Raises
        ``StoreUnavailable`` if that cannot be done now."""
        stored = self._bucket.head(key)
        if stored is not None and claimant_of(stored) == identity:
            self._bucket.abort(key, upload_id_of(stored))
            self._remove_dead(key, stored)

    def _remove_dead(self, key: str, placeholder: ObjectInfo) -> None:
        """Remove a placeholder whose upload is gone: nobody can complete it any more. Raises ``StoreUnavailable``.

        One process at a time does it, by a claim: some engines ignore the condition of a deletion, and a second process
        would remove what was stored since the first one did. On these, one that is frozen before its deletion for
        longer than the claim holds could remove a file."""
        try:
            with self._claims.held("withdraw", key):
                again = self._bucket.head(key)  # it may have been completed just before it was gone
                if again is not None and again.etag == placeholder.etag:
                    try:
                        self._bucket.delete(key, etag=placeholder.etag)
                    except ConditionFailed:
                        log.debug("a placeholder was replaced while it was to be removed")
        except Claimed as error:
            raise StoreUnavailable(where=key) from error
