"""Uploading an exported folder to the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.engine.recipe import Recipe
from evomerge.errors import EvomergeError, InputError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
REFUSED = (401, 403)


def check_push(repository: str) -> None:
    """Check what can be known before anything is merged: the name, the token, and whose the name space is.

    Raises:
        InputError: the name is none, there is no token or the hub refuses it, or the name space is another's.
        EvomergeError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(
            f"--push-to-hub must name a repository, such as me/model, but got {repository!r}: {_line(error)}"
        ) from None
    if get_token() is None:
        raise InputError(f"--push-to-hub needs a token with the right to write: {LOG_IN}")
    try:
        who: dict[str, Any] = HfApi().whoami()
    except Exception as error:
        if _status(error) in REFUSED:
            raise InputError(
                f"--push-to-hub needs a token that the hub knows, but it refuses this one; {LOG_IN}"
            ) from None
        raise EvomergeError(
            f"the hub could not be asked whether {repository} can be uploaded to: {_line(error)}"
        ) from None
    owner, slash, _ = repository.partition("/")
    spaces = [str(who.get("name")), *(str(each.get("name")) for each in who.get("orgs") or ())]
    if slash and owner not in spaces:
        raise InputError(f"--push-to-hub must name a repository of {' or '.join(spaces)}, but got {repository!r}")


def tell_local_paths(recipe: Recipe, tell: Callable[[str], None]) -> None:
    """Tell that folders of this machine are named in what will be uploaded, where that is so."""
    parts = [source for model in (recipe.base, *recipe.experts) for source in (model.model, model.adapter) if source]
    local = [source for source in dict.fromkeys(parts) if Path(source).is_absolute()]
    if local:
        tell(f"hub: recipe.yaml, mergekit.yaml and evomerge.json name folders of this machine: {', '.join(local)}")


def push(
    folder: Path, repository: str, *, private: bool = True, tell: Callable[[str], None] = lambda line: None
) -> str:
    """Upload `folder` to `repository`, which is made where it does not exist.

    Args:
        folder: as exported; it is kept whatever happens.
        repository: `org/name`, or a name of one's own.
        private: whether a new repository is. One that exists keeps what it is, which `tell` is told.
        tell: told of a repository that was there before.

    Returns:
        Its URL.

    Raises:
        EvomergeError: when the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        if api.repo_exists(repository):
            seen = "private" if api.model_info(repository).private else "public"
            tell(f"hub: {repository} exists and stays {seen}")
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder, repo_id=url.repo_id, commit_message=f"{folder.name}, merged with evomerge"
        )
    except Exception as error:
        raise EvomergeError(
            f"{folder} is written, but {repository} could not be uploaded to: {_line(error)}; try again with "
            f"`hf upload {repository} {folder}`"
        ) from None
    return str(url)


def _status(error: BaseException) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def _line(error: BaseException) -> str:
    """The error in one line, without the token."""
    from huggingface_hub import get_token

    text = " ".join(str(error).split())[:300] or type(error).__name__
    token = get_token()
    return text.replace(token, "***") if token else text
