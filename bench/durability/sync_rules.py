"""What system calls tell of durability: nothing is answered before it is synced, and no sync that failed is trusted later. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from bench.durability.oracle import SUCCESS
from bench.durability.strace import Call

SYNCS = ("fsync", "fdatasync")
WRITES = ("write", "pwrite64", "pwritev", "pwritev2")
RENAMES = ("rename", "renameat", "renameat2")
ANSWERS = ("sendto", "sendmsg")
OBJECT = ".dcm"

_SEGMENT, _INCOMING = ".journal", ".part"
_SYNCED_AS = {_SEGMENT: (_SEGMENT,), _INCOMING: (_INCOMING, OBJECT)}  # a large object has its name when it is synced
_DELETED = " (deleted)"


def unfounded_answers(seen: Sequence[Call], statuses: Sequence[int]) -> Iterator[str]:
    """Successes that an association's thread answered although what it had written since its last answer was not synced.

    Args:
        seen: the calls of the process in the order in which they ended.
        statuses: what was answered on the one association that there was, in order.
    """
    answering = {call.thread for call in seen if _is_answer(call)}
    answered: Counter[int] = Counter()  # by thread, the A-ASSOCIATE-AC first
    dirty: dict[int, dict[str, Call]] = {thread: {} for thread in answering}
    failed: dict[int, Call] = {}
    for call in seen:
        kind = _suffix(call)
        if call.name in WRITES and call.thread in answering and kind in _SYNCED_AS:
            dirty[call.thread][kind] = call
        elif call.name in SYNCS and call.failed and call.thread in answering:
            failed[call.thread] = call
        elif call.name in SYNCS and not call.failed:
            _clean(dirty, call, kind)
        elif _is_answer(call):
            number = answered[call.thread] - 1
            answered[call.thread] += 1
            left, sync = dirty[call.thread], failed.pop(call.thread, None)
            dirty[call.thread] = {}
            if 0 <= number < len(statuses) and statuses[number] == SUCCESS:
                yield from (f"0000 was answered, and {write.path} had not been synced" for write in left.values())
                if sync is not None:
                    yield f"0000 was answered although {sync.name} of {sync.path} had failed"


def _clean(dirty: dict[int, dict[str, Call]], sync: Call, kind: str) -> None:
    """Take note of a sync: of one segment for all threads, of an object for the thread that writes it."""
    for thread, writes in dirty.items():
        for written, write in list(writes.items()):
            is_same = write.path == sync.path if written == _SEGMENT else thread == sync.thread
            if kind in _SYNCED_AS[written] and is_same:
                del writes[written]


def repeated_syncs(seen: Sequence[Call]) -> Iterator[str]:
    """Files whose sync failed and then succeeded, with nothing written in between that could have been lost.

    A segment of the journal is never good again. Directories are left out: their file system is broken as a whole then.
    """
    broken: set[str] = set()
    for call in seen:
        if call.name in SYNCS and _suffix(call):
            if call.failed:
                broken.add(call.path)
            elif call.path in broken:
                broken.discard(call.path)
                yield f"{call.name} of {call.path} failed and was repeated"
        else:
            broken -= {path for path in broken if _writes_anew(call, path)}


def lost_objects(seen: Sequence[Call]) -> set[str]:
    """The objects whose last sync failed and which were not written anew: a power failure may leave nothing of them."""
    lost: set[str] = set()
    for call in seen:
        if call.name in SYNCS and call.failed and call.path.endswith(OBJECT):
            lost.add(call.path)
        lost -= {path for path in lost if _writes_anew(call, path)}
    return lost


def _is_answer(call: Call) -> bool:
    return call.name in ANSWERS and call.path.startswith("TCP")


def _suffix(call: Call) -> str:
    """The kind of file that a call was made on; empty for a directory, whose name may be a UID."""
    suffix = PurePath(call.path.removesuffix(_DELETED)).suffix
    return "" if suffix[1:].isdigit() else suffix


def _writes_anew(call: Call, path: str) -> bool:
    if call.name in RENAMES:
        return call.arguments.rstrip(" 0,").endswith(f'"{path}"')
    return call.name in WRITES and call.path == path and not path.endswith(_SEGMENT)
