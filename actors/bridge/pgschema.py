"""The tables and views of schema `market` in PostgreSQL (CONTRACT "Tables"), and the statements that need no driver."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import numpy as np

from actors.market.coverage import SLICE_STATUS

VERSION = 2
DDL_LOCK = 0x686F6C64
"""pg_advisory_xact_lock key: two openers do not create the same things at once."""

BASE = """
create schema if not exists market;
create table if not exists market.schema_version (
    version int4 primary key, created_at timestamptz not null default now());
create table if not exists market.pipeline_log (
    log_id text primary key, since timestamptz not null default now(),
    quotes_before int8 not null default 0, trades_before int8 not null default 0,
    coverage_before int8 not null default 0);
create table if not exists market.delivery (
    log_id text not null, log_partition int4 not null, next_offset int8 not null,
    rows_copied int8 not null default 0, rows_replaced int8 not null default 0,
    quotes_replaced int8 not null default 0, trades_replaced int8 not null default 0,
    updated_at timestamptz not null default now(), primary key (log_id, log_partition));
create table if not exists market.symbols (
    id int4 generated always as identity primary key, symbol text not null unique);
create table if not exists market.sources (
    id int2 generated always as identity primary key, source text not null unique);
create table if not exists market.coverage_records (
    id int8 generated always as identity primary key,
    symbol text not null, kind text not null, source text not null, from_ns int8 not null, to_ns int8 not null,
    status text not null, rows int8 not null, checksum int8 not null, rejected int8 not null, duplicates int8 not null,
    reason text not null, request_id text not null, after_offset int8, session text, market_clock_ns int8,
    revision int8 not null, log_id text not null, log_partition int4 not null, log_offset int8 not null);
create index if not exists coverage_records_interval on market.coverage_records (symbol, kind, from_ns);
create index if not exists coverage_records_long on market.coverage_records (symbol, kind, from_ns)
    where to_ns - from_ns > 86400000000000;
do $books$ begin
    if not exists (select 1 from pg_attribute
            where attrelid = 'market.delivery'::regclass and attname = 'quotes_copied') then
        alter table market.delivery add column quotes_copied int8 not null default 0,
            add column trades_copied int8 not null default 0;
        -- What was copied before is not known by kind. So much is: what is left of it was not replaced (see BOOKS).
        update market.delivery set quotes_copied = quotes_replaced, trades_copied = trades_replaced;
    end if;
end $books$;
"""

_DAY_NS = 86_400_000_000_000
_QUOTES = "bid float8, ask float8, bid_size float8, ask_size float8"
_TRADES = "price float8 not null, size float8, trade_id text, conditions text"
TICK_COLUMNS = {"quotes": ("bid", "ask", "bid_size", "ask_size"), "trades": ("price", "size", "trade_id", "conditions")}
COPY_HEAD = ("symbol_id", "source_id", "ts", "ts_ns")
COPY_TAIL = ("flags", "accepted_at", "seq")
CHECKED_COLUMNS = {"quotes": ("bid", "ask"), "trades": ("price", "size")}
"""What `market.schema.content_checksum` sums besides ts_ns."""
COVERAGE_COLUMNS = (
    "symbol", "kind", "source", "from_ns", "to_ns", "status", "rows", "checksum", "rejected", "duplicates", "reason",
    "request_id", "after_offset", "session", "market_clock_ns", "revision", "log_id", "log_partition", "log_offset",
)  # fmt: skip


def tick_table(kind: str, *, partitioned: bool) -> str:
    """DDL of the table of `kind`; `partitioned` by month, or plain, to be made a hypertable."""
    own = _QUOTES if kind == "quotes" else _TRADES
    tail = "partition by range (ts)" if partitioned else ""
    return (
        f"create table if not exists market.{kind} (symbol_id int4 not null, source_id int2 not null,"
        f" ts timestamptz not null, ts_ns int8 not null, {own}, flags int4 not null, accepted_at int8 not null,"
        f" seq int4 not null) {tail};"
    )


def hypertable(kind: str) -> str:
    """Make the plain table of `kind` a hypertable of daily chunks."""
    return (
        f"select create_hypertable('market.{kind}', 'ts', chunk_time_interval => interval '1 day',"
        " create_default_indexes => false, if_not_exists => true)"
    )


def tick_index(kind: str) -> str:
    """The index (symbol, time)."""
    return f"create index if not exists {kind}_symbol_ts on market.{kind} (symbol_id, ts)"


def month_partition(kind: str, month: np.datetime64) -> str:
    """DDL of the partition of one UTC month (datetime64[M]).

    Attached and not created in place: that would wait for every reader of the table, and make new ones wait for it.
    """
    first: datetime.date = month.astype("datetime64[M]").astype(object)
    after: datetime.date = (month + 1).astype("datetime64[M]").astype(object)
    name = f"market.{kind}_{first:%Y_%m}"
    return (
        f"do $month$ begin perform pg_advisory_xact_lock({DDL_LOCK}); if to_regclass('{name}') is null then"
        f" create table {name} (like market.{kind} including defaults including constraints);"
        f" alter table market.{kind} attach partition {name}"
        f" for values from ('{first} 00:00:00+00') to ('{after} 00:00:00+00'); end if; end $month$"
    )


def months_of(ts_ns: np.ndarray) -> Iterable[np.datetime64]:
    """The distinct UTC months (datetime64[M]) of int64 ns."""
    return np.unique(ts_ns.astype("datetime64[ns]").astype("datetime64[M]"))


def _tick_view(kind: str) -> str:
    own = ", ".join(f"t.{name}" for name in TICK_COLUMNS[kind])
    return (
        f"create or replace view market.v_{kind} as select y.symbol, t.ts, t.ts_ns, {own}, o.source, t.flags,"
        f" t.accepted_at, t.seq from market.{kind} t join market.symbols y on y.id = t.symbol_id"
        " join market.sources o on o.id = t.source_id;"
    )


_NS = "timestamptz '1970-01-01 00:00:00+00' + {0} / 1000 * interval '1 microsecond'"
_COVERAGE_VIEW = f"""
create or replace view market.coverage as select symbol, kind, source, {_NS.format("from_ns")} as from_ts,
    {_NS.format("to_ns")} as to_ts, status, rows, checksum, rejected, duplicates, reason, request_id, revision, log_id,
    from_ns, to_ns, after_offset, session, market_clock_ns, log_partition, log_offset from market.coverage_records;
