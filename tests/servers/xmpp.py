"""Real XMPP servers, configured with the snippets that ``deploy/`` ships."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers import Daemon, accepts_connections, as_user, free_port, give_to, require, require_binary

DEPLOY = Path(__file__).parents[2] / "deploy"
DOMAIN = "localhost"


def shipped(name: str, base_url: str, secret: str) -> str:
    """A snippet with this test's URL and secret in the place of the examples."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    return (
        text.replace("https://files.example.org/upload", base_url.rstrip("/"))
        .replace("put the Secret here", secret)
        .replace("example.org", DOMAIN)
    )


class XmppServer:
    """``port`` takes clients; everybody may register an account. ``services``: the upload services by their kind."""

    services: dict[str, str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._daemon: Daemon | None = None

    def launch(self, command: list[str], env: dict[str, str]) -> None:
        self._daemon = Daemon(command, folder=self.folder, env={**os.environ, **env})
        self._daemon.wait_until(lambda: accepts_connections(self.port), timeout=60, what="the XMPP server")

    def stop(self) -> None:
        if self._daemon is not None:
            self._daemon.stop()

    def log(self) -> str:
        return self._daemon.log() if self._daemon else ""


class Prosody(XmppServer):
    services = {"v": f"upload.{DOMAIN}", "v2": f"upload2.{DOMAIN}", "bearer": f"share.{DOMAIN}"}  # noqa: RUF012

    def __init__(self, folder: Path, base_url: str, secret: str) -> None:
        super().__init__(folder)
        binary = require_binary("prosody")
        modules = Path("/usr/lib/prosody/modules/mod_http_upload_external")
        require(modules if modules.exists() else None, "Debian's prosody-modules")
        (folder / "data").mkdir()
        (folder / "prosody.cfg.lua").write_text(
            f"""
pidfile = "{folder}/prosody.pid"
data_path = "{folder}/data"
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {self.port} }}
s2s_ports = {{ }}
http_ports = {{ }}
https_ports = {{ }}
modules_enabled = {{ "roster", "saslauth", "disco", "register", "ping" }}
modules_disabled = {{ "s2s", "tls" }}
allow_registration = true
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_plain"
log = {{ info = "*console" }}
VirtualHost "{DOMAIN}"
{shipped("prosody.cfg.lua", base_url, secret)}
"""
        )
        give_to(folder, "prosody")
        self.launch([*as_user("prosody"), binary, "-F", "--config", str(folder / "prosody.cfg.lua")], {})


class Ejabberd(XmppServer):
    services = {"v": f"upload.{DOMAIN}"}  # noqa: RUF012

    def __init__(self, folder: Path, base_url: str, secret: str) -> None:
        super().__init__(folder)
        binary = require_binary("ejabberdctl")
        for name in ("spool", "logs"):
            (folder / name).mkdir()
        modules = shipped("ejabberd.yml", base_url, secret).replace("modules:\n", "")
        (folder / "ejabberd.yml").write_text(
            f"""
hosts: ["{DOMAIN}"]
loglevel: info
listen:
  - port: {self.port}
    ip: "127.0.0.1"
    module: ejabberd_c2s
    access: c2s
auth_method: internal
acl:
  local: {{ user_regexp: "" }}
access_rules:
  local: {{ allow: local }}
  c2s: {{ allow: all }}
  register: {{ allow: all }}
registration_timeout: infinity
modules:
  mod_disco: {{}}
  mod_roster: {{}}
  mod_register: {{ access: register, ip_access: all }}
{modules}
"""
        )
        (folder / "ejabberdctl.cfg").write_text(
            f'ERLANG_NODE=test{self.port}@localhost\nERL_OPTIONS="-kernel inet_dist_use_interface {{127,0,0,1}}"\n'
        )
        (folder / "inetrc").write_text("{lookup,[file,native]}.\n")
        # Debian's insists on root or its own user, even where it has nothing to do as such.
        control = folder / "ejabberdctl"
        control.write_text(Path(binary).read_text().replace("INSTALLUSER=ejabberd", "INSTALLUSER="))
        control.chmod(0o755)
        give_to(folder, "ejabberd")
        self.launch(
            [
                *as_user("ejabberd"),
                str(control),
                *("--config", str(folder / "ejabberd.yml")),
                *("--ctl-config", str(folder / "ejabberdctl.cfg")),
                *("--spool", str(folder / "spool")),
                *("--logs", str(folder / "logs")),
                *("--config-dir", str(folder)),
                "foreground",
            ],
            # With a port of its own the Erlang node needs no epmd, which all nodes of a machine would share.
            {"ERL_DIST_PORT": str(free_port()), "HOME": str(folder)},
        )
