"""``python -m data_processing STAGE --config RECIPE --run FOLDER``: run one stage, or find it up to date."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from gream.config import load_config
from gream.errors import GreamError, exit_with_error_line
from gream.options import KeepOption, OverwriteOption, RunOption
from gream.processes import rank
from gream.provenance import code_of
from gream.recipes import find_recipe
from gream.stage import run_stage

from .config import DataRecipe
from .encoders.ranks import dismiss, work_along
from .plans import Request, Stage, plan

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)


@app.command()
def main(
    stage: Annotated[Stage, typer.Argument(help="Stage to run, in the order in which data flows.")],
    config: Annotated[
        Path, typer.Option(help="Data recipe: its path, or the name of one that comes along, e.g. quickstart.")
    ],
    run: RunOption,
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
    index: Annotated[
        Path | None, typer.Option(help="Ids that others published, for 'quality'; the run's own index.json by default.")
    ] = None,
    overwrite: OverwriteOption = False,
    keep: KeepOption = False,
) -> None:
    """Run one stage of data processing, or find it up to date."""
    recipe = load_config(DataRecipe, find_recipe("data", config), overrides or ())
    if stage is Stage.embed and rank() > 0:
        work_along()
        return
    endpoint = None
    if base_url is not None and model is not None and stage in (Stage.enrich, Stage.chains):
        from .teacher.client import Endpoint

        endpoint = Endpoint.parse(base_url, model, os.environ)
    elif (base_url, model) != (None, None):
        raise GreamError("--base-url and --model go together, and with the stages 'enrich' and 'chains' alone")
    request = Request(
        recipe=recipe,
        run=run,
        reviews=reviews or run / "raw" / "reviews.json.gz",
        metadata=metadata or run / "raw" / "meta.json.gz",
        base=base,
        endpoint=endpoint,
        previous=previous,
        ray=ray,
        ids=index,
    )
    todo = plan(stage, request)
    result = run_stage(
        run,
        stage.value,
        config=todo.config,
        inputs=todo.inputs,
        outputs=todo.outputs,
        code=code_of(todo.code),
        build=todo.build,
        overwrite=overwrite,
        keep=keep,
        keep_partial=todo.resumes,
    )
    if stage is Stage.embed:
        dismiss()
    print(result, flush=True)


if __name__ == "__main__":
    exit_with_error_line(app)
