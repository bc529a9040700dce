"""pynetdicom's own SCP, a peer in a process of its own: `python -m bench.pynetdicom_scp PORT`. Answers C-ECHO."""

import socket
import sys

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time from the Standard's tables

_ASSOCIATIONS = 1000


def main() -> None:
    """Serve until killed."""
    ae = AE(ae_title="PYNETDICOM")
    ae.maximum_associations = _ASSOCIATIONS
    ae.add_supported_context(Verification)
    ae.start_server(("127.0.0.1", int(sys.argv[1])), block=True, evt_handlers=[(evt.EVT_CONN_OPEN, _no_delay)])


def _no_delay(event: evt.Event) -> None:
    connection = event.assoc.dul.socket
    assert connection is not None
    assert connection.socket is not None
    connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


if __name__ == "__main__":
    main()
