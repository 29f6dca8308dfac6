"""Check digits against their rules written out a second time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carellama.privacy.checksums import id_card_check_digit, is_luhn, luhn_check_digit


def luhn_by_hand(digits: str) -> bool:
    """ISO/IEC 7812: from the right, each second digit twice; the digits of all of it add up to a multiple of 10."""
    written = "".join(str(int(digit) * (1 + at % 2)) for at, digit in enumerate(reversed(digits)))
    return sum(map(int, written)) % 10 == 0


# Doubled digits of 5 and more come down by 9; of 4111111111111111 none is doubled but the 4 and the ones.
@pytest.mark.parametrize("number", ["79927398713", "4539578763621486", "5555555555554444", "378282246310005"])
def test_numbers_whose_doubled_digits_pass_nine(number):
    assert is_luhn(number) and luhn_by_hand(number)
    assert not any(is_luhn(number[:-1] + other) for other in "0123456789" if other != number[-1])


@given(st.text("0123456789", min_size=1, max_size=19))
def test_the_check_digit_is_the_one_that_fits(digits):
    assert luhn_by_hand(digits + luhn_check_digit(digits))
    assert is_luhn(digits) == (luhn_by_hand(digits) if len(digits) > 1 else digits == "0")


@given(st.text("0123456789", min_size=17, max_size=17))
def test_the_check_character_of_an_identity_card_is_that_of_iso_7064(first):
    """MOD 11-2: the sum of all characters, from the right by 1, 2, 4, ..., leaves 1 over 11; X stands for 10."""
    characters = [*map(int, first), 10 if (check := id_card_check_digit(first)) == "X" else int(check)]
    assert sum(value * 2**place for place, value in enumerate(reversed(characters))) % 11 == 1
