import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pacs_core.errors import InvalidIdentifier
from pacs_core.index.commit import LakeIndexWriter
from pacs_core.index.reader import LakeIndexReader
from pacs_core.model import UID, Header, InstanceRecord, Level, Query
from tests.support.records import RECEIVED, record


@pytest.fixture
def held(writer: LakeIndexWriter) -> list[InstanceRecord]:
    """Patient P1 with a study of a CT and an MR series, P2 with a study of one instance."""
    mr: Header = {"Modality": "MR", "SeriesNumber": "2"}
    records = [
        *(record(number, study="1.1", series="1.1.1") for number in (10, 9, 1)),
        *(record(number, study="1.1", series="1.1.2", header=mr) for number in (1, 2)),
        record(1, study="1.2", series="1.2.1", header={"PatientID": "P2", "PatientName": "Roe^Ann"}, SOPClassUID=UID("1.2.3")),
    ]
    writer.commit(records)
    return records


def test_an_answer_has_every_attribute_of_its_level_and_above_as_received(held: list[InstanceRecord], reader: LakeIndexReader) -> None:
    (found,) = reader.find(Query(Level.SERIES, {"SeriesInstanceUID": "1.1.2"}))
    assert found == {
        "PatientID": "P1",
        "PatientName": "Doe^Jane",
        "StudyInstanceUID": "1.1",
        "StudyDate": "20240506",
        "SeriesInstanceUID": "1.1.2",
        "Modality": "MR",
        "SeriesNumber": "2",
    }


