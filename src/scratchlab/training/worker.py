"""One of the processes that `launch` has torchrun start: python -m scratchlab.training.worker DIR PIPE."""

import sys

from scratchlab.errors import LostError, ScratchlabError
from scratchlab.hardware import prepare_process


def main(out: str, pipe: str) -> None:
    """Train the run at `out`; what happens is told through `pipe`, by the first process."""
    prepare_process()
    from scratchlab.training.launch import Relay
    from scratchlab.training.loop import resume
    from scratchlab.training.world import World

    relay = Relay(pipe) if World.here().first else None
    try:
        resume(out, relay)
    except LostError:  # of which torchrun knows: it begins all of them again
        sys.exit(LostError.exit_code)
    except ScratchlabError as error:
        if relay is not None:
            relay.fail(error)
        elif not error.told:
            print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
