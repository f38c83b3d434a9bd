"""A little of the user's own text, read by the recipe's own settings; what cannot be read is replaced, and told.

Small sources are used as they are. Of large ones a part is written anew in the simplest format, since the sources'
own reading, mapping and encoding have been tried by then.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from shridhar_ft.config import Recipe
from shridhar_ft.config_data import Books, Columns, Data, Dialogues, Rows, Texts
from shridhar_ft.data.sources.books import find_books, read_book, read_books
from shridhar_ft.data.sources.decoding import check_encoding
from shridhar_ft.data.sources.dialogues import read_dialogues
from shridhar_ft.data.sources.formats import row_files
from shridhar_ft.data.sources.texts import read_texts
from shridhar_ft.errors import UserError
from shridhar_ft.paths import existing
from shridhar_ft.shipped import shipped

SAMPLE = "recipes/demo/data"
BOOKS = 600_000  # characters of books that the rehearsal reads, all works together
LEAST = 3000  # characters of one
ROWS = 2_000_000  # bytes of a source of rows that is used as it is
CONVERSATIONS = 400  # of a larger one
READ = 50_000_000  # bytes of books that are read to measure them; of a larger shelf the files' sizes tell
LONG = 20_000  # characters of a long text, and of each other author; a window of the rehearsal is a fifth of it

Found = dict[str, Any]


def sample(recipe: Recipe, folder: Path, tell: Callable[[Found], None]) -> None:
    """Read what the recipe names, and write the small data.

    Args:
        recipe: The real recipe.
        folder: Where small data go.
        tell: Given what is known so far after each source: `data` (a recipe's data section), `long_text`, `others`;
            `works` and `long` (characters of each work, and of the long text); `missing` and `unreadable` (sentences);
            `hub` and `replaced` (keys: not downloaded; the bundled sample stands in); `cut` (key, what there is, what
            is read).
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = recipe.data
    found: Found = {
        "data": data.model_copy(update={"books": None, "texts": [], "dialogues": []}).model_dump(mode="json"),
        "long_text": [],
        "others": [],
        "works": [],
        "long": None,
        "missing": [],
        "unreadable": [],
        "hub": [],
        "replaced": [],
        "cut": [],
    }
    # The bundled sample first: what a slow source does not get to is then known to be replaced.
    if data.books is not None or data.texts:
        found["data"]["books"] = _own_books()
    if data.dialogues:
        found["data"]["dialogues"] = [_own_dialogues()]
    tell(found)
    if data.books is not None:
        books = _tried(found, "data.books.paths", data.books.paths, lambda: _books(data, folder / "books", found))
        found["data"]["books"] = books or _own_books()
    texts = list(_each("texts", data.texts, _texts, folder, found))
    found["data"]["texts"] = texts
    if data.books is None and texts:
        found["data"]["books"] = None
    _long(recipe, folder, found)
    tell(found)
    read: list[Found] = []
    for rows in _each("dialogues", data.dialogues, _dialogues, folder, found):
        read.append(rows)
        found["data"]["dialogues"] = read
        tell(found)
    tell(found)


def _each(
    kind: str, sources: Sequence[Any], read: Callable[[Any, int, Path, Found], Found], folder: Path, found: Found
) -> Iterator[Found]:
    """The sections of the sources of one kind that are here and can be read."""
    for index, source in enumerate(sources):
        key = f"data.{kind}.{index}.paths"
        if _on_the_hub(source, key, found):
            continue
        if rows := _tried(found, key, source.paths, partial(read, source, index, folder, found)):
            yield rows


def _tried(found: Found, key: str, paths: Sequence[str], read: Callable[[], Found]) -> Found | None:
    """A source's section; None where it cannot be read: then the sentence is kept, and the sample stands in."""
    missing = [path for path in paths if existing(Path(), path) is None]
    found["missing"] += [f"{key}: {path} does not exist; mend the path, or set it with {key}=…" for path in missing]
    try:
        if not missing:
            return read()
    except UserError as error:
        found["unreadable"].append(str(error))
    found["replaced"].append(key)
    return None


def _on_the_hub(source: Rows, key: str, found: Found) -> bool:
    """Whether a source would have to be downloaded; then it is only noted."""
    if source.hub is not None:
        found["hub"].append(key.replace(".paths", ".hub"))
        found["replaced"].append(key.replace(".paths", ".hub"))
    return source.hub is not None


def _own_books() -> Found:
    return Books(paths=[str(shipped(f"{SAMPLE}/books"))]).model_dump(mode="json")


def _own_dialogues() -> Found:
    return Dialogues(paths=[str(shipped(f"{SAMPLE}/dialogues/besedy.jsonl"))]).model_dump(mode="json")


# ----------------------------------------------------------------------------------------------------- books


def _books(data: Data, folder: Path, found: Found) -> Found:
    books = data.books
    assert books is not None, "the caller asks"
    files = find_books(books.paths, "data.books.paths")
    sizes = [file.stat().st_size for file in files]
    if sum(sizes) > READ:
        found["works"] = [[file.name, size // 2] for file, size in zip(files, sizes, strict=True)]
        every = max(1, len(files) * LEAST // BOOKS)
        files = files[::every][: BOOKS // LEAST]
        check_encoding(books.encoding, "data.books")
        works = [read_book(file, books.encoding, mojibake_allowed=data.clean.mojibake) for file in files]
    else:
        works = list(read_books(books, mojibake_allowed=data.clean.mojibake))
        found["works"] = [[work.source, len(work.text)] for work in works]
        if sum(len(work.text) for work in works) <= BOOKS:
            return books.model_dump(mode="json")
    folder.mkdir(parents=True)
    each = max(LEAST, BOOKS // len(works))
    all_of_it = sum(characters for _, characters in found["works"])
    found["cut"].append(["data.books", f"{all_of_it:,} characters", f"{each:,} of each work"])
    for number, work in enumerate(works[: BOOKS // LEAST]):
        (folder / f"{number:03}.txt").write_text(_cut(work.text, each), encoding="utf-8")
    return Books(paths=[str(folder)], encoding="utf-8", author=books.author).model_dump(mode="json")


def _cut(text: str, characters: int) -> str:
    """The beginning of a text, up to a line's end."""
    if len(text) <= characters:
        return text
    end = text.rfind("\n", characters // 2, characters)
    return text[: end if end > 0 else characters] + "\n"


def _long(recipe: Recipe, folder: Path, found: Found) -> None:
    """The long text and other authors, cut; those that are not here are named."""
    long = None
    if recipe.eval.long_text:
        long = _read(recipe, "long_text", folder / "long", found)
        found["long"] = long["characters"] if long else None
        found["long_text"] = long["paths"] if long else [str(shipped(f"{SAMPLE}/long/dnevnik_lesnika.txt"))]
    if recipe.eval.others:
        others = _read(recipe, "others", folder / "others", found)
        found["others"] = others["paths"] if others else []
    for key in ("glossary", "rublimp"):
        value = getattr(recipe.eval, key)
        if value and not Path(value).exists():
            found["missing"].append(f"eval.{key}: {value} does not exist; mend the path, or set it with eval.{key}=…")
            value = None
        found[key] = value


def _read(recipe: Recipe, name: str, folder: Path, found: Found) -> Found | None:
    """The texts under a key of `eval`, cut."""
    paths: list[str] = getattr(recipe.eval, name)
    return _tried(found, f"eval.{name}", paths, lambda: _cut_all(recipe, f"eval.{name}", paths, folder))


def _cut_all(recipe: Recipe, key: str, paths: list[str], folder: Path) -> Found:
    check_encoding(recipe.eval.encoding, "eval")
    folder.mkdir(parents=True)
    characters = 0
    for number, file in enumerate(find_books(paths, key)):
        text = read_book(file, recipe.eval.encoding, "eval", mojibake_allowed=recipe.data.clean.mojibake).text
        characters += len(text)
        if number * LONG < BOOKS:
            (folder / f"{number:03}.txt").write_text(_cut(text, LONG), encoding="utf-8")
    return {"paths": [str(folder)], "characters": characters}


# ------------------------------------------------------------------------------------------------------ rows


def _dialogues(source: Dialogues, index: int, folder: Path, found: Found) -> Found:
    key = f"data.dialogues.{index}"
    small = sum(file.stat().st_size for file in row_files(source, key)) <= ROWS
    read = read_dialogues(source, key, spill=folder)
    if small:
        for _ in read:
            pass
        return source.model_dump(mode="json")
    found["cut"].append([key, "all of its rows", f"the first {CONVERSATIONS:,} conversations"])
    file = folder / f"dialogues_{index}.jsonl"
    with file.open("w", encoding="utf-8") as out:
        for dialogue in islice(read, CONVERSATIONS):
            row = {"messages": [{"role": turn.role, "content": turn.content} for turn in dialogue.messages]}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    return Dialogues(paths=[str(file)]).model_dump(mode="json")


def _texts(source: Texts, index: int, folder: Path, found: Found) -> Found:
    key = f"data.texts.{index}"
    small = sum(file.stat().st_size for file in row_files(source, key)) <= ROWS
    read = read_texts(source, key)
    if small:
        for _ in read:
            pass
        return source.model_dump(mode="json")
    found["cut"].append([key, "all of its rows", f"{BOOKS:,} characters"])
    file, characters = folder / f"texts_{index}.jsonl", 0
    with file.open("w", encoding="utf-8") as out:
        for number, work in enumerate(read):
            row = {"text": _cut(work.text, BOOKS // 4), "title": f"{number} {work.title}", "author": work.author}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            characters += len(row["text"])
            if characters > BOOKS:
                break
    return Texts(paths=[str(file)], columns=Columns(title="title", author="author")).model_dump(mode="json")
