"""Object stores that the tests talk to over HTTP, each a process of its own that can be killed and started again."""

import base64
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from azure.storage.blob import BlobServiceClient
from botocore.config import Config  # type: ignore[import-untyped]  # botocore ships no types
from botocore.session import Session  # type: ignore[import-untyped]  # botocore ships no types

from tests.support.processes import Daemon, clean_environment, free_ports

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / ".tools" / "npm" / "node_modules" / ".bin"  # put there by .ci/tools

_START_TIMEOUT = 60.0


class Server:
    """A server on a port of its own, with its data in a directory."""

    name: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_ports(1)[0]
        self._process: Daemon | None = None

    @property
    def environment(self) -> Mapping[str, str]:
        """Where clients find their credentials."""
        raise NotImplementedError

    def command(self) -> list[str | Path]:
        """What is started."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, also again on the same port, and wait until it listens."""
        self._process = Daemon(self.command(), log=self.directory / f"{self.name}.log", env=clean_environment())
        self._process.wait_for_port(self.port, within=_START_TIMEOUT)

    def stop(self) -> None:
        """Ask it to end. Harmless when it has."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()

    def restart(self) -> None:
        """kill -9, and start again."""
        self.kill()
        self.start()


class S3Server(Server):
    """An S3 that keeps everything in memory (moto), storage classes and restores included."""

    name = "s3"

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Where clients find their credentials."""
        return {"AWS_ACCESS_KEY_ID": "S3RVER", "AWS_SECRET_ACCESS_KEY": "S3RVER", "AWS_DEFAULT_REGION": "us-east-1"}

    def command(self) -> list[str | Path]:
        """See Server."""
        serve = f"""
from moto.server import main
from werkzeug.serving import WSGIRequestHandler
WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections are kept, as every S3 does
main(["-H", "127.0.0.1", "-p", "{self.port}"])
"""
        return [sys.executable, "-c", serve]

    def bucket(self) -> str:
        """The URL of a new bucket."""
        return new_bucket(self.endpoint, self.environment)


class DurableS3Server(S3Server):
    """An S3 that has its objects in files (s3rver), so that they survive kill -9 of it. It knows no storage classes."""

    def command(self) -> list[str | Path]:
        """See Server."""
        data = self.directory / "objects"
        data.mkdir(exist_ok=True)
        return [PROGRAMS / "s3rver", "--directory", data, "--address", "127.0.0.1", "--port", str(self.port), "--no-vhost-buckets"]


class Azurite(Server):
    """Microsoft's own emulator of Azure Blob Storage.

    It writes its catalog every few seconds and when it is stopped: kill -9 loses the rest.
    """

    name = "azurite"

    account = "devstoreaccount1"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._key = base64.b64encode(secrets.token_bytes(32)).decode()

    @property
    def endpoint(self) -> str:
        """The URL of the account."""
        return f"http://127.0.0.1:{self.port}/{self.account}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Where clients find the account and its key."""
        return {"AZURE_STORAGE_ACCOUNT_NAME": self.account, "AZURE_STORAGE_ACCOUNT_KEY": self._key}

    def command(self) -> list[str | Path]:
        """See Server."""
        arguments = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobHost", "127.0.0.1", "--blobPort", str(self.port)]
        accounts = f"AZURITE_ACCOUNTS={self.account}:{self._key}"
        return ["env", accounts, PROGRAMS / "azurite-blob", *arguments, "--location", self.directory / "blobs"]

    def bucket(self) -> str:
        """The URL of a new container."""
        name = _name()
        credential = {"account_name": self.account, "account_key": self._key}
        with BlobServiceClient(self.endpoint, credential=credential) as client:
            client.create_container(name)
        return f"az://{name}/tier"


def new_bucket(endpoint: str, environment: Mapping[str, str]) -> str:
    """The URL of a new bucket of an S3."""
    client = Session().create_client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment.get("AWS_DEFAULT_REGION", "us-east-1"),
        config=Config(s3={"addressing_style": "path"}),
    )
    name = _name()
    try:
        client.create_bucket(Bucket=name)
    finally:
        client.close()
    return f"s3://{name}/tier"


def _name() -> str:
    return f"tier-{secrets.token_hex(6)}"
