"""ClickHouse's error codes by whose fault they are: outage, poison, or a bug. Pure."""

from __future__ import annotations

from runtime.errors import PermanentSinkError, RetryableSinkError

POISON_CODES = frozenset({6, 26, 27, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 469})
"""Cannot parse (6, 26, 27, 38, 41, 72), type and range (53, 69, 70, 131, 321), incorrect data (117), NULL (349),
constraint (469): the rows themselves."""
BUG_CODES = frozenset({16, 20, 36, 42, 43, 46, 47, 62, 115, 179, 215, 386})
"""No such column, arguments, unknown function, identifier or setting, syntax, aggregation: our statement is wrong."""


def classify(code: int | None) -> type[RetryableSinkError | PermanentSinkError] | None:
    """What a code means (src/Common/ErrorCodes.cpp); None = a bug of ours.

    All else is an outage: no code (transport), memory (241), disk (243), time-out (159, 209), read-only (164, 242),
    too many parts (252), a cut transfer (33), passwords (516), and missing tables (60, 81), made at the next open.
    """
    if code in POISON_CODES:
        return PermanentSinkError
    return None if code in BUG_CODES else RetryableSinkError
