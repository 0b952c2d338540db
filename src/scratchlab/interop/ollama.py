"""The Modelfile by which Ollama takes a GGUF file: `ollama create NAME -f Modelfile`.

Ollama words conversations by templates of Go's, not Jinja's. Those that this lab brings are here in both.
"""

from scratchlab.corpus.chat import ALPACA, CHATML, ChatTemplate
from scratchlab.corpus.tokenizer import Tokenizer

GO_CHATML = """\
{{ range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""

GO_ALPACA = """\
{{ if .System }}{{ .System }}{{ else }}Below is an instruction that describes a task. Write a response that \
appropriately completes the request.{{ end }}

{{ range .Messages }}{{ if eq .Role "user" }}### Instruction:
{{ .Content }}

### Response:
{{ else if eq .Role "assistant" }}{{ .Content }}END_OF_TEXT

{{ end }}{{ end }}"""


def modelfile(weights: str, context_length: int, tokenizer: Tokenizer, template: ChatTemplate | None) -> str:
    """The text of a Modelfile for the GGUF file `weights` beside it."""
    names = {token: name for name, token in tokenizer.specials.items()}
    ends = {tokenizer.end_of_text, None if template is None else template.end_of_turn(tokenizer)}
    stops = sorted(names[token] for token in ends if token is not None)
    lines = [f"FROM ./{weights}", *_wording(tokenizer, template)]
    lines += [f"PARAMETER num_ctx {context_length}", *(f'PARAMETER stop "{stop}"' for stop in stops)]
    return "\n".join(lines) + "\n"


def _wording(tokenizer: Tokenizer, template: ChatTemplate | None) -> list[str]:
    if template is None:
        return [
            "# This model was taught no conversations: it goes on with the text it is given.",
            _quoted("{{ .Prompt }}"),
        ]
    go = {ALPACA: GO_ALPACA, CHATML: GO_CHATML}.get(template.source)
    if go is None:
        return [
            "# The chat template of this model is its own, and stands in the GGUF file as Jinja. Ollama wants it in",
            "# the language of Go's templates: add it here as TEMPLATE, or speak to the model by llama.cpp.",
        ]
    end_of_text = next((name for name, token in tokenizer.specials.items() if token == tokenizer.end_of_text), "")
    return [_quoted(go.replace("END_OF_TEXT", end_of_text))]


def _quoted(text: str) -> str:
    return f'TEMPLATE """{text}"""'
