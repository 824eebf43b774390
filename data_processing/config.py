"""The data recipe: one section per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from gream.config import Config
from gream.templates import Task
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from .encoders import Kind
from .interactions import InteractionsConfig
from .synthesize import SynthesizeConfig


class TeacherConfig(Config):
    """A language model as teacher, where ``--base-url`` and ``--model`` name one.

    Attributes:
        concurrency: Requests in flight at once.
        timeout: Seconds that one request may take.
        retries: Further tries after a dropped connection, a timeout, status 408, 409, 425, 429 or 5xx but 501, or a cut
            body.
        backoff: Longest wait before the first further try, in seconds; it doubles from try to try, up to 60.
        temperature: Sampling temperature.
        max_tokens: Longest answer, in tokens.
        extra: Further fields of every request, such as ``top_p`` or ``chat_template_kwargs``.
        on_reject: What becomes of a text for which no usable answer came: the stage fails, or the template teacher
            writes it.
        prompt_price: Price of a million prompt tokens, in any currency; 0 where unknown.
        completion_price: Price of a million completion tokens.
    """

    concurrency: PositiveInt = 32
    timeout: PositiveFloat = 120.0
    retries: NonNegativeInt = 6
    backoff: PositiveFloat = 1.0
    temperature: NonNegativeFloat = 0.7
    max_tokens: PositiveInt = 512
    extra: dict[str, Any] = Field(default_factory=dict)
    on_reject: Literal["fail", "template"] = "fail"
    prompt_price: NonNegativeFloat = 0.0
    completion_price: NonNegativeFloat = 0.0

    def sampling(self) -> dict[str, Any]:
        """The fields of a request that shape its answer, besides model and messages."""
        return {"temperature": self.temperature, "max_tokens": self.max_tokens, **self.extra}


class ExportConfig(Config):
    """Files in the published layout.

    Attributes:
        name: Name of the data set, before ``.inter.json``; the run folder's name by default.
        tokens: Spelling of semantic ids: ``<|a_1|>`` in GREAM, ``<a_1>`` in LC-Rec and most others.
    """

    name: str | None = None
    tokens: Literal["<|a_1|>", "<a_1>"] = "<|a_1|>"


class EmbedConfig(Config):
    """Item embeddings.

    Attributes:
        encoder: What turns an item's text into a vector: latent semantic analysis, or a pretrained model.
        model: Folder of the pretrained model.
        dimensions: Length of an LSA embedding, and of the collaborative part; fewer where the catalogue does not
            support as many.
        batch_tokens: Tokens that a language model is given at once, padding included.
        collaborative: Share of an embedding's squared norm that comes from what items are bought together in training;
            0: text alone, 1: no text at all.
    """

    encoder: Kind = "lsa"
    model: Path | None = None
    dimensions: PositiveInt = 64
    batch_tokens: PositiveInt = 16_384
    collaborative: float = Field(default=0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _model_is_named(self) -> EmbedConfig:
        if (self.encoder == "lsa") != (self.model is None):
            needs = "no embed.model" if self.encoder == "lsa" else "the folder of one: embed.model=FOLDER"
            raise ValueError(f"encoder '{self.encoder}' needs {needs}")
        if self.model is not None and not self.reads_texts:
            raise ValueError("collaborative=1 reads no text; leave embed.encoder and embed.model out")
        return self

    @property
    def reads_texts(self) -> bool:
        """Whether the items' texts take part."""
        return self.collaborative < 1


class SemanticIdsConfig(Config):
    """Residual k-means.

    Attributes:
        levels: Tokens per id before disambiguation.
        codebook_size: Centroids per level; the paper uses 256.
        balanced: Clusters of equal size, as in the official implementation.
        collisions: How items with the same codes become unique: a further token, or another last code.
        restarts: k-means++ initialisations per level; the best is kept.
        fit_items: Most items that centroids are fitted to. From a larger catalogue that many are drawn, and all
            items are then assigned once: minutes instead of hours for a million items, at a slightly larger error.
        device: PyTorch device to fit on, such as ``cuda``; NumPy by default.
    """

    levels: PositiveInt = 4
    codebook_size: PositiveInt = 256
    balanced: bool = True
    collisions: Literal["disambiguate", "reassign"] = "reassign"
    restarts: PositiveInt = 4
    fit_items: PositiveInt = 65_536
    device: str | None = None


Initialisation = Literal["gaussian", "semantic", "centroid"]


class ModelConfig(Config):
    """The tiny Qwen3 that is made where no pretrained model is named.

    Attributes:
        vocabulary: Size of its byte-level BPE vocabulary, semantic ids not counted.
        hidden_size: Width of the hidden states.
        layers: Number of layers.
        heads: Attention heads per layer.
        context: Longest sequence, in tokens.
        initialisation: How the rows of new tokens start, also in a pretrained model: drawn from a Gaussian fitted to
            the old rows; ``semantic``, as the mean embedding of the words of the items that have the token; or
            ``centroid``, as what is left of that mean by the levels before (`gream.semantic_ids.extension`). By default
            ``semantic`` in a pretrained model, and ``gaussian`` in one whose words mean nothing yet.
    """

    vocabulary: PositiveInt = 2048
    hidden_size: PositiveInt = 128
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    context: PositiveInt = 1024
    initialisation: Initialisation | None = None

    def start(self, *, pretrained: bool) -> Initialisation:
        """How the rows of new tokens start in a model that is ``pretrained`` or made from nothing."""
        return self.initialisation or ("semantic" if pretrained else "gaussian")


