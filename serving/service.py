"""The HTTP service: recommendations and items as JSON, and a page to try them on."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import gream
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from gream.config import Config
from gream.decoding.server_client import UnavailableError
from gream.engine.settings import Mode
from gream.errors import GreamError
from gream.page import render
from markupsafe import Markup
from pydantic import Field, StringConstraints, create_model, model_validator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .dispatch import BusyError, Dispatcher, Recommend
from .items import Items, UnknownItemError
from .recommend import ItemOut, Recommendation, find_history, shown
from .users import UnknownUserError, Users

_PAGE = Path(__file__).with_name("page_service")

# What one request may hold; a window of 20 items in the prompt needs far less.
MOST_ENTRIES = 200
LONGEST_ENTRY = 500  # characters
LARGEST_BODY = 1 << 18  # bytes
BODY_SECONDS = 10.0  # between two parts of a body
MOST_FOUND = 50
RETRY_SECONDS = 5  # for callers, where no server answers
USUAL_LIST = 10

Entry = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ENTRY)]


class RecommendRequest(Config):
    """Body of ``POST /recommend``.

    Attributes:
        history: Ids, titles or semantic ids, oldest first.
        user: Id of a user in the data, whose whole history is taken; in the place of ``history``.
        mode: "direct" asks for the item at once, "reasoning" after a chain.
        k: Items wanted.
        exclude_history: Whether the list leaves out what the history holds; by default as the service was started.
    """

    history: Annotated[list[Entry], Field(min_length=1, max_length=MOST_ENTRIES)] | None = None
    user: Entry | None = None
    mode: Mode = Mode.direct
    k: int = USUAL_LIST
    exclude_history: bool | None = None

    @model_validator(mode="after")
    def _asks_for_somebody(self) -> RecommendRequest:
        if (self.history is None) == (self.user is None):
            raise ValueError("either a history or a user is needed")
        return self


class History(Config):
    """Answer of ``GET /history``.

    Attributes:
        user: As asked for.
        items: All that the user has, oldest first.
    """

    user: str
    items: tuple[ItemOut, ...]


class ItemsFound(Config):
    """Answer of ``GET /items``.

    Attributes:
        total: Items of the catalogue.
        items: Best match first.
    """

    total: int
    items: tuple[ItemOut, ...]


class Health(Config):
    """Answer of ``GET /health``.

    Attributes:
        status: Always "ok": the model was loaded before the service began to listen.
        items: Items of the catalogue.
        longest_list: Most items that ``k`` may ask for.
        waiting: Requests that wait for the model.
        limit: Requests that may wait; further ones get status 503.
        version: Of gream.
    """

    status: str
    items: int
    longest_list: int
    waiting: int
    limit: int
    version: str


class Problem(Config):
    """Body of every refusal.

    Attributes:
        detail: What is wrong, in one line.
    """

    detail: str


def make_service(
    items: Items,
    recommend: Recommend,
    *,
    users: Users,
    exclude_history: bool,
    longest_list: int,
    name: str,
    batch_size: int = 16,
    limit: int = 64,
) -> FastAPI:
    """The application.

    Args:
        items: The run's items.
        recommend: See `serving.dispatch.Recommend`.
        users: The run's users.
        exclude_history: Whether lists leave out what the history holds, where a request does not say.
        longest_list: Most items of a list.
        name: Shown on the page: the run, or whatever is recommended from.
        batch_size: Requests decoded together.
        limit: Requests that may wait.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Dispatcher(recommend, batch_size=batch_size, limit=limit) as app.state.dispatcher:
            yield

    app = FastAPI(
        title="GREAM recommendations",
        version=gream.__version__,
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
    )
    page = _page(name, exclude_history)
    malformed: dict[int | str, dict[str, Any]] = {
        422: {"model": Problem, "description": "A value is missing, of the wrong type, or out of range"}
    }
    refusals: dict[int | str, dict[str, Any]] = {
        400: {"model": Problem, "description": "The model cannot hold the prompt, or no item is left to recommend"},
        404: {"model": Problem, "description": "An entry names no item or several, or the user is not in the run"},
        408: {"model": Problem, "description": "The body does not come"},
        413: {"model": Problem, "description": "The body is too large"},
        **malformed,
    }
    busy: dict[int | str, dict[str, Any]] = {
        503: {
            "model": Problem,
            "description": "Too many requests wait, or no server that runs the model answers",
            "headers": {"Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 1}}},
        }
    }

    app.add_middleware(BodyLimit)

    @app.exception_handler(GreamError)
    async def refuse(_: Request, error: Exception) -> JSONResponse:
        return _refused(400, str(error))

    @app.exception_handler(UnavailableError)
    async def refuse_for_now(_: Request, error: Exception) -> JSONResponse:
        return _refused(503, str(error), {"Retry-After": str(RETRY_SECONDS)})

    @app.exception_handler(UnknownItemError)
    @app.exception_handler(UnknownUserError)
    async def refuse_entry(_: Request, error: Exception) -> JSONResponse:
        return _refused(404, str(error))

    @app.exception_handler(RequestValidationError)
    async def refuse_form(_: Request, error: Exception) -> JSONResponse:
        return _refused(422, _first_problem(error))

    async def recommend_items(body: RecommendRequest, request: Request) -> Recommendation:
        """Rank items for a user, or for a history: each entry is an id, a title or a semantic id, oldest first."""
        if body.user is not None:
            history = await asyncio.to_thread(users.history, body.user)
        else:
            # Fuzzy titles take milliseconds each: not on the loop that answers everybody.
            history = await asyncio.to_thread(find_history, items, body.history or [])
        dispatcher: Dispatcher = app.state.dispatcher
        exclude = exclude_history if body.exclude_history is None else body.exclude_history
        answer = asyncio.ensure_future(dispatcher.ask(body.mode, history, body.k, exclude_history=exclude))
        return await _unless_gone(request, answer)

    # How long a list may be depends on the beams: the description of the interface says it.
    count = Annotated[int, Field(ge=1, le=longest_list)]
    recommend_items.__annotations__["body"] = create_model(
        "RecommendRequest", __base__=RecommendRequest, k=(count, min(USUAL_LIST, longest_list))
    )
    app.post("/recommend", responses={**refusals, **busy})(recommend_items)

    @app.exception_handler(BusyError)
    async def ask_later(_: Request, error: Exception) -> JSONResponse:
        seconds = str(error.retry_after) if isinstance(error, BusyError) else "1"
        return _refused(503, f"{limit} requests wait already; {error}", {"Retry-After": seconds})

    @app.get("/items", responses=malformed)
    async def find_items(
        query: Annotated[str, Query(max_length=LONGEST_ENTRY, description="Id, title or semantic id")] = "",
        limit: Annotated[int, Query(ge=1, le=MOST_FOUND)] = 10,
    ) -> ItemsFound:
        """Search items; an empty query finds the first ones."""
        found = await asyncio.to_thread(items.search, query, limit)
        return ItemsFound(total=len(items), items=tuple(shown(items[number]) for number in found))

    @app.get("/history", responses={404: refusals[404], **malformed})
    async def history_of_user(user: Annotated[str, Query(min_length=1, max_length=LONGEST_ENTRY)]) -> History:
        """All that a user has, by the user's id in the data, oldest first."""
        found = await asyncio.to_thread(users.history, user)
        return History(user=user, items=tuple(shown(items[number]) for number in found))

    @app.head("/health", include_in_schema=False)
    @app.get("/health")
    async def health() -> Health:
        """Whether the service is up, and how long its queue is."""
        dispatcher: Dispatcher = app.state.dispatcher
        return Health(
            status="ok",
            items=len(items),
            longest_list=longest_list,
            waiting=dispatcher.waiting,
            limit=dispatcher.limit,
            version=gream.__version__,
        )

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def front_page() -> HTMLResponse:
        return page

    return app


async def _unless_gone(request: Request, answer: asyncio.Future[Recommendation]) -> Recommendation:
    """The answer; a caller who hangs up before it is there gives the place in the queue back."""
    # Behind the body, the next message of a request is that its caller is gone.
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
        return await answer
    except asyncio.CancelledError:
        raise HTTPException(499, "the caller hung up") from None
    finally:
        gone.cancel()


class BodyLimit:
    """Reads a request's body before the application does, and refuses one that is too large or does not come."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's interface
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            try:
                message = await asyncio.wait_for(receive(), BODY_SECONDS)
            except TimeoutError:
                await _refused(408, f"no more of the body came in {BODY_SECONDS} s")(scope, receive, send)
                return
            if message["type"] != "http.request":  # the client is gone
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > LARGEST_BODY:
                await _refused(413, f"the body exceeds {LARGEST_BODY} bytes")(scope, receive, send)
                return
        parts: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return parts.pop() if parts else await receive()

        await self._app(scope, replay, send)


class KnownHosts:
    """ASGI middleware: refuses requests by a name of the machine that is not its own.

    A page of another site could otherwise reach a service that only this machine sees, by a name that leads here.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI's interface
        if scope["type"] == "http":
            host = Headers(scope=scope).get("host", "")
            if re.sub(r":[0-9]*$", "", host).lower() not in self._names:
                known = ", ".join(self._names)
                await _refused(400, f"Host '{host[:60]}': this service answers to {known} only")(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _first_problem(error: Exception) -> str:
    if not isinstance(error, RequestValidationError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}"


def _refused(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    # One line of bounded length, whatever a request has brought.
    return JSONResponse(Problem(detail=str(GreamError(detail))).model_dump(), status_code=status, headers=headers)


def _page(name: str, exclude_history: bool) -> HTMLResponse:
    """The page, with everything it needs in it; the browser is told to load and run nothing else."""
    script = (_PAGE / "page.js").read_text(encoding="utf-8")
    style = (_PAGE / "page.css").read_text(encoding="utf-8")
    html = render(
        _PAGE / "page.html",
        name=name,
        exclude_history=exclude_history,
        # Files of this folder, no text of anybody's.
        service_style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff"})
