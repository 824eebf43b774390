"""``python -m data_processing STAGE --config RECIPE --run FOLDER``: run one stage, or find it up to date."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from gream.config import load_config
from gream.errors import GreamError, exit_with_error_line
from gream.stage import run_stage

from data_processing.config import DataRecipe
from data_processing.encoders import ranks

if TYPE_CHECKING:
    from data_processing.chat_client import Endpoint


class Stage(StrEnum):
    """The stages, in the order in which data flows."""

    synthesize = "synthesize"
    interactions = "interactions"
    export = "export"
    enrich = "enrich"
    chains = "chains"
    embed = "embed"
    semantic_ids = "semantic-ids"
    sft = "sft"
    rl = "rl"
    model = "model"


@dataclass(frozen=True)
class Plan:
    """What a stage reads, writes and depends on.

    Attributes:
        config: The part of the recipe that determines the outputs.
        inputs: Paths read.
        outputs: Paths written, relative to the run folder.
        build: Writes the outputs under the folder it is given.
        resumes: ``build`` goes on with what a killed one left in that folder.
    """

    config: dict[str, Any]
    inputs: list[Path]
    outputs: list[str]
    build: Callable[[Path], None]
    resumes: bool = False


def plan(
    stage: Stage,
    recipe: DataRecipe,
    run: Path,
    reviews: Path,
    metadata: Path,
    base: Path | None,
    endpoint: Endpoint | None,
    previous: Path | None,
    ray: str | None,
) -> Plan:
    """How ``stage`` is to be run in the folder ``run``.

    Raises:
        GreamError: The recipe lacks what the stage needs.
    """
    seed = recipe.seed
    interactions, items, index = run / "interactions.parquet", run / "items.parquet", run / "index.json"
    enriched, preferences, embeddings = (
        run / "enriched.jsonl",
        run / "preferences.jsonl",
        run / "embeddings.safetensors",
    )

    if stage is Stage.synthesize:
        from data_processing.synthesize import synthesize

        settings = recipe.synthesize
        if settings is None:
            raise GreamError("the recipe has no section 'synthesize'; pass --reviews and --metadata to 'interactions'")
        return Plan(
            {"synthesize": settings.model_dump(mode="json")},
            [],
            ["raw/reviews.json.gz", "raw/meta.json.gz"],
            lambda out: synthesize(settings, out),
        )
    if stage is Stage.interactions:
        from data_processing.interactions import build_interactions

        return Plan(
            {"interactions": recipe.interactions.model_dump(mode="json")},
            [reviews, metadata],
            [
                "interactions.parquet",
                "users.parquet",
                "items.parquet",
                "reviews.parquet",
                "statistics.json",
                "statistics.md",
            ],
            lambda out: build_interactions(recipe.interactions, reviews, metadata, out),
        )
    if stage is Stage.export:
        from data_processing.published import export

        name, tokens = recipe.export.name or run.resolve().name, recipe.export.tokens
        # A run may be exported before it has ids.
        ids = index if index.exists() else None
        return Plan(
            {"name": name, "tokens": tokens},
            [interactions, items, *([ids] if ids else [])],
            ["published"],
            lambda out: export(
                name, bars=tokens == "<|a_1|>", interactions=interactions, items=items, index=ids, out=out
            ),
        )
    if stage is Stage.enrich and endpoint is not None:
        from data_processing.model_teacher import enrich_with_model
        from data_processing.prompts import wording

        teacher = recipe.teacher
        return Plan(
            {
                "seed": seed,
                "rl": recipe.rl.model_dump(mode="json"),
                # Where and how fast it is asked makes no other text.
                "teacher": {
                    "model": endpoint.model,
                    "prompts": wording(),
                    "on_reject": teacher.on_reject,
                    "sampling": teacher.sampling(),
                },
            },
            [interactions, items, run / "reviews.parquet"],
            ["enriched.jsonl", "preferences.jsonl"],
            lambda out: enrich_with_model(
                teacher,
                endpoint,
                recipe.rl,
                seed,
                interactions=interactions,
                items=items,
                reviews=run / "reviews.parquet",
                folder=run / "teacher",
                out=out,
            ),
        )
    if stage is Stage.chains:
        from data_processing.chain_prompts import wording as chain_wording
        from data_processing.chain_teacher import write_chains

        if endpoint is None:
            raise GreamError("'chains' asks a language model: pass --base-url and --model, or leave the stage out")
        asked = endpoint
        return Plan(
            {
                "seed": seed,
                "rl": recipe.rl.model_dump(mode="json"),
                "sft": recipe.sft.model_dump(
                    mode="json", include={"history", "reasoning_min_history", "chain_targets", "longest_chain"}
                ),
                "teacher": {
                    "model": asked.model,
                    "prompts": chain_wording(),
                    "on_reject": recipe.teacher.on_reject,
                    "sampling": recipe.teacher.sampling(),
                },
            },
            [interactions, items],
            ["chains.jsonl"],
            lambda out: write_chains(
                recipe.teacher,
                asked,
                recipe.sft,
                recipe.rl,
                seed,
                interactions=interactions,
                items=items,
                folder=run / "teacher" / "chains",
                out=out,
            ),
        )
    if stage is Stage.enrich:
        from data_processing.enrich import enrich

        return Plan(
            {"seed": seed, "rl": recipe.rl.model_dump(mode="json")},
            [interactions, items],
            ["enriched.jsonl", "preferences.jsonl"],
            lambda out: enrich(recipe.rl, seed, interactions, items, out),
        )
    if stage is Stage.embed:
        from data_processing.embed import embed, encoder_files, model_folder

        how, files, folder = recipe.embed, encoder_files(recipe.embed), model_folder(recipe.embed)
        # The model goes by its name here and by its content below; batches make no other vectors.
        wanted = how.model_dump(mode="json", exclude={"model", "batch_tokens"})
        wanted["model"] = folder.resolve().name if folder else None
        # A collaborative part must not know what SRPO is to find out.
        unknown = {"rl": recipe.rl.model_dump(mode="json")} if how.collaborative else {}
        return Plan(
            {"seed": seed, "embed": wanted, **unknown},
            [
                items,
                enriched,
                *([folder] if folder else []),
                *([interactions] if how.collaborative else []),
                *([previous / name for name in files] if previous else []),
            ],
            ["embeddings.safetensors", *files],
            lambda out: embed(
                how,
                recipe.rl,
                seed,
                items=items,
                enriched=enriched,
                interactions=interactions,
                previous=previous,
                ray=ray,
                out=out,
            ),
            resumes=True,
        )
    if stage is Stage.semantic_ids:
        from data_processing.semantic_ids import build_semantic_ids

        kept = [previous / name for name in ("codebook.safetensors", "index.json", "items.parquet")] if previous else []
        return Plan(
            {"seed": seed, "semantic_ids": recipe.semantic_ids.model_dump(mode="json")},
            [embeddings, items, interactions, *kept],
            ["codebook.safetensors", "index.json", "quality.json", "quality.html"],
            lambda out: build_semantic_ids(recipe.semantic_ids, seed, embeddings, items, interactions, previous, out),
        )
    if stage is Stage.sft:
        from data_processing.sft import build_sft

        chains = run / "chains.jsonl" if recipe.sft.chains == "model" else None
        return Plan(
            {"seed": seed, "sft": recipe.sft.model_dump(mode="json"), "rl": recipe.rl.model_dump(mode="json")},
            [interactions, items, enriched, preferences, index, *([chains] if chains else [])],
            ["sft"],
            lambda out: build_sft(
                recipe.sft,
                recipe.rl,
                seed,
                interactions=interactions,
                items=items,
                enriched=enriched,
                preferences=preferences,
                index=index,
                chains=chains,
                out=out,
            ),
        )
    if stage is Stage.rl:
        from data_processing.rl import build_rl

        return Plan(
            {"seed": seed, "rl": recipe.rl.model_dump(mode="json"), "history": recipe.sft.history},
            [interactions, index],
            ["rl"],
            lambda out: build_rl(recipe.rl, recipe.sft.history, seed, interactions, index, out),
        )
    from data_processing.model import build_model

    return Plan(
        {
            "seed": seed,
            "model": base.name if base else recipe.model.model_dump(mode="json"),
            "initialisation": recipe.model.initialisation,
        },
        [index, items, enriched, run / "sft", *([base] if base else [])],
        ["model"],
        lambda out: build_model(
            recipe.model,
            seed,
            base=base,
            index=index,
            items=items,
            enriched=enriched,
            sft=run / "sft",
            out=out,
        ),
    )


def main(
    stage: Annotated[Stage, typer.Argument(help="Stage to run.")],
    config: Annotated[Path, typer.Option(help="Data recipe, e.g. recipes/data/quickstart.yaml.")],
    run: Annotated[Path, typer.Option(help="Run folder, e.g. runs/quickstart.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value, wins over the recipe.")] = None,
    reviews: Annotated[
        Path | None,
        typer.Option(help="Reviews, ratings or NAME.inter.json for 'interactions'; the synthetic dump by default."),
    ] = None,
    metadata: Annotated[
        Path | None,
        typer.Option(help="Metadata, movies or NAME.item.json for 'interactions'; the synthetic dump by default."),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="Pretrained model folder for 'model'; a tiny Qwen3 is made by default."),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            help="OpenAI-compatible endpoint that teaches in 'enrich' or 'chains', e.g. http://localhost:8000/v1."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model at --base-url.")] = None,
    previous: Annotated[
        Path | None,
        typer.Option(help="Earlier run for 'embed' and 'semantic-ids': its items keep their ids."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(help="Ray cluster whose machines encode in 'embed': its address, 'auto' or 'local'."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace outputs made with another configuration.")] = False,
) -> None:
    """Run one stage of data processing."""
    recipe = load_config(DataRecipe, config, overrides or ())
    if stage is Stage.embed and ranks.rank() > 0:
        ranks.work_along()
        return
    endpoint = None
    if base_url is not None and model is not None and stage in (Stage.enrich, Stage.chains):
        from data_processing.chat_client import Endpoint

        endpoint = Endpoint.parse(base_url, model, os.environ)
    elif (base_url, model) != (None, None):
        raise GreamError("--base-url and --model go together, and with the stages 'enrich' and 'chains' alone")
    todo = plan(
        stage,
        recipe,
        run,
        reviews or run / "raw" / "reviews.json.gz",
        metadata or run / "raw" / "meta.json.gz",
        base,
        endpoint,
        previous,
        ray,
    )
    result = run_stage(
        run,
        stage.value,
        config=todo.config,
        inputs=todo.inputs,
        outputs=todo.outputs,
        build=todo.build,
        overwrite=overwrite,
        keep_partial=todo.resumes,
    )
    if stage is Stage.embed:
        ranks.dismiss()
    print(result, flush=True)


if __name__ == "__main__":
    exit_with_error_line(lambda: typer.run(main))
