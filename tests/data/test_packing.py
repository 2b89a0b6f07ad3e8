import numpy as np
import pytest

from r1jax.data.packing import Group, Slot, pack, pack_groups


def sequence(*tokens):
    return {"tokens": np.array(tokens, np.int32), "weight": np.array(tokens, np.float32) / 10}


def test_literal_layout():
    arrays, slots = pack([sequence(1, 2), sequence(3, 4, 5, 6), sequence(7, 8, 9)], length=5, rows_multiple=2)
    np.testing.assert_array_equal(arrays["tokens"], [[3, 4, 5, 6, 0], [7, 8, 9, 1, 2]])
    np.testing.assert_array_equal(arrays["segment_ids"], [[1, 1, 1, 1, 0], [1, 1, 1, 2, 2]])
    np.testing.assert_array_equal(arrays["positions"], [[0, 1, 2, 3, 0], [0, 1, 2, 0, 1]])
    np.testing.assert_allclose(arrays["weight"], [[0.3, 0.4, 0.5, 0.6, 0], [0.7, 0.8, 0.9, 0.1, 0.2]], rtol=1e-6)
    assert slots == [Slot(1, 3, 5), Slot(0, 0, 4), Slot(1, 0, 3)]
    assert arrays["tokens"].dtype == np.int32 and arrays["weight"].dtype == np.float32


def test_best_fit_takes_the_fullest_row_that_holds_it():
    # Free space after 6, 5 in rows of 10: 4 and 5; the 4 must go beside the 6 (first fit in order would too), the 5
    # beside the 5, so that two rows are exactly full.
    arrays, slots = pack([sequence(*[1] * n) for n in (4, 5, 5, 6)], length=10)
    assert arrays["tokens"].shape == (2, 10)
    assert (arrays["segment_ids"] > 0).all()
    assert slots[0].row == slots[3].row and slots[1].row == slots[2].row


