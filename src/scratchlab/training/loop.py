"""The training loop.

Read `train_steps` first: it is the loop. `start.py` makes a run or picks one up; `step.py` is what happens in a step.
"""

import math
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scratchlab import hardware
from scratchlab.architecture import GPTSection, ModelSection
from scratchlab.devices import nominal_rate, price_per_hour, rent_source
from scratchlab.errors import RunError, Terminated
from scratchlab.evaluation.examples import evaluate_examples
from scratchlab.evaluation.labels import evaluate_labels
from scratchlab.evaluation.loss import LossResult, UnitLosses, byte_lengths, evaluate_units
from scratchlab.evaluation.pairs import preferred, score_pairs
from scratchlab.evaluation.results import TaskResult
from scratchlab.evaluation.running import score_task
from scratchlab.evaluation.subjects import model_subject
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import write
from scratchlab.model.count import parameter_count, trained_count, training_flops_per_token
from scratchlab.model.load import StoredTensors
from scratchlab.recipe import Recipe
from scratchlab.recipe_files import load_recipe
from scratchlab.runfolder import Record, RunFolder, step_name
from scratchlab.training.answers import answer_test, first_answer, score_of
from scratchlab.training.charts import draw_charts
from scratchlab.training.checkpoint import save_checkpoint, save_snapshot, snapshot_steps
from scratchlab.training.data import holds_pairs, labels_of
from scratchlab.training.forecast import happened
from scratchlab.training.launch import launch
from scratchlab.training.lighter import memory_told
from scratchlab.training.progress import Reporter, Silent
from scratchlab.training.schedule import learning_rate
from scratchlab.training.signals import StopRequest, stop_on_signals
from scratchlab.training.start import Run, create_run, holds_same, pick_up
from scratchlab.training.summary import cost, health, out_of_patience, validation_loss, validation_records
from scratchlab.training.world import CommonStop, World, joined

KEPT_UNITS = 2_000  # of the test split's losses: a file of a hundred kilobytes


