"""Check digits and number plans: is this a number that was, or could have been, given out?

    is_id_card("11010519491231002X")   # True: the region, the date and the check digit fit

They take plain digits (`carellama.privacy.normalize.canonical_form`) and know nothing of the text around.
"""

from __future__ import annotations

import datetime

# The first two digits of a Chinese resident identity number (GB/T 2260), and 83 and 91 of residence permits.
CN_REGION_CODES = frozenset(
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 "
    "50 51 52 53 54 61 62 63 64 65 71 81 82 83 91".split()
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)  # GB 11643-1999: 2**(17-i) mod 11
_CHECKS = "10X98765432"


def id_card_check_digit(first: str) -> str:
    """The 18th character for the first 17 digits: ISO 7064 MOD 11-2."""
    return _CHECKS[sum(int(digit) * weight for digit, weight in zip(first, _WEIGHTS, strict=True)) % 11]


def is_id_card(value: str) -> bool:
    """Whether 15 or 18 characters are a Chinese identity number: region, date of birth and check digit fit."""
    value = value.upper()
    if len(value) == 15 and value.isdigit():
        return value[:2] in CN_REGION_CODES and is_calendar_date("19" + value[6:12])
    if len(value) != 18 or not value[:17].isdigit() or value[17] not in "0123456789X":
        return False
    return (
        value[:2] in CN_REGION_CODES and is_calendar_date(value[6:14]) and id_card_check_digit(value[:17]) == value[17]
    )


def is_calendar_date(digits: str) -> bool:
    """Whether eight digits are a day from 1880 to this year, year first."""
    try:
        day = datetime.date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return datetime.date(1880, 1, 1) <= day <= datetime.date.today()


def is_luhn(digits: str) -> bool:
    """Whether the last digit fits the others: ISO/IEC 7812, bank cards."""
    return digits.isdigit() and luhn_check_digit(digits[:-1]) == digits[-1]


def luhn_check_digit(digits: str) -> str:
    """The digit to put behind these."""
    doubled = (2 * int(digit) for digit in digits[::-2])
    total = sum(value - 9 if value > 9 else value for value in doubled) + sum(map(int, digits[-2::-2]))
    return str(-total % 10)


def is_nhs(digits: str) -> bool:
    """Whether ten digits are a number of the British health service: modulus 11."""
    if len(digits) != 10 or not digits.isdigit() or len(set(digits)) == 1:
        return False
    check = 11 - sum(int(digit) * weight for digit, weight in zip(digits[:9], range(10, 1, -1), strict=True)) % 11
    return check != 10 and check % 11 == int(digits[9])


# The length of an account number in each country (IBAN registry of SWIFT, ISO 13616).
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip


def is_iban(value: str) -> bool:
    """Whether letters and digits are an IBAN: the length is that of the country, and ISO 7064 MOD 97-10 fits."""
    if _IBAN_LENGTHS.get(value[:2]) != len(value) or not (value.isascii() and value.isalnum() and value[2:4].isdigit()):
        return False
    return int("".join(str(int(one, 36)) for one in value[4:] + value[:4])) % 97 == 1
