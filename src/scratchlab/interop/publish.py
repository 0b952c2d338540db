"""Publishing a run on the Hugging Face Hub: each version exported, proved, then sent; what is there is not sent again.

A branch gets all its files in one commit, so that nobody ever loads a part. Snapshots are sent first, each to a branch
of its own, and the run's weights last. A version that fails its proof ends it before anything of that version is sent.

The token is the one that `hf auth login` or HF_TOKEN gave to the Hub's own client; it is never looked at here.
"""

import contextlib
import re
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scratchlab.corpus.hub import files_at, hub_errors, in_words, is_there, send
from scratchlab.errors import RunError, UsageError
from scratchlab.files import disk_errors, own_folder, sha256_of_file
from scratchlab.interop.card import About
from scratchlab.interop.card_header import LICENSES, check_header, labels_of
from scratchlab.interop.exports import export_run
from scratchlab.interop.names import listed
from scratchlab.interop.proof_files import BESIDE, CARD, CHARTS, PROOF, read_proof
from scratchlab.model.load import At
from scratchlab.runfolder import Record, RunFolder, step_name

if TYPE_CHECKING:
    from huggingface_hub.hf_api import GitRefs

MAIN = "main"
ATTRIBUTES = ".gitattributes"  # the Hub's own: which files are large
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be published, and how."""

    name: str
    """USER/NAME."""
    at: At = "final"
    custom: bool = False
    """Whether it brings the model's own code."""
    private: bool = True
    branch: str = MAIN
    tag: str | None = None
    """Of the run's weights, as they are then."""
    checkpoints: bool = False
    """Whether each snapshot becomes a branch, named for its step."""
    dry_run: bool = False
    """Export and prove, and send nothing."""

    @property
    def where(self) -> str:
        """For people."""
        from huggingface_hub import constants

        return f"{self.name} on {constants.ENDPOINT}"

    def versions(self, folder: RunFolder) -> list[tuple[str, At | int]]:
        """The branches, each with the weights that it gets; the run's own come last."""
        steps = folder.snapshot_steps() if self.checkpoints else []
        return [*((step_name(step), step) for step in steps), (self.branch, self.at)]


def publish_run(folder: RunFolder, wish: Wish, about: About, say: Say = lambda text: None) -> Record:
    """Publish a run as a model of the Hub; tells of each branch its commit, what was sent and what was there already.

    Raises UsageError for a name, a license or a language that cannot be; RunError for a name that holds something else,
    for a token that may not write, for a card that the Hub does not take and for a proof that fails; UnfinishedError or
    UnreachableError for what goes on when it is run again.
    """
    _check_names(wish)
    check_header(about.license, about.languages)
    versions = wish.versions(folder)
    if wish.checkpoints and len(versions) == 1:
        raise UsageError(f"--checkpoints: {folder.path} kept no snapshots on the way, so there are none to publish.")
    there = {} if wish.dry_run else _survey(folder, wish, [branch for branch, _ in versions])
    about = replace(about, load_as=wish.name, on_hub=True)
    done = [_publish_version(folder, wish, branch, at, about, there.get(branch), say) for branch, at in versions]
    if wish.tag is not None and not wish.dry_run:
        _set_tag(wish, done[-1]["commit"])
    facts = {"run": str(folder.path), "to": wish.name, "private": wish.private, "dry_run": wish.dry_run}
    return {**facts, "tag": wish.tag, "versions": done}


