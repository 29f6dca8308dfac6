"""Checks of rules: what a pattern alone cannot say. A rule names them under `validate` or `trim` (`CHECKS`).

    is_bank_card(Candidate(plain, match, *match.span()))   # True: the check digit fits

A check looks at a candidate and its text and returns whether it stays; one whose name begins with `trim` shortens it.
"""

from __future__ import annotations

import ipaddress
import re

from carellama.privacy.checksums import is_calendar_date, is_iban, is_id_card, is_luhn, is_nhs
from carellama.privacy.medical_context import aliases_pattern
from carellama.privacy.names_en_prose import load_name_lists
from carellama.privacy.rules import Candidate, Checks, fragment_pattern, load_rules, read_file

# In how many digits people write a mobile number together.
_PHONE_GROUPS = ((11,), (3, 4, 4), (3, 8), (3, 3, 5), (4, 4, 3), (7, 4), (2, 3, 3, 3), (4, 3, 4), (5, 6), (3, 4, 2, 2))


def min_digits(found: Candidate, count: int) -> bool:
    """Whether it has so many digits or more."""
    return sum(map(str.isdigit, found.text)) >= count


def min_digits_or_stars(found: Candidate, count: int) -> bool:
    """The same where digits may be starred out: 1234****."""
    return sum(character.isdigit() or character == "*" for character in found.text) >= count


def min_length(found: Candidate, count: int) -> bool:
    """Whether it has so many characters or more."""
    return len(found.text) >= count


# Numbers behind a label


def trim_labelled_value(found: Candidate) -> bool:
    """Cut letters after a gap ("A12345 tel") and a second number ("ZY2031 2024-01-02")."""
    value = found.text
    while (tail := re.search(r"[ .]+(?:[A-Za-z]{2,}|[a-z])$|[\-/_]+[a-z]+$|[ .\-/_]+$", value)) and tail.start():
        value = value[: tail.start()]
    second = r"(?<=\d)[ ]+(?=[A-Za-z]{2,}(?![A-Za-z0-9])|[A-Za-z]{1,2} (?!\d{3})|\d{4}[\-./]\d|\d+[./:]\d)"
    cut = re.search(second, value)
    found.end = found.start + (cut.start() if cut else len(value))
    return True


def is_measured(found: Candidate) -> bool:
    """Whether it is short and a unit stands behind it: 12345 mg."""
    unit = fragment_pattern("numbers", "UNIT", re.IGNORECASE)
    return not min_digits_or_stars(found, 8) and bool(unit.match(found.plain, found.end))


def has_number_word(found: Candidate) -> bool:
    """Whether a label that is an everyday word (subject, group) has a word or mark for "number" behind it.

    A value that looks like a number by itself needs none: subject 0107-003.
    """
    everyday = fragment_pattern("numbers", "NEEDS_NUMBER_WORD", re.IGNORECASE)
    if not everyday.match(found.match["label"].strip()) or re.search("[#:=]|no|num|号", found.match["is"], re.I):
        return True
    value = found.text
    return " " not in value and bool(re.search(r"\d-\d|^[A-Z]+-?\d|^0\d", value)) and len(re.findall(r"\d", value)) > 4


# Numbers by their form


def is_chinese_id_card(found: Candidate) -> bool:
    """Whether region, date of birth and check digit of a Chinese identity number fit."""
    return is_id_card(re.sub(r"[^0-9Xx]", "", found.text))


def has_plausible_id_spacing(found: Candidate) -> bool:
    """Whether spaces in a 15 digit number part region, birth and number; others make it a table of values."""
    digits = re.sub(r"[^0-9Xx]", "", found.text)
    whole = len(digits) == 18 or len(digits) == len(found.text)
    return whole or bool(re.match(r"\d{6}\D\d{6}\D\d{3}$", found.text))


def is_bank_card(found: Candidate) -> bool:
    """Whether the check digit of a card fits, or its issuer is Chinese, and the first group has four digits."""
    digits, groups = found.digits(), re.findall(r"\d+", found.text)
    known = is_luhn(digits) or (digits.startswith("62") and len(digits) >= 16)
    return known and (len(groups) == 1 or len(groups[0]) == 4) and len(set(digits)) > 1


def has_ssn_gaps(found: Candidate) -> bool:
    """Whether marks part a social security number, or single spaces behind a word for it."""
    gap = found.match["gap"]
    return bool(gap.strip()) or (gap == " " and found.before(re.compile("social|ssn|\\bss\\b|tax", re.I | re.A), 40))


def is_nhs_number(found: Candidate) -> bool:
    """Whether the check digit of the British health service fits."""
    return is_nhs(found.digits())


def counts_up(found: Candidate) -> bool:
    """Whether the digits count up: 1 2 3 4 5 6 7 8 9."""
    return found.digits() in "01234567890"


