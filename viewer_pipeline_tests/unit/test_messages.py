"""What a producer may publish, and that nothing else counts or does harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from viewer_pipeline.ingest.messages import InvalidMessage, parse_announcement, parse_view

NOT_TEXT = "vodId is not text"
NO_COUNT = "count is not a positive integer"
MISSING = "count is missing, and PUBSUB_MODE=increment needs it"
TWICE = "a key comes twice"
LONG = "longer than 4096 bytes"


@pytest.mark.parametrize(
    ("payload", "view"),
    [
        (b'{"vodId": "a", "count": 1}', ("a", 1)),
        (b'{"count":25,"vodId":"a:b"}', ("a:b", 25)),
        (b' \r\n{"vodId":"a","count":1}\t', ("a", 1)),
        (b'{"vodId":"a","count":1000000}', ("a", 1_000_000)),
        (b'{"vodId":"' + b"x" * 255 + b'","count":1}', ("x" * 255, 1)),
        (b'{"vodId":"' + b"\\ud83d\\ude00" * 255 + b'","count":1}', ("😀" * 255, 1)),
        ('{"vodId":"ü😀\\n","count":1}'.encode(), ("ü😀\n", 1)),
        (b'{"vodId":"a","count":1,"at":"now","nested":[{"vodId":7,"count":-1}],"":null}', ("a", 1)),
        (b'{"vodId":"a","count":1,"x":' + b"[" * 500 + b"]" * 500 + b"}", ("a", 1)),
        (b'{"vodId":"a","count":1,"x":"' + b"y" * (4096 - 30) + b'"}', ("a", 1)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_parse_view_accepts_valid_messages(payload: bytes, view: tuple[str, int]) -> None:
    """Other fields are ignored."""
    assert parse_view(payload) == view


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"vodId":"a","count":1', "not JSON"),
        (b'{"vodId":"a","count":1}x', "not JSON"),
        (b'{"vodId":"a","count":1}{"vodId":"a","count":1}', "not JSON"),
        (b'{"vodId":"a","count":1,}', "not JSON"),
        (b"{'vodId':'a','count':1}", "not JSON"),
        (b'\xef\xbb\xbf{"vodId":"a","count":1}', "not JSON"),
        (b'{"vodId":"a","count":1}\x00', "not JSON"),
        (b"NaN", "not JSON"),
        (b"[]", "not an object"),
        (b'[{"vodId":"a","count":1}]', "not an object"),
        (b"7", "not an object"),
        (b"null", "not an object"),
        (b"true", "not an object"),
        (b'"vodId"', "not an object"),
        (b"{}", NOT_TEXT),
        (b'{"count":1}', NOT_TEXT),
        (b'{"vodid":"a","count":1}', NOT_TEXT),
        (b'{"vodId":null,"count":1}', NOT_TEXT),
        (b'{"vodId":7,"count":1}', NOT_TEXT),
        (b'{"vodId":["a"],"count":1}', NOT_TEXT),
        (b'{"vodId":"","count":1}', "vodId: empty id"),
        (b'{"vodId":"' + b"x" * 256 + b'","count":1}', "vodId: id longer than 255 characters"),
        (b'{"vodId":"a\\u0000b","count":1}', "vodId: id holds a NUL character"),
        (b'{"vodId":"a\x00b","count":1}', "not JSON"),
        (b'{"vodId":"a","count":1,"vodId":""}', TWICE),
        (b'{"vodId":"a","count":1,"count":1}', TWICE),
        (b'{"vodId":"a","count":1,"x":[{"y":1,"y":2}]}', TWICE),
        (b'{"vodId":"a","count":1,"x":"' + b"y" * (4096 - 29) + b'"}', LONG),
        (b'{"vodId":"a","count":1,"x":' + b"[" * 1100 + b"]" * 1100 + b"}", "not JSON"),
        (b'{"vodId":"\xff","count":1}', "not UTF-8"),
        (b'\xff{"vodId":"a","count":1}', "not JSON"),
        (b'{"vodId":"\xed\xa0\x80","count":1}', "not UTF-8"),
        (b'{"vodId":"\\ud800","count":1}', "not JSON"),
        (b'{"vodId":"a\\udc00b","count":1}', "not JSON"),
        (b'{"vodId":"\\ude00\\ud83d","count":1}', "not JSON"),
        (b'{"vodId":"a"}', MISSING),
        (b'{"vodId":"a","x":1}', MISSING),
        (b'{"vodId":"a","Count":1}', MISSING),
        (b'{"vodId":"a","count":null}', NO_COUNT),
        (b'{"vodId":"a","count":"1"}', NO_COUNT),
        (b'{"vodId":"a","count":[1]}', NO_COUNT),
        (b'{"vodId":"a","count":true}', NO_COUNT),
        (b'{"vodId":"a","count":1.0}', NO_COUNT),
        (b'{"vodId":"a","count":1.5}', NO_COUNT),
        (b'{"vodId":"a","count":1e0}', NO_COUNT),
        (b'{"vodId":"a","count":0}', NO_COUNT),
        (b'{"vodId":"a","count":-0}', NO_COUNT),
        (b'{"vodId":"a","count":-1}', NO_COUNT),
        (b'{"vodId":"a","count":-9223372036854775809}', NO_COUNT),
        (b'{"vodId":"a","count":1000001}', "count is over 1000000"),
        (b'{"vodId":"a","count":9223372036854775808}', "count is over 1000000"),
        (b'{"vodId":"a","count":18446744073709551616}', "count is over 1000000"),
        (b'{"vodId":"a","count":1,"count":0}', TWICE),
        (b'{"vodId":"a","count":NaN}', "not JSON"),
        (b'{"vodId":"a","count":Infinity}', "not JSON"),
        (b'{"vodId":"a","count":01}', "not JSON"),
        (b'{"vodId":"a","count":+1}', "not JSON"),
        (b'{"vodId":"a","count":1_000}', "not JSON"),
        (b'{"vodId":"a","count":1e999}', "not JSON"),
        (b'{"vodId":"a","count":' + b"9" * 100_000 + b"}", LONG),
        (b'{"vodId":"a","count":' + b"9" * 4000 + b"}", "count is over 1000000"),
        (b"[" * 100_000, LONG),
        (b'{"vodId":' * 100_000, LONG),
        (b'{"vodId":' * 400, "not JSON"),
        (b'{"vodId":"a","count":1,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", LONG),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_parse_view_rejects_invalid_messages(payload: bytes, reason: str) -> None:
    """Each with its reason, and by InvalidMessage only."""
    with pytest.raises(InvalidMessage) as caught:
        parse_view(payload)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "payload",
    [
        b'{"vodId":"a b"}',
        b' { "vodId" : "a b" } ',
        b'{"vodId":"a\\u0020b"}',
        b'{"vodId":"a b","count":1}',
        b'{"vodId":"a b","count":25}',
        b'{"count":null,"vodId":"a b"}',
        b'{"vodId":"a b","count":"many"}',
        b'{"vodId":"a b","count":-1}',
        b'{"vodId":"a b","count":9999999999}',
        b'{"vodId":"a b","at":"now"}',
    ],
)
def test_an_announcement_needs_no_count(payload: bytes) -> None:
    """It names the VOD; whatever else the message has is ignored, and it is one announcement."""
    assert parse_announcement(payload) == ("a b", 1)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not JSON"),
        (b'{"vodId":"a"', "not JSON"),
        (b'{"vodId":"a",}', "not JSON"),
        (b'{"vodId":"a","count":01}', "not JSON"),
        (b'{"vodId":"a","count":NaN}', "not JSON"),
        (b'["a"]', "not an object"),
        (b"{}", NOT_TEXT),
        (b'{"count":1}', NOT_TEXT),
        (b'{"vodId":7}', NOT_TEXT),
        (b'{"vodId":""}', "vodId: empty id"),
        (b'{"vodId":"' + b"x" * 256 + b'"}', "vodId: id longer than 255 characters"),
        (b'{"vodId":"\xff"}', "not UTF-8"),
        (b'{"vodId":"a","vodId":"b"}', TWICE),
        (b'{"vodId":"a"}' + b" " * 4096, LONG),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_invalid_announcements_are_rejected(payload: bytes, reason: str) -> None:
    """For the same reasons as messages that carry views, except for those about the count."""
    with pytest.raises(InvalidMessage) as caught:
        parse_announcement(payload)
    assert str(caught.value) == reason


@given(payload=st.binary() | st.text().map(str.encode))
def test_parse_view_rejects_arbitrary_bytes(payload: bytes) -> None:
    """Any bytes at all raise InvalidMessage."""
    with pytest.raises(InvalidMessage):
        parse_view(payload)


def json_values() -> st.SearchStrategy[object]:
    """Anything that JSON can say, and counts and ids in particular."""
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
    return st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)


@given(vod_id=st.text(max_size=260) | json_values(), count=st.integers(-(2**65), 2**65) | json_values())
def test_parse_view_accepts_exactly_valid_ids_and_counts(vod_id: object, count: object) -> None:
    """A message counts if and only if its id and its count are valid, and then for these."""
    payload = json.dumps({"vodId": vod_id, "count": count}).encode()
    good_id = isinstance(vod_id, str) and 1 <= len(vod_id) <= 255 and "\x00" not in vod_id
    good_count = isinstance(count, int) and not isinstance(count, bool) and 1 <= count <= 1_000_000
    if good_id and good_count:
        assert parse_view(payload) == (vod_id, count)
    else:
        with pytest.raises(InvalidMessage):
            parse_view(payload)
