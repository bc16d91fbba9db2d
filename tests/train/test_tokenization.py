import pytest

from fastpref import UserError
from fastpref.train.data import pairs_from_memory
from fastpref.train.tokenization import tokenize

from .conftest import make_tokenizer


def encode(records, tokenizer, max_length=64, prompt_room=32):
    return tokenize(pairs_from_memory(records, "memory"), tokenizer, max_length=max_length, prompt_room=prompt_room)


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


def test_plain_completions_follow_the_prompts_tokens_and_end_with_eos(tokenizer):
    data, report = encode([{"prompt": "Say:", "chosen": " yes", "rejected": " no</s>"}], tokenizer)
    prompt, chosen, rejected = (part.tolist() for part in data[0])
    assert prompt == ids(tokenizer, "Say:")
    assert chosen == [*ids(tokenizer, " yes"), tokenizer.eos_token_id]
    assert rejected == [*ids(tokenizer, " no"), tokenizer.eos_token_id]  # not twice
    assert (report.kept, report.truncated, report.lines()) == (1, 0, [])


def test_a_token_across_the_boundary_leaves_the_prompt_as_it_is(tokenizer):
    # "h" + "e..." merges into one token when tokenised together: the completion is then tokenised alone.
    data, _ = encode([{"prompt": "h", "chosen": "ello", "rejected": "i"}], tokenizer)
    prompt, chosen, rejected = (part.tolist() for part in data[0])
    assert ids(tokenizer, "hello")[:1] != ids(tokenizer, "h")
    assert prompt == ids(tokenizer, "h")
    assert tokenizer.decode(chosen[:-1]) == "ello"
    assert tokenizer.decode(rejected[:-1]) == "i"


def test_chat_template_renders_prompt_and_completions(tokenizer):
    record = {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    data, _ = encode([record], tokenizer)
    prompt, chosen, rejected = (tokenizer.decode(part) for part in data[0])
    assert prompt == "<s><|user|>q<|end|><|assistant|>"
    assert (chosen, rejected) == ("a<|end|>", "b<|end|>")


def test_a_template_that_opens_answers_differently_shares_what_it_can():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "%}<|assistant|>{% endif %}", "%}<|assistant|>(think){% endif %}"
    )
    record = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    data, _ = encode([record], tokenizer)
    assert [tokenizer.decode(part) for part in data[0]] == ["<s><|user|>q<|end|><|assistant|>", "a<|end|>", "b<|end|>"]


def test_messages_need_a_template_that_takes_them():
    tokenizer = make_tokenizer()
    record = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"}
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match=r"memory\[0\]: the model's chat template refuses these messages: roles must"):
        encode([record], tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"memory\[0\]: holds chat messages, but .* has no chat template"):
        encode([record], tokenizer)


def test_truncation_takes_the_beginning_of_the_prompt_first(tokenizer):
    record = {"prompt": "0123456789", "chosen": "abcd", "rejected": "xy"}
    data, report = encode([record], tokenizer, max_length=9, prompt_room=2)
    prompt, chosen, rejected = (tokenizer.decode(part) for part in data[0])
    assert (prompt, chosen, rejected) == ("6789", "abcd</s>", "xy</s>")
    assert report.lines() == ["pairs cut to max_length: 1 of 1"]


def test_truncation_then_takes_the_end_of_the_completions(tokenizer):
    record = {"prompt": "0123456789", "chosen": "abcdefgh", "rejected": "xy"}
    data, _ = encode([record], tokenizer, max_length=9, prompt_room=4)
    prompt, chosen, rejected = (tokenizer.decode(part) for part in data[0])
    assert (prompt, chosen, rejected) == ("6789", "abcde", "xy</s>")
    assert max(len(data[0][0]) + len(part) for part in data[0][1:]) == 9 == data.longest()


def test_truncation_keeps_the_beginning_of_sequence_token(tokenizer):
    record = {"prompt": [{"role": "user", "content": "0123456789"}], "chosen": "ab", "rejected": "x"}
    data, _ = encode([record], tokenizer, max_length=8, prompt_room=2)
    assert tokenizer.decode(data[0][0]) == "<s>89<|end|><|assistant|>"


def test_skipped_pairs_are_counted_by_reason(tokenizer):
    same = {"prompt": "p", "chosen": "a", "rejected": "a"}
    late = {"prompt": "p", "chosen": "aaaaaaaaaaaaaaa1", "rejected": "aaaaaaaaaaaaaaa2"}
    data, report = encode([same, {**same, "rejected": "b"}, late, same], tokenizer, max_length=8, prompt_room=4)
    assert data.where == ["memory[1]"]
    assert report.skipped == {
        "chosen and rejected are the same": ["memory[0]", "memory[3]"],
        "chosen and rejected are the same after truncation or tokenisation": ["memory[2]"],
    }
    assert report.lines()[0] == "pairs skipped because chosen and rejected are the same: 2 (memory[0]; memory[3])"


def test_nothing_left_is_an_error(tokenizer):
    with pytest.raises(UserError, match=r"no pair is left to train on: .* because chosen and rejected are the same: 1"):
        encode([{"prompt": "p", "chosen": "a", "rejected": "a"}], tokenizer)


def test_an_empty_prompt_starts_with_a_start_token(tokenizer):
    data, _ = encode([{"prompt": "", "chosen": "a", "rejected": "b"}], tokenizer)
    assert data[0][0].tolist() == [tokenizer.bos_token_id]
    bare = make_tokenizer()
    bare.bos_token = bare.eos_token = None
    with pytest.raises(UserError, match=r"memory\[0\]: prompt: is empty"):
        encode([{"prompt": "", "chosen": "a", "rejected": "b"}], bare)


def test_fingerprint_depends_on_tokens_and_boundaries(tokenizer):
    prints = {
        encode([{"prompt": p, "chosen": c, "rejected": r}], tokenizer)[0].fingerprint()
        for p, c, r in [("pq", "a", "b"), ("p", "qa", "qb"), ("pq", "b", "a")]
    }
    assert len(prints) == 3
    again = [encode([{"prompt": "pq", "chosen": "a", "rejected": "b"}], tokenizer)[0].fingerprint() for _ in range(2)]
    assert again[0] == again[1]
    assert again[0] in prints
