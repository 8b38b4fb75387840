import pytest
import torch

from markovae.columns import Column, Columns
from markovae.networks.conditioning import ColumnConditioning, Condition, ConditionEmbedding


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


AGE = Column("age", "number", (), 0.0, 1.0, -1.0, 1.0)
HAIR = Column("hair", "category", ("black", "red"))
CELLS = {"age": ("1", None, "0.5"), "hair": ("red", "black", "grey")}


def columns(partial: bool = False, beside: Condition | None = None) -> ColumnConditioning:
    known, notes = ColumnConditioning.of_cells(Columns((AGE, HAIR)), CELLS, 3, beside, partial)
    assert notes == ["1 values are read as missing (hair=grey is unknown: it is one of black, red)"]
    return known


def test_columns_of_examples_are_looked_up_and_missing_cells_are_zeros() -> None:
    made = columns(beside=Condition(label=torch.tensor([2, 0, 1])))[torch.tensor([2, 0, 1])].condition()
    assert made.label is not None
    assert made.label.tolist() == [1, 2, 0]
    expected = [[*AGE.features("0.5"), 0, 0], [*AGE.features("1"), 0, 1], [0, 0, 0, 0, 1, 0]]
    assert torch.equal(made.columns, torch.tensor(expected))


def test_training_leaves_columns_out_half_of_the_time_each_by_itself() -> None:
    row = columns(partial=True)[torch.zeros(4000, dtype=torch.int64)]
    seen = row.draw(torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).columns
    age, hair = seen[:, 0] == 1, seen[:, 5] == 1
    for both, share in ((age & hair, 5 / 8), (age & ~hair, 1 / 8), (~age & hair, 1 / 8), (~age & ~hair, 1 / 8)):
        assert abs(float(both.double().mean()) - share) < 0.03
    assert torch.equal(
        row.condition().columns, columns()[torch.zeros(4000, dtype=torch.int64)].draw(seen[:, 0]).columns
    )


def test_a_dropped_column_is_a_missing_one_and_captions_do_not_drop_it() -> None:
    embedding = ConditionEmbedding(4, vector_dim=2, column_dim=6)
    known = columns().condition()
    dropped = known.drop(torch.tensor([True, False, True]))
    assert torch.equal(embedding(dropped, 3)[1], embedding(None, 3)[1])
    assert torch.equal(embedding(dropped, 3)[0], embedding(known, 3)[0])
    bare = Condition(vector=torch.ones(3, 2), keep=torch.tensor([False] * 3), columns=known.columns)  # no caption
    assert torch.equal(embedding(bare, 3), embedding(known, 3))
    with pytest.raises(ValueError, match="columns of 6 features: this network takes none"):
        ConditionEmbedding(4, num_classes=3)(known, 3)
