"""An XMPP client as users have one: slixmpp with XEP-0363. A program of its own, since it brings its own event loop.

Takes a JSON job from standard input: ``jid`` (the account is made), ``port``, the upload ``service``, ``files`` to upload
(``name``, ``type``, ``path``) and ``slots`` to ask for (``name``, ``type``, ``size``). Prints a JSON object:

- services: the upload services that the server announces, each with the largest size it takes, in bytes;
- uploads: the download URL of each file, uploaded by the client's own means;
- slots: ``put`` and ``get`` (URLs) and ``headers`` of each slot, or ``refused`` with the server's condition. They are not
  used.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import slixmpp
from slixmpp.exceptions import IqError

UPLOAD = "urn:xmpp:http:upload:0"
TIMEOUT = 20


class Client(slixmpp.ClientXMPP):  # type: ignore[misc]
    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(job["jid"], "password")
        self.job = job
        self.outcome: dict[str, Any] = {}
        self.failure = ""
        self.enable_starttls = self.enable_direct_tls = False
        self.enable_plaintext = True
        for plugin in ("xep_0030", "xep_0077", "xep_0128", "xep_0363"):
            self.register_plugin(plugin)
        self.plugin["feature_mechanisms"].unencrypted_plain = True
        self.plugin["xep_0077"].force_registration = True
        self.add_event_handler("register", self.create_account)
        self.add_event_handler("session_start", self.work)
        self.add_event_handler("failed_auth", lambda _: self.fail("authentication failed"))
        self.add_event_handler("connection_failed", lambda reason: self.fail(f"no connection: {reason}"))

    def fail(self, reason: str) -> None:
        self.failure = reason
        self.disconnect()

    async def create_account(self, _: object) -> None:
        iq = self.Iq()
        iq["type"] = "set"
        iq["register"]["username"] = self.boundjid.user
        iq["register"]["password"] = self.password
        await iq.send(timeout=TIMEOUT)

    async def work(self, _: object) -> None:
        try:
            self.outcome["services"] = await self.services()
            self.plugin["xep_0363"].upload_service = slixmpp.JID(self.job["service"])
            self.outcome["uploads"] = [await self.upload(file) for file in self.job["files"]]
            self.outcome["slots"] = [await self.slot(wanted) for wanted in self.job["slots"]]
        except Exception as error:
            self.failure = repr(error)
        self.disconnect()

    async def services(self) -> dict[str, int]:
        found = {}
        for info in await self.plugin["xep_0030"].get_info_from_domain(timeout=TIMEOUT):
            if UPLOAD not in info["disco_info"]["features"]:
                continue
            for form in info["disco_info"].iterables:
                if form["values"]["FORM_TYPE"] == [UPLOAD]:
                    found[str(info["from"])] = int(form["values"]["max-file-size"])
        return found

    async def upload(self, file: dict[str, str]) -> str:
        with Path(file["path"]).open("rb") as data:
            url: str = await self.plugin["xep_0363"].upload_file(
                file["name"], content_type=file["type"], input_file=data, timeout=TIMEOUT
            )
        return url

    async def slot(self, wanted: dict[str, Any]) -> dict[str, Any]:
        service = slixmpp.JID(self.job["service"])
        try:
            answer = await self.plugin["xep_0363"].request_slot(
                service, wanted["name"], wanted["size"], wanted["type"], timeout=TIMEOUT
            )
        except IqError as error:
            return {"refused": error.condition}
        slot = answer["http_upload_slot"]
        headers = {header["name"]: header["value"] for header in slot["put"]["headers"]}
        return {"put": slot["put"]["url"], "get": slot["get"]["url"], "headers": headers}


async def main() -> int:
    job = json.load(sys.stdin)
    client = Client(job)
    client.connect("127.0.0.1", job["port"])
    await asyncio.wait_for(client.disconnected, 90)
    if client.failure:
        print(client.failure, file=sys.stderr)
        return 1
    json.dump(client.outcome, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
