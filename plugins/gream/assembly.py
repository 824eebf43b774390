"""Assembly: compact task records to token ids and labels, without tokenizing each row's text.

A row is a string of pieces that are tokenized once each: what stands between the slots of a wording, semantic ids, and
free texts. Semantic ids and chat markers are added tokens, which a tokenizer cuts a text at before anything else, so
the text between two of them can be tokenized alone. A free text can merge with what touches it; it is tokenized
together with the wording's characters up to the next place that is a border for sure: before an added token, or before
a space that follows something else than white space, since no pre-token of a byte-level tokenizer holds a space after
its first character. The ids are therefore exactly those of the rendered string.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import Any

import numpy as np
import numpy.typing as npt

from gream.dialogue import SYSTEM_PROMPT, render_prompt, sequence_messages
from gream.errors import GreamError
from gream.tasks import TITLE_SEPARATOR, TITLES, USER_TEXTS, Material, Record, render_record, template_of

IGNORE = -100

_END = "<|im_end|>\n"
_BORDER = re.compile(r"(?<=\S)(?= )|(?=<\|im_(?:start|end)\|>)")
# Rows that are also tokenized as strings, to be sure that the tokenizer is of the kind described above.
_CHECKED = 64
# Texts tokenized at once; what a tokenizer returns for each takes far more memory than its ids.
_TEXTS = 512


@dataclass(frozen=True)
class Assembled:
    """Token ids of rows, one after the other.

    Attributes:
        tokens: int32 ``[T]``.
        starts: int64 ``[N + 1]``; row n is ``tokens[starts[n]:starts[n + 1]]``.
        answers: int64 ``[N]``, tokens of each row before its answer; they bear no loss.
    """

    tokens: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    answers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.answers)

    def row(self, number: int) -> tuple[list[int], list[int]]:
        """Token ids and labels of one row; `IGNORE` where there is no loss."""
        tokens = self.tokens[self.starts[number] : self.starts[number + 1]].tolist()
        prompt = int(self.answers[number])
        return tokens, [IGNORE] * prompt + tokens[prompt:]

    def labels(self) -> npt.NDArray[np.int32]:
        """Labels of all rows, int32 ``[T]``."""
        lengths = np.diff(self.starts)
        position = np.arange(len(self.tokens)) - np.repeat(self.starts[:-1], lengths)
        return np.where(position < np.repeat(self.answers, lengths), np.int32(IGNORE), self.tokens)

    def cut(self, length: int) -> Assembled:
        """Rows of at most ``length`` tokens, cut as LLaMA-Factory 0.9.5 cuts them (``infer_seqlen``).

        Where the answer is short, the end of the prompt goes; where the prompt is, that of the answer; else both.
        """
        sizes = np.diff(self.starts)
        if not (sizes > length).any():
            return self
        prompt, answer = self.answers, sizes - self.answers
        share = (length * (answer / sizes)).astype(np.int64)
        most = np.where(2 * answer < length, length, np.where(2 * prompt < length, length - prompt, share))
        answer = np.minimum(most, answer)
        shorter = np.minimum(np.maximum(length - answer, 0), prompt)
        position = np.arange(len(self.tokens)) - np.repeat(self.starts[:-1], sizes)
        into = position - np.repeat(prompt, sizes)
        kept = np.where(into < 0, position < np.repeat(shorter, sizes), into < np.repeat(answer, sizes))
        return Assembled(self.tokens[kept], np.concatenate([[0], np.cumsum(shorter + answer)]), shorter)


# One part of a compiled wording: the number of a constant piece; the name of a slot of ids; or a free text with the
# characters that are tokenized with it.
_Part = int | str | tuple[str, str, str]


class Assembler:
    """Token ids of records over one tokenizer and one catalogue. What it has tokenized, it keeps."""

    def __init__(self, tokenizer: Any, material: Material) -> None:
        """Take the pieces that every row may need.

        Args:
            tokenizer: A transformers tokenizer that knows the catalogue's tokens.
            material: What the records' numbers mean.

        Raises:
            GreamError: A semantic id or a chat marker is not made of added tokens.
        """
        self._tokenizer = tokenizer
        self._material = material
        self._number: dict[str, int] = {}  # of the piece with this text
        self._waiting: list[str] = []  # texts of pieces that are not tokenized yet, the last ones
        self._tokens = array("i")  # of all pieces, one after the other
        self._ends = array("q", [0])  # where each piece ends among them, after a 0
        added = set(tokenizer.get_added_vocab().values())
        ids = tokenizer(list(material.ids), add_special_tokens=False)["input_ids"]
        markers = tokenizer("<|im_start|><|im_end|>", add_special_tokens=False)["input_ids"]
        if len(markers) != 2 or not added.issuperset(markers) or not all(map(added.issuperset, ids)):
            raise GreamError(
                "the tokenizer lacks chat markers or semantic ids of this catalogue as added tokens; "
                "use the model folder of this run"
            )
        self._space = self._piece(" ")
        self._tokenize_waiting()
        self._first_item = len(self._ends) - 1
        self._keep(ids)
        self._compiled = cache(self._compile)

    def assemble(self, records: Sequence[Record]) -> Assembled:
        """Token ids of ``records``, in their order.

        Raises:
            GreamError: A record is not sound (see `gream.tasks.render_record`), or the tokenizer is not of the kind
                whose ids can be assembled.
        """
        parts: list[int] = []
        row_starts, answer_starts = [0], []
        for record in records:
            try:
                question, answer = self._row(record)
            except (KeyError, IndexError):
                render_record(record, self._material)  # says what is wrong with it
                raise
            parts += question
            answer_starts.append(len(parts))
            parts += answer
            row_starts.append(len(parts))
        self._tokenize_waiting()
        assembled = self._gather(np.array(parts, dtype=np.int64), np.array(row_starts), np.array(answer_starts))
        for number in range(0, len(records), max(1, len(records) // _CHECKED)):
            if assembled.row(number) != self.tokenize(records[number]):
                raise GreamError("the tokenizer merges across spaces; ids can be assembled for byte-level BPE alone")
        return assembled

    def tokenize(self, record: Record) -> tuple[list[int], list[int]]:
        """Token ids and labels of one record by rendering it and tokenizing the string: what `assemble` must equal."""
        *prompt, answer = render_record(record, self._material)
        question: list[int] = self._tokenizer(render_prompt(prompt), add_special_tokens=False)["input_ids"]
        target: list[int] = self._tokenizer(answer["content"] + _END, add_special_tokens=False)["input_ids"]
        return question + target, [IGNORE] * len(question) + target

    def _row(self, record: Record) -> tuple[list[int], list[int]]:
        """Numbers of the pieces of a row's prompt and of its answer."""
        history = record["history"]
        if record["task"] == "sequence":
            if not history or min(history) < 0:
                raise IndexError
            question, _ = sequence_messages(())
            ids = [self._first_item + item for item in history]
            return [self._piece(render_prompt([question]))], [*ids, self._piece(_END)]
        before, after = self._compiled(record["task"], record["template"])
        return self._fill(before, record), self._fill(after, record)

    def _fill(self, parts: tuple[_Part, ...], record: Record) -> list[int]:
        numbers: list[int] = []
        for part in parts:
            if isinstance(part, int):
                numbers.append(part)
            elif isinstance(part, str):
                numbers += self._ids(part, record)
            else:
                numbers += self._texts(*part, record)
        return numbers

    def _ids(self, slot: str, record: Record) -> list[int]:
        if slot == "item":
            if not 0 <= record["item"] < len(self._material.ids):
                raise IndexError
            return [self._first_item + record["item"]]
        history = record["history"]
        if not history or min(history) < 0 or max(history) >= len(self._material.ids):
            raise IndexError
        numbers = [self._space] * (2 * len(history) - 1)
        numbers[::2] = [self._first_item + item for item in history]
        return numbers

    def _texts(self, before: str, slot: str, after: str, record: Record) -> list[int]:
        if slot == "titles":
            titles = [self._material.items[item]["title"] for item in record["history"][-TITLES:]]
            if not any(titles):
                raise KeyError(slot)
            separator, space = TITLE_SEPARATOR[:-1], TITLE_SEPARATOR[-1]
            lead = [before, *[space] * (len(titles) - 1)]
            trail = [*[separator] * (len(titles) - 1), after]
            return [self._piece(a + title + b) for a, title, b in zip(lead, titles, trail, strict=True)]
        user = record["user"]
        text = (self._material.users[user] if slot in USER_TEXTS else self._material.items[record["item"]])[slot]
        if not text.strip():
            raise KeyError(slot)
        return [self._piece(before + text + after)]

    def _compile(self, task: str, template: int) -> tuple[tuple[_Part, ...], tuple[_Part, ...]]:
        wording = template_of(task, template)
        prompt = render_prompt(
            [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": wording.question}]
        )
        return tuple(self._parts(prompt)), tuple(self._parts(wording.answer + _END))

    def _parts(self, text: str) -> Iterator[_Part]:
        waiting: tuple[str, str] | None = None  # the characters before a free text, and its slot
        for literal, slot, _, _ in Formatter().parse(text):
            borders = [match.start() for match in _BORDER.finditer(literal)]
            if waiting is not None:
                free = slot is not None and slot not in _ID_SLOTS
                if free and not borders:
                    raise GreamError(f"two free texts without a space between their words in '{text}'")
                end = borders[0] if borders else len(literal)
                yield (*waiting, literal[:end])
                literal, borders = literal[end:], [border - end for border in borders]
                waiting = None
            if slot is None or slot in _ID_SLOTS:
                if literal:
                    yield self._piece(literal)
                if slot is not None:
                    yield slot
            else:
                start = borders[-1] if borders else 0
                if literal[:start]:
                    yield self._piece(literal[:start])
                waiting = (literal[start:], slot)
        if waiting is not None:
            yield (*waiting, "")

    def _piece(self, text: str) -> int:
        """Number of the piece with this text; it is tokenized before the next gathering."""
        number = self._number.get(text)
        if number is None:
            number = self._number[text] = len(self._ends) - 1 + len(self._waiting)
            self._waiting.append(text)
        return number

    def _tokenize_waiting(self) -> None:
        for start in range(0, len(self._waiting), _TEXTS):
            # Without the offsets and masks that the tokenizer itself would return: half of the time.
            texts = self._waiting[start : start + _TEXTS]
            made = self._tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            self._keep(one.ids for one in made)
        self._waiting.clear()

    def _keep(self, pieces: Iterable[Sequence[int]]) -> None:
        for tokens in pieces:
            self._tokens.extend(tokens)
            self._ends.append(len(self._tokens))

    def _gather(
        self, parts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], answers: npt.NDArray[np.int64]
    ) -> Assembled:
        flat, edges = np.frombuffer(self._tokens, dtype=np.int32), np.frombuffer(self._ends, dtype=np.int64)
        offsets = edges[parts]
        lengths = edges[parts + 1] - offsets
        ends = np.concatenate([[0], np.cumsum(lengths)])
        # Token t of part p stands at offsets[p] + t among those of all pieces.
        source = np.repeat(offsets - ends[:-1], lengths) + np.arange(ends[-1])
        starts = ends[rows]
        return Assembled(flat[source], starts, ends[answers] - starts[:-1])


_ID_SLOTS = frozenset({"item", "history"})
