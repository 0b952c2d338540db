"""An export as anybody loads it: by transformers alone.

A program of its own, which `proof.py` runs by its path in a fresh process. Nothing of scratchlab is imported here, and
code that comes with an export could not import it either.

    python -P anybody.py FOLDER ORDER ANSWERS LOGITS

ORDER is JSON: token sequences by name and the positions to give logits of, sequences to give the logit of each next
token of, prompts with what should follow, texts by name, perhaps a conversation, and which errors of the system say
nothing about the export. ANSWERS is JSON, with what failed by its part; LOGITS is safetensors, a tensor (positions, V)
a sequence, and `cover` (tokens, 1).

It ends with `OUTSIDE`, and no answers, where such an error put a stop to it: its number is the last line of stderr. It
ends with its parent, which keeps a pipe to its stdin open.
"""

import errno
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Record = dict[str, Any]
MOST_TIES = 20  # a text that goes on from so many would show little
USUAL = ("bos_token_id", "eos_token_id", "pad_token_id", "max_length", "transformers_version")
"""What is said of writing besides would change what it writes, such as a temperature."""
OUTSIDE = 75  # of sysexits.h: what failed for now may work another time


def main(folder: str, order_file: str, answers_file: str, logits_file: str) -> int:
    """Do all that is ordered; gives the exit status."""
    sys.modules["scratchlab"] = None  # pyright: ignore[reportArgumentType]  an import of it fails, as where it is not
    order = json.loads(Path(order_file).read_text(encoding="utf-8"))
    try:
        answers = answer_all(folder, order, logits_file)
        Path(answers_file).write_text(json.dumps(answers), encoding="utf-8")
    except Exception as error:
        if (number := outside(error, order["outside"])) is None:
            raise
        print(number, file=sys.stderr)
        return OUTSIDE
    return 0


def answer_all(folder: str, order: Record, logits_file: str) -> Record:
    """The answers; what fails is told, and the rest is done all the same."""
    answers: Record = {"failures": {}}

    def attempt(part: str, what: Callable[[], Record]) -> None:
        try:
            answers[part] = what()
        except (Exception, SystemExit) as error:  # transformers and code of a folder raise whatever they like
            if outside(error, order["outside"]) is not None:
                raise
            answers["failures"][part] = first_line(error)

    attempt("tokenizer", lambda: speak(folder, order))
    models: list[Any] = []
    attempt("loading", lambda: load(folder, order["code"], models))
    if models:
        attempt("logits", lambda: compute(models[0], order, logits_file))
        attempt("generation", lambda: write_all(models[0], order["written"], order["tie"]))
    return answers


def outside(error: BaseException | None, stops: Sequence[int]) -> int | None:
    """The number of the system's error that is behind an error, if it is one of `stops`.

    safetensors and PyTorch tell it in words alone.
    """
    while error is not None:
        said = re.search(r"\b(?:os error|Error code) (\d+)\b", str(error))
        number = int(said[1]) if said else errno.ENOMEM if isinstance(error, MemoryError) else None
        number = error.errno if isinstance(error, OSError) and error.errno is not None else number
        if number in stops:
            return number
        error = error.__cause__ or error.__context__
    return None


