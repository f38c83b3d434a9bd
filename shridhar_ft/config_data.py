"""The recipe's `data` section: sources, what their columns mean, cleaning, duplicates, split."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

PathList = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str | Path) else v)]
"""One path or several; each a file, a folder, or a glob."""
ColumnList = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
"""One column or several."""
Filter = dict[str, bool | int | float | str | list[bool | int | float | str | None] | None]
"""Column → the value, or the values, that it must hold."""


class Section(BaseModel):
    """A part of the recipe: no unknown keys, defaults checked like given values."""

    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False)


class Books(Section):
    """Books, one work a file: .txt, .md, .html, .fb2 (also .fb2.zip), .epub, .docx, .pdf with a text layer."""

    paths: PathList = Field(min_length=1)
    """Files, folders (the books in them), or globs."""
    encoding: str = "auto"
    """Encoding of plain texts, as Python names it, e.g. cp1251; auto detects it and says what it found. A byte that
    does not fit is refused, never replaced."""
    author: str | None = None
    """Author of the works whose files do not say it."""


class Columns(Section):
    """Which column of a source means what; only those that differ from the shape's own names are needed."""

    conversation: ColumnList = []
    """turns: the column, or the columns together, that all rows of one conversation share."""
    order: str | None = None
    """turns: rows of a conversation are in the order of this column, e.g. an id."""
    time: ColumnList = []
    """turns: when it was said; of several columns the first one that is not empty counts. It goes before `order`, and
    `session_gap` needs it."""
    role: str | None = None
    """turns: the column that says who speaks. messages, sharegpt: that key of a turn (default `role`, `from`)."""
    text: str | None = None
    """turns, texts: the column with the text (default `text`). messages, sharegpt: that key of a turn (default
    `content`, `value`)."""
    messages: str | None = None
    """messages, sharegpt: the list of turns (default `messages`, `conversations`)."""
    instruction: str | None = None
    """alpaca: the question (default `instruction`, `prompt`, `question`)."""
    input: str | None = None
    """alpaca: what the question is about, often empty (default `input`)."""
    output: str | None = None
    """alpaca: the answer (default `output`, `response`, `answer`, `completion`)."""
    system: str | None = None
    """alpaca: the system text, when the rows have one (default `system`)."""
    title: str | None = None
    """texts: the name of the work that a row belongs to."""
    author: str | None = None
    """texts: its author."""


class Table(Section):
    """One table of a source: of a database dump, or a file of rows, which is the table of its stem's name."""

    name: str
    """Its name in the dump, or the stem of its file's."""
    role: Literal["system", "user", "assistant"] | None = None
    """Who says what stands in this table, where a table holds one side only."""
    columns: Columns = Columns()
    """Columns that are named otherwise than in the source's `columns`."""
    filter: Filter = {}
    """Conditions for rows of this table, beside the source's own."""


class Rows(Section):
    """A source of rows: JSON, JSON Lines, CSV, Parquet, a `datasets` folder, a dataset on the Hub, a MySQL dump."""

    paths: PathList = []
    """Files, folders, or globs. The parts that `split` cut a dump into are one dump."""
    hub: str | None = None
    """A dataset on the Hub, instead of paths: owner/name."""
    subset: str | None = None
    """Its subset (configuration), where it has several."""
    revision: str | None = None
    """Its commit."""
    splits: list[str] = []
    """Splits of the Hub's dataset or the datasets folder that are read (default: all of them)."""
    format: Literal["auto", "json", "jsonl", "csv", "parquet", "datasets", "mysql_dump"] = "auto"
    """auto goes by the file's name and first bytes."""
    encoding: str = "auto"
    """Encoding of JSON and CSV files (auto: UTF-8, or what is detected); for a dump, that of its text, where what the
    dump says of itself is wrong."""
    columns: Columns = Columns()
    tables: list[Table] = []
    """The tables that are read; without them every row of the source is."""
    filter: Filter = {}
    """Only rows whose columns hold this value, or one of these: `{is_consistent: true}`, `{engine: [vk, ok]}`."""
    partial: bool = False
    """Take what is there of a dump that ends in the middle, instead of refusing it."""

    @model_validator(mode="after")
    def _paths_or_hub(self) -> Self:
        if bool(self.paths) == (self.hub is not None):
            raise ValueError("give one of paths (files, folders) and hub (owner/name)")
        if self.hub is None and (self.subset or self.revision):
            raise ValueError("subset and revision belong to a dataset on the Hub; take them away, or name it with hub")
        return self


