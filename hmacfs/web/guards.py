"""Checks that a request must pass before its view sees it, and the decorator that puts them before a view."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from hmacfs.caching import bounded_cache
from hmacfs.dialects import tus
from hmacfs.dialects.pieces import piece_of
from hmacfs.errors import (
    BadRequest,
    BadSignature,
    BadToken,
    LengthRequired,
    SizeMismatch,
    SlotMismatch,
    TokenExpired,
    TooLarge,
)
from hmacfs.protocol.keyring import Keyring
from hmacfs.protocol.names import MOUNT_POINT, StoredName
from hmacfs.protocol.signing import Scheme, SignedRequest, Verified, schemes_in, v_alone, verify, verify_v
from hmacfs.web.messages import Check, Request, Response, View

# On Python 3.11 each look-up of an enum's member is a call in Python.
_V3 = Scheme.V3

#: Names of downloads that are remembered: judging one costs ten times as much as finding it.
_NAMES = 1024

#: What a request with a wrong signature, or without one, ends in.
SIGNATURE_FAILURES = (BadSignature, BadToken, TokenExpired, SlotMismatch)
#: What a signature that does not show an upload's progress ends in.
NOT_ENTITLED = (*SIGNATURE_FAILURES, SizeMismatch)


class Guards:
    """The checks of names and signatures (docs/protocol.md, sections 1 and 2).

    prefix: the mount point with both slashes. count_failure: called for each request whose signature fails, and may
    raise ``RateLimited``; ``None`` if they are not counted. signed_downloads: ``RequireSignedDownloads``.
    accept_guessed_type, accept_unsized_chunks: the settings of these names. clock: gives Unix seconds.
    """

    def __init__(
        self,
        keyring: Keyring,
        *,
        prefix: str,
        count_failure: Check | None = None,
        signed_downloads: bool = False,
        accept_guessed_type: bool = False,
        accept_unsized_chunks: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keyring = keyring
        self._prefix = prefix
        self._name_of = bounded_cache(_NAMES)(functools.partial(StoredName.from_path_info, prefix=prefix))
        self._mount_point = frozenset({prefix, prefix.removesuffix("/")})
        self._count_failure = count_failure
        self.signed_downloads = signed_downloads
        self._accept_guessed_type = accept_guessed_type
        self._accept_unsized_chunks = accept_unsized_chunks
        self._clock = clock

    def checked(self, *checks: Check | None) -> Callable[[View], View]:
        """A decorator: the request passes these checks, in this order, before the view sees it. ``None`` is a check
        that the settings leave out. A failed signature is counted, wherever it is found."""
        steps = tuple(check for check in checks if check is not None)
        count_failure = self._count_failure

        def decorate(view: View) -> View:
            @functools.wraps(view)
            def guarded(request: Request) -> Response:
                try:
                    for check in steps:
                        check(request)
                    return view(request)
                except SIGNATURE_FAILURES:
                    if count_failure is not None:
                        count_failure(request)
                    raise

            return guarded

        return decorate

    # -- names ------------------------------------------------------------------------------------

    def name(self, request: Request) -> None:
        """Sets ``request.name``. Raises ``BadName``."""
        request.name = StoredName.from_path_info(request.environ["PATH_INFO"], self._prefix)

    def name_or_folder(self, request: Request) -> None:
        """Like ``name``, but the path may be the mount point's or end in a slash: ``request.is_folder`` then, and the
        name is the folder's. Whether there is such a folder is not looked up."""
        path_info: str = request.environ["PATH_INFO"]
        if path_info in self._mount_point:
            request.is_folder, request.name = True, MOUNT_POINT
            return
        if path_info.endswith("/") and not path_info.endswith("//"):
            request.is_folder, path_info = True, path_info[:-1]
        request.name = self._name_of(path_info)

    # -- signatures -------------------------------------------------------------------------------

    def upload_signature(self, request: Request) -> None:
        """Demands a valid signature over the length of the file, of which a PUT may carry a piece. Sets
        ``request.piece`` and ``request.verified``.

        A malformed piece is refused only after the signature, where that can be judged without its length. A numbered
        chunk that does not tell the whole file's length has a signature over its own, which is good for every chunk of
        that length: then nothing that was signed bounds the file. ``AcceptUnsizedChunks`` allows it.
        Raises ``BadRequest``, ``TooLarge``, and what ``verify`` raises.
        """
        try:
            request.piece = piece = piece_of(request.environ)
            if piece is None or (piece.total is None and self._accept_unsized_chunks):
                length = request.length
            elif piece.total is None:
                raise BadRequest("X-File-Size is missing: the signature covers the whole file's size.")
            else:
                length = piece.total
        except (BadRequest, TooLarge) as problem:
            self._refuse_after_signature(request, problem)
        else:
            request.verified = self.verify(request, length)

    def creation_signature(self, request: Request) -> None:
        """The same for a POST that creates a tus upload: the slot's URL was signed for PUT, whichever dialect uses it.
        Sets ``request.verified``. Raises ``BadRequest``, ``TooLarge``, and what ``verify`` raises."""
        first, *others = tus.signable_types(request.environ)
        as_if: dict[str, Any] = {"method": "PUT", "content_type": first, "other_types": others}
        try:
            length = tus.upload_length(request.environ)
        except (BadRequest, TooLarge) as problem:
            self._refuse_after_signature(request, problem, **as_if)
        try:
            request.verified = self.verify(request, length, **as_if)
        except LengthRequired:
            raise BadRequest("This signature covers the file's length: send Upload-Length.") from None

    def _refuse_after_signature(self, request: Request, problem: BadRequest | TooLarge, **as_if: Any) -> NoReturn:
        """Raise ``problem``, unless the request has no signature that could hold: then that is what it is refused for.
        as_if: as for ``verify``."""
        with suppress(LengthRequired):
            self.verify(request, None, **as_if)
        raise problem from None

    def download_signature(self, request: Request) -> None:
        """Checks a v3 signature where a GET carries one, and demands it where downloads have to be signed. Sets
        ``request.verified``. Raises ``BadRequest``, ``BadSignature``.

        The other schemes sign uploads and say nothing here: people paste their slot's URL, and a cache-buster may be
        called "v" too.
        """
        query = request.environ.get("QUERY_STRING")
        if query and _V3 in schemes_in(query):
            request.verified = self.verify(request, None)
        elif self.signed_downloads:
            raise BadSignature

    def probe_signature(self, request: Request) -> bool:
        """The same for HEAD, which may carry an upload's signature too, to ask how far that is: true then, and the file
        itself must not be told of if downloads have to be signed."""
        if _V3 not in schemes_in(request.environ.get("QUERY_STRING", "")):
            return False
        try:
            request.verified = self.verify(request, None)
        except BadSignature:
            request.verified = self.verify(request, None, method="PUT")
            return True
        return False

    def may_be_signed(self, request: Request) -> bool:
        """Whether the request's signature could be that of an upload of this path: if it covers a length, only the
        upload's record tells which."""
        try:
            self.verify(request, None, method="PUT")
        except LengthRequired:
            return True
        except NOT_ENTITLED:
            return False
        return False  # v3, which ``probe_signature`` has judged

    def is_signed(self, request: Request, length: int, content_type: str | None) -> bool:
        """Whether the request has the signature of an upload of this path, length and type."""
        try:
            self.verify(request, length, content_type=content_type, method="PUT")
        except NOT_ENTITLED:
            return False
        return True

    def verify(
        self,
        request: Request,
        length: int | None,
        *,
        content_type: str | None = None,
        other_types: Sequence[str] | None = None,
        method: str | None = None,
    ) -> Verified:
        """The request's signature, which must cover ``length`` bytes; as if it had the type and method given.

        A signature over the type may be over one of ``other_types`` too: see ``SignedRequest``. Raises what
        ``signing.verify`` raises.
        """
        environ = request.environ
        path = request.name.path
        query = environ.get("QUERY_STRING", "")
        if length is not None and (mac := v_alone(query)) is not None:
            return verify_v(path, length, mac, self._keyring)
        return verify(
            SignedRequest(
                method=method or request.method,
                url_path=self._prefix + path,
                path=path,
                length=length,
                content_type=content_type or request.content_type,
                query=query,
                authorization=environ.get("HTTP_AUTHORIZATION"),
                other_types=None if other_types is None else tuple(other_types),
            ),
            self._keyring,
            self._clock(),
            accept_guessed_type=self._accept_guessed_type,
        )
