"""What a real browser does with files: it plays and shows what it may, runs nothing (docs/protocol.md, section 4)."""

from __future__ import annotations

import http.server
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.client import Answer, put
from tests.live.test_nginx import Pair
from tests.servers import folder_of, require_root, wait_until
from tests.servers.chromium import Chromium, Page
from tests.servers.hmacfs import HmacFileServer

MEDIA = Path(__file__).parent / "media"


class Elsewhere:
    """An origin of its own: it serves ``pages`` (path to type and body) as nothing should be served, without any header
    that protects, and notes every request in ``asked``."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.asked: list[str] = []
        elsewhere = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                elsewhere.asked.append(self.path)
                content_type, body = elsewhere.pages.get(self.path, ("text/html", b""))
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Access-Control-Allow-Origin", "*")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def page(self, path: str, body: str, content_type: str = "text/html") -> str:
        """The URL of a new page."""
        self.pages[path] = (content_type, body.encode())
        return self.url + path

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Site:
    """A way to reach the server: ``url`` is its origin's, ``put`` a signed upload."""

    def __init__(self, url: str, server: HmacFileServer, put: Callable[..., Answer]) -> None:
        self.url = url
        self.server = server
        self._put = put

    def stored(self, name: str, body: bytes, content_type: str | None) -> str:
        """The URL of a new file."""
        assert self._put(name, body, content_type).status == 201
        return self.url + self.server.path(name)


