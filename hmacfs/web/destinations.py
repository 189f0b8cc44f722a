"""What a browser is going to use a file for (Fetch Metadata, ``Sec-Fetch-Dest``).

An uploaded script would run in every page that includes it under a policy that trusts this origin, and as a service
worker it would stay and answer for the origin itself. Browsers say what they fetch a file for, and no script can change
that header. Everything else (pictures, films, sound, what is opened or saved, ``fetch`` and
``XMLHttpRequest``) passes, as do clients that say nothing. Frames, ``<embed>`` and ``<object>`` are not refused: the
Content-Security-Policy of the files lets no page embed them.
"""

from __future__ import annotations

from hmacfs.errors import ForPages
from hmacfs.web.messages import Request

#: The destinations (Fetch standard, "request destination") at which the bytes are run, or become a page's style sheet.
RUN = frozenset(
    {"script", "worker", "sharedworker", "serviceworker", "audioworklet", "paintworklet", "sharedstorageworklet"}
    | {"style", "xslt", "speculationrules"}
)
#: Caches must not answer one destination with the answer to another.
VARY = ("Vary", "Sec-Fetch-Dest, Service-Worker")


def check_destination(request: Request) -> None:
    """Raises ``ForPages`` if the file would be run, or be a page's style sheet."""
    environ = request.environ
    # ``Service-Worker: script`` is what browsers without Fetch Metadata send as well.
    if environ.get("HTTP_SEC_FETCH_DEST") in RUN or "HTTP_SERVICE_WORKER" in environ:
        raise ForPages
