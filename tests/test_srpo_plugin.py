"""The plugin inside verl: registered wherever verl is imported, loud where it cannot be, bound to what verl offers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gream.errors import GreamError
from verl_srpo.seams import ALGORITHM_SEAMS, CPU_SEAMS, TESTED_VERSION, Seam, check_seams

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter, as verl's workers are."""
    path = os.pathsep.join([str(ROOT / "plugins"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": "verl_srpo.plugin", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_importing_verl_registers_everything() -> None:
    code = (
        "import verl, verl_srpo.plugin as plugin\n"
        "assert plugin.registered() == dict.fromkeys(['reward manager', 'advantage estimator', 'trainer'], True)\n"
        "from verl.trainer.ppo.core_algos import get_adv_estimator_fn\n"
        "from verl.trainer.ppo.v1 import get_trainer_cls\n"
        "from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls\n"
        "print(get_adv_estimator_fn('srpo').__module__, get_trainer_cls('srpo_sync').__module__,"
        " get_reward_manager_cls('srpo').__module__)\n"
    )
    result = python(code, VERL_PLATFORM="")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["verl_srpo.advantage", "verl_srpo.trainer", "verl_srpo.reward_manager"]


def test_on_cpu_platform_engine_rollout_and_network_are_ours() -> None:
    code = (
        "import verl\n"
        "from verl.utils.device import get_device_name\n"
        "from verl.workers import engine_workers\n"
        "from verl.workers.engine.base import EngineRegistry\n"
        "from verl.workers.rollout.base import get_rollout_class\n"
        "from verl.workers.rollout.replica import get_rollout_replica_class\n"
        "import ray._private.services as services\n"
        "print(get_device_name(), EngineRegistry.get_engine_cls('language_model', 'fsdp2').__module__,"
        " get_rollout_class('hf_cpu').__name__, get_rollout_replica_class('hf_cpu').__name__,"
        " engine_workers.initialize_global_process_group_ray.__module__, services.get_node_ip_address())\n"
    )
    result = python(code, VERL_PLATFORM="cpu")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == [
        "cpu",
        "verl_srpo.cpu.engine",
        "HfCpuRollout",
        "HfCpuReplica",
        "verl_srpo.cpu.network",
        "127.0.0.1",
    ]


@pytest.mark.parametrize("external", ["verl_srpo.plugin", ""])
def test_a_plugin_that_cannot_load_ends_the_process(external: str) -> None:
    # verl swallows what entry points raise; the second case imports as they do.
    code = (
        "import verl_srpo.seams as seams\n"
        "seams.ALGORITHM_SEAMS = (seams.Seam('verl.protocol', 'no_such_name'),)\n"
        "try:\n"
        "    import verl\n"
        "    import verl_srpo.plugin\n"
        "except Exception:\n"
        "    print('swallowed')\n"
        "print('went on')\n"
    )
    result = python(code, VERL_PLATFORM="", VERL_USE_EXTERNAL_MODULES=external)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("error: verl ")
    assert "verl.protocol:no_such_name has moved" in line
    assert f"verl=={TESTED_VERSION}" in line


def test_all_seams_are_where_they_were() -> None:
    check_seams(ALGORITHM_SEAMS + CPU_SEAMS, version=TESTED_VERSION)


@pytest.mark.parametrize(
    ("seam", "problem"),
    [
        (Seam("json", "no_such_name"), "json:no_such_name has moved"),
        (Seam("no_such_module", "x"), "no_such_module:x has moved"),
        (Seam("json", "JSONDecoder.no_such_method"), "json:JSONDecoder.no_such_method has moved"),
        (Seam("json", "loads", ("s", "no_such_parameter")), "no parameter no_such_parameter"),
    ],
)
def test_a_moved_seam_is_one_line(seam: Seam, problem: str) -> None:
    with pytest.raises(GreamError, match=problem) as caught:
        check_seams([Seam("json", "loads", ("s",)), seam], version="9.9.9")
    message = str(caught.value)
    assert "\n" not in message
    assert "verl 9.9.9" in message and TESTED_VERSION in message


# The rollout server, without Ray around it.


def test_random_numbers_depend_on_the_request_and_not_on_its_turn() -> None:
    from verl_srpo.cpu.rollout import RequestNumbers
    from verl_srpo.cpu.sampler import SamplingParameters

    train = SamplingParameters(1.0, 1.0, 0, 5)
    validate = SamplingParameters(0.6, 0.8, 0, 5)
    first, second = RequestNumbers(7), RequestNumbers(7)
    a1, b1, a2 = (first.request(prompt, train).uniforms for prompt in ((1, 2), (3,), (1, 2)))
    # The same requests in another order, and validation in between.
    second.request((1, 2), validate)
    b1_, a1_, a2_ = (second.request(prompt, train).uniforms for prompt in ((3,), (1, 2), (1, 2)))
    assert np.array_equal(a1, a1_) and np.array_equal(a2, a2_) and np.array_equal(b1, b1_)
    assert not np.array_equal(a1, a2) and not np.array_equal(a1, b1)

    # A resumed run begins at a later update, and draws what the uninterrupted one draws there.
    first.begin(4)
    resumed = RequestNumbers(7)
    resumed.begin(4)
    later = first.request((1, 2), train).uniforms
    assert np.array_equal(later, resumed.request((1, 2), train).uniforms)
    assert not np.array_equal(later, a1)
    assert not np.array_equal(a1, RequestNumbers(8).request((1, 2), train).uniforms)


def sampling_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from srpo_support import tiny_model, tiny_tokenizer
    from verl_srpo.cpu import rollout

    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(tmp_path)
    monkeypatch.setattr(
        rollout,
        "omega_conf_to_dataclass",
        lambda config, dataclass_type: SimpleNamespace(local_path=str(tmp_path), tokenizer=tokenizer),
    )
    config = SimpleNamespace(seed=1, ignore_eos=False, response_length=6, max_num_seqs=3)
    return rollout.SamplingServer(config, None)


def ask(server: Any, prompt: list[int], **changes: Any) -> Any:
    parameters = {"temperature": 1.0, "top_p": 1, "top_k": -1, "logprobs": True, **changes}
    return server.generate("id", prompt_ids=prompt, sampling_params=parameters)


def test_server_answers_each_request_whatever_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = sampling_server(tmp_path, monkeypatch)
    prompts = [[5, 6], [7], [5, 6], [8, 9, 10], [7]]

    async def rollouts(order: list[int]) -> dict[tuple[int, ...], list[tuple[list[int], list[float]]]]:
        await server.update_weights(dict(server._model.state_dict()), 3)
        outputs = await asyncio.gather(*(ask(server, prompts[row]) for row in order), ask(server, [7], temperature=0))
        assert all(output.extra_fields["global_steps"] == 3 for output in outputs)
        assert all(len(output.token_ids) == len(output.log_probs) <= 6 for output in outputs)
        found: dict[tuple[int, ...], list[Any]] = {}
        for row, output in zip(order, outputs, strict=False):
            found.setdefault(tuple(prompts[row]), []).append((output.token_ids, output.log_probs))
        return found

    async def twice() -> tuple[Any, Any]:
        return await rollouts([0, 1, 2, 3, 4]), await rollouts([4, 3, 2, 1, 0])

    straight, reverse = asyncio.run(twice())
    for prompt, outputs in straight.items():
        assert [tokens for tokens, _ in outputs] == [tokens for tokens, _ in reverse[prompt]]
    assert straight[5, 6][0] != straight[5, 6][1]


def test_server_passes_errors_on_and_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl_srpo.cpu import rollout

    server = sampling_server(tmp_path, monkeypatch)

    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("out of paper")

    async def ask_twice() -> list[Any]:
        monkeypatch.setattr(rollout, "sample_responses", broken)
        failed = await asyncio.gather(ask(server, [5]), ask(server, [6]), return_exceptions=True)
        monkeypatch.undo()
        return [*failed, await ask(server, [5])]

    first, second, third = asyncio.run(asyncio.wait_for(ask_twice(), 60))
    assert isinstance(first, RuntimeError) and "out of paper" in str(first)
    assert isinstance(second, RuntimeError)
    assert third.token_ids


def test_server_refuses_weights_of_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = sampling_server(tmp_path, monkeypatch)
    state = dict(server._model.state_dict())
    # Tied to the embedding, and therefore not needed.
    state.pop("lm_head.weight")
    asyncio.run(server.update_weights(state, 1))
    name = "model.norm.weight"
    weight = state.pop(name)
    with pytest.raises(RuntimeError, match=name):
        asyncio.run(server.update_weights(state, 2))
    with pytest.raises(RuntimeError, match="surplus"):
        asyncio.run(server.update_weights({**state, name: weight, "surplus": weight}, 2))


# The trainer's view of the replay buffer.


class FakeBuffer:
    def __init__(self, keys: list[str], failed: set[str]) -> None:
        from transfer_queue import KVBatchMeta

        self.poll_interval = 2.0
        self.failure_keys = {"train": failed}
        self.batch = KVBatchMeta(partition_id="train", keys=keys, tags=[{"key": key} for key in keys])

    def sample(self, **_: Any) -> Any:
        return self.batch, {"waited": 1.0}


def test_a_failed_rollout_ends_the_run() -> None:
    from verl_srpo.trainer import OrderedReplayBuffer

    buffer: Any = FakeBuffer(["a_0_0"], {"b"})
    with pytest.raises(RuntimeError, match="failed for 1 of 2 prompts at step 5"):
        OrderedReplayBuffer(buffer).sample(global_steps=5, partition_id="train", batch_size=2)
    assert buffer.poll_interval < 1


def test_batches_come_in_canonical_order(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from verl_srpo import trainer

    tokens = {"a_0_0": ([1], [5]), "a_1_0": ([1], [4]), "b_0_0": ([2], [4])}

    def kv_batch_get(keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, torch.Tensor]:
        columns = zip(*(tokens[key] for key in keys), strict=True)
        return {name: torch.tensor(column) for name, column in zip(select_fields, columns, strict=True)}

    monkeypatch.setattr(trainer.tq, "kv_batch_get", kv_batch_get)
    found = set()
    for keys in (["a_0_0", "a_1_0", "b_0_0"], ["b_0_0", "a_1_0", "a_0_0"], ["a_1_0", "b_0_0", "a_0_0"]):
        buffer: Any = FakeBuffer(keys, set())
        batch, metrics = trainer.OrderedReplayBuffer(buffer).sample(global_steps=1, partition_id="train", batch_size=2)
        assert [tag["key"] for tag in batch.tags] == batch.keys
        assert metrics == {"waited": 1.0}
        found.add(tuple(batch.keys))
    assert len(found) == 1
    order = found.pop()
    assert order.index("a_1_0") + 1 == order.index("a_0_0")
