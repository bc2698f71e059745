"""/reports from the request to the finished report, with the task run in the test's own process."""

import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from httpx import AsyncClient
from sqlalchemy import func, select

from app.database import Database
from app.reports.models import Report
from app.reports.report import SHIPPED_ORDERS
from app.reports.schemas import EXAMPLE_ORDERS
from tests.support.inline import InlineQueue, TaskRunner
from tests.support.records import change, count


async def count_reports(database: Database) -> int:
    """Return how many reports are stored."""
    async with database.read() as session:
        return await session.scalar(select(func.count()).select_from(Report)) or 0


async def test_a_report_on_the_shipped_orders(client: AsyncClient, run_tasks: TaskRunner) -> None:
    accepted = await client.post("/reports", json={"title": "All by country"})
    assert accepted.status_code == 202
    assert accepted.headers["Retry-After"] == "1"
    task_id = accepted.json()["id"]

    early = await client.get(f"/reports/{task_id}")
    assert early.status_code == 404
    assert f"/tasks/{task_id}" in early.json()["detail"]

    await run_tasks()
    task = (await client.get(accepted.headers["Location"])).json()
    assert (task["status"], task["progress"]["fraction"]) == ("completed", 1)
    report = (await client.get(f"/reports/{task['result']['report_id']}")).json()
    assert (report["id"], report["title"]) == (task_id, "All by country")
    rows = SHIPPED_ORDERS.read_text(encoding="utf-8").splitlines()[1:]
    assert report["content"]["orders"] == task["result"]["orders"] == len(rows)
    revenue = sum(int(quantity) * Decimal(price) for *_, quantity, price in (row.split(",") for row in rows))
    assert Decimal(report["content"]["revenue"]) == Decimal(task["result"]["revenue"]) == revenue


async def test_a_report_on_orders_that_are_sent(client: AsyncClient, run_tasks: TaskRunner) -> None:
    request = {"title": "Ours", "group_by": "product", "first_day": "2026-01-04", "orders_csv": EXAMPLE_ORDERS}
    task_id = (await client.post("/reports", json=request)).json()["id"]
    await run_tasks()
    content = (await client.get(f"/reports/{task_id}")).json()["content"]
    assert (content["orders"], content["units"], content["revenue"]) == (2, 5, "605.00")
    assert [line["group"] for line in content["lines"]] == ["chair"]


async def test_orders_that_cannot_be_read_fail_the_task_naming_the_line(
    client: AsyncClient, run_tasks: TaskRunner, database: Database
) -> None:
    orders = EXAMPLE_ORDERS + "1004,2026-02-12,DE,chair,four,119.00\n"
    accepted = await client.post("/reports", json={"title": "Broken", "orders_csv": orders})
    await run_tasks()
    task = (await client.get(accepted.headers["Location"])).json()
    assert (task["status"], task["attempt"], task["error"]["type"]) == ("failed", 1, "TaskFailed")
    assert task["error"]["message"].startswith("Line 5, quantity: ")
    assert (await client.get(f"/reports/{task['id']}")).status_code == 404
    assert await count_reports(database) == 0


async def test_computing_a_report_twice_leaves_one(
    client: AsyncClient, run_tasks: TaskRunner, database: Database
) -> None:
    task_id = UUID((await client.post("/reports", json={"title": "Once"})).json()["id"])
    await run_tasks()
    first = (await client.get(f"/reports/{task_id}")).json()
    await change(database, task_id, status="pending", finished_at=None, sent_at=None)
    [record] = await run_tasks()
    assert (record.status, record.attempt) == ("completed", 2)
    second = (await client.get(f"/reports/{task_id}")).json()
    assert second["content"] == first["content"]
    assert await count_reports(database) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"title": ""},
        {"title": "t", "group_by": "colour"},
        {"title": "t", "first_day": "2026-02-01", "last_day": "2026-01-01"},
        {"title": "t", "first_day": "yesterday"},
        {"title": "nul \0"},
        {"title": "t", "orders_csv": "half \ud83d"},
    ],
)
async def test_a_request_that_does_not_fit_is_refused_and_nothing_recorded(
    wrong: dict[str, Any], client: AsyncClient, queue: InlineQueue, database: Database
) -> None:
    response = await client.post("/reports", content=json.dumps(wrong), headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"
    assert queue.messages == []
    assert await count(database) == 0
