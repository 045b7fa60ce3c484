"""The dead-letter log: a second instance of the durable log, for rows that nobody takes. Never trimmed.

Letters and later decisions about them are appended; the state of a letter is the fold of both. A row is known by its
key (sink, log_id, partition, offset, row): the same row reported again is the same letter, with a later last attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import attrs
import msgspec
import trio

from runtime.disk_port import Disk
from runtime.entropy import Entropy
from runtime.log.frame import BODY_BYTES_MAX
from runtime.log.log import Log, LogSettings
from runtime.log.recovery import Damage
from runtime.log.tools import open_files
from runtime.log.types import FrameDraft, Group, GroupDraft

FOLDER = "dead-letters"
_KINDS = {"letters": b"json", "verdicts": b"json"}
_SEGMENT_BYTES = 1 << 20
_PRODUCER = "dead_letters"
OPEN, REPLAY, DROPPED, STORED = "open", "replay", "dropped", "stored"
"""Stored: its sink was sent it again and took it."""
RULES = "rules"
"""`Letter.sink` of rows that our own rules refused."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One row as it was received, and why it is here."""

    sink: str
    """Who refused it; `rules` = our own rules, so it was never accepted."""
    log_id: str
    partition: int
    offset: int
    """-1: it has no place in the log."""
    row: int
    kind: str
    reason: str
    """One word to count and filter by."""
    error: str
    content: str
    """The row as JSON."""
    first_ns: int
    last_ns: int
    version: str

    @property
    def key(self) -> str:
        """What people call it."""
        return f"{self.sink}/{self.log_id[:8]}/{self.partition}/{self.offset}/{self.row}"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody decided."""

    key: str
    state: str
    at_ns: int


@attrs.frozen
class Entry:
    """A letter and where it stands: open, replay (wanted), dropped, stored."""

    letter: Letter
    state: str


@attrs.define(kw_only=True)
class DeadLetters:
    """The writing side; made when the first letter comes. Blocking; one thread at a time: `one_at_a_time`."""

    disk: Disk
    directory: Path
    wall_ns: Callable[[], int]
    entropy: Entropy
    one_at_a_time: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(1))
    """For whoever calls from several tasks."""
    _log: Log | None = None

    def add(self, letters: Sequence[Letter]) -> None:
        """Durable when it returns. Raises LogFull, LogSyncFailed, ConfigError (in use)."""
        self._append("letters", letters)

    def decide(self, keys: Iterable[str], state: str) -> None:
        """Replay or drop. Raises as `add`."""
        at_ns = self.wall_ns()
        self._append("verdicts", [Verdict(key=key, state=state, at_ns=at_ns) for key in keys])

    @property
    def bytes(self) -> int:
        """Kept so far, as far as it is known without opening the log."""
        return self._log.bytes if self._log is not None else 0

    def of_sink(self, sink: str) -> tuple[list[Entry], list[Damage]]:
        """As `letters_of_sink`."""
        return letters_of_sink(self.disk, self.directory, sink)

    def close(self) -> None:
        """Let another process in."""
        if self._log is not None:
            self._log.close()
            self._log = None

    def _append(self, kind: str, items: Sequence[msgspec.Struct]) -> None:
        if not items:
            return
        log = self._opened()
        frames = tuple(
            FrameDraft(partition=0, kind=kind, body=body, rows=rows, event_time_ns_min=0, event_time_ns_max=0)
            for body, rows in _bodies(items)
        )
        sequence = log.producer(_PRODUCER).sequence + 1
        log.commit([GroupDraft(producer=_PRODUCER, sequence=sequence, producer_position=b"", frames=frames)])

    def _opened(self) -> Log:
        if self._log is None:
            self._log = Log.open(
                self.disk,
                self.directory,
                settings=LogSettings(partitions=1, segment_bytes=_SEGMENT_BYTES),
                schemas=_KINDS,
                wall_ns=self.wall_ns,
                entropy=self.entropy,
            )
        elif self._log.needs_reopen:
            self._log.reopen()
        return self._log


def read_letters(disk: Disk, directory: Path) -> dict[str, Entry]:
    """Every letter that can be read, as `look_at_letters`."""
    return look_at_letters(disk, directory)[0]


def look_at_letters(disk: Disk, directory: Path, *, sink: str | None = None) -> tuple[dict[str, Entry], list[Damage]]:
    """Every letter (of one sink, or of all) by key, oldest first, and the ranges whose letters are lost.

    Blocking, read-only, also while somebody writes. Raises ConfigError (no log, or a newer one).
    """
    if not disk.names(directory):
        return {}, []
    log = open_files(disk, directory, schemas=_KINDS)
    found = fold(log.groups(), sink=sink)
    files = [one for one in log.check_files() if one.position < one.end_position and one not in log.damage]
    return found, [*files, *log.damage]


def letters_of_sink(disk: Disk, directory: Path, sink: str) -> tuple[list[Entry], list[Damage]]:
    """As `look_at_letters`, without the keys."""
    found, damage = look_at_letters(disk, directory, sink=sink)
    return list(found.values()), damage


def fold(groups: Iterable[Group], *, sink: str | None = None) -> dict[str, Entry]:
    """Of one sink, or of all. Pure."""
    found: dict[str, Entry] = {}
    for group in groups:
        for frame in group.frames:
            if frame.kind == "letters":
                for letter in msgspec.json.decode(frame.body, type=list[Letter]):
                    if sink not in (None, letter.sink):
                        continue
                    old = found.get(letter.key)
                    first_ns = old.letter.first_ns if old is not None else letter.first_ns
                    found[letter.key] = Entry(msgspec.structs.replace(letter, first_ns=first_ns), OPEN)
            elif frame.kind == "verdicts":
                for verdict in msgspec.json.decode(frame.body, type=list[Verdict]):
                    if verdict.key in found:
                        found[verdict.key] = attrs.evolve(found[verdict.key], state=verdict.state)
    return found


def _bodies(items: Sequence[msgspec.Struct]) -> Iterable[tuple[bytes, int]]:
    """JSON arrays below the size of a frame."""
    chunk: list[bytes] = []
    size = 2
    for item in map(msgspec.json.encode, items):
        if chunk and size + len(item) + 1 > BODY_BYTES_MAX:
            yield b"[" + b",".join(chunk) + b"]", len(chunk)
            chunk, size = [], 2
        chunk.append(item)
        size += len(item) + 1
    yield b"[" + b",".join(chunk) + b"]", len(chunk)
