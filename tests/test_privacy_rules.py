"""Rules of de-identification: each is tried on its own examples, and a file with a mistake is refused."""

import pytest

from carellama.errors import UserError
from carellama.privacy import rules
from carellama.privacy.detect import CHECKS
from carellama.privacy.normalize import normalize

RULES = [rule for name in rules.file_names() for rule in rules.load_rules(name)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_finds_and_spares_its_examples(rule):
    assert [text for text in rule.finds if not list(rule.find(normalize(text), CHECKS))] == []
    assert [text for text in rule.spares if list(rule.find(normalize(text), CHECKS))] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_gate_of_its_file_lets_the_examples_of_a_rule_through(rule):
    scanned = {text: {kind for kind, *_ in rules.scan(normalize(text), CHECKS, {rule.kind})} for text in rule.finds}
    assert [text for text, kinds in scanned.items() if rule.kind not in kinds] == []


def test_rules_have_an_id_of_their_own():
    ids = [rule.id for rule in RULES]
    assert len(ids) == len(set(ids)) > 70


ENTRY = {"id": "x", "kind": "PHONE", "pattern": r"\d{8}", "score": 0.5, "finds": ["12345678"], "spares": ["123"]}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"finds": []}, "finds is missing"),
        ({"spares": None}, "spares"),
        ({"pattern": ""}, "pattern is missing"),
        ({"kind": "TELEPHONE"}, "PHONE"),
        ({"not_afer": ["lot"]}, "not_after"),
        ({"not_after": "lot"}, "not_after is 'lot'"),
        ({"score": "0.5"}, "score is '0.5'"),
        ({"pattern": r"\d{8}{NO_FRAGMENT}"}, "NO_FRAGMENT"),
        ({"pattern": r"(\d{8}"}, "is no pattern"),
        ({"validate": ["is_lun"]}, "is_luhn|is_"),
    ],
)
def test_a_mistake_in_a_rule_is_named(change, named, monkeypatch):
    written = {"rules": [ENTRY | change]}
    read_file = rules.read_file
    monkeypatch.setattr(rules, "read_file", lambda name: written if name == "own" else read_file(name))
    with pytest.raises(UserError, match=named):
        (rule,) = rules.load_rules.__wrapped__("own")
        list(rule.find("12345678", CHECKS))


def test_a_rule_of_ones_own_needs_no_code(monkeypatch):
    """A hospital's wristband: six digits behind W-, not where it is a ward, and only where the digits are no date."""
    own = {
        "id": "wristband",
        "kind": "RECORD_NUMBER",
        "pattern": r"{SEPARATOR}W-(?P<value>\d{6})",
        "not_after": [r"ward\s?$"],
        "not_before": ["{UNIT}"],
        "validate": ["min_digits 6", "not counts_up"],
        "score": 0.6,
        "finds": ["W-203345"],
        "spares": ["ward W-203345", "W-123456", "W-203345 mg"],
    }
    read_file = rules.read_file
    monkeypatch.setattr(rules, "read_file", lambda name: {"rules": [own]} if name == "own" else read_file(name))
    (rule,) = rules.load_rules.__wrapped__("own")
    test_a_rule_finds_and_spares_its_examples(rule)
    assert list(rule.find("band W-203345.", CHECKS)) == [("RECORD_NUMBER", 7, 13, 0.6)]
