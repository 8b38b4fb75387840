"""The server answers its own page alone, within limits, and never with a 5xx."""

import asyncio
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from markovae.cli.entry import main
from markovae.cli.serve import bound_socket
from markovae.web import server
from markovae.web.desk import NICE, QUEUE, BusyError, Desk
from markovae.web.server import MAX_BODY, create_app
from markovae.web.studio import Studio

HOST = "127.0.0.1:8000"


@pytest.fixture(scope="module")
def client(studio: Studio) -> Iterator[TestClient]:
    with TestClient(create_app(studio, frozenset({HOST})), base_url=f"http://{HOST}") as made:
        yield made


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]


def test_pages_come_with_headers_that_forbid_what_they_do_not_need(client: TestClient) -> None:
    for path in ("/", "/page.js", "/page.css", "/lecture.js"):
        answer = client.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in answer.headers
        assert "://" not in answer.text  # nothing of another host


def test_samples_stream_as_events(client: TestClient) -> None:
    answer = client.post("/api/sample", json={"n": 2, "steps": 3})
    kinds = [event["kind"] for event in events(answer.text)]
    assert kinds == ["waiting", "progress", "progress", "progress", "progress", "done"]
    refused = client.post("/api/sample", json={"n": 0})
    assert events(refused.text)[-1]["kind"] == "error"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example:8000"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": f"http://{HOST}"}, 200),
    ],
)
def test_other_sites_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/api/about", headers=headers).status_code == status


def test_a_token_is_required_where_there_is_one(studio: Studio) -> None:
    with TestClient(create_app(studio, frozenset({HOST}), "secret"), base_url=f"http://{HOST}") as client:
        assert client.get("/").status_code == 200
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer é".encode("latin-1")}):
            assert client.get("/api/about", headers=given).status_code == 401  # type: ignore[arg-type]
        assert client.get("/api/about", headers={"Authorization": "Bearer secret"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "content", "kind", "status"),
    [
        ("GET", "/../../etc/passwd", b"", "", 404),
        ("GET", "/static/page.js", b"", "", 404),
        ("GET", "/api/sample", b"", "", 405),
        ("POST", "/", b"", "", 405),
        ("POST", "/api/sample", b"{}", "text/plain", 415),
        ("POST", "/api/sample", b"{", "application/json", 400),
        ("POST", "/api/sample", b"[]", "application/json", 400),
        ("POST", "/api/sample", b"\xff\xfe", "application/json", 400),
        ("POST", "/api/sample", b"[" * 100_000, "application/json", 400),
        ("POST", "/api/sample", b'{"n": ' + b"9" * 5000 + b"}", "application/json", 400),
        ("POST", "/api/sample", b" " * (MAX_BODY + 1), "application/json", 413),
    ],
)
def test_requests_of_no_page_of_ours_are_refused(
    client: TestClient, method: str, path: str, content: bytes, kind: str, status: int
) -> None:
    assert client.request(method, path, content=content, headers={"Content-Type": kind}).status_code == status


WORDS: list[Any] = [None, True, -1, 0, 1, 3, 10**18, 0.5, 1e308, "", "x" * 501, "\x1b[2J", "../x", [], {}, "none"]
FIELDS = ("n", "steps", "seed", "sampler", "label", "prompt", "guidance", "image", "mask", "to", "way", "level")


def test_no_request_gets_a_server_error(client: TestClient) -> None:
    chance = random.Random(0)
    for _ in range(300):
        body = {name: chance.choice(WORDS) for name in chance.sample(FIELDS, chance.randint(0, 4))}
        for short in ("n", "steps"):
            body.setdefault(short, 2)
        answer = client.post(f"/api/{chance.choice(['sample', 'measure', 'edit'])}", json=body)
        assert answer.status_code == 200, body
        last = events(answer.text)[-1]
        assert last["kind"] in ("done", "error"), body
        assert "failed" not in last.get("message", ""), body


def test_a_full_queue_is_told_and_a_visitor_that_leaves_makes_room() -> None:
    desk, release = Desk(), threading.Event()

    def job() -> Iterator[dict[str, Any]]:
        yield {"kind": "progress"}
        release.wait(20)
        yield {"kind": "done"}

    async def visit() -> None:
        streams = [await desk.stream(job) for _ in range(QUEUE + 1)]
        with pytest.raises(BusyError):
            await desk.stream(job)
        assert (await anext(streams[0]))["kind"] == "waiting"
        assert (await anext(streams[0]))["kind"] == "progress"
        release.set()
        assert (await anext(streams[0]))["kind"] == "done"
        await streams[0].aclose()
        for _ in range(200):
            await asyncio.sleep(0.01)
            if desk._present <= QUEUE:
                break
        await desk.stream(job)

    asyncio.run(visit())
    desk.close()


def test_a_visitor_that_leaves_before_reading_makes_room() -> None:
    desk = Desk()

    async def visit() -> None:
        for _ in range(3 * QUEUE):
            await desk.stream(lambda: iter([{"kind": "done"}]))
            await asyncio.sleep(0.01)

    asyncio.run(visit())
    desk.close()


def test_work_stops_when_its_visitor_leaves() -> None:
    desk, seen = Desk(), []

    def job() -> Iterator[dict[str, Any]]:
        for count in range(1000):
            seen.append(count)
            time.sleep(0.001)
            yield {"kind": "progress"}

    async def visit() -> None:
        stream = await desk.stream(job)
        await anext(stream)
        await anext(stream)
        await stream.aclose()
        before = -1
        while before != len(seen):
            before = len(seen)
            await asyncio.sleep(0.1)

    asyncio.run(visit())
    desk.close()
    assert len(seen) < 900


def test_answers_are_sent_at_once_and_come_before_the_models_work() -> None:
    with bound_socket("127.0.0.1", 0) as listening:
        assert listening.proto == socket.IPPROTO_TCP, "asyncio sends small parts of an answer at once on TCP alone"
    niceness: list[int] = []

    def job() -> Iterator[dict[str, Any]]:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        yield {"kind": "done"}

    async def visit() -> None:
        async for _ in await Desk().stream(job):
            pass

    asyncio.run(visit())
    assert niceness[0] == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICE) or sys.platform != "linux"


def test_a_request_that_takes_too_long_to_arrive_is_cut(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    host = address.removeprefix("http://")
    with socket.create_connection(tuple(host.split(":")), timeout=10) as slow:  # type: ignore[arg-type]
        head = (
            f"POST /api/sample HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n"
        )
        slow.sendall(head.encode() + b"{")
        assert b"408" in slow.recv(200)


def test_a_port_in_use_is_told_with_the_next_one(served_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(served_run), "--port", str(port)]) == 2
    assert "take --port" in capsys.readouterr().err
    assert main(["serve", str(served_run), "--host", "203.0.113.1"]) == 2
    assert main(["serve", str(served_run / "none"), "--port", "0"]) == 2
    assert "Traceback" not in capsys.readouterr().err
