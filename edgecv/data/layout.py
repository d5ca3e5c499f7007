"""What the folders of a data set mean: classes, or a division into training, validation and test with classes in it.

A division that is taken for classes trains a network to tell "Training" from "Testing", at 100 % and without a word. So
names decide where they are clear, in any of the spellings that published sets have; where folders look like a division
and their names do not say which half is which, the set is refused with what to say.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations

from edgecv.data.split import listed
from edgecv.data.tree import File, Tree
from edgecv_runtime.errors import DatasetError, nearest
from edgecv_runtime.formats import is_image

TRAIN, VAL, TEST, ALL = "train", "val", "test", "all"

_ROLES = {
    TRAIN: "train training trainings trn tr",
    VAL: "val valid validation validate validating dev devel development eval evaluation",
    TEST: "test testing tst te holdout heldout unseen",
}
_ROLE = {word: role for role, words in _ROLES.items() for word in words.split()}
# What stands beside the role in a name and changes nothing: training_set, val-images, TestImages, train2017.
_FILLERS = frozenset(
    {
        *("set", "sets", "split", "splits", "subset", "partition", "part", "data", "dataset", "datasets"),
        *("folder", "folders", "dir", "directory", "files", "sample", "samples", "crop", "crops", "the"),
        *("image", "images", "img", "imgs", "imagery", "photo", "photos", "picture", "pictures", "pic", "pics"),
    }
)


@dataclass(frozen=True)
class Layout:
    """The classes of each part and the folder that each one's images lie in.

    parts: TRAIN, VAL, TEST, or ALL alone when nothing is divided -> class -> folder below the root; names: part -> the
    folder that it is, "*/test" for one below every class; others: folders that are no part; notes: what was decided.
    """

    parts: Mapping[str, Mapping[str, str]]
    names: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def say_again(self) -> bool:
        """Whether the parts are single folders, which a recipe can name."""
        return all("*" not in name for name in self.names.values())

    def files(self, files: Iterable[File]) -> tuple[dict[str, dict[str, list[File]]], list[File]]:
        """Files by part and class, and those that belong to none."""
        folders = {folder: (part, each) for part, classes in self.parts.items() for each, folder in classes.items()}
        found: dict[str, dict[str, list[File]]] = {
            part: {each: [] for each in classes} for part, classes in self.parts.items()
        }
        strays: list[File] = []
        for file in files:
            owner = _owner(folders, file.name)
            if owner is None:
                strays.append(file)
            else:
                found[owner[0]][owner[1]].append(file)
        return found, strays


def read_layout(tree: Tree, where: str, given: Mapping[str, str] | None = None, labels: Iterable[str] = ()) -> Layout:
    """Tell what a tree's folders are. given: part -> the folder that was named for it; labels: a bundle's.

    Raises DatasetError, with what to say, when the folders could be a division and do not prove what they are.
    """
    labels = frozenset(labels)
    folders = _Folders(tree, where, is_finished=bool(labels))
    if given:
        return folders.as_given(given)
    roles = {top: role for top in tree.tops if (role := role_of(top, tree.tops))}
    if TRAIN in roles.values() and len(set(roles.values())) > 1:
        found = folders.by_names(roles)
        if found is not None:
            return found
    inside = folders.class_first()
    if inside is not None:
        return inside
    if not set(tree.tops) <= labels:
        folders.refuse_alike(tree.tops)
        folders.refuse_train(roles)
    return Layout({ALL: {top: top for top in tree.tops}})


def role_of(name: str, beside: Iterable[str] = ()) -> str | None:
    """The part that a folder's name says, in any spelling; None where it says none or more than one.

    beside: all folders of the level; a word that every one of them has (seg_train, seg_test) is no part of the role.
    """
    words = _words(name)
    shared = set.intersection(*(set(_words(each)) for each in beside)) if beside else set()
    kept = [word for word in words if word not in shared] or words
    roles = [_role(word) for word in kept]
    told = {role for role in roles if role}
    unknown = [word for word, role in zip(kept, roles, strict=True) if role is None and word not in _FILLERS]
    return told.pop() if len(told) == 1 and not unknown else None


def role_within(path: str) -> str | None:
    """The one part that a word in a file's name says, or else in the folder above it, whatever else stands there.

    "annotations/instances_train2017.json" and "train/_annotations.coco.json" are training.
    """
    for name in reversed(path.split("/")):
        told = {role for word in _words(name) if (role := _role(word))}
        if told:
            return told.pop() if len(told) == 1 else None
    return None


def _words(name: str) -> list[str]:
    """The words of a folder's name: letters only, case folded; "TestImages" has two, "train2017" one."""
    text = unicodedata.normalize("NFKC", name)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).casefold()
    text = re.sub(r"\b(hold|held)[\W_]+out\b", r"\1out", text.replace("_", " "))
    return re.findall(r"[^\W\d_]+", text)


