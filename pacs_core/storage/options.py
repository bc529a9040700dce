"""How a tier behaves, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TierOptions:
    """What may be chosen for a tier; what its kind of file system has no use for is passed over.

    Attributes:
        endpoint: the URL of the service, where it is not the provider's own.
        concurrency: requests at once, over all threads of a process.
        timeout: seconds in which one request is answered, its repetitions included.
        connect_timeout: seconds in which a connection is made.
        multipart_threshold: a larger file is sent in parts; any other is in memory while it is sent.
        part_size: bytes of a part, S3.
        block_size: bytes of a block, Azure.
        access_tier: the access tier that Azure puts an object into; empty: the account's.
        storage_class: the storage class that S3 puts an object into; empty: the bucket's.
        server_side_encryption: how S3 encrypts, `AES256` or `aws:kms`; empty: as the bucket says.
        kms_key_id: the key of `aws:kms`; empty: the account's.
        rehydrated_days: days for which S3 keeps a rehydrated object readable.
        rehydrated_tier: the access tier into which Azure rehydrates.
        filesystem: passed to fsspec as it is.
    """

    endpoint: str = ""
    concurrency: int = 8
    timeout: float = 60.0
    connect_timeout: float = 10.0
    multipart_threshold: int = 100 << 20
    part_size: int = 10 << 20
    block_size: int = 4 << 20
    access_tier: str = ""
    storage_class: str = ""
    server_side_encryption: str = ""
    kms_key_id: str = ""
    rehydrated_days: int = 7
    rehydrated_tier: str = "Hot"
    filesystem: Mapping[str, Any] = field(default_factory=dict)
