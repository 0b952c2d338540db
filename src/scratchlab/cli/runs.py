"""`scratchlab show` and `scratchlab runs`."""

from pathlib import Path
from typing import Any

import click

from scratchlab.cli.output import aligned, as_json, count, duration, loss_text, pairs_text, tells_labels, with_error
from scratchlab.cli.output import show as print_report
from scratchlab.errors import ScratchlabError


@click.command(epilog="Example: scratchlab show runs/first")
@click.argument("run")
@as_json
def show(run: str, as_json: bool) -> None:
    """What RUN is, how it went, and where things lie."""
    from scratchlab.runfolder import RunFolder

    print_report(describe(RunFolder.open(run)), as_json, run_text)


@click.group(invoke_without_command=True, epilog="Example: scratchlab runs diff runs/first runs/second")
@as_json
@click.pass_context
def runs(context: click.Context, as_json: bool) -> None:
    """List runs (those in the folder `runs` if no command is given), compare two, delete one."""
    if context.invoked_subcommand is None:
        context.invoke(list_runs, as_json=as_json)


@runs.command("list", epilog="Example: scratchlab runs list runs")
@click.argument("folder", default="runs")
@as_json
def list_runs(folder: str, as_json: bool) -> None:
    """The runs in FOLDER (default: runs), with where each stands."""
    from scratchlab.runfolder import find_runs

    print_report({"runs": [_describe_or_say(run) for run in find_runs(folder)]}, as_json, _list_text)


@runs.command(epilog="Example: scratchlab runs diff runs/first runs/second --json")
@click.argument("a")
@click.argument("b")
@as_json
def diff(a: str, b: str, as_json: bool) -> None:
    """What differs between the recipes and the results of runs A and B."""
    from scratchlab.recipe import differences
    from scratchlab.runfolder import RunFolder

    left, right = RunFolder.open(a), RunFolder.open(b)
    report = {
        "a": a,
        "b": b,
        "same_fingerprint": left.manifest()["fingerprint"] == right.manifest()["fingerprint"],
        "recipe": {field: list(values) for field, values in differences(left.resolved(), right.resolved()).items()},
        "environment": _changed(left.manifest()["environment"], right.manifest()["environment"]),
        "corpus": _changed(left.manifest()["corpus"], right.manifest()["corpus"]),
        "results": _changed(_flat_result(left.result()), _flat_result(right.result())),
    }
    print_report(report, as_json, _diff_text)


@runs.command(epilog="Example: scratchlab runs delete runs/first")
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(run: str, yes: bool) -> None:
    """Delete RUN and everything in it. Asks first."""
    from scratchlab.runfolder import RunFolder

    folder = RunFolder.open(run)
    if not yes:
        click.confirm(f"Delete {run} and its {folder.size() / 1e6:.1f} MB for good?", abort=True)
    folder.delete()
    click.echo(f"Deleted {run}.")


def describe(folder: Any) -> dict[str, Any]:
    """Everything worth knowing about a run, from its folder alone."""
    from scratchlab.model.count import parameter_count
    from scratchlab.training.summary import step_records

    recipe, manifest = folder.resolved(), folder.manifest()
    done = step_records(folder.metrics())
    checkpoints = folder.checkpoint_steps()
    samples = folder.samples()
    return {
        "run": str(folder.path),
        "state": "imported" if "imported" in manifest else "finished" if folder.result() else "unfinished",
        "imported": manifest.get("imported"),
        "lineage": manifest.get("lineage", []),
        "step": done[-1]["step"] + 1 if done else 0,
        "steps": recipe.training.steps,
        "last_checkpoint": checkpoints[-1] if checkpoints else None,
        "fingerprint": manifest["fingerprint"],
        "parameters": parameter_count(recipe.model, manifest["vocab_size"]),
        "corpus": manifest["corpus"]["path"],
        "recipe": recipe.model_dump(),
        "environment": manifest["environment"],
        "result": folder.result(),
        "sample": samples[-1]["text"] if samples else None,
        "bytes_on_disk": folder.size(),
        "charts": [str(path) for path in folder.charts()],
    }