def test_computed_attributes_are_answered_where_they_are_asked_for(held: list[InstanceRecord], reader: LakeIndexReader) -> None:
    names = ["ModalitiesInStudy", "SOPClassesInStudy", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"]
    (found,) = reader.find(Query(Level.STUDY, {"StudyInstanceUID": "1.1", "NumberOfPatientRelatedStudies": "", **dict.fromkeys(names, "")}))
    assert [found[name] for name in names] == ["CT\\MR", "1.2.840.10008.5.1.4.1.1.2", "2", "5"]
    assert found["NumberOfPatientRelatedStudies"] == "1"
    (found,) = reader.find(
        Query(Level.PATIENT, {"PatientID": "P1", "NumberOfPatientRelatedSeries": "", "NumberOfPatientRelatedInstances": ""})
    )
    assert (found["NumberOfPatientRelatedSeries"], found["NumberOfPatientRelatedInstances"]) == ("2", "5")
    found_series = reader.find(Query(Level.SERIES, {"StudyInstanceUID": "1.1", "NumberOfSeriesRelatedInstances": ""}))
    assert sorted(str(series["NumberOfSeriesRelatedInstances"]) for series in found_series) == ["2", "3"]


@pytest.mark.parametrize(("key", "studies"), [("MR", ["1.1"]), ("C?", ["1.1", "1.2"]), ("MR\\CT", ["1.1", "1.2"]), ("US", [])])
def test_studies_are_found_by_the_modalities_in_them(
    held: list[InstanceRecord], reader: LakeIndexReader, key: str, studies: list[str]
) -> None:
    assert sorted(str(found["StudyInstanceUID"]) for found in reader.find(Query(Level.STUDY, {"ModalitiesInStudy": key}))) == studies


def test_studies_are_found_by_the_sop_classes_in_them(held: list[InstanceRecord], reader: LakeIndexReader) -> None:
    found = reader.find(Query(Level.STUDY, {"SOPClassesInStudy": "1.2.3"}))
    assert [header["StudyInstanceUID"] for header in found] == ["1.2"]


def test_a_key_that_cannot_be_matched_is_refused_before_anything_runs(reader: LakeIndexReader) -> None:
    with pytest.raises(InvalidIdentifier):
        reader.find(Query(Level.STUDY, {"StudyDate": "tomorrow"}))


def test_closing_the_iterator_leaves_the_reader_usable(held: list[InstanceRecord], reader: LakeIndexReader) -> None:
    found = reader.find(Query(Level.IMAGE, {}))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(list(reader.find(Query(Level.IMAGE, {})))) == 6


@pytest.mark.parametrize(
    ("query", "instances"),
    [
        (Query(Level.STUDY, {"StudyInstanceUID": "1.1"}), ["1.1.1.1", "1.1.1.9", "1.1.1.10", "1.1.2.1", "1.1.2.2"]),
        (Query(Level.STUDY, {"StudyInstanceUID": "1.1\\1.2", "PatientID": "P2"}), ["1.2.1.1"]),
        (Query(Level.PATIENT, {"PatientID": "P2"}), ["1.2.1.1"]),
        (Query(Level.PATIENT, {"PatientID": "P2", "IssuerOfPatientID": "elsewhere"}), []),
        (Query(Level.SERIES, {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.2"}), ["1.1.2.1", "1.1.2.2"]),
        (Query(Level.SERIES, {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.1.2"}), []),
        (Query(Level.IMAGE, {"SOPInstanceUID": "1.1.1.9\\1.1.2.2\\9.9"}), ["1.1.1.9", "1.1.2.2"]),
    ],
)
def test_a_retrieve_gets_the_instances_below_what_it_names_in_order(
    held: list[InstanceRecord], reader: LakeIndexReader, query: Query, instances: list[str]
) -> None:
    assert [item.SOPInstanceUID for item in reader.locate(query)] == instances


def test_shards_cover_everything_once_and_respect_their_limits(held: list[InstanceRecord], reader: LakeIndexReader) -> None:
    (whole,) = reader.shards(max_instances=100, max_bytes=10**9)
    assert (whole.studies, whole.instances, whole.bytes) == (("1.1", "1.2"), 6, 6000)
    shards = reader.shards(max_instances=5, max_bytes=10**9)
    assert [shard.instances for shard in shards] == [5, 1]
    assert reader.shards(max_instances=100, max_bytes=5000) == shards
    cut = [item.SOPInstanceUID for shard in shards for item in reader.stored_objects(shard.studies)]
    assert sorted(cut) == sorted(item.SOPInstanceUID for item in reader.stored_objects()) == sorted(item.SOPInstanceUID for item in held)


def test_a_share_is_what_was_longest_not_verified(held: list[InstanceRecord], reader: LakeIndexReader, writer: LakeIndexWriter) -> None:
    everything = {"max_instances": 1, "max_bytes": 1}
    assert [shard.studies for shard in reader.shards(**everything, percent=1)] == [("1.1",)]
    writer.mark_verified([each.object for each in held if each.StudyInstanceUID == "1.1"], RECEIVED)
    assert [shard.studies for shard in reader.shards(**everything, percent=1)] == [("1.2",)]
    assert [shard.studies for shard in reader.shards(**everything, percent=100)] == [("1.2",), ("1.1",)]


def test_an_empty_index_has_counts_and_no_shards(reader: LakeIndexReader) -> None:
    counts = reader.counts()
    assert (counts.patients, counts.instances, dict(counts.tiers)) == (0, 0, {})
    assert list(reader.shards(max_instances=1, max_bytes=1)) == []


def test_many_threads_read_at_once_while_commits_go_on(
    held: list[InstanceRecord], writer: LakeIndexWriter, reader: LakeIndexReader
) -> None:
    done = threading.Event()

    def read() -> list[int]:
        seen = []
        while not done.is_set():
            seen.append(len(list(reader.find(Query(Level.IMAGE, {"StudyInstanceUID": "1.1"})))))
        return seen

    with ThreadPoolExecutor(6) as pool:
        readers = [pool.submit(read) for _ in range(6)]
        for batch in range(5):
            writer.commit([record(100 + 2 * batch + number, study="1.1", series="1.1.1") for number in range(2)])
        done.set()
        for outcome in readers:
            seen = outcome.result()
            assert seen == sorted(seen)
            assert {count % 2 for count in seen} <= {1}  # five at first, and two more with each commit
