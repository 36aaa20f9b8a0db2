"""The bounded scalars and lists that API fields are made of: every string, number and list has a limit (it bounds CEL's cost)."""

import re
from collections.abc import Hashable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, Strict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

SHOWN_CHARACTERS: Final = 60  # of a refused value, in a message


@dataclass(frozen=True)
class Text:
    """A bounded string. `hint` completes the sentence "must be …"; `pattern` is RE2 and anchored at both ends."""

    hint: str
    max_length: int
    pattern: str | None = None
    min_length: int = 1

    def check(self, value: str) -> str:
        """Return `value`; raises PydanticCustomError that says what it must be."""
        too_long = not self.min_length <= len(value) <= self.max_length
        if too_long or (self.pattern and not re.fullmatch(self.pattern, value)):
            shown = value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}…"
            context: dict[str, Any] = {"hint": self.hint, "longest": self.max_length, "shown": repr(shown)}
            raise PydanticCustomError("text", "must be {hint}, at most {longest} characters; got {shown}", context)
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        bounds = {"minLength": self.min_length or None, "maxLength": self.max_length, "pattern": self.pattern}
        return handler(schema) | {name: bound for name, bound in bounds.items() if bound is not None}


@dataclass(frozen=True)
class ListType:
    """A bounded list, and how the API server merges it: `map` by `keys`, `set` of scalars, or `atomic`.

    Keys and members of a set are unique. Bounds are checked here and not by pydantic, which counts only entries that are valid.
    """

    kind: str
    max_items: int
    keys: tuple[str, ...] = ()
    min_items: int = 0

    def check(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return `items`; raises PydanticCustomError that gives the bounds or names the first entry given twice."""
        if not self.min_items <= len(items) <= self.max_items:
            context: dict[str, Any] = {"least": self.min_items, "most": self.max_items, "count": len(items)}
            raise PydanticCustomError("list_length", "must have {least} to {most} entries; has {count}", context)
        seen: set[Hashable] = set()
        for item in items if self.kind != "atomic" else ():
            identity = tuple(getattr(item, key) for key in self.keys) or (item,)
            if identity in seen:
                context = {"shown": ", ".join(map(str, identity)), "key": " and ".join(self.keys) or "entry"}
                raise PydanticCustomError("duplicate", "lists {shown} twice; every {key} must be unique", context)
            seen.add(identity)
        return items

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        bounds = {"maxItems": self.max_items} | ({"minItems": self.min_items} if self.min_items else {})
        keys = {"x-kubernetes-list-map-keys": list(self.keys)} if self.keys else {}
        return handler(schema) | bounds | {"x-kubernetes-list-type": self.kind} | keys


QUANTITY_PATTERN: Final = r"^[0-9]{1,15}(\.[0-9]{1,3})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
_SUFFIXES: Final = {
    "m": Decimal("0.001"),
    "": Decimal(1),
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P"), start=1)},
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi"), start=1)},
}


def quantity_value(quantity: str) -> Decimal:
    """Return a Kubernetes quantity in its base unit (bytes, cores): `"1.5Gi"` -> 1610612736, `"500m"` -> 0.5.

    Raises ValueError for what QUANTITY_PATTERN does not match.
    """
    if not re.fullmatch(QUANTITY_PATTERN, quantity):
        raise ValueError(f"{quantity!r} is no quantity; write a number and a suffix, such as 500m, 4 or 20Gi")
    number = quantity.rstrip("mkKMGTPi")
    return Decimal(number) * _SUFFIXES[quantity[len(number) :]]


def _whole_number_as_text(value: Any) -> Any:
    """`cpu: 4` is as good as `cpu: "4"`; a float is not, since its text depends on who parsed it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value


@dataclass(frozen=True)
class _IntOrString:
    """Marks a string that the API server also takes as a whole number."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        text = {key: value for key, value in handler(schema).items() if key != "type"}
        either = [{"type": "integer"}, {"type": "string"}]
        return {"anyOf": either, "x-kubernetes-int-or-string": True, "minimum": 0, "maximum": 10**15 - 1} | text


LABEL_PATTERN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
SUBDOMAIN_PATTERN: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
_QUALIFIED: Final = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

Flag = Annotated[bool, Strict()]
Replicas = Annotated[int, Strict(), Field(ge=0, le=1000)]
Seconds = Annotated[int, Strict(), Field(ge=0, le=2_592_000)]  # up to 30 days
Count = Annotated[int, Strict(), Field(ge=0, le=2**53)]  # JSON keeps whole numbers apart up to here
Percent = Annotated[int, Strict(), Field(ge=0, le=100)]
Timestamp = Annotated[AwareDatetime, Field(json_schema_extra={"maxLength": 64})]

Quantity = Annotated[
    str,
    Text("a Kubernetes quantity such as 500m, 4 or 20Gi (quote a number with a point)", 24, QUANTITY_PATTERN),
    BeforeValidator(_whole_number_as_text),
    _IntOrString(),
]
Dollars = Annotated[str, Text('US dollars as a quoted decimal such as "20" or "0.85"', 16, r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,4})?$")]
Balance = Annotated[
    str, Text('US dollars as a quoted decimal such as "197.26", with - in debt', 17, r"^-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,4})?$")
]
DecimalText = Annotated[str, Text('a quoted decimal such as "3.25"', 20, r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,4})?$")]
Sha256 = Annotated[str, Text("a sha256 of 64 lower-case hexadecimal digits", 64, r"^[0-9a-f]{64}$", 64)]
Digest = Annotated[str, Text("sha256- and 64 lower-case hexadecimal digits", 71, r"^sha256-[0-9a-f]{64}$", 71)]
LabelName = Annotated[str, Text("a DNS label (lower-case letters, digits and -)", 63, LABEL_PATTERN)]
ObjectName = Annotated[str, Text("the name of a Kubernetes object (lower-case letters, digits, - and .)", 253, SUBDOMAIN_PATTERN)]
QualifiedName = Annotated[str, Text("a qualified name such as nvidia.com/gpu", 253, _QUALIFIED)]
LabelValue = Annotated[str, Text("a label value", 63, r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$", 0)]
ImageReference = Annotated[
    str, Text("an image reference such as registry.example.com/transcriber:0.1.0", 512, r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
]
Prose = Annotated[str, Text("a text", 4096, None, 0)]

# Languages of multilingual Whisper, in the order of its tokens; `yue` came with large-v3.
# fmt: off
LANGUAGES: Final[tuple[str, ...]] = (
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id", "hi", "fi", "vi",
    "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg", "lt", "la", "mi", "ml", "cy", "sk",
    "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br", "eu", "is", "hy", "ne", "mn", "bs", "kk", "sq", "sw",
    "gl", "mr", "pa", "si", "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd", "gu", "am", "yi", "lo", "uz", "fo",
    "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln", "ha", "ba", "jw", "su", "yue",
)
# fmt: on


def _known_language(value: str) -> str:
    if value != "Auto" and value not in LANGUAGES:
        message = "must be Auto or a language code of Whisper such as en, de or yue; got {shown}"
        raise PydanticCustomError("language", message, {"shown": repr(value[:SHOWN_CHARACTERS])})
    return value


Language = Annotated[str, AfterValidator(_known_language), Field(json_schema_extra={"enum": ["Auto", *LANGUAGES], "maxLength": 4})]