"""


def _day_of(ns: str) -> str:
    """The UTC day of an int8 expression, also before 1970: `/` alone rounds towards 0."""
    return f"({ns} - ({ns} % {_DAY_NS} + {_DAY_NS}) % {_DAY_NS}) / {_DAY_NS}"


# Each record is cut at midnights (a `missing` one may be years long), and days are looked at one by one. The borders of
# a day's records are an array; a record spans the pieces between its two borders; of each piece the newest record wins;
# neighbouring pieces of the same winner are joined again, over midnights too. The borders are found by binary search
# (width_bucket) and not by a join: a plan that joins only by day compares every record with every border, 86,400
# squared on a day of live records (seen).
# `rows` and `checksum` describe a record as a whole, so they are NULL where a newer one hides a part of it.
_COVERAGE_LATEST_VIEW = f"""
create or replace view market.coverage_latest as
with record as not materialized (
    select id, symbol, kind, revision, day,
        greatest(from_ns, day * {_DAY_NS}) as from_ns, least(to_ns, (day + 1) * {_DAY_NS}) as to_ns
    from (select *, generate_series({_day_of("from_ns")}, {_day_of("(to_ns - 1)")}) as day
        from market.coverage_records where from_ns < to_ns) r),
day as not materialized (
    select symbol, kind, day, array_agg(distinct at order by at) as borders from (
        select symbol, kind, day, from_ns as at from record
        union all select symbol, kind, day, to_ns from record) b
    group by symbol, kind, day),
piece as not materialized (
    select symbol, kind, day, i, id, revision, borders[i] as at, borders[i + 1] as next_at from (
        select r.*, d.borders, generate_series(
            width_bucket(r.from_ns, d.borders), width_bucket(r.to_ns, d.borders) - 1) as i
        from record r join day d on d.symbol = r.symbol and d.kind = r.kind and d.day = r.day) p),
winner as not materialized (
    select distinct on (symbol, kind, day, i) symbol, kind, day, i, id, at, next_at
    from piece order by symbol, kind, day, i, revision desc, id desc),
shown as not materialized (
    select symbol, kind, id, min(at) as from_ns, max(next_at) as to_ns from (
        select w.*, sum(starts) over (partition by symbol, kind, id order by at) as island from (
            select w.*, (at is distinct from lag(next_at) over (
                partition by symbol, kind, id order by at))::int4 as starts from winner w) w) w
    group by symbol, kind, id, island)
