"""The status page as HTML: one file, no asset, nothing from elsewhere; every text from outside is escaped. Pure."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from actors.health.page_script import SCRIPT
from actors.health.page_style import SHELL, STYLE

REFRESH_S = 2
SCRIPT_HASH = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
"""For the Content-Security-Policy: this script runs and no other."""


def page(status: Mapping[str, Any]) -> str:
    """The page: a shell that its script fills, and for browsers without scripts the tables of one `report`."""
    word = str(status["status"])
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        "<link rel='icon' href='data:,'>"
        f"<title>{escape(word)}: {escape(status['service'])}</title><style>{STYLE}</style>"
        f"<noscript><meta http-equiv='refresh' content='{REFRESH_S}'></noscript></head><body>"
        f"{SHELL}<noscript>{_plain(status, word)}</noscript>"
        f"<script>{SCRIPT}</script></body></html>"
    )


def _plain(status: Mapping[str, Any], word: str) -> str:
    reasons = "".join(f"<li>{escape(str(reason))}</li>" for reason in status["reasons"])
    parts = [
        f"<h1>{escape(status['service'])} <span class='s {escape(word)}'>{escape(word)}</span></h1>",
        f"<small>now {escape(status['now'])}, running since {escape(status['started'])}, version "
        f"{escape(status['version'])}</small>",
        f"<p class='note'>{escape(status['facts']['market'])}</p>" if "market" in status["facts"] else "",
        f"<ul>{reasons}</ul>" if reasons else "",
        _dead_letters(status),
        _jobs(status),
        _consumers(status),
        _dependencies(status),
        _log(status),
        _tree(status),
        _endpoints(status),
        _events(status),
        "<p><small><a href='/healthz'>healthz</a> · <a href='/api/status'>status as JSON</a> · "
        "<a href='/metrics'>metrics</a></small></p>",
    ]
    return "\n".join(parts)


def _dead_letters(status: Mapping[str, Any]) -> str:
    found = status["dead_letters"]
    if not found:
        return ""
    parts = ", ".join(f"{one['sink']} {one['reason']} {one['rows']:,}" for one in found)
    total = sum(one["rows"] for one in found)
    return (
        f"<p class='note'>{total:,} dead letters since the start ({escape(parts)}): see "
        "<code>pipeline dead-letters list</code></p>"
    )


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML already."""
    body = "".join("<tr>" + "".join(cells) + "</tr>" for cells in rows)
    if not body:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _text(value: object) -> str:
    return f"<td>{escape(str(value))}</td>"


def _number(value: object) -> str:
    return f"<td class='n'>{escape(f'{value:,}' if isinstance(value, int) else str(value))}</td>"


def _bar(done: float) -> str:
    percent = f"{100 * min(1.0, max(0.0, done)):.1f}"
    return f"<td><div class='bar' title='{percent} %'><i style='width:{percent}%'></i></div>{percent} %</td>"


def _jobs(status: Mapping[str, Any]) -> str:
    rows = (
        [
            _text(f"{job['symbol']} {job['kind']}"),
            _text(f"{job['from']} … {job['to']}"),
            _bar(job["done"]),
            _number(job["rows"]),
            _text(job["error"] or ("done" if job["finished"] else "")),
        ]
        for _, job in sorted(status["jobs"].items())
    )
    return _table("History", ("what", "from … to", "durable", "rows", ""), rows)


def _consumers(status: Mapping[str, Any]) -> str:
    end = (status["log"] or {}).get("end_position", 0)
    rows = (
        [
            _text(name),
            _bar(consumer["verified_position"] / end if end else 1.0),
            _number(consumer["lag_records"]),
            _number(consumer["records_stored"]),
        ]
        for name, consumer in sorted(status["consumers"].items())
    )
    return _table("Readers of the log", ("who", "verified", "rows behind", "rows stored"), rows)


def _dependencies(status: Mapping[str, Any]) -> str:
    rows = (
        [_text(name), _text(d["state"]), _text(f"since {d['since']}"), _text(d["reason"])]
        for name, d in sorted(status["dependency_details"].items())
    )
    return _table("Dependencies", ("what", "", "", ""), rows)


def _log(status: Mapping[str, Any]) -> str:
    log = status["log"]
    if log is None:
        return ""
    left = log["seconds_until_loss"]
    cells = [
        _text(log["log_id"]),
        _number(log["records_accepted"]),
        _number(log["bytes"]),
        _number(log["segments"]),
        _text("" if left is None else f"room for {left:,.0f} s if no database takes anything"),
    ]
    return _table("Durable log", ("id", "rows accepted", "bytes", "files", ""), [cells])


def _tree(status: Mapping[str, Any]) -> str:
    rows = (
        [
            f"<td style='padding-left:{1.2 * child['path'].count('/'):.1f}rem'>"
            f"{escape(child['path'].rpartition('/')[2])}</td>",
            _text(child["state"]),
            _number(child["restarts"]),
            _text(child["last_exit"]),
        ]
        for child in status["tree"]
    )
    return _table("Supervision tree", ("who", "state", "restarts", "last end"), rows)


def _endpoints(status: Mapping[str, Any]) -> str:
    rows = ([_text(name), _text(url)] for name, url in sorted(status["endpoints"].items()))
    return _table("Endpoints", ("what", "address"), rows)


def _events(status: Mapping[str, Any]) -> str:
    lines = "\n".join(escape(str(event)) for event in reversed(status["events"]))
    return f"<h2>Recent events</h2><pre>{lines}</pre>" if lines else ""
