"""What a new user does, with DCMTK alone: `python -m bench.acceptance --port 11112 [--ae-title PACS]` against a running archive.

400 CT and 500 MR go in with storescu, are found at four levels with findscu and come back with movescu and getscu; each data
set is compared byte for byte with what was sent. The move destination is entered with `pacs peer add` (PACS_HOME as it runs).
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support import dcmtk
from tests.support.archive import PACS
from tests.support.dcmtk import Scp
from tests.support.part10 import by_instance, dataset_bytes
from tests.support.processes import assert_succeeded, free_ports, run
from tests.support.synthetic import Study

_DESTINATION = "ACCEPTANCE"


def main() -> None:
    """Run and print one line a step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=11112)
    parser.add_argument("--ae-title", default="PACS")
    options = parser.parse_args()
    scp = Scp(options.port, options.ae_title)
    with tempfile.TemporaryDirectory(prefix="pacs-acceptance-") as folder:
        root = Path(folder)
        studies = [*(Study("CT", series=2, instances=50) for _ in range(4)), *(Study("MR", series=4, instances=25) for _ in range(5))]
        sent = [path for study in studies for path in study.write(root / "sent")]
        _step(f"storescu: {len(sent)} instances in", lambda: assert_succeeded(dcmtk.storescu(scp, [root / "sent"], "+sd")))
        _find(scp, root, studies[0])
        _retrieve(scp, root, studies, sent)


def _step(name: str, action: Callable[[], object]) -> None:
    started = time.perf_counter()
    action()
    print(f"{name}: {time.perf_counter() - started:.1f} s")


def _find(scp: Scp, root: Path, study: Study) -> None:
    series = {"StudyInstanceUID": study.uid, "SeriesInstanceUID": ""}
    found = dcmtk.findscu(scp, root / "series", "patient", "SERIES", {"PatientID": study.patient_id, **series})
    one = str(found[0].SeriesInstanceUID)
    queries = {
        "PATIENT": {"PatientID": study.patient_id, "PatientName": ""},
        "STUDY": {"PatientID": study.patient_id, "StudyInstanceUID": ""},
        "SERIES": {"PatientID": study.patient_id, **series},
        "IMAGE": {"PatientID": study.patient_id, "StudyInstanceUID": study.uid, "SeriesInstanceUID": one, "SOPInstanceUID": ""},
    }
    for level, keys in queries.items():
        matches = dcmtk.findscu(scp, root / f"found-{level}", "patient", level, keys)
        print(f"findscu {level}: {len(matches)} matches")


def _retrieve(scp: Scp, root: Path, studies: Sequence[Study], sent: Sequence[Path]) -> None:
    (port,) = free_ports(1)
    assert_succeeded(run([PACS, "peer", "add", _DESTINATION, "127.0.0.1", str(port)]))
    uids = {"StudyInstanceUID": "\\".join(study.uid for study in studies)}
    with dcmtk.storescp(root / "moved", port=port, ae_title=_DESTINATION) as moved:
        _step("movescu", lambda: print(dcmtk.movescu(scp, _DESTINATION, "study", "STUDY", uids).counters))
        _compare("movescu", sent, moved)
    _step("getscu", lambda: print(dcmtk.getscu(scp, root / "got", "study", "STUDY", uids).counters))
    _compare("getscu", sent, root / "got")
    assert_succeeded(run([PACS, "peer", "remove", _DESTINATION]))


def _compare(name: str, sent: Sequence[Path], folder: Path) -> None:
    received = by_instance(folder.iterdir())
    same = sum(dataset_bytes(received[uid]) == dataset_bytes(path) for uid, path in by_instance(sent).items() if uid in received)
    print(f"{name}: {same} of {len(sent)} byte-identical")


if __name__ == "__main__":
    main()
