"""What comes with Python, as text."""

from scratchlab.corpus.sources import pythondocs
from scratchlab.corpus.sources.find import read_documents


def test_python_docs_are_a_few_megabytes_of_text_in_a_fixed_order():
    documents = list(read_documents("python-docs"))
    names = [document.name for document in documents]
    topics = [name for name in names if name.startswith("python-docs/topics/")]
    modules = [name for name in names if name.startswith("python-docs/modules/")]
    assert names == sorted(topics) + sorted(modules)
    assert {"python-docs/topics/assert", "python-docs/modules/json", "python-docs/modules/json.decoder"} < set(names)
    assert not any(".test" in name or "idlelib" in name or "encodings" in name for name in names)
    assert 1e6 < sum(len(document.text) for document in documents) < 1e7


def test_module_docs_read_like_help():
    source = b'''"""A module."""
if True:
    class Lamp(Light):
        """Gives light."""
        def __init__(self, watts: int = 40) -> None:
            """Not lit at first.

                More."""
            def inner():
                """Not part of the interface."""
        @property
        def lit(self): "Whether it shines."
        def undocumented(self): pass
async def fetch(*urls, timeout=1.5): "Get them."
'''
    assert pythondocs.module_docs("lamps", source) == (
        "lamps\n=====\n\nA module.\n\n"
        "class lamps.Lamp(Light)\n    Gives light.\n\n"
        "lamps.Lamp.__init__(self, watts: int=40) -> None\n    Not lit at first.\n\n    More.\n\n"
        "lamps.Lamp.lit\n    Whether it shines.\n\n"
        "async lamps.fetch(*urls, timeout=1.5)\n    Get them.\n"
    )
    assert pythondocs.module_docs("bare", b"x = 1\n") == ""
