"""GGUF: llama.cpp computes with the file what we do, reads the same tokens, and an import of it is the identity."""

import json
from pathlib import Path
from typing import Any

import gguf
import jinja2
import numpy as np
import pytest
import torch
from exported import assert_readable
from ggml import File, go_as_jinja
from others import TEXT, make_tokenizer

from scratchlab.corpus.chat import ALPACA, CHATML, ChatTemplate, Message
from scratchlab.corpus.tokenizer import Tokenizer, train_tokenizer
from scratchlab.errors import RunError
from scratchlab.interop.gguf_files import export_gguf
from scratchlab.interop.gguf_models import halved, interleaved
from scratchlab.interop.imports import import_run
from scratchlab.model.load import load_model
from scratchlab.runfolder import RunFolder
from tiny_run import make_run

BPE = make_tokenizer()
LLAMA: dict[str, Any] = {"norm": "rms", "mlp": "swiglu", "positions": "rotary", "bias": False}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2-without-biases-untied-padded": ("gpt2", {"bias": False, "tie_weights": False, "vocab_multiple": 64}),
    "gpt2-with-some-biases": ("gpt2", {"qkv_bias": False, "norm_bias": False, "attention": "explicit"}),
    "gptneox": ("gptneox", {"positions": "rotary", "n_head": 4}),
    "gptneox-untied-without-biases": ("gptneox", {"positions": "rotary", "tie_weights": False, "bias": False}),
    "llama": ("llama", {**LLAMA, "n_head": 4, "mlp_ratio": 2.5}),
    "llama-grouped-with-biases": ("llama", {**LLAMA, "n_head": 8, "n_kv_head": 2, "bias": True, "tie_weights": False}),
    "qwen3": ("qwen3", {**LLAMA, "n_head": 4, "n_kv_head": 2, "qk_norm": True, "norm_bias": False, "dropout": 0.1}),
}


def noisy(model: torch.nn.Module) -> None:
    """Biases and norms that are not what they begin as."""
    for number, parameter in enumerate(model.parameters()):
        if parameter.dim() == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))


def exported(tmp_path: Path, tokenizer: Tokenizer = BPE, template: str | None = None, **model: Any) -> RunFolder:
    run = make_run(tmp_path / "run", tokenizer, template, noisy, **model)
    assert export_gguf(run, tmp_path / "out") == ["Modelfile", "model.gguf"]
    assert_readable(tmp_path / "out")
    return run


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_llama_cpp_computes_what_we_do_and_an_import_is_the_identity(kind: str, tmp_path: Path) -> None:
    architecture, changes = MODELS[kind]
    run = exported(tmp_path, **changes)
    file, model = File(tmp_path / "out/model.gguf"), load_model(run, device="cpu")
    assert file.architecture == architecture
    tokens = BPE.encode(TEXT).tolist()[:40]
    ours = model(torch.tensor([tokens]))[0][0].double().numpy()
    np.testing.assert_allclose(file.logits(tokens), ours, atol=1e-5 * np.abs(ours).max())
    back = import_run(str(tmp_path / "out/model.gguf"), tmp_path / "back")
    again = load_model(back, device="cpu")
    assert back.recipe().model == run.recipe().model.model_copy(update={"vocab_multiple": 1})
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, dict(model.named_parameters())[name][: len(parameter)]), name
    assert back.tokenizer_path.read_bytes() == run.tokenizer_path.read_bytes()


def test_llama_turns_neighbors() -> None:
    """Of two heads of six numbers: those that were turned together, 0 with 3 and so on, become neighbors."""
    rows = torch.arange(12)
    there = interleaved(rows, 2)
    assert there.tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert torch.equal(halved(there, 2), rows)
    matrix = torch.randn(12, 5)
    assert torch.equal(interleaved(matrix, 2), matrix[there])
    assert torch.equal(halved(interleaved(matrix, 3), 3), matrix)


def test_what_other_programs_wrote_is_read_by_its_own_fields(tmp_path: Path) -> None:
    """A file without our fields, in half precision."""
    run = exported(tmp_path, **MODELS["llama-grouped-with-biases"][1])
    (tmp_path / "tokenizer.json").write_text(BPE.to_json(), encoding="utf-8")
    rewrite(tmp_path, without=("scratchlab.model", "tokenizer.huggingface.json"), half=True)
    with pytest.raises(Exception, match="brings no tokenizer"):
        import_run(str(tmp_path / "out/model.gguf"), tmp_path / "none")
    back = import_run(str(tmp_path / "out/model.gguf"), tmp_path / "back", str(tmp_path / "tokenizer.json"))
    found, ours = load_model(back, device="cpu"), dict(load_model(run, device="cpu").named_parameters())
    assert {name: parameter.tolist() for name, parameter in found.named_parameters()} == {
        name: (parameter.half().float() if parameter.dim() > 1 else parameter).tolist()
        for name, parameter in ours.items()
    }