def train(recipe: Recipe | str | Path, out: str | Path, report: Reporter | None = None) -> Record:
    """Train `recipe` (or the recipe file at that path) in a new run folder `out`; gives the content of result.json.

    Raises RecipeError, CorpusError, DeviceError or RunError for what a person can put right, and Terminated, with a
    checkpoint saved, when told to stop.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    report, world = report or Silent(), World.here()

    def begin() -> Path:
        if world.started and holds_same(out, recipe):  # torchrun began its processes again, or was begun again itself
            return Path(out)
        return create_run(recipe, out, report.say, world).path

    with joined(world):
        return resume(world.by_first(begin), report)


def resume(out: str | Path, report: Reporter | None = None) -> Record:
    """Go on with the run at `out` from its last good checkpoint; a finished run gives its result at once.

    Every process that torchrun started calls this. Where it started none, and the run was made for several processes,
    it is started here.
    """
    world = World.here()
    report = report if report and world.first else Silent()
    with joined(world):
        folder, recipe = world.by_first(lambda: trainable(out))
        if recipe.settled.processes > 1 and not world.started:
            return launch(folder, recipe.settled.processes, report)
        with held_by_first(folder, world), stop_on_signals(patient=world.size > 1) as stop:
            result = world.by_first(lambda: finished(folder))
            if result is not None:
                report.say(f"{folder.path} is finished.")
                return result
            with memory_told(recipe, folder.path):
                run = pick_up(folder, report, world)
                with closing(run.batches()) as batches:
                    train_steps(run, batches, stop)
                return finish(run)


def trainable(out: str | Path) -> tuple[RunFolder, Recipe]:
    """The folder of a run that can go on, and its resolved recipe."""
    folder = RunFolder.open(out)
    if "imported" in folder.manifest():
        raise RunError(f"{out} was imported, and has nothing to go on with. Begin a run from it: start.weights={out}")
    return folder, folder.resolved()


@contextmanager
def held_by_first(folder: RunFolder, world: World) -> Generator[None]:
    """The run is locked by the first process, for all of them."""
    with ExitStack() as lock:
        world.by_first(lambda: lock.enter_context(folder.locked()))
        yield


def finished(folder: RunFolder) -> Record | None:
    """The result of a run that has ended; one whose last checkpoint is damaged has to train those steps again."""
    result = folder.result()
    return None if result is None or folder.last_good_checkpoint()[1] else result


def train_steps(run: Run, batches: Iterator[Any], stop: StopRequest) -> None:
    """Train from `run.step` to the end, with one extra turn so that the last save and evaluation need no copy."""
    if run.weights_of is not None:  # it was cut off when all was done but the result
        return
    training, evaluation, kept = run.recipe.training, run.recipe.evaluation, snapshot_steps(run.recipe)
    stop_of_all = CommonStop(stop, run.world)
    for step in range(run.step, run.steps + 1):
        last, stopping = step == run.steps, stop_of_all.heard()
        due = last or stopping or step % training.checkpoint_every == 0
        if due and (step > run.step or run.steps == 0):
            save(run, step)  # before it is evaluated: a resume from here repeats the evaluation
        if stopping and not last:
            raise Terminated(f"Stopped at step {step}. To go on: scratchlab train --resume {run.folder.path}")
        if step in kept:
            keep(run, step)
        if last or (step > 0 and step % evaluation.every == 0):
            evaluate(run, step)
            last = last or out_of_patience(run.validated, training.patience)
        if run.tasks and (last or (step > 0 and step % evaluation.suites_every == 0)):
            ask_tasks(run, step)
        if last:
            end(run, step)
            break
        run.state, metrics = run.backend.step(run.state, next(batches), run.place(step))
        run.journal.add(step, learning_rate(training, run.place(step), run.place(run.steps)), metrics)
        if run.journal.due:
            write_metrics(run, keep_newest=True)


def write_metrics(run: Run, keep_newest: bool = False) -> None:
    """Append the metrics that are ready, show where the run is, and look at the very first loss."""
    records = run.journal.write(keep_newest)
    if records and records[0]["step"] == 0 and run.recipe.start.weights is None:
        symbols = len(labels_of(run.corpus)) or run.corpus.vocab_size
        check_first_loss(records[0]["loss"], symbols, run.recipe.model, run.report)
    if records:
        run.report.at(records[-1]["step"] + 1, run.steps, records[-1]["loss"], run.journal.tokens_per_second)


def save(run: Run, step: int) -> None:
    """A checkpoint, after the metrics of every step before it."""
    write_metrics(run)
    with run.journal.spent_on("checkpoints"):
        save_checkpoint(run.folder, run.backend, run.state, step, run.world)


def end(run: Run, step: int) -> None:
    """The last step. With patience the weights become those of the best evaluation, in a checkpoint of their own.

    By that checkpoint a resume knows that nothing is left to train: it holds weights alone.
    """
    run.step = step
    if run.recipe.training.patience is None:
        return
    if not run.folder.has_snapshot("best"):  # it diverged before it was ever evaluated
        save(run, step)
        return
    path, record = run.world.by_first(lambda: run.folder.snapshot("best"))
    run.weights_of, extras = record["step"], run.backend.extras(run.state)
    with run.journal.spent_on("checkpoints"):
        run.state = None  # its memory is needed
        files = run.world.by_first(lambda: run.folder.weight_files(path))
        run.state = run.backend.restore(StoredTensors(*files), extras)
        save_checkpoint(run.folder, run.backend, run.state, step, run.world, run.weights_of)
    run.report.say(f"The weights are those of step {run.weights_of}, where the validation loss was lowest.")


def keep(run: Run, step: int) -> None:
    """A snapshot of the weights on their way."""
    write_metrics(run)
    with run.journal.spent_on("snapshots"):
        save_snapshot(run.folder, run.backend, run.state, step_name(step), step, run.world)


def evaluate(run: Run, step: int) -> None:
    """The validation loss, the weights if they are the best so far, and a sample of what they write."""
    write_metrics(run)
    with run.journal.spent_on("evaluation"):
        if "validation" in run.yardstick.manifest.splits:
            units, compared = split_loss(run, "validation", run.recipe.evaluation.max_tokens)
            figures = units.summary().to_json() | compared
            run.journal.note({"step": step, "validation": figures})
            run.report.say(f"step {step}: validation {told(units.summary(), compared)}")
            loss = validation_loss(figures)
            better = loss < run.best
            run.validated.append(loss)
            if not math.isfinite(loss):
                return  # it has diverged: nothing to keep, and nothing it could write
            if better:
                save_snapshot(run.folder, run.backend, run.state, "best", step, run.world)
        if run.recipe.evaluation.sample_tokens and not labels_of(run.corpus):
            sample = {"step": step, **write_sample(run)}
            run.world.by_first(lambda: run.folder.append_sample(sample))


def ask_tasks(run: Run, step: int) -> None:
    """How the weights as they are do on the tasks that the recipe names; its time is counted apart.

    A run that has diverged goes on without: it is finished as one that is asked nothing.
    """
    write_metrics(run)
    with run.journal.spent_on("suites"):
        subject = model_subject(str(run.folder.path), "", run.backend.model(run.state), run.corpus.tokenizer)
        try:
            results = {task.name: score_task(subject, task, asked) for task, asked in run.tasks}
        except RunError as error:
            run.report.say(f"step {step}: {error}")
            return
        figures = {name: figures_of(result) for name, result in results.items()}
        run.journal.note({"step": step, "suites": figures})
    for name, result in results.items():
        run.report.say(f"step {step}: {name} {result.metric} {result.main} (n = {result.n:,})")


def figures_of(result: TaskResult) -> Record:
    """What metrics.jsonl says of a task: not where the run lies, which the metrics do not depend on."""
    return {name: value for name, value in result.to_json().items() if name not in ("model", "task")}


def told(loss: LossResult, compared: Record) -> str:
    """A validation in a line."""
    if compared:
        nats, share, pairs = compared["loss"], compared["accuracy"], compared["pairs"]
        return f"loss {math.nan if nats is None else nats:.4f} nats/pair, accuracy {share:.1%} (n = {pairs:,} pairs)"
    if loss.accuracy is not None:
        return f"loss {loss.nats_per_token:.4f} nats/text, {loss.accuracy:.1%} of {loss.n_units:,} labels right"
    return f"loss {loss.nats_per_token:.4f} nats/token, {loss.bits_per_byte:.4f} bits/byte"


def split_loss(run: Run, split: str, max_tokens: int | None = None) -> tuple[UnitLosses, Record]:
    """Loss of the weights as they are on one split of the corpus that scores, unit by unit: of examples, on what the
    assistant says in each; of pairs, on the chosen answers, and what is made of the preferences (`preferred`)."""
    model = run.recipe.model
    if labels_of(run.yardstick):
        of_labels = run.yardstick.split(split)
        return evaluate_labels(run.backend.model(run.state), of_labels, model.context_length, max_tokens), {}
    scorer = run.backend.scorer(run.state)
    text, sizes = run.yardstick.split(split), byte_lengths(run.yardstick.tokenizer)
    if holds_pairs(run.yardstick):
        scored = score_pairs(scorer, text, model.context_length, sizes, max_tokens)
        gains = scored.margins - run.reference[split][scored.numbers]
        return scored.chosen, preferred(gains, run.recipe.finetuning.beta)
    if run.yardstick.manifest.examples is not None:
        return evaluate_examples(scorer, text, model.context_length, sizes, max_tokens), {}
    units = evaluate_units(
        scorer.windows,
        text,
        model.context_length,
        max_tokens,
        model.remembers,
        symbol_bytes=sizes,
        device=run.recipe.settled.device,
    )
    return units, {}


def write_sample(run: Run) -> Record:
    """What the model writes from the start of a document, always with the same seed; or the likeliest answer to a
    question that it is not taught."""
    model, most = run.backend.model(run.state), run.recipe.evaluation.sample_tokens
    if run.corpus.chat_template is not None:
        held_out = [split for split in ("validation", "test") if split in run.corpus.manifest.splits]
        return first_answer(model, run.corpus, (held_out or ["train"])[0], most)
    return {"text": "".join(write(model, run.corpus.tokenizer, "", Settings(max_tokens=most)))}


def check_first_loss(loss: float | None, vocab_size: int, model: ModelSection, report: Reporter) -> None:
    """An untrained model should find every token about as likely as any other: a loss of ln(vocabulary)."""
    expected = math.log(vocab_size)
    if loss is None or abs(loss - expected) > 0.1 * expected:
        shown = "not finite" if loss is None else f"{loss:.3f}"
        cause = "Usually this means initial weights of the wrong size, or targets that are not the next tokens."
        if isinstance(model, GPTSection) and model.tie_weights and model.initialization == "book":
            cause = (
                "The head is tied to an embedding of deviation 1 (model.tie_weights with model.initialization = "
                "'book'), which makes logits sqrt(d_model) large. Untie it, or use initialization = 'gpt2'."
            )
        report.say(f"Warning: the first loss is {shown}, where ln(vocabulary) is {expected:.3f}. {cause}")


def finish(run: Run) -> Record:
    """Score the final weights on the test split, add everything up, draw the charts, and write result.json."""
    with run.journal.spent_on("evaluation"):
        test, compared = split_loss(run, "test") if "test" in run.yardstick.manifest.splits else (None, {})
        asked = run.recipe.evaluation.answers
        answers = answer_test(run.backend.model(run.state), run.yardstick, asked) if asked else []
    return run.world.by_first(lambda: write_result(run, test, compared, answers))


def write_result(run: Run, test: UnitLosses | None, compared: Record, answers: list[Record]) -> Record:
    """What the run came to, from all that its folder says; `compared` is what it makes of pairs of the test split."""
    recipe, folder = run.recipe, run.folder
    device, precision = run.journal.device, recipe.settled.precision  # this process's own, where each has one
    flops_per_token = training_flops_per_token(recipe.model, run.corpus.vocab_size, recipe.finetuning)
    tokens_per_step = recipe.training.global_batch_size * recipe.model.context_length
    manifest = folder.manifest()
    lineage = manifest.get("lineage", [])
    run.journal.write()
    metrics, meters = folder.metrics(), folder.meters()
    validations = [record | record.pop("validation") for record in validation_records(metrics)]
    finite = [record for record in validations if math.isfinite(validation_loss(record))]
    result: Record = {
        "steps": run.step,
        "tokens_with_lineage": run.step * tokens_per_step + sum(earlier["tokens"] for earlier in lineage),
        "parameters": parameter_count(recipe.model, run.corpus.vocab_size),
        "trained_parameters": trained_count(recipe.model, run.corpus.vocab_size, recipe.finetuning),
        "test": test and test.summary().to_json() | compared,
        "validation": validations[-1] if validations else None,
        "best_validation": min(finite, key=validation_loss, default=None),
        "health": health(metrics, recipe.training.clip_norm),
        "cost": cost(
            meters,
            flops_per_token,
            hardware.matmul_rate(device, precision),
            nominal_rate(device, precision),
            price_per_hour(hardware.device_name(device)),
        ),
        "peak_memory_bytes": hardware.peak_memory(device),
    }
    result["cost"]["price_source"] = rent_source(hardware.device_name(device))
    if recipe.training.patience is not None:
        stopped_at = run.step if run.step < run.steps else None
        result["early_stopping"] = {"stopped_at": stopped_at, "weights_of": run.weights_of}
    if answers:
        folder.save_answers(answers)
        result["answers"] = score_of(answers)
    if "forecast" in manifest and run.steps:  # none for no steps, nor from before there were any
        result["forecast"] = happened(manifest["forecast"], result["cost"], result["peak_memory_bytes"])
    if test is not None and np.isfinite(test.nats).all():
        folder.save_test_units(test.merged(KEPT_UNITS).to_json())
    draw_charts(folder, recipe)
    folder.finish(result)
    return result
