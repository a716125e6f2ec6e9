"""Files on the Hugging Face Hub by address, `hf://USER/NAME@COMMIT/PATH`, and what fails there.

An address names a commit, whose content never changes. So DVC, which watches the address as a
parameter, misses no other version. Token, cache, endpoint and offline mode are huggingface_hub's
own: `HF_TOKEN` or `hf auth login`, `HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE`.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from pdiff.system.errors import InputError, disk_error, reason

SCHEME = "hf://"
ADDRESS = re.compile(
    r"hf://(?P<datasets>datasets/)?(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<path>.+))?"
)
FORM = "hf://USER/NAME@COMMIT, hf://USER/NAME@COMMIT/PATH or hf://datasets/USER/NAME@COMMIT/PATH"


def fetched(address: str, parameter: str) -> Path:
    """The local path of a file or folder; what the hub has is downloaded once, into its cache.

    Of a folder come its files, without folders inside it. What is in the cache needs no network.

    Raises:
        InputError: an address without commit (the message has the newest one), an unknown
            repository or path, no permission, no network, or no huggingface_hub. It begins with
            `parameter`.
    """
    if not address.startswith(SCHEME):
        return Path(address)
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise InputError(f"{parameter}: {address!r} must look like {FORM}")
    kind = "dataset" if found["datasets"] else "model"
    repo, revision, path = found["repo"], found["revision"] or "main", found["path"] or ""
    place = {"repo_id": repo, "revision": revision, "repo_type": kind}
    if not re.fullmatch("[0-9a-f]{40}", revision):
        with hub(f"{parameter}: {address}") as client:
            commit = client.HfApi().repo_info(**place).sha
        pinned = f"{SCHEME}{found['datasets'] or ''}{repo}@{commit}{'/' if path else ''}{path}"
        raise InputError(f"{parameter}: {address} names no commit, so it may change; now: {pinned}")
    inside = f"{path.rstrip('/')}/" if path else ""
    patterns = {"allow_patterns": [path, f"{inside}*"], "ignore_patterns": f"{inside}*/*"}
    with hub(f"{parameter}: {address}") as client:
        local = Path(client.snapshot_download(**place, **patterns)) / path
    if not local.exists():
        raise InputError(f"{parameter}: {address}: the repository has no {path or 'files'}")
    return local


@contextmanager
def hub(subject: str) -> Iterator[ModuleType]:
    """huggingface_hub; what goes wrong there is one `InputError` that begins with `subject`."""
    try:
        import huggingface_hub  # an extra: only who gives an address needs it
    except ImportError:
        raise InputError(f"{subject}: needs `pip install huggingface_hub`") from None
    # timm may have imported it before, too late for HF_HUB_DISABLE_TELEMETRY
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield huggingface_hub
    except Exception as error:  # its network libraries raise many kinds
        if isinstance(error, InputError | MemoryError) or disk_error(error):
            raise
        raise InputError(f"{subject}: {_why(error)}") from None


def _why(error: Exception) -> str:
    """One line on what the user can mend."""
    from huggingface_hub import constants, errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return "its page asks who wants access; ask there, and give a token as HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one and no token that may read it (HF_TOKEN)"
    if status in (401, 403):
        return "no permission; HF_TOKEN or `hf auth login` gives a token that has it"
    if status:
        return f"the hub answers {status}: {reason(error)}"
    lacking = isinstance(error, errors.LocalEntryNotFoundError)
    cache = ", and it is not in the cache" if lacking else ""
    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set{cache}"
    if lacking or "connect" in type(error).__name__.lower():  # of whatever network library
        return f"{constants.ENDPOINT} cannot be reached{cache}"
    return reason(error)
