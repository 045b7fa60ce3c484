"""`pipeline status`: one look at the running process, over HTTP."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from supervisors.cli.exits import Exit
from supervisors.cli.options import add_config_options, settings_from


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
    try:
        status = instance_of(settings).status()
    except NotConnected as exc:
        sys.stderr.write(f"pipeline: not running on {settings.pipeline.data_dir}: {exc}\n")
        return Exit.NO
    print(json.dumps(status, indent=1) if args.json else "\n".join(lines(status)))
    return Exit.FINE if status.get("ready") else Exit.NO


def lines(status: Mapping[str, Any]) -> Iterator[str]:
    """The status for people. Pure."""
    yield f"{status['service']}: {status['status']}, running since {status['started']}"
    for reason in status["reasons"]:
        yield f"  ! {_plain(reason)}"
    if log := status["log"]:
        left = log["seconds_until_loss"]
        room = f", room for {left:,.0f} s" if left is not None else ""
        yield f"log: {log['records_accepted']:,} rows accepted, {log['bytes']:,} bytes in {log['segments']} files{room}"
    yield from _table("history", (_job(job) for _, job in sorted(status["jobs"].items())))
    end = (status["log"] or {}).get("end_position", 0)
    yield from _table("readers", (_consumer(name, c, end) for name, c in sorted(status["consumers"].items())))
    details = status["dependency_details"]
    yield from _table("dependencies", ((n, d["state"], _plain(d["reason"])) for n, d in sorted(details.items())))
    yield from _table("mailboxes", ((m["name"], f"{m['depth']}/{m['capacity']}") for m in status["mailboxes"]))
    yield from _table("tree", (_child(child) for child in status["tree"]))
    yield from _table("endpoints", sorted(status["endpoints"].items()))


def _job(job: Mapping[str, Any]) -> tuple[str, ...]:
    state = _plain(job["error"]) or ("done" if job["finished"] else "")
    return (
        f"{job['symbol']} {job['kind']}",
        f"{job['from']} … {job['to']}",
        f"{job['done']:.1%}",
        f"{job['rows']:,}",
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
