"""The texts that the demo model's lenses are fitted and measured on, out of the PyPI package gensim.

gensim 4.4.0 carries, as data of its own tests, some hundred articles of the English Wikipedia (CC BY-SA) and
300 news reports of the Australian Broadcasting Corporation (Lee et al. 2005). None of their text is kept
here or in a lens: only sums over what the model does on them.

    pip install --no-deps gensim==4.4.0 smart_open scipy wrapt
"""

import bz2
import random
import re
from pathlib import Path
from typing import Any

WIKIPEDIA = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
NEWS = "lee_background.cor"
SEED = 0


def demo_texts(tokenizer: Any, n_tokens: int) -> list[list[int]]:
    """Token ids of texts of `n_tokens` in a fixed order: two of Wikipedia, one of the news, and so on.

    No article and no report gives more than one text, so any two parts of the list are of different sources.
    """
    drawn = random.Random(SEED)
    articles = [_long_ones(tokenizer, paragraphs, n_tokens) for paragraphs in _wikipedia()]
    wikipedia = [drawn.choice(found) for found in articles if found]
    news = [found[0] for report in _news() if (found := _long_ones(tokenizer, [report], n_tokens))]
    drawn.shuffle(wikipedia)
    drawn.shuffle(news)
    n_thirds = min(len(wikipedia) // 2, len(news))
    return [ids for n in range(n_thirds) for ids in (wikipedia[2 * n], wikipedia[2 * n + 1], news[n])]


def _long_ones(tokenizer: Any, texts: list[str], n_tokens: int) -> list[list[int]]:
    found = [list(tokenizer(text)["input_ids"]) for text in texts]
    return [ids[:n_tokens] for ids in found if len(ids) >= n_tokens]


def _wikipedia() -> list[list[str]]:
    """The paragraphs of each article that is no redirect, without their markup."""
    from gensim.corpora.wikicorpus import extract_pages, filter_wiki

    with bz2.open(_data() / WIKIPEDIA) as dump:
        texts = [
            text for _, text, _ in extract_pages(dump, ("0",)) if not text.upper().startswith("#REDIRECT")
        ]
    return [[_plain(paragraph) for paragraph in filter_wiki(text).split("\n")] for text in texts]


def _plain(paragraph: str) -> str:
    """Without the marks of bold and italics, and without the holes that dropped templates leave."""
    text = re.sub(r"'{2,}", "", paragraph)
    return re.sub(r" +([,.;:])", r"\1", re.sub(r"\(\s*[,;]?\s*\)", "", re.sub(r"\s+", " ", text))).strip()


def _news() -> list[str]:
    return (_data() / NEWS).read_text(encoding="utf-8", errors="replace").splitlines()


def _data() -> Path:
    import gensim

    return Path(gensim.__file__).parent / "test" / "test_data"
