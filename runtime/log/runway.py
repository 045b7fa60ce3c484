"""The runway: the next segment, preallocated and synced while the current one is being filled.

So a new segment costs the writer a header and two small syncs instead of an allocation, and whoever fills the disk,
the rest of the current segment and the whole next one are already ours (DURABLE_LOG.md 4.5, 8).
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import attrs

from runtime.disk_port import Disk, File
from runtime.log.cursor import NO_SPACE
from runtime.log.segment import HEADER_BYTES, UNFINISHED

_PREFIX = "runway-"
_NAME = re.compile(re.escape(_PREFIX) + r"(\d{1,18})" + re.escape(UNFINISHED))


@attrs.define(kw_only=True)
class Spare:
    """A file of zeros with guaranteed space, not yet a segment."""

    path: Path
    file: File
    size: int


@attrs.define(kw_only=True)
class Runway:
    """At most one spare file. `prepare` may run beside the writer, in one thread at a time; `take` is the writer's."""

    disk: Disk
    directory: Path
    size: int
    _spare: Spare | None = None
    _count: int = 0

    @property
    def bytes(self) -> int:
        """Guaranteed space in the next segment, 0 while there is none."""
        spare = self._spare
        return 0 if spare is None else spare.size - HEADER_BYTES

    def adopt(self) -> None:
        """After a start: an untouched spare of the former process, which a full disk could not give again.

        Anything else with a temporary name goes away; what somebody else put there stays. Raises OSError.
        """
        for name in self.disk.names(self.directory):
            path, ours = self.directory / name, _NAME.fullmatch(name)
            if ours:
                self._count = max(self._count, int(ours[1]) + 1)
            if ours and self._spare is None and (spare := self._untouched(path)):
                self._spare = spare
            elif name.endswith((UNFINISHED, ".tmp")):
                self.disk.unlink(path)

    def prepare(self) -> None:
        """Make the spare if there is none. Raises OSError (ENOSPC: not now)."""
        if self._spare is not None:
            return
        path = self.directory / f"{_PREFIX}{self._count}{UNFINISHED}"
        self._count += 1
        file = self.disk.open(path, write=True, create=True)
        try:
            file.truncate(0)
            file.allocate(self.size)
            file.sync()
            self.disk.sync_directory(self.directory)
        except OSError:
            file.close()
            with contextlib.suppress(OSError):
                self.disk.unlink(path)  # on a full disk its space is needed
            raise
        self._spare = Spare(path=path, file=file, size=self.size)

    def take(self, needed: int) -> Spare | None:
        """The spare, which is the caller's from now on; None if there is none of that size."""
        spare = self._spare
        if spare is None or spare.size < needed:
            return None
        self._spare = None
        return spare

    def close(self) -> None:
        """Release the handle; the file stays for the next start."""
        if self._spare is not None:
            self._spare.file.close()
            self._spare = None

    def _untouched(self, path: Path) -> Spare | None:
        """Whole, and nobody began to write a segment into it. (Its first page is written first.)"""
        file = self.disk.open(path, write=True)
        try:
            if file.size() == self.size and not any(file.pread(HEADER_BYTES, 0)):
                file.allocate(self.size)  # a crash may have kept the length and lost the space
                file.sync()
                return Spare(path=path, file=file, size=self.size)
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
        file.close()
        return None
