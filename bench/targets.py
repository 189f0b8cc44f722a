"""What the figures are compared with, and what is wanted of them."""

from __future__ import annotations

from typing import NamedTuple


class Comparison(NamedTuple):
    """A figure of ``entry``, or its ratio to that of ``against``, and the bound that is wanted for it. Whether it is a
    lower or an upper one follows from the metric; ``None``: the figure is shown, and not judged. is_difference: it is
    how much more the entry's is, instead of the ratio."""

    text: str
    work: str
    entry: str
    metric: str
    bound: float | None
    against: str | None = None
    is_difference: bool = False


#: As before, or better: two equal ones differ by this much in their medians.
_NOT_LESS, _NOT_MORE = 0.95, 1.05

#: What ``--table`` measures, for README.
TABLE = (
    Comparison("PUT 1 GiB, one stream, against Go", "put-1g", "hmacfs", "gb_per_s", 1.3, "go"),
    Comparison("PUT 1 GiB, one stream, against nginx DAV", "put-1g", "hmacfs", "gb_per_s", 1.3, "nginx"),
    Comparison("PUT 1 GiB to disk, fsync, against Go without", "put-1g-fsync", "hmacfs-fsync", "gb_per_s", 1.0, "go"),
    Comparison("PUT 8 x 32 MiB against Go", "put-8x32m", "hmacfs", "gb_per_s", 1.1, "go"),
    Comparison("PUT 1 MiB, 16 connections, against Go", "put-1m", "hmacfs", "per_s", 1.1, "go"),
    Comparison("PUT 64 KiB, 32 connections, against Go", "put-64k", "hmacfs", "per_s", 0.85, "go"),
    Comparison("PUT 1 KiB, 32 connections, against Go", "put-1k", "hmacfs", "per_s", 0.7, "go"),
    Comparison("GET 1 GiB against Go", "get-1g", "hmacfs", "gb_per_s", 1.7, "go"),
    Comparison("GET 1 GiB against nginx", "get-1g", "hmacfs", "gb_per_s", 1.7, "nginx"),
    Comparison("GET 1 MiB, 16 connections, against Go", "get-1m", "hmacfs", "per_s", 1.1, "go"),
    Comparison("GET 16 KiB, 32 connections, against Go", "get-16k", "hmacfs", "per_s", 0.65, "go"),
    Comparison("GET 16 KiB of 5,000 files in turn against Go", "get-16k-many", "hmacfs", "per_s", 0.65, "go"),
    Comparison("GET 16 KiB behind nginx against bare nginx", "get-16k", "hmacfs+nginx", "per_s", 0.9, "nginx"),
    Comparison("instructions of a PUT of 1 KiB", "instructions", "hmacfs", "put_1k", 302_000.0),
    Comparison("instructions of a GET of 16 KiB", "instructions", "hmacfs", "get_16k", 252_000.0),
    Comparison("instructions of a PUT of 1 KiB against before", "instructions", "hmacfs", "put_1k", 0.65, "before"),
    Comparison("instructions of a GET of 16 KiB against before", "instructions", "hmacfs", "get_16k", 0.65, "before"),
    Comparison("PUT 1 GiB behind nginx against Go there", "put-1g-nginx", "hmacfs+nginx", "gb_per_s", 1.0, "go+nginx"),
    *(
        Comparison(
            f"{text} behind HAProxy against Go there", f"{work}-haproxy", "hmacfs+haproxy", metric, None, "go+haproxy"
        )
        for text, work, metric in (
            ("PUT 1 GiB", "put-1g", "gb_per_s"),
            ("GET 1 GiB", "get-1g", "gb_per_s"),
            ("PUT 1 KiB", "put-1k", "per_s"),
        )
    ),
    *(
        Comparison(f"{text} over TLS against {whose}", f"tls-{work}", "hmacfs-tls", metric, None, other)
        for text, work, metric in (
            ("PUT 1 GiB", "put-1g", "gb_per_s"),
            ("GET 1 GiB", "get-1g", "gb_per_s"),
            ("GET 16 KiB", "get-16k", "per_s"),
        )
        for whose, other in (("Go", "go-tls"), ("nginx", "nginx-tls"))
    ),
    Comparison("PUT 1 KiB to a disk, four servers at once, against Go", "put-1k-stores", "hmacfs", "per_s", None, "go"),
    Comparison("memory at rest, 2 workers, MiB", "memory", "hmacfs", "idle_pss_mib", 75.0),
    Comparison("start to the first answer, s", "start", "hmacfs", "start_s", 0.5),
    Comparison(
        "throttled PUT, CPU per GB against before", "throttled-put", "hmacfs", "cpu_per_gb", _NOT_MORE, "before"
    ),
    Comparison(
        "throttled GET, CPU per GB against before", "throttled-get", "hmacfs", "cpu_per_gb", _NOT_MORE, "before"
    ),
    Comparison("PUT 64 KiB beside 200 slow against before", "slow-and-fast", "hmacfs", "per_s", _NOT_LESS, "before"),
    Comparison("PUT 1 KiB beside 5,000 idle against before", "idle", "hmacfs", "per_s", _NOT_LESS, "before"),
)

