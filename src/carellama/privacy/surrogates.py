"""Believable values in place of identifiers: the same form, never one that belongs to somebody.

    Surrogates(b"secret")("PHONE", "138-0013-8000", shift=0)   # "12..-....-....", always the same

The value is an HMAC-SHA256 of what was there (in its plain spelling), so one secret gives one surrogate for a person
in a whole dataset, in every process, and nothing leads back without the secret. With the secret, a value that can be
guessed can be checked: keep it like a password.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import re
import string
from collections.abc import Iterator

from carellama.privacy.checksums import id_card_check_digit, luhn_check_digit
from carellama.privacy.normalize import CHINESE_DIGITS, canonical_form, normalize
from carellama.privacy.word_lists import chinese
from carellama.text import HAN_CHARACTER

_SURNAMES_ZH = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦尤许何吕施张孔曹严华金魏陶姜"
_GIVEN_ZH = "安宁平和清远明悦思齐嘉言文博雅静若水新禾云舒景行知微子衿书同"
_FIRST_EN = """
    Alex Bailey Casey Dana Ellis Finley Gray Harper Indigo Jules Kit Lane Morgan Noel Oakley Perry
    Quinn Riley Sage Taylor
""".split()
_LAST_EN = """
    Ashdown Birchley Cresswell Dunmore Elmfield Fairmont Glenrose Hartwell Inglewood Kingsley
    Larkfield Marlow Northam Oakridge Penrose Quillby Redfern Stonely Thornby Wexcombe
""".split()
_STREETS = "Maple Cedar Willow Juniper Larch Rowan Hazel Alder".split()
_ROADS = "安平 和顺 清河 明德 长宁 文昌 永乐 春晖".split()


class _HmacStream:
    """Numbers drawn from an HMAC, as many as are asked for."""

    def __init__(self, secret: bytes, *parts: str) -> None:
        self.secret, self.label = secret, "\0".join(parts).encode()
        self.bytes = self._bytes()

    def _bytes(self) -> Iterator[int]:
        block = 0
        while True:
            yield from hmac.new(self.secret, self.label + b"\0" + str(block).encode(), hashlib.sha256).digest()
            block += 1

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1 (at most 2**16; the bias of the modulus is below 1 in 60,000)."""
        return int.from_bytes(bytes(next(self.bytes) for _ in range(4))) % limit

    def digits(self, count: int) -> str:
        """So many decimal digits."""
        return "".join(str(self.below(10)) for _ in range(count))

    def pick(self, choices: list[str] | str) -> str:
        """One of these."""
        return choices[self.below(len(choices))]


