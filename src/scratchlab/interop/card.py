"""The model card: README.md beside the weights, filled from the run's own record, with nothing left to fill.

Paths of the machine it was trained on are not told: of a path its last name alone.
"""

import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scratchlab.files import write_atomically
from scratchlab.generation.text import run_template, run_tokenizer
from scratchlab.interop.card_corpora import data, datasets
from scratchlab.interop.card_parts import Part, charts, quality, samples, scored_on, studies, what_it_is
from scratchlab.interop.card_story import earlier, in_short, origin
from scratchlab.interop.card_training import not_finished, training
from scratchlab.interop.hard_strings import spoken
from scratchlab.interop.proof_files import CARD, CHARTS
from scratchlab.interop.told import told
from scratchlab.runfolder import Record, RunFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a card says that no run knows."""

    load_as: str
    """USER/NAME on the Hub, or the folder that was made."""
    license: str | None = None
    """As the Hub names licenses: apache-2.0, mit, cc-by-4.0."""
    languages: Sequence[str] = ()
    """Of the text, by ISO 639: en, de."""
    on_hub: bool = False
    """Whether `load_as` is a name there."""
    revision: str | None = None
    """Of the Hub: the branch, where it is not main."""
    studies: Sequence[Record] = ()
    """Those that have this run among their results (`study.origin`)."""

    @property
    def name(self) -> str:
        return told(self.load_as)

    @property
    def place(self) -> str:
        """What transformers is told to load. `./` says that it is a folder: the Hub may have a model of that name."""
        return self.load_as if self.on_hub else f"./{self.name}"


def write_card(exported: Path, folder: RunFolder, proof: Record, about: About) -> None:
    """Write README.md for the Hub into an export, with copies of the run's charts. `proof` is that of the export."""
    pictures = folder.charts()
    if pictures:
        (exported / CHARTS).mkdir()
    for picture in pictures:
        shutil.copyfile(picture, exported / CHARTS / picture.name)
    parts: list[Part] = [
        ("Load it", _loading(folder, proof, about)),
        ("What it is", what_it_is(folder, proof)),
        ("What it was trained on", data(folder)),
        ("How it was trained", training(folder)),
        ("How good it is", quality(folder, proof)),
        ("Charts", charts(pictures)),
        ("What it writes", samples(folder, proof["run"]["at"])),
        ("The study it came from", studies(about.studies)),
        ("How it was verified", _verified(proof, about)),
        ("License", _license(about)),
    ]
    body = [f"# {about.name}", _opening(folder, proof)]
    body += [paragraph for title, content in parts if content for paragraph in (f"## {title}", *content)]
    write_atomically(exported / CARD, f"---\n{_front_matter(folder, proof, about)}---\n\n" + "\n\n".join(body) + "\n")


def _front_matter(folder: RunFolder, proof: Record, about: About) -> str:
    """What the Hub reads, as YAML. Only the final weights have a test loss."""
    from huggingface_hub import EvalResult, ModelCardData

    result, manifest = folder.result() or {}, folder.manifest()
    scored_from = datasets(manifest.get("evaluation_corpus"))
    from_hub = datasets(manifest.get("corpus"), *(one.corpus for one in earlier(folder)))
    test = result.get("test") if proof["run"]["at"] == "final" else None
    data_name = _data_name(folder)
    figures = [] if test is None else [(name, words, test[name]) for name, words in METRICS if test[name] is not None]
    of = "" if test is None else scored_on(test)
    evaluated = [
        EvalResult(
            task_type="text-generation",
            dataset_type=scored_from[0] if len(scored_from) == 1 else data_name,
            dataset_name=data_name,
            dataset_split="test",
            metric_type=name,
            metric_name=f"{words} of {of}",
            metric_value=round(value, 6),
        )
        for name, words, value in figures
    ]
    return (
        ModelCardData(
            license=about.license,
            language=list(about.languages) or None,
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["scratchlab"],
            datasets=from_hub or None,
            model_name=about.name if evaluated else None,
            eval_results=evaluated or None,
        ).to_yaml()
        + "\n"
    )


METRICS = (
    ("bits_per_byte", "bits per byte"),
    ("nats_per_token", "nats per token"),
)


