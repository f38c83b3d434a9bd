"""Trains several runs one after another in the processes of one launch: starting those costs more than a short run.

accelerate launch --config_file accelerate_configs/cpu_ddp.yaml -m shridhar_ft.doctor.several RUNS.json

RUNS.json is a list of command lines of `shridhar_ft.pretrain`, each a list of words. A run that ends otherwise than
well ends the launch, as it would end its own: the other ranks may be in the middle of an exchange.
"""

import sys
from pathlib import Path

from shridhar_ft.entry import leave, main
from shridhar_ft.pretrain import pretrain
from shridhar_ft.runfolder import read_json


def train_in_turn(runs: list[list[str]]) -> int:
    """Train each run; the exit status of the first that does not end well, else 0."""
    for words in runs:
        if status := main("pretrain", "Train the stages of a recipe on its books, in order.", pretrain, words):
            return status
    return 0


if __name__ == "__main__":
    leave(train_in_turn(read_json(Path(sys.argv[1]))))
