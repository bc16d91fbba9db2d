"""Packed rows from padded batches, and sums over sequences."""

import pytest
import torch

from fastpref.packing import cu_seqlens_from_lengths, pack_padded, segment_sum


def test_boundaries():
    cu = cu_seqlens_from_lengths(torch.tensor([2, 1, 3]))
    assert cu.dtype == torch.int32
    assert cu.tolist() == [0, 2, 3, 6]


def test_segment_sum_is_wide_exact_and_differentiable():
    values = torch.tensor([1e8, 1.0, -1e8, 2.0], requires_grad=True)
    sums = segment_sum(values, torch.tensor([0, 3, 4], dtype=torch.int32))
    assert sums.dtype == torch.float64
    assert sums.tolist() == [1.0, 2.0]
    (sums @ torch.tensor([3.0, 5.0], dtype=torch.float64)).backward()
    assert values.grad.tolist() == [3.0, 3.0, 3.0, 5.0]


def test_pack_padded_takes_the_row_that_predicts_each_completion_token():
    hidden = torch.arange(2 * 5).view(2, 5, 1).float()
    labels = torch.tensor([[-100, -100, 7, 8, -100], [-100, 5, 6, 7, -100]])
    packed = pack_padded(hidden, labels)
    assert packed.targets.tolist() == [7, 8, 5, 6, 7]
    assert packed.hidden.squeeze(-1).tolist() == [1, 2, 5, 6, 7]  # position t - 1 predicts token t
    assert packed.cu_seqlens.tolist() == [0, 2, 5]


def test_pack_padded_is_differentiable():
    hidden = torch.randn(2, 4, 3, requires_grad=True)
    labels = torch.tensor([[-100, 1, -100, -100], [-100, -100, -100, 2]])
    pack_padded(hidden, labels).hidden.sum().backward()
    rows = hidden.grad.sum(-1)
    assert rows.tolist() == [[3, 0, 0, 0], [0, 0, 3, 0]]


@pytest.mark.parametrize(
    ("hidden", "labels", "words"),
    [
        (torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64), ["hidden", "[B, L, H]"]),
        (torch.zeros(2, 4, 3), torch.zeros(2, 5, dtype=torch.int64), ["labels", "[2, 4]", "[2, 5]"]),
        (torch.zeros(1, 3, 2), torch.full((1, 3), -100), ["sequence 0", "no completion token"]),
    ],
)
def test_bad_input(hidden, labels, words):
    with pytest.raises(ValueError) as raised:
        pack_padded(hidden, labels)
    for word in words:
        assert word in str(raised.value)
