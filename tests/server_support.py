"""A stub in the place of SGLang or vLLM: it speaks their documented protocols, and a real small model computes.

``python tests/server_support.py MODEL DESCRIPTOR LAST END`` runs it alone, on a socket that it inherits. It answers
LAST requests; at the next it dies or falls silent, as END says, "die" or "hold"; where END is empty it answers all.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from aiohttp import web
from gream.decoding.server_protocol import Written
from gream.engine.contract import ids_digest
from loopback import LoopbackServer
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_LOGPROB_TOKEN_IDS = 128


class StubModel:
    """Next-token log-probabilities and generation, computed with nothing of what is tested."""

    def __init__(self, folder: Path) -> None:
        self.catalogue: Sequence[Sequence[str]] = ()  # the ids that SGLang's own beam search can be kept to
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self.vocabulary: int = self._model.config.vocab_size

    @torch.inference_mode()
    def next_logs(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """``[B, vocabulary]``. What all prompts begin with is read once, without any state between requests."""
        if len({len(prompt) for prompt in prompts}) > 1:
            return torch.cat([self.next_logs([prompt]) for prompt in prompts])
        shared = 0
        while shared < len(prompts[0]) - 1 and len({prompt[shared] for prompt in prompts}) == 1:
            shared += 1
        cache = None
        if shared:
            cache = self._model(torch.tensor([prompts[0][:shared]]), use_cache=True).past_key_values
            cache.batch_repeat_interleave(len(prompts))
        rest = torch.tensor([list(prompt[shared:]) for prompt in prompts])
        logits = self._model(rest, past_key_values=cache, use_cache=True).logits[:, -1]
        return logits.double().log_softmax(1)

    @torch.inference_mode()
    def logs_behind(self, tokens: Sequence[int], first: int) -> list[float]:
        """Log-probability of each of ``tokens`` from the number ``first`` on, at temperature 1."""
        logs = self._model(torch.tensor([list(tokens)])).logits[0].double().log_softmax(1)
        return [float(logs[at - 1, tokens[at]]) for at in range(first, len(tokens))]

    @torch.inference_mode()
    def write(
        self,
        prompt: Sequence[int],
        budget: int,
        stop: Sequence[str],
        ends: Sequence[int],
        temperature: float,
        seed: int,
    ) -> tuple[list[int], str]:
        """Tokens and the reason for which they end."""
        generator = torch.Generator().manual_seed(seed)
        written: list[int] = []
        tokens, cache = torch.tensor([list(prompt)]), None
        while len(written) < budget:
            output = self._model(tokens, past_key_values=cache, use_cache=True)
            cache, logits = output.past_key_values, output.logits[0, -1].double()
            if temperature:
                token = int(torch.multinomial((logits / temperature).softmax(0), 1, generator=generator))
            else:
                token = int(logits.argmax())
            written.append(token)
            text = self._tokenizer.decode(written, skip_special_tokens=False)
            if token in ends or any(part in text for part in stop):
                return written, "stop"
            tokens = torch.tensor([[token]])
        return written, "length"

    def best_items(self, prompt: Sequence[int], ids: dict[int, list[int]], beams: int) -> list[tuple[float, int]]:
        """Score and item of the best of ``ids``, the tokens of each item: a plain beam search, step by step."""
        beam, found = [(0.0, ())], []  # type: list[tuple[float, tuple[int, ...]]], list[tuple[float, int]]
        while beam:
            logs, longer = self.next_logs([[*prompt, *path] for _, path in beam]), []
            for (score, path), row in zip(beam, logs, strict=True):
                after = {tuple(tokens[: len(path) + 1]) for tokens in ids.values() if len(tokens) > len(path)}
                for way in sorted(way for way in after if way[:-1] == path):
                    total = score + float(row[way[-1]])
                    found += [(total, item) for item, tokens in ids.items() if tuple(tokens) == way]
                    if any(len(tokens) > len(way) and tuple(tokens[: len(way)]) == way for tokens in ids.values()):
                        longer.append((total, way))
            beam = sorted(longer, reverse=True)[:beams]
        return sorted(found, reverse=True)

    def tokens_of(self, ids: Sequence[Sequence[str]]) -> dict[int, list[int]]:
        """Token ids of each item's id."""
        return {item: self._tokenizer.convert_tokens_to_ids(list(tokens)) for item, tokens in enumerate(ids)}