def trim_to_iban(found: Candidate) -> bool:
    """Keep the longest beginning whose check digits fit: a word in capitals may stand behind an IBAN."""
    text = found.text
    ends = sorted({gap.start() for gap in re.finditer(r"[ \-]", text)} | {len(text)}, reverse=True)
    fits = next((end for end in ends if is_iban(re.sub(r"[ \-]", "", text[:end]))), 0)
    found.end = found.start + fits
    return fits > 0


# Phones


def has_phone_grouping(found: Candidate) -> bool:
    """Whether a mobile number has a country code or a word for phone before it, or is grouped as people group one."""
    if found.match.start("local") > found.start or _phone_word_before(found):
        return True
    local = found.match["local"]
    digit_places = [place for place, character in enumerate(local) if character.isdigit()]
    ends = {count for count, place in enumerate(digit_places, 1) if not local[place + 1 : place + 2].isdigit()}
    for blocks in _PHONE_GROUPS:
        at, fits = 0, True
        for size in blocks:
            inside = ends & set(range(at + 1, at + size))
            at += size
            fits &= at in ends and (not inside or len(inside) == size - 1)  # together, or one by one
        if fits:
            return True
    return False


def _phone_word_before(found: Candidate) -> bool:
    return found.before(fragment_pattern("numbers", "PHONE_WORD", re.IGNORECASE), 12)


def has_area_code_or_phone_word(found: Candidate) -> bool:
    """Whether a landline number has an area code with its 0, or a word for phone before it."""
    return found.text.startswith(("0", "(", "+")) or _phone_word_before(found)


def starts_with_date(found: Candidate) -> bool:
    """Whether it begins with a day, as in "2020-03-27 1300"."""
    match = re.match(r"\D{0,2}((?:19|20)\d{2})[\-./ ]?(\d{1,2})[\-./ ]?(\d{1,2})(?!\d{4})", found.text)
    return bool(match) and is_calendar_date(match[1] + match[2].zfill(2) + match[3].zfill(2))  # type: ignore[index]


def is_lab_value(found: Candidate) -> bool:
    """Whether a label for phone is one of a laboratory value: pH 7.35, 7.41."""
    return found.match["label"].strip() == "pH" or bool(
        fragment_pattern("numbers", "DECIMALS").search(found.match["value"])
    )


def is_private_phone(found: Candidate) -> bool:
    """Whether a number behind a word for phone is no helpline and no day."""
    plain, start = found.plain, found.match.start()
    return not (
        plain[found.start - 1 : found.start] == "/"
        or fragment_pattern("numbers", "PUBLIC_BEFORE", re.I).search(
            plain, max(0, start - 20), found.match.end("label")
        )
        or fragment_pattern("numbers", "HOTLINE_BEHIND", re.I).match(plain, found.match.end())
        or is_public_number(found.digits())
        or starts_with_date(found)
    )


def has_phone_length(found: Candidate) -> bool:
    """Whether a number behind a word that is not for phones alone has nine digits: contact 555 1234 is none."""
    everyday = ("no", "number", "home", "work", "号码", "contact")
    return found.match["label"].lower().strip() not in everyday or len(found.digits()) >= 9


def trim_to_phone(found: Candidate) -> bool:
    """Cut a value behind the number: 13812345678 120/80."""
    rules = {rule.id: rule for rule in load_rules("numbers")}
    for name in ("mobile-zh", "phone-north-america"):
        if whole := rules[name].compiled.match(found.plain, found.start):
            found.end = min(whole.end(), found.end)
            break
    return True


def is_public_number(digits: str) -> bool:
    """Whether a number is a helpline or free of charge, and so belongs to no patient."""
    return bool(fragment_pattern("numbers", "TOLL_FREE").match(digits)) or digits in read_file("numbers")["helplines"]


def is_helpline(found: Candidate) -> bool:
    """Whether it is a helpline by itself or by the word before or behind it."""
    return is_helpline_at(found.plain, found.match.start(), found.match.end())


def is_helpline_at(plain: str, start: int, end: int) -> bool:
    """Whether the number from `start` to `end` is a helpline by itself or by the word before or behind it."""
    if re.search("fax|传真", plain[max(0, start - 30) : start], re.IGNORECASE):
        return False
    return (
        is_public_number(re.sub(r"\D", "", plain[start:end]))
        or bool(fragment_pattern("numbers", "PUBLIC_BEFORE", re.I).search(plain, max(0, start - 16), start))
        or bool(fragment_pattern("numbers", "HOTLINES_BEFORE", re.I).search(plain, max(0, start - 100), start))
        or bool(fragment_pattern("numbers", "HOTLINE_BEHIND", re.I).match(plain, end))
    )


# Codes


def is_code(found: Candidate) -> bool:
    """Whether it has letters in capitals only, or digits and marks."""
    return found.text.isupper() or bool(re.fullmatch(r"[\d\-/*]+", found.text))


