"""In the machine, as root: the status of an upload through nginx: NAME SIZE; an empty name is one of its own."""

import sys
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from hmacfs.protocol.keyring import Keyring, sign_v

name, size = sys.argv[1] or uuid.uuid4().hex, int(sys.argv[2])
secret = Path("/etc/hmac-file-server/secret").read_bytes().strip()
url = f"http://localhost/upload/{name}?v={sign_v(Keyring([secret]), name, size)}"
request = urllib.request.Request(url, b"x" * size, {"Host": "files.example.org"}, method="PUT")
try:
    print(urllib.request.urlopen(request, timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code)