def _data_name(folder: RunFolder) -> str:
    """What the corpus that scored it is called."""
    recorded = folder.manifest().get("evaluation_corpus") or {}
    return told(recorded.get("path") or "unknown")


def _opening(folder: RunFolder, proof: Record) -> str:
    size = f"A language model of {proof['checks']['parameters']['hub']:,} parameters"
    if imported := folder.manifest().get("imported"):
        return f"{size}: the weights of {origin(imported)}, as they were, converted by scratchlab."
    return " ".join([f"{size}, {in_short(folder)}.", *filter(None, [not_finished(folder)])])


def _loading(folder: RunFolder, proof: Record, about: About) -> list[str]:
    """A few lines that load it and let it write."""
    tokenizer, template = run_tokenizer(folder), run_template(folder)
    length = folder.resolved().model.context_length
    prompt = tokenizer.decode(tokenizer.encode(spoken(tokenizer, PROMPT))[: max(1, length // 4)])
    prompt = prompt or tokenizer.decode(proof["reference"]["sequences"]["library"][: max(1, length // 4)])
    code = f", revision={about.revision!r}" if about.revision else ""
    code += ", trust_remote_code=True" if proof["needs_code"] else ""
    if template is None:
        taken = len(tokenizer.encode(prompt))
        asking = [f'tokens = tokenizer({prompt!r}, return_tensors="pt")["input_ids"]']
    else:
        taken = len(template.prompt(tokenizer, [{"role": "user", "content": prompt}]))
        asking = [
            f'messages = [{{"role": "user", "content": {prompt!r}}}]',
            'asked = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}',
            'tokens = tokenizer.apply_chat_template(messages, **asked)["input_ids"]',
        ]
    lines = [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"model = AutoModelForCausalLM.from_pretrained({about.place!r}{code})",
        f"tokenizer = AutoTokenizer.from_pretrained({about.place!r}{code})",
        *asking,
        f"written = model.generate(tokens, max_new_tokens={min(100, max(1, length - taken))}, do_sample=True)",
        "print(tokenizer.decode(written[0]))",
        "```",
    ]
    uses = "It needs code that comes with it" if proof["needs_code"] else "It needs no code but transformers' own"
    whence = [] if about.on_hub else ["Run it in the folder that holds this one:"]
    return [*whence, "\n".join(lines), f"{uses} (`{proof['class']}`)."]


PROMPT = "Every effort moves you"


def _verified(proof: Record, about: About) -> list[str]:
    """What the proof says, part by part, and how to see for oneself, without scratchlab and with it."""
    software, checks = proof["software"], proof["checks"]
    place = shlex.quote(about.name if about.on_hub else about.place)
    revision = f" --revision {shlex.quote(about.revision)}" if about.revision else ""
    trust = " --trust-code" if proof["needs_code"] else ""
    fetch = f"hf download {about.load_as}{revision} --local-dir {place}\n" if about.on_hub else ""
    return [
        "When it was exported, transformers alone loaded it in a fresh process, and was compared with the run that "
        f"trained it (float32, on a CPU; scratchlab {software['scratchlab']}, transformers {software['transformers']}, "
        f"torch {software['torch']}).",
        "\n".join(f"- {part}: {check['said']}." for part, check in checks.items()),
        f"`proof.json` has the SHA-256 of {len(proof['files'])} files, and what to compare with. Whether the files are "
        "those that were compared, Python and `sha256sum` tell:",
        f"```\n{fetch}(cd {place} && {HASHES})\n```",  # in parentheses: what follows begins beside the folder
        "To compare again what they compute takes scratchlab, which has no public address yet: neither a page nor a "
        "package. Where a clone of it lies beside this folder:",
        f"```\npip install './scratchlab[transformers]'\nscratchlab verify {place}{trust}\n```",
    ]


HASHES = (
    "python3 -c \"import json; files = json.load(open('proof.json', encoding='utf-8'))['files']; "
    "print(*(f'{sha256}  {name}' for name, sha256 in files.items()), sep='\\n')\" | sha256sum -c"
)


def _license(about: About) -> list[str]:
    if about.license:
        return [f"{about.license}, as whoever published it stated."]
    return ["None was stated: without one, nobody is given the right to use or to pass on these weights."]
