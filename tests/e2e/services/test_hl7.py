"""Orders over a real connection, with the MLLP client of the hl7 library; what they schedule, DCMTK's findscu sees."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import hl7
import pytest
from hl7.client import MLLPClient

from tests.support.archive import PACS, Listener
from tests.support.dcmtk import findscu
from tests.support.processes import daemon, free_ports, run

PID = "PID|1||P1||Müller^Jörg||19500102|F"
ORDER = "ORC|{control}|PL1\rOBR|1|PL1||C1^Chest^99L||||||||||||||A1|RP1|SPS1||||CT|||1^once^^202612010830\r"


@pytest.fixture
def archive(new_listener: Callable[..., Listener]) -> Listener:
    (port,) = free_ports(1)
    return new_listener(PACS_HL7_PORT=str(port), PACS_HL7_STATIONS='{"CT": "CT1"}', PACS_IDLE_TIMEOUT="5")


@pytest.fixture
def port(archive: Listener, tmp_path: Path) -> Iterator[int]:
    """Of a running `pacs hl7`."""
    with daemon([PACS, "hl7"], log=tmp_path / "hl7.log", env=archive.env) as server:
        port = int(archive.env["PACS_HL7_PORT"])
        server.wait_for_port(port, within=30)
        yield port


def send(port: int, *segments: str, control: str = "NW") -> tuple[str, str]:
    """An order; the code and the text of its acknowledgement."""
    text = "\r".join(("MSH|^~\\&|RIS|H|PACS|H|20261127||ORM^O01|42|P|2.3.1||||||UNICODE UTF-8", *segments)).format(control=control)
    with MLLPClient("127.0.0.1", port) as client:
        answer = hl7.parse(client.send_message(text.encode()).strip(b"\x0b\x1c\r").decode())
    return str(answer.segment("MSA")[1]), str(answer.segment("MSA")[3])


def names(archive: Listener, folder: Path) -> list[str]:
    answers = findscu(archive.scp, folder, "worklist", "", {"PatientName": "", "AccessionNumber": "A1"})
    return [str(answer.PatientName) for answer in answers]


def test_an_order_is_scheduled_changed_and_cancelled(archive: Listener, port: int, tmp_path: Path) -> None:
    assert send(port, PID, ORDER) == ("AA", "")
    assert names(archive, tmp_path / "1") == ["Müller^Jörg"]
    assert send(port, PID.replace("Jörg", "Georg"), ORDER, control="XO") == ("AA", "")
    assert names(archive, tmp_path / "2") == ["Müller^Georg"]
    assert send(port, PID, ORDER, control="CA") == ("AA", "")
    assert names(archive, tmp_path / "3") == []
    assert archive.sql("SELECT AccessionNumber, state, source FROM worklist_item") == [
        {"AccessionNumber": "A1", "state": "CANCELLED", "source": "hl7"}
    ]
    assert send(port, PID, ORDER) == ("AA", "")
    assert names(archive, tmp_path / "4") == ["Müller^Jörg"]


def test_what_cannot_be_kept_is_refused_and_nothing_of_it_is_kept(archive: Listener, port: int, tmp_path: Path) -> None:
    code, text = send(port, PID, ORDER, ORDER.replace("202612010830", "tomorrow").replace("SPS1", "SPS2"))
    assert code == "AE"
    assert "ScheduledProcedureStepStartDate" in text
    assert send(port, PID, ORDER, control="CA") == ("AE", "there is nothing on the worklist to cancel for this order")
    assert names(archive, tmp_path) == []
    with MLLPClient("127.0.0.1", port) as client:
        assert b"MSA|AR|" in client.send_message(b"hello")
        assert b"MSA|AR|" in client.send_message(b"MSH|^~\\&|RIS|H|PACS|H|20261127||ADT^A01|42|P|2.3.1\rPID|1\r")


def test_what_is_no_mllp_ends_its_own_connection_only(archive: Listener, port: int) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n\x1c\r", b"\x0b" + b"x" * (2 << 20), b""):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            try:
                sock.sendall(garbage)
                while sock.recv(1000):
                    pass
            except ConnectionError:
                pass  # it was ended while we sent
    assert send(port, PID, ORDER) == ("AA", "")


def test_without_a_port_it_says_what_to_set(new_listener: Callable[..., Listener]) -> None:
    done = run([PACS, "hl7"], env=new_listener().env)
    assert done.returncode == 2
    assert "PACS_HL7_PORT" in done.stdout
