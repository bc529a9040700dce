"""Instances on their way to a peer, over associations whose other end is in the test's hands."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pacs_core.archive.stored import StoredDataSet, open_data_set
from pacs_core.dicom.file_meta import build_file_meta
from pacs_core.dimse import command as commands
from pacs_core.dimse.command import Command
from pacs_core.dimse.connection import Aborted, AssociationEnded, Connection
from pacs_core.dimse.pool import AssociationPool
from pacs_core.dimse.sending import Courier, Outcome, batches, deliver
from pacs_core.errors import ObjectMissing
from pacs_core.model import UID, AETitle, Origin, Peer, StoreRequest
from tests.support.peers import FakeCaller

PEER = Peer(AETitle("DEST"), "127.0.0.1", 104)
CT, IMPLICIT, EXPLICIT, JPEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.70"
WITHIN = 30.0  # seconds for what happens at once


@dataclass(frozen=True)
class Instance:
    SOPInstanceUID: str
    path: Path
    SOPClassUID: str = CT
    TransferSyntaxUID: str = IMPLICIT


@pytest.fixture
def caller() -> Iterator[FakeCaller]:
    fake = FakeCaller()
    yield fake
    fake.close()


@pytest.fixture
def pool(caller: FakeCaller) -> Iterator[AssociationPool]:
    lending = AssociationPool(caller, idle=60)
    yield lending
    for connection in caller.theirs:
        connection.close()  # else the end of the idle ones waits for a release to be answered
    lending.close()


@pytest.fixture
def instances(tmp_path: Path) -> list[Instance]:
    return [_instance(tmp_path, number, b"\x08\x00\x18\x00\x06\x00\x00\x001.2.3.") for number in range(4)]


def _instance(folder: Path, number: int, data: bytes) -> Instance:
    path = folder / f"{number}.dcm"
    request = StoreRequest(UID(CT), UID(f"1.2.{number}"), UID(IMPLICIT), Origin("A", "B", datetime(2024, 5, 6, tzinfo=UTC)))
    path.write_bytes(build_file_meta(request) + data)
    return Instance(f"1.2.{number}", path)


def opened(instance: Instance) -> StoredDataSet:
    return open_data_set(instance.path)


class Destination:
    """Takes instances in at the other end of every association that a FakeCaller opens, and answers as it is told.

    Args:
        statuses: of the answers, in order, then 0; None hangs up instead.
        before: called before each answer.
    """

    def __init__(self, caller: FakeCaller, *statuses: int | None, before: Callable[[str], object] = lambda _: None) -> None:
        self.received: list[tuple[str, bytes]] = []
        self._caller = caller
        self._statuses = iter(statuses)
        self._before = before
        self._opened = caller.associate

    @contextmanager
    def serving(self) -> Iterator["Destination"]:
        """Serve each association in a thread of its own until it ends."""
        threads: list[threading.Thread] = []

        def associate(*args: object) -> object:
            assoc = self._opened(*args)  # type: ignore[arg-type]  # passed on as they come
            threads.append(threading.Thread(target=self._serve, args=(self._caller.theirs[-1],)))
            threads[-1].start()
            return assoc

        self._caller.associate = associate  # type: ignore[assignment, method-assign]
        yield self
        for connection in self._caller.theirs:
            connection.end_reading()
        for thread in threads:
            thread.join(WITHIN)

    def _serve(self, connection: Connection) -> None:
        try:
            while True:
                request, data = read_message(connection)
                status = next(self._statuses, 0)
                self._before(request.AffectedSOPInstanceUID or "")
                if status is None:
                    connection.abort()
                    return
                self.received.append((request.AffectedSOPInstanceUID or "", data))
                connection.send_message(1, commands.encode(request.response(status)))
        except AssociationEnded:
            connection.close()


def read_message(connection: Connection) -> tuple[Command, bytes]:
    """A request and its data set."""
    parts = {True: bytearray(), False: bytearray()}
    while True:
        fragment = connection.fragment(idle=60)
        parts[fragment.is_command] += fragment.data
        if fragment.is_last and not fragment.is_command:
            return commands.decode(bytes(parts[True])), bytes(parts[False])


def statuses(outcomes: Sequence[Outcome[Instance]]) -> list[tuple[str, int]]:
    return [(outcome.instance.SOPInstanceUID, outcome.status) for outcome in outcomes]


def test_instances_arrive_in_order_with_the_bytes_of_their_files(
    tmp_path: Path, caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    instances.append(_instance(tmp_path, 9, b"\x08\x00\x18\x00\x06\x00\x00\x001.2.3." + bytes(range(256)) * 10_000))
    with Destination(caller).serving() as destination:
        outcomes = list(deliver(pool, PEER, instances, opened))
    assert statuses(outcomes) == [(each.SOPInstanceUID, 0) for each in instances]
    assert [uid for uid, _ in destination.received] == [each.SOPInstanceUID for each in instances]
    for instance, (_, data), outcome in zip(instances, destination.received, outcomes, strict=True):
        assert instance.path.read_bytes().endswith(data)
        assert outcome.size == len(data)
        assert outcome.seconds > 0


def test_the_next_instance_is_read_while_the_peer_works_on_the_present_one(
    caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    second_is_read = threading.Event()
    waited: list[bool] = []

    def open_source(instance: Instance) -> StoredDataSet:
        if instance is instances[1]:
            second_is_read.set()
        return opened(instance)

    def before(uid: str) -> None:
        if uid == instances[0].SOPInstanceUID:
            waited.append(second_is_read.wait(WITHIN))

    with Destination(caller, before=before).serving():
        assert len(list(deliver(pool, PEER, instances[:2], open_source))) == 2
    assert waited == [True]


def test_a_second_delivery_uses_the_association_of_the_first(caller: FakeCaller, pool: AssociationPool, instances: list[Instance]) -> None:
    with Destination(caller).serving():
        for _ in range(3):
            assert len(list(deliver(pool, PEER, instances, opened))) == 4
    assert len(caller.theirs) == 1


def test_an_idle_association_that_breaks_when_it_is_used_costs_no_instance(
    caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    with Destination(caller, 0, None).serving() as destination:
        assert statuses(list(deliver(pool, PEER, instances[:1], opened))) == [("1.2.0", 0)]
        assert statuses(list(deliver(pool, PEER, instances[1:], opened))) == [("1.2.1", 0), ("1.2.2", 0), ("1.2.3", 0)]
    assert [uid for uid, _ in destination.received] == ["1.2.0", "1.2.1", "1.2.2", "1.2.3"]
    assert len(caller.theirs) == 2


def test_an_association_that_breaks_later_costs_the_instance_on_its_way(
    caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    with Destination(caller, 0, None).serving() as destination:
        outcomes = list(deliver(pool, PEER, instances, opened))
    assert statuses(outcomes) == [("1.2.0", 0), ("1.2.1", 0xA700), ("1.2.2", 0), ("1.2.3", 0)]
    assert outcomes[1].reason
    assert [uid for uid, _ in destination.received] == ["1.2.0", "1.2.2", "1.2.3"]


def test_instances_that_cannot_be_opened_fail_in_their_place(caller: FakeCaller, pool: AssociationPool, instances: list[Instance]) -> None:
    missing = instances[::2]

    def open_source(instance: Instance) -> StoredDataSet:
        if instance in missing:
            raise ObjectMissing("gone")
        return opened(instance)

    with Destination(caller).serving():
        outcomes = list(deliver(pool, PEER, instances, open_source))
    assert statuses(outcomes) == [("1.2.0", 0xC000), ("1.2.1", 0), ("1.2.2", 0xC000), ("1.2.3", 0)]


def test_instances_that_cannot_be_opened_are_told_once_where_the_association_breaks(
    caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    instances[1].path.unlink()
    with Destination(caller, None).serving():
        outcomes = list(deliver(pool, PEER, instances, opened))
    assert statuses(outcomes) == [("1.2.0", 0xA700), ("1.2.1", 0xC000), ("1.2.2", 0), ("1.2.3", 0)]


class ShortFile(StoredDataSet):
    """Larger than what is read at once, and cut off behind that."""

    def __init__(self, source: StoredDataSet) -> None:
        super().__init__(source.path, source._descriptor, offset=0, size=3 << 20)

    def read_into(self, buffers: Sequence[memoryview], position: int) -> None:
        if position:
            raise OSError(5, "Input/output error")


def test_a_file_that_cannot_be_read_to_its_end_ends_the_association_and_fails_alone(
    caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    def open_source(instance: Instance) -> StoredDataSet:
        return ShortFile(opened(instance)) if instance is instances[1] else opened(instance)

    with Destination(caller).serving() as destination:
        outcomes = list(deliver(pool, PEER, instances, open_source))
    assert [status for _, status in statuses(outcomes)] == [0, 0xA700, 0, 0]
    assert "Input/output error" in outcomes[1].reason
    assert [uid for uid, _ in destination.received] == ["1.2.0", "1.2.2", "1.2.3"]


@pytest.mark.parametrize("has_copy", [True, False])
def test_a_large_object_with_wrong_bytes_never_arrives_whole_and_is_opened_once_more(
    tmp_path: Path, caller: FakeCaller, pool: AssociationPool, instances: list[Instance], has_copy: bool
) -> None:
    data = b"\x08\x00\x18\x00\x06\x00\x00\x001.2.3." + bytes(3 << 20)
    instances[1] = _instance(tmp_path, 1, data)
    whole = instances[1].path.read_bytes()
    instances[1].path.write_bytes(whole[:-1] + b"!")
    (tmp_path / "copy").write_bytes(whole)
    tries: list[Instance] = []

    def open_source(instance: Instance) -> StoredDataSet:
        if instance is not instances[1]:
            return opened(instance)
        tries.append(instance)
        path = tmp_path / "copy" if has_copy and len(tries) > 1 else instance.path
        return open_data_set(path, sha256=hashlib.sha256(whole).hexdigest())

    with Destination(caller).serving() as destination:
        outcomes = list(deliver(pool, PEER, instances, open_source))
    assert statuses(outcomes) == [("1.2.0", 0), ("1.2.1", 0 if has_copy else 0xC000), ("1.2.2", 0), ("1.2.3", 0)]
    assert len(tries) == 2
    assert [received for uid, received in destination.received if uid == "1.2.1"] == [data] * has_copy


def test_nothing_is_sent_that_is_not_wanted_any_more_and_the_association_can_be_used_again(
    caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    with Destination(caller).serving() as destination:
        outcomes = list(deliver(pool, PEER, instances, opened, proceed=lambda: len(destination.received) < 2))
        assert len(list(deliver(pool, PEER, instances[3:], opened))) == 1
    assert statuses(outcomes) == [("1.2.0", 0), ("1.2.1", 0)]
    assert [uid for uid, _ in destination.received] == ["1.2.0", "1.2.1", "1.2.3"]
    assert len(caller.theirs) == 1


def test_leaving_early_waits_for_the_answer_on_its_way_so_that_the_association_can_be_used_again(
    caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    with Destination(caller).serving():
        delivery = deliver(pool, PEER, instances, opened)
        next(delivery)
        delivery.close()
        assert statuses(list(deliver(pool, PEER, instances, opened))) == [(each.SOPInstanceUID, 0) for each in instances]
    assert len(caller.theirs) == 1


def test_what_the_peer_has_answered_is_told_before_the_next_instance_is_sent(
    caller: FakeCaller, pool: AssociationPool, instances: list[Instance]
) -> None:
    told: list[str] = []
    known_before: list[tuple[str, list[str]]] = []

    def answered(outcome: Outcome[Instance]) -> None:
        told.append(outcome.instance.SOPInstanceUID)

    with Destination(caller, 0, 0xC000, before=lambda uid: known_before.append((uid, list(told)))).serving():
        outcomes = list(deliver(pool, PEER, instances, opened, answered=answered))
    uids = [each.SOPInstanceUID for each in instances]
    assert known_before == [(uid, uids[:number]) for number, uid in enumerate(uids)]
    assert told == [outcome.instance.SOPInstanceUID for outcome in outcomes]


def test_an_outcome_says_whether_the_peer_was_away(caller: FakeCaller, pool: AssociationPool, instances: list[Instance]) -> None:
    instances[2].path.unlink()
    with Destination(caller, 0, None).serving():
        outcomes = list(deliver(pool, PEER, instances[:3], opened))
    assert [outcome.is_away for outcome in outcomes] == [False, True, False]
    caller.away = True
    assert all(outcome.is_away for outcome in deliver(pool, PEER, instances[:2], opened))


def test_a_peer_that_is_away_fails_everything(caller: FakeCaller, pool: AssociationPool, instances: list[Instance]) -> None:
    caller.away = True
    outcomes = list(deliver(pool, PEER, instances, opened))
    assert [outcome.status for outcome in outcomes] == [0xA700] * 4
    assert "does not answer" in outcomes[0].reason


def test_an_instance_is_converted_where_the_peer_takes_another_syntax_only(caller: FakeCaller, instances: list[Instance]) -> None:
    (proposals, _) = next(batches(instances))
    assoc = caller.associate(PEER, [each for each in proposals if EXPLICIT in each.transfer_syntaxes])
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(_read_and_answer(caller.theirs[0])))
    thread.start()
    (outcome,) = Courier(assoc, deque(instances[:1]), opened).outcomes()
    thread.join(WITHIN)
    assert outcome.status == 0
    assert received == [b"\x08\x00\x18\x00UI\x06\x001.2.3."]


def _read_and_answer(connection: Connection) -> bytes:
    request, data = read_message(connection)
    connection.send_message(1, commands.encode(request.response(0)))
    return data


def test_what_the_peer_takes_in_no_syntax_is_not_opened(caller: FakeCaller, tmp_path: Path) -> None:
    assoc = caller.associate(PEER, next(batches([Instance("1.2.0", tmp_path)]))[0])
    lossy = Instance("1.2.0", tmp_path / "nothing", TransferSyntaxUID="1.2.3.4")
    (outcome,) = Courier(assoc, deque([lossy]), opened).outcomes()
    assert (outcome.status, "in no transfer syntax" in outcome.reason) == (0xA700, True)


def test_a_courier_whose_association_ends_names_the_instance_and_keeps_the_rest(caller: FakeCaller, instances: list[Instance]) -> None:
    assoc = caller.associate(PEER, next(batches(instances))[0])
    caller.theirs[0].abort()
    queue = deque(instances)
    courier = Courier(assoc, queue, opened)
    assert list(courier.outcomes()) == []
    assert courier.lost is not None
    assert courier.lost[0] is instances[0]
    assert isinstance(courier.lost[1], Aborted)
    assert list(queue) == instances[1:]


@pytest.mark.parametrize(
    ("stored", "wanted", "proposed"),
    [
        (IMPLICIT, [], [(IMPLICIT,), (EXPLICIT, IMPLICIT)]),
        (IMPLICIT, [EXPLICIT], [(EXPLICIT,)]),
        (IMPLICIT, [EXPLICIT, IMPLICIT], [(IMPLICIT,), (EXPLICIT, IMPLICIT)]),
        (JPEG, [JPEG, EXPLICIT], [(JPEG,), (JPEG, EXPLICIT)]),
        (JPEG, [EXPLICIT], [(EXPLICIT,)]),
        # Nothing is ever compressed: what cannot be had as the peer wants it is offered as it is.
        (IMPLICIT, [JPEG], [(IMPLICIT,), (EXPLICIT, IMPLICIT)]),
    ],
)
def test_a_peer_is_sent_the_transfer_syntaxes_that_it_is_kept_to(
    tmp_path: Path, stored: str, wanted: list[str], proposed: list[tuple[str, ...]]
) -> None:
    (proposals, _) = next(batches([Instance("1.2.0", tmp_path, TransferSyntaxUID=stored)], wanted))
    assert [tuple(proposal.transfer_syntaxes) for proposal in proposals] == proposed
