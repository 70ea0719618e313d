"""Damage videos on purpose and send them through scan, prepare and training: nothing may crash, hang or be lost.

    python -m tests.fuzz_videos --cases=300

Prints a table by kind of damage; exits 1 if a case crashed, hung or was neither delivered nor reported. Damage that a
decoder cannot tell from a picture, such as a flipped bit of H.265, is delivered.
"""

import argparse
import dataclasses
import pathlib
import sys
import tempfile
import time

from configs import default
from hvt_jax.settings import read_settings
from tests.data import fuzz

_COLUMNS = ("cases", "scan good", "scan bad", "converted", "failed", "delivered", "reported", "crashed", "hung")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="decoding processes of the training loader")
    options = parser.parse_args()
    settings = read_settings(default.get_config()).data
    settings = dataclasses.replace(settings, num_workers=options.workers, manifest="none")
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = fuzz.run(pathlib.Path(folder), options.cases, options.seed, settings)
    print(f"{'damage':<28s}" + "".join(f"{name:>11s}" for name in _COLUMNS))
    for mutation in fuzz.MUTATIONS:
        row = fuzz.row_of([outcome for outcome in outcomes if outcome.mutation == mutation])
        print(f"{mutation:<28s}" + "".join(f"{number:11d}" for number in row))
    total = fuzz.row_of(outcomes)
    print(f"{'all':<28s}" + "".join(f"{number:11d}" for number in total))
    print(f"{time.monotonic() - began:.0f} s, seed {options.seed}")
    cases, _, _, converted, failed, delivered, reported, crashed, hung = total
    return 0 if delivered + reported == converted + failed == cases and not crashed + hung else 1


if __name__ == "__main__":
    sys.exit(main())
