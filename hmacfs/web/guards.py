"""What a request must pass before a view sees it, as decorators, in the order of docs/protocol.md, section 3."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

from hmacfs.errors import BadRequest, LengthRequired, TooLarge
from hmacfs.protocol.keyring import Keyring
from hmacfs.protocol.names import MOUNT_POINT, StoredName
from hmacfs.protocol.signing import SignedRequest, Verified, verify
from hmacfs.web.messages import Request, Response, View
from hmacfs.web.slot_views import signed_length


class Guards:
    """Decorators for views. ``prefix`` is the mount point with both slashes."""

    def __init__(
        self,
        keyring: Keyring,
        *,
        prefix: str,
        accept_guessed_type: bool,
        accept_unsized_chunks: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._keyring = keyring
        self._prefix = prefix
        self._mount_point = frozenset({prefix, prefix.removesuffix("/")})
        self._accept_guessed_type = accept_guessed_type
        self._length_of = functools.partial(signed_length, accept_unsized_chunks=accept_unsized_chunks)
        self._clock = clock

    def named(self, view: View) -> View:
        """Sets ``request.name``. Raises ``BadName``."""

        @functools.wraps(view)
        def guarded(request: Request) -> Response:
            request.name = StoredName.from_path_info(request.environ["PATH_INFO"], self._prefix)
            request.is_folder = False
            return view(request)

        return guarded

    def named_or_folder(self, view: View) -> View:
        """Like ``named``, but the path may be the mount point's or end in a slash: ``request.is_folder`` then, and the
        name is the folder's. Whether there is such a folder is not looked up."""

        @functools.wraps(view)
        def guarded(request: Request) -> Response:
            path_info: str = request.environ["PATH_INFO"]
            if path_info in self._mount_point:
                request.is_folder, request.name = True, MOUNT_POINT
                return view(request)
            request.is_folder = path_info.endswith("/") and not path_info.endswith("//")
            request.name = StoredName.from_path_info(
                path_info.removesuffix("/") if request.is_folder else path_info, self._prefix
            )
            return view(request)

        return guarded

    def signed(self, view: View) -> View:
        """Demands a valid signature over the file's length and sets ``request.verified``. A malformed length counts
        only after that: see ``verify_length``."""

        @functools.wraps(view)
        def guarded(request: Request) -> Response:
            request.verified = self.verify_length(self._length_of, request)
            return view(request)

        return guarded

    def verify_length(
        self,
        length_of: Callable[[Request], int | None],
        request: Request,
        *,
        content_type: str | None = None,
        other_types: Sequence[str] | None = None,
        method: str | None = None,
    ) -> Verified:
        """``verify`` over the length that the request declares. If ``length_of`` refuses that, who has no signature
        that could hold hears of the signature alone. Raises what the two raise."""
        problem: BadRequest | TooLarge | None = None
        try:
            length = length_of(request)
        except (BadRequest, TooLarge) as error:
            length, problem = None, error
        try:
            verified = self.verify(request, length, content_type=content_type, other_types=other_types, method=method)
        except LengthRequired:
            raise problem or LengthRequired from None
        if problem is not None:
            raise problem
        return verified

    def verify(
        self,
        request: Request,
        length: int | None,
        *,
        content_type: str | None = None,
        other_types: Sequence[str] | None = None,
        method: str | None = None,
    ) -> Verified:
        """Check the request's signature, which must cover ``length`` bytes; as if it had the type and method given. A
        signature over the type may be over one of ``other_types`` too: see ``SignedRequest``."""
        environ = request.environ
        return verify(
            SignedRequest(
                method=method or request.method,
                url_path=self._prefix + request.name.path,
                path=request.name.path,
                length=length,
                content_type=content_type or request.content_type,
                query=environ.get("QUERY_STRING", ""),
                authorization=environ.get("HTTP_AUTHORIZATION"),
                other_types=None if other_types is None else tuple(other_types),
            ),
            self._keyring,
            self._clock(),
            accept_guessed_type=self._accept_guessed_type,
        )
