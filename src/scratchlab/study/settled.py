"""What was settled for a study, and its file: `settled.json`, by which every executor on every machine goes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scratchlab.errors import RecipeError, RunError
from scratchlab.files import pretty_json, write_atomically
from scratchlab.recipe import Recipe, fingerprint, recipe_from
from scratchlab.study.definition import Study
from scratchlab.study.sections import Changes
from scratchlab.study.table import ROLES, Seeds

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class SettledArm:
    """An arm with nothing left open but its seeds."""

    given: str
    """Hash of what the study file says of it, corpora by their content."""
    recipe: Recipe
    corpus: str
    evaluation: str
    """Hashes of the corpora that train and score it."""
    weights: str | None
    """Hash of the weights it begins from."""
    seconds_per_step: float | None = None
    """Measured, where arms are given equal time."""

    def run(self, seeds: Seeds, changes: Changes | None = None) -> tuple[Recipe, str]:
        """The recipe of one run of this arm, and its fingerprint."""
        roles = {f"seeds.{role}": seed for role, seed in zip(ROLES, seeds, strict=True)}
        recipe = self.recipe.replaced({**(changes or {}), **roles})
        return recipe, fingerprint(recipe, self.corpus, self.evaluation, self.weights)

    @property
    def identity(self) -> str:
        """What arms share that come to the same."""
        return fingerprint(self.recipe, self.corpus, self.evaluation, self.weights)

    def to_json(self) -> dict[str, Any]:
        return {
            "given": self.given,
            "corpus": self.corpus,
            "evaluation": self.evaluation,
            "weights": self.weights,
            "seconds_per_step": self.seconds_per_step,
            "recipe": self.recipe.model_dump(exclude_unset=True),
        }


@dataclass(frozen=True, slots=True)
class SettledStudy:
    """What every executor of a study goes by."""

    declared: Mapping[str, Any]
    """Metric, looks and what else must not change once there are results."""
    environment: Mapping[str, str]
    """Where it was settled, as `hardware.environment` tells it."""
    arms: Mapping[str, SettledArm]
    """By name, the baseline first."""
    family: Mapping[str, str] = field(default_factory=dict[str, str])
    """Every intervention that was declared, by name, with `SettledArm.given`: also those that were tried and then taken
    out of the study file or changed, for a claim is picked from among all that were tried."""

    def to_json(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
            "declared": dict(self.declared),
            "environment": dict(self.environment),
            "arms": {name: arm.to_json() for name, arm in self.arms.items()},
            "family": dict(self.family),
        }


def write_settled(study: Study, settled: SettledStudy) -> None:
    write_atomically(study.folder / "settled.json", pretty_json(settled.to_json()))


def read_settled(study: Study) -> SettledStudy | None:
    """What was settled for a study, or None before its first run. `RunError` if the file is damaged."""
    path = study.folder / "settled.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["format_version"]
        arms = {name: _arm(arm, f"{path}: {name}") for name, arm in content["arms"].items()}
        settled = SettledStudy(content["declared"], content["environment"], arms, content.get("family", {}))
    except (ValueError, KeyError, TypeError, AttributeError, RecipeError) as error:
        raise RunError(f"{path} is damaged: {error}. Put it back, or remove it to settle the study anew.") from None
    if version != FORMAT_VERSION:
        raise RunError(f"{path}: format version {version!r}; this scratchlab reads version {FORMAT_VERSION}.")
    return settled


def _arm(content: dict[str, Any], where: str) -> SettledArm:
    return SettledArm(
        given=content["given"],
        recipe=recipe_from(content["recipe"], where),
        corpus=content["corpus"],
        evaluation=content["evaluation"],
        weights=content["weights"],
        seconds_per_step=content["seconds_per_step"],
    )