select s.symbol, s.kind, c.source, {_NS.format("s.from_ns")} as from_ts, {_NS.format("s.to_ns")} as to_ts, c.status,
    case when s.from_ns = c.from_ns and s.to_ns = c.to_ns then c.rows end as rows,
    case when s.from_ns = c.from_ns and s.to_ns = c.to_ns then c.checksum end as checksum,
    c.rejected, c.duplicates, c.reason, c.request_id, c.revision, c.log_id, s.from_ns, s.to_ns,
    c.after_offset, c.session, c.market_clock_ns
from shown s join market.coverage_records c on c.id = s.id;
"""

VIEWS = _tick_view("quotes") + _tick_view("trades") + _COVERAGE_VIEW + _COVERAGE_LATEST_VIEW


def attempt(body: str) -> str:
    """A block that does `body` if it may: sets `holdfast.attempt` to `done` or to the SQLSTATE that stopped it."""
    return (
        "do $attempt$ begin "
        + body
        + " perform set_config('holdfast.attempt', 'done', false);"
        + " exception when others then perform set_config('holdfast.attempt', sqlstate, false); end $attempt$"
    )


EXTENSION = """
if not exists (select 1 from pg_available_extensions where name = 'timescaledb') then raise 'not here'; end if;
create extension if not exists timescaledb;
"""
"""Fails when it is not installed, not preloaded, or we may not create it: plain partitions serve as well."""

READER = """
if not exists (select 1 from pg_roles where rolname = 'market_reader') then create role market_reader nologin; end if;
grant usage on schema market to market_reader;
grant select on market.v_quotes, market.v_trades, market.coverage, market.coverage_latest, market.delivery
    to market_reader;
"""
"""Needs CREATEROLE; without it readers are granted by hand."""

SEARCH_PATH = """
execute format('alter database %I set search_path = "$user", public, market', current_database());
"""
"""Needs ownership of the database: new sessions find `v_quotes` without its schema."""

MOVE_MARKS = """
update market.delivery d set next_offset = m.hi, rows_copied = d.rows_copied + m.copied, updated_at = now(),
    quotes_copied = d.quotes_copied + m.quotes, trades_copied = d.trades_copied + m.trades
