"""The only reader of the environment and of `pacs.toml`.

A setting `x` is `PACS_X` in the environment and `x = …` in `<home>/pacs.toml`; the environment wins. A tier is a table
`[tiers.warm]` in the file, or `PACS_TIERS__WARM__URL` in the environment. docs/configuration.md is generated from here.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from pacs_core.errors import ConfigurationError
from pacs_core.model import Duplicates, InvalidUIDs, Layout

DEFAULT_HOME = Path("~/pacs")
TIER_NAMES = ("hot", "warm", "cold")

_KINDS = {"s3": "s3", "s3a": "s3", "az": "az", "abfs": "az", "abfss": "az"}
# The settings of a tier that only some kinds of storage know.
_ONLY = {
    **dict.fromkeys(("endpoint", "multipart_threshold"), ("s3", "az")),
    **dict.fromkeys(("part_size", "storage_class", "rehydrated_days", "server_side_encryption", "kms_key_id"), ("s3",)),
    **dict.fromkeys(("block_size", "access_tier", "rehydrated_tier"), ("az",)),
}

Port = Annotated[int, Field(ge=1, le=65535)]


def check_ae_title(value: str) -> str:
    """An AE title (PS3.5 6.2, VR AE): 1 to 16 printable ASCII characters, no backslash, not only spaces."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16 or not (title.isascii() and title.isprintable()) or "\\" in title:
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return title


def check_http_url(value: str) -> str:
    """Empty, or a URL of a web server."""
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("a URL begins with http:// or https://")
    return value


class TierSettings(BaseModel):
    """One storage tier."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(
        description="Where the tier keeps its objects: a path, `file://`, `s3://bucket/prefix`, `az://container/prefix` or any other URL of fsspec."
    )
    endpoint: str = Field("", description="The URL of the service, where it is not the provider's own. `s3://`, `az://`.")
    concurrency: int = Field(8, ge=1, le=256, description="Requests to the tier at once per process.")
    timeout: float = Field(
        60,
        ge=1,
        le=3600,
        description="Seconds in which one request is answered, its repetitions included; a part has to get through in that time.",
    )
    connect_timeout: float = Field(10, ge=0.1, le=600, description="Seconds in which a connection is made.")
    multipart_threshold: int = Field(
        100 << 20,
        ge=0,
        le=5_000 << 20,
        description="Bytes above which a file is sent in parts; up to it, it is in memory while it is sent. `s3://`, `az://`.",
    )
    part_size: int = Field(10 << 20, ge=5 << 20, le=5_000 << 20, description="Bytes of a part. `s3://`.")
    block_size: int = Field(4 << 20, ge=64 << 10, le=100 << 20, description="Bytes of a block. `az://`.")
    access_tier: str = Field(
        "", pattern="^(|Hot|Cool|Cold|Archive)$", description="The access tier that objects are put into; empty: the account's. `az://`."
    )
    rehydrated_tier: str = Field(
        "Hot", pattern="^(Hot|Cool|Cold)$", description="The access tier into which archived objects are rehydrated. `az://`."
    )
    storage_class: str = Field(
        "",
        pattern="^(|STANDARD|STANDARD_IA|ONEZONE_IA|INTELLIGENT_TIERING|REDUCED_REDUNDANCY|GLACIER_IR|GLACIER|DEEP_ARCHIVE)$",
        description="The storage class that objects are put into; empty: the bucket's. `s3://`.",
    )
    rehydrated_days: int = Field(
        7, ge=1, le=3650, description="Days for which an archived object stays readable after it was rehydrated. `s3://`."
    )
    server_side_encryption: str = Field(
        "", pattern="^(|AES256|aws:kms)$", description="How objects are encrypted by the service; empty: as the bucket says. `s3://`."
    )
    kms_key_id: str = Field("", description="The key of `aws:kms`; empty: the account's. `s3://`.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Anything else that the fsspec file system takes. Credentials are better left to the environment or the platform.",
    )

    @model_validator(mode="after")
    def _suits_its_url(self) -> Self:
        kind = _KINDS.get(self.url.partition("://")[0], "")
        for name in sorted(self.model_fields_set & set(_ONLY)):
            if kind not in _ONLY[name]:
                raise ValueError(f"{name} is of {' and '.join(f'{each}://' for each in _ONLY[name])} only, and the url is {self.url}")
        if self.kms_key_id and self.server_side_encryption != "aws:kms":
            raise ValueError("kms_key_id needs server_side_encryption = 'aws:kms'")
        if self.server_side_encryption == "aws:kms" and self.storage_class in ("GLACIER", "DEEP_ARCHIVE"):
            raise ValueError(
                f"aws:kms and {self.storage_class} exclude each other: S3 tells no checksum of such an object, and it cannot be read back to verify it"
            )
        return self


class StudySelection(BaseModel):
    """Which studies a rule is for. What is left out asks nothing; all that is given must hold."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$", description="The rule's name, which the index keeps with what it did.")
    older_than_days: float = Field(0, ge=0, le=36_500, description="Days since the newest instance of the study was received.")
    unused_days: float = Field(0, ge=0, le=36_500, description="Days since the study was last received or retrieved.")
    modalities: list[str] = Field(default_factory=list, description="The study has a series of one of these modalities.")
    min_bytes: int = Field(0, ge=0, description="The study has at least so many bytes on the tier.")
    max_bytes: int | None = Field(None, ge=0, description="The study has at most so many bytes on the tier.")


