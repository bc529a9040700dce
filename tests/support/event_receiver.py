"""A peer that takes event reports on associations of the archive's: pynetdicom as SCU of a SOP class whose SCP calls."""

from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from tests.support.processes import free_ports


@dataclass
class EventReceiver:
    """Not there until it listens. To be closed.

    Attributes:
        context_class: the SOP class of the presentation context that events come over.
        events: SOP instance, event type and data set of each event that was taken.
    """

    ae_title: str
    context_class: str
    port: int = field(default_factory=lambda: free_ports(1)[0])
    events: list[tuple[str, int, Dataset]] = field(default_factory=list)
    _servers: list[ThreadedAssociationServer] = field(default_factory=list)

    def listen(self) -> None:
        """Be there from now on."""
        ae = AE(self.ae_title)
        ae.add_supported_context(self.context_class, scu_role=False, scp_role=True)
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._take)])
        assert server is not None
        self._servers.append(server)

    def close(self) -> None:
        """Be there no more."""
        for server in self._servers:
            server.shutdown()

    def _take(self, event: evt.Event) -> tuple[int, None]:
        request: Any = event.request
        information = event.event_information if request.EventInformation else Dataset()
        self.events.append((str(request.AffectedSOPInstanceUID), int(request.EventTypeID), information))
        return 0x0000, None
