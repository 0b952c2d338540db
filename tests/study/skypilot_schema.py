"""A SkyPilot task file against SkyPilot itself: its schema, and what its Task makes of it.

SkyPilot is heavy and wants an older click, so this runs in an environment of its own, where scratchlab is not
installed: `make skypilot`. It reaches no cloud.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import sky
import yaml
from sky.utils import schemas


def check(path: Path) -> None:
    """An assertion fails, or SkyPilot raises, where the file is not what it should be."""
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    jsonschema.validate(config, schemas.get_task_schema())
    jsonschema.validate(config["resources"], schemas.get_resources_schema())
    buckets = [mount for mount in config["file_mounts"].values() if isinstance(mount, dict)]
    for bucket in buckets:
        jsonschema.validate(bucket, schemas.get_storage_schema())
    with tempfile.TemporaryDirectory() as folder:  # SkyPilot asks whether the sources of mounts are there
        os.chdir(folder)
        for source in config["file_mounts"].values():
            if isinstance(source, str) and not source.startswith("/"):
                Path(source).mkdir(parents=True)
        task = sky.Task.from_yaml(str(path))
        (resources,) = task.resources
        assert resources.use_spot
        assert task.num_nodes == 1
        kind, count = config["resources"]["accelerators"].split(":")
        assert resources.accelerators == {kind: int(count)}, resources.accelerators
        assert len(buckets) == 1
        assert [str(mount.mode.value) for mount in task.storage_mounts.values()] == ["MOUNT_CACHED"]
        assert "scratchlab study run" in str(task.run)
    print(f"{path}: SkyPilot {sky.__version__} takes it.")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        check(Path(name).absolute())
