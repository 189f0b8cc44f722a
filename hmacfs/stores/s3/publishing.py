"""Making a file visible under its name: exclusively, and so that each doubt about the outcome can be settled.

Every upload has an *identity*, which its object carries. Whatever the engine answered, or did not answer, a HEAD tells
afterwards whether the name is this upload's, another's, or nobody's: so a success is never told of another's file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from hmacfs.errors import NameTaken, SessionStoreUnavailable, StorageFailed, StoreUnavailable
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
from hmacfs.stores.s3.objects import claimant_of, identity_of, is_file, placeholder_of, sealed_parts, upload_id_of
from hmacfs.uploads.contracts.entries import Entries

log = logging.getLogger("hmacfs.stores")

#: Pauses before an attempt is made again, in seconds: a rival that is about to publish is done meanwhile.
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
#: How long a claim in the session store holds. Whoever takes one over aborts its holder's upload first.
CLAIM_SECONDS = 60.0
#: A placeholder this old is a dead process's: a live one replaces its own at once, or learns that it cannot.
OVERDUE_SECONDS = 60.0


class _Claimed(Exception):
    """Another upload has the claim on the name."""


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
        self._claims = claims
        self.is_exclusive = is_exclusive
        self.sleep = sleep or time.sleep  # asked for here: in a gevent worker it is cooperative only after the fork

    def check_free(self, key: str) -> None:
        """Raises ``NameTaken`` if there is a file, ``StoreUnavailable`` while another upload is about to become one."""
        stored = self.bucket.head(key)
        if stored is not None and claimant_of(stored):
            self._end_overdue(key, stored)
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
            return self._publish(key, identity, lambda _: self._complete_under_claim(key, upload_id, etags, identity))

        def replace(placeholder: ObjectInfo | None) -> str:
            """Only the creation of an object is exclusive everywhere: so the name is taken by a placeholder first,
            which the completion replaces."""
            if placeholder is not None:
                claim = placeholder.etag
            else:  # the identity in it makes its entity tag one of its own
                attributes = placeholder_of(identity, upload_id, etags)
                claim = self.bucket.put(key, identity.encode(), attributes, is_new=True)
            return self.bucket.complete(key, upload_id, etags, etag=claim)

        return self._publish(key, identity, replace)

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
                except (_Claimed, ConditionFailed, NoSuchUpload, Doubt) as error:
                    doubt = error
                except InvalidPart as error:
                    raise StorageFailed(where=key) from error
            stored = self.bucket.head(key)
            if etag := _own(stored, identity):
                return etag
            if stored is None and isinstance(doubt, ConditionFailed):
                self._refuse_folder(key)
            if _is_hopeless(doubt):
                break
            if stored is not None and claimant_of(stored) != identity:
                self._end_overdue(key, stored)
        if isinstance(doubt, NoSuchUpload):  # aborted by a sweep, before the placeholder was there
            self.withdraw(key, identity)
        raise StoreUnavailable(where=key) from doubt

    def _refuse_folder(self, key: str) -> None:
        """To SeaweedFS "a" is a folder's name once there is "a/b": a condition always finds something there, and nobody
        can read it. Where it was another file that is gone by now, the name was taken all the same."""
        if any(self.bucket.pages(f"{key}/", limit=1)):
            raise NameTaken

    # -- placeholders ---------------------------------------------------------------------------------

    def _end_overdue(self, key: str, placeholder: ObjectInfo) -> None:
        """Have another upload's placeholder become its file if it is overdue, or go if that cannot be any more.

        A placeholder is there once all parts are, and then the completion alone is missing, which anybody can ask for.
        So no acknowledged byte is lost, and who was only slow finds its file. Times are the engine's alone."""
        if self.bucket.now() - placeholder.modified < OVERDUE_SECONDS:
            return
        upload_id = upload_id_of(placeholder)
        try:
            etags = sealed_parts(placeholder, self.bucket.parts(key, upload_id))
            if etags:
                self.bucket.complete(key, upload_id, etags, etag=placeholder.etag)
        except NoSuchUpload:
            self._remove_dead(key, placeholder)
        except (ConditionFailed, InvalidPart, Doubt) as error:
            log.debug("an overdue upload could not be completed: %s", error)

    def withdraw(self, key: str, identity: str) -> None:
        """Take away the placeholder of an upload that is given up, of which nothing can become a file then. Raises
        ``StoreUnavailable`` if that cannot be done now."""
        stored = self.bucket.head(key)
        if stored is not None and claimant_of(stored) == identity:
            self.bucket.abort(key, upload_id_of(stored))
            self._remove_dead(key, stored)

    def _remove_dead(self, key: str, placeholder: ObjectInfo) -> None:
        """Remove a placeholder whose upload is gone: nobody can complete it any more. Raises ``StoreUnavailable``.

        One process at a time does it, by a claim: some engines ignore the condition of a deletion, and a second process
        would remove what was stored since the first one did. On these, one that is frozen before its deletion for
        longer than the claim holds could remove a file."""
        entry = f"withdraw {key}"
        with _claims_reached(key):
            known = self._claims.read(entry)
            if known is not None and known.seconds_left > 0:
                raise StoreUnavailable(where=key)
            version = self._claims.replace(entry, None if known is None else known.version, "", CLAIM_SECONDS)
        if version is None:
            raise StoreUnavailable(where=key)
        again = self.bucket.head(key)  # it may have been completed just before it was gone
        if again is not None and again.etag == placeholder.etag:
            try:
                self.bucket.delete(key, etag=placeholder.etag)
            except ConditionFailed:
                log.debug("a placeholder was replaced while it was to be removed")
        self._give_up_claim(entry, version)

    # -- claims, without exclusive creation -----------------------------------------------------------

    def _complete_under_claim(self, key: str, upload_id: str, etags: Mapping[int, str], identity: str) -> str:
        """Raises ``StoreUnavailable`` too if the store of the claims cannot be reached."""
        entry = f"claim {key}"
        with _claims_reached(key):
            version = self._take_claim(entry, key, upload_id, identity)
        try:  # whoever had the claim before may have published since
            etag = _own(self.bucket.head(key), identity) or self.bucket.complete(key, upload_id, etags)
        except NameTaken:
            self._give_up_claim(entry, version)
            raise
        # After a doubt it stays until it is over: the request may still be on its way.
        self._give_up_claim(entry, version)
        return etag

    def _give_up_claim(self, entry: str, version: int) -> None:
        with suppress(SessionStoreUnavailable):  # it is over soon
            self._claims.remove(entry, version)

    def _take_claim(self, entry: str, key: str, upload_id: str, identity: str) -> int:
        """The claim's version. One that is over is taken over only once its holder's upload can be completed no more.
        Raises ``_Claimed``."""
        known = self._claims.read(entry)
        if known is not None:
            holder = json.loads(known.value)
            if holder["id"] != identity:
                if known.seconds_left > 0:
                    raise _Claimed
                if not is_file(self.bucket.head(key)):  # which the holder's upload may have become
                    self.bucket.abort(key, holder["upload"])
        value = json.dumps({"id": identity, "upload": upload_id})
        version = self._claims.replace(entry, None if known is None else known.version, value, CLAIM_SECONDS)
        if version is None:
            raise _Claimed
        return version


@contextmanager
def _claims_reached(key: str) -> Iterator[None]:
    """Without the store of the claims nobody knows whose the name is."""
    try:
        yield
    except SessionStoreUnavailable as error:
        raise StoreUnavailable(where=key) from error


def _own(stored: ObjectInfo | None, identity: str) -> str:
    """The entity tag if this is the upload's file; empty if it is none, or none yet. Raises ``NameTaken``."""
    if stored is None or claimant_of(stored):
        return ""
    if identity_of(stored) != identity:
        raise NameTaken
    return stored.etag


def _is_hopeless(doubt: Exception | None) -> bool:
    """Whether trying again is of no use: the engine is silent, or the multipart upload is gone."""
    return isinstance(doubt, NoSuchUpload) or (isinstance(doubt, Doubt) and not doubt.may_repeat)
