"""Uploading an exported folder to the hub."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import EvomergeError


def push(folder: Path, repository: str) -> None:
    """Upload `folder` to `repository` (org/name), which is made, private, where it does not exist.

    Raises:
        EvomergeError: when the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise EvomergeError(f"{folder} is written, but {repository} could not be uploaded to: {reason}") from error