def end_with_parent() -> None:
    """End when stdin does: nobody waits for the answers any more."""

    def watch() -> None:
        os.read(0, 1)  # past Python's own buffer, whose lock could not be taken back at the end
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def load(folder: str, code: bool, models: list[Any]) -> Record:
    """Append the model to `models`, on the CPU in the precision that its configuration says."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    loader: Any = transformers.AutoModelForCausalLM
    model, report = loader.from_pretrained(folder, trust_remote_code=code, output_loading_info=True)
    models.append(model.eval())
    ends, said = model.generation_config.eos_token_id, model.generation_config.to_diff_dict()
    return {
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "parameters": model.num_parameters(),
        "ends": [] if ends is None else ends if isinstance(ends, list) else [ends],
        "end_in_config": model.config.eos_token_id,
        "max_length": model.generation_config.max_length,
        "ways_of_writing": sorted(name for name in said if name not in USUAL and not name.startswith("_")),
        **{kind: sorted(map(str, report[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")},
    }


def speak(folder: str, order: Record) -> Record:
    """What its tokenizer makes of texts, and of the conversation if there is one."""
    import transformers

    transformers.logging.set_verbosity_error()
    loader: Any = transformers.AutoTokenizer
    tokenizer = loader.from_pretrained(folder, trust_remote_code=order["code"])
    ids = {name: tokenizer(text)["input_ids"] for name, text in order["texts"].items()}
    talk, worded = order["conversation"], None
    if talk is not None:
        worded = tokenizer.apply_chat_template(talk, add_generation_prompt=True, tokenize=True, return_dict=True)
    return {
        "symbols": len(tokenizer),
        "end_of_text": tokenizer.eos_token_id,
        "model_max_length": tokenizer.model_max_length,
        "ids": ids,
        "texts": {name: tokenizer.decode(row) for name, row in ids.items()},
        "conversation": worded and list(worded["input_ids"]),
    }


def compute(model: Any, order: Record, logits_file: str) -> Record:
    """Write the logits of every sequence at the positions that are asked for, and of each next token of the cover."""
    import torch
    from safetensors.torch import save_file

    logits: dict[str, Any] = {}
    with torch.inference_mode():
        for name, tokens in order["sequences"].items():
            found = model(torch.tensor([tokens])).logits[0, order["positions"][name]]
            logits[name] = found.float().contiguous().clone()
        rows = torch.tensor(order["cover"]).split(order["at_once"])
        found = [model(part).logits.gather(2, part.roll(-1, 1)[..., None]) for part in rows]
        logits["cover"] = torch.cat(found).float().reshape(-1, 1)
    save_file(logits, logits_file)
    return {}


def write_all(model: Any, texts: list[Record], tie: float) -> Record:
    """Whether it writes every text as wanted; tokens are counted over all, to where the first one parts."""
    identical, ties, parted = 0, [], None
    for text in texts:
        found = write(model, text["prompt"], text["tokens"], tie)
        ties += [one | {"token": identical + one["token"]} for one in found["ties"]]
        if found["parted"]:
            parted = found["parted"] | {"token": identical + found["parted"]["token"]}
        identical += found["identical"]
        if parted:
            break
    return {"identical": identical, "ties": ties, "parted": parted}


def write(model: Any, prompt: list[int], wanted: list[int], tie: float) -> Record:
    """Whether it writes `wanted` after `prompt`, the likeliest token each time, with its cache.

    Where it takes another token, and the two lie within `tie` of each other in a pass without a cache, that counts as
    equal: it goes on from the one that was wanted.
    """
    import torch

    model.generation_config.eos_token_id = None  # a text that ends early would show less
    written: list[int] = []
    ties: list[Record] = []
    while len(written) < len(wanted):
        tokens, rest = torch.tensor([[*prompt, *written]]), wanted[len(written) :]
        settings: Record = {"max_new_tokens": len(rest), "do_sample": False, "use_cache": True, "pad_token_id": 0}
        with torch.inference_mode():
            following = model.generate(tokens, attention_mask=torch.ones_like(tokens), **settings)
        more = following[0, tokens.shape[1] :].tolist()
        same = next(
            (place for place, pair in enumerate(zip(more, rest, strict=False)) if pair[0] != pair[1]), len(more)
        )
        written += more[:same]
        if same == len(rest):
            break
        gap = None if same == len(more) else gap_between(model, [*prompt, *written], more[same], rest[same])
        parting = {"token": len(written), "gap": gap}
        if gap is None or not gap <= tie or len(ties) == MOST_TIES:
            return {"identical": len(written), "ties": ties, "parted": parting}
        ties.append(parting)
        written.append(rest[same])
    return {"identical": len(written), "ties": ties, "parted": None}


def gap_between(model: Any, tokens: list[int], one: int, other: int) -> float:
    """How far the logits of two tokens lie apart after `tokens`, without a cache."""
    import torch

    with torch.inference_mode():
        scores = model(torch.tensor([tokens])).logits[0, -1].float()
    return abs(float(scores[one] - scores[other]))


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    said = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*sys.argv[1:]))
