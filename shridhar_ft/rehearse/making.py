"""The first step of a rehearsal, in a process of its own: the small data and the small base.

python -m shridhar_ft.rehearse.making REAL.yaml FOLDER      writes FOLDER/made.json after each source
"""

import sys
from pathlib import Path

from shridhar_ft.config import load_recipe
from shridhar_ft.config_data import Books
from shridhar_ft.data.sources.books import read_books
from shridhar_ft.errors import UserError
from shridhar_ft.rehearse.base import build_base, own_tokenizer, row_of
from shridhar_ft.rehearse.sampling import Found, sample
from shridhar_ft.rehearse.shrink import divisor_of
from shridhar_ft.runfolder import write_json
from shridhar_ft.shipped import shipped

MADE = "made.json"
GENERIC = {"model_type": "llama", "num_key_value_heads": 8, "tie_word_embeddings": True}
"""Stands in for a base of which nothing is known here."""


def main(real: Path, folder: Path) -> None:
    """Make what the small recipe needs."""
    recipe = load_recipe(real)
    known: Found = {}
    base: Found = {"base": None, "base_problem": None, "extend": None}

    def tell(found: Found) -> None:
        known.update(found)
        write_json(folder / MADE, {**known, **base})

    if recipe.model.base is not None:
        texts = [work.text for work in read_books(Books(paths=[str(shipped("recipes/demo/data/books"))]))]
        divisor = divisor_of(recipe)
        try:
            about = build_base(recipe, divisor, texts, folder / "base", row_of(recipe))
        except UserError as error:
            base["base_problem"] = str(error)
            stand_in = recipe.model_copy(update={"model": recipe.model.model_copy(update={"from_config": GENERIC})})
            about = build_base(stand_in, divisor, texts, folder / "base", row_of(recipe))
        base |= {"base": str(folder / "base"), "base_about": about}
    if recipe.tokenizer.extend is not None and own_tokenizer(recipe.tokenizer.extend) is not None:
        base["extend"] = recipe.tokenizer.extend
    sample(recipe, folder / "data", tell)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
