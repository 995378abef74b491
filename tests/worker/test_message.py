"""Messages: whole and equal after the wire, and whatever else arrives is refused in one line."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from app.worker import message
from app.worker.message import KINDS, MessageError, decode, encode

number = st.floats(allow_nan=False, allow_infinity=False)
count = st.integers(0, 2**40)
text = st.text(max_size=20)
pair = st.tuples(number, number)


def array(dtype, dimensions):
    return hnp.arrays(dtype, hnp.array_shapes(min_dims=dimensions, max_dims=dimensions, min_side=0, max_side=4))


FIELDS = {
    "str": text,
    "Number": number,
    "Count": count,
    "int": st.integers(-1, 1000),
    "bool": st.booleans(),
    "Pair": pair,
    "Pair | None": st.none() | pair,
    "Key": st.tuples(count, count),
    "tuple[int, int]": st.tuples(count, count),
    "tuple[Pair, Pair]": st.tuples(pair, pair),
    "tuple[str, ...]": st.lists(text, max_size=3).map(tuple),
    "tuple[Number, ...]": st.lists(number, max_size=3).map(tuple),
    "tuple[Count, ...]": st.lists(count, max_size=3).map(tuple),
    "tuple[Key, ...]": st.lists(st.tuples(count, count), max_size=3).map(tuple),
    "dict[str, str]": st.dictionaries(text, text, max_size=3),
    "Raw": array(np.uint16, 2),
    "Image": array(np.float32, 2),
    "Wave": array(np.complex64, 2),
    "Mask": array(np.bool_, 2),
    "Places": array(np.float64, 2),
    "Series": array(np.float64, 1),
    "Vector": array(np.float32, 1),
    "Draws": array(np.float16, 3),
}
messages = st.sampled_from(sorted(KINDS)).flatmap(
    lambda name: st.builds(KINDS[name], **{entry.name: FIELDS[entry.type] for entry in fields(KINDS[name])})
)


def equal(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


@given(messages)
def test_what_is_sent_arrives(sent):
    arrived = decode(encode(sent))
    assert type(arrived) is type(sent)
    assert all(equal(getattr(sent, entry.name), getattr(arrived, entry.name)) for entry in fields(sent))


def frame() -> message.Frame:
    return message.Frame("run", "evaluation", 3, 0, 7, 1e-3, 1e-3, 1.7e9, (0.1, 0.2), np.ones((2, 3), np.uint16))


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_noise_is_refused(parts):
    with pytest.raises(MessageError):
        decode(parts)


@given(st.data())
def test_a_message_that_was_damaged_anywhere_is_refused_or_whole(data):
    parts = encode(frame())
    where = data.draw(st.integers(0, len(parts[0]) - 1))
    broken = bytearray(parts[0])
    broken[where] = data.draw(st.integers(0, 255))
    try:
        arrived = decode([bytes(broken), *parts[1:]])
    except MessageError:
        return
    assert isinstance(arrived, message.Frame)


def changed(**changes) -> list[bytes]:
    parts = encode(frame())
    header = json.loads(parts[0])
    header.update({key: value for key, value in changes.items() if key in header})
    header["plain"].update({key: value for key, value in changes.items() if key not in header})
    return [json.dumps(header).encode(), *parts[1:]]


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (changed(ptychoscope=99), "install the same release"),
        (changed(kind="Pickle"), "there is none such"),
        (changed(exposure_s="long"), "exposure_s"),
        (changed(exposure_s=float("nan")), "no JSON"),
        (changed(step=-1), "step"),
        (changed(step=True), "step"),
        (changed(surprise=1), "surprise"),
        (changed(image=1), "comes twice"),
        (changed(arrays=[["image", "<u2", [2, 4]]]), "described as"),
        (changed(arrays=[["image", "<u2", [-2, -3]]]), "described as"),
        (changed(arrays=[["image", "|O", [2, 3]]]), "described wrongly"),
        (changed(arrays=[["image", "<f4", [1, 3]]]), "expected uint16"),
        (changed(arrays=[["image", "<u2", [6]]]), "expected uint16"),
        (changed(arrays=[]), "arrays came"),
        (encode(frame())[:1], "0 arrays came"),
        ([b"[" * 100_000], "no JSON"),
        (changed(__dataclass_self__=1), "cannot be read|unexpected|Unexpected"),
        (changed(exposure_s=json.loads("[" * 600 + "]" * 600)), "cannot be read|exposure_s"),
        (changed(arrays=[["image", "<u2", [0, 1 << 30, 1 << 30, 1 << 30]]]), "described as"),
        ([], "empty or too large"),
    ],
)
def test_what_is_wrong_is_said(parts, words):
    with pytest.raises(MessageError, match=words) as raised:
        decode(parts)
    assert len(str(raised.value).splitlines()) == 1


def test_arrays_that_arrive_cannot_be_written():
    assert not decode(encode(frame())).image.flags.writeable
