"""Texts that tokenizers stumble over, and ordinary ones."""

import builtins
import functools

from scratchlab.corpus.tokenizer import Tokenizer
from scratchlab.errors import CorpusError

HARD = (
    "",
    " ",
    "   three before, three after   ",
    "Hello, world!",
    "It's we'll they've I'd CAN'T won't",
    "one\ttab,\ttwo\t\ttabs",
    "lines\nlines\r\nlines\n\n\n  indented\n\ttabbed\n",
    "trailing newline\n",
    "3.14159 1,000,000 007 1e-5 ½ ²",
    "def f(x):\n    return x**2  # comment\n",
    '{"key": [1, null, true], \'single\': "\\u00e9\\\\"}',
    "https://example.org/a?b=c&d=%20#e",
    "<b>bold</b> &amp; &lt;tags&gt;",
    "a" * 300,
    "x y " * 40,
    "naïve café, Ångström; ﬁ ﬀ",
    "é é",  # composed, and with a combining mark
    "Straße ÇĞİÖŞÜ ЖЩЫ Ωμέγα",
    "שלום עולם مرحبا بالعالم",
    "中文字符。日本語テキスト、한국어 텍스트",
    "हिन्दी ไทย தமிழ்",
    "🙂 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 e\u0301",
    "“quotes” ‘single’ — dash – … •",
    "nonbreaking\u00a0space, zero\u200bwidth, \u2028line, \ufeffmark",
    "\x00\x01\x1b[31m\x7f\x80\x9f",
    "\U0001f600\U00010348\U000e0041\ufffd",
    " ,.!?' spaces before punctuation , . ! ? n't 's",
)
"""No name of a special token is among them: transformers takes it for the token, and scratchlab for letters."""


def hard_strings(tokenizer: Tokenizer) -> list[str]:
    """Those of `HARD`, without what the tokenizer has no symbol for (one of characters knows few)."""
    texts = dict.fromkeys(spoken(tokenizer, text) for text in HARD)
    return [text for text in texts if without_specials(tokenizer, text)]


def without_specials(tokenizer: Tokenizer, text: str) -> bool:
    """Whether no special token is named in the text."""
    return not any(name in text for name in tokenizer.specials)


def spoken(tokenizer: Tokenizer, text: str) -> str:
    """What of the text the tokenizer has symbols for."""
    known = functools.cache(lambda character: _knows(tokenizer, character))
    text = text if _knows(tokenizer, text) else "".join(filter(known, text))
    return text if _knows(tokenizer, text) else ""


def _knows(tokenizer: Tokenizer, text: str) -> bool:
    try:
        tokenizer.encode(text)
    except CorpusError:
        return False
    return True


def library_text() -> str:
    """English that every Python carries: what its built-in names say of themselves."""
    said = (getattr(builtins, name).__doc__ for name in sorted(dir(builtins)) if name[0].islower())
    return "\n\n".join(dict.fromkeys(filter(None, said)))
