"""Prints docs/configuration.md from the settings themselves: `make docs` writes it, a test sees that it is current."""

import sys
from enum import Enum
from typing import Any

from pydantic.fields import FieldInfo

from pacs_core.settings import Settings, TierSettings

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
        [INTRODUCTION, _table("Settings", Settings.model_fields), TIERS, _table("Of each tier", TierSettings.model_fields), OUTRO]
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
    if value == "" or field.default_factory is not None:
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _allowed(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{member.value}`" for member in kind)
    if kind is bool:
        return "`true`, `false`"
    bounds = {
        name: getattr(rule, name) for rule in field.metadata for name in ("ge", "le", "pattern") if getattr(rule, name, None) is not None
    }
    if "pattern" in bounds:
        return ", ".join(f"`{value}`" if value else "empty" for value in bounds["pattern"].strip("^$()").split("|"))
    if bounds:
        return f"{bounds['ge']} to {bounds['le']}"
    return {"str": "text", "Path": "a path"}.get(getattr(kind, "__name__", ""), "a table")


if __name__ == "__main__":
    sys.stdout.write(page())
