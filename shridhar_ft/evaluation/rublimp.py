"""RuBLiMP as it lies on the disk: a CSV a paradigm, each row a grammatical sentence and its spoilt twin.

Source: Taktasheva et al. 2024, arXiv 2406.19232; github.com/RussianNLP/RuBLiMP, the folder `datasets`.
"""

import csv
from pathlib import Path

from shridhar_ft.errors import UserError

PARADIGMS = 45
GOOD, BAD = "source_sentence", "target_sentence"


def rublimp_files(folder: Path) -> list[Path]:
    """The CSVs of the folder, in the order of their names.

    Raises:
        UserError: There is no such folder, or it holds no CSV.
    """
    if not folder.is_dir():
        raise UserError(f"eval.rublimp: {folder} is no folder; name RuBLiMP's folder `datasets`, or take the key out")
    if not (files := sorted(folder.glob("*.csv"))):
        raise UserError(f"eval.rublimp: {folder} holds no .csv; name RuBLiMP's folder `datasets`")
    return files


def read_paradigm(file: Path) -> list[tuple[str, str]]:
    """Pairs of a grammatical and a spoilt sentence.

    Raises:
        UserError: The file is not UTF-8, lacks a column, or has a row without a sentence.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if absent := [name for name in (GOOD, BAD) if name not in (reader.fieldnames or ())]:
                raise UserError(f"{file}: no column {', '.join(absent)}; RuBLiMP's files have {GOOD} and {BAD}")
            pairs = [(row[GOOD], row[BAD]) for row in reader]
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start} is not UTF-8; fetch the file anew, or save it as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{file}: no valid CSV ({error}); fetch the file anew") from error
    for number, pair in enumerate(pairs, start=1):
        if not all(pair):
            raise UserError(f"{file}: record {number} has no {GOOD if not pair[0] else BAD}; fetch the file anew")
    return pairs
