"""`pipeline verify`: the conservation ledger of each sink, and coverage against the market's calendar."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from runtime.clock import format_ns
from runtime.errors import ConfigError
from runtime.settings import Settings, resolve_instant
from supervisors.cli.exits import Exit
from supervisors.cli.options import add_config_options, settings_from

EARLIER = 'choose an earlier --to, or --to "" for "until now"'
HOLES_SHOWN_MAX = 20
UNAUDITED_SHOWN_MAX = 20
LACKING_SHOWN_MAX = 5


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "verify",
        help="the conservation ledger, and coverage against the calendar",
        description="Counts what the log accepted and what each sink really holds, compares every slice with its "
        "checksum. Exit 1 when anything is unaccounted, duplicated or different, and, with --from and --to, when "
        "something of that span was never fetched (without them such holes are listed, and are no failure). "
        "Works with and without the running pipeline.",
    )
    parser.add_argument(
        "--from", dest="from_", metavar="T", help="look at slices and coverage from here (default: all)"
    )
    parser.add_argument("--to", metavar="T", help="to here, exclusive")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command."""
    import trio  # slow to import: not for --help

    settings = settings_from(args)
    span_ns = _span(args)
    found = trio.run(_verify, settings, span_ns)
    print(json.dumps(found.to_json(), indent=1) if args.json else "\n".join(lines(found)))
    sys.stdout.flush()
    for problem in found.problems:
        sys.stderr.write(f"pipeline verify: {problem}\n")
    return Exit.NO if found.problems else Exit.FINE


def _span(args: argparse.Namespace) -> tuple[int, int] | None:
    from runtime.clock import SystemClock

    if args.from_ is None and args.to is None:
        return None
    if args.from_ is None or args.to is None:
        raise ConfigError("--from and --to belong together")
    now_ns = SystemClock().wall_ns()
    try:
        from_ns, to_ns = resolve_instant(args.from_, now_ns), resolve_instant(args.to, now_ns)
    except ValueError as exc:
        raise ConfigError(f"--from or --to: {exc}") from exc
    if to_ns > now_ns:
        raise ConfigError(f"--to {format_ns(to_ns)} is in the future: {EARLIER}")
    if from_ns >= to_ns:
        raise ConfigError(f"--from {format_ns(from_ns)} is not before --to {format_ns(to_ns)}")
    return from_ns, to_ns


@attrs.frozen(kw_only=True)
class CoverageLine:
    """One (symbol, kind) against the calendar, over a span."""

    symbol: str
    kind: str
    from_ns: int
    to_ns: int
    open_s: int
    """Market hours in the span."""
    covered_s: int
    """Of these, fetched and known."""
    holes: tuple[tuple[int, int, str], ...]
    """(from_ns, to_ns, why): market hours that are not covered."""

    def to_json(self) -> dict[str, object]:
        """Times as text too."""
        holes = [{"from": format_ns(a), "to": format_ns(b), "reason": why} for a, b, why in self.holes]
        return {**attrs.asdict(self), "from": format_ns(self.from_ns), "to": format_ns(self.to_ns), "holes": holes}


