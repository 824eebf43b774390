"""The entry point: SGLang calls `register` in each of its processes, and its beam search learns to keep to a catalogue.

A request to ``/generate`` with ``"sampling_params": {"beam_width": W, "n": K, "custom_params": {"gream": {"catalogue":
NAME}}}`` gets the K likeliest items (`gream.decoding.beam.TrieBeamSearch`). They are in ``meta_info.beam_results``,
each with its log-probability as ``sequence_score`` and its numbers as ``finish_reason.items``. All other requests are
left alone. `sglang_gream.catalogues.Asked` says what else such a request may hold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gream.errors import GreamError
from gream.seams import check_seams, loading, untested

from sglang_gream.catalogues import KEY, Asked, Catalogues, named_files
from sglang_gream.seams import BEAM, OUTPUT, SCHEDULER, SEAMS
from sglang_gream.search import EMPTY, Search


def register() -> None:
    """Hook SGLang's beam search where the environment names catalogues; without any, do nothing.

    Raises:
        SystemExit: A catalogue is missing, or this is another SGLang, which would search without the catalogue.
    """
    with loading("sglang_gream", "SGLang"):
        if named_files():
            _hook()


def _hook() -> None:
    import sglang

    check_seams(SEAMS, package="sglang", version=sglang.__version__)
    if warning := untested("sglang", sglang.__version__):
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for target, hook, kind in (
        (f"{SCHEDULER}.Scheduler.init_beam_coordinator", _load, HookType.AFTER),
        (f"{SCHEDULER}.Scheduler.get_init_info", _tell, HookType.AFTER),
        (f"{BEAM}.BeamCoordinator.validate_and_init", _admit, HookType.AROUND),
        (f"{BEAM}._rows_topk_logprobs", _keep_logits, HookType.AROUND),
        (f"{BEAM}.BeamCoordinator._select_group", _select, HookType.AROUND),
        (f"{OUTPUT}.pack_beam_search_output", _name_items, HookType.AFTER),
    ):
        HookRegistry.register(target, hook, kind)


_catalogues = Catalogues({})  # of this process's model; one scheduler runs in a process


def _load(_result: None, scheduler: Any) -> None:
    """A scheduler has its model: read its catalogues."""
    global _catalogues
    _catalogues = Catalogues.load(
        named_files(),
        scheduler.tokenizer,
        getattr(scheduler.model_config.hf_config, KEY, None),
        scheduler.model_config.vocab_size,
        scheduler.req_to_token_pool.device,
    )


def _tell(info: dict[str, Any], _scheduler: Any) -> dict[str, Any]:
    """What ``GET /server_info`` says of this plugin: the catalogues, and the digests of their ids."""
    return info | {KEY: {name: catalogue.digest for name, catalogue in _catalogues.named.items()}}


@dataclass(frozen=True)
class _Confined:
    """What a beam group is given by this plugin: its search, and the items of a path."""

    search: Search
    items_of: Callable[[Sequence[int]], list[int]]


def _admit(original: Callable[..., str | None], coordinator: Any, req: Any, recv_req: Any) -> str | None:
    """A beam request arrives: an error line, or None."""
    raw = (req.sampling_params.custom_params or {}).get(KEY)
    if raw is None:
        return original(coordinator, req, recv_req)
    params = req.sampling_params
    try:
        asked = Asked.read(raw)
        catalogue = _catalogues.find(asked.catalogue)
        catalogue.check_items(asked.exclude)
        ids, trie = catalogue.of(asked.only)
        search = Search(
            trie,
            beams=params.beam_width,
            k=params.n,
            score=asked.score,
            excluded=ids.had_only_by(frozenset(asked.exclude)),
        )
    except GreamError as error:
        return f"{KEY}: {error}"
    depth = trie.trie.depth
    params.max_new_tokens = depth
    if (problem := original(coordinator, req, recv_req)) is not None:
        return problem
    group = req.beam_group
    if group.max_new_tokens < depth:
        room = group.max_new_tokens
        coordinator.retire_group(req)
        return f"{KEY}: the prompt leaves room for {room} tokens, and ids have up to {depth}"
    group.length_penalty = 0.0  # a sequence's score is its log-probability

    def items_of(tokens: Sequence[int]) -> list[int]:
        node: int | None = 0
        for token in tokens:
            node = None if node is None else trie.trie.child(node, token)
        number = -1 if node is None else int(trie.trie.item[node])
        return [] if number < 0 else list(ids.items[number])

    group.gream = _Confined(search, items_of)
    return None


def _keep_logits(
    original: Callable[..., Any], pieces: Sequence[torch.Tensor], num_candidates: int
) -> tuple[tuple[Callable[[], Any], Sequence[torch.Tensor]], None]:
    """Logits in the place of the likeliest tokens over the whole vocabulary, which only free beams need."""
    return (lambda: original(pieces, num_candidates), pieces), None


def _select(
    original: Callable[..., Any], coordinator: Any, group: Any, rows: Any, _tokens: None, tick: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens and parents of the next beams; parents are None after the last step."""
    likeliest, pieces = rows
    confined: _Confined | None = getattr(group, KEY, None)
    if confined is None:
        return original(coordinator, group, *likeliest(), tick)
    from sglang.srt.beam_search.joint_select import SelectResult

    final = group.next_step_is_final()
    step = confined.search.step(group.frontier_cum_logprobs, torch.cat(list(pieces)))
    ended = (~(step.last_scores <= EMPTY / 2)).sum()  # a score that is no number counts: the client shall see it
    group.advance_frontier(
        SelectResult(
            next_tokens=step.tokens,
            parent_idx=step.parents,
            new_cum_logprobs=step.scores,
            # Fewer than the width would end the search: it ends behind the longest id, and not before.
            num_survivors=0 if final else group.beam_width,
            fin_tokens=step.last_tokens,
            fin_parent_idx=step.last_parents,
            fin_cum_logprobs=step.last_scores,
            # A group must not end without a result; one without an item is left out by whoever asked.
            num_finished=ended.clamp(min=1) if final else ended,
        ),
        tick,
    )
    return step.tokens, None if final else step.parents


def _name_items(output: Any, req: Any) -> Any:
    """The results of a group, each with its items."""
    confined: _Confined | None = getattr(req.beam_group, KEY, None)
    if confined is not None and output is not None:
        for sequence in output.sequences:
            sequence.finish_reason = sequence.finish_reason | {"items": confined.items_of(sequence.tokens)}
    return output
