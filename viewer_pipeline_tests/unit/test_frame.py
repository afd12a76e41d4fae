"""From readings to a frame: everything that can be counted, once, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from viewer_pipeline.flush.aggregate import Aggregate, aggregate, counts_frame, cut_into_flushes
from viewer_pipeline.flush.readings import Readings
from viewer_pipeline.flush.rejects import Reject, printable

MAX = 2**63 - 1


class Replies(NamedTuple):
    """What Redis returned: `values[i]` is the counter of `ids[i]`, None where it is no string."""

    ids: Sequence[bytes] = ()
    values: Sequence[bytes | None] = ()
    types: Mapping[bytes, str] = {}

    def aggregate(self, page: int = 1000) -> Aggregate:
        """Read them page by page, then aggregate."""
        readings = Readings(types=dict(self.types))
        for start in range(0, len(self.ids), page):
            readings.add(self.ids[start : start + page], self.values[start : start + page])
        return aggregate(readings)


# --- the oracle: row by row, by other means than the code ------------------------------------------


def count_error(value: bytes) -> str | None:
    """Return why a value is no count; canonical decimal is what int() and str() turn into each other."""
    try:
        number = int(value)
    except ValueError:
        return "value is not an integer"
    if str(number).encode() != value:
        return "value is not an integer"
    if number < 0:
        return "value is negative"
    return "value is over int64" if number > MAX else None


def id_error(raw: bytes) -> str | None:
    """Return why an id cannot be kept."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "id is not UTF-8"
    if text == "":
        return "empty id"
    if len(text) > 255:
        return "id longer than 255 characters"
    return "id holds a NUL character" if "\0" in text else None


def oracle(replies: Replies) -> tuple[list[tuple[str, int]], list[tuple[bytes, str]], list[bytes]]:
    """Return (vod id, delta) of the counts, (raw id, reason) of the rejects, and the idle, each sorted."""
    counts, rejects, idle = [], [], []
    for raw, value in dict(zip(replies.ids, replies.values, strict=True)).items():
        kind = replies.types.get(raw, "none")
        if value == b"0" or (value is None and kind in ("none", "string")):
            idle.append(raw)
        elif value is None:
            rejects.append((raw, f"key is a {kind}, not a string"))
        elif reason := count_error(value) or id_error(raw):
            rejects.append((raw, reason))
        else:
            counts.append((raw.decode(), int(value)))
    return sorted(counts), sorted(rejects), sorted(idle)


def rows(result: Aggregate | pd.DataFrame) -> list[tuple[str, int]]:
    """Return the frame's rows."""
    table = result.frame if isinstance(result, Aggregate) else result
    return list(zip(table["vod_id"].tolist(), table["delta"].tolist(), strict=True))


def assert_equals_oracle(replies: Replies, result: Aggregate) -> None:
    """Counts, rejects and idle are the same as row by row, and every id is in one of them."""
    counts, rejects, idle = oracle(replies)
    assert rows(result) == counts
    assert list(zip(result.rejected, (reject.reason for reject in result.rejects), strict=True)) == rejects
    assert result.idle == idle
    assert len(counts) + len(rejects) + len(idle) == len(set(replies.ids))


# --- readings of every kind -----------------------------------------------------------------------------------------

GOOD_IDS = st.text(min_size=1, max_size=6).filter(lambda text: "\0" not in text).map(str.encode)
ODD_IDS = [
    *(b"", b"\n", b"a\nb", b"\na", b"a\n", b"\x00", b"a\x00", b"\xff", b"\xed\xa0\x80"),
    *(text.encode() for text in ("x" * 255, "x" * 256, "😀" * 255, "😀" * 256, "\uffff", "😀", "é", "e\u0301")),
]
HOSTILE_IDS = st.binary(max_size=4) | st.sampled_from(ODD_IDS)
GOOD_VALUES = st.integers(1, MAX).map(lambda number: str(number).encode())
ODD_VALUES = [
    *(b"0", b"00", b"-0", b"-1", b"+1", b"01", b" 1", b"1 ", b"1.0", b"1e3", b"1_0", b"", b"abc", b"1\x00"),
    *(b"5\n6", b"5\n", b"\n5", b"\n", b"1\n2\n3", b"9" * 4000, b"-" + b"9" * 4000),
    *(str(number).encode() for number in (10**18 - 1, 10**18, MAX, MAX + 1, 10**19, 2**64, -MAX - 1)),
]
HOSTILE_VALUES = st.binary(max_size=3) | st.sampled_from(ODD_VALUES)
KINDS = st.sampled_from(["none", "string", "list", "set", "hash", "zset", "stream", "ReJSON-RL"])


