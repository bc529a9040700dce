"""An S3 that survives being killed, and tiers on it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.clouds import DurableS3Server


@contextmanager
def running_s3(folder: Path) -> Iterator[DurableS3Server]:
    """The server for the length of a `with` block."""
    server = DurableS3Server(folder / "s3")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def tier_on(s3: DurableS3Server) -> Mapping[str, object]:
    """The settings of a tier in a new bucket, which find their credentials in every process."""
    credentials = {"key": s3.environment["AWS_ACCESS_KEY_ID"], "secret": s3.environment["AWS_SECRET_ACCESS_KEY"]}
    return {"url": s3.bucket(), "endpoint": s3.endpoint, "options": credentials}
