"""`pipeline status`: one look at the running process, over HTTP."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.settings import Settings
from supervisors.cli.exits import Exit
from supervisors.cli.options import add_config_options, settings_from

RESTARTS_SHOWN = 15
LETTERS_BYTES_MAX = 32 * 1024 * 1024
"""A larger log of dead letters is not read for a status; the process's own count is shown instead."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "status",
        help="what the running process is doing",
        description="Asks the running process. Exit 1 when there is none, or when it accepts nothing.",
    )
    add_config_options(parser)
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command."""
    from runtime.errors import NotConnected  # not for --help
    from supervisors.cli.instance import instance_of

    settings = settings_from(args)
    restarts = recent_restarts(settings)
    letters = open_letters(settings)
    try:
        check_running(settings)
        status = {**instance_of(settings).status(), "restarts": restarts, "dead_letters_open": letters}
    except NotConnected as exc:
        sys.stderr.write(f"pipeline: not running on {settings.pipeline.data_dir}: {exc}\n")
        if restarts and not args.json:
            print("\n".join(restart_lines(restarts)))
        if letters and not args.json:
            print("\n".join(letter_lines(letters, "open")))
        return Exit.NO
    print(json.dumps(status, indent=1) if args.json else "\n".join(lines(status)))
    return Exit.FINE if status.get("ready") else Exit.NO


def check_running(settings: Settings) -> None:
    """Raises: NotConnected when no process works on the data directory, whoever answers at our address."""
    from runtime.errors import ConfigError, NotConnected
    from supervisors.cli.instance import instance_of, is_running

    try:
        if is_running(settings):
            return
    except ConfigError:  # its files are another user's: only asking tells
        return
    instance = instance_of(settings)
    try:
        name = instance.status().get("service")
    except (ConfigError, NotConnected):
        raise NotConnected("start it with `pipeline run`") from None
    raise NotConnected(f"{name} answers at {instance.url} but does not work on it: set pipeline.data_dir to its own")


def recent_restarts(settings: Settings) -> list[str]:
    """What ended when, why, and what was decided, from the history on disk: also of processes that are gone."""
    from runtime.clock import SystemClock
    from runtime.disk import RealDisk
    from supervisors.cli.service import HISTORY_FILE
    from supervisors.engine.history import History

    history = History(SystemClock().wall_ns)
    try:
        history.load(RealDisk().read_bytes(settings.pipeline.data_dir / HISTORY_FILE))
    except OSError:  # there is none, or it is not ours to read
        return []
    return [*history.recent(RESTARTS_SHOWN), *history.repeated(RESTARTS_SHOWN)]


def open_letters(settings: Settings) -> list[dict[str, Any]] | None:
    """Rows that nobody decided about yet, counted by sink and reason, also of earlier processes; None = not known."""
    from collections import Counter

    from runtime.disk import RealDisk
    from runtime.errors import HoldfastError
    from runtime.log.dead_letters import FOLDER, OPEN, fold
    from runtime.log.tools import open_files

    folder = settings.pipeline.data_dir / FOLDER
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            return []
        if sum(path.stat().st_size for path in folder.iterdir()) > LETTERS_BYTES_MAX:
            return None
        letters = [
            entry.letter for entry in fold(open_files(RealDisk(), folder).groups()).values() if entry.state == OPEN
        ]
    except (OSError, HoldfastError):  # not ours to read, or damaged
        return None
    counts = Counter((letter.sink, letter.reason) for letter in letters)
    return [{"sink": sink, "reason": reason, "rows": rows} for (sink, reason), rows in sorted(counts.items())]


def letter_lines(letters: Sequence[Mapping[str, Any]], which: str) -> Iterator[str]:
    """For people; nothing when there are none. Pure."""
    if letters:
        parts = ", ".join(_plain(f"{one['sink']} {one['reason']} {one['rows']:,}") for one in letters)
        total = sum(one["rows"] for one in letters)
        yield f"dead letters: {total:,} {which} ({parts}); see `pipeline dead-letters list`"


def restart_lines(restarts: Sequence[str]) -> Iterator[str]:
    """For people. Pure."""
    if restarts:
        yield "last ends and restarts:"
    for text in restarts:
        yield f"  {_plain(text)}"


def lines(status: Mapping[str, Any]) -> Iterator[str]:
    """The status for people. Pure."""
    from supervisors.cli.progress import duration  # slow to import: not for --help

    pid = f", process {status['pid']}" if status.get("pid") else ""
    yield f"{status['service']}: {status['status']}, running since {status['started']}{pid}"
    if market := status["facts"].get("market"):
        yield f"  ! {_plain(market)}"
    for reason in status["reasons"]:
        yield f"  ! {_plain(reason)}"
    if log := status["log"]:
        left = log["seconds_until_loss"]
        room = f", room for {duration(left)} if no database takes anything" if left is not None else ""
        yield f"log: {log['records_accepted']:,} rows accepted, {log['bytes']:,} bytes in {log['segments']} files{room}"
    known = status.get("dead_letters_open")
    if known is None:
        yield from letter_lines(status.get("dead_letters", ()), "since the start")
    else:
        yield from letter_lines(known, "open")
    yield from _table("live", (live_cells(state) for state in status.get("live", {}).values()))
    yield from _table("history", (_job(name, job) for name, job in sorted(status["jobs"].items())))
    end = (status["log"] or {}).get("end_position", 0)
    yield from _table("readers", (_consumer(name, c, end) for name, c in sorted(status["consumers"].items())))
    details = status["dependency_details"]
    yield from _table("dependencies", ((n, d["state"], _plain(d["reason"])) for n, d in sorted(details.items())))
    yield from _table("mailboxes", ((m["name"], f"{m['depth']}/{m['capacity']}") for m in status["mailboxes"]))
    yield from _table("tree", (_child(child) for child in status["tree"]))
    yield from restart_lines(status.get("restarts", ()))
    yield from _table("endpoints", sorted(status["endpoints"].items()))


def live_cells(state: Mapping[str, Any]) -> tuple[str, ...]:
    """Symbol and kind, price or bid and ask, pace, age of the last tick. Pure."""
    prices = " / ".join("?" if price is None else f"{price:.10g}" for price in state["prices"])
    pace, age_s = state["ticks_per_s"], state["age_s"]
    return f"{state['symbol']} {state['kind']}", prices, f"{pace:,.1f} ticks/s", f"last tick {age_s:,.1f} s ago"


def _job(name: str, job: Mapping[str, Any]) -> tuple[str, ...]:
    job_id = name.partition("/")[0]
    state = _plain(job["error"]) or ("done" if job["finished"] else "")
    return (
        f"{job['symbol']} {job['kind']}",
        f"{job['from']} … {job['to']}",
        f"{job['done']:.1%}",
        f"{job['rows']:,}",
        "standing" if job_id == "history" else f"job {_plain(job_id)}",
        state,
    )


def _consumer(name: str, consumer: Mapping[str, Any], end: int) -> tuple[str, ...]:
    verified = consumer["verified_position"] / end if end else 1.0
    return name, f"verified {verified:.1%}", f"{consumer['lag_records']:,} rows behind"


def _child(child: Mapping[str, Any]) -> tuple[str, ...]:
    name = "  " * child["path"].count("/") + child["path"].rpartition("/")[2]
    return (
        name,
        child["state"],
        f"restarts {child['restarts']}" if child["restarts"] else "",
        _plain(child["last_exit"]),
    )


def _table(title: str, rows: Any) -> Iterator[str]:
    cells = [tuple(map(str, row)) for row in rows]
    if not cells:
        return
    yield f"{title}:"
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    for row in cells:
        yield "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()


def _plain(text: str) -> str:
    """One line without control characters: reasons come from servers."""
    return "".join(c if c.isprintable() else " " for c in text)
