"""Making a file visible under its name: exclusively, and so that each doubt about the outcome can be settled.

Every upload has an *identity*, which its object carries. Whatever the engine answered, or did not answer, a HEAD tells
afterwards whether the name is this upload's, another's, or nobody's: so a success is never told of another's file.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

from hmacfs.errors import HmacfsError, NameTaken, SessionStoreUnavailable, StoreUnavailable
from hmacfs.stores.s3.bucket import (
    Attributes,
    Bucket,
    ConditionFailed,
    Doubt,
    NoSuchUpload,
    ObjectInfo,
    Payload,
)
from hmacfs.stores.s3.objects import claimant_of, identity_of, placeholder_of, upload_of
from hmacfs.uploads.contracts.entries import Entries

log = logging.getLogger("hmacfs.stores")

#: Pauses before an attempt is made again, in seconds: a rival that is about to publish is done meanwhile.
_PAUSES = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
#: How long a claim in the session store holds. Whoever takes one over aborts its holder's upload first.
CLAIM_SECONDS = 60.0


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

    def create(self, key: str, payload: Payload, attributes: Attributes, identity: str) -> str:
        """Store a file of one portion; its entity tag. For engines with exclusive creation. Raises ``NameTaken``,
        ``StoreUnavailable``: then nothing is visible yet."""
        doubt: BaseException | None = None
        for _ in self._attempts(key):
            try:
                return self.bucket.put(key, payload, attributes, is_new=True)
            except (ConditionFailed, Doubt) as error:
                doubt = error
            stored = self.bucket.head(key)
            if etag := self._settle(stored, identity):
                return etag
            if stored is None and isinstance(doubt, ConditionFailed):
                self._refuse_folder(key)
            if _is_hopeless(doubt):
                break
        raise StoreUnavailable(where=key) from doubt

    def complete(self, key: str, upload_id: str, etags: Mapping[int, str], identity: str) -> str:
        """Make the parts of a multipart upload the file; its entity tag. Raises ``NameTaken``, ``StoreUnavailable``,
        ``InvalidPart``."""
        if self.is_exclusive():
            return self._complete_over_placeholder(key, upload_id, etags, identity)
        return self._complete_under_claim(key, upload_id, etags, identity)

    def _settle(self, stored: ObjectInfo | None, identity: str) -> str:
        """The entity tag if the name is this upload's; empty if it is nobody's, or will be somebody's. Raises
        ``NameTaken``."""
        if stored is None or claimant_of(stored):
            return ""
        if identity_of(stored) != identity:
            raise NameTaken
        return stored.etag

    def _refuse_folder(self, key: str) -> None:
        """To SeaweedFS "a" is a folder's name once there is "a/b": a condition always finds something there, and nobody
        can read it. Where it was another file that is gone by now, the name was taken all the same."""
        if self.bucket.list(f"{key}/", limit=1):
            raise NameTaken

    def _attempts(self, key: str) -> Iterator[None]:
        for number, pause in enumerate(_PAUSES, 1):
            if pause:
                self.sleep(pause)
            if number == len(_PAUSES):  # who has the name does not hurry, or is none any more
                with suppress(HmacfsError):
                    self._remove_dead(key)
            yield

    # -- with exclusive creation ----------------------------------------------------------------------

    def _complete_over_placeholder(self, key: str, upload_id: str, etags: Mapping[int, str], identity: str) -> str:
        """Only the creation of an object is exclusive everywhere: so the name is taken by a placeholder first, which
        the completion replaces."""
        doubt: BaseException | None = None
        for _ in self._attempts(key):
            claim, is_file = self._claim(key, upload_id, identity)
            if is_file:
                return claim
            try:
                return self.bucket.complete(key, upload_id, etags, etag=claim)
            except (ConditionFailed, NoSuchUpload, Doubt) as error:
                doubt = error
            if etag := self._settle(self.bucket.head(key), identity):
                return etag
            if _is_hopeless(doubt):
                break
        if isinstance(doubt, NoSuchUpload):  # aborted by a sweep, before the placeholder was there
            self.withdraw(key, identity)
        raise StoreUnavailable(where=key) from doubt

    def _claim(self, key: str, upload_id: str, identity: str) -> tuple[str, bool]:
        """The entity tag of our placeholder, or, if that is there already, of the file itself; and which of them it
        is."""
        doubt: BaseException | None = None
        for _ in self._attempts(key):
            try:
                # The identity in it makes its entity tag one of its own.
                payload = identity.encode()
                return self.bucket.put(key, payload, placeholder_of(identity, upload_id), is_new=True), False
            except (ConditionFailed, Doubt) as error:
                doubt = error
            stored = self.bucket.head(key)
            if etag := self._settle(stored, identity):
                return etag, True
            if stored is None and isinstance(doubt, ConditionFailed):
                self._refuse_folder(key)
            if stored is not None and claimant_of(stored) == identity:
                return stored.etag, False
            if _is_hopeless(doubt):
                break
        raise StoreUnavailable(where=key) from doubt

    def withdraw(self, key: str, identity: str) -> None:
        """Take the placeholder of an upload away that was aborted, which is what keeps it from being completed yet.
        Raises ``StoreUnavailable`` if that cannot be done now."""
        try:
            stored = self.bucket.head(key)
            if stored is not None and claimant_of(stored) == identity:
                self._remove_dead(key)
        except SessionStoreUnavailable as error:
            raise StoreUnavailable(where=key) from error

    def _remove_dead(self, key: str) -> None:
        """Remove a placeholder whose upload is gone: nobody can complete it any more.

        One process at a time does it, by a claim: some engines ignore the condition of a deletion, and a second process
        would remove what was stored since the first one did. On these, one that is frozen before its deletion for
        longer than the claim holds could remove a file."""
        stored = self.bucket.head(key)
        if stored is None or not claimant_of(stored) or not self._is_gone(key, upload_of(stored)):
            return
        entry = f"withdraw {key}"
        known = self._claims.read(entry)
        if known is not None and known.seconds_left > 0:
            raise StoreUnavailable(where=key)
        version = self._claims.replace(entry, None if known is None else known.version, "", CLAIM_SECONDS)
        if version is None:
            raise StoreUnavailable(where=key)
        again = self.bucket.head(key)  # it may have been completed just before it was gone
        if again is not None and again.etag == stored.etag:
            try:
                self.bucket.delete(key, etag=stored.etag)
            except ConditionFailed:
                log.debug("a placeholder was replaced while it was to be removed")
        self._give_up_claim(entry, version)

    def _is_gone(self, key: str, upload_id: str) -> bool:
        try:
            self.bucket.parts(key, upload_id)
        except NoSuchUpload:
            return True
        return False

    # -- without it -----------------------------------------------------------------------------------

    def _complete_under_claim(self, key: str, upload_id: str, etags: Mapping[int, str], identity: str) -> str:
        """Raises ``StoreUnavailable`` too if the store of the claims cannot be reached: without it nobody knows whose
        the name is."""
        try:
            return self._complete_if_claimed(key, upload_id, etags, identity)
        except SessionStoreUnavailable as error:
            raise StoreUnavailable(where=key) from error

    def _complete_if_claimed(self, key: str, upload_id: str, etags: Mapping[int, str], identity: str) -> str:
        entry = f"claim {key}"
        doubt: BaseException | None = None
        for _ in self._attempts(key):
            if etag := self._settle(self.bucket.head(key), identity):
                return etag
            version = self._take_claim(entry, key, upload_id, identity)
            if version is None:
                continue
            try:
                # Whoever had the claim before may have published since.
                etag = self._settle(self.bucket.head(key), identity) or self.bucket.complete(key, upload_id, etags)
            except NameTaken:
                self._give_up_claim(entry, version)
                raise
            except (ConditionFailed, NoSuchUpload, Doubt) as error:
                doubt = error
                etag = self._settle(self.bucket.head(key), identity)
            if etag:
                self._give_up_claim(entry, version)
                return etag
            if _is_hopeless(doubt):
                break  # the claim stays until it is over: the request may still be on its way
        raise StoreUnavailable(where=key) from doubt

    def _give_up_claim(self, entry: str, version: int) -> None:
        with suppress(SessionStoreUnavailable):  # it is over soon
            self._claims.remove(entry, version)

    def _take_claim(self, entry: str, key: str, upload_id: str, identity: str) -> int | None:
        """The claim's version, ``None`` if another upload has it. One that is over is taken over only once its holder's
        upload is aborted, so that this can be completed no more."""
        known = self._claims.read(entry)
        if known is not None:
            holder = json.loads(known.value)
            if holder["id"] != identity:
                if known.seconds_left > 0:
                    return None
                self.bucket.abort(key, holder["upload"])
        value = json.dumps({"id": identity, "upload": upload_id})
        return self._claims.replace(entry, None if known is None else known.version, value, CLAIM_SECONDS)


def _is_hopeless(doubt: BaseException | None) -> bool:
    """Whether trying again is of no use: the engine is silent, or the multipart upload is gone."""
    return isinstance(doubt, NoSuchUpload) or (isinstance(doubt, Doubt) and not doubt.may_repeat)
