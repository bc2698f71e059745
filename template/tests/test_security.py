"""Who may call, and that nobody learns of or touches what belongs to another."""

import subprocess
import sys
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from fastapi import APIRouter, Depends
from httpx import AsyncClient
from pydantic import SecretStr

from app.database import Database
from app.security import ApiKeys, get_caller
from app.settings import Settings, get_settings
from app.tasks import TaskAccepted, Tasks
from tests.support.inline import InlineQueue
from tests.support.processes import ROOT, environment
from tests.support.records import change, read
from tests.support.sample_tasks import add
from tests.support.serving import serving

ADA, ADAS_SECOND, BOB = "ada-0123456789abcdef", "ada-fedcba9876543210", "bob-0123456789abcdef"
KEYS = f"ada:{ADA},bob:{BOB}, ada:{ADAS_SECOND}"

additions = APIRouter(prefix="/additions", dependencies=[Depends(get_caller)])


@additions.post("", status_code=202)
async def create(numbers: list[int], tasks: Tasks) -> TaskAccepted:
    """Have numbers added."""
    return await tasks.submit(add, numbers)


@pytest.fixture
async def locked(settings: Settings, queue: InlineQueue) -> AsyncIterator[AsyncClient]:
    """A client of an API that asks for a key; it sends none by itself."""
    with_keys = settings.model_copy(update={"api_keys": SecretStr(KEYS)})
    async with serving(with_keys, queue, additions) as client:
        yield client


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def adas(locked: AsyncClient) -> str:
    """The path of a task that Ada has submitted."""
    response = await locked.post("/additions", json=[1, 2], headers=bearing(ADA))
    assert response.status_code == 202
    return response.headers["Location"]