def rewrite(tmp_path: Path, without: tuple[str, ...] = (), half: bool = False, **changes: Any) -> None:
    """The exported file with fields changed (`__` is a dot) or left out, or its matrices in half precision."""
    path = tmp_path / "out/model.gguf"
    reader, new = gguf.GGUFReader(path), {name.replace("__", "."): value for name, value in changes.items()}
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(tmp_path / "changed.gguf", new.pop("general.architecture", architecture))
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.architecture")) and name not in without:
            kinds = field.types
            value = new.pop(name, field.contents())
            writer.add_key_value(name, value, kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for name, value in new.items():
        writer.add_float32(name, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data.astype(np.float16) if half and tensor.data.ndim > 1 else tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (tmp_path / "changed.gguf").replace(path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"general__architecture": "falcon"}, "general.architecture = 'falcon'; known here are gpt2, gptneox, llama"),
        ({"scratchlab__model": "[1]"}, "scratchlab.model should hold a JSON object"),
        ({"scratchlab__model": "{}"}, "scratchlab.model is a model of gpt2, and the file one of llama"),
        ({"scratchlab__model": '{"n_layer": -1}'}, "cannot be built here"),
        ({"llama__embedding_length": 0}, "embedding_length = 0: a whole number above 0"),
        ({"without": ("scratchlab.model",), "llama__rope__freq_base": 500.0}, "rope.freq_base = 500.0 and not 10000.0"),
        ({"without": ("scratchlab.model",), "llama__block_count": 3}, "blk.2.attn_norm.weight is missing"),
        ({"without": ("scratchlab.model",), "llama__block_count": 10**9}, "too few for 1,000,000,000 layers"),
        ({"without": ("scratchlab.model",), "llama__attention__head_count": 2}, "not llama as it can be built here"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    exported(tmp_path, **MODELS["llama"][1])
    rewrite(tmp_path, **changes)
    with pytest.raises(RunError, match=complaint):
        import_run(str(tmp_path / "out"), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    exported(tmp_path)
    whole = (tmp_path / "out/model.gguf").read_bytes()
    for content in (b"", whole[:50], whole[: len(whole) // 2], b"GGML" + whole[4:]):
        (tmp_path / "broken.gguf").write_bytes(content)
        with pytest.raises(RunError, match=r"broken.gguf could not be read as GGUF"):
            import_run(str(tmp_path / "broken.gguf"), tmp_path / "back")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mlp": "gelu"}, "Nearest to it: gpt2, which knows no mlp = 'gelu'"),
        ({"window": 8, "norm_position": "post"}, "norm_position = 'post'; window = 8"),
        ({**LLAMA, "logit_cap": 30.0}, "Nearest to it: llama, which knows no logit_cap = 30.0"),
        (
            {**LLAMA, "qk_norm": True, "qkv_bias": True},
            "llama, which knows no qk_norm = True, and qwen3, which knows no bias in qkv",
        ),
        ({"positions": "none", "attention": "none"}, "attention = 'none'"),
        ({"n_kv_head": 1}, "n_kv_head = 1"),
        ({"architecture": "rnn"}, "a recurrent network, which llama.cpp does not compute"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_refused(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", BPE, **changes)
    with pytest.raises(RunError, match=complaint):
        export_gguf(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The vocabulary.

WRITING = 'Every effort: moves "you"!\n\n  It isn\'t naïve — 3½ €, 12345 日本語 🙂🙃 e\u0301 \u00a0\u2003x\r\n\tdone   '


@pytest.mark.parametrize("spec", ["bpe:300", "byte", "char"])
def test_llama_cpp_reads_the_same_tokens(spec: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(spec, [TEXT + WRITING], specials=["<|user|>"])
    exported(tmp_path, tokenizer, context_length=16)
    file = File(tmp_path / "out/model.gguf")
    ours = tokenizer.encode(WRITING).tolist()
    assert file.encode(WRITING) == ours
    assert file.decode(ours) == WRITING
    kinds, tokens = file.fields["tokenizer.ggml.token_type"], file.fields["tokenizer.ggml.tokens"]
    assert {tokens[token]: token for token, kind in enumerate(kinds) if kind == 3} == dict(tokenizer.specials)
    assert file.fields["tokenizer.ggml.eos_token_id"] == tokenizer.end_of_text
    assert file.fields["tokenizer.ggml.add_bos_token"] is False


def test_a_vocabulary_of_ascii_alone_has_a_merge_that_never_happens(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("char", [TEXT])
    exported(tmp_path, tokenizer)
    file = File(tmp_path / "out/model.gguf")
    assert len(file.fields["tokenizer.ggml.merges"]) == 1
    assert file.encode(TEXT) == tokenizer.encode(TEXT).tolist()
    assert file.encode("e▁▁é e") == tokenizer.encode("e e").tolist()  # what it does not know is left out there


def test_a_tokenizer_that_llama_cpp_cannot_have_is_refused(tmp_path: Path) -> None:
    without_end = train_tokenizer("char", [TEXT], end_of_text=False)
    named = train_tokenizer("char", [TEXT], end_of_text=False, specials=["<|endoftext|>"])
    for number, (tokenizer, complaint) in enumerate(
        [(without_end, "llama.cpp takes token 11 for it"), (train_tokenizer("integers", ["1 2 3"]), "of numbers")]
    ):
        run = make_run(tmp_path / f"run-{number}", tokenizer)
        with pytest.raises(RunError, match=complaint):
            export_gguf(run, tmp_path / "out")
    export_gguf(make_run(tmp_path / "run-named", named), tmp_path / "out")


# How it is spoken to.

TALK: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Every effort"},
    {"role": "assistant", "content": "moves you"},
    {"role": "user", "content": "toward what?"},
]


@pytest.mark.parametrize("template", [ALPACA, CHATML])
def test_ollama_and_llama_cpp_word_a_conversation_as_we_do(template: str, tmp_path: Path) -> None:
    tokenizer = BPE.with_specials(["<|im_start|>", "<|im_end|>"])
    run = exported(tmp_path, tokenizer, template)
    worded = (tmp_path / "out/Modelfile").read_text(encoding="utf-8")
    fields = File(tmp_path / "out/model.gguf").fields
    strict = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)  # knows no tag of ours, nor does llama.cpp's
    go = jinja2.Environment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined).from_string(
        go_as_jinja(worded)
    )
    for talk in (TALK, TALK[1:], TALK[1:2]):
        ours = ChatTemplate(template).render(talk, prompt=True)
        theirs = strict.from_string(fields["tokenizer.chat_template"])
        assert theirs.render(messages=talk, add_generation_prompt=True, eos_token="<|endoftext|>") == ours
        system = talk[0]["content"] if talk[0]["role"] == "system" else ""
        assert go.render(messages=talk, system=system) == ours
    turn = "<|im_end|>" if template == CHATML else "<|endoftext|>"
    assert fields["tokenizer.ggml.eot_token_id"] == tokenizer.specials[turn]
    assert f'PARAMETER stop "{turn}"' in worded.splitlines()
    assert "PARAMETER num_ctx 64" in worded.splitlines()
    back = import_run(str(tmp_path / "out/model.gguf"), tmp_path / "back")
    assert back.chat_template_path.read_bytes() == run.chat_template_path.read_bytes()


def test_a_template_of_ones_own_is_left_to_its_owner_and_a_base_model_goes_on_with_a_text(tmp_path: Path) -> None:
    own = CHATML.replace("assistant", "model", 0) + "\n"
    make_run(tmp_path / "own", BPE.with_specials(["<|im_start|>", "<|im_end|>"]), own)
    export_gguf(RunFolder(tmp_path / "own"), tmp_path / "out-own")
    worded = (tmp_path / "out-own/Modelfile").read_text(encoding="utf-8")
    assert 'TEMPLATE """' not in worded
    assert "the chat template of this model is its own" in worded.lower()
    exported(tmp_path)
    worded = (tmp_path / "out/Modelfile").read_text(encoding="utf-8")
    assert worded.startswith("FROM ./model.gguf\n")
    assert 'TEMPLATE """{{ .Prompt }}"""' in worded


def test_fields_say_the_sizes(tmp_path: Path) -> None:
    exported(tmp_path, **MODELS["qwen3"][1])
    fields = File(tmp_path / "out/model.gguf").fields
    assert fields["qwen3.attention.head_count_kv"] == 2
    assert fields["qwen3.rope.dimension_count"] == 8
    assert fields["general.name"] == "run"
    assert json.loads(fields["scratchlab.model"])["qk_norm"] is True
