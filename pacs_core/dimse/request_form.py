"""A-ASSOCIATE-RQ PDUs as they come, brought into the form that the codec takes (PS3.8 9.3.2).

Peers pad AE titles with NUL, send items of later editions, or version names that are too long; the Standard has such things
ignored (PS3.8 9.3.1, PS3.7 D.3.3), the codec refuses them. Pure.
"""

import struct
from collections.abc import Iterator

from pacs_core.dimse.connection import ProtocolViolation

_FIXED = 74  # bytes before the variable items: header, version, AE titles, reserved
_CALLED, _CALLING = slice(10, 26), slice(26, 42)
_APPLICATION_CONTEXT, _PRESENTATION_CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX = 0x30, 0x40
# Maximum length, implementation class UID, role selection, implementation version name, SOP class extended negotiation.
_USED_USER_ITEMS = (0x51, 0x52, 0x54, 0x55, 0x56)
_VERSION_NAME = 0x55
_LONGEST_VERSION_NAME, _LONGEST_UID = 16, 64
MAXIMUM_CONTEXTS = 128
_TRANSFER_SYNTAXES = 256
_NO_SYNTAX = b"0.0"  # stands for a UID that is missing or cannot be one: it is supported by nobody
_NO_TITLE = b"-".ljust(16)

_ITEM = struct.Struct(">BxH")


def normalised(pdu: bytes) -> bytes:
    """The request with AE titles and items as PS3.8 has them; ProtocolViolation if its structure does not add up."""
    if len(pdu) < _FIXED:
        raise ProtocolViolation("an association request of less than 74 bytes")
    head = bytearray(pdu[:_FIXED])
    for field in (_CALLED, _CALLING):
        head[field] = _title(bytes(head[field]))
    body = bytearray()
    seen: set[int] = set()
    for kind, content in _items(pdu[_FIXED:]):
        if kind == _APPLICATION_CONTEXT:
            body += _item(kind, content)
        elif kind == _PRESENTATION_CONTEXT:
            body += _item(kind, _context(content, seen))
        elif kind == _USER_INFORMATION:
            body += _item(kind, _user_information(content))
    struct.pack_into(">L", head, 2, len(head) + len(body) - 6)
    return bytes(head + body)


def user_items(pdu: bytes, wanted: int) -> Iterator[bytes]:
    """What the user information of a request has of one type of item; ProtocolViolation if its structure does not add up."""
    for kind, content in _items(pdu[_FIXED:]):
        if kind == _USER_INFORMATION:
            yield from (value for item, value in _items(content) if item == wanted)


def with_reserved_fields_of(answer: bytes, request: bytes) -> bytes:
    """An A-ASSOCIATE-AC that repeats the request's AE title fields as they came (PS3.8 table 9-17)."""
    return answer[:10] + request[10:_FIXED] + answer[_FIXED:]


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        if len(data) - position < 4:
            raise ProtocolViolation("an association request ends within an item")
        kind, length = _ITEM.unpack_from(data, position)
        position += 4
        if length > len(data) - position:
            raise ProtocolViolation("an item of an association request is longer than the rest of it")
        yield kind, data[position : position + length]
        position += length


def _item(kind: int, content: bytes) -> bytes:
    return _ITEM.pack(kind, len(content)) + content


def _title(field: bytes) -> bytes:
    text = bytes(byte if 0x20 <= byte < 0x7F and byte != 0x5C else (0x20 if byte == 0 else 0x3F) for byte in field)
    return text if text.strip() else _NO_TITLE


def _context(content: bytes, seen: set[int]) -> bytes:
    if len(content) < 4 or not content[0] % 2 or content[0] in seen:
        raise ProtocolViolation("a presentation context without an odd identifier of its own")
    seen.add(content[0])
    syntaxes = list(_items(content[4:]))
    if len(seen) > MAXIMUM_CONTEXTS or len(syntaxes) > _TRANSFER_SYNTAXES:
        raise ProtocolViolation("more presentation contexts or transfer syntaxes than an association can have")
    if all(kind != _ABSTRACT_SYNTAX for kind, _ in syntaxes):
        syntaxes.insert(0, (_ABSTRACT_SYNTAX, _NO_SYNTAX))
    body = b"".join(_item(kind, _uid(value)) for kind, value in syntaxes if kind in (_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX))
    return content[:4] + body


def _uid(value: bytes) -> bytes:
    text = value.strip(b"\0 ")
    return text if text and len(text) <= _LONGEST_UID and text.isascii() else _NO_SYNTAX


def _user_information(content: bytes) -> bytes:
    return b"".join(
        _item(kind, value[:_LONGEST_VERSION_NAME] if kind == _VERSION_NAME else value)
        for kind, value in _items(content)
        if kind in _USED_USER_ITEMS and value
    )