class MigrationRule(StudySelection):
    """A `[[migrations]]` table: studies that move from a tier to another."""

    source: str = Field(description="The tier they are on.")
    target: str = Field(description="The tier they move to.")
    above: float | None = Field(
        None, gt=0, le=1, description="Act only while the file system of a local `source` is fuller, as a share from 0 to 1."
    )
    below: float | None = Field(None, gt=0, le=1, description="Stop once it is less full, as a share from 0 to 1. Given with `above`.")

    @model_validator(mode="after")
    def _check(self) -> "MigrationRule":
        if self.source == self.target:
            raise ValueError("source and target are the same tier")
        if (self.above is None) != (self.below is None) or (self.above or 0) < (self.below or 0):
            raise ValueError("above and below are given together, and above is the larger one")
        return self


class RetentionRule(StudySelection):
    """A `[[retentions]]` table: studies that are removed from the archive."""

    tiers: list[str] = Field(default_factory=list, description="Only what is on these tiers; empty: on any.")
    require_copy: bool = Field(
        True, description="Remove only instances of which a further copy is held, read and found good at that moment."
    )
    undo_days: float = Field(
        7, ge=0, le=3650, description="Days in quarantine, in which the removal can be undone; then the objects are destroyed."
    )


class ArchivalRule(StudySelection):
    """An `[[archivals]]` table: studies of which a copy is made at an archive destination."""

    destination: str = Field(description="A name of `archives`, or a tier.")
    form: str = Field(
        "objects", pattern="^(objects|zip|tar)$", description="`objects`: each under its name; `zip` or `tar`: one file a study."
    )
    tiers: list[str] = Field(default_factory=list, description="Only what is on these tiers; empty: on any.")


class PrefetchSource(BaseModel):
    """A `[[prefetch_sources]]` table: a remote archive that priors are fetched from."""

    model_config = ConfigDict(extra="forbid")

    peer: Annotated[str, AfterValidator(check_ae_title)] = Field(description="The AE title of a peer (`pacs peer add`).")
    how: str = Field(
        "move",
        pattern="^(move|get)$",
        description="`move`: C-MOVE to `ae_title`, which the source must know; `get`: C-GET, which it must offer.",
    )
    per_minute: int = Field(30, ge=1, le=6000, description="Studies that it is asked for within any minute.")


