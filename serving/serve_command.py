"""``gream serve``: the service of `serving.service` around a model in this process."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import uvicorn
from gream.engine.settings import Mode
from gream.errors import GreamError
from uvicorn.protocols.http.h11_impl import H11Protocol

from .recommend import RunModel
from .service import KnownHosts, make_service
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


def serve_command(model: RunModel, host: str, port: int, waiting: int) -> None:
    """Load the model, listen, say where, and serve until a signal comes.

    Args:
        model: The model, and the run that it recommends from.
        host: Address to listen on.
        port: 0 takes a free one.
        waiting: Requests that may wait.

    Raises:
        GreamError: The port cannot be had, or run and model do not fit.
    """
    with _listening(host, port) as listener:  # before the model is loaded, which takes longer
        items = model.items()
        # A prompt from elsewhere may be for one mode only.
        recommender = model.recommender(items, tuple(Mode) if model.template is None else (Mode.direct,))
        app = make_service(
            items,
            recommender.recommend,
            users=Users(model.run),
            exclude_history=model.settings.exclude_history,
            longest_list=recommender.longest_list,
            name=model.run.resolve().name,
            batch_size=model.batch_size,
            limit=waiting,
        )
        listener.listen()  # who reads the line below may connect
        shown = f"[{host}]" if ":" in host else host
        print(f"serving {len(items)} items on http://{shown}:{listener.getsockname()[1]}", flush=True)
        if ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            app.add_middleware(KnownHosts, names=list(dict.fromkeys(["localhost", "127.0.0.1", "[::1]", shown])))
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
