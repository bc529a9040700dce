"""An S3 that survives being killed, tiers on it, and a home with such a tier."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.clouds import DurableS3Server
from tests.support.processes import free_ports
from tests.support.tiered import TieredHome


@contextmanager
def running_s3(folder: Path) -> Iterator[DurableS3Server]:
    """The server for the length of a `with` block."""
    server = DurableS3Server(folder / "s3")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def home_on(s3: DurableS3Server, folder: Path, catalog_url: str, **settings: object) -> TieredHome:
    """A home with the tiers hot and warm, rules that move all down and up again, and ports for a cluster of its own."""
    prefect_port, dask_port = free_ports(2)
    return TieredHome(
        folder / "home",
        catalog_url,
        {"warm": tier_on(s3)},
        migrations=[{"name": "down", "source": "hot", "target": "warm"}, {"name": "up", "source": "warm", "target": "hot"}],
        prefect_port=prefect_port,
        dask_port=dask_port,
        **settings,
    )


def tier_on(s3: DurableS3Server) -> Mapping[str, object]:
    """The settings of a tier in a new bucket, which find their credentials in every process."""
    credentials = {"key": s3.environment["AWS_ACCESS_KEY_ID"], "secret": s3.environment["AWS_SECRET_ACCESS_KEY"]}
    return {"url": s3.bucket(), "endpoint": s3.endpoint, "options": credentials}
