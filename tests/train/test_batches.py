import numpy as np
import pytest
import torch

from fastpref.train.batches import Layout, PairOrder, collate, micro_batches
from fastpref.train.tokenization import TokenizedPairs


def dataset(lengths, seed=0):
    """Pairs with random ids and these lengths of (prompt, chosen, rejected)."""
    offsets = np.cumsum([0, *np.ravel(lengths)])
    tokens = np.random.default_rng(seed).integers(1, 97, offsets[-1]).astype(np.int32)
    return TokenizedPairs(tokens, offsets, [f"line {i}" for i in range(len(lengths))])


LENGTHS = [(3, 5, 2), (1, 1, 4), (4, 2, 7), (2, 6, 1)]
LAYOUTS = [Layout(packed=True), Layout(packed=True, hidden_size=4), Layout(packed=False)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_predict_the_completion_tokens_in_order(layout):
    data, pairs = dataset(LENGTHS), [2, 0, 3]
    batch = collate(data, pairs, layout)
    expected = [data[i][side] for side in (1, 2) for i in pairs]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.cu_seqlens.diff().tolist() == [len(c) for c in expected]
    assert batch.targets.tolist() == np.concatenate(expected).tolist()
    flat = batch.input_ids.flatten()
    previous = [np.concatenate([data[i][0], data[i][side]])[len(data[i][0]) - 1 : -1] for side in (1, 2) for i in pairs]
    assert flat[batch.rows].tolist() == np.concatenate(previous).tolist()
    assert len(set(batch.rows.tolist())) == batch.rows.numel()


@pytest.mark.parametrize(("hidden_size", "rows"), [(1024, 2), (4, 4)])
def test_packed_rows_hold_whole_sequences_with_restarting_positions(hidden_size, rows):
    data, pairs = dataset(LENGTHS), [0, 1, 2, 3]
    batch = collate(data, pairs, Layout(packed=True, hidden_size=hidden_size))
    assert batch.attention_mask is None
    assert batch.input_ids.shape[0] == rows
    wanted = sorted(tuple(np.concatenate([data[i][0], data[i][s]])[:-1].tolist()) for s in (1, 2) for i in pairs)
    found = []
    for ids, positions in zip(batch.input_ids.tolist(), batch.position_ids.tolist(), strict=True):
        starts = [t for t, p in enumerate(positions) if p == 0] + [len(positions)]
        for a, b in zip(starts, starts[1:], strict=False):
            assert positions[a:b] == list(range(b - a))
            if any(ids[a:b]):  # all zero: padding
                found.append(tuple(ids[a:b]))
    assert sorted(found) == wanted


def test_padded_rows_hold_one_sequence_each():
    batch = collate(dataset(LENGTHS), [0, 1], Layout(packed=False))
    assert batch.position_ids is None
    assert batch.attention_mask.sum(1).tolist() == [7, 1, 4, 4]
    assert (batch.input_ids[~batch.attention_mask] == 0).all()


@pytest.mark.parametrize("hidden_size", [1, 16, 64, 576, 4096])
@pytest.mark.parametrize("top", [10, 80, 2000])
def test_packing_never_costs_more_than_padding(hidden_size, top):
    lengths = np.random.default_rng(top).integers(2, top, (5, 3)).tolist()
    shapes = [collate(dataset(lengths), range(5), Layout(p, hidden_size)).input_ids.shape for p in (True, False)]
    packed, padded = (rows * width * (6 * hidden_size + width) for rows, width in shapes)
    assert packed <= padded
    if hidden_size > top:  # attention costs little: hardly any padding
        assert shapes[0].numel() <= 1.1 * sum(2 * p + c + r - 2 for p, c, r in lengths)


def test_order_is_a_seeded_permutation_per_epoch():
    order = PairOrder(10, 4, seed=3)
    assert order.steps_per_epoch == 3
    epochs = [[p for s in range(3 * e, 3 * e + 3) for p in order.pairs(s)] for e in (0, 1)]
    assert [sorted(e) for e in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]
    assert [len(order.pairs(s)) for s in range(3)] == [4, 4, 2]
    assert order.position(4) == (1, 4)


def test_order_is_a_function_of_the_step():
    forward, jumping = PairOrder(7, 2, seed=0), PairOrder(7, 2, seed=0)
    expected = [forward.pairs(s) for s in range(9)]
    assert [jumping.pairs(s) for s in (8, 0, 5)] == [expected[8], expected[0], expected[5]]
    assert [PairOrder(7, 2, seed=1).pairs(s) for s in range(9)] != expected


def test_micro_batches():
    assert micro_batches([5, 3, 1, 7, 9], 2) == [[5, 3], [1, 7], [9]]
