"""What a run answers: to the first question of a split on its way, to those of the test split at its end."""

import math
from collections.abc import Sequence

from scratchlab.corpus.examples.asked import Asked, read_asked
from scratchlab.corpus.store import Corpus
from scratchlab.evaluation.chrf import chrf_scores
from scratchlab.evaluation.processes import gathered, own_share
from scratchlab.generation.batching import Wish, write_all
from scratchlab.generation.context import fitted
from scratchlab.generation.engine import Settings
from scratchlab.generation.text import stream_text
from scratchlab.model.build import Model
from scratchlab.runfolder import Record

ANSWER_TOKENS = 256  # the book's; a model that has not learned to stop goes on as long as it may


def first_answer(model: Model, corpus: Corpus, split: str, most: int) -> Record:
    """What the model answers to the first question of a split, and the question."""
    asked = read_asked(corpus.split(split), 0)
    return {"prompt": corpus.tokenizer.decode(asked.prompt), "text": _answers(model, corpus, [asked], most)[0]}


def answer_test(model: Model, corpus: Corpus, most: int) -> list[Record]:
    """The likeliest answers to the first `most` questions of the test split, each with its reference and their chrF.

    Where torch.distributed has several processes, all must call this; each answers its share, and all get all.
    """
    split, share, decode = corpus.split("test"), own_share(), corpus.tokenizer.decode
    asked = [read_asked(split, number) for number in range(min(most, len(split.document_bytes)))]
    own = range(share.rank, len(asked), share.count)
    said = _answers(model, corpus, [asked[number] for number in own], ANSWER_TOKENS)
    answered = dict(gathered(list(zip(own, said, strict=True))))
    answers, references = [answered[number] for number in range(len(asked))], [decode(one.response) for one in asked]
    scores = chrf_scores(answers, references).tolist()
    return [
        {"id": one.id, "prompt": decode(one.prompt), "answer": answer, "reference": reference, "chrf": score}
        for one, answer, reference, score in zip(asked, answers, references, scores, strict=True)
    ]


def score_of(answers: list[Record]) -> Record:
    """Their mean chrF and its standard error over questions."""
    scores = [record["chrf"] for record in answers]
    n, mean = len(scores), sum(scores) / len(scores)
    error = math.sqrt(sum((score - mean) ** 2 for score in scores) / (n - 1) / n) if n > 1 else None
    return {"chrf": mean, "chrf_error": error, "n": n}


def _answers(model: Model, corpus: Corpus, asked: Sequence[Asked], most: int) -> list[str]:
    """Greedy, to the end of the assistant's turn or of the model's context."""
    template, tokenizer = corpus.chat_template, corpus.tokenizer
    assert template is not None
    ends = (template.end_of_turn(tokenizer),)
    greedy = Settings(max_tokens=most, temperature=0)
    fits = [fitted(one.prompt.tolist(), greedy, model.most_tokens) for one in asked]
    wishes = [Wish(prompt=one.prompt, settings=one.settings, ends=ends) for one in fits]
    rows = dict(write_all(model, wishes))
    return [
        "".join(stream_text((one.token for one in rows[place].written), tokenizer.token_bytes))
        for place in range(len(asked))
    ]
