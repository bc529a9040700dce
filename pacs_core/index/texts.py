"""Lists of texts as parameters of DuckDB.

DuckDB asks of each element of a Python list whether it is one of pandas' missing values, and where pandas is not installed it looks for
it on the disk each time: 500 UIDs cost 80 ms so. As JSON, a list is one text, and costs one.
"""

import json
from collections.abc import Iterable

TEXTS = "unnest(from_json(?, '[\"VARCHAR\"]'))"  # the elements of a parameter made by `texts`, a row each


def named_texts(name: str) -> str:
    """The same of a named parameter."""
    return TEXTS.replace("?", f"${name}")


def texts(values: Iterable[str]) -> str:
    """The parameter."""
    return json.dumps(list(values))