#: Those with a bound, of the table and besides.
TARGETS = (
    *(comparison for comparison in TABLE if comparison.bound is not None),
    Comparison("PUT 1 KiB durable against the disk alone", "put-1k-fsync", "hmacfs-fsync", "per_s", 0.5, "disk alone"),
    Comparison("memory's growth by an upload of 2 GiB, MiB", "memory", "hmacfs", "growth_mib", 16.0),
    Comparison(
        "latency durable in 1,000,000 files against none",
        "million-hmacfs-fsync",
        "filled store",
        "p50_ms",
        1.2,
        "empty store",
    ),
    Comparison(
        "latency not durable in 1,000,000 files against none",
        "million-hmacfs",
        "filled store",
        "p50_ms",
        1.2,
        "empty store",
    ),
    Comparison("200 MiB by tus in pieces of 8 MiB against a plain PUT", "tus", "tus", "gb_per_s", 0.7, "plain PUT"),
    Comparison("99 % of an honest client's uploads under all attacks, ms", "attack", "all at once", "p99_ms", 1000.0),
    Comparison("an honest client's uploads refused under all attacks", "attack", "all at once", "refused", 0.0),
    Comparison("CPU seconds per GB received against Go", "put-1g", "hmacfs", "cpu_per_gb", 0.7, "go"),
)

#: What ``--s3`` measures.
S3_TABLE = (
    Comparison(
        "PUT 1 KiB, CPU ms more than in a folder",
        "s3-put-1k",
        "s3",
        "cpu_ms",
        0.5,
        "folder",
        is_difference=True,
    ),
    Comparison(
        "PUT 1 KiB, CPU ms more than without fsync",
        "s3-put-1k",
        "s3",
        "cpu_ms",
        None,
        "folder, no fsync",
        is_difference=True,
    ),
    Comparison("PUT 1 KiB, 8 connections, against boto3", "s3-put-1k", "s3", "per_s", 1.0, "boto3"),
    Comparison("PUT 1 KiB, 8 connections, against a folder", "s3-put-1k", "s3", "per_s", None, "folder"),
    Comparison("PUT 128 MiB, CPU s per GB", "s3-put-128m", "s3", "cpu_per_gb", 0.9),
    Comparison("PUT 128 MiB against rclone", "s3-put-128m", "s3", "gb_per_s", 1.0, "rclone"),
    Comparison("PUT 128 MiB against boto3, parts of 8 MiB", "s3-put-128m", "s3", "gb_per_s", None, "boto3"),
    Comparison("PUT 128 MiB against a folder", "s3-put-128m", "s3", "gb_per_s", None, "folder"),
    Comparison("PUT 1 GiB, CPU s per GB", "s3-put-1g", "s3", "cpu_per_gb", None),
    Comparison("PUT 1 GiB against rclone", "s3-put-1g", "s3", "gb_per_s", 1.0, "rclone"),
    Comparison("PUT 1 GiB against boto3, parts of 8 MiB", "s3-put-1g", "s3", "gb_per_s", None, "boto3"),
    Comparison("PUT 8 x 128 MiB at once, CPU s per GB", "s3-put-8x128m", "s3", "cpu_per_gb", None),
    Comparison("PUT 8 x 128 MiB at once against a folder", "s3-put-8x128m", "s3", "gb_per_s", None, "folder"),
    Comparison("memory during that (RSS of all processes), MiB", "s3-put-8x128m", "s3", "peak_mib", None, "folder"),
    Comparison("GET 128 MiB against a folder", "s3-get-128m", "s3", "gb_per_s", None, "folder"),
    Comparison("GET 16 KiB, 8 connections, against a folder", "s3-get-16k", "s3", "per_s", None, "folder"),
)
