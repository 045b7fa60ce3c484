"""PostgreSQL's SQLSTATEs by whose fault they are: outage, poison, or a bug. Pure."""

from __future__ import annotations

from runtime.errors import PermanentSinkError, RetryableSinkError

POISON_CLASSES = frozenset({"22", "23"})
"""Data exception, integrity constraint violation: the rows themselves."""
BUG_STATES = frozenset({"42601", "42703", "42804", "42883", "42P02", "42P10"})
"""Syntax error, undefined column, type mismatch, undefined function or parameter: our statement is wrong."""


def classify(sqlstate: str | None) -> type[RetryableSinkError | PermanentSinkError] | None:
    """What an SQLSTATE means (postgresql.org/docs/current/errcodes-appendix.html); None = a bug of ours.

    Everything that is not clearly poison or bug is an outage: connection (08), resources and full disk (53),
    administrator and shutdown (57), lock time-out (55), deadlock and serialization (40), a protocol error (25, 58),
    a password that is wrong just now (28), tables that somebody dropped (42P01, 3F000: made again at the next open).
    """
    if sqlstate is None:
        return RetryableSinkError
    if sqlstate[:2] in POISON_CLASSES:
        return PermanentSinkError
    return None if sqlstate in BUG_STATES else RetryableSinkError
