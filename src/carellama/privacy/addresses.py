"""Checks of the rules for Chinese addresses: where an address begins and ends.

    trim_to_address(Candidate(plain, match, *match.span("value")))   # True; cut before the next field of a form

The patterns are in `rules/addresses_zh.yaml`.
"""

from __future__ import annotations

import re

from carellama.privacy.rules import Candidate, Checks, fragment_pattern


def _pattern(name: str) -> re.Pattern[str]:
    return fragment_pattern("addresses_zh", name)


def trim_to_address(found: Candidate) -> bool:
    """Cut what stands behind a label before the next field, or before a part without a word of an address."""
    length = _address_length(found.text)
    found.end = found.start + length
    return length > 0


def has_address_parts(found: Candidate) -> bool:
    """Whether a label has a colon, or two words of an address or a number of a house stand behind it."""
    words = set(_pattern("ADDRESS_WORD").findall(found.text))
    return found.match["colon"] in (*":=>",) or len(words) >= 2 or bool(_pattern("HOUSE_NUMBER").search(found.text))


def trim_to_home(found: Candidate) -> bool:
    """Cut what stands behind a word for living to an address with a road, a village or a building."""
    length = _home_length(found.text)
    found.end = found.start + length
    return length > 0


def trim_to_county(found: Candidate) -> bool:
    """Cut what stands behind a word for living to a county or district, where it is no narrower address."""
    if _home_length(found.text) or "住" not in found.match[0][:4]:
        return False
    county = _pattern("COUNTY").match(found.plain, found.start)
    found.end = county.end() if county else found.start
    return county is not None


def trim_address_lead(found: Candidate) -> bool:
    """Cut words before an address (患者住在): before its first place, for 望京花家地 has a 家 behind it."""
    plain, start = found.plain, found.start
    first = _pattern("PLACE").search(plain, start + 1, found.end)
    lead_end = first.end() if first else found.end
    while (lead := _pattern("LEAD").match(plain[start:lead_end])) and not _pattern("STARTS").match(plain, start):
        start += lead.end()
    found.end = found.start + len(found.text.rstrip(" ,"))
    found.start = start
    return True


def _home_length(value: str) -> int:
    """How much of what stands behind a word for living is an address with a road, village or building; or 0."""
    length = _address_length(value)
    home = value[:length]
    elsewhere = "院|病房|科|床|[城山农乡郊]区|郊外|农村|乡村|城市|乡下|城镇|一[座栋个片]|[的很]"
    named = re.search("[镇乡村屯路街巷弄号栋幢]|小区|花园|大道|公寓", home)
    return length if named and length > 3 and not re.search(elsewhere, home) else 0


def _address_length(value: str) -> int:
    """How much of what stands behind a label is an address: up to the next label or a part without a word of it."""
    if stop := fragment_pattern("addresses_zh", "NEXT_FIELD", re.IGNORECASE).search(value):
        value = value[: stop.start()]
    if stop := re.search("的|政府|部门|居民|医院|人民政府|单位|报告", value):
        value = value[: stop.start()] if stop[0] == "的" else ""
    end = 0
    for part in re.finditer(r"[^ ,，、()]+|\([^)]*\)", value):
        if not _pattern("ADDRESS_WORD").search(part[0]) and not (part[0].isdigit() and end):
            break
        end = part.end()
    return end


CHECKS: Checks = {
    check.__name__: check
    for check in (trim_to_address, has_address_parts, trim_to_home, trim_to_county, trim_address_lead)
}
