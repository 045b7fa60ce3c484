"""A Lean forex folder as a feed: `tick/SYMBOL/YYYYMMDD_quote.zip`, one CSV of `ms,bid,ask` each (notes DATA 1-2).

The clock of the files differs per broker and is not written in them: the name of the folder says it. Files are named
at the start and read on demand, whole days at a time.
"""

from __future__ import annotations

import datetime
import itertools
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from actors.embedded.simulator.feed import Part, Quotes
from actors.embedded.simulator.session import fx_open
from runtime.clock import NS_PER_DAY, NS_PER_HOUR
from runtime.errors import ConfigError

CLOCKS_H = {"oanda": 0, "fxcm": -5}
"""Hours to add to UTC for the clock of a broker's files (Lean's market-hours database: `dataTimeZone`)."""
KINDS = ("tick", "second", "minute", "hour", "daily")

_FILE = re.compile(r"(\d{4})(\d{2})(\d{2})_quote\.zip")
_DECIMAL = r"^(0|[1-9][0-9]*)(\.[0-9]+)?$"
_DEPTH_MAX = 5
_MS_PER_DAY = 86_400_000
_NS_PER_MS = 1_000_000
_EPOCH = datetime.date(1970, 1, 1)


FILES_LOOKED_INTO_MAX = 5_000
"""At the start, some 0.2 ms each; damage elsewhere is told when a day is asked for."""
HEAD_BYTES = 200
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    pa.ArrowException,
)
"""What reading a damaged file raises: of the archive, of what packed it (RuntimeError: a password), of the CSV."""


@attrs.frozen(kw_only=True)
class LeanRecording:
    """One broker's ticks."""

    folder: Path
    files: dict[str, dict[int, Path]]
    """Per symbol: start of the file's day in ns UTC, ascending, to the file."""

    @property
    def description(self) -> str:
        """For people."""
        return f"recording {self.folder}"

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every pair that has ticks."""
        return tuple(self.files)

    @property
    def first_ns(self) -> int:
        """The start of the first file's day."""
        return min(next(iter(days)) for days in self.files.values())

    def restricted(self, symbols: frozenset[str]) -> LeanRecording:
        """The same with only these symbols."""
        return attrs.evolve(self, files={symbol: days for symbol, days in self.files.items() if symbol in symbols})

    def is_open(self, instant_ns: int) -> bool:
        """The session of foreign exchange."""
        return fx_open(instant_ns)

    def parts(self, symbol: str, from_ns: int, to_ns: int, *, descending: bool = False) -> Iterator[Part]:
        """The days with a file that touch [from_ns, to_ns)."""
        starts = self.files[symbol]
        for start_ns in reversed(starts) if descending else starts:
            if start_ns < to_ns and start_ns + NS_PER_DAY > from_ns:
                yield Part(from_ns=start_ns, to_ns=start_ns + NS_PER_DAY)

    def quotes(self, symbol: str, part: Part) -> Quotes:
        """The day's ticks in file order. Raises: ConfigError when the file cannot be read as ticks."""
        return _read_day(self.files[symbol][part.from_ns], part.from_ns)


def open_recording(folder: Path) -> LeanRecording:
    """Find the one feed in `folder`, list its files and look into them.

    Raises: ConfigError, which names the choices, or the file that is damaged.
    """
    try:
        recording = _listed(_only_feed(folder))
    except OSError as error:
        raise ConfigError(f"recording {folder}: {error.filename or ''} cannot be read: {error.strerror}") from error
    everything = (path for days in recording.files.values() for path in days.values())
    for path in itertools.islice(everything, FILES_LOOKED_INTO_MAX):
        _check_first_line(path)
    return recording


def _listed(feed: Path) -> LeanRecording:
    clock = feed.resolve().name.lower()
    if clock not in CLOCKS_H:
        known = ", ".join(CLOCKS_H)
        raise ConfigError(
            f"recording {feed}: the folder's name must say whose clock the files have, one of: {known}; not '{clock}'"
        )
    offset_ns = CLOCKS_H[clock] * NS_PER_HOUR
    files: dict[str, dict[int, Path]] = {}
    for symbol_dir in sorted(path for path in (feed / "tick").iterdir() if path.is_dir()):
        days = {
            start - offset_ns: path for path in sorted(symbol_dir.iterdir()) if (start := _day_ns(path)) is not None
        }
        if days:
            files[f"C:{symbol_dir.name.upper()}"] = days
    if not files:
        raise ConfigError(f"recording {feed}: no file tick/SYMBOL/YYYYMMDD_quote.zip in it")
    return LeanRecording(folder=feed, files=files)


