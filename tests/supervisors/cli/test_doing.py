"""A long command says on a terminal what it is at, and leaves nothing behind."""

from __future__ import annotations

import io

import pytest
import trio

from supervisors.cli.doing import told


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def work(out: io.StringIO, seconds: float) -> None:
    async with told("pipeline verify", out) as doing:
        doing.what = "timescale: comparing"
        await trio.sleep(seconds)


async def test_after_two_seconds_it_is_told_each_second_and_wiped_at_the_end(autojump_clock):
    out = Terminal()
    await work(out, 3.5)
    lines = out.getvalue().split("\r")
    assert lines == ["", *(f"pipeline verify: timescale: comparing, {n} s\x1b[K" for n in (2, 3)), "\x1b[K"]


async def test_a_quick_answer_needs_no_line_and_neither_does_a_file(autojump_clock):
    quick, file = Terminal(), io.StringIO()
    await work(quick, 1.9)
    await work(file, 60)
    assert (quick.getvalue(), file.getvalue()) == ("", "")


async def test_it_is_wiped_also_when_it_fails(autojump_clock):
    out = Terminal()
    with pytest.RaisesGroup(ValueError):
        async with told("pipeline verify", out):
            await trio.sleep(2.5)
            raise ValueError
    assert out.getvalue().endswith("\r\x1b[K")
