"""The only reader of the environment and of `pacs.toml`.

A setting `x` is `PACS_X` in the environment and `x = …` in `<home>/pacs.toml`; the environment wins. A tier is a table
`[tiers.warm]` in the file, or `PACS_TIERS__WARM__URL` in the environment. docs/configuration.md is generated from here.
"""

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from pacs_core.errors import ConfigurationError
from pacs_core.model import Duplicates, InvalidUIDs, Layout

DEFAULT_HOME = Path("~/pacs")
TIER_NAMES = ("hot", "warm", "cold")

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

    url: str = Field(description="Where the tier keeps its objects: a path, `file://`, `s3://bucket/prefix` or `az://container/prefix`.")
    options: dict[str, Any] = Field(default_factory=dict, description="Passed to the fsspec file system (endpoint, credentials, …).")


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
    return settings.model_copy(update={"tiers": tiers})


def _explain(error: Any) -> str:
    """One line for one pydantic error: the setting, what is wrong, where to set it."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(Settings.model_fields))
        return f"{name}: there is no such setting; the settings are {known}"
    return f"{name}: {error['msg']} (given: {error['input']!r}; set it as PACS_{name.upper().replace('.', '__')} or in pacs.toml)"
