"""Rows that our own rules refuse, into the dead-letter log: as the vendor sent them, with the reason.

They were never accepted, so nothing waits for them and nothing is lost with them: coverage counts them in any case. A
disk that is full, or a log that has grown too long, costs only the copy that a person could have looked at.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import Any

import attrs
import pyarrow as pa
import structlog

from actors.downloader.port import Page
from runtime.actor import Seams
from runtime.clock import format_ns
from runtime.errors import ConfigError, LogFull
from runtime.log.dead_letters import RULES, DeadLetters, Letter

LETTERS_MAX = 1_000
"""Of one page; a page in another unit refuses all of its 50,000 rows for one and the same reason."""
BYTES_MAX = 256 << 20
"""Of the whole dead-letter log; longer, rows are only counted."""


@attrs.define(kw_only=True, eq=False)
class RejectedRows:
    """Implements `RejectedSink`; one for the process, lent by the tree."""

    letters: DeadLetters
    seams: Seams
    version: str
    log: Any = attrs.field(factory=structlog.get_logger)

    async def __call__(self, symbol: str, kind: str, page: Page) -> None:
        """Keep `page.rejected`, durable when it returns. Raises: LogSyncFailed (fatal)."""
        if page.rejected is None or not page.rejected.num_rows:
            return
        refused, now_ns = page.rejected, self.seams.clock.wall_ns()
        for reason, rows in Counter(refused.column("reason").to_pylist()).items():
            self.seams.metrics.dead_lettered(sink=RULES, reason=reason, rows=rows)
        try:
            await self.seams.offload(
                lambda: self._keep(letters_of(symbol, kind, refused, now_ns, self.version)),
                limiter=self.letters.one_at_a_time,
            )
        except (LogFull, ConfigError) as exc:
            self.log.warning("rejected_rows_not_kept", symbol=symbol, kind=kind, rows=refused.num_rows, reason=str(exc))

    def _keep(self, letters: list[Letter]) -> None:
        if self.letters.bytes > BYTES_MAX:
            raise LogFull(f"the dead-letter log has {self.letters.bytes:,} bytes")
        self.letters.add(letters)


def letters_of(symbol: str, kind: str, refused: pa.RecordBatch, now_ns: int, version: str) -> list[Letter]:
    """The first LETTERS_MAX rows. The same row refused again is the same letter, whenever it comes. CPU-bound."""
    return [
        Letter(
            sink=RULES,
            log_id="",
            partition=0,
            offset=-1,
            row=_number(symbol, kind, row["raw"]),
            kind=kind,
            reason=row["reason"],
            error=f"{symbol} at {format_ns(row['ts_ns']) if row['ts_ns'] else 'an unknown time'}",
            content=json.dumps({"symbol": symbol, "ts_ns": row["ts_ns"], "raw": _raw(row["raw"])}),
            first_ns=now_ns,
            last_ns=now_ns,
            version=version,
        )
        for row in refused.slice(0, LETTERS_MAX).to_pylist()
    ]


def _number(symbol: str, kind: str, raw: str) -> int:
    digest = hashlib.blake2b(f"{symbol}\0{kind}\0{raw}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little")


def _raw(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
