"""SASRec (Kang and McAuley 2018, arXiv 1808.09781): self-attention over the items of a history, trained from nothing.

How it differs from the paper: the loss is the cross-entropy over the catalogue, where the paper sets one negative item
against each target (Klenitskiy and Vasilev 2023, arXiv 2309.07602, show that the loss is what later models gain by); in
large catalogues the denominator is estimated from items drawn anew in each step. Sequences are padded on the right, so
that no real position ever attends to padding. GELU as in later implementations. The number of epochs is chosen on the
validation items.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from gream.counted.lists import Histories, ndcg_gain
from gream.errors import GreamError
from gream.files import write_atomically
from gream.protocol import VALIDATION_USERS, Cases
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

# Batches whose sequences are sorted by length together, so that they hold little padding.
_POOL = 32
# Users whose scores over the whole catalogue are held at once: few, so that they stay near the processor.
_USERS_AT_ONCE = 128


Loss = Literal["corrected", "sampled"]
Positions = Literal["oldest", "newest"]


@dataclass(frozen=True)
class SasRecSettings:
    """Size of the model and how it is trained; the defaults are tuned for catalogues like Amazon's Beauty.

    Attributes:
        hidden: Width of the item embeddings and of every layer.
        layers: Blocks of attention.
        heads: Attention heads.
        dropout: Of embeddings, attention and layers.
        length: Most recent items that are read.
        batch: Sequences per step.
        negatives: Items from which the denominator of the softmax is estimated; as many as the catalogue holds make it
            exact.
        loss: "corrected": all predictions of a step share their negatives, which are weighted to the catalogue's size;
            "sampled": each prediction has its own, unweighted, as in eSASRec (arXiv 2508.06450).
        positions: Counted from the "oldest" item of a history, or from the "newest".
        rate: Adam's learning rate.
        epochs: Most epochs.
        patience: Epochs without a better validation NDCG@10 after which training ends.
        seed: Of weights, order and dropout.
        device: "cpu" or "cuda".
    """

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    length: int = 50
    batch: int = 128
    negatives: int = 2048
    loss: Loss = "corrected"
    positions: Positions = "oldest"
    rate: float = 1e-3
    epochs: int = 200
    patience: int = 10
    seed: int = 0
    device: str = "cpu"


class SasRec(nn.Module):
    """Scores every item as the next one after every position of a sequence."""

    def __init__(self, items: int, settings: SasRecSettings) -> None:
        """Make a model with random weights; item ``items`` is padding."""
        super().__init__()
        self._length = settings.length
        self._newest = settings.positions == "newest"
        self.items = items
        self.item = nn.Embedding(items + 1, settings.hidden, padding_idx=items)
        self.position = nn.Embedding(settings.length, settings.hidden)
        self.norm = nn.LayerNorm(settings.hidden)
        self.dropout = nn.Dropout(settings.dropout)
        layer = nn.TransformerEncoderLayer(
            settings.hidden,
            settings.heads,
            dim_feedforward=4 * settings.hidden,
            dropout=settings.dropout,
            activation="gelu",
            batch_first=True,
        )
        self.blocks = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        with torch.no_grad():
            self.item.weight[items] = 0

    def pad(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """The latest items of each sequence, padded on the right: int64 ``[B, T]``."""
        latest = [sequence[-self._length :] for sequence in sequences]
        ids = np.full((len(latest), max(map(len, latest))), self.items, dtype=np.int64)
        for row, sequence in enumerate(latest):
            ids[row, : len(sequence)] = sequence
        return torch.from_numpy(ids).to(self.item.weight.device)

    def forward(self, ids: Tensor) -> Tensor:
        """States ``[B, T, d]`` of item sequences ``[B, T]``; those at padding mean nothing."""
        T = ids.shape[1]  # noqa: N806 - the name of the dimension
        place = torch.arange(T, device=ids.device).expand_as(ids)
        if self._newest:
            place = ((ids != self.items).sum(1, keepdim=True) - 1 - place).clamp(min=0)
        states = self.item(ids) + self.position(place)
        # Padding follows what is real, so that the causal mask alone keeps real positions from it.
        causal = nn.Transformer.generate_square_subsequent_mask(T, device=ids.device)
        return self.blocks(self.dropout(self.norm(states)), mask=causal, is_causal=True)

    def scores(self, states: Tensor) -> Tensor:
        """Logit of every item, ``[..., items]``."""
        return states @ self.item.weight[: self.items].T

    @torch.no_grad()
    def score_histories(self, histories: Histories) -> Tensor:
        """Scores of all items after each of B histories, ``[B, items]``."""
        self.eval()
        ids = self.pad(histories)
        last = (ids != self.items).sum(1) - 1
        return self.scores(self(ids)[torch.arange(len(ids), device=ids.device), last])


@dataclass(frozen=True)
class Trained:
    """A model at its best epoch.

    Attributes:
        model: In evaluation mode.
        best_epoch: Counted from 1.
        epochs: How many were trained.
        validation_ndcg: NDCG@10 on the validation items, in the best epoch.
        seconds: Wall time of training and validation, in all runs together.
    """

    model: SasRec
    best_epoch: int
    epochs: int
    validation_ndcg: float
    seconds: float


@dataclass
class _Progress:
    """What is known after an epoch besides tensors."""

    epoch: int = 0
    best_epoch: int = 0
    best_ndcg: float = -1.0
    seconds: float = 0.0


def train_sasrec(
    sequences: Sequence[Sequence[int]], validation: Cases | None, items: int, settings: SasRecSettings, state: Path
) -> Trained:
    """Train until the validation items are no longer found better, or for all epochs where there are none.

    Each epoch draws its order and dropout from seed and epoch alone, and is saved: a killed training goes on with the
    next epoch and ends with the same model.

    Args:
        sequences: Training items of each user, oldest first.
        validation: Histories and the items that followed; None keeps the model of the last epoch.
        items: Size of the catalogue.
        settings: Size and schedule.
        state: File of the progress; read where a killed training left it.

    Raises:
        GreamError: No user has two training items, or a setting is impossible.
    """
    windows = [window for sequence in sequences for window in _windows(sequence, settings.length)]
    if not windows:
        raise GreamError("interactions.parquet: no user has two training items, so that there is nothing to predict")
    if settings.hidden % settings.heads:
        raise GreamError(f"--hidden {settings.hidden}: a multiple of {settings.heads} needed")
    torch.manual_seed(settings.seed)
    if validation is not None:
        validation = validation.at_most(VALIDATION_USERS, settings.seed)
    model = SasRec(items, settings).to(settings.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate, betas=(0.9, 0.98))
    best = {name: value.clone() for name, value in model.state_dict().items()}
    progress = _load(state, model, optimizer, best) if state.exists() else _Progress()
    while progress.epoch < settings.epochs and progress.epoch - progress.best_epoch < settings.patience:
        began = time.monotonic()
        loss = _train_epoch(model, optimizer, windows, settings, progress.epoch)
        ndcg = math.nan if validation is None else _validation_ndcg(model, validation)
        progress.epoch += 1
        progress.seconds += time.monotonic() - began
        if validation is None or ndcg > progress.best_ndcg:
            progress.best_epoch, progress.best_ndcg = progress.epoch, ndcg
            best = {name: value.clone() for name, value in model.state_dict().items()}
        _save(state, model, optimizer, best, progress)
        found = f"validation NDCG@10 {ndcg:.4f} (best {progress.best_ndcg:.4f} in epoch {progress.best_epoch}), "
        print(
            f"epoch {progress.epoch}: loss {loss:.4f}, {'' if validation is None else found}{progress.seconds:.0f} s",
            flush=True,
        )
    model.load_state_dict(best)
    return Trained(model.eval(), progress.best_epoch, progress.epoch, progress.best_ndcg, progress.seconds)


def _windows(sequence: Sequence[int], length: int) -> Iterator[Sequence[int]]:
    """``sequence`` in pieces of ``length`` inputs and their successors: every item but the first is predicted once."""
    for start in range(0, len(sequence) - 1, length):
        yield sequence[start : start + length + 1]


def _train_epoch(
    model: SasRec,
    optimizer: torch.optim.Optimizer,
    windows: Sequence[Sequence[int]],
    settings: SasRecSettings,
    epoch: int,
) -> float:
    """One pass over all windows; the mean loss of its predictions."""
    seed = np.random.SeedSequence([settings.seed, epoch])
    torch.manual_seed(int(seed.generate_state(1)[0]))
    random = np.random.default_rng(seed)
    model.train()
    total, count = 0.0, 0
    for batch in _batches([len(window) for window in windows], settings.batch, random):
        inputs = model.pad([windows[index][:-1] for index in batch])
        wanted = torch.tensor([item for index in batch for item in windows[index][1:]], device=inputs.device)
        states = model(inputs)[inputs != model.item.padding_idx]  # [M, d]
        loss = _loss(model, states, wanted, settings, random)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        total += loss.item() * len(wanted)
        count += len(wanted)
    return total / count


def _batches(lengths: Sequence[int], size: int, random: np.random.Generator) -> list[list[int]]:
    """All indices in random order, in batches of similar lengths."""
    order = random.permutation(len(lengths)).tolist()
    batches = []
    for start in range(0, len(order), _POOL * size):
        pool = sorted(order[start : start + _POOL * size], key=lambda index: lengths[index])
        batches += [pool[at : at + size] for at in range(0, len(pool), size)]
    return [batches[index] for index in random.permutation(len(batches))]


def _loss(
    model: SasRec, states: Tensor, wanted: Tensor, settings: SasRecSettings, random: np.random.Generator
) -> Tensor:
    """Mean cross-entropy of the ``[M]`` wanted items after ``[M, d]`` states.

    With fewer negatives than items, the sum over all other items is estimated by that over ``negatives`` of them,
    drawn without replacement and weighted to the catalogue's size; or each state has its own, unweighted.
    """
    items, negatives = model.items, settings.negatives
    if negatives >= items:
        return nn.functional.cross_entropy(model.scores(states), wanted)
    own = (states * model.item(wanted)).sum(1, keepdim=True)  # [M, 1]
    if settings.loss == "sampled":
        drawn = torch.from_numpy(random.integers(items, size=(len(wanted), negatives))).to(wanted.device)  # [M, n]
        logits = torch.bmm(model.item(drawn), states[..., None])[..., 0]
    else:
        drawn = torch.from_numpy(random.choice(items, size=negatives, replace=False)).to(wanted.device)  # [n]
        logits = states @ model.item(drawn).T + math.log(items / negatives)  # [M, n]
    logits = torch.cat([own, logits.masked_fill(drawn == wanted[:, None], -torch.inf)], dim=1)
    return nn.functional.cross_entropy(logits, torch.zeros_like(wanted))


def _validation_ndcg(model: SasRec, cases: Cases) -> float:
    """NDCG@10 of the targets among the items that a history does not hold; ties count against the model."""
    gain = 0.0
    for start in range(0, len(cases.users), _USERS_AT_ONCE):
        histories = cases.histories[start : start + _USERS_AT_ONCE]
        scores = model.score_histories(histories).cpu().numpy()
        gain += ndcg_gain(scores, cases.targets[start : start + _USERS_AT_ONCE], histories)
    return gain / len(cases.users)


def _save(
    path: Path,
    model: SasRec,
    optimizer: torch.optim.Optimizer,
    best: dict[str, Tensor],
    progress: _Progress,
) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in best.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    with write_atomically(path) as temporary:
        save_file(tensors, temporary, {name: repr(value) for name, value in asdict(progress).items()})


def _load(path: Path, model: SasRec, optimizer: torch.optim.Optimizer, best: dict[str, Tensor]) -> _Progress:
    """Fill model, optimizer and ``best`` from ``path``."""
    state: dict[int, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt", device=str(model.item.weight.device)) as file:
        model.load_state_dict({name: file.get_tensor(f"model.{name}") for name in best})
        best |= {name: file.get_tensor(f"best.{name}") for name in best}
        for key in file.keys():  # noqa: SIM118 - safe_open is no mapping
            if key.startswith("adam."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = file.get_tensor(key)
        known = file.metadata()
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return _Progress(int(known["epoch"]), int(known["best_epoch"]), float(known["best_ndcg"]), float(known["seconds"]))
