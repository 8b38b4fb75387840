"""An exported folder, pushed to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from markovae.errors import UserError


def require_hub() -> None:
    """Before anything is written.

    Raises:
        UserError: without the extra `hub`.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise UserError("--push needs huggingface_hub: install it with  pip install 'markovae[hub]'") from None


def push_folder(folder: str | Path, repository: str) -> str:
    """Upload an exported folder to the model repository NAME or OWNER/NAME, made where it is missing; its address.

    The token is huggingface_hub's own (`hf auth login`, or the variable HF_TOKEN).

    Raises:
        UserError: without the extra `hub`, or where the Hub refuses, with its words.
    """
    require_hub()
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        name = api.create_repo(repository, exist_ok=True).repo_id
        return str(api.upload_folder(repo_id=name, folder_path=str(folder)))
    except Exception as error:  # of the network, of the token, of the name: a dozen kinds of several packages
        words = " ".join(str(error).split())
        raise UserError(
            f"{folder} was written but could not be pushed to {repository} ({words[:300]}): log in with  hf auth "
            "login  and push it with  hf upload"
        ) from None
