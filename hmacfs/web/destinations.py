"""What a browser wants a file for (Fetch Metadata, ``Sec-Fetch-Dest``).

An uploaded script would run in every page that includes it and whose policy trusts this origin, and as a service worker
it would stay and answer for the origin itself. Browsers say beforehand what they fetch a file for, and no script can
change that header. Everything else (pictures, films, sound, what is opened or saved, ``fetch`` and
``XMLHttpRequest``) passes, as do clients that say nothing. Frames, ``<embed>`` and ``<object>`` are not refused: the
Content-Security-Policy of the files lets nobody embed them.
"""

from __future__ import annotations

from hmacfs.errors import ForPages
from hmacfs.web.messages import Request

#: The destinations (Fetch standard, "request destination") whose bytes are run, or shape the page that asks.
RUN = frozenset(
    {"script", "worker", "sharedworker", "serviceworker", "audioworklet", "paintworklet", "sharedstorageworklet"}
    | {"style", "xslt", "speculationrules"}
)
#: Caches must not answer one destination with what another one got.
VARY = ("Vary", "Sec-Fetch-Dest, Service-Worker")


def check_destination(request: Request) -> None:
    """Raises ``ForPages`` if the file would be run, or be a page's style sheet."""
    environ = request.environ
    # ``Service-Worker: script`` is what browsers without Fetch Metadata send as well.
    if environ.get("HTTP_SEC_FETCH_DEST") in RUN or "HTTP_SERVICE_WORKER" in environ:
        raise ForPages
