"""ONNX: onnxruntime computes what we do on batches of any shape, and an import of the file is the identity.

One model, for an export takes seconds; tests/interop/matrix_onnx.py has every value of every switch.
"""

import json
import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from exported import assert_readable
from others import make_tokenizer

from scratchlab.corpus.chat import ALPACA
from scratchlab.errors import RunError
from scratchlab.interop import onnx_files
from scratchlab.interop.imports import import_run
from scratchlab.interop.onnx_files import compare_logits, export_onnx, plain_model
from scratchlab.model.load import load_model
from scratchlab.runfolder import RunFolder
from tiny import distance
from tiny_run import make_run

BPE = make_tokenizer()
MODEL = {
    "n_layer": 1,
    "norm": "rms",
    "positions": "rotary",
    "mlp": "swiglu",
    "n_head": 4,
    "n_kv_head": 2,
    "qk_norm": True,
    "window": 8,
    "document_mask": True,
    "tie_weights": False,
    "logit_cap": 30.0,
    "vocab_multiple": 64,
    "dropout": 0.1,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run and its export."""
    folder = tmp_path_factory.mktemp("onnx")
    run = make_run(folder / "run", BPE, ALPACA, **MODEL)
    files = export_onnx(run, folder / "out")
    assert_readable(folder / "out")
    assert files == ["chat_template.jinja", "compared.json", "model.onnx", "tokenizer.json"]
    return folder


@torch.no_grad()
def test_onnxruntime_computes_what_we_do(place: Path) -> None:
    session = onnxruntime.InferenceSession(place / "out/model.onnx", providers=["CPUExecutionProvider"])
    model = load_model(RunFolder(place / "run"), device="cpu")
    for shape in ((1, 1), (2, 2), (5, 11), (1, 64)):
        tokens = torch.randint(BPE.vocab_size, shape, generator=torch.Generator().manual_seed(9))
        tokens[:, shape[1] // 2] = int(BPE.end_of_text or 0)  # where documents part
        (theirs,) = session.run(None, {"tokens": tokens.numpy()})
        assert distance(torch.from_numpy(theirs), model(tokens)[0]) < 1e-5
    assert [str(size) for size in session.get_inputs()[0].shape] == ["batch", "length"]
    compared = json.loads((place / "out/compared.json").read_text(encoding="utf-8"))
    assert 0 < compared["largest_difference"] <= compared["tolerance"] * compared["largest_logit"]
    assert compared["shapes"] == [[1, 1], [3, 5], [1, 64]]


def test_an_import_is_the_identity(place: Path, tmp_path: Path) -> None:
    run, back = RunFolder(place / "run"), import_run(str(place / "out"), tmp_path / "back")
    assert back.recipe().model == run.recipe().model.model_copy(update={"vocab_multiple": 1})
    ours = dict(load_model(run, device="cpu").named_parameters())
    for name, parameter in load_model(back, device="cpu").named_parameters():
        assert torch.equal(parameter, ours[name][: len(parameter)]), name
    assert back.tokenizer_path.read_bytes() == run.tokenizer_path.read_bytes()
    assert back.chat_template_path.read_bytes() == run.chat_template_path.read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("another", "{}", "An ONNX file is a graph"),
        ("scratchlab.model", "[]", "An ONNX file is a graph"),
        ("scratchlab.model", "{}", r"model.token_embedding.weight is \(280, 32\) where \(280, 768\) is expected"),
        ("scratchlab.model", '{"n_layer": 0}', "cannot be built here"),
        ("scratchlab.model", "{", "could not be read as ONNX"),
    ],
)
def test_what_does_not_say_what_it_is_is_refused(
    key: str, value: str, complaint: str, place: Path, tmp_path: Path
) -> None:
    shutil.copytree(place / "out", tmp_path / "out")
    stored = onnx.load(tmp_path / "out/model.onnx")
    (ours,) = [entry for entry in stored.metadata_props if entry.key == "scratchlab.model"]
    ours.key, ours.value = key, value
    onnx.save(stored, tmp_path / "out/model.onnx")
    with pytest.raises(RunError, match=complaint):
        import_run(str(tmp_path / "out"), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(RunError, match=r"model.onnx could not be read as ONNX"):
        import_run(str(tmp_path), tmp_path / "again")


def test_a_graph_of_other_weights_is_told_by_its_logits(place: Path) -> None:
    run = load_model(RunFolder(place / "run"), device="cpu")
    tensors = {name: parameter.detach().clone() for name, parameter in run.named_parameters()}
    tensors["blocks.0.attention.k_norm.weight"][3] += 0.01
    model = plain_model(run.config, tensors, BPE.vocab_size, BPE.end_of_text)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RunError, match="onnxruntime's logits lie up to"):
        compare_logits(place / "out/model.onnx", model)
    with pytest.raises(RunError, match=r"does not give back what was written: blocks.0.attention.k_norm.weight\."):
        onnx_files.check_onnx(place / "out/model.onnx", model)


def test_what_is_no_gpt_is_not_exported(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", BPE, architecture="rnn")
    with pytest.raises(RunError, match="as ONNX there are GPTs alone"):
        export_onnx(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