@st.composite
def replies_of(draw: st.DrawFn, ids: st.SearchStrategy[bytes], values: st.SearchStrategy[bytes | None]) -> Replies:
    """Return replies in any order, some ids read twice, perhaps with another value; and some types of missing ones."""
    read = draw(st.lists(st.tuples(ids, values), max_size=12))
    if read:
        read += draw(st.lists(st.tuples(st.sampled_from([raw for raw, _ in read]), values), max_size=4))
    missing = [raw for raw, value in read if value is None]
    types = {raw: kind for raw in missing if (kind := draw(st.none() | KINDS)) is not None}
    return Replies([raw for raw, _ in read], [value for _, value in read], types)


IDS_OF_ONE_LENGTH = st.text("aZ~", min_size=2, max_size=2).map(str.encode)  # which are sorted by numpy
ANY_VALUES = GOOD_VALUES | HOSTILE_VALUES | st.none()
ANY_REPLIES = replies_of(GOOD_IDS | HOSTILE_IDS, ANY_VALUES) | replies_of(IDS_OF_ONE_LENGTH, ANY_VALUES)
GOOD_REPLIES = replies_of(GOOD_IDS, GOOD_VALUES) | replies_of(IDS_OF_ONE_LENGTH, GOOD_VALUES)

# --- aggregate ------------------------------------------------------------------------------------------------------


@hypothesis_settings(deadline=None, max_examples=100)
@given(replies=ANY_REPLIES, page=st.integers(1, 6))
@example(replies=Replies([b"a", b"b"], [b"5\n6", b"7"]), page=2)
@example(replies=Replies([b"a\nb", b"c"], [b"5", b"7"]), page=2)
@example(replies=Replies([b"a"], [None], {b"a": "string"}), page=1)
@example(replies=Replies([b"a", b"b", b"a"], [b"5", b"0", b"0"]), page=1)
@example(replies=Replies([b"a", b"b", b"a"], [b"0", b"5", b"6"]), page=1)
@example(replies=Replies([b"a", b"a\x00"], [b"5", b"6"]), page=1)
def test_pages_agree_with_single_rows(replies: Replies, page: int) -> None:
    """Whatever the pages, each row is classified by itself, and every id once."""
    assert_equals_oracle(replies, replies.aggregate(page))


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda value: repr(value)[:20])
def test_an_odd_value_among_good_ones(value: bytes, place: int) -> None:
    """At each place of a page it is what it is alone."""
    values: list[bytes | None] = [b"1", b"2", b"3"]
    values[place] = value
    replies = Replies([b"a", b"b", b"c"], values)
    assert_equals_oracle(replies, replies.aggregate())


@pytest.mark.parametrize("raw", ODD_IDS, ids=lambda raw: repr(raw)[:20])
def test_an_odd_id_among_good_ones(raw: bytes) -> None:
    """It is what it is alone, and the others are counted."""
    replies = Replies([b"A", raw, "\U0010ffff".encode()], [b"1", b"2", b"3"])
    assert_equals_oracle(replies, replies.aggregate())


@hypothesis_settings(deadline=None)
@given(replies=GOOD_REPLIES, page=st.integers(1, 6))
def test_good_rows_are_taken_whole(replies: Replies, page: int) -> None:
    """Where nothing is wrong, the views of all counters are the views of the frame."""
    result = replies.aggregate(page)
    read = dict(zip(replies.ids, replies.values, strict=True))
    assert result.views == sum(int(value or b"") for value in read.values())
    assert (len(result.frame), result.rejects, result.rejected, result.idle) == (len(read), [], [], [])


