"""`hf:OWNER/NAME[@REVISION]`: weights and config of a repository on the Hugging Face hub."""

from pathlib import Path

from linft.core.errors import LinftError

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def fetch(name: str) -> tuple[Path, str]:
    """The weights in huggingface_hub's cache, the config beside them, and the commit that they are of.

    What the cache has is taken without asking the hub, so that a name means the same weights
    tomorrow; only what it lacks is downloaded, unless HF_HUB_OFFLINE is set.

    Raises:
      LinftError: neither in the cache nor within reach; no such repository or revision; no
        safetensors in it; a gated one.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repo, _, revision = name.partition("@")
    revision = revision or "main"
    try:
        weights, config = (try_to_load_from_cache(repo, file, revision=revision) for file in (WEIGHTS, CONFIG))
    except HFValidationError:
        raise LinftError(f"hf:{name} names no repository; give hf:OWNER/NAME[@REVISION]") from None
    if not isinstance(weights, str) or config is None:  # None: not known whether there is one
        weights = _download(repo, revision)
    return Path(weights), Path(weights).parent.name  # …/snapshots/COMMIT/model.safetensors


def _download(repo: str, revision: str) -> str:
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]  (of the HTTP library that this version uses)
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    absent = f"hf:{repo} at revision {revision} is not in the cache of huggingface_hub"
    elsewhere = f"run `hf download {repo} {WEIGHTS} {CONFIG}` where there is a network, or give a local file"
    reasons = {  # the first that fits is told
        GatedRepoError: f"hf:{repo} is gated; accept its terms on its page and log in by `hf auth login`",
        RepositoryNotFoundError: f"no repository {repo} on the hub, or a private one; check the name, or log in",
        RevisionNotFoundError: f"hf:{repo} has no revision {revision}; choose another, or none for the newest",
        OfflineModeIsEnabled: f"{absent}, and HF_HUB_OFFLINE is set; unset it, or {elsewhere}",
        LocalEntryNotFoundError: f"{absent}, and the hub cannot be reached; {elsewhere}",
        EntryNotFoundError: f"hf:{repo} has no {WEIGHTS}; choose a repository that has, or convert its weights",
    }
    try:
        HfApi().model_info(repo, revision=revision)  # fails at once where the download would try for long
        try:
            hf_hub_download(repo, CONFIG, revision=revision)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            pass  # the cache remembers that there is none
        return hf_hub_download(repo, WEIGHTS, revision=revision)
    except (OSError, HTTPError) as error:
        why = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), None)
        details = " ".join(str(error).split())
        raise LinftError(why or f"{absent}, and cannot be downloaded ({details}); {elsewhere}") from None
