"""What training takes of GPUs and machine, against figures found by hand from the frameworks' own code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gream import footprint
from gream.footprint import GB, QWEN3, Shape

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


def test_a_copy_of_the_logits() -> None:
    """24,576 tokens of 153,000 rows in bf16."""
    assert footprint.logits(24_576, QWEN3_4B) / GB == pytest.approx(7.5, abs=0.01)


@pytest.mark.parametrize(("log_probs", "needed"), [("fused", 25), ("flash", 32), ("plain", 62)])
def test_an_update_on_eight_gpus(log_probs: str, needed: int) -> None:
    assert gigabytes(footprint.update(QWEN3_4B, 8, 24_576, log_probs=log_probs)) == needed


def test_one_card_of_80_gb_has_no_margin_without_offload_and_one_of_141_has() -> None:
    whole = footprint.update(QWEN3_4B, 1, 16_384)
    assert 0.95 < whole / (footprint.USABLE * CARD) < 1
    assert whole < 0.6 * 141 * GB
    assert footprint.update(QWEN3_4B, 1, 16_384, offload=True) < 0.2 * CARD


def test_liger_saves_the_upcast_logits() -> None:
    """6 GB at 8 rows of 300 tokens."""
    with_liger, without = (footprint.sft(QWEN3_4B, 8, 8 * 300, liger=liger) for liger in (True, False))
    assert gigabytes(without - with_liger) == 6


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
