"""A home with several tiers and without processes: instances go in, tests look at what is where."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from pacs_core.archive.indexing import Committer
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.locations import LakeLocations
from pacs_core.index.postgres import Database
from pacs_core.index.reader import LakeIndexReader
from pacs_core.index.removals import LakeRemovals
from pacs_core.lifecycle.plan import Step
from pacs_core.model import UID, Change, StoredObject
from pacs_core.ports import ObjectStore
from pacs_core.settings import Settings, load_settings
from pacs_core.wiring import index, intake, tiers
from tests.support.synthetic import Study


class TieredHome:
    """Ingests for real, through the journal and the committer, and tells what the index and the tiers hold.

    Args:
        tiers: settings of tiers by name; hot is in the home.
        settings: others by name.
    """

    def __init__(self, home: Path, catalog_url: str, tiers: Mapping[str, Mapping[str, object]], **settings: object) -> None:
        home.mkdir(parents=True, exist_ok=True)
        written = {"catalog_url": catalog_url, "reserve_bytes": 0, "tiers": tiers, **settings}
        (home / "pacs.toml").write_text("\n".join(f"{name} = {_toml(value)}" for name, value in written.items()))
        self.home = home
        index.prepare(self.settings)

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.home)

    @cached_property
    def stores(self) -> Mapping[str, ObjectStore]:
        return tiers.stores(self.settings)

    @cached_property
    def locations(self) -> LakeLocations:
        return index.locations(self.settings)

    @cached_property
    def removals(self) -> LakeRemovals:
        return index.removals(self.settings)

    @cached_property
    def reader(self) -> LakeIndexReader:
        return index.index_reader(self.settings)

    @cached_property
    def database(self) -> Database:
        return Database(self.settings.catalog_url)

    @cached_property
    def committer(self) -> Committer:
        return intake.committer(self.settings)

    def take_in(self, *studies: Study, instances: int = 3) -> list[UID]:
        """Import the studies (new ones of MR, if there are none given) and index them; their UIDs."""
        chosen = studies or (Study("MR", instances=instances),)
        folders = [self.media(study.uid) for study in chosen]
        sent = [path for study, folder in zip(chosen, folders, strict=True) for path in study.write(folder)]
        with intake.importer(self.settings) as importer:
            assert [done.verdict.value for done in importer.run(folders)] == ["stored"] * len(sent)
        self.commit()
        return [UID(study.uid) for study in chosen]

    def send_again(self, study: UID) -> None:
        """What was first sent of a study arrives once more, and is indexed."""
        first, again = self.home / "media" / study / "0", self.media(study)
        again.mkdir()
        for path in first.iterdir():
            (again / path.name).write_bytes(path.read_bytes())
        with intake.importer(self.settings) as importer:
            list(importer.run([again]))
        self.commit()

    def media(self, study: str) -> Path:
        """A new folder for what is sent of a study."""
        root = self.home / "media" / study
        return root / str(len(list(root.glob("*"))))

    def commit(self) -> None:
        """Index what is in the journal."""
        while self.committer.commit_pending():
            pass
        assert intake.catch_up(self.settings, patience=5)

    def step(self, study: UID, source: str, target: str) -> Step:
        """A step for all of a study."""
        held = self.objects(study)
        return Step(study, source, target, len(held), sum(each.size for each in held), "manual")

    def objects(self, *studies: UID) -> Sequence[StoredObject]:
        return self.locations.objects(studies)

    def tiers_of(self, study: UID) -> set[str]:
        """By the keys."""
        return {each.tier for each in self.objects(study)}

    def lake_rows(self, study: UID) -> list[StoredObject]:
        """By the lake."""
        return [each for each in self.reader.stored_objects() if each.StudyInstanceUID == study]

    def paths(self, tier: str, study: UID) -> set[str]:
        """Names of a study's objects that are on a tier."""
        return {path for path, _ in self.stores[tier].list(f"{study}/")}

    def is_intact(self, each: StoredObject) -> bool:
        """Whether the object is where it is said to be, with its bytes."""
        with closing(self.stores[each.tier].open(each.path)) as file:
            return hashlib.sha256(file.read()).hexdigest() == each.sha256

    def close(self) -> None:
        self.locations.close()
        self.removals.close()
        self.reader.close()
        self.database.close()
        settlement = self.committer._settlement
        for opened in (settlement._writer, settlement._reader):  # a committer is never closed: its process ends
            assert isinstance(opened, LakeIndexWriter | LakeIndexReader)
            opened.close()


def change(action: str = "migrated", run: str = "run-1") -> Change:
    return Change(run=run, flow="test", action=action, policy="manual", at=datetime.now(UTC))


def as_planned(step: Step) -> int:
    """Retention's rules as if they had never changed their mind."""
    return step.instances


def end_study_locks(home: TieredHome) -> None:
    """As when PostgreSQL loses the connections, and nobody else any."""
    with home.database.transaction() as session:
        session.run("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = 'pacs-study-lock'")


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
