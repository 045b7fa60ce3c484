"""Tables and views of ClickHouse (CONTRACT "Tables"). Every statement may be run again; no driver here."""

from __future__ import annotations

from actors.market.flags import Flag

_MERGE_TREE_SETTINGS = "fsync_after_insert = 1, fsync_part_directory = 1"
"""Table settings (DRIVERS 2): without them an acknowledged insert is in the page cache only."""

VERSION = "holdfast 3"
"""Comment of our views; another one means that they are made anew."""
INSERT_SETTINGS = {"async_insert": 0}
"""Never the server's default (1 in 26.9): an asynchronous insert may answer before the part is there."""

CANDLES = f"""
create table if not exists {{db}}.candles (
    symbol LowCardinality(String), timeframe LowCardinality(String), basis LowCardinality(String),
    ts DateTime64(3, 'UTC'), open Float64, high Float64, low Float64, close Float64,
    volume Nullable(Float64), vwap Nullable(Float64), ticks Int64,
    origin LowCardinality(String), source LowCardinality(String), final Bool, flags Int32, revision Int64,
    log_id LowCardinality(String), log_partition Int32, log_offset Int64,
    index log_offset_range log_offset type minmax granularity 1)
engine = ReplacingMergeTree partition by toYear(ts)
order by (symbol, timeframe, basis, ts, origin, source, revision, log_id)
settings {_MERGE_TREE_SETTINGS}
"""
COVERAGE = f"""
create table if not exists {{db}}.coverage (
    symbol LowCardinality(String), kind LowCardinality(String), source LowCardinality(String),
    from_ts DateTime64(9, 'UTC'), to_ts DateTime64(9, 'UTC'), status LowCardinality(String),
    rows Int64, checksum Int64, rejected Int64, duplicates Int64, reason String, request_id String,
    revision Int64, log_id LowCardinality(String), after_offset Nullable(Int64), session Nullable(String),
    market_clock_ns Nullable(Int64), log_partition Int32, log_offset Int64,
    index log_offset_range log_offset type minmax granularity 1)
engine = ReplacingMergeTree partition by toYear(from_ts)
order by (symbol, kind, from_ts, to_ts, revision, log_id)
settings {_MERGE_TREE_SETTINGS}
"""
PIPELINE_LOG = f"""
create table if not exists {{db}}.pipeline_log (log_id String, since DateTime64(3, 'UTC'))
engine = ReplacingMergeTree order by log_id settings {_MERGE_TREE_SETTINGS}
"""

CANDLE_KEY = ("symbol", "timeframe", "basis", "ts")
_CANDLE_REST = (
    "open", "high", "low", "close", "volume", "vwap", "ticks", "origin", "source", "final", "flags", "revision",
    "log_id", "log_partition", "log_offset",
)  # fmt: skip

# LIMIT 1 BY over the table's own order: rows stream through sorted, a filter on the key reaches the primary index (both
# seen in EXPLAIN, 26.9), and copies of a re-sent row fall together without FINAL. argMax over a tuple of all columns
# says the same and needs 470 bytes per bar: 3 M bars did not fit into 1.4 GiB. GONE is looked at after the choice.
CANDLES_LATEST = f"""
create or replace view {{db}}.candles_latest as
select * from (
    select {", ".join((*CANDLE_KEY, *_CANDLE_REST))} from {{db}}.candles
    order by {", ".join(CANDLE_KEY)}, origin = 'ticks' desc, revision desc, source desc, log_id desc
    limit 1 by {", ".join(CANDLE_KEY)})
where bitAnd(flags, {int(Flag.GONE)}) = 0
comment '{VERSION}'
"""

_DAY_NS = 86_400_000_000_000


def _day_of(ns: str) -> str:
    """The UTC day of an Int64 expression, also before 1970: intDiv alone rounds towards 0."""
    return f"intDiv({ns} - toInt64(positiveModulo({ns}, {_DAY_NS})), {_DAY_NS})"