def _describe_or_say(folder: Any) -> dict[str, Any]:
    """One damaged run must not hide the others."""
    try:
        return describe(folder)
    except (ScratchlabError, KeyError) as error:
        unknown = {"state": "damaged", "step": "?", "steps": "?", "result": None}
        return {"run": str(folder.path), **unknown, "error": str(error)}


def run_text(run: dict[str, Any]) -> str:
    """A run for people."""
    model, training, execution = (run["recipe"][part] for part in ("model", "training", "execution"))
    shape = (
        f"  model      {model.get('cell', 'gpt')}, {count(model['n_layer'], 'layer')}, "
        + (f"{count(model['n_head'], 'head')}, " if "n_head" in model else "")
        + f"{model['d_model']} wide, context {model['context_length']}"
    )
    if run["imported"]:
        return "\n".join([f"{run['run']}: imported", shape, *_import_lines(run)])
    lines = [
        f"{run['run']}: {run['state']}, step {run['step']} of {run['steps']}",
        shape,
        f"  training   {training['global_batch_size']} sequences a step, learning rate {training['learning_rate']:g}, "
        f"{training['schedule']}, {training['precision']}, on {run['environment']['device']}",
        f"  execution  {count(execution['threads'], 'thread')}, micro-batch {execution['micro_batch_size']}, "
        f"compile {'on' if execution['compile'] else 'off'}"
        + (f", made for {execution['processes']} processes" if execution["processes"] > 1 else ""),
        f"  corpus     {run['corpus']}",
    ]
    lines += [f"  began from {earlier['run']} at step {earlier['step']}" for earlier in run["lineage"][-1:]]
    lines += _result_lines(run["result"]) if run["result"] else [f"  resume     scratchlab train --resume {run['run']}"]
    lines += [f"  charts     {Path(run['charts'][0]).parent}"] if run["charts"] else []
    lines += [f"  on disk    {run['bytes_on_disk'] / 1e6:.1f} MB"]
    if run["sample"]:
        lines += ["  it writes", *("    " + line for line in run["sample"].strip().splitlines()[:8])]
    return "\n".join(lines)


def _import_lines(run: dict[str, Any]) -> list[str]:
    origin, name = run["imported"], run["run"]
    revision = f", revision {origin['revision'][:12]}" if "revision" in origin else ""
    return [
        f"  parameters {run['parameters']:,}",
        f"  from       {origin['source']} ({origin['format']}{revision})",
        f"  on disk    {run['bytes_on_disk'] / 1e6:.1f} MB",
        f"  let it write:    scratchlab sample {name} --prompt 'The '",
        f"  give it text:    scratchlab corpus build TEXT... --tokenizer {name} --out corpora/mine",
        f"  measure it:      scratchlab evaluate {name} --corpus corpora/mine",
        f"  train it on:     scratchlab train {name}/recipe.toml --out DIR corpus=corpora/mine training.steps=500 "
        "training.learning_rate=1e-4",
    ]


def _result_lines(result: dict[str, Any]) -> list[str]:
    cost, health = result["cost"], result["health"]
    lines = _split_lines("test", result["test"]) if result["test"] else []
    if asked := result.get("answers"):
        chrf = with_error(asked["chrf"], asked["chrf_error"], 2)
        lines += [f"  answers    chrF {chrf} beside the references (n = {asked['n']:,} questions of the test split)"]
    if result["validation"]:
        lines += _split_lines("validation", result["validation"])
    if best := result["best_validation"]:  # a run that never had a finite loss has none
        unit = "text" if tells_labels(best) else "token"
        loss = f"{best['loss']:.4f} nats/pair" if "loss" in best else f"{best['nats_per_token']:.4f} nats/{unit}"
        lines += [f"  best       validation {loss} at step {best['step']}"]
    if stopping := result.get("early_stopping"):
        stopped = "ran to its end" if stopping["stopped_at"] is None else f"stopped at step {stopping['stopped_at']}"
        lines += [f"  patience   {stopped}; its weights are those of step {stopping['weights_of']}"]
    parts = ", ".join(f"{part} {duration(seconds)}" for part, seconds in cost["seconds"].items())
    nominal = cost["mfu_of_nominal_peak"]
    lines += [
        f"  parameters {result['parameters']:,}{_adapters(result)}, trained on {_tokens(result)} tokens",
        f"  cost       {duration(cost['total_seconds'])} ({parts}), peak memory "
        f"{result['peak_memory_bytes'] / 1e9:.2f} GB",
        *_money_lines(cost),
        *_forecast_lines(result.get("forecast")),
        f"  speed      {cost['training_tokens_per_second']:,.0f} tokens/s, {cost['mfu_of_measured_matmul']:.0%} of the "
        f"{cost['measured_matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s measured for a large product here"
        + (f", {nominal:.0%} of the nominal peak" if nominal else ""),
        f"  health     {health['skipped_steps']} steps skipped, {health['clipped_share']:.0%} clipped, "
        f"{len(health['spikes'])} loss spikes",
    ]
    return lines