@attrs.frozen(kw_only=True)
class Verification:
    """Everything that was found."""

    log_id: str
    sinks: tuple[Any, ...]
    """A `LedgerReport` each."""
    coverage: tuple[CoverageLine, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """`ok`, per sink the ledger with its sums, coverage, problems."""
        sinks = [
            {
                **report.to_json(),
                "unaccounted": sum(line.unaccounted for line in report.lines),
                "duplicated": sum(line.duplicated for line in report.lines),
                "unaudited": [
                    {**attrs.asdict(u), "from": format_ns(u.from_ns), "to": format_ns(u.to_ns)}
                    for u in report.unaudited
                ],
                "rows_unaudited": sum(u.rows for u in report.unaudited),
            }
            for report in self.sinks
        ]
        coverage = [line.to_json() for line in self.coverage]
        return {
            "ok": not self.problems,
            "log_id": self.log_id,
            "sinks": sinks,
            "coverage": coverage,
            "problems": list(self.problems),
        }


async def _verify(settings: Settings, span_ns: tuple[int, int] | None) -> Verification:
    import trio

    from actors.bridge.conservation import ALL_FROM_NS, ALL_TO_NS, verify_sink
    from actors.bridge.rows import counted_as
    from actors.embedded.spec import EmbeddedHome
    from runtime.disk import RealDisk
    from runtime.log.dead_letters import FOLDER as DEAD_LETTERS
    from runtime.log.dead_letters import Entry, letters_of_sink
    from runtime.log.tools import open_files
    from supervisors.cli.doing import told
    from supervisors.cli.servers import make_seams, servers_for
    from supervisors.tree import sink_factory

    seams = make_seams()
    folder = settings.pipeline.data_dir / "log"
    home = EmbeddedHome(data_dir=settings.pipeline.data_dir)

    def row_counts(upto: Mapping[int, int] | None) -> dict[tuple[int, str], int]:
        # Opened anew: a running pipeline appends, and what is looked at must not be older than the sink's marks.
        return open_files(RealDisk(), folder).row_counts(upto, named=counted_as)

    def letters(sink: str) -> list[Entry]:
        return letters_of_sink(RealDisk(), settings.pipeline.data_dir / DEAD_LETTERS, sink)[0]

    async with told("pipeline verify", sys.stderr) as doing:
        doing.what = "waiting for the databases"
        async with servers_for(settings, list(settings.sinks), seams):
            reports = []
            doing.what = "looking at the log"
            log = await trio.to_thread.run_sync(open_files, RealDisk(), folder)
            for name in settings.sinks:
                doing.what = f"{name}: counting rows and comparing them with the log"
                cursor = (await trio.to_thread.run_sync(log.cursors)).get(f"bridge.{name}")
                report = await verify_sink(
                    sink_factory(name, settings, home),
                    seams,
                    log_id=log.log_id,
                    marks=cursor.committed if cursor else {},
                    row_counts=row_counts,
                    letters=lambda name=name: letters(name),  # type: ignore[misc]
                    span_ns=span_ns or (ALL_FROM_NS, ALL_TO_NS),
                )
                reports.append(report)
            doing.what = "coverage"
            coverage = await trio.to_thread.run_sync(_coverage, settings, span_ns)
            doing.what = "done, stopping what was started for it"
    return assemble(log.log_id, reports, coverage, asked=span_ns is not None)


def assemble(log_id: str, reports: Sequence[Any], coverage: Sequence[CoverageLine], *, asked: bool) -> Verification:
    """The verdict. `asked`: the span was named, so what was never fetched of it is a no. Pure."""
    problems = [f"{report.sink}: {problem}" for report in reports for problem in report.problems]
    if asked:
        problems += [
            f"{line.symbol} {line.kind}: {format_ns(a)} … {format_ns(b)}: {why}"
            for line in coverage
            for a, b, why in line.holes
        ]
    return Verification(log_id=log_id, sinks=tuple(reports), coverage=tuple(coverage), problems=tuple(problems))


# -- coverage


def _coverage(settings: Settings, span_ns: tuple[int, int] | None) -> list[CoverageLine]:
    """From the first sink that keeps it; every sink's own audit compares its rows with it. Blocking."""
    from actors.market.symbols import feeds
    from supervisors.cli import query_clickhouse, query_timescale
    from supervisors.cli.servers import address_of

    name, sink = next((name, sink) for name, sink in settings.sinks.items() if "coverage" in sink.stores)
    if sink.kind == "timescale":
        sql = "SELECT symbol, kind, from_ns, to_ns, status, reason FROM coverage_latest"
        table = query_timescale.query(address_of(settings, name), sql)
    else:
        ns = "toUnixTimestamp64Milli({0}) * 1000000 AS {1}"
        times = f"{ns.format('from_ts', 'from_ns')}, {ns.format('to_ts', 'to_ns')}"
        sql = f"SELECT symbol, kind, {times}, status, reason FROM coverage_latest"
        table = query_clickhouse.query(address_of(settings, name), sql)
    try:
        wanted = set(feeds(settings.pipeline.symbols, settings.downloader.kinds))
    except ValueError as exc:
        raise ConfigError(f"pipeline.symbols: {exc}") from exc
    return coverage_lines([tuple(row.values()) for row in table.to_pylist()], wanted, span_ns)


Record = tuple[str, str, int, int, str, str]
"""symbol, kind, from_ns, to_ns, status, reason: a row of coverage_latest."""
KNOWN = ("final", "empty", "live")


def coverage_lines(
    records: Sequence[Any], wanted: set[tuple[str, str]], span_ns: tuple[int, int] | None
) -> list[CoverageLine]:
    """One line per (symbol, kind) that is stored or wanted; without a span from its first to its last record. Pure."""
    found: dict[tuple[str, str], list[Record]] = {key: [] for key in sorted(wanted)}
    for record in records:
        found.setdefault((record[0], record[1]), []).append(record)
    return [_coverage_line(key, rows, span_ns) for key, rows in found.items() if rows or span_ns]


def _coverage_line(key: tuple[str, str], rows: Sequence[Record], span_ns: tuple[int, int] | None) -> CoverageLine:
    from actors.market.calendar import sessions
    from actors.market.coverage import IntervalSet

    low, high = span_ns or (min(row[2] for row in rows), max(row[3] for row in rows))
    known = IntervalSet([(a, b) for _, _, a, b, status, _ in rows if status in KNOWN])
    named = sorted(
        (a, b, f"{status}: {why}" if why else status) for _, _, a, b, status, why in rows if status not in KNOWN
    )
    opens = sessions(key[0], low, high)
    gaps = [gap for a, b in opens for gap in known.missing(a, b)]
    holes = [hole for gap in gaps for hole in _name(gap, named)]
    open_ns = sum(b - a for a, b in opens)
    return CoverageLine(
        symbol=key[0],
        kind=key[1],
        from_ns=low,
        to_ns=high,
        open_s=open_ns // 10**9,
        covered_s=(open_ns - sum(b - a for a, b in gaps)) // 10**9,
        holes=tuple(holes),
    )


def _name(gap: tuple[int, int], named: Sequence[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
    """Cut a gap at the records that give it a reason; the rest was never fetched."""
    at, end = gap
    for low, high, why in named:
        if high <= at or low >= end:
            continue
        if low > at:
            yield at, low, "not fetched"
        yield max(at, low), min(high, end), why
        at = min(high, end)
    if at < end:
        yield at, end, "not fetched"


# -- for people


def lines(found: Verification) -> Iterator[str]:
    """Tables. Pure."""
    head = ("sink", "kind", "accepted", "stored", "replaced", "dead-lettered", "pending", "unaccounted", "duplicated")
    rows = [
        (r.sink, x.kind, x.accepted, x.stored, x.replaced, x.dead_lettered, x.pending, x.unaccounted, x.duplicated)
        for r in found.sinks
        for x in r.lines
    ]
    yield f"log {found.log_id}"
    yield from _table(head, rows)
    for report in found.sinks:
        for line in report.lines:
            if line.before:
                yield f"{report.sink}: {line.kind}: {line.before:,} rows were put there by other logs (--adopt)"
            if line.dropped:
                yield f"{report.sink}: {line.kind}: {line.dropped:,} dead letters were dropped by an operator"
        if report.rows_audited:
            yield f"{report.sink}: {report.rows_audited:,} rows compared with their slices' checksums"
        yield from _unaudited(report)
    if found.coverage:
        yield "coverage of market hours:"
    for line in found.coverage:
        share = f"{line.covered_s / line.open_s:.2%}" if line.open_s else "no market hours"
        yield f"  {line.symbol} {line.kind} {format_ns(line.from_ns)} … {format_ns(line.to_ns)}: {share}"
        for a, b, why in line.holes[:HOLES_SHOWN_MAX]:
            yield f"    {format_ns(a)} … {format_ns(b)}: {why}"
        if len(line.holes) > HOLES_SHOWN_MAX:
            yield f"    and {len(line.holes) - HOLES_SHOWN_MAX} more (--json gives all)"
    yield _count(len(found.problems)) if found.problems else _all_well(found.coverage)


def _count(problems: int) -> str:
    return "1 problem" if problems == 1 else f"{problems:,} problems"


def _all_well(coverage: Sequence[CoverageLine]) -> str:
    """Nothing accepted is lost; what was never accepted is said in the same breath."""
    from supervisors.cli.progress import duration  # slow to import: not for --help

    lacking: dict[tuple[str, str, str], int] = {}
    for line in coverage:
        for a, b, why in line.holes:
            lacking[line.symbol, line.kind, why] = lacking.get((line.symbol, line.kind, why), 0) + b - a
    if not lacking:
        return "everything is accounted for"
    parts = [f"{duration(ns / 1e9)} of {symbol} {kind} ({why})" for (symbol, kind, why), ns in lacking.items()]
    if more := len(parts) - LACKING_SHOWN_MAX:
        parts = [*parts[:LACKING_SHOWN_MAX], *([f"{more} more"] if more > 0 else [])]
    return f"everything accepted is accounted for, but not everything was fetched: {', '.join(parts)} are not there"


def _unaudited(report: Any) -> Iterator[str]:
    """Live rows, and what a later slice with other borders left of an older one."""
    if report.unaudited:
        rows = sum(u.rows for u in report.unaudited)
        yield f"{report.sink}: {rows:,} rows counted, but compared with no checksum (live, or left of an older slice):"
    for u in report.unaudited[:UNAUDITED_SHOWN_MAX]:
        yield f"  {u.symbol} {u.kind} {format_ns(u.from_ns)} … {format_ns(u.to_ns)}: {u.rows:,} rows"
    if len(report.unaudited) > UNAUDITED_SHOWN_MAX:
        yield f"  and {len(report.unaudited) - UNAUDITED_SHOWN_MAX} more (--json gives all)"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    texts = [tuple(f"{v:,}" if isinstance(v, int) else str(v) for v in row) for row in rows]
    widths = [max(len(row[i]) for row in (tuple(head), *texts)) for i in range(len(head))]
    for row in (tuple(head), *texts):
        cells = (c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        yield "  " + "  ".join(cells).rstrip()