def _role(word: str) -> str | None:
    """The part that a word names, alone or run together with what changes nothing: "trainset", "testimages"."""
    if word in _ROLE:
        return _ROLE[word]
    return next(
        (
            role
            for text, role in _ROLE.items()
            if len(text) > 2 and word.startswith(text) and word[len(text) :] in _FILLERS
        ),
        None,
    )


def _owner(folders: Mapping[str, tuple[str, str]], name: str) -> tuple[str, str] | None:
    """The entry of the nearest folder above a file."""
    at = name.rfind("/")
    while at > 0:
        found = folders.get(name[:at])
        if found is not None:
            return found
        at = name.rfind("/", 0, at)
    return None


class _Folders:
    """A tree's folders by their parents, and the questions that tell a division from classes."""

    def __init__(self, tree: Tree, where: str, is_finished: bool = False) -> None:
        self.tree = tree
        self.where = where
        self.is_finished = is_finished  # whether a bundle's labels are known: what can be said then is no recipe
        self.children: dict[str, list[str]] = {}  # folder ("" is the root) -> names of the folders in it
        for name in tree.folders:
            parent, _, own = name.rpartition("/")
            self.children.setdefault(parent, []).append(own)

    @cached_property
    def holding(self) -> set[str]:
        """Folders with images directly in them."""
        return {file.name.rpartition("/")[0] for file in self.tree.files if is_image(file.name, file.head)}

    def as_given(self, given: Mapping[str, str]) -> Layout:
        """The parts that the user named."""
        named = {part: "" if folder.strip("/") in ("", ".") else folder.strip("/") for part, folder in given.items()}
        for part, folder in named.items():
            if folder and folder not in self.tree.folders:
                near = nearest(folder, list(self.tree.folders))
                raise DatasetError(f"{self.where}: data.{part}={folder}: no such folder in it{near}")
        if len(set(named.values())) < len(named):
            told = ", ".join(f"data.{part}={folder or '.'}" for part, folder in named.items())
            raise DatasetError(f"{self.where}: {told}: parts want folders of their own")
        taken = set(named.values())
        parts = {
            part: {name: path for name, path in self.inside(self._inner(folder)).items() if path not in taken}
            for part, folder in named.items()
        }
        return Layout(parts, {part: folder or "." for part, folder in named.items()}, self._rest(taken))

    def by_names(self, roles: Mapping[str, str]) -> Layout | None:
        """A division whose halves' names are clear; None where folders with such names are classes among others."""
        with_classes = [top for top in roles if self.children.get(top)]
        others = [top for top in self.tree.tops if top not in roles]
        if others:
            if not with_classes:
                return None  # a class named "test" beside others
            shared = self.shared(map(self._inner, with_classes))
            if len(with_classes) < 2 or not shared or len(self.shared(map(self._inner, self.tree.tops))) > 1:
                self._refuse(self.tree.tops)
        twice = [top for top in roles if sum(role == roles[top] for role in roles.values()) > 1]
        if twice:
            raise DatasetError(
                f"{self.where}: {' and '.join(twice)} are named as the same part; {self._say(list(roles))}"
            )
        names = {role: top for top, role in roles.items()}
        parts = {part: self.inside(self._inner(names[part])) for part in (TRAIN, VAL, TEST) if part in names}
        flat = [names[part] for part, classes in parts.items() if not classes]
        if names[TRAIN] in flat:
            raise DatasetError(
                f"{self.where}: '{names[TRAIN]}' holds no class folders; wanted are "
                f"{self.where}/{names[TRAIN]}/CLASS/IMAGE, or one folder a class in {self.where}"
            )
        self.refuse_alike(list(parts[TRAIN].values()))
        notes = (f"{listed(flat)}: no class folders, left out: without labels nothing can be scored",) if flat else ()
        kept = {part: classes for part, classes in parts.items() if classes}
        return Layout(kept, {part: names[part] for part in kept}, tuple(others), notes)

    def class_first(self) -> Layout | None:
        """A division below each class, CLASS/train/IMAGE; None where there is none."""
        tops = self.tree.tops
        below = {
            top: {each: role_of(each, self.children.get(top, ())) for each in self.children.get(top, ())}
            for top in tops
        }
        halved = [top for top, roles in below.items() if TRAIN in roles.values() and {VAL, TEST} & set(roles.values())]
        if len(tops) < 2 or not all(TRAIN in roles.values() for roles in below.values()):
            if halved:  # beside other folders; as classes, a whole set would be one of them
                raise DatasetError(
                    f"{self.where}: '{halved[0]}' holds a division ({listed(list(below[halved[0]]), 4)}): is it "
                    f"{self.where}/{halved[0]} that you mean? {self._say(list(tops))}"
                )
            return None
        divided = {role for roles in below.values() for role in roles.values()}
        if (
            None in divided
            or len(divided) < 2
            or any(len(set(roles.values())) < len(roles) for roles in below.values())
        ):
            self._refuse(tops)
        if any(self.children.get(f"{top}/{each}") for top, roles in below.items() for each in roles):
            self._refuse(tops)  # folders below the halves: which level are the classes?
        parts = {
            part: {top: f"{top}/{each}" for top in tops for each, role in below[top].items() if role == part}
            for part in (TRAIN, VAL, TEST)
            if part in divided
        }
        return Layout(parts, {part: f"*/{part}" for part in parts})

    def refuse_alike(self, folders: Iterable[str]) -> None:
        """Raise DatasetError where some of a level's folders hold the same folders: halves as well as classes.

        Folders with images of their own, all of them, are classes.
        """
        level = {folder: set(self.children.get(folder, ())) for folder in folders}
        times = Counter(name for names in level.values() for name in names)
        level = {folder: {name for name in names if times[name] > 1} for folder, names in level.items()}
        level = {folder: names for folder, names in level.items() if len(names) > 1}
        for one, other in combinations(level, 2):
            same = level[one] & level[other]
            if len(same) > 1 and not {one, other} <= self.holding:
                self._refuse([folder for folder, names in level.items() if len(names & same) > 1])

    def refuse_train(self, roles: Mapping[str, str]) -> None:
        """Raise DatasetError where a folder named as training holds the classes and others without a name stand beside.

        As classes, the whole set would be one of them.
        """
        for top, role in roles.items() if len(self.tree.tops) > 1 else ():
            if role == TRAIN and top not in self.holding and len(self.inside(self._inner(top))) > 1:
                self._refuse(self.tree.tops)

    def shared(self, folders: Iterable[str]) -> set[str]:
        """Names of folders that every one of some folders holds."""
        return set.intersection(*(set(self.children.get(folder, ())) for folder in folders))

    def inside(self, folder: str) -> dict[str, str]:
        """The folders in a folder ("" is the root): name -> path."""
        start = folder + "/" if folder else ""
        return {name: start + name for name in self.children.get(folder, ())}

    def _inner(self, folder: str) -> str:
        """Where the classes of a half begin: seg_train/seg_train/CLASS has one folder, which cannot be all classes."""
        while folder and len(inner := self.children.get(folder, [])) == 1 and folder not in self.holding:
            deeper = f"{folder}/{inner[0]}"
            if len(self.children.get(deeper, [])) < 2:
                break
            folder = deeper
        return folder

    def _rest(self, taken: set[str]) -> tuple[str, ...]:
        if "" in taken:
            return ()
        return tuple(
            top for top in self.tree.tops if not any(name == top or name.startswith(top + "/") for name in taken)
        )

    def _refuse(self, level: Iterable[str]) -> None:
        folders = list(level)
        same = sorted(self.shared(folders))
        holds = f"hold the same folders ({listed(same, 4)})" if len(same) > 1 else "could be classes or halves"
        raise DatasetError(f"{self.where}: {listed(folders, 4)} {holds}: a division, or classes? {self._say(folders)}")

    def _say(self, folders: list[str]) -> str:
        names = {folder: folder.rpartition("/")[2] for folder in folders}
        roles = {folder: role_of(name, names.values()) for folder, name in names.items()}
        first = min(folders, key=lambda each: (TRAIN, None, VAL, TEST).index(roles[each]))
        rest = [each for each in folders if each != first and (self.children.get(each) or roles[first] != TRAIN)]
        second = min(rest, key=lambda each: (VAL, TEST, None, TRAIN).index(roles[each]), default=None)
        if self.is_finished:
            alone = f"give the folder of one of them alone, {second or first} say"
            return f"a recipe says which is which; of a finished bundle, {alone}"
        said = f"data.train={first}" + (f" data.val={second}" if second else "")
        return f"say which is which: {said}, or data.train=. when the folders at the top are the classes"
