"""Evaluate models, or train SAN.

python train_net.py --eval-only --config-file F [--dataset DATA …] [--resume] [KEY VALUE …]
python train_net.py --config-file configs/san/F [--train-dataset DATA …] [--resume] [KEY VALUE …]

`cliptrase eval` and `cliptrase train` run the same code without a clone of the repository.
"""

from __future__ import annotations

import argparse
import sys

from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.utils.interruption import INTERRUPTED

try:
    from cliptrase_d2.cli import job
except InputError as error:  # CLIPTRASE_D2 requests a Detectron2 that is missing or fails to import
    sys.exit(f"error: {error}")
except KeyboardInterrupt:  # the imports take seconds
    print("interrupted.", file=sys.stderr)
    sys.exit(INTERRUPTED)


def parse_arguments() -> argparse.Namespace:
    """Parse Detectron2's flags, --dataset and --train-dataset."""
    return job.parse_arguments(__doc__)


def run() -> None:
    """Run the command line in the requested number of processes; exit with one line on an input error."""
    job.run_job(parse_arguments())


if __name__ == "__main__":
    run()