def _check_names(wish: Wish) -> None:
    """UsageError for what the Hub would not take for a name, a branch or a tag."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", wish.name, re.ASCII):
        raise UsageError(f"{wish.name} names no model of the Hub: USER/NAME was expected, as in me/first.")
    try:
        validate_repo_id(wish.name)
    except HFValidationError as error:
        raise UsageError(f"{wish.name} names no model of the Hub: {in_words(error)}.") from None
    for option, name in (("--revision", wish.branch), ("--tag", wish.tag)):
        if name is not None and not re.fullmatch(r"(?!.*(\.\.|//|\.$|/$|\.lock$))\w[\w./-]*", name, re.ASCII):
            raise UsageError(f"{option} {name}: letters, digits, -, _, . and / were expected, as in v1.0.")


def _publish_version(
    folder: RunFolder, wish: Wish, branch: str, at: At | int, about: About, commit: str | None, say: Say
) -> Record:
    """Export, prove and send one branch, which is at `commit` if an earlier publication is on it."""
    stated = about if commit is None else _with_labels_there(wish, commit, about)
    temporary = Path(tempfile.gettempdir())
    with (
        disk_errors(temporary, "the export"),
        own_folder(temporary, "scratchlab-publish-") as place,
    ):
        exported = place / "export"
        say(f"{branch}: exporting and proving")
        export_run(folder, exported, at, wish.custom, replace(stated, revision=None if branch == MAIN else branch))
        paths = [path for path in sorted(exported.rglob("*")) if path.is_file()]
        files = {path.relative_to(exported).as_posix(): path for path in paths}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        listed_files = [{"name": name, "size": size} for name, size in sizes.items()]
        version: Record = {"branch": branch, "at": at, "files": listed_files, "bytes": sum(sizes.values())}
        if wish.dry_run:
            return version
        say(f"{branch}: sending {version['bytes'] / 1e6:,.1f} MB to {wish.where}")
        with hub_errors(wish.where, "model", RunError):
            _check_card(wish, exported / CARD)  # before anything is made there, or takes its time
            return version | _send(wish, branch, files) | _taken_over(about, stated)


def _taken_over(about: About, stated: About) -> Record:
    """What a card says because the one before it did."""
    license = None if about.license else stated.license
    return {"license_kept": license, "languages_kept": [] if about.languages else list(stated.languages)}


# The Hub.


def _survey(folder: RunFolder, wish: Wish, branches: Sequence[str]) -> dict[str, str]:
    """Whether this may be published there, before anything takes its time. Nothing is changed.

    Gives the commits of those branches that something was put on.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if get_token() is None:
        raise RunError(f"{wish.where}: nobody is logged in here. `hf auth login`, or set HF_TOKEN.")
    api = HfApi()
    with hub_errors(wish.where, "model", RunError):
        user = api.whoami()
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise RunError(f"{wish.where}: the token here has only the right to read. Use one with the right to write.")
        own = [user["name"], *(one["name"] for one in user.get("orgs", []))]
        if (owner := wish.name.partition("/")[0]).lower() not in map(str.lower, own):
            raise RunError(
                f"{wish.where}: the token here is of {user['name']}, who may not publish as {owner}. Names may begin "
                f"with {', '.join(f'{name}/' for name in own)}."
            )
        try:
            refs = api.list_repo_refs(wish.name)
        except RepositoryNotFoundError:
            return {}  # it is yet to be made
        private = api.model_info(wish.name).private
    if private != wish.private:
        is_, option = ("private", "--private") if private else ("public", "--public")
        raise RunError(
            f"{wish.where} is there already, and is {is_}. Say {option} to publish to it as it is, or change it on its "
            "page first."
        )
    heads = _commits(refs)
    own_heads = {name: heads[name] for name in branches if name in heads and not _is_copy_of_main(name, heads)}
    for branch, commit in own_heads.items():
        _refuse_another(folder, wish, branch, commit)
    tags = {ref.name: ref.target_commit for ref in refs.tags}
    if wish.tag in tags and tags[wish.tag] != heads.get(wish.branch):
        raise RunError(
            f"{wish.where} has a tag {wish.tag} already, of another commit. Choose another name for this one."
        )
    return own_heads


def _commits(refs: "GitRefs") -> dict[str, str]:
    """Where each branch is."""
    return {ref.name: ref.target_commit for ref in refs.branches}


def _is_copy_of_main(branch: str, heads: Mapping[str, str]) -> bool:
    """Whether nothing was put on a branch since it was made: the Hub begins each as a copy of main."""
    return branch != MAIN and heads[branch] == heads.get(MAIN)


def _refuse_another(folder: RunFolder, wish: Wish, branch: str, commit: str) -> None:
    """RunError if the branch holds something that was not published from this run."""
    with hub_errors(wish.where, "model", RunError):
        there = files_at(wish.name, "model", commit)
        proof = _proof_at(wish, commit) if PROOF in there else None
    remedy = "Nothing was changed. Give another name, or another branch (--revision)."
    if proof is not None:
        other = proof["run"]
        if other["fingerprint"] != folder.manifest()["fingerprint"]:
            raise RunError(
                f"{wish.where} holds another run on {branch}: {other['name']}, fingerprint "
                f"{str(other['fingerprint'])[:12]}. {remedy}"
            )
    elif others := sorted(set(there) - set(BESIDE)):
        raise RunError(f"{wish.where} holds other things on {branch} ({listed(others)}). {remedy}")


