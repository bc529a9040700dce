"""The archive against the oracle: objects, index rows, leftovers."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.durability.oracle import Oracle
from bench.durability.verdict import Verdict
from pacs_core.errors import IndexUnavailable
from pacs_core.index.sql import SQLSession
from tests.support.part10 import dataset_offset

_ROWS = "SELECT SOPInstanceUID, path, size, sha256 FROM instance"
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What the index says of an instance."""

    SOPInstanceUID: str
    path: str
    size: int
    sha256: str


class Index:
    """The index, read with SQL."""

    def __init__(self, catalog_url: str, home: Path) -> None:
        self._session = SQLSession(catalog_url, str(home / "index"))

    def rows(self) -> list[IndexRow]:
        """Every instance. IndexUnavailable if it does not answer."""
        return [IndexRow(*row) for row in self._session.run(_ROWS).rows()]

    def holds(self, uids: Collection[str]) -> bool:
        """Whether each of these instances has a row; False where the index does not answer."""
        try:
            ((count,),) = self._session.run("SELECT count(*) FROM instance").rows()
            return int(count) >= len(uids) and {row.SOPInstanceUID for row in self.rows()}.issuperset(uids)
        except IndexUnavailable:
            return False

    def close(self) -> None:
        """Disconnect."""
        self._session.close()


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """An object of the hot tier.

    Attributes:
        path: relative to the tier.
        size: of the file.
        sha256: of the file.
        data_sha256: of its data set, the part that the client has sent.
    """

    path: str
    size: int
    sha256: str
    data_sha256: str


@dataclass(slots=True)
class Findings:
    """What is not as it has to be, by SOPInstanceUID or path."""

    acknowledged: int = 0
    objects: int = 0
    rows: int = 0
    lost: list[str] = field(default_factory=list)  # acknowledged, and no object or no row
    different: list[str] = field(default_factory=list)  # objects that are not byte for byte what was sent
    duplicate_rows: list[str] = field(default_factory=list)
    wrong_rows: list[str] = field(default_factory=list)  # a row without its object, or with another size or digest
    leftovers: list[str] = field(default_factory=list)  # in .incoming, or named without a row though acknowledged, or by nobody

    def enter(self, verdict: Verdict) -> int:
        """Add the figures to a verdict, and each finding as a problem; how many there are."""
        before = len(verdict.problems)
        verdict.count("acknowledged", self.acknowledged)
        for name, found in (
            ("lost", self.lost),
            ("byte differences", self.different),
            ("duplicate rows", self.duplicate_rows),
            ("wrong rows", self.wrong_rows),
            ("leftovers", self.leftovers),
        ):
            verdict.count(name, len(found))
            verdict.problems += [f"{name}: {each}" for each in found]
        return len(verdict.problems) - before


def check(hot: Path, rows: Sequence[IndexRow], oracle: Oracle) -> Findings:
    """Compare. To be called when nothing writes to the archive any more.

    Of an instance that was acknowledged several times with different data sets, the first acknowledged one counts.
    """
    files = {path: _examine(hot, path) for path in objects(hot)}
    findings = Findings(acknowledged=len(oracle.acknowledged), objects=len(files), rows=len(rows))
    held: dict[str, IndexRow] = {}
    for row in rows:
        held[row.SOPInstanceUID] = row
        file = files.get(row.path)
        if file is None or (file.size, file.sha256) != (row.size, row.sha256):
            findings.wrong_rows.append(f"{row.SOPInstanceUID}: {'no object' if file is None else 'another size or digest'} at {row.path}")
    counted = Counter(row.SOPInstanceUID for row in rows)
    findings.duplicate_rows += [uid for uid, count in counted.items() if count > 1]
    _check_acknowledged(oracle, held, files, findings)
    _check_objects(oracle, {row.path for row in rows}, files, findings)
    findings.leftovers += [f".incoming/{path.name}" for path in incoming(hot)]
    return findings


def _check_acknowledged(oracle: Oracle, held: dict[str, IndexRow], files: dict[str, ObjectFile], findings: Findings) -> None:
    for uid, digests in oracle.acknowledged.items():
        row = held.get(uid)
        file = None if row is None else files.get(row.path)
        if file is None:
            findings.lost.append(f"{uid} ({'no row' if row is None else f'no object at {row.path}'})")
        elif file.data_sha256 != digests[0]:
            findings.different.append(f"{uid}: {file.path} does not hold what was acknowledged")


def _check_objects(oracle: Oracle, indexed: Collection[str], files: dict[str, ObjectFile], findings: Findings) -> None:
    """Whole objects only, also of what was never acknowledged; and none without a row but those."""
    for path, file in files.items():
        uid = Path(path).stem
        if file.data_sha256 not in oracle.tried.get(uid, ()):
            findings.different.append(f"{path} holds what nobody has sent")
        if path not in indexed and (uid in oracle.acknowledged or uid not in oracle.tried):
            findings.leftovers.append(f"{path} has no row")


def objects(hot: Path) -> Iterator[str]:
    """The paths of all named objects, hidden directories left out."""
    for path in hot.rglob("*"):
        relative = path.relative_to(hot)
        if path.is_file() and not relative.parts[0].startswith("."):
            yield relative.as_posix()


def incoming(hot: Path) -> list[Path]:
    """The unfinished files."""
    return sorted((hot / ".incoming").glob("*"))


def quarantined(hot: Path) -> list[Path]:
    """The objects that were put aside."""
    return sorted((hot / ".quarantine").rglob("*.dcm"))


def data_set_digest(path: Path) -> str:
    """The SHA-256 of the data set of a file."""
    return _digests(path)[1]


def _examine(hot: Path, path: str) -> ObjectFile:
    whole, data = _digests(hot / path)
    return ObjectFile(path, (hot / path).stat().st_size, whole, data)


def _digests(path: Path) -> tuple[str, str]:
    """Of the whole file, and of its data set."""
    try:
        offset = dataset_offset(path)
    except ValueError:  # cut short within the file meta
        offset = 0
    whole, data = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        whole.update(file.read(offset))
        while block := file.read(_BLOCK):
            whole.update(block)
            data.update(block)
    return whole.hexdigest(), data.hexdigest()
