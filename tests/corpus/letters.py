"""A text for every number."""

WRITERS = ("Ada", "Grace", "Émilie", "Sofia", "赵夫人")


def story(number: int) -> str:
    """A short text, different for every number, in which words recur."""
    writer = WRITERS[number % len(WRITERS)]
    return (
        f"# Letter {number}\n\nDear {writer},\n\n"
        + f"the engine wrote {number} lines today, and {writer} was glad.\n" * 4
    )
