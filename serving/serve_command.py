"""``gream serve``: the service of `serving.service` around a model in this process."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn
from gream.engine.settings import Device, Mode, Settings
from gream.errors import GreamError

from .items import Items
from .recommend import Recommender
from .service import make_service

# Seconds that requests under way get when the service is told to stop.
_GRACE = 10


def serve_command(
    run: Path,
    checkpoint: Path,
    settings: Settings,
    host: str,
    port: int,
    waiting: int,
    *,
    device: Device,
    batch_size: int,
    index: Path | None = None,
    template: Path | None = None,
) -> None:
    """Load the model, listen, say where, and serve until a signal comes.

    Args:
        run: Run folder, for its items.
        checkpoint: Model folder.
        settings: How the model is asked.
        host: Address to listen on.
        port: 0 takes a free one.
        waiting: Requests that may wait.
        device: Where the model runs.
        batch_size: Requests decoded together.
        index: Ids that the model knows the run's items by; None for the run's own.
        template: Text file with the prompt of a model trained elsewhere.

    Raises:
        GreamError: The port cannot be had, or run and model do not fit.
    """
    with _listening(host, port) as listener:  # before the model is loaded, which takes longer
        items = Items.load(run, index)
        # A prompt from elsewhere may be for one mode only.
        modes = tuple(Mode) if template is None else (Mode.direct,)
        recommender = Recommender(
            checkpoint, items, settings, device=device, batch_size=batch_size, modes=modes, template=template
        )
        app = make_service(
            items,
            recommender.recommend,
            longest_list=recommender.longest_list,
            name=run.resolve().name,
            batch_size=batch_size,
            limit=waiting,
        )
        listener.listen()  # who reads the line below may connect
        shown = f"[{host}]" if ":" in host else host
        print(f"serving {len(items)} items on http://{shown}:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE)
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise GreamError(f"--host {host}: no address of this machine ({error.strerror})") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise GreamError(f"{host}:{port}: cannot be listened on ({error.strerror}); choose another --port") from None
    return listener
