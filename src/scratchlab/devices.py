"""The table of devices: memory, bandwidth, peaks, prices with source and date, for those that are here and others."""

import datetime
import functools
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from scratchlab.errors import UsageError
from scratchlab.files import user_file
from scratchlab.hardware import Precision, device_name
from scratchlab.problems import describe_all

RULE_OF_THUMB = 0.4
"""Of its peak: what training reaches on a card of which nobody has told. Published shares run from .25 to .6."""
CURRENCY = "usd"
VARIANTS = frozenset({"laptop", "max", "mig", "mobile", "nvl", "super", "ti"})
"""Words that make another device of one: another chip, another memory, or a slice of the card."""

Positive = Annotated[float, Field(gt=0)]


class Device(BaseModel):
    """One row. A device of one's own need not know more than what is asked of it: a price alone will do."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    match: str | None = None
    """Words of the name that the device gives itself; None: those of the row's name."""
    memory_gib: Positive | None = None
    bandwidth: Positive | None = None
    """GB/s to and from its memory."""
    bf16: Positive | None = None
    fp16: Positive | None = None
    tf32: Positive | None = None
    float32: Positive | None = None
    """Peaks in TFLOP/s, dense; None where the device has no units for it, or nobody knows."""
    price: Annotated[float, Field(ge=0)] | None = None
    """Dollars a device and hour: a rent."""
    price_source: str | None = None
    price_date: datetime.date | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """How much of the peak training reaches; None: `RULE_OF_THUMB`."""
    share_source: str | None = None

    @model_validator(mode="after")
    def says_where_from(self) -> Self:
        if (self.price is None) != (self.price_source is None) or (self.price is None) != (self.price_date is None):
            raise ValueError("a price has a price_source and a price_date, and they belong to a price")
        if (self.share is None) != (self.share_source is None):
            raise ValueError("a share has a share_source, and that belongs to a share")
        return self

    @property
    def memory(self) -> int | None:
        """Bytes."""
        return None if self.memory_gib is None else round(self.memory_gib * 2**30)

    @property
    def precision(self) -> Precision:
        """What `auto` is settled to there: the fastest precision that trains like float32."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "float32"

    @property
    def rent_source(self) -> str | None:
        """Who asks that price, and when that was seen."""
        return self.price_source and f"{self.price_source}, {self.price_date}"

    def peak(self, precision: Precision) -> float | None:
        """FLOP/s by the maker's data sheet."""
        teraflops = {"bf16": self.bf16, "fp16": self.fp16, "tf32": self.tf32, "float32": self.float32}[precision]
        return None if teraflops is None else teraflops * 1e12


def own_table() -> Path:
    """Where a person's own table is, if there is one."""
    return user_file("XDG_CONFIG_HOME", ".config", "devices.toml")


def device_table() -> dict[str, Device]:
    """All devices by name, the person's own first. `UsageError` lists all that is wrong with that file."""
    own, shipped = own_table(), dict(_shipped())
    if not own.is_file():
        return shipped
    try:
        tables = tomllib.loads(own.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{own}: not valid TOML: {error}.") from None
    if others := tables.keys() - {"device"}:
        raise UsageError(
            f'{own}: {", ".join(sorted(others))}: a device is a table such as [device.T4] or [device."my box"].'
        )
    rows = tables.get("device", {})
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise UsageError(f"{own}: devices are tables such as [device.T4], with fields such as price.")
    changed = {name: _laid_over(shipped.pop(name, None), row) for name, row in rows.items()}
    return {**_validated(changed, str(own)), **shipped}


def find_device(name: str) -> tuple[str, Device]:
    """The row a person means by `name`, whatever its case. `UsageError` names those there are."""
    table = device_table()
    for row, device in table.items():
        if row.lower().replace(" ", "") == name.lower().replace(" ", ""):
            return row, device
    raise UsageError(
        f"device {name!r}: the table has no such device. It has {', '.join(table)}; to add one: {own_table()}."
    )


def row_of(full_name: str) -> tuple[str, Device] | None:
    """The row of a device by the name it gives itself: that whose words are all in it, and which has most of them.

    None where another word says that it is not that device (`VARIANTS`): a laptop's chip, a Ti, a slice of a card.
    """
    given = _words(full_name)
    rows = ((_words(row.match or name), (name, row)) for name, row in device_table().items())
    fitting = [(words, row) for words, row in rows if words <= given and not (given - words) & VARIANTS]
    return max(fitting, key=lambda found: len(found[0]), default=(None, None))[1]


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9]+", name.lower()))


def nominal_rate(device: str, precision: Precision) -> float | None:
    """FLOP/s by the maker's data sheet of a device that is here, or None where the table knows none."""
    row = row_of(device_name(device))
    return None if row is None else row[1].peak(precision)


def price_per_hour(full_name: str) -> float | None:
    """Dollars an hour for a device by the name it gives itself; None where the table has no price."""
    row = row_of(full_name)
    return None if row is None else row[1].price


def rent_source(full_name: str) -> str | None:
    """Where that price is from, and of when."""
    row = row_of(full_name)
    return None if row is None else row[1].rent_source


def _laid_over(below: Device | None, row: dict[str, Any]) -> dict[str, Any]:
    """A row of one's own over the one that comes with the package, whose sources go with what they are sources of."""
    kept = below.model_dump(exclude_none=True) if below else {}
    for figure in ("price", "share"):
        if figure in row:
            kept = {field: value for field, value in kept.items() if not field.startswith(figure)}
    return kept | row


def _validated(rows: dict[str, dict[str, Any]], where: str) -> dict[str, Device]:
    devices: dict[str, Device] = {}
    problems: list[str] = []
    for name, row in rows.items():
        try:
            devices[name] = Device.model_validate(row)
        except ValidationError as error:
            found = describe_all([dict(problem) for problem in error.errors()], Device)
            problems += [f'device."{name}".{problem.removeprefix("recipe: ")}' for problem in found]
    if problems:
        heading = f"{where}: {len(problems)} problem{'s' * (len(problems) > 1)}"
        raise UsageError("\n  ".join([heading, *problems]))
    return devices


@functools.cache
def _shipped() -> dict[str, Device]:
    path = Path(__file__).with_name("devices.toml")
    return _validated(tomllib.loads(path.read_text(encoding="utf-8"))["device"], str(path))