def test_every_token_once_and_fields_follow():
    rng = np.random.default_rng(0)
    sequences = [sequence(*rng.integers(1, 100, size=n)) for n in rng.integers(1, 33, size=200)]
    arrays, slots = pack(sequences, length=32, rows_multiple=8)
    assert arrays["tokens"].shape[0] % 8 == 0
    for name in ("tokens", "weight"):
        for slot, want in zip(slots, sequences, strict=True):
            np.testing.assert_array_equal(arrays[name][slot.row, slot.start : slot.stop], want[name])
    num_tokens = sum(len(s["tokens"]) for s in sequences)
    assert (arrays["segment_ids"] > 0).sum() == num_tokens
    assert arrays["tokens"][arrays["segment_ids"] == 0].sum() == 0
    # Segments of a row are numbered 1, 2, ... from left to right and positions count within them.
    for row_ids, row_positions in zip(arrays["segment_ids"], arrays["positions"], strict=True):
        used = row_ids[row_ids > 0]
        assert (np.diff(used) >= 0).all() and set(used) == set(range(1, used.max(initial=0) + 1))
        for segment in set(used):
            np.testing.assert_array_equal(row_positions[row_ids == segment], np.arange((row_ids == segment).sum()))
    # No packing has fewer rows than this; best fit decreasing needs at most 11/9 of the fewest (Johnson 1973).
    fewest = max(-(-num_tokens // 32), sum(len(s["tokens"]) > 16 for s in sequences))
    assert max(s.row for s in slots) + 1 <= 11 / 9 * fewest


def test_rows_are_rounded_up_with_empty_rows():
    arrays, _ = pack([sequence(1, 2, 3)], length=4, rows_multiple=3)
    assert arrays["tokens"].shape == (3, 4)
    assert not arrays["segment_ids"][1:].any()


def test_deterministic():
    sequences = [sequence(*[i + 1] * (1 + i % 5)) for i in range(30)]
    first, second = pack(sequences, length=8), pack(sequences, length=8)
    assert first[1] == second[1]
    np.testing.assert_array_equal(first[0]["tokens"], second[0]["tokens"])


@pytest.mark.parametrize(
    "sequences, message",
    [
        ([sequence(1), sequence(1, 2, 3, 4, 5)], "sequence 1 has 5 tokens, longer than a row of 4"),
        ([sequence(1), sequence()], "sequence 1 is empty"),
        ([], "no sequences"),
        ([sequence(1), {"tokens": np.array([1])}], "sequence 1 has fields"),
        ([{"tokens": np.array([1, 2]), "weight": np.array([1.0])}], "sequence 0: fields must be of one length"),
    ],
)
def test_bad_input(sequences, message):
    with pytest.raises(ValueError, match=message):
        pack(sequences, length=4)


def alike(num_shared, *own):
    """A group whose sequences begin with 1 .. num_shared."""
    return Group([sequence(*range(1, num_shared + 1), *tokens) for tokens in own], num_shared)


def test_what_a_group_shares_lies_once_in_a_row():
    groups = [alike(2, [7], [8, 8, 8]), alike(0, [9, 9]), alike(3, [5, 5], [6])]
    arrays, slots = pack_groups(groups, length=14)
    np.testing.assert_array_equal(
        arrays["tokens"], [[1, 2, 8, 8, 8, 7, 1, 2, 3, 5, 5, 6, 9, 9]]
    )  # groups and what is in them: longest first
    np.testing.assert_array_equal(arrays["segment_ids"], [[1, 1, 2, 2, 2, 3, 4, 4, 4, 5, 5, 6, 7, 7]])
    np.testing.assert_array_equal(arrays["prefix_ids"], [[0, 0, 1, 1, 1, 1, 0, 0, 0, 4, 4, 4, 0, 0]])
    np.testing.assert_array_equal(arrays["positions"], [[0, 1, 2, 3, 4, 2, 0, 1, 2, 3, 4, 3, 0, 1]])
    assert slots == [Slot(0, 5, 6), Slot(0, 2, 5), Slot(0, 12, 14), Slot(0, 9, 11), Slot(0, 11, 12)]


def test_a_group_is_spread_over_rows_that_have_room_with_its_prefix_in_each():
    rng = np.random.default_rng(0)
    groups = [
        alike(shared, *[rng.integers(10, 99, size=n) for n in rng.integers(1, 12, size=rng.integers(1, 9))])
        for shared in rng.integers(0, 15, size=40)
    ]
    arrays, slots = pack_groups(groups, length=32, rows_multiple=4)
    sequences = [(group.num_shared, fields) for group in groups for fields in group.sequences]
    segments, prefixes = arrays["segment_ids"], arrays["prefix_ids"]
    num_prefixes, stored = 0, 0
    for (shared, fields), slot in zip(sequences, slots, strict=True):
        row, own = slot.row, slice(slot.start, slot.stop)
        (segment,), (prefix,) = set(segments[row, own]), set(prefixes[row, own])
        is_prefix = (segments[row] == prefix) & (prefix > 0)
        assert prefix < segment and is_prefix.sum() == shared and not prefixes[row][is_prefix].any()
        assert (segments[row] == segment).sum() == slot.stop - slot.start
        for name in ("tokens", "weight"):
            whole = np.concatenate([arrays[name][row][is_prefix], arrays[name][row, own]])
            np.testing.assert_array_equal(whole, fields[name])
        positions = np.concatenate([arrays["positions"][row][is_prefix], arrays["positions"][row, own]])
        np.testing.assert_array_equal(positions, np.arange(len(whole)))
        stored += slot.stop - slot.start
    for row in range(len(segments)):
        of_row = set(prefixes[row]) - {0}
        num_prefixes += len(of_row)
        stored += np.isin(segments[row], list(of_row)).sum()
    assert (segments > 0).sum() == stored  # nothing else
    with_prefix = [group for group in groups if group.num_shared]
    assert len(with_prefix) < num_prefixes < 2 * len(with_prefix)
    rows_apart = pack([fields for _, fields in sequences], length=32)[0]["tokens"].shape[0]
    assert max(slot.row for slot in slots) + 1 < 0.75 * rows_apart


def test_a_sequence_that_is_nothing_but_its_prefix_is_named():
    with pytest.raises(ValueError, match="sequence 1 has 2 tokens, no more than the 2 of its prefix"):
        pack_groups([alike(2, [5], [])], length=9)
