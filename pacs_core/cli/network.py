"""echo, store, find, move, get: the archive's own SCU on the command line."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement

from pacs_core.archive.stored import open_data_set
from pacs_core.cli import output
from pacs_core.cli.errors import Failed
from pacs_core.dicom.file_meta import read_file_meta
from pacs_core.dicom.headers import header_of
from pacs_core.dimse import client, committing, sending
from pacs_core.dimse.association import Association
from pacs_core.dimse.client import Caller
from pacs_core.dimse.command import Command
from pacs_core.dimse.fetching import FolderReceiver, storage_proposals
from pacs_core.dimse.information_models import Operation, sop_class
from pacs_core.dimse.negotiation import LITTLE_ENDIAN, Proposal
from pacs_core.dimse.pool import AssociationPool
from pacs_core.dimse.request_form import MAXIMUM_CONTEXTS
from pacs_core.dimse.services.verification import VERIFICATION
from pacs_core.errors import ConfigurationError, PacsError
from pacs_core.model import AETitle, Peer
from pacs_core.ports.commitment import Reference, Requests
from pacs_core.settings import check_ae_title, load_settings
from pacs_core.wiring import exchange, index


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to call and who calls."""

    caller: Caller
    peer: Peer

    @contextmanager
    def association(self, proposals: Sequence[Proposal]) -> Iterator[Association]:
        """An open association, released at the end."""
        assoc = self.caller.associate(self.peer, proposals)
        try:
            yield assoc
        finally:
            assoc.release()


def target(home: Path | None, peer: str, calling: str) -> Target:
    """Resolve the options --peer and --aet: AE@HOST:PORT, a peer's AE title, or this archive itself."""
    settings = load_settings(home)
    caller = exchange.caller(settings, _ae_title(calling) if calling else "")
    if not peer:
        return Target(caller, Peer(AETitle(settings.ae_title), "127.0.0.1", settings.dicom_port))
    if "@" in peer:
        title, _, address = peer.partition("@")
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigurationError(f"--peer {peer}: write it as AE@HOST:PORT")
        return Target(caller, Peer(AETitle(_ae_title(title)), host, int(port)))
    known = index.peers(settings).get(peer)
    if known is None:
        raise ConfigurationError(f"--peer {peer}: there is no such peer; add it with `pacs peer add`, or write AE@HOST:PORT")
    return Target(caller, known)


def echo(to: Target) -> None:
    """C-ECHO."""
    with to.association([Proposal(VERIFICATION, LITTLE_ENDIAN)]) as assoc:
        status = client.echo(assoc, VERIFICATION)
    if status:
        raise PacsError(f"{to.peer.ae_title} answered with status {status:04X}")
    output.line(f"{to.peer.ae_title} at {to.peer.host}:{to.peer.port} answers")


@dataclass(frozen=True, slots=True)
class _LocalInstance:
    SOPClassUID: str
    SOPInstanceUID: str
    TransferSyntaxUID: str
    path: Path


@dataclass(frozen=True, slots=True)
class Commitment:
    """That a peer is to commit to what it is sent: within so many seconds, with the requests of this archive."""

    requests: Requests
    timeout: float


def commitment(home: Path | None, timeout: float) -> Commitment:
    """Where requests for commitment are kept."""
    return Commitment(index.commitment_requests(load_settings(home)), timeout)


def store(to: Target, paths: Sequence[Path], wanted: Commitment | None = None) -> None:
    """C-STORE of every DICOM file below the paths. Failed if one of them is not a DICOM file, not accepted or not committed to."""
    failures = 0
    accepted: list[Reference] = []
    with output.progress("sent") as progression, closing(AssociationPool(to.caller, idle=0)) as pool:
        instances = []
        for path in files_below(paths):
            try:
                instances.append(_local_instance(path))
            except (PacsError, OSError) as exc:
                failures += 1
                progression.line(f"{printable(path)}: not sent: {exc}")
        for outcome in sending.deliver(pool, to.peer, instances, lambda instance: open_data_set(instance.path)):
            progression.advance(total=len(instances))
            if sending.is_success(outcome.status):
                accepted.append(Reference(outcome.instance.SOPClassUID, outcome.instance.SOPInstanceUID))
            else:
                failures += 1
                progression.line(f"{printable(outcome.instance.path)}: status {outcome.status:04X} {outcome.reason}".rstrip())
    if wanted is not None and accepted:
        failures += _commit(to, accepted, wanted)
    if failures:
        raise Failed


def _commit(to: Target, accepted: Sequence[Reference], wanted: Commitment) -> int:
    """Have the peer commit to instances; how many it does not."""
    failed = committing.ask(to.caller, to.peer, accepted, wanted.requests, timeout=wanted.timeout)
    for uid, reason in failed.items():
        output.line(f"{uid}: not committed: {reason:04X}")
    output.line(f"{to.peer.ae_title} has committed to {len(accepted) - len(failed)} of {len(accepted)} instances")
    return len(failed)