@hypothesis_settings(deadline=None)
@given(replies=ANY_REPLIES)
def test_shape_of_the_frame(replies: Replies) -> None:
    """Ids are unique and in code point order, deltas positive, the dtypes as promised, the index from zero."""
    table = replies.aggregate().frame
    ids = table["vod_id"].tolist()
    assert [str(dtype) for dtype in table.dtypes] == ["string", "int64"]
    assert list(table.columns) == ["vod_id", "delta"]
    assert ids == sorted(set(ids))
    assert all(1 <= delta <= MAX for delta in table["delta"].tolist())
    assert table.index.tolist() == list(range(len(ids)))


@hypothesis_settings(deadline=None)
@given(replies=ANY_REPLIES)
def test_rejects_say_what_was_there(replies: Replies) -> None:
    """Each names its counter and its value, as text that PostgreSQL can hold."""
    read = dict(zip(replies.ids, replies.values, strict=True))
    result = replies.aggregate()
    assert [(reject.source, reject.subject, reject.value) for reject in result.rejects] == [
        ("counter", printable(raw), printable(read[raw] or b"")) for raw in result.rejected
    ]
    assert len({reject.digest for reject in result.rejects}) == len(result.rejects)


def test_ids_that_are_sorted_by_numpy() -> None:
    """Many ids of one length, in random order, each read twice: sorted as Python does, with the last value."""
    ids = [f"{number * 7919 % 3001:04d}".encode() for number in range(6002)]
    values: list[bytes | None] = [b"%d" % (number + 1) for number in range(6002)]
    replies = Replies(ids, values)
    assert len(oracle(replies)[0]) == 3001
    assert_equals_oracle(replies, replies.aggregate())


def test_no_readings() -> None:
    """An empty frame has the same dtypes, and no views."""
    result = Replies().aggregate()
    assert rows(result) == []
    assert [str(dtype) for dtype in result.frame.dtypes] == ["string", "int64"]
    assert (result.views, result.rejects, result.rejected, result.idle) == (0, [], [], [])


def test_order_is_by_code_point() -> None:
    """As PostgreSQL's collation "C" and Redis sort, not as UTF-16 or a locale does."""
    ids = ["a", "Z", "é", "z", "\uffff", "😀", "a\nb", "ab", "a"]
    result = Replies([text.encode() for text in ids], [b"1"] * len(ids)).aggregate()
    assert result.frame["vod_id"].tolist() == ["Z", "a", "a\nb", "ab", "z", "é", "\uffff", "😀"]


def test_a_key_that_was_read_twice_counts_once() -> None:
    """SCAN returned it twice, and a view came in between: the last reading is taken, never the sum."""
    result = Replies([b"a", b"b", b"a"], [b"5", b"1", b"6"]).aggregate()
    assert rows(result) == [("a", 6), ("b", 1)]


def test_a_value_of_several_lines_is_no_count() -> None:
    """Even where each of its lines is one."""
    result = Replies([b"a", b"b"], [b"5\n6", b"7"]).aggregate()
    assert rows(result) == [("b", 7)]
    assert [(reject.subject, reject.value, reject.reason) for reject in result.rejects] == [
        ("a", "5\n6", "value is not an integer")
    ]


def test_a_counter_that_came_after_it_was_read_is_idle() -> None:
    """Missing when it was read, a string when its type was asked for: it is the next run's, and no reject."""
    result = Replies([b"a"], [None], {b"a": "string"}).aggregate()
    assert (result.idle, result.rejected) == ([b"a"], [])


def test_one_bad_row_among_thousands() -> None:
    """Pages of the real size, a bad row in the second of three: every other row is counted."""
    ids = [f"vod{number:04d}".encode() for number in range(2500)]
    values: list[bytes | None] = [b"%d" % (number + 1) for number in range(2500)]
    values[1500] = b"abc"
    result = Replies(ids, values).aggregate()
    assert len(result.frame) == 2499
    assert result.views == sum(range(1, 2501)) - 1501
    assert result.rejected == [b"vod1500"]