@dataclass(frozen=True)
class Fault:
    """What happens to a request instead of an answer.

    Attributes:
        status: Answered with this and an error message.
        drop: The connection is closed without an answer.
        cut: The body is no whole JSON.
        abort: The answer is what SGLang gives to a request that was aborted.
        until: Nothing is sent before this is so.
    """

    status: int = 0
    drop: bool = False
    cut: bool = False
    abort: bool = False
    until: Callable[[], bool] = lambda: True


Faults = Callable[[int], Fault | None]  # by the number of the request, from 0


def sglang_answer(model: StubModel, body: dict[str, Any]) -> Any:
    """``POST /generate`` of SGLang 0.5.23."""
    many = isinstance(body["input_ids"][0], list)
    prompts = body["input_ids"] if many else [body["input_ids"]]
    settings = body["sampling_params"] if isinstance(body["sampling_params"], list) else [body["sampling_params"]]
    if "logprob_start_len" in body:
        assert body["return_logprob"] and not many and settings[0]["max_new_tokens"] == 0
        tokens = body["input_ids"][body["logprob_start_len"] :]
        first = len(body["input_ids"]) - len(tokens) + 1
        read = zip(tokens, [None, *model.logs_behind(body["input_ids"], first)], strict=True)
        rows = [[log, token, None] for token, log in read]
        return {"text": "", "output_ids": [], "meta_info": {"input_token_logprobs": rows, "completion_tokens": 0}}
    wanted = body.get("token_ids_logprob")
    if "beam_width" in settings[0]:
        [one] = settings
        asked = one["custom_params"]["gream"]
        ids = model.tokens_of(model.catalogue)
        assert asked["catalogue"] == ids_digest(model.catalogue) and asked["score"] == "vocabulary" and not many
        ids = {item: ids[item] for item in set(asked.get("only", ids)) - set(asked.get("exclude", ()))}
        found = model.best_items(body["input_ids"], ids, one["beam_width"])[: one["n"]]
        beams = [{"meta_info": {"finish_reason": {"items": [item]}, "sequence_score": score}} for score, item in found]
        return {"text": "", "output_ids": [], "meta_info": {"finish_reason": {"type": "stop"}, "beam_results": beams}}
    if settings[0]["max_new_tokens"] == 0:
        assert body["return_logprob"] and many and len(wanted) == len(prompts) == len(settings)
        logs = model.next_logs(prompts)
        rows = [[[float(row[token]), token, None] for token in part] for row, part in zip(logs, wanted, strict=True)]
        return [
            {"text": "", "output_ids": [], "meta_info": {"output_token_ids_logprobs": [row], "completion_tokens": 0}}
            for row in rows
        ]
    [one] = settings
    assert one["no_stop_trim"] and one["top_k"] == -1 and one["top_p"] == 1.0
    tokens, reason = model.write(
        prompts[0],
        one["max_new_tokens"],
        one["stop"],
        one["stop_token_ids"],
        one["temperature"],
        one.get("sampling_seed", 0),
    )
    meta: dict[str, Any] = {"finish_reason": {"type": reason}}
    if body.get("return_logprob"):
        assert one["temperature"] == 1  # else they would be those after temperature
        logs = model.logs_behind([*prompts[0], *tokens], len(prompts[0]))
        meta["output_token_logprobs"] = [[log, token, None] for log, token in zip(logs, tokens, strict=True)]
    return {"text": "", "output_ids": tokens, "meta_info": meta}


def vllm_answer(model: StubModel, body: dict[str, Any]) -> Any:
    """``POST /inference/v1/generate`` of vLLM 0.27.1."""
    one = body["sampling_params"]
    wanted = one.get("logprob_token_ids")
    if wanted is None:
        tokens, reason = model.write(
            body["token_ids"],
            one["max_tokens"],
            one["stop"],
            one["stop_token_ids"],
            one["temperature"],
            one.get("seed", 0),
        )
        held = None
        if "logprobs" in one:
            logs = model.logs_behind([*body["token_ids"], *tokens], len(body["token_ids"]))
            pairs = zip(tokens, logs, strict=True)
            held = {"content": [{"token": f"token_id:{token}", "logprob": log} for token, log in pairs]}
        return {"choices": [{"index": 0, "logprobs": held, "finish_reason": reason, "token_ids": tokens}]}
    if len(wanted) > MAX_LOGPROB_TOKEN_IDS or one["logprobs"] != len(wanted):
        raise web.HTTPBadRequest(text=json.dumps({"error": {"message": f"{len(wanted)} logprob_token_ids"}}))
    logs = model.next_logs([body["token_ids"]])[0]
    assert "allowed_token_ids" not in one  # vLLM lets it leak into other requests
    drawn = int(logs.argmax())
    # The drawn token comes first, and no more are listed than were asked for.
    listed = list(dict.fromkeys([drawn, *wanted]))[: one["logprobs"]]
    top = [{"token": f"token_id:{token}", "logprob": max(float(logs[token]), -9999.0)} for token in listed]
    content = [{"token": f"token_id:{drawn}", "logprob": float(logs[drawn]), "top_logprobs": top}]
    return {
        "choices": [{"index": 0, "logprobs": {"content": content}, "finish_reason": "length", "token_ids": [drawn]}]
    }


