from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from transcriber_api.quantities import Balance, DecimalText, Dollars, LabelValue, Language, Quantity, Seconds, quantity_value


@pytest.mark.parametrize(
    ("quantity", "value"),
    [
        ("0", 0),
        ("4", 4),
        ("500m", "0.5"),
        ("1.5Gi", 1610612736),
        ("20Gi", 20 * 2**30),
        ("2k", 2000),
        ("1M", 10**6),
        ("3Ki", 3072),
        ("1Pi", 2**50),
    ],
)
def test_a_quantity_is_worth_its_number_times_its_suffix(quantity: str, value: object):
    assert quantity_value(quantity) == Decimal(str(value))


@pytest.mark.parametrize("junk", ["", "1.5.2Gi", "-1", "1e400", "Gi", "1 Gi", "1gi", "1Gi\n", "NaN", "٤", "1" * 16])
def test_quantity_junk_is_refused_by_field_and_by_value(junk: str):
    with pytest.raises(ValidationError, match="must be a Kubernetes quantity"):
        TypeAdapter(Quantity).validate_python(junk)
    with pytest.raises(ValueError, match="is no quantity"):
        quantity_value(junk)


def test_a_whole_number_is_a_quantity_and_a_float_or_truth_value_is_none():
    adapter = TypeAdapter(Quantity)
    assert adapter.validate_python(4) == "4"
    for value in (0.5, True, -1):
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@given(number=st.integers(0, 10**15 - 1), suffix=st.sampled_from(["", "m", "k", "Ki", "Mi", "Gi", "T"]))
def test_any_accepted_quantity_has_a_value(number: int, suffix: str):
    assert quantity_value(TypeAdapter(Quantity).validate_python(f"{number}{suffix}")) >= 0


@pytest.mark.parametrize("good", ["0", "20", "0.85", "6000.50", "2.4144"])
def test_dollars_are_quoted_decimals(good: str):
    assert TypeAdapter(Dollars).validate_python(good) == good


@pytest.mark.parametrize("good", ["0", "197.26", "-20", "-0.85"])
def test_a_balance_may_be_in_debt(good: str):
    assert TypeAdapter(Balance).validate_python(good) == good


@pytest.mark.parametrize("bad", ["-", "--1", "+1", "-$1", "-.5"])
def test_other_balances_are_refused(bad: str):
    with pytest.raises(ValidationError, match="with - in debt"):
        TypeAdapter(Balance).validate_python(bad)


@pytest.mark.parametrize("bad", ["", "$20", "20.", ".5", "-1", "1e3", "01", "1,000", 20, 20.5, "NaN"])
def test_other_amounts_of_money_are_refused(bad: object):
    with pytest.raises(ValidationError):
        TypeAdapter(Dollars).validate_python(bad)


@pytest.mark.parametrize("language", ["Auto", "en", "de", "no", "yue", "haw", "jw"])
def test_a_language_of_whisper_is_accepted(language: str):
    assert TypeAdapter(Language).validate_python(language) == language


@pytest.mark.parametrize("language", ["auto", "EN", "english", "xx", "", "en-US", "x" * 10_000])
def test_another_language_is_refused_with_a_short_message(language: str):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Language).validate_python(language)
    assert len(caught.value.errors()[0]["msg"]) < 200


@pytest.mark.parametrize("seconds", [-1, 2_592_001, 2**31, 2**63, "1y", 0.5])
def test_seconds_out_of_bounds_or_in_another_type_are_refused(seconds: object):
    with pytest.raises(ValidationError):
        TypeAdapter(Seconds).validate_python(seconds)


def test_an_empty_label_value_is_a_label_value():
    assert TypeAdapter(LabelValue).validate_python("") == ""


def test_a_rate_is_a_quoted_decimal():
    assert TypeAdapter(DecimalText).validate_python("12.5") == "12.5"
    with pytest.raises(ValidationError):
        TypeAdapter(DecimalText).validate_python(12.5)
