import json

import pytest

from fastpref import UserError
from fastpref.train.data import pairs_from_memory, read_pairs

GOOD = {"prompt": "p", "chosen": "a", "rejected": "b"}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def write(tmp_path, *lines):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return str(path)


def one(record):
    (pair,) = pairs_from_memory([record], "memory")
    return pair


def test_plain_pairs_know_their_line(tmp_path):
    first, second = read_pairs(write(tmp_path, GOOD, "", {**GOOD, "chosen": "c", "extra": 1}))
    assert (first.prompt, first.chosen, first.rejected) == ("p", "a", "b")
    assert first.where.endswith("pairs.jsonl, line 1")
    assert second.where.endswith("pairs.jsonl, line 3")


def test_parquet_gives_the_same_pairs_as_jsonl(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    records = [
        {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]},
        {"prompt": [{**user("q"), "name": "Ann"}], "chosen": [assistant("c")], "rejected": [assistant("d")]},
    ]
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist([{**r, "id": i} for i, r in enumerate(records)]), path)
    found, expected = read_pairs(str(path)), read_pairs(write(tmp_path, *records))
    assert [(p.prompt, p.chosen, p.rejected) for p in found] == [(p.prompt, p.chosen, p.rejected) for p in expected]
    assert found[1].where.endswith("pairs.parquet, row 2")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{bad", "line 2: not valid JSON: .* at column 2"),
        ("[1]", "line 2: expected an object with prompt, chosen and rejected, found a list"),
        (
            {"prompt": "p", "chosen": "half \ud800", "rejected": "b"},
            r"line 2: chosen: not a valid string: surrogates not allowed at character 5",
        ),
        ({"prompt": "p", "chosen": "a"}, r"line 2: column 'rejected' is missing \(columns: prompt, chosen\)"),
        ({**GOOD, "chosen": 3}, "line 2: chosen: expected a string or a list of messages, found a number"),
        ({**GOOD, "prompt": None}, "line 2: prompt: expected a string or a list of messages, found nothing"),
        ({**GOOD, "rejected": ""}, "line 2: rejected: the completion is empty"),
        ({**GOOD, "chosen": ["a"]}, r"line 2: chosen\[0\]: expected a message with role and content, found a string"),
        (
            {**GOOD, "chosen": [{"role": "assistant"}]},
            r"line 2: chosen\[0\]: expected a string 'content', found nothing",
        ),
        ({**GOOD, "chosen": [assistant("")], "rejected": [assistant("x")]}, "line 2: chosen: the completion is empty"),
        (
            {"prompt": [user("q")], "chosen": [assistant("a")], "rejected": "b"},
            "line 2: holds chat messages, but .*line 1",
        ),
        ({"chosen": [user("q")], "rejected": [user("r")]}, "line 2: the prompt is empty"),
    ],
)
def test_errors_name_file_and_line(tmp_path, line, message):
    with pytest.raises(UserError, match=message) as caught:
        read_pairs(write(tmp_path, GOOD, line))
    assert "pairs.jsonl" in str(caught.value)


def test_not_utf8(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff\xfe"}\n')
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read_pairs(str(path))


def test_unusable_files(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        read_pairs(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="is not a file"):
        read_pairs(str(tmp_path))
    with pytest.raises(UserError, match="no records"):
        read_pairs(write(tmp_path, ""))
    (tmp_path / "pairs.csv").write_text("a,b")
    with pytest.raises(UserError, match=r"expected a \.jsonl or \.parquet file, found '\.csv'"):
        read_pairs(str(tmp_path / "pairs.csv"))
    pytest.importorskip("pyarrow")
    (tmp_path / "pairs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="not a readable parquet file"):
        read_pairs(str(tmp_path / "pairs.parquet"))


def test_implicit_prompt_of_texts_ends_at_white_space():
    pair = one({"chosen": "Human: hi\n\nAssistant: well", "rejected": "Human: hi\n\nAssistant: weird"})
    assert (pair.prompt, pair.chosen, pair.rejected) == ("Human: hi\n\nAssistant:", " well", " weird")
    pair = one({"chosen": "Q: hi\nyes", "rejected": "Q: hi\nno"})
    assert (pair.prompt, pair.chosen, pair.rejected) == ("Q: hi\n", "yes", "no")
    pair = one({"chosen": "yes", "rejected": "no"})
    assert (pair.prompt, pair.chosen, pair.rejected) == ("", "yes", "no")


def test_implicit_prompt_of_messages_is_the_shared_beginning():
    shared = [{"role": "system", "content": "s"}, user("q")]
    pair = one({"chosen": [*shared, assistant("a")], "rejected": [*shared, assistant("b")]})
    assert (pair.prompt, pair.chosen, pair.rejected) == (shared, [assistant("a")], [assistant("b")])


def test_a_prompt_that_both_completions_repeat_is_not_repeated():
    pair = one({"prompt": "q", "chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]})
    assert (pair.prompt, pair.chosen, pair.rejected) == ([user("q")], [assistant("a")], [assistant("b")])


def test_strings_become_messages_beside_messages():
    pair = one({"prompt": [user("q")], "chosen": "a", "rejected": "b"})
    assert (pair.chosen, pair.rejected) == ([assistant("a")], [assistant("b")])
