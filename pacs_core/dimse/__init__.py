"""The network: DICOM upper layer, DIMSE messages, and the services on top of them. The owner of pynetdicom.

    connection   one socket: PDUs in and out, sizes and deadlines bounded (PS3.8)
    negotiation  what is offered and accepted when an association opens (PS3.8 7.1, PS3.7 annex D)
    association  messages over an open association (PS3.7)
    command      command sets, to and from bytes (PS3.7 6.3, annex E)
    identifiers  query identifiers and their answers (PS3.4 C.4)
    services/    one module per DIMSE service, as SCP
    listener     accepts associations and gives each a thread
    client       the archive as SCU

pynetdicom supplies the association PDUs and the SOP class registry; the bytes of P-DATA, in both directions, are read
and written here, because its own path costs more than storage, hash and index together (docs/adr/0002).
"""