_KEY = "symbol, kind, day"
_RECORD = """
(select *, toUnixTimestamp64Nano(from_ts) as from_ns, toUnixTimestamp64Nano(to_ts) as to_ns,
    row_number() over (partition by symbol, kind order by revision, log_id, from_ts, to_ts) as n
    from {db}.coverage final where from_ts < to_ts)
"""
_PART = f"""
(select symbol, kind, n, day, greatest(from_ns, day * {_DAY_NS}) as low, least(to_ns, (day + 1) * {_DAY_NS}) as high
    from (select symbol, kind, n, from_ns, to_ns, {_day_of("from_ns")} as first_day,
            arrayJoin(range(toUInt64({_day_of("(to_ns - 1)")} - first_day + 1))) as nth,
            first_day + toInt64(nth) as day from {_RECORD}))
"""
_BORDER = f"""
(select {_KEY}, at, row_number() over w as i, leadInFrame(at) over w as next_at
    from (select distinct {_KEY}, arrayJoin([low, high]) as at from {_PART})
    window w as (partition by {_KEY} order by at rows between unbounded preceding and unbounded following))
"""
# The same steps as in pgschema: cut the records at midnights, number the borders of a day, spread each record over the
# pieces between its borders, keep the newest record of each piece, join neighbouring pieces of the same record.
COVERAGE_LATEST = f"""
create or replace view {{db}}.coverage_latest as
select r.symbol as symbol, r.kind as kind, r.source as source,
    fromUnixTimestamp64Nano(u.shown_from, 'UTC') as from_ts, fromUnixTimestamp64Nano(u.shown_to, 'UTC') as to_ts,
    r.status as status, if(u.shown_from = r.from_ns and u.shown_to = r.to_ns, r.rows, null) as rows,
    if(u.shown_from = r.from_ns and u.shown_to = r.to_ns, r.checksum, null) as checksum,
    r.rejected as rejected, r.duplicates as duplicates, r.reason as reason, r.request_id as request_id,
    r.revision as revision, r.log_id as log_id, r.after_offset as after_offset, r.session as session,
    r.market_clock_ns as market_clock_ns
from (
    select symbol, kind, n, min(at) as shown_from, max(next_at) as shown_to from (
        select symbol, kind, n, at, next_at, sum(starts) over
            (partition by symbol, kind, n order by at rows between unbounded preceding and current row) as island
        from (
            select p.symbol as symbol, p.kind as kind, p.n as n, b.at as at, b.next_at as next_at,
                row_number() over w = 1 or b.at != lagInFrame(b.next_at) over w as starts
            from (
                select {_KEY}, i, max(n) as n from (
                    select r.symbol as symbol, r.kind as kind, r.day as day, r.n as n,
                        arrayJoin(range(lo.i, hi.i)) as i
                    from {_PART} r
                    join {_BORDER} lo
                        on lo.symbol = r.symbol and lo.kind = r.kind and lo.day = r.day and lo.at = r.low
                    join {_BORDER} hi
                        on hi.symbol = r.symbol and hi.kind = r.kind and hi.day = r.day and hi.at = r.high)
                group by {_KEY}, i) p
            join {_BORDER} b on b.symbol = p.symbol and b.kind = p.kind and b.day = p.day and b.i = p.i
            window w as (partition by p.symbol, p.kind, p.n order by b.at
                rows between unbounded preceding and current row)))
    group by symbol, kind, n, island) u
join {_RECORD} r on r.symbol = u.symbol and r.kind = u.kind and r.n = u.n
comment '{VERSION}'
"""

STATEMENTS = (CANDLES, COVERAGE, PIPELINE_LOG)
VIEWS = {"candles_latest": CANDLES_LATEST, "coverage_latest": COVERAGE_LATEST}
TABLES = {"candles": "candles", "coverage": "coverage"}
"""Kind -> table."""


def read_back(db: str, kind: str, ranges: dict[int, tuple[int, int]]) -> str:
    """Rows per (log_partition, log_offset), each identity once, for [low, high) per partition. Parameter `log_id`.

    FINAL: copies of a re-send that were not merged yet must not count. Without it a re-send looks like too much.
    """
    wanted = " or ".join(
        f"(log_partition = {int(p)} and log_offset >= {int(low)} and log_offset < {int(high)})"
        for p, (low, high) in sorted(ranges.items())
    )
    return (
        f"select log_partition, log_offset, count() as n from {db}.{TABLES[kind]} final"
        f" where log_id = {{log_id:String}} and ({wanted}) group by log_partition, log_offset"
    )


def count_below(db: str, kind: str, marks: dict[int, int]) -> str:
    """Rows of this log below the marks, each identity once. Parameter `log_id`."""
    below = " or ".join(f"(log_partition = {int(p)} and log_offset < {int(m)})" for p, m in sorted(marks.items()))
    return f"select count() from {db}.{TABLES[kind]} final where log_id = {{log_id:String}} and ({below or '0'})"


def reached(db: str, kind: str) -> str:
    """Per partition the next offset after the highest one of this log. Parameter `log_id`."""
    return (
        f"select log_partition, max(log_offset) + 1 from {db}.{TABLES[kind]} where log_id = {{log_id:String}}"
        " group by log_partition"
    )


def doubles(db: str, kind: str, span: str = "") -> str:
    """How many rows a reader of the view sees beyond one per key (`coverage`: beyond disjoint). `span`: a condition."""
    where = f"where {span}" if span else ""
    if kind == "candles":
        return f"select count() - uniqExact({', '.join(CANDLE_KEY)}) from {db}.candles_latest {where}"
    return (
        # The first of all has none before it: lagInFrame says 1970 there, which is late for a record of 1969.
        f"select countIf(nth > 1 and from_ts < before) from (select from_ts, lagInFrame(to_ts) over w as before,"
        f" row_number() over w as nth from {db}.coverage_latest {where}"
        f" window w as (partition by symbol, kind order by from_ts rows between unbounded preceding and current row))"
    )
