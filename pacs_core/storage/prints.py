"""What was printed: a folder for each job, below one for each day. It appears whole, or not at all."""

import shutil
from pathlib import Path

from pacs_core.storage import scratch
from pacs_core.storage.files import check_reserve, fsync_directory, fsync_path, make_directories, translated
from pacs_core.storage.layout import is_object_path
from pacs_core.storage.scratch import ScratchDirectory

_RENDERING = ".rendering"


class Prints:
    """The prints of a home. Thread- and process-safe.

    Args:
        root: their directory.
        reserve: bytes that are left free on its file system.
    """

    def __init__(self, root: Path, *, reserve: int = 0) -> None:
        self._root = root
        self._reserve = reserve

    def workplace(self) -> ScratchDirectory:
        """Where a job's files are made, to be placed. To be closed. StorageFull, StorageUnavailable."""
        return ScratchDirectory(self._root / _RENDERING)

    def check_room(self) -> None:
        """StorageFull where the reserve is all that is left."""
        with translated("looking for room for a print"):
            check_reserve(self._root, self._reserve)

    def place(self, made: Path, path: str) -> None:
        """Give a directory in a workplace its name, durably. Where the name is taken, somebody else has made the same. Repeatable."""
        target = self._root / path
        with translated(f"placing the print {path}"):
            for file in made.iterdir():
                fsync_path(file)
            fsync_directory(made)
            make_directories(target.parent)
            if not target.exists():
                made.rename(target)
            fsync_directory(target.parent)

    def remove(self, path: str) -> None:
        """Remove a print. Idempotent."""
        if not is_object_path(path):
            raise ValueError(f"{path} is no name of a print")
        target = self._root / path
        with translated(f"removing the print {path}"):
            if target.exists():
                shutil.rmtree(target)
            if target.parent != self._root and target.parent.exists() and not any(target.parent.iterdir()):
                target.parent.rmdir()

    def sweep(self) -> int:
        """Remove what killed processes were at; how many directories."""
        return scratch.sweep(self._root / _RENDERING)