class ForwardRule(BaseModel):
    """A `[[forwards]]` table: what arrives is sent on to a peer. All that is given must hold."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,39}$",
        description="The rule's name. Under a new name it begins anew, with what arrives from then on.",
    )
    peer: Annotated[str, AfterValidator(check_ae_title)] = Field(
        description="The AE title of the peer that it is sent to (`pacs peer add`)."
    )
    modalities: list[str] = Field(default_factory=list, description="Only instances of these modalities; empty: of any.")
    sources: list[str] = Field(default_factory=list, description="Only what these AE titles have sent; empty: anybody.")
    condition: str = Field(
        "",
        max_length=4000,
        description="A condition in SQL on the tables `instance`, `series`, `study` and `patient`, as in `WHERE`; empty: none.",
    )
    give_up_hours: float = Field(72, gt=0, le=8760, description="Hours after which an instance that could not be sent has failed.")


class Settings(BaseSettings):
    """Everything that can be configured, with its bounds."""

    model_config = SettingsConfigDict(env_prefix="PACS_", env_nested_delimiter="__", extra="forbid", validate_default=True)

    home: Path = Field(DEFAULT_HOME, description="The directory that holds all state of this archive.")

    ae_title: Annotated[str, AfterValidator(check_ae_title)] = Field("PACS", description="The archive's AE title.")
    dicom_host: str = Field("0.0.0.0", description="The address the listeners bind to.")
    dicom_port: Port = Field(11112, description="The port of the DICOM listeners.")
    listeners: int = Field(2, ge=1, le=64, description="How many listener processes share the DICOM port.")
    max_associations: int = Field(
        200,
        ge=1,
        le=10_000,
        description="Open associations per listener process; one more is rejected as a temporary, local limit (PS3.8 9.3.4).",
    )
    max_connections_per_address: int = Field(
        250,
        ge=1,
        le=10_000,
        description="Connections from one address per listener process, whether or not they have negotiated an association; one more is closed at once. Below `max_associations`, no address alone can take all associations; behind a load balancer all connections come from one address.",
    )
    association_timeout: float = Field(
        20, ge=1, le=3600, description="Seconds in which a peer must finish its association request, and answer each message."
    )
    idle_timeout: float = Field(300, ge=1, le=86_400, description="Seconds after which a silent association is aborted.")
    peer_idle_timeout: float = Field(
        5,
        ge=0,
        le=300,
        description="Seconds for which an association to a C-MOVE destination is kept for the next C-MOVE. 0: none is kept.",
    )
    peer_associations: int = Field(
        4,
        ge=1,
        le=100,
        description="Associations to one C-MOVE destination at once per listener process. One more waits for `association_timeout`, then its instances fail.",
    )
    check_called_ae_title: bool = Field(True, description="Whether associations that are not addressed to `ae_title` are rejected.")
    known_callers_only: bool = Field(
        False, description="Whether associations of calling AE titles that are no peer's (`pacs peer add`) are rejected."
    )
    hl7_host: str = Field("0.0.0.0", description="The address that orders are taken at.")
    hl7_port: int = Field(
        0, ge=0, le=65535, description="The port at which orders are taken by HL7 v2 over MLLP, usually 2575. 0: none is."
    )
    hl7_stations: dict[str, str] = Field(
        default_factory=dict,
        description='The AE title that orders are scheduled for which name no station, by modality: `{CT = "CT1"}`.',
    )
    mpps_notify: list[str] = Field(
        default_factory=list,
        description="The AE titles of peers that are told (MPPS Notification) when a procedure step changes its status.",
    )
    commitment_verify: str = Field(
        "hash",
        pattern="^(hash|size)$",
        description="What is done before we commit to an instance: `hash`: its object is read and compared with its SHA-256; `size`: it is there, with its size.",
    )
    report_retry_first: float = Field(
        5, ge=0.1, le=3600, description="Seconds before an event report is tried again that a peer did not take; doubled each time."
    )
    report_retry_longest: float = Field(600, ge=1, le=86_400, description="Seconds between two such attempts at most.")
    report_give_up_days: float = Field(7, ge=0.01, le=365, description="Days after which an event report is given up.")
    print_dpi: int = Field(
        300, ge=72, le=600, description="Pixels of an inch of film: a page of 14×17 inches has 4200×5100 of them by default."
    )
    print_store: bool = Field(
        False, description="Whether each printed page is also stored as an instance (Secondary Capture), a study for each print job."
    )
    print_spool_bytes: int = Field(
        4 << 30,
        ge=1 << 20,
        le=1 << 50,
        description="Bytes of images that wait to be printed at most; one more is refused with C605.",
    )
    print_keep_days: float = Field(30, ge=0, le=3650, description="Days after which the flow `print-cleanup` removes what was printed.")
    worklist_in_progress: bool = Field(
        False, description="Whether modalities are still told of worklist items whose step has begun; of finished ones they never are."
    )
    tls_ca_file: str = Field(
        "", description="PEM certificates of the authorities that peers entered with `--tls` are signed by. Empty: the system's."
    )
    tls_certificate_file: str = Field("", description="Our certificate, PEM, for peers that ask for one when they are called over TLS.")
    tls_key_file: str = Field("", description="Its key, PEM. Empty: it is in the same file.")
    fuzzy_names: bool = Field(
        False, description="Whether requestors may negotiate fuzzy matching of person names: words in any order, with a mistake or two."
    )
    accept_private_sop_classes: bool = Field(False, description="Also store instances of SOP classes that PS3.4 does not define.")

    duplicates: Duplicates = Field(
        Duplicates.KEEP_FIRST,
        description="What happens when an instance arrives again with other bytes. Identical bytes are always harmless.",
    )
    invalid_uids: InvalidUIDs = Field(
        InvalidUIDs.REFUSE, description="What happens to an instance with a UID that is not in the form of PS3.5 section 9."
    )
    layout: Layout = Field(
        Layout.UID,
        description="How stored objects are named: `{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}.dcm` or `{YYYY}/{MM}/{DD}/{SOPInstanceUID}.dcm`.",
    )
    tiers: dict[str, TierSettings] = Field(
        default_factory=dict,
        description="The tiers `hot` (where instances land; a local path), `warm` and `cold`. Default: hot only, at `<home>/hot`.",
    )

    archives: dict[str, TierSettings] = Field(
        default_factory=dict,
        description="Destinations of the flow `archive` beside the tiers, tables `[archives.<name>]` with what a tier has.",
    )
    archivals: list[ArchivalRule] = Field(
        default_factory=list,
        description="Rules that the flow `archive` follows, tables `[[archivals]]` of `pacs.toml`; a study may follow several.",
    )
    migrations: list[MigrationRule] = Field(
        default_factory=list,
        description="Rules that the flow `migrate` follows, tables `[[migrations]]` of `pacs.toml`; a study follows the first one that names it.",
    )

    retentions: list[RetentionRule] = Field(
        default_factory=list,
        description="Rules that the flow `cleanup` follows, tables `[[retentions]]` of `pacs.toml`; a study follows the first one that names it. Without a rule nothing is ever removed.",
    )

    prefetch_sources: list[PrefetchSource] = Field(
        default_factory=list,
        description="Archives that the flow `prefetch` fetches priors from, in order of preference, tables `[[prefetch_sources]]` of `pacs.toml`. Without one it fetches nothing.",
    )
    prefetch_per_minute: int = Field(
        30, ge=1, le=6000, description="Studies that the flow `prefetch` asks all sources together for within any minute."
    )
    prefetch_at_once: int = Field(4, ge=1, le=64, description="Studies that the flow `prefetch` fetches at once.")
    forwards: list[ForwardRule] = Field(
        default_factory=list,
        description="Rules that the flow `forward` follows, tables `[[forwards]]` of `pacs.toml`; an instance may follow several.",
    )

    reserve_bytes: int = Field(
        512 << 20,
        ge=0,
        le=1 << 50,
        description="Bytes that arrivals leave free on the file system of the hot tier, which the database and the journal may share; never more than 5 % of it. With less free, instances are refused with A700.",
    )

    journal_bytes: int = Field(
        512 << 20,
        ge=0,
        le=1 << 40,
        description="What each process that receives preallocates at most for small instances that are acknowledged and not synced to their own files yet; a burst of that size is taken in fastest. Never more than an eighth of the file system.",
    )

    cache_bytes: int = Field(
        10 << 30,
        ge=0,
        le=1 << 50,
        description="What `<home>/cache` keeps at most of objects that were fetched from remote tiers; never more than a tenth of the file system, and nothing while less than a twentieth of that is free. 0: nothing is kept beyond the retrieve that fetched it.",
    )
    verify_on_read: bool = Field(
        True,
        description="Whether the bytes of local objects are hashed before C-MOVE and C-GET send the last of them; each process does so once in ten minutes for a file that is not touched. What comes from a remote tier always is.",
    )

    catalog_url: str = Field(
        "",
        description="The PostgreSQL that holds the catalog, `postgresql://user:password@host:port/database`. Empty: an embedded one under `<home>/postgres`.",
    )
    index_url: str = Field("", description="Where the index keeps its Parquet files: a path, `s3://…` or `az://…`. Empty: `<home>/index`.")
    commit_interval: float = Field(0.2, ge=0.01, le=10, description="Seconds between index commits while instances arrive.")
    commit_rows: int = Field(500, ge=1, le=10_000, description="At most this many instances in one index commit.")

    http_host: str = Field("127.0.0.1", description="The address of the web process.")
    http_port: Port = Field(8042, description="The port of the web process.")
    prefect_port: Port = Field(4200, description="The port of the Prefect server and its UI.")
    prefect_api_url: Annotated[str, AfterValidator(check_http_url)] = Field(
        "",
        description="The API of an existing Prefect server to run flows with, `http://host:4200/api`. Empty: the server that `pacs up` keeps.",
    )
    dask_port: Port = Field(8786, description="The port of the Dask scheduler.")
    dask_address: str = Field(
        "", description="An existing Dask scheduler to run flows on, `tcp://host:port`. Empty: the one that `pacs up` keeps."
    )
    dask_workers: int = Field(2, ge=1, le=256, description="How many Dask worker processes `pacs up` keeps.")

    log_level: str = Field(
        "info",
        pattern="^(debug|info|warning|error)$",
        description="The least severe events that are logged: `debug`, `info`, `warning` or `error`.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before environment before `pacs.toml`; no .env file, no secrets directory."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def landing_root(self) -> Path:
        """The directory of the hot tier."""
        return Path(self.tiers["hot"].url.removeprefix("file://"))

    @property
    def index_data(self) -> str:
        """The URL or path of the index's Parquet files."""
        return self.index_url or str(self.home / "index")

    @property
    def journal_directory(self) -> Path:
        """Acknowledged instances that are not in the index yet."""
        return self.home / "journal"

    @property
    def scratch_directory(self) -> Path:
        """For objects on their way between two remote tiers; worthless when nothing runs."""
        return self.home / "run" / "scratch"

    @property
    def cache_directory(self) -> Path:
        """Objects that were fetched from remote tiers."""
        return self.home / "cache"

    @property
    def print_spool(self) -> Path:
        """Images that wait to be printed."""
        return self.home / "print"

    @property
    def prints_directory(self) -> Path:
        """What was printed."""
        return self.home / "prints"

    @property
    def scheduler_address(self) -> str:
        """The Dask scheduler that flows run on."""
        return self.dask_address or f"tcp://127.0.0.1:{self.dask_port}"

    @property
    def flow_api_url(self) -> str:
        """The Prefect API that flows report to."""
        return (self.prefect_api_url or f"http://127.0.0.1:{self.prefect_port}/api").rstrip("/")