@pytest.fixture(scope="module", params=["direct", "A", "B"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server itself, and nginx in front of it in the two variants in which that sends the files."""
    if request.param == "direct":
        with HmacFileServer(tmp_path_factory.mktemp("server"), Durability="none") as server:
            yield Site(server.url, server, lambda *what: put(server, *what))
        return
    if request.param == "A":
        require_root("run nginx as another user than the server, by which it knows what not to serve")
    with folder_of("nobody") as folder:
        pair = Pair(folder, request.param)
        yield Site(f"http://127.0.0.1:{pair.nginx.port}", pair.server, pair.put)
        pair.nginx.kill()
        pair.server.daemon.kill()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    origin = Elsewhere()
    yield origin
    origin.stop()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all tests of this module."""
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser.page()


# -- what is shown --------------------------------------------------------------------------------

FILMS = [("film.mp4", "video/mp4"), ("film.webm", "video/webm")]
SOUNDS = [
    ("sound.mp3", "audio/mpeg"), ("sound.ogg", "audio/ogg"), ("sound.opus", "audio/ogg; codecs=opus"),
    ("sound.m4a", "audio/x-m4a"), ("sound.m4a", "audio/mp4"), ("sound.wav", "audio/wav"), ("sound.wav", "audio/x-wav"),
]  # fmt: skip
PICTURES = [
    ("picture.png", "image/png"), ("picture.jpg", "image/jpeg"), ("picture.gif", "image/gif"),
    ("picture.webp", "image/webp"),
]  # fmt: skip
_numbers = itertools.count()


@pytest.mark.parametrize("is_recorded", [True, False], ids=["recorded", "by-extension"])
@pytest.mark.parametrize(("file", "content_type"), FILMS + SOUNDS)
def test_films_and_sounds_play(site: Site, page: Page, file: str, content_type: str, is_recorded: bool) -> None:
    name = f"play/{next(_numbers)}/{file}"
    url = site.stored(name, (MEDIA / file).read_bytes(), content_type if is_recorded else None)
    assert page.open(url)
    player = "document.querySelector('video, audio')"
    wait_until(lambda: page.evaluate(f"{player}.readyState >= 2 || {player}.error !== null"), what="the first picture")
    assert page.evaluate(f"{player}.error && {player}.error.message") is None
    page.evaluate(f"{player}.play()")
    wait_until(lambda: page.evaluate(f"{player}.currentTime > 0"), what="the film to go on")
    assert page.evaluate(f"{player}.videoWidth") == (32 if file.startswith("film") else 0)
    assert page.evaluate(f"{player}.duration") > 0.2


@pytest.mark.parametrize(("file", "content_type"), PICTURES)
def test_pictures_are_shown(site: Site, page: Page, file: str, content_type: str) -> None:
    for number, recorded in enumerate([content_type, f"{content_type.upper()};a=b", None]):
        assert page.open(site.stored(f"show/{number}/{file}", (MEDIA / file).read_bytes(), recorded))
        wait_until(lambda: page.evaluate("document.images[0].complete"), what="the picture")
        assert page.evaluate("document.images[0].naturalWidth") == 16


@pytest.mark.parametrize("recorded", [None, "text/plain; charset=utf-8", "text/plain; charset=iso-8859-1"])
def test_text_is_shown_in_its_charset(site: Site, page: Page, recorded: str | None) -> None:
    text = "Grüße, ☃ and <b>more</b>" if recorded is None or "utf-8" in recorded else "Grüße"
    encoding = "iso-8859-1" if recorded and "8859" in recorded else "utf-8"
    assert page.open(site.stored(f"text/{next(_numbers)}.txt", text.encode(encoding), recorded))
    assert page.evaluate("document.body.innerText") == text
    assert page.evaluate("document.scripts.length + document.querySelectorAll('b').length") == 0


# -- what runs nothing ----------------------------------------------------------------------------

#: In all of these ``RUN`` becomes a script that tells of itself in three ways.
HTML = "<!doctype html><title>inert</title><body onload='RUN'><script>RUN</script><img src=x onerror='RUN'>"
SVG = "<svg xmlns='http://www.w3.org/2000/svg' onload='RUN'><script>RUN</script></svg>"
XHTML = "<html xmlns='http://www.w3.org/1999/xhtml'><body onload='RUN'><script>RUN</script></body></html>"
XSLT = (
    "<?xml version='1.0'?><?xml-stylesheet type='text/xsl' href='#sheet'?><!DOCTYPE doc [<!ATTLIST xsl:stylesheet id ID "
    "#REQUIRED>]><doc><xsl:stylesheet id='sheet' version='1.0' xmlns:xsl='http://www.w3.org/1999/XSL/Transform'>"
    f"<xsl:template match='/'>{XHTML}</xsl:template></xsl:stylesheet></doc>"
)
#: A picture and a script at once: "GIF89a" is a variable's name.
GIF = "GIF89a=0;RUN//\x01\x00\x01\x00"
PDF = (
    "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(RUN;app.alert\\(1\\))>>>>endobj\n"
    "2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>endobj\n"
    "trailer<</Root 1 0 R>>\n"
)
MULTIPART = f"--b\r\nContent-Type: text/html\r\n\r\n{HTML}\r\n--b--\r\n"
UTF_7 = "+ADw-script+AD4-RUN+ADw-/script+AD4-"

#: What is to be saved: name, type as sent, content.
TO_BE_SAVED: list[tuple[str, str | None, str]] = [
    ("page.html", "text/html", HTML), ("page.html", None, HTML), ("page", "Text/HTML", HTML), ("page.jpg", "text/html", HTML),
    ("page.txt", "TEXT/html ; charset=utf-8", HTML), ("page.png", "text/html;x", HTML), ("page", "text/htm", HTML),
    ("page", "application/xhtml+xml", XHTML), ("page.xhtml", None, XHTML), ("page", "text/xml", XHTML),
    ("page.xml", None, XHTML), ("page", "application/xml", XHTML), ("page", "text/xsl", XSLT), ("page", "text/xml", XSLT),
    ("page", "application/rss+xml", XHTML), ("page.jpg", "image/x+xml", XHTML), ("page", "video/x+xml;a", XHTML),
    ("page", "model/x+XML", XHTML), ("page", "application/vnd.wap.xhtml+xml", XHTML),
    ("drawing.svg", "image/svg+xml", SVG), ("drawing.svg", None, SVG), ("drawing.svgz", None, SVG),
    ("drawing.png", "IMAGE/SVG+XML", SVG), ("drawing.svg", "image/svg+xml; charset=utf-8", SVG),
    ("drawing.svg", "image/svg+xml ;a=b", SVG), ("drawing.svg", "image/png,image/svg+xml", SVG),
    ("paper.pdf", "application/pdf", PDF), ("paper.pdf", None, PDF), ("paper.png", "text/pdf", PDF),
    ("mixed", "multipart/x-mixed-replace; boundary=b", MULTIPART), ("mixed.mht", "multipart/related; boundary=b", MULTIPART),
    ("mail.eml", "message/rfc822", HTML), ("script.js", "text/javascript", "RUN"), ("script.js", None, "RUN"),
    ("unknown", "application/octet-stream", HTML), ("unknown", None, HTML), ("unknown", "nonsense", HTML),
    ("unknown", "*/*", HTML), ("unknown", "unknown/unknown", HTML), ("unknown", "application/x-unknown-content-type", HTML),
    ("page.html", "image/png, text/html", HTML), ("page.html", 'image/png;a=",text/html', HTML),
    ("style.css", "text/css", HTML), ("table.csv", None, HTML), ("notes.md", "text/markdown", HTML),
]  # fmt: skip
#: What may be shown, and is something else than its type says.
TO_BE_SHOWN: list[tuple[str, str | None, str]] = [
    ("page.txt", "text/plain", HTML), ("page.txt", None, HTML), ("page.html", "text/plain", HTML),
    ("page.html", "text/plain;charset=utf-7", UTF_7), ("page.html", "text/plain; charset=utf-16", HTML),
    ("page.html", "TEXT/PLAIN;text/html", HTML), ("drawing.svg", "text/plain", SVG), ("page.xml", "text/plain", XSLT),
    ("page.html", "image/png", HTML), ("page.jpg", None, HTML), ("page.html", "image/png;a=b", HTML),
    ("drawing.svg", "image/svg", SVG), ("drawing.svg", "image/svg-xml", SVG), ("drawing.svg", "image/gif", SVG),
    ("picture.gif", "image/gif", GIF), ("picture.html", "image/gif", GIF), ("page.html", "image/x-unknown", HTML),
    ("page.html", "video/mp4", HTML), ("page.html", "video/x-unknown", HTML), ("page.html", "audio/mpeg", HTML),
    ("list.m3u8", "audio/mpegurl", f"#EXTM3U\n{HTML}"), ("paper.pdf", "image/png", PDF),
]  # fmt: skip


def ids_of(files: list[tuple[str, str | None, str]]) -> list[str]:
    return [f"{name} as {content_type}" for name, content_type, _ in files]


class Trap:
    """A script, and what tells that it has run."""

    def __init__(self, page: Page, elsewhere: Elsewhere) -> None:
        self._page = page
        self._elsewhere = elsewhere
        self._id = f"ran-{next(_numbers)}"

    def armed(self, template: str) -> str:
        """The template with a script that uses no character of which XML, PDF or quotes make something else."""
        beacon = f"{self._elsewhere.url}/{self._id}"
        script = f"document.title=`{self._id}`;fetch(`{beacon}`);alert(`{self._id}`)"
        if template is PDF:
            script = script.replace("(", "\\(").replace(")", "\\)")
        return template.replace("RUN", script)

    def has_run(self) -> list[str]:
        """In which ways it did. The page is left: what it had begun by then is over once another page has asked."""
        found = ["title"] if self._page.evaluate("document.title") == self._id else []
        last = f"/after-{self._id}"
        self._page.open(self._elsewhere.page(last, "<!doctype html>"))
        wait_until(lambda: last in self._elsewhere.asked)
        found += ["beacon"] if f"/{self._id}" in self._elsewhere.asked else []
        return found + (["dialog"] if self._id in self._page.dialogs() else [])


@pytest.mark.parametrize(
    ("content_type", "template"),
    [("text/html", HTML), ("image/svg+xml", SVG), ("application/xhtml+xml", XHTML)],
    ids=["html", "svg", "xhtml"],
)
def test_the_trap_snaps_where_nothing_protects(
    page: Page, elsewhere: Elsewhere, content_type: str, template: str
) -> None:
    trap = Trap(page, elsewhere)
    assert page.open(elsewhere.page(f"/unprotected-{next(_numbers)}", trap.armed(template), content_type))
    assert {"beacon", "dialog"} <= set(trap.has_run())


@pytest.mark.parametrize(("name", "content_type", "template"), TO_BE_SAVED, ids=ids_of(TO_BE_SAVED))
def test_what_could_run_is_saved(
    site: Site, page: Page, elsewhere: Elsewhere, name: str, content_type: str | None, template: str
) -> None:
    trap = Trap(page, elsewhere)
    url = site.stored(f"saved/{next(_numbers)}/{name}", trap.armed(template).encode("latin-1"), content_type)
    assert not page.open(url)
    assert trap.has_run() == []


@pytest.mark.parametrize(("name", "content_type", "template"), TO_BE_SHOWN, ids=ids_of(TO_BE_SHOWN))
def test_what_lies_about_its_type_runs_nothing(
    site: Site, page: Page, elsewhere: Elsewhere, name: str, content_type: str | None, template: str
) -> None:
    trap = Trap(page, elsewhere)
    page.open(site.stored(f"lies/{next(_numbers)}/{name}", trap.armed(template).encode("latin-1"), content_type))
    assert trap.has_run() == []


EMBEDDED = [
    "<iframe src=URL></iframe>", "<embed src=URL>", "<object data=URL></object>", "<script src=URL></script>",
    "<link rel=stylesheet href=URL>",
]  # fmt: skip


@pytest.mark.parametrize("element", EMBEDDED)
def test_other_sites_pages_get_nothing_to_run_either(
    site: Site, page: Page, elsewhere: Elsewhere, element: str
) -> None:
    for name, content_type, template in [
        ("page.html", "text/html", HTML), ("page.txt", None, HTML), ("drawing.svg", "image/svg+xml", SVG),
        ("picture.gif", "image/gif", GIF), ("script.txt", None, "RUN"), ("paper.pdf", None, PDF),
    ]:  # fmt: skip
        trap = Trap(page, elsewhere)
        url = site.stored(f"embedded/{next(_numbers)}/{name}", trap.armed(template).encode("latin-1"), content_type)
        assert page.open(elsewhere.page(f"/embeds-{next(_numbers)}", element.replace("URL", url)))
        assert trap.has_run() == [], (name, element)


# -- pages of the same origin ---------------------------------------------------------------------

#: Ways in which a page may try to run URL, or to be styled by it: a promise of what has become of it.
_ELEMENT = "new Promise(done => {{const e = Object.assign(document.createElement('{0}'), {1}); e.onload = e.onerror = event => done(event.type); document.documentElement.append(e)}})"
_WORKER = "new Promise(done => {{const w = new {0}(URL); (w.port || w).onmessage = w.onmessage = event => done(event.data); w.onerror = () => done('error')}})"
RUN_BY = {
    "script": _ELEMENT.format("script", "{src: URL}"),
    "module": _ELEMENT.format("script", "{src: URL, type: 'module'}"),
    "import": "import(URL).then(() => 'load', () => 'error')",
    "style": _ELEMENT.format("link", "{rel: 'stylesheet', href: URL}"),
    "worker": _WORKER.format("Worker"),
    "shared worker": _WORKER.format("SharedWorker"),
    "service worker": "navigator.serviceWorker.register(URL).then(() => 'load', () => 'error')",
    "worklet": "new AudioContext().audioWorklet.addModule(URL).then(() => 'load', () => 'error')",
}
RUNNING = "globalThis.hasRun = 1; globalThis.postMessage && !globalThis.document && postMessage('run'); globalThis.onconnect = event => event.ports[0].postMessage('run')"


@pytest.mark.parametrize("way", RUN_BY)
def test_pages_of_the_same_origin_run_nothing_either(site: Site, page: Page, way: str) -> None:
    """Not even what the browser has in its cache, since it was looked at before."""
    name, content_type = ("s.css", "text/css") if way == "style" else ("s.js", "text/javascript")
    url = site.stored(f"same/{next(_numbers)}/{name}", RUNNING.encode(), content_type)
    page.open(site.url + "/healthz")
    assert fetched(page, url)["status"] == 200
    assert (
        page.evaluate(f"navigator.serviceWorker.controller || ({RUN_BY[way].replace('URL', json.dumps(url))})")
        == "error"
    )
    assert page.evaluate("globalThis.hasRun") is None


def test_those_ways_work_where_nothing_protects(page: Page, elsewhere: Elsewhere) -> None:
    page.open(elsewhere.page("/same", "<!doctype html>"))
    for way, script in RUN_BY.items():
        content_type = "text/css" if way == "style" else "text/javascript"
        url = elsewhere.page(f"/same-{next(_numbers)}", RUNNING, content_type)
        assert page.evaluate(script.replace("URL", json.dumps(url))) in ("load", "run"), way
    assert page.evaluate("globalThis.hasRun") == 1


@pytest.mark.parametrize("element", ["img", "video", "audio"])
def test_pages_show_what_may_be_shown(site: Site, page: Page, elsewhere: Elsewhere, element: str) -> None:
    """Of the same origin and of others."""
    file, content_type = {"img": PICTURES[0], "video": FILMS[1], "audio": SOUNDS[1]}[element]
    url = site.stored(f"shown/{next(_numbers)}/{file}", (MEDIA / file).read_bytes(), content_type)
    loaded = "onload" if element == "img" else "onloadeddata"
    for origin in (site.url + "/healthz", elsewhere.page("/shows", "<!doctype html>")):
        page.open(origin)
        shown = f"new Promise(done => {{const e = document.createElement('{element}'); e.{loaded} = () => done('load'); e.onerror = () => done('error'); e.src = {json.dumps(url)}}})"
        assert page.evaluate(shown) == "load"


# -- scripts of other origins ---------------------------------------------------------------------

#: What libraries, tracing and careful programmers send.
SENT = {
    "Accept": "x/y", "Authorization": "Bearer x", "Cache-Control": "no-cache", "Expires": "0", "Pragma": "no-cache",
    "If-None-Match": '"x"', "Range": "bytes=0-3", "X-Requested-With": "XMLHttpRequest", "X-Anything-Else": "1",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "a=b", "baggage": "a=b", "sentry-trace": "a-b-1",
}  # fmt: skip


def fetched(page: Page, url: str, **options: object) -> dict[str, object]:
    """What a script in the page gets to see of an answer."""
    script = f"""fetch({json.dumps(url)}, {json.dumps(options)}).then(async answer => ({{
        status: answer.status, text: await answer.text(), headers: Object.fromEntries(answer.headers)}}))"""
    found: dict[str, object] = page.evaluate(script)
    return found


def test_scripts_of_other_origins_may_send_any_header(site: Site, page: Page, elsewhere: Elsewhere) -> None:
    url = site.stored(f"cors/{next(_numbers)}.txt", b"0123456789", "text/plain")
    page.open(elsewhere.page("/script", "<!doctype html>"))
    for header, value in SENT.items():
        answer = fetched(page, url, headers={header: value})
        assert answer["status"] == (206 if header == "Range" else 200), header
    answer = fetched(page, url, headers=SENT)
    assert (answer["status"], answer["text"]) == (206, "0123")
    target = site.url + site.server.sign_v(f"cors/{next(_numbers)}.txt", 5)
    for status in (201, 409):
        answer = fetched(page, target, method="PUT", body="hello", headers=SENT | {"Range": "", "If-None-Match": "*"})
        assert answer["status"] == status


def test_scripts_of_other_origins_read_what_they_need(site: Site, page: Page, elsewhere: Elsewhere) -> None:
    """pdf.js asks for Accept-Ranges, Content-Length and Content-Encoding before it dares to ask for ranges."""
    url = site.stored(f"cors/{next(_numbers)}.pdf", b"0123456789", None)
    page.open(elsewhere.page("/reader", "<!doctype html>"))
    whole = fetched(page, url)["headers"]
    assert isinstance(whole, dict)
    assert whole["accept-ranges"] == "bytes"
    assert {"content-length", "content-type", "etag", "last-modified", "cache-control", "x-request-id"} <= set(whole)
    assert whole["content-disposition"] == "attachment"
    part = fetched(page, url, headers={"Range": "bytes=2-4"})["headers"]
    assert isinstance(part, dict)
    assert part["content-range"] == "bytes 2-4/10"
