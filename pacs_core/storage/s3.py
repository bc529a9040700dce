"""Amazon S3 and what speaks its protocol. s3fs finds the credentials and keeps the connections; the requests are made here."""

import base64
import hashlib
import re
import threading
from collections.abc import Mapping
from typing import Any, cast

from botocore.credentials import ReadOnlyCredentials  # type: ignore[import-untyped]  # botocore ships no types
from botocore.exceptions import (  # type: ignore[import-untyped]  # botocore ships no types
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from fsspec.asyn import sync
from s3fs import S3FileSystem

from pacs_core.errors import ObjectArchived, PacsError, StorageUnavailable
from pacs_core.model import Availability
from pacs_core.storage.cloud import CloudObjects, Part, Piece, Requests
from pacs_core.storage.options import TierOptions
from pacs_core.storage.s3_sender import Sender, s3_sender

_MAX_PARTS = 10_000
_ATTEMPTS = 3
_ARCHIVED_CLASSES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_MISSING = frozenset({"NoSuchKey", "404"})
_REFUSED = frozenset({"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "401"})
_CREDENTIALS = "check the AWS credentials and their permissions (environment, profile or role; not in pacs.toml)"


def s3_objects(options: TierOptions) -> CloudObjects:
    """The objects of an S3. TypeError, ValueError for options that s3fs does not know."""
    chosen = dict(options.filesystem)
    config = {
        "max_pool_connections": options.concurrency,
        "connect_timeout": min(options.connect_timeout, options.timeout),
        "read_timeout": options.timeout,
        "retries": {"mode": "standard", "total_max_attempts": _ATTEMPTS},
        # We send and compare checksums of our own choice.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        **chosen.pop("config_kwargs", {}),
    }
    if options.endpoint:
        chosen["endpoint_url"] = options.endpoint
    system = S3FileSystem(**chosen, config_kwargs=config, skip_instance_cache=True, use_listings_cache=False)
    requests = Requests(system.loop, concurrency=options.concurrency, timeout=options.timeout)
    return CloudObjects(Bucket(system, options), requests, threshold=options.multipart_threshold)


class Bucket:
    """cloud.Container for S3."""

    foreign: tuple[type[Exception], ...] = (BotoCoreError, ClientError)
    max_parts = _MAX_PARTS

    def __init__(self, system: S3FileSystem, options: TierOptions) -> None:
        self.part_size = options.part_size
        self._system = system
        self._options = options
        self._senders: dict[str, Sender | None] = {}
        self._lock = threading.Lock()
        ours = {
            "StorageClass": options.storage_class,
            "ServerSideEncryption": options.server_side_encryption,
            "SSEKMSKeyId": options.kms_key_id,
        }
        self._extra = {**system.s3_additional_kwargs, **{name: value for name, value in ours.items() if value}}

    def explain(self, exc: Exception, doing: str) -> PacsError:
        """See remote.Objects."""
        if isinstance(exc, NoCredentialsError | PartialCredentialsError):
            return StorageUnavailable(f"no credentials while {doing}; {_CREDENTIALS}")
        if not isinstance(exc, ClientError):
            return StorageUnavailable(f"S3 failed while {doing}: {type(exc).__name__}")
        code = _code(exc)
        if code == "InvalidObjectState":
            return ObjectArchived(f"the object has to be rehydrated first: {doing}")
        if code == "NoSuchBucket":
            return StorageUnavailable(f"there is no such bucket while {doing}; create it or correct the tier's url")
        if code in _REFUSED:
            return StorageUnavailable(f"S3 answered {code} while {doing}; {_CREDENTIALS}")
        return StorageUnavailable(f"S3 answered {code} while {doing}")

    async def get(self, key: str, start: int, length: int, etag: str) -> Piece:
        """See cloud.Container."""
        only = {"IfMatch": etag} if etag else {}
        try:
            answer = await self._ask("get_object", key, Range=f"bytes={start}-{start + length - 1}", **only)
        except ClientError as exc:
            if _code(exc) == "InvalidRange" and start == 0:  # an empty object has no range at all
                return Piece(b"", 0, "")
            raise
        async with answer["Body"] as body:
            data = await body.read()
        total = int(answer["ContentRange"].rpartition("/")[2]) if "ContentRange" in answer else len(data)
        return Piece(data, total, answer["ETag"])

    def put_here(self, key: str, data: bytes) -> bool | None:
        """See cloud.Container."""
        bucket, name = _split(key)
        sender = self._sender(bucket)
        etag = sender.put(name, data) if sender else None
        return None if etag is None else etag == _md5(data).hex()

    async def put(self, key: str, data: bytes, sha256: str) -> bool:
        """See cloud.Container."""
        # S3 itself refuses what does not hash to it; others may not look, so the ETag is compared.
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        answer = await self._ask("put_object", key, Body=data, ChecksumSHA256=checksum, **self._extra)
        return _etag(answer) == _md5(data).hex()

    async def begin(self, key: str) -> str:
        """See cloud.Container."""
        return str((await self._ask("create_multipart_upload", key, **self._extra))["UploadId"])

    async def put_part(self, key: str, upload: str, number: int, data: bytes) -> Part:
        """See cloud.Container."""
        md5 = _md5(data)
        answer = await self._ask(
            "upload_part", key, UploadId=upload, PartNumber=number, Body=data, ContentMD5=base64.b64encode(md5).decode()
        )
        return Part(answer["ETag"], md5)

    async def complete(self, key: str, upload: str, parts: list[Part]) -> bool:
        """See cloud.Container."""
        named = [{"PartNumber": number, "ETag": part.name} for number, part in enumerate(parts, 1)]
        answer = await self._ask("complete_multipart_upload", key, UploadId=upload, MultipartUpload={"Parts": named})
        return _etag(answer) == f"{_md5(b''.join(part.md5 for part in parts)).hex()}-{len(parts)}"

    async def abort(self, key: str, upload: str) -> None:
        """See cloud.Container."""
        await self._ask("abort_multipart_upload", key, UploadId=upload)

    async def availability(self, key: str) -> Availability:
        """See cloud.Container."""
        return _availability(await self._head(key))

    async def rehydrate(self, key: str) -> None:
        """See cloud.Container."""
        try:
            await self._ask(
                "restore_object", key, RestoreRequest={"Days": self._options.rehydrated_days, "GlacierJobParameters": {"Tier": "Standard"}}
            )
        except ClientError as exc:
            if _code(exc) != "RestoreAlreadyInProgress":
                raise

    async def delete(self, key: str) -> None:
        """See cloud.Container."""
        await self._ask("delete_object", key)

    async def page(self, prefix: str, token: str) -> tuple[list[tuple[str, int]], str]:
        """See cloud.Container."""
        bucket, name = _split(prefix)
        client = await self._system.set_session()
        more = {"ContinuationToken": token} if token else {}
        answer = await client.list_objects_v2(Bucket=bucket, Prefix=name, **more)
        found = [(f"{bucket}/{each['Key']}", int(each["Size"])) for each in answer.get("Contents", ())]
        return found, str(answer.get("NextContinuationToken", ""))

    def _sender(self, bucket: str) -> Sender | None:
        with self._lock:
            if bucket not in self._senders:
                client = sync(self._system.loop, self._system.set_session)
                self._senders[bucket] = s3_sender(self._options, client.meta, bucket, lambda: sync(self._system.loop, self._credentials))
            return self._senders[bucket]

    async def _credentials(self) -> ReadOnlyCredentials:
        """What the client signs with at the moment."""
        system = self._system
        if system.key:
            return ReadOnlyCredentials(system.key, system.secret, system.token)
        found = await system.session.get_credentials()
        if found is None:
            raise NoCredentialsError
        return await found.get_frozen_credentials()

    async def _head(self, key: str) -> Mapping[str, Any]:
        """A HEAD has no body that would tell a missing object from a missing bucket, so that is asked when it matters."""
        try:
            return await self._ask("head_object", key)
        except FileNotFoundError:
            await (await self._system.set_session()).list_objects_v2(Bucket=_split(key)[0], MaxKeys=0)
            raise

    async def _ask(self, operation: str, key: str, **arguments: Any) -> Mapping[str, Any]:
        """One request about an object. FileNotFoundError if there is none."""
        bucket, name = _split(key)
        client = await self._system.set_session()
        try:
            return cast(Mapping[str, Any], await getattr(client, operation)(Bucket=bucket, Key=name, **arguments))
        except ClientError as exc:
            if _code(exc) in _MISSING:
                raise FileNotFoundError(key) from exc
            raise


def _split(key: str) -> tuple[str, str]:
    bucket, _, name = key.partition("/")
    return bucket, name


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", "an error"))


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _etag(answer: Mapping[str, Any]) -> str:
    """What S3 computed: an MD5, unless the object is encrypted with a key of its own."""
    return str(answer.get("ETag", "")).strip('"')


def _availability(head: Mapping[str, Any]) -> Availability:
    if head.get("StorageClass") not in _ARCHIVED_CLASSES and "ArchiveStatus" not in head:
        return Availability.ONLINE
    ongoing = re.search(r'ongoing-request="(\w+)"', head.get("Restore", ""))
    if ongoing is None:
        return Availability.ARCHIVED
    return Availability.REHYDRATING if ongoing[1] == "true" else Availability.ONLINE