def files_below(paths: Sequence[Path]) -> Iterator[Path]:
    """The files that are given, and those in folders that are, in a stable order. DICOMDIRs describe others and are left out."""
    for path in paths:
        if path.is_dir():
            yield from (child for child in sorted(path.rglob("*")) if child.is_file() and child.name != "DICOMDIR")
        else:
            yield path


def _local_instance(path: Path) -> _LocalInstance:
    with path.open("rb") as file:
        meta = read_file_meta(file)
    return _LocalInstance(meta.SOPClassUID, meta.SOPInstanceUID, meta.TransferSyntaxUID, path)


def find(to: Target, level: str, root: str, keys: Sequence[str], form: str) -> None:
    """C-FIND; one row a match, one column a key."""
    model = sop_class(root, Operation.FIND)
    wanted = keys or _DEFAULT_KEYS[level.upper()]
    identifier = _identifier(level, wanted)
    columns = [key.partition("=")[0] for key in wanted]
    with to.association([Proposal(model, LITTLE_ENDIAN)]) as assoc:
        matches = (header_of(match) for match in client.find(assoc, model, identifier))
        output.print_rows(columns, ([match.get(column, "") for column in columns] for match in matches), form)


def move(to: Target, destination: str, level: str, root: str, keys: Sequence[str]) -> None:
    """C-MOVE to a third party."""
    model = sop_class(root, Operation.MOVE)
    with to.association([Proposal(model, LITTLE_ENDIAN)]) as assoc:
        _follow(client.move(assoc, model, _identifier(level, keys), _ae_title(destination)), "moved")


def get(to: Target, level: str, root: str, keys: Sequence[str], folder: Path) -> None:
    """C-GET into a folder."""
    model = sop_class(root, Operation.GET)
    folder.mkdir(parents=True, exist_ok=True)
    receiver = FolderReceiver(folder)
    with to.association([Proposal(model, LITTLE_ENDIAN), *storage_proposals(MAXIMUM_CONTEXTS - 1)]) as assoc:
        _follow(client.get(assoc, model, _identifier(level, keys), receiver), "fetched")


def _follow(responses: Iterator[Command], what: str) -> None:
    """Show the progress of a retrieve, and how it ended. Failed unless every sub-operation was completed."""
    final = Command()
    with output.progress(what) as progression:
        shown = 0
        for final in responses:
            done = (
                _count(final.NumberOfCompletedSuboperations)
                + _count(final.NumberOfFailedSuboperations)
                + _count(final.NumberOfWarningSuboperations)
            )
            while shown < done:
                shown += 1
                progression.advance(total=done + _count(final.NumberOfRemainingSuboperations))
    completed, failed = _count(final.NumberOfCompletedSuboperations), _count(final.NumberOfFailedSuboperations)
    comment = f" ({final.ErrorComment})" if final.ErrorComment else ""
    output.line(
        f"{what} {completed + _count(final.NumberOfWarningSuboperations)}, failed {failed}, status {final.Status or 0:04X}{comment}"
    )
    if final.Status:
        raise Failed


def _count(value: int | None) -> int:
    return value or 0


def _identifier(level: str, keys: Sequence[str]) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level.upper()
    for key in keys:
        keyword, _, value = key.partition("=")
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise ConfigurationError(f"--key {key}: {keyword} is not a DICOM keyword, such as PatientID or StudyDate")
        if not value.isascii():
            ds.SpecificCharacterSet = "ISO_IR 192"
        vr = dictionary_VR(tag)
        ds.add(DataElement(tag, vr, None if vr == "SQ" or not value else value.split("\\") if "\\" in value else value))
    return ds


_DEFAULT_KEYS = {
    "PATIENT": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "NumberOfPatientRelatedStudies"),
    "STUDY": (
        "StudyDate",
        "PatientID",
        "PatientName",
        "ModalitiesInStudy",
        "StudyDescription",
        "NumberOfStudyRelatedInstances",
        "StudyInstanceUID",
    ),
    "SERIES": ("Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances", "SeriesInstanceUID"),
    "IMAGE": ("SOPClassUID", "InstanceNumber", "SOPInstanceUID"),
}


def _ae_title(text: str) -> str:
    try:
        return check_ae_title(text)
    except ValueError as exc:
        raise ConfigurationError(f"{text!r}: {exc}") from exc


def printable(path: Path) -> str:
    """A path that may hold bytes of no encoding, for a line of text."""
    return str(path).encode("utf-8", "backslashreplace").decode()
