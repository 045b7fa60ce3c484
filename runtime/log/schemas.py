"""The `schemas/` directory: schema id -> kind and Arrow schema message, kept once per log.

The id is made from kind and message, so a file proves itself and a lost one can be written again.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path

import attrs

from runtime.disk_port import Disk
from runtime.errors import InvariantViolation, LogCorrupt
from runtime.log.checksum import crc32c

DIRECTORY = "schemas"
_SUFFIX = ".schema"
_HEAD = struct.Struct("<4sIII")
_MAGIC = b"HFa\x01"


@attrs.frozen
class Schema:
    """How to read bodies."""

    kind: str
    message: bytes


def schema_id(schema: Schema) -> int:
    """64 bits of a hash over kind and message."""
    digest = hashlib.blake2b(schema.kind.encode() + b"\0" + schema.message, digest_size=8)
    return int.from_bytes(digest.digest(), "little")


@attrs.define
class Schemas:
    """All schemas a log ever used, and the id to write each kind with."""

    by_id: dict[int, Schema] = attrs.field(factory=dict)
    current: dict[str, int] = attrs.field(factory=dict)
    """kind -> id."""

    def of(self, number: int) -> Schema:
        """Raises LogCorrupt for an id whose file is lost."""
        try:
            return self.by_id[number]
        except KeyError:
            raise LogCorrupt(
                f"{DIRECTORY}/{schema_name(number)} is missing or damaged, without which its rows cannot be read; "
                "the next start of the program that wrote it makes it again"
            ) from None

    def add(self, kind: str, message: bytes) -> None:
        """One that the caller knows, should its file be lost."""
        schema = Schema(kind, bytes(message))
        self.by_id.setdefault(schema_id(schema), schema)

    def kind_of(self, number: int) -> str:
        """The kind; `?` and the id for a lost one, so that counting goes on."""
        schema = self.by_id.get(number)
        return schema.kind if schema is not None else f"?{number:016x}"

    def id_of(self, kind: str) -> int:
        """Raises InvariantViolation for a kind the log was not opened with."""
        try:
            return self.current[kind]
        except KeyError:
            raise InvariantViolation(f"kind {kind!r} is none of {sorted(self.current)}") from None


def load_schemas(disk: Disk, directory: Path) -> Schemas:
    """What the files say; damaged ones are left out."""
    found = Schemas()
    for _, schema in _files(disk, directory):
        if schema is not None:
            found.by_id[schema_id(schema)] = schema
    return found


def damaged_schemas(disk: Disk, directory: Path) -> list[str]:
    """Names of those that do not check. (They come by a rename, whole: nobody sees the middle of a write.)"""
    return [name for name, schema in _files(disk, directory) if schema is None]


def _files(disk: Disk, directory: Path) -> Iterator[tuple[str, Schema | None]]:
    for name in disk.names(directory / DIRECTORY):
        if name.endswith(_SUFFIX):
            schema = _unpack(disk.read_bytes(directory / DIRECTORY / name))
            yield name, schema if schema is not None and name == _name(schema) else None


def open_schemas(disk: Disk, directory: Path, messages: dict[str, bytes]) -> Schemas:
    """Files plus `messages` (kind -> schema message), which are written where missing."""
    schemas = load_schemas(disk, directory)
    disk.make_directory(directory / DIRECTORY)
    for kind, message in messages.items():
        schema = Schema(kind, bytes(message))
        number = schema_id(schema)
        if number not in schemas.by_id:
            disk.write_atomic(directory / DIRECTORY / _name(schema), _pack(schema))
            schemas.by_id[number] = schema
        schemas.current[kind] = number
    return schemas


def schema_name(number: int) -> str:
    """Of its file."""
    return f"{number:016x}{_SUFFIX}"


def _name(schema: Schema) -> str:
    return schema_name(schema_id(schema))


def _pack(schema: Schema) -> bytes:
    kind = schema.kind.encode()
    rest = struct.pack("<II", len(kind), len(schema.message)) + kind + schema.message
    return _MAGIC + crc32c(rest).to_bytes(4, "little") + rest


def _unpack(data: bytes) -> Schema | None:
    if len(data) < _HEAD.size or data[: len(_MAGIC)] != _MAGIC:
        return None
    _, crc, kind_bytes, message_bytes = _HEAD.unpack_from(data)
    if crc32c(data[8:]) != crc or _HEAD.size + kind_bytes + message_bytes != len(data):
        return None
    kind_end = _HEAD.size + kind_bytes
    return Schema(data[_HEAD.size : kind_end].decode(), data[kind_end:])