def _split_lines(name: str, figures: dict[str, Any]) -> list[str]:
    """The loss on a split; of a run that learns from pairs on their chosen answers, with what it makes of the pairs."""
    if "pairs" not in figures:
        return [f"  {name:<10} {loss_text(figures)}"]
    return [f"  {name:<10} {pairs_text(figures)}", f"  {'':<10} chosen answers: {loss_text(figures)}"]


def _money_lines(cost: dict[str, Any]) -> list[str]:
    if cost.get("price") is None:  # none is known, or the run was made before there were any
        return []
    source = cost.get("price_source")  # which earlier runs did not keep
    return [
        f"  rent       {cost['price']:.2f} usd at {cost['price_per_hour']:.2f} a device and hour, "
        f"{cost['price_without_evaluation']:.2f} without evaluation" + (f" ({source})" if source else "")
    ]


def _forecast_lines(forecast: dict[str, Any] | None) -> list[str]:
    if forecast is None:
        return []
    seconds, memory = forecast["seconds"], forecast["peak_memory"]
    said = [f"{memory['forecast'] / 1e9:.2f} GB ({memory['error']:+.0%})"]
    if seconds["error"] is not None:
        said.insert(0, f"{duration(seconds['forecast'])} ({seconds['error']:+.0%})")
    return [f"  forecast   {', '.join(said)}; time by {forecast['basis']}"]


def _adapters(result: dict[str, Any]) -> str:
    trained = result.get("trained_parameters", result["parameters"])
    return "" if trained == result["parameters"] else f" frozen, {trained:,} in adapters"


def _tokens(result: dict[str, Any]) -> str:
    own, all_of_them = result["cost"]["tokens"], result.get("tokens_with_lineage")
    return f"{own:,}" if all_of_them in (None, own) else f"{own:,} (with those of the runs before it, {all_of_them:,})"


def _list_text(report: dict[str, Any]) -> str:
    if not report["runs"]:
        return "No runs here."
    rows = [("run", "state", "step", "test bits/byte")]
    for run in report["runs"]:
        test = (run["result"] or {}).get("test")
        test = None if test and tells_labels(test) else test
        rows.append(
            (run["run"], run["state"], f"{run['step']}/{run['steps']}", f"{test['bits_per_byte']:.4f}" if test else "-")
        )
    return "\n".join(aligned(rows))


def _diff_text(report: dict[str, Any]) -> str:
    lines = [f"{report['a']} and {report['b']}"]
    if report["same_fingerprint"]:
        lines.append("  the same recipe on the same corpus (equal fingerprints)")
    for part in ("recipe", "environment", "corpus", "results"):
        lines += [f"  {part} {field}: {a} | {b}" for field, (a, b) in report[part].items()]
    return "\n".join(lines)


def _changed(a: dict[str, Any], b: dict[str, Any]) -> dict[str, list[Any]]:
    return {key: [a.get(key), b.get(key)] for key in sorted(a | b) if a.get(key) != b.get(key)}


def _flat_result(result: dict[str, Any] | None) -> dict[str, Any]:
    """The figures of a result that two runs are compared by."""
    flat: dict[str, Any] = {"parameters": (result or {}).get("parameters")}
    for part in ("test", "validation", "best_validation"):
        for name in ("nats_per_token", "bits_per_byte", "loss", "accuracy"):
            flat[f"{part}.{name}"] = ((result or {}).get(part) or {}).get(name)
    cost = (result or {}).get("cost") or {}
    return flat | {name: cost.get(name) for name in ("total_seconds", "training_tokens_per_second")}
