"""Where a log ends: as the small files beside it know, and as its last segment shows. Also beside a writer."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from runtime.disk_port import Disk
from runtime.log.cursor import read_cursors
from runtime.log.frame import padded
from runtime.log.index import Catalog
from runtime.log.losses import MISSING_END
from runtime.log.meta import Meta
from runtime.log.positions import PositionsFile
from runtime.log.scan import Span
from runtime.log.segment import HEADER_BYTES


class End(NamedTuple):
    """Of what is to be seen in the segments."""

    position: int
    """Behind the last whole group."""
    durable_upto: int
    """The highest one that a frame says."""
    reason: str = MISSING_END
    """Why there is no group behind it, if one should be there."""


def known_end(disk: Disk, directory: Path, meta: Meta) -> int:
    """The position that `positions` and the cursors know the log to be durable up to, as recovery takes them.

    A live writer syncs frames before it says so here: look at this first and at the segments afterwards, never the
    other way round, and the segments reach at least that far.
    """
    marks = [meta.start_position]
    snapshot = PositionsFile(disk, directory).load(meta.log_id, 2 * meta.partitions)
    if snapshot is not None:
        marks.append(snapshot.position)
    marks += [cursor.position for cursor in read_cursors(disk, directory, meta.log_id).values()]
    return max(marks)


def find_end(disk: Disk, catalog: Catalog, known: int) -> End:
    """Of the last segment. A write under way is not looked at."""
    segment = catalog.segments[-1]
    end = durable = segment.base
    reason = MISSING_END
    file = disk.open(segment.path)
    try:
        limit = segment.base + padded(max(0, file.size() - HEADER_BYTES))
        for item in catalog.walker(segment, file, bodies=True).walk(segment.base, limit, chain=None, open_end=True):
            if isinstance(item, Span):
                end = item.end
                durable = max(durable, item.headers[0].durable_upto)
            elif item.end >= known:
                reason = item.reason  # all of it is there, and rotten
    finally:
        file.close()
    return End(end, durable, reason)
