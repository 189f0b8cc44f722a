"""The same upload and download as plain Flask views, with the usual loop that reads and writes.

Run as ``gunicorn bench.naive:app``; ``BENCH_STORE`` and ``BENCH_SECRET`` say where and with what.
"""

from __future__ import annotations

import hmac
import os

import flask

_CHUNK_BYTES = 64 * 1024

app = flask.Flask(__name__)
store = os.environ.get("BENCH_STORE", "")
secret = os.environ.get("BENCH_SECRET", "").encode()


@app.put("/upload/<path:path>")
def upload(path: str) -> tuple[str, int]:
    message = f"{path} {flask.request.content_length}".encode()
    if not hmac.compare_digest(hmac.digest(secret, message, "sha256").hex(), flask.request.args.get("v", "")):
        return "Forbidden", 403
    name = os.path.join(store, os.path.normpath(f"/{path}").lstrip("/"))
    os.makedirs(os.path.dirname(name), exist_ok=True)
    try:
        with open(name, "xb") as file:
            while chunk := flask.request.stream.read(_CHUNK_BYTES):
                file.write(chunk)
    except FileExistsError:
        return "Conflict", 409
    return "", 201


@app.get("/upload/<path:path>")
def download(path: str) -> flask.Response:
    return flask.send_from_directory(store, path)
