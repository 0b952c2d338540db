"""The learning rate as a function of the step."""

import math

from scratchlab.recipe import TrainingSection


def learning_rate(training: TrainingSection, step: int, steps: int) -> float:
    """The rate of update `step` (counted from 0) of `steps`.

    A linear warm-up that is never 0, then the schedule, which reaches its final value after the last step.
    wsd: warm-up, stable, decay (Hu et al. 2024, MiniCPM).
    """
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / (training.warmup_steps + 1)
    return training.learning_rate * _factor(training, step, steps)


def _factor(training: TrainingSection, step: int, steps: int) -> float:
    final = training.final_learning_rate
    past = (step - training.warmup_steps) / max(1, steps - training.warmup_steps)
    match training.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 + (final - 1.0) * past
        case "cosine":
            return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * past))
        case "epochs":
            assert training.epoch_steps is not None
            epochs = step // training.epoch_steps
            return training.epoch_decay ** max(0, epochs - training.decay_after_epochs + 1)
        case "wsd":
            decay_steps = max(1, round(training.decay_share * steps))
            return 1.0 + (final - 1.0) * max(0.0, (step - (steps - decay_steps)) / decay_steps)
