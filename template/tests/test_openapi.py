"""The OpenAPI document: whoever reads it can send what it shows."""

from collections.abc import Iterator
from typing import Any

from httpx import AsyncClient


def posts(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give the path and the operation of every POST that takes a body."""
    for path, operations in document["paths"].items():
        if "requestBody" in operations.get("post", {}):
            yield path, operations["post"]


def examples(document: dict[str, Any], operation: dict[str, Any]) -> list[Any]:
    """Return the bodies that the document shows for an operation."""
    content = operation["requestBody"]["content"]["application/json"]
    shown = [example["value"] for example in content.get("examples", {}).values()]
    schema = content["schema"]
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].removeprefix("#/components/schemas/")]
    return [*shown, *schema.get("examples", [])]


async def test_every_post_shows_a_body_and_the_service_takes_it(client: AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for path, operation in posts(document):
        bodies = examples(document, operation)
        assert bodies, f"POST {path} shows no example"
        for body in bodies:
            response = await client.post(path, json=body)
            assert response.is_success, f"POST {path} does not take {body}: {response.text}"


async def test_the_documents_pages_are_served(client: AsyncClient) -> None:
    assert (await client.get("/docs")).status_code == 200
    document = (await client.get("/openapi.json")).json()
    assert {"/tasks", "/tasks/{task_id}", "/health/live", "/health/ready"} <= set(document["paths"])
