"""Many requests, one model: the writer turns the batch while anybody waits, and tells each what came.

All of it happens on the event loop, but for the turn itself, which computes in a thread of its own. Between two turns
the texts that came on are taken: so a stop string ends a text before another token is computed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.generation.batching import Batch, Row, Wish
from scratchlab.model.build import Model
from scratchlab.serving.choices import Choice
from scratchlab.serving.refusals import Refusal

RETRY_AFTER = 1
"""Seconds after which to ask again: places come free between any two tokens."""

logger = logging.getLogger("scratchlab.serving")


class Order:
    """The texts of one request, while they are written."""

    def __init__(self, choices: Sequence[Choice]) -> None:
        self.choices = choices
        self.refusal: Refusal | None = None
        """Why it ends before its time."""
        self._came, self._over = asyncio.Event(), asyncio.Event()

    def come_on(self, choice: Choice) -> None:
        """A row has written: take it."""
        choice.come_on()
        if choice.row.error is not None:
            self.end(Refusal(str(choice.row.error), status=500))
        elif all(choice.over for choice in self.choices):
            self._over.set()
        self._came.set()

    def end(self, refusal: Refusal) -> None:
        self.refusal = self.refusal or refusal
        self._over.set()
        self._came.set()

    async def all_of_it(self) -> None:
        """Wait until all is written. Raises the refusal if it ended before."""
        await self._over.wait()
        if self.refusal is not None:
            raise self.refusal

    async def as_it_comes(self) -> AsyncIterator[None]:
        """Comes back whenever there is more, until all is written. Raises the refusal if it ended before."""
        over = False
        while not over:
            await self._came.wait()
            self._came.clear()
            over = self._over.is_set()  # before whoever reads takes its time: what comes meanwhile is told of once more
            yield
        await self.all_of_it()

    def give_up(self) -> None:
        """Nobody waits for it any more: its places are free at the next turn."""
        for choice in self.choices:
            choice.row.gone = True


class Writer:
    """At most `most_rows` texts at once, and `most_waiting` more that wait."""

    def __init__(self, model: Model, tokenizer: Tokenizer, most_rows: int, most_waiting: int) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._most_rows, self._most_waiting = most_rows, most_waiting
        self._n_threads = torch.get_num_threads()  # which OpenMP has for each thread apart
        self._batch = Batch(model, most_rows)
        self._orders: dict[Row, tuple[Order, Choice]] = {}
        self._wanted = asyncio.Event()
        self._closed = False

    @property
    def running(self) -> int:
        return self._batch.running

    @property
    def waiting(self) -> int:
        return self._batch.waiting

    def order(self, wishes: Sequence[Wish], echo: bool) -> Order:
        """Take a request's texts on. Refusal when there are too many, or if it is closing."""
        if self._closed:
            raise _closing()
        if len(wishes) > (most := self._most_rows + self._most_waiting):
            raise Refusal(f"{len(wishes)} texts are asked for at once; this server takes {most} at most.", param="n")
        if len(self._orders) + len(wishes) > most:
            raise Refusal(
                f"The server is busy: {self.running} texts are being written and {self.waiting} wait. Ask again.",
                status=429,
                code="busy",
                retry_after=RETRY_AFTER,
            )
        rows = [self._batch.add(wish) for wish in wishes]
        order = Order([Choice(index, row, self._tokenizer, echo) for index, row in enumerate(rows)])
        self._orders |= {choice.row: (order, choice) for choice in order.choices}
        self._wanted.set()
        return order

    async def run(self) -> None:
        """Write, until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "model", torch.set_num_threads, (self._n_threads,)) as thread:
            while True:
                if not self.running and not self.waiting:
                    self._wanted.clear()
                    await self._wanted.wait()
                try:
                    moved = await loop.run_in_executor(thread, self._batch.turn)
                except Exception as error:  # a device that is out of memory, say: the next requests may be smaller
                    logger.exception("the model failed")
                    self._fail(error)
                    continue
                self._tell(moved)

    def close(self) -> None:
        """End all requests, and take no more."""
        self._closed = True
        for order, _ in list(self._orders.values()):
            order.end(_closing())
            order.give_up()

    def _tell(self, moved: Sequence[Row]) -> None:
        for row in moved:
            order, choice = self._orders[row]
            order.come_on(choice)
        self._orders = {row: told for row, told in self._orders.items() if not row.over}

    def _fail(self, error: Exception) -> None:
        for order, _ in self._orders.values():
            order.end(Refusal(f"The model failed: {error or type(error).__name__}.", status=500))
        self._orders = {}
        self._batch = Batch(self._model, self._most_rows)


def _closing() -> Refusal:
    return Refusal("The server is shutting down.", status=503, code="closing")