class StubServer(LoopbackServer):
    """Both protocols."""

    def __init__(self, model: StubModel, faults: Faults = lambda number: None) -> None:
        super().__init__()
        self.model = model
        self.faults = faults
        self.requests: list[dict[str, Any]] = []
        self.deterministic = True
        self.most_in_flight = 0
        self.keys: set[str] = set()
        self._in_flight = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def listen(self) -> None:
        await self.serve(socket.create_server(("127.0.0.1", 0)))

    async def close(self) -> None:
        await self._runner.cleanup()

    async def serve(self, listener: socket.socket) -> None:
        """Answer on a socket that is bound."""
        self._compute = ThreadPoolExecutor(max_workers=1)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/generate", lambda request: self._answer(request, sglang_answer))
        app.router.add_post("/inference/v1/generate", lambda request: self._answer(request, vllm_answer))
        app.router.add_get("/health", self._health)
        app.router.add_get("/server_info", self._info)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()
        self.port = listener.getsockname()[1]

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response()

    async def _info(self, request: web.Request) -> web.Response:
        """``GET /server_info`` of SGLang 0.5.23; the key "gream" is the plugin's."""
        info: dict[str, Any] = {"enable_deterministic_inference": self.deterministic}
        if catalogue := getattr(self.model, "catalogue", ()):
            info["gream"] = {"shop": ids_digest(catalogue)}
        return web.json_response(info)

    async def _answer(self, request: web.Request, answer: Callable[[StubModel, dict[str, Any]], Any]) -> web.Response:
        fault = self.faults(len(self.requests))
        body = await request.json()
        self.requests.append(body)
        self.keys.add(request.headers.get("Authorization", ""))
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        try:
            while fault is not None and not fault.until():
                await asyncio.sleep(0.001)
            if fault is not None and fault.status:
                return web.json_response({"error": {"message": "a fault"}}, status=fault.status)
            if fault is not None and fault.drop:
                assert request.transport is not None
                request.transport.close()
                return web.Response()
            if fault is not None and fault.abort:
                reason = {"type": "abort", "message": "Abort in waiting queue"}
                return web.json_response({"text": "", "output_ids": [], "meta_info": {"finish_reason": reason}})
            found = await asyncio.get_running_loop().run_in_executor(self._compute, answer, self.model, body)
        finally:
            self._in_flight -= 1
        text = json.dumps(found)
        return web.Response(text=text[: len(text) // 2] if fault is not None and fault.cut else text)


async def _alone(model: StubModel, listener: socket.socket, last: int, end: str) -> None:
    def at_last(number: int) -> Fault | None:
        if number < last:
            return None
        if end == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return Fault(until=lambda: False)

    server = StubServer(model, at_last if end else lambda number: None)
    await server.serve(listener)
    print(f"listening on {server.url}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, descriptor, last, end = sys.argv[1:]
    asyncio.run(_alone(StubModel(Path(folder)), socket.socket(fileno=int(descriptor)), int(last), end))


def insist_on_their_logs(network: Any, prompt: list[int], chains: Sequence[Written]) -> None:
    """Chains that a server drew differ, and each has the log-probabilities that the model has here."""
    assert len({tuple(chain.tokens) for chain in chains}) > 1
    for chain in chains:
        with torch.no_grad():
            logs = network(torch.tensor([[*prompt, *chain.tokens]])).logits[0].double().log_softmax(1)
        exact = [float(logs[len(prompt) + at - 1, token]) for at, token in enumerate(chain.tokens)]
        np.testing.assert_allclose(chain.logs, exact, atol=1e-3)
