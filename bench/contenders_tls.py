"""Servers that speak TLS themselves: those of ``contenders`` with one certificate, and each with its own defaults."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from bench.contenders import BUILD, GoServer, Hmacfs, Nginx, program


class Certificate(NamedTuple):
    chain: Path
    key: Path


class TlsHmacfs(Hmacfs):
    """This project's server with gunicorn's TLS."""

    name = "hmacfs-tls"
    scheme = "https"

    def command(self, config: Path) -> list[str]:
        del config  # in HMACFS_CONFIG
        chain, key = certificate()
        command = [sys.executable, "-m", "gunicorn", "-c", str(self.tree / "gunicorn.conf.py")]
        return [*command, f"--certfile={chain}", f"--keyfile={key}", f"--chdir={self.tree}", "wsgi:app"]


class TlsNginx(Nginx):
    """nginx alone."""

    name = "nginx-tls"
    scheme = "https"

    def site(self) -> str:
        return with_tls(super().site(), certificate())


class TlsGoServer(GoServer):
    """The server in Go with the TLS of its standard library, and HTTP/1.1 as the others."""

    name = "go-tls"
    scheme = "https"

    def options(self) -> list[str]:
        return [str(path) for path in certificate()]


def with_tls(site: str, made: Certificate) -> str:
    """A site of nginx, with TLS where it listens."""
    lines = f"    ssl_certificate {made.chain};\n    ssl_certificate_key {made.key};\n"
    return re.sub(r"^( *listen .*?);\n", rf"\1 ssl;\n{lines}", site, flags=re.MULTILINE)


def certificate() -> Certificate:
    """One for 127.0.0.1, which curl and urllib trust from now on. Raises ``Unavailable``."""
    made = Certificate(BUILD / "certificate.pem", BUILD / "key.pem")
    if not made.chain.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        command = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        command += ["-nodes", "-days", "3650", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(made.key), "-out", str(made.chain)]
        subprocess.run(command, check=True, capture_output=True)
    os.environ.update(dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE"), str(made.chain)))
    return made
