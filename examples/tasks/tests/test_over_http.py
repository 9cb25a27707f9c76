"""The app in a process of its own, as it is deployed: the story that the README tells."""

import httpx
import pytest

from fastdb.testing.servers import AppServer


@pytest.mark.fastdb(isolation="database")
def test_story(database_url: str) -> None:
    """Several workers, one database: a task is created, changed, and protected from who is late."""
    with (
        AppServer(
            "tasks.app:app",
            environment={"TASKS_DATABASE_URL": database_url},
            arguments=("--workers", "2"),
        ) as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=30) as client,
    ):
        project = client.post("/projects", json={"name": "moon"}).json()
        path = f"/projects/{project['id']}/tasks"
        task = client.post(path, json={"title": "land", "tags": ["urgent"]}).json()
        assert task["version"] == 1
        change = {"version": 1, "done": True}
        assert client.patch(f"/tasks/{task['id']}", json=change).json()["version"] == 2
        assert client.patch(f"/tasks/{task['id']}", json=change).status_code == 409
        assert client.post("/projects", json={"name": "moon"}).status_code == 409
        assert client.get(path).json()["tasks"][0]["done"] is True
        assert client.get("/tags").json() == [{"name": "urgent", "tasks": 1}]