class Surrogates:
    """Made once with a secret; a call returns the surrogate of one value. `shift`: days to move dates by."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def date_shift(self, record: str) -> int:
        """The days by which all dates of a record move: 30 to 180 back or forth, so that an age stays about right."""
        stream = _HmacStream(self.secret, "shift", record)
        return (30 + stream.below(151)) * (1 if stream.below(2) else -1)

    def __call__(self, kind: str, text: str, *, shift: int) -> str:
        """Return a value of the same kind and form."""
        value = canonical_form(text)
        stream = _HmacStream(self.secret, kind, _without_country(value) if kind == "PHONE" else value)
        if kind in ("BIRTH_DATE", "DATE"):
            return shift_date(text, shift)
        if kind == "NAME":
            return _name(text, stream)
        if kind == "ADDRESS":
            return _address(text, stream)
        if kind == "EMAIL":
            return f"user{stream.digits(6)}@example.com"
        if kind == "URL":
            return f"https://example.org/{stream.digits(8)}"
        if kind == "IP":
            return _surrogate_ip(text, stream)
        return _same_format(text, _digits(kind, text, value, stream), stream)


def _without_country(digits: str) -> str:
    return re.sub(r"^(?:00)?86(?=.{11}$)", "", digits)


def _digits(kind: str, text: str, value: str, stream: _HmacStream) -> str:
    """The digits that replace those of a value, from ranges that are never given out where there are such."""
    count = sum(character.isdigit() for character in value)
    if kind == "ID_CARD" and len(value) == 18 and value[:17].isdigit():
        day = datetime.date(1940, 1, 1) + datetime.timedelta(days=stream.below(28_000))
        first = "99" + stream.digits(4) + f"{day:%Y%m%d}" + stream.digits(2) + value[16]  # no region begins with 99
        return first + id_card_check_digit(first)
    if kind == "PHONE":
        bare = _without_country(value)
        if len(bare) == 11 and bare.startswith("1"):  # a Chinese mobile number: none begins with 12
            return value[: len(value) - 11] + "12" + stream.digits(9)
        if count == 10:  # North America: 555-0100 to 555-0199 are for fiction
            return f"{2 + stream.below(8)}{stream.digits(2)}55501{stream.digits(2)}"
        if text.strip().startswith("+"):  # 999 is no country's code
            return "999" + stream.digits(count - 3)
        return ("0" if value.startswith("0") else "") + stream.digits(count - value.startswith("0"))
    if kind == "SSN" and count == 9:
        return "666" + stream.digits(6)  # never given out
    if kind == "BANK_CARD" and 15 <= count <= 19:
        first = "0" + stream.digits(count - 2)  # no bank's card begins with 0
        return first + luhn_check_digit(first)
    return stream.digits(count)


def _same_format(text: str, digits: str, stream: _HmacStream) -> str:
    """Put digits in the place of digits, letters in that of letters; marks and the script of digits stay."""
    if re.fullmatch(r"[A-Za-z\s,\-.]+", text) and len(text.split()) > 4:  # a number in words
        return " ".join("zero one two three four five six seven eight nine".split()[int(d)] for d in stream.digits(10))
    chinese = {digit: character for character, digit in reversed(CHINESE_DIGITS.items())}
    plain, left, made = normalize(text), iter(digits), []
    for original, plain_character in zip(text, plain, strict=True):
        if plain_character.isdigit() or original in CHINESE_DIGITS or (plain_character in "Xx" and len(digits) == 18):
            digit = next(left, None) or stream.digits(1)
            if original in CHINESE_DIGITS:
                made.append(chinese.get(digit, digit))
            else:
                made.append(chr(ord(digit) + 0xFEE0) if "０" <= original <= "９" else digit)
        elif plain_character.isascii() and plain_character.isalpha():
            made.append(stream.pick(string.ascii_uppercase if plain_character.isupper() else string.ascii_lowercase))
        else:
            made.append(original)
    return "".join(made)


def _name(text: str, stream: _HmacStream) -> str:
    plain = normalize(text)
    if re.search(r"[A-Za-z]", plain):
        words = [word for word in re.split(r"[ ,]+", plain) if word]
        first, last = stream.pick(_FIRST_EN), stream.pick(_LAST_EN)
        made = last if len(words) == 1 else f"{last}, {first}" if "," in plain else f"{first} {last}"
        return made.upper() if plain.isupper() else made
    bare = re.sub(r"\s", "", plain)
    surname = stream.pick(_SURNAMES_ZH)
    if len(bare) == 1 or bare in chinese().compound_surnames:
        return surname
    given = "".join(stream.pick(_GIVEN_ZH) for _ in range(1 if len(bare) == 2 else 2))
    return surname + given


def _address(text: str, stream: _HmacStream) -> str:
    if HAN_CHARACTER.search(text):
        return f"安平市{stream.pick(_ROADS)}路{1 + stream.below(300)}号"
    if re.fullmatch(r"[\d \-]+", text.strip()):
        return "0" * sum(character.isdigit() for character in text)
    return f"{1 + stream.below(300)} {stream.pick(_STREETS)} Street, Anytown"


def _surrogate_ip(text: str, stream: _HmacStream) -> str:
    if re.fullmatch(r"(?:[0-9A-Fa-f]{2}[:\-]){5}[0-9A-Fa-f]{2}", text):
        return "02:00:00:" + ":".join(f"{stream.below(256):02x}" for _ in range(3))
    return f"2001:db8::{stream.below(65536):x}" if ":" in text else f"192.0.2.{1 + stream.below(254)}"  # RFC 3849, 5737


_MONTHS = dict(zip("jan feb mar apr may jun jul aug sep oct nov dec".split(), range(1, 13), strict=True))
_PLACES = re.compile(rf"[0-9]+|[{''.join(CHINESE_DIGITS)}十廿正冬腊初]+|[A-Za-z]{{3,}}")


def shift_date(text: str, days: int) -> str:
    """A date moved by so many days, in the same spelling; one that cannot be read becomes a day of its decade."""
    plain = normalize(text)
    if len(digits := re.sub(r"\D", "", plain)) == 8 and plain.strip().isdigit():
        moved = _shift_parsed(int(digits[:4]), int(digits[4:6]), int(digits[6:]), days)
        return f"{moved:%Y%m%d}"
    pieces = [
        piece
        for piece in _PLACES.finditer(plain)
        if not piece[0].isalpha() or piece[0][:3].lower() in _MONTHS or not piece[0].isascii()
    ]
    pieces = [piece for piece in pieces if piece[0] not in ("st", "nd", "rd", "th")]
    year, month, day = _date_field_order(pieces)
    if year is None or month is None:
        return re.sub(r"\d", "0", plain)
    numbers = [_value(piece[0]) if piece else 1 for piece in (year, month, day)]
    if day is not None and numbers[1] > 12 >= numbers[2]:  # day first or month first: what fits
        month, day, numbers = day, month, [numbers[0], numbers[2], numbers[1]]
    short = len(re.sub(r"\s", "", year[0])) <= 2
    moved = _shift_parsed(
        numbers[0] + (1900 if short and numbers[0] > 26 else 2000 if short else 0), numbers[1], numbers[2], days
    )
    made = plain
    values = [(year, moved.year), (month, moved.month)] + ([(day, moved.day)] if day else [])
    for piece, number in sorted(values, key=lambda pair: -pair[0].start()):
        made = made[: piece.start()] + _format_like(piece[0], number, year=piece is year) + made[piece.end() :]
    return re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", made)


def _shift_parsed(year: int, month: int, day: int, days: int) -> datetime.date:
    try:
        return datetime.date(year, month, day) + datetime.timedelta(days=days)
    except (ValueError, OverflowError):
        return datetime.date(min(max(year, 1900), 2100), 6, 15) + datetime.timedelta(days=days)


def _date_field_order(
    pieces: list[re.Match[str]],
) -> tuple[re.Match[str] | None, re.Match[str] | None, re.Match[str] | None]:
    """Which piece is the year, the month and the day."""
    words = [piece for piece in pieces if piece[0].isascii() and piece[0].isalpha()]
    rest = [piece for piece in pieces if piece not in words]
    if words:
        year = rest[-1] if rest else None
        return year, words[0], rest[0] if len(rest) > 1 else None
    if len(rest) == 2:
        return (rest[0], rest[1], None) if len(rest[0][0]) > 2 else (rest[1], rest[0], None)
    if len(rest) != 3:
        return None, None, None
    year_first = len(rest[0][0]) == 4 or not rest[0][0].isascii() or (len(rest[2][0]) < 4 and _value(rest[0][0]) > 31)
    return (rest[0], rest[1], rest[2]) if year_first else (rest[2], rest[1], rest[0])


def _format_like(like: str, number: int, *, year: bool) -> str:
    if like.isascii() and like.isalpha():
        name = datetime.date(2000, number, 1).strftime("%B")
        return name if len(like) > 3 or like.lower() == "may" else name[:3]
    if like.isascii():
        return (
            str(number).zfill(len(like))[-len(like) :]
            if year
            else str(number).zfill(len(like) if like[0] == "0" else 1)
        )
    digits = "〇一二三四五六七八九"
    if year:
        return "".join(digits[int(digit)] for digit in str(number))[-len(like) :]
    tens, ones = divmod(number, 10)
    return ("" if not tens else "十" if tens == 1 else digits[tens] + "十") + (digits[ones] if ones else "")


def _value(text: str) -> int:
    """The number of a month by name, or a number of one or two places: 二十三 is 23, 廿三 too, 初三 is 3."""
    if text.isascii():
        return _MONTHS[text[:3].lower()] if text.isalpha() else int(text)
    if text in ("正", "冬", "腊"):
        return {"正": 1, "冬": 11, "腊": 12}[text]
    text = text.replace("初", "").replace("廿", "二十").replace("卅", "三十")
    if "十" in text:
        tens, _, ones = text.partition("十")
        return 10 * int(CHINESE_DIGITS.get(tens, "1") if tens else "1") + int(
            CHINESE_DIGITS.get(ones, "0") if ones else "0"
        )
    return int("".join(CHINESE_DIGITS.get(character, character) for character in text))
