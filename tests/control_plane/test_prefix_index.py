"""What the index believes of caches, against a model that keeps each instance's prompts apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sage_inference.control_plane.prefix_index import BLOCK_BYTES, PrefixIndex, prompt_blocks
from tests.control_plane.parts import instance, request

TEXT = bytes(range(256)) * 8


def test_equal_beginnings_have_equal_blocks_up_to_where_they_part() -> None:
    a, b = prompt_blocks(TEXT), prompt_blocks(TEXT[:1000] + b"x" + TEXT[1001:])
    assert len(a) == len(b) == len(TEXT) // BLOCK_BYTES
    assert a[:3] == b[:3]
    assert not set(a[3:]) & set(b[3:])  # blocks after the difference hang on it


def test_a_prompt_shorter_than_a_block_has_none() -> None:
    assert prompt_blocks(TEXT[: BLOCK_BYTES - 1]) == []


def test_a_match_is_as_long_as_the_common_beginning_for_each_instance() -> None:
    index, a, b = PrefixIndex(), instance("a"), instance("b")
    index.add(a, request(blocks=(1, 2, 3)))
    index.add(b, request(blocks=(1, 9)))
    assert index.match(request(tokens=1000, blocks=(1, 2, 4))) == {a: 128, b: 64}
    assert index.match(request(tokens=1000, blocks=(7, 2, 3))) == {}
    assert index.match(request(tokens=150, blocks=(1, 2, 3))) == {a: 150, b: 64}  # never more than it has


def test_the_least_recently_used_leaves_go_first() -> None:
    index, a = PrefixIndex(), instance("a")
    a.kv_tokens = 64 * 6
    for blocks in ((1, 2), (1, 3), (4, 5), (1, 2), (6, 7, 8)):
        index.add(a, request(blocks=blocks))
    assert index.match(request(tokens=999, blocks=(1, 2))) == {a: 128}
    assert index.match(request(tokens=999, blocks=(6, 7, 8))) == {a: 192}
    assert index.match(request(tokens=999, blocks=(1, 3))) == {a: 64}  # its leaf is the oldest


def test_a_dead_instance_holds_nothing_and_others_keep_theirs() -> None:
    index, a, b = PrefixIndex(), instance("a"), instance("b")
    for each in (a, b):
        index.add(each, request(blocks=(1, 2)))
    index.clear(a)
    assert index.match(request(tokens=999, blocks=(1, 2))) == {b: 128}
    index.clear(b)
    assert (index._holders, index._cached, index._by_bit) == ({}, {}, {})


CHAINS = st.sampled_from([(1,), (1, 2), (1, 2, 3), (1, 2, 4), (5,), (5, 6), (5, 6, 7, 8, 9)])
STEPS = st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), CHAINS)), max_size=60)


@given(steps=STEPS, asked=CHAINS)
def test_while_nothing_is_evicted_it_knows_exactly_what_was_sent(
    steps: list[tuple[int, tuple[int, ...] | None]], asked: tuple[int, ...]
) -> None:
    index = PrefixIndex()
    instances = [instance(name) for name in "abc"]
    sent: list[list[tuple[int, ...]]] = [[], [], []]
    for which, blocks in steps:
        if blocks is None:
            index.clear(instances[which])
            sent[which] = []
        else:
            index.add(instances[which], request(blocks=blocks))
            sent[which].append(blocks)
    found = index.match(request(tokens=10_000, blocks=asked))
    for each, prompts in zip(instances, sent, strict=True):
        assert found.get(each, 0) == 64 * max((_common(asked, p) for p in prompts), default=0)


@given(chains=st.lists(CHAINS, max_size=60), kv_blocks=st.integers(1, 6))
def test_it_is_bounded_and_whoever_holds_a_block_holds_all_before_it(
    chains: list[tuple[int, ...]], kv_blocks: int
) -> None:
    index, a = PrefixIndex(), instance("a")
    a.kv_tokens = 64 * kv_blocks
    for blocks in chains:
        index.add(a, request(blocks=blocks))
        held = index._cached[a].blocks
        assert len(held) <= kv_blocks
        assert set(index._holders) == set(held)
        for chain in chains:
            known = [block in held for block in chain]
            assert known == sorted(known, reverse=True)


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    count = 0
    for left, right in zip(a, b, strict=False):
        if left != right:
            break
        count += 1
    return count