def load_settings(home: Path | None = None) -> Settings:
    """The settings of the archive at `home` (default: PACS_HOME, else ~/pacs).

    Raises ConfigurationError that names every wrong setting with what is allowed.
    """
    chosen = Path(home or os.environ.get("PACS_HOME") or DEFAULT_HOME).expanduser().absolute()
    source = _with_toml(chosen / "pacs.toml")
    try:
        settings = source(home=chosen)
    except ValidationError as exc:
        raise ConfigurationError("\n".join(_explain(error) for error in exc.errors())) from exc
    except ValueError as exc:  # pacs.toml is not TOML
        raise ConfigurationError(f"{chosen / 'pacs.toml'} is not valid TOML: {exc}") from exc
    return _complete(settings)


def _with_toml(path: Path) -> type[Settings]:
    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=path)

    return FromFile


def _complete(settings: Settings) -> Settings:
    if unknown := set(settings.tiers) - set(TIER_NAMES):
        raise ConfigurationError(f"tiers: {', '.join(sorted(unknown))} is not a tier; allowed are {', '.join(TIER_NAMES)}")
    tiers = {"hot": TierSettings(url=str(settings.home / "hot")), **settings.tiers}
    hot = tiers["hot"].url
    if "://" in hot and not hot.startswith("file:///"):
        raise ConfigurationError(
            f"tiers.hot.url: instances land on a local path, not on {hot.split('://')[0]}://; put remote storage in tiers.warm or tiers.cold"
        )
    _check_rules(settings, tiers)
    return settings.model_copy(update={"tiers": tiers})


