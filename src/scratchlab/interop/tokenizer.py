"""The tokenizer of a model that another program trained."""

from scratchlab.corpus.tokenizer import END_OF_TEXT, Tokenizer
from scratchlab.errors import CorpusError
from scratchlab.interop.files import Find

STORED = "tokenizer.json"
# GPT-2's older files: the vocabulary and the merges, as Hugging Face and as OpenAI call them.
OLDER = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def find_tokenizer(find: Find) -> Tokenizer | None:
    """The tokenizer among the files that `find` finds; None if there is none. `CorpusError` if it is unknown here."""
    if path := find(STORED):
        return Tokenizer.load(path)
    for names in OLDER:
        paths = [find(name) for name in names]
        if all(paths):
            return _from_merges(*map(str, paths))
    return None


def _from_merges(vocabulary: str, merges: str) -> Tokenizer:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Stored

    try:
        stored = Stored(models.BPE.from_file(vocabulary, merges))
    except Exception as error:  # tokenizers raises no narrower one
        raise CorpusError(f"{vocabulary} and {merges} are no vocabulary and merges: {error}.") from None
    stored.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    stored.decoder = decoders.ByteLevel()
    if END_OF_TEXT in stored.get_vocab():
        stored.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return Tokenizer.from_json(stored.to_str())