class Dialogues(Rows):
    """One source of dialogues: whole conversations in a row, or one turn a row."""

    shape: Literal["auto", "messages", "alpaca", "sharegpt", "turns"] = "auto"
    """auto goes by the columns of the first row; turns, where columns.conversation is given."""
    roles: dict[str, Literal["system", "user", "assistant", "drop"]] = {}
    """Further speaker names and the role each one has, e.g. `{Учитель: assistant}`; `"*"` is whoever is
    not named. The usual ones are known. What one says whose role is drop, e.g. a service's notices, is left out
    and counted."""
    session_gap: float | None = Field(None, gt=0)
    """turns: a pause longer than this begins a new conversation (hours)."""

    @field_validator("roles", mode="before")
    @classmethod
    def _names_are_text(cls, roles: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
        # A role column often holds 0 and 1, which YAML reads as numbers.
        return {str(name): role for name, role in roles.items()} if isinstance(roles, dict) else roles


class Texts(Rows):
    """One source of plain texts in rows, trained on like books: a row is a text, rows of one title are a work."""


class Clean(Section):
    """Cleaning steps for books and dialogues; each can be switched off, each counts what it changed."""

    nfc: bool = True
    """Compose letters and their marks where a composed letter exists (Unicode NFC)."""
    mojibake: bool = False
    """Repair text that was decoded wrongly once or twice (ftfy); off, such a book is refused."""
    html: bool = True
    """Resolve HTML tags and entities: `<br>`, `&quot;` (dialogues only)."""
    soft_hyphens: bool = True
    """Remove U+00AD."""
    hyphenation: bool = True
    """Join words that were divided at line ends (books only)."""
    spaces: bool = True
    """Turn no-break and other typographic spaces into plain ones, runs of spaces into one, trim lines."""
    line_separators: bool = True
    """Turn U+2028, U+2029, form feeds and CRLF into line ends."""
    object_marks: bool = True
    """Remove U+FFFC (where a picture stood) and zero-width marks."""
    control: bool = True
    """Remove the other control characters."""
    page_numbers: bool = True
    """Drop page numbers on lines of their own (books only)."""
    running_heads: bool = True
    """Drop the title or chapter that stands on top of every page (books only)."""
    contents: bool = True
    """Drop tables of contents (books only)."""
    front_matter: bool = True
    """Drop publishers' front matter before the text begins (books only)."""
    pii: bool = True
    """Put [телефон], [почта], [карта], [профиль] in place of telephone numbers, e-mail addresses, card numbers and
    addresses of profiles (dialogues only)."""


class Duplicates(Section):
    """Passages of books and whole conversations that stand in the sources more than once; the first one stays."""

    exact: bool = True
    """Drop those that are equal word for word."""
    near: bool = True
    """Drop those that are alike (MinHash over runs of five words)."""
    threshold: float = Field(0.8, ge=0.5, le=1)
    """From which Jaccard similarity on two are alike (0 to 1)."""
    min_words: int = Field(13, ge=5)
    """Shorter passages repeat by nature and stay, and of shorter conversations only exact duplicates go (words)."""


class Split(Section):
    """Shares of the split, by size, drawn by a stable hash of chapter blocks and conversations."""

    train: float = Field(0.8, gt=0, le=1)
    """Share of the text that is trained on (0 to 1)."""
    validation: float = Field(0.1, ge=0, lt=1)
    """Share that stages are measured on while they train (0 to 1)."""
    test: float = Field(0.1, ge=0, lt=1)
    """Share that nothing reads before the evaluation (0 to 1)."""
    seed: int = 108
    """Seed of the hash; the same seed gives the same split whatever else is added."""
    block_chars: int = Field(6000, ge=200)
    """Longest chapter block, in characters; a shorter work gets shorter blocks (a twentieth of it)."""
    decontaminate: bool = True
    """Take out what train shares with validation and test in runs of 13 words."""

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError(f"train + validation + test is {self.train + self.validation + self.test:g}; make it 1")
        return self


class Data(Section):
    """Where the text comes from and how it is cleaned and split."""

    books: Books | None = None
    texts: list[Texts] = []
    dialogues: list[Dialogues] = []
    clean: Clean = Clean()
    duplicates: Duplicates = Duplicates()
    split: Split = Split()
