"""A model that brings its own code: what `export --custom` puts beside the weights, and how they are kept there.

The code is the model page itself. `custom_configuration.py` and `custom_modeling.py` are what transformers wants of
it, and in the export each is one file with everything that it uses here (`standalone.py`): nothing of scratchlab needs
to be installed to run it.
"""

from typing import Any

from scratchlab.architecture import GPTSection
from scratchlab.errors import RunError
from scratchlab.interop.files import whole_numbers
from scratchlab.interop.layouts import Layout, Settings
from scratchlab.interop.names import Names
from scratchlab.interop.rotary_layouts import TABLE
from scratchlab.interop.standalone import plain_section, standalone
from scratchlab.model import gpt

CONFIGURATION, MODELING = "configuration_scratchlab", "modeling_scratchlab"
FILES = (f"{CONFIGURATION}.py", f"{MODELING}.py")

HEADER = '''"""A GPT of scratchlab's: {what}.

Made of scratchlab's own sources (Apache-2.0), without which it runs.{more}
"""
'''


def source_of(name: str) -> str:
    """The text of one of `FILES`."""
    here, section = "scratchlab.interop.custom_configuration", ("scratchlab.architecture", "GPTSection")
    if name == FILES[0]:
        imports = "from dataclasses import dataclass\nfrom typing import Literal"
        text = standalone(here, ("ScratchlabConfig",), {section: (imports, plain_section())})
        return HEADER.format(what="its configuration", more="") + text
    roots = ("ScratchlabModel", "ScratchlabForCausalLM")
    beside = {
        origin: (f"from .{CONFIGURATION} import {origin[1]}", "") for origin in (section, (here, "ScratchlabConfig"))
    }
    letters = (gpt.__doc__ or "").rstrip().rpartition("\n\n")[2]
    text = standalone("scratchlab.interop.custom_modeling", roots, beside)
    return HEADER.format(what="the model page with its parts", more=f"\n\n{letters}") + text


def _settings(config: GPTSection) -> dict[str, Any]:
    """What transformers reads without our code."""
    return {
        "auto_map": {
            "AutoConfig": f"{CONFIGURATION}.ScratchlabConfig",
            "AutoModel": f"{MODELING}.ScratchlabModel",
            "AutoModelForCausalLM": f"{MODELING}.ScratchlabForCausalLM",
        },
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": False,  # a tied head has no matrix of its own that would have to be tied
    }


def _fields(settings: Settings, where: str) -> dict[str, Any]:
    whole_numbers(settings, ("vocab_size",), where)
    if not isinstance(settings.get("scratchlab"), dict):
        raise RunError(f"{where} lacks scratchlab: a table with the model's fields was expected.")
    return settings["scratchlab"]


CUSTOM = Layout(
    name="ScratchlabForCausalLM",
    title="with scratchlab's own code",
    model_type="scratchlab",
    names=Names({ours: ours for ours in (*TABLE, "position_embedding.weight")}),
    prefix="model.gpt.",
    knows=lambda _: {},
    biases=lambda config: {place: config.has_bias(place) for place in ("qkv", "output", "mlp", "norm")},
    settings=_settings,
    fields=_fields,
    fixed={"quantization_config": None},
    usual={},
)