class CurriculumConfig(Config):
    """The order of the reasoning stage's rows.

    Attributes:
        schedule: ``ramp``: the share of reasoning rows grows evenly from the first row to the last; ``official``: as in
            the official implementation, with 47 % of them in one block at the end; ``shuffled``: no order.
        tasks: Alignment tasks whose rows are mixed in; ``sequence`` for whole sequences.
        easy_first: Short histories before long ones.
        growth: Share of the reasoning rows, from the first one on, over which chains grow stage by stage.
        stages: Number of data sets that the order is cut into, to be trained on one after the other.
        batch: Rows of a training step. Within ten steps at a time, rows of about the same length come into one step, so
            that little is padded: a row with a chain is some three times as long as one without. 0: rows stay where the
            schedule puts them.
    """

    schedule: Literal["ramp", "official", "shuffled"] = "ramp"
    tasks: tuple[Task | Literal["sequence"], ...] = ("next_item",)
    easy_first: bool = True
    growth: float = Field(default=0.0, ge=0.0, lt=1.0)
    stages: PositiveInt = 1
    batch: NonNegativeInt = 0

    @model_validator(mode="after")
    def _shuffled_cannot_grow(self) -> CurriculumConfig:
        if self.schedule == "shuffled" and self.growth:
            raise ValueError("growth needs a schedule with an order: ramp or official")
        return self


class SftConfig(Config):
    """Rows of supervised training.

    Attributes:
        history: Items of a history that a prompt shows, the most recent ones.
        next_item: Task "history to next id": rows per training target, the first in the wording that evaluation uses.
            For each of the six tasks, 0 leaves it out, and 0.25 makes a row for every fourth target, item or user.
        id_to_text: Task "id to title, description, brand or category": rows per item, each by another template.
        text_to_id: Task "title or description to id": rows per item.
        fused_next: Task "history to the next item's text, or titles to the next id": rows per training target.
        search: Task "wish or profile to id": rows per user.
        preference: Task "history to what the user likes": rows per user.
        sequence: Whether there is a row per user whose loss covers every next item of the training sequence. Without
            ``next_item`` beside it, evaluation asks the model to continue the sequence.
        sequence_items: Most items of a sequence row; a longer sequence makes several rows.
        sequence_drop: Share of the items that are left out of a sequence row, others in each pass, so that an item is
            also learned from those two and three places before it.
        passes: Times that all alignment rows are written, each time in other words and another order. Train one epoch
            over the file then.
        alignment_rows: Passes end with the first that makes so many alignment rows; 0 writes all passes.
        batch: Rows of a training step. Alignment rows are ordered so that the rows of a step have about the same length
            and little is padded; long and short steps are mixed. Train with ``disable_shuffling`` then. 0: shuffled.
        reasoning_min_history: Fewest items of a history that a chain may argue from.
        chains: Who writes chains: the template teacher, or the language model that the stage ``chains`` asked.
        chain_targets: Targets that the stage ``chains`` asks about, drawn at random; 0 for all.
        longest_row: Tokens of a row; the ``cutoff_len`` of the SFT recipe. Longer item texts are shortened to fit, so
            that no row loses its question or its answer when it is cut there.
        longest_chain: Most semantic-id tokens, words and punctuation marks of a chain; longer ones are not taught.
        curriculum: See `CurriculumConfig`.
        reasoning_rows: Reasoning rows to aim at: every example is repeated in other words until their number is about
            this; 0 writes each once.
        refit: Rows of the validation items too, for a model that is trained anew for the test, with settings that
            validation chose before. Ids, embeddings and what is said of users stay those of the training part;
            ``search`` and ``preference``, which say it, must be 0.
    """

    history: PositiveInt = 20
    next_item: NonNegativeFloat = 1
    id_to_text: NonNegativeFloat = 2
    text_to_id: NonNegativeFloat = 2
    fused_next: NonNegativeFloat = 0.25
    search: NonNegativeFloat = 1
    preference: NonNegativeFloat = 1
    sequence: bool = False
    sequence_items: PositiveInt = 50
    sequence_drop: float = Field(default=0.0, ge=0.0, lt=1.0)
    passes: PositiveInt = 1
    alignment_rows: NonNegativeInt = 0
    batch: NonNegativeInt = 0
    reasoning_min_history: PositiveInt = 4
    reasoning_rows: NonNegativeInt = 0
    chains: Literal["template", "model"] = "template"
    chain_targets: NonNegativeInt = 0
    longest_row: PositiveInt = 2560
    longest_chain: PositiveInt = 400
    curriculum: CurriculumConfig = CurriculumConfig()
    refit: bool = False

    @model_validator(mode="after")
    def _refit_says_nothing_of_users(self) -> SftConfig:
        if self.refit and (self.search or self.preference):
            raise ValueError("refit needs search and preference at 0: their texts know nothing of validation items")
        return self


class RlConfig(Config):
    """Prompts of SRPO.

    Attributes:
        min_history: Fewest items of a prompt's history; the paper's targets start at position 4.
        reserved: Share of users whose last training item SFT never sees; SRPO is then trained on these targets alone.
            0, as in the paper: SRPO is trained on all targets, which SFT has seen.
        validation_users: Users whose validation item is a validation prompt; all where there are fewer.
    """

    min_history: PositiveInt = 4
    reserved: float = Field(default=0.0, ge=0.0, le=1.0)
    validation_users: PositiveInt = 200


class DataRecipe(Config):
    """Everything that determines the data of a run.

    Attributes:
        seed: Seed of every random choice in every stage.
    """

    seed: int = 42
    synthesize: SynthesizeConfig | None = None
    interactions: InteractionsConfig
    teacher: TeacherConfig = TeacherConfig()
    export: ExportConfig = ExportConfig()
    embed: EmbedConfig = EmbedConfig()
    semantic_ids: SemanticIdsConfig = SemanticIdsConfig()
    model: ModelConfig = ModelConfig()
    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
