"""HEAD on a slot's URL: the stored file, or how far its upload is (docs/protocol.md, sections 4 and 6)."""

from __future__ import annotations

import dataclasses

from hmacfs.errors import BadSignature, NotFound
from hmacfs.protocol.signing import Scheme, schemes_in
from hmacfs.uploads.session import Session
from hmacfs.uploads.tokens import key_of
from hmacfs.web.guards import Guards
from hmacfs.web.messages import Request, Response, View
from hmacfs.web.slot_views import SlotViews
from hmacfs.web.unproven import UnprovenLookups


@dataclasses.dataclass(frozen=True, slots=True)
class HeadView:
    """serve_file: answers from the store. guards, slots, unproven: judge which clients may know of an unfinished
    upload."""

    serve_file: View
    guards: Guards
    slots: SlotViews
    unproven: UnprovenLookups

    def head(self, request: Request) -> Response:
        """The headers of the file; without one, or where it must not be told of, the progress of the upload, to a
        client with its signature or token. Raises what ``Guards.probe_signature`` and ``serve_file`` raise."""
        is_of_upload = self.guards.probe_signature(request)
        try:
            if self.guards.signed_downloads and (is_of_upload or request.verified is None):
                raise BadSignature
            return self.serve_file(request)
        except (BadSignature, NotFound) as error:
            if request.is_folder or not (is_of_upload or _names_upload(request)):
                raise
            progress = self._progress(request, has_signature=is_of_upload)
            if progress is not None:
                return progress
            if isinstance(error, BadSignature):
                raise
        return self.serve_file(request)  # which the upload may have become between the two looks

    def _progress(self, request: Request, *, has_signature: bool) -> Response | None:
        """The progress of the slot's unfinished upload; ``None`` if there is none, or if nothing shows the client's
        right to know of it. has_signature: a v3 signature of the upload was verified, which covers no length."""

        def may_know(session: Session) -> bool:
            if has_signature or self.slots.knows_token(request, session):
                return True
            # The MAC of a numbered chunk of a file without length covers that chunk alone.
            return session.length is not None and self.guards.is_signed(request, session.length, session.content_type)

        token = request.header("X_SESSION_TOKEN") or ""
        if has_signature or self.unproven.is_known(token):
            found = self.slots.unfinished(request, may_know)
        elif key_of(token) is not None or self.guards.may_be_signed(request):
            with self.unproven.turn(request.client):
                found = self.slots.unfinished(request, may_know)
        else:
            return None
        if found is None:
            return None
        self.unproven.remember(found.session)
        return self.slots.probe(found)


def _names_upload(request: Request) -> bool:
    """Whether a HEAD has anything else than a v3 signature that could be the right to know of an upload."""
    carried = schemes_in(request.environ.get("QUERY_STRING", ""))
    if Scheme.V3 in carried:
        return False
    if carried or request.header("X_SESSION_TOKEN") is not None:
        return True
    return (request.header("AUTHORIZATION") or "").lower().startswith("bearer ")
