"""Bytes of a frame's header: nothing of it can be changed without notice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError
from runtime.log import checksum
from runtime.log.checksum import check_native, crc32c
from runtime.log.frame import (
    FIXED_BYTES,
    HEADER_BYTES_MAX,
    MAGIC,
    FrameHeader,
    body_checksum,
    header_size,
    pack_header,
    padded,
    unpack_header,
)

U64 = st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
U32 = st.integers(0, 2**32 - 1)


def header(**changes: object) -> FrameHeader:
    fields: dict[str, object] = {
        "log_low": 0x1122334455667788,
        "epoch": 3,
        "position": 4096,
        "offset": 17,
        "prev_offset": 12,
        "schema_id": 0xAABB,
        "group_position": 4096,
        "group_bytes": 1200,
        "stamp_ns": 1_400_000_000_000_000_000,
        "durable_upto": 4000,
        "event_time_ns_min": -5,
        "event_time_ns_max": 9,
        "sequence": 8,
        "partition": 5,
        "rows": 100,
        "group_index": 0,
        "group_count": 1,
        "body_bytes": 1000,
        "body_crc": 77,
        "chain": 99,
        "producer": "history/C:EURUSD/quotes",
        "producer_position": b'{"covered":[]}',
    }
    return FrameHeader(**(fields | changes))  # type: ignore[arg-type]


@given(
    numbers=st.fixed_dictionaries(
        {
            **dict.fromkeys(("log_low", "epoch", "position", "offset", "schema_id", "durable_upto", "sequence"), U64),
            **dict.fromkeys(("prev_offset", "stamp_ns", "event_time_ns_min", "event_time_ns_max"), I64),
            **dict.fromkeys(("partition", "rows", "body_crc", "chain"), U32),
        }
    ),
    producer=st.text(max_size=60),
    position=st.binary(max_size=1024),
)
def test_a_header_comes_back_as_it_went(numbers: dict[str, int], producer: str, position: bytes) -> None:
    made = header(**numbers, producer=producer, producer_position=position)
    packed, crc = pack_header(made)
    assert len(packed) == header_size(producer.encode(), position) <= HEADER_BYTES_MAX
    assert len(packed) % 8 == 0
    assert unpack_header(b"......." + packed, 7) == made._replace(header_bytes=len(packed), header_crc=crc)


def test_every_flipped_bit_of_a_header_is_seen() -> None:
    packed, _ = pack_header(header())
    for bit in range(len(packed) * 8):
        damaged = bytearray(packed)
        damaged[bit // 8] ^= 1 << bit % 8
        assert unpack_header(bytes(damaged), 0) is None, f"bit {bit}"


def test_a_header_cut_anywhere_is_no_header() -> None:
    packed, _ = pack_header(header())
    assert all(unpack_header(packed[:size], 0) is None for size in range(len(packed)))


def test_zeros_are_no_header() -> None:
    assert unpack_header(bytes(4096), 0) is None


@pytest.mark.parametrize(
    "beyond", [{"body_bytes": 900_001}, {"group_bytes": 1 << 30}, {"group_count": 0}, {"group_index": 1}]
)
def test_a_valid_checksum_does_not_make_an_impossible_length_believed(beyond: dict[str, int]) -> None:
    assert unpack_header(pack_header(header(**beyond))[0], 0) is None


def test_the_layout_is_the_documented_one() -> None:
    """Golden: version 1 of the header, byte by byte. A change needs a new version number."""
    packed, crc = pack_header(header(producer="p", producer_position=b"q"))
    assert FIXED_BYTES == 152
    assert packed.hex() == (
        MAGIC.hex()
        + crc.to_bytes(4, "little").hex()
        + "a000"  # header length 160
        + "0100"  # version
        + "00000000"
        + "8877665544332211"
        + "0300000000000000"
        + "0010000000000000"
        + "1100000000000000"
        + "0c00000000000000"
        + "bbaa000000000000"
        + "0010000000000000"
        + "b004000000000000"
        + (1_400_000_000_000_000_000).to_bytes(8, "little").hex()
        + "a00f000000000000"
        + "fbffffffffffffff"
        + "0900000000000000"
        + "0800000000000000"
        + "05000000"
        + "64000000"
        + "00000000"
        + "01000000"
        + "e8030000"
        + "4d000000"
        + "63000000"
        + "0100"
        + "0100"
        + "7071"
        + "000000000000"
    )


def test_the_body_checksum_covers_the_padding() -> None:
    assert body_checksum(b"abc") == crc32c(b"abc" + bytes(5))
    assert padded(3) == 8
    assert padded(8) == 8


def test_crc32c_is_the_known_one_and_native(monkeypatch: pytest.MonkeyPatch) -> None:
    check_native()
    monkeypatch.setattr(checksum.google_crc32c, "implementation", "python")
    with pytest.raises(ConfigError, match="native"):
        check_native()
