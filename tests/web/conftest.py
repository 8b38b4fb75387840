"""One small run of the digits behind the page, served as `markovae serve` serves it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")  # of the extra `web`
pytest.importorskip("uvicorn")

import uvicorn

import markovae as mv
from markovae.cli.serve import bound_socket
from markovae.web.server import create_app
from markovae.web.studio import Studio

SETTINGS = [
    *("network.width=8", "network.multipliers=[1]", "network.blocks=1", "network.attention=[]", "network.patch=1"),
    *("network.embedding=16", "schedule.num_levels=8", "train.steps=4", "train.precision=float32", "train.batch=8"),
    *("train.eval_images=4", "train.eval_draws=2"),
]


@pytest.fixture(scope="session")
def served_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the digits, with classes; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("served") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MARKOVAE_CACHE", str(folder.parent / "cache"))
        mv.train("digits", folder, mv.Config().with_settings(SETTINGS), progress=False)
    return folder


@pytest.fixture(scope="session")
def studio(served_run: Path) -> Studio:
    return Studio(mv.load_run(served_run, device="cpu"), mv.load_data("digits").train.images)


@pytest.fixture(scope="session")
def address(studio: Studio) -> Iterator[str]:
    """A server in a thread; its http://127.0.0.1:PORT."""
    with bound_socket("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        app = create_app(studio, frozenset({f"127.0.0.1:{port}"}))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        yield f"http://127.0.0.1:{port}"
        server.should_exit = True
        thread.join(20)
