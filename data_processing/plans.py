"""What each stage reads, writes and depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gream.config import Config
from gream.errors import GreamError
from gream.stage import Summary

from .config import DataRecipe

if TYPE_CHECKING:
    from .teacher.client import Endpoint


class Stage(StrEnum):
    """The stages, in the order in which data flows."""

    synthesize = "synthesize"
    interactions = "interactions"
    items = "items"
    export = "export"
    enrich = "enrich"
    chains = "chains"
    embed = "embed"
    semantic_ids = "semantic-ids"
    quality = "quality"
    sft = "sft"
    rl = "rl"
    model = "model"


@dataclass(frozen=True)
class Plan:
    """How a stage is to be run.

    Attributes:
        code: The function that makes the outputs; what it imports is part of the stage.
        config: The part of the recipe that determines the outputs.
        inputs: Paths read, by role.
        outputs: Paths written, relative to the run folder.
        build: Writes the outputs under the folder it is given.
        resumes: ``build`` goes on with what a killed one left in that folder.
    """

    code: Callable[..., Any]
    config: dict[str, Any]
    inputs: dict[str, Path]
    outputs: list[str]
    build: Callable[[Path], Summary | None]
    resumes: bool = False


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        recipe: The whole recipe; each stage depends on a part of it.
        run: Run folder.
        reviews: Of the stage ``interactions``.
        metadata: Of the stages ``interactions`` and ``items``.
        base: Pretrained model folder for the stage ``model``, if any.
        endpoint: Language model that teaches, if any.
        previous: Earlier run whose items keep their ids, if any.
        ray: Address of the cluster that encodes, if any.
        ids: Ids of others, to be measured, if any.
    """

    recipe: DataRecipe
    run: Path
    reviews: Path
    metadata: Path
    base: Path | None
    endpoint: Endpoint | None
    previous: Path | None
    ray: str | None
    ids: Path | None

    @property
    def interactions(self) -> Path:
        """Sequences and their split."""
        return self.run / "interactions.parquet"

    @property
    def interactions_if_any(self) -> Path | None:
        """The same; None in a run of items alone."""
        return self.interactions if self.interactions.exists() or not self.items.exists() else None

    @property
    def items(self) -> Path:
        """Items and their texts."""
        return self.run / "items.parquet"

    @property
    def enriched(self) -> Path:
        """What a teacher says about each item."""
        return self.run / "enriched.jsonl"

    @property
    def index(self) -> Path:
        """Semantic ids."""
        return self.run / "index.json"


def plan(stage: Stage, request: Request) -> Plan:
    """How ``stage`` is to be run.

    Modules are imported by the stage that needs them, as some take seconds.

    Raises:
        GreamError: The recipe or the command line lacks what the stage needs.
    """
    return _PLANS[stage](request)


def _synthesize(request: Request) -> Plan:
    from .synthesize import synthesize

    settings = request.recipe.synthesize
    if settings is None:
        raise GreamError("the recipe has no section 'synthesize'; pass --reviews and --metadata to 'interactions'")
    return Plan(
        synthesize,
        {"synthesize": _settings(settings)},
        {},
        ["raw/reviews.json.gz", "raw/meta.json.gz"],
        lambda out: synthesize(settings, out),
    )


def _interactions(request: Request) -> Plan:
    from .import_published import import_published
    from .interactions import build_interactions

    settings, seed = request.recipe.interactions, request.recipe.seed
    published = settings.format == "published"
    tables = ["interactions.parquet", "users.parquet", "items.parquet", "reviews.parquet"]
    return Plan(
        import_published if published else build_interactions,
        {"interactions": _settings(settings)} | ({"seed": seed} if settings.ties == "random" else {}),
        {"reviews": request.reviews, "metadata": request.metadata},
        [*tables, "statistics.json", "statistics.md"],
        (lambda out: import_published(settings, request.reviews, request.metadata, out))
        if published
        else (lambda out: build_interactions(settings, request.reviews, request.metadata, out, seed=seed)),
    )


def _items(request: Request) -> Plan:
    from .catalogue import build_items

    if request.interactions.exists():
        raise GreamError(f"{request.run}: has interactions, and with them its items; take another run folder")
    settings = request.recipe.interactions
    read = settings.model_dump(mode="json", include={"format", "columns", "on_bad_row"})
    return Plan(
        build_items,
        {"interactions": read},
        {"metadata": request.metadata},
        ["items.parquet"],
        lambda out: build_items(settings, request.metadata, out),
    )