from unnest($2::int4[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[])
    m(log_partition, lo, hi, copied, quotes, trades)
where d.log_id = $1 and d.log_partition = m.log_partition and d.next_offset = m.lo
"""
"""The compare-and-set that makes delivery exactly-once: must update one row per partition of the batch."""

FIRST_MARKS = """
insert into market.delivery (log_id, log_partition, next_offset) select $1, unnest($2::int4[]), 0 on conflict do nothing
"""


def _meeting(symbol: str, kind: str, from_ns: str, to_ns: str) -> str:
    """A subquery: the records that overlap [from_ns, to_ns). Those longer than a day have an index of their own.

    One index range could not do: a record that begins long before may still reach into the interval.
    """
    same = f"c.symbol = {symbol} and c.kind = {kind} and c.from_ns < {to_ns} and c.to_ns > {from_ns}"
    return (
        f"(select c.* from market.coverage_records c where {same} and c.from_ns > {from_ns} - {_DAY_NS} union all"
        f" select c.* from market.coverage_records c where {same} and c.from_ns <= {from_ns} - {_DAY_NS}"
        f" and c.to_ns - c.from_ns > {_DAY_NS})"
    )


OVERLAPPED = f"""
select s.i from unnest($1::int4[], $2::text[], $3::text[], $4::int8[], $5::int8[]) s(i, symbol, kind, from_ns, to_ns)
where exists (select 1 from {_meeting("s.symbol", "s.kind", "s.from_ns", "s.to_ns")} c)
"""
"""Which slices meet anything known: only those can have rows to delete."""


_IS_SLICE = f"session is null and status in ({', '.join(repr(status) for status in sorted(SLICE_STATUS))})"
"""`market.coverage.Coverage.is_slice`, in SQL."""


def delete_slice(kind: str) -> str:
    """Empty [from, to) of one symbol: $1 symbol_id, $2 from, $3 to (datetimes)."""
    return f"delete from market.{kind} where symbol_id = $1 and ts >= $2 and ts < $3"


def count_replaced(kind: str) -> str:
    """Add $3 replaced rows of `kind` to the books of ($1 log_id, $2 log_partition)."""
    return (
        f"update market.delivery set rows_replaced = rows_replaced + $3, {kind}_replaced = {kind}_replaced + $3"
        " where log_id = $1 and log_partition = $2"
    )


def audit_slices(kind: str) -> str:
    """Per slice: its newest whole-interval record and the stored rows' checked columns as binary arrays.

    Rows accepted after that record are none of its: live ones that came later. Rows accepted before it should be gone.

    $1 number, $2 symbol, $3 from_ns, $4 to_ns. Returns i, from_ns, to_ns, rows, checksum, revision, n, ts_ns, a, b.
    """
    a, b = CHECKED_COLUMNS[kind]
    instant = "timestamptz '1970-01-01 00:00:00+00' + s.{0} / 1000 * interval '1 microsecond'"
    return f"""
select s.i, c.from_ns, c.to_ns, c.rows, c.checksum, c.revision, q.n, q.ts_ns, q.a, q.b
from unnest($1::int4[], $2::text[], $3::int8[], $4::int8[]) s(i, symbol, from_ns, to_ns)
left join lateral (select c.from_ns, c.to_ns, c.rows, c.checksum, c.revision
    from {_meeting("s.symbol", f"'{kind}'", "s.from_ns", "s.to_ns")} c where {_IS_SLICE}
    order by c.revision desc limit 1) c on true
left join lateral (select count(*) as n, array_send(array_agg(t.ts_ns)) as ts_ns,
    array_send(array_agg(coalesce(t.{a}, 'NaN'::float8))) as a,
    array_send(array_agg(coalesce(t.{b}, 'NaN'::float8))) as b
    from market.{kind} t where t.symbol_id = (select id from market.symbols y where y.symbol = s.symbol)
    and t.ts >= {instant.format("from_ns")} and t.ts < {instant.format("to_ns")}
    and (c.revision is null or t.accepted_at <= c.revision)) q on true
order by s.i
"""


def rows_in(kind: str) -> str:
    """Rows of each interval that holds some. $1 number, $2 symbol, $3 from, $4 to (datetimes). Returns i, n, low, high.

    `low`, `high`: ns of the first and of the last.
    """
    return (
        "select s.i, q.n, q.low, q.high from unnest($1::int4[], $2::text[], $3::timestamptz[], $4::timestamptz[])"
        " s(i, symbol, from_ts, to_ts) cross join lateral (select count(*) as n, min(ts_ns) as low, max(ts_ns) as high"
        f" from market.{kind} t where t.symbol_id = (select id from market.symbols y where y.symbol = s.symbol)"
        " and t.ts >= s.from_ts and t.ts < s.to_ts) q where q.n > 0 order by s.symbol, q.low"
    )


SYMBOLS = "select symbol from market.symbols order by symbol"
SLICES_IN = f"""
select symbol, kind, from_ns, to_ns from market.coverage_records
where {_IS_SLICE} and kind = $1 and from_ns < $3 and to_ns > $2
group by 1, 2, 3, 4 order by 1, 2, 3
"""


def doubles(kind: str) -> str:
    """Rows beyond the first of their identity (accepted_at, seq) in [$1, $2): one number."""
    return (
        f"select coalesce(sum(n - 1), 0)::int8 from (select count(*) n from market.{kind}"
        " where ts >= $1 and ts < $2 group by symbol_id, accepted_at, seq having count(*) > 1) d"
    )


BOOKS = """
select coalesce(sum(quotes_replaced), 0)::int8 as quotes_replaced,
    coalesce(sum(trades_replaced), 0)::int8 as trades_replaced,
    (coalesce(sum(quotes_copied) filter (where log_id <> $1), 0) + (select coalesce(max(quotes_before), 0)
        from market.pipeline_log where log_id = $1))::int8 as quotes_before,
    (coalesce(sum(trades_copied) filter (where log_id <> $1), 0) + (select coalesce(max(trades_before), 0)
        from market.pipeline_log where log_id = $1))::int8 as trades_before
from market.delivery
"""
"""Ticks do not say whose log they are from, so all logs' books count: what this one's ledger cannot know was copied by
the others, or stood there unexplained by any books when this log came (`…_before`); and any log's slices may replace.
"""
UNEXPLAINED = """
select (select count(*) from market.quotes) - coalesce(sum(quotes_copied - quotes_replaced), 0) as quotes,
    (select count(*) from market.trades) - coalesce(sum(trades_copied - trades_replaced), 0) as trades
from market.delivery
"""
COUNT_COVERAGE = "select count(*) from market.coverage_records where log_id = $1"
MARKS = "select log_partition, next_offset from market.delivery where log_id = $1"
