"""What must be in the log after a power cut, from the numbers that were acknowledged. Never asks the log."""

from __future__ import annotations

from pathlib import Path

import attrs

from runtime.log.log import Log
from tests.powercuts.writer import PARTITIONS, PRODUCERS, draft, open_log


@attrs.define
class Heard:
    """What one writer said before its end."""

    acked: int
    """Groups [0, acked) are acknowledged."""
    cursor: int = 0
    cursor_under_way: int = 0
    opened: int = 0
    commits: int = 0
    batch_max: int = 3

    def hear(self, said: bytes) -> None:
        for line in said.decode().splitlines():
            word, *values = line.split()
            if word == "A":
                self.acked = int(values[0])
                self.commits += 1
            elif word == "c":
                self.cursor_under_way = int(values[0])
            elif word == "C":
                self.cursor = self.cursor_under_way = int(values[0])
            elif word == "O":
                self.opened += 1


class Broken(AssertionError):
    """A promise was broken."""


@attrs.define
class Found:
    groups: int
    """The log holds groups [start, groups)."""
    start: int
    torn: bool
    unacknowledged: int


def check(folder: Path, scenario: str, heard: Heard) -> Found:
    """Recover and compare. Raises Broken."""
    log = open_log(folder, scenario)
    try:
        return _check(log, heard)
    finally:
        log.close()


def _check(log: Log, heard: Heard) -> Found:
    _demand(not log.damage, f"called damaged: {log.damage}")
    reader, groups, position = log.reader(), [], log.start_position
    while position < log.end_position:
        found, position = reader.read(position, log.end_position, bytes_max=4 << 20, partitions=None)
        groups += found
    reader.close()
    _demand(not log.damage, f"damaged when read: {log.damage}")
    numbers = [int(group.producer_position) for group in groups]
    start = numbers[0] if numbers else heard.acked
    _demand(numbers == list(range(start, start + len(numbers))), f"order: {numbers[:3]} … {numbers[-3:]}")
    end = start + len(numbers)
    _demand(end >= heard.acked, f"lost: acknowledged {heard.acked}, found {end}")
    _demand(end <= heard.acked + heard.batch_max, f"invented: acknowledged {heard.acked}, found {end}")
    cursor = log.cursor("sink").load().position
    _demand(cursor in (heard.cursor, heard.cursor_under_way), f"cursor {cursor}, {heard}")
    _demand(start == 0 or log.start_position <= cursor, f"trimmed to {log.start_position}, verified was {cursor}")
    offsets = [0] * (2 * PARTITIONS)
    for number in range(start):
        for frame in draft(number).frames:
            offsets[frame.partition] += 1
    stamp = 0
    for number, group in zip(numbers, groups, strict=True):
        wanted = draft(number)
        _demand((group.producer, group.sequence) == (wanted.producer, wanted.sequence), f"group {number}: producer")
        _demand(
            [(f.partition, f.body, f.rows) for f in group.frames]
            == [(f.partition, f.body, f.rows) for f in wanted.frames],
            f"group {number}: content",
        )
        _demand(group.stamp_ns > stamp, "stamps")
        stamp = group.stamp_ns
        for frame in group.frames:
            _demand(frame.offset == offsets[frame.partition], f"offsets of partition {frame.partition}")
            offsets[frame.partition] += 1
    _demand([log.log_end_offset(p) for p in range(2 * PARTITIONS)] == offsets, "next offsets")
    for name in PRODUCERS:
        mine = [n for n in range(end) if PRODUCERS[n % 3] == name]
        state = log.producer(name)
        wanted_state = (len(mine), b"%d" % mine[-1]) if mine else (0, b"")
        _demand((state.sequence, state.position) == wanted_state, f"producer {name}: {state}, not {wanted_state}")
    return Found(end, start, bool(log.torn), end - heard.acked)


def _demand(true: bool, what: str) -> None:
    if not true:
        raise Broken(what)
