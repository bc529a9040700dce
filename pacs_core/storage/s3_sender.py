"""Whole objects to an S3 in the thread that has them, for a tenth of the CPU that botocore takes for a request.

An accelerator and no second client: it sends or it does not, and raises nothing. What it has not sent, for whatever reason, is sent
by the client that everything else goes through, which repeats, follows redirects and explains. Where that client would have to be
configured in a way that this cannot be, there is no accelerator; where this fails several times in a row, it rests.
"""

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from botocore.client import ClientMeta  # type: ignore[import-untyped]  # botocore ships no types
from botocore.credentials import ReadOnlyCredentials  # type: ignore[import-untyped]  # botocore ships no types
from obstore.exceptions import BaseError
from obstore.store import S3Store

from pacs_core.storage.options import TierOptions

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Credential  # which are not there at run time

log = structlog.get_logger(__name__)

_FAILURES = 3  # in a row, after which it rests
_REST = 60.0  # seconds
_CREDENTIALS_FOR = timedelta(minutes=5)  # botocore renews its own ten minutes before they expire
_PROCESS = os.getpid()  # the library's threads do not follow into a process that is forked, and their work waits for ever
_UNDERSTOOD = frozenset({"key", "secret", "token", "profile"})


def s3_sender(options: TierOptions, meta: ClientMeta, bucket: str, credentials: Callable[[], ReadOnlyCredentials]) -> "Sender | None":
    """What sends to a bucket as the client with this `meta` would, if that is possible. `credentials` is asked every few minutes."""
    virtual = (meta.config.s3 or {}).get("addressing_style") == "virtual"
    if virtual or not options.filesystem.keys() <= _UNDERSTOOD or os.getpid() != _PROCESS:
        return None
    return Sender(options, meta.endpoint_url, meta.region_name, bucket, credentials)


class Sender:
    """Puts objects. Thread-safe; a failure is no error."""

    def __init__(
        self, options: TierOptions, endpoint: str, region: str, bucket: str, credentials: Callable[[], ReadOnlyCredentials]
    ) -> None:
        self._attributes = {"Storage-Class": options.storage_class} if options.storage_class else None
        self._failures = 0
        self._resting_until = 0.0
        self._credentials = credentials
        self._store = S3Store(
            bucket,
            config=_config(options, endpoint, region),
            client_options={
                "allow_http": True,
                "timeout": timedelta(seconds=options.timeout),
                "connect_timeout": timedelta(seconds=min(options.connect_timeout, options.timeout)),
            },
            retry_config={"max_retries": 0},
            credential_provider=self._credential,
        )

    def put(self, name: str, data: bytes) -> str | None:
        """Store an object; its ETag without quotes, or None if it was not stored. An S3 compares the SHA-256 that is sent with it."""
        if name.startswith("/") or time.monotonic() < self._resting_until:  # the library would take the "/" away
            return None
        try:
            etag = self._store.put(name, data, attributes=self._attributes, use_multipart=False)["e_tag"]
        except (BaseError, OSError, ValueError) as exc:
            self._failed(exc)
            return None
        self._failures = 0
        return etag and etag.strip('"')

    def _failed(self, exc: Exception) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._resting_until = time.monotonic() + _REST
            log.info("objects_not_sent_directly", error=type(exc).__name__, seconds=_REST)

    def _credential(self) -> "S3Credential":
        found = self._credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_FOR,
        }


def _config(options: TierOptions, endpoint: str, region: str) -> "S3Config":
    config: S3Config = {"endpoint": endpoint, "region": region, "virtual_hosted_style_request": False, "checksum_algorithm": "SHA256"}
    if options.server_side_encryption:
        config["server_side_encryption"] = options.server_side_encryption
    if options.kms_key_id:
        config["sse_kms_key_id"] = options.kms_key_id
    return config
