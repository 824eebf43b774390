"""The residual-sensitive verifiable reward: how many leading levels of the right semantic id a response names.

Paper section 3.4. With H levels, of which the first L agree with the truth:

- 1 for the id of the truth itself;
- 0.95 where all H levels agree and only the disambiguation token is wrong, missing or superfluous;
- sqrt(L / H) otherwise, or the configured table;
- 0 where L = 0, and where there is no closed ``<think>`` block followed by one closed ``<answer>``.

What a response may do beside that:

- Text around the id inside the answer is passed over; the id's tokens are read in the order they stand in.
- Two answers, or an answer that is not closed before the response ends, are no answer: 0, not well-formed.
- More tokens than an id has (a second id, say) never earn more than H - 1 levels, so that naming items on a hunch
  does not pay.
- An id that no item has earns the levels it shares with the truth, which is never more than the catalogue's own
  prefixes allow, since the truth is an item; it is marked as invalid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gream.dialogue import extract_answer
from gream.errors import GreamError
from gream.semantic_ids.catalog import Catalog
from gream.semantic_ids.vocabulary import find_tokens

from verl_srpo.settings import NEAR_MISS

_NOTHING = -1  # no token at this position
_UNKNOWN = -2  # a token that no item uses


@dataclass(frozen=True)
class Rewards:
    """Rewards of a batch, and what they were given for.

    Attributes:
        reward: float64 ``[B]``, in 0..1.
        match_level: int64 ``[B]``, leading levels that agree with the truth, 0..H.
        exact: bool ``[B]``, the answer is the truth.
        format_ok: bool ``[B]``, there is a thought and one answer.
        invalid_id: bool ``[B]``, there is an answer, and no item has its id.
    """

    reward: npt.NDArray[np.float64]
    match_level: npt.NDArray[np.int64]
    exact: npt.NDArray[np.bool_]
    format_ok: npt.NDArray[np.bool_]
    invalid_id: npt.NDArray[np.bool_]


class ResidualReward:
    """The reward over one catalogue.

    Attributes:
        levels: H, the number of levels without the disambiguation token.
    """

    def __init__(self, catalog: Catalog, table: Sequence[float] | None = None, *, near_miss: float = NEAR_MISS) -> None:
        """Prepare the reward.

        Args:
            catalog: The items. Where ids differ in length, by one token, the last token of the longer ones is the
                disambiguation token.
            table: Rewards of 1, 2, ... H-1 agreeing levels; None for sqrt(L / H).
            near_miss: Reward where only the disambiguation token is wrong.

        Raises:
            GreamError: Ids differ in length by more than one token, or the table has not H-1 entries.
        """
        lengths = {len(tokens) for tokens in catalog.ids}
        self.levels = min(lengths)
        if max(lengths) > self.levels + 1:
            raise GreamError(
                f"catalogue: ids have {min(lengths)} to {max(lengths)} tokens; "
                "only a disambiguation token may make an id longer than another, by one"
            )
        self._disambiguated = max(lengths) > self.levels
        if table is None:
            table = [math.sqrt(level / self.levels) for level in range(1, self.levels)]
        if len(table) != self.levels - 1:
            raise GreamError(
                f"algorithm.srpo.reward_table has {len(table)} entries; ids of {self.levels} levels need "
                f"{self.levels - 1}, the rewards of 1 to {self.levels - 1} agreeing levels"
            )
        self._value_of_level = np.array([0.0, *table, near_miss])  # [H + 1]
        self._catalog = catalog
        self._code_of_token = {token: code for code, token in enumerate(catalog.tokens)}
        self._item_of_text = {catalog.text(item): item for item in range(len(catalog))}
        # [n + 1, H + 2]: one position more than any id has shows that there are too many; the last row is no id.
        self._codes = np.stack([self._codes_of(tokens) for tokens in (*catalog.ids, ())])

    def check_truth(self, truth: str, *, source: str) -> None:
        """Make sure that ``truth`` is the id of an item.

        Raises:
            GreamError: It is not; ``source`` names where it stands.
        """
        if self._catalog.item_in(truth) is None:
            raise GreamError(
                f"{source}: ground truth '{truth}' is no item of the catalogue; make the RL data and the catalogue "
                "(algorithm.srpo.catalog) in the same run"
            )

    def __call__(self, responses: Sequence[str], truths: Sequence[str]) -> Rewards:
        """Reward a batch of responses.

        Args:
            responses: Generated texts, B of them.
            truths: The semantic id each of them should have named, as text; checked by `check_truth`.
        """
        answers = [extract_answer(response) for response in responses]
        format_ok = np.array([answer is not None for answer in answers], dtype=bool)
        answered, known = self._read([answer or "" for answer in answers])
        wanted, _ = self._read(truths)
        agree = answered == wanted
        match_level = np.cumprod(agree[:, : self.levels], axis=1).sum(axis=1)
        exact = agree.all(axis=1)
        # One token beyond the levels is a disambiguation token; more of them, or any where ids have none, are junk.
        junk = (answered[:, self.levels + int(self._disambiguated) :] != _NOTHING).any(axis=1)
        paid_level = np.where(junk, np.minimum(match_level, self.levels - 1), match_level)
        return Rewards(
            reward=np.where(exact, 1.0, self._value_of_level[paid_level]),
            match_level=match_level,
            exact=exact,
            format_ok=format_ok,
            invalid_id=format_ok & ~known,
        )

    def _read(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """The ids in ``texts`` as numbers, ``[B, H + 2]``, and whether an item has them, ``[B]``."""
        item = np.array([self._item_of_text.get(text, -1) for text in texts], dtype=np.int64)  # [B]
        codes = self._codes[item]
        # Most answers are an id and nothing else, and need no search.
        for row in np.flatnonzero(item < 0).tolist():
            tokens = find_tokens(texts[row])
            codes[row] = self._codes_of(tokens)
            found = self._catalog.item_of(tokens)
            item[row] = -1 if found is None else found
        return codes, item >= 0

    def _codes_of(self, tokens: Sequence[str]) -> npt.NDArray[np.int64]:
        """Tokens as numbers, ``[H + 2]``."""
        codes = [self._code_of_token.get(token, _UNKNOWN) for token in tokens[: self.levels + 2]]
        return np.array(codes + [_NOTHING] * (self.levels + 2 - len(codes)), dtype=np.int64)
