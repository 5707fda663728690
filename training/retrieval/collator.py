"""One batch of questions and their candidates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from milco_hf.training.collator import AdapterIds, language_ids, tokenize


class CandidateCollator:
    """Tokenises questions and passages; a passage that several questions have is there once.

    The batch holds

    - ``query_ids``, ``query_mask`` [Q, n] and ``document_ids``, ``document_mask`` [P, m];
    - ``candidates`` [Q, K]: which of the P passages are a question's candidates, the positive first, -1 where it has
      fewer than K;
    - ``teacher_scores`` [Q, K], NaN where there is none;
    - ``document_numbers`` [P]: which passages of the dataset they are;
    - ``answers`` [Q, M]: numbers of what is no negative of a question, -1 where there are fewer than M;
    - ``bridged`` [Q]: whether a question in another language has English passages;
    - ``query_lang_ids`` [Q], ``document_lang_ids`` [P], for encoders with language adapters.

    Args:
        tokenizer: the student's tokenizer.
        query_length, document_length: texts are cut to so many tokens.
        pad_to_multiple_of: widths are rounded up to a multiple of it (8 suits tensor cores).
        adapters: the student's `config.adapter_ids`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        query_length: int,
        document_length: int,
        pad_to_multiple_of: int | None = None,
        adapters: AdapterIds | None = None,
    ) -> None:
        self.adapters = adapters
        self.tokenizer = tokenizer
        self.query_length, self.document_length = query_length, document_length
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Make a batch of items, as `CandidateDataset` gives them."""
        places: dict[int, int] = {}
        texts: list[str] = []
        languages: list[str] = []  # of the passages
        for item in items:
            for number, text in zip(item["passage_numbers"], item["passages"], strict=True):
                if places.setdefault(number, len(places)) == len(texts):
                    texts.append(text)
                    languages.append(item["passage_language"])
        candidates = [[places[number] for number in item["passage_numbers"]] for item in items]
        query_ids, query_mask = tokenize(
            self.tokenizer, [item["query"] for item in items], self.query_length, self.pad_to_multiple_of
        )
        document_ids, document_mask = tokenize(self.tokenizer, texts, self.document_length, self.pad_to_multiple_of)
        return {
            "query_ids": query_ids,
            "query_mask": query_mask,
            "document_ids": document_ids,
            "document_mask": document_mask,
            "candidates": _padded(candidates, -1),
            "teacher_scores": _padded([item["scores"] for item in items], float("nan")),
            "document_numbers": torch.tensor(list(places)),
            "answers": _padded([item["answers"] for item in items], -1),
            "bridged": torch.tensor([item["bridged"] for item in items]),
            **language_ids(self.adapters, [item["query_language"] for item in items], "query_lang_ids"),
            **language_ids(self.adapters, languages, "document_lang_ids"),
        }


def _padded(rows: list[list[Any]], value: float) -> Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])
