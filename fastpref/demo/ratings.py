"""Preference pairs from sentences about films that people rated for sentiment.

The data set of Hutto & Gilbert (ICWSM 2014) travels inside the source distribution of ``vaderSentiment`` as a tar archive within the tar
archive. The member read here, ``movieReviewSnippets_GroundTruth.txt``, is UTF-8 text with CRLF line ends and one snippet a line::

    ID <tab> MEAN-SENTIMENT-RATING <tab> TEXT-SNIPPET

The rating is the mean of about 15 to 20 people's, each from -4 (extremely negative) to 4 (extremely positive); 10,605 snippets of 1 to 51 words,
from reviews collected by Pang & Lee (2004). The sentences are third-party text: they are fetched when the demo runs and are not part
of fastpref.

Nothing is unpacked to the disk, and no member's path is used.
"""

from __future__ import annotations

import gzip
import html
import io
import random
import re
import tarfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROMPT = "A one-sentence movie review:"
"""The default prompt of every pair; the completions begin with the space that follows it."""

_INNER = "additional_resources/hutto_ICWSM_2014.tar.gz"
_SNIPPETS = "movieReviewSnippets_GroundTruth.txt"
_MAX_MEMBER_BYTES = 64 << 20
_SHINGLE = 8


@dataclass(frozen=True)
class Snippet:
    """A sentence or two, and the mean of people's sentiment ratings of it, from -4 to 4."""

    text: str
    rating: float


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, the first rated higher than the second by people."""

    prompt: str
    chosen: str
    rejected: str
    rating_chosen: float
    rating_rejected: float


def read_snippets(path: str | Path) -> list[Snippet]:
    """The movie snippets in the source distribution at ``path``, cleaned, in the order of the file.

    Raises:
        ValueError: an archive, a member or a line is not as the module's documentation says.
    """
    try:
        with (
            tarfile.open(path, "r:gz") as outer,
            tarfile.open(fileobj=io.BytesIO(_member(outer, _INNER)), mode="r:gz") as inner,
        ):
            data = _member(inner, _SNIPPETS)
        lines = data.decode("utf-8").splitlines()
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not the archive expected: {error}") from error
    return [_parse(line, number) for number, line in enumerate(lines, 1) if line.strip()]


def clean(text: str) -> str:
    """Ordinary prose: HTML entities and tags resolved, typewriter quotes and lost dashes repaired, white space single.

    The data set's authors turned dashes between words into runs of spaces and double quotes into two single ones.
    """
    text = unicodedata.normalize("NFC", re.sub(r"</?[a-zA-Z][^<>]*>", " ", html.unescape(text)))
    text = text.replace("''", '"').replace("``", '"')
    text = re.sub(r"(?<=\S)\s{3,}(?=\S)", " - ", text)
    text = re.sub(r"[\s\u200b\ufeff]+", " ", text).strip()
    return re.sub(r" (?=[,;:!?](?: |$)|\.(?!\.))", "", text)


def preference_pairs(
    snippets: Sequence[Snippet],
    *,
    train_pairs: int,
    heldout_pairs: int,
    min_gap: float = 1.5,
    heldout_fraction: float = 0.2,
    max_words: int = 24,
    min_words: int = 4,
    prompt: str = PROMPT,
    seed: int = 0,
) -> tuple[list[Pair], list[Pair]]:
    """Pairs for training and held-out pairs of other snippets, the same for the same arguments on any machine.

    The snippets are split first, so no text is on both sides; near-duplicates (equal up to case and punctuation, or with eight words in
    a row in common) are dropped before that. Then snippets of almost equal length are paired, each at most once, so that neither
    length nor a memorised sentence can decide a held-out pair.

    Args:
        snippets: from :func:`read_snippets`.
        train_pairs: number of pairs to train on.
        heldout_pairs: number of held-out pairs.
        min_gap: the least difference of the two ratings of a pair.
        heldout_fraction: the part of the snippets that is held out, above 0 and below 1.
        max_words, min_words: snippets with more or fewer words are left out.
        prompt: the prompt of every pair.
        seed: of the split, the pairing and the order.

    Raises:
        ValueError: an argument is out of range, or the snippets do not give that many pairs.
    """
    if not 0.0 < heldout_fraction < 1.0:
        raise ValueError(f"heldout_fraction: expected a number above 0 and below 1, found {heldout_fraction!r}")
    if not min_gap > 0.0:
        raise ValueError(f"min_gap: expected a number above 0, found {min_gap!r}")
    fitting = [snippet for snippet in _distinct(snippets) if min_words <= len(snippet.text.split()) <= max_words]
    random.Random(seed).shuffle(fitting)
    heldout = round(heldout_fraction * len(fitting))
    parts = (("train", fitting[heldout:], train_pairs), ("heldout", fitting[:heldout], heldout_pairs))
    result = []
    for name, part, wanted in parts:
        pairs = _pair_up(part, min_gap, prompt)
        if wanted > len(pairs):
            raise ValueError(
                f"{name}_pairs: {len(part)} snippets of {min_words} to {max_words} words give {len(pairs)} pairs with a rating gap of "
                f"{min_gap} or more, expected at least {wanted}"
            )
        random.Random(f"{seed} {name}").shuffle(pairs)
        result.append(pairs[:wanted])
    return result[0], result[1]


def _member(archive: tarfile.TarFile, ending: str) -> bytes:
    """The content of the one regular file whose path ends with ``ending``."""
    found = [member for member in archive if member.isfile() and ("/" + member.name).endswith("/" + ending)]
    if len(found) != 1:
        raise ValueError(f"expected one member {ending!r} in the archive, found {len(found)}")
    if found[0].size > _MAX_MEMBER_BYTES:
        raise ValueError(f"{ending}: expected at most {_MAX_MEMBER_BYTES} bytes, found {found[0].size}")
    file = archive.extractfile(found[0])
    if file is None:
        raise ValueError(f"{ending}: not a regular file")
    return file.read()


def _parse(line: str, number: int) -> Snippet:
    fields = line.split("\t")
    try:
        _, rating, text = fields
        snippet = Snippet(clean(text), float(rating))
    except ValueError:
        raise ValueError(
            f"{_SNIPPETS}, line {number}: expected ID, rating and text between tabs, found {line[:80]!r}"
        ) from None
    if not -4.0 <= snippet.rating <= 4.0:
        raise ValueError(f"{_SNIPPETS}, line {number}: expected a rating from -4 to 4, found {rating}")
    return snippet


def _distinct(snippets: Sequence[Snippet]) -> list[Snippet]:
    """The snippets without near-duplicates of an earlier one."""
    seen: set[tuple[str, ...]] = set()
    kept = []
    for snippet in snippets:
        plain = unicodedata.normalize("NFKD", snippet.text.casefold())
        words = re.findall(r"[^\W_]+", "".join(c for c in plain if not unicodedata.combining(c)))
        runs = {tuple(words[i : i + _SHINGLE]) for i in range(max(1, len(words) - _SHINGLE + 1))}
        if seen.isdisjoint(runs):
            kept.append(snippet)
        seen |= runs
    return kept


def _pair_up(snippets: Sequence[Snippet], min_gap: float, prompt: str) -> list[Pair]:
    """Walk up the lengths; pair each snippet that is still free with the next longer free one whose rating is far enough away."""
    ordered = sorted(snippets, key=lambda snippet: len(snippet.text))  # stable: ties keep the shuffled order
    waiting: list[Snippet] = []
    pairs = []
    for snippet in ordered:
        partner = next((other for other in waiting if abs(other.rating - snippet.rating) >= min_gap), None)
        if partner is None:
            waiting.append(snippet)
            continue
        waiting.remove(partner)
        high, low = (snippet, partner) if snippet.rating > partner.rating else (partner, snippet)
        pairs.append(Pair(prompt, " " + high.text, " " + low.text, high.rating, low.rating))
    return pairs
