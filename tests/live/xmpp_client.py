"""An XMPP client as users have one: slixmpp with XEP-0363. A program of its own, since it brings its own event loop.

Takes a JSON job from standard input: the server's port, the upload service, and files (name, path, content type).
Prints a JSON list: for each file the slot's URLs and headers, and the status of the PUT.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import slixmpp
import yarl


class Client(slixmpp.ClientXMPP):  # type: ignore[misc]
    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(job["jid"], "password")
        self.job = job
        self.results: list[dict[str, Any]] = []
        self.failure = ""
        self.enable_starttls = self.enable_direct_tls = False
        self.enable_plaintext = True
        for plugin in ("xep_0030", "xep_0077", "xep_0128", "xep_0363"):
            self.register_plugin(plugin)
        self.plugin["feature_mechanisms"].unencrypted_plain = True
        self.plugin["xep_0077"].force_registration = True
        self.add_event_handler("register", self.create_account)
        self.add_event_handler("session_start", self.upload_all)
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
        await iq.send(timeout=20)

    async def upload_all(self, _: object) -> None:
        try:
            if self.job["discover"]:
                info = await self.plugin["xep_0363"].find_upload_service(timeout=20)
                if info is None or str(info["from"]) != self.job["service"]:
                    raise RuntimeError(f"the service was not found: {info}")
            for file in self.job["files"]:
                self.results.append(await self.upload(file))
        except Exception as error:
            self.failure = repr(error)
        self.disconnect()

    async def upload(self, file: dict[str, str]) -> dict[str, Any]:
        data = Path(file["path"]).read_bytes()
        slot = await self.plugin["xep_0363"].request_slot(
            slixmpp.JID(self.job["service"]), file["name"], len(data), file["type"], timeout=20
        )
        stanza = slot["http_upload_slot"]
        headers = {header["name"]: header["value"] for header in stanza["put"]["headers"]}
        async with aiohttp.ClientSession() as session:
            # The URL exactly as the server wrote it: yarl would escape it anew.
            url = yarl.URL(stanza["put"]["url"], encoded=True)
            async with session.put(url, data=data, headers={"Content-Type": file["type"], **headers}) as answer:
                status = answer.status
        return {"put": stanza["put"]["url"], "get": stanza["get"]["url"], "headers": list(headers), "status": status}


async def main() -> int:
    job = json.load(sys.stdin)
    client = Client(job)
    client.connect("127.0.0.1", job["port"])
    await asyncio.wait_for(client.disconnected, 90)
    if client.failure:
        print(client.failure, file=sys.stderr)
        return 1
    json.dump(client.results, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
