from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.charset import convert_encodings, encode_string, python_encoding

from pacs_core.dicom.text import TEXTUAL_VRS, encodings_of, value_text


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        (b"", b"Mueller^Juergen ", "Mueller^Juergen"),
        (b"ISO_IR 100", b"M\xfcller^J\xfcrgen", "Müller^Jürgen"),
        (b"ISO_IR 192", "Ångström^Søren=江戸^太郎".encode(), "Ångström^Søren=江戸^太郎"),
        # PS3.5 annex H.3.1, H.3.2, I.2 and J.1
        (
            b"\\ISO 2022 IR 87",
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
        ),
        (b"ISO 2022 IR 13\\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎"),
        (
            b"\\ISO 2022 IR 149",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
            "Hong^Gildong=洪^吉洞=홍^길동",
        ),
        # PS3.5 annex K
        (
            b"\\ISO 2022 IR 58",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
            "Zhang^XiaoDong=张^小东",
        ),
        (b"GB18030", "Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        (b"ISO-IR 100", b"M\xfcller", "Müller"),
        (b"iso_ir_192", "Müller".encode(), "Müller"),
        (b"nonsense", b"M\xfcller", "Müller"),
        (b"ISO_IR 192", b"M\xfcller", "M\ufffdller"),
    ],
)
def test_names_are_decoded_in_their_character_sets(charset: bytes, raw: bytes, text: str) -> None:
    assert value_text("PN", raw, little_endian=True, encodings=encodings_of(charset)) == text


@pytest.mark.parametrize(
    ("vr", "raw", "text"),
    [
        ("UI", b"1.2.3\0", "1.2.3"),
        ("CS", b"ORIGINAL\\PRIMARY ", "ORIGINAL\\PRIMARY"),
        ("LO", b" a \\ b ", "a\\b"),
        ("LT", b" a \\ b ", " a \\ b"),
        ("IS", b" 12 ", "12"),
        ("US", pack("<2H", 1, 65535), "1\\65535"),
        ("SS", pack("<h", -1), "-1"),
        ("FD", pack("<d", 0.5), "0.5"),
        ("AT", pack("<2H", 0x0010, 0x0020), "00100020"),
        ("US", b"\1\0\2", "1"),
        ("PN", b"A^B==", "A^B"),
        ("PN", b"", ""),
    ],
)
def test_values_lose_their_padding_only(vr: str, raw: bytes, text: str) -> None:
    assert value_text(vr, raw, little_endian=True) == text


CHINESE = encodings_of(b"\\ISO 2022 IR 58")
CYRILLIC = encodings_of(b"ISO 2022 IR 100\\ISO 2022 IR 144")


def test_chinese_text_is_read_line_by_line() -> None:
    raw = b"1. \x1b$)A\xb5\xda\xd2\xbb\xd0\xd0\r\n2. \x1b$)A\xb5\xda\xb6\xfe\xd0\xd0\r\n3. end"
    assert value_text("LT", raw, little_endian=True, encodings=CHINESE) == "1. 第一行\r\n2. 第二行\r\n3. end"


@pytest.mark.parametrize("vr", ["LO", "SH", "UC"])
def test_a_backslash_ends_a_code_extension_where_there_may_be_several_values(vr: str) -> None:
    assert value_text(vr, b"\x1b-L\xd4\\M\xfcller", little_endian=True, encodings=CYRILLIC) == "д\\Müller"


@pytest.mark.parametrize("vr", ["LT", "ST", "UT"])
def test_a_backslash_in_a_text_of_one_value_ends_nothing(vr: str) -> None:
    assert value_text(vr, b"\x1b-L\xd4\\\xd4", little_endian=True, encodings=CYRILLIC) == "д\\д"


def test_an_escape_character_leaves_two_byte_characters_around_it_whole() -> None:
    raw = b"\x81\\\x1b-L"  # the second byte is that of a backslash
    assert value_text("LO", raw, little_endian=True, encodings=encodings_of(b"GB18030")).startswith("乗")


@given(st.sampled_from(sorted(TEXTUAL_VRS)), st.binary(), st.sampled_from(sorted(python_encoding)), st.booleans())
def test_no_bytes_whatsoever_fail(vr: str, raw: bytes, charset: str, little_endian: bool) -> None:
    assert isinstance(value_text(vr, raw, little_endian=little_endian, encodings=encodings_of(charset.encode())), str)


@given(st.binary())
def test_no_character_set_whatsoever_fails(charset: bytes) -> None:
    assert value_text("LO", b"abc", little_endian=True, encodings=encodings_of(charset))


@given(
    st.sampled_from(["ISO_IR 100", "ISO_IR 192", "GB18030", "ISO_IR 144"]),
    st.text(st.characters(codec="koi8-r", categories=["L"]), min_size=1),
)
def test_text_that_pydicom_encodes_is_decoded_alike(charset: str, text: str) -> None:
    codecs = convert_encodings(charset)
    try:
        text.encode(codecs[0])
    except UnicodeEncodeError:
        return
    raw = encode_string(text, codecs)
    assert value_text("LO", raw, little_endian=True, encodings=encodings_of(charset.encode())) == text
