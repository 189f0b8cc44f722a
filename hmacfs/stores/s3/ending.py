"""The end of an upload: what it left in the bucket is removed, and what may turn up later is found again.

Requests may be carried out after their sender died or gave them up. So what is removed first is what they could work
on: the multipart uploads, then the placeholder, then the notes. Where that does not settle it, a note stays by which
a sweep looks again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from hmacfs.errors import HmacfsError
from hmacfs.stores.s3.bucket import ObjectInfo, Part
from hmacfs.stores.s3.inventory import Mark, marks_in
from hmacfs.stores.s3.notes import BEGUN, GIVEN_UP, LEFT, UNVERIFIED, Begun, Named, Notes, is_upload_key
from hmacfs.stores.s3.objects import identity_of
from hmacfs.stores.s3.publishing import Publisher

log = logging.getLogger("hmacfs.stores")


class Ending:
    """grace: for how many seconds a multipart upload may be there without its note. Methods raise what ``Bucket``'s
    do."""

    def __init__(self, publisher: Publisher, notes: Notes, *, grace: float) -> None:
        self._publisher = publisher
        self._notes = notes
        self._bucket = notes.bucket
        self._keys = notes.keys
        self._grace = grace
        self._named = Named(-math.inf)

    def survey(self) -> Mapping[str, float]:
        """List the notes of all uploads: when the newest of each was written, by upload keys. What ``discard`` finds of
        uploads that are over is judged by the last such listing, be it the one of the sweep before: an old one, or
        none, only makes it more careful."""
        newest, self._named = self._notes.survey()
        return newest

    def discard(self, upload_key: str, *, keep: str = "") -> None:
        """Remove an upload with its bytes. No error if there is none. What was begun is aborted first: after that
        nobody can complete it, and a placeholder of it is dead. keep: see ``conclude``."""
        if not is_upload_key(upload_key):
            return
        begun = self._notes.begun(upload_key)
        names = self._notes.names(upload_key) if begun is not None else []
        if begun is None or BEGUN not in names:
            self._look_again(upload_key)
            return
        key, marks, is_unverified = self._keys.of(begun.name), marks_in(names), UNVERIFIED in names
        self.abort(begun, marks, is_other=is_unverified)  # that file is removed as well
        if is_unverified:
            self._remove_file(key, begun.identity)
        self._publisher.withdraw(key, begun.identity)
        if GIVEN_UP in names:  # by one who did not get to the end
            keep = GIVEN_UP
        self.conclude(upload_key, begun, marks, keep=keep)

    def _look_again(self, upload_key: str) -> None:
        """For what may have turned up of an upload that is over. A process that died as soon as it had removed
        ``begun`` has left its marks, and no other note that tells."""
        given_up = self._notes.read_begun(upload_key, GIVEN_UP)
        marks = marks_in(self._notes.names(upload_key))
        begun = given_up or self._notes.read_begun(upload_key, LEFT) or self._read_marked(upload_key, marks)
        if begun is not None:
            key = self._keys.of(begun.name)
            if given_up is not None:
                self._remove_file(key, begun.identity)
            self._publisher.withdraw(key, begun.identity)
            if not self._abort_unnamed(key):
                return
        self.forget(upload_key)

    def conclude(self, upload_key: str, begun: Begun, ended: Collection[Mark], *, keep: str = "") -> None:
        """Forget an upload that is over, but for what a sweep has to look at again: another multipart upload of the
        name, which a note may name or not. ended: those that are completed or aborted. keep: ``LEFT`` or ``GIVEN_UP``,
        the note that stays in any case, since a request to publish the upload may still be on its way."""
        known = {mark.upload_id for mark in ended}
        found = self._bucket.uploads(self._keys.of(begun.name))
        if not keep and any(one.upload_id not in known for one in found):
            keep = LEFT
        if keep:
            self._notes.put(upload_key, keep, begun.to_json())
        self.forget(upload_key, ended, keep=keep)

    def forget(self, upload_key: str, ended: Collection[Mark] = (), *, keep: str = "") -> None:
        """Remove all notes: the upload has become a file, or nothing is left of it. ``begun`` goes first, since without
        it there is no upload any more: with it, the loss of any other would look as if its offset went back.

        ended: multipart uploads that are gone. Others are aborted: a process that has lost its lease without
        noticing may begin one. keep: not the note of that name, by which a sweep finds what may turn up."""
        names = [name for name in self._notes.names(upload_key) if name != keep]
        if BEGUN in names:
            self._notes.remove_begun(upload_key)
        marks = [mark for mark in marks_in(names) if mark not in ended]
        begun = self._read_marked(upload_key, marks)
        if begun is not None:
            self.abort(begun, marks, is_other=bool(ended))
        for name in names:
            if name != BEGUN:
                self._notes.remove(upload_key, name)

    def _read_marked(self, upload_key: str, marks: Collection[Mark]) -> Begun | None:
        """What they say is begun; ``None`` if there are none."""
        return next(filter(None, (self._notes.read_begun(upload_key, mark.name) for mark in marks)), None)

    def abort(self, begun: Begun, marks: Collection[Mark], *, is_other: bool = False) -> None:
        """Abort multipart uploads of an upload, but for the one that has become the file. is_other: that is none of
        these."""
        if not marks:
            return
        key = self._keys.of(begun.name)
        stored = self._bucket.head(key)
        if stored is not None and identity_of(stored) == begun.identity:
            found = {mark: self._notes.parts(key, mark.upload_id) for mark in marks}
            is_other = is_other or None in found.values()
            marks = [
                mark for mark, parts in found.items() if parts is not None and (is_other or not _may_be(parts, stored))
            ]
        for mark in marks:
            self._bucket.abort(key, mark.upload_id)

    def _abort_unnamed(self, key: str) -> bool:
        """Abort the multipart uploads of that key that no note named at the last ``survey``: a process died before it
        wrote the note, or the answer was lost that had the id. False if there are some that were young then: their
        notes may have come since."""
        found, named = self._bucket.uploads(key), self._named
        old = [one.upload_id for one in found if named.at - one.begun >= self._grace]
        unnamed = [upload_id for upload_id in old if upload_id not in named.upload_ids]
        file = self._bucket.head(key) if unnamed else None
        for upload_id in unnamed:
            if file is None or not _may_be(self._notes.parts(key, upload_id), file):
                self._bucket.abort(key, upload_id)
        return len(old) == len(found)

    def _remove_file(self, key: str, identity: str) -> None:
        """A file that turned out not to be what was announced, or that nobody wants any more."""
        stored = self._bucket.head(key)
        if stored is not None and identity_of(stored) == identity:
            self._bucket.delete(key, etag=stored.etag)


def _may_be(parts: Mapping[int, Part] | None, file: ObjectInfo) -> bool:
    """Whether a multipart upload with these parts may have become this file. It is gone then (``None``); but an engine
    that died before it forgot the parts, such as SeaweedFS, still tells of them, and its abort would take the file's
    bytes away."""
    return parts is None or (bool(parts) and sum(part.size for part in parts.values()) >= file.size)


@contextmanager
def tidying_up() -> Iterator[None]:
    """Of what is removed here, what cannot be removed now is left to the sweep."""
    try:
        yield
    except HmacfsError as error:
        log.debug("leftovers of an upload stay for the sweep: %s", error)
