"""Reading rated snippets out of nested archives, cleaning them, and pairing them; on tiny made-up files."""

import gzip
import io
import random
import statistics
import tarfile
from pathlib import Path

import pytest

from fastpref.demo.ratings import PROMPT, Pair, Snippet, clean, preference_pairs, read_snippets

INNER = "thing-1.0/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def tar_gz(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sdist(tmp_path: Path, text: str) -> Path:
    inner = tar_gz({"hutto_ICWSM_2014/readme.txt": b"no", MEMBER: text.encode()})
    path = tmp_path / "thing-1.0.tar.gz"
    path.write_bytes(tar_gz({"thing-1.0/setup.py": b"no", INNER: inner}))
    return path


def made_up(count: int, seed: int = 0) -> list[Snippet]:
    """Distinct snippets of 3 to 20 nonsense words, with ratings on both sides of 0."""
    source = random.Random(seed)
    snippets = []
    for _ in range(count):
        words = ["".join(source.choices("abcdefgh", k=source.randint(2, 9))) for _ in range(source.randint(3, 20))]
        snippets.append(Snippet(" ".join(words) + ".", round(source.uniform(-3.5, 3.5), 2)))
    return snippets


class TestReadSnippets:
    def test_reads_the_nested_member(self, tmp_path: Path) -> None:
        text = "1\t2.25\tA  good one.\r\n2\t-3.5\t''So''   clich\u00e9d.\r\n3\t0\tNo end of line"
        assert read_snippets(sdist(tmp_path, text)) == [
            Snippet("A good one.", 2.25),
            Snippet('"So" - clich\u00e9d.', -3.5),
            Snippet("No end of line", 0.0),
        ]

    @pytest.mark.parametrize("line", ["2\t1.5", "2\tgood\ttext", "2\t1.5\ttext\tmore", "2 1.5 text"])
    def test_names_a_malformed_line(self, tmp_path: Path, line: str) -> None:
        with pytest.raises(ValueError, match="line 2: expected ID, rating and text between tabs, found"):
            read_snippets(sdist(tmp_path, "1\t1.0\tfine\r\n" + line))

    @pytest.mark.parametrize("rating", ["4.5", "nan", "-inf"])
    def test_refuses_a_rating_out_of_range(self, tmp_path: Path, rating: str) -> None:
        with pytest.raises(ValueError, match=rf"line 1: expected a rating from -4 to 4, found {rating}"):
            read_snippets(sdist(tmp_path, f"1\t{rating}\tfine"))

    def test_refuses_archives_without_the_member(self, tmp_path: Path) -> None:
        path = tmp_path / "other.tar.gz"
        path.write_bytes(tar_gz({"a/b": b""}))
        with pytest.raises(ValueError, match=r"expected one member 'additional_resources/hutto.*found 0"):
            read_snippets(path)
        path.write_bytes(tar_gz({INNER: tar_gz({"a/b": b""})}))
        with pytest.raises(ValueError, match=r"expected one member 'movieReview.*found 0"):
            read_snippets(path)

    @pytest.mark.parametrize("damage", ["not gzip", "cut short", "not a tar", "inner"])
    def test_refuses_what_is_no_archive(self, tmp_path: Path, damage: str) -> None:
        path = sdist(tmp_path, "1\t1.0\tfine")
        whole = path.read_bytes()
        replacement = {
            "not gzip": b"hello",
            "cut short": whole[: len(whole) // 2],
            "not a tar": gzip.compress(b"hello" * 1000),
            "inner": tar_gz({INNER: b"hello"}),
        }
        path.write_bytes(replacement[damage])
        with pytest.raises(ValueError, match=r"thing-1\.0\.tar\.gz: not the archive expected"):
            read_snippets(path)

    def test_a_link_is_not_a_member(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            info = tarfile.TarInfo(MEMBER)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
            archive.addfile(info)
        path = tmp_path / "links.tar.gz"
        path.write_bytes(tar_gz({INNER: buffer.getvalue()}))
        with pytest.raises(ValueError, match="found 0"):
            read_snippets(path)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("  plain text. ", "plain text."),
        ("Lovely &amp; Amazing &#39;n more", "Lovely & Amazing 'n more"),
        ("<i>The Film</i> is <br />good", "The Film is good"),
        ("a < b and 3 > 2", "a < b and 3 > 2"),
        ("the new ''Conan'' is ``it''", 'the new "Conan" is "it"'),
        ("all comics    even those    agree", "all comics - even those - agree"),
        ("two  spaces\u00a0and\ta tab", "two spaces and a tab"),
        ("it is fun .", "it is fun."),
        ("well , yes !", "well, yes!"),
        ("wait ... what", "wait ... what"),
        ("cafe\u0301 \ufeffnoir", "caf\u00e9 noir"),
    ],
)
def test_clean(raw: str, expected: str) -> None:
    assert clean(raw) == expected
    assert clean(expected) == expected


