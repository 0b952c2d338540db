"""Engines by name, and what each has no use for."""

import pytest

from scratchlab.cli.study_run import slurm_options
from scratchlab.errors import UsageError
from scratchlab.study.engines import ENGINES, engine
from scratchlab.study.local import LocalEngine
from scratchlab.study.ray_engine import RayEngine
from scratchlab.study.slurm_engine import SlurmEngine


def test_by_name() -> None:
    assert (engine("local", 3), engine("local")) == (LocalEngine(3), LocalEngine(1))
    assert engine("ray", address="10.0.0.1:6379") == RayEngine("10.0.0.1:6379", None)
    assert engine("slurm", 2, options={"partition": "long"}) == SlurmEngine(2, {"partition": "long"})
    assert {type(engine(name)).__name__ for name in ENGINES} == {"LocalEngine", "RayEngine", "SlurmEngine"}


def test_what_an_engine_has_no_use_for_is_refused() -> None:
    with pytest.raises(UsageError, match="address is that of a Ray cluster"):
        engine("local", address="auto")
    with pytest.raises(UsageError, match="partition: options are sbatch's"):
        engine("ray", options={"partition": "long"})
    with pytest.raises(UsageError, match="one of local, ray, slurm"):
        engine("cloud")


def test_options_of_sbatch_on_the_command_line() -> None:
    given = ("partition=long", "--gres=gpu:h100:1", "comment=a=b")
    assert slurm_options(given) == {"partition": "long", "gres": "gpu:h100:1", "comment": "a=b"}
    for wrong in ("partition", "=long", "partition="):
        with pytest.raises(UsageError, match="OPTION=VALUE"):
            slurm_options((wrong,))