def _proof_at(wish: Wish, commit: str) -> Record:
    """The proof.json of what was published before. RunError if it is none."""
    with _sent_before(wish, PROOF, commit) as path:
        proof = read_proof(path.parent, earlier=True)
    if not isinstance(proof.get("files"), dict) or not {"name", "fingerprint"} <= dict(proof.get("run", {})).keys():
        raise RunError(f"{wish.where}: its {PROOF} is damaged. Delete it there, or give another name.")
    return proof


@contextlib.contextmanager
def _sent_before(wish: Wish, name: str, commit: str) -> Generator[Path]:
    """A file of what was published before, for as long as it is looked at."""
    from huggingface_hub import hf_hub_download

    with own_folder(Path(tempfile.gettempdir()), "scratchlab-publish-") as place:
        yield Path(hf_hub_download(wish.name, name, revision=commit, local_dir=place))


def _with_labels_there(wish: Wish, commit: str, about: About) -> About:
    """With the license and the languages that the card there states, where none are given."""
    from huggingface_hub.errors import EntryNotFoundError

    with hub_errors(wish.where, "model", RunError):
        try:
            with _sent_before(wish, CARD, commit) as card:
                license, languages = labels_of(card)
        except EntryNotFoundError:
            return about
    return replace(about, license=about.license or license, languages=about.languages or languages)


def _check_card(wish: Wish, card: Path) -> None:
    """RunError if the Hub would not take the card for what its header says, as it does not a license unknown to it."""
    from huggingface_hub import ModelCard

    try:
        ModelCard.load(card).validate()
    except ValueError as error:
        raise RunError(
            f"{wish.where} does not take the header of the card (it says: {in_words(error)}). This version was not "
            f"sent. Give a --license that is listed at {LICENSES}, or other, and for each --language a code of ISO 639."
        ) from None


def _send(wish: Wish, branch: str, files: Mapping[str, Path]) -> Record:
    """Make the branch have these files, and none of an earlier publication besides."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi()
    api.create_repo(wish.name, private=wish.private, exist_ok=True)
    if branch != MAIN:
        api.create_branch(wish.name, branch=branch, exist_ok=True)
    heads = _commits(api.list_repo_refs(wish.name))
    commit = heads[branch]
    there = files_at(wish.name, "model", commit)
    lacking = _lacking(files, there)
    copied = _is_copy_of_main(branch, heads)
    stale = sorted(set(there) - {*files, ATTRIBUTES}) if copied else _stale(wish, commit, there, files)
    if lacking or stale:
        added = [CommitOperationAdd(name, files[name]) for name in lacking]
        deleted = [CommitOperationDelete(name) for name in stale]
        commit = send(wish.name, "model", branch, commit, added, deleted, message="Published by scratchlab")
        if wrong := _lacking(files, files_at(wish.name, "model", commit)):
            raise RunError(f"{wish.where}: {listed(wrong)} did not arrive as sent. Publish again.")
    return {"commit": commit, "sent": lacking, "kept": [name for name in files if name not in lacking]}


def _lacking(files: Mapping[str, Path], there: Mapping[str, Any]) -> list[str]:
    """The files that a branch has not. The weights come last: what is small is known to arrive by then."""
    missing = [name for name, file in files.items() if not is_there(file, sha256_of_file(file), there.get(name))]
    return sorted(missing, key=lambda name: files[name].stat().st_size)


def _stale(wish: Wish, commit: str, there: Mapping[str, Any], files: Mapping[str, Path]) -> list[str]:
    """What an earlier publication left on the branch, and this one does not have. What others added stays."""
    if PROOF not in there:
        return []
    proved = _proof_at(wish, commit)["files"]
    ours = [name for name in there if name in proved or name.startswith(f"{CHARTS}/") or name == CARD]
    return [name for name in ours if name not in files]


def _set_tag(wish: Wish, commit: str) -> None:
    """RunError if the tag is there already, and of another commit."""
    from huggingface_hub import HfApi

    assert wish.tag is not None
    api = HfApi()
    with hub_errors(wish.where, "model", RunError):
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(wish.name).tags}
        if wish.tag not in tags:
            api.create_tag(wish.name, tag=wish.tag, revision=commit)
    if tags.get(wish.tag, commit) != commit:
        raise RunError(
            f"All is published as {commit[:12]}; the tag {wish.tag} is of another commit, {tags[wish.tag][:12]}, and "
            "was left as it is. Choose another name for this one."
        )
