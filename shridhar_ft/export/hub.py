"""Uploads an export to the Hub: the model's files at the top, its card, GGUF files and certificate beside them."""

from collections.abc import Callable
from pathlib import Path

from shridhar_ft.errors import UserError, first_line

BESIDE = ("README.md", "certificate.json", "Modelfile", "*.gguf")


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
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(BESIDE),
            commit_message="Upload card, certificate and GGUF files",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, httpx2.HTTPError, OSError) as error:
        raise UserError(
            f"export.push_to_hub: {repository} cannot be written ({first_line(error)}); log in with `hf auth login` "
            f"and run the same command again: {folder} is finished"
        ) from error
    return str(commit.commit_url)
