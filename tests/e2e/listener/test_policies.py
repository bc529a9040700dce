"""What the archive does where the Standard leaves the choice to whoever runs it."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.support import scu
from tests.support.archive import Listener
from tests.support.part10 import dataset_bytes
from tests.support.synthetic import Study, save
from tests.support.waiting import eventually

NewListener = Callable[..., Listener]

SUCCESS = 0x0000


@pytest.fixture
def variants(tmp_path: Path) -> tuple[Dataset, Path, Path]:
    """One instance, and two files that hold it with different bytes."""
    (ds,) = Study("MR").datasets()
    paths = []
    for description in ("first", "second"):
        ds.SeriesDescription = description
        paths.append(tmp_path / f"{description}.dcm")
        save(ds, paths[-1])
    return ds, paths[0], paths[1]


def _held(listener: Listener, ds: Dataset) -> bytes:
    """The one data set that the archive gives for an instance."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", ds.StudyInstanceUID
    received, final = scu.get_bytes(listener.scp, identifier, [(ds.SOPClassUID, ExplicitVRLittleEndian)])
    assert final.Status == SUCCESS
    assert list(received) == [ds.SOPInstanceUID]
    return received[str(ds.SOPInstanceUID)]


@pytest.mark.parametrize("policy", ["keep-first", "replace", "reject"])
def test_identical_duplicates_are_harmless_under_every_policy(
    new_listener: NewListener, variants: tuple[Dataset, Path, Path], policy: str
) -> None:
    ds, first, _ = variants
    listener = new_listener(PACS_DUPLICATES=policy)
    assert [scu.store_file(listener.scp, first) for _ in range(3)] == [SUCCESS] * 3
    assert _held(listener, ds) == dataset_bytes(first)


@pytest.mark.parametrize(("policy", "status", "kept"), [("keep-first", SUCCESS, 0), ("replace", SUCCESS, 1), ("reject", 0x0111, 0)])
def test_other_bytes_for_a_held_instance_follow_the_policy(
    new_listener: NewListener, variants: tuple[Dataset, Path, Path], policy: str, status: int, kept: int
) -> None:
    ds, *files = variants
    listener = new_listener(PACS_DUPLICATES=policy)
    assert scu.store_file(listener.scp, files[0]) == SUCCESS
    _held(listener, ds)  # indexed before the second arrives
    assert scu.store_file(listener.scp, files[1]) == status
    assert _held(listener, ds) == dataset_bytes(files[kept])


def test_objects_are_named_by_date_where_the_layout_says_so(new_listener: NewListener, tmp_path: Path) -> None:
    listener = new_listener(PACS_LAYOUT="date")
    before = dt.datetime.now(dt.UTC).date()
    (path,) = Study("MR").write(tmp_path / "sent")
    assert scu.store_file(listener.scp, path) == SUCCESS
    after = dt.datetime.now(dt.UTC).date()
    found = eventually(lambda: list((listener.home / "hot").rglob(path.name)), what="the object")
    stored = [str(each.relative_to(listener.home / "hot")) for each in found]
    assert stored in [[f"{day:%Y/%m/%d}/{path.name}"] for day in (before, after)]


@pytest.mark.parametrize("accepted", [True, False])
def test_private_sop_classes_are_stored_where_enabled(new_listener: NewListener, tmp_path: Path, accepted: bool) -> None:
    private = "1.3.6.1.4.1.99999.5.4.1"
    listener = new_listener(PACS_ACCEPT_PRIVATE_SOP_CLASSES=str(accepted).lower())
    (path,) = Study("MR", attributes={"SOPClassUID": private}).write(tmp_path / "sent")
    contexts = [(private, ExplicitVRLittleEndian), ("1.2.840.10008.1.1", ExplicitVRLittleEndian)]
    with scu.association(listener.scp, *contexts) as assoc:
        assert [context.abstract_syntax == private for context in assoc.rejected_contexts] == ([] if accepted else [True])
        if accepted:
            assert scu.store_file(listener.scp, path) == SUCCESS
