"""Uploads an export to the Hub: the model's files at the top, its card, GGUF files and certificate beside them."""

from collections.abc import Callable
from pathlib import Path

from shridhar_ft.config_export import Export
from shridhar_ft.errors import UserError, first_line
from shridhar_ft.export.card import for_hub
from shridhar_ft.runfolder import file_hash, fingerprint, read_json, write_json

PUSHED = "pushed.json"
CARD = "README.md"
BESIDE = (CARD, "certificate.json", "Modelfile", "*.gguf")


def upload(folder: Path, wanted: Export, say: Callable[[str], None]) -> None:
    """Upload a finished export where its recipe wants it, unless these very files are there already.

    Raises:
        UserError: The Hub refuses, or cannot be reached; the export itself stands.
    """
    if wanted.push_to_hub is None:
        return
    marker = folder / PUSHED
    is_what = {"repository": wanted.push_to_hub, "files": fingerprint(_contents(folder))}
    if marker.is_file() and read_json(marker)["what"] == is_what:
        say(f"export: {wanted.push_to_hub} has these files already")
        return
    commit = push_to_hub(folder, wanted.push_to_hub, wanted.private, say)
    write_json(marker, {"what": is_what, "commit": commit})
    say(f"export: {commit}")


def _contents(folder: Path) -> dict[str, str]:
    """Hashes of what is uploaded, by name; GGUF files are made with the certificate, which stands for them."""
    beside = [path for pattern in BESIDE if pattern != "*.gguf" for path in folder.glob(pattern)]
    files = sorted((*beside, *(path for path in (folder / "model").rglob("*") if path.is_file())))
    return {str(path.relative_to(folder)): file_hash(path) for path in files}


def push_to_hub(folder: Path, repository: str, private: bool, say: Callable[[str], None]) -> str:
    """Upload a finished export.

    Args:
        folder: The export's.
        repository: OWNER/NAME; made if it is not there.
        private: Whether it is private when it is made.
        say: Told what goes up.

    Returns:
        Address of the commit.

    Raises:
        UserError: The Hub refuses, or cannot be reached; the export itself stands.
    """
    import httpx2  # what huggingface_hub speaks through
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        say(f"export: uploading to {repository}")
        api.upload_folder(repo_id=repository, folder_path=folder / "model", commit_message="Upload the model")
        card = for_hub((folder / CARD).read_text(encoding="utf-8"), repository)
        api.upload_file(
            repo_id=repository, path_or_fileobj=card.encode(), path_in_repo=CARD, commit_message="Upload the card"
        )
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[pattern for pattern in BESIDE if pattern != CARD],
            commit_message="Upload certificate and GGUF files",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, httpx2.HTTPError, OSError) as error:
        raise UserError(
            f"export.push_to_hub: {repository} cannot be written ({first_line(error)}); log in with `hf auth login` "
            f"and run the same command again: {folder} is finished"
        ) from error
    return str(commit.commit_url)
