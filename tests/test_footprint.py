"""What training takes of GPUs and machine, against figures found by hand from the frameworks' own code."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from gream import footprint
from gream.footprint import GB, QWEN3, Shape
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

QWEN3_4B = QWEN3["4B"]
CARD = 84 * GB  # an H100 of "80 GB"


def gigabytes(size: float) -> int:
    return round(size / GB)


def test_shapes_have_the_parameters_that_their_names_say() -> None:
    # Without 1,024 rows for ids less the padding of Qwen3's own: 596,049,920; 1,720,574,976; 4,022,468,096 by the Qwen
    # team's model files, norms counted.
    published = {"0.6B": 596_049_920, "1.7B": 1_720_574_976, "4B": 4_022_468_096}
    for name, parameters in published.items():
        assert replace(QWEN3[name], rows=151_936).parameters == pytest.approx(parameters, rel=1e-3)


def test_a_shape_is_read_from_config_json() -> None:
    config = {
        "hidden_size": 2560,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 9728,
        "vocab_size": 152_704,
        "tie_word_embeddings": True,
    }
    assert Shape.of(config) == QWEN3_4B
    del config["num_key_value_heads"], config["head_dim"], config["tie_word_embeddings"]
    plain = Shape.of(config)
    assert (plain.kv_heads, plain.head_dim, plain.tied) == (32, 80, False)
    with pytest.raises(KeyError):
        Shape.of({"hidden_size": 2560})


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that operations made and somebody holds, views once; ``peak`` is the most at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(key)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def peak(work: Callable[[], object]) -> int:
    with LiveBytes() as counted:
        work()
    return counted.peak


def head(tokens: int, rows: int) -> tuple[Any, Any, Any]:
    """Last hidden states and a head, in bf16, and labels: all that is not logits is small."""
    torch.manual_seed(0)
    states = torch.randn(tokens, 8, dtype=torch.bfloat16, requires_grad=True)
    weights = torch.randn(rows, 8, dtype=torch.bfloat16, requires_grad=True)
    return states, weights, torch.randint(rows, (tokens,))


def test_bytes_per_logit_of_verls_log_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.utils import torch_functional

    # As autocast does on a GPU.
    plain = {name: getattr(torch.nn.functional, name) for name in ("softmax", "log_softmax")}
    for name, function in plain.items():
        wide = partial(lambda function, logits, dim: function(logits.float(), dim=dim), function)
        monkeypatch.setattr(torch.nn.functional, name, wide)
    states, weights, labels = head(128, 4096)

    def update() -> None:
        logits = states @ weights.T
        torch_functional.logprobs_from_logits_v2(logits, labels).sum().backward()

    @torch.no_grad()
    def before() -> None:
        logits = states @ weights.T
        torch_functional.entropy_from_logits(logits)

    assert peak(update) / (128 * 4096) == pytest.approx(footprint.LOSS["plain"], rel=0.08)
    assert peak(before) / (128 * 4096) == pytest.approx(footprint.ENTROPY, rel=0.02)


@pytest.mark.parametrize("tokens", [512, 1536])
def test_fused_kernels_hold_logits_of_512_tokens_however_many_there_are(tokens: int) -> None:
    from verl.utils.experimental.torch_functional import FusedLinearForPPO

    states, weights, labels = head(tokens, 1024)

    def update() -> None:
        log_probs, _ = FusedLinearForPPO()(states[None], weights, labels[None], temperature=1.0)
        log_probs.sum().backward()

    assert peak(update) / (footprint.FUSED_TOKENS * 1024) == pytest.approx(footprint.FUSED, rel=0.05)


def test_bytes_per_logit_of_the_loss_in_sft() -> None:
    from transformers.loss.loss_utils import ForCausalLMLoss

    states, weights, labels = head(512, 1024)
    held = peak(lambda: ForCausalLMLoss((states @ weights.T)[None], labels[None], 1024).backward())
    assert held / (512 * 1024) == pytest.approx(footprint.UPCAST, rel=0.03)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(64, 4, 4, 2, 16, 384, 8, tied=True),
        Shape(96, 2, 8, 2, 16, 192, 8, tied=True),
        Shape(64, 2, 4, 4, 32, 128, 8, tied=True),
    ],
)
def test_activations_of_a_checkpointed_model(shape: Shape) -> None:
    from transformers import Qwen3Config, Qwen3Model

    assert Shape.of(shape.config()) == shape
    config = Qwen3Config(**shape.config(), attn_implementation="sdpa", use_cache=False)
    model = Qwen3Model(config).bfloat16().train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for part in model.parameters():
        part.grad = torch.zeros_like(part)
    tokens = 512
    counted = peak(lambda: model(torch.zeros(1, tokens, dtype=torch.long)).last_hidden_state.sum().backward())
    # Weights are counted where an operation hands on a view of them.
    weights = sum(part.nbytes for part in model.parameters())
    by_formula = footprint.activations(tokens, shape)
    assert counted - weights <= by_formula <= 1.15 * (counted - weights)


@pytest.mark.parametrize(("log_probs", "needed"), [("fused", 26), ("flash", 50), ("plain", 50)])
def test_an_update_on_eight_gpus(log_probs: str, needed: int) -> None:
    # 8 GB of weights, gradients and moments, 2 of the embedding, 10 of activations, 2 of logits, 4 in reserve; without
    # fused kernels 38 GB of logits for the entropy before it, and no activations.
    assert gigabytes(footprint.update(QWEN3_4B, 8, 24_576, log_probs=log_probs)) == needed


def test_one_card_of_80_gb_has_no_margin_without_offload_and_one_of_141_has() -> None:
    whole = footprint.update(QWEN3_4B, 1, 16_384)
    assert 0.95 < whole / (footprint.USABLE * CARD) < 1
    assert whole < 0.6 * 141 * GB
    assert footprint.update(QWEN3_4B, 1, 16_384, offload=True) < 0.2 * CARD


def test_liger_saves_the_upcast_logits() -> None:
    """4 GB at 8 rows of 300 tokens."""
    with_liger, without = (footprint.sft(QWEN3_4B, 8, 8 * 300, liger=liger) for liger in (True, False))
    assert gigabytes(without - with_liger) == 4


def test_sft_shares_what_zero2_shares() -> None:
    one, eight = (footprint.sft(QWEN3_4B, gpus, 2400, liger=True) for gpus in (1, 8))
    assert one - eight == pytest.approx(14 * QWEN3_4B.parameters * 7 / 8)
    offloaded = footprint.sft(QWEN3_4B, 1, 2400, liger=True, offload=True)
    assert one - offloaded == pytest.approx(12 * QWEN3_4B.parameters)


def test_every_rank_loads_a_tied_model_whole() -> None:
    assert gigabytes(footprint.main_memory(QWEN3_4B, 8, offload=False)) == 161
    untied = footprint.main_memory(replace(QWEN3_4B, tied=False), 8, offload=False)
    assert untied == pytest.approx(4 * replace(QWEN3_4B, tied=False).parameters + 8 * footprint.PROCESS)
    # Offloaded, a rank's weights, gradients and moments, and the reference: 20 bytes a parameter.
    assert gigabytes(footprint.main_memory(QWEN3_4B, 1, offload=True)) == 84


def test_slots_of_ray() -> None:
    assert footprint.ray_slots(1, storage_units=8) == 13
    assert footprint.ray_slots(1, storage_units=1) == 6


def test_an_engine_holds_weights_and_some_sequences() -> None:
    # 147,456 bytes of keys and values a token, 16 sequences of 2,328; 8 GB of weights.
    assert footprint.engine(QWEN3_4B, 2328) == pytest.approx(2 * QWEN3_4B.parameters + 147_456 * 2328 * 16 + 2 * GB)
