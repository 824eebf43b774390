"""Who is asked what: for each user a history and the one held-out item that followed it (leave-one-out)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from gream.errors import GreamError
from gream.tables import read_table

# Whose item is to be predicted; untied: only where no other interaction of the user has the same time.
Split = Literal["test", "valid", "test-untied", "valid-untied"]
History = Literal["allowed", "excluded"]
Fitted = Literal["train", "train+valid"]

_COLUMNS = ("user", "item", "position", "split", "tied")


@dataclass(frozen=True)
class Protocol:
    """What published figures differ in and seldom say.

    Attributes:
        history: Whether lists may hold what the user already has.
        fitted: Interactions that are counted or trained on for the test: the training part, or everything but the test
            item, with settings that were chosen before on validation.
        untied: Leave out test items that share their time with another interaction of the user.
        cutoffs: Lengths at which lists are measured, ascending; they have as many items as the largest.
    """

    history: History = "excluded"
    fitted: Fitted = "train"
    untied: bool = False
    cutoffs: tuple[int, ...] = (1, 5, 10)

    @property
    def split(self) -> Split:
        """The split that is tested."""
        return "test-untied" if self.untied else "test"

    @property
    def length(self) -> int:
        """Of the lists."""
        return self.cutoffs[-1]

    @property
    def suffix(self) -> str:
        """What sets the name of an evaluation apart from one of history excluded and fitted on the training part."""
        parts = {
            "-history": self.history == "allowed",
            "-refit": self.fitted == "train+valid",
            "-untied": self.untied,
        }
        return "".join(part for part, differs in parts.items() if differs)


COMMON = Protocol()

# Validation users by whom a baseline chooses its settings, at most.
VALIDATION_USERS = 5000


@dataclass(frozen=True)
class Cases:
    """Held-out items and what came before them, users in ascending order.

    Attributes:
        users: int32 ``[N]``.
        targets: int32 ``[N]``.
        histories: N lists of items, oldest first: everything before the target.
    """

    users: npt.NDArray[np.int32]
    targets: npt.NDArray[np.int32]
    histories: tuple[tuple[int, ...], ...]

    def sample(self, count: int | None, seed: int) -> Cases:
        """``count`` users drawn without replacement, in ascending order; a seed always draws the same. None: all.

        Raises:
            GreamError: ``count`` is below 1 or above the number of users.
        """
        if count is None:
            return self
        if not 1 <= count <= len(self.users):
            raise GreamError(f"--users {count}: 1 to {len(self.users)} needed")
        kept = np.sort(np.random.default_rng(seed).choice(len(self.users), size=count, replace=False))
        return Cases(self.users[kept], self.targets[kept], tuple(self.histories[index] for index in kept))

    def at_most(self, count: int, seed: int) -> Cases:
        """These, or a sample of ``count`` of them."""
        return self.sample(min(count, len(self.users)), seed)


def read_interactions(path: Path) -> pl.DataFrame:
    """``interactions.parquet``, by user and position; ``tied`` is null where nothing is known of ties.

    Raises:
        GreamError: The file cannot be read or lacks a column.
    """
    return read_table(path, *_COLUMNS).sort("user", "position")


def held_out(interactions: pl.DataFrame, split: Split) -> Cases:
    """The cases of ``split``: for "test" the history holds the validation item too.

    Args:
        interactions: What `read_interactions` returns.
        split: Which item is to be predicted.

    Raises:
        GreamError: Nobody has an item of that split with a history before it, or nothing is known of ties.
    """
    part, _, untied = split.partition("-")
    asked = interactions.filter(pl.col("split") == part)
    if untied:
        if asked["tied"].null_count():
            raise GreamError(
                f"interactions.parquet: does not say which targets share their time with another item; take --split "
                f"{part}, or run the stage 'interactions' again on data with times"
            )
        asked = asked.filter(~pl.col("tied"))
    targets = asked.select("user", pl.col("item").alias("target"), pl.col("position").alias("until"))
    before = interactions.join(targets, on="user").filter(pl.col("position") < pl.col("until"))
    cases = (
        before.sort("user", "position")
        .group_by("user", maintain_order=True)
        .agg(pl.col("target").first(), pl.col("item").alias("history"))
    )
    if cases.is_empty():
        raise GreamError(f"interactions.parquet: no user has a {split} item after a history")
    return Cases(
        cases["user"].to_numpy().astype(np.int32),
        cases["target"].to_numpy().astype(np.int32),
        tuple(tuple(history) for history in cases["history"].to_list()),
    )


def training_matrix(interactions: pl.DataFrame, items: int, fitted: Fitted = "train") -> npt.NDArray[np.int64]:
    """Row and column of each interaction that is fitted on, int64 ``[2, M]``: users numbered from 0, and items.

    Args:
        interactions: What `read_interactions` returns.
        items: Size of the catalogue.
        fitted: Which part; the test item is in neither.

    Raises:
        GreamError: An item lies outside the catalogue of ``items``, or there is no training interaction.
    """
    train = interactions.filter(pl.col("split").is_in(fitted.split("+")))
    if train.is_empty():
        raise GreamError("interactions.parquet: holds no training interaction")
    largest = int(interactions["item"].max())  # type: ignore[arg-type] # not empty
    if largest >= items:
        raise GreamError(f"interactions.parquet names item {largest}, but index.json ends at item {items - 1}")
    return np.stack(
        [train["user"].rank("dense").to_numpy().astype(np.int64) - 1, train["item"].to_numpy().astype(np.int64)]
    )


def training_sequences(interactions: pl.DataFrame, fitted: Fitted = "train") -> list[list[int]]:
    """Items of each user that are fitted on, in order of time, users ascending; those who have none are left out."""
    train = interactions.filter(pl.col("split").is_in(fitted.split("+"))).sort("user", "position")
    return train.group_by("user", maintain_order=True).agg("item")["item"].to_list()