class TestPreferencePairs:
    def pairs(self, **options: object) -> tuple[list[Pair], list[Pair]]:
        arguments = {"train_pairs": 60, "heldout_pairs": 20, **options}
        return preference_pairs(made_up(400), **arguments)  # type: ignore[arg-type]

    def test_numbers_order_and_gap(self) -> None:
        train, heldout = self.pairs(min_gap=2.0)
        assert (len(train), len(heldout)) == (60, 20)
        rating = {" " + snippet.text: snippet.rating for snippet in made_up(400)}
        for pair in train + heldout:
            assert pair.prompt == PROMPT
            assert (pair.rating_chosen, pair.rating_rejected) == (rating[pair.chosen], rating[pair.rejected])
            assert pair.rating_chosen - pair.rating_rejected >= 2.0

    def test_no_snippet_twice(self) -> None:
        train, heldout = self.pairs()
        texts = [text for pair in train + heldout for text in (pair.chosen, pair.rejected)]
        assert len(set(texts)) == len(texts)

    def test_the_same_for_a_seed(self) -> None:
        assert self.pairs(seed=3) == self.pairs(seed=3)
        assert self.pairs(seed=3) != self.pairs(seed=4)

    def test_more_pairs_extend_the_list_and_keep_the_other_side(self) -> None:
        few, heldout = self.pairs(train_pairs=10)
        many, same = self.pairs(train_pairs=60)
        assert many[:10] == few
        assert same == heldout

    def test_length_tells_nothing(self) -> None:
        train, _ = preference_pairs(made_up(3000), train_pairs=1000, heldout_pairs=0)
        difference = [len(pair.chosen) - len(pair.rejected) for pair in train]
        assert statistics.mean(abs(d) for d in difference) < 1.0
        assert abs(statistics.mean((d > 0) - (d < 0) for d in difference)) < 0.1

    def test_word_limits(self) -> None:
        train, heldout = self.pairs(train_pairs=30, heldout_pairs=5, min_words=6, max_words=12)
        for pair in train + heldout:
            for text in (pair.chosen, pair.rejected):
                assert 6 <= len(text.split()) <= 12

    @pytest.mark.parametrize(
        "twin",
        [
            "the FILM, is é good and brave one",
            "The film is E\u0301 good and brave one!",
            "Surely it is what I said about the film is é good and brave one before",
        ],
    )
    def test_near_duplicates_are_dropped(self, twin: str) -> None:
        snippets = [Snippet("The film is é good and brave one.", 2.0), Snippet(twin, -2.0)]
        with pytest.raises(ValueError, match="1 snippets of 1 to 99 words give 0 pairs"):
            preference_pairs(snippets, train_pairs=1, heldout_pairs=0, heldout_fraction=0.01, min_words=1, max_words=99)

    def test_too_few(self) -> None:
        with pytest.raises(
            ValueError, match=r"heldout_pairs: \d+ snippets of 4 to 24 words give \d+ pairs .* at least 500"
        ):
            self.pairs(heldout_pairs=500)

    @pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
    def test_refuses_a_fraction_out_of_range(self, fraction: float) -> None:
        with pytest.raises(ValueError, match="heldout_fraction: expected a number above 0 and below 1"):
            self.pairs(heldout_fraction=fraction)

    def test_refuses_a_gap_of_nothing(self) -> None:
        with pytest.raises(ValueError, match="min_gap: expected a number above 0, found 0"):
            self.pairs(min_gap=0)
