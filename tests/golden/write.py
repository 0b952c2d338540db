"""Write tests/golden/steps.json anew: `python tests/golden/write.py`. See the advice in test_golden.py first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_golden import PATH, measure_all

from scratchlab.files import pretty_json

if __name__ == "__main__":
    PATH.write_text(pretty_json(measure_all()), encoding="utf-8")