WRONG = {
    "none": {},
    "empty": {"Authorization": "Bearer "},
    "wrong": bearing("ada-0123456789abcdee"),
    "a_beginning": bearing(ADA[:-1]),
    "longer": bearing(ADA + "x"),
    "another_scheme": {"Authorization": f"Basic {ADA}"},
    "no_scheme": {"Authorization": ADA},
    "with_its_name": bearing(f"ada:{ADA}"),
    "not_ascii": {"Authorization": "Bearer schlüssel-schlüssel"},
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
async def test_without_a_right_key_nothing_is_told_and_nothing_happens(
    headers: dict[str, str], locked: AsyncClient, adas: str, queue: InlineQueue
) -> None:
    sent = list(queue.sent)
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    for method, path in [
        ("GET", "/tasks"),
        ("GET", adas),
        ("POST", f"{adas}/cancel"),
        ("POST", f"{adas}/retry"),
        ("POST", "/additions"),
    ]:
        response = await locked.request(method, path, headers=raw, json=[1])
        assert response.status_code == 401, f"{method} {path}"
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.headers["Content-Type"] == "application/problem+json"
        assert "Authorization: Bearer" in response.json()["detail"]
        assert ADA not in response.text
    assert queue.sent == sent
    assert (await locked.get(adas, headers=bearing(ADA))).json()["status"] == "pending"


async def test_with_a_right_key_a_task_is_submitted_followed_listed_and_cancelled(
    locked: AsyncClient, adas: str
) -> None:
    shown = (await locked.get(adas, headers=bearing(ADA))).json()
    listed = (await locked.get("/tasks", headers=bearing(ADA))).json()
    assert [item["id"] for item in listed["items"]] == [shown["id"]]
    assert (await locked.post(f"{adas}/cancel", headers=bearing(ADA))).status_code == 202
    assert (await locked.post(f"{adas}/retry", headers=bearing(ADA))).status_code == 202


async def test_all_keys_of_a_name_stand_for_the_same_owner(locked: AsyncClient, adas: str) -> None:
    assert (await locked.get(adas, headers=bearing(ADAS_SECOND))).status_code == 200
    assert len((await locked.get("/tasks", headers=bearing(ADAS_SECOND))).json()["items"]) == 1


@pytest.mark.parametrize(("method", "action"), [("GET", ""), ("POST", "/cancel"), ("POST", "/retry")])
async def test_the_task_of_another_is_answered_as_one_that_does_not_exist(
    method: str, action: str, locked: AsyncClient, adas: str, database: Database
) -> None:
    if action == "/retry":
        await change(database, UUID(adas.rpartition("/")[2]), status="failed")
    before = await read(database, adas.rpartition("/")[2])
    answer = await locked.request(method, f"{adas}{action}", headers=bearing(BOB))
    unknown = await locked.request(method, f"/tasks/{UUID(int=7)}{action}", headers=bearing(BOB))
    assert answer.status_code == unknown.status_code == 404
    assert answer.json() == unknown.json()
    after = await read(database, before.id)
    assert (after.status, after.version, after.cancel_requested_at) == (before.status, before.version, None)


async def test_the_tasks_of_others_are_not_listed(locked: AsyncClient, adas: str) -> None:
    mine = (await locked.post("/additions", json=[3], headers=bearing(BOB))).json()["id"]
    for query in "", "?status=pending", "?name=sample.add":
        listed = (await locked.get(f"/tasks{query}", headers=bearing(BOB))).json()
        assert [item["id"] for item in listed["items"]] == [mine]


async def test_another_does_not_get_past_the_owner_with_an_etag_or_by_waiting(locked: AsyncClient, adas: str) -> None:
    headers = bearing(BOB) | {"If-None-Match": "*", "Prefer": "wait=30"}
    assert (await locked.get(adas, headers=headers)).status_code == 404


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics"])
async def test_health_and_metrics_need_no_key(path: str, locked: AsyncClient) -> None:
    assert (await locked.get(path)).status_code == 200


async def test_without_any_keys_set_everybody_may_call(client: AsyncClient) -> None:
    assert (await client.get("/tasks")).status_code == 200
    assert (await client.get("/tasks", headers=bearing("anything"))).status_code == 200


async def test_openapi_says_which_calls_need_a_key(client: AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    [(scheme, details)] = described["components"]["securitySchemes"].items()
    assert (details["type"], details["scheme"]) == ("http", "bearer")
    for path, operations in described["paths"].items():
        is_open = path.startswith(("/health", "/metrics"))
        for method, operation in operations.items():
            assert operation.get("security") == (None if is_open else [{scheme: []}]), f"{method} {path}"


@pytest.mark.parametrize("keys", [f"ada:{ADA}", f" ada:{ADA} , bob:{BOB} ", f"ada:{ADA},,bob:{BOB},"])
def test_keys_are_read_from_their_setting(keys: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", keys)
    get_settings.cache_clear()
    assert ApiKeys(get_settings().api_key_pairs()).owner_of(ADA) == "ada"


@pytest.mark.parametrize("keys", ["hunter2-hunter2-hunter2", "ada:hunter2", "ada:hunter2 hunter2 hunter2", f":{ADA}"])
def test_wrong_keys_are_refused_at_the_start_without_repeating_them(
    keys: str, settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEYS", keys)
    get_settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        get_settings()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "API_KEYS" in said
    assert "name:key" in said
    assert "hunter2" not in said
    assert ADA not in said


def test_production_refuses_to_start_open_and_says_what_is_missing(settings: Settings) -> None:
    refused = subprocess.run(
        [sys.executable, "-m", "uvicorn", "app.main:app", "--port", "0"],
        cwd=ROOT,
        env=environment(settings) | {"ENVIRONMENT": "production", "API_KEYS": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 2
    assert "API_KEYS" in refused.stderr
    assert "Traceback" not in refused.stderr
    broker = settings.broker_url.get_secret_value()
    assert broker not in refused.stdout + refused.stderr


def test_secrets_are_not_shown_where_settings_are(settings: Settings) -> None:
    with_keys = settings.model_copy(update={"api_keys": SecretStr(KEYS)})
    for shown in repr(with_keys), str(with_keys.model_dump()), with_keys.model_dump_json():
        assert ADA not in shown
        assert settings.broker_url.get_secret_value() not in shown
        assert settings.database_url.get_secret_value() not in shown