def _day_ns(path: Path) -> int | None:
    match = _FILE.fullmatch(path.name)
    if match is None:
        return None
    try:
        day = datetime.date(*(int(group) for group in match.groups()))
    except ValueError:
        return None
    return (day - _EPOCH).days * NS_PER_DAY


def _only_feed(folder: Path) -> Path:
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"recording {folder}: {problem}")
    feeds = list(_feeds(folder, _DEPTH_MAX))
    if len(feeds) > 1:
        choices = " | ".join(str(feed.relative_to(folder)) for feed in feeds)
        raise ConfigError(f"recording {folder}: holds {len(feeds)} feeds, name one of them: {choices}")
    if not feeds:
        above = next((path for path in folder.resolve().parents if _kinds(path)), None)
        hint = (
            f"a part of the feed {above}: name that" if above else "not a Lean forex folder (tick/SYMBOL/*_quote.zip)"
        )
        raise ConfigError(f"recording {folder}: {hint}")
    if "tick" not in (kinds := _kinds(feeds[0])):
        raise ConfigError(f"recording {feeds[0]}: has only {' | '.join(kinds)} bars; ticks (folder tick) are needed")
    return feeds[0]


def _feeds(folder: Path, depth: int) -> Iterator[Path]:
    if _kinds(folder):
        yield folder
    elif depth:
        for child in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            yield from _feeds(child, depth - 1)


def _kinds(folder: Path) -> tuple[str, ...]:
    return tuple(kind for kind in KINDS if (folder / kind).is_dir())


def _read_day(path: Path, start_ns: int) -> Quotes:
    try:
        table = _parse(_only_member(path))
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if table.column("ms").null_count:
        raise ConfigError(f"recording file {path}: a row without a time")
    ms = table.column("ms").to_numpy()
    if len(ms) and not 0 <= ms.min() <= ms.max() < _MS_PER_DAY:
        raise ConfigError(f"recording file {path}: a time outside the day: {ms.min()} ... {ms.max()} ms")
    for side in ("bid", "ask"):
        if not pc.all(pc.match_substring_regex(table.column(side), _DECIMAL), min_count=0).as_py():
            raise ConfigError(f"recording file {path}: a {side} that is no decimal number")
    if np.any(ms[1:] < ms[:-1]):
        order = np.argsort(ms, kind="stable")  # the order of arrival decides among equal times
        table, ms = table.take(order), ms[order]
    bid, ask = (table.column(side).combine_chunks() for side in ("bid", "ask"))
    return Quotes(ts_ns=start_ns + ms * _NS_PER_MS, bid=bid, ask=ask)


def _check_first_line(path: Path) -> None:
    """Raises: ConfigError when the archive has no directory, or does not begin with a tick."""
    try:
        _parse(_only_member(path, HEAD_BYTES).lstrip().partition(b"\n")[0])
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ConfigError:
    what = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigError(f"recording file {path} cannot be used, replace it: {what}")


def _only_member(path: Path, bytes_max: int = -1) -> bytes:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise zipfile.BadZipFile(f"{len(names)} files in the archive, expected one")
        with archive.open(names[0]) as member:
            return member.read(bytes_max)


def _parse(csv: bytes) -> pa.Table:
    columns = {"ms": pa.int64(), "bid": pa.string(), "ask": pa.string()}
    if not csv.strip():
        return pa.table({name: pa.array([], kind) for name, kind in columns.items()})
    return pyarrow.csv.read_csv(
        pa.py_buffer(csv),
        read_options=pyarrow.csv.ReadOptions(
            use_threads=False, column_names=list(columns), block_size=max(len(csv) + 1, 1 << 16)
        ),
        convert_options=pyarrow.csv.ConvertOptions(column_types=columns),
    )
