"""Prints docs/configuration.md from the settings themselves: `make docs` writes it, a test sees that it is current."""

import sys
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from pacs_core.settings import ArchivalRule, ForwardRule, MigrationRule, PrefetchSource, RetentionRule, Settings, TierSettings

INTRODUCTION = """\
# Configuration

<!-- Written by `make docs` from pacs_core/settings.py. -->

An archive is a directory, its home. `--home DIR` names it, else `PACS_HOME`, else `~/pacs`. Everything else has a default
and can be set in two places; the environment wins:

- `<home>/pacs.toml`, for what belongs to this archive: `ae_title = "RADIOLOGY"`
- the environment, `PACS_` and the name in capitals: `PACS_AE_TITLE=RADIOLOGY pacs up`

A wrong value stops the command with the setting's name, what was given and what is allowed. A name that is no setting is an
error in `pacs.toml`. Changes take effect at the next start.
"""

TIERS = """\
## Tiers

A tier is a place for objects. `hot` is where instances land and is always on a local file system, because an acknowledged
instance must be on disk; `warm` and `cold` may be anywhere.

```toml
[tiers.hot]
url = "/data/pacs"

[tiers.warm]
url = "s3://imaging/warm"
endpoint = "https://s3.hospital.example"
server_side_encryption = "AES256"
concurrency = 16

[tiers.cold]
url = "az://imaging/cold"
access_tier = "Archive"
timeout = 120
```

The same in the environment: `PACS_TIERS__WARM__URL=s3://imaging/warm`. A setting that the tier's kind of storage does not know is an
error.

Credentials are found by the clients of the providers: `AWS_ACCESS_KEY_ID`, a profile, a role of the machine; for Azure
`AZURE_STORAGE_CONNECTION_STRING`, `AZURE_STORAGE_ACCOUNT_NAME` with `AZURE_STORAGE_ACCOUNT_KEY` or a managed identity.
"""

RULES = """\
## Rules

What `migrate`, `archive` and `cleanup` do by themselves is said in `pacs.toml`, by any number of tables; without one they do nothing.
All conditions of a table must hold; what is left out asks nothing.

```toml
[[migrations]]                 # CT and MR that nobody has looked at for a month
name = "quiet-to-warm"
source = "hot"
target = "warm"
modalities = ["CT", "MR"]
unused_days = 30

[[migrations]]                 # whatever was unused for longest, while the disk is fuller than 85 %, until it is at 75 %
name = "keep-room"
source = "hot"
target = "warm"
above = 0.85
below = 0.75

[archives.offsite]             # has the settings of a tier
url = "s3://imaging-offsite/archive"
storage_class = "STANDARD_IA"

[[archivals]]
name = "offsite-copy"
destination = "offsite"
form = "zip"
older_than_days = 2

[[retentions]]                 # mammography is kept, the rest goes after ten years
name = "ten-years"
modalities = ["CR", "CT", "DX", "MR", "US"]
older_than_days = 3650
require_copy = true
undo_days = 30
```

`pacs flow run migrate --param dry_run=true` shows what a rule would do.
"""

WORKFLOW = """\
## Prefetching and forwarding

```toml
[[prefetch_sources]]           # asked first
peer = "REGIONAL"
how = "move"
per_minute = 10

[[prefetch_sources]]           # asked for what the first one does not have or give
peer = "TELERADIOLOGY"
how = "get"

[[forwards]]                   # what the emergency CT sends goes to the workstation as well
name = "emergency-ct"
peer = "WORKSTATION"
sources = ["CT_ER"]

[[forwards]]
name = "mammography-to-cad"
peer = "CAD"
modalities = ["MG"]
condition = "study.StudyDescription ILIKE '%screening%' AND instance.NumberOfFrames IS NULL"
give_up_hours = 24
```

`pacs flow run prefetch --param dry_run=true` and `pacs flow run forward --param dry_run=true` show what would be fetched and sent.
"""

OUTRO = """\
## Two archives on one machine

Give each a home and ports of its own:

```sh
PACS_HOME=/srv/research PACS_AE_TITLE=RESEARCH PACS_DICOM_PORT=11113 PACS_HTTP_PORT=8043 \\
PACS_PREFECT_PORT=4201 PACS_DASK_PORT=8787 make up
```
"""


def page() -> str:
    """The whole document."""
    return "\n".join(
        [
            INTRODUCTION,
            _table("Settings", Settings.model_fields),
            TIERS,
            _table("Of each tier", TierSettings.model_fields),
            RULES,
            _table("Of each rule of migration", MigrationRule.model_fields),
            _table("Of each rule of archival", ArchivalRule.model_fields),
            _table("Of each rule of retention", RetentionRule.model_fields),
            WORKFLOW,
            _table("Of each source of priors", PrefetchSource.model_fields),
            _table("Of each rule of forwarding", ForwardRule.model_fields),
            OUTRO,
        ]
    )


def _table(title: str, fields: dict[str, FieldInfo]) -> str:
    head = f"## {title}\n\n| setting | default | allowed | meaning |\n|---|---|---|---|\n"
    rows = (f"| `{name}` | {_default(field)} | {_allowed(field)} | {field.description} |\n" for name, field in fields.items())
    return head + "".join(rows)


def _default(field: FieldInfo) -> str:
    value = field.default
    if field.is_required():
        return "required"
    if isinstance(value, Enum):
        value = value.value
    if value in ("", None) or field.default_factory is not None:
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _allowed(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    if kind is bool:
        return "`true`, `false`"
    bounds = {
        name: getattr(rule, name)
        for rule in field.metadata
        for name in ("gt", "ge", "le", "pattern")
        if getattr(rule, name, None) is not None
    }
    if "|" in bounds.get("pattern", ""):
        return ", ".join(f"`{value}`" if value else "empty" for value in bounds["pattern"].strip("^$()").split("|"))
    if "pattern" in bounds:
        return "text"
    if bounds:
        least = f"above {bounds['gt']}" if "gt" in bounds else f"{bounds['ge']}"
        return f"{least} to {bounds['le']}" if "le" in bounds else f"from {least}"
    if get_origin(kind) is list and get_args(kind)[0] is str:
        return "a list"
    return {"str": "text", "Path": "a path"}.get(getattr(kind, "__name__", ""), "a table")


if __name__ == "__main__":
    sys.stdout.write(page())