def test_views_beyond_int64_are_exact() -> None:
    """Views of a frame are added as Python integers."""
    result = Replies([b"a", b"b", b"c"], [str(MAX).encode()] * 3).aggregate()
    assert result.views == 3 * MAX


# --- slices ---------------------------------------------------------------------------------------------------------


@given(length=st.integers(0, 30), counters=st.integers(1, 12))
def test_slices(length: int, counters: int) -> None:
    """Consecutive, full but for the last, together the whole frame; none of an empty one."""
    whole = counts_frame([f"{number:02d}" for number in range(length)], list(range(1, length + 1)))
    cut = list(cut_into_flushes(whole, counters))
    assert [row for part in cut for row in rows(part)] == rows(whole)
    assert [len(part) for part in cut] == [min(counters, length - start) for start in range(0, length, counters)]
    assert all([str(dtype) for dtype in part.dtypes] == ["string", "int64"] for part in cut)


# --- rejects --------------------------------------------------------------------------------------------------------


@given(raw=st.binary(max_size=40) | st.text(max_size=400).map(str.encode) | st.binary(min_size=290, max_size=1300))
def test_printable_is_text_for_postgresql(raw: bytes) -> None:
    """At most 300 characters, none of them NUL or half a character, whatever came in."""
    text = printable(raw)
    assert len(text) <= 300
    assert "\0" not in text
    assert text.encode().decode() == text


@given(text=st.text(max_size=300).filter(lambda text: "\0" not in text))
def test_printable_keeps_good_text(text: str) -> None:
    """Text of 300 characters is not changed."""
    assert printable(text.encode()) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", ""),
        (b"a\x00b", "a\\x00b"),
        (b"\xff", "\\xff"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),
        (("😀" * 300).encode(), "😀" * 300),
        (b"x" * 300, "x" * 300),
        (b"x" * 301, "x" * 299 + "…"),
        (b"x" * 1_000_000, "x" * 299 + "…"),
        (b"\x00" * 100, ("\\x00" * 100)[:299] + "…"),
        (("x" + "😀" * 300).encode(), "x" + "😀" * 298 + "…"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_printable(raw: bytes, text: str) -> None:
    """NUL and what is not UTF-8 are written as escapes; what is cut ends in an ellipsis."""
    assert printable(raw) == text


def digest(source: str, subject: bytes, reason: str) -> bytes:
    """Return the digest of a reject."""
    return Reject.of(source, subject, b"value", reason).digest


SOURCES = REASONS = st.text("abc: ", max_size=4)
SUBJECTS = st.binary(max_size=4) | st.text("abc: \0", max_size=4).map(str.encode)


@given(reject=st.tuples(SOURCES, SUBJECTS, REASONS), other=st.tuples(SOURCES, SUBJECTS, REASONS))
@example(reject=("a", b"c", "b"), other=("ab", b"c", ""))
@example(reject=("a", b"c", "b"), other=("a", b"bc", ""))
def test_digest_of_different_rejects_differs(reject: tuple[str, bytes, str], other: tuple[str, bytes, str]) -> None:
    """Two rejects have one digest just when source, subject and reason are the same."""
    assert (digest(*reject) == digest(*other)) == (reject == other)


def test_digest_covers_truncated_text() -> None:
    """Subjects that look the same when they are printed are different rejects."""
    reject, other = (Reject.of("counter", b"x" * 5000 + end, b"", "reason") for end in (b"1", b"2"))
    assert reject.subject == other.subject
    assert reject.digest != other.digest


def test_a_value_that_changes_is_the_same_reject() -> None:
    """A counter that somebody keeps filling with rubbish is recorded once."""
    reject, other = (Reject.of("counter", b"a", value, "value is not an integer") for value in (b"x", b"y"))
    assert (reject.value, other.value) == ("x", "y")
    assert reject.digest == other.digest
