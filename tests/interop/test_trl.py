"""The loss of pairs is trl's: the same GPT-2, the same pairs, a policy that has left its reference."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lessons import base_recipe, build_text, write_lines
from scratchlab.corpus.examples.build import build_examples
from scratchlab.corpus.examples.encode import open_wording
from scratchlab.corpus.examples.pairs import PairRows, read_pair
from scratchlab.corpus.store import open_corpus
from scratchlab.corpus.windows import Paired
from scratchlab.evaluation.loss import byte_lengths
from scratchlab.evaluation.pairs import preferred, score_pairs
from scratchlab.evaluation.scorer import ModelScorer
from scratchlab.interop.exports import write_run
from scratchlab.model.load import load_model
from scratchlab.model.preferences import Preferences
from scratchlab.runfolder import RunFolder
from scratchlab.training.loop import train

pytestmark = pytest.mark.filterwarnings("ignore")
BETA = 0.3
TEMPLATE = """{% for m in messages %}{% if m.role == "user" %}Q: {{ m.content }}
A: {% else %}{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}{% endif %}{% endfor %}"""
PAIRS = [("Say it.", "It is said.", "No."), ("Why?", "So.", "Because I say so"), ("a", "b", "c"), ("One?", "1", "two")]


def test_it_is_trls(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="its DPOTrainer is what the loss is held against")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    build_text(tmp_path)
    train(base_recipe(tmp_path), tmp_path / "base")
    (tmp_path / "t.jinja").write_text(TEMPLATE, encoding="utf-8")
    rows = [{"prompt": prompt, "chosen": chosen, "rejected": rejected} for prompt, chosen, rejected in PAIRS]
    build_examples([write_lines(tmp_path / "p.jsonl", rows)], tmp_path / "pairs", "pairs",
                   open_wording(str(tmp_path / "t.jinja")), str(tmp_path / "base"), "contiguous:1,0,0")  # fmt: skip
    write_run(RunFolder.open(tmp_path / "base"), tmp_path / "theirs")
    spoken = AutoTokenizer.from_pretrained(tmp_path / "theirs", pad_token="<|endoftext|>")
    reference, policy = (AutoModelForCausalLM.from_pretrained(tmp_path / "theirs") for _ in range(2))
    ours = load_model(RunFolder.open(tmp_path / "base"), device="cpu").eval()
    corpus = open_corpus(tmp_path / "pairs")
    split = corpus.split("train")
    kept = score_pairs(ModelScorer(ours), split, 64, byte_lengths(corpus.tokenizer)).margins
    _perturb(ours, policy)

    settings = trl.DPOConfig(
        output_dir=str(tmp_path / "out"), beta=BETA, max_length=None, report_to="none", use_cpu=True, bf16=False,
        max_steps=1, per_device_train_batch_size=4, disable_dropout=True, gradient_checkpointing=False,
    )  # fmt: skip
    texts = [{"prompt": f"Q: {p}\nA: ", "chosen": chosen, "rejected": rejected} for p, chosen, rejected in PAIRS]
    trainer = trl.DPOTrainer(
        policy, reference, args=settings, train_dataset=Dataset.from_list(texts), processing_class=spoken
    )
    batch = trainer.data_collator([trainer.train_dataset[number] for number in range(4)])
    policy.train()
    theirs: Any = trainer.compute_loss(policy, batch)
    theirs.backward()
    margins = trainer._metrics["train"]

    sequences = PairRows(split, 64, None, kept)
    whole = sequences.rows(np.arange(4))
    assert isinstance(whole.packing, Paired)
    for number in range(4):
        prompt, chosen, rejected = (part.tolist() for part in read_pair(split, sequences.fit, number))
        given = trainer.train_dataset[number]
        assert (given["prompt_ids"], given["chosen_ids"], given["rejected_ids"]) == (prompt, chosen, rejected)
    tokens, targets, weights = map(torch.from_numpy, (whole.tokens, whole.targets, whole.weights))
    loss, count, told = Preferences(ours, BETA)(tokens, targets, weights, None, *map(torch.from_numpy, whole.packing))
    (loss / count).backward()
    assert (loss / count).item() == pytest.approx(theirs.item(), abs=1e-5)
    assert abs(theirs.item() - np.log(2)) > 1e-3, "the policy has left its reference"
    assert BETA * float(told[1] / count) == pytest.approx(margins["rewards/margins"][0], abs=1e-5)
    assert float(told[0] / count) == margins["rewards/accuracies"][0]
    gradient, other = ours.token_embedding.weight.grad, policy.transformer.wte.weight.grad
    assert gradient is not None
    assert torch.allclose(gradient[: len(other)], other, atol=1e-5)
    scored = score_pairs(ModelScorer(ours), split, 64, byte_lengths(corpus.tokenizer)).margins
    assert preferred(scored - kept, BETA)["loss"] == pytest.approx(theirs.item(), abs=1e-5), "the evaluation's too"


def _perturb(ours: Any, theirs: Any) -> None:
    """The same change to the same weights: norms and embeddings, which both keep alike."""
    pairs = [
        (ours.token_embedding.weight, theirs.transformer.wte.weight),
        (ours.final_norm.weight, theirs.transformer.ln_f.weight),
    ]
    with torch.no_grad():
        for number, (own, other) in enumerate(pairs):
            noise = 0.3 * torch.randn(other.shape, generator=torch.Generator().manual_seed(number))
            other += noise
            own[: len(other)] += noise
