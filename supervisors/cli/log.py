"""`pipeline log ls|stat|verify|cat|export`: the durable log, read-only, also while it is written to or damaged."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisors.cli.exits import Exit
from supervisors.cli.options import add_config_options, settings_from

if TYPE_CHECKING:
    from runtime.log.recovery import Damage
    from runtime.log.tools import LogFiles
    from runtime.settings import Settings

CAT_ROWS_MAX = 20
"""Rows shown of one frame."""


LEFT_OUT = "what does not check is left out, named on stderr, and makes it exit 1"
KIND_HELP = {
    "cat": "only quotes, trades, candles or coverage",
    "export": "quotes (default), trades, candles or coverage",
}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = subparsers.add_parser(
        "log",
        help="look into the durable log",
        description="Reads the log in data_dir/log (or --dir), also while the pipeline runs and when it is damaged. "
        "Changes nothing.",
    )
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    for name, function, text in (
        ("ls", _ls, "segments and their offsets"),
        ("stat", _stat, "totals, the rows of each kind, and how far each reader has come"),
        ("verify", _verify, "read every byte; exit 1 and a line for each range that does not check"),
        ("cat", _cat, f"groups and their rows; {LEFT_OUT}"),
        (
            "export",
            _export,
            "the rows of one kind (quotes, or --kind) into a Parquet file, rows that were replaced later included; "
            + LEFT_OUT,
        ),
    ):
        one = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        one.allow_abbrev = False
        add_config_options(one)
        add_debug(one)
        one.add_argument("--dir", type=Path, metavar="D", help="a log directory (default: data_dir/log)")
        if name in ("ls", "stat", "verify", "cat"):
            one.add_argument("--json", action="store_true", help="JSON, one object a line for ls and cat")
        if name in ("cat", "export"):
            one.add_argument(
                "--from", dest="start", type=natural, default=0, metavar="POSITION", help="a group's position"
            )
            one.add_argument("--kind", default=None if name == "cat" else "quotes", help=KIND_HELP[name])
        if name == "cat":
            one.add_argument("--limit", type=natural, default=10, metavar="N", help="groups (default 10)")
        if name == "export":
            one.add_argument("file", type=Path, metavar="FILE", help="what to write")
        rows = name in ("cat", "export")
        one.set_defaults(run=lambda args, function=function, rows=rows: _run(args, function, rows=rows))


def add_debug(parser: argparse.ArgumentParser) -> None:
    """`--debug` behind a command's own command too."""
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")


