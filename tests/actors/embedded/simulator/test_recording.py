"""A Lean folder becomes a feed, exactly; anything else is an error that says what to name."""

from __future__ import annotations

import itertools
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from actors.embedded.simulator import recording as module
from actors.embedded.simulator.recording import open_recording
from runtime.clock import format_ns, parse_instant_ns
from runtime.errors import ConfigError

ALL = (0, 2**63 - 1)


def write_day(folder: Path, day: str, text: str, symbol: str = "eurusd") -> Path:
    target = folder / "tick" / symbol / f"{day}_quote.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{day}_{symbol}_tick_quote.csv", text)
    return target


def rows_of(feed, symbol="C:EURUSD"):
    found = []
    for part in feed.parts(symbol, *ALL):
        day = feed.quotes(symbol, part)
        assert isinstance(day.bid, pa.StringArray)
        found += zip(day.ts_ns.tolist(), day.bid.to_pylist(), day.ask.to_pylist(), strict=True)
    return found


@pytest.fixture
def oanda(tmp_path):
    folder = tmp_path / "oanda"
    write_day(folder, "20140501", "292,1.38676,1.38686\r\n920,1.3868,1.38690\r\n920,1.38679,1.38691")
    return folder


def test_rows_keep_their_decimals_and_the_order_of_equal_times(oanda):
    t0 = parse_instant_ns("2014-05-01")
    assert rows_of(open_recording(oanda)) == [
        (t0 + 292_000_000, "1.38676", "1.38686"),
        (t0 + 920_000_000, "1.3868", "1.38690"),
        (t0 + 920_000_000, "1.38679", "1.38691"),
    ]


def test_rows_out_of_order_are_sorted_by_time_and_stay_in_order_of_arrival_among_equals(oanda):
    write_day(oanda, "20140501", "5,1.5,1.6\n1,1.1,1.2\n5,1.4,1.7\n1,1.0,1.3")
    assert [bid for _, bid, _ in rows_of(open_recording(oanda))] == ["1.1", "1.0", "1.5", "1.4"]


def test_an_empty_day_is_a_day_without_rows(oanda):
    write_day(oanda, "20140502", "")
    assert len(rows_of(open_recording(oanda))) == 3


def test_the_day_of_fxcm_begins_at_five_utc(tmp_path):
    write_day(tmp_path / "fxcm", "20140501", "0,1.1,1.2\n86399999,1.1,1.2")
    times = [format_ns(ts) for ts, _, _ in rows_of(open_recording(tmp_path / "fxcm"))]
    assert times == ["2014-05-01T05:00:00Z", "2014-05-02T04:59:59.999Z"]


def test_every_pair_of_the_folder_is_offered(oanda):
    write_day(oanda, "20140501", "1,150.1,150.2", symbol="usdjpy")
    feed = open_recording(oanda)
    assert feed.symbols == ("C:EURUSD", "C:USDJPY")
    assert feed.restricted(frozenset({"C:USDJPY"})).symbols == ("C:USDJPY",)


def test_the_only_feed_below_a_folder_is_found(oanda):
    assert open_recording(oanda.parent).folder == oanda


def test_two_feeds_are_an_error_that_names_both(oanda):
    write_day(oanda.parent / "fxcm", "20140501", "1,1.1,1.2")
    with pytest.raises(ConfigError, match=re.escape("name one of them: fxcm | oanda")):
        open_recording(oanda.parent)


def test_a_missing_folder_a_file_and_a_strange_folder_are_told_apart(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "strange").mkdir()
    for name, text in (("none", "does not exist"), ("file", "is not a folder"), ("strange", "not a Lean forex folder")):
        with pytest.raises(ConfigError, match=text):
            open_recording(tmp_path / name)


def test_bars_without_ticks_are_an_error_that_names_what_is_there(tmp_path):
    for kind in ("minute", "second"):
        (tmp_path / "oanda" / kind / "eurusd").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"only second \| minute bars; ticks"):
        open_recording(tmp_path / "oanda")


def test_a_part_of_a_feed_is_an_error_that_names_the_feed(oanda):
    for inside in (oanda / "tick", oanda / "tick" / "eurusd"):
        with pytest.raises(ConfigError, match=f"part of the feed {re.escape(str(oanda))}: name that"):
            open_recording(inside)


def test_a_broker_whose_clock_is_unknown_is_an_error(oanda):
    other = oanda.rename(oanda.parent / "copy")
    with pytest.raises(ConfigError, match="whose clock the files have, one of: oanda, fxcm; not 'copy'"):
        open_recording(other)


def test_a_feed_without_files_is_an_error(tmp_path):
    (tmp_path / "oanda" / "tick" / "eurusd").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no file"):
        open_recording(tmp_path / "oanda")


@pytest.mark.parametrize(
    "text",
    [
        "x,1.1,1.2",
        ",1.1,1.2",
        "1,1.1",
        "1,1.1,abc",
        "1,1.1,",
        "1,.5,1.2",
        "1,5.,1.2",
        "1,01.5,1.2",
        "1,1e5,1.2",
        "1,-1,1.2",
        "1,nan,1.2",
        "86400000,1.1,1.2",
        "-1,1.1,1.2",
        '1,1.1,"1.2"x',
    ],
)
def test_a_damaged_row_is_an_error_that_names_the_file(oanda, text):
    path = write_day(oanda, "20140501", f"0,1.0,1.1\n{text}\n")
    feed = open_recording(oanda)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        rows_of(feed)


