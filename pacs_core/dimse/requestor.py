"""What a requestor says of itself and of its SOP classes beside the presentation contexts (PS3.7 D.3.3.6, D.3.3.7). Pure.

Such items change nothing that must be: one that is malformed is passed over.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from pacs_core.dimse.request_form import user_items

_COMMON_EXTENDED, _USER_IDENTITY = 0x57, 0x58
_LENGTH = struct.Struct(">H")
_LONGEST_NAME = 64  # characters that are kept of a user's name


class IdentityType(IntEnum):
    """PS3.7 table D.3-14."""

    USERNAME = 1
    USERNAME_AND_PASSCODE = 2
    KERBEROS = 3
    SAML = 4
    JWT = 5


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """Who uses the requestor, as it says. Nothing of it has been checked.

    Attributes:
        name: of the first two types; "" for tickets, assertions and tokens, which are no names. The passcode is nowhere kept.
        answer_wanted: whether the acceptor is to say that it has accepted it.
    """

    type: IdentityType
    name: str
    answer_wanted: bool


def user_identity(request: bytes) -> UserIdentity | None:
    """Of an A-ASSOCIATE-RQ; None where it states none that can be read."""
    for item in user_items(request, _USER_IDENTITY):
        try:
            kind = IdentityType(item[0])
            primary, _ = _field(item, 2)
        except (ValueError, IndexError, struct.error):
            continue
        named = kind in (IdentityType.USERNAME, IdentityType.USERNAME_AND_PASSCODE)
        return UserIdentity(kind, _name(primary) if named else "", item[1] == 1)
    return None


def related_general_classes(request: bytes) -> Mapping[str, tuple[str, ...]]:
    """SOP classes of an A-ASSOCIATE-RQ with the general ones that they are specialisations of, in their order."""
    found: dict[str, tuple[str, ...]] = {}
    for item in user_items(request, _COMMON_EXTENDED):
        try:
            sop_class, position = _field(item, 0)
            _, position = _field(item, position)  # the service class: what serves the general SOP class tells it
            related, _ = _field(item, position)
            found[_uid(sop_class)] = tuple(map(_uid, _fields(related)))
        except struct.error:
            continue
    return found


def _fields(data: bytes) -> list[bytes]:
    fields, position = [], 0
    while position < len(data):
        value, position = _field(data, position)
        fields.append(value)
    return fields


def _field(data: bytes, position: int) -> tuple[bytes, int]:
    """A value behind its length, and where the next begins. struct.error if it is cut short."""
    (length,) = _LENGTH.unpack_from(data, position)
    position += _LENGTH.size
    (value,) = struct.unpack_from(f"{length}s", data, position)
    return value, position + length


def _uid(value: bytes) -> str:
    return value.strip(b"\0 ").decode("ascii", "replace")


def _name(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "?" for character in text)[:_LONGEST_NAME]
