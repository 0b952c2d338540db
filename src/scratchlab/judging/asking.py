"""Asking a judge everything: what was asked before is not asked again, what is malformed is asked for once more.

A prompt whose replies were all malformed has failed. It has no scores, is counted, and is never taken for a 0.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from scratchlab.errors import ScratchlabError, Terminated
from scratchlab.judging.client import RefusedError
from scratchlab.judging.contest import Contest
from scratchlab.judging.cost import Budget
from scratchlab.judging.design import Sheet
from scratchlab.judging.judges import Judge
from scratchlab.judging.paid import Kept, Record, Replies, key_of
from scratchlab.judging.prompts import Prompt, again, make_prompt
from scratchlab.judging.replies import parse_scores

REFUSED = "refused"
GRACE = 5.0
"""Seconds that replies under way, which may be paid for, have to come in after Ctrl-C."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a prompt."""

    sheet: Sheet
    scores: tuple[float, ...] | None
    """In the order of the sheet; None where it failed."""
    problem: str = ""
    """Why it failed: what was wrong with the last reply."""
    kept: tuple[Kept, ...] = ()
    """The replies, the last one the one that counts."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be asked of whom, and how often it may be malformed."""

    contest: Contest
    sheets: Sequence[Sheet]
    judge: Judge
    seed: int
    tries: int
    """Replies that may be malformed before a prompt has failed."""

    def prompt(self, sheet: Sheet) -> Prompt:
        """The first prompt of a sheet."""
        texts = [self.contest.texts[entry][sheet.question] for entry in sheet.order]
        return make_prompt(self.contest.questions[sheet.question], texts, self.seed, sheet.repeat)

    def about(self, sheet: Sheet) -> Record:
        """What people want to know of a reply."""
        names = [self.contest.entries[entry] for entry in sheet.order]
        return {"question": self.contest.questions[sheet.question].id, "repeat": sheet.repeat, "order": names}


@dataclass
class Asked:
    """What came of a task."""

    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    """Of the sheets that were judged, or failed."""
    left: int = 0
    """Sheets for which the money did not suffice."""


def ask_all(task: Task, replies: Replies, budget: Budget, at_once: int, progress: Callable[[int, int], None]) -> Asked:
    """Judge all sheets, `at_once` of them at the same time; `progress` is told how many are done, and of how many.

    What cannot go on (UnreachableError, a key that is not taken) is raised when the requests under way have come back
    and are kept. ScratchlabError if the judge refuses everything. Ctrl-C ends it as Terminated: nothing is waited for
    but, for some seconds, replies under way.
    """
    asked, error, under_way = Asked(), None, set[Future[Outcome | None]]()
    try:
        for future in _a_few_at_a_time(task, replies, budget, at_once, under_way):
            try:
                outcome = future.result()
            except ScratchlabError as found:
                error = error or found
                budget.stop()
                continue
            if outcome is None:
                asked.left += 1
            else:
                asked.outcomes.append(outcome)
                progress(len(asked.outcomes), len(task.sheets))
    except KeyboardInterrupt:
        budget.stop()
        task.judge.stop()
        wait(under_way, GRACE)
        raise Terminated(
            f"Stopped. What {task.judge.name} has replied is kept: run the same command again, and it goes on from "
            "there."
        ) from None
    if error:
        raise error
    _refuse_if_all_refused(task, asked.outcomes)
    return asked


def _a_few_at_a_time(
    task: Task, replies: Replies, budget: Budget, at_once: int, under_way: set[Future[Outcome | None]]
) -> Iterator[Future[Outcome | None]]:
    """Sheets that are done; at most `at_once` are `under_way`, so that stopping leaves nothing begun."""
    ahead = iter(task.sheets)
    while True:
        while len(under_way) < at_once and (sheet := next(ahead, None)) is not None:
            under_way.add(_begun(task, sheet, replies, budget))
        if not under_way:
            return
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        under_way -= done
        yield from done


def _begun(task: Task, sheet: Sheet, replies: Replies, budget: Budget) -> Future[Outcome | None]:
    """Judge a sheet in a thread that ends with the process, whatever a server keeps it waiting for."""
    future: Future[Outcome | None] = Future()

    def work() -> None:
        try:
            future.set_result(_judge(task, sheet, replies, budget))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return future


def _judge(task: Task, sheet: Sheet, replies: Replies, budget: Budget) -> Outcome | None:
    """One sheet, with as many tries as it may have; None where there is no money for the next."""
    prompt, kept, problem = task.prompt(sheet), list[Kept](), ""
    for attempt in range(task.tries):
        try:
            found = _reply(task, sheet, prompt, attempt, replies, budget)
        except RefusedError as error:
            return Outcome(sheet, None, f"{REFUSED}: {error}", tuple(kept))
        if found is None:
            return None
        kept.append(found)
        try:
            scores = parse_scores(found.reply.text, prompt.labels)
        except ValueError as error:
            problem = str(error)
            prompt = again(prompt, found.reply.text, problem)
        else:
            return Outcome(sheet, tuple(scores[label] for label in prompt.labels), kept=tuple(kept))
    return Outcome(sheet, None, f"{task.tries} malformed replies, the last one: {problem}", tuple(kept))


def _reply(task: Task, sheet: Sheet, prompt: Prompt, attempt: int, replies: Replies, budget: Budget) -> Kept | None:
    """The reply that is there, or a new one, which is kept before anything else; None where there is no money."""
    key = key_of(task.judge, prompt)
    found = replies.get(key)
    if found is not None:
        budget.spend(found.reply)
        return found
    with budget.request(prompt) as granted:
        if not granted:
            return None
        question = task.contest.questions[sheet.question].id
        reply = task.judge.ask(prompt, f"question {question}, repeat {sheet.repeat + 1}")
        found = replies.add(key, reply, {**task.about(sheet), "attempt": attempt + 1})
        budget.spend(reply)
        return found


def _refuse_if_all_refused(task: Task, outcomes: Iterable[Outcome]) -> None:
    problems = [outcome.problem for outcome in outcomes if outcome.problem.startswith(REFUSED)]
    if problems and len(problems) == len(task.sheets):
        raise ScratchlabError(f"{task.judge.name} judges nothing; the first of {len(problems):,}: {problems[0]}.")


def missing(task: Task, known: Mapping[str, Kept]) -> list[Prompt]:
    """The prompts that would be asked now, second tries aside: for a dry run."""
    prompts = [task.prompt(sheet) for sheet in task.sheets]
    return [prompt for prompt in prompts if key_of(task.judge, prompt) not in known]
