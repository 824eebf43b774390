"""What training takes of a GPU, of main memory and of Ray's slots: arithmetic on shapes.

Sources: Rajbhandari et al. (2020), figure 1, for ZeRO-2; LLaMA-Factory 0.9.5, verl 0.9.1 and TransferQueue 0.1.11 for
who holds what when. Bytes per logit and per activation were counted as the frameworks' own code runs on a CPU
(``tests/test_footprint.py`` counts them again). `RESERVED`, `PROCESS` and `USABLE` are assumed: of CUDA's own memory
nothing can be counted without a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GB = 10**9
# Assumed, beside what is counted: CUDA's context, NCCL's buffers, the allocator's slack, a sleeping engine.
RESERVED = 4 * GB
# Assumed, of a process in main memory: what it imports, and CUDA's context.
PROCESS = 4 * GB
USABLE = 0.95  # assumed, of a GPU's memory
# Bytes per logit in verl's update, by what computes log-probabilities: flash-attn's cross-entropy writes the gradient
# over the bf16 logits (by its source, ``inplace_backward``); without it, as counted, logits and their float32
# log-softmax are held, or their gradient in place of the latter.
LOSS = {"flash": 2, "plain": 6}
# The pass before the update wants the entropy, too: logits, their float32 softmax, and the product of both.
ENTROPY = 10
# verl's fused kernels go through so many tokens at once, in float32, for both.
FUSED_TOKENS, FUSED = 512, 20
# Share of parameters that LoRA trains, of rank 8 in all linear layers, and the rows of 1,100 added tokens: at most, of
# Qwen3's three shapes.
ADAPTED = 0.01
# Bytes per logit of LLaMA-Factory's loss without Liger, counted: log-softmax in float32, and two gradients of it.
UPCAST = 12


@dataclass(frozen=True)
class Shape:
    """A decoder with grouped queries and a gated feed-forward part, as Qwen3 is.

    Attributes:
        hidden: Width.
        layers: Layers.
        heads: Heads of queries.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        intermediate: Width of the feed-forward part.
        rows: Rows of the vocabulary.
        tied: Whether input and output embeddings are one.
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    rows: int
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """The shape that a model's config.json names.

        Raises:
            KeyError: It lacks one of the numbers.
        """
        heads = config["num_attention_heads"]
        return cls(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            intermediate=config["intermediate_size"],
            rows=config["vocab_size"],
            tied=config.get("tie_word_embeddings", False),
        )

    def config(self) -> dict[str, Any]:
        """The keys of a config.json that say so: what `of` reads."""
        return {
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.intermediate,
            "vocab_size": self.rows,
            "tie_word_embeddings": self.tied,
        }

    @property
    def parameters(self) -> int:
        """Parameters, the few of norms left out."""
        attention = self.hidden * self.head_dim * 2 * (self.heads + self.kv_heads)
        layer = attention + 3 * self.hidden * self.intermediate
        return self.layers * layer + (1 if self.tied else 2) * self.rows * self.hidden


# Qwen3's published shapes, and 1,024 tokens of semantic ids, filled up to a multiple of 64.
QWEN3 = {
    "0.6B": Shape(1024, 28, 16, 8, 128, 3072, 152_704, tied=True),
    "1.7B": Shape(2048, 28, 16, 8, 128, 6144, 152_704, tied=True),
    "4B": Shape(2560, 36, 32, 8, 128, 9728, 152_704, tied=True),
}


def logits(tokens: int, shape: Shape, each: int) -> int:
    """Bytes of the logits of so many tokens, ``each`` bytes a number."""
    return tokens * shape.rows * each


def activations(tokens: int, shape: Shape) -> int:
    """Bytes between forward and backward, checkpointed: every layer's input, and one layer's forward and backward.

    The three factors of a layer were counted on small shapes in bf16, and are rounded up.
    """
    layer = 18 * shape.hidden + 11 * (shape.heads + shape.kv_heads) * shape.head_dim + 14 * shape.intermediate
    return tokens * (2 * shape.layers * shape.hidden + layer)


def sft(shape: Shape, gpus: int, tokens: int, *, liger: bool, offload: bool = False, lora: bool = False) -> float:
    """Bytes of each GPU in LLaMA-Factory's fine-tuning, under ZeRO-2 where there are several.

    Args:
        shape: Of the model.
        gpus: GPUs that share gradients (2 bytes a parameter) and master weights and moments (12).
        tokens: Of a batch of one GPU, padding counted.
        liger: Whether the loss goes through the logits in pieces.
        offload: Whether master weights and moments are in main memory.
        lora: Whether `ADAPTED` of the parameters are trained, not all.
    """
    shared = (2 if offload else 14) * shape.parameters * (ADAPTED if lora else 1) / gpus
    loss = 0 if liger else logits(tokens, shape, UPCAST)
    return 2 * shape.parameters + shared + activations(tokens, shape) + loss + RESERVED


def held(shape: Shape, gpus: int) -> float:
    """Bytes of each GPU for FSDP2's float32 weights, gradients and both moments, where nothing is offloaded."""
    return 16 * shape.parameters / gpus


def update(shape: Shape, gpus: int, tokens: int, *, log_probs: str = "fused", offload: bool = False) -> float:
    """Bytes of each GPU in verl's update of the actor or the pass before it, the rollout engine asleep.

    Args:
        shape: Of the model.
        gpus: GPUs that share the weights.
        tokens: ``ppo_max_token_len_per_gpu``.
        log_probs: "fused", or one of `LOSS`.
        offload: ``offload_policy``: what is `held` waits in main memory.
    """
    state = 0 if offload else held(shape, gpus)
    embedding = shape.rows * shape.hidden  # numbers of it, gathered whole: 2 bytes each, and 4 of their gradients
    loss = logits(min(tokens, FUSED_TOKENS), shape, FUSED) if log_probs == "fused" else 0
    before = state + 2 * embedding + loss + RESERVED
    if log_probs != "fused":
        before += logits(tokens, shape, ENTROPY)
        loss = logits(tokens, shape, LOSS[log_probs])
    return max(before, state + 6 * embedding + activations(tokens, shape) + loss + RESERVED)


def engine(shape: Shape, length: int, tensor_parallel: int = 1, sequences: int = 16) -> float:
    """Bytes of each GPU that vLLM wants at least: bf16 weights, its graphs, keys and values of some sequences."""
    keys_and_values = 4 * shape.layers * shape.kv_heads * shape.head_dim * length * sequences
    return (2 * shape.parameters + keys_and_values) / tensor_parallel + 2 * GB


def main_memory(shape: Shape, gpus: int, *, offload: bool) -> float:
    """Bytes of one machine's main memory in verl.

    With tied embeddings every rank loads the whole model in float32 before it is shared out (verl's FSDP engine builds
    it on no meta device then); the reference stays in main memory, and so does what the actor offloads.
    """
    loading = (gpus if shape.tied else 1) * 4 * shape.parameters + gpus * PROCESS
    waiting = (4 + (16 if offload else 0)) * shape.parameters + gpus * PROCESS
    return max(loading, waiting)


def ray_slots(gpus: int, storage_units: int) -> int:
    """CPUs that Ray must count for verl to start: fewer, and it waits without end.

    TransferQueue's controller takes one and each storage unit one, verl three per GPU, and every further actor wants
    one free at its start.
    """
    return 1 + storage_units + 3 * gpus + 1
