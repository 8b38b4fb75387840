import pytest
import torch

from markovae.networks.conditioning import Condition, ConditionEmbedding


def full() -> Condition:
    return Condition(
        label=torch.tensor([2, 0, 1, 1]),
        tokens=torch.arange(24.0).reshape(4, 2, 3),
        mask=torch.tensor([[True, True], [True, False], [True, True], [False, False]]),
        vector=torch.arange(8.0).reshape(4, 2),
    )


def test_drop_is_per_example_and_accumulates() -> None:
    once = full().drop(torch.tensor([True, False, True, True]))
    twice = once.drop(torch.tensor([False, True, True, True]))
    assert twice.keep is not None
    assert twice.keep.tolist() == [False, False, True, True]
    assert torch.equal(twice.label, full().label)


def test_take_selects_the_same_examples_of_every_field() -> None:
    condition = full().drop(torch.tensor([True, False, True, False]))
    for indices in (torch.tensor([3, 0]), torch.tensor([True, False, False, True])):
        chosen = condition.take(indices)
        for name in ("label", "tokens", "mask", "vector", "keep"):
            assert torch.equal(getattr(chosen, name), getattr(condition, name)[indices])
        assert len(chosen) == 2


def test_to_moves_every_field() -> None:
    moved = full().to("meta")
    assert {moved.label.device.type, moved.tokens.device.type, moved.mask.device.type} == {"meta"}


@pytest.mark.parametrize(
    "fields",
    [
        {"label": torch.zeros(3)},
        {"label": torch.zeros(3, dtype=torch.int64), "vector": torch.zeros(2, 1)},
        {"tokens": torch.zeros(2, 3, 4)},
        {"tokens": torch.zeros(2, 3, 4), "mask": torch.ones(2, 4, dtype=torch.bool)},
    ],
)
def test_fields_that_contradict_are_refused(fields: dict) -> None:
    with pytest.raises(ValueError, match=r"condition|label|tokens|mask"):
        Condition(**fields)


def test_wrong_keep_is_refused() -> None:
    with pytest.raises(ValueError, match="keep"):
        full().drop(torch.ones(4))
    with pytest.raises(ValueError, match="keep"):
        full().drop(torch.ones(3, dtype=torch.bool))


def test_each_null_is_learned_and_no_condition_equals_all_dropped() -> None:
    embedding = ConditionEmbedding(5, num_classes=3, vector_dim=2)
    condition = Condition(label=torch.tensor([0, 1, 2, 0]), vector=torch.randn(4, 2))
    nothing = embedding(None, 4)
    dropped = embedding(condition.drop(torch.zeros(4, dtype=torch.bool)), 4)
    torch.testing.assert_close(nothing, dropped)
    nothing.sum().backward()
    assert embedding.null_vector.grad.abs().sum() > 0
    assert embedding.label.weight.grad[3].abs().sum() > 0
    assert embedding.label.weight.grad[:3].abs().sum() == 0


@pytest.mark.parametrize(
    "condition",
    [
        Condition(label=torch.zeros(2, dtype=torch.int64)),
        Condition(vector=torch.zeros(2, 3)),
        Condition(tokens=torch.zeros(2, 1, 1), mask=torch.ones(2, 1, dtype=torch.bool)),
        Condition(label=torch.zeros(5, dtype=torch.int64)),
    ],
)
def test_a_condition_is_never_ignored_in_silence(condition: Condition) -> None:
    with pytest.raises(ValueError, match=r"takes no|examples"):
        ConditionEmbedding(4)(condition, 2)


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"label 3 .* 0 to 2"):
        ConditionEmbedding(4, num_classes=3)(Condition(label=torch.tensor([0, 3])), 2)
