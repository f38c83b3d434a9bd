"""What a file is that is no text, by its first bytes."""

_SIGNATURES = (
    (b"PK\x03\x04", "a ZIP archive (an .epub, .docx or .fb2.zip is one too)"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"%PDF-", "a PDF"),
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old or encrypted Word document (.doc)"),
    (b"{\\rtf", "an RTF document"),
    (b"AT&TFORM", "a DjVu scan"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"PAR1", "a Parquet file"),
)


def signature(head: bytes) -> str | None:
    """The kind of file that begins with these bytes, with its article; None where it may be a text."""
    for start, name in _SIGNATURES:
        if head.startswith(start):
            return name
    return "a MOBI book" if head[60:68] == b"BOOKMOBI" else None
