"""The recipe: everything that defines a training run, as one TOML file and one frozen object.

Sections are pydantic models that refuse unknown fields. Every field is a flat scalar, so that each can be overridden
as `dotted.path=value` and an intervention is a table of the same. What is `auto` is settled when a run is made
(`training/resolve.py`); `fingerprint` hashes what then matters to the result.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from scratchlab.architecture import INHERITED, GPTSection, RNNSection
from scratchlab.errors import RecipeError
from scratchlab.files import sha256_of_json
from scratchlab.hardware import DEVICES, Precision
from scratchlab.problems import describe_all
from scratchlab.sections import Auto, Count, Positive, Section, Seed, Share

# Raised when a golden number changes on purpose: runs made before and after are then different runs.
NUMERICS_VERSION = 1


def _architecture(section: Any) -> Any:
    """Which kind of `[model]` is meant; a GPT where nothing is said."""
    return (
        section.get("architecture", "gpt") if isinstance(section, Mapping) else getattr(section, "architecture", None)
    )


class TrainingSection(Section):
    """`[training]`: how long, how much at once, and by which rule the weights move."""

    steps: Annotated[int, Field(ge=0)] | None = None
    """0 scores the weights as they are."""
    tokens: Count | None = None
    tokens_per_parameter: Positive | None = None
    epochs: Positive | None = None
    global_batch_size: Count = 64
    """Sequences per optimizer step, over all processes and micro-batches."""
    learning_rate: Positive = 1e-3
    order: Literal["shuffled", "streams"] = "shuffled"
    """Windows in a random order; or each sequence of the batch a stretch of the text that goes on from step to step."""
    optimizer: Literal["adamw", "rmsprop"] = "adamw"
    schedule: Literal["constant", "linear", "cosine", "wsd", "epochs"] = "cosine"
    """After the warm-up: constant, falling in a line, falling along a cosine, warm-up-stable-decay, or multiplied by
    `epoch_decay` at the end of each epoch from `decay_after_epochs` on (char-rnn's)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Where linear, cosine and wsd end, as a fraction of `learning_rate`."""
    decay_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """The last part of the run in which wsd falls (linearly)."""
    epoch_decay: Annotated[float, Field(gt=0, le=1)] = 0.97
    decay_after_epochs: Annotated[int, Field(ge=0)] = 10
    epoch_steps: Count | None = None
    """Steps an epoch, which the schedule `epochs` counts in; None: as the corpus has it."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """Decoupled, on matrices only: not on biases and norms."""
    beta1: Share = 0.9
    beta2: Share = 0.95
    """RMSprop has this one alone: how slowly it forgets squared gradients."""
    eps: Positive = 1e-8
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    """The largest global gradient norm; 0 means no clipping."""
    clip_value: Annotated[float, Field(ge=0)] = 0.0
    """The largest size of any single gradient (char-rnn's clipping); 0 means no clipping."""
    precision: Precision | Auto = "auto"
    patience: Count | None = None
    """Stop early: after so many evaluations without a new best validation loss, with the best weights."""
    checkpoint_every: Count = 250

    @model_validator(mode="after")
    def one_length(self) -> Self:
        given = [name for name in LENGTHS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{ONE_LENGTH} (given: {', '.join(given) or 'none'})")
        if self.optimizer == "rmsprop" and self.weight_decay:
            raise ValueError("optimizer = 'rmsprop' has no weight decay: set weight_decay = 0")
        if self.optimizer == "rmsprop" and self.beta1 != type(self).model_fields["beta1"].default:
            raise ValueError("optimizer = 'rmsprop' has no beta1: leave it out")
        return self


LENGTHS = ("steps", "tokens", "tokens_per_parameter", "epochs")
ONE_LENGTH = f"give exactly one of {', '.join(LENGTHS)}"


class EvaluationSection(Section):
    """`[evaluation]`: what is measured while training, on the validation split."""

    corpus: str | None = None
    """The corpus that scores the run, where it is not the one that trains it."""
    every: Count = 250
    max_tokens: Count | None = None
    """At most so many validation tokens per evaluation while training (all of them if not given)."""
    sample_tokens: Annotated[int, Field(ge=0)] = 64
    """The length of the sample written into samples.jsonl at each evaluation; 0 for none."""
    suites: str | None = None
    """Tasks to be asked while training, such as "hellaswag:200,piqa" (see `scratchlab.evaluation.suites`)."""
    suites_every: Count = 1000
    suites_data: str | None = None
    """The folder where the files of the tasks lie; if not given, they come from the Hub."""
    truncate: bool = False
    """Cut off the beginning of items that are longer than the model's context, instead of refusing the task."""
    answers: Annotated[int, Field(ge=0)] = 0
    """Of a run that learns from instructions: how many of the test split's it answers at its end, scored by chrF."""
    snapshots: Annotated[int, Field(ge=0)] = 4
    """How many snapshots to keep from a 256th of the run on, each so many times as far as the one before; 0 for none.
    Each takes 4 bytes a parameter on disk, where the run takes 44 without them."""


class SeedsSection(Section):
    """`[seeds]`: one seed a role. See `scratchlab.seeds`."""

    init: Seed = 1
    data: Seed = 1
    noise: Seed = 1


class StartSection(Section):
    """`[start]`: begin from the weights of another run (trained here or imported) instead of fresh ones."""

    weights: str | None = None
    """The run's folder. Its model and its tokenizer must be this recipe's."""
    at: Literal["final", "best"] = "final"
    """Its last checkpoint, or the snapshot of its best validation loss."""
    optimizer: Literal["fresh", "kept"] = "fresh"
    """Whether the optimizer still knows the gradients of that run."""
    schedule: Literal["restarted", "extended"] = "restarted"
    """Whether the learning rate begins anew, or this run's steps are counted on from that run's."""
    data: Literal["restarted", "continued"] = "restarted"
    """Whether the first tokens are those of a run of its own, or those that come after that run's last."""
    steps_before: Annotated[int, Field(ge=0)] = 0
    sequences_before: Annotated[int, Field(ge=0)] = 0
    """How many steps and sequences that run (and those it came from) had; settled when the run is made."""

    @model_validator(mode="after")
    def makes_sense(self) -> Self:
        if self.weights is None and self.model_dump(exclude_defaults=True):
            raise ValueError("says how to begin from the weights of a run, and names none: set start.weights")
        if self.optimizer == "kept" and self.at == "best":
            raise ValueError("optimizer = 'kept' needs at = 'final': a snapshot holds weights alone")
        return self


class ExecutionSection(Section):
    """`[execution]`: on what and how. Each `auto` is settled once, when the run is made, and written down."""

    backend: Literal["torch"] = "torch"
    device: Annotated[str, Field(pattern=f"^({DEVICES})$")] = "auto"
    compile: bool | Auto = "auto"
    micro_batch_size: Count | Auto = "auto"
    """Sequences that pass through the model at once, in each process. It bounds memory and never changes the
    mathematics."""
    threads: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    deterministic: bool = False
    """Refuse kernels whose result depends on timing. (A CPU run is deterministic as it is.)"""
    processes: Count = 1
    """Processes that train together, one a device. Left out, as many as torchrun starts; given, as many are started."""
    shard: bool | None = None
    """Whether each of several processes keeps a part of the weights alone (FSDP2) instead of a copy (DDP); None: where
    a device does not hold them all."""
    activation_checkpointing: bool = False
    """Keep of each block only what went into it, and compute the rest again in the backward pass (Chen et al. 2016): a
    fraction of the memory for a third more time. The numbers stay the same."""
    optimizer_offload: bool = False
    """Keep the optimizer's memory on the CPU and update the weights there (Ren et al. 2021): a CUDA card then holds 8
    bytes a parameter instead of 16, and waits for the update."""


class FinetuningSection(Section):
    """`[finetuning]`: how a run learns from examples, and whether all of its weights do."""

    learn_from: Literal["responses", "all"] = "responses"
    """Of instructions: what the assistant says, or all that is said."""
    lora_rank: Count | None = None
    """Train low-rank adapters of this rank beside frozen weights (Hu et al. 2021); None: train the weights."""
    lora_alpha: Positive | None = None
    """Adapters are scaled by lora_alpha / lora_rank; None: by 1."""
    lora_dropout: Share = 0.0
    """Of what goes into an adapter."""
    lora_layers: Literal["all", "attention", "query_value", "mlp"] = "all"
    """Which linear layers have an adapter; all: the head too, where it is a matrix of its own. query_value: the parts
    of attention that make queries and values (Hu et al. 2021). A head of labels that has no adapter is trained."""
    beta: Positive = 0.1
    """Of preferences: how dear it is to leave the weights that the run began from (Rafailov et al. 2023)."""

    @model_validator(mode="after")
    def makes_sense(self) -> Self:
        useless = sorted(name for name in self.model_dump(exclude_defaults=True) if name.startswith("lora_"))
        if self.lora_rank is None and useless:
            raise ValueError(f"{useless[0]} says how adapters are, and there are none: set finetuning.lora_rank")
        return self

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """The layers of `lora_layers`, by their names on the model's page."""
        return {
            "all": ("qkv", "out", "up", "gate", "down", "head", "label_head"),
            "attention": ("qkv", "out"),
            "query_value": ("qkv",),
            "mlp": ("up", "gate", "down"),
        }[self.lora_layers]


@dataclass(frozen=True, slots=True)
class Settled:
    """What is no longer open in a resolved recipe."""

    steps: int
    steps_before: int
    """Steps of earlier runs that the schedule is counted on from."""
    sequences_before: int
    """Sequences of earlier runs that the data go on from."""
    precision: Precision
    device: str
    compile: bool
    micro_batch_size: int
    threads: int
    processes: int
    shard: bool

    @property
    def devices(self) -> int:
        """How many it takes: a GPU for each process; a CPU is one, however many share it."""
        return self.processes if self.device.startswith("cuda") else 1


class Recipe(Section):
    """One training run, defined. `corpus` is a path, relative to the folder the command is run in."""

    corpus: str
    model: Annotated[
        Annotated[GPTSection, Tag("gpt")] | Annotated[RNNSection, Tag("rnn")], Discriminator(_architecture)
    ] = GPTSection()
    training: TrainingSection
    evaluation: EvaluationSection = EvaluationSection()
    seeds: SeedsSection = SeedsSection()
    start: StartSection = StartSection()
    finetuning: FinetuningSection = FinetuningSection()
    execution: ExecutionSection = ExecutionSection()

    @model_validator(mode="after")
    def warms_up_in_time(self) -> Self:
        steps, warmup = self.training.steps, self.training.warmup_steps
        if steps and warmup > steps and self.start.schedule == "restarted":
            raise ValueError(f"training.warmup_steps ({warmup}) is more than training.steps ({steps})")
        return self

    @model_validator(mode="after")
    def has_blocks_to_recompute(self) -> Self:
        if self.execution.activation_checkpointing and isinstance(self.model, RNNSection):
            raise ValueError(
                "execution.activation_checkpointing recomputes the blocks of a GPT, and a recurrent network has none: "
                "leave it out"
            )
        return self

    @model_validator(mode="after")
    def has_layers_to_adapt(self) -> Self:
        finetuning, model = self.finetuning, self.model
        if finetuning.lora_rank is None:
            return self
        if isinstance(model, RNNSection):
            raise ValueError(
                "finetuning.lora_rank adapts the layers of a GPT, and a recurrent network has none of them"
            )
        adapts_attention = "qkv" in finetuning.adapted_layers
        if adapts_attention and model.attention == "torch":
            raise ValueError(
                "model.attention = 'torch' (PyTorch's MultiheadAttention) takes whole matrices, and no adapters: use "
                "'fused', which computes the same, or finetuning.lora_layers = 'mlp'"
            )
        if adapts_attention and model.attention == "none" and finetuning.lora_layers != "all":
            raise ValueError(
                f"model.attention = 'none' leaves finetuning.lora_layers = {finetuning.lora_layers!r} none"
            )
        return self

    def replaced(self, changes: Mapping[str, Any]) -> "Recipe":
        """A copy with dotted fields replaced, validated anew; `RecipeError` if it does not hold together."""
        tables = self.model_dump(exclude_unset=True)
        for dotted, value in changes.items():
            set_field(tables, dotted, value)
        return recipe_from(tables, where="recipe")

    @property
    def settled(self) -> Settled:
        """The fields that may be `auto`, of a recipe in which none is any more."""
        training, execution = self.training, self.execution
        assert training.steps is not None
        assert training.precision != "auto"
        assert execution.compile != "auto"
        assert execution.micro_batch_size != "auto"
        assert execution.threads != "auto"
        return Settled(
            steps=training.steps,
            steps_before=self.start.steps_before if self.start.schedule == "extended" else 0,
            sequences_before=self.start.sequences_before if self.start.data == "continued" else 0,
            precision=training.precision,
            device=execution.device,
            compile=execution.compile,
            micro_batch_size=execution.micro_batch_size,
            threads=execution.threads,
            processes=execution.processes,
            shard=bool(execution.shard),
        )

    def to_toml(self, defaults: bool = False) -> str:
        """The recipe as it was given: the fields that were set, or those with their defaults too."""
        return tomli_w.dumps(_without_nothing(self.model_dump(exclude_unset=not defaults)))


def recipe_from(tables: Mapping[str, Any], where: str) -> Recipe:
    """Validate nested tables; `where` names their origin in the message of a `RecipeError`."""
    try:
        return Recipe.model_validate(tables)
    except ValidationError as error:
        problems = sorted(
            {*describe_all([dict(problem) for problem in error.errors()], Recipe), *_lengths_complaint(tables)}
        )
        heading = f"{where}: {len(problems)} problem{'s' * (len(problems) > 1)}"
        raise RecipeError("\n  ".join([heading, *problems])) from None


def fingerprint(
    recipe: Recipe,
    corpus_sha256: str,
    evaluation_sha256: str | None = None,
    weights_sha256: str | None = None,
) -> str:
    """SHA-256 over what matters to the result of a resolved recipe: two runs that share it are the same run.

    Left out are the fields at their defaults (so that a new switch moves no old fingerprint), cadences, and paths,
    for which the hashes of the corpora and of the starting weights stand in.
    """
    fields = recipe.model_dump(exclude_defaults=True)
    for section, name in CADENCES:
        if name != "every" or recipe.training.patience is None:  # by evaluations it is told when to stop
            fields.get(section, {}).pop(name, None)
    for name, base in INHERITED.items():
        if name in fields.get("model", {}) and fields["model"][name] == getattr(recipe.model, base):
            del fields["model"][name]
    fields["corpus"] = corpus_sha256
    if recipe.evaluation.corpus is not None:
        fields["evaluation"]["corpus"] = evaluation_sha256
    if recipe.start.weights is not None:
        fields["start"]["weights"] = weights_sha256
    fields = {key: value for key, value in fields.items() if value != {}}
    return sha256_of_json({"numerics_version": NUMERICS_VERSION, "recipe": fields})


CADENCES = (
    ("training", "checkpoint_every"),
    *(
        ("evaluation", name)
        for name in (
            "every",
            "sample_tokens",
            "suites",
            "suites_every",
            "suites_data",
            "truncate",
            "answers",
            "snapshots",
        )
    ),
)
"""What a run is watched by, which changes nothing that is trained."""


def differences(a: Recipe, b: Recipe) -> dict[str, tuple[Any, Any]]:
    """The dotted fields in which two recipes differ, with both values."""
    left, right = _flatten(a.model_dump()), _flatten(b.model_dump())
    return {key: (left.get(key), right.get(key)) for key in sorted(left | right) if left.get(key) != right.get(key)}


def set_field(tables: Any, dotted: str, value: Any) -> None:
    *sections, name = dotted.split(".")
    for depth, section in enumerate(sections):
        tables = tables.setdefault(section, {})
        if not isinstance(tables, dict):
            raise RecipeError(f"{dotted}: {'.'.join(sections[: depth + 1])} is a value, not a section.")
    if sections == ["training"] and name in LENGTHS:  # the new length of a run takes the old one's place
        for other in LENGTHS:
            tables.pop(other, None)
    tables[name] = value


def _flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def _without_nothing(tables: Mapping[str, Any]) -> dict[str, Any]:
    """TOML has no null: a field that is not given is left out."""
    return {
        key: _without_nothing(value) if isinstance(value, Mapping) else value
        for key, value in tables.items()
        if value is not None
    }


def _lengths_complaint(tables: Mapping[str, Any]) -> list[str]:
    """What pydantic does not look at while a field of the section is wrong: that a run has one length."""
    training = tables.get("training")
    given = [name for name in LENGTHS if name in training] if isinstance(training, Mapping) else []
    return [f"training: {ONE_LENGTH} (given: {', '.join(given)})."] if len(given) > 1 else []