def natural(text: str) -> int:
    """0, 1, 2, … as argparse reads them."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def data_dir(settings: Settings) -> Path:
    """Raises: ConfigError when it is something else than a directory."""
    from runtime.errors import ConfigError

    folder = settings.pipeline.data_dir
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"pipeline.data_dir = {folder} is no directory: set it to the one that `pipeline run` uses")
    return folder


def _run(args: argparse.Namespace, function: Callable[[argparse.Namespace, LogFiles], int], *, rows: bool) -> int:
    from runtime.disk import RealDisk  # not for --help
    from runtime.log.tools import open_files

    folder = args.dir if args.dir is not None else data_dir(settings_from(args)) / "log"
    return function(args, open_files(RealDisk(), folder, schemas=_own_schemas() if rows else None))


def _own_schemas() -> dict[str, bytes]:
    """So that rows are shown though the log lost the file that says how to read them."""
    from actors.market.schema import KINDS, schema_message

    return {kind: schema_message(kind) for kind in KINDS}


def _ls(args: argparse.Namespace, log: LogFiles) -> int:
    for row in segment_rows(log):
        if args.json:
            print(json.dumps(row))
        else:
            at, end = row["position"], row["end_position"]
            print(f"{row['segment']}  {at:>16,} … {end:<16,} {row['created']}  epoch {row['epoch']}  {row['note']}")
    return Exit.FINE


def segment_rows(log: LogFiles) -> Iterator[dict[str, Any]]:
    """One per file; `offsets`: the next ones per partition at its beginning."""
    from runtime.clock import format_ns

    for segment, end in log.extents():
        header = segment.header
        yield {
            "segment": segment.path.name,
            "position": segment.base,
            "end_position": end,
            "created": format_ns(header.created_ns // 10**9 * 10**9) if header else "?",
            "epoch": header.epoch if header else "?",
            "offsets": list(header.offsets) if header else [],
            "note": "" if header else "its header does not check",
        }


def _stat(args: argparse.Namespace, log: LogFiles) -> int:
    found = statistics(log)
    if args.json:
        print(json.dumps(found, indent=1))
        return Exit.FINE
    print(f"log {found['log_id']}, format {found['format']}, {found['partitions']} partitions")
    print(f"{found['end_position'] - found['start_position']:,} bytes in {found['segments']} files")
    print(
        f"positions {found['start_position']:,} … {found['end_position']:,}, "
        f"synced at least to {found['durable_upto']:,}"
    )
    for kind, counted in sorted(found["kinds"].items()):
        print(f"  {kind}: {counted['rows']:,} rows in {counted['frames']:,} frames")
    for name, position in sorted(found["readers"].items()):
        behind = max(0, found["end_position"] - position)
        print(f"  {name}: verified up to {position:,}, {behind:,} bytes behind")
    return Exit.FINE


def statistics(log: LogFiles) -> dict[str, Any]:
    """Counted from the frames' headers."""
    kinds: dict[str, dict[str, int]] = {}
    for header, kind, _ in log.frames():
        counted = kinds.setdefault(kind, {"rows": 0, "frames": 0, "bytes": 0})
        counted["rows"] += header.rows
        counted["frames"] += 1
        counted["bytes"] += header.body_bytes
    return {
        "log_id": log.log_id,
        "format": log.meta.version,
        "partitions": log.meta.partitions,
        "start_position": log.start_position,
        "end_position": log.end_position,
        "durable_upto": log.durable_upto,
        "segments": len(log.segments),
        "kinds": kinds,
        "readers": {name: cursor.position for name, cursor in log.cursors().items()},
    }


def _verify(args: argparse.Namespace, log: LogFiles) -> int:
    damage = [*log.check_files(), *log.check()]
    if args.json:
        fields = ("segment", "position", "end_position", "reason")
        rows = [{name: getattr(one, name) for name in fields} for one in damage]
        print(json.dumps({"ok": not damage, "end_position": log.end_position, "damage": rows}, indent=1))
    else:
        for one in damage:
            print(f"{one.segment} [{one.position}, {one.end_position}): {one.reason}")
        size = log.end_position - log.start_position
        print(f"{size:,} bytes in {len(log.segments)} files read, {len(damage)} damaged")
    return Exit.NO if damage else Exit.FINE


def _cat(args: argparse.Namespace, log: LogFiles) -> int:
    from runtime.clock import format_ns

    if args.kind is not None:
        _check_kind(args.kind)
    check_start(log, args.start)
    shown = 0
    for group in log.groups(args.start):
        frames = [f for f in group.frames if args.kind in (None, f.kind)]
        if not frames:
            continue
        if shown >= args.limit:
            break
        shown += 1
        head = {
            "position": group.position,
            "accepted_at": format_ns(group.stamp_ns),
            "producer": group.producer,
            "sequence": group.sequence,
        }
        if args.json:
            parts = [{"partition": f.partition, "offset": f.offset, "kind": f.kind, "rows": _rows(f)} for f in frames]
            print(json.dumps({**head, "frames": parts}, default=str))
            continue
        print(" ".join(f"{name}={value}" for name, value in head.items()))
        for frame in frames:
            print(f"  {frame.kind} {frame.partition}/{frame.offset}: {frame.rows} rows")
            for row in _rows(frame)[:CAT_ROWS_MAX]:
                print(f"    {json.dumps(row, default=str)}")
            if frame.rows > CAT_ROWS_MAX:
                print(f"    and {frame.rows - CAT_ROWS_MAX} more (--json gives all)")
    return tell_left_out("log", log.damage)