def is_cited(found: Candidate) -> bool:
    """Whether it is the number of an article, a trial or a medicine."""
    return bool(fragment_pattern("codes", "CITATION").search(found.plain, max(0, found.match.start() - 4), found.end))


def is_in_medicine_list(found: Candidate) -> bool:
    """Whether a word for other names of a medicine stands before it: 别名:苯酸咪唑；UK-37248."""
    return found.before(aliases_pattern(), 160)


# Network addresses


def is_mac(found: Candidate) -> bool:
    """Whether six pairs are a MAC address and not a row of numbers."""
    digits = re.sub(r"[:\-.]", "", found.text)
    return len(set(digits)) > 1 and (bool(re.search("[A-Fa-f]", digits)) or found.match["mark"] == ":")


def is_ip_4(found: Candidate) -> bool:
    """Whether four numbers with dots are an IP address: not 36.5.37.2, two temperatures, nor version 2.10.3.14."""
    text = found.text
    if not _is_interface(text) or fragment_pattern("international", "DEGREES").match(found.plain, found.end):
        return False
    if found.before(fragment_pattern("international", "NETWORK_WORD", re.I), 24):
        return True
    if fragment_pattern("international", "PRIVATE_NETWORK").match(text):
        return True
    if found.before(fragment_pattern("international", "NO_NETWORK", re.I), 24):
        return False
    first, second, third, fourth = (int(part) for part in text.partition("/")[0].split("."))
    if max(first, third) < 43 and max(second, fourth) < 100 and (second < 10 or fourth < 10):
        return False
    return max(first, second, third, fourth) > 99 or min(first, second, third, fourth) > 9


def is_ip_6(found: Candidate) -> bool:
    """Whether groups with colons are an IP address: not a time."""
    return _is_interface(found.text.partition("%")[0])


def _is_interface(text: str) -> bool:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return True


# E-mail and accounts


def is_spelled_email(found: Candidate) -> bool:
    """Whether a word or mark for @ is meant as one: "at" is an everyday word, # stands before many things."""
    at, domain = found.match["at"].strip().lower(), found.match["domain"]
    mail_hosts = ("qq.", "163.", "126.", "gmail.", "sina.")
    if not (
        at == "at"
        or (at == "#" and not domain.lower().startswith(mail_hosts))
        or ("@" not in at and not at.startswith(("(", "[", "{", "<", "_", "-", "艾", "小")))
    ):
        return True
    return bool(
        re.search(r"\s(?:dot)\s|[(\[{]dot|-dot-|点", domain, re.IGNORECASE)
        or found.before(fragment_pattern("contacts", "EMAIL_WORD", re.IGNORECASE), 30)
        or re.search(r"[\d_.]", found.match["local"])
    )


def is_labelled_account(found: Candidate) -> bool:
    """Whether what stands behind a word for an account is its name: behind a mark, or no word by its form."""
    mark, value = found.match["is"], found.text
    everyday = ("handle", "login", "signal", "zoom", "账号", "帐号", "line id", "昵称")
    if not mark and (found.match[0].lower().startswith(everyday) or not re.search(r"[\d_@:.]", value)):
        return False
    if mark and value.isalpha() and mark.lower() == "is":
        return False  # Facebook is down
    return len(value) >= 4 and not is_no_handle(found)


def is_no_handle(found: Candidate) -> bool:
    """Whether it is a word that often stands behind one for an account: group, pay."""
    return found.text.lower().lstrip("@") in read_file("contacts")["no_handles"]


def is_in_program(found: Candidate) -> bool:
    """Whether the text is a program, where @Service and user_id belong to nobody."""
    return bool(fragment_pattern("contacts", "PROGRAM").search(found.plain))


def is_everyday_word(found: Candidate) -> bool:
    """Whether the letters of a name with a number are a word: room101."""
    return found.match["word"] in load_name_lists().words


def is_personal_page(found: Candidate) -> bool:
    """Whether a page names a person or holds a token, or a word before it says whose it is."""
    return bool(fragment_pattern("contacts", "PERSONAL_PAGE", re.IGNORECASE).search(found.text)) or found.before(
        fragment_pattern("contacts", "OWN_PAGE", re.IGNORECASE), 24
    )


CHECKS: Checks = {
    check.__name__: check
    for check in (
        *(min_digits, min_digits_or_stars, min_length),
        *(trim_labelled_value, is_measured, has_number_word),
        *(
            is_chinese_id_card,
            has_plausible_id_spacing,
            is_bank_card,
            has_ssn_gaps,
            is_nhs_number,
            counts_up,
            trim_to_iban,
        ),
        *(has_phone_grouping, has_area_code_or_phone_word, starts_with_date, is_lab_value, is_private_phone),
        *(has_phone_length, trim_to_phone, is_helpline),
        *(is_code, is_cited, is_in_medicine_list),
        *(is_mac, is_ip_4, is_ip_6),
        *(is_spelled_email, is_labelled_account, is_no_handle, is_in_program, is_everyday_word, is_personal_page),
    )
}
