"""``gream serve``: the service of `serving.service` around a model in this process."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from gream.engine.settings import Device, Mode, Settings
from gream.errors import GreamError
from starlette.middleware.trustedhost import TrustedHostMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from .items import Items
from .recommend import Recommender
from .service import make_service
from .subset import find_subset
from .users import Users

# Seconds that requests under way get when the service is told to stop.
_GRACE = 10
# Connections at once; further ones get status 503.
_MOST_CONNECTIONS = 1000
# Seconds until a connection has to have brought the head of a request.
HEAD_SECONDS = 10.0


class ImpatientProtocol(H11Protocol):
    """HTTP as uvicorn speaks it, but a connection that brings no whole head of a request is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # noqa: D102
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.scope is None:
            self.transport.close()


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
    only: Sequence[str] = (),
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
        only: Parts of the catalogue that lists may name, see `find_subset`; all of it where none is named.
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
            checkpoint,
            items,
            settings,
            device=device,
            batch_size=batch_size,
            modes=modes,
            template=template,
            only=find_subset(run, items, only) if only else None,
        )
        app = make_service(
            items,
            recommender.recommend,
            users=Users(run),
            exclude_history=settings.exclude_history,
            longest_list=recommender.longest_list,
            name=run.resolve().name,
            batch_size=batch_size,
            limit=waiting,
        )
        listener.listen()  # who reads the line below may connect
        shown = f"[{host}]" if ":" in host else host
        print(f"serving {len(items)} items on http://{shown}:{listener.getsockname()[1]}", flush=True)
        if ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            # A page of another site could otherwise reach this service by a name that leads here.
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", host])
        config = uvicorn.Config(
            app,
            http=ImpatientProtocol,
            log_level="warning",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE,
        )
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
