"""What somebody does with an export, in a process of its own where there is no scratchlab: a program, not a test.

    python load_export.py FOLDER EXPECTED.json [--custom] [--adapters] [--hide]

prints a JSON object: for each thing that was tried `ok`, or what went wrong; and the class and the versions.
With `--adapters` FOLDER holds those of peft, and its folder `base` what they go beside. `--hide` makes scratchlab
impossible to import where it is installed.
"""

import contextlib
import importlib.util
import json
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore")
arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
ADAPTERS = "--adapters" in sys.argv
CUSTOM = {"trust_remote_code": True} if "--custom" in sys.argv else {}
if "--hide" in sys.argv:
    sys.modules["scratchlab"] = None  # pyright: ignore[reportArgumentType]

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, pipeline  # noqa: E402

torch.set_num_threads(1)
STEPS = 10


class Tried:
    """One export, with what is expected of it."""

    def __init__(self, folder: Path, expected: dict[str, Any]) -> None:
        self.folder, self.expected = folder, expected
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder / "base" if ADAPTERS else folder, **CUSTOM)
        self.model: Any = self.load()

    def load(self, folder: Path | None = None) -> Any:
        if ADAPTERS:
            from peft import PeftModel

            return PeftModel.from_pretrained(
                AutoModelForCausalLM.from_pretrained(self.folder / "base"), self.folder
            ).eval()
        return AutoModelForCausalLM.from_pretrained(folder or self.folder, **CUSTOM).eval()

    @torch.no_grad()
    def logits(self) -> None:
        theirs = self.model(torch.tensor(self.expected["tokens"])).logits
        ours = torch.tensor(self.expected["logits"])
        apart = float((theirs - ours).norm() / ours.norm())
        assert apart < 1e-5, f"apart by {apart:.2g}"

    def tokens(self) -> None:
        text, ids = self.expected["text"], self.tokenizer(self.expected["text"])["input_ids"]
        assert ids == self.expected["ids"], "other ids"
        assert self.tokenizer.decode(ids) == text, "another text"

    def conversation(self) -> None:
        talk, worded = self.expected["talk"], self.expected["worded"]
        found = self.tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=True)
        assert list(found["input_ids"]) == worded, "other ids"

    @torch.no_grad()
    def merged(self) -> None:
        self.model = self.load().merge_and_unload()
        self.logits()

    def parameters(self) -> None:
        """As the Hub counts them: what the header of the safetensors says. Some may be zeros for biases."""
        with safe_open(self.folder / "model.safetensors", "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118  it is no dictionary
        counted = sum(torch.Size(shape).numel() for shape in shapes)
        assert counted == self.model.num_parameters() >= self.expected["parameters"], f"{counted}"
        assert not CUSTOM or counted == self.expected["parameters"], f"{counted}"

    @torch.no_grad()
    def generate(self) -> None:
        """With the cache, and a part of it without; texts may part where the two best logits are within 1e-4."""
        prompt, written = self.expected["prompt"], self.expected["greedy"]
        self.model.generation_config.eos_token_id = None
        for cached, ours in ((True, written), (False, written[:24])):
            given = torch.tensor([prompt])
            theirs = self.model.generate(
                given, attention_mask=torch.ones_like(given), max_new_tokens=len(ours), do_sample=False,
                use_cache=cached, pad_token_id=0,
            )[0, len(prompt) :].tolist()  # fmt: skip
            for place, (a, b) in enumerate(zip(theirs, ours, strict=True)):
                if a != b:
                    last = self.model(torch.tensor([prompt + ours[:place]])).logits[0, -1]
                    gap = float(last.topk(2).values.diff().abs())
                    assert gap < 1e-4, f"cache {cached}: token {place} is {a} and not {b}"
                    break

    @torch.no_grad()
    def padded(self) -> None:
        """Prompts of unequal length, padded at the left, are gone on from as each alone."""
        prompts = [self.expected["prompt"], self.expected["prompt"][:3]]
        width = len(prompts[0])
        rows = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
        real = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        together = self.model.generate(rows, attention_mask=real, **settings)[:, width:]
        for row, prompt in enumerate(prompts):
            given = torch.tensor([prompt])
            alone = self.model.generate(given, attention_mask=torch.ones_like(given), **settings)[0, len(prompt) :]
            assert together[row].tolist() == alone.tolist(), f"row {row}"

    def beams(self) -> None:
        given = torch.tensor([self.expected["prompt"]])
        self.model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=4, num_beams=2, pad_token_id=0)

    def pipeline(self) -> None:
        write = pipeline("text-generation", model=str(self.folder), **CUSTOM)
        start = self.tokenizer.decode(self.expected["prompt"])
        (written,) = write(start, max_new_tokens=5, do_sample=False)
        assert written["generated_text"].startswith(start), written

    def saved_again(self) -> None:
        with tempfile.TemporaryDirectory() as again:
            self.model.save_pretrained(again)
            self.tokenizer.save_pretrained(again)
            back, spoken = self.load(Path(again)), AutoTokenizer.from_pretrained(again, **CUSTOM)
            before, after = self.model.state_dict(), back.state_dict()
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before)
            assert spoken(self.expected["text"])["input_ids"] == self.expected["ids"]
            AutoModel.from_pretrained(again, **CUSTOM)

    def _train(self, model: Any, rate: float) -> None:
        ids = torch.tensor(self.expected["ids"])
        length = min(16, self.model.config.max_position_embeddings, len(ids))
        example = {
            "input_ids": ids[:length],
            "labels": ids[:length],
            "attention_mask": torch.ones(length, dtype=torch.long),
        }
        with tempfile.TemporaryDirectory() as place:
            settings = TrainingArguments(
                place, max_steps=STEPS, per_device_train_batch_size=2, learning_rate=rate, report_to=[], use_cpu=True,
                save_strategy="no", logging_steps=1, disable_tqdm=True, lr_scheduler_type="constant",
            )  # fmt: skip
            trainer = Trainer(model=model, args=settings, train_dataset=[example] * 8)
            with contextlib.redirect_stdout(sys.stderr):
                trainer.train()
        losses = [record["loss"] for record in trainer.state.log_history if "loss" in record]
        assert len(losses) == STEPS, losses
        assert losses[-1] < losses[0], losses

    def trainer(self) -> None:
        self._train(self.load(), 1e-3)

    def peft(self) -> None:
        from peft import LoraConfig, get_peft_model

        base = self.load()
        before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        self._train(adapted, 1e-2)
        after = adapted.unload().state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before), "the weights below moved"


CHECKS = ("tokens", "parameters", "logits", "generate", "padded", "beams", "pipeline", "saved_again", "trainer", "peft")
CHECKS_OF_ADAPTERS = ("tokens", "logits", "generate", "padded", "beams", "merged")


def said(check: Callable[[], None]) -> str:
    try:
        check()
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return "ok"


def main() -> None:
    folder, expected = Path(arguments[0]), json.loads(Path(arguments[1]).read_text(encoding="utf-8"))
    installed = "--hide" not in sys.argv and importlib.util.find_spec("scratchlab") is not None
    tried = Tried(folder, expected)
    checks = CHECKS_OF_ADAPTERS if ADAPTERS else CHECKS
    checks = (*checks, "conversation") if expected["worded"] else checks
    report = {check: said(getattr(tried, check)) for check in checks}
    known = {"class": type(tried.model).__name__, "scratchlab": installed, "transformers": transformers.__version__}
    print(json.dumps(known | report))


if __name__ == "__main__":
    main()
