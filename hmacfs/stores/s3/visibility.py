"""Which objects readers are given.

A file that came in pieces and of which a digest is claimed can be judged only as an object: no engine gives the parts
of a multipart upload. Until that is done there is a note beside its unfinished upload, which was written before the
completion. It counts only together with ``begun``: the request that writes it may be carried out again, when all is
over.

====================  ======================  ====================================================
the object            the note, with begun    then
====================  ======================  ====================================================
not there             not there               bytes arrive
not there             there                   about to be completed
there                 there                   hidden: whoever has the lease reads it, and judges
there                 begun is removed        the digest holds: published
removed               there, then not         it does not: the upload has ended
====================  ======================  ====================================================

Whoever finds an upload in any of these goes on from there; the claims are in the record of its session, which was
written before the first of them. Other programs that read the bucket know nothing of the note.
"""

from __future__ import annotations

from typing import TypeGuard

from hmacfs.caching import RecentKeys
from hmacfs.stores.s3.bucket import Bucket, ObjectInfo
from hmacfs.stores.s3.notes import BEGUN, UNVERIFIED, is_upload_key
from hmacfs.stores.s3.objects import Keys, is_file, upload_key_of

#: Of how many judged files a process remembers the upload keys: of those that were asked for last.
_KNOWN_LIMIT = 10_000


class Visibility:
    """Looks for the note of each file that came in pieces, once."""

    def __init__(self, bucket: Bucket, keys: Keys) -> None:
        self._bucket = bucket
        self._keys = keys
        self._known = RecentKeys[str](_KNOWN_LIMIT)

    def shows(self, stored: ObjectInfo | None, key: str) -> TypeGuard[ObjectInfo]:
        """Whether there is a file for readers. stored: what was found a moment ago."""
        if not is_file(stored):
            return False
        # Not the entity tag: another upload of the same bytes has the same.
        upload_key = upload_key_of(stored)
        return not is_upload_key(upload_key) or upload_key in self._known or self._is_judged(key, stored, upload_key)

    def _is_judged(self, key: str, stored: ObjectInfo, upload_key: str) -> bool:
        if self._is_noted(upload_key, UNVERIFIED) and self._is_noted(upload_key, BEGUN):
            return False
        # One that is not what was claimed goes before its notes do.
        again = self._bucket.head(key)
        if again is None or again.etag != stored.etag:
            return False
        self._known.add(upload_key)
        return True

    def _is_noted(self, upload_key: str, note: str) -> bool:
        return self._bucket.head(self._keys.folder_of(upload_key) + note) is not None