def _check_rules(settings: Settings, tiers: Mapping[str, TierSettings]) -> None:
    """Every tier and destination that a rule names is there. ConfigurationError."""
    places: dict[str, str] = {}
    for name, tier in {**settings.archives, **tiers}.items():
        place = tier.url.removeprefix("file://").rstrip("/")
        if (other := places.setdefault(f"{tier.endpoint} {place}", name)) != name:
            raise ConfigurationError(f"tiers: {other} and {name} are the same place, {tier.url}")
    if both := set(settings.archives) & {*TIER_NAMES}:
        raise ConfigurationError(f"archives: {', '.join(sorted(both))} is the name of a tier")
    named = [
        *(("migrations", rule.name, {rule.source, rule.target}) for rule in settings.migrations),
        *(("retentions", rule.name, set(rule.tiers)) for rule in settings.retentions),
        *(("archivals", rule.name, set(rule.tiers) | {rule.destination} - set(settings.archives)) for rule in settings.archivals),
    ]
    for table, name, wanted in named:
        if missing := wanted - set(tiers):
            raise ConfigurationError(f"{table}: rule {name} names {', '.join(sorted(missing))}, which is not configured")
    _check_unique("forwards", [rule.name for rule in settings.forwards])
    _check_unique("prefetch_sources", [source.peer for source in settings.prefetch_sources])


def _check_unique(table: str, names: Sequence[str]) -> None:
    if several := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"{table}: {', '.join(several)} stands there more than once")


def _table(location: Sequence[str | int]) -> type[BaseModel]:
    """What the settings beside this one belong to: the archive as a whole, a tier, a rule."""
    if len(location) == 1:
        return Settings
    table: type[BaseModel] = get_args(Settings.model_fields[str(location[0])].annotation)[-1]  # of dict[str, …] and of list[…]
    return table


def _explain(error: Any) -> str:
    """One line for one pydantic error: the setting, what is wrong, where to set it."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(_table(error["loc"]).model_fields))
        return f"{name}: there is no such setting; the settings are {known}"
    if isinstance(error["input"], dict) or ".options" in name:  # may hold credentials
        return f"{name}: {error['msg']}"
    return f"{name}: {error['msg']} (given: {error['input']!r}; set it as PACS_{name.upper().replace('.', '__')} or in pacs.toml)"
