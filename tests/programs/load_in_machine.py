"""In the machine: uploads and downloads through nginx in some threads, until the file appears. Prints what was
answered: FILE."""

import collections
import http.client
import json
import os
import sys
import threading
import time
import uuid
from pathlib import Path

from hmacfs.protocol.keyring import Keyring, sign_v

keyring = Keyring([Path("/etc/hmac-file-server/secret").read_bytes().strip()])
answers: collections.Counter[str] = collections.Counter()
body = b"x" * 20000


def load(number: int) -> None:
    connection = http.client.HTTPConnection("localhost", timeout=60)
    while not os.path.exists(sys.argv[1]):
        name = uuid.uuid4().hex
        path = f"/upload/{name}"
        for method, target, data in (
            ("PUT", f"{path}?v={sign_v(keyring, name, len(body))}", body),
            ("GET", path, None),
        ):
            try:
                connection.request(method, target, data, {"Host": "files.example.org"})
                answer = connection.getresponse()
                answers[f"{method} {answer.status} {len(answer.read())}"] += 1
            except Exception as error:
                answers[f"{method} {error!r}"] += 1
                connection.close()
        time.sleep(number * 0.003)


threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(answers))
