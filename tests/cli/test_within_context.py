"""`scratchlab answer`, `chat` and `serve` end an answer where the model would lose sight of its question."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from lessons import write_lines
from scratchlab.cli.main import cli
from scratchlab.corpus.chat import CHATML, SPECIALS, ChatTemplate, Message
from scratchlab.corpus.tokenizer import train_tokenizer
from scratchlab.generation.engine import Settings, generate
from scratchlab.judging.answers import Answer, open_answers
from scratchlab.model.build import Model
from scratchlab.model.load import load_model
from scratchlab.runfolder import RunFolder
from scratchlab.serving.requests import ChatRequest
from scratchlab.serving.served import Served
from tiny_run import make_run

TOKENIZER = train_tokenizer("char", ["abcdefghij klmno\n system user assistant"], specials=SPECIALS["chatml"][1:])
CONTEXT = 160


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that never ends an answer by itself: to special tokens it gives 0, and to something else always more."""
    folder = tmp_path_factory.mktemp("runs") / "talkative"

    @torch.no_grad()
    def never_end(model: Model) -> None:
        model.head_weight[list(TOKENIZER.specials.values())] = 0

    make_run(folder, TOKENIZER, CHATML, never_end, context_length=CONTEXT, tie_weights=False)
    return folder


def said(*arguments: Any, input: str | None = None) -> str:
    given = [*map(str, arguments), "--device", "cpu", "--max-tokens", "500", "--temperature", "0"]
    return CliRunner().invoke(cli, given, input=input, catch_exceptions=False).stdout


def answered(run: Path, folder: Path, *questions: str) -> tuple[str, tuple[Answer, ...]]:
    """What the command says, and the answers."""
    data = write_lines(folder / "asked.jsonl", [{"messages": asked(one)} for one in questions])
    text = said("answer", run, "--data", data, "--out", folder / "answers")
    return text, open_answers([folder / "answers"])[0].answers


def asked(question: str) -> list[Message]:
    return [{"role": "user", "content": question}]


def written(run: Path, prompt: list[int], n_tokens: int) -> str:
    model = load_model(RunFolder.open(run), device="cpu")
    return TOKENIZER.decode(list(generate(model, prompt, Settings(max_tokens=n_tokens, temperature=0))))


def test_all_three_write_up_to_the_end_of_the_context_and_no_further(run: Path, tmp_path: Path) -> None:
    questions = ["ab", "cd" * 40, "ef" * 60]
    text, answers = answered(run, tmp_path, *questions)
    assert "3 cut off at --max-tokens or the end of the context" in text
    served = Served.run(RunFolder.open(run), CONTEXT)
    for question, one in zip(questions, answers, strict=True):
        prompt = ChatTemplate(CHATML).prompt(TOKENIZER, asked(question))
        room = CONTEXT - len(prompt) + 1
        assert one.written.text == written(run, prompt, room)
        assert (one.written.tokens, one.written.ended, one.written.cut) == (room, False, 0)
        told = json.loads(said("chat", run, "--json", input=question))
        assert (told["answer"], told["ending"]) == (one.written.text, "context")
        (wish,) = served.chat_wishes(ChatRequest(model="talkative", messages=asked(question)))
        assert wish.settings.max_tokens == room


def test_a_question_beyond_the_context_is_cut_so_that_a_quarter_is_left_for_the_answer(
    run: Path, tmp_path: Path
) -> None:
    text, (one,) = answered(run, tmp_path, "ab" * CONTEXT)
    assert "1 to questions that did not fit the context whole" in text
    prompt, seen = ChatTemplate(CHATML).prompt(TOKENIZER, asked("ab" * CONTEXT)), CONTEXT - CONTEXT // 4
    assert (one.written.cut, one.written.tokens) == (len(prompt) - seen, CONTEXT // 4 + 1)
    assert one.written.text == written(run, prompt[-seen:], CONTEXT // 4 + 1)
