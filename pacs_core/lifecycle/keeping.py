"""Is what is kept beside what is held still good? Packages of archived studies, and what retention has put into quarantine.

A package that is damaged is one problem of its study: what it holds cannot be told apart any more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from pacs_core.archive.verification import Damage, Problem, ShardReport, verify_objects, verify_shard
from pacs_core.errors import ChecksumMismatch, ObjectArchived, ObjectMissing
from pacs_core.lifecycle.packaging import check_package, form_of, local_package
from pacs_core.model import Copy, Removed, StoredObject
from pacs_core.ports import LandingStore, ObjectStore
from pacs_core.storage.configured import tier_named


def verify_package(stores: Mapping[str, ObjectStore], members: Sequence[Copy], scratch: Path) -> ShardReport:
    """Read a package whole and compare its members with what was archived. One that has to be rehydrated is left out.

    StorageUnavailable if that cannot be told now.
    """
    first = members[0]
    inside = [replace(member.object, path=member.member) for member in members]
    report = ShardReport(checked=len(members), bytes_read=sum(member.size for member in members))
    try:
        with local_package(tier_named(stores, first.tier), first.path, scratch) as package:
            check_package(package, form_of(first.path), inside)
    except ObjectArchived:
        return ShardReport()
    except ObjectMissing as exc:
        return replace(report, problems=(_problem(first, Damage.MISSING, exc),))
    except ChecksumMismatch as exc:
        return replace(report, problems=(_problem(first, Damage.CORRUPT, exc),))
    return replace(report, intact=tuple(member.SOPInstanceUID for member in members))


def verify_quarantined(stores: Mapping[str, ObjectStore], landing: LandingStore, removed: Sequence[Removed]) -> ShardReport:
    """Read what is in quarantine and compare its bytes. Raises as `verification.verify_shard`."""

    def retired(each: StoredObject) -> BinaryIO:
        try:
            return landing.retired(each.sha256).open("rb")
        except FileNotFoundError as exc:
            raise ObjectMissing(f"{each.path} is not among what was retired") from exc

    here = [each.object for each in removed if each.tier == landing.tier]
    elsewhere = [each.object for each in removed if each.tier != landing.tier]
    report = verify_objects(retired, here) + verify_shard(stores, elsewhere)
    return replace(report, problems=tuple(replace(each, detail=f"in quarantine: {each.detail}") for each in report.problems))


def _problem(copy: Copy, damage: Damage, reason: Exception) -> Problem:
    return Problem(damage, copy.tier, copy.path, str(reason), StudyInstanceUID=copy.StudyInstanceUID)
