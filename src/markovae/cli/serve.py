"""`markovae serve`: a page in the browser to draw, measure and edit with a run."""

from __future__ import annotations

import argparse
import secrets
import socket
from typing import TYPE_CHECKING, Any

from markovae.cli.options import AS_TRAINED, add_machine, add_run, add_trust, whole
from markovae.cli.running import open_run
from markovae.errors import UserError
from markovae.log import log, show

if TYPE_CHECKING:
    from markovae.cli.running import Opened

SUMMARY = "serve a page to draw, measure and edit with a run in the browser"
DESCRIPTION = """\
Serve a page on this machine: samples with class, prompt, guidance and seed, watched along the chain; the bits of an
image and where they are; inpainting, image to image and interpolation; a lecture with sliders. The run is only read.
 Stop with Ctrl-C.
"""
EXAMPLES = """\
examples:
  markovae serve runs/faces
  markovae serve runs/faces --port 8001
  markovae serve runs/faces --host 0.0.0.0     # other machines reach it; the address printed has a token
"""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NEXT_PORTS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `markovae serve`."""
    add_run(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--port", type=whole(0), default=8000, metavar="N", help="port (default: 8000); 0: any free one"
    )
    add_trust(parser)
    add_machine(parser, batch=None, precision=AS_TRAINED)


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; exit code 0.

    Raises:
        UserError: without the extra `web`, for a path that is not a run, or an address or port that cannot be had.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise UserError("the page needs the extra web: pip install 'markovae[web]'") from None
    from markovae.web.server import create_app
    from markovae.web.studio import Studio

    with _listening(options.host, options.port) as listening:
        opened = open_run(options, trained_in=True)
        port = listening.getsockname()[1]
        token = None if options.host in LOOPBACK else secrets.token_urlsafe(18)
        names = {*LOOPBACK[:2], options.host} if token is None else _names(options.host)
        hosts = frozenset(f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in names)
        app = create_app(Studio(opened, _training_images(opened)), hosts, token)
        shown = options.host if token is None or options.host not in ("0.0.0.0", "::") else socket.gethostname()
        shown = f"[{shown}]" if ":" in shown else shown
        show(f"http://{shown}:{port}/" + ("" if token is None else f"#token={token}"))
        log("stop with Ctrl-C")
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=3,
            limit_concurrency=400,
            lifespan="on",
        )
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _listening(host: str, port: int) -> socket.socket:
    """A socket on the address.

    Raises:
        UserError: for a port in use, naming the next one that is free; or an address that is not of this machine.
    """
    if port > 65535:
        raise UserError(f"--port {port} must be at most 65535")
    try:
        return bound_socket(host, port)
    except OSError as error:
        if port and (free := next((p for p in range(port + 1, min(port + NEXT_PORTS, 65536)) if _is_free(host, p)), 0)):
            raise UserError(f"port {port} cannot be had ({error.strerror or error}): take --port {free}") from None
        raise UserError(
            f"--host {host} cannot be listened on ({error.strerror or error}): 127.0.0.1 always can"
        ) from None


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on the address, port 0 on a free one. Raises: OSError."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    # Named, since asyncio sends small answers at once on TCP alone: else each waits 40 ms for an acknowledgment.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except OSError:
        listening.close()
        raise
    return listening


def _is_free(host: str, port: int) -> bool:
    try:
        bound_socket(host, port).close()
    except OSError:
        return False
    return True


def _names(host: str) -> set[str]:
    """What other machines may call this one: the address, or, where it listens on all, its name and addresses."""
    if host not in ("0.0.0.0", "::"):
        return {host}
    name = socket.gethostname()
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        addresses = set()
    return {*LOOPBACK, name, *addresses}


def _training_images(opened: Opened) -> Any | None:
    """The images that the run was trained on, where its data are at hand; the page finds neighbours among them."""
    from markovae.data.loading import load_data
    from markovae.likelihood.evaluation_data import trained_on

    try:
        splits = load_data(opened.checkpoint.config.data)
        return splits.train.images if trained_on(splits, opened) else None
    except UserError as error:
        log(f"no neighbours on the page: {error}")
        return None
