"""Group commit: what comes at the same time is done together, and nobody suffers for another."""

import asyncio
from collections.abc import Sequence

import pytest

from app.tasks.batch import Batch
from tests.support.waiting import until


class Doubling:
    """Doubles numbers, in groups that it remembers; it can be held up, and some numbers are bad."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.bad: dict[int, Exception] = {}

    async def __call__(self, group: Sequence[int]) -> list[int]:
        self.groups.append(list(group))
        await self.go_on.wait()
        for number in group:
            if number in self.bad:
                raise self.bad[number]
        return [number * 2 for number in group]


async def do_all(batch: Batch[int, int], numbers: Sequence[int]) -> list[int | BaseException]:
    return await asyncio.gather(*(batch.do(number) for number in numbers), return_exceptions=True)


async def test_what_comes_in_the_same_turn_is_one_group() -> None:
    work = Doubling()
    assert await do_all(Batch(work), range(5)) == [0, 2, 4, 6, 8]
    assert work.groups == [[0, 1, 2, 3, 4]]


async def test_a_single_item_goes_at_once() -> None:
    work = Doubling()
    assert await Batch(work).do(7) == 14
    assert work.groups == [[7]]


async def test_what_comes_while_a_group_is_under_way_forms_the_next() -> None:
    work = Doubling()
    work.go_on.clear()
    batch = Batch(work, at_once=1)
    first = asyncio.create_task(batch.do(1))
    await until(lambda: bool(work.groups))
    others = [asyncio.create_task(batch.do(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    work.go_on.set()
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8]
    assert work.groups == [[1], [2, 3, 4]]


async def test_no_more_groups_are_under_way_than_allowed() -> None:
    work = Doubling()
    work.go_on.clear()
    batch = Batch(work, at_once=2)
    done = []
    for number in range(4):
        done.append(asyncio.create_task(batch.do(number)))
        for _ in range(3):
            await asyncio.sleep(0)
    assert work.groups == [[0], [1]]
    work.go_on.set()
    assert await asyncio.gather(*done) == [0, 2, 4, 6]
    assert work.groups == [[0], [1], [2, 3]]


async def test_a_group_is_no_larger_than_its_size() -> None:
    work = Doubling()
    assert await do_all(Batch(work, size=3, at_once=1), range(7)) == [number * 2 for number in range(7)]
    assert [len(group) for group in work.groups] == [3, 3, 1]


async def test_one_bad_item_fails_alone() -> None:
    work = Doubling()
    work.bad[2] = error = ValueError("not that one")
    assert await do_all(Batch(work), range(4)) == [0, 2, error, 6]
    assert work.groups == [[0, 1, 2, 3], [0], [1], [2], [3]]


async def test_a_database_that_is_away_is_told_to_all_and_not_tried_one_by_one() -> None:
    work = Doubling()
    work.bad[2] = error = ConnectionError("refused")
    assert await do_all(Batch(work), range(4)) == [error] * 4
    assert work.groups == [[0, 1, 2, 3]]


async def test_after_an_error_the_next_ones_are_done_as_ever() -> None:
    work = Doubling()
    work.bad[1] = ConnectionError("refused")
    batch = Batch(work, at_once=1)
    with pytest.raises(ConnectionError):
        await batch.do(1)
    assert await batch.do(2) == 4


async def test_a_member_that_is_cancelled_leaves_the_others_alone() -> None:
    work = Doubling()
    work.go_on.clear()
    batch = Batch(work)
    members = [asyncio.create_task(batch.do(number)) for number in range(3)]
    await until(lambda: bool(work.groups))
    members[1].cancel()
    await asyncio.wait([members[1]])
    work.go_on.set()
    assert [await members[0], await members[2]] == [0, 4]
    assert members[1].cancelled()
    assert await batch.do(9) == 18