def _rows(frame: Any) -> list[dict[str, Any]]:
    from actors.market.schema import decode

    return decode(frame.schema, frame.body).to_pylist() if frame.rows else []


def _check_kind(kind: str) -> None:
    from actors.market.schema import SCHEMAS
    from runtime.errors import ConfigError

    if kind not in SCHEMAS:
        raise ConfigError(f"--kind {kind}: one of {', '.join(sorted(SCHEMAS))}")


def check_start(log: LogFiles, start: int) -> None:
    """Raises: ConfigError when no group begins at `start` and it is not the log's end, naming the ones beside it."""
    from runtime.errors import ConfigError

    if start > log.end_position:
        raise ConfigError(f"--from {start} is behind the end of the log at {log.end_position}")
    if start <= log.start_position or start == log.end_position:
        return
    before = max((one.base for one in log.segments if one.base <= start), default=log.start_position)
    after = log.end_position
    for frame in log.frames(before):
        at = frame.header.group_position
        if at >= start:
            after = at
            break
        before = at
    rotten = any(one.position == start for one in log.damage)  # stepped over, and named
    if after != start and not rotten:
        raise ConfigError(f"--from {start} is inside the group that begins at {before}; use {before} or {after}")


def _export(args: argparse.Namespace, log: LogFiles) -> int:
    """Batch by batch, so that a log of many GB needs little memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from actors.market.schema import SCHEMAS

    _check_kind(args.kind)
    check_start(log, args.start)
    plain = [pa.field(f.name, _plain(f.type)) for f in SCHEMAS[args.kind]]
    schema = pa.schema([*plain, ("log_partition", pa.int32()), ("log_offset", pa.int64()), ("stamp_ns", pa.int64())])
    rows = 0
    with _writing(args.file):
        writer = pq.ParquetWriter(args.file, schema)
    try:
        for batch in _batches(log, args, schema):
            with _writing(args.file):
                writer.write_batch(batch)
            rows += batch.num_rows
    finally:
        with _writing(args.file):
            writer.close()
    print(f"{rows:,} rows of {args.kind} in {args.file}, as they were accepted: also those that were replaced later")
    return tell_left_out("log", log.damage)


def _batches(log: LogFiles, args: argparse.Namespace, schema: Any) -> Iterator[Any]:
    """Record batches of `schema`, whose last three columns say where and when a row was accepted."""
    import pyarrow as pa

    from actors.market.schema import decode

    for group in log.groups(args.start):
        for frame in group.frames:
            if frame.kind == args.kind and frame.rows:
                batch = decode(frame.schema, frame.body)
                columns = [batch.column(f.name).cast(f.type) for f in list(schema)[:-3]]
                for value, field in zip(
                    (frame.partition, frame.offset, group.stamp_ns), list(schema)[-3:], strict=True
                ):
                    columns.append(pa.array([value] * batch.num_rows, field.type))
                yield pa.record_batch(columns, schema=schema)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Raises: ConfigError when the operating system refuses to write `file`."""
    from runtime.errors import ConfigError

    try:
        yield
    except OSError as exc:
        why = {errno.ENOENT: "no such directory", errno.EISDIR: "it is a directory"}.get(exc.errno or 0)
        why = why or (os.strerror(exc.errno) if exc.errno else str(exc))
        raise ConfigError(f"cannot write {file}: {why}") from exc


def _plain(kind: Any) -> Any:
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def tell_left_out(command: str, damage: Sequence[Damage]) -> int:
    """On stderr. Returns the exit code that says whether all was there."""
    for one in damage:
        where = f"{one.segment} [{one.position}, {one.end_position})"
        sys.stderr.write(f"pipeline {command}: left out {where}: {one.reason}\n")
    return Exit.NO if damage else Exit.FINE
