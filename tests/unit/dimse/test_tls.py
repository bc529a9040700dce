"""Peers that are called over TLS: DCMTK's storescp is one."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pacs_core.dimse import client
from pacs_core.dimse.client import TLS, Caller
from pacs_core.dimse.negotiation import Proposal
from pacs_core.dimse.services.verification import VERIFICATION
from pacs_core.errors import ConfigurationError, PeerUnavailable
from pacs_core.model import AETitle, Peer
from tests.support.dcmtk import storescp
from tests.support.processes import free_ports

PROPOSALS = [Proposal(VERIFICATION, ("1.2.840.10008.1.2",))]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    options = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", "req", "-x509", *options, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def test_storescp_is_called_over_tls_and_shown_our_certificate(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    pem, key = (str(path) for path in certificate)
    (port,) = free_ports(1)
    peer = Peer(AETitle("STORESCP"), "127.0.0.1", port, tls=True)
    with storescp(tmp_path, port=port, ae_title="STORESCP", options=["+tls", key, pem, "+cf", pem]):
        assoc = Caller("SCU", tls=TLS(pem, pem, key)).associate(peer, PROPOSALS)
        assert [client.echo(assoc, VERIFICATION) for _ in range(3)] == [0, 0, 0]
        assoc.release()


def test_a_peer_whose_certificate_nobody_vouches_for_is_not_talked_to(certificate: tuple[Path, Path]) -> None:
    with _silent_tls_server(certificate) as port, pytest.raises(PeerUnavailable, match=r"cannot be called over TLS: .*certificate"):
        Caller("SCU").associate(Peer(AETitle("PEER"), "127.0.0.1", port, tls=True), PROPOSALS)


def test_a_peer_that_goes_silent_ends_the_wait(certificate: tuple[Path, Path]) -> None:
    pem = str(certificate[0])
    with _silent_tls_server(certificate) as port, pytest.raises(PeerUnavailable, match="silent"):
        Caller("SCU", timeout=0.3, tls=TLS(pem)).associate(Peer(AETitle("PEER"), "127.0.0.1", port, tls=True), PROPOSALS)


def test_a_certificate_file_that_is_none_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="tls_ca_file"):
        _ = TLS(str(tmp_path / "missing.pem")).context


@contextmanager
def _silent_tls_server(certificate: tuple[Path, Path]) -> Iterator[int]:
    """Shakes hands with one client, then says nothing until it is gone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = listening.accept()
        with sock, suppress(OSError), context.wrap_socket(sock, server_side=True) as talking:
            while talking.recv(1000):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    yield listening.getsockname()[1]
    thread.join(10)
    listening.close()
    assert not thread.is_alive()
