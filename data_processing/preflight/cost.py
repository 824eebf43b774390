"""What a reproduction costs in disk and time: arithmetic on counts, no file is read and nothing is measured.

Training reads ``8 * parameters`` floating-point operations a token: 2 forward, 4 backward, 2 again forward for gradient
checkpointing (Kaplan et al., 2020, section 2.1). No figure was measured on a GPU: three times more or less would not
surprise.
"""

from __future__ import annotations

from dataclasses import dataclass

from gream.footprint import GB, QWEN3

from ..config import SftConfig

# Where no base model is there to be counted: the paper's.
SHAPE = QWEN3["4B"]

# Tokens of a row are Beauty's in the published layout with recipes/data/paper.yaml, by a byte-level BPE of 2,048
# tokens; the larger vocabulary of a pretrained model makes fewer of the same text.
ROW_TOKENS = {"alignment": 86, "chain": 196, "direct": 78}
PROMPT_TOKENS, CHAIN_TOKENS = 104, 92
# Targets that the template teacher finds an argument for: 37,435 of 71,486.
SUPPORTED = 0.52
# Assumptions.
FLOPS = 312e12  # bf16, dense, of an A100 by its data sheet
USED = 0.25  # of it, in training
PADDING = 1.5  # rows of one batch are padded to the longest
GENERATIONS = 2  # responses sampled per response trained on, under dynamic sampling
SAMPLED_PER_SECOND = 5000  # tokens per GPU by vLLM
STEP_OVERHEAD = 30  # seconds of an SRPO step: weights to the rollout, rewards, waiting for the longest response
FORWARD_SECONDS = 0.04  # a step of decoding in process, whatever the batch
SASREC_SECONDS = 441 / 198_502  # per interaction: SASRec on Beauty, on one core


@dataclass(frozen=True)
class Counts:
    """Size of a data set.

    Attributes:
        users: Users.
        items: Items.
        interactions: Interactions, held-out ones among them.
        targets: Targets from position 4 on, which are those of chains and of SRPO.
    """

    users: int
    items: int
    interactions: int
    targets: int


@dataclass(frozen=True)
class Rows:
    """Rows of SFT.

    Attributes:
        alignment: Of one pass of the first stage.
        chains: With a chain, of the second stage.
        direct: Without one, of the second stage.
    """

    alignment: int
    chains: int
    direct: int


@dataclass(frozen=True)
class Srpo:
    """What an RL recipe asks for, as far as it costs.

    Attributes:
        steps: Training steps.
        batch: Prompts per step.
        rollouts: Responses per prompt.
        checkpoints: Checkpoints kept.
    """

    steps: int
    batch: int
    rollouts: int
    checkpoints: int


# Where a recipe is not to be read: the paper's.
PAPER = Srpo(steps=150, batch=256, rollouts=10, checkpoints=2)


@dataclass(frozen=True)
class Work:
    """A line of the estimate.

    Attributes:
        stage: Its name.
        what: What there is to do.
        seconds: How long that may take.
    """

    stage: str
    what: str
    seconds: float


def disk_bytes(parameters: float, checkpoints: int, *, pretrained: bool) -> float:
    """Room that a run folder needs.

    16 bytes a parameter are a checkpoint to resume from, and while one is written, that which it replaces is still
    there; 2 bytes are a model in bf16: the extended base, and what each of the two SFT stages ends with.

    Args:
        parameters: Of the model.
        checkpoints: That are kept, of all stages together.
        pretrained: Whether the base model is; a tiny one has less text around it.
    """
    around = (4 if pretrained else 1) * GB  # data, token ids, logs
    return parameters * (16 * (checkpoints + 1) + 2 * 3) + around


def expected_rows(sft: SftConfig, counts: Counts) -> Rows:
    """Rows that a data recipe makes of a data set."""
    # Of each user three interactions have no target in training: the first, and the two that are held out.
    with_history = counts.interactions - 3 * counts.users
    rows = (sft.next_item + sft.fused_next) * with_history
    rows += (sft.id_to_text + sft.text_to_id) * counts.items + (sft.search + sft.preference) * counts.users
    return Rows(round(rows), round(SUPPORTED * counts.targets), with_history)


def estimate(gpus: int, parameters: float, passes: int, counts: Counts, rows: Rows, srpo: Srpo | None) -> list[Work]:
    """How long each stage may take.

    Args:
        gpus: As fast as an A100.
        parameters: Of the model.
        passes: Over the alignment rows.
        counts: Size of the data set.
        rows: Of SFT.
        srpo: None leaves the stage out.
    """
    rate = gpus * FLOPS * USED

    def training(tokens: float) -> float:
        return PADDING * tokens * 8 * parameters / rate

    aligned = passes * rows.alignment
    chains, direct = rows.chains * ROW_TOKENS["chain"], rows.direct * ROW_TOKENS["direct"]
    work = [
        Work("data", f"{counts.users:,} users, {counts.items:,} items", 300 + 2e-3 * counts.interactions),
        Work(
            "sft-alignment",
            f"{aligned:,} rows of {ROW_TOKENS['alignment']} tokens",
            training(aligned * ROW_TOKENS["alignment"]),
        ),
        Work(
            "sft-reasoning",
            f"{rows.chains:,} rows with chains of {ROW_TOKENS['chain']} tokens, {rows.direct:,} without of "
            f"{ROW_TOKENS['direct']}",
            training(chains + direct),
        ),
    ]
    if srpo:
        responses = srpo.batch * srpo.rollouts
        sampled = GENERATIONS * responses * CHAIN_TOKENS / (SAMPLED_PER_SECOND * gpus)
        # The update, and a forward each of the reference and of the policy before it.
        update = responses * (PROMPT_TOKENS + CHAIN_TOKENS) * (8 + 2 + 2) * parameters / rate
        what = f"{srpo.steps} steps of {srpo.batch} prompts x {srpo.rollouts} responses of {CHAIN_TOKENS} tokens"
        work.append(Work("srpo", what, srpo.steps * (sampled + update + STEP_OVERHEAD)))
    batches = 2 * counts.users / 32 / gpus
    # One malformed chain makes its batch run on to the limit: the longest of 32 is taken as twice the mean.
    decoding = batches * FORWARD_SECONDS * (5 + 2 * CHAIN_TOKENS + 5)
    seconds = decoding + SASREC_SECONDS * counts.interactions
    return [*work, Work("evaluation", f"4 x {counts.users:,} users, baselines", seconds)]


def hours(seconds: float) -> str:
    """A duration, no more exact than it is known."""
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"
