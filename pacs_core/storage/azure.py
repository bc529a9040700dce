"""Azure Blob Storage. adlfs finds the account and its credentials; the connections and the requests are made here."""

import asyncio
import hashlib
import weakref
from asyncio import AbstractEventLoop
from contextlib import suppress
from io import BytesIO
from typing import Any

from adlfs import AzureBlobFileSystem
from azure.core import MatchConditions
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.core.pipeline import PipelineRequest
from azure.storage.blob import BlobBlock, BlobProperties, ContentSettings, RehydratePriority, StandardBlobTier
from azure.storage.blob.aio import BlobClient, BlobServiceClient

from pacs_core.errors import ConfigurationError, ObjectArchived, PacsError, StorageUnavailable
from pacs_core.model import Availability
from pacs_core.storage.cloud import CloudObjects, Part, Piece, Requests
from pacs_core.storage.options import TierOptions

_MAX_BLOCKS = 50_000
_PATIENCE_AT_EXIT = 1.0  # seconds
# The service's own are 15 seconds and more, meant for batches.
_RETRIES = {"initial_backoff": 1, "increment_base": 2, "random_jitter_range": 1, "retry_total": 2}
_CREDENTIALS = "check the Azure credentials and their permissions (environment, managed identity or command line; not in pacs.toml)"


def azure_objects(url: str, options: TierOptions) -> CloudObjects:
    """The objects of an Azure account. ConfigurationError if nothing says which."""
    try:
        system = AzureBlobFileSystem(**{**AzureBlobFileSystem._get_kwargs_from_urls(url), **options.filesystem}, skip_instance_cache=True)
    except ValueError as exc:  # what it says may quote a connection string
        raise ConfigurationError(
            "az:// needs an account: AZURE_STORAGE_ACCOUNT_NAME or a valid AZURE_STORAGE_CONNECTION_STRING in the environment"
        ) from exc
    requests = Requests(system.loop, concurrency=options.concurrency, timeout=options.timeout)
    return CloudObjects(BlobContainers(system, options), requests, threshold=options.multipart_threshold)


class BlobContainers:
    """cloud.Container for Azure Blob Storage."""

    foreign: tuple[type[Exception], ...] = (AzureError,)
    max_parts = _MAX_BLOCKS

    def __init__(self, system: AzureBlobFileSystem, options: TierOptions) -> None:
        self.part_size = options.block_size
        self._system = system
        self._options = options
        self._tier: dict[str, Any] = {"standard_blob_tier": StandardBlobTier(options.access_tier)} if options.access_tier else {}
        self._connected: BlobServiceClient | None = None

    def explain(self, exc: Exception, doing: str) -> PacsError:
        """See remote.Objects."""
        code = _code(exc)
        if code in ("BlobArchived", "BlobBeingRehydrated"):
            return ObjectArchived(f"the object has to be rehydrated first: {doing}")
        if code == "ContainerNotFound":
            return StorageUnavailable(f"there is no such container while {doing}; create it or correct the tier's url")
        if isinstance(exc, ClientAuthenticationError) or getattr(exc, "status_code", 0) in (401, 403):
            return StorageUnavailable(f"Azure answered {code} while {doing}; {_CREDENTIALS}")
        return StorageUnavailable(f"Azure failed while {doing}: {code}")

    async def get(self, key: str, start: int, length: int, etag: str) -> Piece:
        """See cloud.Container."""
        only: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        try:
            answer = await self._blob(key).download_blob(offset=start, length=length, **only)
            data = await answer.readall()
        except ResourceNotFoundError as exc:
            raise _missing(exc, key) from exc
        except HttpResponseError as exc:
            if _code(exc) == "InvalidRange" and start == 0:  # an empty blob has no range at all
                return Piece(b"", 0, "")
            raise
        total = int(str(answer.properties.content_range).rpartition("/")[2]) if data else 0
        return Piece(data, total, str(answer.properties.etag))

    def put_here(self, key: str, data: bytes) -> bool | None:  # noqa: ARG002
        """Never; see cloud.Container."""
        return None

    async def put(self, key: str, data: bytes, sha256: str) -> bool:  # noqa: ARG002  # Azure knows MD5 only
        """See cloud.Container."""
        md5 = bytearray(hashlib.md5(data, usedforsecurity=False).digest())
        # The service refuses what does not hash to it, keeps it, and answers with what it has computed.
        settings = ContentSettings(content_md5=md5)
        answer = await self._blob(key).upload_blob(data, length=len(data), overwrite=True, content_settings=settings, **self._tier)
        return bool(answer.get("content_md5") == md5)

    async def begin(self, key: str) -> str:
        """Blocks need no beginning; see cloud.Container."""
        return key

    async def put_part(self, key: str, upload: str, number: int, data: bytes) -> Part:  # noqa: ARG002  # blocks belong to the blob
        """The service refuses a block that does not hash to the MD5 that is sent with it; see cloud.Container."""
        name = f"{number:08d}"
        await self._blob(key).stage_block(name, data, length=len(data), validate_content=True)
        return Part(name, b"")

    async def complete(self, key: str, upload: str, parts: list[Part]) -> bool:  # noqa: ARG002  # blocks belong to the blob
        """Every block has been verified; see cloud.Container."""
        await self._blob(key).commit_block_list([BlobBlock(part.name) for part in parts], **self._tier)
        return True

    async def abort(self, key: str, upload: str) -> None:
        """Azure forgets blocks without a blob after a week, and there is no request for it; see cloud.Container."""

    async def availability(self, key: str) -> Availability:
        """See cloud.Container."""
        try:
            return _availability(await self._blob(key).get_blob_properties())
        except ResourceNotFoundError as exc:
            raise _missing(exc, key) from exc

    async def rehydrate(self, key: str) -> None:
        """See cloud.Container."""
        try:
            await self._blob(key).set_standard_blob_tier(self._options.rehydrated_tier, rehydrate_priority=RehydratePriority.STANDARD)
        except HttpResponseError as exc:
            if _code(exc) != "BlobBeingRehydrated":
                raise

    async def delete(self, key: str) -> None:
        """See cloud.Container."""
        try:
            await self._blob(key).delete_blob(delete_snapshots="include")
        except ResourceNotFoundError as exc:
            raise _missing(exc, key) from exc

    async def page(self, prefix: str, token: str) -> tuple[list[tuple[str, int]], str]:
        """See cloud.Container."""
        container, _, name = prefix.partition("/")
        blobs = self._client.get_container_client(container).list_blobs(name_starts_with=name)
        pages: Any = blobs.by_page(token or None)  # its type says nothing of the token
        try:
            found = [(f"{container}/{blob.name}", int(blob.size)) async for blob in await anext(pages)]
        except StopAsyncIteration:
            return [], ""
        return found, str(pages.continuation_token or "")

    def _blob(self, key: str) -> BlobClient:
        container, _, name = key.partition("/")
        return self._client.get_blob_client(container, name)

    @property
    def _client(self) -> BlobServiceClient:
        """One for all requests; made on the event loop, which it belongs to."""
        if self._connected is None:
            self._connected = _connect(self._system, self._options)
            weakref.finalize(self, _close, self._system.loop, self._connected)
        return self._connected