def _export(request: Request) -> Plan:
    from .export import export

    settings = request.recipe.export
    name, tokens = settings.name or request.run.resolve().name, settings.tokens
    # A run may be exported before it has ids.
    ids = request.index if request.index.exists() else None
    return Plan(
        export,
        {"name": name, "tokens": tokens},
        {"interactions": request.interactions, "items": request.items} | ({"ids": ids} if ids else {}),
        ["published"],
        lambda out: export(
            name,
            bars=tokens == "<|a_1|>",
            interactions=request.interactions,
            items=request.items,
            index=ids,
            out=out,
        ),
    )


def _enrich(request: Request) -> Plan:
    recipe, endpoint = request.recipe, request.endpoint
    outputs = ["enriched.jsonl", "preferences.jsonl"]
    config = {"seed": recipe.seed, "rl": _settings(recipe.rl)}
    if endpoint is None:
        from .teacher.enrich import enrich

        interactions = request.interactions_if_any
        return Plan(
            enrich,
            config,
            {"items": request.items} | ({"interactions": interactions} if interactions else {}),
            outputs,
            lambda out: enrich(recipe.rl, recipe.seed, interactions, request.items, out),
        )

    from .teacher.enrich_model import enrich_with_model
    from .teacher.prompts import wording

    reviews = request.run / "reviews.parquet"
    return Plan(
        enrich_with_model,
        {**config, "teacher": _teacher(recipe, endpoint, wording())},
        {"interactions": request.interactions, "items": request.items, "reviews": reviews},
        outputs,
        lambda out: enrich_with_model(
            recipe.teacher,
            endpoint,
            recipe.rl,
            recipe.seed,
            interactions=request.interactions,
            items=request.items,
            reviews=reviews,
            folder=request.run / "teacher",
            out=out,
        ),
    )


def _chains(request: Request) -> Plan:
    from .teacher.chain_model import write_chains
    from .teacher.chain_prompts import wording

    recipe, endpoint = request.recipe, request.endpoint
    if endpoint is None:
        raise GreamError("'chains' asks a language model: pass --base-url and --model, or leave the stage out")
    return Plan(
        write_chains,
        {
            "seed": recipe.seed,
            "rl": _settings(recipe.rl),
            "sft": recipe.sft.model_dump(
                mode="json", include={"history", "reasoning_min_history", "chain_targets", "longest_chain"}
            ),
            "teacher": _teacher(recipe, endpoint, wording()),
        },
        {"interactions": request.interactions, "items": request.items},
        ["chains.jsonl"],
        lambda out: write_chains(
            recipe.teacher,
            endpoint,
            recipe.sft,
            recipe.rl,
            recipe.seed,
            interactions=request.interactions,
            items=request.items,
            folder=request.run / "teacher" / "chains",
            out=out,
        ),
    )


def _embed(request: Request) -> Plan:
    from .embed import embed, encoder_files, model_folder

    recipe, settings, previous = request.recipe, request.recipe.embed, request.previous
    files, folder = encoder_files(settings), model_folder(settings)
    # The model goes by its name here and by its content below; batches make no other vectors.
    wanted = settings.model_dump(mode="json", exclude={"model", "batch_tokens"})
    wanted["model"] = folder.resolve().name if folder else None
    # A collaborative part must not know what SRPO is to find out.
    unknown = {"rl": _settings(recipe.rl)} if settings.collaborative else {}
    inputs = {"items": request.items, "enriched": request.enriched}
    if folder:
        inputs["model"] = folder
    if settings.collaborative:
        inputs["interactions"] = request.interactions
    if previous:
        inputs |= {f"previous/{name}": previous / name for name in files}
    return Plan(
        embed,
        {"seed": recipe.seed, "embed": wanted, **unknown},
        inputs,
        ["embeddings.safetensors", *files],
        lambda out: embed(
            settings,
            recipe.rl,
            recipe.seed,
            items=request.items,
            enriched=request.enriched,
            interactions=request.interactions,
            previous=previous,
            ray=request.ray,
            out=out,
        ),
        resumes=True,
    )


