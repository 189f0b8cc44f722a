"""Claims in the session store: what one process at a time may do, where the engine's conditions do not decide that."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from hmacfs.errors import SessionStoreUnavailable, StoreUnavailable, Superseded
from hmacfs.stores.s3.bucket import Bucket, Doubt, InvalidPart, NoSuchUpload
from hmacfs.stores.s3.objects import own_etag, seal, sealed_parts
from hmacfs.stores.s3.renewal import Renewal
from hmacfs.system import clocks
from hmacfs.uploads.contracts.entries import Entries, Entry

#: How long one holds, and after how many of these seconds it is renewed.
CLAIM_SECONDS, _RENEW_SECONDS = 60.0, 15.0


class Claimed(Exception):
    """Somebody has the claim on the name."""

    def __init__(self) -> None:
        super().__init__("the name is claimed by an upload that is being completed, or was until a moment ago")


class Claims:
    """entries: where they are. Methods raise ``StoreUnavailable`` while these cannot be reached: then nobody knows who
    has what."""

    def __init__(self, bucket: Bucket, entries: Entries) -> None:
        self._bucket = bucket
        self._entries = entries

    @contextmanager
    def held(self, purpose: str, key: str) -> Iterator[None]:
        """Be the only one who does this to the key. The claim stays until it is over if that fails. Raises
        ``Claimed``."""
        entry = f"{purpose} {key}"
        known = self._read(entry, key)
        claim = self._take(entry, key, known, None)
        yield
        claim.give_up()

    # -- completion -----------------------------------------------------------------------------------

    def complete(self, key: str, upload_id: str, etags: Mapping[int, str], identity: str) -> str:
        """Make the parts of a multipart upload the file, under a claim on its name; its entity tag. Raises ``Claimed``,
        also if another upload has become the file by this, ``NameTaken``, and what ``Bucket.complete`` does.

        A claim is the right to ask for one completion, once: JuiceFS' gateway, asked twice at once for the same one,
        answers 200 and has a broken file. So nobody asks again, the same upload neither, until the claim is over.
        Whoever finds one that is over asks for the completion that it was for: its process is dead, or slow, and its
        file counts."""
        entry, right = f"claim {key}", _Right(identity, upload_id, seal(etags))
        known = self._read(entry, key)
        if known is not None and known.seconds_left <= 0:
            holder = _Right(*json.loads(known.value)["right"])
            if holder.identity != identity:
                if etag := own_etag(self._bucket.head(key), identity):
                    return etag
                self._complete_for(holder, entry, key, known)
        return self._use(right, entry, key, known, etags)

    def _complete_for(self, holder: _Right, entry: str, key: str, known: Entry) -> None:
        """For the holder of a claim that is over. Returns if its upload is gone, so that it can be completed no more;
        raises ``Claimed``, also if its parts are others by now: it lives, or a sweep will abort it."""
        try:
            etags = sealed_parts(holder.sealed, self._bucket.parts(key, holder.upload_id))
        except NoSuchUpload:
            return
        if etags:
            with suppress(NoSuchUpload, InvalidPart):
                self._use(holder, entry, key, known, etags)
        raise Claimed

    def _use(self, right: _Right, entry: str, key: str, known: Entry | None, etags: Mapping[int, str]) -> str:
        """Take the claim, and ask for the completion."""
        claim = self._take(entry, key, known, right)
        try:  # whoever had the claim before may have published since
            with claim.kept():
                etag = own_etag(self._bucket.head(key), right.identity)
                if not etag:
                    claim.check_held()
                    etag = self._bucket.complete(key, right.upload_id, etags)
        except Exception as error:
            # It stays until it is over if a request may be on its way: this one, or that of who had it before.
            if known is None and not isinstance(error, Doubt):
                claim.give_up()
            raise
        claim.give_up()
        return etag

    # -- entries --------------------------------------------------------------------------------------

    def _read(self, entry: str, key: str) -> Entry | None:
        with _reached(key):
            return self._entries.read(entry)

    def _take(self, entry: str, key: str, known: Entry | None, right: _Right | None) -> _Claim:
        """known: what it was. Raises ``Claimed`` if that is not over, or if somebody was faster."""
        if known is not None and known.seconds_left > 0:
            raise Claimed
        value, began = json.dumps({"holder": secrets.token_hex(16), "right": right}), clocks.boot_clock()
        with _reached(key):
            version = self._entries.replace(entry, None if known is None else known.version, value, CLAIM_SECONDS)
        if version is None:
            raise Claimed
        return _Claim(self._entries, entry, value, version, began)


class _Claim:
    """One that this process has taken. value: tells it from any other. began: when it was asked for, by
    ``boot_clock``."""

    def __init__(self, entries: Entries, entry: str, value: str, version: int, began: float) -> None:
        self._entries = entries
        self._entry = entry
        self._value = value
        self._version = version
        #: When it was last asked for; never, if it is lost.
        self._renewed = began

    def check_held(self) -> None:
        """Raises ``Claimed`` if somebody else may have it by now."""
        if clocks.boot_clock() - self._renewed >= CLAIM_SECONDS - clocks.MARGIN_SECONDS:
            raise Claimed

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renewed while a request is under way, which may take longer than it holds. In a command nobody renews it:
        there no greenlet runs while a thread waits."""
        renewal = Renewal(self)
        try:
            yield
        finally:
            renewal.stop()

    def check(self) -> None:
        """See ``Renewable``."""
        now = clocks.boot_clock()
        if now - self._renewed < _RENEW_SECONDS:
            return
        version = self._entries.replace(self._entry, self._version, self._value, CLAIM_SECONDS)
        if version is not None:
            self._version, self._renewed = version, now
            return
        if not self._find():
            self._renewed = -math.inf
            raise Superseded

    def give_up(self) -> None:
        with suppress(SessionStoreUnavailable):  # it is over soon
            if not self._entries.remove(self._entry, self._version) and self._find():
                self._entries.remove(self._entry, self._version)

    def _find(self) -> bool:
        """Whether it is there as another version: that of a renewal of which no answer came."""
        known = self._entries.read(self._entry)
        if known is None or known.value != self._value:
            return False
        self._version = known.version
        return True


class _Right(NamedTuple):
    """To ask for the completion of this multipart upload. identity: of whose. sealed: the ``seal`` of its parts."""

    identity: str
    upload_id: str
    sealed: str


@contextmanager
def _reached(key: str) -> Iterator[None]:
    try:
        yield
    except SessionStoreUnavailable as error:
        raise StoreUnavailable(where=key) from error
