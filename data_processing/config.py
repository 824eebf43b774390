"""The data recipe: one section per stage."""

from __future__ import annotations

from typing import Literal

from gream.config import Config
from pydantic import Field, NonNegativeInt, PositiveInt

from data_processing.interactions import InteractionsConfig
from data_processing.synthesize import SynthesizeConfig


class ExportConfig(Config):
    """Files in the published layout.

    Attributes:
        name: Of the data set, before ``.inter.json``; the run folder's name by default.
        tokens: Spelling of semantic ids: ``<|a_1|>`` in GREAM, ``<a_1>`` in LC-Rec and most others.
    """

    name: str | None = None
    tokens: Literal["<|a_1|>", "<a_1>"] = "<|a_1|>"


class EmbedConfig(Config):
    """Item embeddings.

    Attributes:
        dimensions: Length of an embedding; fewer where the catalogue's text does not support as many.
    """

    dimensions: PositiveInt = 64


class SemanticIdsConfig(Config):
    """Residual k-means.

    Attributes:
        levels: Tokens per id before disambiguation.
        codebook_size: Centroids per level; the paper uses 256.
        balanced: Clusters of equal size, as in the official implementation.
        collisions: What becomes of items with the same codes.
        restarts: k-means++ starts per level.
    """

    levels: PositiveInt = 4
    codebook_size: PositiveInt = 256
    balanced: bool = True
    collisions: Literal["disambiguate", "reassign"] = "reassign"
    restarts: PositiveInt = 4


class ModelConfig(Config):
    """The tiny Qwen3 that is made where no pretrained model is named.

    Attributes:
        vocabulary: Size of its byte-level BPE vocabulary, semantic ids not counted.
        hidden_size: Width.
        layers: Depth.
        heads: Attention heads.
        context: Longest sequence, in tokens.
    """

    vocabulary: PositiveInt = 2048
    hidden_size: PositiveInt = 128
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    context: PositiveInt = 1024


class SftConfig(Config):
    """Rows of supervised training.

    Attributes:
        history: Most recent items a prompt shows.
        next_item: Rows per training target.
        id_to_text: Rows per item, each by another template.
        text_to_id: Rows per item.
        fused_next: Rows per user.
        search: Rows per user.
        preference: Rows per user.
        reasoning_min_history: Shortest history that a chain may argue from.
        reasoning_rows: Reasoning rows to aim at: every example is written as often, each time in other words, as comes
            nearest to it, and at least once.
    """

    history: PositiveInt = 20
    next_item: NonNegativeInt = 1
    id_to_text: NonNegativeInt = 2
    text_to_id: NonNegativeInt = 2
    fused_next: NonNegativeInt = 1
    search: NonNegativeInt = 1
    preference: NonNegativeInt = 1
    reasoning_min_history: PositiveInt = 4
    reasoning_rows: NonNegativeInt = 0


class RlConfig(Config):
    """Prompts of SRPO.

    Attributes:
        min_history: Shortest history of a prompt; the paper's targets start at position 4.
        reserved: Share of users whose last training item SFT never sees; SRPO is trained on these targets alone, and
            so on nothing that the model has learned by heart. 0, as in the paper: on all targets, known to SFT.
        validation_users: Users whose validation item is a validation prompt; all where there are fewer.
    """

    min_history: PositiveInt = 4
    reserved: float = Field(default=0.0, ge=0.0, le=1.0)
    validation_users: PositiveInt = 200


class DataRecipe(Config):
    """Everything that determines the data of a run.

    Attributes:
        seed: Of every random choice in every stage.
    """

    seed: int = 42
    synthesize: SynthesizeConfig | None = None
    interactions: InteractionsConfig
    export: ExportConfig = ExportConfig()
    embed: EmbedConfig = EmbedConfig()
    semantic_ids: SemanticIdsConfig = SemanticIdsConfig()
    model: ModelConfig = ModelConfig()
    sft: SftConfig = SftConfig()
    rl: RlConfig = RlConfig()
