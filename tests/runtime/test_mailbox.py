"""The bounded inbox: order, backpressure, survival."""

from __future__ import annotations

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from runtime.mailbox import Mailbox


@pytest.mark.parametrize("capacity", [0, -1, math.inf])
def test_a_mailbox_without_a_bound_is_refused(capacity: float) -> None:
    with pytest.raises(ValueError, match="mailbox m: capacity must be a positive number"):
        Mailbox("m", capacity)


async def test_a_full_mailbox_makes_the_sender_wait(autojump_clock) -> None:
    box: Mailbox[int] = Mailbox("m", 2)
    await box.send(1)
    await box.send(2)
    with pytest.raises(trio.WouldBlock):
        box.send_nowait(3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.send, 3)
        await trio.sleep(1)
        assert box.statistics().waiting_senders == 1
        assert [await box.receive() for _ in range(3)] == [1, 2, 3]
    assert box.statistics().depth == 0
    assert box.statistics().depth_max == 2


async def test_a_send_cancelled_while_waiting_has_put_nothing(autojump_clock) -> None:
    box: Mailbox[int] = Mailbox("m", 1)
    await box.send(1)
    with trio.move_on_after(1):
        await box.send(2)
    assert await box.receive() == 1
    with pytest.raises(trio.WouldBlock):
        box.receive_nowait()


async def test_a_receiver_that_dies_loses_nothing_but_what_it_took(autojump_clock) -> None:
    """Owned by the tree: the next incarnation finds what the last one left."""
    box: Mailbox[int] = Mailbox("m", 10)
    for n in range(5):
        await box.send(n)

    async def receiver() -> None:
        await box.receive()
        raise OSError

    with pytest.RaisesGroup(OSError):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver)
    assert [box.receive_nowait() for _ in range(4)] == [1, 2, 3, 4]


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 5))
def test_it_is_a_bounded_queue(moves: list[bool], capacity: int) -> None:
    async def main() -> None:
        box: Mailbox[int] = Mailbox("m", capacity)
        model: list[int] = []
        for n, put in enumerate(moves):
            if put and len(model) < capacity:
                box.send_nowait(n)
                model.append(n)
            elif put:
                with pytest.raises(trio.WouldBlock):
                    box.send_nowait(n)
            elif model:
                assert box.receive_nowait() == model.pop(0)
            else:
                with pytest.raises(trio.WouldBlock):
                    box.receive_nowait()
            assert box.statistics().depth == len(model)
            assert repr(box) == f"<Mailbox m {len(model)}/{capacity}>"

    trio.run(main)
