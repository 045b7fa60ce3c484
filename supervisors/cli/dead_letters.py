"""`pipeline dead-letters list|show|replay|drop`: rows that nobody took."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from supervisors.cli.exits import Exit
from supervisors.cli.log import add_debug, data_dir, tell_left_out
from supervisors.cli.options import add_config_options, settings_from

if TYPE_CHECKING:
    from runtime.log.dead_letters import Entry

Interval = tuple[str, str, int, int]
"""(symbol, kind, from_ns, to_ns)."""
HOUR_NS = 3_600_000_000_000
JOBS_MAX = 200
KEYS_HELP = {
    "list": "default: all",
    "show": "default: all",
    "replay": "default: all that are open",
    "drop": "needed, unless --reason is given",
}


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = subparsers.add_parser(
        "dead-letters",
        help="rows that nobody took",
        description="Rows that our rules or a sink refused, as they were received. list and show work at any time; "
        "replay and drop need the pipeline to be stopped.",
    )
    commands = parser.add_subparsers(metavar="WHAT", required=True)
    for name, text in (
        ("list", "one line each"),
        ("show", "everything known of some"),
        (
            "replay",
            "fetch their hours again (candles: send them again) at the next start; refused again, listed again",
        ),
        ("drop", "give them up: counted as dropped by an operator"),
    ):
        one = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        one.allow_abbrev = False
        add_config_options(one)
        add_debug(one)
        one.add_argument("keys", nargs="*", metavar="KEY", help=f"as `list` shows them ({KEYS_HELP[name]})")
        one.add_argument("--reason", metavar="R", help="only those with this reason")
        one.add_argument("--json", action="store_true", help="one JSON object a line")
        one.set_defaults(run=lambda args, name=name: _run(args, name))


def _run(args: argparse.Namespace, what: str) -> int:
    from runtime.disk import RealDisk  # not for --help
    from runtime.log.dead_letters import FOLDER, look_at_letters
    from supervisors.cli.instance import check_data

    settings = settings_from(args)
    folder = data_dir(settings) / FOLDER
    if not folder.parent.exists():
        check_data(settings)
    there, damage = look_at_letters(RealDisk(), folder)
    complete = tell_left_out("dead-letters", damage)
    entries = select(there, args.keys, args.reason, open_only=what in ("replay", "drop"))
    if what in ("replay", "drop"):
        return _decide(args, folder, what, entries)
    for key, entry in entries.items():
        print(
            json.dumps(as_json(key, entry), indent=None if args.json else 1)
            if args.json or what == "show"
            else line(key, entry)
        )
    if not args.json and what == "list":
        print(f"{len(entries)} dead letters")
    return complete


def _decide(args: argparse.Namespace, folder: Path, what: str, entries: dict[str, Entry]) -> int:
    from runtime.errors import ConfigError
    from runtime.log.dead_letters import DROPPED, REPLAY

    if what == "drop":
        if not args.keys and not args.reason:
            raise ConfigError("drop: name keys or --reason; what is dropped is given up for good")
        _write(folder, list(entries), DROPPED)
        print(f"{len(entries)} dropped")
        return Exit.FINE
    jobs = refetches(entries)
    if len(set(jobs.values())) > JOBS_MAX:
        raise ConfigError(
            f"replay: {len(set(jobs.values()))} intervals at once, at most {JOBS_MAX}: name keys or --reason"
        )
    again = sent_again(entries)
    _ask_again(args, sorted(set(jobs.values())))
    _write(folder, [*jobs, *again], REPLAY)
    if jobs or not again:
        print(f"{len(jobs)} marked for replay: their minutes are fetched again by the next `pipeline run`")
    if again:
        print(f"{len(again)} marked for replay: the next `pipeline run` sends them to their sink again")
    if left := len(entries) - len(jobs) - len(again):
        print(f"{left} left as they are: no vendor can be asked for them (time unknown, or not a vendor's rows)")
    return Exit.FINE


def _write(folder: Path, keys: list[str], state: str) -> None:
    from runtime.clock import SystemClock
    from runtime.disk import RealDisk
    from runtime.entropy import SystemEntropy
    from runtime.log.dead_letters import DeadLetters

    letters = DeadLetters(disk=RealDisk(), directory=folder, wall_ns=SystemClock().wall_ns, entropy=SystemEntropy())
    try:
        letters.decide(keys, state)
    finally:
        letters.close()


def _ask_again(args: argparse.Namespace, wanted: list[Interval]) -> None:
    """Jobs in DATA_DIR/jobs, like those of `pipeline backfill --refetch`. Raises ConfigError: the pipeline runs."""
    from actors.downloader.job_files import write_job
    from actors.downloader.jobs import BackfillJob
    from runtime.entropy import SystemEntropy
    from runtime.errors import ConfigError
    from supervisors.cli.instance import is_running
    from supervisors.tree import jobs_folder

    settings = settings_from(args)
    if is_running(settings):
        raise ConfigError(f"the pipeline in {settings.pipeline.data_dir} runs: stop it, or fetch the rows again with "
                          "`pipeline backfill SYMBOL --from T --to T --refetch`")  # fmt: skip
    for symbol, kind, from_ns, to_ns in wanted:
        job = BackfillJob(
            id=SystemEntropy().new_id(), symbols=(symbol,), kinds=(kind,), from_ns=from_ns, to_ns=to_ns, refetch=True
        )
        write_job(jobs_folder(settings), job)


def refetches(entries: dict[str, Entry]) -> dict[str, Interval]:
    """Key -> the interval that holds its row and its neighbours' of the same symbol and kind. Pure.

    Intervals are whole hours, as a refetch takes them, and those that touch are one. Ticks that a sink refused are
    fetched again too: the new slice replaces the one that lacks them.
    """
    again = sent_again(entries)
    rows = []
    for key, entry in entries.items():
        content = json.loads(entry.letter.content)
        if key not in again and isinstance(content, dict) and content.get("ts_ns"):
            hour = content["ts_ns"] - content["ts_ns"] % HOUR_NS
            rows.append((content["symbol"], entry.letter.kind, hour, key))
    found: dict[str, Interval] = {}
    together: list[str] = []
    for symbol, kind, hour, key in sorted(rows):
        last = found[together[-1]] if together else None
        if last is None or last[:2] != (symbol, kind) or hour > last[3]:
            together, last = [], (symbol, kind, hour, hour)
        together.append(key)
        found |= dict.fromkeys(together, (symbol, kind, last[2], hour + HOUR_NS))
    return found


def sent_again(entries: dict[str, Entry]) -> list[str]:
    """Keys of the rows that the delivery itself sends again: candles, which no vendor has. Pure."""
    from actors.bridge.isolation import SENT_AGAIN_KINDS
    from runtime.log.dead_letters import RULES

    return [k for k, e in entries.items() if e.letter.sink != RULES and e.letter.kind in SENT_AGAIN_KINDS]


def select(entries: dict[str, Entry], keys: list[str], reason: str | None, *, open_only: bool) -> dict[str, Entry]:
    """Those that are meant. `open_only`: of them those that are open or, if they are named, under replay. Pure.

    Raises ConfigError for a key that is none.
    """
    from runtime.errors import ConfigError
    from runtime.log.dead_letters import OPEN, REPLAY

    for key in keys:
        if key not in entries:
            raise ConfigError(f"no dead letter {key!r}: `pipeline dead-letters list` shows them")
    return {
        key: entry
        for key, entry in entries.items()
        if (not keys or key in keys)
        and reason in (None, entry.letter.reason)
        and (not open_only or entry.state == OPEN or (keys and entry.state == REPLAY))
    }


def as_json(key: str, entry: Entry) -> dict[str, Any]:
    """All of it."""
    from runtime.clock import format_ns

    letter = entry.letter
    return {
        "key": key,
        "state": entry.state,
        "sink": letter.sink,
        "kind": letter.kind,
        "reason": letter.reason,
        "error": letter.error,
        "first": format_ns(letter.first_ns),
        "last": format_ns(letter.last_ns),
        "version": letter.version,
        "row": json.loads(letter.content),
    }


def line(key: str, entry: Entry) -> str:
    """For people: one line, whatever a sink wrote into its error."""
    letter = entry.letter
    text = f"{key}  {entry.state}  {letter.kind}  {letter.reason}: {letter.error}"
    return "".join(c if c.isprintable() else " " for c in text)
