"""A client that stores files by boto3, as a program: python -m bench.boto ENDPOINT BUCKET small|large ARGUMENTS

small BODY PREFIX THREADS SECONDS: PUT one object after the other from each of so many threads.
large FILE KEY: one object, in parts of 8 MiB, one after the other.

The keys are those of AWS's environment. It prints what it did as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.processes import peak_bytes

PART_BYTES = 8 * 1024 * 1024


def client_of(endpoint: str, access_key: str, secret_key: str) -> Any:
    """As it is by default, but for the region and the style of the addresses, and a connection for each thread."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, max_pool_connections=32),
    )


def small(client: Any, bucket: str, body: bytes, prefix: str, threads: int, seconds: float) -> tuple[int, int]:
    """How many it stored, and their bytes."""
    counts = [0] * threads
    until = time.monotonic() + seconds

    def work(number: int) -> None:
        while time.monotonic() < until:
            client.put_object(Bucket=bucket, Key=f"{prefix}/{number}/{counts[number]}", Body=body)
            counts[number] += 1

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts), sum(counts) * len(body)


def large(client: Any, bucket: str, file: Path, key: str) -> tuple[int, int]:
    begun = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts: list[dict[str, object]] = []
    with file.open("rb") as source:
        while data := source.read(PART_BYTES):
            number = len(parts) + 1
            said = client.upload_part(Bucket=bucket, Key=key, UploadId=begun, PartNumber=number, Body=data)
            parts.append({"PartNumber": number, "ETag": said["ETag"]})
    client.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=begun, MultipartUpload={"Parts": parts})
    return 1, file.stat().st_size


def main(arguments: list[str]) -> None:
    endpoint, bucket, what, source, key, *more = arguments
    client = client_of(endpoint, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    client.head_bucket(Bucket=bucket)  # it loads what it needs with its first call
    act: Callable[[], tuple[int, int]]
    if what == "small":
        body, threads, seconds = Path(source).read_bytes(), int(more[0]), float(more[1])
        act = lambda: small(client, bucket, body, key, threads, seconds)  # noqa: E731
    else:
        act = lambda: large(client, bucket, Path(source), key)  # noqa: E731
    print("ready", flush=True)
    sys.stdin.readline()
    used, begin = _cpu_seconds(), time.monotonic()
    answered, moved = act()
    seconds = time.monotonic() - begin
    peak = peak_bytes(os.getpid())
    result = {"answered": answered, "moved": moved, "seconds": seconds, "cpu": _cpu_seconds() - used, "peak": peak}
    print(json.dumps(result), flush=True)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main(sys.argv[1:])
