"""The passages that rows speak of: each text once, by number, whatever ids and files it came under."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from milco_hf.mining.files import find_jsonl, stem
from milco_hf.text_files import read_jsonl

ID_KEYS = ("pid", "id", "_id")


class Passages:
    """Numbered passages.

    Passages of equal text are one passage, so that a copy of a query's positive is never taken for a negative.

    Args:
        titles: models read the title, a space and the text; equality looks at the text alone.
    """

    def __init__(self, titles: bool = False) -> None:
        self.titles = titles
        self.texts: list[str] = []
        self.pids: list[str | None] = []
        self.by_group: dict[str, list[int]] = {}
        self._by_pid: dict[str, int] = {}
        self._by_text: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: str, pid: str | None = None, title: str | None = None, group: str | None = None) -> int:
        """Add a passage, or find the one that has this text.

        Args:
            text: its text.
            pid: its id, where it has one.
            title: its title, where it has one.
            group: the corpus file that it stands in, for negatives of the query's own language.

        Returns:
            Its number.

        Raises:
            ValueError: the id belongs to another text.
        """
        number = self._by_text.get(text)
        if number is None:
            number = self._by_text[text] = len(self.texts)
            self.texts.append(f"{title.strip()} {text}" if self.titles and title else text)
            self.pids.append(None)
        if pid is not None:
            if self._by_pid.setdefault(pid, number) != number:
                raise ValueError(f"Two passages of different text are called {pid!r}; ids must be unique in a corpus.")
            if self.pids[number] is None:
                self.pids[number] = pid
        if group is not None:
            self.by_group.setdefault(group, []).append(number)
        return number

    def number(self, pid: str) -> int | None:
        """The passage with an id, None where there is none."""
        return self._by_pid.get(pid)

    @property
    def candidates(self) -> list[int]:
        """Numbers of the passages that came from corpus files; of all where none did."""
        if not self.by_group:
            return list(range(len(self.texts)))
        return list(dict.fromkeys(number for numbers in self.by_group.values() for number in numbers))


def read_passages(paths: Iterable[str | Path], titles: bool = False) -> Passages:
    """Read corpus files: lines of {"pid" | "id" | "_id": …, "text": …, "title"?: …}.

    Args:
        paths: files, or folders of them. A file's name without endings is the group of its passages.
        titles: put a passage's title before its text.

    Raises:
        ValueError: a line has no id or no text, or an id is there twice with different texts.
    """
    passages = Passages(titles)
    for path in find_jsonl(paths):
        group = stem(path)
        for line, record in read_jsonl(path):
            pid = next((record[key] for key in ID_KEYS if record.get(key) is not None), None)
            text = record.get("text")
            if pid is None or not isinstance(text, str):
                raise ValueError(
                    f"{path}, line {line}: a passage needs an id ({', '.join(ID_KEYS)}) and a text, got the keys "
                    f"{', '.join(record) or 'none'}."
                )
            try:
                passages.add(text, str(pid), record.get("title"), group)
            except ValueError as error:
                raise ValueError(f"{path}, line {line}: {error}") from None
    return passages


def corpus_beside(inputs: Iterable[str | Path]) -> list[Path]:
    """Corpus files that lie in a folder `passages` beside question files: those of the same names, or its all.

    A folder of questions takes all files of `passages`; a single file `XX.jsonl…` takes `passages/XX.jsonl…`.
    """
    found: list[Path] = []
    for entry in inputs:
        path = Path(entry).expanduser()
        beside = (path if path.is_dir() else path.parent) / "passages"
        if not beside.is_dir():
            continue
        files = find_jsonl([beside])
        found += files if path.is_dir() else [file for file in files if stem(file) == stem(path)]
    return list(dict.fromkeys(found))
