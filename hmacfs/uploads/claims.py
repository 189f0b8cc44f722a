"""What is claimed of a file that comes in pieces: in the record of its session, so that whoever finishes it judges it.

Functions raise ``SessionStoreUnavailable``. The caller has the upload open.
"""

from __future__ import annotations

import dataclasses

from hmacfs.errors import SessionEnded
from hmacfs.uploads.contracts.sessions import SessionStore
from hmacfs.uploads.contracts.stores import PartialUpload
from hmacfs.uploads.session import Session, State


def with_claims(sessions: SessionStore, session: Session, upload: PartialUpload, claims: str) -> Session:
    """The session with these claims, or those that are known if there are none. They are recorded before the bytes are
    stored that complete the file: so nobody publishes it without judging it. Raises ``SessionEnded``."""
    if not claims:
        return with_known_claims(sessions, session, upload)
    if session.file_claims == claims:
        return session
    return sessions.save(dataclasses.replace(session, file_claims=claims))


def with_known_claims(sessions: SessionStore, session: Session, upload: PartialUpload) -> Session:
    """The session with what is claimed of its file, which an older copy of the record does not tell. Raises
    ``SessionEnded`` if the upload is over but for its bytes, which are removed."""
    newest = None if session.file_claims else sessions.newest(session.key)
    if newest is None:
        return session
    if newest.state is State.ABORTED:
        upload.discard()
        raise SessionEnded
    return dataclasses.replace(session, file_claims=newest.file_claims)