def _semantic_ids(request: Request) -> Plan:
    from .semantic_ids import build_semantic_ids

    recipe, previous, interactions = request.recipe, request.previous, request.interactions_if_any
    embeddings = request.run / "embeddings.safetensors"
    inputs = {"embeddings": embeddings, "items": request.items}
    if interactions:
        inputs["interactions"] = interactions
    if previous:
        inputs |= {
            f"previous/{name}": previous / name for name in ("codebook.safetensors", "index.json", "items.parquet")
        }
    return Plan(
        build_semantic_ids,
        {"seed": recipe.seed, "semantic_ids": _settings(recipe.semantic_ids)},
        inputs,
        ["codebook.safetensors", "index.json", "quality.json", "quality.html"],
        lambda out: build_semantic_ids(
            recipe.semantic_ids, recipe.seed, embeddings, request.items, interactions, previous, out
        ),
    )


def _quality(request: Request) -> Plan:
    from .quality import build_quality

    # A run may hold nothing that belongs to the ids of others.
    index = request.ids or request.index
    own = {
        "items": request.items,
        "interactions": request.interactions,
        "embeddings": request.run / "embeddings.safetensors",
    }
    there = {name: path for name, path in own.items() if path.exists()}
    return Plan(
        build_quality,
        {},
        {"ids": index, **there},
        ["index_quality.json", "index_quality.html"],
        lambda out: build_quality(index, there.get("items"), there.get("interactions"), there.get("embeddings"), out),
    )


def _sft(request: Request) -> Plan:
    from .rows.sft import build_sft

    recipe, preferences = request.recipe, request.run / "preferences.jsonl"
    chains = request.run / "chains.jsonl" if recipe.sft.chains == "model" else None
    inputs = {
        "interactions": request.interactions,
        "items": request.items,
        "enriched": request.enriched,
        "preferences": preferences,
        "ids": request.index,
    }
    return Plan(
        build_sft,
        {"seed": recipe.seed, "sft": _settings(recipe.sft), "rl": _settings(recipe.rl)},
        inputs | ({"chains": chains} if chains else {}),
        ["sft"],
        lambda out: build_sft(
            recipe.sft,
            recipe.rl,
            recipe.seed,
            interactions=request.interactions,
            items=request.items,
            enriched=request.enriched,
            preferences=preferences,
            index=request.index,
            chains=chains,
            out=out,
        ),
    )


def _rl(request: Request) -> Plan:
    from .rows.rl import build_rl

    recipe = request.recipe
    return Plan(
        build_rl,
        {"seed": recipe.seed, "rl": _settings(recipe.rl), "history": recipe.sft.history},
        {"interactions": request.interactions, "ids": request.index},
        ["rl"],
        lambda out: build_rl(recipe.rl, recipe.sft.history, recipe.seed, request.interactions, request.index, out),
    )


def _model(request: Request) -> Plan:
    from .model import build_model, form_of
    from .pretrained.base import open_base

    recipe, base, sft = request.recipe, open_base(request.base) if request.base else None, request.run / "sft"
    start = {"initialisation": recipe.model.start(pretrained=base is not None)}
    shape = ({"base": base.folder.name} if base else _settings(recipe.model)) | start
    inputs = {"ids": request.index, "items": request.items, "enriched": request.enriched, "sft": sft}
    return Plan(
        build_model,
        {"seed": recipe.seed, "model": shape, "history": recipe.sft.history, "form": form_of(recipe.sft).value},
        inputs | ({"base": base.folder} if base else {}),
        ["model"],
        lambda out: build_model(
            recipe.model,
            recipe.sft,
            recipe.seed,
            base=base,
            index=request.index,
            items=request.items,
            enriched=request.enriched,
            sft=sft,
            out=out,
        ),
    )


def _settings(config: Config) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _teacher(recipe: DataRecipe, endpoint: Endpoint, wording: Any) -> dict[str, Any]:
    # Where and how fast it is asked makes no other text.
    return {
        "model": endpoint.model,
        "prompts": wording,
        "on_reject": recipe.teacher.on_reject,
        "sampling": recipe.teacher.sampling(),
    }


_PLANS: Mapping[Stage, Callable[[Request], Plan]] = {
    Stage.synthesize: _synthesize,
    Stage.interactions: _interactions,
    Stage.items: _items,
    Stage.export: _export,
    Stage.enrich: _enrich,
    Stage.chains: _chains,
    Stage.embed: _embed,
    Stage.semantic_ids: _semantic_ids,
    Stage.quality: _quality,
    Stage.sft: _sft,
    Stage.rl: _rl,
    Stage.model: _model,
}
