"""As much of ClickHouse's lexer as the façade needs: where an INSERT's data begins, and what a stranger may ask (pure).

Strangers (requests without the pipeline's password, and every GET) run under the engine's `readonly=1`, which refuses
writes, DDL, changes of settings and the table functions that reach outside. Measured on chDB 26.9, `readonly=1` still
lets pass: `INTO OUTFILE` (writes a file), `FROM INFILE`, the scalar function `file()` (reads any file), DESCRIBE of
`file()` and `url()`, `KILL QUERY`, and the table function `eval`. Those are refused here, by words rather than by
grammar: what this lexer is not sure to cut as the engine does is refused too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import attrs

READING_VERBS = frozenset({"select", "with", "show", "describe", "desc", "exists", "explain", "from", "("})
FORBIDDEN_WORDS = frozenset({"file", "outfile", "infile", "eval", "chdb", "python"})
"""Refused wherever they stand as a name, also without a call: `arrayMap(file, …)` and `APPLY file` call as well."""
FORBIDDEN_PREFIXES = ("ai",)
"""Functions that send text to a model outside (aiGenerate, AIClassify …); only when called."""

TOKEN = re.compile(
    rb"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*|/\*.*?\*/)
    | (?P<string>'(?:[^'\\]|\\.|'')*')
    | (?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    | (?P<word>[A-Za-z0-9_]+)
    | (?P<other>//|.)
    """,
    re.VERBOSE | re.DOTALL,
)
UNSURE = re.compile(rb"[^\x00-\x7f]|[#$\\]|//")
"""Outside of quotes and comments: other kinds of comment, heredocs, typographic quotes."""


@attrs.frozen
class Token:
    """One token that is neither space nor comment."""

    kind: str
    """`string`, `quoted`, `word` or `other`."""
    text: bytes
    end: int
    """Position behind it."""

    @property
    def name(self) -> str:
        """The identifier or keyword in lower case, unquoted; empty for strings and punctuation."""
        if self.kind == "word":
            return self.text.decode().lower()
        if self.kind == "quoted":
            mark = self.text[:1]
            return self.text[1:-1].replace(mark * 2, mark).decode("utf-8", "replace").lower()
        return ""


def tokens_of(sql: bytes) -> Iterable[Token]:
    """Cut the text lazily (the tail of an INSERT is data and no SQL)."""
    for match in TOKEN.finditer(sql):
        kind = match.lastgroup or "other"
        if kind not in ("space", "comment"):
            yield Token(kind, match.group(), match.end())


def verb_of(sql: bytes) -> str:
    """The first word of the statement in lower case, or its first sign; empty for an empty text."""
    for token in tokens_of(sql):
        return token.name or token.text.decode("latin-1")
    return ""


def format_of(sql: bytes) -> str:
    """The name in a closing `FORMAT name`; empty when there is none."""
    found = re.search(rb"\bFORMAT\s+(\w+)\s*;?\s*\Z", sql[-200:], re.IGNORECASE)
    return found.group(1).decode() if found else ""


@attrs.frozen(kw_only=True)
class Insert:
    """An INSERT whose rows are bytes of a format."""

    statement: bytes
    """Without its FORMAT clause."""
    format: str
    data: bytes

    def from_file(self, path: str) -> bytes:
        """The same, with its rows in a file. `path` has no quotes."""
        ends = (t.end - len("settings") for t in tokens_of(self.statement) if t.kind == "word" and t.name == "settings")
        at = next(ends, len(self.statement))
        infile = f" FROM INFILE '{path}' ".encode()
        return self.statement[:at] + infile + self.statement[at:] + f" FORMAT {self.format}".encode()


def split_insert(sql: bytes, body: bytes) -> Insert | None:
    """Take `INSERT INTO … FORMAT name` apart; None when it is no INSERT, or one of VALUES or of a SELECT.

    `sql` comes from the address (then `body` is data) or from the body (then `body` is empty and the data begins
    behind the format's name and one line end).
    """
    begin = 0
    for position, token in enumerate(tokens_of(sql)):
        if position == 0 and token.name != "insert":
            return None
        if token.kind == "word" and token.name in ("values", "select", "with"):
            return None
        if token.kind == "word" and token.name == "format":
            begin = token.end
            break
    else:
        return None
    name = re.compile(rb"\s*([A-Za-z0-9_]+)[ \t]*;?[ \t]*\r?\n?").match(sql, begin)
    if name is None:
        return None
    return Insert(statement=sql[: begin - len("format")], format=name.group(1).decode(), data=sql[name.end() :] + body)


def why_refused(sql: bytes, *, params: Mapping[str, str], table_functions: frozenset[str]) -> str | None:
    """Why a stranger may not ask this; None when he may (the engine's `readonly=1` still has the last word).

    `table_functions`: lower-case names of those that the engine itself calls not readonly.
    """
    tokens = list(tokens_of(sql))
    while tokens and tokens[-1].text == b";":
        tokens.pop()
    if not tokens:
        return "empty query"
    verb = tokens[0].name or tokens[0].text.decode("latin-1")
    if verb not in READING_VERBS:
        return f"{verb.upper()} is not a reading statement"
    called = [token.text == b"(" for token in tokens[1:]] + [False]
    for token, is_call in zip(tokens, called, strict=True):
        if reason := _why_token_refused(token, is_call=is_call, table_functions=table_functions):
            return reason
    for value in params.values():
        if value.strip('`" \t\n').lower() in FORBIDDEN_WORDS:
            return f"the parameter value {value!r}"
    return None


def _why_token_refused(token: Token, *, is_call: bool, table_functions: frozenset[str]) -> str | None:
    if token.text == b";":
        return "more than one statement"
    if token.kind == "other" and (UNSURE.match(token.text) or token.text in b"'\"`"):
        return f"the sign {token.text.decode('latin-1')!r} outside of quotes"
    if token.kind == "quoted" and b"\\" in token.text:
        return "an escaped identifier"
    name = token.name
    if name in FORBIDDEN_WORDS:
        return f"the name {name!r}"
    if is_call and (name in table_functions or name.startswith(FORBIDDEN_PREFIXES)):
        return f"the function {name!r}"
    return None