def test_a_damaged_archive_is_an_error_that_names_the_file(oanda):
    path = oanda / "tick" / "eurusd" / "20140501_quote.zip"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        rows_of(open_recording(oanda))


async def test_a_damaged_file_is_answered_with_410_and_the_rest_goes_on(kit, oanda):
    write_day(oanda, "20140502", "1,abc,1.2")
    async with kit.client(kit.world(open_recording(oanda))) as client:
        bad = await client.get("/v3/quotes/C:EUR-USD?timestamp=2014-05-02")
        good = await client.get("/v3/quotes/C:EUR-USD?timestamp=2014-05-01")
    assert (bad.status_code, bad.json()["status"]) == (410, "ERROR")
    assert (good.status_code, len(good.json()["results"])) == (200, 3)


# Real recordings: totals of notes DATA 1-2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broker", "total", "ties", "first", "first_row", "after"),
    [
        ("oanda", 532_903, 4_494, "2014-05-01T00:00:00.292Z", ("1.38676", "1.38686"), "2014-05-16"),
        ("fxcm", 1_144_807, 0, "2014-05-01T05:00:01.787Z", ("1.38727", "1.38729"), "2014-05-16T05:00Z"),
    ],
)
def test_real_recordings_are_whole(lean_forex, broker, total, ties, first, first_row, after):
    feed = open_recording(lean_forex / broker)
    rows = rows_of(feed)
    assert feed.symbols == ("C:EURUSD",)
    assert len(rows) == total
    assert sum(a[0] == b[0] for a, b in itertools.pairwise(rows)) == ties
    assert (format_ns(rows[0][0]), rows[0][1:]) == (first, first_row)
    assert rows[-1][0] < parse_instant_ns(after)
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(rows))


@pytest.mark.slow
async def test_the_chain_of_a_real_day_is_the_file_line_by_line(lean_forex, kit):
    with zipfile.ZipFile(lean_forex / "oanda" / "tick" / "eurusd" / "20140508_quote.zip") as archive:
        lines = archive.read(archive.namelist()[0]).decode().split()
    t0 = parse_instant_ns("2014-05-08")
    wanted = [(t0 + int(ms) * 1_000_000, bid, ask) for ms, bid, ask in (line.split(",") for line in lines)]
    path = "/v3/quotes/C:EUR-USD?timestamp=2014-05-08&limit=9973&order="
    async with kit.client(kit.world(open_recording(lean_forex / "oanda"))) as client:
        assert kit.rows(await kit.chain(client, path + "asc")) == wanted
        assert kit.rows(await kit.chain(client, path + "desc")) == wanted[::-1]


def test_real_folder_of_two_brokers_is_ambiguous(lean_forex):
    for folder in (lean_forex, lean_forex.parent, lean_forex.parents[1]):
        with pytest.raises(ConfigError, match=r"fxcm \| .*oanda"):
            open_recording(folder)


def test_control_with_the_clock_read_as_utc_the_day_begins_five_hours_early(tmp_path, monkeypatch):
    monkeypatch.setitem(module.CLOCKS_H, "fxcm", 0)
    write_day(tmp_path / "fxcm", "20140501", "0,1.1,1.2")
    assert format_ns(rows_of(open_recording(tmp_path / "fxcm"))[0][0]) == "2014-05-01T00:00:00Z"


def damage(path: Path, how: str) -> None:
    """Make a good file of a day unusable, in one of the ways that disks and people have."""
    body = path.read_bytes()
    if how == "cut":
        path.write_bytes(body[: len(body) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "no zip":
        path.write_bytes(b"this is no archive at all\n" * 50)
    elif how == "bits":
        at = body.index(b".csv") + 10  # inside the packed data: the directory at the end stays whole
        path.write_bytes(body[:at] + bytes(b ^ 0x5A for b in body[at : at + 40]) + body[at + 40 :])
    else:
        write_day(path.parents[2], "20140501", how)


LONG = "\n".join(f"{i},1.{38000 + i * 7919 % 10000},1.39" for i in range(500))


@pytest.mark.parametrize("how", ["cut", "empty", "no zip", "garbage\n", "1,2\n", "\xff\xfe\x00,1,1\n", "x,1.1,1.2"])
def test_a_damaged_file_is_named_when_the_recording_is_opened(oanda, how):
    path = write_day(oanda, "20140501", LONG)
    damage(path, how)
    with pytest.raises(ConfigError, match=re.escape(f"recording file {path} cannot be used, replace it")):
        open_recording(oanda)


@pytest.mark.parametrize("how", ["cut", "empty", "no zip", "bits", LONG + "\ngarbage", LONG + "\n700,x,1.2"])
def test_damage_that_shows_only_when_a_day_is_read_is_named_too(oanda, how):
    path = write_day(oanda, "20140501", LONG)
    feed = open_recording(oanda)
    damage(path, how)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        rows_of(feed)


def test_a_folder_that_we_may_not_read_is_named(oanda, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ConfigError, match="Permission denied"):
        open_recording(oanda)