def _connect(system: AzureBlobFileSystem, options: TierOptions) -> BlobServiceClient:
    chosen: dict[str, Any] = {
        **_RETRIES,
        "raw_request_hook": _stream_body,
        "connection_timeout": min(options.connect_timeout, options.timeout),
        "read_timeout": options.timeout,
        "max_single_put_size": options.multipart_threshold,
    }
    if system.connection_string:
        return BlobServiceClient.from_connection_string(system.connection_string, **chosen)
    credential = system.credential
    if system.account_key:
        credential = {"account_name": system.account_name, "account_key": system.account_key}
    elif system.sas_token:
        credential = AzureSasCredential(system.sas_token.lstrip("?"))
    return BlobServiceClient(options.endpoint or system.account_url, credential=credential, **chosen)


def _stream_body(request: PipelineRequest[Any]) -> None:
    """Send a body piece by piece: aiohttp warns of bytes that would go out at once and block its loop.

    It closes what it has sent, so that each repetition gets one of its own.
    """
    body = request.context.setdefault("body", request.http_request.data)
    if isinstance(body, bytes):
        request.http_request.data = BytesIO(body)


def _close(loop: AbstractEventLoop, client: BlobServiceClient) -> None:
    closing = asyncio.run_coroutine_threadsafe(client.close(), loop)
    if not _is_running_here(loop):
        with suppress(TimeoutError):
            closing.result(_PATIENCE_AT_EXIT)


def _is_running_here(loop: AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _code(exc: Exception) -> str:
    """What Azure calls the error; the name of its class where Azure did not answer."""
    code = getattr(exc, "error_code", None) or type(exc).__name__
    return str(getattr(code, "value", code))


def _missing(exc: ResourceNotFoundError, key: str) -> Exception:
    """A container that is missing is no missing object."""
    return exc if _code(exc) == "ContainerNotFound" else FileNotFoundError(key)


def _availability(found: BlobProperties) -> Availability:
    if found.blob_tier != "Archive":
        return Availability.ONLINE
    return Availability.REHYDRATING if found.archive_status else Availability.ARCHIVED
